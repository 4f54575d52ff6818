//! One lease of the channel `smtp`: the engine, on a connection of the simulated network.
//!
//! What the driver of the real one does with a socket, a resolver and the system's clock is done here with events.

use std::sync::Arc;

use foldhash::HashMap;
use slotmap::new_key_type;
use zrelay_agent::{Credit, Judgement, LeaseId, Release, Report, Rest, Statistics, Ticket, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::Clause;
use zrelay_smtp::{Conversation, End, Event, Protocol, Security, Settings};
use zrelay_spool::{BatchId, Reader, Stored, ThreadKey};

use crate::books::Books;

new_key_type! {
    /// An agent.
    pub(crate) struct AgentKey;
    /// A connection.
    pub(crate) struct ConnectionKey;
}

/// Batches and octets that an agent takes ahead of the replies.
const CREDIT: Credit = Credit { batches: 64, bytes: 1 << 20 };

/// Where an agent is.
pub(crate) enum Stage {
    Resolving,
    Connecting,
    Talking { conversation: Box<Conversation<Stored>>, connection: ConnectionKey },
}

/// A batch that an agent has.
struct Held {
    weight: u64,
    /// Recipients without a verdict.
    open: usize,
    /// When it was handed out.
    since: Timestamp,
}

/// See the module's documentation.
pub(crate) struct Agent {
    pub(crate) lease: LeaseId,
    pub(crate) thread: ThreadKey,
    pub(crate) clause: Arc<Clause>,
    pub(crate) stage: Stage,
    pub(crate) begun: Timestamp,
    pub(crate) idle_since: Option<Timestamp>,
    /// When its timer goes off.
    pub(crate) armed: Timestamp,
    held: HashMap<BatchId, Held>,
    /// Credit to ask for, and whether any was asked for.
    room: Credit,
    greeted: bool,
    /// Its lease was taken over while it was about to end.
    silent: bool,
}

/// What an agent works with.
pub(crate) struct Surroundings<'a> {
    pub(crate) now: Timestamp,
    pub(crate) reader: &'a Reader,
    pub(crate) books: &'a mut Books,
    pub(crate) reports: &'a mut Vec<Report>,
}

/// What becomes of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    GoesOn,
    /// Its connection is to be closed, its lease has ended.
    Gone,
}

impl Agent {
    pub(crate) fn new(now: Timestamp, lease: LeaseId, thread: ThreadKey, clause: Arc<Clause>) -> Self {
        Self {
            lease,
            thread,
            clause,
            stage: Stage::Resolving,
            begun: now,
            idle_since: None,
            armed: Timestamp::NEVER,
            held: HashMap::default(),
            room: CREDIT,
            greeted: false,
            silent: false,
        }
    }

    /// Whether its thread's host takes mail by LMTP.
    pub(crate) fn speaks_lmtp(&self) -> bool {
        &*self.thread.channel == "lmtp"
    }

    /// The connection stands.
    pub(crate) fn talk(&mut self, now: Timestamp, connection: ConnectionKey, peer: &str, encrypts: bool) {
        let settings = Settings {
            protocol: if self.speaks_lmtp() { Protocol::Lmtp } else { Protocol::Smtp },
            hostname: "hub.example".into(),
            peer: peer.into(),
            security: if encrypts { Security::Opportunistic } else { Security::Clear },
            highest: self.clause.pipelining,
            recipients: self.clause.recipients,
            messages: self.clause.connection_messages,
            age: self.clause.connection_age,
            unacknowledged_messages: self.clause.unacknowledged_messages,
            unacknowledged_bytes: self.clause.unacknowledged_bytes,
            timeout: self.clause.timeout,
            begun: self.begun,
        };
        self.stage = Stage::Talking { conversation: Box::new(Conversation::new(settings, now)), connection };
    }

    /// Whether it has been heard of since it began.
    pub(crate) fn has_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether its connection can serve another thread.
    pub(crate) fn is_free(&self, now: Timestamp) -> bool {
        let Stage::Talking { conversation, .. } = &self.stage else { return false };
        conversation.is_ready() && conversation.is_idle() && !conversation.is_ending() && !conversation.is_worn(now)
    }

    /// Serves another lease from here on.
    pub(crate) fn taken_over(&mut self, now: Timestamp, lease: LeaseId, thread: ThreadKey, clause: Arc<Clause>) {
        assert!(self.held.is_empty(), "an agent with work is taken over");
        (self.lease, self.thread, self.clause, self.begun) = (lease, thread, clause, now);
        (self.idle_since, self.room) = (None, CREDIT);
    }

    /// Its lease has gone to another.
    pub(crate) fn hush(&mut self) {
        self.silent = true;
    }

    pub(crate) fn carry(&mut self, ticket: Ticket, with: &mut Surroundings<'_>) {
        self.idle_since = None;
        let held = Held { weight: ticket.weight, open: ticket.recipients.len(), since: ticket.carried };
        assert!(self.held.insert(ticket.id, held).is_none(), "batch {} is carried twice", ticket.id);
        let Stage::Talking { conversation, .. } = &mut self.stage else { panic!("work for an agent without credit") };
        let letter = with.reader.message(ticket.id.message).expect("a message that is carried can be read");
        conversation.carry(with.now, ticket, Arc::new(letter));
    }

    /// The lease is to end.
    pub(crate) fn close(&mut self, with: &mut Surroundings<'_>) -> Fate {
        if let Stage::Talking { conversation, .. } = &mut self.stage {
            conversation.close(with.now);
            return Fate::GoesOn;
        }
        self.release(Release::Done, with)
    }

    /// Hears of what the engine has to tell.
    pub(crate) fn listen(&mut self, with: &mut Surroundings<'_>) -> Fate {
        loop {
            let Stage::Talking { conversation, .. } = &mut self.stage else { return Fate::GoesOn };
            let Some(event) = conversation.poll_event() else { break };
            match event {
                Event::Ready => self.greeted = true,
                // The handshake itself is not simulated: it works, at once.
                Event::StartTls => conversation.handle_secured(with.now),
                Event::Settled { batch, verdicts, rest } => self.settled(batch, verdicts, rest, with),
                Event::Returned { batch } => {
                    self.let_go(batch);
                    self.say(with, |lease| Report::Returned { lease, batch });
                }
                Event::Closed(end) => {
                    let reason = match end {
                        End::Done => Release::Done,
                        End::Ended(reason) => Release::Ended(reason),
                        End::Failed(reason) | End::Unready(reason) | End::ClearOnly(reason) | End::Stale(reason) => {
                            Release::Failed(reason)
                        }
                    };
                    assert!(self.held.is_empty(), "a conversation has ended and kept batches");
                    return self.release(reason, with);
                }
            }
        }
        self.ask(with);
        Fate::GoesOn
    }

    fn settled(&mut self, batch: BatchId, verdicts: Vec<Verdict>, rest: Rest, with: &mut Surroundings<'_>) {
        for verdict in &verdicts {
            with.books.judged(batch.message, verdict);
            // A reason of our own: the connection ended while nobody knew.
            if verdict.judgement == Judgement::Deferred && verdict.diagnostic.code == 0 {
                with.books.unanswered(verdict.recipients.len());
            }
        }
        let judged: usize = verdicts.iter().map(|verdict| verdict.recipients.len()).sum();
        let held = self.held.get_mut(&batch).expect("a verdict on a batch that is not carried");
        held.open = held.open.checked_sub(judged).expect("more verdicts than recipients");
        if rest == Rest::Done {
            with.books.unanswered(held.open);
            self.let_go(batch);
        }
        self.say(with, |lease| Report::Settled { lease, batch, verdicts, rest });
    }

    fn let_go(&mut self, batch: BatchId) {
        let held = self.held.remove(&batch).expect("a batch comes back twice");
        self.room.batches += 1;
        self.room.bytes += held.weight;
    }

    /// Asks for more work when there is room for some.
    fn ask(&mut self, with: &mut Surroundings<'_>) {
        let Stage::Talking { conversation, .. } = &self.stage else { return };
        let worthwhile = self.room.batches >= 8 || (self.held.is_empty() && self.room.batches > 0);
        if !self.greeted || !conversation.is_ready() || conversation.is_ending() || !worthwhile {
            return;
        }
        let credit = std::mem::take(&mut self.room);
        self.say(with, |lease| Report::Hungry { lease, credit });
    }

    /// It falls down dead, and what it had in hand with it.
    pub(crate) fn die(&mut self, release: Release, with: &mut Surroundings<'_>) -> Fate {
        with.books.unanswered(self.held.values().map(|held| held.open).sum());
        self.held.clear();
        self.release(release, with)
    }

    /// Ends the lease.
    pub(crate) fn release(&mut self, reason: Release, with: &mut Surroundings<'_>) -> Fate {
        self.say(with, |lease| Report::Released { lease, reason, statistics: Statistics::default() });
        Fate::Gone
    }

    /// Says something to the scheduler, unless its lease is another's.
    pub(crate) fn say(&self, with: &mut Surroundings<'_>, report: impl FnOnce(LeaseId) -> Report) {
        if !self.silent {
            with.reports.push(report(self.lease));
        }
    }

    /// Recipients in hand without a verdict.
    pub(crate) fn in_hand(&self) -> usize {
        self.held.values().map(|held| held.open).sum()
    }

    /// When the first of what it has in hand was handed to it.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.held.values().map(|held| held.since).min()
    }

    /// Time has passed.
    pub(crate) fn timeout(&mut self, now: Timestamp) {
        let Stage::Talking { conversation, .. } = &mut self.stage else { return };
        conversation.handle_timeout(now);
        let over = |since: Timestamp| since + self.clause.idle <= now;
        if conversation.is_idle() && self.idle_since.is_some_and(over) {
            self.idle_since = None;
            conversation.close(now);
        }
    }

    /// When [`Agent::timeout`] is due.
    pub(crate) fn deadline(&self) -> Timestamp {
        let Stage::Talking { conversation, .. } = &self.stage else { return Timestamp::NEVER };
        let idle = self.idle_since.filter(|_| conversation.is_idle()).map(|since| since + self.clause.idle);
        idle.into_iter().chain(conversation.poll_timeout()).min().unwrap_or(Timestamp::NEVER)
    }
}

//! One lease: from the thread's host to a connection, and over it until it ends.
//!
//! ```text
//!   Resolving ──addresses──▶ Located ──site is free──▶ Connecting ──▶ Talking ──▶ Released
//!        │                                              ▲    │          │
//!        └── no such host                               └────┴──────────┘ next address: refused, timed out, greeted with 4xx or 5xx
//! ```

mod connecting;
mod telling;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Registry, Token};
use zrelay_agent::{Judgement, LeaseId, Pace, Release, Report, Rest, Statistics, Ticket, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, TlsPolicy};
use zrelay_dns::DnsClient;
use zrelay_mailbox::Outbox;
use zrelay_spool::{BatchId, Diagnostic, Status, ThreadKey, Timing};
use zrelay_tls::{ClientTls, Policy};
use zrelay_trace::Tracing;

use super::agent_loop::Letters;
use super::link::{Link, Scratch, Turn};
use super::memory::{Encounter, Memory};
use super::pipe::{Limits, Pipe};
use super::race::{Attempt, Race};
use super::resolve::{Candidate, Shuffle};
use super::timers::Armed;
use super::window::Window;
use crate::conversation::{Approach, End, Event};
use crate::letter::Letter;
use telling::{Told, level_name};

/// What all agents of a loop use.
pub(crate) struct Shared<S> {
    pub(crate) registry: Registry,
    pub(crate) reports: Outbox<Report>,
    pub(crate) dns: DnsClient,
    pub(crate) letters: S,
    pub(crate) tls: ClientTls,
    pub(crate) memory: Memory,
    pub(crate) dice: Shuffle,
    pub(crate) scratch: Scratch,
    pub(crate) hostname: Arc<str>,
    pub(crate) tracing: Tracing,
}

/// What becomes of an agent after something happened to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It waits.
    Waits,
    /// It wants another turn soon.
    Runs,
    /// Its lease has ended.
    Gone,
}

/// Who hears of an agent's doings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Voice {
    Heard,
    /// Its lease was taken over while it was about to end.
    Silent,
}

enum Stage<L> {
    Resolving,
    /// The addresses are known; the scheduler has to say whether their site is free.
    Located,
    Connecting(Race<TcpStream>),
    Talking(Box<Link<L>>),
}

/// See the module's documentation.
pub(crate) struct Agent<L> {
    pub(crate) lease: LeaseId,
    token: Token,
    thread: ThreadKey,
    clause: Arc<Clause>,
    voice: Voice,
    stage: Stage<L>,
    candidates: VecDeque<Candidate>,
    /// Why the last address did not do.
    failure: Option<Arc<Diagnostic>>,
    /// Carried before there was a conversation.
    waiting: Vec<Ticket>,
    /// Weights of the batches in the conversation.
    held: HashMap<BatchId, u64>,
    window: Window,
    begun: Timestamp,
    idle_since: Option<Timestamp>,
    link_due: Timestamp,
    /// What the scheduler was told of the host's pace.
    paced: Option<Pace>,
    /// What the tools were told of rates.
    told: Told,
    statistics: Statistics,
    /// The version of the watches that its conversation knows.
    watches: u64,
    pub(crate) armed: Armed,
    /// Whether it stands in the loop's list of those that want a turn.
    pub(crate) listed: bool,
}

impl<L: Letter> Agent<L> {
    /// A new agent; [`Agent::begin`] comes next.
    pub(crate) fn new(now: Timestamp, token: Token, lease: LeaseId, thread: ThreadKey, clause: Arc<Clause>) -> Self {
        let window = Window::new(Pipe::new(limits(&clause)).room());
        Self {
            lease,
            token,
            thread,
            clause,
            voice: Voice::Heard,
            stage: Stage::Resolving,
            candidates: VecDeque::new(),
            failure: None,
            waiting: Vec::new(),
            held: HashMap::new(),
            window,
            begun: now,
            idle_since: None,
            link_due: now,
            paced: None,
            told: Told::new(now),
            statistics: Statistics::default(),
            watches: 0,
            armed: Armed::default(),
            listed: false,
        }
    }

    /// The socket is ready for something.
    pub(crate) fn ready<S: Letters<Letter = L>>(
        &mut self,
        now: Timestamp,
        shared: &mut Shared<S>,
        readable: bool,
        writable: bool,
    ) -> Fate {
        match &mut self.stage {
            Stage::Resolving | Stage::Located => Fate::Waits,
            Stage::Connecting(_) => self.maybe_connected(now, shared),
            Stage::Talking(link) => {
                link.readable |= readable;
                link.writable |= writable;
                Fate::Runs
            }
        }
    }

    /// A batch to carry.
    pub(crate) fn carry<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>, ticket: Ticket) {
        self.idle_since = None;
        let Stage::Talking(link) = &mut self.stage else {
            return self.waiting.push(ticket);
        };
        self.window.take(ticket.weight);
        self.held.insert(ticket.id, ticket.weight);
        match shared.letters.letter(ticket.id.message) {
            Ok(letter) => link.conversation.carry(now, ticket, Arc::new(letter)),
            Err(why) => self.unreadable(now, shared, &ticket, why),
        }
    }

    /// The spool cannot read a message now: it is put off.
    fn unreadable<S>(&mut self, now: Timestamp, shared: &mut Shared<S>, ticket: &Ticket, why: String) {
        log::error!("{}: {why}", ticket.id);
        let timing = Timing { queued: ticket.due.since(ticket.received), ..Timing::default() };
        let verdict = Verdict {
            recipients: ticket.recipients.to_vec(),
            judgement: Judgement::Deferred,
            diagnostic: Arc::new(Diagnostic::local(Status(4, 3, 0), why)),
            at: now,
            timing,
        };
        self.settled(shared, ticket.id, vec![verdict], Rest::Done);
        self.ask_for_more(shared);
    }

    /// Nothing to carry for now.
    pub(crate) fn idle<S>(&mut self, now: Timestamp, shared: &mut Shared<S>) {
        self.idle_since = Some(now);
        self.report_link(now, shared);
    }

    /// The lease is to end.
    pub(crate) fn close<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>) -> Fate {
        match &mut self.stage {
            Stage::Talking(link) => {
                link.conversation.close(now);
                Fate::Runs
            }
            Stage::Resolving | Stage::Located | Stage::Connecting(_) => {
                self.abandon_race(shared);
                self.release(shared, Release::Done)
            }
        }
    }

    /// Whether its connection can serve another lease for a thread of `channel`.
    pub(crate) fn is_free_for(&self, now: Timestamp, channel: &str) -> bool {
        let Stage::Talking(link) = &self.stage else {
            return false;
        };
        let conversation = &link.conversation;
        *self.thread.channel == *channel
            && conversation.is_ready()
            && conversation.is_idle()
            && !conversation.is_ending()
            && !conversation.is_worn(now)
    }

    /// Says nothing more: another lease has taken over, and this connection was not fit for it.
    pub(crate) fn hush(&mut self) {
        self.voice = Voice::Silent;
    }

    /// Serves another lease from here on.
    pub(crate) fn taken_over<S: Letters<Letter = L>>(
        &mut self,
        now: Timestamp,
        shared: &mut Shared<S>,
        lease: LeaseId,
        thread: ThreadKey,
        clause: Arc<Clause>,
    ) {
        self.lease = lease;
        self.thread = thread;
        self.clause = clause;
        self.begun = now;
        self.idle_since = None;
        self.statistics = Statistics::default();
        self.told = Told::new(now);
        self.paced = None;
        self.tap(shared);
        if let Stage::Talking(link) = &mut self.stage {
            let _ = link.conversation.take_statistics();
            // The scheduler's account of the old lease's credit went with it.
            self.window = Window::new(link.limit(now, limits(&self.clause)));
        }
        self.ask_for_more(shared);
        self.report_link(now, shared);
    }

    /// Moves octets and draws the consequences.
    pub(crate) fn turn<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>) -> Fate {
        if self.watches != shared.tracing.version() {
            self.tap(shared);
        }
        let Stage::Talking(link) = &mut self.stage else {
            return Fate::Waits;
        };
        self.window.resize(link.measure(now));
        let turn = link.turn(now, &mut shared.scratch);
        let failure = link.tls_failure.take();
        let mut fate = if turn == Turn::Again { Fate::Runs } else { Fate::Waits };
        loop {
            let Stage::Talking(link) = &mut self.stage else {
                return fate;
            };
            let Some(event) = link.conversation.poll_event() else {
                break;
            };
            match event {
                Event::Ready => {
                    self.candidates.clear();
                    let encounter = Encounter::new(link.address, shared, &self.clause);
                    shared.memory.remember_offered(now, &encounter, link.conversation.offered());
                    fate = Fate::Runs;
                    self.report_link(now, shared);
                }
                Event::StartTls => fate = self.start_tls(shared),
                Event::Settled { batch, verdicts, rest } => self.settled(shared, batch, verdicts, rest),
                Event::Returned { batch } => self.returned(shared, batch),
                Event::Closed(end) => return self.ended(now, shared, end),
            }
        }
        if let Stage::Talking(link) = &mut self.stage
            && let Some(most) = link.conversation.take_lesson()
        {
            log::info!("{}: {} takes {most} recipients at a time", self.thread, link.address);
            shared.memory.remember_recipients(now, link.address, most);
        }
        if let Some(error) = failure {
            return self.tls_failed(now, shared, &error.to_string());
        }
        self.ask_for_more(shared);
        fate
    }

    fn start_tls<S>(&mut self, shared: &mut Shared<S>) -> Fate {
        let Stage::Talking(link) = &mut self.stage else {
            return Fate::Waits;
        };
        let policy = match self.clause.tls {
            TlsPolicy::Verify => Policy::Verify,
            TlsPolicy::Encrypt => Policy::Encrypt,
            TlsPolicy::None | TlsPolicy::May => Policy::May,
        };
        match shared.tls.session(&link.name, policy) {
            Ok(session) => link.secure(session),
            Err(error) => link.tls_failure = Some(error),
        }
        Fate::Runs
    }

    /// TLS does not work with this host: in the clear where that is allowed, else the next address.
    fn tls_failed<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>, why: &str) -> Fate {
        let Stage::Talking(link) = &self.stage else {
            return Fate::Waits;
        };
        let peer = format!("{}[{}]:{}", link.name, link.address.ip(), link.address.port());
        let text = format!("Cannot start TLS with {peer}: {why}");
        let reason = Arc::new(Diagnostic { peer, ..Diagnostic::local(Status(4, 7, 5), text) });
        let at_will = self.clause.tls == TlsPolicy::May && !self.clause.implicit_tls;
        let end = if at_will { End::ClearOnly(reason) } else { End::Unready(reason) };
        self.ended(now, shared, end)
    }

    fn ended<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>, end: End) -> Fate {
        let Stage::Talking(mut link) = std::mem::replace(&mut self.stage, Stage::Resolving) else {
            return Fate::Waits;
        };
        self.count(link.conversation.take_statistics());
        self.note(now, shared, || end.to_string());
        if let Some(most) = link.conversation.take_lesson() {
            shared.memory.remember_recipients(now, link.address, most);
        }
        if let Some(most) = link.conversation.take_lesson_in_messages() {
            log::info!("{}: {} takes {most} messages on a connection", self.thread, link.address);
            shared.memory.remember_messages(now, link.address, most);
        }
        if let Some(level) = link.conversation.advice() {
            log::warn!("{}: meeting {} at level {} for a day", self.thread, link.address, level_name(level));
            shared.memory.remember_level(now, link.address, level);
        }
        let approach = link.conversation.next_approach();
        if approach == Some(Approach::Careful) {
            log::info!("{}: {} lost more messages than it answered: meeting it with care", self.thread, link.address);
        }
        if let Some(approach) = approach {
            shared.memory.remember_approach(now, link.address, approach);
        }
        link.farewell();
        // Closing the descriptor would do; a failure here changes nothing.
        let _ = shared.registry.deregister(&mut link.stream);
        // A failed handshake ends the link while its conversation still holds what was carried early.
        link.conversation.close(now);
        while let Some(event) = link.conversation.poll_event() {
            match event {
                Event::Settled { batch, verdicts, rest } => self.settled(shared, batch, verdicts, rest),
                Event::Returned { batch } => self.returned(shared, batch),
                Event::Ready | Event::StartTls | Event::Closed(_) => {}
            }
        }
        match end {
            End::Done => self.release(shared, Release::Done),
            End::Ended(reason) => self.release(shared, Release::Ended(reason)),
            End::Failed(reason) => self.release(shared, Release::Failed(reason)),
            End::Unready(reason) => {
                log::info!("{}: {reason}", self.thread);
                self.failure = Some(reason);
                self.connect_next(now, shared)
            }
            End::ClearOnly(reason) => {
                log::info!("{}: {reason}; trying again in the clear", self.thread);
                shared.memory.remember_clear(now, link.address);
                self.candidates.push_front(Candidate { name: link.name, address: link.address, preference: None });
                self.connect_next(now, shared)
            }
            End::Stale(reason) => {
                log::info!("{}: {reason}; trying again, waiting for the greeting", self.thread);
                shared.memory.forget_offered(link.address);
                self.candidates.push_front(Candidate { name: link.name, address: link.address, preference: None });
                self.connect_next(now, shared)
            }
        }
    }

    /// Time has passed.
    pub(crate) fn timeout<S: Letters<Letter = L>>(&mut self, now: Timestamp, shared: &mut Shared<S>) -> Fate {
        match &mut self.stage {
            Stage::Resolving | Stage::Located => Fate::Waits,
            Stage::Connecting(race) => {
                for Attempt { candidate, mut socket, .. } in race.expire(now) {
                    // Closing the descriptor would do; a failure here changes nothing.
                    let _ = shared.registry.deregister(&mut socket);
                    self.unreachable(&candidate, "Connection timed out");
                }
                self.connect_next(now, shared)
            }
            Stage::Talking(link) => {
                link.conversation.handle_timeout(now);
                let idle_for = self.idle_since.filter(|_| link.conversation.is_idle()).map(|since| now.since(since));
                if idle_for.is_some_and(|idle_for| idle_for >= self.clause.idle) {
                    self.idle_since = None;
                    link.conversation.close(now);
                }
                if self.link_due <= now {
                    self.report_link(now, shared);
                }
                Fate::Runs
            }
        }
    }

    /// When [`Agent::timeout`] is to be called.
    pub(crate) fn deadline(&self) -> Timestamp {
        match &self.stage {
            // The resolver has its own patience.
            Stage::Resolving | Stage::Located => Timestamp::NEVER,
            Stage::Connecting(race) => race.deadline(self.candidates.front()),
            Stage::Talking(link) => {
                let conversation = &link.conversation;
                let reply = conversation.poll_timeout();
                let idle = self.idle_since.filter(|_| conversation.is_idle()).map(|since| since + self.clause.idle);
                let report = (!conversation.is_idle()).then_some(self.link_due);
                [reply, idle, report].into_iter().flatten().min().unwrap_or(Timestamp::NEVER)
            }
        }
    }
}

impl Encounter {
    pub(super) fn new<S>(host: SocketAddr, shared: &Shared<S>, clause: &Clause) -> Self {
        Self { host, hello: Arc::clone(&shared.hostname), source: clause.source }
    }
}

/// What the clause allows in flight.
fn limits(clause: &Clause) -> Limits {
    Limits { messages: clause.unacknowledged_messages, octets: clause.unacknowledged_bytes }
}

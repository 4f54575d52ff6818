//! One transaction, and what replies mean for its recipients.

use std::sync::Arc;

use zrelay_agent::{Judgement, Rest, Verdict};
use zrelay_clock::Timestamp;
use zrelay_spool::{Diagnostic, Timing};

use super::batch::BatchKey;
use super::{Conversation, Event};
use crate::letter::Letter;

/// How a message is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Data,
    Bdat,
}

/// The reply to DATA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Go {
    /// 354
    Ahead,
    Refused,
}

/// The reply to one RCPT.
#[derive(Debug)]
pub(super) enum Answer {
    /// None that means anything.
    Open,
    Accepted,
    /// No room in this transaction.
    Again,
    Refused(Judgement, Arc<Diagnostic>),
}

/// What is known of a recipient of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Open,
    Accepted,
    /// It has a verdict, or goes into another transaction.
    Settled,
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) batch: BatchKey,
    pub(super) form: Form,
    /// Octets of its message.
    pub(super) size: u64,
    /// Nothing else may be under way with it.
    pub(super) alone: bool,
    pub(super) smtputf8: bool,
    pub(super) recipients: Vec<u32>,
    standing: Vec<Standing>,
    /// Recipients whose RCPT is queued.
    pub(super) asked: usize,
    /// Recipients whose RCPT is answered.
    pub(super) told: usize,
    /// Where the next accepted recipient is looked for (LMTP).
    search: usize,
    /// Recipients accepted.
    pub(super) accepted: u32,
    /// Recipients for another transaction.
    again: Vec<u32>,
    /// Why its MAIL was refused.
    refused: Option<(Timestamp, Judgement, Arc<Diagnostic>)>,
    /// Its recipients were accepted although its MAIL was not.
    pub(super) foreign: bool,
    /// Replies owed.
    pub(super) outstanding: u32,
    pub(super) go: Option<Go>,
    /// Whether its message is queued.
    pub(super) sent: bool,
    verdicts: Vec<Verdict>,
    begun: Timestamp,
    timing: Timing,
}

/// What a new [`Transaction`] is made of.
pub(super) struct Plan {
    pub(super) batch: BatchKey,
    pub(super) form: Form,
    pub(super) size: u64,
    pub(super) alone: bool,
    pub(super) smtputf8: bool,
    pub(super) recipients: Vec<u32>,
    pub(super) timing: Timing,
}

impl Transaction {
    pub(super) fn new(now: Timestamp, plan: Plan) -> Self {
        Self {
            batch: plan.batch,
            form: plan.form,
            size: plan.size,
            alone: plan.alone,
            smtputf8: plan.smtputf8,
            standing: vec![Standing::Open; plan.recipients.len()],
            recipients: plan.recipients,
            asked: 0,
            told: 0,
            search: 0,
            accepted: 0,
            again: Vec::new(),
            refused: None,
            foreign: false,
            outstanding: 0,
            go: None,
            sent: false,
            verdicts: Vec::new(),
            begun: now,
            timing: plan.timing,
        }
    }

    /// MAIL (or the RSET in front of it) was not accepted. The first refusal stands.
    pub(super) fn refuse(&mut self, at: Timestamp, judgement: Judgement, diagnostic: Arc<Diagnostic>) {
        self.refused.get_or_insert((at, judgement, diagnostic));
    }

    /// Whether MAIL was refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether the far side may take its message for someone, as far as it has said.
    pub(super) fn may_succeed(&self) -> bool {
        self.sent && !self.is_refused() && (self.accepted > 0 || self.told < self.recipients.len())
    }

    /// The next RCPT is answered.
    pub(super) fn answer(&mut self, at: Timestamp, answer: Answer) {
        let (Some(standing), Some(&recipient)) = (self.standing.get_mut(self.told), self.recipients.get(self.told))
        else {
            return;
        };
        self.told += 1;
        match answer {
            Answer::Open => {}
            Answer::Accepted => {
                *standing = Standing::Accepted;
                self.accepted += 1;
            }
            Answer::Again => {
                *standing = Standing::Settled;
                self.again.push(recipient);
            }
            Answer::Refused(judgement, diagnostic) => {
                *standing = Standing::Settled;
                self.verdict(at, vec![recipient], judgement, diagnostic);
            }
        }
    }

    /// Takes back the recipients that were not asked for yet: there is no room for them.
    pub(super) fn shorten(&mut self) {
        self.again.extend(self.recipients.drain(self.asked..));
        self.standing.truncate(self.asked);
    }

    /// Whether a recipient was sent away for want of room.
    pub(super) fn is_full(&self) -> bool {
        !self.again.is_empty()
    }

    /// Whether an accepted recipient has no verdict.
    pub(super) fn has_accepted(&self) -> bool {
        self.standing.iter().skip(self.search).any(|&standing| standing == Standing::Accepted)
    }

    /// All accepted recipients get this verdict.
    pub(super) fn settle_accepted(&mut self, at: Timestamp, judgement: Judgement, diagnostic: &Arc<Diagnostic>) {
        if self.is_refused() {
            return;
        }
        let whom = self.take_standing(|standing| standing == Standing::Accepted);
        self.verdict(at, whom, judgement, Arc::clone(diagnostic));
    }

    /// The next accepted recipient gets this verdict.
    pub(super) fn settle_next_accepted(&mut self, at: Timestamp, judgement: Judgement, diagnostic: Arc<Diagnostic>) {
        let from = self.search;
        let found = self.standing.iter().skip(from).position(|&standing| standing == Standing::Accepted);
        let Some(place) = found.map(|offset| from + offset) else {
            return;
        };
        self.search = place + 1;
        if let (Some(standing), Some(&recipient)) = (self.standing.get_mut(place), self.recipients.get(place)) {
            *standing = Standing::Settled;
            self.verdict(at, vec![recipient], judgement, diagnostic);
        }
    }

    /// Whoever has no verdict is put off: the connection died of this transaction, as far as one can tell.
    pub(super) fn blame(&mut self, at: Timestamp, diagnostic: &Arc<Diagnostic>) {
        if self.is_refused() {
            return;
        }
        let whom = self.take_standing(|standing| standing != Standing::Settled);
        self.verdict(at, whom, Judgement::Deferred, Arc::clone(diagnostic));
    }

    /// Whether the far side took the message for someone.
    pub(super) fn is_success(&self) -> bool {
        !self.is_refused() && self.sent && self.verdicts.iter().any(|verdict| is_delivered(verdict.judgement))
    }

    /// Whether the far side worked, whatever it said. 421 is about the host, whatever command it answers.
    pub(super) fn has_outcome(&self) -> bool {
        match &self.refused {
            Some((_, judgement, _)) => *judgement == Judgement::Failed,
            None => self.verdicts.iter().any(|verdict| verdict.diagnostic.code != 421),
        }
    }

    /// Whether any recipient is done with for ever.
    pub(super) fn has_final_outcome(&self) -> bool {
        !self.is_refused() && self.verdicts.iter().any(|verdict| verdict.judgement != Judgement::Deferred)
    }

    fn take_standing(&mut self, which: impl Fn(Standing) -> bool) -> Vec<u32> {
        let mut whom = Vec::new();
        for (standing, &recipient) in self.standing.iter_mut().zip(&self.recipients) {
            if which(*standing) {
                *standing = Standing::Settled;
                whom.push(recipient);
            }
        }
        whom
    }

    fn verdict(&mut self, at: Timestamp, mut recipients: Vec<u32>, judgement: Judgement, diagnostic: Arc<Diagnostic>) {
        if recipients.is_empty() {
            return;
        }
        recipients.sort_unstable();
        let timing = Timing { sent: at.since(self.begun), ..self.timing };
        self.verdicts.push(Verdict { recipients, judgement, diagnostic, at, timing });
    }
}

/// Whether a verdict says delivered.
pub(super) fn is_delivered(judgement: Judgement) -> bool {
    matches!(judgement, Judgement::Delivered { .. })
}

impl<L: Letter> Conversation<L> {
    /// A transaction is over: its verdicts go out, its batch may be through.
    pub(super) fn finish(&mut self, mut transaction: Transaction) {
        self.settle_refused(&mut transaction);
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(transaction.size);
        self.finished.messages += 1;
        self.finished.octets = self.finished.octets.saturating_add(transaction.size);
        for verdict in &transaction.verdicts {
            if is_delivered(verdict.judgement) {
                let quickest = self.finished.quickest.get_or_insert(verdict.timing.sent);
                *quickest = verdict.timing.sent.min(*quickest);
                self.statistics.delivered += verdict.recipients.len() as u64;
            }
        }
        self.statistics.transactions += u64::from(transaction.has_outcome());
        let key = transaction.batch;
        let ending = self.is_ending();
        let Some(batch) = self.batches.get_mut(key) else {
            debug_assert!(false, "a transaction outlived its batch");
            return;
        };
        batch.open -= 1;
        batch.again.extend(transaction.again.drain(..));
        let spent = batch.is_spent();
        let done = batch.open == 0 && (spent || ending);
        let id = batch.ticket.id;
        if done {
            self.batches.remove(key);
        } else if !spent && !ending && !self.queue.contains(&key) {
            self.queue.push_front(key);
        }
        if done || !transaction.verdicts.is_empty() {
            let rest = if done { Rest::Done } else { Rest::More };
            self.events.push_back(Event::Settled { batch: id, verdicts: transaction.verdicts, rest });
        }
    }

    /// What a refused MAIL means for the recipients.
    fn settle_refused(&mut self, transaction: &mut Transaction) {
        let Some((at, judgement, diagnostic)) = transaction.refused.clone() else {
            return;
        };
        debug_assert!(transaction.verdicts.is_empty(), "nothing is settled in a transaction without a sender");
        // A host that has had enough of this connection says nothing about the messages that were behind.
        let host_is_full = self.stop.is_some() && judgement == Judgement::Deferred && self.worked > 0;
        if host_is_full && !transaction.foreign && matches!(diagnostic.code, 400..=499) {
            return;
        }
        let whom = transaction.take_standing(|_| true);
        if !transaction.foreign {
            return transaction.verdict(at, whom, judgement, diagnostic);
        }
        let text = format!(
            "{} refused the sender ({} {}) and then accepted recipients: not counted as delivered",
            self.settings.peer, diagnostic.code, diagnostic.text
        );
        let reason = self.reason(super::diagnostic::status::PROTOCOL, &text);
        transaction.verdict(at, whom, Judgement::Deferred, reason);
    }
}

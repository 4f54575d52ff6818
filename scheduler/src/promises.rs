//! What the sender of late mail was promised: that it is told of the delay (`delay_warning`), and that the mail comes back
//! when its own time is over (DELIVERBY, RFC 2852).
//!
//! Both are kept wherever a batch rests: waiting, due and in line for an agent, held by an operator, in the thread of a
//! host that is down. (The `expiry` of the clause is not: an operator's hold stops that clock.) A batch that an agent
//! carries at the time is looked at when it comes back, and one beyond the window comes in for it.
//!
//! A delay is told once in the life of a batch. It is recorded as [`Disposition::Delayed`], so that a restart does not
//! tell it again; who is told decides the spool by `NOTIFY` (RFC 3461 §4.1).

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, ByMode, DeliverBy, Diagnostic, Disposition, MessageId, QueuedBatch, Status};

use crate::batch::{Batch, Place};
use crate::scheduler::Scheduler;
use crate::sweep::{SWEEP_MAX, outcome_of};
use crate::thread::{Thread, ThreadId};

/// What the sender is told of a message that was not delivered by its own time.
pub(crate) const TOO_LATE: &str = "not delivered within the time that its sender gave it";

/// What is still to be kept of a thread's batches.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Messages with a time of their own, by it.
    deadlines: BTreeSet<(Timestamp, BatchId)>,
    /// All batches up to this one have been looked at for a delay. They stand in the order in which their messages came,
    /// so that the first behind it is the next to be late; no set of all of them is needed.
    looked_at: Option<BatchId>,
}

impl Thread {
    /// A batch has come into the thread.
    pub(crate) fn promise(&mut self, id: BatchId) {
        let Some(batch) = self.batches.get(&id) else { return };
        if let Some(by) = batch.deadline_ahead() {
            self.promises.deadlines.insert((by.deadline, id));
        }
        if self.promises.looked_at.is_some_and(|last| last >= id) {
            let before = BatchId { message: MessageId(id.message.0.saturating_sub(1)), number: u32::MAX };
            self.promises.looked_at = Some(before);
        }
    }

    /// A batch has left the thread.
    pub(crate) fn unpromise(&mut self, id: BatchId, batch: &Batch) {
        if let Some(by) = &batch.deliver_by {
            self.promises.deadlines.remove(&(by.deadline, id));
        }
    }

    /// When something is to be kept next, in memory or not.
    pub(crate) fn next_promise(&self, now: Timestamp) -> Option<Timestamp> {
        let deadline = self.promises.deadlines.first().map(|(at, _)| *at);
        let late = self.next_late().map(|(at, _)| at);
        [deadline, late, self.beyond.next_promise(now)].into_iter().flatten().min()
    }

    /// The next batch to be late, and when.
    fn next_late(&self) -> Option<(Timestamp, BatchId)> {
        if self.clause.delay_warning.is_zero() {
            return None;
        }
        let from = self.promises.looked_at.map_or(Bound::Unbounded, Bound::Excluded);
        let (id, batch) = self.batches.range((from, Bound::Unbounded)).next()?;
        Some((batch.received + self.clause.delay_warning, *id))
    }

    /// When something is to be kept of a batch that leaves memory.
    pub(crate) fn promised(&self, batch: &QueuedBatch) -> Timestamp {
        let own = batch.deliver_by.map(|by| by.deadline).filter(|at| *at > batch.received);
        let warning =
            (!batch.warned && !self.clause.delay_warning.is_zero()).then(|| batch.received + self.clause.delay_warning);
        // A notice that was given is not due again.
        let own = own.filter(|_| !batch.warned || batch.deliver_by.is_some_and(|by| by.mode == ByMode::Return));
        [own, warning].into_iter().flatten().min().unwrap_or(Timestamp::NEVER)
    }

    /// When a batch will be given up.
    fn end_of(&self, batch: &Batch) -> Timestamp {
        let expiry = batch.received + self.clause.expiry;
        match batch.deliver_by.as_deref() {
            Some(DeliverBy { deadline, mode: ByMode::Return, .. }) => expiry.min(*deadline),
            _ => expiry,
        }
    }

    fn is_late(&self, batch: &Batch, now: Timestamp) -> bool {
        let warning = self.clause.delay_warning;
        let by_clause = !warning.is_zero() && batch.received + warning <= now;
        by_clause || batch.deadline_ahead().is_some_and(|by| by.mode == ByMode::Notify && by.deadline <= now)
    }

    fn is_over(batch: &Batch, now: Timestamp) -> bool {
        batch.deliver_by.as_deref().is_some_and(|by| by.mode == ByMode::Return && by.deadline <= now)
    }

    /// Why a batch is late.
    fn reason(&self, batch: &Batch) -> Arc<Diagnostic> {
        if batch.hold.is_held() || self.is_held() {
            return Arc::new(Diagnostic::local(Status(4, 3, 0), "held back by the operator of this relay"));
        }
        let said = batch.last.clone().or_else(|| self.backoff.last.clone());
        said.unwrap_or_else(|| Arc::new(Diagnostic::local(Status(4, 4, 0), "no attempt was possible yet")))
    }
}

impl Batch {
    /// Its own time, unless that was over when it came (RFC 2852 allows it with `N`: then its sender knows already).
    fn deadline_ahead(&self) -> Option<&DeliverBy> {
        self.deliver_by.as_deref().filter(|by| by.deadline > self.received)
    }
}

impl Scheduler {
    /// Keeps what has become due of a thread's promises, at most [`SWEEP_MAX`] batches; the timer brings the rest.
    pub(crate) fn keep_promises(&mut self, id: ThreadId, now: Timestamp) {
        if self.paused.is_some() {
            return;
        }
        for _ in 0..SWEEP_MAX {
            let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.sweeps.is_empty()) else { return };
            let deadline = thread.promises.deadlines.first().filter(|(at, _)| *at <= now).copied();
            let late = thread.next_late().filter(|(at, _)| *at <= now);
            let batch = match (deadline, late) {
                (Some((at, batch)), _) => {
                    thread.promises.deadlines.remove(&(at, batch));
                    batch
                }
                (None, Some((_, batch))) => {
                    thread.promises.looked_at = Some(batch);
                    batch
                }
                (None, None) => return,
            };
            self.keep_promise(id, batch, now);
        }
    }

    /// Keeps what was promised of one batch, unless it is under way.
    pub(crate) fn keep_promise(&mut self, id: ThreadId, batch_id: BatchId, now: Timestamp) {
        let Some(thread) = self.threads.get(id) else { return };
        let Some(batch) = thread.batches.get(&batch_id).filter(|batch| batch.place != Place::Carried) else { return };
        if Thread::is_over(batch, now) {
            let diagnostic = Arc::new(Diagnostic::local(Status(5, 4, 7), TOO_LATE));
            self.finish_batch(id, batch_id, Disposition::Expired, &diagnostic, 0, now);
        } else if !batch.warned && thread.is_late(batch, now) {
            let (diagnostic, end) = (thread.reason(batch), thread.end_of(batch));
            let mut outcome = outcome_of(batch_id, batch, Disposition::Delayed, &diagnostic, now);
            outcome.due = end;
            if let Some(batch) = self.threads.get_mut(id).and_then(|thread| thread.batches.get_mut(&batch_id)) {
                batch.warned = true;
            }
            self.record_outcome(id, outcome);
        }
    }
}

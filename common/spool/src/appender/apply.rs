//! What was recorded becomes true: the books are changed, and those who wait are told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Appender, Output, Reclaim, Staged, StagedCommit};
use crate::ledger::Change;
use crate::record::Record;
use crate::shared::Place;
use crate::{
    Arrived, BatchId, Disposition, Fact, Flow, MessageId, Notify, Outcome, Owed, Queue, QueuedBatch, Recorded,
    RoutedBatch, Stored,
};

impl Appender {
    /// What was staged is durable: from here on it has happened.
    pub(super) fn apply(&mut self, staged: Staged) {
        match staged {
            Staged::Commit(commit) => self.apply_commit(*commit),
            Staged::Flush(reply) => self.answer(&reply, Ok(())),
            Staged::Delete(segment) => self.delete(segment),
            Staged::Move(moved) => self.apply_move(moved),
            Staged::Record(record, place) => self.apply_record(record, place),
        }
    }

    fn apply_commit(&mut self, commit: StagedCommit) {
        let StagedCommit { message, place, recipients, extents, origin, reply } = commit;
        self.shared.raise_id(message.0);
        self.shared.insert(message, place);
        let segments = extents.iter().map(|extent| extent.segment).chain([place.segment]);
        self.ledger.admit(message, recipients, segments);
        self.shared.counters.messages.fetch_add(1, Ordering::Relaxed);
        self.answer(&reply, Ok(()));
        if recipients == 0 {
            log::error!("spool: message {message} has no recipient");
            self.changed(message, Change::DoneAndFinished);
        } else {
            self.outputs.push_back(Output::Arrived(Arrived(message)));
        }
        if let Some(origin) = origin {
            let change = self.ledger.settle(origin.message, &origin.recipients, place.segment);
            self.changed(origin.message, change);
        }
    }

    fn apply_record(&mut self, record: Record, place: Place) {
        let segment = place.segment;
        match record {
            Record::Routed { message, batches } => self.apply_routed(message, &batches, segment),
            Record::Outcomes(outcomes) => outcomes.into_iter().for_each(|outcome| self.apply_outcome(outcome, segment)),
            Record::Batch(state) => self.ledger.touch(state.id.message, segment),
            Record::Rerouted { id, .. } => self.ledger.touch(id.message, segment),
            Record::Thread(state) => self.threads.recorded(&state, place),
            Record::Settled { message, recipients } => {
                let change = self.ledger.settle(message, &recipients, segment);
                self.changed(message, change);
            }
            Record::Finished(marks) => {
                self.ledger.finished(&marks, place);
                self.reclaim = Reclaim::Look;
                self.look_for_sparse();
            }
            Record::Segments { .. } | Record::Moved(_) => {}
        }
    }

    fn apply_routed(&mut self, message: MessageId, batches: &[RoutedBatch], segment: u32) {
        if !self.ledger.is_unrouted(message) {
            log::error!("spool: message {message} was routed twice; the second decision is ignored");
            return;
        }
        let change = self.ledger.routed(message, batches, segment);
        match self.reader.message(message) {
            Ok(stored) => {
                for (number, batch) in (0..).zip(batches) {
                    let ledger = &self.ledger;
                    let queued =
                        queued_batch(&stored, BatchId { message, number }, batch, |r| ledger.is_open(message, r));
                    self.outputs.extend(queued.map(|batch| Output::Queue(Queue::Batch(batch))));
                }
            }
            Err(error) => log::error!("spool: cannot queue what was routed: {error}"),
        }
        self.changed(message, change);
    }

    fn apply_outcome(&mut self, mut outcome: Outcome, segment: u32) {
        let message = outcome.batch.message;
        let stored = self.reader.message(message).ok();
        let notify = |recipient| stored.as_ref().map_or(Notify::Default, |stored| stored.recipient(recipient).notify);
        let applied = self.ledger.outcome(&outcome, segment, notify);
        if applied.accepted.len() != outcome.recipients.len() {
            let surplus = outcome.recipients.len() - applied.accepted.len();
            log::error!("spool: {surplus} outcomes too many in batch {}; they are ignored", outcome.batch);
        }
        if applied.accepted.is_empty() {
            return;
        }
        let owed = (!applied.owed.is_empty()).then(|| Owed {
            message,
            recipients: applied.owed,
            disposition: outcome.disposition,
            diagnostic: outcome.diagnostic.clone(),
            at: outcome.at,
            until: (outcome.disposition == Disposition::Delayed).then_some(outcome.due),
        });
        outcome.recipients = applied.accepted;
        // A notice of delay is no outcome of its own: it follows one that has its line already.
        if outcome.disposition != Disposition::Delayed {
            self.outputs.push_back(Output::Fact(Fact::Outcome(Box::new(Recorded { outcome, stored }))));
        }
        self.outputs.extend(owed.map(|owed| Output::Fact(Fact::Owed(owed))));
        self.changed(message, applied.change);
    }

    fn changed(&mut self, message: MessageId, change: Change) {
        if matches!(change, Change::Done | Change::DoneAndFinished) {
            self.outputs.push_back(Output::Fact(Fact::Done(message)));
        }
        if matches!(change, Change::Finished | Change::DoneAndFinished) {
            self.finishing.extend(self.ledger.begin_finish(message));
            self.shared.remove(message);
            self.outputs.push_back(Output::Fact(Fact::Removed(message)));
        }
    }
}

/// A fresh batch of `stored` for the scheduler, with those of its recipients that are open, if any.
pub(crate) fn queued_batch(
    stored: &Stored,
    id: BatchId,
    batch: &RoutedBatch,
    is_open: impl Fn(u32) -> bool,
) -> Option<QueuedBatch> {
    let recipients: Arc<[u32]> = batch.recipients.iter().copied().filter(|recipient| is_open(*recipient)).collect();
    let mut senders: Vec<u32> = recipients.iter().map(|recipient| stored.recipient(*recipient).sender).collect();
    let handling = stored.handling();
    let by_sender = || senders.first().map(|sender| Flow::of_sender(stored.sender(*sender))).unwrap_or_default();
    let flow = handling.flow.unwrap_or_else(by_sender);
    senders.sort_unstable();
    senders.dedup();
    let queued = QueuedBatch {
        id,
        thread: batch.thread.clone(),
        recipients,
        received: stored.received(),
        size: stored.size(),
        copies: u32::try_from(senders.len()).unwrap_or(u32::MAX),
        flow,
        priority: handling.priority,
        deliver_by: handling.deliver_by,
        warned: false,
        attempts: 0,
        due: stored.received(),
        held: false,
        last: None,
    };
    (!queued.recipients.is_empty()).then_some(queued)
}

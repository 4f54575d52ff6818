//! What concerns all batches of a thread: done a bounded number of batches at a time, so that a thread with a hundred
//! thousand of them does not hold up the others. Nothing of the thread is handed out until it is through.

use std::ops::Bound;
use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, BatchState, Diagnostic, Disposition, Outcome, Request, Status, ThreadKey, Timing};

use crate::batch::{Batch, Place};
use crate::scheduler::Scheduler;
use crate::snapshot::Load;
use crate::thread::{Thread, ThreadId, Woken};

/// Batches that one turn visits.
pub const SWEEP_MAX: usize = 1000;

/// A walk over the batches of a thread.
#[derive(Debug)]
pub(crate) struct Sweep {
    work: Work,
    /// The last batch visited.
    behind: Option<BatchId>,
    /// The last batch that was there when the sweep began; what came later is not concerned.
    end: BatchId,
}

/// What a sweep does to each batch. None touches batches under way, and all but `Drop`, `Expire` and
/// `Reroute` spare those held.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// The host failed: batches past their expiry expire; those that were due are reported as deferred, once in each
    /// back-off.
    HostFailed { diagnostic: Arc<Diagnostic>, due: Timestamp },
    /// The host can never be worked with: everything fails.
    Rejected { diagnostic: Arc<Diagnostic> },
    /// An operator wants it tried now.
    Retry,
    /// An operator wants it out of the queue.
    Drop { diagnostic: Arc<Diagnostic> },
    /// An operator gives it up: it expires now.
    Expire { diagnostic: Arc<Diagnostic> },
    /// An operator sends it to another thread.
    Reroute { to: ThreadKey },
}

impl Sweep {
    pub(crate) fn until(end: BatchId, work: Work) -> Self {
        Self { work, behind: None, end }
    }

    fn next(&mut self, thread_batches: &std::collections::BTreeMap<BatchId, Batch>) -> Option<BatchId> {
        let from = self.behind.map_or(Bound::Unbounded, Bound::Excluded);
        if self.behind.is_some_and(|behind| behind >= self.end) {
            return None;
        }
        let (id, _) = thread_batches.range((from, Bound::Included(self.end))).next()?;
        self.behind = Some(*id);
        Some(*id)
    }
}

impl Thread {
    /// Whether the clock is heeded: held threads keep everything as it is, and a sweep comes first.
    pub(crate) fn wakes(&self) -> bool {
        !self.is_held() && self.sweeps.is_empty()
    }

    /// Failures of the host are over.
    pub(crate) fn forget_failures(&mut self) {
        self.backoff.failures = 0;
        self.backoff.due = Timestamp::ZERO;
        self.backoff.last = None;
        self.backoff.epoch = self.backoff.epoch.wrapping_add(1);
    }
}

impl Scheduler {
    /// Goes on with the sweeps under way, at most [`SWEEP_MAX`] batches.
    pub(crate) fn sweep_turn(&mut self, now: Timestamp) {
        if self.paused.is_some() {
            return;
        }
        for _ in 0..SWEEP_MAX {
            let Some(&id) = self.sweeping.front() else { return };
            if !self.sweep_step(id, now) {
                self.sweeping.pop_front();
                self.touch(id);
            }
        }
        // The next turn begins with the next thread.
        if self.sweeping.len() > 1 {
            self.sweeping.rotate_left(1);
        }
    }

    /// One batch. Returns whether the thread has more to do.
    fn sweep_step(&mut self, id: ThreadId, now: Timestamp) -> bool {
        let Some(thread) = self.threads.get_mut(id) else { return false };
        let Some(sweep) = thread.sweeps.front_mut() else { return false };
        let Some(batch) = sweep.next(&thread.batches) else {
            thread.sweeps.pop_front();
            return !thread.sweeps.is_empty();
        };
        let work = sweep.work.clone();
        self.work_on(id, batch, &work, now);
        true
    }

    /// Does to one batch what is to be done; says whether it could be done.
    pub(crate) fn work_on(&mut self, id: ThreadId, batch_id: BatchId, work: &Work, now: Timestamp) -> bool {
        let Some(place) = self.threads.get(id).and_then(|thread| thread.batches.get(&batch_id)).map(|b| b.place) else {
            return false;
        };
        match (place, work) {
            (Place::Carried, _) => false,
            (_, Work::Drop { diagnostic }) => self.finish_batch(id, batch_id, Disposition::Dropped, diagnostic, 0, now),
            (_, Work::Expire { diagnostic }) => {
                self.finish_batch(id, batch_id, Disposition::Expired, diagnostic, 0, now)
            }
            (_, Work::Reroute { to }) => self.reroute_batch(id, batch_id, to, now),
            (Place::Aside, _) => false,
            (Place::Queued | Place::Due, Work::Rejected { diagnostic }) => {
                self.finish_batch(id, batch_id, Disposition::Failed, diagnostic, 1, now)
            }
            (Place::Queued | Place::Due, Work::HostFailed { diagnostic, due }) => {
                self.host_failed_for(id, batch_id, diagnostic, *due, now);
                true
            }
            (Place::Queued | Place::Due, Work::Retry) => {
                self.retry_batch(id, batch_id, now);
                true
            }
        }
    }

    fn host_failed_for(
        &mut self,
        id: ThreadId,
        batch_id: BatchId,
        diagnostic: &Arc<Diagnostic>,
        due: Timestamp,
        now: Timestamp,
    ) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let epoch = thread.backoff.epoch;
        let expiry = thread.clause.expiry;
        thread.dequeue(batch_id);
        let Some(batch) = thread.batches.get_mut(&batch_id) else { return };
        if batch.received + expiry <= now {
            self.finish_batch(id, batch_id, Disposition::Expired, diagnostic, 1, now);
            return;
        }
        let report = batch.due <= now && batch.reported != epoch;
        let mut outcome = None;
        if report {
            batch.attempts = batch.attempts.saturating_add(1);
            batch.due = due;
            batch.last = Some(diagnostic.clone());
            batch.reported = epoch;
            outcome = Some(outcome_of(batch_id, batch, Disposition::Deferred, diagnostic, now));
        }
        thread.enqueue(batch_id, now);
        if let Some(outcome) = outcome {
            self.record_outcome(id, outcome);
        }
    }

    fn retry_batch(&mut self, id: ThreadId, batch_id: BatchId, now: Timestamp) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.dequeue(batch_id);
        let Some(batch) = thread.batches.get_mut(&batch_id) else { return };
        let waited = batch.due > now;
        batch.due = batch.due.min(now);
        let state = BatchState { id: batch_id, held: false, due: batch.due, attempts: batch.attempts };
        thread.enqueue(batch_id, now);
        if waited {
            self.record(Request::Batch(state));
        }
    }

    /// The thread's first batches, as far as their time has come, leave the queue: they are due, or over. At most
    /// [`SWEEP_MAX`]; the timer brings the rest.
    pub(crate) fn wake(&mut self, id: ThreadId, now: Timestamp) {
        if self.paused.is_some() {
            return;
        }
        for _ in 0..SWEEP_MAX {
            let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.wakes()) else { return };
            let batch_id = match thread.wake_first(now) {
                Woken::Nothing => return,
                Woken::Due => continue,
                Woken::Expired(batch) => batch,
            };
            let last = thread.batches.get(&batch_id).and_then(|batch| batch.last.clone());
            let diagnostic = last.or_else(|| thread.backoff.last.clone());
            let diagnostic =
                diagnostic.unwrap_or_else(|| Arc::new(Diagnostic::local(Status(4, 4, 7), "delivery time expired")));
            self.finish_batch(id, batch_id, Disposition::Expired, &diagnostic, 0, now);
        }
    }

    /// Some recipients of a batch that is not under way come to an end; the others stay as they are. Returns how many.
    pub(crate) fn finish_part(
        &mut self,
        id: ThreadId,
        batch_id: BatchId,
        part: &[u32],
        disposition: Disposition,
        diagnostic: &Arc<Diagnostic>,
        now: Timestamp,
    ) -> u64 {
        let Some(thread) = self.threads.get_mut(id) else { return 0 };
        let Some(batch) = thread.batches.get_mut(&batch_id) else { return 0 };
        let (taken, rest): (Vec<u32>, Vec<u32>) =
            batch.recipients.iter().partition(|recipient| part.binary_search(recipient).is_ok());
        let count = u64::try_from(taken.len()).unwrap_or(u64::MAX);
        if taken.is_empty() {
            return 0;
        }
        if rest.is_empty() {
            self.finish_batch(id, batch_id, disposition, diagnostic, 0, now);
            return count;
        }
        batch.recipients = rest.into();
        let received = batch.received;
        let mut outcome = outcome_of(batch_id, batch, disposition, diagnostic, now);
        outcome.recipients = taken;
        thread.end_round(batch_id, now);
        self.count_out(id, received, Load { batches: 0, recipients: count, bytes: 0 });
        self.record_outcome(id, outcome);
        count
    }

    /// All recipients of a batch that is not under way come to the same end.
    pub(crate) fn finish_batch(
        &mut self,
        id: ThreadId,
        batch_id: BatchId,
        disposition: Disposition,
        diagnostic: &Arc<Diagnostic>,
        attempts: u32,
        now: Timestamp,
    ) -> bool {
        let Some(thread) = self.threads.get_mut(id) else { return false };
        thread.dequeue(batch_id);
        let Some(mut batch) = thread.batches.remove(&batch_id) else { return false };
        thread.unpromise(batch_id, &batch);
        batch.attempts = batch.attempts.saturating_add(attempts);
        let load = Load::of(&batch.recipients, batch.size);
        self.count_out(id, batch.received, load);
        self.touch(id);
        self.record_outcome(id, outcome_of(batch_id, &batch, disposition, diagnostic, now));
        true
    }
}

/// An outcome of all recipients of a batch.
pub(crate) fn outcome_of(
    id: BatchId,
    batch: &Batch,
    disposition: Disposition,
    diagnostic: &Arc<Diagnostic>,
    now: Timestamp,
) -> Outcome {
    Outcome {
        batch: id,
        recipients: batch.recipients.to_vec(),
        disposition,
        diagnostic: diagnostic.clone(),
        at: now,
        attempts: batch.attempts,
        due: batch.due,
        timing: Timing { queued: now.since(batch.received), ..Timing::default() },
        channel: None,
    }
}

//! Looking through what is beyond the window: runs are read and stay where they are.

use std::ops::Bound;

use zrelay_clock::Timestamp;
use zrelay_spool::{MessageId, QueuedBatch, ThreadKey};

use super::{RunId, SpillOrder};
use crate::scheduler::Scheduler;
use crate::snapshot::{BatchPlace, BatchView};
use crate::thread::ThreadId;

impl Scheduler {
    /// The next run behind this one, of one thread or of all, that may hold a batch of the message, and its thread. Runs
    /// are numbered as they are made.
    pub fn next_run(
        &self,
        thread: Option<&ThreadKey>,
        message: Option<MessageId>,
        after: Option<RunId>,
    ) -> Option<(RunId, ThreadKey)> {
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let fits = |id: &ThreadId, run: &RunId| {
            let thread = self.threads.get(*id)?;
            let known = thread.beyond.runs.get(run)?;
            message.is_none_or(|message| known.may_hold(message)).then(|| (*run, thread.key.clone()))
        };
        match thread {
            Some(key) => {
                let id = self.find_thread(key)?;
                let mut runs = self.threads.get(id)?.beyond.runs.range(behind);
                runs.find_map(|(run, _)| fits(&id, run))
            }
            None => self.window.owners.range(behind).find_map(|(run, id)| fits(id, run)),
        }
    }

    /// What is to go into a run and the driver has not written yet.
    pub fn unwritten<'a>(&'a self, wanted: RunId) -> impl Iterator<Item = &'a QueuedBatch> + use<'a> {
        let of_run = move |order: &'a SpillOrder| match order {
            SpillOrder::Write { run, batches } if *run == wanted => batches.as_slice(),
            _ => &[],
        };
        self.window.orders.iter().flat_map(of_run)
    }

    /// Batches of a run, as they were read, for the tools.
    pub fn views_of(
        &self,
        now: Timestamp,
        (run, thread): (RunId, &ThreadKey),
        batches: Vec<QueuedBatch>,
    ) -> Vec<BatchView> {
        let Some(thread) = self.find_thread(thread).and_then(|id| self.threads.get(id)) else { return Vec::new() };
        let view = |batch: QueuedBatch| {
            let due = thread.due_at(batch.due);
            let place = match () {
                () if batch.held || thread.is_held() => BatchPlace::Held,
                () if due > now => BatchPlace::Waiting(due),
                () => BatchPlace::Due,
            };
            let QueuedBatch { id, thread, recipients, received, size, attempts, flow, last, .. } = batch;
            BatchView { id, thread, recipients, received, size, attempts, flow, place, run: Some(run), last }
        };
        batches.into_iter().map(view).collect()
    }
}

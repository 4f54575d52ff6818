//! What is to be done to batches beyond the window: noted at the runs that may hold them, and done when those come in.

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, MessageId, ThreadKey};

use super::{Beyond, RunId};
use crate::operator::{Action, Changed};
use crate::scheduler::Scheduler;
use crate::sweep::Work;
use crate::thread::{Thread, ThreadId};

/// What is to be done to single batches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    Do(Action),
    Reroute(ThreadKey),
}

/// What is to be done to batches that are not here.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    All(Work),
    Message(MessageId, Deed),
    /// To these recipients of it, or all.
    Batch(BatchId, Deed, Option<Vec<u32>>),
    /// The thread was released, and with it what is held by itself.
    Release,
}

/// What a release undoes.
const HOLD: Deed = Deed::Do(Action::Hold);

impl Beyond {
    /// Notes something for all runs.
    pub(super) fn pend(&mut self, work: &Work) {
        let now = matches!(work, Work::Retry);
        let spares_held = matches!(work, Work::Retry | Work::Rejected { .. });
        let concerned = self.runs.iter().filter(|(_, run)| !(spares_held && run.hold.is_held()));
        let runs: Vec<RunId> = concerned.map(|(id, _)| *id).collect();
        for id in runs {
            if let Some(run) = self.runs.get_mut(&id) {
                run.pending.push(Pending::All(work.clone()));
            }
            if now {
                self.set_due(id, Timestamp::ZERO);
            } else {
                self.wanted.insert(id);
            }
        }
    }

    /// Holds that were noted are not wanted any more, and those that were made are to be undone.
    pub(crate) fn release(&mut self) {
        let is_hold = |pending: &Pending| matches!(pending, Pending::Message(_, HOLD) | Pending::Batch(_, HOLD, _));
        for (id, run) in &mut self.runs {
            run.pending.retain(|pending| !is_hold(pending));
            if run.hold.is_held() {
                run.pending.push(Pending::Release);
                self.wanted.insert(*id);
            }
        }
    }

    /// Notes something for a run; says whether there is such a one.
    pub(super) fn pend_at(&mut self, id: RunId, pending: &Pending) -> bool {
        let Some(run) = self.runs.get_mut(&id) else { return false };
        run.pending.push(pending.clone());
        self.wanted.insert(id);
        true
    }

    /// Notes something for the runs that may hold the message; says whether there are any.
    pub(super) fn pend_for(&mut self, message: MessageId, pending: &Pending) -> bool {
        let mut any = false;
        for (id, run) in self.runs.iter_mut().filter(|(_, run)| run.may_hold(message)) {
            run.pending.push(pending.clone());
            self.wanted.insert(*id);
            any = true;
        }
        any
    }
}

impl Scheduler {
    /// The batches `ids` of the thread have come in: does what was noted for them.
    pub(super) fn catch_up_on(&mut self, id: ThreadId, ids: &[BatchId], pending: &Pending, now: Timestamp) {
        match pending {
            Pending::All(work) => {
                for batch in ids {
                    self.work_on(id, *batch, work, now);
                }
            }
            Pending::Message(message, deed) => {
                for batch in ids.iter().filter(|batch| batch.message == *message) {
                    self.catch_up_with((id, *batch), deed, None, now);
                }
            }
            Pending::Batch(batch, deed, part) => self.catch_up_with((id, *batch), deed, part.as_deref(), now),
            Pending::Release => {
                for batch in ids {
                    self.catch_up_with((id, *batch), &Deed::Do(Action::Release), None, now);
                }
            }
        }
    }

    fn catch_up_with(&mut self, (id, batch): (ThreadId, BatchId), deed: &Deed, part: Option<&[u32]>, now: Timestamp) {
        match deed {
            // The operator has his answer.
            Deed::Do(action) => self.operate_on_batch(now, *action, (id, batch), part, &mut Changed::default()),
            Deed::Reroute(to) => {
                self.reroute_batch(id, batch, to, now);
            }
        }
    }

    /// Something is to be done to all batches of the thread that are beyond the window.
    pub(crate) fn sweep_beyond(&mut self, id: ThreadId, work: &Work) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        match work {
            // It was not tried with them.
            Work::HostFailed { .. } => {}
            _ => thread.beyond.pend(work),
        }
        self.touch(id);
    }

    /// Something is to be done to all batches of a message; returns how many threads may have one beyond the window.
    pub(crate) fn pend_for_message(&mut self, message: MessageId, deed: Deed) -> u64 {
        let pending = Pending::Message(message, deed);
        let concerned = |(id, thread): (ThreadId, &mut Thread)| thread.beyond.pend_for(message, &pending).then_some(id);
        let threads: Vec<ThreadId> = self.threads.iter_mut().filter_map(concerned).collect();
        threads.iter().for_each(|id| self.touch(*id));
        u64::try_from(threads.len()).unwrap_or(u64::MAX)
    }

    /// Something is to be done to a batch that is not in memory, in the run in which it was seen if that is still there, or
    /// else wherever it may be; says whether it may be beyond the window.
    pub(crate) fn pend_for_batch(
        &mut self,
        (id, batch): (ThreadId, BatchId),
        run: Option<RunId>,
        deed: Deed,
        part: Option<&[u32]>,
    ) -> bool {
        let Some(thread) = self.threads.get_mut(id) else { return false };
        let pending = Pending::Batch(batch, deed, part.map(<[u32]>::to_vec));
        let seen = run.is_some_and(|run| thread.beyond.pend_at(run, &pending));
        let concerned = seen || thread.beyond.pend_for(batch.message, &pending);
        self.touch(id);
        concerned
    }
}

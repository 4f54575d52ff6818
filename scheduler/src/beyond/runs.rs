//! What is known of the runs of one thread.

use std::collections::{BTreeMap, BTreeSet};

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, MessageId, QueuedBatch};

use super::RunId;
use super::pending::Pending;
use crate::batch::Hold;
use crate::snapshot::Load;
use crate::thread::Thread;

/// Runs, the last ones, among which one is looked for that may grow.
const OPEN_MAX: usize = 16;

/// What a thread has beyond the window.
#[derive(Debug, Default)]
pub(crate) struct Beyond {
    pub(super) runs: BTreeMap<RunId, Run>,
    /// When something in a run is due, as far as the batches themselves are concerned, and its first batch.
    pub(super) due: BTreeSet<(Timestamp, BatchId, RunId)>,
    /// When something in a run comes to its expiry.
    pub(super) expiry: BTreeSet<(Timestamp, RunId)>,
    /// When something in a run comes to what its sender was promised.
    pub(super) promises: BTreeSet<(Timestamp, RunId)>,
    /// Runs that are wanted whatever the window says.
    pub(super) wanted: BTreeSet<RunId>,
    /// The one that the driver has been asked for.
    pub(super) reading: Option<RunId>,
}

#[derive(Debug)]
pub(super) struct Run {
    /// Whether an operator holds its batches by themselves: all of them, or none.
    pub(super) hold: Hold,
    pub(super) load: Load,
    /// [`Timestamp::NEVER`] when they are held.
    pub(super) due: Timestamp,
    /// [`Timestamp::NEVER`] when they are held.
    pub(super) expires: Timestamp,
    pub(super) promised: Timestamp,
    /// When the message of its oldest batch came in.
    pub(super) oldest: Timestamp,
    /// Its batches are among these.
    pub(super) ids: (BatchId, BatchId),
    /// What is to be done to them when they come in, in this order.
    pub(super) pending: Vec<Pending>,
}

impl Run {
    /// A run of these batches of a thread.
    pub(super) fn of(hold: Hold, batches: &[QueuedBatch], thread: &Thread) -> Option<Self> {
        let ids = || batches.iter().map(|batch| batch.id);
        let turn = |at: Timestamp| if hold.is_held() { Timestamp::NEVER } else { at };
        Some(Self {
            hold,
            load: load_of(batches),
            due: turn(batches.iter().map(|batch| batch.due).min()?),
            expires: turn(batches.iter().map(|batch| thread.expires(batch.received)).min()?),
            promised: batches.iter().map(|batch| thread.promised(batch)).min()?,
            oldest: batches.iter().map(|batch| batch.received).min()?,
            ids: (ids().min()?, ids().max()?),
            pending: Vec::new(),
        })
    }

    /// Other batches of the thread go into the same run.
    pub(super) fn join(&mut self, other: Self) {
        self.load.add(other.load);
        self.due = self.due.min(other.due);
        self.expires = self.expires.min(other.expires);
        self.promised = self.promised.min(other.promised);
        self.oldest = self.oldest.min(other.oldest);
        self.ids = (self.ids.0.min(other.ids.0), self.ids.1.max(other.ids.1));
    }

    pub(super) fn batches(&self) -> usize {
        usize::try_from(self.load.batches).unwrap_or(usize::MAX)
    }

    pub(super) fn may_hold(&self, message: MessageId) -> bool {
        self.ids.0.message <= message && message <= self.ids.1.message
    }
}

impl Beyond {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How much there is.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn load(&self) -> Load {
        let mut load = Load::default();
        self.runs.values().for_each(|run| load.add(run.load));
        load
    }

    /// Batches that are held by themselves.
    pub(crate) fn held(&self) -> u64 {
        self.runs.values().filter(|run| run.hold.is_held()).map(|run| run.load.batches).sum()
    }

    /// Whether anything is to have its turn.
    pub(crate) fn has_work(&self) -> bool {
        self.due.first().is_some_and(|(due, ..)| *due != Timestamp::NEVER)
    }

    /// When its oldest message came in.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.runs.values().map(|run| run.oldest).min()
    }

    /// When the first of its batches is due, and when the first comes to its expiry.
    pub(crate) fn times(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.due.first()?.0, self.expiry.first()?.0))
    }

    /// When something is to be kept next that a sender was promised, unless it is being seen to.
    pub(crate) fn next_promise(&self, now: Timestamp) -> Option<Timestamp> {
        let (at, _) = self.promises.first()?;
        (*at != Timestamp::NEVER && (*at > now || self.reading.is_none())).then_some(*at)
    }

    pub(super) fn add(&mut self, id: RunId, run: Run) {
        self.due.insert((run.due, run.ids.0, id));
        self.expiry.insert((run.expires, id));
        self.promises.insert((run.promised, id));
        self.runs.insert(id, run);
    }

    pub(super) fn remove(&mut self, id: RunId) -> Option<Run> {
        let run = self.runs.remove(&id)?;
        self.due.remove(&(run.due, run.ids.0, id));
        self.expiry.remove(&(run.expires, id));
        self.promises.remove(&(run.promised, id));
        self.wanted.remove(&id);
        self.reading = self.reading.filter(|reading| *reading != id);
        Some(run)
    }

    /// The last run of such batches, if so many more may go into it and nothing is wanted of it.
    pub(super) fn open(&self, hold: Hold, batches: usize, fill: usize) -> Option<RunId> {
        let (id, run) = self.runs.iter().rev().take(OPEN_MAX).find(|(_, run)| run.hold == hold)?;
        let idle = run.pending.is_empty() && !self.wanted.contains(id) && self.reading != Some(*id);
        (idle && run.batches() + batches <= fill).then_some(*id)
    }

    /// Further batches have gone into a run.
    pub(super) fn extend(&mut self, id: RunId, more: Run) {
        let Some(mut run) = self.remove(id) else { return };
        run.join(more);
        self.add(id, run);
    }

    /// Batches are not in a run after all, of which others are; returns what is to be done to them.
    pub(super) fn take_back(&mut self, id: RunId, batches: &[QueuedBatch]) -> Option<Vec<Pending>> {
        let run = self.runs.get_mut(&id).filter(|run| run.batches() > batches.len())?;
        run.load.remove(load_of(batches));
        Some(run.pending.clone())
    }

    pub(super) fn set_due(&mut self, id: RunId, due: Timestamp) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        self.due.remove(&(run.due, run.ids.0, id));
        run.due = due;
        self.due.insert((due, run.ids.0, id));
    }

    pub(super) fn put_off(&mut self, id: RunId, until: Timestamp) {
        self.reading = None;
        self.wanted.remove(&id);
        // What is held and of which nothing is wanted has no turn.
        if self.runs.get(&id).is_some_and(|run| !run.hold.is_held() || !run.pending.is_empty()) {
            self.set_due(id, until);
        }
        let Some(run) = self.runs.get_mut(&id) else { return };
        self.expiry.remove(&(run.expires, id));
        self.promises.remove(&(run.promised, id));
        run.expires = run.expires.max(until);
        run.promised = run.promised.max(until);
        self.expiry.insert((run.expires, id));
        self.promises.insert((run.promised, id));
    }
}

pub(super) fn load_of(batches: &[QueuedBatch]) -> Load {
    let mut load = Load::default();
    batches.iter().for_each(|batch| load.add(Load::of(&batch.recipients, batch.size)));
    load
}

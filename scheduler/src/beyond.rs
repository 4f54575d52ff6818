//! Batches beyond the window: those for which there is no room in memory, and what is known of them.
//!
//! The window is a number of batches in memory ([`Scheduler::set_window`]). When there are more, the thread with the most
//! of them gives up those whose turn is furthest away, in **runs** of up to [`RUN_MAX`]: the driver writes a run to disk
//! and the thread keeps a line about it. So a host that is down with ten million recipients takes its room from itself.
//! Every thread may keep a few batches in memory however many threads there are; they cost less than the thread does.
//!
//! A run comes in again when its thread has little left that is due and something in the run is, or when something in it
//! comes to its expiry: by due time, and of the thread that needs it. What a sender was promised brings a run in at its
//! time, whether its thread may run or not. A run comes in whole, and what does not fit then goes out again. Nothing is
//! counted anew: sums cover what is beyond the window as well.
//!
//! What an operator holds by itself goes first, in runs of its own, since its turn does not come: such a run comes in when
//! somebody does something to a batch in it, or its sender is to be told of the delay.
//!
//! Whoever looks through the queue reads runs and leaves them where they are ([`Scheduler::next_run`]).
//!
//! What an operator does to a thread or a message is noted at the runs that it may concern and done when they come in:
//! at once, where it ends batches or is about single ones; else (retry) when it is their turn. What happens to the host
//! of a thread concerns only batches that were tried: those beyond the window are not, and so do not count attempts.
//!
//! Within a thread the order of due batches holds, but for those that come in newly while older ones are beyond the
//! window and there happens to be room: at most an agent's credit of them.

mod look;
mod pending;
mod runs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, QueuedBatch, ThreadKey};

use crate::batch::{Hold, Place};
use crate::scheduler::Scheduler;
use crate::thread::{Thread, ThreadId};
pub(crate) use pending::Deed;
use pending::Pending;
pub(crate) use runs::Beyond;
use runs::Run;

/// Octets of memory that a batch takes in the window, measured by `tests/bench-queue`: half of them are its own, the rest
/// goes to trees that are not quite full and to the heap. For whoever has to say how many may be in it.
pub const BATCH_OCTETS: u64 = 512;
/// Batches in a run at most: some hundred KiB on disk, read in less than a millisecond.
pub const RUN_MAX: usize = 1000;
/// Batches in the window for each run that may be remembered before runs grow: a line about a run takes as much memory as
/// a batch, so that all lines take a part of what the window does.
const BATCHES_PER_LINE: usize = 8;
/// Batches that a thread keeps in memory in any case, at most: an agent's credit and some more.
const KEPT_MAX: usize = 64;
/// Threads that are asked for batches when there are too many, each time.
const VICTIMS_MAX: usize = 8;
/// How long a run that could not be read is left alone.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// The name of a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RunId(pub u64);

/// What the driver is to do with batches beyond the window; each is to be answered by [`Scheduler::handle_spill`].
#[derive(Clone, Debug)]
pub enum SpillOrder {
    /// Write these batches of one thread, behind those that are in the run already. No answer is needed when that works.
    Write {
        /// The name of the run.
        run: RunId,
        /// What is to be in it.
        batches: Vec<QueuedBatch>,
    },
    /// Read a run, and forget it once it was read.
    Read {
        /// Its name.
        run: RunId,
        /// The thread it belongs to.
        thread: ThreadKey,
    },
}

/// What came of a [`SpillOrder`].
#[derive(Clone, Debug)]
pub enum Spilled {
    /// Batches could not be written: here they are again. What was in the run before is still there.
    NotWritten {
        /// Its name.
        run: RunId,
        /// What was to be in it.
        batches: Vec<QueuedBatch>,
    },
    /// A run was read.
    Read {
        /// Its name.
        run: RunId,
        /// What is in it.
        batches: Vec<QueuedBatch>,
    },
    /// A run could not be read. It is asked for again later; if that fails too, a restart finds its batches in the log.
    NotRead {
        /// Its name.
        run: RunId,
    },
}

/// What there is beyond the window in all threads.
#[derive(Debug)]
pub(crate) struct Window {
    /// Batches that may be in memory.
    max: usize,
    /// Batches that are not.
    beyond: usize,
    /// Threads with batches in memory by the order of magnitude of their number.
    sizes: BTreeSet<(u32, ThreadId)>,
    owners: BTreeMap<RunId, ThreadId>,
    next_run: u64,
    /// Until when nothing is written, since the disk refused it.
    refused_until: Timestamp,
    orders: VecDeque<SpillOrder>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            max: usize::MAX,
            beyond: 0,
            sizes: BTreeSet::new(),
            owners: BTreeMap::new(),
            next_run: 0,
            refused_until: Timestamp::ZERO,
            orders: VecDeque::new(),
        }
    }
}

impl Window {
    /// Batches in a run, so that threads which share the window do not move more to and fro than they use.
    fn run_max(&self) -> usize {
        (self.max / (4 * (self.owners.len() + 1).min(self.sizes.len() + 1))).clamp(1, RUN_MAX)
    }

    /// Batches up to which the last run of a thread is filled, so that there are not too many runs to remember.
    fn fill(&self) -> usize {
        let lines = (self.max / BATCHES_PER_LINE).max(1);
        (self.beyond / lines).clamp(self.run_max(), RUN_MAX)
    }

    /// Batches that a thread keeps: all threads together no more than half of the window, as long as there are not more
    /// threads than that.
    fn kept(&self) -> usize {
        (self.run_max() / 2).min(self.max / (2 * (self.sizes.len() + 1))).clamp(1, KEPT_MAX)
    }
}

impl Scheduler {
    /// Keeps at most so many batches in memory, and a few for each thread; the others go to the driver by
    /// [`poll_spill`](Self::poll_spill). Without this call all are kept.
    pub fn set_window(&mut self, batches: usize) {
        self.window.max = batches.max(1);
    }

    /// The next thing to do for batches beyond the window.
    pub fn poll_spill(&mut self) -> Option<SpillOrder> {
        self.window.orders.pop_front()
    }

    /// Whether [`poll_spill`](Self::poll_spill) has something.
    pub(crate) fn has_spill_orders(&self) -> bool {
        !self.window.orders.is_empty()
    }

    /// Batches that are not in memory.
    pub fn beyond_window(&self) -> usize {
        self.window.beyond
    }

    fn resident(&self) -> usize {
        usize::try_from(self.all.load.batches).unwrap_or(usize::MAX).saturating_sub(self.window.beyond)
    }

    /// Takes what came of a [`SpillOrder`].
    pub fn handle_spill(&mut self, now: Timestamp, spilled: Spilled) {
        match spilled {
            Spilled::Read { run, batches } => self.bring_in(run, batches, now),
            Spilled::NotWritten { run, batches } => {
                self.window.refused_until = now + UNREADABLE_PAUSE;
                self.take_back(run, batches, now);
            }
            Spilled::NotRead { run } => {
                if let Some(id) = self.window.owners.get(&run).copied() {
                    if let Some(thread) = self.threads.get_mut(id) {
                        thread.beyond.put_off(run, now + UNREADABLE_PAUSE);
                    }
                    self.touch(id);
                }
            }
        }
        self.turn(now);
    }

    /// Batches could not go into a run: all of it, or those behind others.
    fn take_back(&mut self, run: RunId, batches: Vec<QueuedBatch>, now: Timestamp) {
        let owner = self.window.owners.get(&run).copied();
        let thread = owner.and_then(|id| Some((id, self.threads.get_mut(id)?)));
        let rest = thread.and_then(|(id, thread)| Some((id, thread.beyond.take_back(run, &batches)?)));
        match rest {
            Some((id, pending)) => {
                self.window.beyond = self.window.beyond.saturating_sub(batches.len());
                self.put_back(id, batches, pending, now);
            }
            None => {
                // It may be wanted again already.
                let reads =
                    |order: &SpillOrder| matches!(order, SpillOrder::Read { run: wanted, .. } if *wanted == run);
                self.window.orders.retain(|order| !reads(order));
                self.bring_in(run, batches, now);
            }
        }
    }

    fn bring_in(&mut self, run_id: RunId, batches: Vec<QueuedBatch>, now: Timestamp) {
        let Some(id) = self.window.owners.remove(&run_id) else { return };
        let Some(run) = self.threads.get_mut(id).and_then(|thread| thread.beyond.remove(run_id)) else { return };
        self.window.beyond = self.window.beyond.saturating_sub(run.batches());
        self.put_back(id, batches, run.pending, now);
    }

    fn put_back(&mut self, id: ThreadId, batches: Vec<QueuedBatch>, pending: Vec<Pending>, now: Timestamp) {
        let ids: Vec<BatchId> = batches.iter().map(|batch| batch.id).collect();
        for batch in batches {
            self.insert_batch(id, batch, now);
        }
        for pending in pending {
            self.catch_up_on(id, &ids, &pending, now);
        }
        self.touch(id);
    }

    /// Asks for a run of the thread, if it needs one.
    pub(crate) fn fetch(&mut self, id: ThreadId, now: Timestamp) {
        let (running, paused) = (self.may_run(id, now), self.paused.is_some());
        let (kept, room) = (self.window.kept(), self.window.max.saturating_sub(self.resident()));
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.beyond.is_empty() || thread.beyond.reading.is_some() || paused || !thread.sweeps.is_empty() {
            return;
        }
        // What is due is tried once more however old it is.
        let waits = |run: &RunId| thread.beyond.runs.get(run).is_some_and(|run| thread.due_at(run.due) > now);
        let expired = || thread.beyond.expiry.first().filter(|(at, run)| *at <= now && thread.wakes() && waits(run));
        // What a sender was promised does not wait for a turn.
        let promised = || thread.beyond.promises.first().filter(|(at, _)| *at <= now);
        let due = || {
            let (_, _, run) = thread.beyond.due.first().filter(|(at, ..)| running && *at <= now)?;
            let known = thread.beyond.runs.get(run)?;
            // Whose turn is before that of the next one in memory is wanted as soon as there is room.
            let next = thread.flows.next().and_then(|id| Some((thread.batches.get(&id)?.wake, id)));
            let wanted = thread.flows.len() < kept || next.is_none_or(|next| (known.due, known.ids.0) < next);
            (thread.flows.is_empty() || (wanted && known.batches() <= room)).then_some(*run)
        };
        let wanted = thread.beyond.wanted.first().copied();
        let in_time = || expired().or_else(promised).map(|(_, run)| *run);
        let Some(run) = wanted.or_else(in_time).or_else(due) else { return };
        thread.beyond.reading = Some(run);
        let thread = thread.key.clone();
        self.window.orders.push_back(SpillOrder::Read { run, thread });
    }

    /// Notes how many batches of the thread are in memory.
    pub(crate) fn note_size(&mut self, id: ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let size = thread.batches.len().checked_ilog2();
        if thread.size == size {
            return;
        }
        if let Some(before) = std::mem::replace(&mut thread.size, size) {
            self.window.sizes.remove(&(before, id));
        }
        self.window.sizes.extend(size.map(|size| (size, id)));
    }

    /// The thread is gone.
    pub(crate) fn forget_size(&mut self, id: ThreadId, thread: &Thread) {
        if let Some(size) = thread.size {
            self.window.sizes.remove(&(size, id));
        }
    }

    /// Sends batches beyond the window, as long as there are too many in it. Says whether it sent any.
    pub(crate) fn relieve(&mut self, now: Timestamp) -> bool {
        if self.resident() <= self.window.max || now < self.window.refused_until {
            return false;
        }
        let largest = self.window.sizes.iter().rev().take(VICTIMS_MAX).map(|(_, id)| *id).collect::<Vec<_>>();
        largest.into_iter().any(|id| self.spill(id))
    }

    /// Sends the batches of the thread whose turn is last beyond the window; says whether there were any.
    fn spill(&mut self, id: ThreadId) -> bool {
        let (run_max, kept, fill) = (self.window.run_max(), self.window.kept(), self.window.fill());
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.sweeps.is_empty()) else { return false };
        let count = run_max.min(thread.batches.len().saturating_sub(kept));
        if count == 0 {
            return false;
        }
        // The few that are in the middle of a round would forget who has to wait.
        let may_go = |id: &BatchId| thread.batches.get(id).and_then(|batch| batch.round.as_ref()?.due).is_none();
        // What is held has no turn at all.
        let mut hold = Hold::Held;
        let mut ids: Vec<BatchId> = thread.aside.iter().rev().copied().filter(may_go).take(count).collect();
        if ids.is_empty() {
            hold = Hold::Free;
            ids = thread.queue.iter().rev().take(count).map(|(_, batch)| *batch).collect();
            if ids.is_empty() {
                ids = thread.flows.last_of_longest(count.min(thread.flows.len().saturating_sub(kept)));
            }
            ids.retain(may_go);
        }
        let mut batches = Vec::with_capacity(ids.len());
        for batch_id in ids {
            thread.dequeue(batch_id);
            let Some(batch) = thread.batches.remove(&batch_id) else { continue };
            thread.unpromise(batch_id, &batch);
            debug_assert!(batch.place != Place::Carried && batch.hold == hold);
            batches.push(batch.into_queued(batch_id, &thread.key));
        }
        let Some(run) = Run::of(hold, &batches, thread) else { return false };
        self.window.beyond += batches.len();
        let run_id = match thread.beyond.open(hold, batches.len(), fill) {
            Some(run_id) => {
                thread.beyond.extend(run_id, run);
                run_id
            }
            None => {
                let run_id = RunId(self.window.next_run);
                self.window.next_run += 1;
                self.window.owners.insert(run_id, id);
                thread.beyond.add(run_id, run);
                run_id
            }
        };
        self.window.orders.push_back(SpillOrder::Write { run: run_id, batches });
        // Its timer counts from the queue as it was.
        self.touch(id);
        true
    }
}

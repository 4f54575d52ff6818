//! A thread: the queue of batches with the same channel and host.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use zrelay_agent::LeaseId;
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, Pattern};
use zrelay_spool::{BatchId, Diagnostic, ThreadKey, ThreadState};

use crate::ages::Ages;
use crate::batch::{Batch, Hold, Place};
use crate::beyond::Beyond;
use crate::door::DoorKey;
use crate::flows::Flows;
use crate::gain::Gain;
use crate::limit::{ChannelId, Limit, RingId};
use crate::line::{Rank, Standing};
use crate::promises::Promises;
use crate::recent::Recent;
use crate::snapshot::Load;
use crate::sweep::Sweep;

slotmap::new_key_type! {
    /// A thread.
    pub(crate) struct ThreadId;
}

/// The channel whose threads are never carried.
pub(crate) const HOLD_CHANNEL: &str = "hold";

/// A thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) key: ThreadKey,
    pub(crate) clause: Arc<Clause>,
    /// Position of the clause in the configuration.
    pub(crate) clause_index: usize,
    pub(crate) ring: RingId,
    pub(crate) channel: ChannelId,
    /// All batches in memory, by name, which is the order in which their messages came.
    pub(crate) batches: BTreeMap<BatchId, Batch>,
    /// The other ones.
    pub(crate) beyond: Beyond,
    /// The order of magnitude of `batches`, as far as the window knows it.
    pub(crate) size: Option<u32>,
    /// Those that are due.
    pub(crate) flows: Flows,
    /// Those that are neither due nor carried nor held, by the time at which something is to be done with them.
    pub(crate) queue: BTreeSet<(Timestamp, BatchId)>,
    /// Those that an operator holds, as far as they are in memory.
    pub(crate) aside: BTreeSet<BatchId>,
    pub(crate) load: Load,
    pub(crate) ages: Ages,
    pub(crate) recent: Recent,
    pub(crate) in_flight: u32,
    pub(crate) leases: Vec<LeaseId>,
    pub(crate) backoff: Backoff,
    pub(crate) hold: Hold,
    /// An operator holds all threads of this pattern.
    pub(crate) held_by: Option<Arc<Pattern>>,
    /// An agent has reached the host since it last failed.
    pub(crate) proven: bool,
    /// Leases in a row that ended early without a single verdict.
    pub(crate) fruitless: u32,
    /// Messages that its agents sent and that were never answered: each may have arrived, and is sent again.
    pub(crate) at_risk: u64,
    /// Agents that have shown to be worth it.
    pub(crate) gain: Gain,
    pub(crate) line: Option<(Limit, Standing)>,
    /// What its last slice had more than its share.
    pub(crate) deficit: i64,
    pub(crate) promises: Promises,
    /// The door at which it waits, and its turn there.
    pub(crate) door: Option<(DoorKey, u64)>,
    pub(crate) timer: Option<Timestamp>,
    pub(crate) sweeps: VecDeque<Sweep>,
    pub(crate) dirty: bool,
    /// Since when it has been empty and may be forgotten.
    pub(crate) empty: Option<Timestamp>,
}

/// What is remembered of failures of the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    pub(crate) failures: u32,
    pub(crate) due: Timestamp,
    pub(crate) last: Option<Arc<Diagnostic>>,
    /// Counts the back-offs, so that each batch is reported once in each.
    pub(crate) epoch: u32,
}

/// What [`Thread::wake_first`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Woken {
    /// No batch's time has come.
    Nothing,
    /// A batch is due now.
    Due,
    /// This batch is to expire; it stays where it is.
    Expired(BatchId),
}

impl Thread {
    /// Whether the host failed and is to be left alone for now.
    pub(crate) fn backs_off(&self, now: Timestamp) -> bool {
        self.backoff.failures > 0 && self.backoff.due > now
    }

    /// How urgent it is that it gets an agent.
    pub(crate) fn urgency(&self) -> i8 {
        self.flows.urgency().unwrap_or_default().saturating_add(self.clause.priority)
    }

    /// How it stands in line.
    pub(crate) fn rank(&self) -> Rank {
        match (self.backoff.failures, self.proven) {
            (0, true) => Rank::Proven,
            (0, false) => Rank::New,
            _ => Rank::Failed,
        }
    }

    pub(crate) fn is_hold_channel(&self) -> bool {
        &*self.key.channel == HOLD_CHANNEL
    }

    pub(crate) fn is_held(&self) -> bool {
        self.hold.is_held() || self.held_by.is_some() || self.is_hold_channel()
    }

    /// When the batch may go out, as far as it and the host are concerned.
    pub(crate) fn due(&self, batch: &Batch) -> Timestamp {
        self.due_at(batch.due)
    }

    /// When something that is due by itself then may go out as far as the host is concerned.
    pub(crate) fn due_at(&self, due: Timestamp) -> Timestamp {
        if self.backoff.failures > 0 { due.max(self.backoff.due) } else { due }
    }

    /// Whether there are any batches, in memory or not.
    pub(crate) fn has_batches(&self) -> bool {
        !(self.batches.is_empty() && self.beyond.is_empty())
    }

    /// When a message that came in then comes to its expiry.
    pub(crate) fn expires(&self, received: Timestamp) -> Timestamp {
        received + self.clause.expiry
    }

    /// When something is to be done next with a batch that is not due, in memory or not.
    pub(crate) fn next_wake(&self) -> Option<Timestamp> {
        self.queue.first().map(|(wake, _)| *wake).into_iter().chain(self.next_beyond()).min()
    }

    /// When something is to be done next with a batch beyond the window, if ever. In the past when it waits for its turn.
    pub(crate) fn next_beyond(&self) -> Option<Timestamp> {
        let (due, expires) = self.beyond.times()?;
        Some(self.due_at(due).min(expires)).filter(|at| *at != Timestamp::NEVER)
    }

    /// Whether something is due.
    pub(crate) fn has_due(&self) -> bool {
        !self.flows.is_empty()
    }

    /// Whether something is due, or may be on disk.
    pub(crate) fn has_work(&self) -> bool {
        self.has_due() || self.beyond.has_work()
    }

    /// Takes the first batch out of the queue whose time has come: it is due now, or it has come to its expiry before it
    /// came to its next attempt, and is returned.
    pub(crate) fn wake_first(&mut self, now: Timestamp) -> Woken {
        let Some((_, id)) = self.queue.first().filter(|(wake, _)| *wake <= now).copied() else { return Woken::Nothing };
        let Some(batch) = self.batches.get(&id) else { return Woken::Nothing };
        if self.due(batch) > now && batch.received + self.clause.expiry <= now {
            return Woken::Expired(id);
        }
        self.dequeue(id);
        self.enqueue(id, now);
        Woken::Due
    }

    /// Puts a batch that is known but nowhere among the due ones, into the queue, or aside.
    pub(crate) fn enqueue(&mut self, id: BatchId, now: Timestamp) {
        let failing = self.backoff.failures > 0;
        let Some(batch) = self.batches.get_mut(&id) else { return };
        if batch.hold.is_held() {
            batch.place = Place::Aside;
            self.aside.insert(id);
            return;
        }
        let due = if failing { batch.due.max(self.backoff.due) } else { batch.due };
        if due <= now {
            batch.place = Place::Due;
            batch.wake = due;
            self.flows.insert(batch.priority, batch.flow, due, id);
            return;
        }
        batch.place = Place::Queued;
        batch.wake = due.min(batch.received + self.clause.expiry);
        self.queue.insert((batch.wake, id));
    }

    /// Takes a batch from where it waits; it stays known.
    pub(crate) fn dequeue(&mut self, id: BatchId) {
        let Some(batch) = self.batches.get(&id) else { return };
        match batch.place {
            Place::Queued => {
                self.queue.remove(&(batch.wake, id));
            }
            Place::Due => self.flows.remove(batch.priority, batch.flow, batch.wake, id),
            Place::Aside => {
                self.aside.remove(&id);
            }
            Place::Carried => {}
        }
    }

    /// Recipients of a waiting batch have gone: if no others have their turn before the next attempt, it waits for that.
    pub(crate) fn end_round(&mut self, id: BatchId, now: Timestamp) {
        if self.batches.get(&id).is_none_or(|batch| batch.round.is_none()) {
            return;
        }
        self.dequeue(id);
        self.batches.get_mut(&id).map(Batch::end_round);
        self.enqueue(id, now);
    }

    /// For the spool.
    pub(crate) fn state(&self) -> ThreadState {
        ThreadState {
            key: self.key.clone(),
            failures: self.backoff.failures,
            due: self.backoff.due,
            held: self.hold.is_held(),
            last: self.backoff.last.clone(),
        }
    }

    /// Nothing but its memory is left.
    pub(crate) fn is_forgettable(&self, now: Timestamp) -> bool {
        !self.has_batches()
            && self.leases.is_empty()
            && self.sweeps.is_empty()
            && !self.hold.is_held()
            && !self.backs_off(now)
    }
}

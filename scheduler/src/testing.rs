//! What must always hold of a scheduler between two inputs, for its own tests and for the simulation of the whole hub.

use std::collections::{BTreeSet, HashMap};

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, ThreadKey};

use crate::batch::{Batch, Place};
use crate::door::Passage;
use crate::lease::{Lease, LeaseState, Mark};
use crate::limit::{Level, Limit, RingId};
use crate::line::Rank;
use crate::scheduler::Scheduler;
use crate::snapshot::{Load, State};
use crate::thread::{Thread, ThreadId};

impl Scheduler {
    /// Goes through everything: no limit is exceeded, no thread waits that could run, no agent with credit is left without
    /// work, and the books balance. Returns the recipients that have no final outcome.
    ///
    /// # Panics
    /// When it is not so.
    pub fn audit(&self, now: Timestamp) -> usize {
        let mut of_rings: HashMap<RingId, OfRing<'_>> = HashMap::new();
        for lease in self.leases.values() {
            of_rings.entry(lease.ring).or_default().leases.push(lease);
        }
        for (id, thread) in &self.threads {
            let of_ring = of_rings.entry(thread.ring).or_default();
            of_ring.threads += 1;
            of_ring.in_line.extend(thread.line.map(|_| id));
        }
        check_level(&self.all, &self.leases.values().collect::<Vec<_>>());
        for (id, ring) in &self.rings {
            let OfRing { leases, threads, in_line } = of_rings.remove(&id).unwrap_or_default();
            check_level(&ring.level, &leases);
            assert_eq!(threads, ring.threads);
            assert_eq!(leases.iter().filter(|lease| lease.works).count(), ring.working as usize);
            assert_eq!(ring.level.window, ring.pace.window());
            assert_eq!(in_line, ring.waiting);
        }
        assert!(of_rings.is_empty(), "threads or leases of a ring that is gone");
        for (index, channel) in self.channels.iter().enumerate() {
            let leases: Vec<&Lease> = self.leases.values().filter(|lease| lease.channel.0 == index).collect();
            check_level(&channel.level, &leases);
        }
        if let Some((at, lease)) = self.next_mute() {
            assert!(at > now, "lease {lease} is mute and holds a place that others wait for");
        }
        let mut total = Load::default();
        for (id, thread) in &self.threads {
            total.add(thread.load);
            check_books(thread, now);
            self.check_thread(id, thread, now);
        }
        assert_eq!(total, self.all.load);
        total.recipients as usize - self.answered_in_part()
    }

    /// Looks at one thread only, in a time that does not grow with its batches. Returns what the tools say of it.
    ///
    /// # Panics
    /// When it has too many agents, waits although it could run, or has an agent with credit and without work.
    pub fn audit_thread(&self, now: Timestamp, key: &ThreadKey) -> Option<State> {
        let id = *self.names.get(key)?;
        let thread = self.threads.get(id)?;
        self.check_thread(id, thread, now);
        Some(self.state_of(thread, now))
    }

    /// What the tools say of one thread, without the rest of its row.
    pub fn state(&self, now: Timestamp, key: &ThreadKey) -> Option<State> {
        Some(self.state_of(self.threads.get(*self.names.get(key)?)?, now))
    }

    fn check_thread(&self, id: ThreadId, thread: &Thread, now: Timestamp) {
        let key = &thread.key;
        assert!(thread.leases.len() <= thread.clause.thread_agents as usize, "{key}: too many agents");
        let wakes = self.paused.is_none() && thread.wakes();
        assert!(!wakes || thread.queue.first().is_none_or(|(wake, _)| *wake > now), "{key} sleeps on");
        // One that is due in a run that could not be read a moment ago is put off.
        let beyond = thread.beyond.times().is_some_and(|(due, _)| due <= now) && self.may_run(id, now);
        assert!(!beyond || thread.has_due() || self.has_spill_orders(), "{key} waits for batches beyond the window");
        if !self.may_run(id, now) || !thread.has_due() {
            let shut = self.shut(thread, Passage::Mail, now).is_some();
            assert!(thread.line.is_none() || self.paused.is_some() || shut, "{key} stands in line for nothing");
            let waits = thread.door.is_some() || thread.line.is_some() || !thread.leases.is_empty();
            let sleeps = shut && self.is_awake(id, now) && thread.has_due();
            assert!(!sleeps || waits, "{key} waits for a rate, and for nothing that wakes it");
            return;
        }
        for lease in thread.leases.iter().map(|lease| &self.leases[lease]) {
            assert!(!lease.takes(), "{key}: an agent with credit is left without work");
        }
        let too_soon = self.shut(thread, Passage::Connection, now).is_some();
        if thread.leases.is_empty() && !(too_soon && thread.door.is_some()) {
            let Some((limit, _)) = thread.line else { panic!("{key} waits although it could run") };
            let level = match limit {
                Limit::Ring => &self.rings[thread.ring].level,
                Limit::Channel => &self.channels[thread.channel.0].level,
                Limit::Agents => &self.all,
            };
            assert!(level.is_full(), "{key} waits for a limit that does not hold it");
            assert!(!level.is_contended() || level.idle.is_empty(), "an idle agent keeps a place that {key} needs");
        }
    }

    /// Recipients that have their outcome although their batch is still under way: they are counted in the load until the
    /// batch is back.
    fn answered_in_part(&self) -> usize {
        let marks = |lease: &Lease| {
            let marks = lease.carried.values().flat_map(|carried| &carried.marks);
            marks.filter(|mark| **mark == Mark::Final).count()
        };
        self.leases.values().map(marks).sum()
    }
}

fn check_books(thread: &Thread, now: Timestamp) {
    let mut load = thread.beyond.load();
    thread.batches.values().for_each(|batch| load.add(Load::of(&batch.recipients, batch.size)));
    assert_eq!(load, thread.load);
    assert_eq!(load.recipients, thread.ages.sum());
    let of = |place| thread.batches.values().filter(|batch| batch.place == place).count();
    assert_eq!(of(Place::Carried), thread.in_flight as usize);
    assert_eq!(of(Place::Queued), thread.queue.len());
    assert_eq!(of(Place::Due), thread.flows.len());
    assert_eq!(of(Place::Aside), thread.aside.len());
    let due = |(_, batch): &(&BatchId, &Batch)| batch.place == Place::Due;
    assert!(thread.batches.iter().filter(due).all(|(_, batch)| batch.due <= now), "not due");
}

/// What should be counted at a ring.
#[derive(Default)]
struct OfRing<'a> {
    leases: Vec<&'a Lease>,
    threads: u32,
    in_line: BTreeSet<ThreadId>,
}

fn check_level(level: &Level, leases: &[&Lease]) {
    assert!(level.agents <= level.max, "a limit is exceeded");
    assert_eq!(level.agents as usize, leases.len());
    assert_eq!(level.closing as usize, leases.iter().filter(|lease| lease.is_closing()).count());
    let idle = leases.iter().filter(|lease| matches!(lease.state, LeaseState::Idle(_))).count();
    assert_eq!(level.idle.len(), idle);
    for rank in Rank::ALL {
        let starting = leases.iter().filter(|lease| lease.rank == rank && lease.state == LeaseState::Starting);
        assert_eq!(level.starting.of(rank).len(), starting.count());
    }
}

//! The state machine: what comes in, what goes out, and one turn between the two.

mod registry;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use slotmap::SlotMap;
use zrelay_agent::{LeaseId, Order, Report};
use zrelay_clock::Timestamp;
use zrelay_config::WarmUp;
use zrelay_sites::Sites;
use zrelay_spool::{Outcome, Queue, QueuedBatch, Request, ThreadState};

use crate::batch::{Batch, Hold};
use crate::beyond::Window;
use crate::clause::{Clauses, Settings};
use crate::door::{Gates, Passage};
use crate::holds::Holds;
use crate::lease::Lease;
use crate::limit::{Channel, ChannelId, Level, Ring, RingId, RingKey};
use crate::names::Names;
use crate::retry::Rng;
use crate::snapshot::{Load, Tally};
use crate::thread::{Thread, ThreadId};

/// How long an empty thread is remembered with what was learned of it (its site), unless there are too many.
pub const MEMORY: Duration = Duration::from_secs(600);
/// Empty threads that are remembered at most.
pub const MEMORY_THREADS_MAX: usize = 10_000;
/// Outcomes in one record at most.
pub const OUTCOMES_MAX: usize = 1024;

/// The scheduler: a state machine without input or output of its own.
///
/// - `handle_*`: what arrives from the spool, from the agents and from the clock. Each call ends with the house in
///   order: every thread that can run has an agent, every agent with credit has work.
/// - mutators: what an operator wants ([`Scheduler::operate`], [`Scheduler::drain`]).
/// - getters: snapshots for the tools.
/// - `poll_*`: what the driver has to do now, in any order: hand out [`poll_order`](Self::poll_order)s, record
///   [`poll_record`](Self::poll_record)s, do what [`poll_spill`](Self::poll_spill) says, and call [`handle_timeout`](Self::handle_timeout) at
///   [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) clauses: Clauses,
    pub(crate) holds: Holds,
    pub(crate) rng: Rng,
    pub(crate) threads: SlotMap<ThreadId, Thread>,
    pub(crate) names: Names,
    pub(crate) rings: SlotMap<RingId, Ring>,
    pub(crate) ring_names: BTreeMap<RingKey, RingId>,
    pub(crate) gates: Gates,
    /// What is remembered of sites and sources beyond their threads.
    pub(crate) sites: Sites,
    pub(crate) channels: Vec<Channel>,
    channel_agents: Vec<(String, u32)>,
    sources: Vec<WarmUp>,
    /// The level of all agents together.
    pub(crate) all: Level,
    pub(crate) leases: HashMap<LeaseId, Lease>,
    next_lease: u64,
    pub(crate) next_seniority: u64,
    timers: BTreeSet<(Timestamp, ThreadId)>,
    dirty: VecDeque<ThreadId>,
    /// Where a place has become free.
    pub(crate) freed: Vec<(RingId, ChannelId)>,
    /// Rings that threads have moved into.
    pub(crate) changed_rings: Vec<RingId>,
    pub(crate) sweeping: VecDeque<ThreadId>,
    empty: BTreeSet<(Timestamp, ThreadId)>,
    /// Why nothing is handed out.
    pub(crate) paused: Option<String>,
    pub(crate) phase: Phase,
    orders: VecDeque<Order>,
    records: VecDeque<Request>,
    outcomes: Vec<Outcome>,
    pub(crate) tally: Tally,
    /// Messages that agents sent and that were never answered.
    pub(crate) at_risk: u64,
    pub(crate) window: Window,
}

/// Whether the hub goes on or down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Serving,
    Draining,
}

impl Scheduler {
    /// A scheduler with an empty queue. Equal seeds and equal inputs give equal outputs.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            gates: Gates::new(&settings.clauses, &settings.sources),
            clauses: Clauses::new(settings.clauses),
            holds: Holds::default(),
            rng: Rng::new(seed),
            threads: SlotMap::with_key(),
            names: Names::default(),
            rings: SlotMap::with_key(),
            ring_names: BTreeMap::new(),
            sites: Sites::new(),
            sources: settings.sources,
            channels: Vec::new(),
            channel_agents: settings.channel_agents,
            all: Level::new(settings.agents),
            leases: HashMap::new(),
            next_lease: 0,
            next_seniority: 0,
            timers: BTreeSet::new(),
            dirty: VecDeque::new(),
            freed: Vec::new(),
            changed_rings: Vec::new(),
            sweeping: VecDeque::new(),
            empty: BTreeSet::new(),
            paused: None,
            phase: Phase::Serving,
            orders: VecDeque::new(),
            records: VecDeque::new(),
            outcomes: Vec::new(),
            tally: Tally::default(),
            at_risk: 0,
            window: Window::default(),
        }
    }

    /// Remembers sites and sources in `sites`, and begins with what is known there.
    #[must_use]
    pub fn remembering(mut self, now: Timestamp, sites: Sites) -> Self {
        self.gates.recall(now, &self.sources, &sites);
        self.sites = sites;
        self
    }

    /// Takes what the spool tells.
    pub fn handle_queue(&mut self, now: Timestamp, item: Queue) {
        match item {
            Queue::Batch(batch) => self.add_batch(now, batch),
            Queue::Thread(state) => self.recall_thread(state),
            Queue::Paused(cause) => self.paused = Some(cause),
            Queue::Resumed => {
                self.paused = None;
                self.touch_all();
            }
        }
        self.turn(now);
    }

    /// Takes what an agent tells. What a lease says that is not known any more is ignored: it crossed with an order.
    pub fn handle_report(&mut self, now: Timestamp, report: Report) {
        match report {
            Report::Hungry { lease, credit } => self.hungry(lease, credit),
            Report::Early { lease, credit } => self.early(lease, credit),
            Report::Pace { lease, pace } => self.paced(lease, pace),
            Report::Settled { lease, batch, verdicts, rest } => self.settled(now, lease, batch, verdicts, rest),
            Report::Returned { lease, batch } => self.returned(now, lease, batch),
            Report::Site { lease, site } => self.located(now, lease, site),
            Report::Link { lease, link } => {
                if let Some(lease) = self.leases.get_mut(&lease) {
                    lease.link = Some(link);
                }
                return;
            }
            Report::Released { lease, reason, statistics } => {
                self.count_at_risk(lease, statistics.at_risk);
                self.released(now, lease, reason);
            }
        }
        self.turn(now);
    }

    /// Does what has become due. To be called at [`Scheduler::poll_timeout`], or earlier at will.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(&(at, thread)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(state) = self.threads.get_mut(thread) {
                state.timer = None;
            }
            self.touch(thread);
        }
        self.open_doors(now);
        self.sweep_turn(now);
        self.turn(now);
        self.dismiss_mute(now);
        self.forget_empty(now);
    }

    /// Stops: no lease and no batch is given out any more, all agents are told to finish and close.
    pub fn drain(&mut self, now: Timestamp) {
        self.phase = Phase::Draining;
        let leases: Vec<LeaseId> = self.leases.keys().copied().collect();
        for lease in leases {
            self.close(lease);
        }
        self.touch_all();
        self.turn(now);
    }

    /// Whether a drain has come to its end: no agent has anything under way.
    pub fn is_drained(&self) -> bool {
        self.phase == Phase::Draining && self.leases.is_empty()
    }

    /// The next order to hand to an agent loop. Everything about one lease is in order; the loop of a
    /// [`Order::Lease`] with `takes_over` is the loop of the lease taken over.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// The next request for the spool.
    pub fn poll_record(&mut self) -> Option<Request> {
        if self.records.is_empty() {
            self.seal_outcomes();
        }
        self.records.pop_front()
    }

    /// When [`Scheduler::handle_timeout`] is due; a time in the past means now.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        if !self.sweeping.is_empty() && self.paused.is_none() {
            return Some(Timestamp::ZERO);
        }
        let timer = self.timers.first().map(|(at, _)| *at);
        let forget = self.empty.first().map(|(since, _)| *since + MEMORY);
        let mute = self.next_mute().map(|(at, _)| at);
        [timer, forget, mute, self.gates.next()].into_iter().flatten().min()
    }

    /// Settles everything that the last input has changed.
    pub(crate) fn turn(&mut self, now: Timestamp) {
        loop {
            // Places first go to those that wait for one, then to who else wants one.
            if let Some((ring, channel)) = self.freed.pop() {
                self.serve_lines(ring, channel, now);
            } else if let Some(thread) = self.dirty.pop_front() {
                self.pump(thread, now);
            } else if !self.let_in(now) && !self.balance(now) && !self.relieve(now) {
                break;
            }
        }
    }

    fn pump(&mut self, id: ThreadId, now: Timestamp) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.dirty = false;
        self.keep_promises(id, now);
        self.wake(id, now);
        if self.may_run(id, now) {
            self.feed(id, now);
        }
        self.fetch(id, now);
        let waits = self.threads.get(id).filter(|thread| thread.has_work() && self.is_awake(id, now));
        if let Some(shut) = waits.and_then(|thread| self.shut(thread, Passage::Mail, now)) {
            self.wait_at(id, shut);
        } else if self.wants_agent(id, now) {
            self.start(id, now);
        } else {
            self.leave_line(id);
            self.leave_door(id);
        }
        self.rest(id, now);
        self.arm(id, now);
        self.note_emptiness(id, now);
        self.note_size(id);
    }

    /// Whether the thread's due batches may go out, limits on agents aside.
    pub(crate) fn may_run(&self, id: ThreadId, now: Timestamp) -> bool {
        let shut = self.threads.get(id).and_then(|thread| self.shut(thread, Passage::Mail, now));
        self.is_awake(id, now) && shut.is_none()
    }

    /// Whether nothing but limits keeps the thread's due batches from going out.
    pub(crate) fn is_awake(&self, id: ThreadId, now: Timestamp) -> bool {
        let Some(thread) = self.threads.get(id) else { return false };
        self.paused.is_none()
            && self.phase == Phase::Serving
            && !thread.is_held()
            && thread.sweeps.is_empty()
            && !thread.backs_off(now)
    }

    /// Marks a thread for the end of this turn.
    pub(crate) fn touch(&mut self, id: ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if !thread.dirty {
            thread.dirty = true;
            self.dirty.push_back(id);
        }
    }

    fn touch_all(&mut self) {
        let all: Vec<ThreadId> = self.threads.keys().collect();
        for id in all {
            self.touch(id);
        }
    }

    fn arm(&mut self, id: ThreadId, now: Timestamp) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        // One in the past is there if the clock is not heeded now, or has brought more than one turn may wake.
        let heeded = thread.wakes();
        let wake = thread.queue.first().map(|(wake, _)| *wake).filter(|wake| heeded || *wake > now);
        let wake = wake.into_iter().chain(thread.next_beyond().filter(|wake| *wake > now)).min();
        let next = if thread.is_held() || self.paused.is_some() {
            None
        } else if thread.backs_off(now) {
            Some(wake.map_or(thread.backoff.due, |wake| wake.min(thread.backoff.due)))
        } else {
            wake
        };
        let promise = thread.next_promise(now).filter(|at| thread.sweeps.is_empty() || *at > now);
        let promise = promise.filter(|_| self.paused.is_none());
        let next = [next, promise].into_iter().flatten().min();
        if thread.timer == next {
            return;
        }
        if let Some(old) = thread.timer.take() {
            self.timers.remove(&(old, id));
        }
        thread.timer = next;
        if let Some(next) = next {
            self.timers.insert((next, id));
        }
    }

    fn add_batch(&mut self, now: Timestamp, mut queued: QueuedBatch) {
        if queued.recipients.is_empty() {
            return;
        }
        self.catch(&mut queued);
        let id = self.thread_named(&queued.thread);
        let (received, load) = (queued.received, Load::of(&queued.recipients, queued.size));
        if self.insert_batch(id, queued, now) {
            self.count_in(id, received, load);
            self.touch(id);
        }
    }

    /// Takes a batch into memory, without counting it. Says whether it was not there.
    pub(crate) fn insert_batch(&mut self, id: ThreadId, queued: QueuedBatch, now: Timestamp) -> bool {
        let Some(thread) = self.threads.get_mut(id) else { return false };
        if thread.batches.contains_key(&queued.id) {
            log::warn!("batch {} is in the queue of {} already", queued.id, queued.thread);
            return false;
        }
        // Behind a restart in the middle of a back-off, what has been tried before has been reported before.
        let known = thread.backoff.failures > 0 && queued.attempts > 0;
        let reported = if known { thread.backoff.epoch } else { 0 };
        let batch_id = queued.id;
        thread.batches.insert(batch_id, Batch::of(queued, reported));
        thread.enqueue(batch_id, now);
        thread.promise(batch_id);
        true
    }

    fn recall_thread(&mut self, state: ThreadState) {
        if self.recall_hold(&state) {
            return;
        }
        let id = self.thread_named(&state.key);
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.hold = Hold::from_flag(state.held);
        thread.backoff.failures = state.failures;
        thread.backoff.due = state.due;
        thread.backoff.last = state.last;
        self.touch(id);
    }

    /// Counts what came in at this time as queued.
    pub(crate) fn count_in(&mut self, id: ThreadId, received: Timestamp, load: Load) {
        if let Some(thread) = self.threads.get_mut(id) {
            thread.ages.add(received, load.recipients);
        }
        self.account(id, |total| total.add(load));
    }

    /// Counts what came in at this time as gone.
    pub(crate) fn count_out(&mut self, id: ThreadId, received: Timestamp, load: Load) {
        if let Some(thread) = self.threads.get_mut(id) {
            thread.ages.remove(received, load.recipients);
        }
        self.account(id, |total| total.remove(load));
    }

    /// Changes what is counted of a thread, its ring, its channel and everything, so that no listing has to scan.
    fn account(&mut self, id: ThreadId, change: impl Fn(&mut Load)) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        change(&mut thread.load);
        let (ring, channel) = (thread.ring, thread.channel);
        self.each_level(ring, channel, |level| change(&mut level.load));
    }

    /// Does something at the three levels above a thread.
    pub(crate) fn each_level(&mut self, ring: RingId, channel: ChannelId, change: impl Fn(&mut Level)) {
        if let Some(ring) = self.rings.get_mut(ring) {
            change(&mut ring.level);
        }
        if let Some(channel) = self.channels.get_mut(channel.0) {
            change(&mut channel.level);
        }
        change(&mut self.all);
    }

    pub(crate) fn new_lease_id(&mut self) -> LeaseId {
        self.next_lease += 1;
        LeaseId(self.next_lease)
    }

    pub(crate) fn order(&mut self, order: Order) {
        self.orders.push_back(order);
    }

    /// Queues a request for the spool, behind all outcomes so far.
    pub(crate) fn record(&mut self, request: Request) {
        self.seal_outcomes();
        self.records.push_back(request);
    }

    pub(crate) fn record_outcome(&mut self, thread: ThreadId, mut outcome: Outcome) {
        outcome.channel = self.threads.get(thread).map(|thread| thread.key.channel.clone());
        self.tally.count(outcome.disposition, outcome.recipients.len());
        self.outcomes.push(outcome);
        if self.outcomes.len() >= OUTCOMES_MAX {
            self.seal_outcomes();
        }
    }

    fn seal_outcomes(&mut self) {
        if !self.outcomes.is_empty() {
            self.records.push_back(Request::Outcomes(std::mem::take(&mut self.outcomes)));
        }
    }
}

//! Taking views: bounded copies, nothing is scanned that grows with the queue.

use std::ops::Bound;

use zrelay_agent::LeaseId;
use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, Flow, MessageId, ThreadKey};

use super::view::{
    AgeView, BatchMark, BatchPlace, BatchView, ChannelView, FLOWS_MAX, FlowView, LeaseView, RingMark, RingView, State,
    ThreadView, ThreadZoom, TotalsView, Used,
};
use crate::batch::{Batch, Place};
use crate::door::{Passage, Shut, Why};
use crate::lease::{Lease, LeaseState};
use crate::limit::{Level, Limit, Ring, RingKey};
use crate::scheduler::{Phase, Scheduler};
use crate::thread::{Thread, ThreadId};

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Scheduler {
    /// What the agents of a thread carry.
    pub(crate) fn under_way(&self, thread: &Thread) -> super::Load {
        let mut load = super::Load::default();
        for lease in thread.leases.iter().filter_map(|lease| self.leases.get(lease)) {
            for batch in lease.carried.keys().filter_map(|id| thread.batches.get(id)) {
                load.add(super::Load::of(&batch.recipients, batch.size));
            }
        }
        load
    }

    /// The sums of everything.
    pub fn totals(&self) -> TotalsView {
        TotalsView {
            threads: u64::try_from(self.threads.len()).unwrap_or(u64::MAX),
            load: self.all.load,
            agents: self.all.agents,
            agents_max: self.all.max,
            idle: count(self.all.idle.len()),
            paused: self.paused.clone(),
            draining: self.phase == Phase::Draining,
            tally: self.tally,
            at_risk: self.at_risk,
            holds: self.holds().iter().map(|hold| hold.terms.to_string()).collect(),
        }
    }

    /// All channels that were ever used.
    pub fn channels(&self) -> Vec<ChannelView> {
        let view = |channel: &crate::limit::Channel| ChannelView {
            channel: channel.name.clone(),
            threads: channel.threads,
            load: channel.level.load,
            agents: channel.level.agents,
            agents_max: channel.level.max.min(self.all.max),
            idle: count(channel.level.idle.len()),
            waiting: waiting(&channel.level),
        };
        self.channels.iter().map(view).collect()
    }

    /// The next rings behind `after`, and where to go on, if there are more.
    pub fn rings(&self, after: Option<&RingMark>, limit: usize) -> (Vec<RingView>, Option<RingMark>) {
        let from = after.map_or(Bound::Unbounded, |RingMark(key)| Bound::Excluded(key));
        let mut last = None;
        let rings = self.ring_names.range::<RingKey, _>((from, Bound::Unbounded)).take(limit);
        let views: Vec<RingView> = rings
            .inspect(|(key, _)| last = Some(*key))
            .filter_map(|(_, id)| self.rings.get(*id))
            .map(|ring| self.ring_view(ring))
            .collect();
        let next = last.filter(|_| views.len() == limit).map(|key| RingMark(key.clone()));
        (views, next)
    }

    fn ring_view(&self, ring: &Ring) -> RingView {
        RingView {
            channel: self.channels.get(ring.key.channel.0).map(|channel| channel.name.clone()).unwrap_or_default(),
            site: ring.key.place.name().clone(),
            clause: ring.clause.clone(),
            threads: ring.threads,
            load: ring.level.load,
            agents: ring.level.agents,
            idle: count(ring.level.idle.len()),
            waiting: waiting(&ring.level),
        }
    }

    /// The next threads in the order of their names, behind `after`.
    pub fn threads(&self, now: Timestamp, after: Option<&ThreadKey>, limit: usize) -> Vec<ThreadView> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let views = self.names.range::<ThreadKey, _>((from, Bound::Unbounded)).take(limit);
        views.filter_map(|(_, id)| self.thread_view(*id, now)).collect()
    }

    /// How long the recipients of the next threads behind `after` have been in the queue. Empty threads are passed over,
    /// and count against the limit.
    pub fn ages(&self, now: Timestamp, after: Option<&ThreadKey>, limit: usize) -> (Vec<AgeView>, Option<ThreadKey>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut views = Vec::new();
        let (mut visited, mut last) = (0, None);
        for (key, id) in self.names.range::<ThreadKey, _>((from, Bound::Unbounded)).take(limit) {
            visited += 1;
            last = Some(key);
            let thread = self.threads.get(*id).filter(|thread| thread.load.recipients > 0);
            views.extend(thread.map(|thread| AgeView { key: key.clone(), ages: thread.ages.table(now) }));
        }
        (views, last.filter(|_| visited == limit).cloned())
    }

    /// One thread with everything about it.
    pub fn thread(&self, now: Timestamp, key: &ThreadKey) -> Option<ThreadZoom> {
        let id = self.find_thread(key)?;
        let thread = self.threads.get(id)?;
        let lease = |id: &LeaseId| self.leases.get(id).map(|lease| lease_view(*id, lease));
        Some(ThreadZoom {
            thread: self.thread_view(id, now)?,
            clause: thread.clause.clone(),
            ring: self.ring_view(self.rings.get(thread.ring)?),
            leases: thread.leases.iter().filter_map(lease).collect(),
            flows: thread.flows.turns().take(FLOWS_MAX).filter_map(|turn| flow_view(thread, turn)).collect(),
            replies: thread.recent.list(),
        })
    }

    fn thread_view(&self, id: ThreadId, now: Timestamp) -> Option<ThreadView> {
        let thread = self.threads.get(id)?;
        let leases = || thread.leases.iter().filter_map(|lease| self.leases.get(lease));
        let first = thread.batches.first_key_value().map(|(_, batch)| batch);
        let wake = if thread.has_due() { Some(now) } else { thread.next_wake() };
        let next = if thread.is_held() { None } else { wake };
        let suspended = self.rings.get(thread.ring).and_then(|ring| ring.pace.suspended(now));
        let suspension = suspended.map(|(_, diagnostic)| diagnostic.clone());
        Some(ThreadView {
            key: thread.key.clone(),
            state: self.state_of(thread, now),
            load: thread.load,
            oldest: first.map(|batch| batch.received).into_iter().chain(thread.beyond.oldest()).min(),
            flows: count(thread.flows.count()),
            held_by: thread.held_by.clone(),
            held: u64::try_from(thread.aside.len()).unwrap_or(u64::MAX).saturating_add(thread.beyond.held()),
            agents: count(thread.leases.len()),
            agents_max: thread.clause.thread_agents,
            credit: leases().fold(0, |sum: u32, lease| sum.saturating_add(lease.window.batches)),
            in_flight: thread.in_flight,
            next_attempt: next.map(|wake| if thread.backs_off(now) { wake.max(thread.backoff.due) } else { wake }),
            failures: thread.backoff.failures,
            at_risk: thread.at_risk,
            last: suspension
                .or_else(|| thread.backoff.last.clone())
                .or_else(|| first.and_then(|batch| batch.last.clone())),
            link: leases().find_map(|lease| lease.link.clone()),
        })
    }

    pub(crate) fn state_of(&self, thread: &Thread, now: Timestamp) -> State {
        if thread.hold.is_held() || (thread.is_held() && thread.has_batches()) {
            return State::Held;
        }
        if thread.in_flight > 0 {
            return State::Running;
        }
        if !thread.has_batches() {
            return State::Idle;
        }
        if self.paused.is_some() {
            return State::Paused;
        }
        if self.phase == Phase::Draining {
            return State::Draining;
        }
        if !thread.sweeps.is_empty() {
            return State::Sweeping;
        }
        if thread.backs_off(now) {
            return State::Retry(thread.backoff.due);
        }
        let due_beyond = || thread.beyond.times().is_some_and(|(due, _)| thread.due_at(due) <= now);
        if !thread.has_due() && !due_beyond() {
            return thread.next_wake().map_or(State::Held, State::Waiting);
        }
        let pace = self.rings.get(thread.ring).map(|ring| &ring.pace);
        let connection = thread.leases.is_empty().then(|| self.shut(thread, Passage::Connection, now)).flatten();
        match self.shut(thread, Passage::Mail, now).or(connection) {
            Some(Shut { until, why: Why::Suspended, .. }) => return State::Suspended(until),
            Some(Shut { until, why: Why::UsedUp(unit, allowance), key }) => {
                return State::Rate(until, Used { unit, allowance, place: key.place.name() });
            }
            None => {}
        }
        match (thread.line, pace) {
            (Some((Limit::Ring, _)), Some(pace)) if pace.is_probed() => return State::Probe,
            (Some((Limit::Ring, _)), Some(pace)) if pace.is_slow() => return State::SlowStart,
            (Some((limit, _)), _) => return State::of_limit(limit),
            (None, _) => {}
        }
        let works = |lease: &LeaseId| self.leases.get(lease).is_some_and(|lease| !lease.is_closing());
        if thread.leases.iter().any(works) { State::Running } else { State::ThreadAgents }
    }

    /// The next batches behind `after`, of one thread or of all, in the order of threads and messages, and where to go on,
    /// if there may be more. A thread that is passed over counts against the limit as a batch does.
    pub fn batches(
        &self,
        now: Timestamp,
        thread: Option<&ThreadKey>,
        after: Option<&BatchMark>,
        limit: usize,
    ) -> (Vec<BatchView>, Option<BatchMark>) {
        let mut views = Vec::new();
        if let Some(key) = thread {
            let behind = after.and_then(|mark| mark.batch);
            let thread = self.find_thread(key).and_then(|id| self.threads.get(id));
            let next = thread.and_then(|thread| add_batches(&mut views, now, thread, behind, limit));
            return (views, next);
        }
        let from = after.map_or(Bound::Unbounded, |mark| match mark.batch {
            Some(_) => Bound::Included(&mark.thread),
            None => Bound::Excluded(&mark.thread),
        });
        for (passed, (key, id)) in (1..).zip(self.names.range::<ThreadKey, _>((from, Bound::Unbounded))) {
            let behind = after.filter(|mark| mark.thread == *key).and_then(|mark| mark.batch);
            let room = limit.saturating_sub(views.len() + passed - 1);
            let thread = self.threads.get(*id);
            let next = thread.and_then(|thread| add_batches(&mut views, now, thread, behind, room));
            if next.is_some() {
                return (views, next);
            }
            if views.len() + passed >= limit {
                return (views, Some(BatchMark { thread: key.clone(), batch: None }));
            }
        }
        (views, None)
    }

    /// Threads among the next `limit` behind `after` that are held by their own names, and the thread to go on behind, if
    /// there are more.
    pub fn held_threads(&self, after: Option<&ThreadKey>, limit: usize) -> (Vec<ThreadKey>, Option<ThreadKey>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut held, mut visited, mut last) = (Vec::new(), 0, None);
        for (key, id) in self.names.range::<ThreadKey, _>((from, Bound::Unbounded)).take(limit) {
            visited += 1;
            last = Some(key);
            let is_held = self.threads.get(*id).is_some_and(|thread| thread.hold.is_held());
            held.extend(is_held.then(|| key.clone()));
        }
        (held, last.filter(|_| visited == limit).cloned())
    }

    /// The batches of one message in the next `limit` threads behind `after`, and the thread to go on behind, if there
    /// are more: there is no index of messages, since few ask and every batch would pay for it.
    pub fn message(
        &self,
        now: Timestamp,
        message: MessageId,
        after: Option<&ThreadKey>,
        limit: usize,
    ) -> (Vec<BatchView>, Option<ThreadKey>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut views = Vec::new();
        let mut last = None;
        let mut visited = 0;
        for (key, id) in self.names.range::<ThreadKey, _>((from, Bound::Unbounded)).take(limit) {
            visited += 1;
            last = Some(key);
            let Some(thread) = self.threads.get(*id) else { continue };
            let batches = thread.batches.range(message.batches());
            views.extend(batches.map(|(id, batch)| batch_view(thread, *id, batch, now)));
        }
        (views, last.filter(|_| visited == limit).cloned())
    }
}

/// Adds so many batches of a thread behind this one; says where to go on when there was no room for more.
fn add_batches(
    views: &mut Vec<BatchView>,
    now: Timestamp,
    thread: &Thread,
    behind: Option<BatchId>,
    room: usize,
) -> Option<BatchMark> {
    let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
    let before = views.len();
    let batches = thread.batches.range((from, Bound::Unbounded)).take(room);
    views.extend(batches.map(|(id, batch)| batch_view(thread, *id, batch, now)));
    let last = views.last().filter(|_| views.len() - before == room)?;
    Some(BatchMark { thread: thread.key.clone(), batch: Some(last.id) })
}

fn waiting(level: &Level) -> u32 {
    count(level.line.len())
}

fn batch_view(thread: &Thread, id: BatchId, batch: &Batch, now: Timestamp) -> BatchView {
    let place = match batch.place {
        Place::Carried => BatchPlace::Carried,
        Place::Aside => BatchPlace::Held,
        Place::Queued | Place::Due if thread.is_held() => BatchPlace::Held,
        Place::Queued | Place::Due => match thread.due(batch) {
            due if due > now => BatchPlace::Waiting(due),
            _ => BatchPlace::Due,
        },
    };
    BatchView {
        id,
        thread: thread.key.clone(),
        recipients: batch.recipients.clone(),
        received: batch.received,
        size: batch.size,
        attempts: batch.attempts,
        flow: batch.flow,
        place,
        run: None,
        last: batch.last.clone(),
    }
}

fn flow_view(thread: &Thread, (flow, due, next): (Flow, usize, BatchId)) -> Option<FlowView> {
    let recipient = *thread.batches.get(&next)?.recipients.first()?;
    Some(FlowView { flow, due: u64::try_from(due).unwrap_or(u64::MAX), next, recipient })
}

fn lease_view(id: LeaseId, lease: &Lease) -> LeaseView {
    let state = match lease.state {
        LeaseState::Starting => "starting",
        LeaseState::Open => "open",
        LeaseState::Yielding => "yielding",
        LeaseState::Idle(_) => "idle",
        LeaseState::Closing => "closing",
    };
    LeaseView {
        id,
        state,
        since: lease.since,
        credit: lease.window.batches,
        in_flight: count(lease.carried.len()),
        link: lease.link.clone(),
    }
}

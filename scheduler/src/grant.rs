//! Giving agents to threads: leases, the lines before the limits, idle connections, and whom to give work.

use zrelay_agent::{LeaseId, Order, Work};
use zrelay_clock::Timestamp;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::door::Passage;
use crate::lease::{Lease, LeaseState, Window};
use crate::limit::{ChannelId, Level, Limit, RingId};
use crate::line::Standing;
use crate::scheduler::Scheduler;
use crate::thread::{Thread, ThreadId};

/// How long a thread may keep an agent busy while others wait for the place it occupies, times the weight of its clause.
pub const SLICE: Duration = Duration::from_secs(30);
/// What a thread may send meanwhile, in [`zrelay_agent::weight`]s of its octets and recipients, times the weight of its
/// clause. More than a second's worth of a line of 100 Mbit/s: what a change of threads costs where it takes a new
/// connection is a few round trips. To a host that is slower than this quantum in a slice, the time counts.
pub const QUANTUM: u64 = 16 << 20;

impl Scheduler {
    /// Whether a batch is due that no agent of the thread can take.
    pub(crate) fn wants_agent(&self, id: ThreadId, now: Timestamp) -> bool {
        let Some(thread) = self.threads.get(id) else { return false };
        let full = |lease: &LeaseId| self.leases.get(lease).is_none_or(Lease::is_full);
        let mute = |lease: &LeaseId| self.leases.get(lease).is_some_and(|lease| lease.mute.is_some());
        // An agent given up as mute is about to end, and the thread to back off.
        thread.has_due() && self.may_run(id, now) && thread.leases.iter().all(full) && !thread.leases.iter().any(mute)
    }

    /// Gives the thread an agent, or a place in the line before the limit that holds it. Threads that have an agent
    /// already do not stand in line for another: they ask again with their next event.
    pub(crate) fn start(&mut self, id: ThreadId, now: Timestamp) {
        let Some(thread) = self.threads.get(id) else { return };
        if thread.leases.is_empty() && self.join_failure(now, id) {
            return;
        }
        let Some(thread) = self.threads.get(id) else { return };
        let allowed = thread.clause.thread_agents.min(thread.gain.allowed());
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        let (ring, channel) = (thread.ring, thread.channel);
        if thread.leases.len() >= allowed {
            self.leave_line(id);
            return;
        }
        if let Some(idle) = self.idle_of_others(ring, id) {
            self.leave_line(id);
            self.take_over(id, idle, now);
            return;
        }
        let is_free = self.blocking(ring, channel).is_none();
        if let Some(shut) = self.threads.get(id).and_then(|thread| self.shut(thread, Passage::Connection, now)) {
            // Who has an agent asks again with its next event.
            if is_free && self.threads.get(id).is_some_and(|thread| thread.leases.is_empty()) {
                self.wait_at(id, shut);
                return;
            }
            if is_free {
                return;
            }
        }
        match self.blocking(ring, channel) {
            None => {
                self.leave_line(id);
                self.grant(id, now);
            }
            Some(_) if self.threads.get(id).is_some_and(|thread| !thread.leases.is_empty()) => {}
            Some(limit) => self.stand_in_line(id, limit),
        }
    }

    fn idle_of_others(&self, ring: RingId, id: ThreadId) -> Option<LeaseId> {
        let idle = &self.rings.get(ring)?.level.idle;
        let other = |lease: &LeaseId| self.leases.get(lease).is_some_and(|lease| lease.thread != id);
        idle.iter().map(|(_, lease)| *lease).find(other)
    }

    /// The innermost limit without a free place.
    fn blocking(&self, ring: RingId, channel: ChannelId) -> Option<Limit> {
        if self.rings.get(ring).is_some_and(|ring| ring.level.is_full()) {
            return Some(Limit::Ring);
        }
        if self.channels.get(channel.0).is_some_and(|channel| channel.level.is_full()) {
            return Some(Limit::Channel);
        }
        self.all.is_full().then_some(Limit::Agents)
    }

    fn new_lease(&mut self, id: ThreadId, takes_over: Option<LeaseId>, now: Timestamp) {
        let lease_id = self.new_lease_id();
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.leases.push(lease_id);
        let rank = thread.rank();
        let lease = Lease {
            thread: id,
            ring: thread.ring,
            channel: thread.channel,
            state: LeaseState::Starting,
            rank,
            window: Window::default(),
            pace: None,
            carried: BTreeMap::new(),
            in_hand: Work::default(),
            since: now,
            allowance: thread.take_allowance(),
            fruitful: false,
            works: false,
            delivered: false,
            counted: false,
            dismissed: false,
            mute: None,
            link: None,
        };
        let (ring, channel) = (thread.ring, thread.channel);
        let (thread, clause) = (thread.key.clone(), thread.clause.clone());
        self.each_level(ring, channel, |level| {
            level.starting.of_mut(rank).insert((now, lease_id));
        });
        self.leases.insert(lease_id, lease);
        self.order(Order::Lease { lease: lease_id, thread, clause, takes_over });
    }

    fn grant(&mut self, id: ThreadId, now: Timestamp) {
        let Some(thread) = self.threads.get(id) else { return };
        let (ring, channel) = (thread.ring, thread.channel);
        self.each_level(ring, channel, |level| level.agents += 1);
        debug_assert!(self.all.agents <= self.all.max);
        self.new_lease(id, None, now);
        let counted = self.charge_connection(id, now);
        let new = self.threads.get(id).and_then(|thread| thread.leases.last()).copied();
        if let Some(lease) = new.and_then(|new| self.leases.get_mut(&new)) {
            lease.counted = counted;
        }
    }

    /// The connection of an idle lease goes to another thread of the ring; no level counts more or less by it.
    fn take_over(&mut self, id: ThreadId, old: LeaseId, now: Timestamp) {
        self.unidle(old);
        let Some(ended) = self.leases.remove(&old) else { return };
        if let Some(owner) = self.threads.get_mut(ended.thread) {
            owner.leases.retain(|lease| *lease != old);
        }
        self.touch(ended.thread);
        self.new_lease(id, Some(old), now);
        // It is the same connection, so what is known of it goes on.
        let heir = self.threads.get(id).and_then(|thread| thread.leases.last()).copied();
        if let Some(lease) = heir.and_then(|heir| self.leases.get_mut(&heir)) {
            lease.link = ended.link;
            lease.works = ended.works;
            lease.delivered = ended.delivered;
            lease.counted = true;
        }
    }

    fn stand_in_line(&mut self, id: ThreadId, limit: Limit) {
        let Some(thread) = self.threads.get(id) else { return };
        let urgency = Reverse(thread.urgency());
        let standing = match thread.line {
            Some((before, standing)) if before == limit && standing.urgency == urgency => return,
            Some((_, standing)) => Standing { urgency, ..standing },
            None => {
                self.next_seniority += 1;
                Standing { rank: thread.rank(), urgency, seniority: self.next_seniority }
            }
        };
        self.leave_line(id);
        self.join_line(id, limit, standing);
        let Some(level) = self.level_above(id, limit) else { return };
        if !level.is_contended() {
            return;
        }
        // An idle connection gives way. None is in the ring itself: that one would have been taken over.
        if let Some(idle) = level.idle.first().map(|(_, lease)| *lease) {
            self.close(idle);
        }
    }

    fn join_line(&mut self, id: ThreadId, limit: Limit, standing: Standing) {
        if let Some(thread) = self.threads.get_mut(id) {
            thread.line = Some((limit, standing));
            if let Some(ring) = self.rings.get_mut(thread.ring) {
                ring.waiting.insert(id);
            }
        }
        if let Some(level) = self.level_above(id, limit) {
            level.line.insert(standing, id);
        }
    }

    /// Takes the thread out of the line it stands in, if any.
    pub(crate) fn leave_line(&mut self, id: ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let Some((limit, standing)) = thread.line.take() else { return };
        if let Some(ring) = self.rings.get_mut(thread.ring) {
            ring.waiting.remove(&id);
        }
        if let Some(level) = self.level_above(id, limit) {
            level.line.remove(standing, id);
        }
    }

    fn level_above(&mut self, id: ThreadId, limit: Limit) -> Option<&mut Level> {
        let thread = self.threads.get(id)?;
        match limit {
            Limit::Ring => self.rings.get_mut(thread.ring).map(|ring| &mut ring.level),
            Limit::Channel => self.channels.get_mut(thread.channel.0).map(|channel| &mut channel.level),
            Limit::Agents => Some(&mut self.all),
        }
    }

    /// A place has become free: it goes to the first in line among those that it can serve. Each
    /// round takes one thread out of its line; it starts, or goes to the line of another limit that is full.
    pub(crate) fn serve_lines(&mut self, ring: RingId, channel: ChannelId, now: Timestamp) {
        loop {
            let of_ring = self.rings.get(ring).and_then(|ring| ring.level.next());
            let of_channel = self.channels.get(channel.0).and_then(|channel| channel.level.next());
            let Some((_, id)) = [of_ring, of_channel, self.all.next()].into_iter().flatten().min() else { break };
            if self.wants_agent(id, now) {
                self.start(id, now);
            } else {
                self.leave_line(id);
                self.touch(id);
            }
        }
        self.drop_unused_ring(ring);
    }

    /// Gives the thread's agents as much of its due batches as they take.
    pub(crate) fn feed(&mut self, id: ThreadId, now: Timestamp) {
        let count = self.threads.get(id).map_or(0, |thread| thread.leases.len());
        for position in 0..count {
            let Some(lease) = self.threads.get(id).and_then(|thread| thread.leases.get(position)).copied() else {
                return;
            };
            self.feed_lease(id, lease, now);
        }
    }

    fn feed_lease(&mut self, id: ThreadId, lease_id: LeaseId, now: Timestamp) {
        while self.leases.get(&lease_id).is_some_and(Lease::takes) {
            if self.threads.get(id).is_some_and(|thread| self.shut(thread, Passage::Mail, now).is_some()) {
                return;
            }
            let Some(batch) = self.threads.get(id).and_then(|thread| thread.flows.next()) else { return };
            if self.is_slice_over(lease_id, now) {
                if let Some(lease) = self.leases.get_mut(&lease_id) {
                    lease.state = LeaseState::Yielding;
                    let overdrawn = lease.allowance.min(0);
                    if let Some(thread) = self.threads.get_mut(id) {
                        thread.deficit = overdrawn;
                    }
                }
                return;
            }
            self.carry(id, lease_id, batch, now);
        }
    }

    fn is_slice_over(&self, lease: LeaseId, now: Timestamp) -> bool {
        let Some(lease) = self.leases.get(&lease) else { return false };
        let weight = self.threads.get(lease.thread).map_or(1, |thread| thread.clause.weight);
        let over = lease.allowance <= 0 || now.since(lease.since) >= SLICE * weight;
        lease.state == LeaseState::Open && over && self.first_in_line(lease).is_some()
    }

    /// Who is next in line for a place that this lease occupies, if more wait than will be served anyway.
    fn first_in_line(&self, lease: &Lease) -> Option<(Standing, ThreadId)> {
        let ring = self.rings.get(lease.ring).map(|ring| &ring.level);
        let channel = self.channels.get(lease.channel.0).map(|channel| &channel.level);
        let levels = [ring, channel, Some(&self.all)];
        levels.into_iter().flatten().filter(|level| level.is_contended()).filter_map(Level::first).min()
    }

    /// Puts to rest those agents of the thread that have nothing to do.
    pub(crate) fn rest(&mut self, id: ThreadId, now: Timestamp) {
        let work = self.may_run(id, now) && self.threads.get(id).is_some_and(Thread::has_due);
        let leases = self.threads.get(id).map(|thread| thread.leases.clone()).unwrap_or_default();
        for lease_id in leases {
            let Some(lease) = self.leases.get_mut(&lease_id) else { continue };
            match lease.state {
                LeaseState::Open if lease.carried.is_empty() && !work => self.idle(lease_id, now),
                LeaseState::Yielding if lease.carried.is_empty() => {
                    self.idle(lease_id, now);
                    self.touch(id);
                }
                _ => {}
            }
        }
    }

    /// A lease has nothing to do: it serves the thread that has waited longest for its place, or waits itself.
    fn idle(&mut self, lease_id: LeaseId, now: Timestamp) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        lease.state = LeaseState::Idle(now);
        lease.dismissed = true;
        let (ring, channel) = (lease.ring, lease.channel);
        self.each_level(ring, channel, |level| {
            level.idle.insert((now, lease_id));
        });
        self.offer(lease_id, now);
        if self.leases.get(&lease_id).is_some_and(|lease| matches!(lease.state, LeaseState::Idle(_))) {
            self.order(Order::Idle { lease: lease_id });
        }
    }

    /// Offers an idle lease to who has waited longest for its place, if more wait than will be served anyway: it is
    /// taken over within its ring, and closes for the others.
    fn offer(&mut self, lease_id: LeaseId, now: Timestamp) {
        loop {
            let Some(lease) = self.leases.get(&lease_id).filter(|lease| matches!(lease.state, LeaseState::Idle(_)))
            else {
                return;
            };
            let ring = lease.ring;
            let Some((_, first)) = self.first_in_line(lease) else { return };
            let same_ring = self.threads.get(first).is_some_and(|thread| thread.ring == ring);
            match (self.wants_agent(first, now), same_ring) {
                (false, _) => {
                    self.leave_line(first);
                    self.touch(first);
                }
                (true, true) => self.start(first, now),
                (true, false) => self.close(lease_id),
            }
        }
    }

    /// Makes idle leases give way where more threads wait than places are about to be free: the place that one of
    /// them counted on may have gone to another. Returns whether something changed.
    pub(crate) fn balance(&mut self, now: Timestamp) -> bool {
        let ring = self.changed_rings.pop();
        let ring_level = ring.and_then(|ring| self.rings.get(ring)).map(|ring| &ring.level);
        let channels = self.channels.iter().map(|channel| &channel.level);
        let levels = channels.chain([&self.all]).chain(ring_level);
        let idle = levels.filter(|level| level.is_contended()).find_map(|level| level.idle.first()).copied();
        let Some((_, lease)) = idle else { return ring.is_some() };
        self.changed_rings.extend(ring);
        self.offer(lease, now);
        true
    }

    /// Takes a lease out of the sets of idle ones.
    pub(crate) fn unidle(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.leases.get(&lease_id) else { return };
        let LeaseState::Idle(since) = lease.state else { return };
        let (ring, channel) = (lease.ring, lease.channel);
        self.each_level(ring, channel, |level| {
            level.idle.remove(&(since, lease_id));
        });
    }

    /// Takes a lease out of the sets of those not heard of yet.
    pub(crate) fn unstart(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.leases.get(&lease_id) else { return };
        let (ring, channel, rank, since) = (lease.ring, lease.channel, lease.rank, lease.since);
        if lease.state == LeaseState::Starting {
            self.each_level(ring, channel, |level| {
                level.starting.of_mut(rank).remove(&(since, lease_id));
            });
        }
    }

    /// Orders a lease to finish what is under way and to close.
    pub(crate) fn close(&mut self, lease_id: LeaseId) {
        self.unidle(lease_id);
        self.unstart(lease_id);
        self.unwork(lease_id);
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        if lease.is_closing() {
            return;
        }
        lease.state = LeaseState::Closing;
        lease.dismissed = true;
        let (ring, channel) = (lease.ring, lease.channel);
        self.each_level(ring, channel, |level| level.closing += 1);
        self.order(Order::Close { lease: lease_id });
    }

    /// Orders all leases of a thread to close.
    pub(crate) fn close_all(&mut self, id: ThreadId) {
        for lease in self.threads.get(id).map(|thread| thread.leases.clone()).unwrap_or_default() {
            self.close(lease);
        }
    }

    /// A lease is over: its place is free.
    pub(crate) fn end_lease(&mut self, lease_id: LeaseId) -> Option<Lease> {
        self.unidle(lease_id);
        self.unstart(lease_id);
        self.unwork(lease_id);
        let lease = self.leases.remove(&lease_id)?;
        let closing = u32::from(lease.is_closing());
        self.each_level(lease.ring, lease.channel, |level| {
            level.agents = level.agents.saturating_sub(1);
            level.closing = level.closing.saturating_sub(closing);
        });
        if let Some(thread) = self.threads.get_mut(lease.thread) {
            thread.leases.retain(|id| *id != lease_id);
        }
        self.freed.push((lease.ring, lease.channel));
        self.touch(lease.thread);
        Some(lease)
    }
}

impl Thread {
    /// What its next slice may send: its quantum, less what the last one overdrew.
    pub(crate) fn take_allowance(&mut self) -> i64 {
        let quantum = QUANTUM.saturating_mul(self.clause.weight.into());
        i64::try_from(quantum).unwrap_or(i64::MAX).saturating_add(std::mem::take(&mut self.deficit))
    }
}

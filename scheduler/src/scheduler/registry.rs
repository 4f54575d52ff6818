//! What there is: threads, rings and channels by name. They are made when something is first said of them; a thread that
//! has been empty for long is forgotten, and its ring with the last one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_spool::{Request, ThreadKey};

use super::{MEMORY, MEMORY_THREADS_MAX, Scheduler};
use crate::ages::Ages;
use crate::batch::Hold;
use crate::beyond::Beyond;
use crate::flows::Flows;
use crate::gain::Gain;
use crate::limit::{Channel, ChannelId, Level, Ring, RingId, RingKey, RingPlace};
use crate::promises::Promises;
use crate::recent::Recent;
use crate::snapshot::Load;
use crate::thread::{Backoff, Thread, ThreadId};

impl Scheduler {
    pub(super) fn note_emptiness(&mut self, id: ThreadId, now: Timestamp) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        match (thread.is_forgettable(now), thread.empty) {
            (true, None) => {
                thread.empty = Some(now);
                self.empty.insert((now, id));
                if self.empty.len() > MEMORY_THREADS_MAX {
                    self.forget_eldest();
                }
            }
            (false, Some(since)) => {
                thread.empty = None;
                self.empty.remove(&(since, id));
            }
            _ => {}
        }
    }

    pub(super) fn forget_empty(&mut self, now: Timestamp) {
        while self.empty.first().is_some_and(|(since, _)| *since + MEMORY <= now) {
            self.forget_eldest();
        }
    }

    fn forget_eldest(&mut self) {
        let Some((_, id)) = self.empty.pop_first() else { return };
        self.leave_line(id);
        self.leave_door(id);
        let Some(mut thread) = self.threads.remove(id) else { return };
        self.forget_size(id, &thread);
        if thread.backoff.failures > 0 {
            thread.backoff = Backoff::default();
            self.record(Request::Thread(thread.state()));
        }
        self.names.remove(&thread.key);
        if let Some(timer) = thread.timer {
            self.timers.remove(&(timer, id));
        }
        if let Some(channel) = self.channels.get_mut(thread.channel.0) {
            channel.threads = channel.threads.saturating_sub(1);
        }
        if let Some(ring) = self.rings.get_mut(thread.ring) {
            ring.threads = ring.threads.saturating_sub(1);
        }
        self.drop_unused_ring(thread.ring);
    }

    pub(crate) fn drop_unused_ring(&mut self, id: RingId) {
        let unused = |ring: &Ring| ring.threads == 0 && ring.level.agents == 0;
        if !self.rings.get(id).is_some_and(unused) {
            return;
        }
        if let Some(ring) = self.rings.remove(id) {
            self.drop_doors(id, &ring.doors);
            self.ring_names.remove(&ring.key);
        }
    }

    /// The thread of this name, made if need be.
    pub(crate) fn thread_named(&mut self, key: &ThreadKey) -> ThreadId {
        if let Some(id) = self.names.get(key) {
            return *id;
        }
        let channel = self.channel_named(&key.channel);
        let (clause_index, clause) = self.clauses.find(key);
        let place = RingPlace::Host(key.host.clone());
        let ring = self.ring_named(RingKey { channel, clause: clause_index, place }, &clause);
        if let Some(ring) = self.rings.get_mut(ring) {
            ring.threads += 1;
        }
        if let Some(channel) = self.channels.get_mut(channel.0) {
            channel.threads += 1;
        }
        let id = self.threads.insert(Thread {
            key: key.clone(),
            clause,
            clause_index,
            ring,
            channel,
            batches: BTreeMap::new(),
            beyond: Beyond::default(),
            size: None,
            flows: Flows::default(),
            queue: BTreeSet::new(),
            aside: BTreeSet::new(),
            load: Load::default(),
            ages: Ages::default(),
            recent: Recent::default(),
            in_flight: 0,
            leases: Vec::new(),
            backoff: Backoff { epoch: 1, ..Backoff::default() },
            hold: Hold::Free,
            held_by: self.holds.find(key),
            proven: false,
            fruitless: 0,
            at_risk: 0,
            gain: Gain::default(),
            line: None,
            deficit: 0,
            promises: Promises::default(),
            door: None,
            timer: None,
            sweeps: VecDeque::new(),
            dirty: false,
            empty: None,
        });
        self.names.insert(key.clone(), id);
        id
    }

    fn channel_named(&mut self, name: &Arc<str>) -> ChannelId {
        if let Some(position) = self.channels.iter().position(|channel| channel.name == *name) {
            return ChannelId(position);
        }
        let own = self.channel_agents.iter().find(|(channel, _)| channel == &**name).map(|(_, max)| *max);
        let level = Level::new(own.unwrap_or(u32::MAX));
        self.channels.push(Channel { name: name.clone(), level, threads: 0 });
        ChannelId(self.channels.len() - 1)
    }

    pub(crate) fn ring_named(&mut self, key: RingKey, clause: &Arc<zrelay_config::Clause>) -> RingId {
        if let Some(id) = self.ring_names.get(&key) {
            return *id;
        }
        let id = self.rings.insert(Ring::new(key.clone(), clause.clone()));
        self.ring_names.insert(key, id);
        id
    }
}

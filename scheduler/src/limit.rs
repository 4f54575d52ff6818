//! The nested limits on agents: who occupies them and who waits for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use zrelay_agent::{LeaseId, Site};
use zrelay_clock::Timestamp;
use zrelay_config::Clause;

use crate::door::Doors;
use crate::line::{ByRank, Line, Standing};
use crate::pace::Pace;
use crate::snapshot::Load;
use crate::thread::ThreadId;

slotmap::new_key_type! {
    /// A ring.
    pub(crate) struct RingId;
}

/// A channel, by position; channels are few and stay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ChannelId(pub(crate) usize);

/// What makes a ring: threads that share it may share a connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct RingKey {
    pub(crate) channel: ChannelId,
    /// Position of the clause: it sets security policy and source address.
    pub(crate) clause: usize,
    pub(crate) place: RingPlace,
}

/// Where the threads of a ring lead.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum RingPlace {
    /// The site is not known yet: the host alone.
    Host(Arc<str>),
    /// All hosts with this site.
    Site(Site),
}

impl RingPlace {
    pub(crate) fn name(&self) -> &Arc<str> {
        match self {
            Self::Host(name) => name,
            Self::Site(site) => &site.0,
        }
    }
}

/// A limit of agents in whose line a thread can stand. (That of its own clause needs no line: who waits for it is the
/// thread itself.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Limit {
    Ring,
    Channel,
    Agents,
}

/// One level of the limits: a count that never exceeds its maximum, the leases in it that are idle or not heard of yet, and the line before it.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) max: u32,
    /// What the pace of a site allows of them now; what is there already stays.
    pub(crate) window: u32,
    pub(crate) agents: u32,
    /// Leases among them that have been ordered to close: places that will be free.
    pub(crate) closing: u32,
    pub(crate) idle: BTreeSet<(Timestamp, LeaseId)>,
    /// Those that nothing was heard of yet, by the rank and the time at which they were granted.
    pub(crate) starting: ByRank<BTreeSet<(Timestamp, LeaseId)>>,
    pub(crate) line: Line,
    pub(crate) load: Load,
}

impl Level {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            max,
            window: u32::MAX,
            agents: 0,
            closing: 0,
            idle: BTreeSet::new(),
            starting: ByRank::default(),
            line: Line::default(),
            load: Load::default(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.agents >= self.max.min(self.window)
    }

    /// More threads stand in line than places are about to be free.
    pub(crate) fn is_contended(&self) -> bool {
        self.line.len() > usize::try_from(self.closing).unwrap_or(usize::MAX)
    }

    /// Who is next in line.
    pub(crate) fn first(&self) -> Option<(Standing, ThreadId)> {
        let quarter = usize::try_from(self.max / 4).unwrap_or(usize::MAX).max(1);
        self.line.pick(|rank| self.starting.of(rank).len(), quarter)
    }

    /// Who is next, if a place is free.
    pub(crate) fn next(&self) -> Option<(Standing, ThreadId)> {
        if self.is_full() { None } else { self.first() }
    }
}

/// A ring.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) key: RingKey,
    pub(crate) clause: Arc<Clause>,
    pub(crate) level: Level,
    pub(crate) threads: u32,
    pub(crate) pace: Pace,
    /// Leases whose host has answered.
    pub(crate) working: u32,
    pub(crate) doors: Doors,
    /// Its threads that stand in line, before whichever limit.
    pub(crate) waiting: BTreeSet<ThreadId>,
}

impl Ring {
    /// A ring whose site nothing is known of.
    pub(crate) fn new(key: RingKey, clause: Arc<Clause>) -> Self {
        let pace = Pace::new(clause.initial_agents, clause.ring_agents);
        let level = Level { window: pace.window(), ..Level::new(clause.ring_agents) };
        let doors = Doors::new(&clause.ring_rates);
        Self { key, clause, level, threads: 0, pace, working: 0, doors, waiting: BTreeSet::new() }
    }
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: Arc<str>,
    pub(crate) level: Level,
    pub(crate) threads: u32,
}

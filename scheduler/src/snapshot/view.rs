//! Copies of the scheduler's counters.

use std::fmt;
use std::sync::Arc;

use zrelay_agent::{LeaseId, Link};
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, Pattern};
use zrelay_spool::{BatchId, Diagnostic, Flow, ThreadKey};

use super::{Load, Tally};
use crate::ages::AgeTable;
use crate::beyond::RunId;
use crate::limit::{Limit, RingKey};
use crate::limiter::{Allowance, Unit};
use crate::recent::Heard;

/// Flows that the view of a thread shows at most.
pub const FLOWS_MAX: usize = 20;

/// What a thread is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing in the queue.
    Idle,
    /// An agent carries it.
    Running,
    /// The host failed; no attempt before this time.
    Retry(Timestamp),
    /// All batches were deferred; the first is due then.
    Waiting(Timestamp),
    /// Its site takes mail, but wants less of it: nothing goes there before this time.
    Suspended(Timestamp),
    /// So much as may go out in a time has gone; more goes at this time.
    Rate(Timestamp, Used),
    /// An operator holds it, or all batches in it, or its channel is `hold`.
    Held,
    /// Outcomes cannot be recorded, so nothing is handed out.
    Paused,
    /// The hub goes down: nothing is handed out.
    Draining,
    /// Something of the whole thread is under way (a drop, a retry, failing all of it): over in a moment.
    Sweeping,
    /// Due, but held back by the limit on agents of its own clause.
    ThreadAgents,
    /// Due, but its site was down, and another thread's agent finds out whether it still is.
    Probe,
    /// Due, but its site may not have more connections yet.
    SlowStart,
    /// Due, but all agents of the ring are busy.
    RingAgents,
    /// Due, but all agents of the channel are busy.
    ChannelAgents,
    /// Due, but all agents are busy.
    Agents,
}

/// A rate that is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// Of what.
    pub unit: Unit,
    /// How much may go.
    pub allowance: Allowance,
    /// To or from where: `site`, `clause`, `source`.
    pub place: &'static str,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, place) = (self.unit.name(), self.place);
        match self.allowance {
            Allowance::Rate(rate) => write!(f, "{unit} of its {place} are used up ({rate})"),
            Allowance::Day(limit) => write!(f, "{unit} of its {place} are used up for today ({limit})"),
        }
    }
}

impl State {
    pub(crate) fn of_limit(limit: Limit) -> Self {
        match limit {
            Limit::Ring => Self::RingAgents,
            Limit::Channel => Self::ChannelAgents,
            Limit::Agents => Self::Agents,
        }
    }

    /// The name that the tools print.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Retry(_) => "retry",
            Self::Waiting(_) => "waiting",
            Self::Suspended(_) => "suspended",
            Self::Rate(..) => "limit:rate",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Sweeping => "sweeping",
            Self::ThreadAgents => "limit:thread_agents",
            Self::Probe => "limit:probe",
            Self::SlowStart => "limit:slow_start",
            Self::RingAgents => "limit:ring_agents",
            Self::ChannelAgents => "limit:channel_agents",
            Self::Agents => "limit:agents",
        }
    }
}

/// A thread.
#[derive(Clone, Debug)]
pub struct ThreadView {
    /// Its name.
    pub key: ThreadKey,
    /// What it is at.
    pub state: State,
    /// Its queue.
    pub load: Load,
    /// When its oldest message came in.
    pub oldest: Option<Timestamp>,
    /// Flows that have something due.
    pub flows: u32,
    /// The pattern by which an operator holds it.
    pub held_by: Option<Arc<Pattern>>,
    /// Batches that an operator holds.
    pub held: u64,
    /// Its agents.
    pub agents: u32,
    /// Its limit of agents.
    pub agents_max: u32,
    /// Batches that its agents would take now.
    pub credit: u32,
    /// Batches under way.
    pub in_flight: u32,
    /// When something is to be done next.
    pub next_attempt: Option<Timestamp>,
    /// Failures of the host in a row.
    pub failures: u32,
    /// Messages sent whose final reply never came.
    pub at_risk: u64,
    /// The last diagnostic of the host, or of the first batch.
    pub last: Option<Arc<Diagnostic>>,
    /// The connection of its first agent.
    pub link: Option<Box<Link>>,
}

/// A thread with everything about it.
#[derive(Clone, Debug)]
pub struct ThreadZoom {
    /// The thread.
    pub thread: ThreadView,
    /// Its clause.
    pub clause: Arc<Clause>,
    /// Its ring.
    pub ring: RingView,
    /// Its agents.
    pub leases: Vec<LeaseView>,
    /// The flows that have something due, [`FLOWS_MAX`] at most, in the order of their turns.
    pub flows: Vec<FlowView>,
    /// What the host answered of late, the newest first.
    pub replies: Vec<Heard>,
}

/// A flow of a thread that has something due.
#[derive(Clone, Copy, Debug)]
pub struct FlowView {
    /// The flow.
    pub flow: Flow,
    /// Batches that are due.
    pub due: u64,
    /// The batch that goes out next.
    pub next: BatchId,
    /// One of its recipients.
    pub recipient: u32,
}

/// How long the recipients of a thread have been in the queue.
#[derive(Clone, Debug)]
pub struct AgeView {
    /// The thread.
    pub key: ThreadKey,
    /// Its recipients by age.
    pub ages: AgeTable,
}

/// An agent of a thread.
#[derive(Clone, Debug)]
pub struct LeaseView {
    /// Its lease.
    pub id: LeaseId,
    /// `starting`, `open`, `yielding`, `idle`, `closing`.
    pub state: &'static str,
    /// Since when.
    pub since: Timestamp,
    /// Batches that it would take now.
    pub credit: u32,
    /// Batches that it carries.
    pub in_flight: u32,
    /// Its connection.
    pub link: Option<Box<Link>>,
}

/// A place in the order of rings, to go on behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingMark(pub(crate) RingKey);

/// A ring.
#[derive(Clone, Debug)]
pub struct RingView {
    /// The channel.
    pub channel: Arc<str>,
    /// The site, or the host while the site is not known.
    pub site: Arc<str>,
    /// The clause.
    pub clause: Arc<Clause>,
    /// Threads.
    pub threads: u32,
    /// Their queues.
    pub load: Load,
    /// Agents.
    pub agents: u32,
    /// Idle ones among them.
    pub idle: u32,
    /// Threads that wait for an agent of this ring.
    pub waiting: u32,
}

/// A channel.
#[derive(Clone, Debug)]
pub struct ChannelView {
    /// The channel.
    pub channel: Arc<str>,
    /// Threads.
    pub threads: u32,
    /// Their queues.
    pub load: Load,
    /// Agents.
    pub agents: u32,
    /// Their limit.
    pub agents_max: u32,
    /// Idle ones among them.
    pub idle: u32,
    /// Threads that wait for an agent of this channel.
    pub waiting: u32,
}

/// A batch.
#[derive(Clone, Debug)]
pub struct BatchView {
    /// Its name.
    pub id: BatchId,
    /// Its thread.
    pub thread: ThreadKey,
    /// Its open recipients.
    pub recipients: Arc<[u32]>,
    /// When the message came in.
    pub received: Timestamp,
    /// Octets of the message.
    pub size: u64,
    /// Attempts so far.
    pub attempts: u32,
    /// Whose mail it is.
    pub flow: Flow,
    /// Where it is.
    pub place: BatchPlace,
    /// The run in which it waits beyond the window, if it does.
    pub run: Option<RunId>,
    /// The last diagnostic.
    pub last: Option<Arc<Diagnostic>>,
}

/// A place in the order of batches, to go on behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchMark {
    pub(crate) thread: ThreadKey,
    /// Without one, behind all of the thread.
    pub(crate) batch: Option<BatchId>,
}

/// Where a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchPlace {
    /// Due.
    Due,
    /// Due then.
    Waiting(Timestamp),
    /// With an agent.
    Carried,
    /// Held by an operator, by itself or with its thread.
    Held,
}

impl BatchPlace {
    /// The name that the tools print.
    pub fn name(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Waiting(_) => "waiting",
            Self::Carried => "carried",
            Self::Held => "held",
        }
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub struct TotalsView {
    /// Threads, remembered empty ones included.
    pub threads: u64,
    /// All queues.
    pub load: Load,
    /// Agents.
    pub agents: u32,
    /// Their limit.
    pub agents_max: u32,
    /// Idle ones among them.
    pub idle: u32,
    /// Why nothing is handed out.
    pub paused: Option<String>,
    /// Whether the hub goes down.
    pub draining: bool,
    /// Outcomes since the start.
    pub tally: Tally,
    /// Messages sent whose final reply never came.
    pub at_risk: u64,
    /// The patterns by which operators hold threads, in the order in which they came.
    pub holds: Vec<String>,
}

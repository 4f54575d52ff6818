//! Rows as the control socket prints them. Their field names are an interface: they are added to, never renamed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zrelay_clock::{Span, Timestamp};
use zrelay_spool::Diagnostic;

use super::Load;
use super::view::{AgeView, ChannelView, RingView, State, ThreadView, TotalsView};

/// The threads and agents of a channel or a ring; its fields stand among those of the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Threads, remembered empty ones included.
    pub threads: u32,
    /// What they have queued: `batches`, `recipients`, `bytes`.
    #[serde(flatten)]
    pub load: Load,
    /// Agents.
    pub agents: u32,
    /// The limit on them.
    pub agents_max: u32,
    /// Agents among them that are idle.
    pub idle: u32,
    /// Threads that wait for this limit.
    pub waiting: u32,
}

/// A row of `channels`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChannelRow {
    /// The channel: `smtp`.
    pub channel: String,
    /// Its threads and agents.
    #[serde(flatten)]
    pub usage: Usage,
}

/// A row of `rings`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RingRow {
    /// The channel.
    pub channel: String,
    /// The site's MX names, or the host while they are not known.
    pub site: String,
    /// The pattern of the clause.
    pub clause: String,
    /// Its threads and agents.
    #[serde(flatten)]
    pub usage: Usage,
}

/// A row of `threads`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ThreadRow {
    /// The name, `channel/host`.
    pub thread: String,
    /// `idle`, `running`, `retry`, `waiting`, `suspended`, `limit:rate`, `held`, `paused`, `draining`, `sweeping`,
    /// `limit:thread_agents`, `limit:probe`, `limit:slow_start`, `limit:ring_agents`, `limit:channel_agents` or
    /// `limit:agents`.
    pub state: String,
    /// Why it is in this state, as a sentence; empty when the state says it all.
    pub reason: String,
    /// Batches queued, those under way included.
    pub batches: u64,
    /// Their open recipients.
    pub recipients: u64,
    /// Octets of their messages.
    pub bytes: u64,
    /// Age of the oldest message, seconds.
    pub oldest: Option<u64>,
    /// Flows (sender domains) that have something due and take turns.
    #[serde(default)]
    pub flows: u32,
    /// Batches that an operator holds.
    pub held: u64,
    /// Agents.
    pub agents: u32,
    /// The limit on them.
    pub agents_max: u32,
    /// Batches that the agents would take now on top of those in flight.
    pub credit: u32,
    /// Batches in flight.
    pub in_flight: u32,
    /// Round trip time of the first agent's connection, seconds with fractions.
    pub rtt: Option<f64>,
    /// Replies that it awaits.
    pub replies: u32,
    /// Octets of messages that it has sent and that are not answered.
    pub bytes_in_flight: u64,
    /// Its delivery rate as the kernel measures it, octets per second.
    pub delivery_rate: u64,
    /// Part of that rate which was used of late, 0 to 1; near 1, the path is what holds the thread back.
    #[serde(default)]
    pub link_use: Option<f64>,
    /// Recipients that it delivered per second of late.
    pub recipient_rate: f64,
    /// Conversation level of that connection: `lockstep`, `transaction`, `pipelined`, `stream`; empty when there is none.
    pub level: String,
    /// The next hop of that connection, `name[address]:port`; empty when there is none.
    pub peer: String,
    /// When the next attempt is due.
    pub next_attempt: Option<String>,
    /// Seconds until then; 0 when it is due.
    pub next_attempt_in: Option<u64>,
    /// Failures of the host in a row.
    pub failures: u32,
    /// Messages sent, at least in part, whose final reply never came: each is sent again and may have arrived twice. Since
    /// the thread came to be.
    #[serde(default)]
    pub at_risk: u64,
    /// The last reply of the host that put something off.
    pub last_reply: Option<String>,
}

/// A row of `qshape`: recipients by age.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AgeRow {
    /// The thread; `TOTAL` in the sum of all.
    pub thread: String,
    /// All its recipients.
    pub recipients: u64,
    /// Recipients younger than 5, 10, 20, 40, 80, 160, 320, 640 and 1280 minutes, and the rest; each counts once.
    pub ages: Vec<u64>,
}

/// The scheduler's part of `status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Threads, remembered empty ones included.
    pub threads: u64,
    /// Batches queued.
    pub batches: u64,
    /// Recipients queued.
    pub recipients: u64,
    /// Octets of the batches' messages.
    pub bytes: u64,
    /// Agents.
    pub agents: u32,
    /// The limit on them.
    pub agents_max: u32,
    /// Agents among them that are idle.
    pub idle: u32,
    /// Why nothing is handed out, if so.
    pub paused: Option<String>,
    /// Whether the hub goes down.
    pub draining: bool,
    /// Recipients delivered since the start.
    pub delivered: u64,
    /// Deferrals since the start, in recipients.
    pub deferred: u64,
    /// Recipients refused for good since the start.
    pub failed: u64,
    /// Recipients given up for age since the start.
    pub expired: u64,
    /// Recipients dropped by operators since the start.
    pub dropped: u64,
    /// Messages since the start that were sent, at least in part, and whose final reply never came, as when a connection was
    /// lost: each is sent again and may have arrived twice.
    #[serde(default)]
    pub at_risk: u64,
    /// What operators hold for mail to come as well; see `holds`.
    #[serde(default)]
    pub holds: Vec<String>,
}

pub(super) fn words(last: Option<&Diagnostic>) -> Option<String> {
    last.map(ToString::to_string)
}

fn span(from: Timestamp, to: Timestamp) -> String {
    // Operators do not want the microseconds.
    Span(std::time::Duration::from_secs(to.since(from).as_secs())).to_string()
}

impl ThreadView {
    /// The row of the tools.
    pub fn row(&self, now: Timestamp) -> ThreadRow {
        let link = self.link.as_deref();
        ThreadRow {
            thread: self.key.to_string(),
            state: self.state.name().to_owned(),
            reason: self.reason(now),
            batches: self.load.batches,
            recipients: self.load.recipients,
            bytes: self.load.bytes,
            oldest: self.oldest.map(|oldest| now.since(oldest).as_secs()),
            flows: self.flows,
            held: self.held,
            agents: self.agents,
            agents_max: self.agents_max,
            credit: self.credit,
            in_flight: self.in_flight,
            rtt: link.and_then(|link| link.rtt).map(|rtt| rtt.as_secs_f64()),
            replies: link.map_or(0, |link| link.replies),
            bytes_in_flight: link.map_or(0, |link| link.bytes_in_flight),
            delivery_rate: link.map_or(0, |link| link.delivery_rate),
            link_use: link.and_then(|link| link.link_use),
            recipient_rate: link.map_or(0.0, |link| link.recipient_rate),
            level: link.map(|link| link.level.to_owned()).unwrap_or_default(),
            peer: link.map(|link| link.peer.clone()).unwrap_or_default(),
            next_attempt: self.next_attempt.map(Timestamp::rfc3339),
            next_attempt_in: self.next_attempt.map(|at| at.since(now).as_secs()),
            failures: self.failures,
            at_risk: self.at_risk,
            last_reply: words(self.last.as_deref()),
        }
    }

    fn reason(&self, now: Timestamp) -> String {
        let last = words(self.last.as_deref()).unwrap_or_else(|| "no reply yet".to_owned());
        match self.state {
            State::Idle => String::new(),
            State::Running => match self.link.as_deref() {
                Some(link) => link.state.to_owned(),
                None if self.in_flight == 0 => "starting".to_owned(),
                None => String::new(),
            },
            State::Retry(due) => {
                let times = if self.failures == 1 { "once".to_owned() } else { format!("{} times", self.failures) };
                format!("the host failed {times}, next try in {}: {last}", span(now, due))
            }
            State::Waiting(due) => format!("everything was put off, next try in {}: {last}", span(now, due)),
            State::Rate(until, used) => format!("{used}, more in {}", span(now, until)),
            State::Suspended(until) => format!("its site wants less, next mail in {}: {last}", span(now, until)),
            State::Held if self.key.channel.as_ref() == crate::thread::HOLD_CHANNEL => "the channel holds".to_owned(),
            State::Held => match &self.held_by {
                Some(pattern) => format!("held by an operator as {pattern}"),
                None => "held by an operator".to_owned(),
            },
            State::Paused => "the spool cannot record outcomes".to_owned(),
            State::Draining => "the hub shuts down".to_owned(),
            State::Sweeping => "going through its batches".to_owned(),
            State::ThreadAgents => "its agent is closing".to_owned(),
            State::Probe => "its site was down, one agent finds out whether it still is".to_owned(),
            State::SlowStart => "its site gets more connections when those it has deliver".to_owned(),
            State::RingAgents => "all agents of its ring are busy".to_owned(),
            State::ChannelAgents => "all agents of its channel are busy".to_owned(),
            State::Agents => "all agents are busy".to_owned(),
        }
    }
}

impl AgeView {
    /// The row of the tools.
    pub fn row(&self) -> AgeRow {
        AgeRow { thread: self.key.to_string(), recipients: self.ages.iter().sum(), ages: self.ages.to_vec() }
    }
}

impl RingView {
    /// The row of the tools.
    pub fn row(&self) -> RingRow {
        RingRow {
            channel: self.channel.to_string(),
            site: self.site.to_string(),
            clause: self.clause.matches.as_str().to_owned(),
            usage: Usage {
                threads: self.threads,
                load: self.load,
                agents: self.agents,
                agents_max: self.clause.ring_agents,
                idle: self.idle,
                waiting: self.waiting,
            },
        }
    }
}

impl ChannelView {
    /// The row of the tools.
    pub fn row(&self) -> ChannelRow {
        ChannelRow {
            channel: self.channel.to_string(),
            usage: Usage {
                threads: self.threads,
                load: self.load,
                agents: self.agents,
                agents_max: self.agents_max,
                idle: self.idle,
                waiting: self.waiting,
            },
        }
    }
}

impl From<TotalsView> for Totals {
    fn from(view: TotalsView) -> Self {
        Self {
            threads: view.threads,
            batches: view.load.batches,
            recipients: view.load.recipients,
            bytes: view.load.bytes,
            agents: view.agents,
            agents_max: view.agents_max,
            idle: view.idle,
            paused: view.paused,
            draining: view.draining,
            delivered: view.tally.delivered,
            deferred: view.tally.deferred,
            failed: view.tally.failed,
            expired: view.tally.expired,
            dropped: view.tally.dropped,
            at_risk: view.at_risk,
            holds: view.holds,
        }
    }
}

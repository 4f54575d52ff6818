//! One thread with everything about it, as the control socket prints it: its agents, the flows that take turns in it, and
//! what its host answered of late. Field names are an interface: they are added to, never renamed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zrelay_agent::Link;
use zrelay_clock::{Span, Timestamp};

use super::mail::name;
use super::view::{FlowView, LeaseView, ThreadZoom};
use super::{MessageRow, RingRow, ThreadRow};
use crate::recent::Heard;

/// The answer of `thread`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ThreadDetail {
    /// What `threads` shows.
    #[serde(flatten)]
    pub row: ThreadRow,
    /// The pattern of its clause.
    pub clause: String,
    /// Its waits between attempts, as spans: `1m`.
    pub retries: Vec<String>,
    /// Age at which its recipients are given up, as a span: `5d`.
    pub expiry: String,
    /// Its ring.
    pub ring: RingRow,
    /// Its agents.
    pub leases: Vec<LeaseRow>,
    /// The flows that have something due and take turns, the next one first; the first 20 of them.
    #[serde(rename = "turns", default)]
    pub flows: Vec<FlowRow>,
    /// What its host answered of late, the newest first.
    #[serde(rename = "recent_replies", default)]
    pub heard: Vec<ReplyRow>,
    /// The first of its batches, in the order in which their messages came.
    #[serde(default)]
    pub first_batches: Vec<MessageRow>,
}

/// A flow in the answer of `thread`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlowRow {
    /// Its number, hexadecimal.
    pub flow: String,
    /// The envelope sender of the batch that goes out next; `<>` for the null sender, empty when the spool does not know
    /// the message any more.
    pub sender: String,
    /// Batches that are due.
    pub due: u64,
}

/// Replies of one kind in a row, in the answer of `thread`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReplyRow {
    /// When the first came.
    pub since: String,
    /// When the last came.
    pub at: String,
    /// Seconds since the last came.
    pub age: u64,
    /// `delivered`, `deferred`, `failed`, `expired` or `dropped`.
    pub outcome: String,
    /// Recipients concerned; 0 when it was the connection that failed.
    pub recipients: u64,
    /// The reply, or a reason of our own.
    pub reply: String,
}

/// An agent in the answer of `thread`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LeaseRow {
    /// Its lease.
    pub lease: u64,
    /// What the scheduler has it for: `starting`, `open`, `yielding`, `idle`, `closing`.
    pub state: String,
    /// Age of the lease, seconds.
    pub age: u64,
    /// Batches that it would take now.
    pub credit: u32,
    /// Batches that it carries.
    pub in_flight: u32,
    /// The next hop, `name[address]:port`.
    pub peer: String,
    /// What the connection is at: `resolving`, `connecting`, `greeting`, `working`, `idle`, `closing`.
    pub link: String,
    /// The conversation level.
    pub level: String,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// Round trip time, seconds with fractions.
    pub rtt: Option<f64>,
    /// Replies awaited.
    pub replies: u32,
    /// Octets sent and not answered.
    pub bytes_in_flight: u64,
    /// Messages that may be sent and not answered, as measured.
    pub window_messages: u32,
    /// The same in octets.
    pub window_bytes: u64,
    /// Delivery rate as the kernel measures it, octets per second.
    pub delivery_rate: u64,
    /// Part of that rate which was used of late, 0 to 1; near 1, the path is what holds the connection back.
    #[serde(default)]
    pub link_use: Option<f64>,
    /// Recipients delivered per second of late.
    pub recipient_rate: f64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Octets written.
    pub bytes: u64,
}

impl ThreadZoom {
    /// The answer of `thread`.
    pub fn detail(&self, now: Timestamp) -> ThreadDetail {
        let wait = |units: &u32| Span(self.clause.interval.saturating_mul(*units)).to_string();
        ThreadDetail {
            row: self.thread.row(now),
            clause: self.clause.matches.as_str().to_owned(),
            retries: self.clause.retries.iter().map(wait).collect(),
            expiry: Span(self.clause.expiry).to_string(),
            ring: self.ring.row(),
            leases: self.leases.iter().map(|lease| lease.row(now)).collect(),
            flows: self.flows.iter().map(FlowView::row).collect(),
            heard: self.replies.iter().map(|heard| reply(heard, now)).collect(),
            first_batches: Vec::new(),
        }
    }
}

impl FlowView {
    fn row(&self) -> FlowRow {
        FlowRow { flow: format!("{:08x}", self.flow.0), sender: String::new(), due: self.due }
    }
}

fn reply(heard: &Heard, now: Timestamp) -> ReplyRow {
    ReplyRow {
        since: heard.since.rfc3339(),
        at: heard.at.rfc3339(),
        age: now.since(heard.at).as_secs(),
        outcome: name(heard.disposition).to_owned(),
        recipients: heard.recipients,
        reply: heard.diagnostic.to_string(),
    }
}

impl LeaseView {
    fn row(&self, now: Timestamp) -> LeaseRow {
        let link = self.link.as_deref().cloned().unwrap_or_else(Link::default);
        LeaseRow {
            lease: self.id.0,
            state: self.state.to_owned(),
            age: now.since(self.since).as_secs(),
            credit: self.credit,
            in_flight: self.in_flight,
            peer: link.peer,
            link: link.state.to_owned(),
            level: link.level.to_owned(),
            encrypted: link.encrypted,
            rtt: link.rtt.map(|rtt| rtt.as_secs_f64()),
            replies: link.replies,
            bytes_in_flight: link.bytes_in_flight,
            window_messages: link.window_messages,
            window_bytes: link.window_bytes,
            delivery_rate: link.delivery_rate,
            link_use: link.link_use,
            recipient_rate: link.recipient_rate,
            delivered: link.delivered,
            bytes: link.bytes,
        }
    }
}

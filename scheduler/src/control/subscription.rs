//! What a client is told without asking again: an overview at intervals, and the lines of conversations.
//!
//! A notification is made only when the one before has left, so that a connection holds one at most whatever happens in
//! the hub: who reads slowly sees fewer overviews, and of a trace as much as its mailbox holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zrelay_clock::Timestamp;
use zrelay_mailbox::{Receiver, mailbox_waking};
use zrelay_trace::{Direction, LINES_MAX, Line, Tracing, WatchId};

use super::methods::{Methods, Sort, ThreadsParams, pattern};
use super::rpc::{self, RpcError, UNAVAILABLE};
use crate::snapshot::{ThreadDetail, ThreadRow, Totals};

/// Subscriptions of one connection at a time.
pub(super) const SUBSCRIPTIONS_MAX: usize = 4;
/// Rows of an overview unless another number is asked for: what fits on a screen.
const ROWS_DEFAULT: usize = 100;
/// Seconds between two overviews.
const INTERVAL_DEFAULT: f64 = 1.0;
/// The least and the most of them.
const INTERVAL_MIN: f64 = 0.1;
const INTERVAL_MAX: f64 = 3600.0;
/// Part of the time that overviews of one subscription may take: with very many threads they come less often.
const SHARE: u32 = 20;
/// Lines in one notification at most.
const LINES_PER_EVENT: usize = 512;

/// Parameters of `subscribe`.
#[derive(Deserialize)]
#[serde(tag = "topic", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Wanted {
    /// Totals and threads, as `threads` gives them.
    Overview {
        interval: Option<f64>,
        pattern: Option<String>,
        state: Option<String>,
        #[serde(default)]
        sort: Sort,
        limit: Option<usize>,
        /// Also everything about this one.
        thread: Option<String>,
    },
    /// The conversations of these threads.
    Trace { pattern: String },
}

/// A notification `overview`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// Which subscription it is for.
    pub subscription: u64,
    /// When it was made.
    pub at: String,
    /// Seconds since the hub's start.
    pub uptime: u64,
    /// The queue and the agents.
    pub totals: Totals,
    /// The first of the threads asked for.
    pub threads: Vec<ThreadRow>,
    /// How many there are.
    pub matched: u64,
    /// The one thread asked for, if it exists.
    pub thread: Option<ThreadDetail>,
}

/// A notification `trace`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Trace {
    /// Which subscription it is for.
    pub subscription: u64,
    /// In the order in which they came.
    pub lines: Vec<TraceLine>,
    /// Lines that were lost since the subscription began, because they were not read in time.
    pub dropped: u64,
}

/// One line of a conversation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TraceLine {
    /// When it was sent, or came.
    pub at: String,
    /// The thread.
    pub thread: String,
    /// The lease of its agent.
    pub lease: u64,
    /// Commands sent without waiting for a reply are one flight, counted from 1 on each connection; 0 before the first.
    pub flight: u64,
    /// `sent`, `received`, or `note` for what happened to the connection.
    pub direction: String,
    /// The text. Secrets are `***`, content of messages is a number of octets.
    pub text: String,
}

impl From<Line> for TraceLine {
    fn from(line: Line) -> Self {
        let direction = match line.direction {
            Direction::Sent => "sent",
            Direction::Received => "received",
            Direction::Note => "note",
        };
        Self {
            at: line.at.rfc3339(),
            thread: line.thread.to_string(),
            lease: line.lease,
            flight: line.flight,
            direction: direction.to_owned(),
            text: line.text,
        }
    }
}

/// One of a connection's subscriptions.
pub(super) struct Subscription {
    pub(super) id: u64,
    topic: Topic,
}

enum Topic {
    Overview { threads: ThreadsParams, thread: Option<String>, interval: Duration, due: Timestamp },
    Trace { lines: Receiver<Line>, watch: Watch, told: u64 },
}

/// A watch that ends with the subscription.
struct Watch {
    tracing: Tracing,
    id: WatchId,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tracing.unwatch(self.id);
    }
}

impl Subscription {
    pub(super) fn new(id: u64, wanted: Wanted, methods: &Methods) -> Result<Self, RpcError> {
        let topic = match wanted {
            Wanted::Overview { interval, pattern, state, sort, limit, thread } => {
                let interval = interval.unwrap_or(INTERVAL_DEFAULT);
                if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
                    let text = format!("the interval is to be {INTERVAL_MIN} to {INTERVAL_MAX} seconds");
                    return Err(RpcError::params(text));
                }
                let limit = Some(limit.unwrap_or(ROWS_DEFAULT));
                let threads = ThreadsParams { pattern, state, sort, limit };
                threads.check()?;
                Topic::Overview {
                    threads,
                    thread,
                    interval: Duration::from_secs_f64(interval),
                    due: methods.clock.now(),
                }
            }
            Wanted::Trace { pattern: text } => {
                let (sender, lines) = mailbox_waking(LINES_MAX, Arc::clone(&methods.waker));
                let watch = methods.tracing.watch(pattern(&text)?, sender);
                let id = watch.map_err(|_| RpcError::new(UNAVAILABLE, "there are too many traces already"))?;
                Topic::Trace { lines, watch: Watch { tracing: methods.tracing.clone(), id }, told: 0 }
            }
        };
        Ok(Self { id, topic })
    }

    /// When there is something to tell: `None` while nothing is known of it, a time in the past for now.
    pub(super) fn due(&self) -> Option<Timestamp> {
        match &self.topic {
            Topic::Overview { due, .. } => Some(*due),
            Topic::Trace { lines, .. } if lines.is_empty() => None,
            Topic::Trace { .. } => Some(Timestamp::ZERO),
        }
    }

    /// The notification that is due, as a line.
    pub(super) fn notify(&mut self, methods: &Methods) -> Option<Vec<u8>> {
        let now = methods.clock.now();
        match &mut self.topic {
            Topic::Overview { due, .. } if *due > now => None,
            Topic::Overview { threads, thread, interval, due } => {
                let begin = Instant::now();
                let overview = overview(self.id, methods, threads, thread.as_deref());
                *due = now + (*interval).max(begin.elapsed() * SHARE);
                // A scheduler that is too busy to answer is asked again at the next interval.
                overview.ok().map(|overview| rpc::notify("overview", &overview))
            }
            Topic::Trace { lines, watch, told } => {
                let lines: Vec<TraceLine> = lines.drain(LINES_PER_EVENT).map(TraceLine::from).collect();
                let dropped = watch.tracing.dropped(watch.id);
                if lines.is_empty() && dropped == *told {
                    return None;
                }
                *told = dropped;
                Some(rpc::notify("trace", &Trace { subscription: self.id, lines, dropped }))
            }
        }
    }
}

fn overview(
    subscription: u64,
    methods: &Methods,
    threads: &ThreadsParams,
    thread: Option<&str>,
) -> Result<Overview, RpcError> {
    let listed = methods.thread_rows(threads)?;
    Ok(Overview {
        subscription,
        at: methods.clock.now().rfc3339(),
        uptime: methods.clock.now().since(methods.started).as_secs(),
        totals: methods.totals()?,
        threads: listed.rows,
        matched: u64::try_from(listed.matched).unwrap_or(u64::MAX),
        thread: thread.and_then(|name| methods.thread_detail(name).ok()),
    })
}

/// The answer of `subscribe` and `unsubscribe`.
pub(super) fn answer(id: u64) -> Value {
    serde_json::json!({ "subscription": id })
}

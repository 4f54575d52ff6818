//! The agents of the channels that need no network: `discard` takes everything, `error` refuses everything.
//!
//! ```text
//!   Lease ──▶ Hungry        Carry ──▶ Settled(Done) + Hungry        Close, or idle for long ──▶ Released
//! ```
//!
//! The channel `hold` needs no agent: the scheduler never leases its threads. A lease of any other channel is answered
//! with a failure that names it, so that its mail waits visibly instead of being lost.
//!
//! A route's host is the text of an `error`: with `host = "5.7.1 no such list"` every recipient fails with the status
//! 5.7.1 and that text; a leading reply code (`554 5.7.1 ...`) may stand before the status. Without a status it is 5.0.0.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{Credit, Judgement, LeaseId, Order, Release, Report, Rest, Statistics, Ticket, Verdict};
use zrelay_clock::{Clock, Timestamp};
use zrelay_mailbox::{Outbox, Received, Receiver, Sender};
use zrelay_spool::{Diagnostic, Status, Timing};

/// Batches that an agent takes ahead: more than the scheduler hands out in one round gains nothing.
pub const CREDIT_BATCHES: u32 = 256;
/// Octets that an agent takes ahead. No octet is moved here, so there is no need for a tight limit.
pub const CREDIT_BYTES: u64 = 1 << 40;
/// Longest sleep, and so how late an idle lease may end.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How soon to look again whether the scheduler's full mailbox has room.
const FLUSH_PAUSE: Duration = Duration::from_millis(2);
/// Reports that wait for the scheduler before no further order is taken.
const REPORTS_WAITING_MAX: usize = 1024;

/// The agents, without the mailboxes: [`handle_order`](Agents::handle_order) and
/// [`handle_timeout`](Agents::handle_timeout) take what comes, [`poll_report`](Agents::poll_report) gives what to say.
#[derive(Debug, Default)]
pub struct Agents {
    leases: BTreeMap<LeaseId, Agent>,
    reports: VecDeque<Report>,
}

#[derive(Debug)]
struct Agent {
    judgement: Judgement,
    diagnostic: Arc<Diagnostic>,
    statistics: Statistics,
    /// How long it stays without work.
    patience: Duration,
    /// Told to be idle then.
    idle: Option<Timestamp>,
}

impl Agents {
    /// No agents yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an order.
    pub fn handle_order(&mut self, now: Timestamp, order: Order) {
        match order {
            Order::Lease { lease, thread, clause, takes_over } => {
                if let Some(old) = takes_over {
                    self.leases.remove(&old);
                }
                self.lease(lease, &thread.channel, &thread.host, clause.idle);
            }
            // These channels have no sites to report, so nothing waits for the word.
            Order::Connect { .. } => {}
            Order::Carry { lease, batch } => self.carry(now, lease, batch),
            Order::Idle { lease } => {
                if let Some(agent) = self.leases.get_mut(&lease) {
                    agent.idle = Some(now);
                }
            }
            Order::Close { lease } => self.release(lease),
        }
    }

    /// Ends the leases that have been idle for as long as their clause allows.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let over = |agent: &Agent| agent.idle.is_some_and(|since| since + agent.patience <= now);
        let ended: Vec<LeaseId> = self.leases.iter().filter(|(_, agent)| over(agent)).map(|(id, _)| *id).collect();
        for lease in ended {
            self.release(lease);
        }
    }

    /// The next report for the scheduler.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    fn lease(&mut self, lease: LeaseId, channel: &str, host: &str, patience: Duration) {
        let (judgement, diagnostic) = match channel {
            "discard" => {
                let text = Diagnostic::local(Status(2, 0, 0), "discarded");
                (Judgement::Delivered { dsn_relayed: false }, text)
            }
            "error" => (Judgement::Failed, refusal(host)),
            other => {
                let text = format!("no agent serves the channel {other}");
                let diagnostic = Arc::new(Diagnostic::local(Status(4, 3, 5), text));
                let reason = Release::Failed(diagnostic);
                self.reports.push_back(Report::Released { lease, reason, statistics: Statistics::default() });
                return;
            }
        };
        let diagnostic = Arc::new(diagnostic);
        let agent = Agent { judgement, diagnostic, statistics: Statistics::default(), patience, idle: None };
        self.leases.insert(lease, agent);
        let credit = Credit { batches: CREDIT_BATCHES, bytes: CREDIT_BYTES };
        self.reports.push_back(Report::Hungry { lease, credit });
    }

    fn carry(&mut self, now: Timestamp, lease: LeaseId, batch: Ticket) {
        // An order that crossed with the release: the scheduler takes the batch back by itself.
        let Some(agent) = self.leases.get_mut(&lease) else { return };
        agent.idle = None;
        agent.statistics.transactions += 1;
        if matches!(agent.judgement, Judgement::Delivered { .. }) {
            let count = u64::try_from(batch.recipients.len()).unwrap_or(u64::MAX);
            agent.statistics.delivered = agent.statistics.delivered.saturating_add(count);
        }
        let timing = Timing {
            queued: batch.due.since(batch.received),
            waited: batch.carried.since(batch.due),
            sent: now.since(batch.carried),
            ..Timing::default()
        };
        let verdict = Verdict {
            recipients: batch.recipients.to_vec(),
            judgement: agent.judgement,
            diagnostic: agent.diagnostic.clone(),
            at: now,
            timing,
        };
        let settled = Report::Settled { lease, batch: batch.id, verdicts: vec![verdict], rest: Rest::Done };
        self.reports.push_back(settled);
        self.reports.push_back(Report::Hungry { lease, credit: Credit { batches: 1, bytes: batch.weight } });
    }

    fn release(&mut self, lease: LeaseId) {
        if let Some(agent) = self.leases.remove(&lease) {
            let statistics = agent.statistics;
            self.reports.push_back(Report::Released { lease, reason: Release::Done, statistics });
        }
    }
}

/// The refusal that an `error` route's text stands for.
fn refusal(text: &str) -> Diagnostic {
    let text = text.trim();
    let behind_code = match text.split_once(' ') {
        Some((code, rest)) if code.len() == 3 && code.bytes().all(|octet| octet.is_ascii_digit()) => rest.trim_start(),
        _ => text,
    };
    let (first, rest) = behind_code.split_once(' ').unwrap_or((behind_code, ""));
    let (status, words) = match status(first) {
        Some(status) => (status, rest.trim_start()),
        None => (Status(5, 0, 0), behind_code),
    };
    let words = if words.is_empty() { "delivery is refused by a route" } else { words };
    Diagnostic::local(status, words)
}

/// An RFC 3463 status; whatever its class, a refusal is permanent.
fn status(text: &str) -> Option<Status> {
    let mut parts = text.splitn(3, '.');
    let class: u8 = parts.next()?.parse().ok()?;
    let subject: u16 = parts.next()?.parse().ok()?;
    let detail: u16 = parts.next()?.parse().ok()?;
    (matches!(class, 2 | 4 | 5) && subject < 1000 && detail < 1000).then_some(Status(5, subject, detail))
}

/// The body of the agents' thread: ends when the scheduler's end of `orders` is gone. Blocks.
pub fn run(orders: &Receiver<Order>, reports: Sender<Report>, clock: &Clock) {
    let mut agents = Agents::new();
    let mut outbox = Outbox::new(reports);
    loop {
        let congested = outbox.len() > REPORTS_WAITING_MAX;
        if congested {
            std::thread::sleep(FLUSH_PAUSE);
        } else {
            let patience = if outbox.is_empty() { SLEEP_MAX } else { FLUSH_PAUSE };
            match orders.wait(patience) {
                Received::Item(order) => agents.handle_order(clock.now(), order),
                Received::Nothing => {}
                Received::Closed => return,
            }
        }
        agents.handle_timeout(clock.now());
        while let Some(report) = agents.poll_report() {
            outbox.push(report);
        }
        outbox.flush();
    }
}

#[cfg(test)]
mod tests;

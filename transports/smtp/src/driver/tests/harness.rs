//! The scheduler's side of the agent protocol, for tests.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use zrelay_agent::{Credit, LeaseId, Order, Report, Rest, Ticket, Verdict};
use zrelay_clock::{Clock, Timestamp};
use zrelay_config::Clause;
use zrelay_mailbox::{Received, Receiver, Sender, mailbox};
use zrelay_sites::Sites;
use zrelay_spool::{BatchId, MessageId, ThreadKey};
use zrelay_tls::{ClientTls, Roots};
use zrelay_trace::Tracing;

use crate::driver::{AgentLoop, Letters, Options};
use crate::testing::Parcel;

/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Pile(Vec<Parcel>);

impl Letters for Pile {
    type Letter = Parcel;

    fn letter(&self, message: MessageId) -> Result<Parcel, String> {
        self.0.get(message.0 as usize).cloned().ok_or_else(|| "no such message".into())
    }
}

pub(super) fn letter(number: usize, recipients: &[&str]) -> Parcel {
    let body = format!("Subject: {number}\r\n\r\n.This is message {number}.\r\n");
    Parcel::new(body.as_bytes()).in_slices_of(11).to(&format!("s{number}@src.example"), recipients)
}

pub(super) fn clause() -> Clause {
    Clause { connect_timeout: Duration::from_secs(10), timeout: Duration::from_secs(10), ..Clause::default() }
}

pub(super) struct Hub {
    orders: Option<Sender<Order>>,
    reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
    sizes: Vec<(u32, u64)>,
    leases: u64,
    turns: Arc<AtomicU64>,
}

/// Reports that wait for the scheduler: few, so that the loop meets a full mailbox.
const REPORTS_FEW: usize = 16;
/// Reports that wait for it where thousands come at once.
const REPORTS_MANY: usize = 4096;

impl Hub {
    pub(super) fn start(letters: Vec<Parcel>) -> Self {
        // Discard service: nothing answers there, and nothing is asked.
        Self::start_with(letters, "127.0.0.1:9".parse().unwrap())
    }

    /// One that takes many reports at a time.
    pub(super) fn start_roomy(letters: Vec<Parcel>) -> Self {
        Self::run(letters, "127.0.0.1:9".parse().unwrap(), Sites::new(), REPORTS_MANY)
    }

    pub(super) fn start_with(letters: Vec<Parcel>, name_server: SocketAddr) -> Self {
        Self::run(letters, name_server, Sites::new(), REPORTS_FEW)
    }

    pub(super) fn knowing(letters: Vec<Parcel>, sites: Sites) -> Self {
        Self::run(letters, "127.0.0.1:9".parse().unwrap(), sites, REPORTS_FEW)
    }

    fn run(letters: Vec<Parcel>, name_server: SocketAddr, sites: Sites, reports: usize) -> Self {
        let sizes = letters.iter().map(|letter| (letter.recipients.len() as u32, letter.body.len() as u64)).collect();
        let options = Options {
            hostname: "hub.example".into(),
            dns: zrelay_dns::Settings { servers: vec![name_server], ..zrelay_dns::Settings::default() },
            tls: ClientTls::new(Roots::Given(Vec::new())).unwrap(),
            sites,
            tracing: Tracing::new(),
            clock: Clock::start(),
            seed: 7,
        };
        let (agents, orders) = AgentLoop::new(Pile(letters), options).unwrap();
        let (sender, reports) = mailbox(reports);
        let turns = agents.turns();
        let thread = std::thread::spawn(move || agents.run(sender).unwrap());
        Self { orders: Some(orders), reports, thread: Some(thread), sizes, leases: 0, turns }
    }

    pub(super) fn send(&self, order: Order) {
        self.orders.as_ref().unwrap().send(order).unwrap();
    }

    pub(super) fn lease(&mut self, channel: &str, host: &str, clause: Clause) -> LeaseId {
        self.lease_over(channel, host, clause, None)
    }

    pub(super) fn lease_over(
        &mut self,
        channel: &str,
        host: &str,
        clause: Clause,
        takes_over: Option<LeaseId>,
    ) -> LeaseId {
        self.leases += 1;
        let lease = LeaseId(self.leases);
        let thread = ThreadKey::new(channel, host);
        self.send(Order::Lease { lease, thread, clause: Arc::new(clause), takes_over });
        lease
    }

    pub(super) fn carry(&self, lease: LeaseId, number: usize) {
        let (recipients, size) = self.sizes[number];
        self.ticket(lease, number as u64, recipients, size);
    }

    pub(super) fn carry_unknown(&self, lease: LeaseId) {
        self.ticket(lease, 999, 1, 100);
    }

    fn ticket(&self, lease: LeaseId, message: u64, recipients: u32, size: u64) {
        let batch = Ticket {
            id: BatchId { message: MessageId(message), number: 0 },
            recipients: (0..recipients).collect(),
            size,
            weight: size,
            received: Timestamp::ZERO,
            due: Timestamp::ZERO,
            carried: Timestamp::ZERO,
        };
        self.send(Order::Carry { lease, batch });
    }

    /// The next report that `wanted` wants; the others are passed over. Every site is free.
    pub(super) fn until(&mut self, wanted: impl Fn(&Report) -> bool) -> Report {
        loop {
            let received = self.reports.wait(PATIENCE);
            if let Received::Item(Report::Site { lease, .. }) = &received {
                self.send(Order::Connect { lease: *lease });
            }
            match received {
                Received::Item(report) if wanted(&report) => return report,
                Received::Item(_) => {}
                other => panic!("waited in vain: {other:?}"),
            }
        }
    }

    pub(super) fn until_hungry(&mut self, of: LeaseId) -> Credit {
        let report = self.until(|report| match report {
            Report::Hungry { lease, .. } => *lease == of,
            Report::Released { reason, .. } => panic!("released instead: {reason:?}"),
            _ => false,
        });
        let Report::Hungry { credit, .. } = report else { unreachable!() };
        credit
    }

    /// Until each of these has asked for work.
    pub(super) fn until_all_hungry(&mut self, of: &[LeaseId]) {
        let mut left: BTreeSet<LeaseId> = of.iter().copied().collect();
        while !left.is_empty() {
            let report = self.until(|report| matches!(report, Report::Hungry { .. } | Report::Released { .. }));
            match report {
                Report::Hungry { lease, .. } => left.remove(&lease),
                other => panic!("released instead: {other:?}"),
            };
        }
    }

    /// How often something has happened to an agent.
    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// The verdicts until so many batches are done.
    pub(super) fn until_settled(&mut self, batches: usize) -> Vec<Verdict> {
        let mut all = Vec::new();
        let mut done = 0;
        while done < batches {
            let report = self.until(|report| match report {
                Report::Settled { .. } => true,
                Report::Released { reason, .. } => panic!("released instead: {reason:?}"),
                _ => false,
            });
            let Report::Settled { verdicts, rest, .. } = report else { unreachable!() };
            all.extend(verdicts);
            done += usize::from(rest == Rest::Done);
        }
        all
    }

    /// Nobody gives orders any more: the loop ends by itself.
    pub(super) fn finish(mut self) {
        self.orders = None;
        let thread = self.thread.take().unwrap();
        while !thread.is_finished() {
            let _ = self.reports.wait(Duration::from_millis(20));
        }
        thread.join().unwrap();
    }
}

//! A scheduler with a long queue, and agents that say yes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{Credit, Judgement, LeaseId, Order, Release, Report, Rest, Statistics, Ticket, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, Pattern};
use zrelay_scheduler::{PAGE_MAX, Scheduler, Settings};
use zrelay_spool::{BatchId, Diagnostic, Flow, MessageId, Queue, QueuedBatch, Status, ThreadKey, Timing};

/// Agents: few enough that threads wait for them in every queue.
const AGENTS: u32 = 16;
/// Time between two batches whose time comes, whatever the length of the queue.
const WAKE_EVERY: Duration = Duration::from_millis(7);
/// Nothing is to expire.
const EXPIRY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// See the module's head.
pub(crate) struct World {
    scheduler: Scheduler,
    now: Timestamp,
    threads: Vec<ThreadKey>,
    /// Whether it is to close, by agent.
    agents: HashMap<LeaseId, bool>,
    under_way: VecDeque<(LeaseId, Ticket)>,
    accepted: Arc<Diagnostic>,
    recipients: Arc<[u32]>,
    next: u64,
    /// Until the last of the waiting batches is due.
    span: Duration,
    random: u64,
}

impl World {
    /// So many batches in so many threads, half of them due.
    pub(crate) fn new(batches: u64, threads: u64) -> Self {
        let mut clause = Clause::default_for("smtp/*");
        clause.matches = Pattern::new("*").expect("a pattern");
        clause.expiry = EXPIRY;
        clause.delay_warning = Duration::ZERO;
        let settings = Settings {
            clauses: vec![Arc::new(clause)],
            agents: AGENTS,
            channel_agents: Vec::new(),
            sources: Vec::new(),
        };
        let key = |n: u64| ThreadKey::new("smtp", &format!("[10.{}.{}.{}]", n >> 16 & 255, n >> 8 & 255, n & 255));
        let text = "2.0.0 Ok: queued".to_owned();
        let accepted = Diagnostic { code: 250, status: Status(2, 0, 0), text, ..Diagnostic::default() };
        let mut world = Self {
            scheduler: Scheduler::new(settings, 1),
            now: Timestamp::from_secs(1_000_000),
            threads: (0..threads).map(key).collect(),
            agents: HashMap::new(),
            under_way: VecDeque::new(),
            accepted: Arc::new(accepted),
            recipients: Arc::from([0]),
            next: 0,
            span: WAKE_EVERY * u32::try_from(batches / 2).expect("not so many"),
            random: 1,
        };
        world.scheduler.set_window(usize::MAX);
        for n in 0..batches {
            let batch = if n % 2 == 0 { world.due() } else { world.later() };
            world.arrive(batch);
        }
        world
    }

    /// xorshift64.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn batch(&mut self, due: Timestamp) -> QueuedBatch {
        self.next += 1;
        let thread = self.random() as usize % self.threads.len();
        QueuedBatch {
            id: BatchId { message: MessageId(self.next), number: 0 },
            thread: self.threads[thread].clone(),
            recipients: self.recipients.clone(),
            received: self.now,
            size: 4096,
            copies: 1,
            flow: Flow(self.next as u32 % 3),
            priority: 0,
            deliver_by: None,
            warned: false,
            attempts: 0,
            due,
            held: false,
            last: None,
        }
    }

    /// A batch that may go.
    pub(crate) fn due(&mut self) -> QueuedBatch {
        self.batch(self.now)
    }

    /// A batch whose time is to come.
    pub(crate) fn later(&mut self) -> QueuedBatch {
        let wait = self.random() % u64::try_from(self.span.as_micros()).unwrap_or(u64::MAX);
        self.batch(self.now + Duration::from_micros(wait))
    }

    #[inline(never)]
    pub(crate) fn arrive(&mut self, batch: QueuedBatch) {
        self.scheduler.handle_queue(self.now, Queue::Batch(batch));
        self.obey();
    }

    /// The agent that has waited longest reports a delivery.
    #[inline(never)]
    pub(crate) fn deliver(&mut self) {
        let (lease, ticket) = self.under_way.pop_front().expect("agents always have work");
        let verdict = Verdict {
            recipients: ticket.recipients.to_vec(),
            judgement: Judgement::Delivered { dsn_relayed: false },
            diagnostic: self.accepted.clone(),
            at: self.now,
            timing: Timing::default(),
        };
        self.report(Report::Settled { lease, batch: ticket.id, verdicts: vec![verdict], rest: Rest::Done });
        match self.agents.get(&lease) {
            Some(true) => self.release(lease),
            Some(false) => self.ask(lease),
            None => {}
        }
    }

    /// To the next time at which a batch is due.
    #[inline(never)]
    pub(crate) fn wake(&mut self) {
        let at = self.scheduler.poll_timeout().expect("some wait");
        self.now = self.now.max(at);
        self.scheduler.handle_timeout(self.now);
        self.obey();
    }

    fn report(&mut self, report: Report) {
        self.scheduler.handle_report(self.now, report);
        self.obey();
    }

    fn ask(&mut self, lease: LeaseId) {
        self.report(Report::Hungry { lease, credit: Credit { batches: 1, bytes: 1 << 20 } });
    }

    fn release(&mut self, lease: LeaseId) {
        self.agents.remove(&lease);
        self.report(Report::Released { lease, reason: Release::Done, statistics: Statistics::default() });
    }

    /// Takes all that the scheduler says. Outcomes go nowhere.
    fn obey(&mut self) {
        while self.scheduler.poll_record().is_some() {}
        while let Some(order) = self.scheduler.poll_order() {
            match order {
                Order::Lease { lease, takes_over, .. } => {
                    if let Some(old) = takes_over {
                        self.agents.remove(&old);
                    }
                    self.agents.insert(lease, false);
                    self.ask(lease);
                }
                Order::Carry { lease, batch } => self.under_way.push_back((lease, batch)),
                Order::Close { lease } if self.under_way.iter().any(|(other, _)| *other == lease) => {
                    self.agents.insert(lease, true);
                }
                Order::Close { lease } => self.release(lease),
                Order::Idle { .. } | Order::Connect { .. } => {}
            }
        }
    }

    /// The pages of `threads`: how long the scheduler was busy with each, and its rows.
    pub(crate) fn threads(&self) -> Vec<(Duration, usize)> {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let begin = crate::processor_time();
            let page = self.scheduler.threads(self.now, after.as_ref(), PAGE_MAX);
            pages.push((crate::processor_time().saturating_sub(begin), page.len()));
            after = page.last().map(|view| view.key.clone());
            if page.len() < PAGE_MAX {
                return pages;
            }
        }
    }

    /// The pages of `rings`.
    pub(crate) fn rings(&self) -> Vec<(Duration, usize)> {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let begin = crate::processor_time();
            let (page, next) = self.scheduler.rings(after.as_ref(), PAGE_MAX);
            pages.push((crate::processor_time().saturating_sub(begin), page.len()));
            after = next;
            if after.is_none() {
                return pages;
            }
        }
    }
}

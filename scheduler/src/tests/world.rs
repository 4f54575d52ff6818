//! A world around a scheduler: virtual time, agents that do as they are told, and books that must balance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{Credit, Judgement, LeaseId, Order, Release, Report, Rest, Statistics, Ticket, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, Pattern};
use zrelay_spool::{
    BatchId, BatchState, Diagnostic, Disposition, Flow, MessageId, Outcome, Queue, QueuedBatch, Request, Status,
    ThreadKey, ThreadState, Timing,
};

use crate::Settings;
use crate::beyond::{RunId, SpillOrder, Spilled};
use crate::operator::GIVEN_UP;
use crate::promises::TOO_LATE;
use crate::scheduler::Scheduler;

pub(super) const START: Timestamp = Timestamp::from_secs(1_000_000);

/// A clause with short times, for everything.
pub(super) fn clause(change: impl FnOnce(&mut Clause)) -> Arc<Clause> {
    let mut clause = Clause::default_for("smtp/*");
    clause.matches = Pattern::new("*").unwrap();
    clause.interval = Duration::from_secs(10);
    clause.retries = vec![1, 2, 4];
    clause.expiry = Duration::from_secs(300);
    change(&mut clause);
    Arc::new(clause)
}

pub(super) fn settings(clause: Arc<Clause>, agents: u32) -> Settings {
    Settings { clauses: vec![clause], agents, channel_agents: Vec::new(), sources: Vec::new() }
}

pub(super) fn reply(code: u16, text: &str) -> Arc<Diagnostic> {
    let status = Status(if code == 0 { 4 } else { u8::try_from(code / 100).unwrap() }, 0, 0);
    Arc::new(Diagnostic { code, status, text: text.to_owned(), ..Diagnostic::default() })
}

/// An agent as the world sees it.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) thread: ThreadKey,
    pub(super) carried: Vec<Ticket>,
    pub(super) idle: bool,
    pub(super) closing: bool,
    /// It was told to connect, since its site is free.
    pub(super) connects: bool,
}

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) now: Timestamp,
    pub(super) agents: BTreeMap<LeaseId, Agent>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) records: Vec<ThreadState>,
    /// What was recorded of batches.
    pub(super) states: BTreeMap<BatchId, BatchState>,
    pub(super) orders: Vec<String>,
    /// Recipients that came in and have no final outcome.
    pub(super) open: BTreeSet<(BatchId, u32)>,
    pub(super) finished: BTreeMap<(BatchId, u32), Disposition>,
    received: BTreeMap<BatchId, Timestamp>,
    /// Not to be carried before: by batch, by thread.
    dues: BTreeMap<(BatchId, u32), Timestamp>,
    thread_due: BTreeMap<ThreadKey, Timestamp>,
    clause: Arc<Clause>,
    next_message: u64,
    checks: bool,
    /// What is beyond the window.
    pub(super) spilled: BTreeMap<RunId, Vec<QueuedBatch>>,
    pub(super) disk: Disk,
}

/// Whether batches can be written beyond the window and read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disk {
    Works,
    Full,
    Unreadable,
}

impl World {
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        let clause = settings.clauses[0].clone();
        Self {
            scheduler: Scheduler::new(settings, seed),
            now: START,
            agents: BTreeMap::new(),
            outcomes: Vec::new(),
            records: Vec::new(),
            states: BTreeMap::new(),
            orders: Vec::new(),
            open: BTreeSet::new(),
            finished: BTreeMap::new(),
            received: BTreeMap::new(),
            dues: BTreeMap::new(),
            thread_due: BTreeMap::new(),
            clause,
            next_message: 0,
            checks: true,
            spilled: BTreeMap::new(),
            disk: Disk::Works,
        }
    }

    /// What is learned goes there, and what is known there counts.
    pub(super) fn remember(&mut self, sites: zrelay_sites::Sites) {
        let empty = Scheduler::new(settings(self.clause.clone(), 1), 0);
        let scheduler = std::mem::replace(&mut self.scheduler, empty);
        self.scheduler = scheduler.remembering(self.now, sites);
    }

    /// Checks no invariants from here on: the checks go through everything.
    pub(super) fn unchecked(&mut self) {
        self.checks = false;
    }

    /// A message for a thread; returns its batch.
    pub(super) fn arrive(&mut self, thread: &str, recipients: u32, size: u64) -> BatchId {
        self.arrive_from(Flow::default(), thread, recipients, size)
    }

    /// A message of a flow for a thread.
    pub(super) fn arrive_from(&mut self, flow: Flow, thread: &str, recipients: u32, size: u64) -> BatchId {
        self.arrive_as(thread, recipients, size, |batch| batch.flow = flow)
    }

    /// A message that is more than others.
    pub(super) fn arrive_as(
        &mut self,
        thread: &str,
        recipients: u32,
        size: u64,
        change: impl FnOnce(&mut QueuedBatch),
    ) -> BatchId {
        self.next_message += 1;
        let id = BatchId { message: MessageId(self.now.as_micros() + self.next_message), number: 0 };
        self.received.insert(id, self.now);
        let mut batch = QueuedBatch {
            id,
            thread: thread.parse().unwrap(),
            recipients: (0..recipients).collect(),
            received: self.now,
            size,
            copies: 1,
            flow: Flow::default(),
            priority: 0,
            deliver_by: None,
            warned: false,
            attempts: 0,
            due: self.now,
            held: false,
            last: None,
        };
        change(&mut batch);
        self.open.extend(batch.recipients.iter().map(|recipient| (id, *recipient)));
        self.scheduler.handle_queue(self.now, Queue::Batch(batch));
        self.settle_down();
        id
    }

    /// The hub dies and comes again: what was recorded is told to another scheduler. `old` is all that ever came.
    pub(super) fn restart(&mut self, scheduler: Scheduler, old: &[QueuedBatch]) {
        self.scheduler = scheduler;
        self.agents.clear();
        self.spilled.clear();
        let latest: BTreeMap<ThreadKey, ThreadState> =
            self.records.iter().map(|state| (state.key.clone(), state.clone())).collect();
        for state in latest.into_values().filter(|state| state.held || state.failures > 0) {
            self.scheduler.handle_queue(self.now, Queue::Thread(state));
        }
        for batch in old {
            let open = batch.recipients.iter().copied().filter(|one| self.open.contains(&(batch.id, *one)));
            let (recipients, held) = (open.collect(), self.states.get(&batch.id).is_some_and(|state| state.held));
            self.scheduler.handle_queue(self.now, Queue::Batch(QueuedBatch { recipients, held, ..batch.clone() }));
        }
        self.settle_down();
    }

    /// What was recorded, in order.
    pub(super) fn dispositions(&self) -> Vec<Disposition> {
        self.outcomes.iter().map(|outcome| outcome.disposition).collect()
    }

    pub(super) fn report(&mut self, report: Report) {
        self.scheduler.handle_report(self.now, report);
        self.settle_down();
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        self.settle_down();
    }

    /// To the next moment at which the scheduler wants to do something.
    pub(super) fn pass_to_timeout(&mut self) -> bool {
        let Some(at) = self.scheduler.poll_timeout() else { return false };
        self.now = self.now.max(at);
        self.settle_down();
        true
    }

    pub(super) fn hungry(&mut self, lease: LeaseId, batches: u32, bytes: u64) {
        self.report(Report::Hungry { lease, credit: Credit { batches, bytes } });
    }

    /// The agent judges all recipients of the first batch it carries alike.
    pub(super) fn settle(&mut self, lease: LeaseId, judgement: Judgement, diagnostic: &Arc<Diagnostic>) {
        let ticket = self.agents.get_mut(&lease).unwrap().carried.remove(0);
        let recipients = ticket.recipients.to_vec();
        self.verdict(lease, ticket.id, recipients, judgement, diagnostic, Rest::Done);
    }

    pub(super) fn verdict(
        &mut self,
        lease: LeaseId,
        batch: BatchId,
        recipients: Vec<u32>,
        judgement: Judgement,
        diagnostic: &Arc<Diagnostic>,
        rest: Rest,
    ) {
        let (diagnostic, at) = (diagnostic.clone(), self.now);
        let verdict = Verdict { recipients, judgement, diagnostic, at, timing: Timing::default() };
        self.report(Report::Settled { lease, batch, verdicts: vec![verdict], rest });
    }

    pub(super) fn release(&mut self, lease: LeaseId, reason: Release) {
        self.agents.remove(&lease);
        self.report(Report::Released { lease, reason, statistics: Statistics::default() });
    }

    /// The only agent of a thread.
    pub(super) fn agent(&self, thread: &str) -> LeaseId {
        let mut of_thread = self.agents.iter().filter(|(_, agent)| agent.thread.to_string() == thread);
        let found = of_thread.next().unwrap_or_else(|| panic!("{thread} has no agent"));
        assert!(of_thread.next().is_none(), "{thread} has several agents");
        *found.0
    }

    pub(super) fn has_agent(&self, thread: &str) -> bool {
        self.agents.values().any(|agent| agent.thread.to_string() == thread)
    }

    pub(super) fn state(&self, thread: &str) -> &'static str {
        self.scheduler.thread(self.now, &thread.parse().unwrap()).unwrap().thread.state.name()
    }

    /// An operator has overruled all times.
    pub(super) fn forget_dues(&mut self) {
        self.dues.clear();
        self.thread_due.clear();
    }

    /// Takes all output, lets all due timeouts happen, checks everything.
    pub(super) fn settle_down(&mut self) {
        self.take_output();
        let mut turns = 0;
        while self.scheduler.poll_timeout().is_some_and(|at| at <= self.now) {
            self.scheduler.handle_timeout(self.now);
            self.take_output();
            turns += 1;
            assert!(turns < 1000, "the scheduler does not come to rest");
        }
        if self.checks {
            self.check();
        }
    }

    fn take_output(&mut self) {
        self.take_records_and_orders();
        while let Some(order) = self.scheduler.poll_spill() {
            self.spill(order);
            self.take_records_and_orders();
        }
    }

    fn take_records_and_orders(&mut self) {
        // Records before orders: what is recorded decides what may be carried.
        while let Some(record) = self.scheduler.poll_record() {
            match record {
                Request::Outcomes(outcomes) => outcomes.into_iter().for_each(|outcome| self.note(outcome)),
                Request::Thread(state) => {
                    let before = self.records.iter().rev().find(|before| before.key == state.key);
                    if state.failures > before.map_or(0, |before| before.failures) {
                        // A thread joins the failure of its site, whose wait was checked with who found it out.
                        if !self.records.iter().any(|before| before.due == state.due) {
                            self.check_wait(state.due);
                        }
                    }
                    self.thread_due.insert(state.key.clone(), if state.failures > 0 { state.due } else { START });
                    self.records.push(state);
                }
                Request::Batch(state) => drop(self.states.insert(state.id, state)),
                Request::Reroute { id, .. } => self.dues.retain(|(batch, _), _| *batch != id),
                other => panic!("the scheduler has no business with {other:?}"),
            }
        }
        while let Some(order) = self.scheduler.poll_order() {
            self.obey(order);
        }
    }

    fn spill(&mut self, order: SpillOrder) {
        let spilled = match (order, self.disk) {
            (SpillOrder::Write { run, batches }, Disk::Full) => Spilled::NotWritten { run, batches },
            (SpillOrder::Write { run, batches }, _) => {
                assert!(!batches.is_empty());
                self.spilled.entry(run).or_default().extend(batches);
                return;
            }
            (SpillOrder::Read { run, .. }, Disk::Unreadable) => Spilled::NotRead { run },
            (SpillOrder::Read { run, thread }, _) => {
                let batches = self.spilled.remove(&run).expect("a run that was written");
                assert!(batches.iter().all(|batch| batch.thread == thread));
                Spilled::Read { run, batches }
            }
        };
        self.scheduler.handle_spill(self.now, spilled);
    }

    fn note(&mut self, outcome: Outcome) {
        let expired = self.received[&outcome.batch] + self.clause.expiry <= self.now;
        assert!(!outcome.recipients.is_empty());
        match outcome.disposition {
            Disposition::Deferred => {
                assert!(!expired, "deferred after its expiry: {outcome:?}");
                // Reports on a host's failure can come late, while outcomes cannot be recorded; its record was checked.
                if !self.records.iter().any(|state| state.due == outcome.due) {
                    self.check_wait(outcome.due);
                }
                let dues = outcome.recipients.iter().map(|one| ((outcome.batch, *one), outcome.due));
                self.dues.extend(dues);
            }
            Disposition::Expired if [GIVEN_UP, TOO_LATE].contains(&outcome.diagnostic.text.as_str()) => {}
            Disposition::Expired => assert!(expired, "expired before its time: {outcome:?}"),
            _ => {}
        }
        for recipient in &outcome.recipients {
            let name = (outcome.batch, *recipient);
            assert!(self.open.contains(&name), "an outcome for a recipient that is not open: {outcome:?}");
            if outcome.disposition.is_final() {
                self.open.remove(&name);
                assert!(self.finished.insert(name, outcome.disposition).is_none());
            }
        }
        self.outcomes.push(outcome);
    }

    fn check_wait(&self, due: Timestamp) {
        let wait = due.since(self.now).as_secs_f64();
        let units = &self.clause.retries;
        let possible = units.iter().any(|units| {
            let base = (self.clause.interval * *units).as_secs_f64();
            wait >= base * (1.0 - self.clause.jitter) - 0.001 && wait <= base * (1.0 + self.clause.jitter) + 0.001
        });
        assert!(possible, "a wait of {wait} s is none of {units:?} times {:?}", self.clause.interval);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Lease { lease, thread, takes_over, .. } => {
                self.orders.push(format!("lease {thread}"));
                if let Some(old) = takes_over {
                    // It may have released itself meanwhile; but it never carries anything.
                    assert!(self.agents.remove(&old).is_none_or(|agent| agent.carried.is_empty()));
                    self.orders.push("takes over".to_owned());
                }
                let due = self.thread_due.get(&thread).copied().unwrap_or(START);
                assert!(due <= self.now, "{thread} was to be left alone");
                self.agents
                    .insert(lease, Agent { thread, carried: Vec::new(), idle: false, closing: false, connects: false });
            }
            Order::Carry { lease, batch } => {
                for one in batch.recipients.iter() {
                    let due = self.dues.get(&(batch.id, *one)).copied().unwrap_or(START);
                    assert!(due <= self.now, "recipient {one} of {} is not due", batch.id);
                }
                let agent = self.agents.get_mut(&lease).expect("a carry without a lease");
                assert!(!agent.closing, "a carry behind a close");
                agent.idle = false;
                agent.carried.push(batch);
            }
            Order::Connect { lease } => {
                assert!(!self.agents[&lease].closing, "a connect behind a close");
                self.agents.get_mut(&lease).unwrap().connects = true;
            }
            Order::Idle { lease } => self.agents.get_mut(&lease).unwrap().idle = true,
            Order::Close { lease } => self.agents.get_mut(&lease).unwrap().closing = true,
        }
    }

    /// What must always hold.
    fn check(&self) {
        let held = self.spilled.values().flatten().filter(|batch| batch.held).count();
        let counted: u64 = self.scheduler.threads.values().map(|thread| thread.beyond.held()).sum();
        assert_eq!(held as u64, counted, "held beyond the window");
        assert_eq!(self.scheduler.audit(self.now), self.open.len());
        assert_eq!(self.scheduler.beyond_window(), self.spilled.values().map(Vec::len).sum::<usize>());
    }
}

//! What one event costs the scheduler, by the number of batches in its queue. See `tests/bench-scheduler --help`.
//!
//! - *delivery*: a batch is delivered, the next one goes out, and a new one arrives in some thread;
//! - *failure*: a host cannot be reached, its thread backs off, another thread gets its place, and another's wait is over;
//! - *page*: a page of the list of threads, and *rings*: the list of all rings: what an operator's look stops.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use zrelay_agent::{Credit, Judgement, LeaseId, Order, Release, Report, Rest, Statistics, Ticket, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::Config;
use zrelay_scheduler::{PAGE_MAX, Scheduler, Settings};
use zrelay_spool::{BatchId, Diagnostic, Flow, MessageId, Queue, QueuedBatch, Status, ThreadKey, Timing};

mod plot;

/// Batches in the queue.
const SIZES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Batches in each thread.
const BATCHES_PER_THREAD: u32 = 10;
/// Time between two events.
const STEP: Duration = Duration::from_micros(50);

/// A scheduler with a full queue, and agents that do what is to be done.
struct World {
    scheduler: Scheduler,
    now: Timestamp,
    threads: Vec<ThreadKey>,
    carried: VecDeque<(LeaseId, Ticket)>,
    leases: VecDeque<LeaseId>,
    message: u64,
    draw: u64,
}

impl World {
    fn new(batches: u32) -> Self {
        let config = "hostname = \"hub.example\"\nagents = 500\n";
        let config = Config::parse("the benchmark", config).expect("the configuration is right");
        let threads = (0..batches / BATCHES_PER_THREAD).map(|n| ThreadKey::new("smtp", &format!("d{n}.example")));
        let mut world = Self {
            scheduler: Scheduler::new(Settings::from(&config), 7),
            now: Timestamp::from_secs(1_800_000_000),
            threads: threads.collect(),
            carried: VecDeque::new(),
            leases: VecDeque::new(),
            message: 0,
            draw: 7,
        };
        for batch in 0..batches {
            world.arrive(batch as usize % world.threads.len());
        }
        // Every agent has been greeted, and the first work has gone out.
        world.drain();
        world
    }

    fn any(&mut self, below: usize) -> usize {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.draw >> 33) as usize % below
    }

    fn arrive(&mut self, thread: usize) {
        self.message += 1;
        let batch = QueuedBatch {
            id: BatchId { message: MessageId(self.now.as_micros() * 64 + self.message), number: 0 },
            thread: self.threads[thread].clone(),
            recipients: [0, 1].into(),
            received: self.now,
            size: 4096,
            copies: 1,
            flow: Flow((self.message % 3) as u32),
            attempts: 0,
            due: self.now,
            held: false,
            last: None,
            deliver_by: None,
            priority: 0,
            warned: false,
        };
        self.scheduler.handle_queue(self.now, Queue::Batch(batch));
    }

    /// Takes everything that the scheduler wants done, and does it.
    fn drain(&mut self) {
        while self.scheduler.poll_timeout().is_some_and(|at| at <= self.now) {
            self.scheduler.handle_timeout(self.now);
        }
        while let Some(order) = self.scheduler.poll_order() {
            match order {
                Order::Lease { lease, takes_over, .. } => {
                    self.leases.retain(|other| Some(*other) != takes_over);
                    self.leases.push_back(lease);
                    let credit = Credit { batches: 4, bytes: 1 << 20 };
                    self.scheduler.handle_report(self.now, Report::Hungry { lease, credit });
                }
                Order::Carry { lease, batch } => self.carried.push_back((lease, batch)),
                Order::Idle { .. } | Order::Connect { .. } => {}
                Order::Close { lease } => self.release(lease, Release::Done),
            }
        }
        while let Some(record) = self.scheduler.poll_record() {
            black_box(record);
        }
    }

    fn release(&mut self, lease: LeaseId, reason: Release) {
        self.leases.retain(|other| *other != lease);
        self.carried.retain(|(other, _)| *other != lease);
        self.scheduler.handle_report(self.now, Report::Released { lease, reason, statistics: Statistics::default() });
    }

    fn deliver(&mut self) {
        self.now = self.now + STEP;
        if let Some((lease, ticket)) = self.carried.pop_front() {
            let verdict = Verdict {
                recipients: ticket.recipients.to_vec(),
                judgement: Judgement::Delivered { dsn_relayed: false },
                diagnostic: Diagnostic { code: 250, ..Diagnostic::local(Status(2, 0, 0), "ok") }.into(),
                at: self.now,
                timing: Timing::default(),
            };
            let report = Report::Settled { lease, batch: ticket.id, verdicts: vec![verdict], rest: Rest::Done };
            self.scheduler.handle_report(self.now, report);
            let credit = Credit { batches: 1, bytes: ticket.weight };
            self.scheduler.handle_report(self.now, Report::Hungry { lease, credit });
        }
        let thread = self.any(self.threads.len());
        self.arrive(thread);
        self.drain();
    }

    fn fail(&mut self) {
        self.now = self.now + STEP;
        if let Some(lease) = self.leases.pop_front() {
            let reason = Diagnostic::local(Status(4, 4, 1), "connection refused");
            self.release(lease, Release::Failed(reason.into()));
        }
        self.drain();
    }
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, size: u32) {
    let mut world = World::new(size);
    group.bench_function(BenchmarkId::new("delivery", size), |bench| bench.iter(|| world.deliver()));
    let from = world.threads[world.threads.len() / 2].clone();
    group.throughput(Throughput::Elements(PAGE_MAX.min(world.threads.len() / 2) as u64));
    group.bench_function(BenchmarkId::new("page", size), |bench| {
        bench.iter_batched(
            || (),
            |()| world.scheduler.threads(world.now, Some(&from), PAGE_MAX),
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(world.threads.len() as u64));
    group.bench_function(BenchmarkId::new("rings", size), |bench| {
        bench.iter_batched(|| (), |()| world.scheduler.rings(), BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("failure", size), |bench| bench.iter(|| world.fail()));
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut group = criterion.benchmark_group("scheduler");
    for size in SIZES {
        measure(&mut group, size);
    }
    group.finish();
    criterion.final_summary();
    if let Some(path) = std::env::var_os("ZRELAY_PLOT")
        && let Err(problem) = plot::write(path.as_ref(), &SIZES)
    {
        eprintln!("no plot: {problem}");
        std::process::exit(1);
    }
}

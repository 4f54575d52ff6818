//! What a long queue costs in memory, and how soon a hub with one delivers after a restart. See `--help`.

#[path = "../../common/spool/examples/shared/mod.rs"]
mod shared;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shared::{PATIENCE, content, envelope, flush, outcome, stored};
use zrelay_agent::{Credit, Order, Report};
use zrelay_clock::Clock;
use zrelay_config::Config;
use zrelay_mailbox::{Received, Receiver, mailbox};
use zrelay_scheduler::{
    Answer, Ask, BATCH_OCTETS, Outlets as SchedulerOutlets, Scheduler, SchedulerHandle, SchedulerLoop, Settings,
};
use zrelay_spool::{
    BatchId, Committed, Disposition, Fact, MessageId, Options, Outlets, Request, RoutedBatch, Spill, Spool,
    SpoolHandle, ThreadKey,
};

const USAGE: &str = "\
usage: tests/bench-queue [OPTION...]

Fills the queue of a hub that delivers nothing, restarts it, and says what that took: octets of memory per recipient
(RssAnon, all of the process), the most it ever was, and the time from the start to the first batch with an agent and to
the last one in its thread. Spool and scheduler are the hub's own; intake, router and agents are stand-ins. Prints a
table, and JSON as the last line.

  --directory DIR   where to write; use the disk that is meant            [default: the temporary directory]
  --messages N      messages                                              [default: 100000]
  --recipients N    recipients of each, spread over the threads           [default: 1]
  --threads N       threads                                               [default: 1000]
  --length OCTETS   length of a message; every one is different           [default: 200]
  --memory MIB      [queue] memory of the configuration                   [default: 512]
  --checkpoint MIB  [hub] checkpoint_interval of the configuration      [default: 64]
  --tried PERCENT   of the batches of each message are tried, every second one of them with success, and what that and
                    its checkpoints take is said as well                  [default: 0]
  --without-checkpoint 1  removes the checkpoint before each restart      [default: 0]
  --restarts N      how often to restart it                               [default: 1]

The bound of 512 MiB with ten million recipients, once as posts and once as single messages (20 GB of disk, a quarter
of an hour):
  tests/bench-queue --messages 10000 --recipients 1000 --length 4000
  tests/bench-queue --messages 10000000
Checkpoints while such a queue is delivered:
  tests/bench-queue --messages 10000 --recipients 1000 --length 4000 --tried 10
Restart with a million recipients in a thousand threads, small and large bodies:
  tests/bench-queue --messages 1000000 --restarts 3
  tests/bench-queue --messages 1000000 --length 10000 --restarts 3";

/// Messages under way to the spool at a time.
const AHEAD: u64 = 512;
/// Outcomes in one record, and such records under way at a time.
const TOGETHER: usize = 64;
const AHEAD_RECORDS: usize = 16;

struct Options_ {
    directory: PathBuf,
    messages: u64,
    recipients: u32,
    threads: u64,
    length: usize,
    memory: u64,
    restarts: u64,
    checkpoint: u64,
    tried: u64,
    without_checkpoint: bool,
}

fn options() -> Result<Options_, String> {
    let mut options = Options_ {
        directory: std::env::temp_dir(),
        messages: 100_000,
        recipients: 1,
        threads: 1000,
        length: 200,
        memory: 512,
        restarts: 1,
        checkpoint: Options::CHECKPOINT_BYTES_DEFAULT >> 20,
        tried: 0,
        without_checkpoint: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{argument} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{argument} wants a number"));
        match argument.as_str() {
            "--directory" => options.directory = PathBuf::from(value),
            "--messages" => options.messages = number()?,
            "--recipients" => options.recipients = u32::try_from(number()?).map_err(|_| "too many recipients")?,
            "--threads" => options.threads = number()?.max(1),
            "--length" => {
                options.length = usize::try_from(number()?).unwrap_or(usize::MAX).min(zrelay_spool::PIECE_MAX);
            }
            "--memory" => options.memory = number()?.max(16),
            "--restarts" => options.restarts = number()?,
            "--checkpoint" => options.checkpoint = number()?.max(1),
            "--tried" => options.tried = number()?.min(100),
            "--without-checkpoint" => options.without_checkpoint = number()? > 0,
            _ => return Err(format!("unknown option {argument}")),
        }
    }
    Ok(options)
}

/// A line of `/proc/self/status`, in octets.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Watches the memory while something goes on.
struct Peak {
    most: Arc<AtomicU64>,
}

impl Peak {
    fn watch() -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let noted = most.clone();
        thread::spawn(move || {
            loop {
                noted.fetch_max(status("RssAnon"), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self { most }
    }

    /// The most since the last time.
    fn take(&self) -> u64 {
        self.most.swap(status("RssAnon"), Ordering::Relaxed)
    }
}

/// A hub without intake, router and agents.
struct Hub {
    spool: SpoolHandle,
    scheduler: SchedulerHandle,
    threads: Vec<JoinHandle<()>>,
    /// When the first agent got a batch.
    first: Receiver<Instant>,
}

fn start(options: &Options_) -> Hub {
    let clock = Clock::start();
    let memory = options.memory << 20;
    let spool_options = Options {
        reserve_bytes: 0,
        memory_bytes: memory / 8 * 5,
        checkpoint_bytes: options.checkpoint << 20,
        ..Options::new(options.directory.join("spool"))
    };
    let (spool, handle, recovered) = Spool::open(spool_options, clock.now()).expect("the spool opens");
    let (scheduler_loop, inlets) = SchedulerLoop::new().expect("an event loop");
    let spill = Spill::create(&options.directory.join("spool")).expect("a file beside the spool");
    let scheduler_loop = scheduler_loop.with_spill(spill);
    let mut scheduler = Scheduler::new(Settings::from(&Config::embedded()), 1);
    scheduler.set_window(usize::try_from(memory / 4 / BATCH_OCTETS).unwrap_or(usize::MAX));
    let (orders_in, orders) = mailbox(1024);
    let (first_in, first) = mailbox(1);
    let reports = inlets.reports.clone();
    let mut threads = Vec::new();
    // The agents want one batch each, and never say what became of it.
    threads.push(thread::spawn(move || {
        loop {
            match orders.wait(Duration::from_secs(60)) {
                Received::Item(Order::Lease { lease, .. }) => {
                    let _ = reports.send(Report::Hungry { lease, credit: Credit { batches: 1, bytes: 1 } });
                }
                Received::Item(Order::Carry { .. }) => drop(first_in.try_send(Instant::now())),
                Received::Item(_) | Received::Nothing => {}
                Received::Closed => return,
            }
        }
    }));
    let outlets = SchedulerOutlets { spool: handle.sender(), smtp: vec![orders_in.clone()], local: orders_in };
    threads.push(thread::spawn(move || scheduler_loop.run(scheduler, outlets, &clock)));
    // As the hub has it.
    let (routing, arrived) = mailbox(64);
    let (facts, told) = mailbox::<Fact>(4096);
    threads.push(thread::spawn(move || while !matches!(told.wait(PATIENCE), Received::Closed) {}));
    let (sender, count) = (handle.sender(), options.threads);
    threads.push(thread::spawn(move || {
        let mut number: u64 = 0;
        while let Received::Item(zrelay_spool::Arrived(message)) = arrived.wait(PATIENCE) {
            let reader_recipients = number;
            number += 1;
            let _ = sender.send(Request::Routed { message, batches: batches(reader_recipients, count) });
        }
    }));
    let outlets = Outlets { routing, scheduler: inlets.queue, facts };
    threads.push(thread::spawn(move || spool.run(outlets, recovered)));
    Hub { spool: handle, scheduler: inlets.handle, threads, first }
}

static RECIPIENTS: AtomicU64 = AtomicU64::new(1);

/// The recipients of a message in turn over the threads.
fn batches(message: u64, threads: u64) -> Vec<RoutedBatch> {
    let recipients = RECIPIENTS.load(Ordering::Relaxed);
    let hosts = recipients.min(threads);
    let batch = |host: u64| RoutedBatch {
        thread: ThreadKey::new("smtp", &format!("host{}.example.net", (message.wrapping_mul(7) + host) % threads)),
        recipients: (0..recipients as u32).filter(|recipient| u64::from(*recipient) % hosts == host).collect(),
    };
    (0..hosts).map(batch).collect()
}

/// Stores all messages, and returns their names if some of their batches are to be tried: the names of ten million take
/// 76 MiB that no hub would.
fn submit(hub: &Hub, options: &Options_) -> Vec<MessageId> {
    let (to, answers) = mailbox::<Committed>(2 * AHEAD as usize);
    let store = |number: u64| {
        if number >= AHEAD {
            stored(&answers);
        }
        let tail = content(0, number, options.length);
        shared::submit(&hub.spool, envelope(number, options.recipients), tail, &to, number)
    };
    let messages = (0..options.messages).map(store).filter(|_| options.tried > 0).collect();
    (0..options.messages.min(AHEAD)).for_each(|_| assert!(stored(&answers) < options.messages));
    messages
}

/// Lets a part of each message's batches be tried, one of every message after the other, as hosts work side by side:
/// every second one is delivered, the others are put off. Returns how many recipients left the queue.
fn attempt(hub: &Hub, messages: &[MessageId], options: &Options_) -> u64 {
    let hosts = u64::from(options.recipients).min(options.threads);
    let mut left = 0;
    for number in 0..u32::try_from(hosts * options.tried / 100).unwrap_or(u32::MAX) {
        let whose: Vec<u32> = (0..options.recipients).filter(|n| u64::from(*n) % hosts == u64::from(number)).collect();
        for (some, messages) in messages.chunks(TOGETHER).enumerate() {
            let tried = |(index, message): (usize, &MessageId)| {
                let (disposition, text) = if (number as usize + index).is_multiple_of(2) {
                    left += whose.len() as u64;
                    (Disposition::Delivered { dsn_relayed: false }, format!("2.0.0 Ok: queued as {:X}", message.0))
                } else {
                    (Disposition::Deferred, "4.2.1 slow down, and come back later".to_owned())
                };
                outcome(BatchId { message: *message, number }, whose.clone(), disposition, text)
            };
            let together = messages.iter().enumerate().map(tried).collect();
            assert!(hub.spool.sender().send(Request::Outcomes(together)).is_ok());
            // What waits for the disk takes memory as well.
            if some % AHEAD_RECORDS == 0 {
                flush(&hub.spool);
            }
        }
    }
    flush(&hub.spool);
    while is_making_a_checkpoint() {
        thread::sleep(Duration::from_millis(20));
    }
    left
}

/// The spool makes it in a thread of this name.
fn is_making_a_checkpoint() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.any(|name| name.trim() == "checkpoint")
}

/// Waits until all recipients are in their threads.
fn queued(hub: &Hub, recipients: u64) {
    loop {
        match hub.scheduler.ask(Ask::Totals) {
            Ok(Answer::Totals(totals)) if totals.load.recipients >= recipients => return,
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn stop(hub: Hub) {
    let Hub { spool, scheduler, threads, first: _ } = hub;
    scheduler.stop().expect("the scheduler stops");
    assert!(spool.sender().send(Request::Shutdown).is_ok());
    drop((spool, scheduler));
    threads.into_iter().for_each(|thread| thread.join().expect("a thread ends"));
}

fn size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let mut options = match options() {
        Ok(options) => options,
        Err(sentence) => {
            eprintln!("bench-queue: {sentence}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let directory = tempfile::tempdir_in(&options.directory).expect("a directory to write to");
    options.directory = directory.path().to_owned();
    RECIPIENTS.store(options.recipients.into(), Ordering::Relaxed);
    let recipients = options.messages * u64::from(options.recipients);
    let peak = Peak::watch();
    let mib = |octets: u64| octets as f64 / f64::from(1 << 20);
    let base = status("RssAnon");

    let begin = Instant::now();
    let hub = start(&options);
    let messages = submit(&hub, &options);
    queued(&hub, recipients);
    let seconds = begin.elapsed().as_secs_f64();
    let memory = status("RssAnon");
    let per = memory.saturating_sub(base) as f64 / recipients as f64;
    let disk = size(&options.directory.join("spool"));
    let most = peak.take();
    println!("{recipients} recipients in {} messages and {} threads:", options.messages, options.threads);
    println!("  queued in {seconds:.1} s, {:.0} MiB on disk", mib(disk));
    println!("  {:.1} MiB of memory ({:.1} MiB at the most), {per:.1} octets per recipient", mib(memory), mib(most));
    let begin = Instant::now();
    let left = attempt(&hub, &messages, &options);
    let (tried, tried_most) = (status("RssAnon"), peak.take());
    if options.tried > 0 {
        println!(
            "{}% of the batches tried, {left} recipients delivered, in {:.1} s and {} checkpoints, {:.0} MiB on disk",
            options.tried,
            begin.elapsed().as_secs_f64(),
            hub.spool.statistics().checkpoints,
            mib(size(&options.directory.join("spool")))
        );
        println!("  {:.1} MiB of memory ({:.1} MiB at the most)", mib(tried), mib(tried_most));
    }
    stop(hub);

    let mut restarts = Vec::new();
    for _ in 0..options.restarts {
        if options.without_checkpoint {
            let _ = std::fs::remove_file(options.directory.join("spool/checkpoint"));
        }
        peak.take();
        let begin = Instant::now();
        let hub = start(&options);
        let opened = begin.elapsed().as_secs_f64();
        let first = match hub.first.wait(PATIENCE) {
            Received::Item(at) => (at - begin).as_secs_f64(),
            other => panic!("no agent got a batch: {other:?}"),
        };
        queued(&hub, recipients - left);
        let all = begin.elapsed().as_secs_f64();
        let (memory, most) = (status("RssAnon"), peak.take());
        println!(
            "restarted: opened after {opened:.2} s, first batch with an agent after {first:.2} s, all after {all:.2} s"
        );
        println!("  {:.1} MiB of memory ({:.1} MiB at the most)", mib(memory), mib(most));
        restarts.push(format!(
            r#"{{"opened":{opened:.3},"first":{first:.3},"all":{all:.3},"rss_anon":{memory},"rss_anon_max":{most}}}"#
        ));
        stop(hub);
    }
    println!(
        r#"{{"messages":{},"recipients":{recipients},"threads":{},"length":{},"memory":{},"rss_anon":{memory},"rss_anon_max":{most},"tried_rss_anon":{tried},"tried_rss_anon_max":{tried_most},"disk":{disk},"restarts":[{}]}}"#,
        options.messages,
        options.threads,
        options.length,
        options.memory,
        restarts.join(",")
    );
    ExitCode::SUCCESS
}

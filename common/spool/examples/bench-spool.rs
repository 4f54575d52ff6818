//! How fast the spool makes messages durable, beside one file and one `fsync` per message. See `--help`.

mod shared;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use shared::{accepted, content, envelope, flush, outcome, stored, submit};
use zrelay_clock::Clock;
use zrelay_mailbox::{Receiver, mailbox};
use zrelay_spool::{
    Arrived, BatchId, Disposition, Fact, Importer, Options, Outcome, Outlets, PIECE_MAX, Queue, Request, RoutedBatch,
    Spool, SpoolHandle, ThreadKey,
};

const USAGE: &str = "\
usage: tests/bench-spool [OPTION...]

Durable messages per second of the spool at 1, 8 and 64 writers, each of which waits for its answer, beside the same
messages written as one file and one fsync each (in a directory per writer; the directory is not synced, to the
advantage of the files). Who writes files is a thread each, as the mailers that do it have a process each; the writers
of the spool are the connections of one event loop, as in the hub. The two take turns in short rounds; the table has the
medians, and the least and the largest ratio of a pair of rounds. Then: octets written for a post to many recipients, and
the time to open spools of growing queues. Prints a table, and JSON as the last line.

  --directory DIR   where to write; use the disk that is meant       [default: the temporary directory]
  --writers N,...   numbers of writers                               [default: 1,8,64]
  --rounds N        pairs of rounds for each number of writers       [default: 9]
  --round MS        length of a round                                [default: 500]
  --length OCTETS   length of a message                              [default: 4096]
  --recipients N    recipients of the post                           [default: 10000]
  --queue N         messages in the largest queue that is reopened   [default: 100000]";

struct Settings {
    directory: PathBuf,
    writers: Vec<usize>,
    rounds: u64,
    round: Duration,
    length: usize,
    recipients: u32,
    queue: u32,
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings {
        directory: std::env::temp_dir(),
        writers: vec![1, 8, 64],
        rounds: 9,
        round: Duration::from_millis(500),
        length: 4096,
        recipients: 10_000,
        queue: 100_000,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{argument} wants a value"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{argument} wants a number"));
        match argument.as_str() {
            "--directory" => settings.directory = PathBuf::from(value),
            "--writers" => {
                let numbers: Result<Vec<usize>, _> = value.split(',').map(str::parse).collect();
                settings.writers = numbers.map_err(|_| format!("{argument} wants numbers, such as 1,8"))?;
            }
            "--rounds" => settings.rounds = number()?.max(1).into(),
            "--round" => settings.round = Duration::from_millis(number()?.max(1).into()),
            "--length" => settings.length = (number()? as usize).min(PIECE_MAX),
            "--recipients" => settings.recipients = number()?,
            "--queue" => settings.queue = number()?,
            _ => return Err(format!("unknown option {argument}")),
        }
    }
    Ok(settings)
}

/// A running spool whose news are read and forgotten.
struct Running {
    handle: SpoolHandle,
    thread: thread::JoinHandle<()>,
    scheduler: Receiver<Queue>,
    facts: Receiver<Fact>,
    routing: Receiver<Arrived>,
}

fn start(directory: &Path) -> Running {
    let options = Options { reserve_bytes: 0, ..Options::new(directory) };
    let (spool, handle, recovered) = Spool::open(options, Clock::start().now()).expect("the spool opens");
    let (to_routing, routing) = mailbox(1 << 20);
    let (to_scheduler, scheduler) = mailbox(1 << 20);
    let (to_facts, facts) = mailbox(1 << 20);
    let outlets = Outlets { routing: to_routing, scheduler: to_scheduler, facts: to_facts };
    let thread = thread::spawn(move || spool.run(outlets, recovered));
    Running { handle, thread, scheduler, facts, routing }
}

impl Running {
    fn stop(self) {
        assert!(self.handle.sender().send(Request::Shutdown).is_ok());
        self.thread.join().expect("the spool ends well");
    }
}

/// One round of files: a thread for each writer; messages per second.
fn files(directory: &Path, writers: usize, round: u64, settings: &Settings) -> f64 {
    let begin = Instant::now();
    let until = begin + settings.round;
    let first = round << 32;
    let write = |writer: usize| {
        let folder = directory.join(format!("files{writers}.{writer}"));
        fs::create_dir_all(&folder).expect("a directory");
        let mut number = first;
        while Instant::now() < until {
            let mut file = File::create(folder.join(number.to_string())).expect("a file");
            file.write_all(&content(writer, number, settings.length)).expect("it is written");
            file.sync_all().expect("it is synced");
            number += 1;
        }
        number - first
    };
    let count: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer")).sum()
    });
    count as f64 / begin.elapsed().as_secs_f64()
}

/// One round of the spool: each answer lets its writer go on; messages per second.
fn spool(running: &Running, writers: usize, round: u64, settings: &Settings) -> f64 {
    let begin = Instant::now();
    let until = begin + settings.round;
    let (to, answers) = mailbox(writers);
    let mut numbers = vec![round << 32; writers];
    let mut write = |writer: usize| {
        let tail = content(writer, numbers[writer], settings.length);
        submit(&running.handle, envelope(numbers[writer], 1), tail, &to, writer as u64);
        numbers[writer] += 1;
    };
    (0..writers).for_each(&mut write);
    let (mut under_way, mut count) = (writers, 0_u64);
    while under_way > 0 {
        let first = stored(&answers);
        for writer in std::iter::once(first).chain(answers.drain(writers).map(accepted)) {
            count += 1;
            if Instant::now() < until {
                write(writer as usize);
            } else {
                under_way -= 1;
            }
        }
        // Somebody takes the news, as the router does.
        running.routing.drain(writers).for_each(drop);
    }
    count as f64 / begin.elapsed().as_secs_f64()
}

/// What so many writers bring about, in messages per second.
struct Contest {
    files: f64,
    spool: f64,
    /// Of the two in each pair of rounds: least, median, most.
    ratios: [f64; 3],
    syncs_per_message: f64,
}

/// Short rounds in turn, so that both have the same disk and the same machine; medians of all rounds.
fn contest(directory: &Path, writers: usize, settings: &Settings) -> Contest {
    let running = start(&directory.join(format!("spool{writers}")));
    let rounds: Vec<(f64, f64)> = (0..settings.rounds)
        .map(|round| (files(directory, writers, round, settings), spool(&running, writers, round, settings)))
        .collect();
    let statistics = running.handle.statistics();
    running.stop();
    let sorted = |value: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let median = |values: &[f64]| values[values.len() / 2];
    let ratios = sorted(|(files, spool)| spool / files);
    Contest {
        files: median(&sorted(|(files, _)| *files)),
        spool: median(&sorted(|(_, spool)| *spool)),
        ratios: [ratios[0], median(&ratios), ratios[ratios.len() - 1]],
        syncs_per_message: statistics.syncs as f64 / statistics.messages as f64,
    }
}

/// Octets written for one post, and what of them is not its content, for each recipient: acceptance, the routing
/// decision, one outcome for each of its hundred hosts.
fn post(directory: &Path, settings: &Settings) -> (u64, f64) {
    let running = start(&directory.join("post"));
    flush(&running.handle);
    let before = running.handle.statistics().bytes;
    let (to, answers) = mailbox(1);
    let tail = content(0, 0, settings.length);
    let message = submit(&running.handle, envelope(0, settings.recipients), tail, &to, 0);
    stored(&answers);
    let hosts = settings.recipients.min(100);
    let batches: Vec<RoutedBatch> = (0..hosts)
        .map(|host| RoutedBatch {
            thread: ThreadKey::new("smtp", &format!("host{host}.example.net")),
            recipients: (0..settings.recipients).filter(|n| n % hosts == host).collect(),
        })
        .collect();
    let delivered = |(number, batch): (u32, &RoutedBatch)| {
        let disposition = Disposition::Delivered { dsn_relayed: false };
        let text = "2.0.0 Ok: queued as 4XyZ".to_owned();
        outcome(BatchId { message, number }, batch.recipients.clone(), disposition, text)
    };
    let outcomes: Vec<Outcome> = (0..).zip(&batches).map(delivered).collect();
    assert!(running.handle.sender().send(Request::Routed { message, batches }).is_ok());
    flush(&running.handle);
    for outcome in outcomes {
        assert!(running.handle.sender().send(Request::Outcomes(vec![outcome])).is_ok());
        flush(&running.handle);
    }
    running.facts.drain(usize::MAX).for_each(drop);
    running.scheduler.drain(usize::MAX).for_each(drop);
    let octets = running.handle.statistics().bytes - before;
    running.stop();
    (octets, octets.saturating_sub(settings.length as u64) as f64 / f64::from(settings.recipients))
}

/// Seconds to open a spool with so many messages of one recipient.
fn recovery(directory: &Path, messages: u32, settings: &Settings) -> f64 {
    let directory = directory.join(format!("queue{messages}"));
    let mut importer = Importer::open(&directory, Clock::start().now()).expect("the spool opens");
    for number in 0..messages {
        importer.add(envelope(number.into(), 1), &content(0, number.into(), settings.length));
        if number % 1000 == 999 {
            importer.commit();
        }
    }
    importer.commit();
    drop(importer);
    let begin = Instant::now();
    let (_spool, _, recovered) = Spool::open(Options::new(&directory), Clock::start().now()).expect("it opens again");
    assert_eq!(recovered.messages(), messages as usize);
    let seconds = begin.elapsed().as_secs_f64();
    // Up to hundreds of megabytes that the next measurement does not need.
    let _ = fs::remove_dir_all(&directory);
    seconds
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let settings = match settings() {
        Ok(settings) => settings,
        Err(sentence) => {
            eprintln!("bench-spool: {sentence}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let directory = tempfile::tempdir_in(&settings.directory).expect("a directory to write to");
    let directory = directory.path();
    let mut json = Vec::new();
    println!(
        "{:>8} {:>10} {:>10} {:>8} {:>16} {:>14}",
        "writers", "files/s", "spool/s", "ratio", "least..most", "syncs/message"
    );
    for &writers in &settings.writers {
        let Contest { files, spool, ratios: [least, ratio, most], syncs_per_message } =
            contest(directory, writers, &settings);
        let span = format!("{least:.1}..{most:.1}");
        println!("{writers:>8} {files:>10.0} {spool:>10.0} {ratio:>8.1} {span:>16} {syncs_per_message:>14.3}");
        json.push(format!(
            r#"{{"writers":{writers},"files_per_s":{files:.1},"spool_per_s":{spool:.1},"ratio":{ratio:.2},"ratio_least":{least:.2},"ratio_most":{most:.2},"syncs_per_message":{syncs_per_message:.4}}}"#
        ));
    }
    let (octets, per_recipient) = post(directory, &settings);
    println!(
        "\na post of {} octets to {} recipients: {octets} octets written, {per_recipient:.1} per recipient beside the content",
        settings.length, settings.recipients
    );
    println!("\n{:>10} {:>12}", "queue", "opened in s");
    let mut recoveries = Vec::new();
    for messages in [settings.queue / 100, settings.queue / 10, settings.queue] {
        let seconds = recovery(directory, messages, &settings);
        println!("{messages:>10} {seconds:>12.3}");
        recoveries.push(format!(r#"{{"messages":{messages},"seconds":{seconds:.4}}}"#));
    }
    println!(
        r#"{{"length":{},"writers":[{}],"post":{{"recipients":{},"bytes":{octets},"bytes_per_recipient":{per_recipient:.2}}},"recovery":[{}]}}"#,
        settings.length,
        json.join(","),
        settings.recipients,
        recoveries.join(",")
    );
    ExitCode::SUCCESS
}

//! How fast the spool makes messages durable, beside one file and one `fsync` per message. See `--help`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use zrelay_clock::Clock;
use zrelay_mailbox::{Received, Receiver, mailbox};
use zrelay_spool::{
    Arrived, CommitReply, Committed, Content, Diagnostic, Disposition, Envelope, Fact, Handling, Importer, MessageId,
    Notify, Options, Outcome, Outlets, PIECE_MAX, Queue, Recipient, Request, RoutedBatch, Spool, SpoolHandle,
    ThreadKey, Timing,
};

const USAGE: &str = "\
usage: tests/bench-spool [OPTION...]

Durable messages per second of the spool at 1, 8 and 64 writers, each of which waits for its answer, beside the same
messages written as one file and one fsync each (in a directory per writer; the directory is not synced, to the
advantage of the files). Then: octets written for a post to many recipients, and the time to open spools of growing
queues. Prints a table, and JSON as the last line.

  --directory DIR   where to write; use the disk that is meant       [default: the temporary directory]
  --seconds N       length of each measurement of writers            [default: 3]
  --length OCTETS   length of a message                              [default: 4096]
  --recipients N    recipients of the post                           [default: 10000]
  --queue N         messages in the largest queue that is reopened   [default: 100000]";

const PATIENCE: Duration = Duration::from_secs(60);

struct Settings {
    directory: PathBuf,
    seconds: u64,
    length: usize,
    recipients: u32,
    queue: u32,
}

fn settings() -> Result<Settings, String> {
    let mut settings =
        Settings { directory: std::env::temp_dir(), seconds: 3, length: 4096, recipients: 10_000, queue: 100_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{argument} wants a value"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{argument} wants a number"));
        match argument.as_str() {
            "--directory" => settings.directory = PathBuf::from(value),
            "--seconds" => settings.seconds = number()?.into(),
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

    fn flush(&self) {
        let (to, answers) = mailbox(1);
        assert!(self.handle.sender().send(Request::Flush { reply: CommitReply { to, token: 0 } }).is_ok());
        stored(&answers);
    }
}

fn stored(answers: &Receiver<Committed>) {
    match answers.wait(PATIENCE) {
        Received::Item(Committed { result: Ok(()), .. }) => {}
        other => panic!("{other:?}"),
    }
}

fn envelope(recipients: u32) -> Envelope {
    let recipient = |n| Recipient {
        address: format!("subscriber.{n}@host{}.example.net", n % 100),
        sender: 0,
        orcpt: None,
        notify: Notify::Default,
    };
    Envelope {
        received: Clock::start().now(),
        trace: b"Received: from localhost (localhost [127.0.0.1])\r\n\tby hub.example.org; today\r\n".to_vec(),
        client: "localhost[127.0.0.1]".to_owned(),
        content: Content::default(),
        envid: None,
        ret: None,
        handling: Handling::default(),
        senders: vec!["list-bounces@example.org".to_owned()],
        recipients: (0..recipients).map(recipient).collect(),
        origin: None,
    }
}

/// No two of them are the same, so that none is stored for another.
fn content(writer: usize, number: u64, length: usize) -> Vec<u8> {
    let mut content = format!("Subject: {number} of {writer}\r\n\r\n").into_bytes();
    content.resize(length.max(content.len()), b'x');
    content
}

/// Runs `write` in so many threads for so long; messages per second.
fn rate(writers: usize, seconds: u64, write: impl Fn(usize, u64) + Sync) -> f64 {
    let begin = Instant::now();
    let until = begin + Duration::from_secs(seconds);
    let count: u64 = thread::scope(|scope| {
        let write = &write;
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                scope.spawn(move || {
                    let mut number = 0;
                    while Instant::now() < until {
                        write(writer, number);
                        number += 1;
                    }
                    number
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer")).sum()
    });
    count as f64 / begin.elapsed().as_secs_f64()
}

fn files(directory: &Path, writers: usize, settings: &Settings) -> f64 {
    let folders: Vec<PathBuf> = (0..writers).map(|writer| directory.join(format!("files{writers}.{writer}"))).collect();
    folders.iter().for_each(|folder| fs::create_dir_all(folder).expect("a directory"));
    rate(writers, settings.seconds, |writer, number| {
        let mut file = File::create(folders[writer].join(number.to_string())).expect("a file");
        file.write_all(&content(writer, number, settings.length)).expect("it is written");
        file.sync_all().expect("it is synced");
    })
}

/// Messages per second, and `fdatasync`s per message.
fn spool(directory: &Path, writers: usize, settings: &Settings) -> (f64, f64) {
    let running = start(&directory.join(format!("spool{writers}")));
    let rate = rate(writers, settings.seconds, |writer, number| {
        let (to, answers) = mailbox(1);
        let message = running.handle.next_id();
        let tail = content(writer, number, settings.length);
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&message.0.to_le_bytes());
        let reply = CommitReply { to, token: message.0 };
        let envelope = Box::new(envelope(1));
        let commit = Request::Commit { message, tail, digest, envelope, reply };
        assert!(running.handle.intake().send(commit).is_ok());
        stored(&answers);
        // Somebody takes the news, as the router does.
        running.routing.drain(64).for_each(drop);
    });
    let statistics = running.handle.statistics();
    running.stop();
    (rate, statistics.syncs as f64 / statistics.messages as f64)
}

/// Octets written for one post, and what of them is not its content, for each recipient: acceptance, the routing
/// decision, one outcome for each of its hundred hosts.
fn post(directory: &Path, settings: &Settings) -> (u64, f64) {
    let running = start(&directory.join("post"));
    running.flush();
    let before = running.handle.statistics().bytes;
    let (to, answers) = mailbox(1);
    let message = running.handle.next_id();
    let tail = content(0, 0, settings.length);
    let reply = CommitReply { to, token: 0 };
    let envelope = Box::new(envelope(settings.recipients));
    let commit = Request::Commit { message, tail, digest: [1; 32], envelope, reply };
    assert!(running.handle.intake().send(commit).is_ok());
    stored(&answers);
    let hosts = settings.recipients.min(100);
    let batches: Vec<RoutedBatch> = (0..hosts)
        .map(|host| RoutedBatch {
            thread: ThreadKey::new("smtp", &format!("host{host}.example.net")),
            recipients: (0..settings.recipients).filter(|n| n % hosts == host).collect(),
        })
        .collect();
    let outcomes: Vec<Outcome> = (0..).zip(&batches).map(|(number, batch)| delivered(message, number, batch)).collect();
    assert!(running.handle.sender().send(Request::Routed { message, batches }).is_ok());
    running.flush();
    for outcome in outcomes {
        assert!(running.handle.sender().send(Request::Outcomes(vec![outcome])).is_ok());
        running.flush();
    }
    running.facts.drain(usize::MAX).for_each(drop);
    running.scheduler.drain(usize::MAX).for_each(drop);
    let octets = running.handle.statistics().bytes - before;
    running.stop();
    (octets, octets.saturating_sub(settings.length as u64) as f64 / f64::from(settings.recipients))
}

fn delivered(message: MessageId, number: u32, batch: &RoutedBatch) -> Outcome {
    let diagnostic = Diagnostic { code: 250, text: "2.0.0 Ok: queued as 4XyZ".to_owned(), ..Diagnostic::default() };
    Outcome {
        batch: zrelay_spool::BatchId { message, number },
        recipients: batch.recipients.clone(),
        disposition: Disposition::Delivered { dsn_relayed: false },
        diagnostic: diagnostic.into(),
        at: Clock::start().now(),
        attempts: 1,
        due: Clock::start().now(),
        timing: Timing::default(),
        channel: None,
    }
}

/// Seconds to open a spool with so many messages of one recipient.
fn recovery(directory: &Path, messages: u32, settings: &Settings) -> f64 {
    let directory = directory.join(format!("queue{messages}"));
    let mut importer = Importer::open(&directory, Clock::start().now()).expect("the spool opens");
    for number in 0..messages {
        importer.add(envelope(1), &content(0, number.into(), settings.length));
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
    println!("{:>8} {:>12} {:>12} {:>8} {:>14}", "writers", "files/s", "spool/s", "ratio", "syncs/message");
    for writers in [1, 8, 64] {
        let files = files(directory, writers, &settings);
        let (spool, syncs) = spool(directory, writers, &settings);
        println!("{writers:>8} {files:>12.0} {spool:>12.0} {:>8.1} {syncs:>14.3}", spool / files);
        json.push(format!(
            r#"{{"writers":{writers},"files_per_s":{files:.1},"spool_per_s":{spool:.1},"syncs_per_message":{syncs:.4}}}"#
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

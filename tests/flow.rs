//! Mail flows through the hub: everything arrives, once, and octet for octet.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use zrelay_tests::peers::{self, Dumped, Peers, SmtpSink, smtp_source};
use zrelay_tests::{Answered, Body, Hub, Mail, Marked, Offer, SOON, Sink, inject, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

/// One run of `smtp-source`: the domain of its recipients tells it from the others.
struct Source {
    domain: &'static str,
    messages: usize,
    connections: usize,
    recipients: usize,
    /// Octets of the body that smtp-source makes, or of a file that it sends.
    octets: usize,
    file: bool,
}

const fn source(
    domain: &'static str,
    messages: usize,
    connections: usize,
    recipients: usize,
    octets: usize,
    file: bool,
) -> Source {
    Source { domain, messages, connections, recipients, octets, file }
}

/// 5,000 messages over 20 connections.
const SOURCES: [Source; 7] = [
    source("tiny.test", 3000, 8, 1, 100, false),
    source("small.test", 1500, 5, 1, 4096, false),
    source("group.test", 400, 2, 5, 8192, true),
    source("list.test", 50, 1, 100, 4096, false),
    source("large.test", 40, 2, 2, 1_000_000, true),
    source("post.test", 5, 1, 1000, 20_000, true),
    source("huge.test", 5, 1, 1, 10_000_000, true),
];

impl Source {
    /// The message that it sends from a file.
    fn mail(&self) -> Mail {
        let mut mail = Mail::generate(self.domain, self.octets, Body::Text, "sender@source.test", &[]);
        mail.content.extend_from_slice(b"\r\n");
        mail
    }

    fn spawn(&self, peers: &Peers, directory: &Path, hub: &Hub) -> std::process::Child {
        let numbers = [self.messages, self.connections, self.recipients, self.octets].map(|number| number.to_string());
        let to = format!("r@{}", self.domain);
        let mut options = vec![
            "-d",
            "-N",
            "-f",
            "sender@source.test",
            "-t",
            &to,
            "-m",
            &numbers[0],
            "-s",
            &numbers[1],
            "-r",
            &numbers[2],
        ];
        let file = directory.join(self.domain).display().to_string();
        if self.file {
            // smtp-source wants LF lines and adds an empty one.
            let text = String::from_utf8(self.mail().content).expect("ASCII").replace("\r\n", "\n");
            fs::write(&file, text.strip_suffix('\n').unwrap_or(&text)).expect("the hub's directory is ours");
            options.extend(["-F", &file]);
        } else {
            options.extend(["-l", &numbers[3]]);
        }
        let mut command = smtp_source(peers, &options, hub.smtp(), Duration::from_secs(240));
        command.spawn().expect("smtp-source starts")
    }

    /// Checks that every recipient got its message once, and that no octet of it changed.
    fn check(&self, all: &[Dumped], bodies: &HashMap<usize, Vec<u8>>) {
        let suffix = format!("r@{}", self.domain);
        let mut recipients = HashMap::new();
        let mut identities: HashMap<String, usize> = HashMap::new();
        for dumped in all.iter().filter(|it| it.recipients.iter().any(|address| address.ends_with(&suffix))) {
            assert_eq!(dumped.sender, "sender@source.test");
            for recipient in &dumped.recipients {
                *recipients.entry(recipient.clone()).or_insert(0) += 1;
            }
            if self.file {
                assert_eq!(Marked::find_in_file(&dumped.content), Some(self.mail().marked()), "{}", self.domain);
            } else {
                let (fields, body) = dumped.split();
                assert!(body == bodies[&self.octets], "{}: another body of {} octets", self.domain, body.len());
                *identities.entry(fields["message-id"].clone()).or_insert(0) += dumped.recipients.len();
            }
        }
        let doubled: Vec<_> = recipients.iter().filter(|(_, count)| **count != 1).take(10).collect();
        assert!(doubled.is_empty(), "{}: delivered more than once: {doubled:?}", self.domain);
        assert_eq!(recipients.len(), self.messages * self.recipients, "{}: recipients", self.domain);
        if !self.file {
            assert_eq!(identities.len(), self.messages, "{}: messages", self.domain);
            assert!(identities.values().all(|count| *count == self.recipients), "{}: {identities:?}", self.domain);
        }
    }
}

/// The body that smtp-source sends for each length, taken from a direct run.
fn bodies(peers: &Peers) -> HashMap<usize, Vec<u8>> {
    let lengths: HashSet<usize> = SOURCES.iter().filter(|it| !it.file).map(|it| it.octets).collect();
    let of_length = |octets: usize| {
        let sink = SmtpSink::start(peers, &[]);
        peers::run(&mut smtp_source(peers, &["-l", &octets.to_string()], sink.address(), SOON));
        assert!(wait_until(SOON, || sink.transactions().len() == 1));
        (octets, sink.transactions()[0].split().1.to_vec())
    };
    lengths.into_iter().map(of_length).collect()
}

#[test]
fn five_thousand_messages_of_all_sizes_arrive_once_and_unchanged() {
    let Some(peers) = Peers::find() else { return skip(peers::MISSING) };
    let bodies = bodies(&peers);
    let sink = SmtpSink::start(&peers, &[]);
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let before = hub.usage();

    let begin = Instant::now();
    let mut children: Vec<_> = SOURCES.iter().map(|source| source.spawn(&peers, hub.path(), &hub)).collect();
    for (child, source) in children.iter_mut().zip(&SOURCES) {
        let status = child.wait().expect("our own child");
        assert!(status.success(), "smtp-source for {}: {status}", source.domain);
    }
    let accepted = begin.elapsed();
    assert!(hub.wait_until_empty(Duration::from_secs(120)), "still queued: {}", hub.json(&["threads"]));
    let delivered = begin.elapsed();
    let after = hub.usage();

    let messages: usize = SOURCES.iter().map(|source| source.messages).sum();
    let recipients: usize = SOURCES.iter().map(|source| source.messages * source.recipients).sum();
    let cpu = after.cpu - before.cpu;
    println!(
        "{messages} messages, {recipients} recipients: accepted in {accepted:.2?}, delivered in {delivered:.2?}; \
         CPU {cpu:.2?}, {:.0} us a message; memory at most {:.1} MiB, {:.1} MiB at the end",
        cpu.as_secs_f64() * 1e6 / messages as f64,
        after.resident_peak as f64 / 1_048_576.0,
        after.resident as f64 / 1_048_576.0,
    );
    let all = sink.transactions();
    for source in &SOURCES {
        source.check(&all, &bodies);
    }
    assert!(after.resident_peak < 400 << 20, "{} octets of memory", after.resident_peak);
}

#[test]
fn a_stream_of_bdat_arrives_once_and_unchanged_over_one_connection() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let make = |number: usize| {
        let octets = [300, 5000, 60_000][number % 3];
        let body = if number.is_multiple_of(2) { Body::Text } else { Body::EightBit };
        let recipients: Vec<String> = (0..=number % 4).map(|index| format!("r{number}.{index}@b.test")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        Mail::generate(&format!("bdat.{number}"), octets, body, &format!("s{number}@a.test"), &recipients)
    };
    let answers = inject(hub.smtp(), 600, 4, &AtomicBool::new(false), make);
    assert_eq!(answers, [Answered::Accepted; 600]);
    let expected: HashSet<_> = (0..600)
        .flat_map(|number| {
            let mail = make(number);
            let marked = mail.marked();
            mail.recipients.into_iter().map(move |recipient| (marked.clone(), recipient))
        })
        .collect();
    assert!(sink.wait(expected.len(), SOON), "{} of {}", sink.count(), expected.len());
    assert!(hub.wait_until_empty(SOON));
    let deliveries = sink.deliveries();
    assert_eq!(deliveries.len(), expected.len(), "each once");
    assert_eq!(deliveries.into_iter().collect::<HashSet<_>>(), expected);
    assert!(sink.transactions().iter().all(|it| it.chunked), "BDAT was offered");
    assert_eq!(sink.connections(), 1, "one thread, one connection");
    assert!(sink.violations().is_empty(), "{:?}", sink.violations());
}

/// Each combination of what a next hop offers.
#[test]
fn every_kind_of_next_hop_gets_the_same_mail() {
    for offers in
        [&[][..], &[Offer::Pipelining], &[Offer::Chunking], &[Offer::Pipelining, Offer::Chunking, Offer::Size(0)]]
    {
        let sink = Sink::build().offers(offers).start();
        let hub = Hub::towards(ZRELAY, &sink.host()).start();
        let make = |number: usize| {
            Mail::generate(&format!("kind.{number}"), 3000 * number, Body::Text, "s@a.test", &["r@b.test", "t@c.test"])
        };
        assert_eq!(inject(hub.smtp(), 20, 2, &AtomicBool::new(false), make), [Answered::Accepted; 20]);
        assert!(sink.wait(40, SOON), "{offers:?}: {} of 40, {:?}", sink.count(), sink.violations());
        let deliveries = sink.deliveries();
        for number in 0..20 {
            let count = deliveries.iter().filter(|it| it.0 == make(number).marked()).count();
            assert_eq!(count, 2, "{offers:?}, message {number}");
        }
        assert!(sink.violations().is_empty(), "{offers:?}: {:?}", sink.violations());
    }
}

#[test]
fn the_received_line_is_full_and_alone() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let mail = Mail::generate("trace", 500, Body::Text, "s@a.test", &["r@b.test"]);
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], &mail.content).code, 250);
    assert!(sink.wait(1, SOON));
    let text = sink.transactions()[0].text();
    let trace = text.split("X-Mark:").next().expect("there is a part in front");
    for part in
        ["Received: from client.test", "[127.0.0.1]", "by hub.test", "with ESMTP", "id ", "for <r@b.test>;", " +0000"]
    {
        assert!(trace.contains(part), "no {part:?} in {trace}");
    }
    assert!(trace.starts_with("Received:") && trace.ends_with("\r\n"), "{trace}");
    let fields = trace.lines().filter(|line| !line.starts_with([' ', '\t'])).count();
    assert_eq!(fields, 1, "one header field: {trace}");
}

#[test]
fn a_recipient_named_twice_gets_one_copy() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let reply =
        hub.client().mail("s@a.test", &["r@b.test", "r@b.test", "r@B.TEST", "R@b.test"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250);
    assert!(hub.wait_until_empty(SOON) && sink.wait(2, SOON));
    let mut recipients: Vec<String> = sink.deliveries().into_iter().map(|it| it.1).collect();
    recipients.extend(sink.transactions().into_iter().flat_map(|it| it.recipients));
    recipients.sort();
    recipients.dedup();
    // The case of the local part may matter to the receiver, that of the domain never does.
    assert_eq!(recipients, ["R@b.test", "r@b.test"]);
    assert_eq!(sink.count(), 2);
}

#[test]
fn recipients_beyond_the_limit_of_the_next_hop_go_in_the_next_transactions() {
    let sink =
        Sink::build().offers(&[Offer::Pipelining, Offer::Chunking, Offer::Size(0), Offer::RecipientsMax(30)]).start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let recipients: Vec<String> = (0..100).map(|number| format!("r{number}@b.test")).collect();
    let names: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let mail = Mail::generate("limit", 2000, Body::Text, "s@a.test", &names);
    assert_eq!(hub.client().mail("s@a.test", &names, &mail.content).code, 250);
    assert!(sink.wait(100, SOON), "{}", sink.count());
    let mut got: Vec<String> = sink.deliveries().into_iter().map(|it| it.1).collect();
    let mut wanted = recipients.clone();
    got.sort();
    wanted.sort();
    assert_eq!(got, wanted);
    assert_eq!(sink.connections(), 1);
    assert!(sink.transactions().iter().all(|it| it.recipients.len() <= 30));
    assert!(hub.log_lines(&["status=deferred"]).is_empty(), "the rest goes at once, without a failure mark");
}

//! What single messages wait for while a large post goes out, beside Postfix on the same machine in the same run. See
//! `--help`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zrelay_tests::peers::{Peers, Postfix};
use zrelay_tests::{Answer, Body, Client, Hub, Mail, Marked, Sink, Step, prepare, wait_until};

const USAGE: &str = "\
usage: tests/bench-fair [OPTION...]

One post goes to many recipients at a far side that takes its time for each. While it goes out, single messages of another
sender are sent, in turns to the same far side and to another one that is as slow. What they wait, from their 250 until
the far side has them, and how fast the post goes out, for zrelay and Postfix, one after the other. Prints a table, and
JSON as the last line. Needs root (for Postfix) and what tests/peers fetches.

  --recipients N    recipients of the post                      [default: 20000]
  --delay MS        what the far side takes for a recipient     [default: 5]
  --singles N       single messages                             [default: 50]
  --interval MS     one single message in this time             [default: 100]
  --length OCTETS   length of each message                      [default: 4096]
  --only NAMES      of zrelay,zrelay-20,postfix,postfix-1       [default: all]
  --short           4000 recipients, 30 single messages; twenty connections are through with that before most of them come
  --zrelay PATH     the binary                                  [default: target/release/zrelay, built first]

  zrelay       as it is: one connection to a host (thread_agents = 1)
  zrelay-20    thread_agents = 20, each of which has to show its worth
  postfix      as it is: up to 20 connections to a destination, 50 recipients at a time; no limits for the client, no
               in_flow_delay, the connection cache on for all destinations
  postfix-1    the same with one connection to a destination, as zrelay has

The far side takes the time on each connection apart: twenty connections go twenty times as fast. Compare zrelay with
postfix-1 for the order in which things are sent, with postfix for what is felt.";

/// Longest part of the run.
const LIMIT: Duration = Duration::from_secs(900);

/// How long after the post was taken the first single message comes: it is going out then.
const HEAD_START: Duration = Duration::from_secs(1);

const NAMES: [&str; 4] = ["zrelay", "zrelay-20", "postfix", "postfix-1"];

struct Options {
    recipients: usize,
    delay: Duration,
    singles: usize,
    interval: Duration,
    length: usize,
    only: Vec<String>,
    zrelay: PathBuf,
}

/// What came of one contender.
struct Outcome {
    name: &'static str,
    /// Of messages to the far side of the post, in order, seconds; and to the other one.
    same: Vec<f64>,
    other: Vec<f64>,
    /// From its 250 to its last recipient, seconds.
    post: f64,
    connections: usize,
    transactions: usize,
}

fn main() -> ExitCode {
    let (options, peers) = match prepare("bench-fair", USAGE, parse(std::env::args().skip(1))) {
        Ok(prepared) => prepared,
        Err(status) => return status,
    };
    let mut outcomes = Vec::new();
    for name in NAMES.into_iter().filter(|name| options.only.iter().any(|only| only == name)) {
        match contend(&options, &peers, name) {
            Ok(outcome) => outcomes.push(outcome),
            Err(problem) => {
                eprintln!("bench-fair: {name}: {problem}");
                return ExitCode::FAILURE;
            }
        }
    }
    report(&options, &outcomes);
    ExitCode::SUCCESS
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        recipients: 20_000,
        delay: Duration::from_millis(5),
        singles: 50,
        interval: Duration::from_millis(100),
        length: 4096,
        only: NAMES.map(str::to_owned).to_vec(),
        zrelay: "target/release/zrelay".into(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text} is not a number"));
        let millis = |text: String| text.parse().map(Duration::from_millis).map_err(|_| format!("{text} is no time"));
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--short" => (options.recipients, options.singles) = (4000, 30),
            "--recipients" => options.recipients = number(value()?)?.max(1),
            "--delay" => options.delay = millis(value()?)?,
            "--singles" => options.singles = number(value()?)?,
            "--interval" => options.interval = millis(value()?)?,
            "--length" => options.length = number(value()?)?,
            "--zrelay" => options.zrelay = value()?.into(),
            "--only" => {
                options.only = value()?.split(',').map(str::to_owned).collect();
                if let Some(other) = options.only.iter().find(|name| !NAMES.contains(&name.as_str())) {
                    return Err(format!("{other} is none of {}", NAMES.join(",")));
                }
            }
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(Some(options))
}

/// A far side that takes its time for each recipient, and notes when it had what.
struct FarSide {
    sink: Sink,
    had: Arc<Mutex<Vec<(String, usize, Instant)>>>,
}

impl FarSide {
    fn start(delay: Duration) -> Self {
        let had: Arc<Mutex<Vec<(String, usize, Instant)>>> = Arc::default();
        let notes = Arc::clone(&had);
        let sink = Sink::build().answer(move |step| {
            match step {
                Step::Rcpt(_) => std::thread::sleep(delay),
                Step::End(transaction) => {
                    let mark = Marked::find(&transaction.content).map_or_else(String::new, |marked| marked.mark);
                    let mut notes = notes.lock().expect("nobody panics with it");
                    notes.push((mark, transaction.recipients.len(), Instant::now()));
                }
                Step::Connect(_) | Step::Mail(_) | Step::Data => {}
            }
            Answer::Accept
        });
        Self { sink: sink.start(), had }
    }

    fn transactions(&self) -> usize {
        self.had.lock().expect("nobody panics with it").len()
    }

    /// When it had the last of so many recipients of this message.
    fn had(&self, mark: &str, recipients: usize) -> Option<Instant> {
        let had = self.had.lock().expect("nobody panics with it");
        let of_mark = || had.iter().filter(|(other, ..)| other == mark);
        let count: usize = of_mark().map(|(_, recipients, _)| recipients).sum();
        of_mark().map(|(.., at)| *at).max().filter(|_| count >= recipients)
    }
}

/// The server under test; it ends on drop.
enum Server {
    Zrelay(Hub),
    Postfix(Postfix),
}

impl Server {
    fn start(options: &Options, peers: &Peers, name: &str, far: &FarSide, other: &FarSide) -> Result<Self, String> {
        if name.starts_with("zrelay") {
            // The hub runs in a directory of its own.
            let binary =
                options.zrelay.canonicalize().map_err(|error| format!("{}: {error}", options.zrelay.display()))?;
            let hub = Hub::build(&binary.display().to_string()).route("far.test", "smtp", &far.sink.host()).route(
                "other.test",
                "smtp",
                &other.sink.host(),
            );
            let hub = if name == "zrelay-20" {
                hub.clause("smtp/*", "thread_agents = 20\nring_agents = 20\ninterval = \"1s\"")
            } else {
                hub
            };
            return Ok(Self::Zrelay(hub.start()));
        }
        let one = if name == "postfix-1" {
            "default_destination_concurrency_limit = 1\ninitial_destination_concurrency = 1\n"
        } else {
            ""
        };
        let settings = format!(
            "virtual_mailbox_domains =\ndefault_process_limit = 200\nsmtpd_client_connection_rate_limit = 0\n\
             smtp_connection_cache_destinations = static:all\n\
             transport_maps = inline:{{ {{far.test = smtp:{}}}, {{other.test = smtp:{}}} }}\n{one}",
            far.sink.host(),
            other.sink.host()
        );
        Ok(Self::Postfix(Postfix::start(peers, &settings)))
    }

    fn client(&self) -> Client {
        Client::ehlo(match self {
            Self::Zrelay(hub) => hub.smtp(),
            Self::Postfix(postfix) => postfix.address(),
        })
    }
}

fn contend(options: &Options, peers: &Peers, name: &'static str) -> Result<Outcome, String> {
    let (far, other) = (FarSide::start(options.delay), FarSide::start(options.delay));
    let server = Server::start(options, peers, name, &far, &other)?;
    let mut client = server.client();

    let members: Vec<String> = (0..options.recipients).map(|number| format!("member{number:06}@far.test")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let post = Mail::generate("post", options.length, Body::Text, "list-bounces@list.test", &members);
    send(&mut client, &post)?;
    let taken = Instant::now();

    let mut singles = Vec::new();
    for number in 0..options.singles {
        let due = taken + HEAD_START + options.interval * u32::try_from(number).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (domain, place) = if number % 2 == 0 { ("far.test", &far) } else { ("other.test", &other) };
        let (mark, recipient) = (format!("single-{number}"), format!("someone{number}@{domain}"));
        let mail = Mail::generate(&mark, options.length, Body::Text, "someone@people.test", &[&recipient]);
        send(&mut client, &mail)?;
        singles.push((mark, place, Instant::now()));
    }

    let (mut same, mut others) = (Vec::new(), Vec::new());
    for (mark, place, sent) in singles {
        if !wait_until(LIMIT, || place.had(&mark, 1).is_some()) {
            return Err(format!("{mark} never arrived"));
        }
        let at = place.had(&mark, 1).unwrap_or(sent);
        let of = if std::ptr::eq(place, &far) { &mut same } else { &mut others };
        of.push(at.saturating_duration_since(sent).as_secs_f64());
    }
    if !wait_until(LIMIT, || far.had("post", options.recipients).is_some()) {
        return Err("the post never arrived as a whole".to_owned());
    }
    let done = far.had("post", options.recipients).unwrap_or(taken);
    if let Some(violation) = far.sink.violations().first() {
        return Err(format!("the far side complains: {violation}"));
    }
    Ok(Outcome {
        name,
        same: sorted(same),
        other: sorted(others),
        post: done.saturating_duration_since(taken).as_secs_f64(),
        connections: far.sink.connections_peak(),
        transactions: far.transactions(),
    })
}

fn send(client: &mut Client, mail: &Mail) -> Result<(), String> {
    let recipients: Vec<&str> = mail.recipients.iter().map(String::as_str).collect();
    let reply = client.mail(&mail.sender, &recipients, &mail.content);
    if reply.code == 250 { Ok(()) } else { Err(format!("{} {}", reply.code, reply.text())) }
}

fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers
}

/// Median, the one that 95 of 100 do not exceed, and the largest.
fn spread(sorted: &[f64]) -> [f64; 3] {
    let at = |part: f64| {
        let last = sorted.len().saturating_sub(1) as f64;
        sorted.get((last * part).round() as usize).copied().unwrap_or_default()
    };
    [at(0.5), at(0.95), at(1.0)]
}

fn report(options: &Options, outcomes: &[Outcome]) {
    println!(
        "a post to {} recipients at {} ms each, and {} single messages, one in {} ms; seconds",
        options.recipients,
        options.delay.as_millis(),
        options.singles,
        options.interval.as_millis()
    );
    println!(
        "{:<10} {:>28} {:>28} {:>15} {:>12} {:>13}",
        "", "same host: median p95 max", "other host: median p95 max", "post, rcpt/s", "connections", "transactions"
    );
    let mut results = Vec::new();
    for outcome in outcomes {
        let (same, other) = (spread(&outcome.same), spread(&outcome.other));
        let text = |of: [f64; 3]| of.map(|seconds| format!("{seconds:.3}")).join("  ");
        let rate = options.recipients as f64 / outcome.post;
        println!(
            "{:<10} {:>28} {:>28} {rate:>15.1} {:>12} {:>13}",
            outcome.name,
            text(same),
            text(other),
            outcome.connections,
            outcome.transactions
        );
        let of = |[median, p95, max]: [f64; 3]| json!({ "median": median, "p95": p95, "max": max });
        results.push(json!({
            "name": outcome.name,
            "same_host_seconds": of(same),
            "other_host_seconds": of(other),
            "post_recipients_per_second": rate,
            "connections": outcome.connections,
            "transactions": outcome.transactions,
        }));
    }
    let whole: Value = json!({
        "recipients": options.recipients,
        "milliseconds_per_recipient": u64::try_from(options.delay.as_millis()).unwrap_or(u64::MAX),
        "singles": options.singles,
        "octets": options.length,
        "results": results,
    });
    println!("{whole}");
}

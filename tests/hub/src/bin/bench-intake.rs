//! Accepted messages per second, beside Postfix on the same machine in the same run. See `--help`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zrelay_tests::peers::{self, Peers, Postfix, SmtpSink, smtp_source};
use zrelay_tests::{Hub, prepare};

const USAGE: &str = "\
usage: tests/bench-intake [OPTION...]

How many messages a second are answered 250, each on stable storage: zrelay and Postfix in turn, on the same disk, fed
by the same `smtp-source` with a body of LENGTH octets over CONNECTIONS connections that stay open. Prints a table, and
JSON as the last line. Needs root (for Postfix) and what tests/peers fetches.

  --messages N      messages in each round            [default: 10000]
  --connections N   connections at a time             [default: 20]
  --length OCTETS   length of the body                [default: 4096]
  --rounds N        rounds; the medians are compared  [default: 3]
  --deliver WHERE   sink: deliver to smtp-sink meanwhile; hold: keep everything in the queue  [default: both]
  --reconnect       a connection for each message, as smtp-source does by itself
  --zrelay PATH     the binary                        [default: target/release/zrelay, built first]

Postfix is tuned for it: in_flow_delay = 0, default_process_limit = 200, no limits for the client, no address
verification, its log to a file.";

/// Longest round.
const LIMIT: Duration = Duration::from_secs(600);

struct Options {
    messages: usize,
    connections: usize,
    length: usize,
    rounds: usize,
    deliver: Vec<Deliver>,
    reconnect: bool,
    zrelay: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Deliver {
    Sink,
    Hold,
}

impl Deliver {
    fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Hold => "hold",
        }
    }
}

/// One round with one server.
struct Round {
    server: &'static str,
    deliver: Deliver,
    seconds: f64,
    /// CPU time per message in seconds and memory at most in octets, where the server is one process.
    cost: Option<(f64, u64)>,
}

fn main() -> ExitCode {
    let (options, peers) = match prepare("bench-intake", USAGE, parse(std::env::args().skip(1))) {
        Ok(prepared) => prepared,
        Err(status) => return status,
    };
    let mut rounds = Vec::new();
    for &deliver in &options.deliver {
        for _ in 0..options.rounds {
            rounds.push(postfix(&options, &peers, deliver));
            rounds.push(zrelay(&options, &peers, deliver));
        }
    }
    report(&options, &rounds);
    ExitCode::SUCCESS
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        messages: 10_000,
        connections: 20,
        length: 4096,
        rounds: 3,
        deliver: vec![Deliver::Sink, Deliver::Hold],
        reconnect: false,
        zrelay: "target/release/zrelay".into(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text} is not a number"));
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--messages" => options.messages = number(value()?)?,
            "--connections" => options.connections = number(value()?)?,
            "--length" => options.length = number(value()?)?,
            "--rounds" => options.rounds = number(value()?)?.max(1),
            "--reconnect" => options.reconnect = true,
            "--zrelay" => options.zrelay = value()?.into(),
            "--deliver" => {
                options.deliver = match value()?.as_str() {
                    "sink" => vec![Deliver::Sink],
                    "hold" => vec![Deliver::Hold],
                    "both" => options.deliver,
                    other => return Err(format!("{other} is neither sink nor hold nor both")),
                }
            }
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(Some(options))
}

/// Feeds a server; seconds until the last 250.
fn feed(options: &Options, peers: &Peers, address: std::net::SocketAddr) -> f64 {
    let numbers = [options.messages, options.connections, options.length].map(|number| number.to_string());
    let mut arguments =
        vec!["-m", &numbers[0], "-s", &numbers[1], "-l", &numbers[2], "-f", "sender@bench.test", "-t", "r@bench.test"];
    if !options.reconnect {
        arguments.push("-d");
    }
    let begin = Instant::now();
    peers::run(&mut smtp_source(peers, &arguments, address, LIMIT));
    begin.elapsed().as_secs_f64()
}

fn postfix(options: &Options, peers: &Peers, deliver: Deliver) -> Round {
    let sink = SmtpSink::discarding(peers);
    let way = match deliver {
        Deliver::Hold => "smtpd_recipient_restrictions = check_recipient_access static:HOLD\n".to_owned(),
        Deliver::Sink => format!(
            "virtual_mailbox_domains =\nrelayhost = {}\nsmtp_connection_cache_destinations = static:all\n",
            sink.host()
        ),
    };
    let settings = format!("default_process_limit = 200\nsmtpd_client_connection_rate_limit = 0\n{way}");
    let server = Postfix::start(peers, &settings);
    let seconds = feed(options, peers, server.address());
    Round { server: "Postfix", deliver, seconds, cost: None }
}

fn zrelay(options: &Options, peers: &Peers, deliver: Deliver) -> Round {
    let sink = SmtpSink::discarding(peers);
    // The hub runs in a directory of its own.
    let binary = options.zrelay.canonicalize().expect("the binary is there").display().to_string();
    let hub = match deliver {
        Deliver::Hold => Hub::build(&binary).route("*", "hold", "bench"),
        Deliver::Sink => Hub::towards(&binary, &sink.host()),
    };
    let hub = hub.start();
    let before = hub.usage();
    let seconds = feed(options, peers, hub.smtp());
    if deliver == Deliver::Sink {
        hub.wait_until_empty(LIMIT);
    }
    let after = hub.usage();
    let cpu = (after.cpu - before.cpu).as_secs_f64() / options.messages as f64;
    Round { server: "zrelay", deliver, seconds, cost: Some((cpu, after.resident_peak)) }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn report(options: &Options, rounds: &[Round]) {
    println!(
        "{} messages of {} octets over {} connections, {} rounds each",
        options.messages, options.length, options.connections, options.rounds
    );
    println!(
        "{:<10} {:<6} {:>12} {:>12} {:>14} {:>12}",
        "server", "to", "accepted/s", "all rounds", "CPU us/message", "peak MiB"
    );
    let mut results = Vec::new();
    for &deliver in &options.deliver {
        for server in ["Postfix", "zrelay"] {
            let ours: Vec<&Round> = rounds.iter().filter(|it| it.server == server && it.deliver == deliver).collect();
            let rates: Vec<f64> = ours.iter().map(|it| options.messages as f64 / it.seconds).collect();
            let all = rates.iter().map(|rate| format!("{rate:.0}")).collect::<Vec<_>>().join(" ");
            let costs: Vec<(f64, u64)> = ours.iter().filter_map(|it| it.cost).collect();
            let cpu = (!costs.is_empty()).then(|| median(costs.iter().map(|cost| cost.0 * 1e6).collect()));
            let peak = costs.iter().map(|cost| cost.1).max().map(|peak| peak as f64 / 1_048_576.0);
            let rate = median(rates.clone());
            let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
            println!("{server:<10} {:<6} {rate:>12.0} {all:>12} {:>14} {:>12}", deliver.name(), text(cpu), text(peak));
            results.push(json!({
                "server": server,
                "to": deliver.name(),
                "accepted_per_second": rate,
                "rounds": rates,
                "cpu_microseconds_per_message": cpu,
                "memory_peak_mebibytes": peak,
            }));
        }
    }
    let whole: Value = json!({
        "messages": options.messages,
        "connections": options.connections,
        "octets": options.length,
        "reconnect": options.reconnect,
        "results": results,
    });
    println!("{whole}");
}

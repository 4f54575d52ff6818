//! How long a single message waits beside a post to many, beside Postfix in the same run. See `--help`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zrelay_tests::peers::{self, Peers, Postfix};
use zrelay_tests::{Answer, Client, Hub, Sink, Step, wait_until};

const USAGE: &str = "\
usage: tests/bench-fair [OPTION...]

One post to RECIPIENTS at a next hop that takes MILLISECONDS for each of them, whatever the number of connections. While it
is under way, SINGLES messages to one recipient each come in, half of them for the same next hop, half for another one that
is quick. How long do they take, from the 250 that accepted them to the next hop's? zrelay and Postfix in turn, fed by the
same client, from another sender's domain than the post. Prints a table, and JSON as the last line. Needs root (for Postfix)
and what tests/peers fetches. With the defaults it takes about five minutes.

  --recipients N    recipients of the post                      [default: 20000]
  --time MS         time of the next hop for each recipient     [default: 5]
  --singles N       single messages                             [default: 50]
  --rounds N        rounds; all single messages count together  [default: 1]
  --zrelay PATH     the binary                                  [default: target/release/zrelay, built first]

Both have their default settings, except that Postfix keeps connections to next hops (as it does for busy ones), has no limit
for the client and writes its log to a file.";

/// Longest time for one server beyond what the next hop needs.
const LIMIT: Duration = Duration::from_secs(300);
/// Time between two single messages.
const PACE: Duration = Duration::from_millis(200);
/// The domains of the recipients.
const SLOW: &str = "slow.test";
const QUICK: &str = "quick.test";

struct Options {
    recipients: usize,
    time: Duration,
    singles: usize,
    rounds: usize,
    zrelay: PathBuf,
}

/// What happened to the mail of one server in one round.
struct Round {
    server: &'static str,
    /// Delays of the single messages, seconds, by domain.
    delays: HashMap<&'static str, Vec<f64>>,
    /// From the post's 250 until its last recipient was taken.
    post: f64,
}

/// A next hop that takes its time, and when it took what.
struct Hop {
    sink: Sink,
    taken: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Hop {
    fn start(time: Duration) -> Self {
        let taken: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
        let theirs = Arc::clone(&taken);
        // When the server is through with the recipients it has heard of.
        let busy = Mutex::new(Instant::now());
        let sink = Sink::build().answer(move |step| {
            match step {
                Step::Rcpt(_) if !time.is_zero() => {
                    let until = {
                        let mut busy = lock(&busy);
                        *busy = (*busy).max(Instant::now()) + time;
                        *busy
                    };
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                }
                Step::End(transaction) => {
                    let now = Instant::now();
                    lock(&theirs).extend(transaction.recipients.iter().map(|recipient| (recipient.clone(), now)));
                }
                _ => {}
            }
            Answer::Accept
        });
        Self { sink: sink.start(), taken }
    }

    fn count(&self) -> usize {
        lock(&self.taken).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("bench-fair: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let Some(peers) = Peers::find_as_root() else {
        eprintln!("bench-fair: {}", peers::MISSING);
        return ExitCode::FAILURE;
    };
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(postfix(&options, &peers));
        rounds.push(zrelay(&options));
    }
    report(&options, &rounds);
    ExitCode::SUCCESS
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        recipients: 20_000,
        time: Duration::from_millis(5),
        singles: 50,
        rounds: 1,
        zrelay: "target/release/zrelay".into(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text} is not a number"));
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--recipients" => options.recipients = number(value()?)?.max(1),
            "--time" => options.time = Duration::from_millis(number(value()?)? as u64),
            "--singles" => options.singles = number(value()?)?.max(2),
            "--rounds" => options.rounds = number(value()?)?.max(1),
            "--zrelay" => options.zrelay = value()?.into(),
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(Some(options))
}

fn postfix(options: &Options, peers: &Peers) -> Round {
    let (slow, quick) = (Hop::start(options.time), Hop::start(Duration::ZERO));
    let settings = format!(
        "default_process_limit = 100\nsmtpd_client_connection_rate_limit = 0\nvirtual_mailbox_domains =\n\
         smtp_connection_cache_destinations = static:all\n\
         transport_maps = inline:{{ {SLOW}=smtp:{}, {QUICK}=smtp:{} }}\n",
        slow.sink.host(),
        quick.sink.host()
    );
    let server = Postfix::start(peers, &settings);
    feed("Postfix", options, server.address(), &slow, &quick)
}

fn zrelay(options: &Options) -> Round {
    let (slow, quick) = (Hop::start(options.time), Hop::start(Duration::ZERO));
    // The hub runs in a directory of its own.
    let binary = options.zrelay.canonicalize().expect("the binary is there").display().to_string();
    let hub = Hub::build(&binary).route(SLOW, "smtp", &slow.sink.host()).route(QUICK, "smtp", &quick.sink.host());
    let hub = hub.start();
    feed("zrelay", options, hub.smtp(), &slow, &quick)
}

/// The post, and the single messages behind it.
fn feed(server: &'static str, options: &Options, address: SocketAddr, slow: &Hop, quick: &Hop) -> Round {
    let content = format!("Subject: to all\r\n\r\n{}", "What everybody is to know.\r\n".repeat(100));
    let mut client = Client::ehlo(address);
    let everybody: Vec<String> = (0..options.recipients).map(|number| format!("member{number}@{SLOW}")).collect();
    let everybody: Vec<&str> = everybody.iter().map(String::as_str).collect();
    send(&mut client, "list-bounces@lists.test", &everybody, content.as_bytes());
    let posted = Instant::now();
    let mut sent: HashMap<&'static str, Vec<(String, Instant)>> = HashMap::new();
    // Some of the post is under way when they come.
    std::thread::sleep(PACE * 10);
    for number in 0..options.singles {
        let domain = if number.is_multiple_of(2) { SLOW } else { QUICK };
        let recipient = format!("single{number}@{domain}");
        send(&mut client, "shop@single.test", &[&recipient], b"Subject: your password\r\n\r\nHere it is.\r\n");
        sent.entry(domain).or_default().push((recipient, Instant::now()));
        std::thread::sleep(PACE);
    }
    let singles = [sent.get(SLOW).map_or(0, Vec::len), sent.get(QUICK).map_or(0, Vec::len)];
    let time = options.time * u32::try_from(options.recipients).unwrap_or(u32::MAX) + LIMIT;
    let all = wait_until(time, || slow.count() >= options.recipients + singles[0] && quick.count() >= singles[1]);
    assert!(all, "{server} has not delivered everything within {time:?}");
    let delay = |hop: &Hop, (recipient, sent): &(String, Instant)| {
        lock(&hop.taken)[recipient].saturating_duration_since(*sent).as_secs_f64()
    };
    let hops = [(SLOW, slow), (QUICK, quick)];
    let delays = hops.map(|(domain, hop)| (domain, sent[domain].iter().map(|single| delay(hop, single)).collect()));
    let last = everybody.iter().map(|recipient| lock(&slow.taken)[*recipient]).max().unwrap_or(posted);
    Round { server, delays: delays.into(), post: last.saturating_duration_since(posted).as_secs_f64() }
}

fn send(client: &mut Client, sender: &str, recipients: &[&str], content: &[u8]) {
    let reply = client.mail(sender, recipients, content);
    assert!(reply.is_positive(), "a message is refused: {reply:?}");
}

fn report(options: &Options, rounds: &[Round]) {
    println!(
        "a post to {} recipients at a next hop that takes {} ms for each, and {} single messages, {} round(s) each",
        options.recipients,
        options.time.as_millis(),
        options.singles,
        options.rounds
    );
    println!("delay of single messages, seconds:");
    println!("{:<10} {:<16} {:>8} {:>8} {:>8}   post done in s", "server", "to", "median", "90 %", "longest");
    let mut results = Vec::new();
    for server in ["Postfix", "zrelay"] {
        for (domain, name) in [(SLOW, "the same hop"), (QUICK, "another hop")] {
            let ours: Vec<&Round> = rounds.iter().filter(|round| round.server == server).collect();
            let mut delays: Vec<f64> = ours.iter().flat_map(|round| round.delays[domain].clone()).collect();
            delays.sort_by(f64::total_cmp);
            let part = |part: f64| {
                let at = (delays.len() as f64 * part) as usize;
                delays.get(at.min(delays.len().saturating_sub(1))).copied().unwrap_or_default()
            };
            let (median, most, longest) = (part(0.5), part(0.9), part(1.0));
            let posts = ours.iter().map(|round| format!("{:.0}", round.post)).collect::<Vec<_>>().join(" ");
            println!("{server:<10} {name:<16} {median:>8.3} {most:>8.3} {longest:>8.3}   {posts}");
            results.push(json!({
                "server": server,
                "to": name,
                "median_seconds": median,
                "ninety_percent_seconds": most,
                "longest_seconds": longest,
                "post_seconds": ours.iter().map(|round| round.post).collect::<Vec<_>>(),
            }));
        }
    }
    let whole: Value = json!({
        "recipients": options.recipients,
        "milliseconds": options.time.as_millis() as u64,
        "singles": options.singles,
        "results": results,
    });
    println!("{whole}");
}

//! Who takes part, and how one of them does one work.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use zrelay_lab::{Action, FarSide, FarSideBuilder, Handshake, Lab, LabError, Moment, Offer, Verb, plain};
use zrelay_tests::peers::{Peers, Postfix};
use zrelay_tests::{Body, Certificate, Hub, Mail, Usage};

use crate::inject;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::works::{AGENTS, Acquaintance, Slowness, Way, Work};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contender {
    Zrelay,
    /// zrelay with several connections allowed.
    Several,
    Plain,
    PostfixOne,
    Postfix,
}

impl Contender {
    /// In the order in which they run: the plain transfer needs to know how many octets zrelay sent.
    pub(crate) const ALL: [Self; 5] = [Self::Zrelay, Self::Several, Self::Plain, Self::PostfixOne, Self::Postfix];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zrelay => "zrelay",
            Self::Several => "zrelay, up to 4",
            Self::Plain => "plain TCP",
            Self::PostfixOne => "Postfix, 1 connection",
            Self::Postfix => "Postfix, default",
        }
    }

    pub(crate) fn is_postfix(self) -> bool {
        matches!(self, Self::PostfixOne | Self::Postfix)
    }
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    Interrupted,
    Lab(LabError),
    Io(std::io::Error),
    Other(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::Lab(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        Self::Lab(error)
    }
}

/// The port of the far side; nothing else is in its namespace.
const PORT: u16 = 25;

/// Shortest silence that is told of on a fast line; on a slow one it takes half a packet more than a packet.
const GAP: Duration = Duration::from_millis(10);

/// Longest run.
const LIMIT: Duration = Duration::from_secs(300);

/// How often the books are looked at.
const TICK: Duration = Duration::from_millis(20);

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_millis(200);

/// What all runs have in common.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    /// Where Postfix is, if it takes part.
    pub(crate) peers: Option<&'a Peers>,
    /// Set when the benchmark is to end.
    pub(crate) stop: &'a AtomicBool,
}

/// One work by one contender, in a laboratory of its own. `octets` are those of the plain transfer.
///
/// # Errors
/// The laboratory, the relay or the far side did not work, or nothing came in time.
pub(crate) fn run(bench: Bench<'_>, contender: Contender, work: &Work, octets: u64) -> Result<Outcome, Failure> {
    let Bench { options, peers, stop } = bench;
    let lab = Lab::build(work.line, &options.congestion)?;
    if contender == Contender::Plain {
        let receiver = lab.far().run(|| plain::Receiver::start(lab.far_address()))??;
        let address = receiver.address();
        lab.near().run(|| plain::send(address, octets))??;
        return Ok(Outcome::of_plain(work, &receiver.finish()?, lab.reports()));
    }
    let mails = work.mails(contender);
    let far = far_side(work);
    let start = || Ok(lab.far().run(|| far.clone().start((Ipv4Addr::UNSPECIFIED, PORT)))??);
    let next_hop = format!("[{}]:{PORT}", lab.far_address());
    let (far, usage) = lab.near().run(|| match (contender, peers) {
        (Contender::Zrelay, _) => zrelay(&next_hop, &options.clause, &mails, start, work, options, stop),
        (Contender::Several, _) => {
            let clause = format!("{};thread_agents = {AGENTS}", options.clause);
            zrelay(&next_hop, &clause, &mails, start, work, options, stop)
        }
        (_, Some(peers)) => {
            let far = start()?;
            postfix(contender, peers, &next_hop, &mails, &far, work, stop).map(|usage| (far, usage))
        }
        (_, None) => Err(Failure::Other("there is no Postfix".to_owned())),
    })??;
    Ok(Outcome::of_relay(contender, work, &mails, &far.books(), usage, lab.reports()))
}

/// The far side that this work asks for.
fn far_side(work: &Work) -> FarSideBuilder {
    let mut builder = FarSide::build().gap(work.line.packet_time().mul_f64(1.5).max(GAP));
    if !work.chunking {
        builder = builder.without(Offer::Chunking);
    }
    if work.acquaintance == Acquaintance::Known {
        builder = builder.with(Offer::PipeConnect);
    }
    builder = match work.tls {
        Way::Clear => builder,
        Way::StartTls => builder.certificate(&Certificate::new(&["far.test"]), Handshake::StartTls),
        Way::Implicit => builder.certificate(&Certificate::new(&["far.test"]), Handshake::Implicit),
    };
    let at_the_end = |moment: &Moment<'_>, delay: &dyn Fn() -> Duration| match moment.verb {
        Verb::End => Action::Delay(delay()),
        _ => Action::Usual,
    };
    match work.slowness {
        Slowness::None => builder,
        Slowness::Each(time) => builder.script(move |moment| at_the_end(moment, &|| time)),
        Slowness::Shared(time) => {
            let free = Mutex::new(Instant::now());
            builder.script(move |moment| {
                at_the_end(moment, &|| {
                    let now = Instant::now();
                    let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
                    *free = now.max(*free) + time;
                    *free - now
                })
            })
        }
    }
}

/// The far side at the end, and what the hub has used.
type Done = (FarSide, Option<Usage>);

fn zrelay(
    next_hop: &str,
    clause: &str,
    mails: &[Mail],
    start: impl Fn() -> Result<FarSide, Failure>,
    work: &Work,
    options: &Options,
    stop: &AtomicBool,
) -> Result<Done, Failure> {
    let binary = options.zrelay.display().to_string();
    let mut keys = clause.replace(';', "\n");
    if work.tls == Way::Implicit {
        keys.push_str("\nimplicit_tls = true");
    }
    let builder = Hub::towards(&binary, next_hop);
    let builder = if keys.is_empty() { builder } else { builder.clause("smtp/*", &keys) };
    let hub = builder.start();
    if work.acquaintance == Acquaintance::Known {
        let far = start()?;
        let greetings = [Mail::generate("known", 500, Body::Text, "list-bounces@list.test", &["known@far.test"])];
        inject::all(hub.smtp(), &greetings, 1)?;
        wait(&greetings, &far, stop, || Ok(())).map_err(|failure| with_log(failure, &hub.log()))?;
    }
    let far = start()?;
    // All of it is there when the connection is made: what is measured is the way out, not the way in.
    let thread = format!("smtp/{next_hop}");
    command(&hub, "hold", &thread)?;
    inject::all(hub.smtp(), mails, inject::CONNECTIONS)?;
    let before = hub.usage();
    command(&hub, "release", &thread)?;
    let mut watched = Instant::now();
    wait(mails, &far, stop, || {
        if options.watch && watched.elapsed() >= WATCH {
            watched = Instant::now();
            watch(&hub, &thread);
        }
        Ok(())
    })
    .map_err(|failure| with_log(failure, &hub.log()))?;
    settle();
    let after = hub.usage();
    Ok((far, Some(Usage { cpu: after.cpu.saturating_sub(before.cpu), ..after })))
}

fn command(hub: &Hub, verb: &str, thread: &str) -> Result<(), Failure> {
    let output = hub.zrelay(&[verb, thread]);
    // Status 1 means that there is no such thread yet, which is as good.
    if matches!(output.status.code(), Some(0 | 1)) {
        return Ok(());
    }
    Err(Failure::Other(format!("zrelay {verb} {thread}: {}", String::from_utf8_lossy(&output.stderr))))
}

fn watch(hub: &Hub, thread: &str) {
    let sockets = Command::new("ss").args(["-tinH", "dport", "=", &format!(":{PORT}")]).output();
    let sockets = sockets.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    eprintln!("{}\n  {}", sockets.split_whitespace().collect::<Vec<_>>().join(" "), hub.json(&["thread", thread]));
}

fn postfix(
    contender: Contender,
    peers: &Peers,
    next_hop: &str,
    mails: &[Mail],
    far: &FarSide,
    work: &Work,
    stop: &AtomicBool,
) -> Result<Option<Usage>, Failure> {
    let concurrency = match contender {
        Contender::PostfixOne => "smtp_destination_concurrency_limit = 1\ninitial_destination_concurrency = 1\n",
        _ => "",
    };
    let settings = format!(
        "inet_interfaces = all
virtual_mailbox_domains =
relayhost = {next_hop}
smtp_destination_recipient_limit = 1000
smtpd_recipient_limit = 50000
qmgr_message_recipient_limit = 40000
default_process_limit = 200
smtp_connection_cache_destinations = static:all
smtp_connection_reuse_time_limit = 3600s
{concurrency}"
    );
    let server = Postfix::start(peers, &settings);
    // Postfix has no hold that would not also cost it its connection cache; it is slow enough for the injection not to
    // matter.
    let address: SocketAddr = server.address();
    let refused = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let injected = scope.spawn(|| {
            inject::all(address, mails, inject::CONNECTIONS).inspect_err(|_| refused.store(true, Ordering::Relaxed))
        });
        let waited = wait(mails, far, stop, || match refused.load(Ordering::Relaxed) {
            true => Err(Failure::Interrupted),
            false => Ok(()),
        });
        injected.join().unwrap_or_else(|_| Err(Failure::Other("the injection panicked".to_owned())))?;
        waited
    })
    .map_err(|failure| with_log(failure, &server.log()))?;
    settle_for(work.line.round_trip() * 2);
    Ok(None)
}

/// Time for duplicates to come in, and for the last octets to be counted.
const SETTLE: Duration = Duration::from_millis(500);

fn settle() {
    settle_for(SETTLE);
}

fn settle_for(time: Duration) {
    std::thread::sleep(time);
}

fn with_log(failure: Failure, log: &str) -> Failure {
    match failure {
        Failure::Other(text) => {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
            Failure::Other(format!("{text}\n{tail}"))
        }
        other => other,
    }
}

/// Waits until all recipients of all messages were accepted.
fn wait(
    mails: &[Mail],
    far: &FarSide,
    stop: &AtomicBool,
    mut meanwhile: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let expected: usize = mails.iter().map(|mail| mail.recipients.len()).sum();
    let begin = Instant::now();
    while far.delivered() < expected {
        if stop.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        if begin.elapsed() > LIMIT {
            let delivered = far.delivered();
            return Err(Failure::Other(format!("only {delivered} of {expected} recipients came within {LIMIT:?}")));
        }
        meanwhile()?;
        std::thread::sleep(TICK);
    }
    Ok(())
}

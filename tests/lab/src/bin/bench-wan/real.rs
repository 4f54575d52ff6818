//! Into real servers over the line: zrelay on one connection beside twenty connections in lock-step.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zrelay_lab::{Lab, LinkSettings};
use zrelay_tests::peers::{Exim, Peers, Postfix};
use zrelay_tests::{Body, Hub, Mail};

use crate::contenders::Failure;
use crate::inject;
use crate::options::Options;

/// The works of this module.
pub(crate) const NAMES: [&str; 2] = ["P", "X"];

/// Messages for zrelay.
const MESSAGES: usize = 2000;
/// Messages for the others: four round trips each, on as many connections at a time.
const MESSAGES_LOCK_STEP: usize = 400;
/// Connections in lock-step.
const CONNECTIONS: usize = 20;
const MESSAGE_OCTETS: usize = 4096;

/// Longest run.
const LIMIT: Duration = Duration::from_secs(180);
const TICK: Duration = Duration::from_millis(20);

/// What one of them did with one server.
#[derive(Debug)]
pub(crate) struct Row {
    server: &'static str,
    client: &'static str,
    messages: usize,
    seconds: f64,
    /// Messages that the server's log has as accepted.
    accepted: usize,
}

impl Row {
    fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds.max(1e-6)
    }

    pub(crate) fn is_exact(&self) -> bool {
        self.messages == self.accepted
    }
}

/// A client's name, its messages, and the seconds that they took.
type Done = (&'static str, usize, f64);

/// A server that keeps what it takes in its queue, or throws it away: what is measured is the way there.
enum Server {
    Postfix(Postfix),
    Exim(Exim),
}

impl Server {
    fn start(name: &str, peers: &Peers) -> Self {
        if name == "P" {
            let settings = "inet_interfaces = all\nmynetworks = 10.77.0.0/24\nvirtual_transport = discard:\n\
                            smtpd_client_connection_rate_limit = 0\nsmtpd_error_sleep_time = 0\n";
            return Self::Postfix(Postfix::start(peers, settings));
        }
        Self::Exim(Exim::start(
            peers,
            "local_interfaces = 0.0.0.0\nqueue_only = true\nsmtp_accept_max_per_connection = 0\n",
        ))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Postfix(_) => "Postfix",
            Self::Exim(_) => "Exim",
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Postfix(server) => server.address().port(),
            Self::Exim(server) => server.address().port(),
        }
    }

    /// Messages accepted, as its log has it.
    fn accepted(&self) -> usize {
        match self {
            Self::Postfix(server) => {
                server.log().lines().filter(|line| line.contains("/cleanup[") && line.contains("message-id=")).count()
            }
            Self::Exim(server) => server.log().lines().filter(|line| line.contains(" <= ")).count(),
        }
    }
}

/// Runs what was asked for.
///
/// # Errors
/// The laboratory, the relay or the server did not work, or nothing came in time.
pub(crate) fn all(options: &Options, peers: &Peers, stop: &AtomicBool) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for name in NAMES.into_iter().filter(|name| options.wants(name)) {
        rows.push(run(name, options, peers, |hop, _, mails| zrelay(hop, mails, options, stop))?);
        rows.push(run(name, options, peers, |_, address, mails| lock_step(address, mails))?);
    }
    Ok(rows)
}

/// One client into one server, in a laboratory of its own.
fn run(
    name: &str,
    options: &Options,
    peers: &Peers,
    client: impl FnOnce(&str, SocketAddr, &[Mail]) -> Result<Done, Failure> + Send,
) -> Result<Row, Failure> {
    let lab = Lab::build(LinkSettings::new(Duration::from_millis(130), 100_000_000), &options.congestion)?;
    let server = lab.far().run(|| Server::start(name, peers))?;
    let address = SocketAddr::from((lab.far_address(), server.port()));
    let hop = format!("[{}]:{}", lab.far_address(), server.port());
    eprintln!("{name}: into {} ...", server.name());
    let mails: Vec<Mail> = (0..MESSAGES).map(mail).collect();
    let (client, messages, seconds) = lab.near().run(|| client(&hop, address, &mails))??;
    Ok(Row { server: server.name(), client, messages, seconds, accepted: server.accepted() })
}

fn mail(number: usize) -> Mail {
    let recipient = format!("{number:05}@far.test");
    let sender = format!("list-bounces+{number}@list.test");
    Mail::generate(&format!("real-{number}"), MESSAGE_OCTETS, Body::Text, &sender, &[&recipient])
}

fn zrelay(hop: &str, mails: &[Mail], options: &Options, stop: &AtomicBool) -> Result<Done, Failure> {
    let hub = Hub::towards(&options.zrelay.display().to_string(), hop).start();
    let thread = format!("smtp/{hop}");
    hub.zrelay(&["hold", &thread]);
    inject::all(hub.smtp(), mails, inject::CONNECTIONS)?;
    let begin = Instant::now();
    hub.zrelay(&["release", &thread]);
    while hub.log_lines(&["status=sent"]).len() < mails.len() {
        if stop.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        if begin.elapsed() > LIMIT {
            return Err(Failure::Other(format!("not all of it was sent within {LIMIT:?}: {}", hub.thread(&thread))));
        }
        std::thread::sleep(TICK);
    }
    Ok(("zrelay, 1 connection", mails.len(), begin.elapsed().as_secs_f64()))
}

fn lock_step(address: SocketAddr, mails: &[Mail]) -> Result<Done, Failure> {
    let mails = mails.get(..MESSAGES_LOCK_STEP).unwrap_or(mails);
    let begin = Instant::now();
    inject::all(address, mails, CONNECTIONS)?;
    Ok(("lock-step, 20 connections", mails.len(), begin.elapsed().as_secs_f64()))
}

/// For people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for pair in rows.chunk_by(|one, other| one.server == other.server) {
        let Some(first) = pair.first() else { continue };
        let _infallible = writeln!(text, "\ninto a real {}, messages of 4 KiB to one recipient each", first.server);
        for row in pair {
            let _infallible = writeln!(
                text,
                "  {:<26} {:>6} in {:>7.3} s  {:>6.0}/s  accepted {}",
                row.client,
                row.messages,
                row.seconds,
                row.rate(),
                row.accepted
            );
        }
    }
    text
}

/// For programs.
pub(crate) fn json(rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "server": row.server,
            "client": row.client,
            "messages": row.messages,
            "seconds": row.seconds,
            "rate": row.rate(),
            "accepted": row.accepted,
        })
    });
    rows.collect()
}

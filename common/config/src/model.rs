//! The checked configuration: every default with its unit, its range and its reason stands here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::{Pattern, Principal, Rates, ReplyRule};

/// The whole configuration, checked. Swapped as a whole on reload.
#[derive(Clone, Debug)]
pub struct Config {
    /// The hub's own name: greeting, `EHLO`, `Received:`, `Reporting-MTA`. Default: the machine's host name.
    pub hostname: String,
    /// The spool's directory. Default `zrelay-data/spool`.
    pub spool: PathBuf,
    /// The control socket. Default `zrelay-data/control.sock`.
    pub control: PathBuf,
    /// Where reports go that have no sender to go to (RFC 3461 §8: a failed notification). `None`: to the log.
    pub postmaster: Option<String>,
    /// How long SIGTERM waits for transactions under way. Default 30 s; what is left stays in the spool.
    pub drain: Duration,
    /// How long failures of one message are gathered before its sender is told of them, unless all recipients are
    /// finished sooner. Default 5 min.
    pub bounce_gather: Duration,
    /// Octets of a segment of the spool. Default 64 MiB: large enough that creating one is rare, small enough that
    /// removing one frees space soon. A change counts for the segments made from then on.
    pub segment_size: u32,
    /// Octets that compaction of the spool may read and write in a second. Default 16 MiB: little beside what a disk does.
    pub compaction_rate: u64,
    /// Octets of records of the spool, content not counted, from one checkpoint to the next. Default 64 MiB: read in a
    /// second or two at a restart.
    pub checkpoint_interval: u64,
    /// The listeners. Default one, SMTP on 127.0.0.1:2525 relaying for loopback.
    pub listen: Vec<Listen>,
    /// The certificate offered by listeners with STARTTLS.
    pub tls: Option<ServerTls>,
    /// Limits of the intake.
    pub intake: Intake,
    /// Limits of the queue.
    pub queue: Queue,
    /// Routes, first match wins; behind them the default: `smtp` by recipient domain.
    pub routes: Vec<Route>,
    /// Clauses, first match wins; behind them the built-in one.
    pub clauses: Vec<Arc<Clause>>,
    /// All agents together. Default 1000: a few thousand descriptors are the usual limit of a service.
    pub agents: u32,
    /// Agents per channel, where a channel is to have fewer than all. Default none.
    pub channel_agents: Vec<(String, u32)>,
    /// Who may use the control socket beside root and the hub's own user. Default: nobody.
    pub access: Access,
    /// Source addresses that are being warmed up. Default none.
    pub sources: Vec<WarmUp>,
    /// The name servers.
    pub dns: Dns,
    /// Event loops for intake and for transport. Default 1 each: one loop saturates a disk and a gigabit link.
    pub loops: Loops,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Networks that may relay to anywhere. Others are answered `550 5.7.1` at RCPT. Default loopback.
    pub relay_from: Vec<IpNet>,
    /// Whether STARTTLS is offered. Default: when a certificate is configured.
    pub starttls: bool,
    /// Priority of mail that names none (RFC 6710), -9 to 9. Default 0.
    pub priority: i8,
    /// Makes all mail of this listener one flow, which shares a next hop with others as one. Default none.
    pub tag: Option<String>,
    /// Whether TLS begins with the first octet (RFC 8314 §3); there is no STARTTLS then. Default no.
    pub implicit_tls: bool,
    /// Networks to which PIPECONNECT is announced: their clients may send commands ahead of the greeting when they
    /// come again. Exim's `pipelining_connect_advertise_hosts`. Default those of [`Listen::relay_from`].
    pub pipeconnect: Vec<IpNet>,
}

/// The protocol of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 2033: one reply per recipient behind the data.
    Lmtp,
}

/// Certificate chain and key of the hub as a server, PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerTls {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Limits of the intake. Each is answered with a clear reply, none by growth.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Longest message, octets; the `SIZE` of EHLO (RFC 1870). Default 104,857,600.
    pub message_size: u64,
    /// Recipients in one transaction; `LIMITS RCPTMAX` (RFC 9422). Default 50,000: list managers put whole lists
    /// into one transaction.
    pub recipients: u32,
    /// Connections at a time. Default 20,000.
    pub connections: u32,
    /// Connections at a time from one client address outside `relay_from`. Default 50, as Postfix.
    pub client_connections: u32,
    /// Errors in a session before it is closed with 421, for clients outside `relay_from`. Default 20, as Postfix.
    pub errors: u32,
    /// Commands without a message accepted between them before a session is closed with 421, for clients outside
    /// `relay_from`; those inside are not limited. Default 1,000.
    pub commands: u32,
    /// What to do with a bare CR or LF in DATA. Default refuse.
    pub bare_newline: BareNewline,
    /// `Received:` lines in a message before it is taken for a loop and refused with 554 5.4.6. Default 50, as Postfix.
    pub hops: u32,
    /// How long a session may be silent between commands (RFC 5321 §4.5.3.2.7: at least 5 min). Default 10 min: list
    /// managers keep one connection for hours.
    pub command_timeout: Duration,
    /// How long a session may be silent within data (RFC 5321 §4.5.3.2.5: 3 min). Default 3 min.
    pub data_timeout: Duration,
    /// Slowest average rate of data after the first minute of a message, octets per second. Default 500, as Postfix
    /// under stress: a client that drips is a client that holds memory.
    pub data_rate: u32,
    /// Memory for sessions' buffers and content under way, all together, octets. Default 256 MiB; above it new
    /// messages get `452 4.3.1` at MAIL.
    pub memory: u64,
    /// Space on the spool's file system that is kept for delivery: below it new messages get `452 4.3.1` at MAIL, below
    /// half of it also those under way. Default 256 MiB, four segments of the spool.
    pub reserve: u64,
    /// What makes a flow where listener and header say nothing. Default the sender's domain.
    pub flow: FlowKey,
    /// A header field whose value makes the flow, in lower case with its colon. Default none.
    pub flow_header: Option<Arc<str>>,
}

/// Whose mail is whose, for fairness: mail of one flow takes turns with that of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowKey {
    /// The domain of the envelope sender.
    SenderDomain,
    /// The list: its `List-Id` (RFC 2919), else the envelope sender without what VERP adds.
    List,
}

/// Limits of the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Memory for what is in the queue, octets: five eighths for the books of the spool, which with ten million messages
    /// are full at the default of 512 MiB, so that new ones get `452 4.3.1` at MAIL; a quarter for batches near their
    /// turn, the others waiting on disk.
    pub memory: u64,
}

/// What to do with a CR or LF of DATA that is not part of a CRLF. BDAT content is judged alike, since it may have to
/// leave by DATA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BareNewline {
    /// Refuse the message: `550 5.6.11`.
    Refuse,
    /// Make a CRLF of it. Still only CRLF.CRLF ends the data.
    Normalise,
}

/// A `[[route]]`: where recipients go.
#[derive(Clone, Debug)]
pub struct Route {
    /// Pattern on the recipient: `*@example.net`, `*.example.net` (domain), `example.net` (domain). `None`: any.
    pub recipient: Option<Pattern>,
    /// Pattern on the envelope sender; the null sender is `<>`. `None`: any.
    pub sender: Option<Pattern>,
    /// The channel.
    pub channel: String,
    /// The host; `None`: the recipient's domain. For `error` the reply text.
    pub host: Option<String>,
    /// Line of the rule in the configuration file, for `zrelay route`; 0 when there is no file.
    pub line: usize,
}

/// A `[[thread]]` clause: the limits of the threads whose name it matches.
#[derive(Clone, PartialEq, Debug)]
pub struct Clause {
    /// The pattern over `channel/host`, `*` and `?`.
    pub matches: Pattern,
    /// Agents per thread. Default 1.
    pub thread_agents: u32,
    /// Agents per ring. Default 20.
    pub ring_agents: u32,
    /// Share of a thread where threads compete for agents: how many quanta of work a thread may send before it gives
    /// way to others that wait. Default 1; at most 20, so that no slice is longer than 10 min.
    pub weight: u32,
    /// Added to the priority of the mail when a thread waits in line for an agent, -9 to 9. Default 0.
    pub priority: i8,
    /// Unit of [`Clause::retries`]. Default 1 min.
    pub interval: Duration,
    /// Waits between attempts in units of the interval; the last one repeats. Default 1 1 2 3 5 8 13 21 34.
    pub retries: Vec<u32>,
    /// Part of a wait that is random, 0 to 1: each wait is drawn from `wait × (1 ± jitter)`. Default 0.1.
    pub jitter: f64,
    /// Age at which a recipient that is still deferred is given up. Default 5 d (RFC 5321 §4.5.4.1: 4-5 days).
    pub expiry: Duration,
    /// Age at which the sender of what is still here is told of the delay, once; 0: never. Default never, as Postfix.
    pub delay_warning: Duration,
    /// TLS towards the next hop. Default opportunistic.
    pub tls: TlsPolicy,
    /// TLS from the first octet on, without STARTTLS (RFC 8314 §3; Postfix's `smtp_tls_wrappermode`). Default no.
    pub implicit_tls: bool,
    /// Port of the next hop where the host names none. Default 25; 24 for `lmtp`; 465 with implicit TLS.
    pub port: u16,
    /// Source address of connections. Default the system's choice.
    pub source: Option<IpAddr>,
    /// Recipients in one transaction. Default 1000 (the limit common among receivers).
    pub recipients: u32,
    /// Messages sent whose final reply is not there yet: what may be doubled when a connection dies. How many it is
    /// below this limit is measured. Default 512.
    pub unacknowledged_messages: u32,
    /// The same in octets. Default 4 MiB.
    pub unacknowledged_bytes: u64,
    /// Highest conversation level to use. Default streaming.
    pub pipelining: Pipelining,
    /// How long an agent without work keeps its connection. Default 30 s.
    pub idle: Duration,
    /// Messages after which a connection is closed. Default 1,000,000.
    pub connection_messages: u32,
    /// Age at which a connection is closed behind the message under way. Default 1 h.
    pub connection_age: Duration,
    /// Connecting, per address (RFC 5321 gives no figure). Default 30 s.
    pub connect_timeout: Duration,
    /// Waiting for a reply or for room to write, RFC 5321 §4.5.3.2: 5 min; 10 min for the final reply. Default 5 min,
    /// doubled for the final reply.
    pub timeout: Duration,
    /// Connections to a site (a ring) to begin with; each one that delivers allows another, up to the ring's limit.
    /// Default 2, below Postfix's `initial_destination_concurrency` of 5: a connection here carries more.
    pub initial_agents: u32,
    /// Rates for each ring. Default none.
    pub ring_rates: Rates,
    /// Rates for all threads of the clause together. Default none.
    pub clause_rates: Rates,
    /// Replies that are read differently, first match wins. Default none.
    pub replies: Vec<ReplyRule>,
}

/// A `[[source]]`: an address from which mail has not been sent before, and which receivers are to get to know slowly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WarmUp {
    /// The address, as clauses have it in [`Clause::source`].
    pub address: IpAddr,
    /// Midnight UTC at which the first day begins.
    pub start: zrelay_clock::Timestamp,
    /// Recipients per day (UTC), first day first; nothing is sent before `start`, and behind the last day there is no
    /// limit.
    pub days: Vec<u32>,
}

/// What TLS is wanted on the way out. Postfix's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsPolicy {
    /// Never STARTTLS.
    None,
    /// STARTTLS where offered, any certificate, in the clear where it fails.
    May,
    /// STARTTLS or nothing, any certificate.
    Encrypt,
    /// STARTTLS or nothing, a certificate for the host's name from a trusted authority.
    Verify,
}

/// The ladder of conversation levels, for a clause that wants less than the engine can.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pipelining {
    /// One command at a time.
    Lockstep,
    /// MAIL, RCPT and DATA in one flight, the next message behind the final reply.
    Transaction,
    /// The next transaction's commands behind the dot.
    Pipelined,
    /// BDAT transactions back to back.
    Stream,
}

/// Who has which role on the control socket. Who is in several lists has the highest role; root and the hub's own user
/// are admins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// May look.
    pub read_only: Vec<Principal>,
    /// May also hold, release, retry, reroute, expire and trace.
    pub operator: Vec<Principal>,
    /// May do everything.
    pub admin: Vec<Principal>,
}

/// The name servers and their patience.
#[derive(Clone, Debug)]
pub struct Dns {
    /// Servers in order. Empty: `/etc/resolv.conf`, else 127.0.0.1.
    pub servers: Vec<SocketAddr>,
    /// Patience per try. Default 5 s.
    pub timeout: Duration,
    /// Tries over all servers. Default 3.
    pub attempts: u32,
}

/// Event loops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loops {
    /// For the listeners. Default 1.
    pub intake: u32,
    /// For the SMTP agents. Default 1.
    pub transport: u32,
}

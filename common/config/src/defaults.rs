//! Every default of the configuration, with its unit and its reason. `etc/zrelay.toml` shows the same values to
//! operators; a test compares the two.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::{BareNewline, FlowKey, Pipelining, Protocol, TlsPolicy};

/// Name of a hub on a machine whose own name is not usable.
pub const HOSTNAME: &str = "localhost.localdomain";
/// The spool's directory, below the working directory: works without root.
pub const SPOOL: &str = "zrelay-data/spool";
/// The control socket, beside the spool.
pub const CONTROL: &str = "zrelay-data/control.sock";
/// Patience of SIGTERM with transactions under way; within the 90 s that service managers usually wait.
pub const DRAIN: Duration = Duration::from_secs(30);
/// Failures of one message that come within this time share one report.
pub const BOUNCE_GATHER: Duration = Duration::from_secs(300);
/// Octets of a segment of the spool.
pub const SEGMENT_SIZE: u32 = 64 * 1024 * 1024;
/// Octets that compaction of the spool may read and write in a second.
pub const COMPACTION_RATE: u64 = 16 * 1024 * 1024;
/// Octets of records of the spool from one checkpoint to the next.
pub const CHECKPOINT_INTERVAL: u64 = 64 * 1024 * 1024;
/// All agents together: a few thousand descriptors are the usual limit of a service.
pub const AGENTS: u32 = 1000;

/// The listener of a hub that names none: not a port that needs root, not reachable from outside.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2525);
/// What listeners speak.
pub const PROTOCOL: Protocol = Protocol::Smtp;
/// Networks that may relay: this machine.
pub const RELAY_FROM: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];

/// Longest message, octets: what large receivers take at most, with room.
pub const MESSAGE_SIZE: u64 = 100 * 1024 * 1024;
/// Recipients in one transaction: list managers put whole lists into one.
pub const INTAKE_RECIPIENTS: u32 = 50_000;
/// Connections at a time: idle ones are cheap and list managers keep them open.
pub const CONNECTIONS: u32 = 20_000;
/// Connections at a time from one foreign client, as Postfix.
pub const CLIENT_CONNECTIONS: u32 = 50;
/// Errors in a foreign session, as Postfix's `smtpd_hard_error_limit`.
pub const ERRORS: u32 = 20;
/// Commands without a message accepted in a foreign session.
pub const COMMANDS: u32 = 1000;
/// Bare CR or LF is how messages are smuggled.
pub const BARE_NEWLINE: BareNewline = BareNewline::Refuse;
/// `Received:` lines before a message is a loop, as Postfix's `hopcount_limit`.
pub const HOPS: u32 = 50;
/// Silence between commands; RFC 5321 §4.5.3.2.7 wants at least 5 min.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);
/// Silence within data, RFC 5321 §4.5.3.2.5.
pub const DATA_TIMEOUT: Duration = Duration::from_secs(180);
/// Slowest rate of data after the first minute, octets per second.
pub const DATA_RATE: u32 = 500;
/// Memory of all sessions, octets.
pub const MEMORY: u64 = 256 * 1024 * 1024;
/// Memory of the queue, octets: ten million messages.
pub const QUEUE_MEMORY: u64 = 512 * 1024 * 1024;
/// Space kept for delivery, octets.
pub const RESERVE: u64 = 256 * 1024 * 1024;

/// Agents per thread: the hub's principle.
pub const THREAD_AGENTS: u32 = 1;
/// Agents per ring: what large sites tolerate from one client, as Postfix's destination limit.
pub const RING_AGENTS: u32 = 20;
/// What makes a flow.
pub const FLOW: FlowKey = FlowKey::SenderDomain;
/// Share of a thread where threads compete.
pub const WEIGHT: u32 = 1;
/// Priority of a thread in line, and of mail that a listener takes.
pub const PRIORITY: i8 = 0;
/// Unit of the retries.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Waits in units of the interval; the last one repeats.
pub const RETRIES: [u32; 9] = [1, 1, 2, 3, 5, 8, 13, 21, 34];
/// Part of a wait that is random.
pub const JITTER: f64 = 0.1;
/// RFC 5321 §4.5.4.1: give up after 4 to 5 days.
pub const EXPIRY: Duration = Duration::from_secs(5 * 86_400);
/// Age at which senders are told of a delay: never.
pub const DELAY_WARNING: Duration = Duration::ZERO;
/// TLS where offered.
pub const TLS: TlsPolicy = TlsPolicy::May;
/// Port of a next hop.
pub const PORT: u16 = 25;
/// Port of a next hop on the channel `lmtp`.
pub const LMTP_PORT: u16 = 24;
/// Port of a next hop with implicit TLS, RFC 8314 §3.3.
pub const IMPLICIT_TLS_PORT: u16 = 465;
/// Recipients in one transaction, common among receivers.
pub const RECIPIENTS: u32 = 1000;
/// Messages that a dying connection may double. A measured window stays below it; this is the most that counts: 4000
/// messages a second over 130 ms.
pub const UNACKNOWLEDGED_MESSAGES: u32 = 512;
/// The same in octets: 250 Mbit/s over 130 ms.
pub const UNACKNOWLEDGED_BYTES: u64 = 4 * 1024 * 1024;
/// As much as the engine can.
pub const PIPELINING: Pipelining = Pipelining::Stream;
/// How long an agent without work keeps its connection.
pub const IDLE: Duration = Duration::from_secs(30);
/// Messages on one connection: no limit of ours; hosts that have one say so or close in good order.
pub const CONNECTION_MESSAGES: u32 = 1_000_000;
/// Age of a connection, as Postfix's `smtp_connection_reuse_time_limit`, but longer: closing costs a round trip or three.
pub const CONNECTION_AGE: Duration = Duration::from_secs(3600);
/// Connecting, per address, as Postfix.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to a site to begin with.
pub const INITIAL_AGENTS: u32 = 2;
/// Waiting for a reply, RFC 5321 §4.5.3.2.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// Patience per try with a name server, as the C library's resolver.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries over all name servers.
pub const DNS_ATTEMPTS: u32 = 3;
/// Event loops of each kind: one saturates a disk and a gigabit link.
pub const LOOPS: u32 = 1;

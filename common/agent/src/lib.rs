//! The agent protocol: what the scheduler and the transport agents say to each other.
//!
//! ```text
//!   scheduler ──Order──▶ agent    Lease(thread, clause) · Connect · Carry(batch) · Idle · Close
//!   agent ──Report──▶ scheduler   Hungry(credit) · Pace · Settled(batch, verdicts) · Returned · Site · Link · Released
//! ```
//!
//! A **lease** gives one thread to one agent. The agent says how much work it can take ahead of the replies
//! ([`Report::Hungry`], a sliding window that it opens further before the old one is used up); the scheduler fills the
//! window with batches. Each carried batch comes back exactly once as a whole: in [`Report::Settled`] frames, the last
//! of which says [`Rest::Done`], or, when it was not touched, in [`Report::Returned`]. Behind [`Report::Released`] a lease says nothing more; batches
//! that were carried and did not come back by then have lost their agent and return to the thread unchanged.
//!
//! Credit is what the path and memory hold. How much of the next hop's *time* an agent may have in hand is the scheduler's
//! affair, which knows who else waits: the agent only tells how long the next hop takes ([`Report::Pace`], [`Pace`]).
//!
//! Both ends live in one process today and exchange these values over bounded mailboxes.
#![forbid(unsafe_code)]

mod pace;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::Clause;
use zrelay_spool::{BatchId, Diagnostic, ThreadKey, Timing};

pub use pace::{IN_HAND, IN_HAND_ROUND_TRIPS, Measured, PORTION_MIN, Pace, Work, portion};

/// One tenure of one agent over one thread. Counted up from 1 by the scheduler, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// From the scheduler to an agent loop.
#[derive(Clone, Debug)]
pub enum Order {
    /// Carry this thread. The agent connects, and says `Hungry` when it can take work.
    Lease {
        /// The new lease.
        lease: LeaseId,
        /// The thread.
        thread: ThreadKey,
        /// Its limits.
        clause: Arc<Clause>,
        /// The idle lease of the same ring whose connection is to be used; that lease ends without a `Released`.
        takes_over: Option<LeaseId>,
    },
    /// The site that was reported is free for this agent: connect. Agents that reported a [`Report::Site`] wait for it.
    Connect {
        /// To whom.
        lease: LeaseId,
    },
    /// Work, within the credit given.
    Carry {
        /// To whom.
        lease: LeaseId,
        /// What.
        batch: Ticket,
    },
    /// Nothing to carry now: keep the connection for the clause's idle time, then release. A `Carry` may still come.
    Idle {
        /// To whom.
        lease: LeaseId,
    },
    /// Finish what is under way, return what was not begun, close the connection, release.
    Close {
        /// To whom.
        lease: LeaseId,
    },
}

/// A batch on its way: enough to find everything else in the spool.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The batch.
    pub id: BatchId,
    /// Its open recipients, as indices into the message's envelope, ascending.
    pub recipients: Arc<[u32]>,
    /// Octets of the message on the wire.
    pub size: u64,
    /// What it takes of the credit: see [`weight`].
    pub weight: u64,
    /// When the message came in.
    pub received: Timestamp,
    /// When the batch was due.
    pub due: Timestamp,
    /// When the scheduler handed it out.
    pub carried: Timestamp,
}

/// From an agent loop to the scheduler.
#[derive(Clone, Debug)]
pub enum Report {
    /// Room for more work, on top of what was granted before.
    Hungry {
        /// By whom.
        lease: LeaseId,
        /// How much.
        credit: Credit,
    },
    /// Room for a first batch, to be sent ahead of the host's greeting: a host that is known to take that. It has not
    /// said anything yet, and may never.
    Early {
        /// By whom.
        lease: LeaseId,
        /// How much.
        credit: Credit,
    },
    /// How long the next hop takes, when that has changed: for what is given to this lease from here on.
    Pace {
        /// By whom.
        lease: LeaseId,
        /// What is known of it.
        pace: Pace,
    },
    /// Outcomes of some or all recipients of a batch.
    Settled {
        /// By whom.
        lease: LeaseId,
        /// The batch.
        batch: BatchId,
        /// What became of them; each recipient of the ticket is in exactly one verdict of the batch's frames, those
        /// missing when `rest` is [`Rest::Done`] are unanswered and stay as they were.
        verdicts: Vec<Verdict>,
        /// Whether the agent is through with the batch.
        rest: Rest,
    },
    /// A batch that was carried but not begun comes back as it was.
    Returned {
        /// By whom.
        lease: LeaseId,
        /// The batch.
        batch: BatchId,
    },
    /// The MX set that the host resolved to; the agent goes on when it is told to [`Order::Connect`].
    Site {
        /// By whom.
        lease: LeaseId,
        /// The site.
        site: Site,
    },
    /// How the connection does, for the tools; about once a second while it works.
    Link {
        /// By whom.
        lease: LeaseId,
        /// The figures.
        link: Box<Link>,
    },
    /// The lease has ended.
    Released {
        /// By whom.
        lease: LeaseId,
        /// Why.
        reason: Release,
        /// What it did.
        statistics: Statistics,
    },
}

impl Report {
    /// The lease that speaks.
    pub fn lease(&self) -> LeaseId {
        match self {
            Self::Hungry { lease, .. }
            | Self::Early { lease, .. }
            | Self::Pace { lease, .. }
            | Self::Settled { lease, .. }
            | Self::Returned { lease, .. }
            | Self::Site { lease, .. }
            | Self::Link { lease, .. }
            | Self::Released { lease, .. } => *lease,
        }
    }
}

/// How much work an agent takes ahead of the replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credit {
    /// Batches.
    pub batches: u32,
    /// Octets, as tickets [`weigh`](weight); one batch may overdraw it, so that a message larger than any credit can
    /// travel.
    pub bytes: u64,
}

/// What a recipient weighs, octets: its command on the wire, generously. Not more, although next hops have work with
/// every one: credit is measured on the path and on the rate of answers, and a slow next hop is given less of it. A
/// weight of 1 KiB was tried and halved the rate of a post to 10,000 over 130 ms, since credit ran out before the path
/// was full.
pub const RECIPIENT_WEIGHT: u64 = 64;

/// What a batch weighs against credit, and against other mail, in octets: the message as often as it is sent, and
/// [`RECIPIENT_WEIGHT`] per recipient.
pub fn weight(size: u64, copies: u32, recipients: usize) -> u64 {
    let recipients = u64::try_from(recipients).unwrap_or(u64::MAX);
    let copies = u64::from(copies).clamp(1, recipients.max(1));
    size.saturating_mul(copies).saturating_add(recipients.saturating_mul(RECIPIENT_WEIGHT))
}

/// Whether more frames of a batch follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// More verdicts of this batch will come.
    More,
    /// This was the last frame of the batch.
    Done,
}

/// An outcome shared by some recipients of a batch.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Their indices, ascending.
    pub recipients: Vec<u32>,
    /// What the next hop did with them.
    pub judgement: Judgement,
    /// In which words.
    pub diagnostic: Arc<Diagnostic>,
    /// When the reply came.
    pub at: Timestamp,
    /// Where the time went.
    pub timing: Timing,
}

/// What the next hop did with a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// Took it, with or without its DSN parameters.
    Delivered {
        /// The next hop offered `DSN` and was given the parameters.
        dsn_relayed: bool,
    },
    /// Wants it later.
    Deferred,
    /// Does not want it.
    Failed,
}

/// The set of MX hosts that a host resolved to, as one name: lower-case exchange names in order, joined by commas.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Site(pub Arc<str>);

/// Why a lease ended.
#[derive(Clone, Debug)]
pub enum Release {
    /// Ordered to, or idle for long enough; nothing is wrong.
    Done,
    /// The far side ended a working connection in good order (421 between messages, a limit of messages): come again.
    Ended(Arc<Diagnostic>),
    /// The host cannot be worked with now: the thread backs off.
    Failed(Arc<Diagnostic>),
    /// The host can never be worked with (null MX, no such domain): everything in the thread fails.
    Rejected(Arc<Diagnostic>),
}

/// What a lease did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Transactions with a final reply.
    pub transactions: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Octets written.
    pub bytes: u64,
    /// Messages written, at least in part, whose final reply never came: each may arrive twice.
    pub at_risk: u64,
}

/// How a connection does.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Link {
    /// `name[address]:port`; empty while resolving.
    pub peer: String,
    /// `resolving`, `connecting`, `greeting`, `working`, `idle`, `closing`.
    pub state: &'static str,
    /// The conversation level: `lockstep`, `transaction`, `pipelined`, `stream`; empty before EHLO.
    pub level: &'static str,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Smoothed round trip from `TCP_INFO`.
    pub rtt: Option<Duration>,
    /// Replies awaited.
    pub replies: u32,
    /// Octets of messages that are sent and not answered.
    pub bytes_in_flight: u64,
    /// Messages that may be sent and not answered, as measured.
    pub window_messages: u32,
    /// The same in octets.
    pub window_bytes: u64,
    /// Delivery rate from `TCP_INFO`, octets per second.
    pub delivery_rate: u64,
    /// Part of the delivery rate that was used of late, 0 to 1; `None` before there is one. Near 1, the path is what
    /// holds the connection back; else the receiver, or that there is not enough to send.
    pub link_use: Option<f64>,
    /// Recipients delivered per second of late.
    pub recipient_rate: f64,
    /// Recipients delivered by this lease.
    pub delivered: u64,
    /// Octets written by this lease.
    pub bytes: u64,
}

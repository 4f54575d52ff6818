//! The content of one message while it comes in: judged, counted, hashed, and passed on in pieces.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use zrelay_clock::Timestamp;
use zrelay_spool::{MessageId, PIECE_MAX};

use super::header::HeaderScan;

/// Content is passed on to the spool in pieces of at least this many octets; a message below is its tail alone, and
/// costs the spool one request. Large enough that the hand-over does not count beside the copying.
pub(super) const PIECE_BYTES: usize = 64 * 1024;
/// Input looked at in one step, octets: with what a decoder may make of it, a piece stays below [`PIECE_MAX`].
pub(super) const WINDOW_BYTES: usize = 32 * 1024;
const _: () = assert!(PIECE_BYTES + 2 * WINDOW_BYTES + 2 <= PIECE_MAX);

/// Why a content is not taken; told when its end is there. Where there are several, the greatest is told: which one
/// is found first depends on how the octets came in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fault {
    /// As many `Received:` lines as only a loop makes.
    Loop,
    /// A CR or LF that is not part of a CRLF.
    BareNewline,
    /// More octets than the limit.
    TooBig,
}

impl Fault {
    /// The final reply.
    pub(super) fn reply(self) -> &'static str {
        match self {
            Self::TooBig => "552 5.3.4 Message size exceeds fixed limit\r\n",
            Self::BareNewline => "550 5.6.11 Error: bare <CR> or <LF> in message content\r\n",
            Self::Loop => "554 5.4.6 Error: too many hops\r\n",
        }
    }
}

/// Whether the client has gone so far beyond the limit that reading on is a waste.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    /// Go on.
    Bearable,
    /// Hang up.
    Hopeless,
}

/// The content of one message while it comes in.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) id: MessageId,
    /// When its first octet was asked for.
    pub(super) started: Timestamp,
    /// Octets taken from the client.
    pub(super) received: u64,
    /// Octets of the content as stored.
    size: u64,
    size_max: u64,
    hops_max: u32,
    /// Octets that were not passed on yet.
    tail: Vec<u8>,
    /// How many octets of the tail were looked at.
    seen: usize,
    passed_on: PassedOn,
    digest: Digest,
    pub(super) header: HeaderScan,
    pub(super) eight_bit: bool,
    fault: Option<Fault>,
}

/// SHA-256 of what was judged so far.
struct Digest(Context);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

/// Whether the spool has pieces of the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PassedOn {
    /// It knows nothing of the message.
    Nothing,
    /// It is to be told when the message comes to nothing.
    Pieces,
}

/// A content that is whole.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) tail: Vec<u8>,
    pub(super) digest: [u8; 32],
}

impl Content {
    pub(super) fn new(
        id: MessageId,
        started: Timestamp,
        (size_max, hops_max): (u64, u32),
        flow_header: Option<Arc<str>>,
    ) -> Self {
        Self {
            id,
            started,
            received: 0,
            size: 0,
            size_max,
            hops_max,
            tail: Vec::new(),
            seen: 0,
            passed_on: PassedOn::Nothing,
            digest: Digest(Context::new(&SHA256)),
            header: HeaderScan::new(flow_header),
            eight_bit: false,
            fault: None,
        }
    }

    /// Where a decoder appends; [`Content::judge`] must follow.
    pub(super) fn tail_mut(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Looks at what was appended to the tail, made of `octets` from the client.
    pub(super) fn judge(&mut self, octets: usize) -> Pace {
        self.received = self.received.saturating_add(octets as u64);
        let fresh = self.tail.get(self.seen..).unwrap_or_default();
        self.size = self.size.saturating_add(fresh.len() as u64);
        if self.size > self.size_max {
            self.fault = self.fault.max(Some(Fault::TooBig));
        }
        if self.fault.is_some() {
            self.tail = Vec::new();
            self.seen = 0;
            let hopeless = self.received > self.size_max.saturating_mul(2);
            return if hopeless { Pace::Hopeless } else { Pace::Bearable };
        }
        self.digest.0.update(fresh);
        self.eight_bit |= !fresh.is_ascii();
        self.header.push(fresh);
        self.seen = self.tail.len();
        if self.header.hops() > self.hops_max {
            self.set_fault(Fault::Loop);
        }
        Pace::Bearable
    }

    /// Notes a fault.
    pub(super) fn set_fault(&mut self, fault: Fault) {
        self.fault = self.fault.max(Some(fault));
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Octets held in memory.
    pub(super) fn held(&self) -> usize {
        self.tail.capacity()
    }

    /// The next piece for the spool, when one is full.
    pub(super) fn next_piece(&mut self) -> Option<Vec<u8>> {
        if self.tail.len() < PIECE_BYTES {
            return None;
        }
        self.flush()
    }

    /// What is held, full piece or not.
    pub(super) fn flush(&mut self) -> Option<Vec<u8>> {
        if self.tail.is_empty() || self.fault.is_some() {
            return None;
        }
        debug_assert_eq!(self.seen, self.tail.len(), "a piece leaves before it was judged");
        self.seen = 0;
        self.passed_on = PassedOn::Pieces;
        Some(std::mem::take(&mut self.tail))
    }

    pub(super) fn passed_on(&self) -> PassedOn {
        self.passed_on
    }

    /// The content, unless a fault was found.
    pub(super) fn finish(mut self) -> Result<Whole, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(self.digest.0.finish().as_ref());
        self.tail.shrink_to_fit();
        Ok(Whole { tail: self.tail, digest })
    }
}

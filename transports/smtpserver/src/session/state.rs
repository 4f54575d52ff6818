//! Where a session stands. Each state holds what is known in it and nothing else.

use zrelay_clock::Timestamp;
use zrelay_wire::{DotDecoder, Last, NewlineCheck, Normaliser};

use super::content::Content;
use super::transaction::Transaction;

/// Where a session stands.
#[derive(Debug)]
pub(super) enum State {
    /// Between transactions.
    Idle,
    /// Behind an accepted MAIL.
    Envelope(Box<Transaction>),
    /// Behind 354.
    Data(Box<DataPhase>),
    /// Behind an accepted chunk that was not the last.
    Chunks(Box<ChunkPhase>),
    /// Within a chunk.
    Chunk(Box<ChunkPhase>, Chunk),
    /// Within a chunk that nobody will receive.
    Skip(Box<Skip>),
    /// A chunk that was not the last has been refused: so are those that follow, up to the last or RSET.
    Refused(&'static str),
    /// STARTTLS was accepted.
    Tls(Told),
    /// Nothing is read any more.
    Ended(Told),
}

/// Whether the driver knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// Once the replies are out.
    NotYet,
    /// Yes.
    Done,
}

/// Behind 354.
#[derive(Debug)]
pub(super) struct DataPhase {
    pub(super) transaction: Transaction,
    pub(super) content: Content,
    pub(super) decoder: DotDecoder,
    pub(super) rate: RateClock,
}

/// Behind the first accepted BDAT.
#[derive(Debug)]
pub(super) struct ChunkPhase {
    pub(super) transaction: Transaction,
    pub(super) content: Content,
    pub(super) newlines: Newlines,
    pub(super) rate: RateClock,
}

/// What is done with bare CR and LF in chunks.
#[derive(Debug)]
pub(super) enum Newlines {
    /// They are looked for.
    Check(NewlineCheck),
    /// They become CRLF; the check sees the result.
    Normalise(Normaliser, NewlineCheck),
}

/// The rest of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) remaining: u64,
    pub(super) last: Last,
}

/// The rest of a chunk that nobody will receive.
#[derive(Debug)]
pub(super) struct Skip {
    pub(super) remaining: u64,
    /// What answers it.
    pub(super) reply: &'static str,
    /// What comes behind it.
    pub(super) then: State,
    pub(super) taken: u64,
    pub(super) rate: RateClock,
}

/// When the octets of a message began to come, for the average rate; moved on by times when nobody read them.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateClock(pub(super) Timestamp);

impl State {
    /// The clock of the average rate, where there is one.
    pub(super) fn rate_mut(&mut self) -> Option<&mut RateClock> {
        match self {
            Self::Data(phase) => Some(&mut phase.rate),
            Self::Chunks(phase) | Self::Chunk(phase, _) => Some(&mut phase.rate),
            Self::Skip(skip) => Some(&mut skip.rate),
            _ => None,
        }
    }
}

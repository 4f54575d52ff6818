//! Rows on messages, their batches and their recipients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zrelay_clock::Timestamp;
use zrelay_spool::{Attempt, BatchId, Disposition, MessageId};

use super::rows::words;
use super::view::{BatchPlace, BatchView};

/// A row of `messages`, and a batch in the answer of `message`: the recipients of one message in one thread.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MessageRow {
    /// The queue id.
    pub message: String,
    /// The batch, `message.number`.
    pub batch: String,
    /// The thread.
    pub thread: String,
    /// `due`, `waiting`, `carried` or `held`.
    pub state: String,
    /// The envelope sender of the first of these recipients; `<>` for the null sender, empty when the spool does not
    /// know the message any more.
    pub sender: String,
    /// Open recipients.
    pub recipients: u64,
    /// The first of them; empty when the spool does not know the message any more.
    pub recipient: String,
    /// Octets of the message.
    pub size: u64,
    /// When the message came in.
    pub received: String,
    /// Its age, seconds.
    pub age: u64,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next attempt is due, if it is in the future.
    pub next_attempt: Option<String>,
    /// The last reply that put it off.
    pub last_reply: Option<String>,
}

/// A recipient in the answer of `message`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RecipientRow {
    /// The address.
    pub address: String,
    /// Its envelope sender; `<>` for the null sender.
    pub sender: String,
    /// `due`, `waiting`, `carried` or `held` while it is in a batch; `finished` when it is in none: it has its outcome,
    /// or its message has not been routed yet.
    pub state: String,
    /// Its thread; empty when finished.
    pub thread: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next attempt is due, if it is in the future.
    pub next_attempt: Option<String>,
    /// The last reply that put it off.
    pub last_reply: Option<String>,
    /// What became of it in the end, if that is known: `delivered`, `failed`, `expired` or `dropped`.
    pub outcome: Option<String>,
    /// It was tried before the first attempt that is told of; the delivery log has all of them.
    pub earlier_attempts_gone: bool,
}

/// An attempt at recipients of a message, or what was decided of them without one, in the answer of `message`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AttemptRow {
    /// When it was known.
    pub at: String,
    /// The thread through which it went; empty when that is not known any more.
    pub thread: String,
    /// The batch, `message.number`.
    pub batch: String,
    /// How often the batch had been tried then, this time included.
    pub attempts: u32,
    /// `delivered`, `deferred`, `failed`, `expired`, `dropped`, or `delayed`: its sender was told of the delay.
    pub disposition: String,
    /// The host that was reached, `name[address]:port`; empty when none was.
    pub peer: String,
    /// What it said, or a reason of our own.
    pub reply: String,
    /// The recipients: positions in `recipients` of the answer, from 0.
    pub recipients: Vec<u32>,
}

impl AttemptRow {
    /// The row of an attempt at recipients of `message`.
    pub fn new(message: MessageId, attempt: &Attempt) -> Self {
        Self {
            at: attempt.at.rfc3339(),
            thread: attempt.thread.as_ref().map(ToString::to_string).unwrap_or_default(),
            batch: BatchId { message, number: attempt.batch }.to_string(),
            attempts: attempt.attempts,
            disposition: name(attempt.disposition).to_owned(),
            peer: attempt.diagnostic.peer.clone(),
            reply: attempt.diagnostic.to_string(),
            recipients: attempt.recipients.clone(),
        }
    }
}

/// The word for what became of a recipient.
pub(crate) fn name(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Delivered { .. } => "delivered",
        Disposition::Deferred => "deferred",
        Disposition::Delayed => "delayed",
        Disposition::Failed => "failed",
        Disposition::Expired => "expired",
        Disposition::Dropped => "dropped",
    }
}

impl BatchView {
    /// The row of the tools; the addresses are the spool's to tell.
    pub fn row(&self, now: Timestamp) -> MessageRow {
        MessageRow {
            message: self.id.message.to_string(),
            batch: self.id.to_string(),
            thread: self.thread.to_string(),
            state: self.place.name().to_owned(),
            sender: String::new(),
            recipients: u64::try_from(self.recipients.len()).unwrap_or(u64::MAX),
            recipient: String::new(),
            size: self.size,
            received: self.received.rfc3339(),
            age: now.since(self.received).as_secs(),
            attempts: self.attempts,
            next_attempt: self.next_attempt(),
            last_reply: self.last_reply(),
        }
    }

    /// When the next attempt is due, if it is in the future.
    pub fn next_attempt(&self) -> Option<String> {
        match self.place {
            BatchPlace::Waiting(due) => Some(due.rfc3339()),
            _ => None,
        }
    }

    /// The last reply that put it off.
    pub fn last_reply(&self) -> Option<String> {
        words(self.last.as_deref())
    }
}

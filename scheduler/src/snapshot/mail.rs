//! Rows on messages, their batches and their recipients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zrelay_clock::Timestamp;

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

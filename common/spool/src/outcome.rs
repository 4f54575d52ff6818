//! What became of recipients, and what is remembered of batches and threads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;

use crate::{BatchId, DeliverBy, Flow, MessageId, ThreadKey};

/// An outcome of some recipients of one batch: one record in the log, one log line per recipient.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The batch.
    pub batch: BatchId,
    /// Indices of the recipients in the message's envelope, ascending.
    pub recipients: Vec<u32>,
    /// What became of them.
    pub disposition: Disposition,
    /// Who said so and in which words.
    pub diagnostic: Arc<Diagnostic>,
    /// When it was known.
    pub at: Timestamp,
    /// How often the batch has been tried, this time included.
    pub attempts: u32,
    /// For [`Disposition::Deferred`]: when the batch is due again. For [`Disposition::Delayed`]: when it will be given up.
    pub due: Timestamp,
    /// For the delivery log only; not stored.
    pub timing: Timing,
    /// The channel of the batch's thread. For the delivery log only; not stored, `None` after recovery.
    pub channel: Option<Arc<str>>,
}

/// What became of a recipient. All but `Deferred` and `Delayed` are final.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The next hop took responsibility. `dsn_relayed` tells whether it was also given the DSN parameters (RFC 3461
    /// §5.2.1), so that a requested success report is its business and not ours.
    Delivered {
        /// The next hop offered `DSN`.
        dsn_relayed: bool,
    },
    /// To be tried again.
    Deferred,
    /// Still to be tried again, and its sender is told of it, as far as it wants to be: recorded once in the life of a
    /// batch.
    Delayed,
    /// Refused for good.
    Failed,
    /// Tried until its time was over.
    Expired,
    /// Taken out of the queue by an operator, on record, without a report.
    Dropped,
}

impl Disposition {
    /// Whether the recipient has left the queue.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Deferred | Self::Delayed)
    }
}

/// A reply of the next hop, or a reason of our own, in one line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnostic {
    /// The SMTP reply code; 0 for a reason of our own.
    pub code: u16,
    /// RFC 3463 status.
    pub status: Status,
    /// The text without the code and without control characters, at most [`Diagnostic::TEXT_MAX`] octets. A reply of
    /// several lines is joined with blanks.
    pub text: String,
    /// The next hop as `name[address]:port`; empty when none was reached.
    pub peer: String,
    /// The command that the reply answered, as Postfix logs it: `MAIL FROM`, `RCPT TO`, `DATA`, `end of DATA`, `BDAT`;
    /// empty otherwise.
    pub command: String,
}

impl Diagnostic {
    /// Longest text that is kept, in octets.
    pub const TEXT_MAX: usize = 1024;

    /// A reason of our own.
    pub fn local(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), ..Self::default() }
    }

    /// Octets of memory that it takes on the heap, about, if nobody shares it.
    pub(crate) fn memory(&self) -> usize {
        /// What the counts of its owners and the heap add to its own octets.
        const AROUND: usize = 64;
        size_of::<Self>() + AROUND + self.text.len() + self.peer.len() + self.command.len()
    }
}

impl fmt::Display for Diagnostic {
    /// As in Postfix's delivery log: `host HOST said: 450 4.2.1 slow down (in reply to RCPT TO command)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code == 0 {
            return f.write_str(&self.text);
        }
        write!(f, "host {} said: {} {} {}", self.peer, self.code, self.status, self.text)?;
        if !self.command.is_empty() {
            write!(f, " (in reply to {} command)", self.command)?;
        }
        Ok(())
    }
}

/// An RFC 3463 enhanced status code: class, subject, detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status(pub u8, pub u16, pub u16);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Where the time of a delivery went; Postfix's `delays=a/b/c/d`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timing {
    /// a: from arrival until the scheduler held it due.
    pub queued: Duration,
    /// b: from there until an agent took it.
    pub waited: Duration,
    /// c: setting the connection up; zero when it was there already.
    pub connected: Duration,
    /// d: transmission.
    pub sent: Duration,
    /// Transactions that this connection had carried before; `conn_use` in the log when above zero.
    pub reused: u32,
    /// Whether the connection was encrypted.
    pub encrypted: bool,
}

/// A batch as the router makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoutedBatch {
    /// The thread it belongs to.
    pub thread: ThreadKey,
    /// Indices of its recipients in the message's envelope, ascending.
    pub recipients: Vec<u32>,
}

/// A batch as the spool hands it to the scheduler, fresh or recovered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueuedBatch {
    /// Its name.
    pub id: BatchId,
    /// The thread it belongs to.
    pub thread: ThreadKey,
    /// The recipients that are not finished, ascending.
    pub recipients: Arc<[u32]>,
    /// When the message came in.
    pub received: Timestamp,
    /// Octets of the message as it will be sent: trace header and content.
    pub size: u64,
    /// How many times it will be sent at least: once per envelope sender of these recipients.
    pub copies: u32,
    /// Whose mail it is: as the message says, else by the sender of the first of these recipients.
    pub flow: Flow,
    /// -9 to 9, the highest the most urgent.
    pub priority: i8,
    /// Until when it is to be delivered.
    pub deliver_by: Option<DeliverBy>,
    /// Its sender has been told of the delay.
    pub warned: bool,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this time.
    pub due: Timestamp,
    /// An operator holds it.
    pub held: bool,
    /// What the last attempt brought.
    pub last: Option<Arc<Diagnostic>>,
}

/// What an operator did to a batch: stored, so that it survives a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchState {
    /// The batch.
    pub id: BatchId,
    /// Whether it is held.
    pub held: bool,
    /// Not before this time.
    pub due: Timestamp,
    /// Attempts so far.
    pub attempts: u32,
}

/// What is remembered of a thread as a whole: stored when its host fails or recovers, or an operator holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ThreadState {
    /// The thread.
    pub key: ThreadKey,
    /// Attempts at the host that failed in a row; 0 forgets the failure.
    pub failures: u32,
    /// No attempt before this time.
    pub due: Timestamp,
    /// An operator holds it.
    pub held: bool,
    /// What the last attempt brought.
    pub last: Option<Arc<Diagnostic>>,
}

/// An outcome whose sender is owed a notification, known to be on stable storage.
#[derive(Clone, Debug)]
pub struct Owed {
    /// The message.
    pub message: MessageId,
    /// The recipients owed, ascending.
    pub recipients: Vec<u32>,
    /// What became of them.
    pub disposition: Disposition,
    /// Why.
    pub diagnostic: Arc<Diagnostic>,
    /// When.
    pub at: Timestamp,
    /// For [`Disposition::Delayed`]: when it will be given up.
    pub until: Option<Timestamp>,
}

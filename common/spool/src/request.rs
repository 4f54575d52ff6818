//! What the rooms ask of the spool's appender, and what it tells them.

use zrelay_mailbox::Sender;

use crate::{
    BatchId, BatchState, Envelope, MessageId, Outcome, Owed, QueuedBatch, RoutedBatch, Stored, ThreadKey, ThreadState,
};

/// A request to the appender. Requests of one sender are recorded in their order; all that wait when the appender
/// turns to the disk share one `fdatasync` (group commit).
#[derive(Debug)]
pub enum Request {
    /// A piece of a message's content, streamed ahead of its commit. Not durable and not visible until then. What was
    /// appended keeps its space until a [`Commit`](Self::Commit) or an [`Abort`](Self::Abort) follows.
    Append {
        /// The message, named by [`SpoolHandle::next_id`](crate::SpoolHandle::next_id).
        message: MessageId,
        /// The next octets of the content; at most [`PIECE_MAX`](crate::PIECE_MAX).
        bytes: Vec<u8>,
    },
    /// The message will not be committed; what was appended for it is garbage.
    Abort {
        /// The message.
        message: MessageId,
    },
    /// Store the message: answered once it is on stable storage, or not at all.
    Commit {
        /// The message.
        message: MessageId,
        /// The last octets of the content, behind all that was appended; a small message is its tail alone.
        tail: Vec<u8>,
        /// SHA-256 of the whole content: equal contents that come one after another are stored once.
        digest: [u8; 32],
        /// The envelope.
        envelope: Box<Envelope>,
        /// Whom to tell.
        reply: CommitReply,
    },
    /// The router's decision on a message. A recipient that is in none of the batches was a duplicate of another and
    /// leaves the queue with this; one that is in two stays in the first.
    Routed {
        /// The message.
        message: MessageId,
        /// Its batches; their numbers are their positions.
        batches: Vec<RoutedBatch>,
    },
    /// What became of recipients.
    Outcomes(Vec<Outcome>),
    /// A batch was held, released or made due by an operator.
    Batch(BatchState),
    /// An operator sent a batch to another thread: it begins anew there, with its age and its hold.
    Reroute {
        /// The batch.
        id: BatchId,
        /// Where it belongs from now on.
        thread: ThreadKey,
    },
    /// A thread's host failed or recovered, or an operator held or released the thread.
    Thread(ThreadState),
    /// What was owed to these recipients' sender is settled without a message (a null sender, a report to the log).
    Settled {
        /// The message.
        message: MessageId,
        /// The recipients.
        recipients: Vec<u32>,
    },
    /// Answer when everything asked before this is on stable storage.
    Flush {
        /// Whom to tell; the result's `message` is the one given here.
        reply: CommitReply,
    },
    /// Finish what was asked, sync, and end the appender's thread.
    Shutdown,
}

/// Whom to tell of a commit.
#[derive(Clone, Debug)]
pub struct CommitReply {
    /// The mailbox of the loop that asked.
    pub to: Sender<Committed>,
    /// Its own name for the matter (a session, a control connection).
    pub token: u64,
}

/// The answer to a [`Request::Commit`] or [`Request::Flush`].
#[derive(Clone, Debug)]
pub struct Committed {
    /// From the [`CommitReply`].
    pub token: u64,
    /// Stored and durable, or not stored at all.
    pub result: Result<(), Refused>,
}

/// Why the spool does not take a message; the client keeps it and tries again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// No space left: `452 4.3.1`.
    #[error("insufficient system storage")]
    Full,
    /// The disk failed: `451 4.3.0`.
    #[error("queue file write error")]
    Broken,
}

/// What the appender tells the router workers: a committed message wants routing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrived(pub MessageId);

/// What the appender tells the scheduler.
#[derive(Clone, Debug)]
pub enum Queue {
    /// A batch is in the queue.
    Batch(QueuedBatch),
    /// What is remembered of a thread; sent before the batches at start.
    Thread(ThreadState),
    /// Outcomes cannot be recorded: hand nothing out. Carries the cause for the tools.
    Paused(String),
    /// Outcomes can be recorded again.
    Resumed,
}

/// An outcome on stable storage, with its message: the last outcome of a message takes it out of the reader's reach.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The outcome.
    pub outcome: Outcome,
    /// The message; `None` when it could not be read.
    pub stored: Option<Stored>,
}

/// What the appender tells the notary and the delivery log, after the fact is durable.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Outcomes were recorded: one log line per recipient.
    Outcome(Box<Recorded>),
    /// A report is owed for these recipients.
    Owed(Owed),
    /// No recipient of the message is open any more; whatever is owed can go out at once.
    Done(MessageId),
    /// Nothing is owed either: the message has left the queue (`removed` in the log).
    Removed(MessageId),
}

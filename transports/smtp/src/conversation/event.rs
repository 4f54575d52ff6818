//! What a conversation tells its driver.

use std::fmt;
use std::sync::Arc;

use zrelay_agent::{Rest, Verdict};
use zrelay_spool::{BatchId, Diagnostic};

/// What a conversation tells its driver.
#[derive(Clone, Debug)]
pub enum Event {
    /// The far side is ready for work.
    Ready,
    /// Begin the TLS handshake, then call [`Conversation::handle_secured`](crate::Conversation::handle_secured).
    StartTls,
    /// Outcomes of some or all recipients of a batch.
    Settled {
        /// The batch.
        batch: BatchId,
        /// What became of them; recipients without a verdict when `rest` is `Done` are unanswered.
        verdicts: Vec<Verdict>,
        /// Whether the conversation is through with the batch.
        rest: Rest,
    },
    /// A batch comes back as it was.
    Returned {
        /// The batch.
        batch: BatchId,
    },
    /// The conversation is over; nothing comes after this. Close the connection.
    Closed(End),
}

/// How a conversation ended.
#[derive(Clone, Debug)]
pub enum End {
    /// As it was asked to.
    Done,
    /// The far side ended a connection that had worked.
    Ended(Arc<Diagnostic>),
    /// The connection did not work; so does not the host, as far as one connection tells.
    Failed(Arc<Diagnostic>),
    /// It never came so far that mail could be sent: another address may do better.
    Unready(Arc<Diagnostic>),
    /// STARTTLS was offered, tried and refused, and is not required: connect again with
    /// [`Security::Clear`](crate::Security::Clear).
    ClearOnly(Arc<Diagnostic>),
    /// What was presumed of the host does not hold: connect again without
    /// [`Conversation::presume`](crate::Conversation::presume). That says nothing against the host, and nothing was sent that it
    /// could have taken for a message.
    Stale(Arc<Diagnostic>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("closed"),
            Self::Ended(reason) => write!(f, "the far side ended the connection: {reason}"),
            Self::Failed(reason) | Self::Unready(reason) => write!(f, "failed: {reason}"),
            Self::ClearOnly(reason) => write!(f, "{reason}; trying again in the clear"),
            Self::Stale(reason) => write!(f, "{reason}; trying again, waiting for the greeting"),
        }
    }
}

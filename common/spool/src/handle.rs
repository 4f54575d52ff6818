//! How the other rooms reach the spool.

use std::sync::Arc;

use zrelay_mailbox::Sender;

use crate::shared::Shared;
use crate::{MessageId, Reader, Request};

/// Whether the spool can record, as of now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It records.
    Good,
    /// No space is left, or less than is kept for delivery: refuse mail with `452 4.3.1`. Looked at every second.
    Full,
    /// The disk fails: refuse mail with `451 4.3.0`. Tried again every second.
    Broken,
}

/// Figures of the spool, for the tools. Read without a lock, so they need not belong to one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Messages stored since the start.
    pub messages: u64,
    /// `fdatasync`s of segments since the start.
    pub syncs: u64,
    /// Octets written since the start.
    pub bytes: u64,
    /// Bodies since the start that were not stored because an equal one was at hand.
    pub shared_bodies: u64,
    /// Segments on disk.
    pub segments: u64,
    /// Messages in the queue.
    pub open_messages: u64,
    /// Octets recorded in the segments on disk, finished messages included until their segment is reclaimed.
    pub live_bytes: u64,
    /// Messages since the start that were copied forward, so that a segment could go.
    pub moved_messages: u64,
    /// Octets left on the file system, as of the last second.
    pub free_bytes: u64,
    /// Checkpoints made since the start.
    pub checkpoints: u64,
    /// Messages of an earlier run that nobody was told of yet: for some seconds after the start.
    pub recovering: u64,
}

/// A handle on the running spool; clone it freely.
///
/// There are two mailboxes, because the two kinds of requests must not wait for each other. While the router, the
/// scheduler or the notary do not keep up, the appender takes nothing from [`intake`](Self::intake), so that clients
/// wait; it goes on taking from [`sender`](Self::sender), because what arrives there is what makes the others keep up.
/// Each keeps its own order. All requests on one message before it is announced ([`Arrived`](crate::Arrived)) belong
/// into the same one.
#[derive(Clone, Debug)]
pub struct SpoolHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) intake: Sender<Request>,
    pub(crate) requests: Sender<Request>,
}

impl SpoolHandle {
    /// A fresh queue id: above all that this spool ever gave out, and the present time in microseconds when the clock
    /// allows it.
    pub fn next_id(&self) -> MessageId {
        self.shared.next_id()
    }

    /// Where outcomes, routing decisions, administrative actions and our own notifications go. Any [`Request`] is
    /// taken here.
    pub fn sender(&self) -> Sender<Request> {
        self.requests.clone()
    }

    /// Where mail from clients goes: `Append`, `Abort` and `Commit`. Not for notifications of our own: they might wait
    /// here for the very notary that sends them.
    pub fn intake(&self) -> Sender<Request> {
        self.intake.clone()
    }

    /// Access to the stored messages.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// Whether the spool can record.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// The present figures.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }
}

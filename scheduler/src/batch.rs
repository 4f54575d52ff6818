//! A batch in the queue: some hundred octets at most, since there are many.

use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, DeliverBy, Diagnostic, Flow, QueuedBatch, ThreadKey};

/// The recipients of one message in one thread, as the scheduler knows them.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// Open recipients, ascending.
    pub(crate) recipients: Arc<[u32]>,
    pub(crate) received: Timestamp,
    /// Octets of the message.
    pub(crate) size: u64,
    /// Not before this time, as far as the batch itself is concerned.
    pub(crate) due: Timestamp,
    /// Under which key it stands in the thread's queue or among the due ones; meaningless in other places.
    pub(crate) wake: Timestamp,
    pub(crate) last: Option<Arc<Diagnostic>>,
    /// Envelope senders of its recipients: each is a transaction with the whole message.
    pub(crate) copies: u32,
    pub(crate) flow: Flow,
    pub(crate) priority: i8,
    /// Its sender has been told that it is late.
    pub(crate) warned: bool,
    /// Few have one.
    pub(crate) deliver_by: Option<Box<DeliverBy>>,
    pub(crate) attempts: u32,
    /// The back-off of the thread in which it was last reported as deferred.
    pub(crate) reported: u32,
    pub(crate) place: Place,
    pub(crate) hold: Hold,
    /// While it is carried in parts.
    pub(crate) round: Option<Box<Round>>,
}

/// Where the carrying of a batch in parts has come to: each recipient is given once before any is given again.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// The recipient with which the next part begins.
    pub(crate) from: u32,
    /// See [`Carried::due`](crate::lease::Carried::due): those deferred wait for the end of the round, and the others are
    /// not made to wait for them.
    pub(crate) due: Option<(Timestamp, Timestamp)>,
    /// The last deferral.
    pub(crate) last: Option<Arc<Diagnostic>>,
}

impl Batch {
    /// A batch as the spool or the disk hands it over; `reported` tells in which back-off it was last reported.
    pub(crate) fn of(queued: QueuedBatch, reported: u32) -> Self {
        // All fields by name: one that is added must not be forgotten here, nor below.
        let QueuedBatch {
            id: _,
            thread: _,
            recipients,
            received,
            size,
            copies,
            flow,
            priority,
            deliver_by,
            warned,
            attempts,
            due,
            held,
            last,
        } = queued;
        let (wake, place, hold) = (due, Place::Queued, Hold::from_flag(held));
        let deliver_by = deliver_by.map(Box::new);
        Self {
            recipients,
            received,
            size,
            due,
            wake,
            last,
            copies,
            flow,
            priority,
            warned,
            deliver_by,
            attempts,
            reported,
            place,
            hold,
            round: None,
        }
    }

    /// Ends the round if nobody is left who has not had a turn in it: those who are left wait for their next attempt. Says
    /// whether it did; the batch is to be queued anew then.
    pub(crate) fn end_round(&mut self) -> bool {
        let is_over = |round: &mut Box<Round>| self.recipients.last().is_none_or(|last| *last < round.from);
        let Some(round) = self.round.take_if(is_over) else { return false };
        if let Some((_, due)) = round.due {
            self.due = due;
            self.attempts = self.attempts.saturating_add(1);
            self.last = round.last;
        }
        true
    }

    /// The same as the disk takes it.
    pub(crate) fn into_queued(self, id: BatchId, thread: &ThreadKey) -> QueuedBatch {
        let Self {
            recipients,
            received,
            size,
            due,
            wake: _,
            last,
            copies,
            flow,
            priority,
            warned,
            deliver_by,
            attempts,
            reported: _,
            place: _,
            hold,
            round: _,
        } = self;
        let (thread, held) = (thread.clone(), hold.is_held());
        let deliver_by = deliver_by.map(|by| *by);
        QueuedBatch {
            id,
            thread,
            recipients,
            received,
            size,
            copies,
            flow,
            priority,
            deliver_by,
            warned,
            attempts,
            due,
            held,
            last,
        }
    }
}

/// Where a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the thread's queue, until it is due or comes to its expiry.
    Queued,
    /// Due, waiting for its turn.
    Due,
    /// With an agent.
    Carried,
    /// Aside, held by an operator.
    Aside,
}

/// Whether an operator holds a batch or a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Hold {
    #[default]
    Free,
    Held,
}

impl Hold {
    pub(crate) fn from_flag(held: bool) -> Self {
        if held { Self::Held } else { Self::Free }
    }

    pub(crate) fn is_held(self) -> bool {
        self == Self::Held
    }
}

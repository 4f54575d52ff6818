//! What an earlier run left, handed out message by message as the rooms take it: there may be ten million of them, and
//! the first one should not wait for the last.
//!
//! Nothing but what is in the books already is kept in memory. What is not is read here: batches from the checkpoint, and
//! the content, to see whether it is what was written. Where it is not, that is reported, at every start, and the message
//! stays in the queue; one whose envelope cannot be read leaves it.

use std::sync::Arc;

use crate::appender::queued_batch;
use crate::checkpoint::Checkpoint;
use crate::details::{Detail, Details, Origins, of_checkpoint};
use crate::format::{ALIGN, Found, RECORD_HEADER, SEGMENT_HEADER};
use crate::ledger::Ledger;
use crate::message::Extent;
use crate::moved::BatchDetail;
use crate::recovery::{Damage, is_intact};
use crate::shared::Shared;
use crate::{BatchId, Fact, MessageId, Owed, QueuedBatch, ReadError, Reader, Stored};

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) base: Option<Arc<Checkpoint>>,
    /// Of messages of which the log behind the checkpoint says something.
    details: Details,
    /// Where to go on.
    next: MessageId,
    /// The last message that an earlier run left.
    last: MessageId,
    /// The pieces of the message before: equal bodies come one after another, and are checked once.
    sound: Vec<Extent>,
}

impl Backlog {
    pub(crate) fn new(base: Option<Arc<Checkpoint>>, details: Details, last: MessageId) -> Self {
        Self { base, details, last, ..Self::default() }
    }
}

/// What is to be done for one message.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) message: MessageId,
    /// It waits for the router.
    pub(crate) is_unrouted: bool,
    pub(crate) batches: Vec<QueuedBatch>,
    pub(crate) facts: Vec<Fact>,
    /// Its content is not what was written.
    pub(crate) damage: Option<Damage>,
    /// Octets that were read for it.
    pub(crate) octets: u64,
}

impl Backlog {
    pub(crate) fn is_over(&self) -> bool {
        self.next > self.last
    }

    /// Octets of memory that it takes, about.
    #[cfg(test)]
    pub(crate) fn octets(&self) -> usize {
        self.details.octets()
    }

    /// Nothing is left, and nothing of it needed.
    pub(crate) fn release(&mut self) {
        *self = Self { next: self.next, last: self.last, ..Self::default() };
    }

    /// The next message that somebody has to do something for, or that is lost.
    pub(crate) fn poll(&mut self, ledger: &Ledger, shared: &Arc<Shared>) -> Option<Result<Left, (MessageId, Damage)>> {
        let reader = Reader::new(shared.clone());
        loop {
            let Some(message) = ledger.first_from(self.next).filter(|message| *message <= self.last) else {
                self.next = MessageId(self.last.0.saturating_add(1));
                return None;
            };
            self.next = MessageId(message.0.saturating_add(1));
            if ledger.counts(message) == (0, 0) {
                continue;
            }
            if !is_recorded(message, shared) {
                return Some(Err((message, Damage::Unreadable(ReadError::Damaged(message)))));
            }
            return Some(match reader.message(message) {
                Ok(stored) => {
                    let damage = (!self.is_sound(&stored, shared)).then_some(Damage::Content(message));
                    Ok(Left { damage, ..self.left(&stored, ledger, shared) })
                }
                Err(error) => Err((message, Damage::Unreadable(error))),
            });
        }
    }

    fn is_sound(&mut self, stored: &Stored, shared: &Shared) -> bool {
        let before = std::mem::take(&mut self.sound);
        let check = |extent: &Extent| {
            let view = || shared.view(extent.segment);
            before.contains(extent) || view().is_some_and(|view| is_intact(*extent, &*view, view.len()))
        };
        self.sound = stored.extents().collect();
        let sound = self.sound.iter().all(check);
        if !sound {
            // The next message may share it, and is no better off.
            self.sound.clear();
        }
        sound
    }

    fn left(&mut self, stored: &Stored, ledger: &Ledger, shared: &Shared) -> Left {
        let message = stored.id();
        let base = self.base.as_deref();
        let known = self.details.take(message, Origins { shared, base });
        let Detail { batches, owed, .. } = known.or_else(|| of_checkpoint(base, message)).unwrap_or_default();
        let queued = |(number, batch): (u32, &BatchDetail)| {
            let id = BatchId { message, number };
            let queued = queued_batch(stored, id, &batch.routed, |recipient| ledger.is_open(message, recipient))?;
            Some(QueuedBatch {
                attempts: batch.attempts,
                due: batch.due.unwrap_or(queued.due),
                held: batch.held,
                warned: batch.warned,
                last: batch.last.clone(),
                ..queued
            })
        };
        let batches = (0..).zip(&batches).filter_map(queued).collect();
        let mut facts: Vec<Fact> =
            owed.into_iter().filter_map(|owed| still_owed(owed, ledger)).map(Fact::Owed).collect();
        if ledger.counts(message).0 == 0 {
            facts.push(Fact::Done(message));
        }
        let is_unrouted = ledger.is_unrouted(message);
        Left { message, is_unrouted, batches, facts, damage: None, octets: stored.body_len() }
    }
}

/// Whether the message's own record is what was written. A checkpoint tells where it is, and not whether it still is. It is
/// a record of its own, or the end of the one that moved it.
pub(crate) fn is_recorded(message: MessageId, shared: &Shared) -> bool {
    /// What may stand in front of it in a record that moved it: batches and reports of some hundred thousand recipients.
    const BEFORE_MAX: u32 = 4 << 20;
    let Some(place) = shared.place(message) else { return false };
    let Some(view) = shared.view(place.segment) else { return false };
    let first = place.offset.saturating_sub(RECORD_HEADER) / ALIGN * ALIGN;
    let last = first.saturating_sub(BEFORE_MAX).max(SEGMENT_HEADER);
    let starts = (last..=first).rev().step_by(ALIGN as usize);
    let holds = |found: &Found| found.offset.saturating_add(found.length) == place.offset.saturating_add(place.length);
    let mut records = starts.filter_map(|at| Found::at(&*view, place.segment, at, view.len()));
    records.find(holds).is_some_and(|found| found.is_intact(&*view))
}

/// What of it is not settled yet.
pub(crate) fn still_owed(mut owed: Owed, ledger: &Ledger) -> Option<Owed> {
    owed.recipients.retain(|recipient| ledger.is_owed(owed.message, *recipient));
    (!owed.recipients.is_empty()).then_some(owed)
}

//! The books: which recipients are open, which reports are owed, which segments are needed.
//!
//! A pure state machine. The appender applies each record once it is durable, recovery applies each record that it
//! finds, and both get the same answers. Applying a record twice changes nothing the second time.

mod segments;

use std::collections::HashMap;

use crate::fates::{Fate, Fates, State};
use crate::moved::{Moved, Stage};
use crate::pins::{PinLists, PinsId};
use crate::record::Mark;
use crate::shared::{Place, Shared};
use crate::table::Table;
use crate::{Disposition, MessageId, Notify, Outcome, RoutedBatch};
use segments::Segment;

/// The state of all messages in the queue and of the segments they lie in. A message with one recipient takes
/// 16 octets.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    messages: Table<Entry>,
    fates: Fates,
    pins: PinLists,
    segments: HashMap<u32, Segment>,
    live: usize,
}

/// What a checkpoint keeps of a message beside what its move would.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Dump {
    pub(crate) recipients: u32,
    /// The segment of its last deferral, if it needs that for nothing else; else 0.
    pub(crate) deferred: u32,
    pub(crate) pins: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    fate: Fate,
    pins: PinsId,
    /// The segment with the last deferral of a message with one recipient, if it is not needed for anything else; 0,
    /// which is no segment's number, if there is none. Of such a message earlier deferrals say nothing any more, so that
    /// what is tried again and again does not need every segment in which it was.
    deferred: u32,
}

/// Octets of memory that a message takes here: its row in the table.
const MESSAGE_OCTETS: usize = size_of::<Entry>() + size_of::<u32>();

/// The segment that is needed for nothing but the last deferral.
fn deferred_in(entry: &Entry) -> Option<u32> {
    (entry.deferred != 0).then_some(entry.deferred)
}

/// What a record changed for its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Nothing of note.
    None,
    /// The last open recipient is done; reports are owed.
    Done,
    /// The last open recipient is done, and nothing is owed.
    DoneAndFinished,
    /// No recipient was open any more, and the last report that was owed is settled.
    Finished,
}

/// What an outcome changed.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Applied {
    /// The recipients that were open, as the outcome should say.
    pub(crate) accepted: Vec<u32>,
    /// Those whose sender is owed a report now.
    pub(crate) owed: Vec<u32>,
    pub(crate) change: Change,
}

/// Whether a recipient's fate is to be reported to its sender (RFC 3461 §4.1, §5.2).
fn owes(disposition: Disposition, notify: Notify) -> bool {
    match disposition {
        Disposition::Failed | Disposition::Expired => notify.failure(),
        Disposition::Delivered { dsn_relayed } => !dsn_relayed && notify.success(),
        Disposition::Delayed => notify.delay(),
        Disposition::Deferred | Disposition::Dropped => false,
    }
}

/// The change between two counts of open recipients and owed reports. The message stays in the books until it is marked
/// as finished.
fn change((open_before, owed_before): (u32, u32), now: (u32, u32)) -> Change {
    match now {
        (0, 0) if open_before > 0 => Change::DoneAndFinished,
        (0, 0) if owed_before > 0 => Change::Finished,
        (0, _) if open_before > 0 => Change::Done,
        _ => Change::None,
    }
}

impl Ledger {
    /// A message with `recipients`, and records in `segments`.
    pub(crate) fn admit(&mut self, message: MessageId, recipients: u32, segments: impl Iterator<Item = u32>) {
        let entry = Entry { fate: self.fates.add(recipients), pins: PinsId::default(), deferred: 0 };
        self.live += 1;
        self.messages.insert(message, entry);
        segments.for_each(|segment| self.touch(message, segment));
    }

    /// The message was moved: it needs `segments` and no others. What older ones hold of it, from `oldest` on, is void.
    pub(crate) fn moved(&mut self, message: MessageId, oldest: u32, segments: impl Iterator<Item = u32>) {
        let Some(entry) = self.messages.get_mut(message) else { return };
        let before: Vec<u32> = self.pins.get(entry.pins).segments().chain(deferred_in(entry)).collect();
        entry.pins = self.pins.moved(entry.pins, oldest);
        entry.deferred = 0;
        segments.for_each(|segment| self.touch(message, segment));
        before.into_iter().for_each(|segment| self.unpin(segment));
    }

    /// The message is as this record says, whatever was known before.
    pub(crate) fn restore(&mut self, moved: &Moved, recipients: u32, segments: impl Iterator<Item = u32>) {
        self.forget(moved.message);
        self.admit(moved.message, recipients, segments);
        let Some(entry) = self.messages.get_mut(moved.message) else { return };
        let Entry { fate, pins, .. } = entry;
        let needed: Vec<u32> = self.pins.get(*pins).segments().collect();
        *pins = self.pins.moved(*pins, moved.oldest);
        *pins = needed.into_iter().fold(*pins, |pins, segment| self.pins.with(pins, segment));
        if moved.stage == Stage::Routed {
            self.fates.set_state(fate, State::Routed);
        }
        self.fates.keep_open(fate, moved.open.iter().copied());
        for recipient in moved.owed.iter().flat_map(|owed| &owed.recipients) {
            self.fates.owe(fate, *recipient);
        }
    }

    /// What a record of the message's move says of its state: the first segment with a record of it, how far it is, and
    /// which recipients are open.
    pub(crate) fn moving(&self, message: MessageId) -> Option<(u32, Stage, Vec<u32>)> {
        let entry = self.entry(message)?;
        let stage = match self.fates.state(entry.fate) {
            State::Unrouted => Stage::Unrouted,
            State::Routed => Stage::Routed,
            State::Finishing => return None,
        };
        let recipients = 0..self.fates.recipients(entry.fate);
        let open = recipients.filter(|recipient| self.fates.is_open(entry.fate, *recipient)).collect();
        Some((self.oldest_record(entry), stage, open))
    }

    /// For a checkpoint: what the message needs, and what a record of its move would say, but with the first segment that
    /// may hold void records of it.
    pub(crate) fn dump(&self, message: MessageId) -> Option<(Dump, u32, Stage, Vec<u32>)> {
        let entry = self.entry(message)?;
        let (_, stage, open) = self.moving(message)?;
        let pins = self.pins.get(entry.pins);
        let recipients = self.fates.recipients(entry.fate);
        let dump = Dump { recipients, deferred: entry.deferred, pins: pins.segments().collect() };
        Some((dump, pins.moved_from(), stage, open))
    }

    /// What a checkpoint says of a message.
    pub(crate) fn load(&mut self, dump: &Dump, moved: &Moved) {
        self.restore(moved, dump.recipients, dump.pins.iter().copied());
        if dump.deferred != 0 {
            self.touch_deferred(moved.message, dump.deferred);
        }
    }

    /// Whether the message is in the books.
    pub(crate) fn knows(&self, message: MessageId) -> bool {
        self.entry(message).is_some()
    }

    /// The first message in the books from `from` on.
    pub(crate) fn first_from(&self, from: MessageId) -> Option<MessageId> {
        self.messages.first_from(from)
    }

    /// Whether the other books say the same of a message.
    pub(crate) fn agrees(&self, other: &Self, message: MessageId) -> bool {
        match (self.entry(message), other.entry(message)) {
            (Some(ours), Some(theirs)) => self.fates.agree(ours.fate, &other.fates, theirs.fate),
            (None, None) => true,
            _ => false,
        }
    }

    fn entry(&self, message: MessageId) -> Option<&Entry> {
        self.messages.get(message)
    }

    /// The first segment that may hold a record of a message, void ones included.
    fn oldest_record(&self, entry: &Entry) -> u32 {
        let pins = self.pins.get(entry.pins);
        pins.oldest().into_iter().chain(deferred_in(entry)).fold(pins.moved_from(), u32::min)
    }

    /// The message has a record in `segment`.
    pub(crate) fn touch(&mut self, message: MessageId, segment: u32) {
        let Some(entry) = self.messages.get_mut(message) else { return };
        if self.pins.get(entry.pins).contains(segment) {
            return;
        }
        entry.pins = self.pins.with(entry.pins, segment);
        if entry.deferred == segment {
            // It counts once.
            entry.deferred = 0;
        } else {
            self.pin(segment);
        }
    }

    /// The message has the record of its last deferral in `segment`.
    fn touch_deferred(&mut self, message: MessageId, segment: u32) {
        let Some(entry) = self.messages.get_mut(message).filter(|entry| entry.fate.is_single()) else {
            return self.touch(message, segment);
        };
        let needed = self.pins.get(entry.pins).contains(segment);
        let before = std::mem::replace(&mut entry.deferred, if needed { 0 } else { segment });
        if before == segment {
            return;
        }
        if !needed {
            self.pin(segment);
        }
        if before != 0 {
            self.unpin(before);
        }
    }

    /// Whether records on the message still matter.
    pub(crate) fn is_live(&self, message: MessageId) -> bool {
        self.entry(message).is_some_and(|entry| self.fates.state(entry.fate) != State::Finishing)
    }

    /// Whether the message waits for the router.
    pub(crate) fn is_unrouted(&self, message: MessageId) -> bool {
        self.entry(message)
            .is_some_and(|entry| self.fates.state(entry.fate) == State::Unrouted && self.fates.counts(entry.fate).0 > 0)
    }

    /// Whether the recipient has no final outcome yet.
    pub(crate) fn is_open(&self, message: MessageId, recipient: u32) -> bool {
        self.entry(message).is_some_and(|entry| self.fates.is_open(entry.fate, recipient))
    }

    /// Whether a report on the recipient is owed and not settled.
    pub(crate) fn is_owed(&self, message: MessageId, recipient: u32) -> bool {
        self.entry(message).is_some_and(|entry| self.fates.is_owed(entry.fate, recipient))
    }

    /// Open recipients and owed reports of the message.
    pub(crate) fn counts(&self, message: MessageId) -> (u32, u32) {
        self.entry(message).map_or((0, 0), |entry| self.fates.counts(entry.fate))
    }

    /// Messages in the books, by id.
    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageId> {
        self.messages.iter().map(|(message, _)| message)
    }

    /// How many messages are in the queue.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Octets of memory that the messages in the queue take, here and in the index of their places.
    pub(crate) fn octets(&self) -> usize {
        self.messages.len() * MESSAGE_OCTETS + Shared::octets(self.messages.len()) + self.fates.octets()
    }

    /// The router's decision. Recipients that are in none of the batches were duplicates of others: they are done.
    pub(crate) fn routed(&mut self, message: MessageId, batches: &[RoutedBatch], segment: u32) -> Change {
        self.touch(message, segment);
        let Some(Entry { fate, .. }) = self.messages.get_mut(message) else { return Change::None };
        if self.fates.state(*fate) != State::Unrouted {
            return Change::None;
        }
        let before = self.fates.counts(*fate);
        self.fates.set_state(fate, State::Routed);
        self.fates.keep_open(fate, batches.iter().flat_map(|batch| &batch.recipients).copied());
        change(before, self.fates.counts(*fate))
    }

    /// An outcome; `notify` looks a recipient's parameter up.
    pub(crate) fn outcome(&mut self, outcome: &Outcome, segment: u32, notify: impl Fn(u32) -> Notify) -> Applied {
        let mut applied = Applied { accepted: Vec::new(), owed: Vec::new(), change: Change::None };
        let message = outcome.batch.message;
        if outcome.disposition.is_final() {
            self.touch(message, segment);
        }
        let Some(Entry { fate, .. }) = self.messages.get_mut(message) else { return applied };
        let is_open = |recipient: &u32| self.fates.is_open(*fate, *recipient);
        applied.accepted = outcome.recipients.iter().copied().filter(is_open).collect();
        if !outcome.disposition.is_final() {
            // What is told of a delay is not kept in the books: a crash may cost the notice, and never doubles it.
            let told =
                applied.accepted.iter().copied().filter(|recipient| owes(outcome.disposition, notify(*recipient)));
            applied.owed = told.collect();
            // What concerns nobody must not pass for the last deferral, nor must a notice.
            if applied.accepted.is_empty() || outcome.disposition == Disposition::Delayed {
                self.touch(message, segment);
            } else {
                self.touch_deferred(message, segment);
            }
            return applied;
        }
        let before = self.fates.counts(*fate);
        // Closed one by one, so that an index that is given twice counts once.
        applied.accepted.retain(|recipient| self.fates.close(fate, *recipient));
        let owed = applied.accepted.iter().copied().filter(|recipient| owes(outcome.disposition, notify(*recipient)));
        applied.owed = owed.collect();
        applied.owed.iter().for_each(|recipient| self.fates.owe(fate, *recipient));
        applied.change = change(before, self.fates.counts(*fate));
        applied
    }

    /// What was owed for these recipients is settled.
    pub(crate) fn settle(&mut self, message: MessageId, recipients: &[u32], segment: u32) -> Change {
        self.touch(message, segment);
        let Some(Entry { fate, .. }) = self.messages.get_mut(message) else { return Change::None };
        let (open, owed) = self.fates.counts(*fate);
        recipients.iter().for_each(|recipient| self.fates.settle(fate, *recipient));
        change((open, owed), self.fates.counts(*fate))
    }

    /// The message is finished; the mark is to be recorded before anything of it may be reclaimed.
    pub(crate) fn begin_finish(&mut self, message: MessageId) -> Option<Mark> {
        let Entry { fate, .. } = self.messages.get_mut(message)?;
        debug_assert_eq!(self.fates.counts(*fate), (0, 0));
        if self.fates.state(*fate) == State::Finishing {
            return None;
        }
        self.fates.set_state(fate, State::Finishing);
        self.live -= 1;
        let entry = self.entry(message)?;
        Some(Mark { message, oldest: self.oldest_record(entry) })
    }

    /// The message is gone from the books.
    pub(crate) fn forget(&mut self, message: MessageId) {
        let Some(entry) = self.messages.remove(message) else { return };
        self.live -= usize::from(self.fates.state(entry.fate) != State::Finishing);
        let pins: Vec<u32> = self.pins.get(entry.pins).segments().chain(deferred_in(&entry)).collect();
        pins.into_iter().for_each(|segment| self.unpin(segment));
        self.pins.release(entry.pins);
        self.fates.remove(entry.fate);
    }

    /// A record of finished messages is at `place`.
    pub(crate) fn finished(&mut self, marks: &[Mark], place: Place) {
        self.segments.entry(place.segment).or_default().marks.push(place);
        marks.iter().for_each(|mark| self.forget(mark.message));
    }

    /// The messages in the queue that need any of `segments`, with those that they need.
    pub(crate) fn needing(&self, segments: &[u32]) -> Vec<(MessageId, Vec<u32>)> {
        let lists = self.pins.needing(segments);
        let may_need = |entry: &Entry| {
            lists.get(entry.pins.index()).is_some_and(|needing| *needing) || segments.contains(&entry.deferred)
        };
        let needed = |entry: &Entry| {
            let pins = self.pins.get(entry.pins).segments().chain(deferred_in(entry));
            pins.filter(|pin| segments.contains(pin)).collect::<Vec<_>>()
        };
        let entries = self.messages.iter().filter(|(_, entry)| may_need(entry));
        let live = entries.filter(|(_, entry)| self.fates.state(entry.fate) != State::Finishing);
        live.map(|(message, entry)| (message, needed(entry))).collect()
    }
}

#[cfg(test)]
mod tests;

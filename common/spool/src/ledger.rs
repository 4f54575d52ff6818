//! The books: which recipients are open, which reports are owed, which segments are needed.
//!
//! A pure state machine. The appender applies each record once it is durable, recovery applies each record that it
//! finds, and both get the same answers. Applying a record twice changes nothing the second time.

use std::collections::HashMap;

use crate::bits::{Bits, Pins};
use crate::moved::{Moved, Stage};
use crate::record::Mark;
use crate::shared::Place;
use crate::{Disposition, MessageId, Notify, Outcome, RoutedBatch};

/// The state of all messages in the queue and of the segments they lie in.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    messages: HashMap<MessageId, Entry>,
    segments: HashMap<u32, Segment>,
    live: usize,
}

#[derive(Debug)]
struct Entry {
    recipients: u32,
    open_count: u32,
    owed_count: u32,
    open: Bits,
    owed: Bits,
    pins: Pins,
    /// The first segment that may hold an older record of it, when it was moved.
    moved_from: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unrouted,
    Routed,
    /// Nothing is left to do but to record that.
    Finishing,
}

/// What a segment is needed for.
#[derive(Default, Debug)]
struct Segment {
    /// Messages with records in it, those still under way included.
    pins: u32,
    /// The most there were.
    pins_peak: u32,
    /// How many there were when it was last found not worth compacting, or compacted in vain.
    pins_judged: Option<u32>,
    /// Where its [`Finished`](crate::format::Kind::Finished) records are.
    marks: Vec<Place>,
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

impl Entry {
    /// The change since `open_before`, `owed_before`. The message stays in the books until it is marked as finished.
    fn change(&self, open_before: u32, owed_before: u32) -> Change {
        match (self.open_count, self.owed_count) {
            (0, 0) if open_before > 0 => Change::DoneAndFinished,
            (0, 0) if owed_before > 0 => Change::Finished,
            (0, _) if open_before > 0 => Change::Done,
            _ => Change::None,
        }
    }
}

impl Entry {
    fn oldest(&self) -> u32 {
        self.pins.oldest().unwrap_or(u32::MAX).min(self.moved_from)
    }
}

impl Ledger {
    /// A message with `recipients`, and records in `segments`.
    pub(crate) fn admit(&mut self, message: MessageId, recipients: u32, segments: impl Iterator<Item = u32>) {
        let entry = Entry {
            recipients,
            open_count: recipients,
            owed_count: 0,
            open: Bits::all(recipients),
            owed: Bits::none(recipients),
            pins: Pins::NONE,
            moved_from: u32::MAX,
            state: State::Unrouted,
        };
        self.live += 1;
        self.messages.insert(message, entry);
        segments.for_each(|segment| self.touch(message, segment));
    }

    /// The message was moved: it needs `segments` and no others. What older ones hold of it, from `oldest` on, is void.
    pub(crate) fn moved(&mut self, message: MessageId, oldest: u32, segments: impl Iterator<Item = u32>) {
        let Some(entry) = self.messages.get_mut(&message) else { return };
        entry.moved_from = oldest;
        let before = std::mem::replace(&mut entry.pins, Pins::NONE);
        segments.for_each(|segment| self.touch(message, segment));
        before.iter().for_each(|segment| self.unpin(segment));
    }

    /// The message is as this record says, whatever was known before.
    pub(crate) fn restore(&mut self, moved: &Moved, recipients: u32, segments: impl Iterator<Item = u32>) {
        self.forget(moved.message);
        self.admit(moved.message, recipients, segments);
        let Some(entry) = self.messages.get_mut(&moved.message) else { return };
        entry.moved_from = moved.oldest;
        if moved.stage == Stage::Routed {
            entry.state = State::Routed;
        }
        entry.open = Bits::none(recipients);
        entry.open_count = moved.open.iter().map(|recipient| u32::from(entry.open.insert(*recipient))).sum();
        let owed = moved.owed.iter().flat_map(|owed| &owed.recipients);
        entry.owed_count = owed.map(|recipient| u32::from(entry.owed.insert(*recipient))).sum();
    }

    /// What a record of the message's move says of its state: the first segment with a record of it, how far it is, and
    /// which recipients are open.
    pub(crate) fn moving(&self, message: MessageId) -> Option<(u32, Stage, Vec<u32>)> {
        let entry = self.messages.get(&message).filter(|entry| entry.state != State::Finishing)?;
        let stage = if entry.state == State::Unrouted { Stage::Unrouted } else { Stage::Routed };
        let open = (0..entry.recipients).filter(|recipient| entry.open.contains(*recipient)).collect();
        Some((entry.oldest(), stage, open))
    }

    /// Whether the other books say the same of a message.
    pub(crate) fn agrees(&self, other: &Self, message: MessageId) -> bool {
        let state = |ledger: &Self| {
            ledger.messages.get(&message).map(|entry| (entry.state, entry.open.clone(), entry.owed.clone()))
        };
        state(self) == state(other)
    }

    /// The message has a record in `segment`.
    pub(crate) fn touch(&mut self, message: MessageId, segment: u32) {
        let Some(entry) = self.messages.get_mut(&message) else { return };
        if entry.pins.insert(segment) {
            self.pin(segment);
        }
    }

    /// Whether records on the message still matter.
    pub(crate) fn is_live(&self, message: MessageId) -> bool {
        self.messages.get(&message).is_some_and(|entry| entry.state != State::Finishing)
    }

    /// Whether the message waits for the router.
    pub(crate) fn is_unrouted(&self, message: MessageId) -> bool {
        self.messages.get(&message).is_some_and(|entry| entry.state == State::Unrouted && entry.open_count > 0)
    }

    /// Whether the recipient has no final outcome yet.
    pub(crate) fn is_open(&self, message: MessageId, recipient: u32) -> bool {
        self.messages.get(&message).is_some_and(|entry| entry.open.contains(recipient))
    }

    /// Whether a report on the recipient is owed and not settled.
    pub(crate) fn is_owed(&self, message: MessageId, recipient: u32) -> bool {
        self.messages.get(&message).is_some_and(|entry| entry.owed.contains(recipient))
    }

    /// Open recipients and owed reports of the message.
    pub(crate) fn counts(&self, message: MessageId) -> (u32, u32) {
        self.messages.get(&message).map_or((0, 0), |entry| (entry.open_count, entry.owed_count))
    }

    /// Messages in the books.
    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageId> {
        self.messages.keys().copied()
    }

    /// How many messages are in the queue.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// The router's decision. Recipients that are in none of the batches were duplicates of others: they are done.
    pub(crate) fn routed(&mut self, message: MessageId, batches: &[RoutedBatch], segment: u32) -> Change {
        self.touch(message, segment);
        let Some(entry) = self.messages.get_mut(&message) else { return Change::None };
        if entry.state != State::Unrouted {
            return Change::None;
        }
        entry.state = State::Routed;
        let before = entry.open_count;
        let mut open = Bits::none(entry.recipients);
        entry.open_count = 0;
        for recipient in batches.iter().flat_map(|batch| &batch.recipients) {
            if entry.open.contains(*recipient) && open.insert(*recipient) {
                entry.open_count += 1;
            }
        }
        entry.open = open;
        entry.change(before, entry.owed_count)
    }

    /// An outcome; `notify` looks a recipient's parameter up.
    pub(crate) fn outcome(&mut self, outcome: &Outcome, segment: u32, notify: impl Fn(u32) -> Notify) -> Applied {
        let mut applied = Applied { accepted: Vec::new(), owed: Vec::new(), change: Change::None };
        self.touch(outcome.batch.message, segment);
        let Some(entry) = self.messages.get_mut(&outcome.batch.message) else { return applied };
        let (open_before, owed_before) = (entry.open_count, entry.owed_count);
        let is_open = |recipient: &u32| entry.open.contains(*recipient);
        applied.accepted = outcome.recipients.iter().copied().filter(is_open).collect();
        if !outcome.disposition.is_final() {
            // What is told of a delay is not kept in the books: a crash may cost the notice, and never doubles it.
            let told =
                applied.accepted.iter().copied().filter(|recipient| owes(outcome.disposition, notify(*recipient)));
            applied.owed = told.collect();
            return applied;
        }
        // Removed one by one, so that an index that is given twice counts once.
        applied.accepted.retain(|recipient| entry.open.remove(*recipient));
        entry.open_count -= applied.accepted.len() as u32;
        let owed = applied.accepted.iter().copied().filter(|recipient| owes(outcome.disposition, notify(*recipient)));
        applied.owed = owed.collect();
        for recipient in &applied.owed {
            entry.owed_count += u32::from(entry.owed.insert(*recipient));
        }
        applied.change = entry.change(open_before, owed_before);
        applied
    }

    /// What was owed for these recipients is settled.
    pub(crate) fn settle(&mut self, message: MessageId, recipients: &[u32], segment: u32) -> Change {
        self.touch(message, segment);
        let Some(entry) = self.messages.get_mut(&message) else { return Change::None };
        let owed_before = entry.owed_count;
        for recipient in recipients {
            entry.owed_count -= u32::from(entry.owed.remove(*recipient));
        }
        entry.change(entry.open_count, owed_before)
    }

    /// The message is finished; the mark is to be recorded before anything of it may be reclaimed.
    pub(crate) fn begin_finish(&mut self, message: MessageId) -> Option<Mark> {
        let entry = self.messages.get_mut(&message)?;
        debug_assert_eq!((entry.open_count, entry.owed_count), (0, 0));
        if entry.state == State::Finishing {
            return None;
        }
        entry.state = State::Finishing;
        self.live -= 1;
        Some(Mark { message, oldest: entry.oldest() })
    }

    /// The message is gone from the books.
    pub(crate) fn forget(&mut self, message: MessageId) {
        let Some(entry) = self.messages.remove(&message) else { return };
        self.live -= usize::from(entry.state != State::Finishing);
        entry.pins.iter().for_each(|segment| self.unpin(segment));
    }

    /// A record of finished messages is at `place`.
    pub(crate) fn finished(&mut self, marks: &[Mark], place: Place) {
        self.segments.entry(place.segment).or_default().marks.push(place);
        marks.iter().for_each(|mark| self.forget(mark.message));
    }

    /// Keeps a segment for a message that is still under way.
    pub(crate) fn pin(&mut self, segment: u32) {
        let segment = self.segments.entry(segment).or_default();
        segment.pins += 1;
        segment.pins_peak = segment.pins_peak.max(segment.pins);
    }

    /// Takes a pin back.
    pub(crate) fn unpin(&mut self, segment: u32) {
        let pins = self.segments.get_mut(&segment).map(|segment| &mut segment.pins);
        debug_assert!(pins.as_ref().is_some_and(|pins| **pins > 0), "segment {segment} was not pinned");
        if let Some(pins) = pins {
            *pins = pins.saturating_sub(1);
        }
    }

    /// Whether a message needs the segment.
    pub(crate) fn is_pinned(&self, segment: u32) -> bool {
        self.segments.get(&segment).is_some_and(|segment| segment.pins > 0)
    }

    /// Whether so many of the messages in the segment have left it since the last judgement that another look pays.
    pub(crate) fn may_be_sparse(&self, segment: u32) -> bool {
        self.segments.get(&segment).is_some_and(|segment| {
            let before = segment.pins_judged.unwrap_or(segment.pins_peak);
            segment.pins > 0 && segment.pins <= before / 2
        })
    }

    /// The segment was looked at, or compacted.
    pub(crate) fn judged(&mut self, segment: u32) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.pins_judged = Some(segment.pins);
        }
    }

    /// The messages in the queue that need any of `segments`, with those that they need.
    pub(crate) fn needing(&self, segments: &[u32]) -> Vec<(MessageId, Vec<u32>)> {
        let needed = |entry: &Entry| entry.pins.iter().filter(|pin| segments.contains(pin)).collect::<Vec<_>>();
        let live = self.messages.iter().filter(|(_, entry)| entry.state != State::Finishing);
        let needing = live.map(|(message, entry)| (*message, needed(entry)));
        needing.filter(|(_, needed)| !needed.is_empty()).collect()
    }

    /// The first segment with a record of any of `messages`.
    pub(crate) fn oldest(&self, messages: impl Iterator<Item = MessageId>) -> Option<u32> {
        messages.filter_map(|message| self.messages.get(&message)?.pins.oldest()).min()
    }

    /// Where the segment's records of finished messages are.
    pub(crate) fn marks(&self, segment: u32) -> &[Place] {
        self.segments.get(&segment).map_or(&[], |segment| &segment.marks)
    }

    /// The segment is gone.
    pub(crate) fn drop_segment(&mut self, segment: u32) {
        self.segments.remove(&segment);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zrelay_clock::Timestamp;

    use super::*;
    use crate::{BatchId, Diagnostic, ThreadKey, Timing};

    const MESSAGE: MessageId = MessageId(1);

    fn outcome(recipients: &[u32], disposition: Disposition) -> Outcome {
        Outcome {
            batch: BatchId { message: MESSAGE, number: 0 },
            recipients: recipients.to_vec(),
            disposition,
            diagnostic: Arc::new(Diagnostic::default()),
            at: Timestamp::ZERO,
            attempts: 1,
            due: Timestamp::ZERO,
            timing: Timing::default(),
            channel: None,
        }
    }

    fn routed(recipients: u32, batch: &[u32]) -> (Ledger, Change) {
        let mut ledger = Ledger::default();
        ledger.admit(MESSAGE, recipients, [1].into_iter());
        let batch = RoutedBatch { thread: ThreadKey::new("smtp", "a"), recipients: batch.to_vec() };
        let change = ledger.routed(MESSAGE, &[batch], 2);
        (ledger, change)
    }

    #[test]
    fn a_message_is_finished_when_its_last_recipient_is() {
        let (mut ledger, _) = routed(2, &[0, 1]);
        let delivered = Disposition::Delivered { dsn_relayed: false };
        assert_eq!(ledger.outcome(&outcome(&[0], delivered), 3, |_| Notify::Default).change, Change::None);
        assert_eq!(ledger.outcome(&outcome(&[1], Disposition::Deferred), 3, |_| Notify::Default).change, Change::None);
        let applied = ledger.outcome(&outcome(&[1], delivered), 4, |_| Notify::Default);
        assert_eq!(applied.change, Change::DoneAndFinished);
        assert_eq!(ledger.begin_finish(MESSAGE), Some(Mark { message: MESSAGE, oldest: 1 }));
        assert!((1..=4).all(|segment| ledger.is_pinned(segment)));
        ledger.forget(MESSAGE);
        assert!(!(1..=4).any(|segment| ledger.is_pinned(segment)));
    }

    #[test]
    fn a_surplus_outcome_changes_nothing() {
        let (mut ledger, _) = routed(2, &[0, 1]);
        let once = ledger.outcome(&outcome(&[0, 0, 7], Disposition::Failed), 3, |_| Notify::Default);
        assert_eq!((once.accepted, once.owed), (vec![0], vec![0]));
        let twice = ledger.outcome(&outcome(&[0], Disposition::Failed), 3, |_| Notify::Default);
        assert_eq!(twice, Applied { accepted: vec![], owed: vec![], change: Change::None });
        assert_eq!(ledger.counts(MESSAGE), (1, 1));
    }

    #[test]
    fn a_failure_is_owed_until_it_is_settled() {
        let (mut ledger, _) = routed(1, &[0]);
        let applied = ledger.outcome(&outcome(&[0], Disposition::Expired), 3, |_| Notify::Default);
        assert_eq!((applied.owed, applied.change), (vec![0], Change::Done));
        assert_eq!(ledger.settle(MESSAGE, &[0], 4), Change::Finished);
        assert_eq!(ledger.settle(MESSAGE, &[0], 4), Change::None);
    }

    #[test]
    fn who_is_told_what_follows_the_notify_parameter() {
        let on = |success, failure| Notify::On { success, failure, delay: false };
        for (disposition, notify, expected) in [
            (Disposition::Failed, Notify::Default, true),
            (Disposition::Expired, Notify::Never, false),
            (Disposition::Failed, on(true, false), false),
            (Disposition::Expired, on(false, true), true),
            (Disposition::Dropped, on(true, true), false),
            (Disposition::Delivered { dsn_relayed: false }, on(true, false), true),
            (Disposition::Delivered { dsn_relayed: true }, on(true, false), false),
            (Disposition::Delivered { dsn_relayed: false }, Notify::Default, false),
            (Disposition::Delayed, Notify::Default, true),
            (Disposition::Delayed, on(true, true), false),
            (Disposition::Delayed, Notify::On { success: false, failure: false, delay: true }, true),
            (Disposition::Delayed, Notify::Never, false),
            (Disposition::Deferred, Notify::On { success: false, failure: false, delay: true }, false),
        ] {
            assert_eq!(owes(disposition, notify), expected, "{disposition:?} {notify:?}");
        }
    }

    #[test]
    fn recipients_that_no_batch_names_are_duplicates() {
        let (ledger, change) = routed(3, &[2, 9]);
        assert_eq!(change, Change::None);
        assert!(!ledger.is_open(MESSAGE, 0) && ledger.is_open(MESSAGE, 2));
        assert_eq!(routed(3, &[]).1, Change::DoneAndFinished);
    }
}

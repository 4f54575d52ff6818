//! Applying records in the order of the log: what they say of messages, in the end, is what is true of them.
//!
//! Recovery replays all of the log behind a checkpoint; the making of a checkpoint what has come since the one before
//! ([`Replay::behind`]), of so many messages at a time as fit into its memory; compaction what the log says of the few
//! messages that it moves ([`Replay::of`]).

mod interest;
mod moving;

use std::collections::HashSet;
use std::sync::Arc;

use crate::backlog::{is_recorded, still_owed};
use crate::checkpoint::{Checkpoint, Entry, Rest};
use crate::details::{BatchChange, Detail, Details, Origins};
use crate::format::{Found, Kind, RECORD_HEADER, Scan, Step};
use crate::history::History;
use crate::ledger::Ledger;
use crate::message::Layout;
use crate::moved::Moved;
use crate::record::{Mark, Record};
use crate::recovery::{Damage, Work};
use crate::shared::{Place, Shared};
use crate::storage::View;
use crate::threads::Threads;
use crate::{Disposition, Fact, MessageId, Notify, Outcome, Owed, ReadError, Reader, RoutedBatch};
use interest::Interest;

/// Whether a replay gathers what became of messages. A restart has no use for it: whoever asks reads it then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Histories {
    Gathered,
    Ignored,
}

/// Applies records in the order of the log.
pub(crate) struct Replay {
    shared: Arc<Shared>,
    reader: Reader,
    pub(crate) ledger: Ledger,
    pub(crate) threads: Threads,
    pub(crate) details: Details,
    pub(crate) damage: Vec<Damage>,
    interest: Interest,
    /// Whether what became of messages is gathered.
    histories: Histories,
    /// What was known before the records.
    pub(crate) base: Option<Arc<Checkpoint>>,
    books: Books,
    /// Messages that have left the queue, as far as the books are read when they are needed.
    gone: HashSet<MessageId>,
    /// Octets of records but pieces.
    pub(crate) recorded: u64,
}

/// How much of the checkpoint is in the books.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Books {
    Whole,
    /// The messages of which a record said something.
    Touched,
}

impl Replay {
    /// Nothing is known yet.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            reader: Reader::new(shared.clone()),
            shared,
            ledger: Ledger::default(),
            threads: Threads::default(),
            details: Details::default(),
            damage: Vec::new(),
            interest: Interest::All,
            histories: Histories::Ignored,
            base: None,
            books: Books::Whole,
            gone: HashSet::new(),
            recorded: 0,
        }
    }

    /// A replay of what follows a checkpoint, of which no more is read than is needed, for the messages from `first` on.
    pub(crate) fn behind(
        base: Option<Arc<Checkpoint>>,
        views: impl Iterator<Item = (u32, Arc<dyn View>)>,
        first: MessageId,
    ) -> Self {
        let shared = Arc::new(Shared::new());
        views.for_each(|(number, view)| shared.insert_view(number, view));
        let interest = Interest::Within(first..=MessageId(u64::MAX));
        Self { base, interest, books: Books::Touched, histories: Histories::Gathered, ..Self::new(shared) }
    }

    /// All that a checkpoint says, as far as the log still has it.
    pub(crate) fn load(&mut self, base: Checkpoint, rest: Rest, is_live: impl Fn(u32) -> bool) {
        for Entry { place, dump, moved } in base.entries() {
            self.shared.raise_id(moved.message.0);
            self.shared.insert(moved.message, place);
            self.ledger.load(&dump, &moved);
        }
        let Rest { sources, marks, mut threads, .. } = rest;
        for source in sources.iter().filter(|source| is_live(source.segment)) {
            self.ledger.load_peak(source.segment, source.pins_peak);
        }
        marks.into_iter().filter(|mark| is_live(mark.segment)).for_each(|mark| self.ledger.load_mark(mark));
        threads.retain(is_live);
        self.threads = threads;
        self.base = Some(Arc::new(base));
    }

    /// A record says something of a message: what the checkpoint says must be known by now.
    fn know(&mut self, message: MessageId) {
        if self.details.contains(message) || !self.interest.includes(message) {
            return;
        }
        let Some(base) = &self.base else { return };
        let known = self.ledger.knows(message);
        if known {
            self.details.is_in_checkpoint(message);
        } else if self.books == Books::Touched && !self.gone.contains(&message) {
            let Some(Entry { place, dump, moved }) = base.find(message) else { return };
            self.shared.insert(message, place);
            self.ledger.load(&dump, &moved);
            self.details.is_in_checkpoint(message);
        }
    }

    /// Where what is known of messages can be read again.
    fn origins(&self) -> Origins<'_> {
        Origins { shared: &self.shared, base: self.base.as_deref() }
    }

    /// The messages that are in the books, ascending.
    pub(crate) fn known(&self) -> impl Iterator<Item = MessageId> {
        self.ledger.messages()
    }

    /// Whether a record said something of the message.
    pub(crate) fn is_touched(&self, message: MessageId) -> bool {
        self.ledger.knows(message) || self.gone.contains(&message)
    }

    /// All that is known of a message, for a checkpoint.
    pub(crate) fn entry(&self, message: MessageId) -> Option<Entry> {
        let (dump, oldest, stage, open) = self.ledger.dump(message)?;
        let Detail { mut batches, owed, history } = self.details.get(message, self.origins())?;
        let history = history.finished(dump.recipients);
        for batch in &mut batches {
            batch.routed.recipients.retain(|recipient| self.ledger.is_open(message, *recipient));
        }
        let owed = owed.into_iter().filter_map(|owed| still_owed(owed, &self.ledger)).collect();
        let moved = Moved { message, oldest, stage, open, batches, owed, history, record: Vec::new() };
        Some(Entry { place: self.shared.place(message)?, dump, moved })
    }

    /// Replays records of a segment from `at` on, up to `end`, and about `budget` octets; returns where it stopped, and
    /// the octets looked at.
    pub(crate) fn go_on(
        &mut self,
        number: u32,
        view: &Arc<dyn View>,
        (at, end): (u32, u32),
        budget: u64,
    ) -> (u32, u64) {
        self.shared.insert_view(number, view.clone());
        let mut scan = Scan::resume(&**view, number, at, end);
        let mut octets = 0;
        while octets < budget
            && let Some(step) = scan.next()
        {
            octets += u64::from(RECORD_HEADER);
            // Gaps and damage were reported when the hub started, and are skipped as they were then.
            if let Step::Record(found) = step {
                octets += if found.kind == Kind::Piece { 0 } else { u64::from(found.length) };
                self.record(number, &**view, &found);
            }
        }
        self.damage.clear();
        (scan.position(), octets)
    }

    pub(crate) fn read(&mut self, number: u32, view: &dyn View, (at, end): (u32, u32)) {
        for step in Scan::resume(view, number, at, end) {
            match step {
                Step::Record(found) => self.record(number, view, &found),
                Step::Gap(from, to) => self.damage.push(Damage::Gap { segment: number, from, to }),
            }
        }
        if view.len() < end {
            self.damage.push(Damage::Gap { segment: number, from: view.len(), to: end });
        }
    }

    fn record(&mut self, number: u32, view: &dyn View, found: &Found) {
        if found.kind == Kind::Piece {
            return;
        }
        self.recorded += u64::from(RECORD_HEADER + found.length);
        let place = Place { segment: number, offset: found.offset, length: found.length };
        let body = found.body(view).filter(|_| found.is_intact(view));
        let applied = body.and_then(|body| match found.kind {
            Kind::Message => self.message(body, place),
            // Compaction reads past many that are not for it, of which each says all that is known of a message.
            Kind::Moved | Kind::MovedWithHistory
                if !Moved::message_of(body).is_ok_and(|id| self.interest.begins(id, place)) =>
            {
                Some(())
            }
            kind @ (Kind::Moved | Kind::MovedWithHistory) => {
                Moved::without_history(kind, body).ok().and_then(|moved| self.moved(moved, place))
            }
            kind => Record::decode(kind, body).ok().map(|record| self.apply(record, place)),
        });
        if applied.is_none() {
            self.damage.push(place.damage(found.kind));
        }
    }

    fn message(&mut self, body: &[u8], place: Place) -> Option<()> {
        let layout = Layout::parse(body).ok()?;
        layout.validate(body).ok()?;
        let extents = (0..layout.extents).filter_map(|index| layout.extent(body, index));
        let segments = extents.map(|extent| extent.segment).chain([place.segment]);
        if self.interest.begins(layout.id, place) {
            self.shared.raise_id(layout.id.0);
            self.shared.insert(layout.id, place);
            self.ledger.admit(layout.id, layout.recipients, segments);
            self.details.admit(layout.id);
        }
        if let Some(origin) = layout.origin(body) {
            self.know(origin.message);
            self.ledger.settle(origin.message, &origin.recipients, place.segment);
        }
        Some(())
    }

    /// The message as it was when it was moved: all that older segments say of it is void.
    fn moved(&mut self, moved: Moved, place: Place) -> Option<()> {
        let layout = Layout::parse(&moved.record).ok().filter(|layout| layout.id == moved.message)?;
        layout.validate(&moved.record).ok()?;
        let extents = (0..layout.extents).filter_map(|index| layout.extent(&moved.record, index));
        let segments = extents.map(|extent| extent.segment).chain([place.segment]);
        self.shared.raise_id(moved.message.0);
        self.shared.insert(moved.message, place.tail(moved.record.len() as u32));
        self.ledger.restore(&moved, layout.recipients, segments);
        let before = self.history_of(moved.message);
        self.details.moved(moved.message, place, before, layout.recipients, &self.shared);
        Some(())
    }

    /// What became of a message so far.
    fn history_of(&self, message: MessageId) -> History {
        if self.histories == Histories::Ignored {
            return History::default();
        }
        let before = self.details.get(message, self.origins()).map(|detail| detail.history);
        // Its old place may be gone, so that the checkpoint is not believed in anything else.
        let base = || self.base.as_ref()?.find_any(message).map(|entry| entry.moved.history);
        before.or_else(base).unwrap_or_default()
    }

    fn apply(&mut self, record: Record, place: Place) {
        let segment = place.segment;
        match record {
            Record::Segments { .. } | Record::Moved(_) => {}
            Record::Routed { message, batches } => self.routed(message, batches, place),
            Record::Outcomes(outcomes) => outcomes.iter().for_each(|outcome| self.outcome(outcome, segment)),
            Record::Batch(state) => {
                self.know(state.id.message);
                self.ledger.touch(state.id.message, segment);
                self.details.change(state.id, BatchChange::operated(&state));
            }
            Record::Rerouted { id, thread } => {
                self.know(id.message);
                self.ledger.touch(id.message, segment);
                let origins = Origins { shared: &self.shared, base: self.base.as_deref() };
                self.details.reroute(id, thread, origins);
            }
            Record::Thread(state) => self.threads.recorded(&state, place),
            Record::Settled { message, recipients } => {
                self.know(message);
                self.ledger.settle(message, &recipients, segment);
            }
            Record::Finished(marks) => {
                for mark in &marks {
                    self.details.remove(mark.message);
                    self.shared.remove(mark.message);
                    if self.books == Books::Touched && self.interest.includes(mark.message) {
                        self.gone.insert(mark.message);
                    }
                }
                self.ledger.finished(&marks, place);
            }
        }
    }

    fn routed(&mut self, message: MessageId, batches: Vec<RoutedBatch>, place: Place) {
        self.know(message);
        let is_unrouted = self.ledger.is_unrouted(message);
        self.ledger.routed(message, &batches, place.segment);
        if is_unrouted {
            let origins = Origins { shared: &self.shared, base: self.base.as_deref() };
            self.details.routed(message, batches, place, origins);
        }
    }

    fn outcome(&mut self, outcome: &Outcome, segment: u32) {
        let message = outcome.batch.message;
        self.know(message);
        if !self.ledger.is_live(message) {
            return;
        }
        let stored = self.reader.message(message).ok();
        let notify = |recipient| stored.as_ref().map_or(Notify::Default, |stored| stored.recipient(recipient).notify);
        let applied = self.ledger.outcome(outcome, segment, notify);
        if applied.accepted.is_empty() {
            return;
        }
        self.details.change(outcome.batch, BatchChange::tried(outcome));
        if self.histories == Histories::Gathered
            && let Some(stored) = &stored
        {
            self.details.note(outcome, &applied.accepted, stored.recipients());
        }
        if outcome.disposition == Disposition::Delayed || applied.owed.is_empty() {
            return;
        }
        self.details.owe(Owed {
            message,
            recipients: applied.owed,
            disposition: outcome.disposition,
            diagnostic: outcome.diagnostic.clone(),
            at: outcome.at,
            until: None,
        });
    }

    /// What is to be done before anything else: what is remembered of threads, and the messages of which no more than
    /// their end is to be recorded.
    pub(crate) fn work(&mut self) -> (Work, Vec<Mark>) {
        let mut work = Work::default();
        for place in self.threads.live().collect::<Vec<_>>() {
            if let Some(Record::Thread(state)) = self.shared.record(place.segment, place.offset) {
                work.threads.push(state);
            } else {
                self.damage.push(place.damage(Kind::Thread));
                self.threads.forget(place);
            }
        }
        let over = self.ledger.messages().filter(|message| self.ledger.counts(*message) == (0, 0));
        let over: Vec<MessageId> = over.collect();
        let mut finishing = Vec::new();
        for message in over {
            // Then nobody knows whether a report is owed.
            if !is_recorded(message, &self.shared) {
                self.damage.push(Damage::Unreadable(ReadError::Damaged(message)));
            }
            work.facts.extend([Fact::Done(message), Fact::Removed(message)]);
            finishing.extend(self.ledger.begin_finish(message));
            self.shared.remove(message);
            self.details.remove(message);
        }
        (work, finishing)
    }
}

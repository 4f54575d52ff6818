//! Reading the log after a restart: what was committed is rebuilt, a torn tail is dropped, damage is reported.
//!
//! Segments are read oldest first, up to their fences; see [`crate::format`] for where the newest one ends. Bodies of
//! messages in older segments are skipped on this pass; those of messages that turn out to be in the queue are checked
//! at its end. A damaged record is reported and skipped. When it was a piece of a message in the queue, the message
//! cannot be delivered any more; it is reported as lost, at every start, until its segment is reclaimed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::appender::queued_batch;
use crate::format::{Found, Heading, Kind, RECORD_HEADER, SEGMENT_HEADER, Scan, Step, heading, torn_end};
use crate::ledger::Ledger;
use crate::message::{Extent, Layout};
use crate::moved::{BatchDetail, Moved};
use crate::record::{Fence, Mark, Record};
use crate::shared::{Place, Shared};
use crate::storage::{Storage, View};
use crate::threads::Threads;
use crate::{
    BatchId, Disposition, Fact, MessageId, Notify, Outcome, Owed, QueuedBatch, ReadError, Reader, RoutedBatch, Stored,
    ThreadState,
};

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    #[error("segment {segment} has format {found}")]
    Newer { segment: u32, found: u32 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Something in the log that is not what was written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// Its first record cannot be read: what was in it is believed, but not where older segments end.
    #[error("the head of segment {segment} is damaged")]
    Head {
        /// The segment's number.
        segment: u32,
    },
    /// No record can be made out.
    #[error("segment {segment} is damaged from octet {from} to {to}; what was there is lost")]
    Gap {
        /// The segment's number.
        segment: u32,
        /// Offset of the first octet.
        from: u32,
        /// Offset behind the last one.
        to: u32,
    },
    /// A record is not what was written.
    #[error("the {kind} record at octet {at} of segment {segment} is damaged; it is lost")]
    Record {
        /// The segment's number.
        segment: u32,
        /// Offset of its header.
        at: u32,
        /// What it was, as in `format.rs`.
        kind: String,
    },
    /// A message cannot be read at all.
    #[error("{0}")]
    Unreadable(ReadError),
    /// A piece of a message's content is not what was written.
    #[error("the content of message {0} is damaged; the message is lost")]
    Content(MessageId),
}

/// What the log held.
pub(crate) struct Recovery {
    pub(crate) ledger: Ledger,
    pub(crate) threads: Threads,
    pub(crate) sealed: BTreeMap<u32, u32>,
    pub(crate) next_number: u32,
    pub(crate) finishing: Vec<Mark>,
    pub(crate) work: Work,
    pub(crate) damage: Vec<Damage>,
}

/// What is to be done for the messages in the queue.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) threads: Vec<ThreadState>,
    pub(crate) batches: Vec<QueuedBatch>,
    pub(crate) arrived: Vec<MessageId>,
    pub(crate) facts: Vec<Fact>,
}

/// Reads the log, reports what is damaged, and removes the segments that are no part of it.
///
/// # Errors
/// [`RecoveryError`], when it was written by a later version or cannot be read at all.
pub(crate) fn recover(storage: &mut dyn Storage, shared: &Arc<Shared>) -> Result<Recovery, RecoveryError> {
    let segments = Segments::open(storage)?;
    segments.remove_dead(storage)?;
    let recovery = replay(segments, shared);
    recovery.damage.iter().for_each(|damage| log::error!("spool: {damage}"));
    Ok(recovery)
}

/// Reads the log and changes nothing; the damage is for the caller to report.
///
/// # Errors
/// As [`recover`].
pub(crate) fn inspect(storage: &mut dyn Storage, shared: &Arc<Shared>) -> Result<Recovery, RecoveryError> {
    Ok(replay(Segments::open(storage)?, shared))
}

fn replay(segments: Segments, shared: &Arc<Shared>) -> Recovery {
    for (number, segment) in &segments.live {
        shared.insert_view(*number, segment.view.clone());
        shared.counters.live_bytes.fetch_add(segment.end.into(), Ordering::Relaxed);
    }
    shared.raise_id(segments.highest);
    let mut replay = Replay::new(shared.clone(), None);
    replay.damage = segments.damage;
    for (number, segment) in &segments.live {
        replay.read(*number, &*segment.view, segment.end);
    }
    let damaged = replay.lost(&segments.live);
    for message in damaged {
        replay.damage.push(Damage::Content(message));
        shared.remove(message);
        replay.ledger.forget(message);
        replay.details.remove(&message);
    }
    let (work, finishing) = replay.work();
    Recovery {
        ledger: replay.ledger,
        threads: replay.threads,
        sealed: segments.live.iter().map(|(number, segment)| (*number, segment.end)).collect(),
        next_number: segments.next_number,
        finishing,
        work,
        damage: replay.damage,
    }
}

/// The segments that are believed.
struct Segments {
    live: BTreeMap<u32, Segment>,
    /// Reclaimed, but the removal did not last; or never finished being created.
    dead: Vec<u32>,
    damage: Vec<Damage>,
    highest: u64,
    next_number: u32,
}

struct Segment {
    view: Arc<dyn View>,
    end: u32,
}

impl Segments {
    fn open(storage: &mut dyn Storage) -> Result<Self, RecoveryError> {
        let mut views = BTreeMap::new();
        for number in storage.list()? {
            views.insert(number, storage.open(number)?);
        }
        let next_number = views.last_key_value().map_or(1, |(number, _)| number.saturating_add(1));
        for (number, view) in &views {
            if let Heading::Newer(found) = heading(&**view, *number) {
                return Err(RecoveryError::Newer { segment: *number, found });
            }
        }
        let list = views.iter().rev().find_map(|(number, view)| Some((*number, list(&**view, *number)?)));
        let (newest, highest, fences) =
            list.map_or((0, 0, Vec::new()), |(number, (highest, older))| (number, highest, older));
        let fences: HashMap<u32, u32> = fences.iter().map(|fence: &Fence| (fence.segment, fence.end)).collect();
        let mut live = BTreeMap::new();
        let (mut dead, mut damage) = (Vec::new(), Vec::new());
        for (number, view) in views {
            let end = match fences.get(&number) {
                Some(end) => Some(*end),
                None if number < newest => None,
                None => Some(torn_end(&*view, number)).filter(|end| number == newest || *end > SEGMENT_HEADER),
            };
            if number > newest && end.is_some() {
                damage.push(Damage::Head { segment: number });
            }
            match end {
                Some(end) => drop(live.insert(number, Segment { view, end })),
                None => dead.push(number),
            }
        }
        Ok(Self { live, dead, damage, highest, next_number })
    }

    fn remove_dead(&self, storage: &mut dyn Storage) -> io::Result<()> {
        for number in &self.dead {
            storage.remove(*number)?;
        }
        if self.dead.is_empty() { Ok(()) } else { storage.sync_directory() }
    }
}

/// The list at the head of a segment, if the segment was finished being created.
fn list(view: &dyn View, number: u32) -> Option<(u64, Vec<Fence>)> {
    if heading(view, number) != Heading::Good {
        return None;
    }
    let found = Found::at(view, number, SEGMENT_HEADER, view.len()).filter(|found| found.is_intact(view))?;
    match Record::decode(found.kind, found.body(view)?) {
        Ok(Record::Segments { highest, older }) => Some((highest, older)),
        _ => None,
    }
}

/// Applies records in the order of the log.
pub(crate) struct Replay {
    shared: Arc<Shared>,
    reader: Reader,
    ledger: Ledger,
    threads: Threads,
    details: HashMap<MessageId, Detail>,
    damage: Vec<Damage>,
    /// When set, these messages alone are of interest.
    only: Option<HashSet<MessageId>>,
}

/// What is to be told of a message and is not in the books.
#[derive(Default)]
struct Detail {
    batches: Vec<BatchDetail>,
    owed: Vec<Owed>,
}

impl Replay {
    /// Nothing is known yet; when `only` is given, nothing of other messages will be.
    fn new(shared: Arc<Shared>, only: Option<HashSet<MessageId>>) -> Self {
        Self {
            reader: Reader::new(shared.clone()),
            shared,
            ledger: Ledger::default(),
            threads: Threads::default(),
            details: HashMap::new(),
            damage: Vec::new(),
            only,
        }
    }

    /// A replay of its own for these messages alone, beside whatever goes on.
    pub(crate) fn of(messages: HashSet<MessageId>) -> Self {
        Self::new(Arc::new(Shared::new()), Some(messages))
    }

    fn concerns(&self, message: MessageId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&message))
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

    /// All that is known of a message, with its record as it is, if the books of the hub say the same. It is of no
    /// interest any more then.
    pub(crate) fn take(&mut self, message: MessageId, books: &Ledger) -> Option<Moved> {
        let detail = self.details.remove(&message);
        let moved = self.moved_as(message, detail, books);
        self.ledger.forget(message);
        self.shared.remove(message);
        if let Some(only) = &mut self.only {
            only.remove(&message);
        }
        moved
    }

    fn moved_as(&self, message: MessageId, detail: Option<Detail>, books: &Ledger) -> Option<Moved> {
        if !books.agrees(&self.ledger, message) {
            log::error!("spool: the log and the books differ on message {message}; it is not moved");
            return None;
        }
        let (oldest, stage, open) = books.moving(message)?;
        let Detail { mut batches, owed } = detail?;
        for batch in &mut batches {
            batch.routed.recipients.retain(|recipient| books.is_open(message, *recipient));
        }
        let owed = owed.into_iter().filter_map(|owed| match self.still_owed(owed) {
            Some(Fact::Owed(owed)) => Some(owed),
            _ => None,
        });
        let record = self.reader.message(message).ok()?.record().to_vec();
        Some(Moved { message, oldest, stage, open, batches, owed: owed.collect(), record })
    }

    fn read(&mut self, number: u32, view: &dyn View, end: u32) {
        for step in Scan::new(view, number, end) {
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
        let place = Place { segment: number, offset: found.offset, length: found.length };
        let body = found.body(view).filter(|_| found.is_intact(view));
        let applied = body.and_then(|body| match found.kind {
            Kind::Message => self.message(body, place),
            Kind::Moved => match Record::decode(Kind::Moved, body) {
                Ok(Record::Moved(moved)) => self.moved(*moved, place),
                _ => None,
            },
            kind => Record::decode(kind, body).ok().map(|record| self.apply(record, place)),
        });
        if applied.is_none() {
            let kind = format!("{:?}", found.kind);
            self.damage.push(Damage::Record { segment: number, at: found.at, kind });
        }
    }

    fn message(&mut self, body: &[u8], place: Place) -> Option<()> {
        let layout = Layout::parse(body).ok()?;
        layout.validate(body).ok()?;
        let extents = (0..layout.extents).filter_map(|index| layout.extent(body, index));
        let segments = extents.map(|extent| extent.segment).chain([place.segment]);
        if self.concerns(layout.id) {
            self.shared.raise_id(layout.id.0);
            self.shared.insert(layout.id, place);
            self.ledger.admit(layout.id, layout.recipients, segments);
            self.details.insert(layout.id, Detail::default());
        }
        if let Some(origin) = layout.origin(body) {
            self.ledger.settle(origin.message, &origin.recipients, place.segment);
        }
        Some(())
    }

    /// The message as it was when it was moved: all that older segments say of it is void.
    fn moved(&mut self, moved: Moved, place: Place) -> Option<()> {
        let layout = Layout::parse(&moved.record).ok().filter(|layout| layout.id == moved.message)?;
        layout.validate(&moved.record).ok()?;
        if !self.concerns(moved.message) {
            return Some(());
        }
        let extents = (0..layout.extents).filter_map(|index| layout.extent(&moved.record, index));
        let segments = extents.map(|extent| extent.segment).chain([place.segment]);
        self.shared.raise_id(moved.message.0);
        self.shared.insert(moved.message, place.tail(moved.record.len() as u32));
        self.ledger.restore(&moved, layout.recipients, segments);
        self.details.insert(moved.message, Detail { batches: moved.batches, owed: moved.owed });
        Some(())
    }

    fn apply(&mut self, record: Record, place: Place) {
        let segment = place.segment;
        match record {
            Record::Segments { .. } | Record::Moved(_) => {}
            Record::Routed { message, batches } => self.routed(message, batches, segment),
            Record::Outcomes(outcomes) => outcomes.iter().for_each(|outcome| self.outcome(outcome, segment)),
            Record::Batch(state) => {
                self.ledger.touch(state.id.message, segment);
                if let Some(batch) = self.batch(state.id) {
                    batch.held = state.held;
                    batch.due = Some(state.due);
                    batch.attempts = state.attempts;
                }
            }
            Record::Rerouted { id, thread } => {
                self.ledger.touch(id.message, segment);
                if let Some(batch) = self.batch(id) {
                    batch.routed.thread = thread;
                    batch.attempts = 0;
                    batch.due = None;
                    batch.last = None;
                }
            }
            Record::Thread(state) => self.threads.recorded(&state, place),
            Record::Settled { message, recipients } => {
                self.ledger.settle(message, &recipients, segment);
            }
            Record::Finished(marks) => {
                for mark in &marks {
                    self.details.remove(&mark.message);
                    self.shared.remove(mark.message);
                }
                self.ledger.finished(&marks, place);
            }
        }
    }

    fn batch(&mut self, id: BatchId) -> Option<&mut BatchDetail> {
        self.details.get_mut(&id.message)?.batches.get_mut(id.number as usize)
    }

    fn routed(&mut self, message: MessageId, batches: Vec<RoutedBatch>, segment: u32) {
        let is_unrouted = self.ledger.is_unrouted(message);
        self.ledger.routed(message, &batches, segment);
        let Some(detail) = self.details.get_mut(&message).filter(|_| is_unrouted) else { return };
        let fresh = |routed| BatchDetail { routed, attempts: 0, due: None, held: false, warned: false, last: None };
        detail.batches = batches.into_iter().map(fresh).collect();
    }

    fn outcome(&mut self, outcome: &Outcome, segment: u32) {
        let message = outcome.batch.message;
        if !self.ledger.is_live(message) {
            return;
        }
        let stored = self.reader.message(message).ok();
        let notify = |recipient| stored.as_ref().map_or(Notify::Default, |stored| stored.recipient(recipient).notify);
        let applied = self.ledger.outcome(outcome, segment, notify);
        if let Some(batch) = self.batch(outcome.batch).filter(|_| !applied.accepted.is_empty()) {
            batch.attempts = outcome.attempts;
            batch.warned |= outcome.disposition == Disposition::Delayed;
            if outcome.disposition == Disposition::Deferred {
                batch.due = Some(outcome.due);
                batch.last = Some(outcome.diagnostic.clone());
            }
        }
        if outcome.disposition == Disposition::Delayed {
            return;
        }
        let Some(detail) = self.details.get_mut(&message).filter(|_| !applied.owed.is_empty()) else { return };
        detail.owed.push(Owed {
            message,
            recipients: applied.owed,
            disposition: outcome.disposition,
            diagnostic: outcome.diagnostic.clone(),
            at: outcome.at,
            until: None,
        });
    }

    /// The messages whose content is not what was written.
    fn lost(&mut self, segments: &BTreeMap<u32, Segment>) -> Vec<MessageId> {
        // Equal bodies are stored once and checked once.
        let mut sound = HashSet::new();
        let mut check = |extent: Extent| sound.contains(&extent) || is_sound(extent, segments) && sound.insert(extent);
        let (reader, damage) = (&self.reader, &mut self.damage);
        let mut is_lost = |message: &MessageId| match reader.message(*message) {
            Ok(stored) => !stored.extents().all(&mut check),
            Err(error) => {
                damage.push(Damage::Unreadable(error));
                true
            }
        };
        self.ledger.messages().filter(|message| is_lost(message)).collect()
    }

    /// What is to be done now, in the order in which the messages came.
    fn work(&mut self) -> (Work, Vec<Mark>) {
        let mut work = Work::default();
        let threads = self.threads.live().filter_map(|place| {
            let view = self.shared.view(place.segment)?;
            match Record::decode(Kind::Thread, view.get(place.offset, place.length)?) {
                Ok(Record::Thread(state)) => Some(state),
                _ => None,
            }
        });
        work.threads = threads.collect();
        let mut finishing = Vec::new();
        let mut messages: Vec<MessageId> = self.ledger.messages().collect();
        messages.sort_unstable();
        for message in messages {
            let (open, owed) = self.ledger.counts(message);
            if (open, owed) == (0, 0) {
                work.facts.extend([Fact::Done(message), Fact::Removed(message)]);
                finishing.extend(self.ledger.begin_finish(message));
                self.shared.remove(message);
                continue;
            }
            let (Some(detail), Ok(stored)) = (self.details.remove(&message), self.reader.message(message)) else {
                continue;
            };
            if self.ledger.is_unrouted(message) {
                work.arrived.push(message);
            }
            let batches = (0..).zip(&detail.batches).filter_map(|(number, batch)| self.queued(&stored, number, batch));
            work.batches.extend(batches);
            work.facts.extend(detail.owed.into_iter().filter_map(|owed| self.still_owed(owed)));
            if open == 0 {
                work.facts.push(Fact::Done(message));
            }
        }
        (work, finishing)
    }

    fn queued(&self, stored: &Stored, number: u32, batch: &BatchDetail) -> Option<QueuedBatch> {
        let id = BatchId { message: stored.id(), number };
        let queued = queued_batch(stored, id, &batch.routed, |recipient| self.ledger.is_open(id.message, recipient))?;
        Some(QueuedBatch {
            attempts: batch.attempts,
            due: batch.due.unwrap_or(queued.due),
            held: batch.held,
            warned: batch.warned,
            last: batch.last.clone(),
            ..queued
        })
    }

    fn still_owed(&self, mut owed: Owed) -> Option<Fact> {
        owed.recipients.retain(|recipient| self.ledger.is_owed(owed.message, *recipient));
        (!owed.recipients.is_empty()).then_some(Fact::Owed(owed))
    }
}

fn is_sound(extent: Extent, segments: &BTreeMap<u32, Segment>) -> bool {
    segments.get(&extent.segment).is_some_and(|segment| is_intact(extent, &*segment.view, segment.end))
}

/// Whether the octets of a piece are those that were written.
pub(crate) fn is_intact(extent: Extent, view: &dyn View, end: u32) -> bool {
    let Some(at) = extent.offset.checked_sub(RECORD_HEADER) else { return false };
    let found = Found::at(view, extent.segment, at, end);
    found.is_some_and(|found| found.kind == Kind::Piece && found.length == extent.length && found.is_intact(view))
}

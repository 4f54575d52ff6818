//! What is known of messages beside the books while the log is read, in little memory: of a message only the place is
//! kept that says where it goes (a record, or the checkpoint), and what has changed since then. All of it is put together
//! when somebody wants it, for one message at a time. There may be ten million messages, or a thousand batches in each of
//! which one was tried.

mod change;

use std::collections::{BTreeMap, HashMap};

use crate::checkpoint::Checkpoint;
use crate::history::History;
use crate::moved::{BatchDetail, Moved};
use crate::record::Record;
use crate::shared::{Place, Shared};
use crate::table::Table;
use crate::{BatchId, MessageId, Outcome, Owed, RoutedBatch, ThreadKey};
pub(crate) use change::BatchChange;

/// What is to be told of a message and is not in the books.
#[derive(Clone, Default, Debug)]
pub(crate) struct Detail {
    pub(crate) batches: Vec<BatchDetail>,
    pub(crate) owed: Vec<Owed>,
    pub(crate) history: History,
}

impl Detail {
    /// Nothing is known.
    fn is_blank(&self) -> bool {
        self.batches.is_empty() && self.owed.is_empty() && self.history.is_empty()
    }

    /// Octets of memory that it takes, about.
    fn octets(&self) -> usize {
        /// Of a batch: its own, and those of the names of its thread.
        const BATCH: usize = size_of::<BatchDetail>() + 100;
        let recipients: usize = self.batches.iter().map(|batch| batch.routed.recipients.len()).sum();
        let owed: usize = self.owed.iter().map(owed_octets).sum();
        BATCH * self.batches.len() + size_of::<u32>() * recipients + owed + self.history.memory()
    }
}

impl From<Moved> for Detail {
    fn from(moved: Moved) -> Self {
        Self { batches: moved.batches, owed: moved.owed, history: moved.history }
    }
}

fn owed_octets(owed: &Owed) -> usize {
    size_of::<Owed>() + size_of_val(&*owed.recipients) + owed.diagnostic.memory()
}

/// What can be read again.
#[derive(Clone, Copy)]
pub(crate) struct Origins<'a> {
    /// The segments.
    pub(crate) shared: &'a Shared,
    pub(crate) base: Option<&'a Checkpoint>,
}

/// Where it is said what was known of a message before the changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Source {
    /// Of the routing decision, or of the record that moved the message; 0 and the last numbers are no segment's and stand
    /// for something else.
    segment: u32,
    /// Of the record's body.
    offset: u32,
}

impl From<Place> for Source {
    fn from(place: Place) -> Self {
        Self { segment: place.segment, offset: place.offset }
    }
}

impl Source {
    /// Nothing but the message itself is known.
    const NOTHING: Self = Self { segment: 0, offset: 0 };
    const CHECKPOINT: Self = Self { segment: u32::MAX, offset: 0 };
    /// It is in memory.
    const WHOLE: Self = Self { segment: u32::MAX - 1, offset: 0 };
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Details {
    sources: Table<Source>,
    whole: HashMap<MessageId, Detail>,
    /// Changes behind what the sources say.
    batches: BTreeMap<BatchId, BatchChange>,
    owed: HashMap<MessageId, Vec<Owed>>,
    histories: HashMap<MessageId, History>,
    /// Octets of memory beside the sources, about.
    octets: usize,
}

impl Details {
    /// A message came in, of which nothing else is known.
    pub(crate) fn admit(&mut self, message: MessageId) {
        self.begin(message, Source::NOTHING);
    }

    /// What is known of the message is in the checkpoint.
    pub(crate) fn is_in_checkpoint(&mut self, message: MessageId) {
        self.begin(message, Source::CHECKPOINT);
    }

    /// All that is known of the message, of so many recipients, is in the record at `place`, which moved it, and in
    /// `before`, what became of it before that.
    pub(crate) fn moved(&mut self, message: MessageId, place: Place, mut before: History, of: u32, shared: &Shared) {
        if before.is_empty() {
            return self.begin(message, place.into());
        }
        let detail = read(message, place.into(), shared);
        before.merge(&detail.history, of);
        self.insert(message, Detail { history: before, ..detail });
    }

    fn insert(&mut self, message: MessageId, detail: Detail) {
        self.begin(message, Source::WHOLE);
        self.octets += detail.octets();
        self.whole.insert(message, detail);
    }

    fn begin(&mut self, message: MessageId, source: Source) {
        self.remove(message);
        self.sources.insert(message, source);
    }

    pub(crate) fn remove(&mut self, message: MessageId) {
        if self.sources.remove(message).is_none() {
            return;
        }
        self.octets -= self.whole.remove(&message).map_or(0, |detail| detail.octets());
        self.octets -= self.histories.remove(&message).map_or(0, |history| history.memory());
        self.octets -= self.owed.remove(&message).iter().flatten().map(owed_octets).sum::<usize>();
        self.forget_batches(message);
    }

    fn forget_batches(&mut self, message: MessageId) {
        while let Some((id, _)) = self.batches.range(message.batches()).next() {
            let id = *id;
            self.octets -= self.batches.remove(&id).map_or(0, |change| change.octets());
        }
    }

    pub(crate) fn contains(&self, message: MessageId) -> bool {
        self.sources.get(message).is_some()
    }

    /// Octets of memory that all of it takes, about.
    pub(crate) fn octets(&self) -> usize {
        self.octets + self.sources.len() * (size_of::<Source>() + size_of::<u32>())
    }

    /// The record at `place` says where the message goes.
    pub(crate) fn routed(&mut self, message: MessageId, batches: Vec<RoutedBatch>, place: Place, origins: Origins<'_>) {
        self.forget_batches(message);
        match self.sources.get_mut(message) {
            None => {}
            Some(source) if *source == Source::NOTHING => *source = place.into(),
            Some(_) => match self.take(message, origins) {
                // It came in before the checkpoint, and nothing had been decided then.
                Some(detail) if detail.is_blank() => self.begin(message, place.into()),
                detail => {
                    let batches = fresh(batches);
                    self.insert(message, Detail { batches, ..detail.unwrap_or_default() });
                }
            },
        }
    }

    /// Something is otherwise with a batch.
    pub(crate) fn change(&mut self, id: BatchId, change: BatchChange) {
        if !self.contains(id.message) {
            return;
        }
        let known = self.batches.entry(id).or_insert_with(|| {
            let fresh = BatchChange::default();
            self.octets += fresh.octets();
            fresh
        });
        self.octets -= known.octets();
        known.join(change);
        self.octets += known.octets();
    }

    /// An outcome of a message with so many recipients, for these of them.
    pub(crate) fn note(&mut self, outcome: &Outcome, recipients: &[u32], of: u32) {
        if !self.contains(outcome.batch.message) {
            return;
        }
        let history = self.histories.entry(outcome.batch.message).or_default();
        let before = history.memory();
        history.note(outcome, recipients, of);
        self.octets = self.octets + history.memory() - before;
    }

    /// A report is owed.
    pub(crate) fn owe(&mut self, owed: Owed) {
        if self.contains(owed.message) {
            self.octets += owed_octets(&owed);
            self.owed.entry(owed.message).or_default().push(owed);
        }
    }

    /// The batch belongs to another thread from here on, as if it had never been tried.
    pub(crate) fn reroute(&mut self, id: BatchId, thread: ThreadKey, origins: Origins<'_>) {
        let Some(mut detail) = self.take(id.message, origins) else { return };
        if let Some(batch) = detail.batches.get_mut(id.number as usize) {
            let before = std::mem::replace(&mut batch.routed.thread, thread);
            (batch.attempts, batch.due, batch.last) = (0, None, None);
            detail.history.rerouted(id.number, &before);
        }
        self.insert(id.message, detail);
    }

    /// A copy of what is known of the message.
    pub(crate) fn get(&self, message: MessageId, origins: Origins<'_>) -> Option<Detail> {
        let source = *self.sources.get(message)?;
        let mut detail = match source {
            Source::NOTHING => Detail::default(),
            Source::WHOLE => self.whole.get(&message).cloned().unwrap_or_default(),
            Source::CHECKPOINT => of_checkpoint(origins.base, message).unwrap_or_default(),
            decision => read(message, decision, origins.shared),
        };
        for (id, change) in self.batches.range(message.batches()) {
            if let Some(batch) = detail.batches.get_mut(id.number as usize) {
                change.apply(batch);
            }
        }
        detail.owed.extend(self.owed.get(&message).into_iter().flatten().cloned());
        if let Some(history) = self.histories.get(&message) {
            detail.history.join(history);
        }
        Some(detail)
    }

    /// What is known of the message, which is forgotten.
    pub(crate) fn take(&mut self, message: MessageId, origins: Origins<'_>) -> Option<Detail> {
        let detail = self.get(message, origins)?;
        self.remove(message);
        Some(detail)
    }
}

/// What a checkpoint says of a message.
pub(crate) fn of_checkpoint(base: Option<&Checkpoint>, message: MessageId) -> Option<Detail> {
    let moved = base?.find(message)?.moved;
    Some(moved.into())
}

fn fresh(batches: Vec<RoutedBatch>) -> Vec<BatchDetail> {
    let fresh = |routed| BatchDetail { routed, attempts: 0, due: None, held: false, warned: false, last: None };
    batches.into_iter().map(fresh).collect()
}

/// Reads the record again that said where a message goes. It was intact when it was read the first time.
fn read(message: MessageId, source: Source, shared: &Shared) -> Detail {
    match shared.record(source.segment, source.offset) {
        Some(Record::Routed { batches, .. }) => Detail { batches: fresh(batches), ..Detail::default() },
        Some(Record::Moved(moved)) => (*moved).into(),
        _ => {
            log::error!(
                "spool: where message {message} goes can not be read any more; it is routed anew at the next start"
            );
            Detail::default()
        }
    }
}

//! What is known of messages beside the books while the log is read, in little memory: of a message of which no more is
//! known than where it goes, only the place of the record that says so is kept, and read again when somebody wants it.
//! There may be ten million of them, or a thousand batches in each.

use std::collections::HashMap;

use crate::format::{Found, Kind, RECORD_HEADER};
use crate::history::History;
use crate::moved::BatchDetail;
use crate::record::Record;
use crate::shared::{Place, Shared};
use crate::table::Table;
use crate::{MessageId, Owed, RoutedBatch};

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
}

/// Where a message's routing decision is.
#[derive(Clone, Copy, Debug)]
struct Source {
    /// 0, which is no segment's number, when nothing but the message itself is known.
    segment: u32,
    /// Of the record's body.
    offset: u32,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Details {
    sources: Table<Source>,
    /// Of messages of which more is known. None of them is in `sources`.
    whole: HashMap<MessageId, Detail>,
}

impl Details {
    /// A message came in, of which nothing else is known.
    pub(crate) fn admit(&mut self, message: MessageId) {
        self.whole.remove(&message);
        self.sources.insert(message, Source { segment: 0, offset: 0 });
    }

    pub(crate) fn insert(&mut self, message: MessageId, detail: Detail) {
        if detail.is_blank() {
            return self.admit(message);
        }
        self.sources.remove(message);
        self.whole.insert(message, detail);
    }

    pub(crate) fn remove(&mut self, message: MessageId) {
        self.sources.remove(message);
        self.whole.remove(&message);
    }

    pub(crate) fn contains(&self, message: MessageId) -> bool {
        self.sources.get(message).is_some() || self.whole.contains_key(&message)
    }

    /// The record at `place` says where the message goes.
    pub(crate) fn routed(&mut self, message: MessageId, batches: Vec<RoutedBatch>, place: Place) {
        if let Some(source) = self.sources.get_mut(message) {
            *source = Source { segment: place.segment, offset: place.offset };
        } else if let Some(detail) = self.whole.get_mut(&message) {
            detail.batches = fresh(batches);
        }
    }

    /// What is known of the message. It is kept as a whole from here on.
    pub(crate) fn get_mut(&mut self, message: MessageId, shared: &Shared) -> Option<&mut Detail> {
        if let Some(source) = self.sources.remove(message) {
            self.whole.insert(message, read(message, source, shared));
        }
        self.whole.get_mut(&message)
    }

    /// A copy of what is known of the message.
    pub(crate) fn get(&self, message: MessageId, shared: &Shared) -> Option<Detail> {
        let source = self.sources.get(message).map(|source| read(message, *source, shared));
        source.or_else(|| self.whole.get(&message).cloned())
    }

    /// What is known of the message, which is forgotten.
    pub(crate) fn take(&mut self, message: MessageId, shared: &Shared) -> Option<Detail> {
        let source = self.sources.remove(message).map(|source| read(message, source, shared));
        source.or_else(|| self.whole.remove(&message))
    }
}

fn fresh(batches: Vec<RoutedBatch>) -> Vec<BatchDetail> {
    let fresh = |routed| BatchDetail { routed, attempts: 0, due: None, held: false, warned: false, last: None };
    batches.into_iter().map(fresh).collect()
}

/// Reads a decision again. It was intact when it was read the first time.
fn read(message: MessageId, source: Source, shared: &Shared) -> Detail {
    if source.segment == 0 {
        return Detail::default();
    }
    let record = || {
        let view = shared.view(source.segment)?;
        let found = Found::at(&*view, source.segment, source.offset.checked_sub(RECORD_HEADER)?, view.len());
        let found = found.filter(|found| found.kind == Kind::Routed && found.is_intact(&*view))?;
        Record::decode(Kind::Routed, found.body(&*view)?).ok()
    };
    match record() {
        Some(Record::Routed { batches, .. }) => Detail { batches: fresh(batches), ..Detail::default() },
        _ => {
            log::error!(
                "spool: where message {message} goes can not be read any more; it is routed anew at the next start"
            );
            Detail::default()
        }
    }
}

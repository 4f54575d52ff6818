//! Answering what became of a message, from the checkpoint and the log behind it, in the thread of whoever asks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use memchr::memmem;

use super::{Attempt, History};
use crate::checkpoint::Position;
use crate::format::{Kind, SEGMENT_HEADER, Scan, Step};
use crate::moved::Stage;
use crate::record::Record;
use crate::storage::View;
use crate::{MessageId, ReadError, Reader, ThreadKey};

/// Octets of records, content not counted, that are read for one answer: twice what there is from one checkpoint to the
/// next, because another goes on being written while one is made. The older ones are left out.
const OCTETS_READ_MAX: u64 = 128 << 20;
/// Records that are passed over for one answer, those of content included: each may be a look at a page of its own.
const RECORDS_READ_MAX: u64 = 2_000_000;

/// Whether all attempts are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Known {
    /// All that were recorded and not reclaimed.
    #[default]
    All,
    /// Earlier ones were left out, to keep it small.
    Latest,
}

/// What became of a message so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Past {
    /// In the order of time.
    pub attempts: Vec<Attempt>,
    /// Whether there were more.
    pub known: Known,
}

/// How often the batch of a recipient has been tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tried {
    /// The number of the batch.
    pub batch: u32,
    /// Attempts so far.
    pub attempts: u32,
}

impl Past {
    /// The recipients, of so many, that were tried before the first attempt that is told of; `tried` is what is known of a
    /// recipient's batch, while it is in one. All that is gone is in the delivery log.
    pub fn lacking_earlier(&self, recipients: u32, tried: impl Fn(u32) -> Option<Tried>) -> HashSet<u32> {
        let mut own: HashMap<u32, &Attempt> = HashMap::new();
        // Not every attempt at a batch has an answer for each of its recipients.
        let mut first: HashMap<(u32, &Option<ThreadKey>), u32> = HashMap::new();
        for attempt in &self.attempts {
            for recipient in &attempt.recipients {
                own.entry(*recipient).or_insert(attempt);
            }
            let first = first.entry((attempt.batch, &attempt.thread)).or_insert(attempt.attempts);
            *first = attempt.attempts.min(*first);
        }
        let batches: HashSet<u32> = self.attempts.iter().map(|attempt| attempt.batch).collect();
        let lacks = |recipient: &u32| match (own.get(recipient), tried(*recipient)) {
            (Some(own), _) if self.known == Known::Latest => own.attempts > 1,
            (Some(own), _) => first.get(&(own.batch, &own.thread)).is_some_and(|first| *first > 1),
            (None, Some(Tried { batch, attempts })) => attempts > 0 && !batches.contains(&batch),
            (None, None) => self.known == Known::Latest,
        };
        (0..recipients).filter(lacks).collect()
    }
}

/// What is gathered of one message.
#[derive(Default)]
struct Tale {
    history: History,
    /// Of its batches, by number.
    threads: Vec<ThreadKey>,
}

/// What may still be read.
struct Budget {
    octets: u64,
    records: u64,
}

impl Reader {
    /// What became of the recipients of a message in the queue so far. It reads the log, up to some hundred megabytes of
    /// it: for a human who asks, in a thread that may wait for the disk.
    ///
    /// # Errors
    /// [`ReadError`], when the message cannot be read.
    pub fn past(&self, id: MessageId) -> Result<Past, ReadError> {
        let of = self.message(id)?.recipients();
        // In this order: what leaves the log between the two is in the checkpoint.
        let views = self.shared().views();
        let (base, position) = self.shared().checkpoint();
        let mut tale = Tale::default();
        if let Some(entry) = base.and_then(|base| base.find_any(id)) {
            tale.threads = entry.moved.batches.into_iter().map(|batch| batch.routed.thread).collect();
            tale.history = entry.moved.history;
        }
        let mut budget = Budget { octets: OCTETS_READ_MAX, records: RECORDS_READ_MAX };
        // The newest segments first, if not all of them can be read.
        let mut segments: Vec<Vec<Record>> = Vec::new();
        for (number, view) in views.into_iter().rev().take_while(|(number, _)| *number >= position.segment) {
            segments.push(records(id, number, &view, position, &mut budget));
        }
        segments.into_iter().rev().flatten().for_each(|record| tale.apply(id, record, of));
        let (attempts, known) = tale.history.finished(of).attempts();
        let known = if budget.is_used_up() { Known::Latest } else { known };
        let resolve = |attempt: Attempt| {
            let thread = attempt.thread.or_else(|| tale.threads.get(attempt.batch as usize).cloned());
            Attempt { thread, ..attempt }
        };
        Ok(Past { attempts: attempts.into_iter().map(resolve).collect(), known })
    }
}

/// The records of a segment that say something of the message.
fn records(id: MessageId, number: u32, view: &Arc<dyn View>, from: Position, budget: &mut Budget) -> Vec<Record> {
    let at = if number == from.segment { from.at.max(SEGMENT_HEADER) } else { SEGMENT_HEADER };
    let name = id.0.to_le_bytes();
    let finder = memmem::Finder::new(&name);
    let mut told = Vec::new();
    for step in Scan::resume(&**view, number, at, view.len()) {
        let Step::Record(found) = step else { continue };
        if !budget.take(&found) {
            return told;
        }
        if !matches!(found.kind, Kind::Routed | Kind::Outcomes | Kind::Rerouted | Kind::Moved | Kind::MovedWithHistory)
        {
            continue;
        }
        // Most records are of other messages: to look for its id is faster than to check and to decode them.
        let Some(body) = found.body(&**view).filter(|body| finder.find(body).is_some()) else { continue };
        if found.is_intact(&**view) {
            told.extend(Record::decode(found.kind, body));
        }
    }
    told
}

impl Budget {
    fn take(&mut self, found: &crate::format::Found) -> bool {
        let octets = if found.kind == Kind::Piece { 0 } else { u64::from(found.length) };
        if self.records == 0 || self.octets < octets {
            self.records = 0;
            return false;
        }
        self.records -= 1;
        self.octets -= octets;
        true
    }

    fn is_used_up(&self) -> bool {
        self.records == 0
    }
}

impl Tale {
    fn apply(&mut self, id: MessageId, record: Record, of: u32) {
        match record {
            Record::Routed { message, batches } if message == id && self.threads.is_empty() => {
                self.threads = batches.into_iter().map(|batch| batch.thread).collect();
            }
            Record::Outcomes(outcomes) => {
                let own = outcomes.iter().filter(|outcome| outcome.batch.message == id);
                own.for_each(|outcome| self.history.note(outcome, &outcome.recipients, of));
            }
            Record::Rerouted { id: batch, thread } if batch.message == id => {
                let Some(slot) = self.threads.get_mut(batch.number as usize) else { return };
                let before = std::mem::replace(slot, thread);
                self.history.rerouted(batch.number, &before);
            }
            Record::Moved(moved) if moved.message == id => {
                self.history.merge(&moved.history, of);
                if moved.stage == Stage::Routed {
                    self.threads = moved.batches.into_iter().map(|batch| batch.routed.thread).collect();
                }
            }
            _ => {}
        }
    }
}

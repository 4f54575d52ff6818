//! Reading the log after a restart: what was committed is rebuilt, a torn tail is dropped, damage is reported.
//!
//! What a [checkpoint](crate::checkpoint) says comes first, and then the log behind it, or all of the log when there is
//! none. Segments are read oldest first, up to their fences; see [`crate::format`] for where the newest one ends. Content
//! is skipped: it is checked when its message is handed out (see [`crate::backlog`]), or here when somebody wants a whole
//! check. A damaged record is reported and skipped. When it was a piece of a message in the queue, the message cannot be
//! delivered any more; it is reported at every start and stays in the queue, where everybody can see why it is put off (see
//! [`Reader::intact`](crate::Reader::intact)), until it expires and its sender is told, or an operator drops it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backlog::Backlog;
use crate::checkpoint::{self, Checkpoint, Position, Rest};
use crate::format::{Found, Heading, Kind, RECORD_HEADER, SEGMENT_HEADER, Torn, heading};
use crate::ledger::Ledger;
use crate::message::Extent;
use crate::record::{Fence, Mark, Record};
use crate::replay::Replay;
use crate::shared::Shared;
use crate::storage::{Storage, View};
use crate::threads::Threads;
use crate::{Fact, MessageId, QueuedBatch, ReadError, ThreadState};

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
    #[error("the content of message {0} is damaged; it is put off until it expires or is dropped")]
    Content(MessageId),
}

/// What the log held.
pub(crate) struct Recovery {
    pub(crate) ledger: Ledger,
    pub(crate) threads: Threads,
    pub(crate) sealed: BTreeMap<u32, u32>,
    pub(crate) next_number: u32,
    pub(crate) finishing: Vec<Mark>,
    /// What is to be done first.
    pub(crate) work: Work,
    /// And then.
    pub(crate) backlog: Backlog,
    pub(crate) damage: Vec<Damage>,
    /// Where the checkpoint ends, and how many octets of records were read behind it.
    pub(crate) position: Position,
    pub(crate) recorded: u64,
}

/// What is to be done for the messages in the queue.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) threads: Vec<ThreadState>,
    pub(crate) batches: Vec<QueuedBatch>,
    pub(crate) arrived: Vec<MessageId>,
    pub(crate) facts: Vec<Fact>,
}

impl Work {
    pub(crate) fn add(&mut self, left: crate::backlog::Left) {
        self.arrived.extend(left.is_unrouted.then_some(left.message));
        self.batches.extend(left.batches);
        self.facts.extend(left.facts);
    }
}

/// Reads the log, reports what is damaged, and removes the segments that are no part of it.
///
/// # Errors
/// [`RecoveryError`], when it was written by a later version or cannot be read at all.
pub(crate) fn recover(storage: &mut dyn Storage, shared: &Arc<Shared>) -> Result<Recovery, RecoveryError> {
    let segments = Segments::open(storage)?;
    segments.remove_dead(storage)?;
    let base = checkpoint(storage, &segments);
    let recovery = replay(segments, shared, base);
    recovery.damage.iter().for_each(|damage| log::error!("spool: {damage}"));
    shared.counters.damage.store(recovery.damage.len() as u64, Ordering::Relaxed);
    Ok(recovery)
}

/// Reads the log and changes nothing; the damage is for the caller to report.
///
/// # Errors
/// As [`recover`].
pub(crate) fn inspect(storage: &mut dyn Storage, shared: &Arc<Shared>) -> Result<Recovery, RecoveryError> {
    let mut recovery = replay(Segments::open(storage)?, shared, None);
    recovery.finish(shared);
    Ok(recovery)
}

impl Recovery {
    /// Checks the content of all messages and lists what is to be done for them.
    pub(crate) fn finish(&mut self, shared: &Arc<Shared>) {
        while let Some(left) = self.backlog.poll(&self.ledger, shared) {
            match left {
                Ok(mut left) => {
                    self.damage.extend(left.damage.take());
                    self.work.add(left);
                }
                Err((message, damage)) => {
                    self.damage.push(damage);
                    shared.remove(message);
                    self.ledger.forget(message);
                }
            }
        }
    }
}

/// The checkpoint, if there is one that belongs to the log. Otherwise it goes out of the way, and a restart takes longer.
fn checkpoint(storage: &mut dyn Storage, segments: &Segments) -> Option<(Checkpoint, Rest)> {
    let view = match storage.checkpoint() {
        Ok(view) => view?,
        Err(error) => {
            log::warn!("spool: the checkpoint cannot be read: {error}; the whole log is read instead");
            return None;
        }
    };
    let live = segments.live.iter().map(|(number, segment)| (*number, segment.end)).collect();
    let identity = |number| checkpoint::identity(&*segments.live.get(&number)?.view);
    match Checkpoint::open(view, live, identity) {
        Ok(base) => Some(base),
        Err(unusable) => {
            log::warn!("spool: the checkpoint is set aside: {unusable}; the whole log is read instead");
            if let Err(error) = storage.set_checkpoint_aside() {
                log::warn!("spool: the checkpoint cannot be set aside: {error}");
            }
            None
        }
    }
}

fn replay(segments: Segments, shared: &Arc<Shared>, base: Option<(Checkpoint, Rest)>) -> Recovery {
    for (number, segment) in &segments.live {
        shared.insert_view(*number, segment.view.clone());
        shared.counters.live_bytes.fetch_add(segment.end.into(), Ordering::Relaxed);
    }
    shared.raise_id(segments.highest);
    let mut replay = Replay::new(shared.clone());
    replay.damage = segments.damage;
    let mut position = Position::default();
    if let Some((base, rest)) = base {
        position = rest.position;
        replay.load(base, rest, |segment| segments.live.contains_key(&segment));
    }
    for (number, segment) in segments.live.range(position.segment..) {
        let at = if *number == position.segment { position.at } else { SEGMENT_HEADER };
        replay.read(*number, &*segment.view, (at, segment.end));
    }
    let (work, finishing) = replay.work();
    let backlog = Backlog::new(replay.base, replay.details, MessageId(shared.last_id()));
    Recovery {
        ledger: replay.ledger,
        threads: replay.threads,
        sealed: segments.live.iter().map(|(number, segment)| (*number, segment.end)).collect(),
        // What the checkpoint says of a segment that is gone must not be taken for a later one of the same number.
        next_number: segments.next_number.max(position.segment.saturating_add(1)),
        finishing,
        work,
        backlog,
        damage: replay.damage,
        position,
        recorded: replay.recorded,
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
                None => Some(Torn::of(&*view, number))
                    .filter(|torn| number == newest || torn.was_begun())
                    .map(|torn| torn.end),
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

/// Whether the octets of a piece are those that were written.
pub(crate) fn is_intact(extent: Extent, view: &dyn View, end: u32) -> bool {
    let Some(at) = extent.offset.checked_sub(RECORD_HEADER) else { return false };
    let found = Found::at(view, extent.segment, at, end);
    found.is_some_and(|found| found.kind == Kind::Piece && found.length == extent.length && found.is_intact(view))
}

//! What the appender's thread and everybody else see together: where messages lie, and how the spool does.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use zrelay_clock::{Clock, Timestamp};

use crate::checkpoint::{Checkpoint, Position};
use crate::format::{Found, Kind, RECORD_HEADER};
use crate::record::Record;
use crate::storage::View;
use crate::table::Table;
use crate::{Damage, Health, MessageId, Statistics};

/// Shards of the index: enough that a dozen loops seldom meet at one lock.
const SHARDS: usize = 32;

/// Where a message's record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    /// Of the record's body.
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Place {
    /// What is reported when there is no sound record of this kind any more.
    pub(crate) fn damage(self, kind: Kind) -> Damage {
        let at = self.offset.saturating_sub(RECORD_HEADER);
        Damage::Record { segment: self.segment, at, kind: format!("{kind:?}") }
    }

    /// Whether `whole` ends with it.
    pub(crate) fn is_end_of(self, whole: Self) -> bool {
        let end = |place: Self| place.offset.saturating_add(place.length);
        self.segment == whole.segment && self.offset >= whole.offset && end(self) == end(whole)
    }

    /// The last `length` octets of it.
    pub(crate) fn tail(self, length: u32) -> Self {
        Self { offset: self.offset + self.length.saturating_sub(length), length: length.min(self.length), ..self }
    }
}

/// Counters; see [`Statistics`].
#[derive(Default, Debug)]
pub(crate) struct Counters {
    pub(crate) messages: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) shared_bodies: AtomicU64,
    pub(crate) segments: AtomicU64,
    pub(crate) open_messages: AtomicU64,
    pub(crate) live_bytes: AtomicU64,
    pub(crate) moved_messages: AtomicU64,
    pub(crate) free_bytes: AtomicU64,
    pub(crate) damage: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) recovering: AtomicU64,
}

/// Where ids and segments take the time from.
enum Time {
    Clock(Clock),
    /// Microseconds, set by whoever steps the spool.
    #[cfg(any(test, feature = "testing"))]
    Set(AtomicU64),
}

/// See the module's head.
pub(crate) struct Shared {
    index: Vec<RwLock<Table<Place>>>,
    segments: RwLock<HashMap<u32, Arc<dyn View>>>,
    /// The checkpoint, and where the log goes on behind it.
    checkpoint: RwLock<(Option<Arc<Checkpoint>>, Position)>,
    time: Time,
    last_id: AtomicU64,
    health: AtomicU8,
    pub(crate) counters: Counters,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("last_id", &self.last_id)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            index: (0..SHARDS).map(|_| RwLock::default()).collect(),
            segments: RwLock::default(),
            checkpoint: RwLock::default(),
            time: Time::Clock(Clock::start()),
            last_id: AtomicU64::new(0),
            health: AtomicU8::new(Health::Good as u8),
            counters: Counters::default(),
        }
    }

    fn shard(&self, id: MessageId) -> &RwLock<Table<Place>> {
        // Ids are times in microseconds, so that their low bits are as good as any hash.
        &self.index[id.0 as usize % SHARDS]
    }

    pub(crate) fn place(&self, id: MessageId) -> Option<Place> {
        self.shard(id).read().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    pub(crate) fn insert(&self, id: MessageId, place: Place) {
        self.shard(id).write().unwrap_or_else(PoisonError::into_inner).insert(id, place);
    }

    pub(crate) fn remove(&self, id: MessageId) {
        self.shard(id).write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Octets of memory that the places of `messages` take.
    pub(crate) fn octets(messages: usize) -> usize {
        messages * (size_of::<Place>() + size_of::<u32>())
    }

    pub(crate) fn view(&self, segment: u32) -> Option<Arc<dyn View>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&segment).cloned()
    }

    /// The record with its body at `offset` of a segment, if it is what was written. Who knows where a record is does not
    /// know that it still is.
    pub(crate) fn record(&self, segment: u32, offset: u32) -> Option<Record> {
        let view = self.view(segment)?;
        let found = Found::at(&*view, segment, offset.checked_sub(RECORD_HEADER)?, view.len())?;
        let body = found.body(&*view).filter(|_| found.is_intact(&*view))?;
        Record::decode(found.kind, body).ok()
    }

    /// All segments, ascending.
    pub(crate) fn views(&self) -> Vec<(u32, Arc<dyn View>)> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<_> = segments.iter().map(|(number, view)| (*number, view.clone())).collect();
        views.sort_unstable_by_key(|(number, _)| *number);
        views
    }

    pub(crate) fn checkpoint(&self) -> (Option<Arc<Checkpoint>>, Position) {
        self.checkpoint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_checkpoint(&self, checkpoint: Option<Arc<Checkpoint>>, position: Position) {
        *self.checkpoint.write().unwrap_or_else(PoisonError::into_inner) = (checkpoint, position);
    }

    pub(crate) fn insert_view(&self, segment: u32, view: Arc<dyn View>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment, view);
    }

    pub(crate) fn remove_view(&self, segment: u32) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    pub(crate) fn next_id(&self) -> MessageId {
        self.next_id_at(self.now())
    }

    fn next_id_at(&self, now: Timestamp) -> MessageId {
        let next = |last: u64| Some(now.as_micros().max(last.saturating_add(1)));
        let last = self.last_id.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).unwrap_or_default();
        MessageId(now.as_micros().max(last.saturating_add(1)))
    }

    pub(crate) fn now(&self) -> Timestamp {
        match &self.time {
            Time::Clock(clock) => clock.now(),
            #[cfg(any(test, feature = "testing"))]
            Time::Set(micros) => Timestamp::from_micros(micros.load(Ordering::Relaxed)),
        }
    }

    /// The same with a time that passes when it is told.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn at(now: Timestamp) -> Self {
        Self { time: Time::Set(AtomicU64::new(now.as_micros())), ..Self::new() }
    }

    /// Lets the time be `now`, if it is not the clock's.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn set_time(&self, now: Timestamp) {
        if let Time::Set(micros) = &self.time {
            micros.store(now.as_micros(), Ordering::Relaxed);
        }
    }

    /// No id at or below `id` is given out from now on.
    pub(crate) fn raise_id(&self, id: u64) {
        self.last_id.fetch_max(id, Ordering::AcqRel);
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.last_id.load(Ordering::Acquire)
    }

    pub(crate) fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Good,
            1 => Health::Full,
            _ => Health::Broken,
        }
    }

    pub(crate) fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Release);
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Statistics {
            messages: read(&counters.messages),
            syncs: read(&counters.syncs),
            bytes: read(&counters.bytes),
            shared_bodies: read(&counters.shared_bodies),
            segments: read(&counters.segments),
            open_messages: read(&counters.open_messages),
            live_bytes: read(&counters.live_bytes),
            moved_messages: read(&counters.moved_messages),
            free_bytes: read(&counters.free_bytes),
            damage: read(&counters.damage),
            unreadable_pages: zrelay_sys::unreadable_pages(),
            checkpoints: read(&counters.checkpoints),
            recovering: read(&counters.recovering),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_rise_even_when_the_clock_does_not() {
        let shared = Shared::new();
        let now = Timestamp::from_micros(1000);
        assert_eq!(shared.next_id_at(now), MessageId(1000));
        assert_eq!(shared.next_id_at(now), MessageId(1001));
        shared.raise_id(5000);
        assert_eq!(shared.next_id_at(now), MessageId(5001));
        assert_eq!(shared.next_id_at(Timestamp::from_micros(9000)), MessageId(9000));
    }
}

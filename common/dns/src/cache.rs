//! Answers kept for as long as their owners allow, bounded in number.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;

use crate::message::Kind;

/// Answers kept; the oldest goes first. Some 200 octets each, so 2 MB; a hub talks to a few thousand domains in an
/// hour.
pub(crate) const ENTRIES_MAX: usize = 10_000;
/// Longest that records are believed, whatever their owner says: a day, so that a typing error heals.
const POSITIVE_MAX: Duration = Duration::from_secs(86_400);
/// Longest that an absence is believed (RFC 2308 §5 suggests one to three hours).
const NEGATIVE_MAX: Duration = Duration::from_secs(3_600);
/// How long a failure of the servers is taken for granted, so that many threads behind one broken zone do not each wait
/// for it (RFC 9520 §3.2 wants at least 1 s and at most 5 min).
const FAILURE: Duration = Duration::from_secs(10);

/// What is looked up.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
}

/// What a look-up brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// Exchanges with their preferences; the empty name is the root.
    Exchanges(Arc<[(u16, String)]>),
    /// Addresses.
    Addresses(Arc<[IpAddr]>),
    /// The name has no such records.
    NoData,
    /// There is no such name.
    NoDomain,
    /// The servers do not know now; why.
    Failed(Arc<str>),
}

#[derive(Debug)]
struct Entry {
    found: Found,
    expires: Timestamp,
    serial: u64,
}

/// The answers of the last hours.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Key, Entry>,
    /// By age; an entry that was replaced since has another serial.
    order: VecDeque<(Key, u64)>,
    serial: u64,
}

impl Cache {
    /// What is known about `key` at `now`.
    pub(crate) fn get(&self, now: Timestamp, key: &Key) -> Option<Found> {
        self.entries.get(key).filter(|entry| entry.expires > now).map(|entry| entry.found.clone())
    }

    /// Keeps `found` for its time to live, `ttl` seconds, within the limits of its sort.
    pub(crate) fn insert(&mut self, now: Timestamp, key: Key, found: Found, ttl: u32) {
        let ttl = Duration::from_secs(u64::from(ttl));
        let span = match found {
            Found::Exchanges(_) | Found::Addresses(_) => ttl.min(POSITIVE_MAX),
            Found::NoData | Found::NoDomain => ttl.min(NEGATIVE_MAX),
            Found::Failed(_) => FAILURE,
        };
        if span.is_zero() {
            self.entries.remove(&key);
            return;
        }
        self.serial = self.serial.wrapping_add(1);
        self.order.push_back((key.clone(), self.serial));
        self.entries.insert(key, Entry { found, expires: now + span, serial: self.serial });
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.entries.len() > ENTRIES_MAX {
            let Some((key, serial)) = self.order.pop_front() else {
                return;
            };
            if self.entries.get(&key).is_some_and(|entry| entry.serial == serial) {
                self.entries.remove(&key);
            }
        }
        if self.order.len() > 2 * ENTRIES_MAX {
            let entries = &self.entries;
            self.order.retain(|(key, serial)| entries.get(key).is_some_and(|entry| entry.serial == *serial));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key { name: format!("n{number}.example").into(), kind: Kind::A }
    }

    #[test]
    fn answers_expire_and_absences_sooner() {
        let mut cache = Cache::default();
        let start = Timestamp::from_secs(100);
        cache.insert(start, key(1), Found::Addresses(Arc::from([])), u32::MAX);
        cache.insert(start, key(2), Found::NoData, u32::MAX);
        cache.insert(start, key(3), Found::NoData, 0);
        assert!(cache.get(start + NEGATIVE_MAX, &key(1)).is_some());
        assert!(cache.get(start + NEGATIVE_MAX, &key(2)).is_none());
        assert!(cache.get(start, &key(3)).is_none());
        assert!(cache.get(start + POSITIVE_MAX, &key(1)).is_none());
    }

    #[test]
    fn the_number_of_entries_is_bounded_and_the_oldest_go_first() {
        let mut cache = Cache::default();
        for round in 0..3 {
            for number in 0..ENTRIES_MAX {
                cache.insert(Timestamp::ZERO, key(number * (round + 1)), Found::NoData, 60);
                assert!(cache.entries.len() <= ENTRIES_MAX && cache.order.len() <= 2 * ENTRIES_MAX);
            }
        }
        assert!(cache.get(Timestamp::ZERO, &key(3 * (ENTRIES_MAX - 1))).is_some());
        assert!(cache.get(Timestamp::ZERO, &key(1)).is_none());
    }
}

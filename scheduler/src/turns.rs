//! Turns among those who compete for the same thing: start-time fair queueing.
//!
//! It keeps what deficit round robin promises and does not make a newcomer wait for a round. Everybody has a **start**,
//! the charge up to which it would have been served had all been served at the same pace; who has the lowest goes next,
//! and what it gets moves its start by the charge. Who comes back begins at the start of who went last, or where it had
//! been served up to, whichever is later: nobody saves up time while it wants nothing, nor wins any by asking for little
//! at a time.
//!
//! What follows from it:
//! - Who wanted nothing and comes now goes next, before anybody goes twice.
//! - While two both want something, the charges they were served differ by less than the largest of each.

use std::collections::{BTreeMap, BTreeSet};

/// Who wants something, and whose turn it is. Of equal starts the lower key goes first.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    starts: BTreeMap<K, u64>,
    /// Those who want something, by their starts.
    order: BTreeSet<(u64, K)>,
    /// Those who do not, whose starts are ahead of the others' and so are remembered.
    ahead: BTreeSet<(u64, K)>,
    /// The start of who was served last.
    now: u64,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { starts: BTreeMap::new(), order: BTreeSet::new(), ahead: BTreeSet::new(), now: 0 }
    }
}

/// Whether who was served wants more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    More,
    Nothing,
}

impl<K: Ord + Copy> Turns<K> {
    /// How many want something.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Who goes next.
    pub(crate) fn next(&self) -> Option<K> {
        self.order.first().map(|(_, key)| *key)
    }

    /// All who want something, in the order of their turns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = K> {
        self.order.iter().map(|(_, key)| *key)
    }

    /// Somebody wants something, and did not before.
    pub(crate) fn join(&mut self, key: K) {
        let start = self.starts.entry(key).or_default();
        self.ahead.remove(&(*start, key));
        *start = (*start).max(self.now);
        self.order.insert((*start, key));
    }

    /// Somebody wants nothing any more, and got nothing.
    pub(crate) fn leave(&mut self, key: K) {
        let Some(start) = self.starts.get(&key).copied() else { return };
        if self.order.remove(&(start, key)) {
            self.rest(key, start);
        }
    }

    /// [`Turns::next`] gets something.
    pub(crate) fn serve(&mut self, charge: u64, then: Then) {
        let Some((start, key)) = self.order.pop_first() else { return };
        self.now = start;
        let start = start.saturating_add(charge.max(1));
        self.starts.insert(key, start);
        match then {
            Then::More => drop(self.order.insert((start, key))),
            Then::Nothing => self.rest(key, start),
        }
        while let Some((_, behind)) = self.ahead.first().filter(|(start, _)| *start <= self.now).copied() {
            self.ahead.pop_first();
            self.starts.remove(&behind);
        }
    }

    fn rest(&mut self, key: K, start: u64) {
        if self.order.is_empty() {
            // Nobody competes: everything begins anew.
            *self = Self::default();
        } else if start > self.now {
            self.ahead.insert((start, key));
        } else {
            self.starts.remove(&key);
        }
    }

    /// Those of whom anything is remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.starts.len()
    }
}

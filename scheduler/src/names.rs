//! Threads by name: found at once, and in order.
//!
//! Every batch that arrives looks its thread up. In an ordered map of a hundred thousand that takes seventeen comparisons of
//! texts all over the memory; listings need the order. A thread pays some fifty octets for both.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::ops::RangeBounds;

use zrelay_spool::ThreadKey;

use crate::thread::ThreadId;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Names {
    ids: HashMap<ThreadKey, ThreadId>,
    order: BTreeMap<ThreadKey, ThreadId>,
    /// Threads that were gone through in order, for the tests that bound them.
    #[cfg(test)]
    pub(crate) visited: std::cell::Cell<usize>,
}

impl Names {
    pub(crate) fn get(&self, key: &ThreadKey) -> Option<&ThreadId> {
        self.ids.get(key)
    }

    pub(crate) fn insert(&mut self, key: ThreadKey, id: ThreadId) {
        self.ids.insert(key.clone(), id);
        self.order.insert(key, id);
    }

    pub(crate) fn remove(&mut self, key: &ThreadKey) {
        self.ids.remove(key);
        self.order.remove(key);
    }

    /// In order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ThreadKey, &ThreadId)> {
        self.order.iter().inspect(|_| self.visit())
    }

    /// In order of the names.
    pub(crate) fn values(&self) -> btree_map::Values<'_, ThreadKey, ThreadId> {
        self.order.values()
    }

    /// In order.
    pub(crate) fn range<T, R>(&self, range: R) -> impl Iterator<Item = (&ThreadKey, &ThreadId)>
    where
        T: Ord + ?Sized,
        ThreadKey: std::borrow::Borrow<T>,
        R: RangeBounds<T>,
    {
        self.order.range(range).inspect(|_| self.visit())
    }

    fn visit(&self) {
        #[cfg(test)]
        self.visited.set(self.visited.get() + 1);
    }
}

//! One timer per connection, for many connections.
//!
//! Nearly every deadline moves on before it comes: each command moves its session's. So a later deadline changes
//! nothing here, and the entry is put back when it comes up too early; only an earlier deadline adds an entry. Work is
//! proportional to what happens, never to how many connections are idle.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use zrelay_clock::Timestamp;

/// A heap of deadlines of things named by `K`. Each of them keeps the [`Armed`] that belongs to it.
#[derive(Debug)]
pub(super) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Timestamp, K)>>,
}

/// For when something's entry in the heap is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Armed(Timestamp);

impl Default for Armed {
    fn default() -> Self {
        Self(Timestamp::NEVER)
    }
}

impl<K: Ord + Copy> Timers<K> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new() }
    }

    /// Sees to it that `key` comes up at `deadline` at the latest.
    pub(super) fn arm(&mut self, key: K, armed: &mut Armed, deadline: Timestamp) {
        if deadline < armed.0 {
            armed.0 = deadline;
            self.heap.push(Reverse((deadline, key)));
        }
    }

    /// When the next entry comes up.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next entry that has come up, with its time, to be compared by [`Armed::is_for`].
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

impl Armed {
    /// Whether the entry of this time is the one that counts; then there is none any more.
    pub(super) fn is_for(&mut self, at: Timestamp) -> bool {
        if self.0 != at {
            return false;
        }
        self.0 = Timestamp::NEVER;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_moves_on_costs_one_entry() {
        let (mut timers, mut armed) = (Timers::new(), Armed::default());
        for second in 10..1000 {
            timers.arm(1, &mut armed, Timestamp::from_secs(second));
        }
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.next(), Some(Timestamp::from_secs(10)));
    }

    #[test]
    fn an_earlier_deadline_counts_and_the_later_entry_is_stale() {
        let (mut timers, mut armed) = (Timers::new(), Armed::default());
        timers.arm(1, &mut armed, Timestamp::from_secs(20));
        timers.arm(1, &mut armed, Timestamp::from_secs(10));
        assert_eq!(timers.pop(Timestamp::from_secs(9)), None);
        let (at, _) = timers.pop(Timestamp::from_secs(30)).unwrap();
        assert!(armed.is_for(at));
        let (at, _) = timers.pop(Timestamp::from_secs(30)).unwrap();
        assert!(!armed.is_for(at));
        assert_eq!(timers.pop(Timestamp::NEVER), None);
    }
}

//! Deadlines of many agents: a heap that is armed lazily. A deadline that moves later costs nothing; the entry in the heap
//! finds out when it comes up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use zrelay_clock::Timestamp;

/// The heap. `K` names an agent.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Timestamp, K)>>,
}

/// What an agent remembers of its entry: the earliest time it is in the heap for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Armed(Option<Timestamp>);

impl<K: Ord + Copy> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new() }
    }

    /// Sees to it that `key` comes up at `deadline` or before.
    pub(crate) fn arm(&mut self, key: K, armed: &mut Armed, deadline: Timestamp) {
        if armed.0.is_some_and(|earlier| earlier <= deadline) || deadline == Timestamp::NEVER {
            return;
        }
        armed.0 = Some(deadline);
        self.heap.push(Reverse((deadline, key)));
    }

    /// When the next one comes up.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next one that has come up: its key, and the time to give to [`Armed::came_up`].
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        if self.next().is_none_or(|at| at > now) {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

impl Armed {
    /// The entry for `at` has left the heap.
    pub(crate) fn came_up(&mut self, at: Timestamp) {
        if self.0 == Some(at) {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_deadline_is_entered_and_a_later_one_waits_its_turn() {
        let at = Timestamp::from_secs;
        let mut timers = Timers::new();
        let mut armed = Armed::default();
        timers.arm(1, &mut armed, at(10));
        timers.arm(1, &mut armed, at(20));
        assert_eq!(timers.heap.len(), 1);
        timers.arm(1, &mut armed, at(5));
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.pop(at(4)), None);
        assert_eq!(timers.pop(at(5)), Some((at(5), 1)));
        armed.came_up(at(5));
        timers.arm(1, &mut armed, at(20));
        assert_eq!(timers.heap.len(), 2);
    }
}

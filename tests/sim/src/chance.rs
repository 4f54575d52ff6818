//! Chance, from a seed; and what is to happen when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_spool::testing::Random;

/// A die with any number of sides.
#[derive(Debug)]
pub(crate) struct Dice(Random);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Random(seed))
    }

    /// A number below `sides`, which is above 0.
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.0.next() % sides
    }

    /// A number from `least` to `most`.
    pub(crate) fn between_numbers(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Whether it happens, in so many of a thousand cases.
    pub(crate) fn in_thousand(&mut self, cases: u64) -> bool {
        self.below(1000) < cases
    }

    /// A time from `least` to `most`.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX - 1);
        least + Duration::from_micros(self.below(span + 1))
    }

    /// A seed for a generator of its own.
    pub(crate) fn seed(&mut self) -> u64 {
        self.0.next()
    }

    /// For those who draw by themselves.
    pub(crate) fn raw(&mut self) -> &mut Random {
        &mut self.0
    }
}

/// Events by time; those of one moment in the order in which they were set.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    count: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Timestamp,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), count: 0 }
    }

    pub(crate) fn set(&mut self, at: Timestamp, event: E) {
        self.count += 1;
        self.heap.push(Reverse(Entry { at, number: self.count, event }));
    }

    /// When the next one is.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Timestamp, E)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

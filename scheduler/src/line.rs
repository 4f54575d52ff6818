//! The line before a limit: who goes next when a place becomes free.
//!
//! Hosts that are down hold a place without using it, so threads stand by what is known of their hosts: those that work
//! before those that nothing is known of, and these before those that failed; within a rank the more urgent first, then by
//! how long they have waited. Every [`ELDEST_TURN`]th place goes to who has waited longest, whatever rank and urgency.
//!
//! Nobody starves by this: whoever leaves the line is the eldest, or brings the eldest's turn one nearer. A thread with
//! `n` before it by seniority goes within `ELDEST_TURN × (n + 1)` places; the quarter that [`Line::pick`] leaves to a
//! doubtful rank delays that by the patience of [`crate::STARTING_SLICE`] at most, after which its places come free.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::thread::ThreadId;

/// Of so many threads that leave a line, one at least is its eldest.
const ELDEST_TURN: u32 = 4;

/// What is known of a thread's host, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rank {
    /// It has been worked with since it last failed.
    Proven,
    /// Nothing.
    New,
    /// Its last attempt failed.
    Failed,
}

impl Rank {
    pub(crate) const ALL: [Self; 3] = [Self::Proven, Self::New, Self::Failed];
}

/// One of something per rank.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByRank<T> {
    proven: T,
    new: T,
    failed: T,
}

impl<T> ByRank<T> {
    pub(crate) fn of(&self, rank: Rank) -> &T {
        match rank {
            Rank::Proven => &self.proven,
            Rank::New => &self.new,
            Rank::Failed => &self.failed,
        }
    }

    pub(crate) fn of_mut(&mut self, rank: Rank) -> &mut T {
        match rank {
            Rank::Proven => &mut self.proven,
            Rank::New => &mut self.new,
            Rank::Failed => &mut self.failed,
        }
    }
}

/// How long a thread has waited, as against others. Drawn when it first has to wait, kept when it moves from the line
/// of one limit to that of another.
pub(crate) type Seniority = u64;

/// A thread's place in a line: the lowest is next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Standing {
    pub(crate) rank: Rank,
    /// The priority of the most urgent mail that it has due, and that of its clause.
    pub(crate) urgency: Reverse<i8>,
    pub(crate) seniority: Seniority,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: ByRank<BTreeSet<(Reverse<i8>, Seniority, ThreadId)>>,
    /// The same by seniority alone.
    seniors: ByRank<BTreeSet<(Seniority, ThreadId)>>,
    /// Threads that left before the eldest did.
    passed: u32,
}

impl Line {
    pub(crate) fn len(&self) -> usize {
        Rank::ALL.into_iter().map(|rank| self.waiting.of(rank).len()).sum()
    }

    pub(crate) fn insert(&mut self, standing: Standing, id: ThreadId) {
        self.waiting.of_mut(standing.rank).insert((standing.urgency, standing.seniority, id));
        self.seniors.of_mut(standing.rank).insert((standing.seniority, id));
    }

    pub(crate) fn remove(&mut self, standing: Standing, id: ThreadId) {
        let eldest = self.eldest().map(|(.., id)| id);
        if !self.waiting.of_mut(standing.rank).remove(&(standing.urgency, standing.seniority, id)) {
            return;
        }
        self.seniors.of_mut(standing.rank).remove(&(standing.seniority, id));
        self.passed = if eldest == Some(id) { 0 } else { self.passed.saturating_add(1) };
    }

    /// The best rank in the line.
    pub(crate) fn best_rank(&self) -> Option<Rank> {
        Rank::ALL.into_iter().find(|rank| !self.waiting.of(*rank).is_empty())
    }

    fn eldest(&self) -> Option<(Seniority, Rank, ThreadId)> {
        let first = |rank| self.seniors.of(rank).first().map(|(seniority, id)| (*seniority, rank, *id));
        Rank::ALL.into_iter().filter_map(first).min()
    }

    /// Who is next, and how it stands against those of other lines: there is one if anybody waits. The eldest stands
    /// before all others when it is its turn, unless leases of its rank that have not been heard of hold their share,
    /// `quarter`.
    pub(crate) fn pick(&self, starting: impl Fn(Rank) -> usize, quarter: usize) -> Option<(Standing, ThreadId)> {
        let turn = self.eldest().filter(|_| self.passed + 1 >= ELDEST_TURN);
        let turn = turn.filter(|(_, rank, _)| *rank == Rank::Proven || starting(*rank) < quarter);
        if let Some((seniority, _, id)) = turn {
            return Some((Standing { rank: Rank::Proven, urgency: Reverse(i8::MAX), seniority }, id));
        }
        let rank = self.best_rank()?;
        let (urgency, seniority, id) = *self.waiting.of(rank).first()?;
        Some((Standing { rank, urgency, seniority }, id))
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    /// A line of as many threads as ranks are given, in this order.
    fn line(ranks: &[Rank]) -> (Line, Vec<(Standing, ThreadId)>) {
        let mut ids: SlotMap<ThreadId, ()> = SlotMap::with_key();
        let mut line = Line::default();
        let mut all = Vec::new();
        for (seniority, rank) in (0..).zip(ranks) {
            let (standing, id) = (Standing { rank: *rank, urgency: Reverse(0), seniority }, ids.insert(()));
            line.insert(standing, id);
            all.push((standing, id));
        }
        (line, all)
    }

    fn served(line: &mut Line, all: &[(Standing, ThreadId)], starting: usize) -> Vec<usize> {
        let mut order = Vec::new();
        while let Some((_, next)) = line.pick(|_| starting, 1) {
            let position = all.iter().position(|(_, id)| *id == next).unwrap();
            line.remove(all[position].0, next);
            order.push(position);
        }
        assert_eq!(line.len(), 0);
        order
    }

    #[test]
    fn the_best_rank_goes_first_and_every_fourth_place_is_the_eldests() {
        use Rank::{Failed, New, Proven};
        let (mut line, all) = line(&[Failed, Failed, New, Proven, Proven, Proven, Proven, Proven, New]);
        assert_eq!(served(&mut line, &all, 0), [3, 4, 5, 0, 6, 7, 2, 1, 8]);
    }

    #[test]
    fn a_rank_that_holds_its_quarter_without_a_word_goes_behind_the_better_ones() {
        use Rank::{Failed, New, Proven};
        let (mut line, all) = line(&[Failed, New, Proven, Proven, Proven, Proven, Proven]);
        assert_eq!(served(&mut line, &all, 1), [2, 3, 4, 5, 6, 1, 0]);
    }

    #[test]
    fn a_failed_thread_is_served_however_many_proven_ones_keep_coming() {
        let (mut line, all) = line(&[Rank::Failed; 3]);
        let mut ids: SlotMap<ThreadId, ()> = SlotMap::with_key();
        for _ in 0..100 {
            ids.insert(());
        }
        let (mut seniority, mut places) = (100, 0);
        for (_, eldest) in &all {
            loop {
                let standing = Standing { rank: Rank::Proven, urgency: Reverse(0), seniority };
                line.insert(standing, ids.insert(()));
                seniority += 1;
                places += 1;
                let (_, next) = line.pick(|_| 0, 1).unwrap();
                let failed = all.iter().find(|(_, id)| *id == next);
                let known = failed.map(|(standing, _)| *standing);
                let proven = || line.seniors.proven.iter().find(|(_, id)| *id == next).map(|(s, _)| *s).unwrap();
                let standing =
                    known.unwrap_or_else(|| Standing { rank: Rank::Proven, urgency: Reverse(0), seniority: proven() });
                line.remove(standing, next);
                if next == *eldest {
                    break;
                }
            }
        }
        assert_eq!(places, 3 * ELDEST_TURN);
    }

    #[test]
    fn the_urgent_go_first_within_a_rank_and_do_not_starve_the_others() {
        let mut ids: SlotMap<ThreadId, ()> = SlotMap::with_key();
        let mut line = Line::default();
        let plain: Vec<(Standing, ThreadId)> = (0..3)
            .map(|seniority| (Standing { rank: Rank::Proven, urgency: Reverse(0), seniority }, ids.insert(())))
            .collect();
        plain.iter().for_each(|(standing, id)| line.insert(*standing, *id));
        let mut order = Vec::new();
        for seniority in 10..22 {
            let (urgent, id) = (Standing { rank: Rank::Proven, urgency: Reverse(9), seniority }, ids.insert(()));
            line.insert(urgent, id);
            let (_, next) = line.pick(|_| 0, 1).unwrap();
            let standing = plain.iter().find(|(_, id)| *id == next).map_or(urgent, |(standing, _)| *standing);
            order.push(standing.urgency.0);
            // Whoever of the urgent it was, one of them leaves.
            let left = line.waiting.proven.iter().find(|(_, _, id)| *id == next).copied().unwrap();
            line.remove(Standing { rank: Rank::Proven, urgency: left.0, seniority: left.1 }, next);
        }
        assert_eq!(order, [9, 9, 9, 0, 9, 9, 9, 0, 9, 9, 9, 0]);
    }
}

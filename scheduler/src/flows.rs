//! Whose turn it is among the due batches of a thread.
//!
//! Each **flow** ([`zrelay_spool::Flow`]: mail of one sender domain) is served in its own order, by due time. Between
//! the flows that have something due the next hop's time is divided equally, in [`zrelay_agent::weight`]s: by start-time
//! fair queueing, which keeps what deficit round robin promises and does not make a newcomer wait for a round. Every flow
//! has a **start**, the weight that it would have been served up to had all been served at the same pace; the flow with
//! the lowest start goes next, and what goes out moves its start by its weight. A flow that comes back begins at the
//! start of who went last, or where it had been served up to, whichever is later: it neither saves up time while it has
//! nothing to send, nor wins any by sending one message at a time.
//!
//! What follows from it:
//! - A message of a flow that had nothing due goes out before any further batch of a busy one: behind what agents have
//!   been given already, one credit at most.
//! - While two flows both have something due, what they were served differs by less than the heaviest batch of each.

use std::collections::{BTreeMap, BTreeSet};

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, Flow};

/// The due batches of a thread.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    flows: BTreeMap<Flow, Backlog>,
    /// Flows with something due, by their starts.
    order: BTreeSet<(u64, Flow)>,
    /// Flows without, whose starts are ahead of the others' and so are remembered.
    ahead: BTreeSet<(u64, Flow)>,
    /// The start of the flow that was served last.
    now: u64,
    batches: usize,
}

#[derive(Debug, Default)]
struct Backlog {
    start: u64,
    batches: BTreeSet<(Timestamp, BatchId)>,
}

impl Flows {
    pub(crate) fn is_empty(&self) -> bool {
        self.batches == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.batches
    }

    /// Flows that have something due.
    pub(crate) fn count(&self) -> usize {
        self.order.len()
    }

    /// The flows that have something due, in the order of their turns: how much, and their next batch.
    pub(crate) fn turns(&self) -> impl Iterator<Item = (Flow, usize, BatchId)> {
        self.order.iter().filter_map(|(_, flow)| {
            let backlog = self.flows.get(flow)?;
            Some((*flow, backlog.batches.len(), backlog.batches.first()?.1))
        })
    }

    /// A batch is due since then.
    pub(crate) fn insert(&mut self, flow: Flow, due: Timestamp, id: BatchId) {
        let backlog = self.flows.entry(flow).or_default();
        if backlog.batches.is_empty() {
            self.ahead.remove(&(backlog.start, flow));
            backlog.start = backlog.start.max(self.now);
            self.order.insert((backlog.start, flow));
        }
        if backlog.batches.insert((due, id)) {
            self.batches += 1;
        }
    }

    /// Takes a batch out, whoever's turn it is.
    pub(crate) fn remove(&mut self, flow: Flow, due: Timestamp, id: BatchId) {
        let Some(backlog) = self.flows.get_mut(&flow) else { return };
        if !backlog.batches.remove(&(due, id)) {
            return;
        }
        self.batches -= 1;
        if backlog.batches.is_empty() {
            let start = backlog.start;
            self.order.remove(&(start, flow));
            self.rest(flow, start);
        }
    }

    /// The batch that goes out next.
    pub(crate) fn next(&self) -> Option<BatchId> {
        let (_, flow) = self.order.first()?;
        self.flows.get(flow)?.batches.first().map(|(_, id)| *id)
    }

    /// The batches of the flow with most of them whose turn is last, so many at the most.
    pub(crate) fn last_of_longest(&self, count: usize) -> Vec<BatchId> {
        let longest = self.flows.values().max_by_key(|backlog| backlog.batches.len());
        longest.into_iter().flat_map(|flow| flow.batches.iter().rev().take(count).map(|(_, id)| *id)).collect()
    }

    /// [`Flows::next`] goes out.
    pub(crate) fn serve(&mut self, weight: u64) {
        let Some((start, flow)) = self.order.pop_first() else { return };
        let Some(backlog) = self.flows.get_mut(&flow) else { return };
        self.now = start;
        self.batches -= usize::from(backlog.batches.pop_first().is_some());
        backlog.start = start.saturating_add(weight.max(1));
        let start = backlog.start;
        if backlog.batches.is_empty() {
            self.rest(flow, start);
        } else {
            self.order.insert((start, flow));
        }
        self.forget_those_behind();
    }

    /// A flow has nothing due any more.
    fn rest(&mut self, flow: Flow, start: u64) {
        if self.order.is_empty() {
            // Nobody competes: everything begins anew.
            *self = Self::default();
        } else if start > self.now {
            self.ahead.insert((start, flow));
        } else {
            self.flows.remove(&flow);
        }
    }

    fn forget_those_behind(&mut self) {
        while let Some((_, flow)) = self.ahead.first().filter(|(start, _)| *start <= self.now).copied() {
            self.ahead.pop_first();
            self.flows.remove(&flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use zrelay_spool::MessageId;

    use super::*;

    fn id(number: u64) -> BatchId {
        BatchId { message: MessageId(number), number: 0 }
    }

    #[test]
    fn a_newcomer_is_next_whatever_the_others_have_queued() {
        let mut flows = Flows::default();
        (0..100).for_each(|number| flows.insert(Flow(1), Timestamp::ZERO, id(number)));
        (0..10).for_each(|_| flows.serve(1_000_000));
        flows.insert(Flow(2), Timestamp::from_secs(9), id(500));
        assert_eq!(flows.next(), Some(id(500)));
        flows.serve(1);
        assert_eq!(flows.next(), Some(id(10)));
    }

    #[test]
    fn who_sends_one_at_a_time_does_not_get_more_than_its_share() {
        let mut flows = Flows::default();
        (0..100).for_each(|number| flows.insert(Flow(1), Timestamp::ZERO, id(number)));
        let mut served = 0;
        for round in 0..40 {
            if flows.flows.get(&Flow(2)).is_none_or(|backlog| backlog.batches.is_empty()) {
                flows.insert(Flow(2), Timestamp::ZERO, id(1000 + round));
            }
            served += u32::from(flows.next().unwrap().message.0 >= 1000);
            flows.serve(500);
        }
        assert_eq!(served, 20);
    }

    proptest! {
        #[test]
        fn flows_that_have_work_are_served_alike_and_each_in_its_order(
            steps in prop::collection::vec((0u32..4, 0u32..4, 1u64..5000), 1..400),
        ) {
            let mut flows = Flows::default();
            // The books: what is queued, and for each pair what was served since both have work, heaviest included.
            let mut queued: HashMap<u32, BTreeSet<(Timestamp, BatchId)>> = HashMap::new();
            let mut served: HashMap<(u32, u32), i64> = HashMap::new();
            let mut heaviest = 0;
            for (number, (kind, flow, weight)) in (0u64..).zip(steps) {
                match kind {
                    0 | 1 => {
                        let due = Timestamp::from_secs(weight % 7);
                        flows.insert(Flow(flow), due, id(number));
                        let own = queued.entry(flow).or_default();
                        if own.is_empty() {
                            served.retain(|(one, other), _| *one != flow && *other != flow);
                        }
                        own.insert((due, id(number)));
                    }
                    2 => {
                        let Some((due, id)) = queued.get_mut(&flow).and_then(BTreeSet::pop_last) else { continue };
                        flows.remove(Flow(flow), due, id);
                    }
                    _ => {
                        let Some(next) = flows.next() else { continue };
                        let owner = *queued.iter().find(|(_, own)| own.iter().any(|(_, id)| *id == next)).unwrap().0;
                        prop_assert_eq!(queued[&owner].first().unwrap().1, next, "not in the order of the flow");
                        flows.serve(weight);
                        heaviest = heaviest.max(weight as i64);
                        let others: Vec<u32> = queued.iter().filter(|(_, own)| !own.is_empty()).map(|(f, _)| *f).collect();
                        for other in others.into_iter().filter(|other| *other != owner) {
                            let (pair, sign) = if owner < other { ((owner, other), 1) } else { ((other, owner), -1) };
                            let difference = served.entry(pair).or_default();
                            *difference += sign * weight as i64;
                            prop_assert!(difference.abs() <= 2 * heaviest, "{pair:?} differ by {difference}");
                        }
                        queued.get_mut(&owner).unwrap().pop_first();
                    }
                }
                let waiting: usize = queued.values().map(BTreeSet::len).sum();
                prop_assert_eq!(flows.len(), waiting);
                prop_assert_eq!(flows.count(), queued.values().filter(|own| !own.is_empty()).count());
                prop_assert_eq!(flows.is_empty(), waiting == 0);
                prop_assert_eq!(flows.next().is_none(), waiting == 0);
                prop_assert!(flows.flows.len() <= 4 && (waiting > 0 || flows.flows.is_empty()));
            }
        }
    }
}

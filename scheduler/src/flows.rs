//! Whose turn it is among the due batches of a thread.
//!
//! The next hop's time is divided twice, each time by [turns](crate::turns): between **urgencies** (the priority of the
//! message, RFC 6710) in proportion to their shares, then between the **flows** of one urgency ([`zrelay_spool::Flow`]:
//! mail of one sender domain, or what the configuration makes of it) equally; in [`zrelay_agent::weight`]s, that is in
//! octets and recipients, or in the next hop's time where that is more (see [`carry`](crate::carry)). A flow is served in its own order, by due time.
//!
//! The share doubles with every third step of priority: the highest has eight times that of 0, the lowest an eighth.
//!
//! What follows from it:
//! - A message of a flow that had nothing due goes out before any further batch of a busy one of its urgency: behind what
//!   agents have been given already, one credit at most, which is about a second of the next hop's time. The first message of an urgency goes before any further one of
//!   the others, whatever their priorities.
//! - While two flows of one urgency both have something due, what they were served differs by less than the heaviest
//!   batch of each. For two urgencies the same holds of what they were served divided by their shares.
//! - Nothing starves: the lowest urgency has 1/64 of the highest one's share whatever that has queued.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, Flow};

use crate::turns::{Then, Turns};

/// How urgent a message can be: -9 to 9 (RFC 6710 §4).
pub(crate) const URGENCY_MAX: i8 = 9;

/// What an octet of weight is charged at each priority from -9 on: in 1/64, halved with every third step.
const CHARGES: [u64; 19] = [512, 406, 323, 256, 203, 161, 128, 102, 81, 64, 51, 40, 32, 25, 20, 16, 13, 10, 8];

/// The due batches of a thread.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    /// The most urgent first where starts are equal.
    urgencies: Turns<Reverse<i8>>,
    /// Those with something due; few, and mostly one.
    classes: Vec<(i8, Class)>,
    batches: usize,
}

/// The due batches of one urgency.
#[derive(Debug, Default)]
struct Class {
    turns: Turns<Flow>,
    flows: BTreeMap<Flow, BTreeSet<(Timestamp, BatchId)>>,
}

impl Flows {
    pub(crate) fn is_empty(&self) -> bool {
        self.batches == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.batches
    }

    /// Flows that have something due, each counted once per urgency.
    pub(crate) fn count(&self) -> usize {
        self.classes.iter().map(|(_, class)| class.turns.len()).sum()
    }

    /// The flows that have something due, in the order of their turns: how much, and their next batch.
    pub(crate) fn turns(&self) -> impl Iterator<Item = (Flow, usize, BatchId)> {
        let class =
            |Reverse(priority)| self.classes.iter().find(|(other, _)| *other == priority).map(|(_, class)| class);
        self.urgencies.iter().filter_map(class).flat_map(|class| {
            class.turns.iter().filter_map(|flow| {
                let batches = class.flows.get(&flow)?;
                Some((flow, batches.len(), batches.first()?.1))
            })
        })
    }

    /// The highest priority that has something due.
    pub(crate) fn urgency(&self) -> Option<i8> {
        self.classes.iter().map(|(priority, _)| *priority).max()
    }

    /// A batch is due since then.
    pub(crate) fn insert(&mut self, priority: i8, flow: Flow, due: Timestamp, id: BatchId) {
        let priority = priority.clamp(-URGENCY_MAX, URGENCY_MAX);
        let position = self.classes.iter().position(|(other, _)| *other == priority);
        let position = position.unwrap_or_else(|| {
            self.urgencies.join(Reverse(priority));
            self.classes.push((priority, Class::default()));
            self.classes.len() - 1
        });
        let Some((_, class)) = self.classes.get_mut(position) else { return };
        let batches = class.flows.entry(flow).or_default();
        if batches.is_empty() {
            class.turns.join(flow);
        }
        if batches.insert((due, id)) {
            self.batches += 1;
        }
    }

    /// Takes a batch out, whoever's turn it is.
    pub(crate) fn remove(&mut self, priority: i8, flow: Flow, due: Timestamp, id: BatchId) {
        let priority = priority.clamp(-URGENCY_MAX, URGENCY_MAX);
        let Some(position) = self.classes.iter().position(|(other, _)| *other == priority) else { return };
        let Some((_, class)) = self.classes.get_mut(position) else { return };
        let Some(batches) = class.flows.get_mut(&flow) else { return };
        if !batches.remove(&(due, id)) {
            return;
        }
        self.batches -= 1;
        if batches.is_empty() {
            class.flows.remove(&flow);
            class.turns.leave(flow);
        }
        if class.turns.is_empty() {
            self.classes.swap_remove(position);
            self.urgencies.leave(Reverse(priority));
        }
    }

    /// The batch that goes out next.
    pub(crate) fn next(&self) -> Option<BatchId> {
        let Reverse(priority) = self.urgencies.next()?;
        let (_, class) = self.classes.iter().find(|(other, _)| *other == priority)?;
        class.flows.get(&class.turns.next()?)?.first().map(|(_, id)| *id)
    }

    /// The batches of the longest flow of the lowest priority whose turn is last, so many at the most.
    pub(crate) fn last_of_longest(&self, count: usize) -> Vec<BatchId> {
        // Of the least urgent of them: what is urgent is to be at hand.
        let least = self.classes.iter().min_by_key(|(priority, _)| *priority);
        let longest = least.and_then(|(_, class)| class.flows.values().max_by_key(|batches| batches.len()));
        longest.into_iter().flat_map(|batches| batches.iter().rev().take(count).map(|(_, id)| *id)).collect()
    }

    /// [`Flows::next`] goes out.
    pub(crate) fn serve(&mut self, weight: u64) {
        let Some(Reverse(priority)) = self.urgencies.next() else { return };
        let Some(position) = self.classes.iter().position(|(other, _)| *other == priority) else { return };
        let Some((_, class)) = self.classes.get_mut(position) else { return };
        let Some(flow) = class.turns.next() else { return };
        let Some(batches) = class.flows.get_mut(&flow) else { return };
        self.batches -= usize::from(batches.pop_first().is_some());
        let then = if batches.is_empty() { Then::Nothing } else { Then::More };
        if then == Then::Nothing {
            class.flows.remove(&flow);
        }
        class.turns.serve(weight, then);
        let then = if class.turns.is_empty() { Then::Nothing } else { Then::More };
        if then == Then::Nothing {
            self.classes.swap_remove(position);
        }
        self.urgencies.serve(charge(weight, priority), then);
    }
}

/// What a batch of this weight counts against other urgencies.
fn charge(weight: u64, priority: i8) -> u64 {
    let step = usize::try_from(priority.saturating_add(URGENCY_MAX)).unwrap_or(0);
    weight.max(1).saturating_mul(CHARGES.get(step).copied().unwrap_or(64))
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
        (0..100).for_each(|number| flows.insert(0, Flow(1), Timestamp::ZERO, id(number)));
        (0..10).for_each(|_| flows.serve(1_000_000));
        flows.insert(0, Flow(2), Timestamp::from_secs(9), id(500));
        assert_eq!(flows.next(), Some(id(500)));
        flows.serve(1);
        assert_eq!(flows.next(), Some(id(10)));
    }

    #[test]
    fn who_sends_one_at_a_time_does_not_get_more_than_its_share() {
        let mut flows = Flows::default();
        (0..100).for_each(|number| flows.insert(0, Flow(1), Timestamp::ZERO, id(number)));
        let mut served = 0;
        let mut waits = false;
        for round in 0..40 {
            if !waits {
                flows.insert(0, Flow(2), Timestamp::ZERO, id(1000 + round));
            }
            waits = flows.next().unwrap().message.0 < 1000;
            served += u32::from(!waits);
            flows.serve(500);
        }
        assert_eq!(served, 20);
    }

    #[test]
    fn urgent_mail_passes_a_thousand_flows_of_single_messages() {
        let mut flows = Flows::default();
        (0..1000).for_each(|number| flows.insert(0, Flow(number), Timestamp::ZERO, id(number.into())));
        (0..5).for_each(|_| flows.serve(2000));
        (0..8).for_each(|number| flows.insert(9, Flow(1), Timestamp::ZERO, id(2000 + number)));
        let mut order = Vec::new();
        for _ in 0..10 {
            order.push(flows.next().unwrap().message.0 >= 2000);
            flows.serve(2000);
        }
        assert!(order[0], "the first urgent one is next");
        assert_eq!(order.iter().filter(|urgent| **urgent).count(), 8, "{order:?}");
    }

    #[test]
    fn the_lowest_priority_gets_its_share_of_the_time_beside_all_others() {
        let mut flows = Flows::default();
        let priorities = -9i8..=9;
        let all: f64 = priorities.clone().map(|priority| 64.0 / charge(1, priority) as f64).sum();
        for (priority, number) in priorities.clone().zip(0u64..) {
            (0..4000).for_each(|n| flows.insert(priority, Flow(1), Timestamp::ZERO, id(number * 10_000 + n)));
        }
        let mut served = HashMap::new();
        for _ in 0..8000 {
            *served.entry(flows.next().unwrap().message.0 / 10_000).or_insert(0u32) += 1;
            flows.serve(1000);
        }
        for (priority, number) in priorities.zip(0u64..) {
            let share = 8000.0 * 64.0 / charge(1, priority) as f64 / all;
            let got = f64::from(served[&number]);
            let slack = 2.0 + 2.0 * 512.0 / charge(1, priority) as f64;
            assert!((got - share).abs() <= slack, "{priority}: {got} instead of {share}");
        }
    }

    proptest! {
        #[test]
        fn urgencies_that_have_work_are_served_by_their_shares(
            weights in prop::collection::vec(1u64..100_000, 300),
            (one, other) in (-9i8..=9, -9i8..=9),
        ) {
            prop_assume!(one != other);
            let mut flows = Flows::default();
            for number in 0..300 {
                flows.insert(one, Flow(number % 3), Timestamp::ZERO, id(number.into()));
                flows.insert(other, Flow(number % 5), Timestamp::ZERO, id(1000 + u64::from(number)));
            }
            let (mut of_one, mut of_other) = (0u64, 0u64);
            let bound = charge(100_000, one) + charge(100_000, other);
            for weight in weights {
                if flows.next().unwrap().message.0 < 1000 {
                    of_one += charge(weight, one);
                } else {
                    of_other += charge(weight, other);
                }
                flows.serve(weight);
                prop_assert!(of_one.abs_diff(of_other) <= bound, "{of_one} and {of_other}");
            }
        }

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
                        flows.insert(0, Flow(flow), due, id(number));
                        let own = queued.entry(flow).or_default();
                        if own.is_empty() {
                            served.retain(|(one, other), _| *one != flow && *other != flow);
                        }
                        own.insert((due, id(number)));
                    }
                    2 => {
                        let Some((due, id)) = queued.get_mut(&flow).and_then(BTreeSet::pop_last) else { continue };
                        flows.remove(0, Flow(flow), due, id);
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
                let remembered: usize = flows.classes.iter().map(|(_, class)| class.turns.remembered()).sum();
                prop_assert!(remembered <= 4 && (waiting > 0 || remembered == 0));
            }
        }
    }
}

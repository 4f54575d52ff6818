//! How long what is queued has been in the queue, as counters: recipients by the time at which their messages came in.
//!
//! What came in within one minute is one slot; as slots grow old they are joined, as long as the joined one spans less
//! than a quarter of its age. So a thread that takes mail without a pause for a week keeps about a hundred of them, and
//! each age is right to a minute or to a quarter of itself, whichever is more.

use zrelay_clock::Timestamp;

/// Upper limits of the columns of an age table, minutes, as in Postfix's `qshape`; the last column has no limit.
pub const AGE_LIMITS: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

/// Recipients by age: one count for each of [`AGE_LIMITS`], and one for what is older.
pub type AgeTable = [u64; 10];

/// Slots are joined when there are so many, and then again when there are twice as many as were left.
const COMPACT_MIN: usize = 16;
/// A slot spans at most this part of its age.
const FINENESS: u32 = 4;

/// The recipients of a thread by arrival.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ages {
    /// Disjoint, ascending, none empty.
    slots: Vec<Slot>,
    compact_at: usize,
}

/// What came in from one minute to another.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The first minute, since 1970.
    from: u32,
    /// The first minute behind it.
    to: u32,
    recipients: u64,
}

fn minute(at: Timestamp) -> u32 {
    u32::try_from(at.as_secs() / 60).unwrap_or(u32::MAX - 1)
}

impl Ages {
    /// Recipients of a message that came in at this time are queued.
    pub(crate) fn add(&mut self, received: Timestamp, recipients: u64) {
        if recipients == 0 {
            return;
        }
        let minute = minute(received);
        let behind = self.slots.partition_point(|slot| slot.from <= minute);
        let place = behind.checked_sub(1);
        match place.and_then(|place| self.slots.get_mut(place)).filter(|slot| minute < slot.to) {
            Some(slot) => slot.recipients = slot.recipients.saturating_add(recipients),
            None => self.slots.insert(behind, Slot { from: minute, to: minute + 1, recipients }),
        }
        if self.slots.len() >= self.compact_at.max(COMPACT_MIN) {
            self.compact();
        }
    }

    /// Some of them have left the queue.
    pub(crate) fn remove(&mut self, received: Timestamp, recipients: u64) {
        let minute = minute(received);
        let Some(place) = self.slots.partition_point(|slot| slot.from <= minute).checked_sub(1) else {
            debug_assert!(recipients == 0, "what leaves was counted");
            return;
        };
        let Some(slot) = self.slots.get_mut(place) else { return };
        debug_assert!(slot.recipients >= recipients, "what leaves was counted");
        slot.recipients = slot.recipients.saturating_sub(recipients);
        if slot.recipients == 0 {
            self.slots.remove(place);
        }
        if self.slots.is_empty() {
            *self = Self::default();
        }
    }

    /// The counts as of now.
    pub(crate) fn table(&self, now: Timestamp) -> AgeTable {
        let now = minute(now);
        let mut table = AgeTable::default();
        for slot in &self.slots {
            let age = u64::from(now.saturating_sub(slot.from));
            let column = AGE_LIMITS.iter().take_while(|limit| age >= **limit).count();
            if let Some(count) = table.get_mut(column) {
                *count = count.saturating_add(slot.recipients);
            }
        }
        table
    }

    /// Joins neighbours that are old enough, as of the newest.
    fn compact(&mut self) {
        let now = self.slots.last().map_or(0, |slot| slot.to);
        self.slots.dedup_by(|next, slot| {
            let joined = (next.to - slot.from).saturating_mul(FINENESS) <= now - next.to;
            if joined {
                slot.to = next.to;
                slot.recipients = slot.recipients.saturating_add(next.recipients);
            }
            joined
        });
        self.compact_at = self.slots.len() * 2;
    }
}

#[cfg(any(test, feature = "testing"))]
impl Ages {
    pub(crate) fn sum(&self) -> u64 {
        self.slots.iter().map(|slot| slot.recipients).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn recipients_grow_older_without_being_touched() {
        let mut ages = Ages::default();
        ages.add(Timestamp::from_secs(60), 3);
        ages.add(Timestamp::from_secs(60 * 8), 2);
        assert_eq!(ages.table(Timestamp::from_secs(60 * 8)), [2, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ages.table(Timestamp::from_secs(60 * 15)), [0, 2, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ages.table(Timestamp::from_secs(DAY * 2)), [0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        ages.remove(Timestamp::from_secs(61), 3);
        assert_eq!(ages.table(Timestamp::from_secs(60 * 8)), [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        ages.remove(Timestamp::from_secs(60 * 8), 2);
        assert_eq!(ages.sum(), 0);
    }

    #[test]
    fn a_week_of_mail_without_a_pause_takes_few_slots() {
        let mut ages = Ages::default();
        let mut most = 0;
        for minute in 0..7 * 24 * 60 {
            ages.add(Timestamp::from_secs(minute * 60), 1);
            most = most.max(ages.slots.len());
        }
        assert_eq!(ages.sum(), 7 * 24 * 60);
        assert!(most <= 160, "{most}");
    }

    proptest! {
        #[test]
        fn the_table_is_right_to_a_quarter_of_the_age(
            arrivals in prop::collection::vec((0..7 * DAY, 1u64..50, any::<bool>()), 1..300),
            order in any::<bool>(),
        ) {
            let mut arrivals = arrivals;
            if order {
                arrivals.sort_unstable();
            }
            let mut ages = Ages::default();
            arrivals.iter().for_each(|(at, count, _)| ages.add(Timestamp::from_secs(*at), *count));
            for (at, count, leaves) in &arrivals {
                if *leaves {
                    ages.remove(Timestamp::from_secs(*at), *count);
                }
            }
            let left: Vec<(u64, u64)> =
                arrivals.iter().filter(|(_, _, leaves)| !leaves).map(|(at, count, _)| (*at, *count)).collect();
            prop_assert_eq!(ages.sum(), left.iter().map(|(_, count)| count).sum::<u64>());
            let now = 7 * DAY;
            let table = ages.table(Timestamp::from_secs(now));
            // Everything surely younger than a limit is in the columns up to it, and nothing surely older is.
            for (column, limit) in AGE_LIMITS.iter().enumerate() {
                let counted: u64 = table.iter().take(column + 1).sum();
                let younger = |minutes: u64| -> u64 {
                    left.iter().filter(|(at, _)| (now - at) / 60 < minutes).map(|(_, count)| count).sum()
                };
                let least = younger((limit * 4 / 5).saturating_sub(1));
                let most = younger(limit + 1);
                prop_assert!(least <= counted && counted <= most, "{limit}: {least} <= {counted} <= {most}");
            }
        }
    }
}

//! What is known of each message in the queue, dense: there may be ten million of them.
//!
//! Rows lie sorted in chunks of some hundred. A chunk counts ids from its first one, so that an id takes four octets
//! instead of eight, and nothing is lost to empty slots and pointers. Ids are times and come almost in order, so that
//! nearly every row is written behind the last one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use crate::MessageId;

/// Rows in a chunk at most: moving the tail of a chunk to take a row out costs less than a microsecond.
const CHUNK_ROWS_MAX: usize = 512;
/// A chunk with room for fewer rows is not worth shrinking.
const CHUNK_ROWS_SHRINK: usize = 32;

/// Values by message.
#[derive(Debug)]
pub(crate) struct Table<V> {
    /// By the id from which the chunk counts, which is not above that of its first row.
    chunks: BTreeMap<u64, Vec<Row<V>>>,
    rows: usize,
}

#[derive(Clone, Copy, Debug)]
struct Row<V> {
    /// Its id, counted from that of the chunk.
    behind: u32,
    value: V,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), rows: 0 }
    }
}

fn behind(base: u64, id: u64) -> Option<u32> {
    u32::try_from(id.checked_sub(base)?).ok()
}

fn position<V>(rows: &[Row<V>], behind: u32) -> Result<usize, usize> {
    // Mostly it is the last one, or behind it.
    match rows.last() {
        Some(last) if last.behind < behind => Err(rows.len()),
        Some(last) if last.behind == behind => Ok(rows.len() - 1),
        _ => rows.binary_search_by_key(&behind, |row| row.behind),
    }
}

impl<V: Copy> Table<V> {
    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    pub(crate) fn get(&self, id: MessageId) -> Option<&V> {
        let (base, rows) = self.chunks.range(..=id.0).next_back()?;
        let at = position(rows, behind(*base, id.0)?).ok()?;
        rows.get(at).map(|row| &row.value)
    }

    pub(crate) fn get_mut(&mut self, id: MessageId) -> Option<&mut V> {
        let (base, rows) = self.chunks.range_mut(..=id.0).next_back()?;
        let at = position(rows, behind(*base, id.0)?).ok()?;
        rows.get_mut(at).map(|row| &mut row.value)
    }

    /// Sets the value of a message; returns the one it had.
    pub(crate) fn insert(&mut self, id: MessageId, value: V) -> Option<V> {
        let chunk = self.chunks.range_mut(..=id.0).next_back();
        let chunk = chunk.and_then(|(base, rows)| Some((*base, behind(*base, id.0)?, rows)));
        let Some((base, behind, rows)) = chunk else {
            self.begin(id, value);
            return None;
        };
        match position(rows, behind) {
            Ok(at) => return rows.get_mut(at).map(|row| std::mem::replace(&mut row.value, value)),
            Err(at) if rows.len() < CHUNK_ROWS_MAX => rows.insert(at, Row { behind, value }),
            Err(at) if at == rows.len() => {
                self.begin(id, value);
                return None;
            }
            Err(_) => {
                self.split(base);
                return self.insert(id, value);
            }
        }
        self.rows += 1;
        None
    }

    fn begin(&mut self, id: MessageId, value: V) {
        self.chunks.insert(id.0, vec![Row { behind: 0, value }]);
        self.rows += 1;
    }

    fn split(&mut self, base: u64) {
        let Some(rows) = self.chunks.get_mut(&base) else { return };
        let mut half = rows.split_off(rows.len() / 2);
        let Some(first) = half.first().map(|row| row.behind) else { return };
        half.iter_mut().for_each(|row| row.behind -= first);
        self.chunks.insert(base + u64::from(first), half);
    }

    pub(crate) fn remove(&mut self, id: MessageId) -> Option<V> {
        let base = *self.chunks.range(..=id.0).next_back()?.0;
        let Entry::Occupied(mut chunk) = self.chunks.entry(base) else { return None };
        let rows = chunk.get_mut();
        let at = position(rows, behind(base, id.0)?).ok()?;
        let row = rows.remove(at);
        self.rows -= 1;
        if rows.is_empty() {
            chunk.remove();
        } else if rows.capacity() >= CHUNK_ROWS_SHRINK && rows.len() <= rows.capacity() / 4 {
            rows.shrink_to(rows.len() * 2);
        }
        Some(row.value)
    }

    /// The first message from `from` on.
    pub(crate) fn first_from(&self, from: MessageId) -> Option<MessageId> {
        let here = self.chunks.range(..=from.0).next_back();
        let here = here.and_then(|(base, rows)| {
            let at = behind(*base, from.0).map(|behind| position(rows, behind).unwrap_or_else(|at| at))?;
            Some(*base + u64::from(rows.get(at)?.behind))
        });
        let next = || {
            let (base, rows) = self.chunks.range((Bound::Excluded(from.0), Bound::Unbounded)).next()?;
            Some(*base + u64::from(rows.first()?.behind))
        };
        here.or_else(next).map(MessageId)
    }

    /// All of them, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (MessageId, &V)> {
        self.chunks
            .iter()
            .flat_map(|(base, rows)| rows.iter().map(|row| (MessageId(*base + u64::from(row.behind)), &row.value)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u64, u16),
        Remove(u64),
    }

    /// Ids near each other, further apart than a chunk can count, and at the ends of what there is.
    fn ids() -> impl Strategy<Value = u64> {
        let far = (0u64..4, 0u64..50).prop_map(|(far, near)| far * (u64::from(u32::MAX) - 20) + near);
        prop_oneof![8 => 0u64..2000, 4 => far, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1)]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (ids(), any::<u16>()).prop_map(|(id, value)| Step::Insert(id, value)),
            1 => ids().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..3000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_table_is_a_map(steps in steps()) {
            let mut table = Table::default();
            let mut map = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(id, value) => prop_assert_eq!(table.insert(MessageId(id), value), map.insert(id, value)),
                    Step::Remove(id) => prop_assert_eq!(table.remove(MessageId(id)), map.remove(&id)),
                }
            }
            prop_assert_eq!(table.len(), map.len());
            let rows: Vec<(u64, u16)> = table.iter().map(|(id, value)| (id.0, *value)).collect();
            prop_assert_eq!(rows, map.iter().map(|(id, value)| (*id, *value)).collect::<Vec<_>>());
            for from in map.keys().flat_map(|id| [id.saturating_sub(1), *id, id.saturating_add(1)]).chain([0]) {
                let first = map.range(from..).next().map(|(id, _)| MessageId(*id));
                prop_assert_eq!(table.first_from(MessageId(from)), first);
            }
            for (id, value) in &map {
                prop_assert_eq!(table.get(MessageId(*id)), Some(value));
                prop_assert_eq!(table.get_mut(MessageId(*id)).copied(), Some(*value));
            }
            prop_assert!(table.chunks.values().all(|rows| !rows.is_empty() && rows.len() <= CHUNK_ROWS_MAX));
        }
    }

    #[test]
    fn a_row_costs_its_value_and_four_octets_and_goes_when_it_is_taken_out() {
        let mut table = Table::default();
        let id = |number: u64| MessageId(1_800_000_000_000_000 + number * 37);
        for number in 0..100_000 {
            table.insert(id(number), [0u32; 3]);
        }
        let octets = |table: &Table<[u32; 3]>| -> usize {
            table.chunks.values().map(|rows| rows.capacity() * size_of::<Row<[u32; 3]>>()).sum()
        };
        assert!(octets(&table) <= 100_000 * 16 + CHUNK_ROWS_MAX * 16);
        for number in (0..100_000).filter(|number| number % 100 != 0) {
            table.remove(id(number));
        }
        assert_eq!(table.len(), 1000);
        assert!(octets(&table) <= 1000 * 16 * 8, "{}", octets(&table));
    }
}

//! Which segments messages need, dense: messages that need the same ones share one list.
//!
//! Messages come, are routed and are tried side by side, so that there are few different lists however many messages
//! there are. A message keeps the number of its list.

use std::collections::HashMap;

/// The number of a list of segments. The default is the empty one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct PinsId(u32);

/// What a message needs, and may have records in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pins {
    /// Needed, ascending, each once.
    segments: Vec<u32>,
    /// The first segment that may hold a void record of it, since it was moved; `u32::MAX` when it was not.
    moved_from: u32,
}

impl Pins {
    const NONE: Self = Self { segments: Vec::new(), moved_from: u32::MAX };

    pub(crate) fn segments(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().copied()
    }

    pub(crate) fn contains(&self, segment: u32) -> bool {
        self.segments.binary_search(&segment).is_ok()
    }

    /// The first segment needed.
    pub(crate) fn oldest(&self) -> Option<u32> {
        self.segments.first().copied()
    }

    pub(crate) fn moved_from(&self) -> u32 {
        self.moved_from
    }
}

/// All lists in use.
#[derive(Debug)]
pub(crate) struct PinLists {
    lists: Vec<List>,
    numbers: HashMap<Pins, u32>,
    unused: Vec<u32>,
}

#[derive(Debug)]
struct List {
    pins: Pins,
    /// Messages with this list; the empty one is not counted.
    users: u32,
}

impl Default for PinLists {
    fn default() -> Self {
        let none = List { pins: Pins::NONE, users: 0 };
        Self { lists: vec![none], numbers: HashMap::from([(Pins::NONE, 0)]), unused: Vec::new() }
    }
}

impl PinLists {
    pub(crate) fn get(&self, id: PinsId) -> &Pins {
        static NONE: Pins = Pins::NONE;
        self.lists.get(id.0 as usize).map_or(&NONE, |list| &list.pins)
    }

    /// The list of a message that has `id` and needs `segment` from now on.
    pub(crate) fn with(&mut self, id: PinsId, segment: u32) -> PinsId {
        let pins = self.get(id);
        let Err(at) = pins.segments.binary_search(&segment) else { return id };
        let mut segments = Vec::with_capacity(pins.segments.len() + 1);
        segments.extend_from_slice(&pins.segments);
        segments.insert(at, segment);
        let pins = Pins { segments, moved_from: pins.moved_from };
        self.replace(id, pins)
    }

    /// A list of nothing, for a message that was moved and may have void records from `moved_from` on.
    pub(crate) fn moved(&mut self, id: PinsId, moved_from: u32) -> PinsId {
        self.replace(id, Pins { segments: Vec::new(), moved_from })
    }

    /// A message gives its list up.
    pub(crate) fn release(&mut self, id: PinsId) {
        let Some(list) = self.lists.get_mut(id.0 as usize).filter(|list| list.users > 0) else { return };
        list.users -= 1;
        if list.users == 0 {
            let pins = std::mem::replace(&mut list.pins, Pins::NONE);
            self.numbers.remove(&pins);
            self.unused.push(id.0);
        }
    }

    fn replace(&mut self, old: PinsId, pins: Pins) -> PinsId {
        let number = match self.numbers.get(&pins) {
            Some(number) => *number,
            None => self.add(pins),
        };
        if let Some(list) = self.lists.get_mut(number as usize).filter(|_| number != 0) {
            list.users += 1;
        }
        self.release(old);
        PinsId(number)
    }

    fn add(&mut self, pins: Pins) -> u32 {
        let list = List { pins: pins.clone(), users: 0 };
        let number = match self.unused.pop() {
            Some(number) => number,
            // As many lists as messages at the most, and each message takes more than an octet.
            None => u32::try_from(self.lists.len()).unwrap_or(u32::MAX),
        };
        match self.lists.get_mut(number as usize) {
            Some(slot) => *slot = list,
            None => self.lists.push(list),
        }
        self.numbers.insert(pins, number);
        number
    }

    /// The lists with any of `segments`.
    pub(crate) fn needing(&self, segments: &[u32]) -> Vec<bool> {
        self.lists.iter().map(|list| segments.iter().any(|segment| list.pins.contains(*segment))).collect()
    }
}

impl PinsId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        With(u32),
        Moved(u32),
        Release,
    }

    fn step() -> impl Strategy<Value = (usize, Step)> {
        let step = prop_oneof![
            6 => (1u32..5).prop_map(Step::With),
            1 => (1u32..3).prop_map(Step::Moved),
            1 => Just(Step::Release),
        ];
        (0usize..4, step)
    }

    proptest! {
        #[test]
        fn each_message_has_the_segments_it_was_given_and_no_list_is_left_behind(
            steps in proptest::collection::vec(step(), 0..60)
        ) {
            let mut lists = PinLists::default();
            let mut ids = [PinsId::default(); 4];
            let mut model: [(BTreeSet<u32>, u32); 4] = std::array::from_fn(|_| (BTreeSet::new(), u32::MAX));
            for (who, step) in steps {
                let (id, (set, moved)) = (&mut ids[who], &mut model[who]);
                match step {
                    Step::With(segment) => {
                        *id = lists.with(*id, segment);
                        set.insert(segment);
                    }
                    Step::Moved(from) => {
                        *id = lists.moved(*id, from);
                        set.clear();
                        *moved = from;
                    }
                    Step::Release => {
                        lists.release(*id);
                        *id = PinsId::default();
                        (*set, *moved) = (BTreeSet::new(), u32::MAX);
                    }
                }
                for (id, (set, moved)) in ids.iter().zip(&model) {
                    let pins = lists.get(*id);
                    prop_assert_eq!(pins.segments().collect::<BTreeSet<_>>(), set.clone());
                    prop_assert_eq!((pins.oldest(), pins.moved_from()), (set.first().copied(), *moved));
                }
            }
            ids.iter().for_each(|id| lists.release(*id));
            prop_assert_eq!((lists.numbers.len(), lists.unused.len() + 1), (1, lists.lists.len()));
        }
    }
}

//! Where the latest state of each thread is recorded, so that it survives the reclaiming of its segment.

use std::collections::HashMap;

use crate::shared::Place;
use crate::{ThreadKey, ThreadState};

/// The latest record of each thread that has one.
#[derive(Default, Debug)]
pub(crate) struct Threads {
    latest: HashMap<ThreadKey, Latest>,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    place: Place,
    /// The first segment that may hold an older record of this thread.
    oldest: u32,
    worth: Worth,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Worth {
    /// The thread failed or is held.
    Live,
    /// It recovered: the record only says that older ones are to be forgotten.
    Tombstone,
}

impl Threads {
    /// The state of a thread is recorded at `place`.
    pub(crate) fn recorded(&mut self, state: &ThreadState, place: Place) {
        let worth = if state.failures > 0 || state.held { Worth::Live } else { Worth::Tombstone };
        let oldest = self.latest.get(&state.key).map_or(place.segment, |latest| latest.oldest);
        self.latest.insert(state.key.clone(), Latest { place, oldest, worth });
    }

    /// The records that are needed when `segment` is gone; `older_exists` tells whether a segment from the given one
    /// up to `segment` is still there.
    pub(crate) fn needed(&self, segment: u32, older_exists: impl Fn(u32) -> bool) -> Vec<Place> {
        let here = self.latest.values().filter(|latest| latest.place.segment == segment);
        let needed = here.filter(|latest| latest.worth == Worth::Live || older_exists(latest.oldest));
        needed.map(|latest| latest.place).collect()
    }

    /// The segment is gone, and with it the tombstones in it that were not needed.
    pub(crate) fn drop_segment(&mut self, segment: u32) {
        self.latest.retain(|_, latest| latest.place.segment != segment);
    }

    /// Where the states are that are worth telling.
    pub(crate) fn live(&self) -> impl Iterator<Item = Place> {
        self.latest.values().filter(|latest| latest.worth == Worth::Live).map(|latest| latest.place)
    }
}

//! Where the latest state of each thread is recorded, so that it survives the reclaiming of its segment.

use std::collections::BTreeMap;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::record::{decode_key, encode_key};
use crate::shared::Place;
use crate::{ThreadKey, ThreadState};

/// The latest record of each thread that has one.
#[derive(Clone, Default, Debug)]
pub(crate) struct Threads {
    /// In the order of the names, so that the same log is written each time.
    latest: BTreeMap<ThreadKey, Latest>,
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

    /// What is recorded at `place` cannot be read any more.
    pub(crate) fn forget(&mut self, place: Place) {
        self.latest.retain(|_, latest| latest.place != place);
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

    /// For a checkpoint; the layout is in [`crate::checkpoint`].
    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        out.var(self.latest.len() as u32);
        for (key, Latest { place, oldest, worth }) in &self.latest {
            encode_key(out, key);
            [place.segment, place.offset, place.length, *oldest].into_iter().for_each(|number| out.u32(number));
            out.u8((*worth == Worth::Live).into());
        }
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let mut latest = BTreeMap::new();
        for _ in 0..from.count(19)? {
            let key = decode_key(from)?;
            let place = Place { segment: from.u32()?, offset: from.u32()?, length: from.u32()? };
            let oldest = from.u32()?;
            let worth = if from.u8()? == 0 { Worth::Tombstone } else { Worth::Live };
            latest.insert(key, Latest { place, oldest, worth });
        }
        Ok(Self { latest })
    }

    /// Only what is in segments that are there is known.
    pub(crate) fn retain(&mut self, exists: impl Fn(u32) -> bool) {
        self.latest.retain(|_, latest| exists(latest.place.segment));
    }

    /// Where the states are that are worth telling.
    pub(crate) fn live(&self) -> impl Iterator<Item = Place> {
        self.latest.values().filter(|latest| latest.worth == Worth::Live).map(|latest| latest.place)
    }
}

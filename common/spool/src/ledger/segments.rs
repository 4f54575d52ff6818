//! Which segments are needed, and for what: by how many messages, and by records that others are finished.

use super::Ledger;
use crate::shared::Place;

/// What a segment is needed for.
#[derive(Default, Debug)]
pub(super) struct Segment {
    /// Messages with records in it, those still under way included.
    pub(super) pins: u32,
    /// The most there were.
    pins_peak: u32,
    /// How many there were when it was last found not worth compacting, or compacted in vain.
    pins_judged: Option<u32>,
    /// Where its [`Finished`](crate::format::Kind::Finished) records are.
    pub(super) marks: Vec<Place>,
}

impl Ledger {
    /// What a checkpoint says of a segment: the most messages that it ever had.
    pub(crate) fn load_peak(&mut self, segment: u32, pins_peak: u32) {
        let segment = self.segments.entry(segment).or_default();
        segment.pins_peak = segment.pins_peak.max(pins_peak);
    }

    /// What a checkpoint says of a segment: where a record of finished messages is.
    pub(crate) fn load_mark(&mut self, place: Place) {
        self.segments.entry(place.segment).or_default().marks.push(place);
    }

    /// For a checkpoint: where all records of finished messages are.
    pub(crate) fn all_marks(&self) -> Vec<Place> {
        self.segments.values().flat_map(|segment| &segment.marks).copied().collect()
    }

    /// For a checkpoint: the most messages that the segment ever had.
    pub(crate) fn pins_peak(&self, segment: u32) -> u32 {
        self.segments.get(&segment).map_or(0, |segment| segment.pins_peak)
    }

    /// Keeps a segment for a message that is still under way.
    pub(crate) fn pin(&mut self, segment: u32) {
        let segment = self.segments.entry(segment).or_default();
        segment.pins += 1;
        segment.pins_peak = segment.pins_peak.max(segment.pins);
    }

    /// Takes a pin back.
    pub(crate) fn unpin(&mut self, segment: u32) {
        let pins = self.segments.get_mut(&segment).map(|segment| &mut segment.pins);
        debug_assert!(pins.as_ref().is_some_and(|pins| **pins > 0), "segment {segment} was not pinned");
        if let Some(pins) = pins {
            *pins = pins.saturating_sub(1);
        }
    }

    /// Whether a message needs the segment.
    pub(crate) fn is_pinned(&self, segment: u32) -> bool {
        self.segments.get(&segment).is_some_and(|segment| segment.pins > 0)
    }

    /// Whether so many of the messages in the segment have left it since the last judgement that another look pays.
    pub(crate) fn may_be_sparse(&self, segment: u32) -> bool {
        self.segments.get(&segment).is_some_and(|segment| {
            let before = segment.pins_judged.unwrap_or(segment.pins_peak);
            segment.pins > 0 && segment.pins <= before / 2
        })
    }

    /// The segment was looked at, or compacted.
    pub(crate) fn judged(&mut self, segment: u32) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.pins_judged = Some(segment.pins);
        }
    }

    /// Where the segment's records of finished messages are.
    pub(crate) fn marks(&self, segment: u32) -> &[Place] {
        self.segments.get(&segment).map_or(&[], |segment| &segment.marks)
    }

    /// The record of finished messages at `place` cannot be read any more.
    pub(crate) fn forget_mark(&mut self, place: Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.marks.retain(|mark| *mark != place);
        }
    }

    /// The segment is gone.
    pub(crate) fn drop_segment(&mut self, segment: u32) {
        self.segments.remove(&segment);
    }
}

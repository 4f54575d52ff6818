//! Removing the segments that nobody needs.

use super::{Appender, Reclaim, Staged, Urgency};
use crate::format::Kind;
use crate::record::{Mark, Record};
use crate::shared::Place;

impl Appender {
    /// Removes segments that no message needs. What else is in them and still wanted (marks of finished messages with
    /// records in older segments, states of threads) is recorded again first.
    ///
    /// Only between groups: what is staged may refer to any segment.
    pub(super) fn reclaim(&mut self) {
        if self.reclaim == Reclaim::Nothing || self.trouble.is_some() || !self.staged.is_empty() {
            return;
        }
        self.reclaim_for_free();
        self.reclaim = Reclaim::Nothing;
        for (segment, end) in self.idle_segments() {
            let (marks, threads) = self.wanted(segment);
            let octets = marks.len() * size_of::<Mark>() + threads.iter().map(|p| p.length as usize).sum::<usize>();
            // Copying most of a segment would free next to nothing, and the copy would be next in line.
            if octets > end as usize / 2 {
                continue;
            }
            self.bodies.drop_segment(segment);
            let threads = threads.into_iter().filter_map(|place| self.read_again(Kind::Thread, place));
            let finished = (!marks.is_empty()).then_some(Record::Finished(marks));
            for record in threads.collect::<Vec<_>>().into_iter().chain(finished) {
                if let Err((error, _)) = self.stage(record, Urgency::None) {
                    // Nothing is lost: the segment stays.
                    self.fail(&error);
                    return;
                }
            }
            self.staged.push(Staged::Delete(segment));
        }
    }

    /// Removes the segments in which nothing at all is wanted.
    pub(super) fn reclaim_for_free(&mut self) {
        if !self.staged.is_empty() {
            return;
        }
        for (segment, _) in self.idle_segments() {
            let (marks, threads) = self.wanted(segment);
            if marks.is_empty() && threads.is_empty() {
                self.delete(segment);
            }
        }
    }

    fn idle_segments(&self) -> Vec<(u32, u32)> {
        self.log.sealed().filter(|(segment, _)| !self.ledger.is_pinned(*segment)).collect()
    }

    /// What must be recorded again before `segment` goes.
    fn wanted(&mut self, segment: u32) -> (Vec<Mark>, Vec<Place>) {
        let mut marks = Vec::new();
        for place in self.ledger.marks(segment).to_vec() {
            let Some(Record::Finished(all)) = self.read_again(Kind::Finished, place) else { continue };
            for mark in all {
                let older = self.log.first_between(mark.oldest, segment);
                marks.extend(older.map(|oldest| Mark { oldest, ..mark }));
            }
        }
        (marks, self.threads.needed(segment, |oldest| self.log.first_between(oldest, segment).is_some()))
    }

    /// What was recorded at `place`. Damage is told, and must not become sound by being recorded again.
    fn read_again(&mut self, kind: Kind, place: Place) -> Option<Record> {
        let record = self.shared.record(place.segment, place.offset);
        if record.is_none() {
            self.report(&place.damage(kind));
            self.threads.forget(place);
            self.ledger.forget_mark(place);
        }
        record
    }

    pub(super) fn delete(&mut self, segment: u32) {
        // A commit of the same group may have come to share a body in it.
        if self.ledger.is_pinned(segment) {
            return;
        }
        self.bodies.drop_segment(segment);
        match self.log.remove(segment) {
            Ok(()) => {
                self.ledger.drop_segment(segment);
                self.threads.drop_segment(segment);
                // Marks in other segments may have been kept for this one.
                self.reclaim = Reclaim::Look;
            }
            Err(error) => log::warn!("spool: cannot remove segment {segment}: {error}"),
        }
    }
}

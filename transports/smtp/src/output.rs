//! What waits to be written: small commands as octets, bodies as ranges of their letters.
//!
//! Nothing here copies a body. The driver asks for slices ([`Output::gather`]), writes what the socket takes, and says
//! how much that was ([`Output::advance`]).
//!
//! Positions count what was queued since the connection began, without the dots that stuffing adds: they are only
//! compared with each other, to know which commands the far side can have seen.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::letter::Letter;
use crate::stuffing::Stuffing;

/// Octets of commands that are gathered in one segment; above it a new one begins, so that writing does not have to
/// move what is left.
const SEGMENT_OCTETS: usize = 16 * 1024;

/// Octets of commands that a buffer has room for at first: a transaction for some recipients.
const COMMANDS_OCTETS: usize = 256;

/// The queue of segments.
#[derive(Debug)]
pub(crate) struct Output<L> {
    segments: VecDeque<Segment<L>>,
    queued: u64,
    written: u64,
    /// A used up buffer, kept for the next commands.
    spare: Vec<u8>,
}

/// What has left, for those who watch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'a> {
    /// Commands, or a part of one.
    Commands(&'a [u8]),
    /// So many octets of letters.
    Content(u64),
}

#[derive(Debug)]
enum Segment<L> {
    /// Commands, of which the first `done` octets are out.
    Octets { octets: Vec<u8>, done: usize },
    /// A letter as it is (`BDAT`), of which `done` octets are out.
    Plain { letter: Arc<L>, done: u64 },
    /// A letter for `DATA`, with what ends it.
    Stuffed { letter: Arc<L>, place: Stuffing, terminator_done: usize },
}

/// What the shorter terminator counts in positions; the longer one counts the same.
const TERMINATOR_COUNT: u64 = 3;

impl<L: Letter> Output<L> {
    pub(crate) fn new() -> Self {
        Self { segments: VecDeque::new(), queued: 0, written: 0, spare: Vec::new() }
    }

    /// Queues a command that `encode` appends to a buffer.
    pub(crate) fn command(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let full =
            !matches!(self.segments.back(), Some(Segment::Octets { octets, .. }) if octets.len() < SEGMENT_OCTETS);
        if full {
            let mut octets = std::mem::take(&mut self.spare);
            octets.reserve(COMMANDS_OCTETS);
            self.segments.push_back(Segment::Octets { octets, done: 0 });
        }
        let Some(Segment::Octets { octets, .. }) = self.segments.back_mut() else {
            return;
        };
        let before = octets.len();
        encode(octets);
        self.queued += (octets.len() - before) as u64;
    }

    /// Queues a letter as it is.
    pub(crate) fn plain(&mut self, letter: Arc<L>) {
        if letter.size() == 0 {
            return;
        }
        self.queued += letter.size();
        self.segments.push_back(Segment::Plain { letter, done: 0 });
    }

    /// Queues a letter in its stuffed form and the end of the data.
    pub(crate) fn stuffed(&mut self, letter: Arc<L>) {
        self.queued += letter.size() + TERMINATOR_COUNT;
        self.segments.push_back(Segment::Stuffed { letter, place: Stuffing::START, terminator_done: 0 });
    }

    /// The position behind everything queued.
    pub(crate) fn queued(&self) -> u64 {
        self.queued
    }

    /// The position up to which everything is written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// How much is queued and not written.
    pub(crate) fn backlog(&self) -> u64 {
        self.queued.saturating_sub(self.written)
    }

    /// Whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Forgets what is not written.
    pub(crate) fn clear(&mut self) {
        self.segments.clear();
        self.queued = self.written;
    }

    /// Hands the next slices to `take` until it returns false.
    pub(crate) fn gather<'a>(&'a self, mut take: impl FnMut(&'a [u8]) -> bool) {
        let mut more = true;
        let mut offer = |slice: &'a [u8]| {
            more = slice.is_empty() || take(slice);
            more
        };
        for segment in &self.segments {
            let go_on = match segment {
                Segment::Octets { octets, done } => offer(octets.get(*done..).unwrap_or_default()),
                Segment::Plain { letter, done } => letter.slices(*done).all(&mut offer),
                Segment::Stuffed { letter, place, terminator_done } => {
                    let end = place.gather(&**letter, &mut offer);
                    end.is_some_and(|end| offer(end.terminator().get(*terminator_done..).unwrap_or_default()))
                }
            };
            if !go_on {
                return;
            }
        }
    }

    /// So many octets of what [`Output::gather`] gave are out.
    pub(crate) fn advance(&mut self, octets: usize, mut seen: impl FnMut(Piece<'_>)) {
        let mut left = octets;
        while let Some(segment) = self.segments.front_mut() {
            let (over, counted, finished) = segment.advance(left, &mut seen);
            left = over;
            self.written = self.written.saturating_add(counted);
            if !finished {
                return;
            }
            if let Some(Segment::Octets { mut octets, .. }) = self.segments.pop_front()
                && octets.capacity() > self.spare.capacity()
            {
                octets.clear();
                self.spare = octets;
            }
        }
    }
}

impl<L: Letter> Segment<L> {
    /// Moves on by `octets`. Returns the octets left over, the positions gained, and whether the segment is through.
    fn advance(&mut self, octets: usize, seen: &mut impl FnMut(Piece<'_>)) -> (usize, u64, bool) {
        match self {
            Self::Octets { octets: buffer, done } => {
                let step = octets.min(buffer.len() - *done);
                let end = *done + step;
                seen(Piece::Commands(buffer.get(*done..end).unwrap_or_default()));
                *done = end;
                (octets - step, step as u64, end == buffer.len())
            }
            Self::Plain { letter, done } => {
                let open = letter.size().saturating_sub(*done);
                let step = open.min(octets as u64);
                *done += step;
                seen(Piece::Content(step));
                (octets - usize::try_from(step).unwrap_or(octets), step, step == open)
            }
            Self::Stuffed { letter, place, terminator_done } => {
                let before = place.position();
                let over = if before < letter.size() { place.advance(&**letter, octets) } else { octets };
                let mut counted = place.position() - before;
                if place.position() < letter.size() {
                    seen(Piece::Content((octets - over) as u64));
                    return (over, counted, false);
                }
                let open = place.terminator().len() - *terminator_done;
                let step = over.min(open);
                *terminator_done += step;
                let finished = step == open;
                if finished {
                    counted += TERMINATOR_COUNT;
                }
                seen(Piece::Content((octets - over + step) as u64));
                (over - step, counted, finished)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Parcel;

    fn all(output: &Output<Parcel>) -> Vec<u8> {
        let mut octets = Vec::new();
        output.gather(|slice| {
            octets.extend_from_slice(slice);
            true
        });
        octets
    }

    #[test]
    fn segments_leave_in_order_however_they_are_cut() {
        for step in 1..20 {
            let mut output = Output::new();
            output.command(|out| out.extend_from_slice(b"MAIL\r\n"));
            output.command(|out| out.extend_from_slice(b"BDAT 4 LAST\r\n"));
            output.plain(Arc::new(Parcel::new(b".b\r\n").in_slices_of(3)));
            output.command(|out| out.extend_from_slice(b"DATA\r\n"));
            output.stuffed(Arc::new(Parcel::new(b".c\r\n..\r\nd").in_slices_of(2)));
            output.plain(Arc::new(Parcel::new(b"")));
            output.command(|out| out.extend_from_slice(b"QUIT\r\n"));
            let whole = all(&output);
            assert_eq!(
                whole,
                b"MAIL\r\nBDAT 4 LAST\r\n.b\r\nDATA\r\n..c\r\n...\r\nd\r\n.\r\nQUIT\r\n",
                "{}",
                String::from_utf8_lossy(&whole)
            );
            let mut seen = Vec::new();
            let (mut commands, mut content) = (Vec::new(), 0);
            while !output.is_empty() {
                let rest = all(&output);
                let part = step.min(rest.len());
                seen.extend_from_slice(&rest[..part]);
                output.advance(part, |piece| match piece {
                    Piece::Commands(part) => commands.extend_from_slice(part),
                    Piece::Content(octets) => content += octets,
                });
            }
            assert_eq!(seen, whole);
            assert_eq!(commands, b"MAIL\r\nBDAT 4 LAST\r\nDATA\r\nQUIT\r\n");
            assert_eq!(content as usize, whole.len() - commands.len());
            assert_eq!(output.written(), output.queued());
        }
    }
}

//! Dot-stuffing (RFC 5321 §4.5.2) that can be resumed at any octet of its output, without a copy of the body.
//!
//! The driver writes as much as the socket takes and comes back for the rest. So the state here is not an iterator over
//! the body but a position: how many octets of the letter are out, and what the last of them means for a dot. Both
//! [`Stuffing::gather`] (what comes next) and [`Stuffing::advance`] (so much is out) walk the same pieces.

use memchr::memmem;

use crate::letter::Letter;

/// Where the stuffed form of a letter stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stuffing {
    /// Octets of the letter that are out.
    raw: u64,
    line: Line,
}

/// What the octets so far mean for the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    /// At the start of a line: a dot is doubled.
    Start,
    /// Behind a CR.
    Cr,
    /// Anywhere else, and behind the added dot.
    Text,
}

/// One piece of the stuffed form.
enum Piece<'a> {
    Raw(&'a [u8]),
    Dot,
}

impl Stuffing {
    /// At the beginning.
    pub(crate) const START: Self = Self { raw: 0, line: Line::Start };

    /// Octets of the letter that are out; added dots are not counted.
    pub(crate) fn position(self) -> u64 {
        self.raw
    }

    /// What ends the data now that the whole letter is out.
    pub(crate) fn terminator(self) -> &'static [u8] {
        match self.line {
            Line::Start => b".\r\n",
            Line::Cr | Line::Text => b"\r\n.\r\n",
        }
    }

    /// Hands the next pieces to `take` until it returns false. Returns the state behind the letter if it never did.
    pub(crate) fn gather<'a, L: Letter>(self, letter: &'a L, mut take: impl FnMut(&'a [u8]) -> bool) -> Option<Self> {
        self.walk(letter, |piece, _| match piece {
            Piece::Raw(octets) => take(octets),
            Piece::Dot => take(b"."),
        })
    }

    /// Moves on by `octets` of output, at most to the end of the letter. Returns the octets that were left over.
    pub(crate) fn advance(&mut self, letter: &impl Letter, octets: usize) -> usize {
        let mut left = octets;
        let mut place = *self;
        self.walk(letter, |piece, before| {
            place = before;
            match piece {
                _ if left == 0 => return false,
                Piece::Dot => {
                    left -= 1;
                    place.line = Line::Text;
                }
                Piece::Raw(raw) => {
                    let part = raw.get(..left).unwrap_or(raw);
                    left -= part.len();
                    place = before.behind(part);
                }
            }
            left > 0
        });
        *self = place;
        left
    }

    /// Visits the pieces from here on, each with the state in front of it, until `visit` returns false.
    fn walk<'a, L: Letter>(self, letter: &'a L, mut visit: impl FnMut(Piece<'a>, Self) -> bool) -> Option<Self> {
        let mut place = self;
        for slice in letter.slices(self.raw) {
            let mut rest = slice;
            while !rest.is_empty() {
                let cut = place.line.dot_before(rest).unwrap_or(rest.len());
                let (head, tail) = rest.split_at(cut);
                if !head.is_empty() && !visit(Piece::Raw(head), place) {
                    return None;
                }
                place = place.behind(head);
                if !tail.is_empty() {
                    if !visit(Piece::Dot, place) {
                        return None;
                    }
                    place.line = Line::Text;
                }
                rest = tail;
            }
        }
        Some(place)
    }

    /// The state behind `octets` of the letter.
    fn behind(self, octets: &[u8]) -> Self {
        let line = match octets {
            [] => self.line,
            [.., b'\r', b'\n'] => Line::Start,
            [b'\n'] if self.line == Line::Cr => Line::Start,
            [.., b'\r'] => Line::Cr,
            _ => Line::Text,
        };
        Self { raw: self.raw.saturating_add(octets.len() as u64), line }
    }
}

impl Line {
    /// In front of which octet of `octets` the first dot is to be added.
    fn dot_before(self, octets: &[u8]) -> Option<usize> {
        match (self, octets) {
            (Self::Start, [b'.', ..]) => Some(0),
            (Self::Cr, [b'\n', b'.', ..]) => Some(1),
            _ => memmem::find(octets, b"\r\n.").map(|at| at + 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Parcel;

    fn reference(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut start = true;
        for (at, &octet) in body.iter().enumerate() {
            if start && octet == b'.' {
                out.push(b'.');
            }
            out.push(octet);
            start = octet == b'\n' && at > 0 && body[at - 1] == b'\r';
        }
        out
    }

    proptest! {
        #[test]
        fn any_way_of_writing_gives_the_same_octets(
            body in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), Just(b'a')], 0..60),
            slice in 1usize..7,
            steps in proptest::collection::vec(1usize..9, 1..20),
        ) {
            let letter = Parcel::new(&body).in_slices_of(slice);
            let mut place = Stuffing::START;
            let mut written = Vec::new();
            let mut steps = steps.iter().cycle();
            loop {
                let mut next = Vec::new();
                place.gather(&letter, |piece| { next.extend_from_slice(piece); next.len() < 12 });
                if next.is_empty() {
                    break;
                }
                let part = (*steps.next().unwrap()).min(next.len());
                written.extend_from_slice(&next[..part]);
                prop_assert_eq!(place.advance(&letter, part), 0);
            }
            prop_assert_eq!(place.position(), body.len() as u64);
            let end: &[u8] = if body.is_empty() || body.ends_with(b"\r\n") { b".\r\n" } else { b"\r\n.\r\n" };
            prop_assert_eq!(place.terminator(), end);
            prop_assert_eq!(written, reference(&body));
        }
    }

    #[test]
    fn what_goes_beyond_the_letter_is_left_over() {
        let letter = Parcel::new(b".a");
        let mut place = Stuffing::START;
        assert_eq!(place.advance(&letter, 10), 7);
        assert_eq!(place.position(), 2);
    }
}

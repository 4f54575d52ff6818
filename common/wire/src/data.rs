//! The content of DATA: dots taken off and put on, and its end (RFC 5321 §4.1.1.4, §4.5.2).
//!
//! Only CRLF.CRLF ends the data, and only CRLF begins a line whose first dot is doubled. A bare CR or LF is content to
//! refuse or to repair, never a line end that the transparency procedure knows: where two servers differ in that, one
//! message becomes two (SMTP smuggling).

use std::sync::LazyLock;

use memchr::{memchr2, memmem};

/// Where a dot has to be put in. Building the searcher costs more than searching a short line.
static LINE_WITH_DOT: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\r\n."));

/// What becomes of a CR or LF that is not part of a CRLF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BareNewline {
    /// It stays, and the message is to be refused when it is complete: `550 5.6.11`.
    Refuse,
    /// It becomes CRLF.
    Normalise,
}

/// Whether there is more to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The data goes on.
    More,
    /// The final dot was seen; what was not consumed is the next command.
    End,
}

/// Takes the data of DATA, gives the content.
#[derive(Clone, Debug)]
pub struct DotDecoder {
    policy: BareNewline,
    place: Place,
    bare: bool,
}

/// Where in the data we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// At the begin of the data or behind a CRLF.
    LineStart,
    /// Within a line.
    Text,
    /// Behind a CR, which is written already.
    Cr,
    /// Behind a dot that began a line. It is dropped, whatever follows.
    Dot,
    /// Behind such a dot and a CR, which is not written: it may be the end.
    DotCr,
    /// Behind the end.
    End,
}

impl DotDecoder {
    /// A decoder at the begin of the data, right behind DATA's CRLF.
    pub fn new(policy: BareNewline) -> Self {
        Self { policy, place: Place::LineStart, bare: false }
    }

    /// Takes input and appends content to `out`. Gives the octets consumed, all of them unless the end was found, and
    /// whether it was. Behind the end nothing is consumed.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Progress) {
        let mut run = Run { input, from: 0, out };
        let mut at = 0;
        while let Some(&octet) = input.get(at) {
            match (self.place, octet) {
                (Place::End, _) => return (at, Progress::End),
                (Place::LineStart, b'.') => {
                    run.skip(at);
                    self.place = Place::Dot;
                }
                (Place::LineStart | Place::Text, _) => {
                    at = self.text(at, &mut run);
                    continue;
                }
                (Place::Cr, b'\n') => self.place = Place::LineStart,
                (Place::Cr, _) => {
                    self.bare_cr(at, &mut run);
                    continue;
                }
                (Place::Dot, b'\r') => {
                    run.skip(at);
                    self.place = Place::DotCr;
                }
                (Place::Dot, _) => {
                    self.place = Place::Text;
                    continue;
                }
                (Place::DotCr, b'\n') => {
                    run.skip(at);
                    self.place = Place::End;
                    return (at + 1, Progress::End);
                }
                (Place::DotCr, _) => {
                    run.insert(at, b"\r");
                    self.place = Place::Cr;
                    continue;
                }
            }
            at += 1;
        }
        run.flush(at);
        (at, if self.place == Place::End { Progress::End } else { Progress::More })
    }

    /// Whether a CR or LF was seen that is not part of a CRLF. A CR at the very end of what was pushed so far is not
    /// judged yet.
    pub fn bare(&self) -> bool {
        self.bare
    }

    /// Goes from `at` within a line up to behind the next CR or LF. Gives the new index.
    fn text(&mut self, at: usize, run: &mut Run<'_>) -> usize {
        let Some(length) = memchr2(b'\r', b'\n', run.input.get(at..).unwrap_or_default()) else {
            self.place = Place::Text;
            return run.input.len();
        };
        let newline = at + length;
        if run.input.get(newline) == Some(&b'\r') {
            self.place = Place::Cr;
            return newline + 1;
        }
        self.bare = true;
        if self.policy == BareNewline::Normalise {
            run.insert(newline, b"\r");
        }
        self.place = Place::Text;
        newline + 1
    }

    /// The CR before `at` has no LF.
    fn bare_cr(&mut self, at: usize, run: &mut Run<'_>) {
        self.bare = true;
        if self.policy == BareNewline::Normalise {
            run.insert(at, b"\n");
        }
        self.place = Place::Text;
    }
}

/// A run of input that goes to the output as it is; written when something has to be left out or put in.
struct Run<'a> {
    input: &'a [u8],
    from: usize,
    out: &'a mut Vec<u8>,
}

impl Run<'_> {
    fn flush(&mut self, upto: usize) {
        self.out.extend_from_slice(self.input.get(self.from..upto).unwrap_or_default());
        self.from = upto;
    }

    /// Leaves out the octet at `at`.
    fn skip(&mut self, at: usize) {
        self.flush(at);
        self.from = at + 1;
    }

    /// Puts `octets` in before `at`.
    fn insert(&mut self, at: usize, octets: &[u8]) {
        self.flush(at);
        self.out.extend_from_slice(octets);
    }
}

/// Puts dots on a body that comes in slices, without a copy: gives slices of the slices, and dots between them.
#[derive(Clone, Debug, Default)]
pub struct Stuffer {
    edge: Edge,
}

/// What the octets so far end with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Edge {
    /// Nothing, or CRLF.
    #[default]
    LineStart,
    /// CR
    Cr,
    /// Anything else.
    Text,
}

impl Edge {
    fn behind(self, slice: &[u8]) -> Self {
        match (self, slice) {
            (edge, []) => edge,
            (_, [.., b'\r', b'\n']) | (Self::Cr, [b'\n']) => Self::LineStart,
            (_, [.., b'\r']) => Self::Cr,
            _ => Self::Text,
        }
    }
}

impl Stuffer {
    /// At the begin of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// The slice, stuffed. The iterator must be used up before the next slice is given.
    pub fn stuff<'a>(&mut self, slice: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, '_> {
        let mut rest = slice;
        let mut dotted = false;
        std::iter::from_fn(move || self.piece(&mut rest, &mut dotted))
    }

    /// What to write behind the body: `.CRLF`, with a CRLF in front of it when the body does not end in one.
    pub fn terminator(&self) -> &'static [u8] {
        match self.edge {
            Edge::LineStart => b".\r\n",
            Edge::Cr | Edge::Text => b"\r\n.\r\n",
        }
    }

    /// The next piece of `rest`. `dotted` tells that the dot in front of it was given already.
    fn piece<'a>(&mut self, rest: &mut &'a [u8], dotted: &mut bool) -> Option<&'a [u8]> {
        if self.edge == Edge::LineStart && rest.first() == Some(&b'.') && !*dotted {
            *dotted = true;
            return Some(b".");
        }
        *dotted = false;
        let (piece, behind) = rest.split_at_checked(self.clean_length(rest)).filter(|(piece, _)| !piece.is_empty())?;
        self.edge = self.edge.behind(piece);
        *rest = behind;
        Some(piece)
    }

    /// How much of `rest` goes out before a dot has to be put in.
    fn clean_length(&self, rest: &[u8]) -> usize {
        if self.edge == Edge::Cr && rest.starts_with(b"\n.") {
            return 1;
        }
        LINE_WITH_DOT.find(rest).map_or(rest.len(), |at| at + 2)
    }
}

/// A whole body, stuffed, and its terminator at the end. Where a driver may have to stop in the middle and go on later,
/// a [`Stuffer`] of its own serves it better.
pub fn dot_stuff<'a>(body: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    DotStuff { body, stuffer: Stuffer::new(), rest: b"", dotted: false, ended: false }
}

struct DotStuff<'a, I> {
    body: I,
    stuffer: Stuffer,
    rest: &'a [u8],
    dotted: bool,
    ended: bool,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Iterator for DotStuff<'a, I> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.ended {
            if let Some(piece) = self.stuffer.piece(&mut self.rest, &mut self.dotted) {
                return Some(piece);
            }
            match self.body.next() {
                Some(slice) => self.rest = slice,
                None => {
                    self.ended = true;
                    return Some(self.stuffer.terminator());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;

//! Content that is not dot-stuffed (BDAT): judged and repaired as [`DotDecoder`](crate::DotDecoder) does it in DATA,
//! because it may have to leave by DATA.

use memchr::{memchr, memchr2_iter};

/// What [`NewlineCheck`] saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Newlines {
    /// A CR or LF that is not part of a CRLF.
    pub bare: bool,
    /// An octet above 127.
    pub eight_bit: bool,
    /// A NUL.
    pub nul: bool,
    /// CRLFs.
    pub lines: u64,
    /// The longest line, octets without CRLF.
    pub longest_line: u64,
    /// The content is empty or ends in CRLF.
    pub ends_with_newline: bool,
}

/// Judges content that comes in slices.
#[derive(Clone, Debug, Default)]
pub struct NewlineCheck {
    /// `bare` without a CR at the end; `longest_line` without the line under way.
    seen: Newlines,
    /// Octets of the line under way, an undecided CR among them.
    line: u64,
    /// The last octet was a CR.
    cr: bool,
}

impl NewlineCheck {
    /// A judge that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes content.
    pub fn push(&mut self, input: &[u8]) {
        let Some(&first) = input.first() else { return };
        self.seen.eight_bit |= !input.is_ascii();
        self.seen.nul |= memchr(0, input).is_some();
        self.seen.bare |= self.cr && first != b'\n';
        // Where the line under way begins; what of it came earlier is in `self.line`.
        let mut begin = 0;
        for at in memchr2_iter(b'\r', b'\n', input) {
            let after_cr = at.checked_sub(1).map_or(self.cr, |before| input.get(before) == Some(&b'\r'));
            if input.get(at) == Some(&b'\r') {
                self.seen.bare |= input.get(at + 1).is_some_and(|next| *next != b'\n');
            } else if after_cr {
                self.end_line(at - begin);
                begin = at + 1;
            } else {
                self.seen.bare = true;
            }
        }
        self.line += length(input.len() - begin);
        self.cr = input.last() == Some(&b'\r');
    }

    /// The judgement, as if the content ended here.
    pub fn report(&self) -> Newlines {
        Newlines {
            bare: self.seen.bare || self.cr,
            longest_line: self.seen.longest_line.max(self.line),
            ends_with_newline: self.line == 0,
            ..self.seen
        }
    }

    /// `octets` more and a LF; the CR before it was counted as a part of the line.
    fn end_line(&mut self, octets: usize) {
        let octets = (self.line + length(octets)).saturating_sub(1);
        self.seen.longest_line = self.seen.longest_line.max(octets);
        self.seen.lines += 1;
        self.line = 0;
    }
}

/// Makes CRLF of every bare CR and LF.
#[derive(Clone, Debug, Default)]
pub struct Normaliser {
    cr: bool,
}

impl Normaliser {
    /// At the begin of content.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes content and appends it, repaired, to `out`.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut from = 0;
        let mut copy = |upto: usize, out: &mut Vec<u8>| {
            out.extend_from_slice(input.get(from..upto).unwrap_or_default());
            from = upto;
        };
        if self.cr && input.first().is_some_and(|first| *first != b'\n') {
            out.push(b'\n');
        }
        for at in memchr2_iter(b'\r', b'\n', input) {
            let after_cr = at.checked_sub(1).map_or(self.cr, |before| input.get(before) == Some(&b'\r'));
            if input.get(at) == Some(&b'\n') && !after_cr {
                copy(at, out);
                out.push(b'\r');
            }
            if input.get(at) == Some(&b'\r') && input.get(at + 1).is_some_and(|next| *next != b'\n') {
                copy(at + 1, out);
                out.push(b'\n');
            }
        }
        copy(input.len(), out);
        self.cr = input.last().map_or(self.cr, |last| *last == b'\r');
    }

    /// Ends the content: a CR at its end gets its LF.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.cr) {
            out.push(b'\n');
        }
    }
}

fn length(octets: usize) -> u64 {
    octets as u64
}

#[cfg(test)]
mod tests;

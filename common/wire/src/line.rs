//! Command lines as they come in: streaming, in bounded memory.
//!
//! After `DATA` and `BDAT` the octets that follow are not lines; the owner takes them with [`LineBuffer::rest`] and
//! [`LineBuffer::consume`], without a copy, and goes on with lines behind them.

use memchr::memchr;

/// Longest command line by default, octets with CRLF. RFC 5321 §4.5.3.1.4 says 512 without parameters; here the longest
/// path (511) with the longest ORCPT (1024), or with ENVID (100) and AUTH (500), must fit.
pub const LINE_MAX: usize = 2048;

/// Capacity that [`LineBuffer::shrink`] leaves, octets: most command lines fit, and ten thousand idle clients hold
/// little.
const IDLE_CAPACITY: usize = 256;

/// A line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// A line without its CRLF. A bare LF ends a line too. Controls and octets above 127 may be in it: the parser of
    /// commands refuses them where they have no place.
    Complete(&'a [u8]),
    /// A line that was longer than allowed went by, its line end included.
    TooLong,
}

/// Cuts input into lines.
///
/// Feed with [`push`](Self::push), then call [`next_line`](Self::next_line) until it gives `None`. What it holds is
/// what was pushed and not yet taken, and at most one line when all is taken: an overlong line is dropped as it comes.
#[derive(Debug)]
pub struct LineBuffer {
    buffer: Vec<u8>,
    /// Where the first line not yet taken begins.
    start: usize,
    /// How far the buffer was searched for a line end.
    scanned: usize,
    max: usize,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Stage {
    Lines,
    /// In a line that was too long, up to its LF.
    Skipping,
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self::new(LINE_MAX)
    }
}

impl LineBuffer {
    /// A buffer for lines of at most `max` octets, line end included.
    pub fn new(max: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0, max, stage: Stage::Lines }
    }

    /// Takes input.
    pub fn push(&mut self, input: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        let skipped = match self.stage {
            Stage::Skipping if self.buffer.is_empty() => memchr(b'\n', input).unwrap_or(input.len()),
            Stage::Lines | Stage::Skipping => 0,
        };
        self.buffer.extend_from_slice(input.get(skipped..).unwrap_or_default());
    }

    /// The next line, if it is there.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        let found = memchr(b'\n', self.buffer.get(self.scanned..).unwrap_or_default()).map(|at| self.scanned + at);
        let Some(end) = found else {
            self.scanned = self.buffer.len();
            if self.buffered() >= self.max {
                self.stage = Stage::Skipping;
            }
            if self.stage == Stage::Skipping {
                self.drop_all();
            }
            return None;
        };
        let from = self.start;
        (self.start, self.scanned) = (end + 1, end + 1);
        if self.stage == Stage::Skipping || end + 1 - from > self.max {
            self.stage = Stage::Lines;
            return Some(Line::TooLong);
        }
        let line = self.buffer.get(from..end).unwrap_or_default();
        Some(Line::Complete(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// All that was pushed and not yet taken.
    pub fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Takes the first `octets` of [`rest`](Self::rest); all of it if it is shorter.
    pub fn consume(&mut self, octets: usize) {
        self.start = self.start.saturating_add(octets).min(self.buffer.len());
        self.scanned = self.start;
    }

    /// How much was pushed and not yet taken, octets.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Gives memory back when nothing is buffered, for a client that is idle.
    pub fn shrink(&mut self) {
        if self.buffered() > 0 {
            return;
        }
        self.drop_all();
        self.buffer.shrink_to(IDLE_CAPACITY);
    }

    fn drop_all(&mut self) {
        self.buffer.clear();
        (self.start, self.scanned) = (0, 0);
    }
}

#[cfg(test)]
mod tests;

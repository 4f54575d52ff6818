//! Replies as they come in: streaming, bounded, with hostile servers in mind.
//!
//! What a server says ends up in logs, reports and the spool, so the text is made harmless here: controls become `?`
//! and octets that are not UTF-8 the replacement character. Each octet is looked at once for a line end, however the
//! input is cut.

use memchr::memchr;
use nom::branch::alt;
use nom::bytes::complete::{tag, take_while_m_n};
use nom::combinator::{eof, map_opt, rest, value};
use nom::sequence::{preceded, separated_pair, terminated};
use nom::{IResult, Parser};

use crate::reply::{Reply, Status};
use crate::text::clean;

/// Longest reply line that is read, octets without its line end. RFC 5321 §4.5.3.1.5 says 512; some servers put whole
/// explanations with links into one.
pub const INPUT_LINE_MAX: usize = 4096;
/// Most lines of a reply that are read.
pub const INPUT_LINES_MAX: usize = 100;
/// Largest reply that is read, octets.
pub const INPUT_REPLY_MAX: usize = 64 * 1024;

/// Why input is not a reply. The connection is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A line does not begin with a code of 200 to 599 and a blank, a hyphen or its end.
    #[error("the server sent a line that is not a reply")]
    Malformed,
    /// A later line of a reply has another code than its first.
    #[error("the lines of a reply have different codes")]
    MixedCodes,
    /// A line is longer than [`INPUT_LINE_MAX`].
    #[error("a reply line is longer than {INPUT_LINE_MAX} octets")]
    LineTooLong,
    /// A reply has more lines than [`INPUT_LINES_MAX`].
    #[error("a reply has more than {INPUT_LINES_MAX} lines")]
    TooManyLines,
    /// A reply is larger than [`INPUT_REPLY_MAX`].
    #[error("a reply is larger than {INPUT_REPLY_MAX} octets")]
    TooLong,
}

/// Takes octets in, gives replies out.
///
/// Feed with [`push`](Self::push), then call [`next`](Self::next) until it gives `None`: what is kept in between is
/// less than one reply. After an error every further call gives that error.
///
/// Whoever is through with a reply may [`recycle`](Self::recycle) it: the next one is made of its memory, so that
/// thousands of replies cost no allocation.
#[derive(Debug, Default)]
pub struct ReplyParser {
    buffer: Vec<u8>,
    /// Where the first line not yet taken begins in the buffer.
    start: usize,
    /// How far the buffer was searched for a line end.
    scanned: usize,
    /// Lines of a reply that is not complete.
    partial: Option<Partial>,
    /// Memory of a reply that is done with.
    spare: Spare,
    fault: Option<ReplyError>,
}

/// What a recycled reply leaves: a list with room, and one line with room.
#[derive(Debug, Default)]
struct Spare {
    lines: Vec<String>,
    line: String,
}

#[derive(Debug)]
struct Partial {
    code: u16,
    status: Option<Status>,
    lines: Vec<String>,
    octets: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Follow {
    More,
    Nothing,
}

impl ReplyParser {
    /// A parser that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes input.
    pub fn push(&mut self, input: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(input);
    }

    /// The next reply, if it is there.
    ///
    /// # Errors
    /// [`ReplyError`], from then on always the same.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end, and errors stay")]
    pub fn next(&mut self) -> Result<Option<Reply>, ReplyError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.advance().inspect_err(|fault| {
            self.fault = Some(*fault);
            self.buffer = Vec::new();
            self.partial = None;
            (self.start, self.scanned) = (0, 0);
        })
    }

    /// Takes back a reply that is done with.
    pub fn recycle(&mut self, reply: Reply) {
        let mut lines = reply.lines;
        // One line is what nearly every reply has; more are not kept for.
        let mut line = lines.pop().unwrap_or_default();
        line.clear();
        lines.clear();
        self.spare = Spare { lines, line };
    }

    /// Octets taken in that are not part of a reply given out. Must be zero where TLS begins: what came in the clear
    /// must not be read as if it had come behind the handshake.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.start + self.partial.as_ref().map_or(0, |partial| partial.octets)
    }

    fn advance(&mut self) -> Result<Option<Reply>, ReplyError> {
        while let Some(end) = self.find_line_end()? {
            let (from, upto) = (self.start, end + 1);
            (self.start, self.scanned) = (upto, upto);
            let line = self.buffer.get(from..end).unwrap_or_default();
            if let Some(reply) = take_line(&mut self.partial, &mut self.spare, line)? {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    /// Index of the LF of the first line not yet taken.
    fn find_line_end(&mut self) -> Result<Option<usize>, ReplyError> {
        let found = memchr(b'\n', self.buffer.get(self.scanned..).unwrap_or_default()).map(|at| self.scanned + at);
        let end = found.unwrap_or(self.buffer.len());
        self.scanned = end;
        // One more for the CR, which is not known for one while the LF is missing.
        if end - self.start > INPUT_LINE_MAX + 1 {
            return Err(ReplyError::LineTooLong);
        }
        Ok(found)
    }
}

/// Adds a line to the reply it belongs to; gives the reply if it was the last.
fn take_line(slot: &mut Option<Partial>, spare: &mut Spare, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
    let text = trim_cr(line);
    let (_, (code, follow, text)) = reply_line(text).map_err(|_| ReplyError::Malformed)?;
    let mut partial = slot.take().unwrap_or_else(|| Partial {
        code,
        status: None,
        lines: std::mem::take(&mut spare.lines),
        octets: 0,
    });
    if partial.code != code {
        return Err(ReplyError::MixedCodes);
    }
    if partial.lines.len() == INPUT_LINES_MAX {
        return Err(ReplyError::TooManyLines);
    }
    partial.octets += line.len() + 1;
    if partial.octets > INPUT_REPLY_MAX {
        return Err(ReplyError::TooLong);
    }
    partial.add(text, std::mem::take(&mut spare.line));
    if follow == Follow::More {
        *slot = Some(partial);
        return Ok(None);
    }
    Ok(Some(Reply { code, status: partial.status, lines: partial.lines }))
}

impl Partial {
    /// The first enhanced code found is the reply's. It is taken off its line and off others that repeat it; another
    /// one stays with its text. The line is written into `line`, which is empty.
    fn add(&mut self, text: &[u8], mut line: String) {
        let text = match enhanced(text) {
            Ok((text, status)) if self.takes(status) => {
                self.status = Some(status);
                text
            }
            _ => text,
        };
        line.push_str(&clean(&String::from_utf8_lossy(text)));
        self.lines.push(line);
    }

    fn takes(&self, status: Status) -> bool {
        u16::from(status.0) == self.code / 100 && self.status.is_none_or(|known| known == status)
    }
}

/// Without the CRs at its end; two come from servers that write CRLF through a layer that makes CRLF of LF.
fn trim_cr(line: &[u8]) -> &[u8] {
    let length = line.iter().rposition(|octet| *octet != b'\r').map_or(0, |last| last + 1);
    line.get(..length).unwrap_or_default()
}

/// `code ("-" text | " " text | end)`
fn reply_line(input: &[u8]) -> IResult<&[u8], (u16, Follow, &[u8])> {
    let follow = alt((value(Follow::More, tag("-")), value(Follow::Nothing, tag(" ")), value(Follow::Nothing, eof)));
    (code, follow, rest).parse(input)
}

fn code(input: &[u8]) -> IResult<&[u8], u16> {
    let in_range = |digits| number(digits).filter(|code| (200..=599).contains(code));
    map_opt(take_while_m_n(3, 3, is_digit), in_range).parse(input)
}

/// `class "." subject "." detail (" " | end)`
fn enhanced(input: &[u8]) -> IResult<&[u8], Status> {
    let class = map_opt(take_while_m_n(1, 1, |octet| matches!(octet, b'2' | b'4' | b'5')), number);
    let part = || map_opt(take_while_m_n(1, 3, is_digit), number);
    let parts = (class, preceded(tag("."), separated_pair(part(), tag("."), part())));
    let (input, (class, (subject, detail))) = terminated(parts, alt((tag(" "), eof))).parse(input)?;
    // One digit.
    Ok((input, Status(u8::try_from(class).unwrap_or_default(), subject, detail)))
}

/// The value of digits; nothing else is to be among them.
fn number(digits: &[u8]) -> Option<u16> {
    let add = |sum: u16, digit: &u8| sum.checked_mul(10)?.checked_add(u16::from(digit.checked_sub(b'0')?));
    digits.iter().try_fold(0, add)
}

fn is_digit(octet: u8) -> bool {
    octet.is_ascii_digit()
}

#[cfg(test)]
mod tests;

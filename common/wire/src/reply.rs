//! Replies (RFC 5321 §4.2) with enhanced status codes (RFC 2034, RFC 3463).

use std::fmt;

use crate::text::{clean, push_text};

/// Longest reply line that is written, octets with CRLF (RFC 5321 §4.5.3.1.5). Longer text is cut.
pub const REPLY_LINE_MAX: usize = 512;

/// An enhanced status code, `class.subject.detail`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Status(
    /// 2 success, 4 transient, 5 permanent.
    pub u8,
    /// Subject, up to 999.
    pub u16,
    /// Detail, up to 999.
    pub u16,
);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What the first digit of a reply code says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// 2xx: done.
    Positive,
    /// 3xx: go on.
    Intermediate,
    /// 4xx: try again later.
    Transient,
    /// 5xx: never.
    Permanent,
}

/// A reply: code, enhanced code, and its lines without either.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The code, 200 to 599.
    pub code: u16,
    /// The enhanced code. On the wire every line has it.
    pub status: Option<Status>,
    /// The lines, at least one, without codes and line ends.
    pub lines: Vec<String>,
}

impl Reply {
    /// One line with an enhanced code: `Reply::new(250, Status(2, 0, 0), "Ok")`.
    pub fn new(code: u16, status: Status, text: impl Into<String>) -> Self {
        Self { status: Some(status), ..Self::plain(code, text) }
    }

    /// One line without an enhanced code, as in greetings and 354.
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self::multiline(code, vec![text.into()])
    }

    /// Several lines without an enhanced code, as for EHLO and HELP.
    pub fn multiline(code: u16, lines: Vec<String>) -> Self {
        debug_assert!((200..=599).contains(&code), "no reply code: {code}");
        let lines = lines.into_iter().map(|line| clean(&line).into_owned()).collect();
        Self { code, status: None, lines }
    }

    /// What the code's first digit says.
    pub fn class(&self) -> Class {
        match self.code / 100 {
            2 => Class::Positive,
            3 => Class::Intermediate,
            4 => Class::Transient,
            _ => Class::Permanent,
        }
    }

    /// Whether the command was done (2xx).
    pub fn is_positive(&self) -> bool {
        self.class() == Class::Positive
    }

    /// The lines joined by blanks, without codes.
    pub fn text(&self) -> String {
        clean(&self.lines.join(" ")).into_owned()
    }

    /// Appends the reply, its code and enhanced code on every line, each line with CRLF.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Some((last, before)) = self.lines.split_last() else {
            return encode_line(out, self.code, b' ', self.status, "");
        };
        for line in before {
            encode_line(out, self.code, b'-', self.status, line);
        }
        encode_line(out, self.code, b' ', self.status, last);
    }
}

/// One line: `550 5.1.1 No such user`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        for line in self.lines.iter().filter(|line| !line.is_empty()) {
            write!(f, " {}", clean(line))?;
        }
        Ok(())
    }
}

/// Appends a reply of one line, without building a [`Reply`].
pub fn encode_reply(out: &mut Vec<u8>, code: u16, status: Option<Status>, text: &str) {
    encode_line(out, code, b' ', status, text);
}

fn encode_line(out: &mut Vec<u8>, code: u16, separator: u8, status: Option<Status>, text: &str) {
    const CODE_DIGITS: [u16; 3] = [100, 10, 1];
    let start = out.len();
    let code = code.clamp(200, 599);
    for digit in CODE_DIGITS {
        // A digit: below 10 after the division.
        out.push(b'0' + u8::try_from(code / digit % 10).unwrap_or_default());
    }
    out.push(separator);
    if let Some(status) = status {
        out.extend_from_slice(status.to_string().as_bytes());
        if !text.is_empty() {
            out.push(b' ');
        }
    }
    let room = (start + REPLY_LINE_MAX - 2).saturating_sub(out.len());
    push_text(out, text.get(..text.floor_char_boundary(room)).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;

//! Messages that can be told apart and checked to the last octet.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// The header line that every generated message begins with; whatever stands in front of it was added on the way.
const MARK: &str = "X-Mark: ";

/// A message to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    /// Envelope sender, empty for the null sender.
    pub sender: String,
    /// Envelope recipients.
    pub recipients: Vec<String>,
    /// Header and body, CRLF lines.
    pub content: Vec<u8>,
}

/// What a generated body is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Printable ASCII, with lines that begin with dots.
    Text,
    /// The same with octets above 127.
    EightBit,
}

impl Mail {
    /// A message of about `octets` octets, at least its header, that carries `mark` and a body drawn from it.
    pub fn generate(mark: &str, octets: usize, body: Body, sender: &str, recipients: &[&str]) -> Self {
        let mut content = format!(
            "{MARK}{mark}\r\nFrom: <{sender}>\r\nTo: list:;\r\nDate: Sat, 3 Jan 2026 10:00:00 +0000\r\nSubject: {mark}\r\nMessage-Id: <{mark}@marks.test>\r\n\r\n"
        )
        .into_bytes();
        let mut state = hash(mark.as_bytes());
        while content.len() + 2 < octets {
            state = random(state);
            let length = usize::try_from(state % 76).expect("small").min(octets - content.len() - 2);
            if state & 0x700 == 0 {
                content.extend_from_slice(if state & 0x800 == 0 { b"." } else { b".." });
            }
            for _ in 0..length {
                state = random(state);
                let octet = u8::try_from(state >> 20 & 0xff).expect("masked");
                content.push(match body {
                    Body::EightBit if octet >= 0xa0 => octet,
                    _ => b' ' + octet % 95,
                });
            }
            content.extend_from_slice(b"\r\n");
        }
        Self {
            sender: sender.to_owned(),
            recipients: recipients.iter().map(|&recipient| recipient.to_owned()).collect(),
            content,
        }
    }

    /// What must arrive.
    ///
    /// # Panics
    /// When the content was not generated here.
    pub fn marked(&self) -> Marked {
        Marked::find(&self.content).expect("generated content has a mark")
    }
}

/// A generated message as it is found in what arrived.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Marked {
    /// Its mark.
    pub mark: String,
    /// Hash of everything from the mark to the end.
    pub hash: u64,
    /// Octets from the mark to the end.
    pub octets: usize,
}

impl Marked {
    /// The generated message in `content`, behind whatever header lines were put in front of it.
    pub fn find(content: &[u8]) -> Option<Self> {
        let original = Self::original(content)?;
        let line = original.get(MARK.len()..)?.split(|&octet| octet == b'\r').next()?;
        let mark = String::from_utf8(line.to_vec()).ok()?;
        Some(Self { mark, hash: hash(original), octets: original.len() })
    }

    /// The same in a file with LF lines, as servers store mail.
    pub fn find_in_file(content: &[u8]) -> Option<Self> {
        let mut wire = Vec::with_capacity(content.len() + content.len() / 32);
        for line in content.split_inclusive(|&octet| octet == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => wire.extend_from_slice(line),
                None => wire.extend_from_slice(line),
            }
            wire.extend_from_slice(b"\r\n");
        }
        Self::find(&wire)
    }

    /// The part of `content` from the mark on.
    pub fn original(content: &[u8]) -> Option<&[u8]> {
        let mut rest = content;
        while !rest.starts_with(MARK.as_bytes()) {
            let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
            if end == 0 {
                return None;
            }
            rest = rest.get(end + 2..)?;
        }
        Some(rest)
    }
}

/// The next number of a generator (splitmix64); good enough to make data from a seed.
pub fn random(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_message_is_found_behind_trace_lines_and_in_a_file() {
        let mail = Mail::generate("a.1", 5000, Body::Text, "s@a.test", &["r@b.test"]);
        assert!(mail.content.len().abs_diff(5000) < 100);
        let wire = [b"Received: from a\r\n\tby b\r\n".as_slice(), &mail.content].concat();
        assert_eq!(Marked::find(&wire), Some(mail.marked()));
        let file = String::from_utf8(wire).expect("ASCII").replace("\r\n", "\n");
        assert_eq!(Marked::find_in_file(file.as_bytes()), Some(mail.marked()));
    }

    #[test]
    fn a_changed_octet_changes_the_hash() {
        let mail = Mail::generate("a.1", 500, Body::EightBit, "", &[]);
        let mut changed = mail.content.clone();
        changed[300] ^= 1;
        assert_ne!(Marked::find(&changed), Some(mail.marked()));
    }
}

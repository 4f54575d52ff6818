//! What the intake wants to know of a header while it streams by: `Received:` lines and the `Message-ID`.

use memchr::memchr;

const RECEIVED: &[u8] = b"received:";
const MESSAGE_ID: &[u8] = b"message-id:";
/// Longest field name looked for, octets.
const NAME_MAX: usize = MESSAGE_ID.len();
/// Octets of a Message-ID that are kept for the log: the longest line that RFC 5322 §2.1.1 allows, about.
const MESSAGE_ID_MAX: usize = 1000;

/// Looks at a header that comes in any pieces. Behind the empty line nothing is looked at any more.
#[derive(Debug, Default)]
pub(super) struct HeaderScan {
    place: Place,
    hops: u32,
    message_id: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// At the beginning of a line, whose first `known` octets, in lower case, are these.
    Start { name: [u8; NAME_MAX], known: usize, field: Field },
    /// Further on in a line.
    Line(Field),
    /// Behind the header.
    Body,
}

impl Default for Place {
    fn default() -> Self {
        Self::start(Field::Other)
    }
}

impl Place {
    /// The beginning of a line behind one of `field`, which a blank would continue.
    fn start(field: Field) -> Self {
        Self::Start { name: [0; NAME_MAX], known: 0, field }
    }
}

/// What a line belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    /// The first `Message-ID:`.
    MessageId,
    Other,
}

impl HeaderScan {
    /// `Received:` lines so far.
    pub(super) fn hops(&self) -> u32 {
        self.hops
    }

    /// The Message-ID, without blanks around it and with `?` for what does not print; empty when there was none.
    pub(super) fn message_id(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.message_id)
            .chars()
            .filter(|character| !matches!(character, '\r' | '\n'))
            .map(|character| if character.is_control() { '?' } else { character })
            .collect();
        text.trim().to_owned()
    }

    /// The next octets of the content.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = match self.place {
                Place::Body => return,
                Place::Start { name, known, field } => self.start(bytes, name, known, field),
                Place::Line(field) => self.line(bytes, field),
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
    }

    /// One octet at the beginning of a line.
    fn start(&mut self, bytes: &[u8], mut name: [u8; NAME_MAX], known: usize, field: Field) -> usize {
        let Some(&octet) = bytes.first() else {
            return 0;
        };
        match (known, octet) {
            (0, b' ' | b'\t') => self.place = Place::Line(field),
            (0, b'\n') => self.place = Place::Body,
            (1, b'\n') if name.first() == Some(&b'\r') => self.place = Place::Body,
            (_, b'\n') => self.place = Place::start(Field::Other),
            _ => {
                if let Some(place) = name.get_mut(known) {
                    *place = octet.to_ascii_lowercase();
                }
                self.place = self.recognise(name, known + 1);
            }
        }
        1
    }

    fn recognise(&mut self, name: [u8; NAME_MAX], known: usize) -> Place {
        let seen = name.get(..known).unwrap_or(&name);
        if seen == RECEIVED {
            self.hops = self.hops.saturating_add(1);
            return Place::Line(Field::Other);
        }
        if seen == MESSAGE_ID && self.message_id.is_empty() {
            return Place::Line(Field::MessageId);
        }
        if RECEIVED.starts_with(seen) || MESSAGE_ID.starts_with(seen) || seen == b"\r" {
            return Place::Start { name, known, field: Field::Other };
        }
        Place::Line(Field::Other)
    }

    /// The rest of a line, or as much of it as is there.
    fn line(&mut self, bytes: &[u8], field: Field) -> usize {
        let end = memchr(b'\n', bytes);
        let used = end.map_or(bytes.len(), |end| end + 1);
        if field == Field::MessageId {
            let room = MESSAGE_ID_MAX.saturating_sub(self.message_id.len());
            self.message_id.extend_from_slice(bytes.get(..used.min(room)).unwrap_or_default());
        }
        if end.is_some() {
            self.place = Place::start(field);
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &[u8], step: usize) -> (u32, String) {
        let mut scan = HeaderScan::default();
        text.chunks(step).for_each(|piece| scan.push(piece));
        (scan.hops(), scan.message_id())
    }

    #[test]
    fn hops_and_the_message_id_are_found_at_every_split() {
        let text =
            b"RECEIVED: from a\r\n\tby b\r\nX-Received: no\r\nreceived : no\r\nMessage-Id:\r\n <one@example>\r\n\
            Received: c\r\nMessage-ID: <two@example>\r\n\r\nReceived: in the body\r\n";
        for step in 1..=text.len() {
            assert_eq!(scan(text, step), (2, "<one@example>".to_owned()), "in pieces of {step}");
        }
    }

    #[test]
    fn a_message_id_cannot_forge_a_log_line_or_grow() {
        let mut text = b"Message-ID: <a\x1b[2J\0b>\r\n\r\n".to_vec();
        assert_eq!(scan(&text, 3).1, "<a?[2J?b>");
        text = b"Message-ID: <".to_vec();
        text.resize(100_000, b'x');
        assert!(scan(&text, 1000).1.len() <= MESSAGE_ID_MAX);
    }

    #[test]
    fn a_content_without_a_header_has_neither() {
        assert_eq!(scan(b"\r\nReceived: x\r\n", 1), (0, String::new()));
        assert_eq!(scan(b"", 1), (0, String::new()));
        assert_eq!(scan(b"\nReceived: x\r\n", 1), (0, String::new()));
    }
}

//! What the intake wants to know of a header while it streams by: `Received:` lines, and the values of a few fields.

use std::sync::Arc;

use memchr::memchr;

const RECEIVED: &[u8] = b"received:";
const MESSAGE_ID: &[u8] = b"message-id:";
const LIST_ID: &[u8] = b"list-id:";
const PRIORITY: &[u8] = b"mt-priority:";
/// Octets of a value that are kept: the longest line that RFC 5322 §2.1.1 allows, about.
const VALUE_MAX: usize = 1000;

/// Looks at a header that comes in any pieces. Behind the empty line nothing is looked at any more.
#[derive(Debug, Default)]
pub(super) struct HeaderScan {
    place: Place,
    /// The first octets of the present line, in lower case, while they may become a name that is looked for.
    name: Vec<u8>,
    /// A further field to keep, in lower case with its colon.
    wanted: Option<Arc<str>>,
    hops: u32,
    values: [Vec<u8>; FIELDS],
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the name at the beginning of a line; a blank would continue `field`.
    Name(Field),
    /// Further on in a line.
    Line(Field),
    /// Behind the header.
    Body,
}

impl Default for Place {
    fn default() -> Self {
        Self::Name(Field::Other)
    }
}

/// What a line belongs to: the first field of each name is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    MessageId,
    ListId,
    Priority,
    Wanted,
    Other,
}

/// Fields that are kept.
const FIELDS: usize = Field::Other as usize;

impl HeaderScan {
    /// Keeps the value of the field `wanted` too, whose name is in lower case and ends in a colon.
    pub(super) fn new(wanted: Option<Arc<str>>) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// `Received:` lines so far.
    pub(super) fn hops(&self) -> u32 {
        self.hops
    }

    /// The Message-ID, without blanks around it and with `?` for what does not print; empty when there was none.
    pub(super) fn message_id(&self) -> String {
        self.value(Field::MessageId)
    }

    /// What stands between the brackets of the List-Id (RFC 2919), or the whole of it; empty when there was none.
    pub(super) fn list_id(&self) -> String {
        let value = self.value(Field::ListId);
        let inside = value.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(inside, _)| inside.trim());
        inside.map_or_else(|| value.clone(), str::to_owned)
    }

    /// The MT-Priority (RFC 6758), if there is one that is in order.
    pub(super) fn priority(&self) -> Option<i8> {
        let value = self.value(Field::Priority);
        // A comment may follow.
        let number = value.split([' ', '(']).next().unwrap_or_default();
        zrelay_wire::mt_priority(number)
    }

    /// The value of the further field; empty when there was none.
    pub(super) fn wanted(&self) -> String {
        self.value(Field::Wanted)
    }

    fn value(&self, field: Field) -> String {
        let octets = self.values.get(field as usize).map(Vec::as_slice).unwrap_or_default();
        let text: String = String::from_utf8_lossy(octets)
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
                Place::Name(field) => self.name(bytes, field),
                Place::Line(field) => self.line(bytes, field),
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
    }

    /// One octet at the beginning of a line.
    fn name(&mut self, bytes: &[u8], field: Field) -> usize {
        let Some(&octet) = bytes.first() else {
            return 0;
        };
        match (self.name.len(), octet) {
            (0, b' ' | b'\t') => self.place = Place::Line(field),
            (0, b'\n') => self.place = Place::Body,
            (1, b'\n') if self.name == b"\r" => self.place = Place::Body,
            (_, b'\n') => self.begin_line(Field::Other),
            _ => {
                self.name.push(octet.to_ascii_lowercase());
                self.place = self.recognise();
            }
        }
        1
    }

    fn begin_line(&mut self, field: Field) {
        self.name.clear();
        self.place = Place::Name(field);
    }

    fn recognise(&mut self) -> Place {
        let wanted = self.wanted.as_deref().unwrap_or_default().as_bytes();
        let names = [
            (MESSAGE_ID, Field::MessageId),
            (LIST_ID, Field::ListId),
            (PRIORITY, Field::Priority),
            (wanted, Field::Wanted),
        ];
        let seen = self.name.as_slice();
        if seen == RECEIVED {
            self.hops = self.hops.saturating_add(1);
            return Place::Line(Field::Other);
        }
        // What was configured comes last, so that it can be one of the others.
        let found = names.iter().rev().find(|(name, _)| *name == seen).map(|(_, field)| *field);
        if let Some(field) = found {
            let first = self.values.get(field as usize).is_some_and(Vec::is_empty);
            return Place::Line(if first { field } else { Field::Other });
        }
        let begins = |name: &[u8]| name.starts_with(seen);
        if begins(RECEIVED) || names.iter().any(|(name, _)| begins(name)) || seen == b"\r" {
            return Place::Name(Field::Other);
        }
        Place::Line(Field::Other)
    }

    /// The rest of a line, or as much of it as is there.
    fn line(&mut self, bytes: &[u8], field: Field) -> usize {
        let end = memchr(b'\n', bytes);
        let used = end.map_or(bytes.len(), |end| end + 1);
        if let Some(value) = self.values.get_mut(field as usize) {
            let room = VALUE_MAX.saturating_sub(value.len());
            value.extend_from_slice(bytes.get(..used.min(room)).unwrap_or_default());
        }
        if end.is_some() {
            self.begin_line(field);
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: &[u8], step: usize) -> HeaderScan {
        let mut scan = HeaderScan::new(Some("x-campaign:".into()));
        text.chunks(step).for_each(|piece| scan.push(piece));
        scan
    }

    fn scan(text: &[u8], step: usize) -> (u32, String) {
        let scan = scanned(text, step);
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
    fn list_priority_and_the_configured_field_are_found_at_every_split() {
        let text =
            b"List-Id: The \"talk\" list\r\n <talk.lists.example>\r\nX-Campaign-Other: no\r\nMT-Priority: -3 (low)\r\n\
            X-CAMPAIGN:  spring \r\nList-Id: <other>\r\n\r\nX-Campaign: body\r\n";
        for step in 1..=text.len() {
            let scan = scanned(text, step);
            assert_eq!(scan.list_id(), "talk.lists.example");
            assert_eq!((scan.priority(), scan.wanted()), (Some(-3), "spring".to_owned()), "in pieces of {step}");
        }
        let scan = scanned(b"MT-Priority: 12\r\nList-Id: plain.example\r\n\r\n", 7);
        assert_eq!((scan.priority(), scan.list_id(), scan.wanted()), (None, "plain.example".to_owned(), String::new()));
    }

    #[test]
    fn a_message_id_cannot_forge_a_log_line_or_grow() {
        let mut text = b"Message-ID: <a\x1b[2J\0b>\r\n\r\n".to_vec();
        assert_eq!(scan(&text, 3).1, "<a?[2J?b>");
        text = b"Message-ID: <".to_vec();
        text.resize(100_000, b'x');
        assert!(scan(&text, 1000).1.len() <= VALUE_MAX);
    }

    #[test]
    fn a_content_without_a_header_has_neither() {
        assert_eq!(scan(b"\r\nReceived: x\r\n", 1), (0, String::new()));
        assert_eq!(scan(b"", 1), (0, String::new()));
        assert_eq!(scan(b"\nReceived: x\r\n", 1), (0, String::new()));
    }
}

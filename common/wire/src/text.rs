//! Text that goes into lines: nothing in it may end the line or move a terminal's cursor.

use std::borrow::Cow;

/// Whether `c` separates words of a command line. RFC 5321 has the blank only; tabs are tolerated.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// Whether `octet` has no place in a command line.
pub(crate) fn is_control(octet: u8) -> bool {
    octet.is_ascii_control() && octet != b'\t'
}

/// `text` with a blank for each tab and `?` for every other control.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    // Nearly all text is plain ASCII, of which nothing has to be decoded.
    let is_plain = text.bytes().all(|octet| matches!(octet, b' '..=b'~'));
    if is_plain || !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let clean = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '?',
        c => c,
    };
    Cow::Owned(text.chars().map(clean).collect())
}

/// Appends `text` without anything that could end its line.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|octet| if octet.is_ascii_control() { b'?' } else { octet }));
}

/// Appends `text` without anything that could end its word.
pub(crate) fn push_word(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|octet| if octet.is_ascii_control() || octet == b' ' { b'?' } else { octet }));
}

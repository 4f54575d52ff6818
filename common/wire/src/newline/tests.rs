use proptest::prelude::*;

use super::*;
use crate::testing::every_split;

fn judge(pieces: &[&[u8]]) -> Newlines {
    let mut check = NewlineCheck::new();
    pieces.iter().for_each(|piece| check.push(piece));
    check.report()
}

fn repair(pieces: &[&[u8]]) -> Vec<u8> {
    let mut normaliser = Normaliser::new();
    let mut out = Vec::new();
    pieces.iter().for_each(|piece| normaliser.push(piece, &mut out));
    normaliser.finish(&mut out);
    out
}

#[test]
fn clean_content_is_described() {
    let expected = Newlines { lines: 2, longest_line: 3, ends_with_newline: true, ..Newlines::default() };
    every_split(b"a\r\nbcd\r\n", |pieces| assert_eq!(judge(pieces), expected));
    let expected = Newlines { lines: 1, longest_line: 3, eight_bit: true, nul: true, ..Newlines::default() };
    every_split(b"\r\n\0\xfcx", |pieces| assert_eq!(judge(pieces), expected));
    assert!(judge(&[]).ends_with_newline);
}

#[test]
fn bare_newlines_are_seen_wherever_they_are() {
    for content in ["\n", "\r", "a\nb", "a\rb", "\r\r\n", "\r\n\n", "a\r\n\r", "\n\r\n", "\n\r"] {
        every_split(content.as_bytes(), |pieces| assert!(judge(pieces).bare, "{content:?}"));
    }
    every_split(b"\r\n\r\na\r\n", |pieces| assert!(!judge(pieces).bare));
}

proptest! {
    #[test]
    fn repaired_content_is_clean_and_the_same_at_every_split(content in "[\r\na]{0,30}") {
        let whole = repair(&[content.as_bytes()]);
        let canonical = content.replace("\r\n", "\u{1}").replace(['\r', '\n'], "\u{1}").replace('\u{1}', "\r\n");
        prop_assert_eq!(String::from_utf8_lossy(&whole), canonical.as_str());
        let judged = judge(&[content.as_bytes()]);
        prop_assert_eq!(judged.bare, canonical != content);
        every_split(content.as_bytes(), |pieces| {
            assert_eq!(repair(pieces), whole);
            assert_eq!(judge(pieces), judged);
        });
        let clean = judge(&[&whole]);
        prop_assert!(!clean.bare);
        prop_assert_eq!(clean.lines, canonical.matches("\r\n").count() as u64);
        prop_assert_eq!(clean.longest_line, canonical.split("\r\n").map(str::len).max().unwrap_or(0) as u64);
    }
}

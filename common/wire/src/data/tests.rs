use proptest::prelude::*;

use super::*;
use crate::testing::every_split;
use crate::{NewlineCheck, Normaliser};

struct Decoded {
    content: Vec<u8>,
    consumed: usize,
    ended: bool,
    bare: bool,
}

fn decode(policy: BareNewline, pieces: &[&[u8]]) -> Decoded {
    let mut decoder = DotDecoder::new(policy);
    let mut decoded = Decoded { content: Vec::new(), consumed: 0, ended: false, bare: false };
    for piece in pieces {
        let (consumed, progress) = decoder.push(piece, &mut decoded.content);
        assert!(consumed == piece.len() || progress == Progress::End);
        decoded.consumed += consumed;
        decoded.ended = progress == Progress::End;
    }
    decoded.bare = decoder.bare();
    decoded
}

fn stuff(pieces: &[&[u8]]) -> Vec<u8> {
    let mut stuffer = Stuffer::new();
    let mut out = Vec::new();
    for piece in pieces {
        out.extend(stuffer.stuff(piece).collect::<Vec<_>>().concat());
    }
    out.extend_from_slice(stuffer.terminator());
    out
}

/// What the rules of RFC 5321 §4.5.2 say, without any state: `None` as long as the end is missing.
fn oracle(data: &[u8]) -> Option<(Vec<u8>, usize)> {
    let end = if data.starts_with(b".\r\n") { 0 } else { memmem::find(data, b"\r\n.\r\n")? + 2 };
    let mut content = Vec::new();
    for at in 0..end {
        let line_start = at == 0 || data[..at].ends_with(b"\r\n");
        if !(line_start && data[at] == b'.') {
            content.push(data[at]);
        }
    }
    Some((content, end + 3))
}

/// A reader that takes each of CR, LF and CRLF for a line end, to repair what it is given.
fn repaired(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut normaliser = Normaliser::new();
    normaliser.push(content, &mut out);
    normaliser.finish(&mut out);
    out
}

#[test]
fn smuggling_sequences_never_end_the_data() {
    // What one server or another took for the end of data, between the end of a line and smuggled commands.
    const CORPUS: &[(&str, &[u8])] = &[
        ("LF.LF", b"\n.\n"),
        ("LF.CRLF", b"\n.\r\n"),
        ("LF.CR", b"\n.\r"),
        ("CRLF.LF", b"\r\n.\n"),
        ("CRLF.CR", b"\r\n.\r"),
        ("CRLF.CRCRLF", b"\r\n.\r\r\n"),
        ("CR.CR", b"\r.\r"),
        ("CR.CRLF", b"\r.\r\n"),
        ("CR.LF", b"\r.\n"),
        ("CRLF.NUL CRLF", b"\r\n.\0\r\n"),
        ("CRLF NUL.CRLF", b"\r\n\0.\r\n"),
        ("CRLF.blank CRLF", b"\r\n. \r\n"),
        ("LFCR.CRLF", b"\n\r.\r\n"),
        ("CRLF..CRLF", b"\r\n..\r\n"),
        ("CR NUL LF.CRLF", b"\r\0\n.\r\n"),
    ];
    for (name, sequence) in CORPUS {
        for policy in [BareNewline::Refuse, BareNewline::Normalise] {
            let data = [b"a", *sequence, b"MAIL FROM:<evil@example.net>\r\n"].concat();
            every_split(&data, |pieces| {
                let decoded = decode(policy, pieces);
                assert!(!decoded.ended, "{name} ended the data, {policy:?}");
                assert_eq!(decoded.consumed, data.len());
            });
            let complete = [&data, b".\r\nQUIT\r\n".as_slice()].concat();
            let decoded = decode(policy, &[&complete]);
            assert!(decoded.ended && complete[decoded.consumed..] == *b"QUIT\r\n", "{name}, {policy:?}");
            // Whatever was made of it, it leaves in a form that has one end only.
            let out = stuff(&[&repaired(&decoded.content)]);
            assert_eq!(memmem::find_iter(&out, b"\r\n.\r\n").map(|at| at + 5).collect::<Vec<_>>(), [out.len()]);
            assert!(!decode(BareNewline::Refuse, &[&out]).bare);
        }
    }
}

#[test]
fn only_the_true_end_ends() {
    for (data, content) in [
        (b".\r\n".as_slice(), b"".as_slice()),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
        (b"a\r\r\n.\r\n", b"a\r\r\n"),
    ] {
        let behind = [data, b".\r\nRSET"].concat();
        every_split(&behind, |pieces| {
            let decoded = decode(BareNewline::Refuse, pieces);
            assert_eq!((decoded.ended, decoded.consumed, decoded.content.as_slice()), (true, data.len(), content));
        });
    }
}

#[test]
fn normalising_makes_lines_that_are_stuffed_on_their_way_out() {
    let decoded = decode(BareNewline::Normalise, &[b"a\n.\r\nb\rc\n\n..\r\n.\r\n"]);
    assert!(decoded.ended && decoded.bare);
    assert_eq!(decoded.content, b"a\r\n.\r\nb\r\nc\r\n\r\n..\r\n");
    let out = stuff(&[&decoded.content]);
    assert_eq!(out, b"a\r\n..\r\nb\r\nc\r\n\r\n...\r\n.\r\n");
    assert_eq!(decode(BareNewline::Refuse, &[&out]).content, decoded.content);
}

#[test]
fn the_terminator_completes_the_last_line() {
    for (body, terminator) in [
        (b"".as_slice(), b".\r\n".as_slice()),
        (b"a", b"\r\n.\r\n"),
        (b"a\r\n", b".\r\n"),
        (b"a\r", b"\r\n.\r\n"),
        (b"a\n", b"\r\n.\r\n"),
    ] {
        every_split(body, |pieces| {
            let mut stuffer = Stuffer::new();
            pieces.iter().for_each(|piece| stuffer.stuff(piece).for_each(drop));
            assert_eq!(stuffer.terminator(), terminator, "{body:?}");
        });
    }
}

#[test]
fn stuffing_copies_nothing() {
    let body = b".a\r\n.b\r\nc".as_slice();
    let pieces: Vec<&[u8]> = Stuffer::new().stuff(body).collect();
    assert_eq!(pieces, [b".".as_slice(), b".a\r\n", b".", b".b\r\nc"]);
    assert!(std::ptr::eq(pieces[1].as_ptr(), body.as_ptr()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn stuffing_and_decoding_gives_the_body_back_at_every_split(
        lines in prop::collection::vec(prop::sample::select(vec!["\r\n", ".", "a", ".\r\n", "a\r\n"]), 0..12),
    ) {
        let mut body = lines.concat().into_bytes();
        if !body.is_empty() && !body.ends_with(b"\r\n") {
            body.extend_from_slice(b"\r\n");
        }
        let stuffed = stuff(&[&body]);
        prop_assert_eq!(dot_stuff([body.as_slice()].into_iter()).collect::<Vec<_>>().concat(), stuffed.clone());
        every_split(&body, |pieces| {
            assert_eq!(stuff(pieces), stuffed);
            assert_eq!(dot_stuff(pieces.iter().copied()).collect::<Vec<_>>().concat(), stuffed);
        });
        every_split(&stuffed, |pieces| {
            for policy in [BareNewline::Refuse, BareNewline::Normalise] {
                let decoded = decode(policy, pieces);
                assert!(decoded.ended && !decoded.bare);
                assert_eq!((&decoded.content, decoded.consumed), (&body, stuffed.len()));
            }
        });
    }

    #[test]
    fn any_data_is_decoded_as_the_rules_say_at_every_split(data in "[\r\n.a]{0,14}(\r\n\\.\r\n)?[\r\n.a]{0,4}") {
        let data = data.as_bytes();
        let expected = oracle(data);
        every_split(data, |pieces| {
            let decoded = decode(BareNewline::Refuse, pieces);
            match &expected {
                Some((content, consumed)) => {
                    assert_eq!((decoded.ended, &decoded.content, decoded.consumed), (true, content, *consumed));
                    let mut check = NewlineCheck::new();
                    check.push(content);
                    assert_eq!(decoded.bare, check.report().bare);
                }
                None => assert!(!decoded.ended && decoded.consumed == data.len()),
            }
            let normalised = decode(BareNewline::Normalise, pieces);
            assert_eq!((normalised.ended, normalised.bare), (decoded.ended, decoded.bare));
            if decoded.ended {
                assert_eq!(normalised.content, repaired(&decoded.content));
            }
        });
    }
}

//! Any octets as the data of DATA, cut anywhere, beside an oracle without state; and as a body to stuff.
//!
//! The first octet says where the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zrelay_wire::{BareNewline, DotDecoder, NewlineCheck, Normaliser, Progress, Stuffer, dot_stuff};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, data)) = input.split_first() else { return };
    let pieces: Vec<&[u8]> = data.chunks(usize::from(cut) + 1).collect();
    decoding(data, &pieces);
    stuffing(data, &pieces);
});

fn decode(policy: BareNewline, pieces: &[&[u8]]) -> (Vec<u8>, Option<usize>, bool) {
    let mut decoder = DotDecoder::new(policy);
    let (mut content, mut consumed) = (Vec::new(), 0);
    for piece in pieces {
        let (taken, progress) = decoder.push(piece, &mut content);
        consumed += taken;
        if progress == Progress::End {
            return (content, Some(consumed), decoder.bare());
        }
        assert_eq!(taken, piece.len());
    }
    (content, None, decoder.bare())
}

fn decoding(data: &[u8], pieces: &[&[u8]]) {
    let (content, end, bare) = decode(BareNewline::Refuse, pieces);
    let (normalised, normalised_end, normalised_bare) = decode(BareNewline::Normalise, pieces);
    assert_eq!((normalised_end, normalised_bare), (end, bare));
    let expected = expected_end(data);
    assert_eq!(end, expected);
    let Some(end) = end else { return };
    assert_eq!(content, unstuffed(&data[..end - 3]));
    assert_eq!(normalised, repaired(&[&content]));
    let mut check = NewlineCheck::new();
    check.push(&content);
    assert_eq!(check.report().bare, bare);
}

/// Behind the first CRLF.CRLF, DATA's own CRLF standing in front of the data.
fn expected_end(data: &[u8]) -> Option<usize> {
    let framed = [b"\r\n", data].concat();
    framed.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 3)
}

fn unstuffed(data: &[u8]) -> Vec<u8> {
    let line_start = |at: usize| at == 0 || data[..at].ends_with(b"\r\n");
    data.iter().enumerate().filter(|(at, octet)| **octet != b'.' || !line_start(*at)).map(|(_, octet)| *octet).collect()
}

fn repaired(pieces: &[&[u8]]) -> Vec<u8> {
    let mut normaliser = Normaliser::new();
    let mut out = Vec::new();
    pieces.iter().for_each(|piece| normaliser.push(piece, &mut out));
    normaliser.finish(&mut out);
    out
}

fn stuffing(body: &[u8], pieces: &[&[u8]]) {
    let mut stuffer = Stuffer::new();
    let mut stuffed = Vec::new();
    for piece in pieces {
        stuffer.stuff(piece).for_each(|slice| stuffed.extend_from_slice(slice));
    }
    stuffed.extend_from_slice(stuffer.terminator());
    assert_eq!(stuffed, dot_stuff(std::iter::once(body)).collect::<Vec<_>>().concat());
    let (content, end, _) = decode(BareNewline::Refuse, &[&stuffed]);
    assert_eq!(end, Some(stuffed.len()));
    let line_end: &[u8] = if body.is_empty() || body.ends_with(b"\r\n") { b"" } else { b"\r\n" };
    assert_eq!(content, [body, line_end].concat());

    let clean = repaired(pieces);
    assert_eq!(clean, repaired(&[body]));
    let (mut whole, mut cut) = (NewlineCheck::new(), NewlineCheck::new());
    whole.push(body);
    pieces.iter().for_each(|piece| cut.push(piece));
    assert_eq!(whole.report(), cut.report());
    assert_eq!(whole.report().bare, clean != body);
    let mut check = NewlineCheck::new();
    check.push(&clean);
    assert!(!check.report().bare);
}

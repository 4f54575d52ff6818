//! Any octets as input of a server, cut anywhere, beside an oracle without state.
//!
//! The first octet says where the rest is cut, the second how long lines may be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zrelay_wire::{Line, LineBuffer};

fuzz_target!(|input: &[u8]| {
    let [cut, max, input @ ..] = input else { return };
    let max = usize::from(*max) + 1;
    let mut buffer = LineBuffer::new(max);
    let mut lines = Vec::new();
    for piece in input.chunks(usize::from(*cut) + 1) {
        buffer.push(piece);
        while let Some(line) = buffer.next_line() {
            lines.push(match line {
                Line::Complete(text) => Some(text.to_vec()),
                Line::TooLong => None,
            });
        }
        assert!(buffer.buffered() < max);
    }
    let whole = input.split_inclusive(|octet| *octet == b'\n').filter(|line| line.ends_with(b"\n"));
    let expected: Vec<Option<Vec<u8>>> = whole
        .map(|line| {
            let text = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).unwrap_or(line);
            (line.len() <= max).then(|| text.to_vec())
        })
        .collect();
    assert_eq!(lines, expected);
});

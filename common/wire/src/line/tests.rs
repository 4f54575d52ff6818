use proptest::prelude::*;

use super::*;
use crate::testing::every_split;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Got {
    Line(Vec<u8>),
    TooLong,
}

fn read(max: usize, pieces: &[&[u8]]) -> Vec<Got> {
    let mut buffer = LineBuffer::new(max);
    let mut lines = Vec::new();
    for piece in pieces {
        buffer.push(piece);
        while let Some(line) = buffer.next_line() {
            lines.push(match line {
                Line::Complete(text) => Got::Line(text.to_vec()),
                Line::TooLong => Got::TooLong,
            });
        }
        assert!(buffer.buffered() < max);
    }
    lines
}

#[test]
fn crlf_and_a_bare_lf_end_a_line() {
    let line = |text: &str| Got::Line(text.as_bytes().to_vec());
    assert_eq!(read(LINE_MAX, &[b"EHLO a\r\nNOOP\n\r\n\nQUI"]), [line("EHLO a"), line("NOOP"), line(""), line("")]);
    assert_eq!(read(LINE_MAX, &[b"a\rb\r\r\n"]), [line("a\rb\r")]);
}

#[test]
fn the_limit_counts_the_line_end() {
    assert_eq!(read(6, &[b"abcd\r\n"]), [Got::Line(b"abcd".to_vec())]);
    assert_eq!(read(6, &[b"abcde\r\nx\n"]), [Got::TooLong, Got::Line(b"x".to_vec())]);
    assert_eq!(read(6, &[b"abcde\n"]), [Got::Line(b"abcde".to_vec())]);
}

#[test]
fn a_line_of_100_megabytes_costs_constant_memory_and_is_reported_once() {
    let mut buffer = LineBuffer::default();
    let chunk = vec![b'x'; 64 * 1024];
    for _ in 0..1600 {
        buffer.push(&chunk);
        assert_eq!(buffer.next_line(), None);
        assert_eq!(buffer.buffered(), 0);
    }
    assert!(buffer.buffer.capacity() <= 2 * chunk.len());
    buffer.push(b"xx\r\nQUIT\r\n");
    assert_eq!(buffer.next_line(), Some(Line::TooLong));
    assert_eq!(buffer.next_line(), Some(Line::Complete(b"QUIT")));
    assert_eq!(buffer.next_line(), None);
    buffer.shrink();
    assert!(buffer.buffer.capacity() <= IDLE_CAPACITY);
}

#[test]
fn what_follows_data_can_be_taken_raw() {
    let mut buffer = LineBuffer::default();
    buffer.push(b"BDAT 4\r\na\nb\nRSET\r\n");
    assert_eq!(buffer.next_line(), Some(Line::Complete(b"BDAT 4")));
    assert_eq!(buffer.rest(), b"a\nb\nRSET\r\n");
    buffer.consume(4);
    assert_eq!(buffer.next_line(), Some(Line::Complete(b"RSET")));
    assert_eq!((buffer.rest(), buffer.buffered()), (b"".as_slice(), 0));
    buffer.consume(99);
    buffer.push(b"NOOP\r\n");
    assert_eq!(buffer.next_line(), Some(Line::Complete(b"NOOP")));
}

proptest! {
    #[test]
    fn every_split_gives_the_same_lines(octets in "[ab\r\n]{0,40}", max in 1_usize..12) {
        let expected: Vec<Got> = octets
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| {
                let text = line.strip_suffix('\n').unwrap_or_default();
                let text = text.strip_suffix('\r').unwrap_or(text);
                if line.len() > max { Got::TooLong } else { Got::Line(text.as_bytes().to_vec()) }
            })
            .collect();
        let mut results = vec![read(max, &[octets.as_bytes()])];
        every_split(octets.as_bytes(), |pieces| results.push(read(max, pieces)));
        for result in results {
            prop_assert_eq!(&result, &expected);
        }
    }
}

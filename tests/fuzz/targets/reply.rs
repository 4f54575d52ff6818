//! Any octets as replies, cut anywhere: the same replies come out, harmless and bounded, and survive being written.
//!
//! The first octet says where the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zrelay_wire::{INPUT_LINES_MAX, Reply, ReplyError, ReplyParser};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, input)) = input.split_first() else { return };
    let pieces: Vec<&[u8]> = input.chunks(usize::from(cut) + 1).collect();
    let (replies, end) = read(&pieces);
    assert_eq!((&replies, end), (&read(&[input]).0, read(&[input]).1));
    for reply in replies {
        harmless(&reply);
        let mut written = Vec::new();
        reply.encode(&mut written);
        let (again, end) = read(&[&written]);
        assert_eq!((again.len(), end), (1, Ok(0)));
        assert_eq!(again[0].code, reply.code);
        assert!(reply.status.is_none() || again[0].status == reply.status);
    }
});

fn read(pieces: &[&[u8]]) -> (Vec<Reply>, Result<usize, ReplyError>) {
    let mut parser = ReplyParser::new();
    let mut replies = Vec::new();
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.next() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => return (replies, Err(error)),
            }
        }
    }
    (replies, Ok(parser.buffered()))
}

fn harmless(reply: &Reply) {
    assert!((200..=599).contains(&reply.code));
    assert!((1..=INPUT_LINES_MAX).contains(&reply.lines.len()));
    assert!(!reply.to_string().contains(char::is_control));
    assert!(reply.status.is_none_or(|status| u16::from(status.0) == reply.code / 100));
}

use proptest::prelude::*;

use super::*;
use crate::testing::every_split;

/// All replies of the pieces, then how it ended.
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

fn one(input: &str) -> Reply {
    match read(&[input.as_bytes()]) {
        (mut replies, Ok(0)) if replies.len() == 1 => replies.remove(0),
        other => panic!("{input:?}: {other:?}"),
    }
}

fn error(input: &[u8]) -> ReplyError {
    let (_, end) = read(&[input]);
    end.expect_err("no error")
}

#[test]
fn replies_of_real_servers_are_read() {
    let postfix = one("250 2.0.0 Ok: 563 bytes queued as 4XYZ\r\n");
    assert_eq!((postfix.code, postfix.status), (250, Some(Status(2, 0, 0))));
    assert_eq!(postfix.lines, ["Ok: 563 bytes queued as 4XYZ"]);
    let exim = one("250- 563 byte chunk, total 563\r\n250 OK id=1abc\r\n");
    assert_eq!((exim.status, exim.text().as_str()), (None, " 563 byte chunk, total 563 OK id=1abc"));
    let gmail = one("550-5.1.1 The account does not exist.\r\n550-5.1.1 Learn more\r\n550 5.1.1  x - gsmtp\r\n");
    assert_eq!(gmail.status, Some(Status(5, 1, 1)));
    assert_eq!(gmail.lines, ["The account does not exist.", "Learn more", " x - gsmtp"]);
}

#[test]
fn oddities_are_tolerated() {
    assert_eq!(one("250\r\n"), Reply::plain(250, ""));
    assert_eq!(one("354\r\n"), Reply::plain(354, ""));
    assert_eq!(one("250 \r\n"), Reply::plain(250, ""));
    assert_eq!(one("250 ok\n"), Reply::plain(250, "ok"));
    assert_eq!(one("250 ok\r\r\n"), Reply::plain(250, "ok"));
    assert_eq!(one("250-a\n250\n").lines, ["a", ""]);
    assert_eq!(one("250 2.1.0\r\n").status, Some(Status(2, 1, 0)));
}

#[test]
fn an_enhanced_code_counts_only_in_its_class() {
    assert_eq!(one("250 5.1.1 odd\r\n"), Reply::plain(250, "5.1.1 odd"));
    assert_eq!(one("550 5.1.1x odd\r\n"), Reply::plain(550, "5.1.1x odd"));
    assert_eq!(one("550 5.1 odd\r\n"), Reply::plain(550, "5.1 odd"));
    assert_eq!(one("550 5.1234.1 odd\r\n"), Reply::plain(550, "5.1234.1 odd"));
    let mixed = one("550-see\r\n550-5.7.1 no\r\n550 5.7.2 never\r\n");
    assert_eq!((mixed.status, mixed.text().as_str()), (Some(Status(5, 7, 1)), "see no 5.7.2 never"));
}

#[test]
fn text_is_made_harmless() {
    assert_eq!(one("250 a\0b\x1b[2Jc\rd\te\r\n").text(), "a?b?[2Jc?d e");
    let (replies, _) = read(&[b"250 \xff\xc2\x85\r\n"]);
    assert_eq!(replies[0].text(), "\u{fffd}?");
}

#[test]
fn what_is_no_reply_is_an_error() {
    for input in
        ["\r\n", "25\r\n", "2500 x\r\n", "250x\r\n", "abc\r\n", "199 x\r\n", "600 x\r\n", "099 x\r\n", " 250 x\r\n"]
    {
        assert_eq!(error(input.as_bytes()), ReplyError::Malformed, "{input:?}");
    }
    assert_eq!(error(b"250-a\r\n251 b\r\n"), ReplyError::MixedCodes);
    assert_eq!(error(b"250-a\r\nx\r\n"), ReplyError::Malformed);
}

#[test]
fn an_error_stays_and_takes_no_more_memory() {
    let mut parser = ReplyParser::new();
    parser.push(b"hello\r\n");
    assert_eq!(parser.next(), Err(ReplyError::Malformed));
    parser.push(b"250 ok\r\n");
    assert_eq!((parser.next(), parser.buffered()), (Err(ReplyError::Malformed), 0));
}

#[test]
fn size_is_bounded_in_every_direction() {
    let line = |length: usize| format!("250 {}\r\n", "x".repeat(length - 4));
    assert_eq!(one(&line(INPUT_LINE_MAX)).text().len(), INPUT_LINE_MAX - 4);
    assert_eq!(error(line(INPUT_LINE_MAX + 1).as_bytes()), ReplyError::LineTooLong);
    assert_eq!(error(&vec![b'2'; INPUT_LINE_MAX + 2]), ReplyError::LineTooLong);
    let lines = |count: usize| "250-x\r\n".repeat(count - 1) + "250 x\r\n";
    assert_eq!(one(&lines(INPUT_LINES_MAX)).lines.len(), INPUT_LINES_MAX);
    assert_eq!(error(lines(INPUT_LINES_MAX + 1).as_bytes()), ReplyError::TooManyLines);
    let large = format!("250-{}\r\n", "x".repeat(1000)).repeat(70);
    assert_eq!(error(large.as_bytes()), ReplyError::TooLong);
}

#[test]
fn octets_of_an_unfinished_reply_are_buffered_ones() {
    let mut parser = ReplyParser::new();
    parser.push(b"220 go\r\n250-ab\r\n25");
    assert!(matches!(parser.next(), Ok(Some(_))));
    assert_eq!(parser.buffered(), 10);
    assert_eq!(parser.next(), Ok(None));
    assert_eq!(parser.buffered(), 10);
    parser.push(b"0 c\r\n");
    assert!(matches!(parser.next(), Ok(Some(_))));
    assert_eq!(parser.buffered(), 0);
}

fn reply() -> impl Strategy<Value = Reply> {
    let line = "([ -~]|ü|漢){0,40}";
    let status = prop::option::of((0_u16..1000, 0_u16..1000));
    (200_u16..600, status, prop::collection::vec(line, 1..6)).prop_map(|(code, status, mut lines)| {
        let class = u8::try_from(code / 100).unwrap_or_default();
        let status = status.filter(|_| class != 3).map(|(subject, detail)| Status(class, subject, detail));
        if status.is_none() {
            // Text must not look like an enhanced code.
            lines.iter_mut().for_each(|line| line.insert(0, 'x'));
        }
        Reply { code, status, lines }
    })
}

proptest! {
    #[test]
    fn replies_written_and_parsed_are_themselves_at_every_split(replies in prop::collection::vec(reply(), 1..4)) {
        let mut octets = Vec::new();
        replies.iter().for_each(|reply| reply.encode(&mut octets));
        let mut results = Vec::new();
        every_split(&octets, |pieces| results.push(read(pieces)));
        for result in results {
            prop_assert_eq!(&result, &(replies.clone(), Ok(0)));
        }
    }

    #[test]
    fn any_octets_give_the_same_at_every_split(octets in "([0-9 .\r\n-]|250 |250-|5\\.1\\.1 |\r\n|[\0-\u{ff}]){0,40}") {
        let whole = read(&[octets.as_bytes()]);
        let mut results = Vec::new();
        every_split(octets.as_bytes(), |pieces| results.push(read(pieces)));
        for result in results {
            prop_assert_eq!(&result, &whole);
        }
    }

    #[test]
    fn what_is_parsed_can_be_written_and_stays(octets in "(25[01][ -](2\\.0\\.0|2\\.1\\.5 |a|\u{1}|ü| ){0,4}\r?\n){1,4}") {
        let (replies, _) = read(&[octets.as_bytes()]);
        for reply in replies {
            let mut written = Vec::new();
            reply.encode(&mut written);
            let (again, _) = read(&[&written]);
            prop_assert_eq!(again.len(), 1);
            prop_assert_eq!(again[0].code, reply.code);
        }
    }
}

#[test]
fn a_recycled_reply_leaves_nothing_in_the_next() {
    let mut parser = ReplyParser::new();
    let mut seen = Vec::new();
    parser.push(b"250-first line\r\n250 second line\r\n550 5.1.1 no\r\n250-a\r\n250-b\r\n250 c\r\n250\r\n");
    while let Some(reply) = parser.next().expect("replies") {
        seen.push((reply.code, reply.status, reply.lines.clone()));
        parser.recycle(reply);
    }
    let lines = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        seen,
        [
            (250, None, lines(&["first line", "second line"])),
            (550, Some(Status(5, 1, 1)), lines(&["no"])),
            (250, None, lines(&["a", "b", "c"])),
            (250, None, lines(&[""])),
        ]
    );
}

use super::*;

fn encoded(reply: &Reply) -> String {
    let mut out = Vec::new();
    reply.encode(&mut out);
    String::from_utf8(out).unwrap_or_default()
}

#[test]
fn code_and_enhanced_code_are_on_every_line() {
    assert_eq!(encoded(&Reply::new(250, Status(2, 0, 0), "Ok")), "250 2.0.0 Ok\r\n");
    assert_eq!(encoded(&Reply::plain(354, "go on")), "354 go on\r\n");
    let mut reply = Reply::multiline(550, vec!["one".to_owned(), String::new(), "two".to_owned()]);
    assert_eq!(encoded(&reply), "550-one\r\n550-\r\n550 two\r\n");
    reply.status = Some(Status(5, 7, 1));
    assert_eq!(encoded(&reply), "550-5.7.1 one\r\n550-5.7.1\r\n550 5.7.1 two\r\n");
    assert_eq!(reply.to_string(), "550 5.7.1 one two");
    assert_eq!(reply.text(), "one  two");
}

#[test]
fn a_reply_without_lines_is_written_as_one() {
    assert_eq!(encoded(&Reply { code: 250, status: None, lines: Vec::new() }), "250 \r\n");
}

#[test]
fn text_cannot_end_its_line() {
    let reply = Reply { code: 250, status: None, lines: vec!["a\r\n550 b\0\tc".to_owned()] };
    assert_eq!(encoded(&reply), "250 a??550 b??c\r\n");
    assert_eq!(reply.to_string(), "250 a??550 b? c");
    assert_eq!(Reply::plain(250, "a\nb\u{85}").lines, ["a?b?"]);
}

#[test]
fn long_text_is_cut_between_characters() {
    let line = encoded(&Reply::new(550, Status(5, 1, 1), "ü".repeat(600)));
    assert!(line.len() >= REPLY_LINE_MAX - 1 && line.len() <= REPLY_LINE_MAX, "{}", line.len());
    assert!(line.ends_with("ü\r\n"));
}

#[test]
fn the_first_digit_is_the_class() {
    let class = |code| Reply::plain(code, "").class();
    assert_eq!(
        [class(250), class(354), class(421), class(554)],
        [Class::Positive, Class::Intermediate, Class::Transient, Class::Permanent]
    );
}

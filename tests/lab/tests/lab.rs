//! The laboratory itself: a line that is as long, wide and bad as asked for, and a far side that keeps exact books.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use zrelay_lab::{Action, FarSide, FarSideBuilder, Lab, LinkSettings, Offer, Verb, plain};
use zrelay_tests::{Body, Mail, SOON, wait_until};

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

#[test]
fn a_transfer_takes_at_least_the_round_trips_and_the_time_of_the_line() {
    let settings = LinkSettings::new(Duration::from_millis(60), 8_000_000);
    let Some(lab) = Lab::for_test(settings) else { return };
    let receiver = lab.far().run(|| plain::Receiver::start(lab.far_address())).unwrap().unwrap();
    let address = receiver.address();
    let begin = Instant::now();
    lab.near().run(|| plain::send(address, 200_000)).unwrap().unwrap();
    let took = begin.elapsed();

    // Handshake, and half a round trip each for the last octet and the reply; 0.2 s of line.
    assert!(took >= Duration::from_millis(60 + 60 + 200), "{took:?}");
    let transfer = receiver.finish().unwrap();
    assert_eq!(transfer.curve.total, 200_000);
    let [forth, back] = lab.reports();
    assert!(forth.octets > 200_000 && back.packets > 0, "{forth:?} {back:?}");
    assert_eq!((forth.lost, forth.dropped), (0, 0));
}

#[test]
fn a_line_that_loses_packets_and_has_a_short_queue_still_carries_everything() {
    let settings = LinkSettings { loss: 0.05, queue: 8000, ..LinkSettings::new(Duration::from_millis(4), 8_000_000) };
    let Some(lab) = Lab::for_test(settings) else { return };
    let receiver = lab.far().run(|| plain::Receiver::start(lab.far_address())).unwrap().unwrap();
    let address = receiver.address();
    lab.near().run(|| plain::send(address, 300_000)).unwrap().unwrap();

    assert_eq!(receiver.finish().unwrap().curve.total, 300_000);
    let [forth, _] = lab.reports();
    assert!(forth.lost > 0 && forth.dropped > 0, "{forth:?}");
}

/// Sends all of this at once and returns all that comes until the far side closes.
fn talk(far: &FarSide, text: &str) -> String {
    talk_octets(far.address(), text.as_bytes())
}

fn talk_octets(address: SocketAddr, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // The far side may have closed already, which is what some tests want.
    let _what_comes_counts = stream.write_all(octets);
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        said.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// EHLO alone, as the rules ask for, and then the rest.
fn talk_politely(far: &FarSide, text: &str) -> String {
    let mut stream = TcpStream::connect(far.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"EHLO test\r\n").unwrap();
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&said).contains("250 ENHANCEDSTATUSCODES") {
        let count = stream.read(&mut buffer).unwrap();
        said.extend_from_slice(&buffer[..count]);
    }
    said.clear();
    stream.write_all(text.as_bytes()).unwrap();
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        said.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn codes(replies: &str) -> Vec<&str> {
    replies.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).map(|line| &line[..3]).collect()
}

fn mail(mark: &str) -> Mail {
    Mail::generate(mark, 600, Body::Text, "s@a.test", &["r@b.test"])
}

fn bdat(mail: &Mail, recipients: &[&str]) -> String {
    let rcpts: String = recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>\r\n")).collect();
    let content = String::from_utf8(mail.content.clone()).unwrap();
    format!("MAIL FROM:<{}>\r\n{rcpts}BDAT {} LAST\r\n{content}", mail.sender, content.len())
}

fn far(builder: FarSideBuilder) -> FarSide {
    builder.start(LOOPBACK).unwrap()
}

#[test]
fn streamed_transactions_are_booked_with_every_recipient_and_the_hash_of_the_body() {
    let far = far(FarSide::build());
    let (one, two) = (mail("m.1"), mail("m.2"));
    let text = format!("{}RSET\r\n{}QUIT\r\n", bdat(&one, &["a@b.test", "b@b.test"]), bdat(&two, &["a@b.test"]));

    let said = talk_politely(&far, &text);

    assert_eq!(codes(&said), ["250", "250", "250", "250", "250", "250", "250", "250", "221"]);
    assert!(wait_until(SOON, || far.books().finals.len() == 2));
    let books = far.books();
    let booked: Vec<_> = books.deliveries.iter().map(|it| (it.mark.as_str(), it.hash, it.recipient.as_str())).collect();
    let (first, second) = (one.marked().hash, two.marked().hash);
    assert_eq!(booked, [("m.1", first, "a@b.test"), ("m.1", first, "b@b.test"), ("m.2", second, "a@b.test")]);
    assert!(books.violations.is_empty(), "{:?}", books.violations);
    assert_eq!(books.sessions[0].messages, 2);
}

#[test]
fn what_was_not_offered_is_a_violation() {
    let far = far(FarSide::build().offers(&[]));
    let said = talk_politely(&far, &format!("{}QUIT\r\n", bdat(&mail("m.1"), &["a@b.test"])));
    assert_eq!(codes(&said).last(), Some(&"502"), "{said}");
    let violations = far.books().violations.join("\n");
    assert!(violations.contains("PIPELINING is not offered") && violations.contains("BDAT"), "{violations}");
    assert!(far.books().deliveries.is_empty());
}

#[test]
fn octets_behind_ehlo_are_a_violation() {
    let far = far(FarSide::build());
    talk(&far, "EHLO test\r\nMAIL FROM:<>\r\nQUIT\r\n");
    assert!(far.books().violations[0].contains("pipelined behind EHLO"));
}

#[test]
fn limits_are_announced_and_kept() {
    let limits = Offer::Limits { rcptmax: Some(2), mailmax: Some(1) };
    let far = far(FarSide::build().offers(&[Offer::Pipelining, Offer::Chunking, limits]));
    let text = bdat(&mail("m.1"), &["a@b.test", "b@b.test", "c@b.test"]) + "RSET\r\nMAIL FROM:<>\r\nQUIT\r\n";
    let said = talk_politely(&far, &text);
    assert_eq!(codes(&said), ["250", "250", "250", "452", "250", "250", "421", "221"]);
    assert_eq!(far.books().deliveries.len(), 2);
}

#[test]
fn a_connection_closed_within_a_chunk_delivers_nothing() {
    let script = |moment: &zrelay_lab::Moment<'_>| match (moment.verb, moment.count) {
        (Verb::Bdat, 1) => Action::CloseWithin(100),
        _ => Action::Usual,
    };
    let far = far(FarSide::build().script(script));
    let text = bdat(&mail("m.1"), &["a@b.test"]) + &bdat(&mail("m.2"), &["a@b.test"]);
    talk_politely(&far, &text);
    let books = far.books();
    let marks: Vec<_> = books.deliveries.iter().map(|it| it.mark.as_str()).collect();
    assert_eq!(marks, ["m.1"]);
}

#[test]
fn a_script_rejects_garbles_and_delays() {
    let script = |moment: &zrelay_lab::Moment<'_>| match (moment.verb, moment.count, moment.line) {
        (Verb::Rcpt, _, "RCPT TO:<bad@b.test>") => Action::Say("550 5.1.1 no".to_owned()),
        (Verb::End, 0, _) => Action::Delay(Duration::from_millis(30)),
        (Verb::Mail, 1, _) => Action::Garbage(b"\0\xff\r\n".to_vec()),
        _ => Action::Usual,
    };
    let far = far(FarSide::build().script(script));
    let text = bdat(&mail("m.1"), &["good@b.test", "bad@b.test"]) + "MAIL FROM:<>\r\nQUIT\r\n";
    let said = talk_politely(&far, &text);
    assert!(said.contains("550 5.1.1 no\r\n250 2.0.0 accepted\r\n\0\u{fffd}\r\n221"), "{said:?}");
    let books = far.books();
    assert_eq!(books.deliveries.len(), 1);
    assert!(books.sessions[0].busy >= Duration::from_millis(30), "the client waited");
}

#[test]
fn a_chunk_without_recipients_is_swallowed_and_refused() {
    let far = far(FarSide::build());
    let said = talk_politely(&far, "MAIL FROM:<>\r\nBDAT 6 LAST\r\nQUIT\r\nRSET\r\nQUIT\r\n");
    assert_eq!(codes(&said), ["250", "503", "250", "221"]);
}

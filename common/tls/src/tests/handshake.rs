//! Octets in, octets out.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[test]
fn plain_octets_pass_both_ways_whatever_the_pieces() {
    let host = Host::new(&["mx.example.net"]);
    for step in [1, 7, 1000, usize::MAX] {
        let mut client = End::new(host.client().session("mx.example.net", Policy::Verify).unwrap());
        let mut server = End::new(host.server().session().unwrap());
        exchange(&mut client, &mut server, step);
        assert_eq!((client.result.clone(), client.session.verdict()), (Ok(Progress::Open), Ok(())));
        client.say(b"EHLO hub.example.org\r\n");
        server.say(b"250 mx.example.net\r\n");
        exchange(&mut client, &mut server, step);
        assert_eq!(server.plain, b"EHLO hub.example.org\r\n");
        assert_eq!(client.plain, b"250 mx.example.net\r\n");
    }
}

#[test]
fn nothing_is_taken_or_sent_before_the_handshake_has_ended() {
    let host = Host::new(&["mx.example.net"]);
    let mut client = End::new(host.client().session("mx.example.net", Policy::May).unwrap());
    let hello = client.out.len();
    assert_eq!(client.session.write(b"secret", &mut client.out), 0);
    assert_eq!(client.out.len(), hello);
    assert_eq!(client.session.verdict(), Err(TlsError::Unfinished));
    assert!(client.session.is_handshaking() && client.session.description().is_empty());
    let mut server = End::new(host.server().session().unwrap());
    assert_eq!(server.session.write(b"220 too early", &mut server.out), 0);
    exchange(&mut client, &mut server, usize::MAX);
    assert!(server.plain.is_empty() && client.plain.is_empty());
}

#[test]
fn a_body_of_many_megabytes_passes_in_bounded_pieces() {
    let host = Host::new(&["mx.example.net"]);
    let (mut client, mut server) = meet(&host.client(), &host.server(), "mx.example.net", Policy::May);
    let body: Vec<u8> = (0_u32..4 << 20).map(|number| (number % 251) as u8).collect();
    let mut rest = &body[..];
    while !rest.is_empty() {
        let taken = client.session.write(rest, &mut client.out);
        assert!((1..=64 * 1024).contains(&taken) && client.out.len() < 80 * 1024, "{taken}");
        rest = &rest[taken..];
        server.feed(&std::mem::take(&mut client.out), 16 * 1024);
    }
    assert!(server.plain == body);
}

#[test]
fn an_end_that_is_said_is_told_from_one_that_is_not() {
    let host = Host::new(&["mx.example.net"]);
    let (mut client, mut server) = meet(&host.client(), &host.server(), "mx.example.net", Policy::May);
    server.say(b"221 bye\r\n");
    exchange(&mut client, &mut server, usize::MAX);
    assert_eq!(client.session.progress(), Ok(Progress::Open));
    server.say(b"more\r\n");
    server.session.close(&mut server.out);
    server.session.close(&mut server.out);
    assert_eq!(server.session.write(b"after the end", &mut server.out), 0);
    exchange(&mut client, &mut server, 1);
    assert_eq!(client.session.progress(), Ok(Progress::Closed));
    assert_eq!(client.plain, b"221 bye\r\nmore\r\n");
    // What follows the end is not read; the other direction is still open.
    assert_eq!(client.session.read_tls(b"garbage", &mut client.plain), Ok(Progress::Closed));
    client.say(b"QUIT\r\n");
    exchange(&mut client, &mut server, usize::MAX);
    assert_eq!(server.plain, b"QUIT\r\n");
}

#[test]
fn what_is_not_tls_fails_for_good_and_leaves_an_alert() {
    let host = Host::new(&["mx.example.net"]);
    let mut client = End::new(host.client().session("mx.example.net", Policy::May).unwrap());
    client.out.clear();
    client.feed(b"454 TLS not available due to temporary reason\r\n", usize::MAX);
    let error = client.result.clone().unwrap_err();
    assert!(error.to_string().starts_with("TLS failed: "), "{error}");
    // An alert: record type 21.
    assert_eq!(client.out.first(), Some(&21));
    assert!(!client.session.is_handshaking());
    assert_eq!(client.session.verdict(), Err(error.clone()));
    assert_eq!(client.session.read_tls(b"", &mut client.plain), Err(error));
    assert_eq!(client.session.write(b"secret", &mut client.out), 0);
}

#[test]
fn the_alert_of_the_far_side_reaches_the_error() {
    let host = Host::new(&["mx.example.net"]);
    let mut client = End::new(host.client().session("mx.example.net", Policy::May).unwrap());
    // Fatal, handshake_failure: nothing in common.
    client.feed(&[21, 3, 3, 0, 2, 2, 40], usize::MAX);
    let text = client.result.unwrap_err().to_string();
    assert!(text.contains("HandshakeFailure"), "{text}");
}

#[test]
fn the_description_reads_as_in_received_fields() {
    let host = Host::new(&["mx.example.net"]);
    let (client, server) = meet(&host.client(), &host.server(), "mx.example.net", Policy::May);
    assert_eq!(client.session.description(), "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)");
    assert_eq!(server.session.description(), client.session.description());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbled_handshakes_break_nothing(
        changes in vec((any::<u16>(), any::<u8>()), 1..4),
        noise in vec(any::<u8>(), 0..100),
        step in 1_usize..3000,
    ) {
        let host = Host::new(&["mx.example.net"]);
        let mut client = End::new(host.client().session("mx.example.net", Policy::May).unwrap());
        let mut server = End::new(host.server().session().unwrap());
        let mut changes = changes.iter().cycle();
        let mut rounds = 0;
        while rounds < 6 && (!client.out.is_empty() || !server.out.is_empty()) {
            let mut flight = std::mem::take(&mut client.out);
            if let (Some((place, value)), false) = (changes.next(), flight.is_empty()) {
                let place = usize::from(*place) % flight.len();
                flight[place] = *value;
            }
            server.feed(&flight, step);
            client.feed(&std::mem::take(&mut server.out), step);
            rounds += 1;
        }
        client.feed(&noise, step);
        server.feed(&noise, step);
        client.session.close(&mut client.out);
        server.session.close(&mut server.out);
    }
}

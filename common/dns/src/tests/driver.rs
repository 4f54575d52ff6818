//! The driver, with real sockets on the loopback.

use std::net::{TcpListener, UdpSocket};
use std::time::Instant;

use mio::{Events, Poll, Token};
use zrelay_clock::Clock;

use super::*;
use crate::DnsClient;
use crate::testing::FakeServer;

const BASE: usize = 100;
/// Far more than any of these tests needs; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

fn run(servers: Vec<SocketAddr>, timeout: Duration, questions: Vec<Question>) -> Vec<(u64, Answer)> {
    let mut poll = Poll::new().unwrap();
    let settings = Settings { servers, timeout, attempts: 2 };
    let mut client = DnsClient::new(poll.registry(), BASE, settings).unwrap();
    assert!(client.owns(Token(BASE)) && !client.owns(Token(BASE - 1)) && !client.owns(Token(BASE + DnsClient::TOKENS)));
    let (clock, wanted) = (Clock::start(), questions.len());
    for (token, question) in questions.into_iter().enumerate() {
        client.resolve(clock.now(), token as u64, question);
    }
    let (mut answers, mut events) = (Vec::new(), Events::with_capacity(64));
    let end = Instant::now() + PATIENCE;
    while answers.len() < wanted {
        assert!(Instant::now() < end, "no answer");
        let wait = client.poll_timeout().map(|due| due.since(clock.now()));
        poll.poll(&mut events, Some(wait.unwrap_or(PATIENCE).min(PATIENCE))).unwrap();
        for event in &events {
            client.handle_event(clock.now(), event);
        }
        client.handle_timeout(clock.now());
        answers.extend(std::iter::from_fn(|| client.poll_answer()));
    }
    answers.sort_by_key(|(token, _)| *token);
    answers
}

#[test]
fn questions_are_answered_over_udp_and_where_cut_over_tcp() {
    let mut zone =
        String::from("example.net. MX 10 mx.example.net.\nmx.example.net. A 127.0.0.1\nmx.example.net. AAAA ::1\n");
    let mut questions = vec![mx("example.net"), mx("nowhere.example")];
    // More than there are connections.
    for number in 0..20 {
        zone.push_str(&format!("long{number}.example. A 127.0.0.2\nlong{number}.example. TRUNCATED\n"));
        questions.push(hosts(&format!("long{number}.example")));
    }
    let server = FakeServer::start(&zone).unwrap();
    let answers = run(vec![server.address()], PATIENCE, questions);
    assert_eq!(shown(&answers[0].1), "mx.example.net: 10 mx.example.net ::1 127.0.0.1");
    assert_eq!(answers[1].1, Err(DnsError::NoSuchDomain));
    for (number, (_, answer)) in answers[2..].iter().enumerate() {
        assert_eq!(shown(answer), format!("long{number}.example: 0 long{number}.example 127.0.0.2"));
    }
    assert_eq!(server.tcp_queries(), 40);
}

#[test]
fn a_silent_server_is_followed_by_the_next() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = FakeServer::start("plain.example. A 127.0.0.1").unwrap();
    let servers = vec![silent.local_addr().unwrap(), server.address()];
    let answers = run(servers, Duration::from_millis(30), vec![hosts("plain.example")]);
    assert_eq!(shown(&answers[0].1), "plain.example: 0 plain.example 127.0.0.1");
}

#[test]
fn a_refused_connection_fails_the_try_and_a_hanging_one_times_out() {
    for listens in [false, true] {
        // The datagrams are answered, by hand, with the sign of a cut answer.
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let listener = listens.then(|| TcpListener::bind(address).unwrap());
        let zone = Zone::parse("long.example. A 127.0.0.2\nlong.example. TRUNCATED").unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                let answer = zone.answer(&buffer[..length], Via::Udp).unwrap();
                udp.send_to(&answer, from).unwrap();
            }
        });
        let answers = run(vec![address], Duration::from_millis(100), vec![hosts("long.example")]);
        assert!(answers[0].1.as_ref().is_err_and(DnsError::is_temporary));
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], address).unwrap();
        thread.join().unwrap();
        drop(listener);
    }
}

#[test]
fn a_host_without_a_server_of_a_family_still_asks_the_others() {
    let server = FakeServer::start("plain.example. A 127.0.0.1").unwrap();
    let unreachable = "[100::1]:53".parse().unwrap();
    let answers = run(vec![unreachable, server.address()], Duration::from_millis(50), vec![hosts("plain.example")]);
    assert!(answers[0].1.is_ok(), "{:?}", answers[0].1);
}

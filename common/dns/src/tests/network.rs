//! What the network does to the resolver.

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::*;
use crate::queries::IN_FLIGHT_MAX;
use crate::resolver::QUESTIONS_MAX;

const ZONE: &str = "
    example.net.      60 MX 10 mx.example.net.
    mx.example.net.   60 A 192.0.2.11
    brief.example.    0 A 192.0.2.12
    mute.example.     SILENT
    long.example.     MX 10 mx.example.net.
    long.example.     TRUNCATED
    *.wild.example.   A 192.0.2.13
";

fn altered(message: &[u8], change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(message).unwrap();
    change(&mut message);
    message.to_vec().unwrap()
}

#[test]
fn equal_questions_share_their_queries_and_each_gets_an_answer() {
    let mut world = World::new(ZONE);
    for token in 0..5 {
        world.ask(token, mx(if token % 2 == 0 { "example.net" } else { "EXAMPLE.net." }));
    }
    world.ask(5, hosts("mx.example.net"));
    world.settle();
    let mut answers = world.answers();
    answers.sort_by_key(|(token, _)| *token);
    assert_eq!(answers.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(world.sent, 3);
}

#[test]
fn answers_are_kept_for_their_time_to_live() {
    let mut world = World::new(ZONE);
    world.answer(mx("example.net")).unwrap();
    world.now = world.now + Duration::from_secs(59);
    world.answer(mx("example.net")).unwrap();
    assert_eq!(world.sent, 3);
    world.now = world.now + Duration::from_secs(1);
    world.answer(mx("example.net")).unwrap();
    assert_eq!(world.sent, 6);
}

#[test]
fn absences_are_kept_and_a_time_to_live_of_zero_is_not() {
    let mut world = World::new(ZONE);
    world.answer(mx("nowhere.example")).unwrap_err();
    world.answer(mx("nowhere.example")).unwrap_err();
    assert_eq!(world.sent, 1);
    world.answer(hosts("brief.example")).unwrap();
    world.answer(hosts("brief.example")).unwrap();
    // AAAA is an absence that is kept, A is asked twice.
    assert_eq!(world.sent, 4);
}

#[test]
fn silence_ends_after_all_tries_and_goes_through_the_servers() {
    let mut world = World::new(ZONE);
    let start = world.now;
    world.ask(1, mx("mute.example"));
    let mut servers = Vec::new();
    loop {
        servers.extend(world.transmits().iter().map(|transmit| transmit.server));
        if !world.next_timeout() {
            break;
        }
    }
    assert_eq!(servers, [server(1), server(2), server(1)]);
    assert_eq!(world.now.since(start), Duration::from_secs(15));
    let text = world.answers().pop().unwrap().1.unwrap_err().to_string();
    assert_eq!(text, "Name service error: no answer within 5 s from 192.0.2.1:53 for mute.example MX");
}

#[test]
fn a_silent_server_is_not_asked_first_again() {
    let mut world = World::new(ZONE);
    world.ask(1, hosts("a.wild.example"));
    assert!(world.transmits().iter().all(|transmit| transmit.server == server(1)));
    world.next_timeout();
    world.settle();
    assert!(world.answers().pop().unwrap().1.is_ok());
    world.ask(2, hosts("b.wild.example"));
    assert!(world.transmits().iter().all(|transmit| transmit.server == server(2)));
}

#[test]
fn a_failing_server_is_followed_by_the_next_at_once() {
    let mut world = World::new(ZONE);
    world.ask(1, mx("example.net"));
    let first = world.transmits().pop().unwrap();
    let refusal = altered(&world.reply(&first).unwrap(), |message| {
        message.metadata.response_code = ResponseCode::Refused;
        message.answers.clear();
    });
    world.deliver(&first, &refusal);
    let second = world.transmits().pop().unwrap();
    assert_eq!((first.server, second.server), (server(1), server(2)));
    let reply = world.reply(&second).unwrap();
    world.deliver(&second, &reply);
    world.settle();
    assert!(world.answers().pop().unwrap().1.is_ok());
}

#[test]
fn a_server_that_does_not_understand_is_asked_without_edns() {
    let mut world = World::new(ZONE);
    world.ask(1, mx("example.net"));
    let first = world.transmits().pop().unwrap();
    assert_eq!(Message::from_vec(&first.bytes).unwrap().edns.map(|edns| edns.max_payload()), Some(1232));
    let refusal = altered(&world.reply(&first).unwrap(), |message| {
        message.metadata.response_code = ResponseCode::FormErr;
        message.edns = None;
    });
    world.deliver(&first, &refusal);
    let second = world.transmits().pop().unwrap();
    assert!(Message::from_vec(&second.bytes).unwrap().edns.is_none());
}

#[test]
fn forged_datagrams_are_dropped_and_the_genuine_one_still_counts() {
    let mut world = World::new(ZONE);
    world.ask(1, mx("example.net"));
    let query = world.transmits().pop().unwrap();
    let Transport::Udp { path } = query.transport else { panic!("not a datagram") };
    let genuine = world.reply(&query).unwrap();
    let forged_ids: Vec<Vec<u8>> =
        (1..=64).map(|step| altered(&genuine, |message| message.metadata.id = query.id.wrapping_add(step))).collect();
    let other = |name: &str, kind| Query::query(Name::from_ascii(name).unwrap(), kind);
    let mut forged = forged_ids;
    forged.push(query.bytes.clone());
    forged.push(altered(&genuine, |message| message.metadata.message_type = MessageType::Query));
    forged.push(altered(&genuine, |message| message.queries.clear()));
    forged.push(altered(&genuine, |message| message.queries.push(message.queries[0].clone())));
    forged.push(altered(&genuine, |message| message.queries = vec![other("example.com.", RecordType::MX)]));
    forged.push(altered(&genuine, |message| message.queries = vec![other("example.net.", RecordType::A)]));
    for message in &forged {
        world.resolver.handle_datagram(world.now, query.server, path, message);
    }
    world.resolver.handle_datagram(world.now, server(2), path, &genuine);
    world.resolver.handle_datagram(world.now, SocketAddr::new(query.server.ip(), 5353), path, &genuine);
    world.resolver.handle_datagram(world.now, query.server, path ^ 1, &genuine);
    world.resolver.handle_tcp(world.now, query.id, &genuine);
    assert!(world.transmits().is_empty() && world.answers().is_empty());
    world.deliver(&query, &genuine);
    assert_eq!(world.transmits().len(), 2);
}

#[test]
fn late_and_doubled_answers_do_no_harm() {
    let mut world = World::new(ZONE);
    world.ask(1, mx("example.net"));
    let early = world.transmits().pop().unwrap();
    world.next_timeout();
    let reply = world.reply(&early).unwrap();
    world.deliver(&early, &reply);
    assert_eq!(world.transmits().len(), 1);
    world.next_timeout();
    let last = world.transmits().pop().unwrap();
    let reply = world.reply(&last).unwrap();
    world.deliver(&last, &reply);
    world.deliver(&last, &reply);
    world.settle();
    assert_eq!(world.answers().len(), 1);
}

#[test]
fn a_cut_answer_is_asked_for_again_over_tcp() {
    let mut world = World::new(ZONE);
    world.ask(1, mx("long.example"));
    let datagram = world.transmits().pop().unwrap();
    let mut cut = world.reply(&datagram).unwrap();
    // A server may cut in the middle of a record.
    cut[7] = 9;
    world.deliver(&datagram, &cut);
    let stream = world.transmits().pop().unwrap();
    assert_eq!((stream.transport, stream.server), (Transport::Tcp, datagram.server));
    let whole = world.reply(&stream).unwrap();
    world.deliver(&stream, &whole);
    world.settle();
    assert!(world.answers().pop().unwrap().1.is_ok());
}

#[test]
fn a_connection_that_fails_is_a_try_that_failed() {
    let mut world = World::new(ZONE);
    world.ask(1, mx("long.example"));
    let mut tries = 0;
    while let Some(transmit) = world.transmits().pop() {
        match transmit.transport {
            Transport::Udp { .. } => {
                let reply = world.reply(&transmit).unwrap();
                world.deliver(&transmit, &reply);
            }
            Transport::Tcp => {
                tries += 1;
                world.resolver.handle_failure(world.now, transmit.id, "connection refused");
            }
        }
    }
    assert_eq!(tries, 3);
    assert!(world.answers().pop().unwrap().1.is_err_and(|error| error.is_temporary()));
}

#[test]
fn an_answer_cut_over_tcp_too_does_not_go_round_for_ever() {
    let mut world = World::new(ZONE);
    world.ask(1, mx("long.example"));
    while let Some(transmit) = world.transmits().pop() {
        assert!(world.sent < 10);
        let reply = altered(&world.reply(&transmit).unwrap(), |message| message.metadata.truncation = true);
        world.deliver(&transmit, &reply);
    }
    assert!(world.answers().pop().unwrap().1.is_err_and(|error| error.is_temporary()));
}

#[test]
fn queries_in_flight_and_questions_that_wait_are_bounded() {
    let mut world = World::new(ZONE);
    let count = QUESTIONS_MAX + 10;
    for token in 0..count {
        world.ask(token as u64, hosts(&format!("h{token}.wild.example")));
    }
    assert_eq!(world.answers().len(), 10);
    let first = world.transmits();
    assert_eq!(first.len(), IN_FLIGHT_MAX);
    for transmit in &first {
        let reply = world.reply(transmit).unwrap();
        world.deliver(transmit, &reply);
    }
    world.settle();
    let answers = world.answers();
    assert_eq!(answers.len(), QUESTIONS_MAX);
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
}

#[test]
fn without_servers_every_question_is_answered_at_once() {
    let mut world = World::with(ZONE, Settings::default());
    assert!(world.answer(mx("example.net")).is_err_and(|error| error.is_temporary()));
    assert_eq!(world.sent, 0);
}

#[test]
fn odd_settings_do_not_make_it_spin() {
    let settings = Settings { servers: vec![server(1)], timeout: Duration::ZERO, attempts: 0 };
    let mut world = World::with(ZONE, settings);
    let start = world.now;
    assert!(world.answer(mx("mute.example")).is_err_and(|error| error.is_temporary()));
    assert!(world.now > start);
    let settings = Settings { servers: vec![server(1)], timeout: Duration::MAX, attempts: u32::MAX };
    World::with(ZONE, settings).answer(mx("example.net")).unwrap();
}

//! The loop over loopback sockets, against small blocking servers.

mod harness;
mod many;
mod server;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use zrelay_agent::{Judgement, Order, Pace, Release, Report, Rest};
use zrelay_config::{Clause, TlsPolicy};
use zrelay_dns::testing::FakeServer;

use harness::{Hub, clause, letter};
use server::{Behaviour, Parting, Server};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };

fn released(report: &Report) -> bool {
    matches!(report, Report::Released { .. })
}

#[test]
fn batches_are_delivered_over_one_connection_within_the_credit() {
    let server =
        Server::start(Behaviour { keywords: &["PIPELINING", "CHUNKING", "SIZE 1000000"], ..Behaviour::plain() });
    let letters = (0..20).map(|number| letter(number, &["a@dst", "b@dst"]));
    let mut hub = Hub::start(letters.collect());
    let lease = hub.lease("smtp", &format!("[{}]:{}", server.address.ip(), server.address.port()), clause());

    let credit = hub.until_hungry(lease);
    assert!(credit.batches >= 20 && credit.bytes > 0);
    (0..20).for_each(|number| hub.carry(lease, number));
    let done = hub.until_settled(20);

    assert!(done.iter().all(|verdict| verdict.judgement == DELIVERED && !verdict.timing.encrypted));
    assert_eq!(done.iter().filter(|verdict| verdict.timing.reused == 0).count(), 1);
    assert_eq!(done.iter().map(|verdict| verdict.timing.reused).max(), Some(19));
    assert!(done[0].diagnostic.peer.ends_with(&format!("]:{}", server.address.port())));
    hub.send(Order::Close { lease });
    let Report::Released { reason, statistics, .. } = hub.until(released) else { unreachable!() };
    assert!(matches!(reason, Release::Done));
    assert_eq!((statistics.transactions, statistics.delivered), (20, 40));
    assert!(statistics.bytes > 20 * 40);
    hub.finish();
    assert_eq!(server.connections(), 1);
    assert_eq!(server.messages(), 20);
}

#[test]
fn the_pace_of_a_far_side_is_told_ahead_of_the_credit_and_again_when_it_is_known() {
    let server = Server::start(Behaviour { keywords: &["PIPELINING", "CHUNKING"], ..Behaviour::plain() });
    let mut hub = Hub::start((0..20).map(|number| letter(number, &["a@dst"])).collect());
    let lease = hub.lease("smtp", &server.host(), clause());
    let told = hub.until(|report| matches!(report, Report::Pace { .. } | Report::Hungry { .. }));
    let Report::Pace { pace: Pace::Presumed(work), .. } = told else { panic!("{told:?}") };
    assert!(work.recipients >= 100 && work.messages >= 16, "{work:?}");
    hub.until_hungry(lease);
    (0..20).for_each(|number| hub.carry(lease, number));
    hub.until(|report| matches!(report, Report::Pace { pace: Pace::Measured(_), .. }));
    hub.finish();
}

#[test]
fn a_large_message_goes_through_by_data_and_by_bdat() {
    for keywords in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING", "SIZE 100000000"][..]] {
        let server = Server::start(Behaviour { keywords, ..Behaviour::plain() });
        let mut large = letter(0, &["a@dst"]);
        large.slice = 100_000;
        let line = b".a line of which there are many\r\n";
        large.body = line.iter().copied().cycle().take(line.len() * 200_000).collect();
        let size = large.body.len();
        let mut hub = Hub::start(vec![large, letter(1, &["b@dst"])]);
        let lease = hub.lease("smtp", &server.host(), clause());
        hub.until_hungry(lease);
        hub.carry(lease, 0);
        hub.carry(lease, 1);
        let done = hub.until_settled(2);
        assert!(done.iter().all(|verdict| verdict.judgement == DELIVERED), "{done:?}");
        assert_eq!(server.sizes()[0], size);
        hub.finish();
    }
}

#[test]
fn a_refused_port_is_told_in_postfix_words() {
    let nobody: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut hub = Hub::start(Vec::new());
    hub.lease("smtp", &format!("[127.0.0.1]:{}", nobody.port()), clause());
    let Report::Released { reason: Release::Failed(why), .. } = hub.until(released) else { panic!("not failed") };
    assert_eq!(why.text, format!("connect to 127.0.0.1[127.0.0.1]:{}: Connection refused", nobody.port()));
    assert_eq!(why.to_string(), why.text);
    hub.finish();
}

#[test]
fn exchanges_are_looked_up_and_the_next_one_is_tried() {
    let server = Server::start(Behaviour::plain());
    let dns = FakeServer::start(
        "example.net. MX 10 dead.example.net.\n example.net. MX 20 mx.example.net.\n\
         dead.example.net. A 127.0.0.9\n mx.example.net. A 127.0.0.1\n",
    )
    .unwrap();
    let mut hub = Hub::start_with(vec![letter(0, &["a@example.net"])], dns.address());
    let mut clause = clause();
    clause.port = server.address.port();
    let lease = hub.lease("smtp", "example.net", clause);
    let site = hub.until(|report| matches!(report, Report::Site { .. }));
    let Report::Site { site, .. } = site else { unreachable!() };
    assert_eq!(&*site.0, "dead.example.net,mx.example.net");
    hub.until_hungry(lease);
    hub.carry(lease, 0);
    let done = hub.until_settled(1);
    assert_eq!(done[0].diagnostic.peer, format!("mx.example.net[127.0.0.1]:{}", server.address.port()));
    hub.finish();
}

#[test]
fn a_domain_that_takes_no_mail_is_rejected() {
    let dns = FakeServer::start("null.example. MX 0 .\n loop.example. MX 10 hub.example.\n hub.example. A 127.0.0.1\n");
    let dns = dns.unwrap();
    for (domain, status) in [("null.example", "5.1.10"), ("gone.example", "5.1.2"), ("loop.example", "5.4.6")] {
        let mut hub = Hub::start_with(Vec::new(), dns.address());
        hub.lease("smtp", domain, clause());
        let Report::Released { reason: Release::Rejected(why), .. } = hub.until(released) else {
            panic!("{domain} is not rejected")
        };
        assert_eq!(why.status.to_string(), status, "{domain}");
        hub.finish();
    }
}

#[test]
fn mail_is_encrypted_where_it_is_offered_and_verified_where_that_is_asked() {
    let server = Server::start(Behaviour::with_tls());
    let mut hub = Hub::start(vec![letter(0, &["a@dst"])]);
    let lease = hub.lease("smtp", &server.host(), clause());
    hub.until_hungry(lease);
    hub.carry(lease, 0);
    let done = hub.until_settled(1);
    assert_eq!(done[0].judgement, DELIVERED);
    assert!(done[0].timing.encrypted);
    hub.finish();

    let mut hub = Hub::start(Vec::new());
    let mut strict = clause();
    strict.tls = TlsPolicy::Verify;
    hub.lease("smtp", &server.host(), strict);
    let Report::Released { reason: Release::Failed(why), .. } = hub.until(released) else { panic!("not failed") };
    assert_eq!(why.status.to_string(), "4.7.5");
    assert!(why.text.starts_with("Cannot start TLS with 127.0.0.1[127.0.0.1]"), "{}", why.text);
    hub.finish();
}

#[test]
fn tls_that_fails_is_done_without_and_remembered_unless_it_is_required() {
    let server = Server::start(Behaviour { broken_tls: true, ..Behaviour::with_tls() });
    let mut hub = Hub::start(vec![letter(0, &["a@dst"]), letter(1, &["a@dst"])]);
    for number in 0..2 {
        let lease = hub.lease("smtp", &server.host(), clause());
        hub.until_hungry(lease);
        hub.carry(lease, number);
        let done = hub.until_settled(1);
        assert!(done[0].judgement == DELIVERED && !done[0].timing.encrypted);
        hub.send(Order::Close { lease });
        hub.until(released);
    }
    assert_eq!(server.connections(), 3, "one failed, and was remembered");
    let mut strict = clause();
    strict.tls = TlsPolicy::Encrypt;
    hub.lease("smtp", &server.host(), strict);
    assert!(matches!(hub.until(released), Report::Released { reason: Release::Failed(_), .. }));
    hub.finish();
}

#[test]
fn a_host_that_is_known_is_sent_a_first_batch_ahead_of_its_greeting() {
    let keywords = &["PIPELINING", "CHUNKING", "PIPECONNECT"];
    let server = Server::start(Behaviour { keywords, ..Behaviour::plain() });
    let mut hub = Hub::start(vec![letter(0, &["a@dst"]), letter(1, &["a@dst"]), letter(2, &["a@dst"])]);
    let lease = hub.lease("smtp", &server.host(), clause());
    hub.until_hungry(lease);
    hub.carry(lease, 0);
    hub.until_settled(1);
    hub.send(Order::Close { lease });
    hub.until(released);

    let lease = hub.lease("smtp", &server.host(), clause());
    let early = hub.until(|report| matches!(report, Report::Early { .. } | Report::Hungry { .. }));
    let Report::Early { credit, .. } = early else { panic!("it waited for the greeting: {early:?}") };
    assert_eq!(credit.batches, 1);
    hub.carry(lease, 1);
    hub.until_hungry(lease);
    hub.carry(lease, 2);
    assert!(hub.until_settled(2).iter().all(|verdict| verdict.judgement == DELIVERED));
    hub.finish();
    assert_eq!((server.connections(), server.messages()), (2, 3));
}

#[test]
fn a_batch_that_was_wanted_early_comes_back_when_there_is_no_connection() {
    let keywords = &["PIPELINING", "PIPECONNECT"];
    let server = Server::start(Behaviour { keywords, parting: Some(Parting::SaysSo), ..Behaviour::plain() });
    let sites = zrelay_sites::Sites::new();
    let mut hub = Hub::knowing(vec![letter(0, &["a@dst"])], sites.clone());
    let lease = hub.lease("smtp", &server.host(), clause());
    hub.until_hungry(lease);
    hub.send(Order::Close { lease });
    hub.until(released);
    // The same is known of a port where nobody listens.
    let vacant = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let now = zrelay_clock::Clock::start().now();
    let offered = sites.fact(now, &server.address.to_string(), "ehlo").unwrap();
    sites.learn(now, &vacant.to_string(), "ehlo", &offered.value, Duration::from_secs(60));

    let lease = hub.lease("smtp", &format!("[{}]:{}", vacant.ip(), vacant.port()), clause());
    hub.until(|report| matches!(report, Report::Early { .. }));
    hub.carry(lease, 0);
    // It is returned, or the order crosses with the end of the lease; there is never a verdict.
    let end = hub.until(|report| released(report) || matches!(report, Report::Settled { .. }));
    let Report::Released { reason: Release::Failed(why), .. } = end else { panic!("not failed: {end:?}") };
    assert!(why.text.contains("refused"), "{}", why.text);
    hub.finish();
}

#[test]
fn implicit_tls_is_encrypted_or_nothing() {
    let server = Server::start(Behaviour { implicit: true, ..Behaviour::with_tls() });
    let mut hub = Hub::start(vec![letter(0, &["a@dst"])]);
    let implicit = || Clause { implicit_tls: true, ..clause() };
    let lease = hub.lease("smtp", &server.host(), implicit());
    hub.until_hungry(lease);
    hub.carry(lease, 0);
    let done = hub.until_settled(1);
    assert!(done[0].judgement == DELIVERED && done[0].timing.encrypted);
    hub.send(Order::Close { lease });
    hub.until(released);

    // A server that greets in the clear: no mail goes there, although the clause's policy says "may".
    let plain = Server::start(Behaviour::plain());
    hub.lease("smtp", &plain.host(), implicit());
    let Report::Released { reason: Release::Failed(why), .. } = hub.until(released) else { panic!("not failed") };
    assert!(why.text.starts_with("Cannot start TLS with 127.0.0.1[127.0.0.1]"), "{}", why.text);
    hub.finish();
}

#[test]
fn octets_behind_the_go_ahead_of_starttls_end_the_connection() {
    let server = Server::start(Behaviour { injection: "250 injected\r\n", ..Behaviour::with_tls() });
    let mut hub = Hub::start(Vec::new());
    hub.lease("smtp", &server.host(), clause());
    let Report::Released { reason: Release::Failed(why), .. } = hub.until(released) else { panic!("not failed") };
    assert!(why.text.contains("before the TLS handshake"), "{}", why.text);
    hub.finish();
}

#[test]
fn an_idle_connection_serves_the_next_lease_of_its_ring() {
    let server = Server::start(Behaviour::plain());
    let mut hub = Hub::start(vec![letter(0, &["a@dst"]), letter(1, &["b@dst"]), letter(2, &["c@dst"])]);
    let first = hub.lease("smtp", &server.host(), clause());
    hub.until_hungry(first);
    hub.carry(first, 0);
    hub.until_settled(1);
    hub.send(Order::Idle { lease: first });
    hub.carry(first, 1);
    hub.until_settled(1);
    hub.send(Order::Idle { lease: first });
    let mut short = clause();
    short.idle = Duration::from_millis(50);
    let second = hub.lease_over("smtp", &server.host(), short, Some(first));
    hub.until_hungry(second);
    hub.carry(second, 2);
    let done = hub.until_settled(1);
    assert_eq!(done[0].timing.reused, 2);
    hub.send(Order::Idle { lease: second });
    let Report::Released { lease, reason, statistics } = hub.until(released) else { unreachable!() };
    assert_eq!(lease, second, "the first lease ends without a word");
    assert!(matches!(reason, Release::Done));
    assert_eq!(statistics.delivered, 1);
    hub.finish();
    assert_eq!(server.connections(), 1);
    assert!(server.log().ends_with(&["QUIT".to_owned()]));
}

#[test]
fn a_connection_that_ended_while_idle_is_told_and_cannot_be_taken_over() {
    for (parting, said) in [(Parting::SaysSo, 421), (Parting::HalfClosed, 0)] {
        let server = Server::start(Behaviour { parting: Some(parting), ..Behaviour::plain() });
        let mut hub = Hub::start(vec![letter(0, &["a@dst"]), letter(1, &["b@dst"])]);
        let first = hub.lease("smtp", &server.host(), clause());
        hub.until_hungry(first);
        hub.carry(first, 0);
        let Report::Settled { verdicts, .. } = hub.until(|report| matches!(report, Report::Settled { .. })) else {
            unreachable!()
        };
        assert_eq!(verdicts[0].judgement, DELIVERED);
        hub.send(Order::Idle { lease: first });
        let Report::Released { lease, reason: Release::Ended(why), .. } = hub.until(released) else {
            panic!("{parting:?} is no failure")
        };
        assert_eq!((lease, why.code), (first, said));
        // The order to take it over has crossed its end: the new lease gets a connection of its own.
        let second = hub.lease_over("smtp", &server.host(), clause(), Some(first));
        hub.until_hungry(second);
        hub.carry(second, 1);
        let Report::Settled { lease, verdicts, .. } = hub.until(|report| matches!(report, Report::Settled { .. }))
        else {
            unreachable!()
        };
        assert_eq!((lease, verdicts[0].judgement, verdicts[0].timing.reused), (second, DELIVERED, 0));
        hub.finish();
        assert_eq!(server.connections(), 2);
    }
}

#[test]
fn a_connection_that_has_served_its_time_is_not_taken_over() {
    let server = Server::start(Behaviour::plain());
    let mut hub = Hub::start(vec![letter(0, &["a@dst"]), letter(1, &["b@dst"])]);
    let mut once = clause();
    once.connection_messages = 1;
    let first = hub.lease("smtp", &server.host(), once.clone());
    hub.until_hungry(first);
    hub.carry(first, 0);
    hub.until_settled(1);
    hub.send(Order::Idle { lease: first });
    let second = hub.lease_over("smtp", &server.host(), once, Some(first));
    hub.until_hungry(second);
    hub.carry(second, 1);
    let done = hub.until_settled(1);
    assert_eq!(done[0].timing.reused, 0);
    hub.finish();
    assert_eq!(server.connections(), 2);
    assert_eq!(server.log().iter().filter(|verb| *verb == "QUIT").count(), 2, "both leave in good order");
}

#[test]
fn an_idle_connection_expires_and_its_thread_connects_again() {
    let server = Server::start(Behaviour::plain());
    let mut hub = Hub::start(vec![letter(0, &["a@dst"]), letter(1, &["b@dst"])]);
    let mut short = clause();
    short.idle = Duration::from_millis(20);
    for number in 0..2 {
        let lease = hub.lease("smtp", &server.host(), short.clone());
        hub.until_hungry(lease);
        hub.carry(lease, number);
        hub.until_settled(1);
        hub.send(Order::Idle { lease });
        assert!(matches!(hub.until(released), Report::Released { reason: Release::Done, .. }));
    }
    hub.finish();
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_limit_of_recipients_is_learned_for_the_next_connection() {
    let server = Server::start(Behaviour { recipients_max: 2, keywords: &["PIPELINING"], ..Behaviour::plain() });
    let four = ["a@dst", "b@dst", "c@dst", "d@dst"];
    let mut hub = Hub::start(vec![letter(0, &four), letter(1, &four)]);
    for number in 0..2 {
        let lease = hub.lease("smtp", &server.host(), clause());
        hub.until_hungry(lease);
        hub.carry(lease, number);
        let done = hub.until_settled(1);
        assert!(done.iter().all(|verdict| verdict.judgement == DELIVERED), "{done:?}");
        hub.send(Order::Close { lease });
        hub.until(released);
    }
    hub.finish();
    let asked = server.log().iter().filter(|verb| *verb == "RCPT").count();
    assert_eq!(asked, 4 + 2 + 4, "two too many the first time, none the second");
}

#[test]
fn a_host_that_hangs_up_on_what_it_has_taken_is_met_with_care() {
    let keywords = &["PIPELINING", "CHUNKING", "SIZE 1000000"];
    let server = Server::start(Behaviour { silent: 5, keywords, ..Behaviour::plain() });
    let mut hub = Hub::start((0..20).map(|number| letter(number, &["a@dst"])).collect());
    let lease = hub.lease("smtp", &server.host(), clause());
    (0..20).for_each(|number| hub.carry(lease, number));
    let Report::Released { reason: Release::Failed(_), .. } = hub.until(released) else { panic!("not failed") };
    for _ in 0..2 {
        let lease = hub.lease("smtp", &server.host(), clause());
        (0..20).for_each(|number| hub.carry(lease, number));
        assert!(hub.until_settled(20).iter().all(|verdict| verdict.judgement == DELIVERED));
        hub.send(Order::Close { lease });
        assert!(matches!(hub.until(released), Report::Released { reason: Release::Done, .. }));
    }
    hub.finish();
    assert_eq!((server.connections(), server.messages()), (3, 5 + 40));
    // How the octets of a stream fall into reads is chance; that nothing stands behind a single message is not.
    assert!(!server.streamed()[1], "the second connection sent more than one message ahead");
}

#[test]
fn lmtp_recipients_have_their_own_replies() {
    let server = Server::start(Behaviour { lmtp: true, refuse: "b@dst", ..Behaviour::plain() });
    let mut hub = Hub::start(vec![letter(0, &["a@dst", "b@dst", "c@dst"])]);
    let lease = hub.lease("lmtp", &server.host(), clause());
    hub.until_hungry(lease);
    hub.carry(lease, 0);
    let done = hub.until_settled(1);
    let of = |index: u32| done.iter().find(|verdict| verdict.recipients.contains(&index)).unwrap().judgement;
    assert_eq!([of(0), of(1), of(2)], [DELIVERED, Judgement::Failed, DELIVERED]);
    hub.finish();
}

#[test]
fn a_greeting_of_refusal_fails_the_host_and_a_message_that_cannot_be_read_is_put_off() {
    let server = Server::start(Behaviour { greeting: "554 5.7.1 Not you", ..Behaviour::plain() });
    let mut hub = Hub::start(Vec::new());
    hub.lease("smtp", &server.host(), clause());
    let Report::Released { reason: Release::Failed(why), .. } = hub.until(released) else { panic!("not failed") };
    assert_eq!(why.code, 554);

    let server = Server::start(Behaviour::plain());
    let lease = hub.lease("smtp", &server.host(), clause());
    hub.until_hungry(lease);
    hub.carry_unknown(lease);
    let settled = hub.until(|report| matches!(report, Report::Settled { .. }));
    let Report::Settled { verdicts, rest: Rest::Done, .. } = settled else { panic!("more to come") };
    assert_eq!(verdicts[0].judgement, Judgement::Deferred);
    hub.finish();
}

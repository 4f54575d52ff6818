//! The session from outside: dialogues, properties, and what must stay bounded.

mod dialogue;
mod handling;

use std::time::Duration;

use proptest::prelude::*;
use zrelay_config::{BareNewline, Protocol};
use zrelay_spool::Refused;

use super::fixture::{Asked, Bench, Keeping, policy};
use super::replies::PENDING_MAX;
use super::{Draining, Session};
use crate::policy::{SessionPolicy, StartTls};
use crate::shared::{Door, Relay};

fn bench(change: impl FnOnce(&mut SessionPolicy)) -> Bench {
    let mut policy = policy();
    change(&mut policy);
    let mut bench = Bench::new(policy, Relay::Allowed);
    assert_eq!(bench.lines().len(), 1);
    bench
}

fn greeted() -> Bench {
    let mut bench = bench(|_| {});
    bench.send(b"EHLO client.example\r\n", usize::MAX);
    bench.lines();
    bench
}

const ENVELOPE: &[u8] = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n";

#[test]
fn commands_behind_a_pending_reply_go_on_and_their_replies_wait() {
    let mut bench = greeted();
    let one = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nBDAT 3 LAST\r\nx\r\n";
    bench.send(&one.repeat(3), usize::MAX);
    assert_eq!(bench.owed.len(), 3);
    assert_eq!(bench.lines(), ["250 2.1.0 Ok", "250 2.1.5 Ok"]);
    let (first, second, third) = (bench.owed[0], bench.owed[1], bench.owed[2]);
    bench.session.handle_committed(bench.now, second, Ok(()));
    bench.session.handle_committed(bench.now, third, Err(Refused::Full));
    bench.settle();
    assert_eq!(bench.lines(), Vec::<String>::new());
    bench.session.handle_committed(bench.now, first, Ok(()));
    bench.settle();
    assert_eq!(
        bench.lines(),
        [
            "250 2.0.0 Ok: queued as A1",
            "250 2.1.0 Ok",
            "250 2.1.5 Ok",
            "250 2.0.0 Ok: queued as A2",
            "250 2.1.0 Ok",
            "250 2.1.5 Ok",
            "452 4.3.1 Insufficient system storage",
        ]
    );
    assert_eq!(bench.shared.memory_used(), 0);
}

#[test]
fn outstanding_commits_are_bounded() {
    let mut bench = greeted();
    let stream = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nBDAT 3 LAST\r\nx\r\n".repeat(100);
    let mut rest = stream.as_slice();
    let mut id = 0;
    loop {
        let used = bench.session.handle_input(bench.now, rest, &mut || {
            id += 1;
            zrelay_spool::MessageId(id)
        });
        bench.settle();
        if used == 0 {
            break;
        }
        rest = &rest[used..];
    }
    assert_eq!(bench.session.pending(), PENDING_MAX);
    assert!(!bench.session.wants_input());
    bench.answer(Ok(()));
    assert!(bench.session.wants_input());
}

#[test]
fn a_large_message_costs_no_more_memory_than_a_small_one() {
    let mut bench = bench(|policy| policy.limits.message_size = 200 << 20);
    bench.keeping = Keeping::Nothing;
    bench.send(b"EHLO c\r\n", usize::MAX);
    bench.send(ENVELOPE, usize::MAX);
    bench.send(b"DATA\r\n", usize::MAX);
    let block = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(1024);
    for _ in 0..1600 {
        bench.send(&block, usize::MAX);
        assert!(bench.shared.memory_used() < 512 * 1024, "{}", bench.shared.memory_used());
    }
    bench.send(b".\r\n", usize::MAX);
    bench.answer_all();
    assert!(bench.piece_max <= zrelay_spool::PIECE_MAX);
    assert_eq!(bench.lines().last().unwrap(), "250 2.0.0 Ok: queued as A1");
    assert_eq!(bench.shared.memory_used(), 0);
}

#[test]
fn a_line_without_end_costs_no_memory_and_is_refused_once() {
    let mut bench = greeted();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        bench.send(&block, usize::MAX);
        assert!(bench.session.lines.buffered() <= zrelay_wire::LINE_MAX);
    }
    bench.send(b"\r\nNOOP\r\n", usize::MAX);
    assert_eq!(bench.lines(), ["500 5.5.2 Error: line too long", "250 2.0.0 Ok"]);
}

#[test]
fn a_message_far_beyond_the_limit_is_hung_up_on() {
    let mut bench = bench(|policy| policy.limits.message_size = 100_000);
    bench.send(b"EHLO c\r\n", usize::MAX);
    bench.send(ENVELOPE, usize::MAX);
    bench.send(b"DATA\r\n", usize::MAX);
    let block = b"0123456789\r\n".repeat(1000);
    for _ in 0..100 {
        bench.send(&block, usize::MAX);
    }
    let lines = bench.lines();
    assert_eq!(lines.last().unwrap(), "552 5.3.4 Message size exceeds fixed limit");
    assert_eq!(bench.asked, [Asked::Abort { message: 0xA1 }, Asked::Close]);
    assert_eq!(bench.shared.memory_used(), 0);
}

#[test]
fn a_list_of_recipients_is_paid_for_and_ends_at_the_budget() {
    let mut bench = bench(|policy| {
        policy.limits.memory = 100_000;
        policy.limits.recipients = 1_000_000;
    });
    bench.send(b"EHLO c\r\nMAIL FROM:<a@example.net>\r\n", usize::MAX);
    bench.lines();
    let mut accepted = 0;
    for number in 0..2000 {
        bench.send(format!("RCPT TO:<user{number}@example.org>\r\n").as_bytes(), usize::MAX);
        accepted += usize::from(bench.lines() == ["250 2.1.5 Ok"]);
    }
    assert!((400..700).contains(&accepted), "{accepted}");
    // Others are told at MAIL, and come in again when the giant has gone.
    let others = crate::shared::Reservation::open(&bench.shared, 1);
    assert!(others.is_err());
    bench.send(b"RSET\r\n", usize::MAX);
    assert_eq!(bench.shared.memory_used(), 0);
}

#[test]
fn a_whole_list_fits_into_one_transaction() {
    let mut bench = bench(|policy| policy.limits.recipients = 50_000);
    bench.send(b"EHLO c\r\nMAIL FROM:<list@example.net> XVERP\r\n", usize::MAX);
    bench.lines();
    let list: String = (0..50_001).map(|number| format!("RCPT TO:<user{number}@example.org>\r\n")).collect();
    bench.send(list.as_bytes(), 64 * 1024);
    let lines = bench.lines();
    assert_eq!(lines.iter().filter(|line| *line == "250 2.1.5 Ok").count(), 50_000);
    assert_eq!(lines.last().unwrap(), "452 4.5.3 Error: too many recipients");
    bench.send(b"BDAT 3 LAST\r\nx\r\n", usize::MAX);
    bench.answer_all();
    let Some(Asked::Commit { recipients, .. }) = bench.asked.last() else { panic!("nothing was stored") };
    assert_eq!(recipients[49_999].1, "list+user49999=example.org@example.net");
    assert_eq!(bench.shared.memory_used(), 0);
}

#[test]
fn content_leaves_early_when_memory_is_short() {
    let mut bench = bench(|policy| policy.limits.memory = 20_000);
    bench.send(b"EHLO c\r\n", usize::MAX);
    bench.send(ENVELOPE, usize::MAX);
    bench.send(b"DATA\r\n", usize::MAX);
    let block = b"0123456789abc\r\n".repeat(100);
    for _ in 0..40 {
        bench.send(&block, usize::MAX);
        assert!(bench.shared.memory_used() <= 20_000);
    }
    bench.send(b".\r\n", usize::MAX);
    bench.answer_all();
    assert!(bench.piece_max > 0 && bench.piece_max < 20_000, "{}", bench.piece_max);
    let Asked::Commit { content, .. } = &bench.asked[0] else { panic!("{:?}", bench.asked) };
    assert_eq!(content, &block.repeat(40));
}

#[test]
fn a_client_that_drips_is_hung_up_on_and_a_stalled_spool_is_not_its_fault() {
    let mut bench = greeted();
    bench.send(ENVELOPE, usize::MAX);
    bench.send(b"DATA\r\n", usize::MAX);
    bench.lines();
    bench.pass(Duration::from_secs(120));
    bench.session.handle_stall(Duration::from_secs(100));
    bench.send(b"x", usize::MAX);
    assert!(bench.lines().is_empty());
    bench.pass(Duration::from_secs(100));
    bench.send(b"x", usize::MAX);
    assert_eq!(bench.lines(), ["421 4.4.2 hub.example Error: data comes too slowly"]);
    assert_eq!(bench.asked, [Asked::Close]);
}

#[test]
fn a_half_sent_command_does_not_keep_a_session_open() {
    let mut bench = greeted();
    bench.pass(Duration::from_secs(500));
    bench.send(b"NO", usize::MAX);
    bench.pass(Duration::from_secs(100));
    assert_eq!(bench.lines(), ["421 4.4.2 hub.example Error: timeout exceeded"]);
}

#[test]
fn a_client_never_waits_out_a_commit() {
    let mut bench = greeted();
    bench.send(ENVELOPE, usize::MAX);
    bench.send(b"DATA\r\nx\r\n.\r\n", usize::MAX);
    bench.lines();
    bench.pass(Duration::from_secs(100_000));
    assert!(bench.lines().is_empty());
    bench.answer_all();
    assert_eq!(bench.lines(), ["250 2.0.0 Ok: queued as A1"]);
}

#[test]
fn a_drained_session_finishes_its_transaction_first() {
    let mut bench = greeted();
    bench.send(ENVELOPE, usize::MAX);
    bench.session.handle_drain(bench.now);
    assert_eq!(bench.session.draining, Draining::Yes);
    bench.send(b"DATA\r\nx\r\n.\r\n", usize::MAX);
    bench.lines();
    assert!(!bench.asked.contains(&Asked::Close));
    bench.answer_all();
    assert_eq!(bench.lines(), ["250 2.0.0 Ok: queued as A1", "421 4.3.2 hub.example Service shutting down"]);
    assert_eq!(bench.asked.last(), Some(&Asked::Close));
}

#[test]
fn a_connection_lost_at_any_octet_leaves_nothing_behind() {
    let script = b"EHLO c\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nBDAT 5\r\na\r\nb\nBDAT 9 LAST\r\n1234567\r\n\
        MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nx\r\n.\r\nBDAT 10\r\n";
    for cut in 0..=script.len() {
        let mut bench = bench(|_| {});
        bench.send(&script[..cut], usize::MAX);
        bench.session.handle_disconnect(bench.now);
        bench.settle();
        bench.answer_all();
        assert_eq!(bench.asked.last(), Some(&Asked::Close), "cut at {cut}");
        assert_eq!(bench.shared.memory_used(), 0, "cut at {cut}");
    }
}

#[test]
fn nothing_said_before_tls_counts_after_it() {
    let mut bench = bench(|policy| policy.starttls = StartTls::Offered);
    bench.send(b"EHLO c\r\nMAIL FROM:<a@example.net>\r\n", usize::MAX);
    bench.send(b"STARTTLS\r\n", usize::MAX);
    assert_eq!(bench.lines().last().unwrap(), "220 2.0.0 Ready to start TLS");
    assert_eq!(bench.asked, [Asked::StartTls]);
    assert!(!bench.session.wants_input());
    bench.session.handle_tls(bench.now, "TLSv1.3 with cipher X");
    bench.send(b"RCPT TO:<b@example.org>\r\nMAIL FROM:<a@example.net>\r\nEHLO c\r\nSTARTTLS\r\n", usize::MAX);
    let lines = bench.lines();
    assert!(lines[0].starts_with("503 ") && lines[1].starts_with("503 "), "{lines:?}");
    assert!(!lines.iter().any(|line| line.ends_with("STARTTLS")));
    assert!(lines.last().unwrap().starts_with("503 5.5.1"));
    bench.send(ENVELOPE, usize::MAX);
    bench.send(b"DATA\r\nx\r\n.\r\n", usize::MAX);
    let Some(Asked::Commit { envelope, .. }) = bench.asked.last() else { panic!("{:?}", bench.asked) };
    let trace = String::from_utf8(envelope.trace.clone()).unwrap();
    assert!(trace.contains("(using TLSv1.3 with cipher X)\r\n\tby hub.example (zrelay) with ESMTPS id A1"), "{trace}");
}

#[test]
fn starttls_waits_for_the_final_replies_before_it() {
    let mut bench = bench(|policy| policy.starttls = StartTls::Offered);
    bench.send(b"EHLO c\r\n", usize::MAX);
    bench.send(ENVELOPE, usize::MAX);
    bench.send(b"DATA\r\nx\r\n.\r\nSTARTTLS\r\n", usize::MAX);
    bench.lines();
    assert!(!bench.asked.contains(&Asked::StartTls));
    bench.answer_all();
    assert_eq!(bench.lines(), ["250 2.0.0 Ok: queued as A1", "220 2.0.0 Ready to start TLS"]);
    assert_eq!(bench.asked.last(), Some(&Asked::StartTls));
}

#[test]
fn the_door_is_closed_at_mail_and_nowhere_else() {
    for (door, reply) in [
        (Door::Full, "452 4.3.1 Insufficient system storage"),
        (Door::Broken, "452 4.3.1 Insufficient system storage"),
        (Door::Draining, "421 4.3.2 hub.example Service shutting down"),
    ] {
        let mut bench = greeted();
        bench.send(ENVELOPE, usize::MAX);
        bench.shared.set_door(door);
        bench.send(b"RCPT TO:<c@example.org>\r\nDATA\r\nx\r\n.\r\nMAIL FROM:<a@example.net>\r\n", usize::MAX);
        bench.answer_all();
        let lines = bench.lines();
        assert_eq!(
            &lines[2..],
            ["250 2.1.5 Ok", "354 End data with <CR><LF>.<CR><LF>", "250 2.0.0 Ok: queued as A1", reply]
        );
    }
}

#[test]
fn an_idle_session_is_small() {
    let bench = greeted();
    assert!(bench.session.is_idle());
    assert!(size_of::<Session>() <= 512, "{}", size_of::<Session>());
    assert_eq!(bench.shared.memory_used(), 0);
}

#[test]
fn a_sequence_that_ends_data_elsewhere_does_not_end_it_here() {
    let ends =
        ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r\n\0.\r\n", "\r.\r\n", "\n\n.\r\n", "\r\n.\r\r\n"];
    for end in ends {
        for bare in [BareNewline::Refuse, BareNewline::Normalise] {
            for step in [1, 2, usize::MAX] {
                let mut bench = bench(|policy| policy.limits.bare_newline = bare);
                bench.send(b"EHLO c\r\n", step);
                bench.send(ENVELOPE, step);
                bench.send(b"DATA\r\n", step);
                bench.lines();
                let smuggled =
                    format!("a{end}MAIL FROM:<evil@example>\r\nRCPT TO:<v@example>\r\nDATA\r\nevil\r\n.\r\n");
                bench.send(smuggled.as_bytes(), step);
                bench.answer_all();
                let lines = bench.lines();
                assert_eq!(lines.len(), 1, "{end:?} {bare:?} {step}: {lines:?}");
                let commits = bench.asked.iter().filter(|asked| matches!(asked, Asked::Commit { .. })).count();
                assert_eq!(commits, usize::from(lines[0].starts_with("250 ")), "{end:?}");
                for asked in &bench.asked {
                    let Asked::Commit { content, sender, .. } = asked else { continue };
                    assert_eq!(sender, "a@example.net");
                    assert!(is_canonical(content), "{end:?} {bare:?}: {:?}", String::from_utf8_lossy(content));
                }
            }
        }
    }
}

fn is_canonical(content: &[u8]) -> bool {
    let mut last = 0;
    for &octet in content {
        if (octet == b'\n') != (last == b'\r') {
            return false;
        }
        last = octet;
    }
    last != b'\r' && (content.is_empty() || last == b'\n')
}

/// Fragments that interact: commands whole and broken, content, ends of data, chunks with right and wrong sizes.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let fixed: Vec<&'static [u8]> = vec![
        b"EHLO c.example\r\n",
        b"HELO c\r\n",
        b"LHLO c\r\n",
        b"MAIL FROM:<a@example.net>\r\n",
        b"MAIL FROM:<a@example.net> BODY=8BITMIME SIZE=10 RET=HDRS ENVID=x XVERP=+=\r\n",
        b"MAIL FROM:<>\r\n",
        b"RCPT TO:<b@example.org>\r\n",
        b"RCPT TO:<c@example.org> NOTIFY=NEVER\r\n",
        b"RCPT TO:<>\r\n",
        b"DATA\r\n",
        b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\n",
        b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nx\r\n.\r\n",
        b"Received: x\r\nSubject: y\r\n\r\nbody\r\n",
        b"..stuffed\r\n.\r\n",
        b"\r\n.\r\n",
        b"\n.\n",
        b"\r",
        b"BDAT 5\r\nabc\r\n",
        b"BDAT 5 LAST\r\nabc\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 0\r\n",
        b"BDAT 4\r\nabc\r",
        b"BDAT 1 LAST\r\n\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"VRFY a\r\n",
        b"HELP\r\n",
        b"EXPN a\r\n",
        b"XYZZY\r\n",
        b"\r\n",
    ];
    // These end the session, most of them; rare, so that others are seen in all orders.
    let last: Vec<&'static [u8]> =
        vec![b"BDAT 99999999999 LAST\r\n", b"BDAT x\r\n", b"QUIT\r\n", b"GET /\r\n", b"BDAT 1900 LAST\r\n"];
    prop_oneof![
        40 => proptest::sample::select(fixed).prop_map(<[u8]>::to_vec),
        1 => proptest::sample::select(last).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
        5 => (0..40_u64, 0..40_usize, any::<bool>()).prop_map(|(said, sent, last)| {
            let mut bytes = format!("BDAT {said}{}\r\n", if last { " LAST" } else { "" }).into_bytes();
            bytes.extend(std::iter::repeat_n(b'y', sent));
            bytes
        }),
    ]
}

/// What became of an input: the replies, and what the spool was asked to do.
fn outcome(policy: SessionPolicy, relay: Relay, input: &[u8], steps: &[usize]) -> (Vec<u8>, Vec<Asked>) {
    let mut bench = Bench::new(policy, relay);
    let mut rest = input;
    let mut steps = steps.iter().cycle();
    while !rest.is_empty() {
        let step = steps.next().copied().unwrap_or(usize::MAX).clamp(1, rest.len());
        bench.send(&rest[..step], usize::MAX);
        rest = &rest[step..];
    }
    bench.answer_all();
    bench.session.handle_disconnect(bench.now);
    bench.settle();
    bench.answer_all();
    assert_eq!(bench.shared.memory_used(), 0);
    assert_eq!(bench.asked.last(), Some(&Asked::Close));
    // A message that came to nothing is told to the spool only where it had pieces of it, which depends on how the
    // octets came in.
    bench.asked.retain(|asked| !matches!(asked, Asked::Abort { .. }));
    (bench.heard, bench.asked)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn how_the_octets_are_split_changes_nothing(
        fragments in proptest::collection::vec(fragment(), 0..30),
        steps in proptest::collection::vec(1..50_usize, 1..20),
        lmtp in any::<bool>(),
        normalise in any::<bool>(),
        denied in proptest::bool::weighted(0.2),
        greeted in proptest::bool::weighted(0.9),
    ) {
        let mut policy = policy();
        policy.limits.message_size = 1000;
        policy.limits.hops = 3;
        policy.protocol = if lmtp { Protocol::Lmtp } else { Protocol::Smtp };
        policy.limits.bare_newline = if normalise { BareNewline::Normalise } else { BareNewline::Refuse };
        let relay = if denied { Relay::Denied } else { Relay::Allowed };
        let mut input = Vec::new();
        if greeted {
            input.extend(if lmtp { b"LHLO c\r\n" } else { b"EHLO c\r\n" });
        }
        input.extend(fragments.concat());
        let whole = outcome(policy.clone(), relay, &input, &[usize::MAX]);
        prop_assert_eq!(&outcome(policy.clone(), relay, &input, &[1]), &whole);
        prop_assert_eq!(&outcome(policy, relay, &input, &steps), &whole);
        for asked in &whole.1 {
            if let Asked::Commit { content, .. } = asked {
                prop_assert!(is_canonical(content));
            }
        }
        for line in String::from_utf8(whole.0).unwrap().split_terminator("\r\n") {
            prop_assert!(line.len() >= 4 && line.as_bytes()[..3].iter().all(u8::is_ascii_digit), "{}", line);
        }
    }
}

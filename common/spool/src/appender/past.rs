//! What became of messages is told over restarts, checkpoints and compaction, as long as it may be.

use zrelay_clock::Timestamp;

use super::bench::{Bench, DELIVERED, envelope, outcome, route};
use crate::simulated::Simulated;
use crate::{BatchId, Disposition, Known, MessageId, Notify, Past, Reader, Request, RoutedBatch, ThreadKey, Tried};

const SEGMENT: u32 = 16 << 10;
const ONE: &[Notify] = &[Notify::Never];

fn open() -> Bench {
    Bench::open(Simulated::default(), SEGMENT)
}

fn past(bench: &Bench, message: MessageId) -> Past {
    Reader::new(bench.shared.clone()).past(message).unwrap()
}

/// Those of three recipients who lack earlier attempts, when their batch has been tried so often.
fn lacking(past: &Past, attempts: u32) -> std::collections::HashSet<u32> {
    past.lacking_earlier(3, |_| Some(Tried { batch: 0, attempts }))
}

fn told(bench: &Bench, message: MessageId) -> Vec<String> {
    let line = |attempt: &crate::Attempt| {
        let thread = attempt.thread.as_ref().map(ToString::to_string).unwrap_or_default();
        let (at, which, who) = (attempt.at.as_micros() / 1_000_000, attempt.disposition, &attempt.recipients);
        format!("{at} {thread} {} {which:?} {who:?} {}", attempt.attempts, attempt.diagnostic)
    };
    past(bench, message).attempts.iter().map(line).collect()
}

fn try_again(bench: &mut Bench, message: MessageId, attempts: u32) {
    let at = Timestamp::from_secs(1000 + u64::from(attempts));
    let deferred = outcome(message, 0, &[0], Disposition::Deferred);
    bench.appender.take(Request::Outcomes(vec![crate::Outcome { attempts, at, ..deferred }]));
    bench.turn();
}

fn checkpoint(bench: &mut Bench) {
    bench.checkpoint_all();
    bench.appender.set_checkpoint_octets(u64::MAX);
}

/// Fills segments with mail that leaves at once, so that all that is not needed goes.
fn pass_on(bench: &mut Bench) {
    for n in 0..30u8 {
        let message = bench.commit(&[n; 1500], envelope(ONE));
        bench.turn();
        bench.appender.take(route(message, &[0]));
        bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
        bench.turn();
    }
    (0..3).for_each(|_| bench.appender.settle());
    bench.outputs();
}

/// A message to three: one is refused, one delivered behind a deferral, one rerouted and put off again.
fn eventful(bench: &mut Bench) -> MessageId {
    let message = bench.commit(b"x", envelope(&[Notify::Never; 3]));
    bench.turn();
    let batch = |host: &str, recipients: &[u32]| RoutedBatch {
        thread: ThreadKey::new("smtp", host),
        recipients: recipients.to_vec(),
    };
    bench.appender.take(Request::Routed { message, batches: vec![batch("a", &[0, 1]), batch("b", &[2])] });
    bench.turn();
    let at = |seconds, outcome: crate::Outcome| crate::Outcome { at: Timestamp::from_secs(seconds), ..outcome };
    let reroute = Request::Reroute { id: BatchId { message, number: 1 }, thread: ThreadKey::new("smtp", "c") };
    for request in [
        Request::Outcomes(vec![
            at(1001, outcome(message, 0, &[0], Disposition::Failed)),
            at(1002, outcome(message, 0, &[1], Disposition::Deferred)),
        ]),
        Request::Outcomes(vec![at(1003, outcome(message, 1, &[2], Disposition::Deferred))]),
        reroute,
        Request::Outcomes(vec![
            crate::Outcome { attempts: 2, ..at(1004, outcome(message, 0, &[1], DELIVERED)) },
            at(1005, outcome(message, 1, &[2], Disposition::Deferred)),
        ]),
    ] {
        bench.appender.take(request);
        bench.turn();
    }
    message
}

const EVENTS: [&str; 5] = [
    "1001 smtp/a 1 Failed [0] connection refused",
    "1002 smtp/a 1 Deferred [1] connection refused",
    "1003 smtp/b 1 Deferred [2] connection refused",
    "1004 smtp/a 2 Delivered { dsn_relayed: false } [1] connection refused",
    "1005 smtp/c 1 Deferred [2] connection refused",
];

#[test]
fn each_recipients_attempts_are_told_while_the_message_is_in_the_queue() {
    let mut bench = open();
    let (before, message) = (eventful(&mut bench), eventful(&mut bench));
    assert_eq!(told(&bench, message), EVENTS);
    assert_eq!(told(&bench, before), EVENTS);
    assert_eq!(past(&bench, message).known, Known::All);
    assert!(lacking(&past(&bench, message), 0).is_empty());
    bench.appender.take(Request::Outcomes(vec![outcome(message, 1, &[2], DELIVERED)]));
    bench.turn();
    assert!(Reader::new(bench.shared.clone()).past(message).is_err(), "it has left the queue");
}

#[test]
fn what_became_of_a_message_is_told_after_a_restart() {
    let mut bench = open();
    let message = eventful(&mut bench);
    assert_eq!(told(&bench.restarted(), message), EVENTS);
}

#[test]
fn what_became_of_a_message_is_told_from_a_checkpoint_and_the_log_behind_it() {
    let mut bench = open();
    let message = eventful(&mut bench);
    checkpoint(&mut bench);
    assert_eq!(told(&bench, message), EVENTS);
    let mut bench = bench.restarted();
    assert_eq!(told(&bench, message), EVENTS);
    bench.appender.take(Request::Outcomes(vec![outcome(message, 1, &[2], Disposition::Delayed)]));
    bench.turn();
    assert_eq!(told(&bench, message).len(), EVENTS.len() + 1);
    checkpoint(&mut bench);
    checkpoint(&mut bench);
    assert_eq!(told(&bench.restarted(), message).len(), EVENTS.len() + 1);
}

#[test]
fn what_became_of_a_message_is_told_when_it_was_moved() {
    for with_checkpoint in [false, true] {
        let mut bench = open();
        bench.appender.set_checkpoint_octets(u64::MAX);
        let message = eventful(&mut bench);
        if with_checkpoint {
            checkpoint(&mut bench);
        }
        pass_on(&mut bench);
        bench.compact();
        assert_eq!(bench.shared.statistics().moved_messages, 1);
        assert_eq!(told(&bench, message), EVENTS);
        let mut bench = bench.restarted();
        assert_eq!(told(&bench, message), EVENTS);
        checkpoint(&mut bench);
        pass_on(&mut bench);
        bench.disk.checkpoint_mut(|checkpoint| *checkpoint = None);
        assert_eq!(told(&bench.restarted(), message), EVENTS, "without the checkpoint");
    }
}

#[test]
fn attempts_outlive_their_segments_in_the_checkpoint() {
    let mut bench = open();
    bench.appender.set_checkpoint_octets(u64::MAX);
    let message = bench.commit(b"x", envelope(ONE));
    bench.turn();
    bench.appender.take(route(message, &[0]));
    for attempts in 1..=5 {
        pass_on(&mut bench);
        try_again(&mut bench, message, attempts);
        checkpoint(&mut bench);
    }
    pass_on(&mut bench);
    bench.compact();
    let attempts = |bench: &Bench| past(bench, message).attempts.iter().map(|a| a.attempts).collect::<Vec<_>>();
    assert_eq!(attempts(&bench), [1, 2, 3, 4, 5]);
    assert_eq!(attempts(&bench.restarted()), [1, 2, 3, 4, 5]);
    checkpoint(&mut bench);
    assert_eq!(attempts(&bench.restarted()), [1, 2, 3, 4, 5]);
    assert!(bench.disk.segments().len() < 8, "the segments of its attempts are gone: {:?}", bench.disk.segments());
}

#[test]
fn attempts_that_are_gone_are_said_to_be_gone() {
    // With their segments, before a checkpoint has seen them.
    let mut bench = open();
    bench.appender.set_checkpoint_octets(u64::MAX);
    let message = bench.commit(b"x", envelope(ONE));
    bench.turn();
    bench.appender.take(route(message, &[0]));
    pass_on(&mut bench);
    for attempts in 1..=3 {
        try_again(&mut bench, message, attempts);
        pass_on(&mut bench);
    }
    assert_eq!(past(&bench, message).attempts.len(), 1);
    assert!(lacking(&past(&bench, message), 3).contains(&0));
    // Because there were too many.
    for attempts in 4..=40 {
        try_again(&mut bench, message, attempts);
    }
    let found = past(&bench, message);
    assert_eq!(found.attempts.iter().map(|a| a.attempts).collect::<Vec<_>>(), (33..=40).collect::<Vec<_>>());
    assert!(lacking(&found, 40).contains(&0) && found.known == Known::Latest);
}

#[test]
fn a_host_that_is_down_for_many_costs_the_log_nothing_and_the_checkpoint_little() {
    const MESSAGES: u64 = 2000;
    let mut bench = Bench::open(Simulated::default(), 4 << 20);
    bench.job_octets = usize::MAX;
    bench.appender.set_checkpoint_octets(u64::MAX);
    let ids: Vec<MessageId> = (0..MESSAGES).map(|_| bench.commit(b"x", envelope(ONE))).collect();
    bench.turn();
    ids.iter().for_each(|id| bench.appender.take(route(*id, &[0])));
    bench.turn();
    let mut sizes = Vec::new();
    let mut deferral = 0;
    for attempts in 1..=20 {
        let at = Timestamp::from_secs(1000 + u64::from(attempts));
        let deferred = |id: &MessageId| crate::Outcome { attempts, at, ..outcome(*id, 0, &[0], Disposition::Deferred) };
        let before = bench.shared.statistics().bytes;
        bench.appender.take(Request::Outcomes(ids.iter().map(deferred).collect()));
        bench.turn();
        deferral = (bench.shared.statistics().bytes - before) / MESSAGES;
        checkpoint(&mut bench);
        sizes.push(bench.disk.checkpoint_mut(|checkpoint| checkpoint.as_ref().map_or(0, Vec::len)) as u64 / MESSAGES);
    }
    println!("octets a message: {deferral} in the log for each deferral; in the checkpoint after 1, 2, ... {sizes:?}");
    assert_eq!(deferral, 36);
    assert!(sizes[7] - sizes[0] <= 7 * 15, "{sizes:?}");
    assert!(sizes[8..].iter().all(|size| *size <= sizes[7] + 1), "{sizes:?}");
}

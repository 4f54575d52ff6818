use std::io::ErrorKind;

use zrelay_clock::Timestamp;

use super::bench::{Bench, DELIVERED, ONE, digest, envelope, fill, left_behind, names, outcome, route};
use super::*;
use crate::simulated::{Random, Simulated};
use crate::{BatchId, BatchState, Damage, Disposition, Health, Notify, ThreadKey, ThreadState};

#[test]
fn the_life_of_a_message() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let message = bench.commit(b"Subject: a\r\n\r\nb\r\n", envelope(ONE));
    assert!(bench.outputs().is_empty(), "nothing is said before it is durable");
    assert_eq!(names(&bench.turn()), ["stored", "arrived"]);
    assert_eq!(bench.body(message), b"Subject: a\r\n\r\nb\r\n");

    bench.appender.take(route(message, &[0]));
    let outputs = bench.turn();
    let [Output::Queue(Queue::Batch(batch))] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((batch.size, &batch.recipients[..]), (16 + 17, &[0][..]));

    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], Disposition::Deferred)]));
    assert_eq!(names(&bench.turn()), ["outcome"]);
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
    assert_eq!(names(&bench.turn()), ["outcome", "done", "removed"]);
    assert_eq!(Reader::new(bench.shared.clone()).message(message).unwrap_err(), crate::ReadError::Unknown(message));
    assert_eq!(bench.shared.statistics().open_messages, 0);
}

#[test]
fn a_group_shares_one_sync() {
    let mut bench = Bench::open(Simulated::default(), 1 << 20);
    for n in 0..500 {
        bench.commit(format!("body {n}").as_bytes(), envelope(ONE));
    }
    bench.turn();
    assert_eq!((bench.shared.statistics().messages, bench.shared.statistics().syncs), (500, 1));
}

#[test]
fn a_failure_is_owed_until_the_report_is_stored() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let message = bench.commit(b"x", envelope(ONE));
    bench.turn();
    bench.appender.take(route(message, &[0]));
    bench.turn();
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], Disposition::Failed)]));
    assert_eq!(names(&bench.turn()), ["outcome", "owed", "done"]);

    let mut bench = Bench::open(bench.disk.after_kill(), 1 << 16);
    let [Fact::Owed(owed), Fact::Done(done)] = &bench.work.facts[..] else { panic!("{:?}", bench.work) };
    assert_eq!((owed.message, &owed.recipients[..], *done), (message, &[0][..], message));
    assert_eq!(owed.diagnostic.text, "connection refused");

    let mut report = envelope(ONE);
    report.origin = Some(Origin { message, recipients: vec![0] });
    bench.commit(b"Subject: failure\r\n", report);
    assert_eq!(names(&bench.turn()), ["stored", "arrived", "removed"]);
}

#[test]
fn equal_bodies_are_stored_once_also_within_a_group() {
    let mut bench = Bench::open(Simulated::default(), 1 << 20);
    let body = vec![b'x'; 10_000];
    let messages: Vec<MessageId> = (0..5).map(|_| bench.commit(&body, envelope(ONE))).collect();
    bench.turn();
    let last = bench.commit(&body, envelope(ONE));
    bench.turn();
    let statistics = bench.shared.statistics();
    assert_eq!(statistics.shared_bodies, 5);
    assert!(statistics.bytes < 15_000, "{statistics:?}");
    let bench = Bench::open(bench.disk.after_power_cut(&mut Random(1)), 1 << 20);
    messages.iter().chain([&last]).for_each(|message| assert_eq!(bench.body(*message), body));
}

#[test]
fn a_wrong_digest_does_not_mix_bodies_up() {
    let mut bench = Bench::open(Simulated::default(), 1 << 20);
    let (one, other) = (vec![b'x'; 1000], vec![b'y'; 1000]);
    let first = bench.commit(&one, envelope(ONE));
    let message = bench.shared.next_id();
    let (envelope, reply) = (Box::new(envelope(ONE)), bench.reply(message));
    bench.appender.take(Request::Commit { message, tail: other.clone(), digest: digest(&one), envelope, reply });
    bench.turn();
    assert_eq!((bench.body(first), bench.body(message)), (one, other));
}

#[test]
fn a_large_message_spans_segments_and_is_read_from_anywhere() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let content: Vec<u8> = (0..200_000u32).map(|n| (n / 7) as u8).collect();
    let message = bench.shared.next_id();
    for piece in content[..180_000].chunks(9_000) {
        bench.appender.take(Request::Append { message, bytes: piece.to_vec() });
    }
    let (envelope, reply) = (Box::new(envelope(ONE)), bench.reply(message));
    let tail = content[180_000..].to_vec();
    bench.appender.take(Request::Commit { message, tail, digest: [0; 32], envelope, reply });
    assert_eq!(names(&bench.turn()), ["stored", "arrived"]);
    assert!(bench.disk.segments().len() > 3);

    let bench = Bench::open(bench.disk.after_power_cut(&mut Random(3)), 1 << 16);
    let stored = Reader::new(bench.shared.clone()).message(message).unwrap();
    let whole = [stored.trace(), &content].concat();
    assert_eq!(stored.size(), whole.len() as u64);
    for from in [0, 1, 15, 16, 17, 8_999, 9_016, 100_000, whole.len() - 1, whole.len(), whole.len() + 5] {
        let rest = stored.slices(from as u64).collect::<Vec<_>>().concat();
        assert_eq!(rest, whole.get(from..).unwrap_or_default(), "from {from}");
    }
}

#[test]
fn an_aborted_message_keeps_no_space() {
    let mut bench = Bench::open(Simulated::default(), 1 << 13);
    let message = bench.shared.next_id();
    (0..20).for_each(|_| bench.appender.take(Request::Append { message, bytes: vec![b'x'; 4000] }));
    assert!(bench.disk.segments().len() > 5);
    bench.appender.take(Request::Abort { message });
    bench.commit(b"x", envelope(ONE));
    bench.turn();
    bench.settle();
    assert!(bench.disk.segments().len() <= 2, "{:?}", bench.disk.segments());
}

#[test]
fn a_full_disk_refuses_mail_keeps_outcomes_and_recovers() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let message = bench.commit(b"x", envelope(ONE));
    bench.turn();
    bench.appender.take(route(message, &[0]));
    bench.turn();
    bench.disk.break_after(0, ErrorKind::StorageFull);

    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
    bench.commit(b"y", envelope(ONE));
    let reply = bench.reply(message);
    bench.appender.take(Request::Flush { reply });
    assert_eq!(names(&bench.turn()), ["full", "full", "paused"], "neither the message nor the flush is answered well");
    assert_eq!(bench.shared.health(), Health::Full);
    bench.commit(b"z", envelope(ONE));
    bench.appender.retry();
    assert_eq!(names(&bench.outputs()), ["full"], "and the outcome is not told");

    bench.disk.heal();
    bench.appender.retry();
    assert_eq!(names(&bench.outputs()), ["resumed", "outcome", "done", "removed"]);
    assert_eq!(bench.shared.health(), Health::Good);
    bench.commit(b"y", envelope(ONE));
    assert_eq!(names(&bench.turn()), ["stored", "arrived"]);
}

#[test]
fn what_a_failed_sync_left_behind_is_not_believed_after_a_restart() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    bench.turn();
    // The write works, the sync does not: all of the message is in the file.
    bench.disk.break_after(1, ErrorKind::Other);
    bench.commit(b"refused", envelope(ONE));
    assert_eq!(names(&bench.turn()), ["broken", "paused"]);
    bench.disk.heal();
    bench.appender.retry();
    let kept = bench.commit(b"kept", envelope(ONE));
    assert_eq!(names(&bench.turn()), ["resumed", "stored", "arrived"]);

    let bench = Bench::open(bench.disk.after_kill(), 1 << 16);
    assert_eq!(bench.work.arrived, [kept]);
}

#[test]
fn a_message_that_lost_a_piece_is_refused() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let message = bench.shared.next_id();
    bench.appender.take(Request::Append { message, bytes: vec![b'x'; 100] });
    bench.disk.break_after(0, ErrorKind::Other);
    bench.commit(b"y", envelope(ONE));
    bench.turn();
    bench.disk.heal();
    bench.appender.retry();
    bench.outputs();
    let reply = bench.reply(message);
    bench.commit_as(message, b"tail", envelope(ONE), reply);
    assert_eq!(names(&bench.turn()), ["broken"]);
}

#[test]
fn damage_costs_the_damaged_record_only() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let bodies: Vec<String> = (0..5).map(|n| format!("the body of number {n}")).collect();
    let messages: Vec<MessageId> = bodies
        .iter()
        .map(|body| {
            let message = bench.commit(body.as_bytes(), envelope(ONE));
            bench.turn();
            message
        })
        .collect();
    let disk = bench.disk.after_kill();
    let at = disk.octets(1).windows(20).position(|window| window == bodies[2].as_bytes()[..20].as_ref()).unwrap();
    disk.corrupt(1, at as u32 + 3);

    let bench = Bench::open(disk, 1 << 16);

    // It stays in the queue, and is not sent.
    assert_eq!(bench.work.arrived, messages);
    assert!(bench.damage.contains(&Damage::Content(messages[2])), "{:?}", bench.damage);
    let reader = Reader::new(bench.shared.clone());
    let readable: Vec<bool> = messages.iter().map(|message| reader.intact(*message).is_ok()).collect();
    assert_eq!(readable, [true, true, false, true, true]);
}

#[test]
fn a_directory_that_is_moved_away_refuses_mail_until_it_is_back() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    bench.disk.set_misplaced(true);
    bench.appender.measure();
    assert_eq!(names(&bench.outputs()), ["paused"]);
    bench.commit(b"x", envelope(ONE));
    assert_eq!(names(&bench.turn()), ["broken"]);
    bench.appender.retry();
    assert!(bench.appender.is_in_trouble());
    bench.disk.set_misplaced(false);
    bench.appender.retry();
    assert_eq!(names(&bench.outputs()), ["resumed"]);
    bench.commit(b"x", envelope(ONE));
    assert_eq!(names(&bench.turn()), ["stored", "arrived"]);
}

#[test]
fn what_a_killed_run_left_allocated_is_given_back() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    bench.commit(b"kept", envelope(ONE));
    bench.turn();
    // As if something had been written that never was durable.
    bench.disk.tamper(1, |octets| octets[60_000] = 1);
    let bench = bench.restarted();
    assert_eq!(bench.disk.octets(1)[60_000], 0);
    assert_eq!(bench.disk.octets(1).len(), 1 << 16);
    assert_eq!(bench.work.arrived.len(), 1);
}

#[test]
fn the_state_of_a_thread_outlives_its_segment() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let state = |host: &str, failures| ThreadState {
        key: ThreadKey::new("smtp", host),
        failures,
        due: Timestamp::from_secs(5),
        held: false,
        last: None,
    };
    bench.appender.take(Request::Thread(state("down", 3)));
    bench.appender.take(Request::Thread(state("up", 3)));
    bench.turn();
    bench.appender.take(Request::Thread(state("up", 0)));
    bench.turn();
    fill(&mut bench, 9);
    assert!(!bench.disk.segments().contains(&1));
    let bench = Bench::open(bench.disk.after_power_cut(&mut Random(5)), 1 << 12);
    assert_eq!(bench.work.threads, [state("down", 3)]);
}

#[test]
fn a_held_batch_stays_held_while_segments_around_it_are_reclaimed() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let message = left_behind(&mut bench);
    let (id, due) = (BatchId { message, number: 0 }, Timestamp::from_secs(77));
    bench.appender.take(Request::Batch(BatchState { id, held: true, due, attempts: 4 }));
    bench.turn();
    fill(&mut bench, 3);
    assert!(bench.disk.segments().len() <= 4, "{:?}", bench.disk.segments());

    let bench = Bench::open(bench.disk.after_power_cut(&mut Random(5)), 1 << 12);
    let [batch] = &bench.work.batches[..] else { panic!("{:?}", bench.work) };
    assert_eq!((batch.id, batch.held, batch.due, batch.attempts), (id, true, due, 4));
}

#[test]
fn a_rerouted_batch_and_a_told_delay_outlive_a_power_cut_and_compaction() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let on = Notify::On { success: false, failure: false, delay: true };
    let message = bench.commit(b"x", envelope(&[on, Notify::Never]));
    bench.turn();
    bench.appender.take(route(message, &[0, 1]));
    bench.turn();
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0, 1], Disposition::Deferred)]));
    bench.turn();
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0, 1], Disposition::Delayed)]));
    let outputs = bench.turn();
    let [Output::Fact(Fact::Owed(owed))] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((&owed.recipients[..], owed.disposition), (&[0][..], Disposition::Delayed));
    assert!(owed.until.is_some());
    let (id, thread) = (BatchId { message, number: 0 }, ThreadKey::new("smtp", "[192.0.2.9]"));
    bench.appender.take(Request::Reroute { id, thread: thread.clone() });
    bench.turn();
    fill(&mut bench, 3);
    bench.compact();

    let bench = Bench::open(bench.disk.after_power_cut(&mut Random(5)), 1 << 12);
    let [batch] = &bench.work.batches[..] else { panic!("{:?}", bench.work) };
    assert_eq!((batch.id, &batch.thread, batch.warned, batch.attempts), (id, &thread, true, 0));
    assert_eq!((batch.due, &batch.last), (batch.received, &None));
    assert!(bench.work.facts.is_empty(), "{:?}", bench.work.facts);
}

#[test]
fn a_body_that_was_lost_with_a_disk_error_is_stored_again() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let body = [b'x'; 1000];
    bench.disk.break_after(1, ErrorKind::Other);
    bench.commit(&body, envelope(ONE));
    assert_eq!(names(&bench.turn()), ["broken", "paused"]);
    bench.disk.heal();
    bench.appender.retry();
    let message = bench.commit(&body, envelope(ONE));
    assert_eq!(names(&bench.turn()), ["resumed", "stored", "arrived"]);
    assert_eq!(bench.body(message), body);
}

#[test]
fn a_body_is_not_shared_with_a_segment_that_is_going() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    // Keeps the first segment, so that the ends of messages in it are wanted when a later segment goes.
    let stays = bench.commit(b"stays", envelope(ONE));
    fill(&mut bench, 1);
    let body = [b'y'; 1000];
    let goes = bench.commit(&body, envelope(ONE));
    bench.turn();
    let segment = bench.shared.place(goes).unwrap().segment;
    let is_going = |bench: &Bench| {
        let goes = |staged: &Staged| matches!(staged, Staged::Delete(going) if *going == segment);
        bench.appender.staged.iter().any(goes)
    };
    let mut last = goes;
    for step in (0..3).cycle().take(300) {
        match step {
            0 => bench.appender.take(route(last, &[0])),
            1 => bench.appender.take(Request::Outcomes(vec![outcome(last, 0, &[0], DELIVERED)])),
            _ => last = bench.commit(&[b'x'; 1500], envelope(ONE)),
        }
        bench.turn();
        if is_going(&bench) {
            break;
        }
    }
    assert!(is_going(&bench));

    let again = bench.commit(&body, envelope(ONE));
    bench.turn();

    assert!(!bench.disk.segments().contains(&segment));
    assert_eq!((bench.body(stays), bench.body(again)), (b"stays".to_vec(), body.to_vec()));
}

#[test]
fn recipients_routed_twice_are_delivered_once() {
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let message = bench.commit(b"x", envelope(&[Notify::Default; 3]));
    bench.turn();
    let batch = |host: &str, recipients: &[u32]| RoutedBatch {
        thread: ThreadKey::new("smtp", host),
        recipients: recipients.to_vec(),
    };
    let batches = vec![batch("a", &[0, 1]), batch("b", &[1, 99])];
    bench.appender.take(Request::Routed { message, batches });
    let outputs = bench.turn();
    let [Output::Queue(Queue::Batch(only))] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((only.id.number, &only.recipients[..]), (0, &[0, 1][..]));
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0, 1], DELIVERED)]));
    assert_eq!(names(&bench.turn()), ["outcome", "done", "removed"]);
}

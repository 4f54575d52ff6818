//! The table of durability in the crate's documentation, row by row: what a power cut leaves when nothing that was not
//! synced has reached the disk, just before a step is told to anybody and just after.

use super::bench::{Bench, DELIVERED, envelope, names, outcome, route};
use super::*;
use crate::recovery::Work;
use crate::simulated::{Fault, Simulated, Victim};
use crate::{BatchId, BatchState, Disposition, Notify, ThreadKey, ThreadState};
use zrelay_clock::Timestamp;

const SEGMENT: u32 = 1 << 16;
const ONE: &[Notify] = &[Notify::Default];

fn bench() -> Bench {
    Bench::open(Simulated::default(), SEGMENT)
}

/// A restart after a power cut that cost all that was not synced.
fn cut(bench: &Bench) -> Bench {
    Bench::open(bench.disk.after_power_cut_with(|_| false), SEGMENT)
}

/// The same where all that was written has reached the disk.
fn kept(bench: &Bench) -> Bench {
    Bench::open(bench.disk.after_kill(), SEGMENT)
}

fn stored(bench: &mut Bench) -> MessageId {
    let message = bench.commit(b"content", envelope(ONE));
    assert_eq!(names(&bench.turn()), ["stored", "arrived"]);
    message
}

fn routed(bench: &mut Bench) -> MessageId {
    let message = stored(bench);
    bench.appender.take(route(message, &[0]));
    assert_eq!(names(&bench.turn()), ["batch"]);
    message
}

fn failed(bench: &mut Bench) -> MessageId {
    let message = routed(bench);
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], Disposition::Failed)]));
    assert_eq!(names(&bench.turn()), ["outcome", "owed", "done"]);
    message
}

fn owed(work: &Work) -> Vec<MessageId> {
    let owed = |fact: &Fact| if let Fact::Owed(owed) = fact { Some(owed.message) } else { None };
    work.facts.iter().filter_map(owed).collect()
}

#[test]
fn a_segment_that_was_not_finished_being_made_was_never_there() {
    let mut bench = bench();
    let message = stored(&mut bench);
    for (after, victim) in [(0, Victim::Names), (0, Victim::Writes), (0, Victim::Syncs), (1, Victim::Names)] {
        bench.disk.fail(Fault { after, times: Fault::FOREVER, victim, kind: io::ErrorKind::Other });
        // Too large for what is left of the first one. The end of that one is synced before the next is made.
        let large = bench.commit(&[b'x'; SEGMENT as usize], envelope(ONE));
        assert!(names(&bench.turn()).contains(&"broken"), "{victim:?}");
        for bench in [cut(&bench), kept(&bench)] {
            assert_eq!(bench.work.arrived, [message], "{large} after {victim:?}");
        }
        bench.disk.heal();
        bench.appender.retry();
        bench.turn();
    }
}

/// Its head takes two sectors, either of which may reach the disk without the other.
#[test]
fn nothing_is_told_of_a_segment_that_was_not_finished_being_made() {
    let mut bench = bench();
    let message = stored(&mut bench);
    bench.disk.fail(Fault { after: 0, times: Fault::FOREVER, victim: Victim::Syncs, kind: io::ErrorKind::Other });
    bench.commit(&[b'x'; SEGMENT as usize], envelope(ONE));
    assert!(names(&bench.turn()).contains(&"broken"));
    for reached in 0..4 {
        let disk = bench.disk.after_power_cut_with(|sector| sector.is_none_or(|sector| reached >> sector & 1 == 1));
        let Bench { work, damage, .. } = Bench::open(disk, SEGMENT);
        assert_eq!((work.arrived, damage), (vec![message], vec![]), "sectors {reached:02b}");
    }
}

#[test]
fn pieces_without_a_commit_were_never_there() {
    let mut bench = bench();
    let message = bench.shared.next_id();
    bench.appender.take(Request::Append { message, bytes: vec![b'x'; 5000] });
    let other = stored(&mut bench);
    assert_eq!(cut(&bench).work.arrived, [other]);
    assert_eq!(kept(&bench).work.arrived, [other]);
}

#[test]
fn a_message_is_there_when_it_was_answered() {
    let mut bench = bench();
    let message = bench.commit(b"content", envelope(ONE));
    assert!(bench.outputs().is_empty());
    assert!(cut(&bench).work.arrived.is_empty());
    assert_eq!(names(&bench.turn()), ["stored", "arrived"]);
    assert_eq!(cut(&bench).work.arrived, [message]);
    assert_eq!(cut(&bench).body(message), b"content");
}

#[test]
fn a_decision_that_was_not_told_is_asked_for_again() {
    let mut bench = bench();
    let message = stored(&mut bench);
    bench.appender.take(route(message, &[0]));
    assert_eq!((cut(&bench).work.arrived, cut(&bench).work.batches.len()), (vec![message], 0));
    assert_eq!(names(&bench.turn()), ["batch"]);
    assert_eq!((cut(&bench).work.arrived, cut(&bench).work.batches.len()), (vec![], 1));
}

#[test]
fn an_outcome_that_was_not_told_leaves_the_recipient_open() {
    let mut bench = bench();
    let message = routed(&mut bench);
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
    assert!(bench.outputs().is_empty());
    assert_eq!(cut(&bench).work.batches.len(), 1);
    assert_eq!(names(&bench.turn()), ["outcome", "done", "removed"]);
    assert_eq!(cut(&bench).work.batches.len(), 0);
}

#[test]
fn what_an_operator_did_counts_from_the_end_of_its_group() {
    let mut bench = bench();
    let message = routed(&mut bench);
    let (id, due) = (BatchId { message, number: 0 }, Timestamp::from_secs(9));
    bench.appender.take(Request::Batch(BatchState { id, held: true, due, attempts: 3 }));
    let key = ThreadKey::new("smtp", "down.test");
    bench.appender.take(Request::Thread(ThreadState { key, failures: 2, due, held: false, last: None }));
    let held = |bench: &Bench| (bench.work.batches[0].held, bench.work.batches[0].attempts, bench.work.threads.len());
    assert_eq!(held(&cut(&bench)), (false, 0, 0));
    bench.turn();
    assert_eq!(held(&cut(&bench)), (true, 3, 1));
}

#[test]
fn a_notification_is_stored_and_settles_or_neither() {
    let mut bench = bench();
    let message = failed(&mut bench);
    let mut report = envelope(ONE);
    report.origin = Some(Origin { message, recipients: vec![0] });
    let report = bench.commit(b"report", report);
    assert_eq!((owed(&cut(&bench).work), cut(&bench).work.arrived), (vec![message], vec![]));
    assert_eq!(names(&bench.turn()), ["stored", "arrived", "removed"]);
    assert_eq!((owed(&cut(&bench).work), cut(&bench).work.arrived), (vec![], vec![report]));
}

#[test]
fn a_report_that_was_not_settled_is_owed_again() {
    let mut bench = bench();
    let message = failed(&mut bench);
    bench.appender.take(Request::Settled { message, recipients: vec![0] });
    assert_eq!(owed(&cut(&bench).work), [message]);
    assert_eq!(names(&bench.turn()), ["removed"]);
    assert_eq!(owed(&cut(&bench).work), []);
}

#[test]
fn a_message_that_moves_is_at_one_place_or_the_other() {
    let mut bench = bench();
    let message = routed(&mut bench);
    // Others fill its segment, and the next, and are gone.
    for n in 0..8 {
        let other = bench.commit(&[n; 20_000], envelope(ONE));
        bench.turn();
        bench.appender.take(route(other, &[0]));
        bench.appender.take(Request::Outcomes(vec![outcome(other, 0, &[0], DELIVERED)]));
        bench.turn();
    }
    let place = bench.shared.place(message);
    let mut moved = false;
    for _ in 0..100 {
        bench.appender.grant(100);
        bench.appender.settle();
        moved |= bench.shared.place(message) != place;
        for bench in [cut(&bench), kept(&bench)] {
            assert_eq!((bench.work.batches.len(), bench.body(message)), (1, b"content".to_vec()));
        }
    }
    assert!(moved);
    assert!(!bench.disk.segments().contains(&place.unwrap().segment), "its old segment is gone");
}

#[test]
fn an_end_that_was_not_recorded_follows_from_the_outcomes() {
    let mut bench = bench();
    let message = routed(&mut bench);
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
    bench.turn();
    for bench in [cut(&bench), kept(&bench)] {
        let told = matches!(bench.work.facts[..], [Fact::Done(done), Fact::Removed(removed)] if done == removed);
        assert!(told && bench.work.batches.is_empty(), "{:?}", bench.work);
    }
    bench.appender.settle();
    assert!(cut(&bench).work.facts.is_empty(), "it is over");
}

#[test]
fn a_segment_whose_removal_was_lost_is_not_believed() {
    let mut bench = bench();
    let message = routed(&mut bench);
    let first = bench.shared.place(message).unwrap().segment;
    let fill = |bench: &mut Bench, octet| {
        let large = bench.commit(&[octet; 40_000], envelope(ONE));
        bench.turn();
        bench.appender.take(route(large, &[0]));
        bench.appender.take(Request::Outcomes(vec![outcome(large, 0, &[0], DELIVERED)]));
        bench.turn();
    };
    fill(&mut bench, 1);
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
    bench.turn();
    fill(&mut bench, 2);
    // The name goes, and the directory is not synced before the power is cut.
    bench.disk.fail(Fault { after: 1, times: Fault::FOREVER, victim: Victim::Names, kind: io::ErrorKind::Other });
    (0..4).for_each(|_| bench.appender.settle());
    assert!(!bench.disk.segments().contains(&first));
    let back = Bench::open(bench.disk.after_power_cut_with(|_| true), SEGMENT);
    assert!(back.work.batches.is_empty() && back.work.arrived.is_empty(), "{:?}", back.work);
}

#[test]
fn a_flush_is_answered_when_all_before_it_is_durable() {
    let mut bench = bench();
    let message = routed(&mut bench);
    bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], Disposition::Deferred)]));
    bench.appender.take(Request::Flush { reply: bench.reply(MessageId(7)) });
    assert!(bench.outputs().is_empty());
    assert_eq!(names(&bench.turn()), ["outcome", "stored"]);
    assert_eq!(cut(&bench).work.batches[0].attempts, 1);
}

//! Restarts from checkpoints. That they find what is on record, whatever happens, is for the model to show.

use std::io::ErrorKind;

use zrelay_clock::Timestamp;

use super::super::tests::{Bench, DELIVERED, envelope, names, outcome, route};
use crate::recovery::Work;
use crate::simulated::{Random, Simulated};
use crate::{BatchId, BatchState, Disposition, MessageId, Notify, Request, ThreadKey, ThreadState};

const ONE: &[Notify] = &[Notify::Default];

fn bench() -> Bench {
    Bench::open(Simulated::default(), 1 << 16)
}

fn store(bench: &mut Bench) -> MessageId {
    let message = bench.commit(b"x", envelope(ONE));
    bench.turn();
    bench.appender.take(route(message, &[0]));
    bench.turn();
    message
}

/// Makes a checkpoint of all that is on record.
fn checkpoint(bench: &mut Bench) {
    for _ in 0..100 {
        bench.job = None;
        bench.appender.cancel_and_forget_checkpoint();
        bench.appender.set_checkpoint_octets(0);
        bench.appender.settle();
        bench.outputs();
        if bench.appender.is_settled() && bench.checkpoint() {
            return;
        }
    }
    panic!("it is never time for a checkpoint");
}

fn told(work: &Work) -> String {
    format!("{:?} {:?} {:?} {:?}", work.threads, work.batches, work.arrived, work.facts)
}

/// A queue with something of everything: deferred, held, unrouted, done in part, owed, rerouted; a host that is down.
fn busy() -> Bench {
    let mut bench = bench();
    let messages: Vec<MessageId> = (0..200).map(|_| store(&mut bench)).collect();
    bench.commit(b"unrouted", envelope(ONE));
    let post = bench.commit(b"post", envelope(&[Notify::Default; 100]));
    bench.turn();
    bench.appender.take(route(post, &(0..100).collect::<Vec<u32>>()));
    let held =
        BatchState { id: BatchId { message: messages[3], number: 0 }, held: true, due: Timestamp::NEVER, attempts: 4 };
    let key = ThreadKey::new("smtp", "down.example");
    let state = ThreadState { key, failures: 3, due: Timestamp::from_secs(77), held: false, last: None };
    for request in [
        Request::Outcomes(vec![outcome(messages[1], 0, &[0], Disposition::Deferred)]),
        Request::Outcomes(vec![outcome(messages[2], 0, &[0], Disposition::Failed)]),
        Request::Outcomes(vec![outcome(post, 0, &[5, 6, 7], DELIVERED), outcome(post, 0, &[8], Disposition::Expired)]),
        Request::Batch(held),
        Request::Reroute { id: BatchId { message: messages[4], number: 0 }, thread: ThreadKey::new("smtp", "other") },
        Request::Thread(state),
        Request::Outcomes(messages[100..].iter().map(|message| outcome(*message, 0, &[0], DELIVERED)).collect()),
    ] {
        bench.appender.take(request);
        bench.turn();
    }
    bench
}

#[test]
fn a_restart_from_a_checkpoint_tells_what_one_from_the_log_tells() {
    let mut bench = busy();
    let from_log = told(&bench.restarted().work);
    checkpoint(&mut bench);
    assert!(bench.disk.checkpoint_mut(|checkpoint| checkpoint.is_some()));
    assert_eq!(told(&bench.restarted().work), from_log);
    // And what is recorded behind it counts as well.
    let late = store(&mut bench);
    let work = bench.restarted().work;
    bench.disk.checkpoint_mut(|checkpoint| *checkpoint = None);
    assert_eq!(told(&work), told(&bench.restarted().work));
    assert!(work.batches.iter().any(|batch| batch.id.message == late));
}

#[test]
fn a_second_checkpoint_is_made_from_the_first() {
    let mut bench = busy();
    checkpoint(&mut bench);
    let more: Vec<MessageId> = (0..50).map(|_| store(&mut bench)).collect();
    bench.appender.take(Request::Outcomes(vec![outcome(more[7], 0, &[0], Disposition::Deferred)]));
    bench.turn();
    let before = told(&bench.restarted().work);
    checkpoint(&mut bench);
    assert_eq!(told(&bench.restarted().work), before);
    // And the books are as they were: everything can leave.
    let mut bench = bench.restarted();
    for batch in std::mem::take(&mut bench.work.batches) {
        let done = outcome(batch.id.message, batch.id.number, &batch.recipients, Disposition::Dropped);
        bench.appender.take(Request::Outcomes(vec![done]));
        bench.turn();
    }
    assert!(bench.restarted().work.batches.is_empty());
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_log_is_read() {
    let mut bench = busy();
    checkpoint(&mut bench);
    let expected = told(&bench.restarted().work);
    let octets = bench.disk.checkpoint_mut(|checkpoint| checkpoint.clone()).unwrap();
    let mut random = Random(7);
    for _ in 0..200 {
        let mut damaged = octets.clone();
        let at = random.next() as usize % damaged.len();
        if random.coin() {
            damaged[at] ^= 1 << (random.next() % 8);
        } else {
            damaged.truncate(at);
        }
        bench.disk.checkpoint_mut(|checkpoint| *checkpoint = Some(damaged));
        let restarted = bench.restarted();
        assert_eq!(told(&restarted.work), expected, "octet {at}");
        assert!(restarted.disk.checkpoint_mut(|checkpoint| checkpoint.is_none()), "it is set aside");
    }
}

#[test]
fn a_checkpoint_of_another_spool_is_not_believed() {
    let mut other = busy();
    checkpoint(&mut other);
    let octets = other.disk.checkpoint_mut(|checkpoint| checkpoint.clone());
    let mut bench = bench();
    let message = store(&mut bench);
    bench.disk.checkpoint_mut(|checkpoint| *checkpoint = octets);
    let restarted = bench.restarted();
    assert_eq!(restarted.work.batches.iter().map(|batch| batch.id.message).collect::<Vec<_>>(), [message]);
}

#[test]
fn a_disk_that_refuses_a_checkpoint_keeps_the_one_before() {
    let mut bench = busy();
    checkpoint(&mut bench);
    let before = bench.disk.checkpoint_mut(|checkpoint| checkpoint.clone());
    store(&mut bench);
    bench.appender.set_checkpoint_octets(0);
    bench.appender.settle();
    bench.outputs();
    bench.disk.break_after(1, ErrorKind::StorageFull);
    assert!(bench.job.is_some() && !bench.checkpoint());
    bench.disk.heal();
    assert_eq!(bench.disk.checkpoint_mut(|checkpoint| checkpoint.clone()), before);
    assert_eq!(names(&bench.turn()), [] as [&str; 0], "mail goes on");
}

#[test]
fn what_has_left_the_queue_since_an_old_checkpoint_does_not_come_back_when_its_segments_are_gone() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let messages: Vec<MessageId> = (0..40).map(|_| store(&mut bench)).collect();
    checkpoint(&mut bench);
    // From here on no other is made.
    bench.appender.set_checkpoint_octets(u64::MAX);
    bench.job = None;
    for message in &messages[..39] {
        bench.appender.take(Request::Outcomes(vec![outcome(*message, 0, &[0], DELIVERED)]));
        bench.turn();
    }
    for _ in 0..100 {
        let message = store(&mut bench);
        bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
        bench.turn();
        bench.appender.settle();
    }
    bench.compact();
    assert!(bench.disk.segments().first().is_some_and(|first| *first > 3), "{:?}", bench.disk.segments());
    let restarted = bench.restarted();
    assert_eq!(restarted.work.batches.iter().map(|batch| batch.id.message).collect::<Vec<_>>(), messages[39..]);
}

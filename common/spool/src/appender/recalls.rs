//! What an earlier run left is handed out as it was, in little memory, while everything else goes on.

use std::sync::atomic::Ordering;

use super::bench::{Bench, envelope, fill, left_behind, route_apart};
use crate::simulated::Simulated;
use crate::{MessageId, Notify};

#[test]
fn what_an_earlier_run_left_is_not_moved_before_it_is_handed_out() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let message = left_behind(&mut bench);
    let (mut bench, mut backlog) = Bench::open_with_backlog(bench.disk.after_kill(), 1 << 12);
    fill(&mut bench, 3);
    bench.compact();
    let mut left = Vec::new();
    while let Some(one) = bench.appender.recall(&mut backlog) {
        left.push(one);
    }
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!((left[0].message, left[0].batches.len(), left[0].is_unrouted), (message, 1, false));
    let before = bench.disk.segments().len();
    bench.compact();
    assert!(bench.disk.segments().len() < before, "it is moved afterwards: {:?}", bench.disk.segments());
}

/// Only where it is written, which is read when it is handed out.
fn takes_little_memory(disk: Simulated, message: MessageId, recipients: usize) {
    let (mut bench, mut backlog) = Bench::open_with_backlog(disk, 1 << 12);
    assert!(backlog.octets() < 100, "{} octets for one message", backlog.octets());
    let left = bench.appender.recall(&mut backlog).unwrap();
    assert_eq!((left.message, left.batches.len()), (message, recipients), "{:?}", bench.damage);
    assert!(bench.appender.recall(&mut backlog).is_none());
}

#[test]
fn a_post_that_was_routed_behind_a_checkpoint_takes_little_memory_behind_a_restart() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let message = bench.commit(b"x", envelope(&[Notify::Default; 50]));
    bench.turn();
    bench.checkpoint_all();
    bench.appender.take(route_apart(message, 50));
    bench.turn();
    takes_little_memory(bench.disk.after_kill(), message, 50);
}

#[test]
fn a_post_that_was_moved_takes_little_memory_behind_a_restart() {
    let mut bench = Bench::open(Simulated::default(), 1 << 12);
    let message = bench.commit(b"x", envelope(&[Notify::Default; 20]));
    bench.turn();
    bench.appender.take(route_apart(message, 20));
    bench.turn();
    fill(&mut bench, 3);
    bench.compact();
    assert_eq!(bench.shared.counters.moved_messages.load(Ordering::Relaxed), 1);
    takes_little_memory(bench.disk.after_kill(), message, 20);
}

//! Mail that is sent to another thread.

use std::time::Duration;

use zrelay_agent::{Judgement, Release};
use zrelay_spool::Disposition;

use super::world::{START, World, clause, reply, settings};
use crate::SWEEP_MAX;
use crate::operator::{Action, Changed, Chosen, Selector};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };

fn world() -> World {
    World::new(settings(clause(|_| {}), 100), 1)
}

fn reroute(world: &mut World, selector: &str, to: &str) -> Changed {
    let changed = world.scheduler.reroute(world.now, &selector.parse::<Selector>().unwrap(), &to.parse().unwrap());
    world.settle_down();
    changed
}

#[test]
fn mail_of_a_dead_host_goes_out_over_another_at_once_and_keeps_its_age() {
    let mut world = world();
    world.arrive("smtp/dead", 2, 100);
    let lease = world.agent("smtp/dead");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    world.pass(Duration::from_secs(5));
    let changed = reroute(&mut world, "smtp/dead", "smtp/[192.0.2.1]");
    assert_eq!((changed.threads, changed.batches, changed.recipients), (1, 1, 2));
    let lease = world.agent("smtp/[192.0.2.1]");
    world.hungry(lease, 1, 10_000);
    let ticket = world.agents[&lease].carried[0].clone();
    assert_eq!((ticket.received, ticket.recipients.len()), (START, 2));
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    assert!(world.open.is_empty());
    assert_eq!(world.outcomes.last().unwrap().attempts, 1, "the attempts at the old host do not count");
}

#[test]
fn expiry_counts_on_and_a_hold_stays() {
    let mut world = world();
    let held = world.arrive("smtp/a", 1, 100);
    world.scheduler.operate(world.now, Action::Hold, &Selector::Message(held.message));
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    world.pass(Duration::from_secs(250));
    reroute(&mut world, "smtp/a", "smtp/b");
    let lease = world.agent("smtp/b");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    world.pass(Duration::from_secs(51));
    let lease = world.agent("smtp/b");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    let expired: Vec<_> = world.finished.values().collect();
    assert_eq!(expired, [&Disposition::Expired], "five minutes after it came");
    assert!(world.open.iter().all(|(batch, _)| *batch == held));
}

#[test]
fn what_an_agent_carries_and_what_is_meant_in_part_stays() {
    let mut world = world();
    let carried = world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 100);
    let waiting = world.arrive("smtp/a", 3, 100);
    let changed = reroute(&mut world, &carried.message.to_string(), "smtp/b");
    assert_eq!((changed.batches, changed.under_way), (0, 1));
    let chosen =
        Chosen { thread: "smtp/a".parse().unwrap(), batch: waiting, run: None, open: 1, recipients: Some(vec![1]) };
    let changed = world.scheduler.reroute_chosen(world.now, std::slice::from_ref(&chosen), &"smtp/b".parse().unwrap());
    assert_eq!((changed.batches, changed.divided), (0, 1));
    let whole = Chosen { recipients: None, ..chosen };
    let changed = world.scheduler.reroute_chosen(world.now, &[whole], &"smtp/b".parse().unwrap());
    world.settle_down();
    assert_eq!((changed.batches, changed.recipients), (1, 3));
    assert!(world.has_agent("smtp/b"));
    assert_eq!(reroute(&mut world, "smtp/b", "smtp/b"), Changed::default());
}

#[test]
fn a_large_queue_moves_a_bounded_number_of_batches_in_a_turn() {
    let mut world = world();
    world.unchecked();
    for _ in 0..2 * SWEEP_MAX + 10 {
        world.arrive("hold/review", 1, 100);
    }
    let changed = world.scheduler.reroute(world.now, &"hold/*".parse().unwrap(), &"smtp/a".parse().unwrap());
    assert_eq!(changed.batches as usize, 2 * SWEEP_MAX + 10);
    let mut left = Vec::new();
    while world.scheduler.poll_timeout().is_some_and(|at| at <= world.now) {
        world.scheduler.handle_timeout(world.now);
        let review = world.scheduler.thread(world.now, &"hold/review".parse().unwrap()).unwrap();
        left.push(review.thread.load.batches as usize);
    }
    assert_eq!(left[0], SWEEP_MAX + 10);
    assert_eq!(left.last(), Some(&0));
    world.settle_down();
    assert_eq!(world.open.len(), 2 * SWEEP_MAX + 10);
    assert!(world.has_agent("smtp/a"));
}

#[test]
fn a_message_beyond_the_window_is_sent_elsewhere() {
    let mut world = world();
    world.scheduler.set_window(10);
    let all: Vec<_> = (0..100).map(|_| world.arrive("smtp/a", 1, 100)).collect();
    let moved = all[70];
    assert!(!world.scheduler.threads.values().any(|thread| thread.batches.contains_key(&moved)), "it is in memory");
    let changed = reroute(&mut world, &moved.message.to_string(), "smtp/b");
    assert_eq!((changed.batches, changed.beyond), (0, 1), "it is looked for, and counted by nobody");
    let lease = world.agent("smtp/b");
    world.hungry(lease, 1, 1 << 20);
    let carried: Vec<_> = world.agents[&lease].carried.iter().map(|ticket| ticket.id).collect();
    assert_eq!(carried, [moved]);
}

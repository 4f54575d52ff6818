//! What operators do to threads, patterns, messages and recipients, scene by scene.

use std::time::Duration;

use zrelay_agent::{Judgement, Release};
use zrelay_spool::{Disposition, Queue};

use super::world::{World, clause, reply, settings};
use crate::operator::{Action, Chosen, Selector};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };

fn world() -> World {
    World::new(settings(clause(|_| {}), 100), 1)
}

fn operate(world: &mut World, action: Action, selector: &str) -> crate::Changed {
    let changed = world.scheduler.operate(world.now, action, &selector.parse::<Selector>().unwrap());
    world.settle_down();
    changed
}

#[test]
fn hold_stops_a_thread_durably_and_release_sets_it_free() {
    let mut world = world();
    world.arrive("smtp/a", 1, 100);
    world.arrive("smtp/a", 2, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    let changed = operate(&mut world, Action::Hold, "smtp/a");
    assert_eq!((changed.threads, changed.batches, changed.recipients, changed.under_way), (1, 2, 3, 1));
    assert!(world.records.last().unwrap().held && world.agents[&lease].closing);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.release(lease, Release::Done);
    assert_eq!(world.state("smtp/a"), "held");
    world.pass(Duration::from_secs(1000));
    assert_eq!(world.open.len(), 2, "held batches do not expire");
    operate(&mut world, Action::Release, "smtp/a");
    assert!(!world.records.last().unwrap().held && world.has_agent("smtp/a"));
}

#[test]
fn a_hold_on_a_pattern_catches_threads_to_come_and_survives_a_restart() {
    let mut world = world();
    world.arrive("smtp/a.example", 1, 100);
    assert_eq!(operate(&mut world, Action::Hold, "smtp/*.example").patterns, 1);
    assert_eq!(operate(&mut world, Action::Hold, "smtp/*.example").patterns, 0);
    world.arrive("smtp/b.example", 1, 100);
    world.arrive("smtp/c.test", 1, 100);
    let states = |world: &World| ["smtp/a.example", "smtp/b.example"].map(|thread| world.state(thread));
    assert_eq!(states(&world), ["held", "held"]);
    assert!(world.has_agent("smtp/c.test"));
    // A name does not release what a pattern holds.
    operate(&mut world, Action::Release, "smtp/a.example");
    assert_eq!(world.state("smtp/a.example"), "held");

    let mut later = self::world();
    for state in &world.records {
        later.scheduler.handle_queue(later.now, Queue::Thread(state.clone()));
    }
    later.arrive("smtp/b.example", 1, 100);
    assert_eq!(later.state("smtp/b.example"), "held");
    assert_eq!(later.scheduler.totals().holds, ["smtp/*.example"]);

    for world in [&mut world, &mut later] {
        assert_eq!(operate(world, Action::Release, "smtp/*").patterns, 1);
        assert!(world.has_agent("smtp/b.example"));
    }
    assert!(!world.records.last().unwrap().held);
}

#[test]
fn a_held_message_stays_while_its_neighbours_go() {
    let mut world = world();
    let held = world.arrive("smtp/a", 1, 100);
    operate(&mut world, Action::Hold, &held.message.to_string());
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 10, 10_000);
    assert_eq!(world.agents[&lease].carried.len(), 1);
    assert_ne!(world.agents[&lease].carried[0].id, held);
    operate(&mut world, Action::Release, "smtp/a");
    assert_eq!(world.agents[&lease].carried.len(), 2);
}

#[test]
fn retry_overrules_back_off_and_due_times() {
    let mut world = world();
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    assert!(!world.has_agent("smtp/a"));
    world.forget_dues();
    operate(&mut world, Action::Retry, "smtp/a");
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    assert_eq!(world.agents[&lease].carried.len(), 1);
}

#[test]
fn drop_takes_what_is_not_under_way_and_counts_what_is() {
    let mut world = world();
    world.arrive("smtp/a", 1, 100);
    world.arrive("smtp/a", 4, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    let changed = operate(&mut world, Action::Drop, "*/a");
    assert_eq!((changed.batches, changed.recipients, changed.under_way), (1, 4, 1));
    assert_eq!(world.dispositions(), [Disposition::Dropped]);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    assert_eq!(world.finished.len(), 5);
    assert_eq!(operate(&mut world, Action::Drop, "smtp/nowhere"), crate::Changed::default());
}

#[test]
fn expire_gives_up_what_is_not_under_way_held_or_not() {
    let mut world = world();
    let under_way = world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 10_000);
    let held = world.arrive("smtp/a", 2, 100);
    operate(&mut world, Action::Hold, &held.message.to_string());
    world.arrive("smtp/a", 3, 100);
    let changed = operate(&mut world, Action::Expire, "smtp/*");
    assert_eq!((changed.batches, changed.recipients, changed.under_way), (2, 5, 1));
    assert_eq!(world.dispositions(), [Disposition::Expired, Disposition::Expired]);
    world.settle(lease, Judgement::Deferred, &reply(450, "later"));
    let changed = operate(&mut world, Action::Expire, &under_way.message.to_string());
    assert_eq!((changed.threads, changed.recipients), (1, 1));
    assert!(world.open.is_empty());
}

#[test]
fn some_recipients_of_a_batch_are_dropped_and_the_others_go_out() {
    let mut world = world();
    let batch = world.arrive("smtp/a", 4, 100);
    let chosen =
        Chosen { thread: "smtp/a".parse().unwrap(), batch, run: None, open: 1, recipients: Some(vec![1, 3, 9]) };
    let changed = world.scheduler.operate_on(world.now, Action::Drop, &[chosen.clone(), chosen]);
    world.settle_down();
    assert_eq!((changed.threads, changed.batches, changed.recipients), (1, 1, 2));
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 10_000);
    assert_eq!(*world.agents[&lease].carried[0].recipients, [0, 2]);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    assert_eq!(world.finished.values().filter(|end| **end == Disposition::Dropped).count(), 2);
}

#[test]
fn the_hold_channel_is_never_carried() {
    let mut world = world();
    world.arrive("hold/review", 1, 100);
    operate(&mut world, Action::Release, "hold/review");
    assert_eq!(world.state("hold/review"), "held");
    assert!(world.agents.is_empty());
}

//! Notices of delay and times to deliver by, wherever a batch rests.

use std::time::Duration;

use zrelay_agent::{Judgement, Release};
use zrelay_spool::{BatchId, ByMode, DeliverBy, Disposition, QueuedBatch};

use super::world::{World, clause, reply, settings};
use crate::operator::{Action, Selector};
use crate::promises::TOO_LATE;

fn world(warning: u64) -> World {
    let clause = clause(|clause| {
        clause.delay_warning = Duration::from_secs(warning);
        clause.expiry = Duration::from_secs(3600);
    });
    World::new(settings(clause, 100), 1)
}

fn by(seconds: u64, mode: ByMode) -> impl FnOnce(&mut QueuedBatch) {
    move |batch| {
        let deadline = batch.received + Duration::from_secs(seconds);
        batch.deliver_by = Some(DeliverBy { deadline, mode, trace: false });
    }
}

/// Lets time pass from one event to the next.
fn pass(world: &mut World, seconds: u64) {
    let until = world.now + Duration::from_secs(seconds);
    while world.scheduler.poll_timeout().is_some_and(|at| at <= until) {
        world.pass_to_timeout();
    }
    world.pass(until.since(world.now));
}

/// What the senders of this batch were told, and how long after its arrival.
fn told(world: &World, batch: BatchId, disposition: Disposition) -> Vec<u64> {
    let of = world.outcomes.iter().filter(|outcome| outcome.batch == batch && outcome.disposition == disposition);
    of.map(|outcome| outcome.timing.queued.as_secs()).collect()
}

fn hold(world: &mut World, selector: &str) {
    world.scheduler.operate(world.now, Action::Hold, &selector.parse::<Selector>().unwrap());
    world.settle_down();
}

#[test]
fn the_sender_of_a_delayed_message_is_told_once_wherever_it_rests() {
    let mut world = world(100);
    // In line for an agent that never comes, held alone, in a held thread, and in the thread of a host that is down.
    let waits = world.arrive("smtp/waits", 2, 100);
    let alone = world.arrive("smtp/waits", 1, 100);
    hold(&mut world, &alone.message.to_string());
    let held = world.arrive("smtp/held", 1, 100);
    hold(&mut world, "smtp/held");
    let down = world.arrive("smtp/down", 1, 100);
    let lease = world.agent("smtp/down");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    pass(&mut world, 99);
    for batch in [waits, alone, held, down] {
        assert_eq!(told(&world, batch, Disposition::Delayed), Vec::<u64>::new());
    }
    pass(&mut world, 500);
    for batch in [waits, alone, held, down] {
        assert_eq!(told(&world, batch, Disposition::Delayed), [100], "{batch}");
    }
    let outcome =
        world.outcomes.iter().find(|outcome| outcome.batch == down && outcome.disposition == Disposition::Delayed);
    let outcome = outcome.unwrap();
    assert_eq!(
        (outcome.diagnostic.text.as_str(), outcome.due),
        ("connection refused", super::world::START + Duration::from_secs(3600))
    );
    assert_eq!(world.open.len(), 5, "nobody is given up");
}

#[test]
fn what_is_under_way_when_it_is_late_is_told_of_when_it_comes_back_and_not_if_it_is_delivered() {
    let mut world = world(100);
    let (first, second) = (world.arrive("smtp/a", 1, 100), world.arrive("smtp/a", 1, 100));
    let lease = world.agent("smtp/a");
    world.hungry(lease, 2, 100_000);
    pass(&mut world, 150);
    world.settle(lease, Judgement::Delivered { dsn_relayed: false }, &reply(250, "ok"));
    world.settle(lease, Judgement::Deferred, &reply(450, "later"));
    pass(&mut world, 5);
    assert_eq!(told(&world, first, Disposition::Delayed), Vec::<u64>::new());
    assert_eq!(told(&world, second, Disposition::Delayed), [150]);
}

#[test]
fn a_notice_that_was_given_before_a_restart_is_not_given_again() {
    let mut world = world(100);
    let batch = world.arrive_as("smtp/a", 1, 100, |batch| batch.warned = true);
    let fresh = world.arrive("smtp/a", 1, 100);
    hold(&mut world, "smtp/a");
    pass(&mut world, 1000);
    assert_eq!(told(&world, batch, Disposition::Delayed), Vec::<u64>::new());
    assert_eq!(told(&world, fresh, Disposition::Delayed), [100]);
}

#[test]
fn a_message_with_a_time_of_its_own_is_returned_at_that_time_wherever_it_rests() {
    let mut world = world(0);
    let waits = world.arrive_as("smtp/waits", 2, 100, by(60, ByMode::Return));
    let held = world.arrive_as("smtp/held", 1, 100, by(70, ByMode::Return));
    hold(&mut world, "smtp/held");
    let carried = world.arrive_as("smtp/busy", 1, 100, by(80, ByMode::Return));
    let lease = world.agent("smtp/busy");
    world.hungry(lease, 1, 100_000);
    pass(&mut world, 100);
    assert_eq!(told(&world, waits, Disposition::Expired), [60]);
    assert_eq!(told(&world, held, Disposition::Expired), [70]);
    assert_eq!(told(&world, carried, Disposition::Expired), Vec::<u64>::new(), "the agent's word counts");
    world.settle(lease, Judgement::Deferred, &reply(450, "later"));
    assert_eq!(told(&world, carried, Disposition::Expired), [100]);
    assert!(
        world.outcomes.iter().filter(|o| o.disposition == Disposition::Expired).all(|o| o.diagnostic.text == TOO_LATE)
    );
    assert!(world.open.is_empty());
}

#[test]
fn with_notify_the_sender_is_told_at_its_time_and_the_message_goes_on() {
    let mut world = world(0);
    let late = world.arrive_as("smtp/a", 1, 100, by(60, ByMode::Notify));
    // Its sender knew when it sent it.
    let over = world.arrive_as("smtp/a", 1, 100, by(0, ByMode::Notify));
    pass(&mut world, 200);
    assert_eq!(told(&world, late, Disposition::Delayed), [60]);
    assert_eq!(told(&world, over, Disposition::Delayed), Vec::<u64>::new());
    let lease = world.agent("smtp/a");
    world.hungry(lease, 2, 100_000);
    (0..2).for_each(|_| world.settle(lease, Judgement::Delivered { dsn_relayed: false }, &reply(250, "ok")));
    assert!(world.open.is_empty());
}

/// A thread that waits for an agent, and one that is held: of both nearly everything is beyond the window.
#[test]
fn promises_are_kept_beyond_the_window_of_what_waits_for_its_turn_or_is_held() {
    let mut world = world(100);
    world.scheduler.set_window(10);
    let arrive = |world: &mut World, thread: &str| -> Vec<BatchId> {
        (0..50).map(|_| world.arrive_as(thread, 1, 100, by(200, ByMode::Return))).collect()
    };
    let waits = arrive(&mut world, "smtp/waits");
    hold(&mut world, "smtp/held");
    let held = arrive(&mut world, "smtp/held");
    assert!(world.scheduler.beyond_window() >= 80, "{} are beyond the window", world.scheduler.beyond_window());
    pass(&mut world, 150);
    for batch in waits.iter().chain(&held) {
        assert_eq!(told(&world, *batch, Disposition::Delayed), [100], "{batch}");
    }
    assert!(world.scheduler.beyond_window() >= 80, "they are back beyond it");
    pass(&mut world, 100);
    for batch in waits.iter().chain(&held) {
        assert_eq!(told(&world, *batch, Disposition::Expired), [200], "{batch}");
    }
    assert!(world.open.is_empty());
}

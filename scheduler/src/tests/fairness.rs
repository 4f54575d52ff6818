//! Whose turn it is inside a thread.

use std::time::Duration;

use zrelay_agent::{Judgement, LeaseId, RECIPIENT_WEIGHT, Release, Ticket};
use zrelay_spool::{BatchId, Flow};

use super::world::{World, clause, reply, settings};
use crate::SWEEP_MAX;

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };
const LIST: Flow = Flow(1);
const OTHER: Flow = Flow(2);
/// What the agent of a slow next hop asks for: the least that is in flight, 128 KiB, and half as much again.
const CREDIT: u64 = 192 << 10;

fn world() -> World {
    World::new(settings(clause(|_| {}), 100), 1)
}

/// The agent is through with its first batch, and says that it has room for as much again.
fn go_on(world: &mut World, lease: LeaseId) -> Ticket {
    let ticket = world.agents[&lease].carried[0].clone();
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.hungry(lease, 1, ticket.weight);
    ticket
}

/// How much goes out before `batch`, by weight and in recipients, from now on.
fn ahead_of(world: &mut World, lease: LeaseId, batch: BatchId) -> (u64, usize) {
    let (mut weight, mut recipients) = (0, 0);
    for _ in 0..200_000 {
        let ticket = go_on(world, lease);
        if ticket.id == batch {
            return (weight, recipients);
        }
        weight += ticket.weight;
        recipients += ticket.recipients.len();
    }
    panic!("it never went out");
}

#[test]
fn a_message_starts_within_one_credit_of_a_post_to_a_hundred_thousand() {
    let mut world = world();
    for _ in 0..100 {
        world.arrive_from(LIST, "smtp/a", 1000, 20_000);
    }
    let lease = world.agent("smtp/a");
    world.hungry(lease, 128, CREDIT);
    for _ in 0..3 {
        go_on(&mut world, lease);
    }
    let largest = 20_000 + 1000 * RECIPIENT_WEIGHT;
    let reset = world.arrive_from(OTHER, "smtp/a", 1, 3000);
    let (weight, recipients) = ahead_of(&mut world, lease, reset);
    assert!(weight <= CREDIT + largest, "{weight} octets ahead of it");
    assert!(recipients <= 3000, "{recipients} recipients ahead of it");
    assert!(world.open.len() > 90_000, "the post was over");
}

#[test]
fn a_message_starts_within_one_credit_of_a_post_with_a_sender_per_recipient() {
    let mut world = world();
    for _ in 0..1000 {
        world.arrive_from(LIST, "smtp/a", 1, 20_000);
    }
    let lease = world.agent("smtp/a");
    world.hungry(lease, 128, CREDIT);
    let reset = world.arrive_from(OTHER, "smtp/a", 1, 3000);
    let (weight, recipients) = ahead_of(&mut world, lease, reset);
    assert!(weight <= CREDIT + 20_000 + RECIPIENT_WEIGHT && recipients <= 128, "{weight} octets, {recipients}");
}

#[test]
fn two_posts_share_a_thread_by_weight_not_by_batches() {
    let mut world = world();
    for _ in 0..300 {
        world.arrive_from(LIST, "smtp/a", 10, 1000);
    }
    for _ in 0..300 {
        world.arrive_from(OTHER, "smtp/a", 40, 1000);
    }
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, CREDIT);
    let (mut of_list, mut of_other) = (0i64, 0i64);
    for _ in 0..300 {
        let ticket = go_on(&mut world, lease);
        let weight = i64::try_from(ticket.weight).unwrap();
        if ticket.recipients.len() == 10 {
            of_list += weight;
        } else {
            of_other += weight;
        }
        let heaviest = i64::try_from(1000 + 40 * RECIPIENT_WEIGHT).unwrap();
        assert!((of_list - of_other).abs() <= 2 * heaviest, "{of_list} and {of_other}");
    }
}

#[test]
fn a_back_off_that_is_over_wakes_a_bounded_number_of_batches_in_a_turn() {
    let mut world = world();
    for _ in 0..2 * SWEEP_MAX + 10 {
        world.arrive_from(LIST, "smtp/a", 1, 100);
    }
    let lease = world.agent("smtp/a");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    let thread = |world: &World| world.scheduler.threads.values().next().unwrap().flows.len();
    assert_eq!(thread(&world), 0);
    world.now = world.scheduler.poll_timeout().unwrap();
    let mut woken = Vec::new();
    while world.scheduler.poll_timeout().is_some_and(|at| at <= world.now) {
        world.scheduler.handle_timeout(world.now);
        woken.push(thread(&world));
    }
    assert_eq!(woken, [SWEEP_MAX, 2 * SWEEP_MAX, 2 * SWEEP_MAX + 10]);
    world.pass(Duration::ZERO);
}

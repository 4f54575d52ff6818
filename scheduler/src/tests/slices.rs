//! Whose turn it is between threads: slices, weights and urgency.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{Judgement, LeaseId, Release, weight};
use zrelay_config::{Clause, Pattern};

use super::world::{World, clause, reply};
use crate::{QUANTUM, SLICE, Settings};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };
/// Octets of a message of the posts here, and recipients of each of its batches.
const SIZE: u64 = 400_000;
const RECIPIENTS: u32 = 1000;
/// What an agent asks for ahead of the replies.
const CREDIT: u64 = 1 << 20;

fn matching(pattern: &str, change: impl FnOnce(&mut Clause)) -> Arc<Clause> {
    clause(|clause| {
        clause.matches = Pattern::new(pattern).unwrap();
        change(clause);
    })
}

fn world(clauses: Vec<Arc<Clause>>, agents: u32) -> World {
    let mut world = World::new(Settings { clauses, agents, channel_agents: Vec::new(), sources: Vec::new() }, 1);
    // The checks go through all batches with every step.
    world.unchecked();
    world
}

/// Every agent does one thing: greets, delivers its first batch and asks for as much again, or closes when told to.
/// Adds to `sent` what was delivered for each thread.
fn step(world: &mut World, sent: &mut BTreeMap<String, u64>) {
    let leases: Vec<LeaseId> = world.agents.keys().copied().collect();
    for lease in leases {
        let Some(agent) = world.agents.get(&lease) else { continue };
        if let Some(ticket) = agent.carried.first().cloned() {
            let thread = agent.thread.to_string();
            let closing = agent.closing;
            *sent.entry(thread).or_default() += ticket.weight;
            world.settle(lease, DELIVERED, &reply(250, "ok"));
            if !closing && world.agents.contains_key(&lease) {
                world.hungry(lease, 1, ticket.weight);
            }
        } else if agent.closing {
            world.release(lease, Release::Done);
        } else if !agent.idle {
            world.hungry(lease, 16, CREDIT);
        }
    }
}

/// Steps until something is as wanted.
fn step_until(world: &mut World, sent: &mut BTreeMap<String, u64>, done: impl Fn(&BTreeMap<String, u64>) -> bool) {
    for _ in 0..10_000 {
        if done(sent) {
            return;
        }
        step(world, sent);
    }
    panic!("it never comes: {sent:?}, {:?}", world.agents);
}

fn post(world: &mut World, thread: &str, batches: u32) {
    for _ in 0..batches {
        world.arrive(thread, RECIPIENTS, SIZE);
    }
}

/// A batch as it counts.
fn batch() -> u64 {
    weight(SIZE, 1, RECIPIENTS as usize)
}

#[test]
fn a_thread_with_a_giant_post_gives_way_after_its_quantum() {
    let mut world = world(vec![clause(|_| {})], 1);
    post(&mut world, "smtp/giant", 600);
    let mut sent = BTreeMap::new();
    (0..120).for_each(|_| step(&mut world, &mut sent));
    let before = sent["smtp/giant"];
    assert!(before > 2 * QUANTUM, "nobody waits, so nothing limits it: {before}");

    // It has had more than its slice when somebody comes: it gives way with what it carries.
    world.arrive("smtp/small", 1, 2000);
    step_until(&mut world, &mut sent, |sent| sent.contains_key("smtp/small"));
    assert!(sent["smtp/giant"] - before <= CREDIT + batch(), "{}", sent["smtp/giant"] - before);

    // Now it has a slice of its own when others wait.
    post(&mut world, "smtp/small", 400);
    let mut turns: Vec<(String, u64)> = Vec::new();
    for _ in 0..1000 {
        let mut one = BTreeMap::new();
        step(&mut world, &mut one);
        for (thread, weight) in one {
            match turns.last_mut() {
                Some((last, sum)) if *last == thread => *sum += weight,
                _ => turns.push((thread, weight)),
            }
        }
    }
    assert!(turns.len() > 7, "{turns:?}");
    for (thread, sum) in &turns[1..6] {
        assert!(*sum <= QUANTUM + batch() && *sum + CREDIT >= QUANTUM, "{thread} had {sum} in one turn: {turns:?}");
    }
}

#[test]
fn competing_threads_share_by_the_weights_of_their_clauses() {
    let heavy = matching("smtp/heavy*", |clause| clause.weight = 3);
    let mut world = world(vec![heavy, clause(|_| {})], 2);
    for thread in ["smtp/heavy", "smtp/a", "smtp/b", "smtp/c"] {
        post(&mut world, thread, 800);
    }
    let mut sent = BTreeMap::new();
    step_until(&mut world, &mut sent, |sent| sent.values().sum::<u64>() >= 24 * QUANTUM);
    // Two places, six shares: three of them for the one thread, which cannot have more than one place.
    let share = |thread: &str| sent[thread] as f64 / QUANTUM as f64;
    assert!(share("smtp/heavy") >= 9.0, "{sent:?}");
    for thread in ["smtp/a", "smtp/b", "smtp/c"] {
        assert!((2.5..=6.0).contains(&share(thread)), "{sent:?}");
    }
}

#[test]
fn what_a_slice_overdraws_is_taken_from_the_next() {
    let mut world = world(vec![clause(|_| {})], 1);
    // Batches of three quarters of a quantum against many small ones.
    let large = QUANTUM / 4 * 3;
    for _ in 0..60 {
        world.arrive("smtp/large", 1, large);
    }
    post(&mut world, "smtp/fine", 2000);
    let mut sent = BTreeMap::new();
    step_until(&mut world, &mut sent, |sent| sent.values().sum::<u64>() >= 40 * QUANTUM);
    let difference = sent["smtp/large"].abs_diff(sent["smtp/fine"]);
    assert!(difference <= 2 * (QUANTUM + large), "{sent:?}");
}

#[test]
fn a_slow_host_gives_way_after_its_time() {
    let mut world = world(vec![clause(|clause| clause.weight = 2)], 1);
    post(&mut world, "smtp/slow", 100);
    let mut sent = BTreeMap::new();
    step(&mut world, &mut sent);
    world.arrive("smtp/next", 1, 2000);
    let begun = world.now;
    while !sent.contains_key("smtp/next") {
        world.pass(Duration::from_secs(1));
        step(&mut world, &mut sent);
        assert!(world.now.since(begun) <= 2 * SLICE + Duration::from_secs(10), "it waits for ever");
    }
    assert!(world.now.since(begun) >= 2 * SLICE, "{:?}", world.now.since(begun));
}

#[test]
fn the_thread_with_urgent_mail_is_next_in_line_and_mail_that_comes_later_moves_it_up() {
    let clauses = vec![matching("smtp/vip*", |clause| clause.priority = 4), clause(|_| {})];
    let mut world = world(clauses, 1);
    world.arrive("smtp/busy", 1, 2000);
    let busy = world.agent("smtp/busy");
    world.hungry(busy, 1, CREDIT);
    for thread in ["smtp/first", "smtp/second", "smtp/vip", "smtp/third"] {
        world.arrive(thread, 1, 2000);
    }
    world.arrive_as("smtp/third", 1, 2000, |batch| batch.priority = 6);
    let mut order = Vec::new();
    for _ in 0..5 {
        let (lease, thread) =
            world.agents.iter().map(|(lease, agent)| (*lease, agent.thread.to_string())).next().unwrap();
        order.push(thread);
        if world.agents[&lease].carried.is_empty() {
            world.hungry(lease, 2, CREDIT);
        }
        while !world.agents[&lease].carried.is_empty() {
            world.settle(lease, DELIVERED, &reply(250, "ok"));
        }
        world.release(lease, Release::Done);
    }
    assert_eq!(order, ["smtp/busy", "smtp/third", "smtp/vip", "smtp/first", "smtp/second"]);
}

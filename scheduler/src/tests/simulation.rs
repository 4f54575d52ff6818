//! Random arrivals, random agents, random operators, random limits; the world checks behind every step.

use std::time::Duration;

use proptest::prelude::*;
use zrelay_agent::{Judgement, LeaseId, Measured, Pace, Release, Report, Rest, Site, Work};

use super::world::{World, clause, reply, settings};
use crate::operator::{Action, Chosen, Selector};
use zrelay_spool::{Flow, Queue};

/// One step, drawn from the numbers that proptest shrinks.
fn step(world: &mut World, kind: u8, a: u8, b: u8) {
    const THREADS: [&str; 7] =
        ["smtp/a.example", "smtp/b.example", "smtp/c.example", "smtp/d.example", "lmtp/[e]", "discard/-", "hold/x"];
    let thread = THREADS[usize::from(a) % THREADS.len()];
    let lease = pick_agent(world, a);
    match (kind % 24, lease) {
        (0..=5, _) => {
            let flow = Flow(u32::from(b % 3));
            world.arrive_from(flow, thread, 1 + u32::from(b % 4), 100 + u64::from(b) * 100);
        }
        (6..=8, Some(lease)) if is_mute(world, lease) => {}
        (6..=8, Some(lease)) => world.hungry(lease, 1 + u32::from(b % 5), 1 + u64::from(b) * 800),
        (9..=14, Some(lease)) => answer(world, lease, b),
        (15, Some(lease)) => {
            let site = Site(format!("mx{}", b % 2).into());
            world.report(Report::Site { lease, site });
        }
        (16, Some(lease)) => release(world, lease, b),
        (17, Some(lease)) if world.agents[&lease].closing || world.agents[&lease].idle => {
            world.release(lease, Release::Done);
        }
        (18, _) => {
            world.pass(Duration::from_millis(u64::from(b) * 200));
        }
        (19, _) => {
            world.pass_to_timeout();
        }
        (20, _) => operate(world, thread, b),
        (21, _) if b.is_multiple_of(4) => {
            let item = if a.is_multiple_of(2) { Queue::Paused("disk".to_owned()) } else { Queue::Resumed };
            world.scheduler.handle_queue(world.now, item);
            world.settle_down();
        }
        (22, _) => {
            world.scheduler.handle_queue(world.now, Queue::Resumed);
            world.settle_down();
        }
        (23, Some(lease)) => {
            let work = Work { messages: 1 + u64::from(b % 3), recipients: 1 + u64::from(b % 4) };
            let measured = Measured {
                message: Duration::from_millis(u64::from(b) * 4),
                recipient: Duration::from_millis(u64::from(a) * 4),
                round_trip: Duration::from_millis(u64::from(b % 16)),
                portion: 1 + u32::from(b % 4),
            };
            let pace = if b.is_multiple_of(2) { Pace::Presumed(work) } else { Pace::Measured(measured) };
            world.report(Report::Pace { lease, pace });
        }
        _ => {}
    }
}

/// Agents of one host hear nothing, until everything is finished.
fn is_mute(world: &World, lease: LeaseId) -> bool {
    &*world.agents[&lease].thread.host == "d.example"
}

fn pick_agent(world: &World, a: u8) -> Option<LeaseId> {
    let count = world.agents.len();
    (count > 0).then(|| *world.agents.keys().nth(usize::from(a) % count).unwrap())
}

fn answer(world: &mut World, lease: LeaseId, b: u8) {
    let Some(ticket) = world.agents.get(&lease).and_then(|agent| agent.carried.first()).cloned() else { return };
    let all = ticket.recipients.to_vec();
    let some: Vec<u32> = all.iter().copied().filter(|recipient| (u32::from(b) >> (recipient % 4)) & 1 == 1).collect();
    let (judgement, diagnostic) = match b % 5 {
        0 | 1 => (Judgement::Delivered { dsn_relayed: true }, reply(250, "ok")),
        2 => (
            Judgement::Deferred,
            reply(450, ["later", "too much mail", "too many connections"][usize::from(b / 64 % 3)]),
        ),
        3 => (Judgement::Deferred, reply(450, "later")),
        _ => (Judgement::Failed, reply(550, "no")),
    };
    if b.is_multiple_of(11) {
        world.agents.get_mut(&lease).unwrap().carried.remove(0);
        world.report(Report::Returned { lease, batch: ticket.id });
        return;
    }
    let (recipients, rest) = match b / 5 % 4 {
        0 | 1 => (all, Rest::Done),
        2 => (some, Rest::Done),
        _ => (some, Rest::More),
    };
    if rest == Rest::Done {
        world.agents.get_mut(&lease).unwrap().carried.remove(0);
    }
    world.verdict(lease, ticket.id, recipients, judgement, &diagnostic, rest);
}

fn release(world: &mut World, lease: LeaseId, b: u8) {
    let reason = match b % 8 {
        0..=2 => Release::Failed(reply(0, "connection refused")),
        3 => Release::Failed(reply(421, "too many connections")),
        4 => Release::Ended(reply(421, "enough for now")),
        5 => Release::Ended(reply(421, "too much mail")),
        6 => Release::Done,
        _ => Release::Rejected(reply(0, "no such domain")),
    };
    world.release(lease, reason);
}

fn operate(world: &mut World, thread: &str, b: u8) {
    if b.is_multiple_of(16)
        && let Some((batch, recipient)) = world.open.first().copied()
    {
        let recipients = (b < 128).then(|| vec![recipient]);
        let (threads, _) = world.scheduler.batches(world.now, None, None, usize::MAX);
        let thread = threads.into_iter().find(|view| view.id == batch).map(|view| view.thread);
        let chosen = Chosen {
            thread: thread.unwrap_or_else(|| "smtp/-".parse().unwrap()),
            batch,
            run: None,
            open: 1,
            recipients,
        };
        let action = [Action::Drop, Action::Expire, Action::Hold, Action::Release][usize::from(b / 16 % 4)];
        world.scheduler.operate_on(world.now, action, &[chosen]);
        return world.settle_down();
    }
    let action = match b % 7 {
        0 => Action::Hold,
        6 => Action::Expire,
        1..=3 => Action::Release,
        4 => Action::Retry,
        _ => Action::Drop,
    };
    let selector = match world.open.first() {
        Some((batch, _)) if b >= 128 => Selector::Message(batch.message),
        _ if b >= 96 => ["smtp/*", "*", "*/?.example"][usize::from(b % 3)].parse().unwrap(),
        _ => thread.parse().unwrap(),
    };
    // A retry overrules due times; the world forgets more than it must.
    if action == Action::Retry {
        // While outcomes cannot be recorded, a retry waits behind reports that set new due times.
        if world.scheduler.paused.is_some() {
            return;
        }
        world.forget_dues();
    }
    world.scheduler.operate(world.now, action, &selector);
    world.settle_down();
}

/// Everything is released and every agent delivers, until nothing is left but what the hold channel keeps.
fn finish(world: &mut World) {
    world.scheduler.handle_queue(world.now, Queue::Resumed);
    let everything: Selector = "*".parse().unwrap();
    world.scheduler.operate(world.now, Action::Release, &everything);
    world.settle_down();
    for _ in 0..100_000 {
        let Some(lease) = world.agents.keys().next().copied() else {
            let held = world.scheduler.thread(world.now, &"hold/x".parse().unwrap());
            let held = held.map_or(0, |zoom| zoom.thread.load.recipients);
            if world.open.len() as u64 == held {
                return;
            }
            assert!(world.pass_to_timeout(), "{} recipients are stuck", world.open.len());
            continue;
        };
        if !world.agents[&lease].carried.is_empty() {
            world.settle(lease, Judgement::Delivered { dsn_relayed: false }, &reply(250, "ok"));
        } else if world.agents[&lease].closing || world.agents[&lease].idle {
            world.release(lease, Release::Done);
        } else {
            world.hungry(lease, 4, 1 << 30);
        }
    }
    panic!("no end after a hundred thousand steps");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_limits_hold_nothing_starves_and_every_recipient_has_one_end(
        seed: u64,
        thread_agents in 1u32..3,
        ring_agents in 1u32..4,
        channel_agents in 1u32..5,
        agents in 1u32..6,
        rated: bool,
        window in prop_oneof![1 => Just(usize::MAX), 2 => 1usize..8],
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..300),
    ) {
        let clause = clause(|clause| {
            clause.thread_agents = thread_agents;
            clause.ring_agents = ring_agents;
            if rated {
                clause.ring_rates.recipients = Some("10/s".parse().unwrap());
                clause.ring_rates.connections = Some("1/s".parse().unwrap());
                clause.clause_rates.messages = Some("10/s".parse().unwrap());
                clause.clause_rates.bytes = Some("50kB/s".parse().unwrap());
            }
        });
        let mut settings = settings(clause, agents);
        settings.channel_agents.push(("smtp".to_owned(), channel_agents));
        let mut world = World::new(settings, seed);
        world.scheduler.set_window(window);
        for (kind, a, b) in steps {
            step(&mut world, kind, a, b);
        }
        finish(&mut world);
    }
}

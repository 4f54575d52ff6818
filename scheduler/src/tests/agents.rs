//! Several agents for one thread: as many as are worth it.

use std::time::Duration;

use zrelay_agent::{Judgement, LeaseId, Link, Release, Report, Statistics};

use super::world::{World, clause, reply, settings};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };
const MAX: u32 = 4;
const TICK: Duration = Duration::from_millis(100);
/// Batches that an agent has in hand.
const IN_HAND: u32 = 16;

/// A thread that may have several agents, with much to do.
fn busy(batches: u32) -> World {
    let clause = clause(|clause| {
        clause.thread_agents = MAX;
        clause.initial_agents = MAX;
        clause.expiry = Duration::from_secs(86_400);
    });
    let mut world = World::new(settings(clause, 100), 1);
    world.unchecked();
    for _ in 0..batches {
        world.arrive("smtp/a", 1, 1000);
    }
    world
}

/// Lets the agents work for so long; `share` says how many batches one of so many finishes in a tick. Returns the most
/// agents that there were.
fn work(world: &mut World, time: Duration, share: impl Fn(usize) -> usize) -> usize {
    let mut most = 0;
    for _ in 0..time.as_millis() / TICK.as_millis() {
        let agents: Vec<LeaseId> = world.agents.keys().copied().collect();
        let working = agents.len();
        most = most.max(working);
        for lease in agents {
            if world.agents[&lease].carried.is_empty() && !world.agents[&lease].closing {
                world.hungry(lease, IN_HAND, 1 << 20);
            }
            for _ in 0..share(working).min(world.agents[&lease].carried.len()) {
                world.settle(lease, DELIVERED, &reply(250, "ok"));
                if !world.agents[&lease].closing {
                    world.hungry(lease, 1, 1100);
                }
            }
            if world.agents[&lease].closing && world.agents[&lease].carried.is_empty() {
                world.release(lease, Release::Done);
            }
        }
        world.pass(TICK);
    }
    most
}

#[test]
fn rule_15_a_receiver_that_takes_its_time_over_each_message_gets_all_agents_that_are_allowed() {
    let mut world = busy(20_000);
    work(&mut world, Duration::from_secs(2), |_| 5);
    assert_eq!(world.agents.len(), 1, "it is measured first");
    work(&mut world, Duration::from_secs(40), |_| 5);
    assert_eq!(world.agents.len(), MAX as usize);
}

#[test]
fn a_path_that_is_full_has_one_agent_and_a_second_one_for_a_trial() {
    let mut world = busy(10_000);
    let most = work(&mut world, Duration::from_secs(50), |working| 12 / working);
    assert_eq!((world.agents.len(), most), (1, 2));
}

#[test]
fn a_path_that_the_agent_reports_as_full_has_one_agent() {
    let mut world = busy(10_000);
    let lease = world.agent("smtp/a");
    let link = Link { link_use: Some(0.95), ..Link::default() };
    world.report(Report::Link { lease, link: Box::new(link) });
    let most = work(&mut world, Duration::from_secs(50), |working| 12 / working);
    assert_eq!(most, 1);
}

#[test]
fn without_a_backlog_there_is_no_second_agent() {
    let mut world = busy(1);
    for _ in 0..500 {
        work(&mut world, TICK, |_| 1);
        world.arrive("smtp/a", 1, 1000);
    }
    assert_eq!(world.agents.len(), 1);
}

#[test]
fn messages_that_were_sent_and_never_answered_are_counted_for_their_thread_and_in_all() {
    let mut world = busy(2);
    world.arrive("smtp/b", 1, 1000);
    let lease = world.agent("smtp/a");
    let lost = Statistics { at_risk: 3, ..Statistics::default() };
    let reason = Release::Failed(reply(0, "lost connection"));
    world.agents.remove(&lease);
    world.report(Report::Released { lease, reason: reason.clone(), statistics: lost });
    // One that has ended says nothing any more.
    world.report(Report::Released { lease, reason, statistics: lost });
    let of =
        |world: &World, name: &str| world.scheduler.thread(world.now, &name.parse().unwrap()).unwrap().thread.at_risk;
    assert_eq!((of(&world, "smtp/a"), of(&world, "smtp/b"), world.scheduler.totals().at_risk), (3, 0, 3));
}

//! Hosts that accept connections, or packets, and say nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use zrelay_agent::{Credit, Judgement, LeaseId, Release, Report};
use zrelay_clock::Timestamp;
use zrelay_spool::Disposition;

use super::world::{World, clause, reply, settings};
use crate::{STARTING_SLICE, STARTING_SLICE_AMONG_FAILED};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };
const AGENTS: u32 = 5;

fn world(agents: u32) -> World {
    let clause = clause(|clause| {
        clause.interval = Duration::from_secs(300);
        clause.expiry = Duration::from_secs(5 * 86_400);
    });
    World::new(settings(clause, agents), 1)
}

fn is_mute(thread: &str) -> bool {
    thread.starts_with("smtp/mute")
}

/// Lets all agents do what there is to do now: mute ones say nothing but that they have closed.
fn act(world: &mut World) {
    let next = |world: &World| -> Option<LeaseId> {
        let busy = world.agents.iter().find(|(_, agent)| {
            agent.closing || !agent.carried.is_empty() || !(agent.idle || is_mute(&agent.thread.to_string()))
        });
        busy.map(|(lease, _)| *lease)
    };
    while let Some(lease) = next(world) {
        let agent = &world.agents[&lease];
        if !agent.carried.is_empty() {
            world.settle(lease, DELIVERED, &reply(250, "ok"));
        } else if agent.closing {
            world.release(lease, Release::Done);
        } else {
            world.hungry(lease, 4, 1 << 20);
        }
    }
}

/// Runs until then; says when each thread was leased.
fn run(world: &mut World, until: Timestamp) -> BTreeMap<String, Vec<Timestamp>> {
    let mut leased: BTreeMap<String, Vec<Timestamp>> = BTreeMap::new();
    loop {
        act(world);
        for order in std::mem::take(&mut world.orders) {
            if let Some(thread) = order.strip_prefix("lease ") {
                leased.entry(thread.to_owned()).or_default().push(world.now);
            }
        }
        if world.scheduler.poll_timeout().is_none_or(|at| at > until) {
            world.pass(until.since(world.now));
            return leased;
        }
        world.pass_to_timeout();
    }
}

fn arrive_mute(world: &mut World, count: u32) {
    for host in 0..count {
        world.arrive(&format!("smtp/mute{host}"), 1, 100);
    }
}

#[test]
fn a_mute_host_keeps_its_place_as_long_as_nobody_waits_for_it() {
    let mut world = world(1);
    arrive_mute(&mut world, 1);
    assert!(world.scheduler.poll_timeout().is_none(), "a timer for nobody");
    world.pass(10 * STARTING_SLICE);
    assert!(!world.agents[&world.agent("smtp/mute0")].closing);
    world.arrive("smtp/good", 1, 100);
    assert!(world.agents[&world.agent("smtp/mute0")].closing, "its time was over when somebody came to wait");
}

#[test]
fn a_mute_host_has_failed_when_its_slice_is_over_and_its_place_counts_until_it_is_released() {
    let mut world = world(1);
    arrive_mute(&mut world, 1);
    let start = world.now;
    let mute = world.agent("smtp/mute0");
    world.arrive("smtp/good", 1, 100);
    assert_eq!(world.scheduler.poll_timeout(), Some(start + STARTING_SLICE));
    world.pass_to_timeout();
    assert!(world.agents[&mute].closing && !world.has_agent("smtp/good"));
    world.release(mute, Release::Done);
    assert!(world.has_agent("smtp/good") && !world.has_agent("smtp/mute0"));
    assert_eq!(world.state("smtp/mute0"), "retry");
    let outcome = world.outcomes.last().unwrap();
    assert_eq!(outcome.disposition, Disposition::Deferred);
    assert_eq!(outcome.diagnostic.text, "no greeting within 10 s while others waited for its place");
}

#[test]
fn what_the_agent_says_of_a_mute_host_comes_before_what_the_scheduler_would_say() {
    let mut world = world(1);
    arrive_mute(&mut world, 1);
    let mute = world.agent("smtp/mute0");
    world.arrive("smtp/good", 1, 100);
    world.pass(STARTING_SLICE);
    world.release(mute, Release::Failed(reply(0, "connection refused")));
    assert_eq!(world.outcomes.last().unwrap().diagnostic.text, "connection refused");
}

#[test]
fn a_greeting_that_crosses_with_the_order_to_close_is_no_failure() {
    let mut world = world(1);
    world.arrive("smtp/late", 1, 100);
    let late = world.agent("smtp/late");
    world.arrive("smtp/good", 1, 100);
    world.pass(STARTING_SLICE);
    world.hungry(late, 1, 1000);
    world.release(late, Release::Done);
    assert!(world.outcomes.is_empty() && world.has_agent("smtp/good"));
    assert_eq!(world.state("smtp/late"), "limit:agents");
}

#[test]
fn an_agent_that_asks_ahead_of_the_greeting_gets_a_batch_and_its_host_still_has_to_greet() {
    let mut world = world(1);
    world.arrive("smtp/mute", 1, 100);
    world.arrive("smtp/mute", 1, 100);
    let mute = world.agent("smtp/mute");
    assert!(world.agents[&mute].carried.is_empty());
    let credit = Credit { batches: 1, bytes: 1 };
    world.report(Report::Early { lease: mute, credit });
    assert_eq!(world.agents[&mute].carried.len(), 1);
    world.arrive("smtp/good", 1, 100);
    world.pass(STARTING_SLICE);
    assert!(world.agents[&mute].closing, "it has not greeted");
    world.release(mute, Release::Done);
    assert_eq!(world.state("smtp/mute"), "retry");
    assert!(world.has_agent("smtp/good"));
}

#[test]
fn a_host_that_was_spoken_to_ahead_of_its_greeting_is_known_to_work_when_it_has_greeted() {
    let mut world = world(1);
    world.arrive("smtp/known", 1, 100);
    world.arrive("smtp/known", 1, 100);
    let known = world.agent("smtp/known");
    world.report(Report::Early { lease: known, credit: Credit { batches: 1, bytes: 1 } });
    world.hungry(known, 4, 1000);
    assert_eq!(world.agents[&known].carried.len(), 2);
    world.arrive("smtp/good", 1, 100);
    world.pass(STARTING_SLICE);
    assert!(!world.agents[&known].closing);
}

#[test]
fn no_more_mute_hosts_are_ended_than_others_wait() {
    let mut world = world(AGENTS);
    arrive_mute(&mut world, AGENTS);
    world.arrive("smtp/good", 1, 100);
    world.pass(2 * STARTING_SLICE);
    assert_eq!(world.agents.values().filter(|agent| agent.closing).count(), 1);
}

#[test]
fn a_slow_host_has_more_time_while_only_failed_ones_wait() {
    let mut world = world(1);
    arrive_mute(&mut world, 3);
    let now = world.now;
    run(&mut world, now + 3 * STARTING_SLICE);
    // All have failed; the first two are tried again, and one of them waits for the other.
    let again = |world: &World| world.agents.values().any(|agent| !agent.closing);
    while !(again(&world) && world.scheduler.all.line.len() > 0) {
        assert!(world.pass_to_timeout());
        act(&mut world);
    }
    let granted = world.scheduler.leases.values().next().unwrap().since;
    assert_eq!(world.scheduler.next_mute().unwrap().0, granted + STARTING_SLICE_AMONG_FAILED);
    world.arrive("smtp/good", 1, 100);
    world.pass((granted + STARTING_SLICE).since(world.now));
    assert!(world.agents.values().all(|agent| agent.closing), "somebody better waits now");
}

#[test]
fn a_good_host_starts_within_a_slice_beside_a_thousand_mute_ones_that_are_known() {
    let mut world = world(AGENTS);
    world.unchecked();
    arrive_mute(&mut world, 1000);
    let known = world.now + STARTING_SLICE * (1000 / AGENTS + 1);
    let first = run(&mut world, known);
    assert_eq!(first.len(), 1000, "all were tried");
    for round in 0..20 {
        let (host, came) = (format!("smtp/good{round}"), world.now);
        world.arrive(&host, 1, 100);
        let leased = run(&mut world, came + 2 * STARTING_SLICE);
        let started = leased.get(&host).unwrap_or_else(|| panic!("{host} did not start"))[0];
        assert!(started.since(came) <= STARTING_SLICE, "{host} waited {:?}", started.since(came));
    }
}

#[test]
fn a_host_that_worked_before_starts_within_a_slice_beside_a_thousand_new_mute_ones() {
    let mut world = world(AGENTS);
    world.unchecked();
    world.arrive("smtp/good", 1, 100);
    act(&mut world);
    arrive_mute(&mut world, 1000);
    act(&mut world);
    assert!(world.agents.values().all(|agent| is_mute(&agent.thread.to_string())), "its connection gave way");
    world.orders.clear();
    let came = world.now;
    world.arrive("smtp/good", 1, 100);
    let leased = run(&mut world, came + 2 * STARTING_SLICE);
    let busy_until = leased.get("smtp/good").map(|times| times.last().unwrap().since(came));
    assert!(busy_until.is_some_and(|waited| waited <= STARTING_SLICE), "{busy_until:?}");
}

#[test]
fn under_a_flood_for_good_hosts_failed_ones_are_tried_again_and_cost_a_quarter_of_the_places() {
    let mut world = world(AGENTS);
    world.unchecked();
    arrive_mute(&mut world, 40);
    let known = world.now + STARTING_SLICE * 10;
    run(&mut world, known);
    let (mut tried, mut served) = (BTreeSet::new(), 0);
    // Twenty hosts always have mail, a message takes a second: four times as much as the agents can carry.
    for _ in 0..1200 {
        for host in 0..20 {
            world.arrive(&format!("smtp/good{host}"), 1, 100);
        }
        let agents: Vec<LeaseId> = world.agents.keys().copied().collect();
        for lease in agents {
            let Some(agent) = world.agents.get(&lease) else { continue };
            let thread = agent.thread.to_string();
            if !is_mute(&thread) && !agent.closing {
                world.hungry(lease, 1, 1000);
                while !world.agents[&lease].carried.is_empty() {
                    world.settle(lease, DELIVERED, &reply(250, "ok"));
                }
                served += 1;
                world.release(lease, Release::Ended(reply(421, "one message at a time")));
            } else if agent.closing {
                world.release(lease, Release::Done);
            } else {
                tried.insert(thread);
            }
        }
        assert!(world.scheduler.all.is_full() && world.scheduler.all.line.len() > 0, "no flood");
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(tried.len(), 40, "some were not tried again");
    assert!(served >= 1200 * (AGENTS - 1) * 9 / 10, "{served} turns of good hosts");
}

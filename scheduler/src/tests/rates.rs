//! Rates and warm-up: what goes when, who waits for it, and what the tools say of that.

use std::collections::BTreeMap;
use std::time::Duration;

use zrelay_agent::{Judgement, LeaseId, Release, Report, Rest, Site};
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, Rate, WarmUp};
use zrelay_sites::Sites;

use super::world::{START, World, clause, reply, settings};
use crate::Settings;

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().unwrap())
}

fn world(change: impl FnOnce(&mut Clause)) -> World {
    let clause = clause(|clause| {
        clause.expiry = Duration::from_secs(10 * 86_400);
        change(clause);
    });
    World::new(settings(clause, 1000), 1)
}

/// Lets all agents carry what they are given, at once, until then. Says how many recipients left when.
fn run(world: &mut World, until: Timestamp) -> BTreeMap<Timestamp, u64> {
    let mut went = BTreeMap::new();
    loop {
        while let Some(lease) = busy(world) {
            if let Some(ticket) = world.agents[&lease].carried.first() {
                *went.entry(world.now).or_default() += ticket.recipients.len() as u64;
                world.settle(lease, DELIVERED, &reply(250, "ok"));
            } else if world.agents[&lease].closing {
                world.release(lease, Release::Done);
            } else {
                world.hungry(lease, 1000, 1 << 40);
            }
        }
        if world.scheduler.poll_timeout().is_none_or(|at| at > until) {
            world.pass(until.since(world.now));
            return went;
        }
        world.pass_to_timeout();
    }
}

fn busy(world: &World) -> Option<LeaseId> {
    let starting = |lease: &LeaseId| {
        world.scheduler.leases.get(lease).is_some_and(|lease| lease.state == crate::lease::LeaseState::Starting)
    };
    let busy = world.agents.iter().find(|(id, agent)| !agent.carried.is_empty() || agent.closing || starting(id));
    busy.map(|(lease, _)| *lease)
}

#[test]
fn messages_of_a_site_go_at_their_rate_and_nothing_is_asked_meanwhile() {
    let mut world = world(|clause| clause.ring_rates.messages = rate("60/m"));
    for _ in 0..30 {
        world.arrive("smtp/a", 1, 100);
    }
    let went = run(&mut world, START + Duration::from_secs(5));
    assert_eq!(went.values().sum::<u64>(), 7 + 5, "a tenth and one at once, then one a second");
    assert_eq!(world.state("smtp/a"), "limit:rate");
    let view = world.scheduler.thread(world.now, &"smtp/a".parse().unwrap()).unwrap().thread;
    assert_eq!(view.row(world.now).reason, "messages of its site are used up (60/m), more in 1s");
    assert_eq!(world.scheduler.poll_timeout(), Some(world.now + Duration::from_secs(1)), "it knows when");
    run(&mut world, START + Duration::from_secs(60));
    assert!(world.open.is_empty());
}

#[test]
fn what_waits_for_a_rate_beyond_the_window_is_said_to_wait_for_it() {
    let mut world = world(|clause| clause.ring_rates.messages = rate("1/m"));
    world.scheduler.set_window(1);
    for _ in 0..3 {
        world.arrive("smtp/a", 1, 1000);
    }
    let now = world.now;
    assert_eq!(run(&mut world, now).len(), 1);
    assert_eq!((world.scheduler.beyond_window(), world.state("smtp/a")), (2, "limit:rate"));
    let went = run(&mut world, now + Duration::from_secs(300));
    assert_eq!(went.values().sum::<u64>(), 2);
}

#[test]
fn a_rate_of_recipients_takes_a_post_apart() {
    let mut world = world(|clause| clause.ring_rates.recipients = rate("100/m"));
    world.arrive("smtp/a", 1000, 100);
    let went = run(&mut world, START + Duration::from_secs(60));
    let sum: u64 = went.values().sum();
    assert!((100..=112).contains(&sum), "{sum} in the first minute");
    run(&mut world, START + Duration::from_secs(600));
    assert!(world.open.is_empty());
    assert_eq!(world.finished.len(), 1000);
}

#[test]
fn a_host_that_wants_a_batch_in_more_messages_than_were_counted_gets_fewer_batches() {
    let mut world = world(|clause| clause.ring_rates.messages = rate("60/m"));
    for _ in 0..60 {
        world.arrive("smtp/a", 10, 100);
    }
    let mut answers = 0;
    while world.now.since(START) < Duration::from_secs(60) {
        while let Some(lease) = busy(&world) {
            if world.agents[&lease].carried.is_empty() {
                world.hungry(lease, 1000, 1 << 40);
                continue;
            }
            // It takes five recipients a message.
            let ticket = world.agents.get_mut(&lease).unwrap().carried.remove(0);
            let (first, second) = ticket.recipients.split_at(5);
            world.verdict(lease, ticket.id, first.to_vec(), DELIVERED, &reply(250, "ok"), Rest::More);
            world.verdict(lease, ticket.id, second.to_vec(), DELIVERED, &reply(250, "ok"), Rest::Done);
            answers += 2;
        }
        assert!(world.pass_to_timeout());
    }
    // What is handed out at once is counted when it is answered.
    assert!((58..=66 + 2 * 7).contains(&answers), "{answers} messages in the first minute");
}

#[test]
fn bytes_are_counted_as_often_as_the_message_is_sent() {
    let mut world = world(|clause| clause.ring_rates.bytes = rate("1MB/s"));
    for _ in 0..10 {
        world.arrive("smtp/a", 1, 1_000_000);
    }
    let went = run(&mut world, START + Duration::from_secs(20));
    let times: Vec<u128> = went.keys().map(|at| at.since(START).as_millis()).collect();
    assert_eq!(times, [0, 900, 1900, 2900, 3900, 4900, 5900, 6900, 7900, 8900]);
}

#[test]
fn the_threads_of_a_clause_share_its_rate_in_turns() {
    let mut world = world(|clause| clause.clause_rates.messages = rate("10/s"));
    for _ in 0..50 {
        for thread in ["smtp/a", "smtp/b", "smtp/c"] {
            world.arrive(thread, 1, 100);
        }
    }
    let went = run(&mut world, START + Duration::from_secs(3));
    assert_eq!(went.values().sum::<u64>(), 2 + 30);
    for thread in ["smtp/a", "smtp/b", "smtp/c"] {
        let left = world.scheduler.thread(world.now, &thread.parse().unwrap()).unwrap().thread.load.batches;
        assert!((38..=41).contains(&left), "{thread} has {left} left");
    }
}

#[test]
fn connections_of_a_site_are_begun_at_their_rate_whatever_the_number_of_domains() {
    let mut world = world(|clause| {
        clause.ring_rates.connections = rate("1/s");
        clause.initial_agents = 20;
    });
    for thread in 0..20 {
        world.arrive(&format!("smtp/domain{thread}"), 1, 100);
    }
    let mut connected = Vec::new();
    for _ in 0..2000 {
        let new: Vec<LeaseId> = world.agents.keys().copied().collect();
        for lease in new {
            if !world.agents[&lease].connects {
                world.report(Report::Site { lease, site: Site("mx".into()) });
                if world.agents[&lease].connects {
                    connected.push(world.now.since(START).as_secs());
                }
            }
            if world.agents[&lease].closing {
                world.release(lease, Release::Done);
            }
        }
        if world.now.since(START) > Duration::from_secs(5) || !world.pass_to_timeout() {
            break;
        }
    }
    assert_eq!(connected[..5], [0, 0, 1, 2, 3][..5], "{connected:?}");
}

fn warming(days: Vec<u32>) -> (Settings, Timestamp) {
    let start = Timestamp::from_day(START.day() + 1);
    let address = [192, 0, 2, 1].into();
    let clause = clause(|clause| {
        clause.source = Some(address);
        clause.expiry = Duration::from_secs(10 * 86_400);
    });
    let sources = vec![WarmUp { address, start, days }];
    (Settings { sources, ..settings(clause, 100) }, start)
}

#[test]
fn a_source_is_warmed_up_day_by_day_and_a_restart_goes_on_where_it_was() {
    let (settings, start) = warming(vec![50, 100]);
    let sites = Sites::new();
    let mut world = World::new(settings.clone(), 1);
    world.remember(sites.clone());
    for thread in 0..10 {
        world.arrive(&format!("smtp/domain{thread}"), 40, 100);
    }
    let day = Duration::from_secs(86_400);
    assert!(run(&mut world, Timestamp::from_micros(start.as_micros() - 1)).is_empty(), "before the first day");
    assert_eq!(run(&mut world, start + day / 2).values().sum::<u64>(), 50);
    let view = world.scheduler.thread(world.now, &"smtp/domain9".parse().unwrap()).unwrap().thread;
    assert_eq!(view.row(world.now).reason, "recipients of its source address are used up for today (50), more in 12h");

    let mut later = World::new(settings, 2);
    later.pass((start + day / 2).since(later.now));
    later.remember(sites);
    for thread in 0..10 {
        later.arrive(&format!("smtp/domain{thread}"), 40, 100);
    }
    assert!(later.agents.is_empty(), "the day is used up");
    assert_eq!(run(&mut later, start + day + day / 2).values().sum::<u64>(), 100);
    assert_eq!(run(&mut later, start + day * 2).values().sum::<u64>(), 300, "and then there is no limit");
}

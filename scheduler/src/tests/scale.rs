//! The cost of an event does not grow with the queue: counted in time of this thread's processor, of which a scan through
//! thousands of threads or batches takes hundreds of times what it should.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use zrelay_agent::{Judgement, Release, Site};

use super::world::{World, clause, reply, settings};

/// What the events of one round take with a longer queue, at most so many times what they take with a short one: room for
/// trees that are deeper and memory that is farther away, and far less than a scan takes.
const GROWTH_MAX: u32 = 12;
const SHORT: usize = 100;
const LONG: usize = 20_000;
const ROUNDS: usize = 40;

/// Time of the processor spent on this thread so far.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// A scheduler with so many threads that wait for a place, and others that wait for their time.
fn world(threads: usize) -> World {
    let clause = clause(|clause| clause.ring_agents = 4);
    let mut world = World::new(settings(clause, 8), 1);
    world.unchecked();
    for thread in 0..threads {
        world.arrive(&format!("smtp/d{thread}.example"), 2, 1000);
        world.arrive(&format!("smtp/d{thread}.example"), 1, 1000);
    }
    world
}

/// One of each kind of event.
fn round(world: &mut World, number: usize, threads: usize) {
    let thread = format!("smtp/d{}.example", number * 7919 % threads);
    world.arrive(&thread, 3, 2000);
    let lease = *world.agents.keys().next().unwrap();
    world.hungry(lease, 2, 1 << 20);
    while !world.agents[&lease].carried.is_empty() {
        let judgement =
            if number.is_multiple_of(3) { Judgement::Deferred } else { Judgement::Delivered { dsn_relayed: false } };
        world.settle(lease, judgement, &reply(250, "ok"));
    }
    let site = Site(format!("mx{}.example", number % 10).into());
    world.report(zrelay_agent::Report::Site { lease, site });
    world.pass(Duration::from_millis(10));
    let lease = *world.agents.keys().next().unwrap();
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    let key = thread.parse().unwrap();
    let _view = (world.scheduler.thread(world.now, &key), world.scheduler.totals());
}

/// The cheapest of some rounds.
fn cost(threads: usize) -> Duration {
    let mut world = world(threads);
    let rounds = (0..ROUNDS).map(|number| {
        let before = spent();
        round(&mut world, number, threads);
        spent() - before
    });
    rounds.min().unwrap()
}

#[test]
fn an_event_costs_no_more_with_many_threads_than_with_few() {
    let (short, long) = (cost(SHORT), cost(LONG));
    assert!(long < short * GROWTH_MAX, "{short:?} with {SHORT} threads, {long:?} with {LONG}");
}

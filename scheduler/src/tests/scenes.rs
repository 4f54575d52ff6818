//! What the scheduler does, scene by scene.

use std::time::Duration;

use zrelay_agent::{Judgement, RECIPIENT_WEIGHT, Release, Report, Rest, Site};
use zrelay_spool::{Disposition, Queue, ThreadKey, ThreadState};

use super::world::{START, World, clause, reply, settings};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };

fn world() -> World {
    World::new(settings(clause(|_| {}), 100), 1)
}

#[test]
fn a_batch_goes_out_as_soon_as_its_agent_has_credit() {
    let mut world = world();
    world.arrive("smtp/a", 3, 100);
    let lease = world.agent("smtp/a");
    assert!(world.agents[&lease].carried.is_empty());
    world.hungry(lease, 1, 1000);
    assert_eq!(world.agents[&lease].carried.len(), 1);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    assert_eq!(world.finished.len(), 3);
    assert!(world.agents[&lease].idle);
    assert_eq!(world.state("smtp/a"), "idle");
}

#[test]
fn credit_is_a_window_that_one_large_batch_may_overdraw() {
    let mut world = world();
    for _ in 0..5 {
        world.arrive("smtp/a", 1, 1200 - RECIPIENT_WEIGHT);
    }
    let lease = world.agent("smtp/a");
    world.hungry(lease, 10, 2000);
    assert_eq!(world.agents[&lease].carried.len(), 2);
    world.hungry(lease, 1, 400);
    assert_eq!(world.agents[&lease].carried.len(), 2, "the debt is to be paid first");
    world.hungry(lease, 1, 1);
    assert_eq!(world.agents[&lease].carried.len(), 3);
}

#[test]
fn an_idle_agent_gets_new_mail_of_its_thread_without_a_new_lease() {
    let mut world = world();
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 10, 10_000);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.arrive("smtp/a", 1, 100);
    assert_eq!(world.agents[&lease].carried.len(), 1);
    assert_eq!(world.orders, ["lease smtp/a"]);
}

#[test]
fn threads_of_one_site_pass_an_idle_connection_on() {
    let mut world = world();
    for thread in ["smtp/a", "smtp/b"] {
        world.arrive(thread, 1, 100);
        let lease = world.agent(thread);
        world.report(Report::Site { lease, site: Site("mx.example".into()) });
        world.hungry(lease, 1, 1000);
        world.settle(lease, DELIVERED, &reply(250, "ok"));
        world.release(lease, Release::Done);
    }
    world.orders.clear();
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.arrive("smtp/b", 1, 100);
    assert_eq!(world.orders, ["lease smtp/a", "lease smtp/b", "takes over"]);
}

#[test]
fn a_thread_whose_site_is_unknown_takes_no_connection_over() {
    let mut world = world();
    world.arrive("smtp/mx.example", 1, 100);
    let lease = world.agent("smtp/mx.example");
    world.report(Report::Site { lease, site: Site("mx.example".into()) });
    world.hungry(lease, 1, 1000);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.arrive("smtp/other", 1, 100);
    assert!(!world.orders.contains(&"takes over".to_owned()));
}

#[test]
fn an_agent_beyond_the_limit_of_its_site_closes_and_its_thread_waits_in_that_line() {
    let mut world = World::new(settings(clause(|clause| clause.ring_agents = 1), 100), 1);
    for thread in ["smtp/a", "smtp/b"] {
        world.arrive(thread, 1, 100);
        let lease = world.agent(thread);
        world.report(Report::Site { lease, site: Site("mx".into()) });
    }
    let (a, b) = (world.agent("smtp/a"), world.agent("smtp/b"));
    assert!(world.agents[&b].closing && !world.agents[&a].closing);
    world.release(b, Release::Done);
    assert_eq!(world.state("smtp/b"), "limit:ring_agents");
    world.hungry(a, 1, 1000);
    world.settle(a, DELIVERED, &reply(250, "ok"));
    assert!(world.has_agent("smtp/b") && !world.has_agent("smtp/a"), "the connection passes on");
}

#[test]
fn whoever_has_waited_longest_gets_the_free_place_and_idle_agents_give_way() {
    let mut world = World::new(settings(clause(|_| {}), 1), 1);
    for thread in ["smtp/a", "smtp/b", "smtp/c"] {
        world.arrive(thread, 1, 100);
    }
    assert_eq!(
        (world.state("smtp/a"), world.state("smtp/b"), world.state("smtp/c")),
        ("running", "limit:agents", "limit:agents")
    );
    for thread in ["smtp/a", "smtp/b", "smtp/c"] {
        let lease = world.agent(thread);
        world.hungry(lease, 1, 1000);
        world.settle(lease, DELIVERED, &reply(250, "ok"));
        if thread != "smtp/c" {
            assert!(world.agents[&lease].closing);
        }
        world.release(lease, Release::Done);
    }
    assert!(world.open.is_empty());
}

#[test]
fn a_busy_thread_gives_way_when_its_slice_is_over_and_others_wait() {
    let mut world = World::new(settings(clause(|_| {}), 1), 1);
    for _ in 0..10 {
        world.arrive("smtp/a", 1, 100);
    }
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    world.arrive("smtp/b", 1, 100);
    world.pass(crate::SLICE);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.hungry(lease, 1, 1000);
    assert!(world.agents[&lease].closing);
    world.release(lease, Release::Done);
    assert!(world.has_agent("smtp/b"));
    assert_eq!(world.state("smtp/a"), "limit:agents");
}

#[test]
fn deferred_recipients_wait_by_the_list_and_the_others_are_done() {
    let mut world = world();
    let batch = world.arrive("smtp/a", 3, 100);
    for (attempt, wait) in [(1, 10), (2, 20), (3, 40), (4, 40)] {
        let lease = world.agent("smtp/a");
        world.hungry(lease, 1, 10_000);
        let ticket = world.agents.get_mut(&lease).unwrap().carried.remove(0);
        assert_eq!(ticket.recipients.len(), if attempt == 1 { 3 } else { 2 });
        if attempt == 1 {
            world.verdict(lease, batch, vec![1], DELIVERED, &reply(250, "ok"), Rest::More);
        }
        world.verdict(lease, batch, vec![0, 2], Judgement::Deferred, &reply(450, "later"), Rest::Done);
        let outcome = world.outcomes.last().unwrap();
        assert_eq!((outcome.disposition, outcome.attempts), (Disposition::Deferred, attempt));
        assert!(outcome.due.since(world.now).abs_diff(Duration::from_secs(wait)) <= Duration::from_secs(wait) / 10);
        assert_eq!(world.state("smtp/a"), "waiting");
        world.pass(outcome.due.since(world.now));
    }
}

#[test]
fn a_failed_host_is_left_alone_whatever_arrives_and_each_batch_is_reported_once() {
    let mut world = world();
    world.arrive("smtp/a", 2, 100);
    world.arrive("smtp/b", 1, 100);
    let lease = world.agent("smtp/a");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    assert_eq!(world.dispositions(), [Disposition::Deferred]);
    assert_eq!(world.state("smtp/a"), "retry");
    world.arrive("smtp/a", 1, 100);
    assert!(!world.has_agent("smtp/a"));
    assert!(world.has_agent("smtp/b"), "other threads go on");
    world.pass_to_timeout();
    let waited = world.now.since(START);
    assert!(waited >= Duration::from_secs(9) && waited <= Duration::from_secs(11), "{waited:?}");
    let lease = world.agent("smtp/a");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    assert_eq!(world.dispositions().len(), 2, "only the new one is reported");
    assert_eq!(world.records.last().unwrap().failures, 2);
    world.pass(Duration::from_secs(30));
    let lease = world.agent("smtp/a");
    world.hungry(lease, 10, 10_000);
    assert_eq!(world.agents[&lease].carried.len(), 2);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    assert_eq!(world.records.last().unwrap().failures, 0);
}

#[test]
fn batches_of_a_dead_host_expire_in_time_even_between_two_tries() {
    let mut world = World::new(settings(clause(|clause| clause.expiry = Duration::from_secs(5)), 100), 1);
    world.arrive("smtp/a", 2, 100);
    let lease = world.agent("smtp/a");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.dispositions(), [Disposition::Deferred, Disposition::Expired]);
    assert_eq!(world.outcomes[1].diagnostic.text, "connection refused");
}

#[test]
fn a_batch_that_is_due_is_tried_once_more_however_old_it_is() {
    let mut world = world();
    world.scheduler.handle_queue(world.now, Queue::Paused("disk full".to_owned()));
    world.arrive("smtp/a", 1, 100);
    world.pass(Duration::from_secs(301));
    assert_eq!(world.state("smtp/a"), "paused");
    assert!(world.outcomes.is_empty() && world.agents.is_empty());
    world.scheduler.handle_queue(world.now, Queue::Resumed);
    world.settle_down();
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    world.settle(lease, Judgement::Deferred, &reply(450, "later"));
    assert_eq!(world.dispositions(), [Disposition::Expired]);
}

#[test]
fn an_agent_that_dies_gives_its_batches_back_unchanged() {
    let mut world = world();
    world.arrive("smtp/a", 2, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    world.release(lease, Release::Ended(reply(421, "restarting")));
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    assert_eq!(world.agents[&lease].carried[0].recipients.len(), 2);
    assert!(world.outcomes.is_empty());
}

#[test]
fn a_host_that_ends_every_connection_at_once_counts_as_failed_in_the_end() {
    let mut world = world();
    world.arrive("smtp/a", 1, 100);
    for _ in 0..crate::FRUITLESS_MAX {
        let lease = world.agent("smtp/a");
        world.release(lease, Release::Ended(reply(421, "busy")));
    }
    assert_eq!(world.state("smtp/a"), "retry");
    assert_eq!(world.dispositions(), [Disposition::Deferred]);
}

#[test]
fn a_rejected_host_fails_everything_however_much_there_is() {
    let mut world = world();
    for _ in 0..2500 {
        world.arrive("smtp/a", 1, 100);
    }
    let lease = world.agent("smtp/a");
    world.release(lease, Release::Rejected(reply(0, "no such domain")));
    assert_eq!(world.finished.values().filter(|end| **end == Disposition::Failed).count(), 2500);
}

#[test]
fn a_sweep_visits_a_bounded_number_of_batches_in_a_turn() {
    let mut world = world();
    for _ in 0..2500 {
        world.arrive("smtp/a", 1, 100);
    }
    let lease = world.agent("smtp/a");
    let reason = Release::Rejected(reply(0, "no such domain"));
    world.scheduler.handle_report(world.now, Report::Released { lease, reason, statistics: Default::default() });
    let mut left = vec![world.scheduler.totals().load.batches];
    while world.scheduler.poll_timeout().is_some_and(|at| at <= world.now) {
        world.scheduler.handle_timeout(world.now);
        left.push(world.scheduler.totals().load.batches);
    }
    assert_eq!(left[..4], [2500, 1500, 500, 0]);
}

#[test]
fn a_back_off_survives_a_restart() {
    let mut world = world();
    let key: ThreadKey = "smtp/a".parse().unwrap();
    let due = world.now + Duration::from_secs(60);
    let state = ThreadState { key, failures: 3, due, held: false, last: Some(reply(0, "connection refused")) };
    world.scheduler.handle_queue(world.now, Queue::Thread(state));
    world.arrive("smtp/a", 1, 100);
    assert_eq!(world.state("smtp/a"), "retry");
    world.pass(Duration::from_secs(60));
    assert!(world.has_agent("smtp/a"));
}

#[test]
fn a_drain_lets_agents_finish_and_starts_nothing() {
    let mut world = world();
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 10, 10_000);
    world.scheduler.drain(world.now);
    world.settle_down();
    world.arrive("smtp/a", 1, 100);
    world.arrive("smtp/b", 1, 100);
    assert!(!world.scheduler.is_drained() && world.agents.len() == 1);
    assert_eq!(world.state("smtp/b"), "draining");
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.release(lease, Release::Done);
    assert!(world.scheduler.is_drained());
}

#[test]
fn empty_threads_are_remembered_for_a_while_and_then_forgotten() {
    let mut world = world();
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 1000);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.release(lease, Release::Done);
    assert_eq!(world.scheduler.threads(world.now, None, 10).len(), 1);
    world.pass(crate::MEMORY);
    assert!(world.scheduler.threads(world.now, None, 10).is_empty());
    assert!(world.scheduler.rings(None, 10).0.is_empty());
    assert_eq!(world.scheduler.poll_timeout(), None);
}

#[test]
fn an_agent_that_hands_work_back_gets_none_until_it_asks() {
    let mut world = world();
    let batch = world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 10, 10_000);
    world.agents.get_mut(&lease).unwrap().carried.clear();
    world.report(Report::Returned { lease, batch });
    assert!(world.agents[&lease].carried.is_empty());
    world.hungry(lease, 1, 1000);
    assert_eq!(world.agents[&lease].carried.len(), 1);
}

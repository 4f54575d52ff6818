//! Sites: slow start, what replies do to it, failure and probe.

use std::collections::BTreeSet;
use std::time::Duration;

use zrelay_agent::{Judgement, LeaseId, Release, Report, Rest, Site};
use zrelay_clock::Timestamp;
use zrelay_config::{Pattern, ReplyClass, ReplyRule};
use zrelay_spool::{Diagnostic, Disposition, Status};

use super::world::{World, clause, reply, settings};
use crate::limit::Ring;

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };
const MX: &str = "mx.example";

fn world(change: impl FnOnce(&mut zrelay_config::Clause)) -> World {
    World::new(settings(clause(change), 10_000), 1)
}

/// As a receiver says it, in reply to a command.
fn said(code: u16, status: Status, command: &str, text: &str) -> std::sync::Arc<Diagnostic> {
    let (text, command) = (text.to_owned(), command.to_owned());
    std::sync::Arc::new(Diagnostic { code, status, text, command, ..Diagnostic::default() })
}

fn too_many_connections() -> std::sync::Arc<Diagnostic> {
    said(421, Status(4, 7, 0), "", "Error: too many connections from 192.0.2.1")
}

fn too_much_mail() -> std::sync::Arc<Diagnostic> {
    said(450, Status(4, 7, 1), "MAIL FROM", "Error: too much mail from 192.0.2.1")
}

fn name(thread: usize) -> String {
    format!("smtp/domain{thread}.example")
}

/// Every agent that has not said so yet finds out that its host is the site.
fn locate(world: &mut World, located: &mut BTreeSet<LeaseId>) {
    let new: Vec<LeaseId> = world.agents.keys().copied().filter(|lease| located.insert(*lease)).collect();
    for lease in new {
        world.report(Report::Site { lease, site: Site(MX.into()) });
    }
    let closing: Vec<LeaseId> = world.agents.iter().filter(|(_, a)| a.closing).map(|(lease, _)| *lease).collect();
    for lease in closing {
        world.release(lease, Release::Done);
    }
}

/// So many domains of one site with a message each.
fn arrive(world: &mut World, threads: usize) {
    for thread in 0..threads {
        world.arrive(&name(thread), 1, 100);
    }
}

fn connecting(world: &World) -> Vec<LeaseId> {
    world.agents.iter().filter(|(_, agent)| agent.connects && !agent.closing).map(|(lease, _)| *lease).collect()
}

fn ring(world: &World) -> &Ring {
    let mut rings = world.scheduler.rings.values();
    rings.find(|ring| &**ring.key.place.name() == MX).expect("the site has a ring")
}

/// The agents get credit for one batch and deliver it.
fn deliver(world: &mut World, lease: LeaseId) {
    world.hungry(lease, 1, 10_000);
    while world.agents.get(&lease).is_some_and(|agent| !agent.carried.is_empty()) {
        world.settle(lease, DELIVERED, &reply(250, "ok"));
    }
}

#[test]
fn a_thousand_domains_of_one_new_site_begin_with_the_initial_connections() {
    let mut world = world(|_| {});
    world.unchecked();
    arrive(&mut world, 1000);
    let mut located = BTreeSet::new();
    while located.len() < 1000 {
        locate(&mut world, &mut located);
    }
    assert_eq!(connecting(&world).len(), 2, "connections before anything was delivered");
    assert_eq!(world.agents.len(), 2);
    let states: Vec<_> = (0..1000).map(|thread| world.state(&name(thread))).collect();
    assert_eq!(states.iter().filter(|state| **state == "limit:slow_start").count(), 998);
}

#[test]
fn each_connection_that_delivers_allows_another_up_to_the_limit_of_the_ring() {
    let mut world = world(|clause| clause.ring_agents = 8);
    arrive(&mut world, 100);
    let mut located = BTreeSet::new();
    let mut seen = vec![];
    for _ in 0..6 {
        locate(&mut world, &mut located);
        while world.agents.keys().any(|lease| !located.contains(lease)) {
            locate(&mut world, &mut located);
        }
        seen.push(connecting(&world).len());
        for lease in connecting(&world) {
            if !world.scheduler.leases[&lease].delivered {
                world.hungry(lease, 1, 10_000);
                let ticket = world.agents.get_mut(&lease).unwrap().carried.remove(0);
                // One recipient delivered, the batch is not done: the agent stays with its thread.
                world.verdict(lease, ticket.id, vec![0], DELIVERED, &reply(250, "ok"), Rest::More);
            }
        }
    }
    assert_eq!(seen, [2, 4, 6, 8, 8, 8]);
}

/// A site that failed with a thousand domains waiting, all due at once.
fn down_with_a_thousand() -> (World, BTreeSet<LeaseId>) {
    let mut world = world(|clause| clause.expiry = Duration::from_secs(86_400));
    world.unchecked();
    arrive(&mut world, 1000);
    let mut located = BTreeSet::new();
    while located.len() < 1000 {
        locate(&mut world, &mut located);
    }
    for lease in connecting(&world) {
        world.release(lease, Release::Failed(reply(0, "connection refused")));
    }
    (world, located)
}

#[test]
fn a_site_that_fails_puts_each_of_its_threads_off_once_without_another_connection() {
    let (mut world, mut located) = down_with_a_thousand();
    locate(&mut world, &mut located);
    assert!(world.agents.is_empty(), "{} agents at a site that is down", world.agents.len());
    assert_eq!(world.outcomes.len(), 1000);
    assert!(world.outcomes.iter().all(|outcome| outcome.diagnostic.text == "connection refused"));
    assert!((0..1000).all(|thread| world.state(&name(thread)) == "retry"));
    let dues: BTreeSet<Timestamp> = world.records.iter().map(|state| state.due).collect();
    assert_eq!(dues.len(), 1, "all wait for the same probe");
}

#[test]
fn a_large_site_that_comes_back_is_probed_once_and_then_started_slowly() {
    let (mut world, mut located) = down_with_a_thousand();
    let due = world.records[0].due;
    // Still down: one probe, and everybody waits longer.
    world.pass(due.since(world.now));
    assert_eq!(world.agents.len(), 1, "one probe for a thousand threads that are due");
    let probed = (0..1000).filter(|thread| world.state(&name(*thread)) == "limit:probe").count();
    assert_eq!(probed, 999);
    let probe = *world.agents.keys().next().unwrap();
    world.release(probe, Release::Failed(reply(0, "connection refused")));
    assert!(world.agents.is_empty());
    let again = world.records.last().unwrap().due;
    assert_eq!(world.records.last().unwrap().failures, 2);
    assert!(world.records.iter().rev().take(1000).all(|state| state.due == again), "all wait for the next probe");
    // Back: one probe, and when it has delivered, the initial connections.
    world.pass(again.since(world.now));
    assert_eq!(world.agents.len(), 1);
    let probe = *world.agents.keys().next().unwrap();
    world.hungry(probe, 1, 10_000);
    assert_eq!(world.agents.len(), 1, "a greeting is not enough");
    world.settle(probe, DELIVERED, &reply(250, "ok"));
    locate(&mut world, &mut located);
    let first = world.agents.len();
    assert!((2..=3).contains(&first), "{first} connections behind the probe");
    // Everything is delivered over a few connections, whose number grows by those that deliver.
    let mut most = first;
    for _ in 0..5000 {
        let Some(lease) = world.agents.keys().copied().find(|lease| !world.agents[lease].idle) else { break };
        deliver(&mut world, lease);
        most = most.max(world.agents.len());
    }
    assert!(world.open.is_empty(), "{} recipients are left", world.open.len());
    assert!(most <= 20, "{most} connections");
}

#[test]
fn too_many_connections_leave_those_that_work_and_one_more_is_tried_behind_each_hold() {
    let mut world = world(|clause| clause.initial_agents = 4);
    arrive(&mut world, 100);
    let mut located = BTreeSet::new();
    locate(&mut world, &mut located);
    while connecting(&world).len() < 4 {
        locate(&mut world, &mut located);
    }
    let agents = connecting(&world);
    let working = |world: &mut World, lease: LeaseId| {
        world.hungry(lease, 2, 10_000);
        let ticket = world.agents.get_mut(&lease).unwrap().carried.remove(0);
        world.verdict(lease, ticket.id, vec![0], DELIVERED, &reply(250, "ok"), Rest::More);
    };
    working(&mut world, agents[0]);
    working(&mut world, agents[1]);
    locate(&mut world, &mut located);
    assert!(connecting(&world).len() > 4, "those that deliver allow more");
    while let Some(refused) = connecting(&world).into_iter().find(|lease| !agents[..2].contains(lease)) {
        world.release(refused, Release::Failed(too_many_connections()));
        locate(&mut world, &mut located);
    }
    assert_eq!(ring(&world).pace.window(), 2);
    assert!(world.outcomes.iter().all(|outcome| outcome.disposition != Disposition::Deferred), "nobody was put off");
    // Successes alone do not make it try again at once.
    world.arrive(&name(0), 1, 100);
    assert_eq!(world.agents.len(), 2);
    // The hold is over (at most twice the longest wait): the next success allows one more, and only one.
    world.pass(Duration::from_secs(50));
    let batch = *world.scheduler.leases[&agents[0]].carried.keys().next().unwrap();
    world.verdict(agents[0], batch, vec![0], DELIVERED, &reply(250, "ok"), Rest::Done);
    deliver(&mut world, agents[0]);
    locate(&mut world, &mut located);
    assert_eq!(ring(&world).pace.window(), 3);
}

#[test]
fn a_refusal_of_the_rate_lets_the_site_rest_and_says_so_and_half_the_connections_come_back() {
    let mut world = world(|clause| clause.initial_agents = 4);
    arrive(&mut world, 100);
    let mut located = BTreeSet::new();
    while connecting(&world).len() < 4 {
        locate(&mut world, &mut located);
    }
    let told = connecting(&world)[0];
    world.hungry(told, 1, 10_000);
    world.settle(told, Judgement::Deferred, &too_much_mail());
    // What is said to what was under way counts once.
    let other = connecting(&world)[1];
    world.hungry(other, 1, 10_000);
    assert!(world.agents[&other].carried.is_empty(), "mail for a site that wants less");
    assert_eq!(ring(&world).pace.window(), 2);
    assert_eq!(world.state(&name(50)), "suspended");
    let view = world.scheduler.thread(world.now, &name(50).parse().unwrap()).unwrap().thread;
    let reason = view.row(world.now).reason;
    assert!(reason.starts_with("its site wants less, next mail in ") && reason.contains("too much mail"), "{reason}");
    assert_eq!(world.outcomes.len(), 1, "only who was answered is put off");
    let (until, _) = ring(&world).pace.suspended(world.now).unwrap();
    world.pass(until.since(world.now));
    let agents: Vec<LeaseId> = world.agents.keys().copied().collect();
    for lease in agents {
        world.hungry(lease, 1, 10_000);
    }
    let mut carrying = world.agents.iter().filter(|(_, agent)| !agent.carried.is_empty());
    let other = *carrying.next().expect("the rest is over").0;
    // The next one is longer, until something is delivered.
    world.settle(other, Judgement::Deferred, &too_much_mail());
    assert_eq!(ring(&world).pace.suspensions(), 2);
}

#[test]
fn a_bad_reputation_leaves_one_connection_and_a_longer_rest() {
    let mut world = world(|clause| clause.initial_agents = 4);
    arrive(&mut world, 100);
    let mut located = BTreeSet::new();
    while connecting(&world).len() < 4 {
        locate(&mut world, &mut located);
    }
    let lease = connecting(&world)[0];
    world.hungry(lease, 1, 10_000);
    let blocked = said(450, Status(4, 7, 1), "RCPT TO", "Client host rejected: cannot find your hostname");
    world.settle(lease, Judgement::Deferred, &blocked);
    let (until, _) = ring(&world).pace.suspended(world.now).unwrap();
    assert_eq!(ring(&world).pace.window(), 1);
    assert!(until.since(world.now) >= Duration::from_secs(36), "the third wait of the list");
}

#[test]
fn refusals_of_recipients_and_messages_change_nothing_for_the_site() {
    let mut world = world(|_| {});
    for (code, status, command, judgement, text) in [
        (450, Status(4, 2, 1), "RCPT TO", Judgement::Deferred, "mailbox busy"),
        (450, Status(4, 7, 1), "RCPT TO", Judgement::Deferred, "greylisted"),
        (550, Status(5, 1, 1), "RCPT TO", Judgement::Failed, "no such user"),
        (554, Status(5, 7, 1), "end of DATA", Judgement::Failed, "spam"),
        (451, Status(4, 3, 0), "end of DATA", Judgement::Deferred, "local error"),
    ] {
        world.arrive("smtp/a", 1, 100);
        let lease = world.agent("smtp/a");
        world.hungry(lease, 1, 10_000);
        world.settle(lease, judgement, &said(code, status, command, text));
        let pace = &world.scheduler.rings.values().next().unwrap().pace;
        assert_eq!((pace.window(), pace.suspensions(), pace.failures()), (2, 0, 0), "{text}");
    }
}

#[test]
fn a_rule_of_the_clause_reads_a_reply_differently_and_says_for_how_long() {
    let rule = ReplyRule {
        matches: Pattern::over_text("450 * come back tomorrow").unwrap(),
        class: ReplyClass::Rate,
        suspend: Some(Duration::from_secs(3600)),
    };
    let mut world = world(|clause| {
        clause.replies = vec![rule];
        clause.expiry = Duration::from_secs(86_400);
    });
    world.arrive("smtp/a", 1, 100);
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.hungry(lease, 1, 10_000);
    world.settle(lease, Judgement::Deferred, &said(450, Status(4, 2, 0), "RCPT TO", "please come back tomorrow"));
    assert_eq!(world.state("smtp/a"), "suspended");
    let until = world.scheduler.rings.values().next().unwrap().pace.suspended(world.now).unwrap().0;
    assert_eq!(until.since(world.now), Duration::from_secs(3600));
}

#[test]
fn what_was_learned_of_a_site_outlives_its_threads() {
    let mut world = world(|_| {});
    let begin = |world: &mut World| {
        world.arrive("smtp/a", 1, 100);
        let lease = world.agent("smtp/a");
        world.report(Report::Site { lease, site: Site(MX.into()) });
        lease
    };
    let lease = begin(&mut world);
    world.hungry(lease, 1, 10_000);
    world.settle(lease, Judgement::Deferred, &too_much_mail());
    world.pass(Duration::from_secs(11));
    world.hungry(lease, 1, 10_000);
    world.settle(lease, DELIVERED, &reply(250, "ok"));
    world.release(lease, Release::Done);
    assert_eq!(ring(&world).pace.window(), 1);
    world.pass(crate::MEMORY + Duration::from_secs(1));
    assert!(world.scheduler.rings.is_empty(), "everything is forgotten");
    let lease = begin(&mut world);
    assert_eq!(ring(&world).pace.window(), 1, "but not how the site was");
    world.release(lease, Release::Done);
    world.pass(crate::SITE_MEMORY + crate::MEMORY);
}

#[test]
fn an_operator_has_a_site_tried_that_is_down() {
    let mut world = world(|_| {});
    world.arrive("smtp/a", 1, 100);
    let lease = world.agent("smtp/a");
    world.report(Report::Site { lease, site: Site(MX.into()) });
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    assert!(world.agents.is_empty());
    world.forget_dues();
    world.scheduler.operate(world.now, crate::Action::Retry, &"smtp/a".parse().unwrap());
    world.settle_down();
    assert!(world.has_agent("smtp/a"));
}

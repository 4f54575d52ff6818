//! Batches beyond the window: what they wait for, and that whatever is done reaches them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use zrelay_agent::{Judgement, LeaseId, Release};
use zrelay_spool::{BatchId, Disposition, ThreadKey};

use super::world::{Disk, World, clause, reply, settings};
use crate::operator::{Action, Chosen, Selector};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };
const WINDOW: usize = 100;

fn world() -> World {
    let mut world = World::new(settings(clause(|_| {}), 100), 1);
    world.scheduler.set_window(WINDOW);
    world
}

fn resident(world: &World) -> usize {
    world.scheduler.threads.values().map(|thread| thread.batches.len()).sum()
}

fn operate(world: &mut World, action: Action, selector: &str) -> crate::Changed {
    let changed = world.scheduler.operate(world.now, action, &selector.parse::<Selector>().unwrap());
    world.settle_down();
    changed
}

fn fill(world: &mut World, thread: &str, count: usize) -> Vec<BatchId> {
    (0..count).map(|_| world.arrive(thread, 1, 100)).collect()
}

/// So many batches for each of so many threads, in turn.
fn fill_in_turn(world: &mut World, threads: usize, batches: usize) -> BTreeMap<String, Vec<BatchId>> {
    let mut all: BTreeMap<String, Vec<BatchId>> = BTreeMap::new();
    for _ in 0..batches {
        for thread in (0..threads).map(|thread| format!("smtp/{thread}")) {
            let batch = world.arrive(&thread, 1, 100);
            all.entry(thread).or_default().push(batch);
        }
    }
    all
}

/// The agent delivers until it has nothing left to do.
fn deliver_all(world: &mut World, lease: LeaseId) -> Vec<BatchId> {
    let mut delivered = Vec::new();
    loop {
        world.hungry(lease, 1, 1 << 20);
        let Some(first) = world.agents[&lease].carried.first() else { return delivered };
        delivered.push(first.id);
        world.settle(lease, DELIVERED, &reply(250, "ok"));
    }
}

#[test]
fn a_host_that_is_down_takes_no_room_from_the_others() {
    let mut world = world();
    fill(&mut world, "smtp/down", 5);
    let lease = world.agent("smtp/down");
    world.release(lease, Release::Failed(reply(0, "connection refused")));
    fill(&mut world, "smtp/down", 1000);
    assert!(resident(&world) <= WINDOW, "{}", resident(&world));
    let load = world.scheduler.thread(world.now, &"smtp/down".parse().unwrap()).unwrap().thread.load;
    assert_eq!((load.batches, load.recipients), (1005, 1005), "sums cover what is beyond the window");

    let others = fill(&mut world, "smtp/up", 20);
    let lease = world.agent("smtp/up");
    assert!(world.spilled.values().flatten().all(|batch| batch.thread == "smtp/down".parse::<ThreadKey>().unwrap()));
    assert_eq!(deliver_all(&mut world, lease), others);
}

#[test]
fn what_waits_beyond_the_window_comes_in_by_its_turn_and_goes_out_in_order() {
    let mut world = world();
    let all = fill(&mut world, "smtp/a", 1000);
    assert!(resident(&world) <= WINDOW && world.scheduler.beyond_window() >= 900);
    let lease = world.agent("smtp/a");
    assert!(deliver_all(&mut world, lease) == all, "not in order");
    assert_eq!((world.scheduler.beyond_window(), world.state("smtp/a")), (0, "idle"));
}

#[test]
fn what_was_put_off_waits_beyond_the_window_until_it_is_due() {
    let mut world = world();
    let all = fill(&mut world, "smtp/a", 300);
    let lease = world.agent("smtp/a");
    for _ in &all {
        world.hungry(lease, 1, 1 << 20);
        world.settle(lease, Judgement::Deferred, &reply(450, "later"));
    }
    assert!(resident(&world) <= WINDOW);
    world.pass(Duration::from_secs(20));
    let lease = if world.has_agent("smtp/a") { world.agent("smtp/a") } else { panic!("{}", world.state("smtp/a")) };
    assert_eq!(deliver_all(&mut world, lease).len(), 300);
    assert!(
        world.outcomes.iter().filter(|outcome| outcome.disposition != Disposition::Deferred).all(|o| o.attempts == 2)
    );
}

#[test]
fn batches_beyond_the_window_expire_while_their_host_is_down() {
    let mut world = world();
    fill(&mut world, "smtp/down", 500);
    while !world.open.is_empty() {
        if world.has_agent("smtp/down") {
            let lease = world.agent("smtp/down");
            world.release(lease, Release::Failed(reply(0, "connection refused")));
        } else {
            assert!(world.pass_to_timeout(), "{} are stuck", world.open.len());
        }
    }
    assert!(world.finished.values().all(|disposition| *disposition == Disposition::Expired));
}

#[test]
fn an_operator_reaches_a_whole_thread() {
    for (action, end) in [(Action::Drop, Disposition::Dropped), (Action::Expire, Disposition::Expired)] {
        let mut world = world();
        operate(&mut world, Action::Hold, "smtp/a");
        fill(&mut world, "smtp/a", 1000);
        assert!(resident(&world) <= WINDOW, "a held thread does not keep others out");
        assert_eq!(operate(&mut world, action, "smtp/a").recipients, 1000);
        assert!(world.open.is_empty() && world.finished.values().all(|disposition| *disposition == end));
    }
}

#[test]
fn a_retry_reaches_a_whole_thread() {
    let mut world = world();
    fill(&mut world, "smtp/a", 300);
    let lease = world.agent("smtp/a");
    for _ in 0..300 {
        world.hungry(lease, 1, 1 << 20);
        world.settle(lease, Judgement::Deferred, &reply(450, "later"));
    }
    world.forget_dues();
    assert_eq!(operate(&mut world, Action::Retry, "smtp/a").batches, 300);
    let lease = world.agent("smtp/a");
    assert_eq!(deliver_all(&mut world, lease).len(), 300);
}

#[test]
fn an_operator_reaches_a_message_beyond_the_window() {
    let mut world = world();
    let all = fill(&mut world, "smtp/a", 1000);
    let (held, dropped, last) = (all[700], all[800], all[999]);
    assert_eq!(operate(&mut world, Action::Hold, &held.message.to_string()).beyond, 1);
    operate(&mut world, Action::Drop, &dropped.message.to_string());
    let chosen = Chosen { thread: "smtp/a".parse().unwrap(), batch: last, run: None, open: 1, recipients: None };
    assert_eq!(world.scheduler.operate_on(world.now, Action::Expire, &[chosen]).recipients, 1);
    world.settle_down();
    assert_eq!(world.finished[&(dropped, 0)], Disposition::Dropped);
    assert_eq!(world.finished[&(last, 0)], Disposition::Expired);
    let lease = world.agent("smtp/a");
    let delivered = deliver_all(&mut world, lease);
    assert!(delivered.len() == 997 && ![held, dropped, last].iter().any(|batch| delivered.contains(batch)));
    operate(&mut world, Action::Release, &held.message.to_string());
    assert_eq!(deliver_all(&mut world, lease), [held]);
}

#[test]
fn a_hold_that_could_not_be_done_yet_is_released_with_its_thread() {
    let mut world = world();
    let all = fill(&mut world, "smtp/a", 300);
    world.disk = Disk::Unreadable;
    operate(&mut world, Action::Hold, &all[250].message.to_string());
    operate(&mut world, Action::Hold, "smtp/a");
    let lease = world.agent("smtp/a");
    world.release(lease, Release::Done);
    operate(&mut world, Action::Release, "smtp/a");
    world.disk = Disk::Works;
    world.pass(Duration::from_secs(61));
    let lease = world.agent("smtp/a");
    assert_eq!(deliver_all(&mut world, lease).len(), 300);
}

/// A thousand batches, of which those of every second message are held by themselves.
fn half_held(world: &mut World) -> (Vec<BatchId>, Vec<BatchId>) {
    let all = fill(world, "smtp/a", 1000);
    let chosen = |batch: &BatchId| Chosen {
        thread: "smtp/a".parse().unwrap(),
        batch: *batch,
        run: None,
        open: 1,
        recipients: None,
    };
    let (held, free): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
    let only = |batches: Vec<(usize, BatchId)>| batches.into_iter().map(|(_, batch)| batch).collect::<Vec<_>>();
    let (held, free) = (only(held), only(free));
    world.scheduler.operate_on(world.now, Action::Hold, &held.iter().map(chosen).collect::<Vec<_>>());
    world.settle_down();
    (held, free)
}

fn count_held(world: &World) -> u64 {
    world.scheduler.thread(world.now, &"smtp/a".parse().unwrap()).unwrap().thread.held
}

#[test]
fn what_is_held_by_itself_waits_beyond_the_window_and_lets_the_others_pass() {
    let mut world = world();
    let (held, free) = half_held(&mut world);
    assert_eq!(count_held(&world), 500);
    let lease = world.agent("smtp/a");
    let mut delivered = deliver_all(&mut world, lease);
    delivered.sort_unstable();
    assert_eq!(delivered, free);
    // Nothing but held ones is left: those in memory are few, and nobody asks for the others.
    assert!(resident(&world) <= WINDOW, "{}", resident(&world));
    assert_eq!((count_held(&world), world.state("smtp/a")), (500, "held"));
    fill(&mut world, "smtp/b", WINDOW);
    assert!(resident(&world) <= WINDOW, "{}", resident(&world));
    assert!(world.scheduler.threads.values().all(|thread| thread.key.host != "a".into() || thread.aside.len() <= 64));

    // One by one, and the rest with the thread, on record.
    operate(&mut world, Action::Release, &held[499].message.to_string());
    assert_eq!(count_held(&world), 499);
    operate(&mut world, Action::Release, "smtp/a");
    assert_eq!(count_held(&world), 0);
    assert!(held.iter().all(|batch| !world.states[batch].held), "on record");
    let lease = if world.has_agent("smtp/a") { world.agent("smtp/a") } else { lease };
    let mut delivered = deliver_all(&mut world, lease);
    delivered.sort_unstable();
    assert_eq!(delivered, held);
}

#[test]
fn what_is_held_by_itself_beyond_the_window_is_dropped_and_not_retried_and_does_not_expire() {
    let mut world = world();
    let (held, free) = half_held(&mut world);
    let lease = world.agent("smtp/a");
    assert_eq!(deliver_all(&mut world, lease).len(), free.len());
    world.forget_dues();
    operate(&mut world, Action::Retry, "smtp/a");
    world.pass(Duration::from_secs(30 * 86_400));
    assert_eq!((count_held(&world), world.open.len()), (500, 500));
    operate(&mut world, Action::Drop, "smtp/a");
    assert!(world.open.is_empty() && held.iter().all(|batch| world.finished[&(*batch, 0)] == Disposition::Dropped));
}

#[test]
fn held_batches_that_could_not_be_read_for_their_release_are_asked_for_again() {
    let mut world = world();
    let (held, free) = half_held(&mut world);
    let lease = world.agent("smtp/a");
    assert_eq!(deliver_all(&mut world, lease).len(), free.len());
    world.disk = Disk::Unreadable;
    operate(&mut world, Action::Release, "smtp/a");
    assert!(count_held(&world) > 0);
    world.disk = Disk::Works;
    (0..20).for_each(|_| world.pass(Duration::from_secs(61)));
    let lease = if world.has_agent("smtp/a") { world.agent("smtp/a") } else { lease };
    assert_eq!((deliver_all(&mut world, lease).len(), count_held(&world)), (held.len(), 0));
}

#[test]
fn a_disk_that_takes_nothing_leaves_batches_in_memory() {
    let mut world = world();
    world.disk = Disk::Full;
    let all = fill(&mut world, "smtp/a", 300);
    assert_eq!((resident(&world), world.scheduler.beyond_window()), (300, 0));
    world.disk = Disk::Works;
    world.pass(Duration::from_secs(61));
    let more = fill(&mut world, "smtp/a", 1);
    assert!(resident(&world) <= WINDOW);
    let lease = world.agent("smtp/a");
    assert!(deliver_all(&mut world, lease) == [all, more].concat(), "not in order");
}

#[test]
fn a_disk_that_is_full_when_a_run_grows_leaves_the_rest_of_it_where_it_is() {
    let mut world = world();
    let mut all = fill_in_turn(&mut world, 40, 10);
    let beyond = world.scheduler.beyond_window();
    world.disk = Disk::Full;
    for (thread, batches) in fill_in_turn(&mut world, 40, 2) {
        all.entry(thread).or_default().extend(batches);
    }
    assert_eq!((world.scheduler.beyond_window(), resident(&world)), (beyond, 480 - beyond));
    world.disk = Disk::Works;
    for (thread, batches) in all {
        let lease = world.agent(&thread);
        // Not in order: while there is no room in the window, what is on disk waits until nothing else is due.
        let delivered: BTreeSet<BatchId> = deliver_all(&mut world, lease).into_iter().collect();
        assert_eq!(delivered, batches.into_iter().collect(), "{thread}");
    }
}

#[test]
fn a_run_that_is_wanted_again_before_it_could_not_be_written_is_not_read() {
    let mut world = world();
    let all = fill(&mut world, "smtp/a", WINDOW);
    world.disk = Disk::Full;
    world.scheduler.set_window(WINDOW / 2);
    world.scheduler.handle_timeout(world.now);
    assert!(world.scheduler.beyond_window() > 0);
    operate(&mut world, Action::Drop, "smtp/a");
    let dropped = world.outcomes.iter().filter(|outcome| outcome.disposition == Disposition::Dropped);
    let under_way = world.agents.values().flat_map(|agent| &agent.carried).count();
    assert_eq!((dropped.count() + under_way, world.scheduler.beyond_window()), (all.len(), 0));
}

#[test]
fn the_window_is_kept_from_the_first_batch_on_whatever_the_number_of_threads() {
    for threads in [1, 7, 40, 90] {
        let mut world = world();
        for _ in 0..20 {
            fill_in_turn(&mut world, threads, 1);
            assert!(resident(&world) <= WINDOW, "{} in {threads} threads", resident(&world));
        }
    }
}

#[test]
fn runs_grow_so_that_there_are_few_to_remember() {
    let mut world = world();
    let threads = 40;
    fill_in_turn(&mut world, threads, 500);
    let (runs, beyond) = (world.spilled.len(), world.scheduler.beyond_window());
    assert!(beyond > 19_000 && runs <= threads + 2 * WINDOW / 8, "{runs} runs of {beyond} batches");
    let lease = world.agent("smtp/7");
    assert_eq!(deliver_all(&mut world, lease).len(), 500);
}

#[test]
fn what_cannot_be_read_is_asked_for_again() {
    let mut world = world();
    fill(&mut world, "smtp/a", 300);
    world.disk = Disk::Unreadable;
    let lease = world.agent("smtp/a");
    let before = deliver_all(&mut world, lease).len();
    assert!(before < 300);
    world.disk = Disk::Works;
    world.pass(Duration::from_secs(61));
    let lease = world.agent("smtp/a");
    assert_eq!(before + deliver_all(&mut world, lease).len(), 300);
}

#[test]
fn many_threads_share_a_small_window() {
    let mut world = World::new(settings(clause(|_| {}), 3), 1);
    world.scheduler.set_window(10);
    for _ in 0..20 {
        for thread in 0..30 {
            world.arrive(&format!("smtp/host{thread}"), 1, 100);
        }
    }
    // One for each thread at the most, however small the window is.
    assert!(resident(&world) <= 30 + 3, "{}", resident(&world));
    for _ in 0..100_000 {
        let Some(lease) = world.agents.keys().next().copied() else { break };
        if deliver_all(&mut world, lease).is_empty() {
            world.release(lease, Release::Done);
        }
    }
    assert!(world.open.is_empty(), "{} are stuck", world.open.len());
}

/// All that waits beyond the window, as somebody who looks through the queue sees it.
fn look(world: &World) -> Vec<Chosen> {
    let mut all = Vec::new();
    let mut last = None;
    while let Some((run, thread)) = world.scheduler.next_run(None, None, last) {
        last = Some(run);
        let views = world.scheduler.views_of(world.now, (run, &thread), world.spilled[&run].clone());
        all.extend(views.into_iter().map(|view| Chosen {
            thread: view.thread,
            batch: view.id,
            run: view.run,
            open: u32::try_from(view.recipients.len()).unwrap(),
            recipients: None,
        }));
    }
    all
}

#[test]
fn single_batches_beyond_the_window_are_reached_counted_and_wait_there_again() {
    let mut world = world();
    let all = fill(&mut world, "smtp/a", 1000);
    let found = look(&world);
    assert_eq!(found.len(), world.scheduler.beyond_window());
    let chosen: Vec<Chosen> = found.into_iter().step_by(2).collect();
    let held: BTreeSet<BatchId> = chosen.iter().map(|one| one.batch).collect();
    let changed = world.scheduler.operate_on(world.now, Action::Hold, &chosen);
    assert_eq!((changed.threads, changed.batches, changed.recipients), (1, held.len() as u64, held.len() as u64));
    world.settle_down();
    assert!(held.iter().all(|batch| world.states[batch].held), "on record");

    let lease = world.agent("smtp/a");
    let free: Vec<BatchId> = all.iter().copied().filter(|batch| !held.contains(batch)).collect();
    let mut delivered = deliver_all(&mut world, lease);
    delivered.sort_unstable();
    assert_eq!(delivered, free);
    // The agent went idle: its thread has nothing that is due.
    operate(&mut world, Action::Release, "smtp/a");
    let mut delivered = deliver_all(&mut world, lease);
    delivered.sort_unstable();
    assert_eq!(delivered, held.into_iter().collect::<Vec<_>>());
}

#[test]
fn batches_beyond_the_window_are_dropped_rerouted_and_released_one_by_one() {
    let mut world = world();
    operate(&mut world, Action::Hold, "smtp/a");
    fill(&mut world, "smtp/a", 500);
    let found = look(&world);
    let (dropped, moved) = (found[10].clone(), found[20].clone());
    assert_eq!(world.scheduler.operate_on(world.now, Action::Drop, std::slice::from_ref(&dropped)).recipients, 1);
    let to: ThreadKey = "smtp/b".parse().unwrap();
    assert_eq!(world.scheduler.reroute_chosen(world.now, std::slice::from_ref(&moved), &to).batches, 1);
    world.settle_down();
    assert_eq!(world.finished[&(dropped.batch, 0)], Disposition::Dropped);
    let lease = world.agent("smtp/b");
    assert_eq!(deliver_all(&mut world, lease), [moved.batch]);
    assert_eq!(world.open.len(), 498);
}

//! What an agent has in hand, by the time that its host takes for it: virtual time, and a host that serves in order.

use std::collections::BTreeMap;
use std::time::Duration;

use zrelay_agent::{IN_HAND, Judgement, LeaseId, Measured, Pace, Release, Report, Rest, Work, portion};
use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, Flow};

use crate::operator::{Action, Chosen};

use super::world::{START, World, clause, reply, settings};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };
const LIST: Flow = Flow(1);
const OTHER: Flow = Flow(2);
/// More than any path holds: what bounds the work in hand here is time alone.
const CREDIT: (u32, u64) = (1_000_000, 1 << 40);

/// A host that takes its time, one transaction after the other.
struct Host {
    world: World,
    lease: LeaseId,
    message: Duration,
    recipient: Duration,
    portion: usize,
    /// When the first transaction of each batch began.
    begun: BTreeMap<BatchId, Timestamp>,
    served: usize,
    /// Recipients that are deferred at first: those whose number is a multiple of it.
    defers: Option<u32>,
}

impl Host {
    fn new(world: World, message: Duration, recipient: Duration) -> Self {
        let lease = world.agent("smtp/a");
        let portion = portion(message, recipient, Duration::ZERO);
        let (begun, served) = (BTreeMap::new(), 0);
        Self { world, lease, message, recipient, portion: portion as usize, begun, served, defers: None }
    }

    /// It has been met before.
    fn measured(mut self) -> Self {
        let (message, recipient, portion) = (self.message, self.recipient, u32::try_from(self.portion).unwrap());
        let pace = Pace::Measured(Measured { message, recipient, round_trip: Duration::ZERO, portion });
        self.world.report(Report::Pace { lease: self.lease, pace });
        self.world.hungry(self.lease, CREDIT.0, CREDIT.1);
        self
    }

    /// Serves for so long; says whether it was ever without work.
    fn serve(&mut self, span: Duration) -> bool {
        let until = self.world.now + span;
        let mut always_busy = true;
        while self.world.now < until {
            let Some(ticket) = self.world.agents[&self.lease].carried.first().cloned() else {
                always_busy = false;
                self.world.pass(Duration::from_millis(1));
                continue;
            };
            self.begun.entry(ticket.id).or_insert(self.world.now);
            let (now, later) = ticket.recipients.split_at(self.portion.min(ticket.recipients.len()));
            self.world.pass(self.message + self.recipient * u32::try_from(now.len()).unwrap());
            self.served += now.len();
            let carried = &mut self.world.agents.get_mut(&self.lease).unwrap().carried;
            carried[0].recipients = later.into();
            let rest = if later.is_empty() { Rest::Done } else { Rest::More };
            if rest == Rest::Done {
                carried.remove(0);
            }
            let first = self.world.now.since(START) < Duration::from_secs(5);
            let put_off = |one: &u32| first && self.defers.is_some_and(|defers| one.is_multiple_of(defers));
            let (put_off, taken): (Vec<u32>, Vec<u32>) = now.iter().partition(|one| put_off(one));
            if !put_off.is_empty() {
                self.world.verdict(
                    self.lease,
                    ticket.id,
                    put_off,
                    Judgement::Deferred,
                    &reply(450, "later"),
                    Rest::More,
                );
            }
            self.world.verdict(self.lease, ticket.id, taken, DELIVERED, &reply(250, "ok"), rest);
        }
        always_busy
    }

    /// How long a message that comes now waits for its turn.
    fn wait_of(&mut self, flow: Flow, priority: i8) -> Duration {
        let arrived = self.world.now;
        let id = self.world.arrive_as("smtp/a", 1, 3000, |batch| (batch.flow, batch.priority) = (flow, priority));
        for _ in 0..10_000 {
            self.serve(Duration::from_millis(1));
            if let Some(begun) = self.begun.get(&id) {
                return begun.since(arrived);
            }
        }
        panic!("it never had its turn");
    }
}

fn post(batches: u32, recipients: u32) -> World {
    let mut world = World::new(settings(clause(|clause| clause.expiry = Duration::from_secs(100_000)), 100), 1);
    for _ in 0..batches {
        world.arrive_from(LIST, "smtp/a", recipients, 4096);
    }
    world
}

/// What a message waits at the most: what is in hand, the part that overdraws it, and a transaction that is under way.
fn bound(host: &Host) -> Duration {
    let transaction = host.message + host.recipient * u32::try_from(host.portion).unwrap();
    IN_HAND + 3 * transaction
}

#[test]
fn a_message_waits_for_a_second_or_so_of_a_post_to_a_slow_host_and_the_host_is_never_idle() {
    for recipient in [Duration::from_micros(500), Duration::from_millis(1), Duration::from_millis(5)] {
        let mut host = Host::new(post(300, 1000), Duration::from_millis(2), recipient).measured();
        for moment in 0..10 {
            assert!(host.serve(Duration::from_millis(300 + moment * 37)), "the host was idle");
            let wait = host.wait_of(OTHER, 0);
            assert!(wait <= bound(&host) && wait < Duration::from_millis(1600), "{wait:?} at {recipient:?}");
        }
        assert!(host.served > 5000 || recipient > Duration::from_millis(1));
    }
}

#[test]
fn a_message_waits_no_longer_for_a_post_with_a_sender_for_each_recipient() {
    let mut world = World::new(settings(clause(|_| {}), 100), 1);
    for _ in 0..20 {
        world.arrive_as("smtp/a", 1000, 4096, |batch| (batch.copies, batch.flow) = (1000, LIST));
    }
    let mut host = Host::new(world, Duration::from_millis(50), Duration::from_millis(1)).measured();
    // Each recipient is a transaction.
    host.portion = 1;
    assert!(host.serve(Duration::from_secs(2)));
    let wait = host.wait_of(OTHER, 0);
    assert!(wait <= Duration::from_millis(1250), "{wait:?}");
}

#[test]
fn urgent_mail_of_the_same_flow_waits_no_longer() {
    let mut host = Host::new(post(300, 1000), Duration::from_millis(2), Duration::from_millis(5)).measured();
    host.serve(Duration::from_secs(1));
    let wait = host.wait_of(LIST, 5);
    assert!(wait <= bound(&host), "{wait:?}");
}

#[test]
fn a_host_that_has_not_answered_has_no_more_in_hand_than_is_presumed() {
    let mut world = post(100, 1000);
    let lease = world.agent("smtp/a");
    let pace = Pace::Presumed(Work { messages: 16, recipients: 100 });
    world.report(Report::Pace { lease, pace });
    world.hungry(lease, CREDIT.0, CREDIT.1);
    let in_hand: usize = world.agents[&lease].carried.iter().map(|ticket| ticket.recipients.len()).sum();
    assert_eq!(in_hand, 100);
}

#[test]
fn a_fast_host_is_given_whole_batches_up_to_its_credit() {
    let mut world = post(100, 1000);
    let lease = world.agent("smtp/a");
    let (message, recipient) = (Duration::from_micros(300), Duration::from_micros(20));
    let round_trip = Duration::from_millis(130);
    let portion = portion(message, recipient, round_trip);
    let pace = Pace::Measured(Measured { message, recipient, round_trip, portion });
    world.report(Report::Pace { lease, pace });
    world.hungry(lease, 20, 1 << 30);
    let carried = &world.agents[&lease].carried;
    assert_eq!(carried.iter().map(|ticket| ticket.recipients.len()).collect::<Vec<_>>(), [1000; 20]);
}

#[test]
fn a_post_goes_out_in_parts_each_recipient_once() {
    let mut host = Host::new(post(3, 700), Duration::from_millis(20), Duration::from_millis(5)).measured();
    host.serve(Duration::from_secs(15));
    assert!(host.world.open.is_empty());
    assert_eq!(host.served, 3 * 700);
}

#[test]
fn those_who_are_deferred_in_a_part_wait_and_the_rest_of_the_batch_does_not() {
    let mut host = Host::new(post(1, 1000), Duration::from_millis(2), Duration::from_millis(5)).measured();
    host.defers = Some(40);
    // Ten seconds is the shortest wait of the world's clause.
    assert!(host.serve(Duration::from_millis(5000)), "the host waited for somebody's next attempt");
    assert_eq!(host.served, 1000);
    let left = host.world.open.len();
    assert!((20..=25).contains(&left), "{left} are left");
    host.serve(Duration::from_secs(20));
    assert_eq!((host.world.open.len(), host.served), (0, 1000 + left));
    assert!(host.world.outcomes.iter().all(|outcome| outcome.attempts <= 2), "a part is no attempt of its own");
}

#[test]
fn those_who_are_deferred_in_a_part_wait_although_nobody_of_the_batch_is_left_behind_them() {
    let mut host = Host::new(post(1, 1000), Duration::from_millis(2), Duration::from_millis(5)).measured();
    host.defers = Some(2);
    while host.world.agents[&host.lease].carried[0].recipients.first().is_some_and(|first| *first == 0) {
        host.serve(Duration::from_millis(1));
    }
    // The first part comes back, and another one is under way.
    host.world.release(host.lease, Release::Done);
    let thread = "smtp/a".parse().unwrap();
    let batch = host.world.open.first().unwrap().0;
    let rest: Vec<u32> = host.world.open.iter().map(|(_, one)| *one).filter(|one| *one >= 50).collect();
    let left = host.world.open.len() - rest.len();
    assert!(left > 0, "some are deferred");
    let chosen = Chosen { thread, batch, run: None, open: 1000, recipients: Some(rest) };
    host.world.scheduler.operate_on(host.world.now, Action::Drop, &[chosen]);
    host.world.settle_down();
    assert_eq!(host.world.open.len(), left);
    // The world looks at it that nobody is carried before its time.
    host.lease = host.world.agent("smtp/a");
    host = host.measured();
    host.serve(Duration::from_secs(20));
    assert_eq!(host.world.open.len(), 0);
}

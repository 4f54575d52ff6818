//! How fast a thread comes to as many connections as are worth it: virtual time, and a host that takes its time for each
//! recipient. `cargo nextest run -p zrelay-scheduler growth --no-capture` prints connections and rate over time.

use std::collections::BTreeMap;
use std::time::Duration;

use zrelay_agent::{Judgement, LeaseId, Measured, Pace, Release, Report, Rest, Work, portion};
use zrelay_clock::Timestamp;

use zrelay_spool::Flow;

use super::world::{START, World, clause, reply, settings};

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };
const MAX: u32 = 20;
/// Resolving, connecting, EHLO.
const GREETING: Duration = Duration::from_millis(30);
const TICK: Duration = Duration::from_millis(5);
/// What a recipient takes over one connection.
const RECIPIENT: Duration = Duration::from_millis(5);

/// One connection.
struct Line {
    /// When it can take the first transaction, or the next one.
    ready: Timestamp,
    greeted: bool,
    /// Recipients of the transaction that is done then.
    under_way: usize,
}

/// A host and the lines to it.
struct Host {
    world: World,
    lines: BTreeMap<LeaseId, Line>,
    /// Connections that it works on at a time; further ones share what there is.
    capacity: usize,
    /// More are refused when they are made.
    welcome: usize,
    served: usize,
    most: usize,
    refused: usize,
    noise: u64,
}

impl Host {
    fn new(capacity: usize, welcome: usize) -> Self {
        let clause = clause(|clause| {
            clause.thread_agents = MAX;
            clause.ring_agents = MAX;
            clause.expiry = Duration::from_secs(1_000_000);
        });
        let mut world = World::new(settings(clause, 100), 1);
        world.unchecked();
        for _ in 0..400 {
            world.arrive("smtp/a", 1000, 4096);
        }
        Self { world, lines: BTreeMap::new(), capacity, welcome, served: 0, most: 0, refused: 0, noise: 1 }
    }

    fn connections(&self) -> usize {
        self.world.agents.values().filter(|agent| !agent.closing).count()
    }

    /// A time that is a tenth longer or shorter.
    fn wobble(&mut self, time: Duration) -> Duration {
        self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        time.mul_f64(0.9 + 0.2 * (self.noise >> 33) as f64 / (1u64 << 31) as f64)
    }

    fn work(&mut self, span: Duration) {
        let until = self.world.now + span;
        while self.world.now < until {
            let leases: Vec<LeaseId> = self.world.agents.keys().copied().collect();
            self.lines.retain(|lease, _| leases.contains(lease));
            for lease in leases {
                self.tend(lease);
            }
            self.most = self.most.max(self.connections());
            self.world.pass(TICK);
        }
    }

    fn tend(&mut self, lease: LeaseId) {
        let now = self.world.now;
        let line = self.lines.entry(lease).or_insert(Line { ready: now + GREETING, greeted: false, under_way: 0 });
        if line.ready > now {
            return;
        }
        let all = self.world.agents.len();
        let share = all as f64 / all.min(self.capacity) as f64;
        if !line.greeted {
            line.greeted = true;
            if all > self.welcome {
                self.lines.remove(&lease);
                self.refused += 1;
                return self.world.release(lease, Release::Failed(reply(421, "too many connections from you")));
            }
            let presumed = Pace::Presumed(Work { messages: 16, recipients: 100 });
            self.world.report(Report::Pace { lease, pace: presumed });
            self.world.hungry(lease, 1_000_000, 1 << 40);
            return;
        }
        let done = std::mem::take(&mut line.under_way);
        if done > 0 {
            self.settle(lease, done);
        }
        let Some(agent) = self.world.agents.get(&lease) else { return };
        let Some(ticket) = agent.carried.first() else {
            if agent.closing {
                self.world.release(lease, Release::Done);
            }
            return;
        };
        let under_way = ticket.recipients.len().min(portion(Duration::ZERO, RECIPIENT, Duration::ZERO) as usize);
        let time = self.wobble(RECIPIENT.mul_f64(share) * u32::try_from(under_way).unwrap());
        let line = self.lines.get_mut(&lease).unwrap();
        (line.under_way, line.ready) = (under_way, now + time);
    }

    fn settle(&mut self, lease: LeaseId, done: usize) {
        let carried = &mut self.world.agents.get_mut(&lease).unwrap().carried;
        let (id, (now, later)) = (carried[0].id, carried[0].recipients.split_at(done));
        let (now, later) = (now.to_vec(), later.to_vec());
        let rest = if later.is_empty() { Rest::Done } else { Rest::More };
        carried[0].recipients = later.into();
        if rest == Rest::Done {
            carried.remove(0);
        }
        self.served += done;
        self.world.verdict(lease, id, now, DELIVERED, &reply(250, "ok"), rest);
        let round_trip = Duration::ZERO;
        let portion = portion(Duration::ZERO, RECIPIENT, round_trip);
        let pace = Pace::Measured(Measured { message: Duration::ZERO, recipient: RECIPIENT, round_trip, portion });
        self.world.report(Report::Pace { lease, pace });
    }

    /// Recipients that are served in a span.
    fn served_over(&mut self, span: Duration) -> usize {
        let before = self.served;
        self.work(span);
        self.served - before
    }

    /// Connections at the end of each span, and recipients a second in it.
    fn watch(&mut self, spans: usize, span: Duration) -> Vec<(usize, f64)> {
        let mut seen = Vec::new();
        for _ in 0..spans {
            let rate = self.served_over(span) as f64 / span.as_secs_f64();
            seen.push((self.connections(), rate));
            println!(
                "{:>4} s  {:>3} connections  {rate:>6.0}/s",
                self.world.now.since(START).as_secs(),
                self.connections()
            );
        }
        seen
    }
}

#[test]
fn a_host_that_is_slow_with_each_recipient_has_all_twenty_in_half_a_minute() {
    let mut host = Host::new(usize::MAX, usize::MAX);
    let seen = host.watch(12, Duration::from_secs(5));
    assert_eq!(seen[0].0, 1, "it is measured first");
    assert_eq!(seen[5].0, MAX as usize, "{seen:?}");
    assert!(seen[7..].iter().all(|(_, rate)| *rate > 3500.0), "{seen:?}");
}

/// A single message is a quarter of the octets of a part of a post, and a hundredth of its time: octets a second fall when
/// the singles are through.
#[test]
fn single_messages_beside_a_post_are_not_taken_for_a_gain() {
    let mut host = Host::new(usize::MAX, usize::MAX);
    let mut seen = Vec::new();
    for round in 0..300 {
        // Ten in a second, for five seconds in each ten.
        if round % 100 < 50 {
            host.world.arrive_from(Flow(7), "smtp/a", 1, 4096);
        }
        host.work(Duration::from_millis(100));
        seen.push(host.connections());
    }
    let first = |count: usize| seen.iter().position(|connections| *connections >= count);
    assert!(first(MAX as usize).is_some_and(|round| round <= 250), "{seen:?}");
    let most = seen.iter().scan(0, |most, one| Some(std::mem::replace(most, (*most).max(*one))));
    let falls = seen.iter().zip(most).filter(|(one, most)| **one + 1 < *most).count();
    assert_eq!(falls, 0, "{seen:?}");
}

#[test]
fn a_host_that_is_the_limit_as_a_whole_stays_at_one() {
    let mut host = Host::new(1, usize::MAX);
    let seen = host.watch(60, Duration::from_secs(5));
    assert_eq!(host.most, 2, "{seen:?}");
    let more = seen.iter().filter(|(connections, _)| *connections > 1).count();
    assert!(more <= 6, "{seen:?}");
}

#[test]
fn a_host_that_works_on_five_at_a_time_comes_to_five() {
    let mut host = Host::new(5, usize::MAX);
    let seen = host.watch(12, Duration::from_secs(5));
    assert!(seen[6..].iter().all(|(connections, rate)| (4..=6).contains(connections) && *rate > 750.0), "{seen:?}");
    assert!(host.most <= 8, "twice as many as were worth it at most: {}", host.most);
}

#[test]
fn a_host_that_refuses_the_ninth_is_left_at_eight_and_asked_for_more_now_and_then() {
    let mut host = Host::new(usize::MAX, 8);
    let seen = host.watch(48, Duration::from_secs(5));
    assert!(seen[10..].iter().all(|(connections, _)| (7..=9).contains(connections)), "{seen:?}");
    assert!(host.refused <= 24, "{} refusals in four minutes", host.refused);
}

#[test]
fn a_host_that_comes_back_is_met_with_one_connection() {
    let mut host = Host::new(usize::MAX, usize::MAX);
    host.watch(8, Duration::from_secs(5));
    assert_eq!(host.connections(), MAX as usize);
    host.welcome = 0;
    for lease in host.world.agents.keys().copied().collect::<Vec<_>>() {
        host.lines.remove(&lease);
        host.world.release(lease, Release::Failed(reply(0, "connection reset")));
    }
    host.most = 0;
    host.watch(20, Duration::from_secs(5));
    assert_eq!(host.most, 1, "while it is down");
    (host.welcome, host.most) = (usize::MAX, 0);
    while host.served_over(Duration::from_millis(100)) == 0 {}
    assert!(host.most <= 2, "{} at once", host.most);
    // It has refused some while others worked, so that the next are tried one by one.
    let seen = host.watch(10, Duration::from_secs(5));
    assert!(seen.windows(2).all(|two| two[0].0 <= two[1].0 && two[1].0 <= two[0].0 + 1), "{seen:?}");
    assert!(seen.last().unwrap().0 > 4, "{seen:?}");
}

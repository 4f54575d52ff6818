//! What the hub owes to the sites that it sends to, seen from outside the scheduler: from what is handed to agents, from
//! connections, and from what reaches the far sides and is answered. What must hold of each site, in threads of one
//! channel and clause:
//!
//! - of no rate more goes out in any period than 1.1 times the amount, and the item whose turn it is; of a warm-up not
//!   more than the day's number, whatever crashes ([`Meter`]);
//! - a site that has said that it wants less gets nothing for as long as was documented, longer each time in a row;
//! - a site that has failed is left alone as long, and then one connection finds out whether it is up;
//! - connections begin with `initial_agents`, and each that delivers allows one more.
//!
//! An operator who wants a site tried ends its rest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use zrelay_agent::{Judgement, LeaseId, Ticket, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, Config, Rates, WarmUp};
use zrelay_scheduler::snapshot::{State, Used};
use zrelay_scheduler::{MEMORY, Unit};
use zrelay_spool::{BatchId, ThreadKey};

use crate::meter::Meter;
use crate::site::Site;

/// Words in which the sites of a simulation say that they want less mail.
pub(crate) const TOO_MUCH: &str = "too much mail";

/// Times are counted in microseconds.
const ROUNDING: Duration = Duration::from_micros(2);

/// Threads that go the same way: a channel, the position of a clause, and the number of a site; no site where there is
/// none, then a thread is alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Way {
    channel: Arc<str>,
    clause: usize,
    to: To,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum To {
    Site(usize),
    Host(Arc<str>),
}

/// A connection that is being made, or stands.
#[derive(Clone, Copy, Debug)]
struct Open {
    since: Timestamp,
    /// The site has said something about mail on it, and whether it has taken any.
    word: bool,
    delivered: bool,
}

/// How a site is to be dealt with.
#[derive(Debug, Default)]
struct Rest {
    open: BTreeMap<LeaseId, Open>,
    /// Times in a row that it wanted less mail at least, and until when it gets none, at least and at most.
    refusals: u32,
    suspended: (Timestamp, Timestamp),
    /// Failures in a row at least, when the last was, and until when nothing is tried at least.
    failures: u32,
    failed: Timestamp,
    down: Timestamp,
    /// Until when it may be left alone without having failed here.
    given_up: Timestamp,
    /// The last failure that may have counted, or not.
    doubtful: Timestamp,
    /// Connections that have delivered, all reports of deliveries, and whether the site has ever refused anything.
    connections: u32,
    deliveries: u32,
    refused: bool,
}

/// Where something is counted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Place {
    Way(Way),
    Clause(usize),
}

#[derive(Clone, Debug)]
struct Lease {
    way: Way,
    takes_over: bool,
    since: Timestamp,
}

/// A batch that an agent has: messages that were counted for it, those that were answered, and octets of each.
#[derive(Clone, Copy, Debug)]
struct Carried {
    counted: u64,
    answered: u64,
    size: u64,
}

/// Recipients by source and day.
type Days = HashMap<(IpAddr, u64), u64>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Manners {
    clauses: Vec<Arc<Clause>>,
    sources: Vec<WarmUp>,
    /// Recipients that each site takes in a message.
    recipients_max: Vec<u32>,
    leases: HashMap<LeaseId, Lease>,
    carried: HashMap<BatchId, Carried>,
    rests: HashMap<Way, Rest>,
    handed: HashMap<(Place, u8), Meter>,
    arrived: HashMap<(Place, u8), Meter>,
    days: Days,
    /// As the hub last wrote them down.
    kept: Days,
}

impl Manners {
    pub(crate) fn new(config: &Config, sites: &[Site]) -> Self {
        Self {
            clauses: config.clauses.clone(),
            sources: config.sources.clone(),
            recipients_max: sites.iter().map(|site| site.recipients_max).collect(),
            leases: HashMap::default(),
            carried: HashMap::default(),
            rests: HashMap::default(),
            handed: HashMap::default(),
            arrived: HashMap::default(),
            days: HashMap::default(),
            kept: HashMap::default(),
        }
    }

    /// The way of a thread under this clause.
    pub(crate) fn way(&self, thread: &ThreadKey, clause: &Arc<Clause>, site: Option<usize>) -> Way {
        let clause = self.clauses.iter().position(|known| Arc::ptr_eq(known, clause));
        let to = site.map_or_else(|| To::Host(thread.host.clone()), To::Site);
        Way { channel: thread.channel.clone(), clause: clause.expect("a clause of the configuration"), to }
    }

    fn rates(&self, place: &Place) -> Rates {
        match place {
            Place::Way(way) => self.clauses[way.clause].ring_rates,
            Place::Clause(clause) => self.clauses[*clause].clause_rates,
        }
    }

    pub(crate) fn leased(&mut self, now: Timestamp, lease: LeaseId, way: Way, takes_over: Option<LeaseId>) {
        if let Some(old) = takes_over.and_then(|old| self.leases.remove(&old).map(|lease| (old, lease))) {
            let rest = self.rests.entry(old.1.way).or_default();
            if let Some(open) = rest.open.remove(&old.0) {
                self.rests.entry(way.clone()).or_default().open.insert(lease, open);
            }
        }
        self.leases.insert(lease, Lease { way, takes_over: takes_over.is_some(), since: now });
    }

    /// A lease has ended; `failed`: its host cannot be worked with, and counts as failed, if nothing else of it works.
    pub(crate) fn released(&mut self, now: Timestamp, lease: LeaseId, failed: bool) {
        let Some(Lease { way, .. }) = self.leases.remove(&lease) else { return };
        let clause = self.clauses[way.clause].clone();
        let Some(rest) = self.rests.get_mut(&way) else { return };
        let Some(open) = rest.open.remove(&lease) else { return };
        rest.refused |= failed;
        let others_work = rest.open.values().any(|open| open.word);
        if !failed && !open.word {
            // It may have been given up for saying nothing: that counts as a failure as well.
            rest.given_up = now + longest(&clause);
        }
        // What was begun before a failure that counts is part of it.
        if !failed || others_work || (rest.failures > 0 && open.since < rest.failed) {
            return;
        }
        if now < rest.given_up || now < rest.suspended.1 || open.since < rest.doubtful {
            rest.doubtful = now;
            return;
        }
        rest.failures += 1;
        rest.failed = now;
        rest.down = now + shortest(&clause, rest.failures);
    }

    /// A connection to a site is begun.
    pub(crate) fn connects(&mut self, now: Timestamp, lease: LeaseId) {
        let Some(Lease { way, takes_over, since }) = self.leases.get(&lease).cloned() else { return };
        let clause = self.clauses[way.clause].clone();
        let rest = self.rests.entry(way.clone()).or_default();
        if takes_over {
            // The connection that was to be taken over has ended meanwhile: what was known of it is believed of this one.
            rest.open.entry(lease).or_insert(Open { since: now, word: true, delivered: false });
            return;
        }
        // Threads that knew of a failure may have ended and been forgotten, and others come that learn only now where they go.
        if rest.open.is_empty() && now > rest.failed + longest(&clause) + MEMORY {
            rest.failures = 0;
        }
        rest.open.insert(lease, Open { since: now, word: false, delivered: false });
        assert!(now >= rest.suspended.0, "{way:?} wanted less mail, and is connected to");
        if rest.failures > 0 {
            assert!(now >= rest.down, "{way:?} has failed {} times in a row, and is connected to", rest.failures);
            let probes = rest.open.values().filter(|open| open.since >= rest.failed).count();
            assert!(probes <= 1, "{way:?} has failed, and is tried with {probes} connections");
        }
        let (open, initial) = (rest.open.len(), clause.initial_agents);
        // What is remembered of a site is remembered for all clauses of a channel.
        let same = |other: &&Way| other.channel == way.channel && other.to == way.to;
        let allowed = |rest: &Rest| rest.connections + if rest.refused { rest.deliveries } else { 0 };
        if open > (initial + allowed(rest)) as usize {
            let rests = self.rests.iter().filter(|(other, _)| same(other));
            let most = initial + rests.map(|(_, rest)| allowed(rest)).sum::<u32>();
            assert!(open <= most as usize, "{way:?} has {open} connections, and {most} at most");
        }
        let delay = now.since(since);
        for place in [Place::Way(way.clone()), Place::Clause(way.clause)] {
            self.arrives_at(now, &place, Unit::Connections, 1, delay);
        }
    }

    /// A batch is handed to an agent.
    pub(crate) fn carried(&mut self, now: Timestamp, lease: LeaseId, ticket: &Ticket) {
        let Some(Lease { way, .. }) = self.leases.get(&lease).cloned() else { return };
        let clause = self.clauses[way.clause].clone();
        if let Some(rest) = self.rests.get(&way) {
            assert!(now >= rest.suspended.0, "{way:?} wanted less mail, and gets more");
        }
        let recipients = ticket.recipients.len() as u64;
        let messages = recipients.div_ceil(u64::from(clause.recipients));
        self.carried.insert(ticket.id, Carried { counted: messages, answered: 0, size: ticket.size });
        for place in [Place::Way(way.clone()), Place::Clause(way.clause)] {
            self.goes_to(now, &place, Unit::Messages, messages);
            self.goes_to(now, &place, Unit::Recipients, recipients);
            self.goes_to(now, &place, Unit::Bytes, messages * ticket.size);
        }
        let plan = self.sources.iter().find(|plan| Some(plan.address) == clause.source);
        if let Some(plan) = plan {
            assert!(now >= plan.start, "{} is used before its time", plan.address);
            let count = self.days.entry((plan.address, now.day())).or_default();
            *count += recipients;
            let number = (now.day() - plan.start.day()) as usize;
            let limit = plan.days.get(number).map_or(u64::MAX, |limit| u64::from(*limit));
            assert!(*count <= limit, "{count} recipients from {} on day {number}, of {limit}", plan.address);
        }
    }

    /// A far side takes a message that was handed out up to `delay` ago.
    pub(crate) fn arrives(&mut self, now: Timestamp, way: &Way, recipients: u64, octets: u64, delay: Duration) {
        for place in [Place::Way(way.clone()), Place::Clause(way.clause)] {
            self.arrives_at(now, &place, Unit::Messages, 1, delay);
            self.arrives_at(now, &place, Unit::Recipients, recipients, delay);
            self.arrives_at(now, &place, Unit::Bytes, octets, delay);
        }
    }

    /// Messages that a host may make of what counts as one.
    fn pieces(&self, place: &Place) -> u64 {
        let most = match place {
            Place::Way(Way { to: To::Site(site), .. }) => self.recipients_max[*site],
            Place::Way(_) => u32::MAX,
            Place::Clause(_) => self.recipients_max.iter().copied().min().unwrap_or(u32::MAX),
        };
        let clause = match place {
            Place::Way(way) => way.clause,
            Place::Clause(clause) => *clause,
        };
        u64::from(self.clauses[clause].recipients.div_ceil(most))
    }

    fn goes_to(&mut self, now: Timestamp, place: &Place, unit: Unit, units: u64) {
        let Some(rate) = of_unit(&self.rates(place), unit) else { return };
        let meter = self.handed.entry((place.clone(), unit as u8)).or_insert_with(|| Meter::new(rate));
        meter.goes(now, units, &format!("{} to {place:?}", unit.name()));
    }

    fn arrives_at(&mut self, now: Timestamp, place: &Place, unit: Unit, units: u64, delay: Duration) {
        let Some(rate) = of_unit(&self.rates(place), unit) else { return };
        let item = self.handed.get(&(place.clone(), unit as u8)).map_or(units, |meter| meter.largest);
        // Where a host takes fewer recipients in a message, what is known to go beyond the rate is known from its answers.
        let unpaid = match (unit, self.pieces(place)) {
            (Unit::Connections | Unit::Recipients, _) | (_, 1) => item,
            (_, pieces) => pieces * (rate.amount / 10 + item + 1),
        };
        let meter = self.arrived.entry((place.clone(), unit as u8)).or_insert_with(|| Meter::new(rate));
        meter.arrives(now, units, unpaid, delay, &format!("{} to {place:?}", unit.name()));
    }

    /// An agent tells what its site said.
    pub(crate) fn settled(&mut self, now: Timestamp, lease: LeaseId, batch: BatchId, verdicts: &[Verdict]) {
        let Some(Lease { way, .. }) = self.leases.get(&lease).cloned() else { return };
        self.answered(now, &way, batch, verdicts);
        let clause = self.clauses[way.clause].clone();
        let rest = self.rests.entry(way.clone()).or_default();
        let delivered = verdicts.iter().any(|verdict| matches!(verdict.judgement, Judgement::Delivered { .. }));
        if delivered || verdicts.iter().any(|verdict| verdict.diagnostic.code != 0) {
            rest.failures = 0;
            if let Some(open) = rest.open.get_mut(&lease) {
                open.word = true;
            }
        }
        if delivered {
            rest.deliveries += 1;
            if now >= rest.suspended.0 {
                rest.refusals = 0;
            }
            if let Some(open) = rest.open.get_mut(&lease)
                && !std::mem::replace(&mut open.delivered, true)
            {
                rest.connections += 1;
            }
        }
        let refuses = |verdict: &Verdict| verdict.diagnostic.code < 500 && verdict.diagnostic.text.contains(TOO_MUCH);
        if verdicts.iter().any(refuses) {
            rest.refused = true;
            // What is said while it may still be suspended may count or not.
            if now >= rest.suspended.1 {
                rest.refusals += 1;
                rest.suspended.0 = now + shortest(&clause, rest.refusals);
            }
            rest.suspended.1 = rest.suspended.1.max(now + longest(&clause));
        }
    }

    /// What is known to have gone beyond what was counted is counted now.
    fn answered(&mut self, now: Timestamp, way: &Way, batch: BatchId, verdicts: &[Verdict]) {
        let of_message = |verdict: &Verdict| {
            let command = verdict.diagnostic.command.as_str();
            matches!(verdict.judgement, Judgement::Delivered { .. }) || matches!(command, "end of DATA" | "BDAT")
        };
        let Some(carried) = self.carried.get_mut(&batch).filter(|_| verdicts.iter().any(of_message)) else { return };
        carried.answered += 1;
        let Carried { counted, answered, size } = *carried;
        if answered <= counted {
            return;
        }
        for place in [Place::Way(way.clone()), Place::Clause(way.clause)] {
            for (unit, units) in [(Unit::Messages, 1), (Unit::Bytes, size)] {
                if let Some(meter) = self.handed.get_mut(&(place.clone(), unit as u8)) {
                    meter.pays(now, units);
                }
            }
        }
    }

    /// An operator wants the sites of these threads tried now.
    pub(crate) fn woken(&mut self, channel: &str, site: usize) {
        for (way, rest) in &mut self.rests {
            if &*way.channel == channel && way.to == To::Site(site) {
                (rest.suspended.0, rest.down, rest.refusals) = (Timestamp::ZERO, Timestamp::ZERO, 0);
            }
        }
    }

    /// What a thread is said to wait for is there.
    pub(crate) fn check(&self, now: Timestamp, way: &Way, state: State) {
        match state {
            State::Rate(until, used) => {
                assert!(until > now, "{way:?} waits for a time that is over");
                assert!(self.is_used_up(now, way, used), "{way:?} waits since {used}, and it is not so");
            }
            State::Suspended(until) => {
                assert!(until > now, "{way:?} is suspended until a time that is over");
                let most = now + longest(&self.clauses[way.clause]);
                assert!(until <= most, "{way:?} is suspended for {:?}", until.since(now));
            }
            _ => {}
        }
    }

    fn is_used_up(&self, now: Timestamp, way: &Way, used: Used) -> bool {
        let place = match used.place {
            "site" => Place::Way(way.clone()),
            "clause" => Place::Clause(way.clause),
            _ => {
                let clause = &self.clauses[way.clause];
                let Some(plan) = self.sources.iter().find(|plan| Some(plan.address) == clause.source) else {
                    return false;
                };
                let number = now.day().checked_sub(plan.start.day());
                let limit = number.map_or(0, |number| plan.days.get(number as usize).copied().unwrap_or(u32::MAX));
                return self.days.get(&(plan.address, now.day())).copied().unwrap_or(0) >= u64::from(limit);
            }
        };
        // Connections are counted here when they are made, and there when they are wanted.
        used.unit == Unit::Connections
            || self.handed.get(&(place, used.unit as u8)).is_some_and(|meter| meter.is_used_up(now))
    }

    /// The hub writes down what it has learned.
    pub(crate) fn keep(&mut self) {
        self.kept = self.days.clone();
    }

    /// The hub starts again, and knows of what is written down only.
    pub(crate) fn crashed(&mut self) {
        self.leases.clear();
        self.carried.clear();
        self.handed.clear();
        self.arrived.clear();
        self.days.clone_from(&self.kept);
        for rest in self.rests.values_mut() {
            let Rest { connections, deliveries, refused, .. } = *rest;
            *rest = Rest { connections, deliveries, refused, ..Rest::default() };
        }
    }
}

fn of_unit(rates: &Rates, unit: Unit) -> Option<zrelay_config::Rate> {
    match unit {
        Unit::Connections => rates.connections,
        Unit::Messages => rates.messages,
        Unit::Recipients => rates.recipients,
        Unit::Bytes => rates.bytes,
    }
}

/// The shortest wait behind so many refusals in a row, as the scheduler's documentation has it.
fn shortest(clause: &Clause, times: u32) -> Duration {
    let units = clause.retries.get(times as usize - 1).or_else(|| clause.retries.last()).copied().unwrap_or(1);
    (clause.interval * units).mul_f64(1.0 - clause.jitter).saturating_sub(ROUNDING)
}

/// The longest wait of all.
fn longest(clause: &Clause) -> Duration {
    (clause.interval * clause.retries.iter().copied().max().unwrap_or(1)).mul_f64(1.0 + clause.jitter) + ROUNDING
}

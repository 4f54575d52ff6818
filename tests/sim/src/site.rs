//! The far sides: hosts with tempers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashSet;
use zrelay_clock::Timestamp;

use crate::chance::Dice;

/// What a site offers in EHLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offers {
    Everything,
    Pipelining,
    Nothing,
}

/// What is wrong with a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Temper {
    /// Nothing.
    Good,
    /// Every recipient takes this long.
    Slow(Duration),
    /// Nobody answers.
    Dead,
    /// Connections are refused.
    Refusing,
    /// There for one period, gone for the next.
    Flapping(Duration),
    /// So many messages in a minute, 450 4.7.1 behind that; and 421 behind twice as many.
    RateLimiting(u32),
    /// 450 for every recipient at the first try.
    Greylisting,
    /// Connections break, some with messages taken and not answered.
    Breaking,
    /// Says more than it is asked, or nothing any more.
    Odd,
    /// No such domain.
    Unknown,
}

/// Whether one can connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    Open,
    /// A reset.
    Shut,
    /// Silence.
    Silent,
}

/// How much went to a site, and how fast.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SitePace {
    /// Its name.
    pub site: String,
    /// What is wrong with it.
    pub temper: String,
    /// Recipients that it took.
    pub recipients: u64,
    /// In so many transactions.
    pub transactions: u64,
    /// Over so many connections.
    pub connections: u32,
    /// At a time at most.
    pub most: u32,
    /// How long it was busy with one transaction at least, from MAIL on its way to the final reply at the hub.
    pub busy: Duration,
}

impl SitePace {
    /// Recipients a second while it was busy.
    pub fn rate(&self) -> f64 {
        self.recipients as f64 / self.busy.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl fmt::Display for SitePace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, temper, recipients, transactions, connections, most, busy } = self;
        let (seconds, rate) = (busy.as_secs_f64(), if *recipients == 0 { 0.0 } else { self.rate() });
        write!(
            f,
            "{site:<18} {temper:<20} {recipients:>10} {transactions:>12} {connections:>11} {most:>5} {seconds:>10.0} {rate:>12.1}"
        )
    }
}

/// A set of hosts with one administrator.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: Arc<str>,
    pub(crate) temper: Temper,
    pub(crate) offers: Offers,
    pub(crate) encrypts: bool,
    /// Whether it knows `MT-PRIORITY` (RFC 6710) and `BY` (RFC 2852).
    pub(crate) knows_urgency: bool,
    pub(crate) rtt: Duration,
    /// Connections at a time; more are greeted with 421.
    pub(crate) connections_max: u32,
    connections: u32,
    pace: SitePace,
    /// Until when it was busy with what it took so far.
    busy_until: Timestamp,
    /// Recipients in a transaction; more are answered 452.
    pub(crate) recipients_max: u32,
    /// Messages in this minute.
    minute: (u64, u32),
    seen: HashSet<u32>,
}

impl Site {
    pub(crate) fn new(number: u32, temper: Temper, dice: &mut Dice) -> Self {
        let offers = match dice.below(10) {
            0 => Offers::Nothing,
            1..=3 => Offers::Pipelining,
            _ => Offers::Everything,
        };
        Self {
            name: format!("mx.s{number}.example").into(),
            temper,
            offers,
            encrypts: dice.below(3) > 0,
            knows_urgency: dice.below(2) == 0,
            rtt: dice.between(Duration::from_millis(1), Duration::from_millis(250)),
            connections_max: if dice.in_thousand(100) { 2 } else { 50 },
            connections: 0,
            pace: SitePace::default(),
            busy_until: Timestamp::ZERO,
            recipients_max: if dice.in_thousand(200) { 5 } else { 1000 },
            minute: (0, 0),
            seen: HashSet::default(),
        }
    }

    /// One connection more.
    pub(crate) fn enter(&mut self) {
        self.connections += 1;
        self.pace.connections += 1;
        self.pace.most = self.pace.most.max(self.connections);
    }

    /// One connection less.
    pub(crate) fn leave(&mut self) {
        self.connections -= 1;
    }

    /// Whether it has more connections than it wants.
    pub(crate) fn is_crowded(&self) -> bool {
        self.connections > self.connections_max
    }

    /// So many recipients were taken in a transaction from `begun` to `end`; the way there and back counts as well.
    pub(crate) fn takes(&mut self, recipients: usize, begun: Timestamp, end: Timestamp) {
        let end = end + self.rtt;
        self.pace.busy += end.since(begun.max(self.busy_until));
        self.busy_until = self.busy_until.max(end);
        self.pace.transactions += 1;
        self.pace.recipients += recipients as u64;
    }

    /// What it was like to the hub.
    pub(crate) fn report(&self) -> SitePace {
        SitePace { site: self.name.to_string(), temper: format!("{:?}", self.temper), ..self.pace.clone() }
    }

    pub(crate) fn door(&self, now: Timestamp) -> Door {
        match self.temper {
            Temper::Dead => Door::Silent,
            Temper::Refusing => Door::Shut,
            Temper::Flapping(period) => {
                let periods = now.as_micros() / u64::try_from(period.as_micros()).unwrap_or(u64::MAX).max(1);
                if periods.is_multiple_of(2) { Door::Open } else { Door::Shut }
            }
            _ => Door::Open,
        }
    }

    /// Messages that came in this minute, with this one.
    pub(crate) fn count(&mut self, now: Timestamp) -> u32 {
        let minute = now.as_secs() / 60;
        if self.minute.0 != minute {
            self.minute = (minute, 0);
        }
        self.minute.1 += 1;
        self.minute.1
    }

    /// Whether this recipient was seen before.
    pub(crate) fn has_seen(&mut self, recipient: u32) -> bool {
        !self.seen.insert(recipient)
    }
}

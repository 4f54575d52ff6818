//! The far sides: hosts with tempers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

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
    pub(crate) connections: u32,
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
            recipients_max: if dice.in_thousand(200) { 5 } else { 1000 },
            minute: (0, 0),
            seen: HashSet::new(),
        }
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

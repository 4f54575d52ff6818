//! Limits on how much goes out in a time: rates, and the days of a warm-up. A limiter knows when it opens again, so that
//! nobody has to ask.
//!
//! A rate is the generic cell rate algorithm (ITU-T I.371): it knows the time at which all that was taken would be paid
//! for at the even rate, and opens when that is no farther ahead than what may be saved up, a tenth of the period. So it
//! lets through no more than 1.1 times the amount in any period, and one unit more. What is larger than all that may be
//! saved goes as a whole, and is paid for afterwards.

use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::{Rate, WarmUp};

/// The part of a period's amount that can be saved up.
const SAVED: u128 = 10;

/// What is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Connections begun.
    Connections,
    /// Messages.
    Messages,
    /// Recipients.
    Recipients,
    /// Octets of messages.
    Bytes,
}

impl Unit {
    /// The word for many of them.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Messages => "messages",
            Self::Recipients => "recipients",
            Self::Bytes => "bytes",
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    pub(crate) unit: Unit,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Rate {
        rate: Rate,
        /// When everything taken is paid for, nanoseconds since the epoch.
        paid: u128,
    },
    Days {
        plan: WarmUp,
        /// The day of the count.
        day: u64,
        count: u64,
    },
}

/// What a limiter allows, for the tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowance {
    /// So much in so long.
    Rate(Rate),
    /// So much today.
    Day(u64),
}

impl Limiter {
    pub(crate) fn rate(unit: Unit, rate: Rate) -> Self {
        Self { unit, kind: Kind::Rate { rate, paid: 0 } }
    }

    /// Recipients per day; of the day `day`, `count` are used up.
    pub(crate) fn days(plan: WarmUp, day: u64, count: u64) -> Self {
        Self { unit: Unit::Recipients, kind: Kind::Days { plan, day, count } }
    }

    /// What it allows now.
    pub(crate) fn allowance(&self, now: Timestamp) -> Allowance {
        match &self.kind {
            Kind::Rate { rate, .. } => Allowance::Rate(*rate),
            Kind::Days { plan, .. } => Allowance::Day(of_day(plan, now.day()).unwrap_or(u64::MAX)),
        }
    }

    /// The day and its count, if it counts days.
    pub(crate) fn day(&self) -> Option<(u64, u64)> {
        match self.kind {
            Kind::Days { day, count, .. } => Some((day, count)),
            Kind::Rate { .. } => None,
        }
    }

    /// When something may go; not later than now means at once.
    pub(crate) fn opens(&self, now: Timestamp) -> Timestamp {
        match &self.kind {
            Kind::Rate { rate, paid } => {
                let opens = paid.saturating_sub(saved(*rate)).div_ceil(1000);
                Timestamp::from_micros(u64::try_from(opens).unwrap_or(u64::MAX))
            }
            Kind::Days { plan, .. } if now < plan.start => plan.start,
            Kind::Days { .. } if self.room(now) == 0 => Timestamp::from_day(now.day() + 1),
            Kind::Days { .. } => now,
        }
    }

    /// Units that may go now; at least 1 when it is open.
    pub(crate) fn room(&self, now: Timestamp) -> u64 {
        match &self.kind {
            Kind::Rate { rate, paid } => {
                let ahead = paid.saturating_sub(nanos(now));
                let Some(left) = saved(*rate).checked_sub(ahead) else { return 0 };
                let units = left.saturating_mul(u128::from(rate.amount)) / rate.period.as_nanos().max(1);
                u64::try_from(units).unwrap_or(u64::MAX).saturating_add(1)
            }
            Kind::Days { plan, .. } if now < plan.start => 0,
            Kind::Days { plan, day, count } => {
                let used = if *day == now.day() { *count } else { 0 };
                of_day(plan, now.day()).map_or(u64::MAX, |limit| limit.saturating_sub(used))
            }
        }
    }

    /// So many went.
    pub(crate) fn take(&mut self, now: Timestamp, units: u64) {
        match &mut self.kind {
            Kind::Rate { rate, paid } => {
                let cost = rate.period.as_nanos().saturating_mul(u128::from(units)) / u128::from(rate.amount.max(1));
                *paid = (*paid).max(nanos(now)).saturating_add(cost);
            }
            Kind::Days { day, count, .. } => {
                if *day != now.day() {
                    (*day, *count) = (now.day(), 0);
                }
                *count = count.saturating_add(units);
            }
        }
    }
}

/// The limit of a day; `None` behind the last one.
fn of_day(plan: &WarmUp, day: u64) -> Option<u64> {
    let number = day.saturating_sub(plan.start.day());
    plan.days.get(usize::try_from(number).unwrap_or(usize::MAX)).map(|limit| u64::from(*limit))
}

fn nanos(at: Timestamp) -> u128 {
    u128::from(at.as_micros()) * 1000
}

fn saved(rate: Rate) -> u128 {
    let period: Duration = rate.period;
    period.as_nanos() / SAVED
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_000_000);

    fn limiter(text: &str) -> Limiter {
        Limiter::rate(Unit::Messages, text.parse().unwrap())
    }

    #[test]
    fn a_rate_is_spread_evenly_and_a_tenth_of_it_can_be_saved_up() {
        let mut limiter = limiter("100/h");
        let mut now = START;
        let mut went = Vec::new();
        for _ in 0..20 {
            now = now.max(limiter.opens(now));
            limiter.take(now, 1);
            went.push(now.since(START).as_secs());
        }
        assert_eq!(went[..11], [0; 11], "a tenth, and the one whose turn it is");
        assert_eq!(went[11..15], [36, 72, 108, 144]);
    }

    #[test]
    fn what_is_larger_than_the_rate_goes_and_is_paid_for() {
        let mut limiter = limiter("10/s");
        assert!(limiter.opens(START) <= START);
        limiter.take(START, 100);
        assert_eq!(limiter.opens(START), START + Duration::from_millis(9_900));
        assert_eq!(limiter.room(START), 0);
    }

    #[test]
    fn days_grow_and_are_over_at_midnight() {
        let start = Timestamp::from_date("2026-11-22").unwrap();
        let plan = WarmUp { address: [192, 0, 2, 1].into(), start, days: vec![50, 100] };
        let mut limiter = Limiter::days(plan.clone(), 0, 0);
        let before = Timestamp::from_micros(start.as_micros() - 1);
        assert_eq!((limiter.opens(before), limiter.room(before)), (start, 0));
        limiter.take(start, 49);
        assert_eq!(limiter.room(start), 1);
        limiter.take(start, 1);
        let tomorrow = Timestamp::from_day(start.day() + 1);
        assert_eq!(limiter.opens(start), tomorrow);
        assert_eq!((limiter.opens(tomorrow), limiter.room(tomorrow)), (tomorrow, 100));
        let later = Timestamp::from_day(start.day() + 2);
        assert_eq!(limiter.room(later), u64::MAX, "the warm-up is over");
        let again = Limiter::days(plan, start.day(), 50);
        assert_eq!(again.opens(start), tomorrow, "a restart does not begin the day anew");
    }

    proptest! {
        #[test]
        fn no_period_sees_more_than_the_amount_what_was_saved_and_one(
            amount in 1u64..1000,
            period in 0usize..3,
            waits in prop::collection::vec(0u64..5_000_000, 1..300),
        ) {
            let rate: Rate = format!("{amount}/{}", ["s", "m", "h"][period]).parse().unwrap();
            let mut limiter = Limiter::rate(Unit::Messages, rate);
            let (mut now, mut went) = (START, Vec::new());
            for wait in waits {
                now = (now + Duration::from_micros(wait)).max(limiter.opens(now));
                let units = limiter.room(now).min(1 + wait % 7);
                prop_assert!(units > 0, "open, and no room");
                limiter.take(now, units);
                went.push((now, units));
            }
            for (at, (from, _)) in went.iter().enumerate() {
                let within = went[at..].iter().take_while(|(then, _)| then.since(*from) < rate.period);
                let sum: u64 = within.map(|(_, units)| units).sum();
                prop_assert!(sum <= amount + amount / 10 + 2, "{sum} in one period of {amount}");
            }
        }
    }
}

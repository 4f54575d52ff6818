//! What went out in a time, counted beside the scheduler.

use std::collections::VecDeque;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::Rate;

/// Counts one unit at one place against its rate.
///
/// It says what [the scheduler](zrelay_scheduler) promises in another way than the scheduler does: of every period it adds
/// up what went out in it.
#[derive(Debug)]
pub(crate) struct Meter {
    rate: Rate,
    /// What went, when, and how long before that it was handed out at most.
    went: VecDeque<(Timestamp, u64, Duration)>,
    sum: u64,
    /// The largest item so far.
    pub(crate) largest: u64,
    /// A bucket that leaks at the rate, for the question whether it is used up.
    level: f64,
    at: Timestamp,
}

impl Meter {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, went: VecDeque::new(), sum: 0, largest: 0, level: 0.0, at: Timestamp::ZERO }
    }

    /// So many units go out as one item.
    ///
    /// # Panics
    /// When too many have gone out in the period that ends now: more than 1.1 times the amount before this item.
    pub(crate) fn goes(&mut self, now: Timestamp, units: u64, what: &str) {
        let before = self.forget(now);
        let most = self.rate.amount + self.rate.amount / 10 + 1;
        assert!(before <= most, "{what}: {before} and {units} more in one period of {}", self.rate);
        self.largest = self.largest.max(units);
        self.pays(now, units);
    }

    /// So many units more went out than were known to.
    pub(crate) fn pays(&mut self, now: Timestamp, units: u64) {
        self.forget(now);
        self.level = self.level_at(now) + units as f64;
        self.at = now;
        self.add(now, units, Duration::ZERO);
    }

    /// So many units arrive that were handed out up to `delay` ago, of which `unpaid` may be on their way
    /// unaccounted for.
    ///
    /// # Panics
    /// When more have arrived than can have been handed out in a period and the longest delay.
    pub(crate) fn arrives(&mut self, now: Timestamp, units: u64, unpaid: u64, delay: Duration, what: &str) {
        self.forget(now);
        self.add(now, units, delay);
        let longest = self.went.iter().map(|(_, _, delay)| *delay).max().unwrap_or_default();
        let periods = 1.1 + longest.as_secs_f64() / self.rate.period.as_secs_f64();
        let most = self.rate.amount as f64 * periods + unpaid as f64 + 1.0;
        let sum = self.sum;
        assert!(sum as f64 <= most, "{what}: {sum} arrive in one period of {}, {longest:?} behind", self.rate);
    }

    /// Whether nothing may go, as far as this is concerned.
    pub(crate) fn is_used_up(&self, now: Timestamp) -> bool {
        // Half a unit is more than any rounding.
        self.level_at(now) + 0.5 > self.rate.amount as f64 / 10.0
    }

    fn level_at(&self, now: Timestamp) -> f64 {
        let gone = now.since(self.at).as_secs_f64() / self.rate.period.as_secs_f64() * self.rate.amount as f64;
        (self.level - gone).max(0.0)
    }

    fn forget(&mut self, now: Timestamp) -> u64 {
        while let Some((at, units, _)) = self.went.front().copied()
            && at + self.rate.period <= now
        {
            self.went.pop_front();
            self.sum -= units;
        }
        self.sum
    }

    fn add(&mut self, now: Timestamp, units: u64, delay: Duration) {
        self.went.push_back((now, units, delay));
        self.sum += units;
    }
}

//! How much a connection holds: what may be sent and not answered, by measurement.
//!
//! Two things bound what is useful in flight. The network takes a congestion window per round trip, and in slow start
//! twice as much in the next. The receiver answers so many messages per second, and what it and the path can have in
//! hand is that rate times the round trip. More than either only waits in queues, and is sent twice when the connection
//! dies.
//!
//! ```text
//!   start     window = 2 · congestion window                     until the answers come no faster for three rounds
//!   steady    window = the same, at most 2 · rate of answers · round trip
//!   always    floor ≤ window ≤ the clause's limit
//! ```
//!
//! The factor is room to find out: a receiver or a path that becomes faster is seen to be, and what one lost segment
//! holds back is a round trip's worth. Rates are counted over rounds of one round trip; the best of the last rounds
//! counts, and rounds without enough work to fill the window say nothing, unless they were better.

use std::time::Duration;

use zrelay_clock::Timestamp;

/// Headroom over what was measured.
const HEADROOM: u64 = 2;

/// Octets below which the window never closes: a fresh connection's first three rounds (10, 20 and 40 segments) fit.
const OCTETS_MIN: u64 = 128 * 1024;

/// Messages below which the window never closes, for the same reason.
const MESSAGES_MIN: u32 = 64;

/// Octets that a message takes with its envelope at the least, by which a window in octets is made one in messages.
const MESSAGE_OCTETS_MIN: u64 = 512;

/// Rounds whose best counts.
const ROUNDS: usize = 10;

/// Rounds without a better rate after which the start is over.
const ROUNDS_FLAT: u8 = 3;

/// Shortest round: below it the rate is noise.
const ROUND_MIN: Duration = Duration::from_millis(10);

/// Samples per round.
const SAMPLES: u32 = 4;

/// What may be written and not sent, in time of the path: longer than the loop is ever away.
const UNSENT_PER_SECOND: u64 = 40;

/// Bounds of what may be written and not sent, octets: some segments for the slowest path, and no more memory than
/// that for the fastest.
const UNSENT_OCTETS: std::ops::RangeInclusive<u64> = 64 * 1024..=1024 * 1024;

/// What the clause allows in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    pub(crate) messages: u32,
    pub(crate) octets: u64,
}

/// What may be in flight now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    /// Transactions sent and not answered.
    pub(crate) messages: u32,
    /// Octets of their messages.
    pub(crate) octets: u64,
    /// Octets written and not sent.
    pub(crate) unsent: u64,
}

/// Whether the window was what held the connection back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Load {
    /// There was more to send.
    Full,
    /// There was not.
    Slack,
}

/// One look at the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    /// Round trip of the path, without queues as far as that is known.
    pub(crate) rtt: Duration,
    /// The kernel's congestion window, octets.
    pub(crate) congestion: u64,
    /// The kernel's delivery rate, octets per second.
    pub(crate) rate: u64,
    /// Messages answered since the connection began.
    pub(crate) messages: u64,
    /// Their octets.
    pub(crate) octets: u64,
    pub(crate) load: Load,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The rate still grows; `flat` rounds it did not.
    Start {
        flat: u8,
    },
    Steady,
}

/// Answers per second in one round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Rate {
    messages: u64,
    octets: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pipe {
    limits: Limits,
    phase: Phase,
    /// What the start compares with.
    reached: Rate,
    rounds: [Rate; ROUNDS],
    next_round: usize,
    /// The sample that began the round.
    begun: Option<Sample>,
    load: Load,
    last: Option<Sample>,
}

impl Pipe {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Start { flat: 0 },
            reached: Rate::default(),
            rounds: [Rate::default(); ROUNDS],
            next_round: 0,
            begun: None,
            load: Load::Full,
            last: None,
        }
    }

    /// Another clause speaks from here on.
    pub(crate) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether it is time for another sample.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.last.is_none_or(|last| now.since(last.at) >= round(last.rtt) / SAMPLES)
    }

    /// Takes a look into account.
    pub(crate) fn sample(&mut self, sample: Sample) {
        self.last = Some(sample);
        if sample.load == Load::Slack {
            self.load = Load::Slack;
        }
        let Some(begun) = self.begun else {
            self.begun = Some(sample);
            return;
        };
        let elapsed = sample.at.since(begun.at);
        if elapsed < round(sample.rtt) {
            return;
        }
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        let per_second = |count: u64| count.saturating_mul(1_000_000) / micros;
        let rate = Rate {
            messages: per_second(sample.messages.saturating_sub(begun.messages)),
            octets: per_second(sample.octets.saturating_sub(begun.octets)),
        };
        self.begun = Some(sample);
        let load = std::mem::replace(&mut self.load, Load::Full);
        self.end_round(rate, load);
    }

    fn end_round(&mut self, rate: Rate, load: Load) {
        let best = self.best();
        let better = rate.messages > best.messages || rate.octets > best.octets;
        if load == Load::Slack && !better {
            return;
        }
        if let Some(slot) = self.rounds.get_mut(self.next_round) {
            *slot = rate;
        }
        self.next_round = (self.next_round + 1) % ROUNDS;
        let Phase::Start { flat } = self.phase else {
            return;
        };
        let grows = rate.messages > self.reached.messages / 4 * 5 || rate.octets > self.reached.octets / 4 * 5;
        // Before the first answer nothing can be said of the rate.
        let silent = self.reached == Rate::default();
        self.phase = match () {
            () if grows || silent => Phase::Start { flat: 0 },
            () if flat + 1 < ROUNDS_FLAT => Phase::Start { flat: flat + 1 },
            () => Phase::Steady,
        };
        if grows {
            self.reached = rate;
        }
    }

    fn best(&self) -> Rate {
        self.rounds.iter().fold(Rate::default(), |best, round| Rate {
            messages: best.messages.max(round.messages),
            octets: best.octets.max(round.octets),
        })
    }

    /// What may be in flight now.
    pub(crate) fn room(&self) -> Room {
        let (mut octets, mut messages, mut unsent) = (0, 0, 0);
        if let Some(last) = self.last {
            octets = last.congestion.saturating_mul(HEADROOM);
            messages = octets / MESSAGE_OCTETS_MIN;
            unsent = last.rate / UNSENT_PER_SECOND;
            if self.phase == Phase::Steady {
                let micros = u64::try_from(last.rtt.as_micros()).unwrap_or(u64::MAX);
                let in_hand = |rate: u64| rate.saturating_mul(micros) / 1_000_000;
                let best = self.best();
                octets = octets.min(in_hand(best.octets).saturating_mul(HEADROOM));
                messages = messages.min(in_hand(best.messages).saturating_mul(HEADROOM));
            }
        }
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        Room {
            messages: messages.max(MESSAGES_MIN).min(self.limits.messages).max(1),
            octets: octets.max(OCTETS_MIN).min(self.limits.octets).max(1),
            unsent: unsent.clamp(*UNSENT_OCTETS.start(), *UNSENT_OCTETS.end()),
        }
    }

    /// The kernel's delivery rate as of the last sample, octets per second.
    pub(crate) fn delivery_rate(&self) -> u64 {
        self.last.map_or(0, |last| last.rate)
    }
}

fn round(rtt: Duration) -> Duration {
    rtt.max(ROUND_MIN)
}

#[cfg(test)]
mod tests;

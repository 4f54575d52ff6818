//! How long a far side takes for a message and for a recipient, found out from when its replies come.
//!
//! Replies come in **bursts**: a server that pipelines writes them when its buffer is full, or when it has to wait for us;
//! a long path hands over what was sent in one round trip in one piece. So a burst is one observation: the time that it was
//! waited for, and how many replies to messages and to recipients it brought. Both times are what fits the observations
//! best, by least squares that forget. Where all bursts are alike, fifty recipients and a message say, only their sum is
//! known; then both stay near what was known before, and the engine makes one transaction in four twice as large, so that
//! bursts do differ.
//!
//! Time in which nothing was owed does not count, nor does the round trip behind it. Where the path lost something, commands
//! or replies, a burst comes late whatever the far side is like: it can show that the far side is faster than was known,
//! and not that it is slower. Otherwise each loss would make the agent ask for less, until less than the path takes is under
//! way. A path that is slow without that does count, since whoever comes next waits for it as well.

use std::ops::RangeInclusive;
use std::time::Duration;

use zrelay_agent::{Measured, Pace, Work, portion};

/// Silence that ends a burst.
pub(crate) const BURST_GAP: Duration = Duration::from_millis(2);

/// Longest burst: replies that come steadily are cut into such pieces.
const BURST_TIME: Duration = Duration::from_millis(100);

/// What is left of the weight of an observation with each further one: the last twenty count.
const MEMORY: f64 = 0.95;

/// The same when an observation is half or twice what was expected, and off by more than [`SURPRISE`]: the far side has
/// changed, and what it was does not help.
const MEMORY_SURPRISED: f64 = 0.1;

/// Seconds.
const SURPRISE: f64 = 0.05;

/// How much what was known before counts beside the observations, relative to them. The message's time is the stiffer one:
/// where it is open what took so long, it is presumed to be the recipients, since to be wrong about that costs less.
const INERTIA: Times = Times { message: 0.05, recipient: 0.005 };

/// Replies to recipients behind which the pace is known.
const RECIPIENTS_KNOWN: u64 = 16;

/// Time waited for replies behind which it is, if there was one.
const TIME_KNOWN: Duration = Duration::from_millis(250);

/// A round trip for which the first flight should be as large as the path may take at once; for shorter ones less does, since
/// the first replies come sooner than it could be written.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(20);

/// What may be in hand before the first reply: on a long path the recipients of a transaction, which is two flights of a
/// fresh connection; on a short one what every server takes at a time (RFC 5321 §4.5.3.1.8).
const PRESUMED_RECIPIENTS: RangeInclusive<f64> = 100.0..=1000.0;

/// The same in messages.
const PRESUMED_MESSAGES: RangeInclusive<f64> = 16.0..=64.0;

/// What is presumed of the times before the first burst.
const PRESUMED: Times = Times { message: 0.010, recipient: 0.001 };

/// What belongs to a message and to a recipient; seconds that the far side takes, mostly.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Times {
    message: f64,
    recipient: f64,
}

/// Sums over observations of `time = messages · a + recipients · b`.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    messages_squared: f64,
    both: f64,
    recipients_squared: f64,
    messages_time: f64,
    recipients_time: f64,
}

/// Replies that came together, and how long they were waited for.
#[derive(Clone, Copy, Debug, Default)]
struct Burst {
    waited: Duration,
    /// From its first reply to its last.
    lasted: Duration,
    messages: u64,
    recipients: u64,
    path: Path,
}

/// What the path did while a reply was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Path {
    /// Nothing out of the ordinary.
    #[default]
    Smooth,
    /// It lost something, one way or the other.
    Lossy,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Service {
    sums: Sums,
    burst: Burst,
    /// As of the last burst that is over, and as of now.
    settled: Times,
    times: Times,
    answered: Work,
    waited: Duration,
    portion: u32,
    /// Messages behind which the portion may grow again: those begun before it grew last say nothing of it.
    grows_behind: u64,
}

impl Service {
    pub(crate) fn new() -> Self {
        Self {
            sums: Sums::default(),
            burst: Burst::default(),
            settled: PRESUMED,
            times: PRESUMED,
            answered: Work::default(),
            waited: Duration::ZERO,
            portion: u32::MAX,
            grows_behind: 0,
        }
    }

    /// Replies came that were waited for so long. `under_way` is the number of transactions begun and not answered.
    pub(crate) fn heard(&mut self, waited: Duration, path: Path, answers: Work, under_way: u64, round_trip: Duration) {
        if waited >= BURST_GAP || self.burst.lasted >= BURST_TIME {
            self.end_burst();
        } else {
            self.burst.lasted += waited;
        }
        if path == Path::Lossy {
            self.burst.path = path;
        }
        self.burst.waited += waited;
        self.burst.messages += answers.messages;
        self.burst.recipients += answers.recipients;
        self.answered.add(answers);
        self.waited += waited;
        let sums = self.sums.with(&self.burst.as_observed(self.settled));
        self.times = sums.solve(self.settled);
        if self.is_known() {
            self.size_portion(&sums, under_way, round_trip);
        }
    }

    /// What is known of the burst so far becomes an observation, if it brought anything.
    fn end_burst(&mut self) {
        if self.burst.messages + self.burst.recipients == 0 {
            return;
        }
        let burst = std::mem::take(&mut self.burst).as_observed(self.settled);
        let expected = burst.expected(self.settled);
        let waited = burst.waited.as_secs_f64();
        let off = (waited - expected).abs();
        let surprises = off > SURPRISE && off > waited.max(expected) / 2.0;
        self.sums = self.sums.fade(if surprises { MEMORY_SURPRISED } else { MEMORY }).with(&burst);
        self.settled = self.sums.solve(self.settled);
    }

    fn is_known(&self) -> bool {
        let any = self.answered.recipients > 0;
        any && (self.answered.recipients >= RECIPIENTS_KNOWN || self.waited >= TIME_KNOWN)
    }

    fn size_portion(&mut self, sums: &Sums, under_way: u64, round_trip: Duration) {
        let wanted = portion(self.message_time(), self.recipient_time(), round_trip);
        // If messages take no time at all: recipients take no longer than that.
        let surely = portion(Duration::ZERO, sums.recipient_at_most(), round_trip);
        if wanted <= self.portion.max(surely) {
            self.portion = wanted;
        } else if self.answered.messages >= self.grows_behind {
            // Beyond what was seen it is a guess: by steps, each of which is looked at.
            self.portion = wanted.min(self.portion.saturating_mul(2).max(surely));
            self.grows_behind = self.answered.messages + under_way + 1;
        }
    }

    fn message_time(&self) -> Duration {
        Duration::from_secs_f64(self.times.message)
    }

    fn recipient_time(&self) -> Duration {
        Duration::from_secs_f64(self.times.recipient)
    }

    /// Recipients for a transaction.
    pub(crate) fn portion(&self) -> u32 {
        self.portion
    }

    /// What the scheduler is to know.
    pub(crate) fn pace(&self, round_trip: Duration) -> Pace {
        if self.is_known() {
            let (message, recipient) = (self.message_time(), self.recipient_time());
            return Pace::Measured(Measured { message, recipient, round_trip, portion: self.portion });
        }
        let part = (round_trip.as_secs_f64() / LONG_ROUND_TRIP.as_secs_f64()).min(1.0);
        // A cast from a float saturates.
        let of = |range: RangeInclusive<f64>| (range.end() * part).clamp(*range.start(), *range.end()) as u64;
        Pace::Presumed(Work { messages: of(PRESUMED_MESSAGES), recipients: of(PRESUMED_RECIPIENTS) })
    }
}

impl Burst {
    /// What it should have taken, seconds.
    fn expected(&self, times: Times) -> f64 {
        times.message * self.messages as f64 + times.recipient * self.recipients as f64
    }

    /// What it says of a far side of which this much was known.
    fn as_observed(mut self, times: Times) -> Self {
        if self.path == Path::Lossy {
            self.waited = self.waited.min(Duration::from_secs_f64(self.expected(times)));
        }
        self
    }
}

impl Sums {
    fn with(&self, burst: &Burst) -> Self {
        let (messages, recipients) = (burst.messages as f64, burst.recipients as f64);
        let time = burst.waited.as_secs_f64();
        Self {
            messages_squared: self.messages_squared + messages * messages,
            both: self.both + messages * recipients,
            recipients_squared: self.recipients_squared + recipients * recipients,
            messages_time: self.messages_time + messages * time,
            recipients_time: self.recipients_time + recipients * time,
        }
    }

    fn fade(&self, part: f64) -> Self {
        Self {
            messages_squared: self.messages_squared * part,
            both: self.both * part,
            recipients_squared: self.recipients_squared * part,
            messages_time: self.messages_time * part,
            recipients_time: self.recipients_time * part,
        }
    }

    fn recipient_at_most(&self) -> Duration {
        if self.recipients_squared == 0.0 {
            return Duration::MAX;
        }
        Duration::from_secs_f64(self.recipients_time / self.recipients_squared)
    }

    /// The times that fit best, neither below none, and near those known before where the observations leave it open.
    fn solve(&self, before: Times) -> Times {
        let (by_message, by_recipient) =
            (self.messages_squared * INERTIA.message, self.recipients_squared * INERTIA.recipient);
        let (a, d) = (self.messages_squared + by_message, self.recipients_squared + by_recipient);
        let for_messages = self.messages_time + by_message * before.message;
        let for_recipients = self.recipients_time + by_recipient * before.recipient;
        if a == 0.0 || d == 0.0 {
            let message = if a > 0.0 { for_messages / a } else { before.message };
            let recipient = if d > 0.0 { for_recipients / d } else { before.recipient };
            return Times { message, recipient };
        }
        let determinant = a * d - self.both * self.both;
        let message = (for_messages * d - for_recipients * self.both) / determinant;
        let recipient = (for_recipients * a - for_messages * self.both) / determinant;
        match () {
            () if message < 0.0 => Times { message: 0.0, recipient: for_recipients / d },
            () if recipient < 0.0 => Times { message: for_messages / a, recipient: 0.0 },
            () => Times { message, recipient },
        }
    }
}

#[cfg(test)]
mod tests;

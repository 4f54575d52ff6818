//! Whether a thread's further connections are worth having.
//!
//! A host that is slow with each message takes more over two connections than over one; a path that is full does not, and
//! each connection is one more that can break with mail under way. Nobody can tell beforehand, so it is tried: with work
//! for all connections, what they finish in a span is measured, more are opened, and the same is measured again. Kept are
//! they when they brought at least half of what they would have brought at best, an even share each.
//!
//! ```text
//!            nearly all of an even share each
//!              ┌──────────┐
//!              ▼          │         less                 ┌─ worth it ─┐
//!   1 ──▶ twice as many ──┴──▶ as many as it was worth ──▼─▶ one more ─┴─ not ──▶ one fewer again, pause × 2
//!                                                        ▲                            │
//!                                                        └────── pause is over ───────┘
//! ```
//!
//! What is finished is counted in the time that the host takes for it over one connection, as it was known when the first
//! of the compared measurements began; in octets where it takes none to speak of, or where agents do not tell. Octets alone
//! would take it for a gain when single messages come between the parts of a post, and for a loss when they are through.
//!
//! It begins as TCP does: twice as many each time, as long as each of them brings nearly as much as those before. With
//! the first that does not, as many stay as what was finished is worth, and from then on it goes in single steps. A step
//! that was not worth it is taken back, and it takes a while until the next trial, twice as long each time. Between such
//! trials it is tried as well to do with one fewer, by the same measure. Connections that do not come about, since the
//! host or a limit is against them, end the trial.

use std::time::Duration;

use zrelay_agent::{Pace, Work};
use zrelay_clock::Timestamp;

/// Shortest measurement: some round trips of the longest path, and longer than a receiver's moods.
const SPAN: Duration = Duration::from_secs(3);
/// Batches that a measurement needs at least: below that, it is chance.
const BATCHES_MIN: u32 = 20;
/// The same for a measurement before and behind a step to twice as many. It is to tell twice as much from as much, which
/// takes less than to tell a twentieth.
const SPAN_DOUBLING: Duration = Duration::from_secs(2);
const BATCHES_MIN_DOUBLING: u32 = 10;
/// Part of an even share that a connection has to bring.
const WORTH: f64 = 0.5;
/// Part of an even share that is nearly all of it.
const NEARLY: f64 = 0.75;
/// Pause behind the first trial that failed.
const PAUSE: Duration = Duration::from_secs(60);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Part of what the path delivers above which it counts as full, and no connection is added.
const FULL: f64 = 0.9;
/// What a message to one recipient takes, at the least, at a host whose time is counted.
const TIME_MIN: Duration = Duration::from_micros(20);
/// How long connections that were to be opened are waited for, from when the last of them came.
const OPENING: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Gain {
    allowed: u32,
    growth: Growth,
    trial: Trial,
    measured: Option<Measured>,
    scale: Scale,
    rest_until: Timestamp,
    pause: Duration,
    /// The next trial is with one fewer.
    fewer_next: bool,
}

/// By what finished work is counted.
#[derive(Clone, Copy, Debug)]
enum Scale {
    Octets,
    /// Seconds that the host takes.
    Time(Pace),
}

/// What has come back from an agent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// What was finished of it.
    pub(crate) octets: u64,
    pub(crate) work: Work,
}

/// How large a step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Growth {
    Doubling,
    Single,
}

#[derive(Clone, Copy, Debug)]
enum Trial {
    None,
    /// More than the `from` that brought `before` a second.
    More {
        from: u32,
        before: f64,
        opened: Opened,
    },
    /// One fewer.
    Fewer {
        before: f64,
    },
}

/// The most connections of a trial that worked, and since when.
#[derive(Clone, Copy, Debug)]
struct Opened {
    working: u32,
    since: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Batches to pass over: what was begun before all connections were there says nothing of them.
    passed_over: u32,
    since: Timestamp,
    finished: f64,
    batches: u32,
}

/// What is to be done about the number of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Advice {
    Stay,
    /// More may be opened.
    More,
    /// Those beyond [`Gain::allowed`] are to be closed.
    Fewer,
}

/// How the connections of a thread are when one of them has finished a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Timestamp,
    /// Connections that work.
    pub(crate) working: u32,
    /// As many as the clause allows.
    pub(crate) max: u32,
    /// Whether there is more to do than they have in hand.
    pub(crate) backlog: bool,
    /// The highest link use among them, if it is known.
    pub(crate) link_use: Option<f64>,
    /// How long the host takes, if an agent tells.
    pub(crate) pace: Option<Pace>,
}

impl Default for Gain {
    fn default() -> Self {
        Self {
            allowed: 1,
            growth: Growth::Doubling,
            trial: Trial::None,
            measured: None,
            scale: Scale::Octets,
            rest_until: Timestamp::ZERO,
            pause: PAUSE,
            fewer_next: false,
        }
    }
}

impl Scale {
    /// Time where there is any to speak of: a host that takes none is not what holds the mail up.
    fn of(pace: Option<Pace>) -> Self {
        let takes_time = |pace: &Pace| pace.time(Work { messages: 1, recipients: 1 }) >= TIME_MIN;
        pace.filter(takes_time).map_or(Self::Octets, Self::Time)
    }

    fn count(self, done: Done) -> f64 {
        match self {
            Self::Octets => done.octets as f64,
            Self::Time(pace) => pace.time(done.work).as_secs_f64(),
        }
    }
}

impl Measured {
    fn from(now: Timestamp, connections: u32) -> Self {
        Self { passed_over: connections, since: now, finished: 0.0, batches: 0 }
    }

    /// A batch is finished.
    fn add(&mut self, now: Timestamp, finished: f64) {
        if self.passed_over > 0 {
            self.passed_over -= 1;
            self.since = now;
            return;
        }
        self.finished += finished;
        self.batches = self.batches.saturating_add(1);
    }

    /// What is finished in a second, once that is more than chance.
    fn rate(&self, now: Timestamp, growth: Growth) -> Option<f64> {
        let (span_min, batches_min) = match growth {
            Growth::Doubling => (SPAN_DOUBLING, BATCHES_MIN_DOUBLING),
            Growth::Single => (SPAN, BATCHES_MIN),
        };
        let span = now.since(self.since);
        (span >= span_min && self.batches >= batches_min).then(|| self.finished / span.as_secs_f64())
    }
}

impl Gain {
    /// Connections that have shown their worth, and those that are being tried.
    pub(crate) fn allowed(&self) -> u32 {
        self.allowed
    }

    /// A batch is finished, or a part of one.
    pub(crate) fn finished(&mut self, done: Done, moment: Moment) -> Advice {
        let Moment { now, working, max, backlog, .. } = moment;
        if max <= 1 {
            return Advice::Stay;
        }
        // Only what they do with all hands full, and with all hands, can be compared.
        if !backlog || working != self.allowed {
            self.measured = None;
            return self.wait_for_all(backlog, moment);
        }
        if self.measured.is_none() && matches!(self.trial, Trial::None) {
            if matches!(moment.pace, Some(Pace::Presumed(_))) {
                // It will be known in a moment.
                return Advice::Stay;
            }
            self.scale = Scale::of(moment.pace);
        }
        let measured = self.measured.get_or_insert_with(|| Measured::from(now, working));
        measured.add(now, self.scale.count(done));
        let Some(rate) = measured.rate(now, self.growth) else { return Advice::Stay };
        self.measured = None;
        self.judge(rate, moment)
    }

    /// Not all connections of a trial are there, or they have not enough to do.
    fn wait_for_all(&mut self, backlog: bool, moment: Moment) -> Advice {
        let Trial::More { opened, .. } = &mut self.trial else { return Advice::Stay };
        let Moment { now, working, .. } = moment;
        if !backlog || working > opened.working {
            *opened = Opened { working: working.max(opened.working), since: now };
            return Advice::Stay;
        }
        if working >= self.allowed || opened.since + OPENING > now {
            return Advice::Stay;
        }
        // Somebody does not want so many: those that are there are measured next, when the pause is over.
        self.allowed = working.max(1);
        self.trial = Trial::None;
        self.growth = Growth::Single;
        self.rest(now);
        Advice::Fewer
    }

    fn judge(&mut self, rate: f64, moment: Moment) -> Advice {
        match std::mem::replace(&mut self.trial, Trial::None) {
            Trial::None => self.begin(rate, moment),
            Trial::More { from, before, .. } => self.judge_more(from, rate / before, rate, moment),
            // `allowed` are one fewer than before.
            Trial::Fewer { before } if rate >= before * (1.0 - WORTH / f64::from(self.allowed.saturating_add(1))) => {
                self.pause = PAUSE;
                self.rest(moment.now);
                Advice::Stay
            }
            Trial::Fewer { .. } => {
                self.rest(moment.now);
                self.allowed = self.allowed.saturating_add(1).min(moment.max);
                Advice::More
            }
        }
    }

    /// Instead of `from` connections there are more, and they finish `ratio` times as much.
    fn judge_more(&mut self, from: u32, ratio: f64, rate: f64, moment: Moment) -> Advice {
        let added = self.allowed.saturating_sub(from).max(1);
        let share = (ratio - 1.0) * f64::from(from) / f64::from(added);
        if share >= NEARLY || (added == 1 && share >= WORTH) {
            self.growth = if share >= NEARLY { self.growth } else { Growth::Single };
            self.pause = PAUSE;
            return self.more(rate, moment);
        }
        self.growth = Growth::Single;
        if added == 1 {
            self.rest(moment.now);
            self.fewer_next = self.allowed > 2;
            self.allowed = from.max(1);
            return Advice::Fewer;
        }
        // As many as would have finished it at the even share; a cast from a float saturates.
        let worth = (f64::from(from) * ratio).round() as u32;
        self.allowed = worth.clamp(from, self.allowed);
        Advice::Fewer
    }

    fn begin(&mut self, rate: f64, moment: Moment) -> Advice {
        if moment.now < self.rest_until {
            return Advice::Stay;
        }
        if self.allowed > 1 && (self.fewer_next || self.allowed >= moment.max) {
            self.fewer_next = false;
            self.growth = Growth::Single;
            self.trial = Trial::Fewer { before: rate };
            self.allowed -= 1;
            return Advice::Fewer;
        }
        self.fewer_next = self.allowed > 1;
        self.more(rate, moment)
    }

    fn more(&mut self, rate: f64, moment: Moment) -> Advice {
        if self.allowed >= moment.max {
            self.rest(moment.now);
            return Advice::Stay;
        }
        if moment.link_use.is_some_and(|part| part >= FULL) {
            return Advice::Stay;
        }
        let step = match self.growth {
            Growth::Doubling => self.allowed,
            Growth::Single => 1,
        };
        let opened = Opened { working: self.allowed, since: moment.now };
        self.trial = Trial::More { from: self.allowed, before: rate, opened };
        self.allowed = self.allowed.saturating_add(step).min(moment.max);
        Advice::More
    }

    fn rest(&mut self, now: Timestamp) {
        self.rest_until = now + self.pause;
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_000_000);
    const MAX: u32 = 4;
    const LETTER: Done = Done { octets: 1000, work: Work { messages: 1, recipients: 1 } };

    /// Runs for `seconds` at a host that finishes `rate(connections)` messages of 1 kB a second. Says how many
    /// connections there were in each second.
    fn run(gain: &mut Gain, seconds: u64, link_use: Option<f64>, rate: impl Fn(u64, u32) -> u64) -> Vec<u32> {
        let mut seen = Vec::new();
        for second in 0..seconds {
            let working = gain.allowed();
            let count = rate(second, working).max(1);
            for message in 0..count {
                let now = START
                    + Duration::from_secs(second)
                    + Duration::from_secs(1) * u32::try_from(message).unwrap() / u32::try_from(count).unwrap();
                let working = gain.allowed();
                gain.finished(LETTER, Moment { now, working, max: MAX, backlog: true, link_use, pace: None });
            }
            seen.push(working);
        }
        seen
    }

    #[test]
    fn a_receiver_that_is_slow_with_each_message_gets_all_connections() {
        let mut gain = Gain::default();
        let seen = run(&mut gain, 60, None, |_, connections| 50 * u64::from(connections));
        assert_eq!(seen.last(), Some(&MAX), "{seen:?}");
        assert!(seen[..2].iter().all(|connections| *connections == 1), "it is measured first");
    }

    #[test]
    fn it_keeps_them_but_for_a_look_now_and_then_whether_fewer_would_do() {
        let mut gain = Gain::default();
        let seen = run(&mut gain, 4000, None, |_, connections| 50 * u64::from(connections));
        let fewer = seen[60..].iter().filter(|connections| **connections < MAX).count();
        assert!(fewer < 60, "{fewer} of {} seconds with fewer", seen.len());
    }

    #[test]
    fn a_full_path_stays_at_one_but_for_a_trial_now_and_then() {
        let mut gain = Gain::default();
        let seen = run(&mut gain, 4000, None, |_, _| 100);
        let more = seen.iter().filter(|connections| **connections > 1).count();
        assert!(seen.iter().all(|connections| *connections <= 2));
        assert!(more < 60, "{more} of {} seconds with a second connection", seen.len());
    }

    #[test]
    fn a_path_that_is_known_to_be_full_is_not_even_tried() {
        let mut gain = Gain::default();
        let seen = run(&mut gain, 1000, Some(0.97), |_, _| 100);
        assert!(seen.iter().all(|connections| *connections == 1));
    }

    #[test]
    fn connections_that_stop_being_worth_it_are_closed() {
        let mut gain = Gain::default();
        run(&mut gain, 60, None, |_, connections| 50 * u64::from(connections));
        assert_eq!(gain.allowed(), MAX);
        gain.rest_until = Timestamp::ZERO;
        gain.measured = None;
        let seen = run(&mut gain, 4000, None, |_, _| 200);
        assert_eq!(seen.last(), Some(&1), "{:?}", &seen[seen.len() - 20..]);
    }

    #[test]
    fn idle_moments_say_nothing() {
        let mut gain = Gain::default();
        for second in 0..1000 {
            let now = START + Duration::from_secs(second);
            let backlog = second % 3 > 0;
            let moment = Moment { now, working: 1, max: MAX, backlog, link_use: None, pace: None };
            assert_eq!(gain.finished(LETTER, moment), Advice::Stay);
        }
    }

    proptest! {
        #[test]
        fn noise_does_not_make_it_flap(seed: u64, noise in 0u64..25) {
            let mut gain = Gain::default();
            let mut state = seed | 1;
            let noisy: Vec<u64> = (0..4000).map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                100 - noise / 2 + state % (noise + 1)
            }).collect();
            let seen = run(&mut gain, 4000, None, |second, _| noisy[usize::try_from(second).unwrap()]);
            let changes = seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
            prop_assert!(changes <= 24, "{changes} changes in 4000 s");
            prop_assert!(seen.iter().all(|connections| *connections <= 2));
        }
    }
}

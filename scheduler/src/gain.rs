//! Whether a thread's further connections are worth having.
//!
//! A host that is slow with each message takes more over two connections than over one; a path that is full does not, and
//! each connection is one more that can break with mail under way. Nobody can tell beforehand, so it is tried: with work
//! for all connections, what they finish in a span is measured, one more is opened, and the same is measured again. Kept
//! it is when it brought at least half of what it would have brought at best, an even share. If not, it is closed, and
//! it takes a while until the next trial, twice as long each time. Between such trials it is tried as well to do with one
//! fewer, by the same measure.
//!
//! ```text
//!   steady ──pause is over──▶ one more: worth it ──▶ one more ... ──▶ steady
//!      ▲                        │ not worth it: one fewer again, pause × 2
//!      └──pause is over──▶ one fewer: enough ──▶ steady; missed: one more again, pause × 2
//! ```

use std::time::Duration;

use zrelay_clock::Timestamp;

/// Shortest measurement: some round trips of the longest path, and longer than a receiver's moods.
const SPAN: Duration = Duration::from_secs(3);
/// Batches that a measurement needs at least: below that, it is chance.
const BATCHES_MIN: u32 = 20;
/// Part of an even share that a connection has to bring.
const WORTH: f64 = 0.5;
/// Pause behind the first trial that failed.
const PAUSE: Duration = Duration::from_secs(60);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Part of what the path delivers above which it counts as full, and no connection is added.
const FULL: f64 = 0.9;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Gain {
    allowed: u32,
    trial: Trial,
    measured: Option<Measured>,
    rest_until: Timestamp,
    pause: Duration,
    /// The next trial is with one fewer.
    fewer_next: bool,
}

#[derive(Clone, Copy, Debug)]
enum Trial {
    None,
    /// One more than brought `before` octets a second.
    More {
        before: f64,
    },
    /// One fewer.
    Fewer {
        before: f64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    since: Timestamp,
    octets: u64,
    batches: u32,
}

/// What is to be done about the number of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Advice {
    Stay,
    /// One more may be opened.
    More,
    /// One is to be closed.
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
}

impl Default for Gain {
    fn default() -> Self {
        Self {
            allowed: 1,
            trial: Trial::None,
            measured: None,
            rest_until: Timestamp::ZERO,
            pause: PAUSE,
            fewer_next: false,
        }
    }
}

impl Gain {
    /// Connections that have shown their worth, and the one that is being tried.
    pub(crate) fn allowed(&self) -> u32 {
        self.allowed
    }

    /// A batch of so many octets is finished.
    pub(crate) fn finished(&mut self, octets: u64, moment: Moment) -> Advice {
        let Moment { now, working, max, backlog, .. } = moment;
        if max <= 1 {
            return Advice::Stay;
        }
        // Only what they do with all hands full, and with all hands, can be compared.
        if !backlog || working != self.allowed {
            self.measured = None;
            return Advice::Stay;
        }
        let measured = self.measured.get_or_insert(Measured { since: now, octets: 0, batches: 0 });
        measured.octets = measured.octets.saturating_add(octets);
        measured.batches = measured.batches.saturating_add(1);
        let span = now.since(measured.since);
        if span < SPAN || measured.batches < BATCHES_MIN {
            return Advice::Stay;
        }
        let rate = measured.octets as f64 / span.as_secs_f64();
        self.measured = None;
        self.judge(rate, moment)
    }

    fn judge(&mut self, rate: f64, moment: Moment) -> Advice {
        let others = f64::from(self.allowed.saturating_sub(1).max(1));
        match std::mem::replace(&mut self.trial, Trial::None) {
            Trial::None => self.begin(rate, moment),
            Trial::More { before } if rate >= before * (1.0 + WORTH / others) => {
                self.pause = PAUSE;
                self.more(rate, moment)
            }
            Trial::More { .. } => {
                self.rest(moment.now);
                self.fewer_next = self.allowed > 2;
                self.allowed = self.allowed.saturating_sub(1).max(1);
                Advice::Fewer
            }
            // `others` are one fewer than now, which is one fewer than before.
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

    fn begin(&mut self, rate: f64, moment: Moment) -> Advice {
        if moment.now < self.rest_until {
            return Advice::Stay;
        }
        if self.allowed > 1 && (self.fewer_next || self.allowed >= moment.max) {
            self.fewer_next = false;
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
        self.trial = Trial::More { before: rate };
        self.allowed += 1;
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
                gain.finished(1000, Moment { now, working, max: MAX, backlog: true, link_use });
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
        assert!(seen[..4].iter().all(|connections| *connections == 1), "it is measured first");
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
            let moment = Moment { now, working: 1, max: MAX, backlog: second % 3 > 0, link_use: None };
            assert_eq!(gain.finished(1_000_000, moment), Advice::Stay);
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

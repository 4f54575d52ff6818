//! What zrelay shall reach, and whether it does.

use std::ops::RangeInclusive;
use std::time::Duration;

use zrelay_lab::LinkSettings;

use crate::contenders::Contender;
use crate::outcome::Outcome;

/// What zrelay shall reach.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Goal {
    /// Recipients a second.
    Rate(f64),
    /// Share of the plain transfer's rate.
    OfPlain(f64),
    /// The same, of a plain transfer that begins so many round trips later: those that TLS takes.
    OfPlainLater(f64, u32),
    /// Times the rate of Postfix on one connection, and of Postfix as it is.
    OfPostfix(f64, f64),
    /// Where several connections are allowed: times the rate of one, and how many there are at the end.
    OfOne(f64, RangeInclusive<usize>),
    /// On a line that loses packets: part of the share of the plain transfer's rate that another work, the same without
    /// loss, reaches in this run.
    AsWithoutLoss(&'static str, f64),
    /// On a line that loses packets: no silence that TCP does not explain, one connection, and nothing wrong on it.
    Smooth,
}

/// What became of a goal.
pub(crate) struct Verdict {
    /// The goal in words.
    pub(crate) words: String,
    pub(crate) reached: f64,
    pub(crate) met: bool,
}

/// The outcomes of one work, and of all.
pub(crate) struct Rates<'a> {
    of_work: Vec<&'a Outcome>,
    all: &'a [Outcome],
}

impl<'a> Rates<'a> {
    /// Those of the work of this name.
    pub(crate) fn new(work: &str, all: &'a [Outcome]) -> Self {
        Self { of_work: all.iter().filter(|it| it.work.name == work).collect(), all }
    }

    pub(crate) fn of(&self, contender: Contender) -> Option<f64> {
        self.outcome(contender).map(Outcome::rate)
    }

    fn outcome(&self, contender: Contender) -> Option<&Outcome> {
        self.of_work.iter().find(|it| it.contender == contender).copied()
    }

    /// The share of the plain transfer's rate that zrelay reaches.
    fn share(&self) -> Option<f64> {
        Some(self.of(Contender::Zrelay)? / self.of(Contender::Plain)?)
    }
}

/// What became of a goal; nothing when it was not measured.
pub(crate) fn judge(goal: &Goal, outcome: &Outcome, rates: &Rates<'_>) -> Vec<Verdict> {
    let rate = outcome.rate();
    let at_least = |words: &str, least: f64, other: f64| {
        let reached = rate / other;
        Verdict { words: format!("at least {least} x {words}"), reached, met: reached >= least }
    };
    let ratio = |words: &str, least: f64, other: Contender| rates.of(other).map(|other| at_least(words, least, other));
    match goal {
        Goal::Rate(least) => {
            vec![Verdict { words: format!("at least {least:.0}/s"), reached: rate, met: rate >= *least }]
        }
        Goal::OfPlain(least) => ratio("plain TCP", *least, Contender::Plain).into_iter().collect(),
        Goal::OfPlainLater(least, flights) => {
            let Some(plain) = rates.outcome(Contender::Plain) else { return Vec::new() };
            let later = (outcome.work.line.round_trip() * *flights).as_secs_f64();
            let words = format!("plain TCP that begins {flights} round trip(s) later");
            vec![at_least(&words, *least, plain.recipients as f64 / (plain.seconds + later))]
        }
        Goal::OfPostfix(one, usual) => {
            let both = [
                ratio("Postfix on one connection", *one, Contender::PostfixOne),
                ratio("Postfix as it is", *usual, Contender::Postfix),
            ];
            both.into_iter().flatten().collect()
        }
        Goal::OfOne(least, connections) => {
            let used = outcome.connections_late;
            let words = format!("{} to {} connections at the end", connections.start(), connections.end());
            let count = Verdict { words, reached: used as f64, met: connections.contains(&used) };
            ratio("zrelay on one connection", *least, Contender::Zrelay).into_iter().chain([count]).collect()
        }
        Goal::AsWithoutLoss(other, part) => {
            let shares = rates.share().zip(Rates::new(other, rates.all).share());
            let verdict = |(share, without): (f64, f64)| {
                let reached = share / without;
                let words = format!("at least {part} x the share of plain TCP of {other}");
                Verdict { words, reached, met: reached >= *part }
            };
            shares.map(verdict).into_iter().collect()
        }
        Goal::Smooth => smooth(outcome),
    }
}

fn smooth(outcome: &Outcome) -> Vec<Verdict> {
    let bound = silence_max(&outcome.work.line).as_secs_f64();
    let silence = Verdict {
        words: format!("no silence above {bound:.2} s"),
        reached: outcome.silence(),
        met: outcome.silence() <= bound,
    };
    let errors = outcome.violations.len() + outcome.missing + outcome.doubled + outcome.foreign;
    let whole = Verdict {
        words: "no error, and one connection is enough".to_owned(),
        reached: errors as f64,
        met: errors == 0 && outcome.connections == 1,
    };
    vec![silence, whole]
}

/// What Linux adds to the round trip before it repeats what was not acknowledged (`TCP_RTO_MIN`).
const TIMEOUT_MARGIN: Duration = Duration::from_millis(200);

/// The longest silence that TCP explains: a segment is lost, its repetition a round trip later is lost, the next one that
/// comes with the timeout is lost as well, and the one behind twice the timeout arrives. With 1 % of loss that is one
/// segment in a hundred million. Behind its first round trip a connection takes the timeout for three times that.
fn silence_max(line: &LinkSettings) -> Duration {
    let timeout = (line.round_trip() + TIMEOUT_MARGIN).max(line.round_trip() * 3);
    line.round_trip() + timeout * 3
}

//! What came out, as a table and as JSON.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zrelay_lab::plain::Transfer;
use zrelay_lab::{Books, Final, Gap, LinkReport};
use zrelay_tests::{Mail, Usage};

use crate::contenders::Contender;
use crate::options::Options;
use crate::works::{Goal, Timed, Work};

/// Gaps that the JSON tells of.
const GAPS_TOLD: usize = 20;

/// One work by one contender.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) contender: Contender,
    pub(crate) work: Work,
    /// Recipients in the time that counts.
    recipients: usize,
    seconds: f64,
    /// Octets the client sent in all.
    pub(crate) octets_all: u64,
    connections: usize,
    /// Those on which the last third of the recipients were accepted.
    connections_late: usize,
    /// Recipients of messages that never came.
    missing: usize,
    /// Recipients that came more than once.
    doubled: usize,
    /// Recipients or contents that nobody sent.
    foreign: usize,
    violations: Vec<String>,
    /// Seconds in which the far side had nothing to do, up to the last final reply; sum over connections.
    idle: f64,
    /// Seconds in which the client waited for the far side.
    busy: f64,
    /// The longest.
    gaps: Vec<Gap>,
    /// Seconds since the first SYN, and octets that were there.
    pub(crate) curve: Vec<(f64, u64)>,
    usage: Option<Usage>,
    line: [LinkReport; 2],
}

impl Outcome {
    pub(crate) fn of_plain(work: &Work, transfer: &Transfer, line: [LinkReport; 2]) -> Self {
        let round_trip = work.line.round_trip();
        let begin = before(transfer.accepted, round_trip);
        let end = transfer.replied + round_trip / 2;
        let half = transfer.curve.reached(transfer.curve.total / 2).unwrap_or(begin);
        let (recipients, seconds) = match work.timed {
            Timed::All => (total(&work.mails(Contender::Plain)), (end - begin).as_secs_f64()),
            Timed::Second => (total(&work.mails(Contender::Plain)) / 2, (transfer.replied - half).as_secs_f64()),
            Timed::Last => {
                let third = transfer.curve.reached(transfer.curve.total / 3 * 2).unwrap_or(begin);
                (total(&work.mails(Contender::Plain)) / 3, (transfer.replied - third).as_secs_f64())
            }
        };
        Self {
            contender: Contender::Plain,
            work: work.clone(),
            recipients,
            seconds,
            octets_all: transfer.curve.total,
            connections: 1,
            connections_late: 1,
            missing: 0,
            doubled: 0,
            foreign: 0,
            violations: Vec::new(),
            idle: 0.0,
            busy: 0.0,
            gaps: Vec::new(),
            curve: since(begin, &transfer.curve.points),
            usage: None,
            line,
        }
    }

    pub(crate) fn of_relay(
        contender: Contender,
        work: &Work,
        mails: &[Mail],
        books: &Books,
        usage: Option<Usage>,
        line: [LinkReport; 2],
    ) -> Self {
        let round_trip = work.line.round_trip();
        let now = Instant::now();
        let opened = books.sessions.iter().map(|session| session.opened).min().unwrap_or(now);
        let begin = before(opened, round_trip);
        let last = |mark: Option<String>| {
            let finals = books.finals.iter().filter(|it| mark.as_ref().is_none_or(|mark| it.mark == *mark));
            finals.map(|it| it.at).max().unwrap_or(now)
        };
        let end = last(None);
        let mark = |index: usize| mails.get(index).map(|mail| mail.marked().mark);
        let (recipients, seconds) = match work.timed {
            Timed::All | Timed::Last => (total(mails), (end + round_trip / 2 - begin).as_secs_f64()),
            Timed::Second => {
                let ends = [last(mark(0)), last(mark(1))];
                let apart = ends[1].max(ends[0]) - ends[1].min(ends[0]);
                (total(mails) / 2, apart.as_secs_f64())
            }
        };
        let late = late(books);
        let (recipients, seconds) = match (work.timed, late.first()) {
            (Timed::Last, Some(first)) => {
                (late.iter().map(|it| it.recipients).sum(), (end - first.at).as_secs_f64())
            }
            _ => (recipients, seconds),
        };
        let connections_late = late.iter().map(|it| it.connection).collect::<HashSet<_>>().len();
        let [missing, doubled, foreign] = balance(mails, books);
        let mut gaps: Vec<Gap> = Vec::new();
        let (mut idle, mut busy) = (0.0, 0.0);
        for session in &books.sessions {
            let until = end.saturating_duration_since(session.opened);
            let counted = session.gaps.iter().filter(|gap| gap.at < until);
            idle += counted.clone().map(|gap| gap.length.as_secs_f64()).sum::<f64>();
            busy += session.busy.as_secs_f64();
            gaps.extend(counted.cloned());
        }
        gaps.sort_by_key(|gap| std::cmp::Reverse(gap.length));
        gaps.truncate(GAPS_TOLD);
        gaps.sort_by_key(|gap| gap.at);
        Self {
            contender,
            work: work.clone(),
            recipients,
            seconds,
            octets_all: books.octets(),
            connections: books.sessions.len(),
            connections_late,
            missing,
            doubled,
            foreign,
            violations: books.violations.clone(),
            idle,
            busy,
            gaps,
            curve: since(begin, &books.curve.points),
            usage,
            line,
        }
    }

    /// Recipients a second.
    pub(crate) fn rate(&self) -> f64 {
        self.recipients as f64 / self.seconds.max(1e-6)
    }

    /// Whether the work's goals are meant for it.
    fn is_judged(&self) -> bool {
        self.contender == if self.work.takes(Contender::Several) { Contender::Several } else { Contender::Zrelay }
    }

    /// Whether each recipient has got what was sent to it, once.
    pub(crate) fn is_exact(&self) -> bool {
        self.missing == 0 && self.doubled == 0 && self.foreign == 0
    }
}

/// When the client sent its SYN: the server's end of the handshake is through one and a half round trips later.
fn before(accepted: Instant, round_trip: Duration) -> Instant {
    accepted.checked_sub(round_trip * 3 / 2).unwrap_or(accepted)
}

fn since(begin: Instant, points: &[(Instant, u64)]) -> Vec<(f64, u64)> {
    points.iter().map(|(at, octets)| (at.saturating_duration_since(begin).as_secs_f64(), *octets)).collect()
}

/// The final replies to the last third of the recipients.
fn late(books: &Books) -> &[Final] {
    let mut left = books.deliveries.len() / 3;
    let mut finals = books.finals.iter().rposition(|it| {
        left = left.saturating_sub(it.recipients);
        left == 0
    });
    books.finals.get(finals.take().unwrap_or(0)..).unwrap_or_default()
}

fn total(mails: &[Mail]) -> usize {
    mails.iter().map(|mail| mail.recipients.len()).sum()
}

/// Recipients missing, doubled, foreign.
fn balance(mails: &[Mail], books: &Books) -> [usize; 3] {
    let mut expected: HashMap<(String, u64, &str), usize> = HashMap::new();
    for mail in mails {
        let marked = mail.marked();
        let entries = mail.recipients.iter().map(|it| ((marked.mark.clone(), hash(&mail.content), it.as_str()), 0));
        expected.extend(entries);
    }
    let mut foreign = 0;
    for delivery in &books.deliveries {
        match expected.get_mut(&(delivery.mark.clone(), delivery.hash, delivery.recipient.as_str())) {
            Some(count) => *count += 1,
            None => foreign += 1,
        }
    }
    let missing = expected.values().filter(|count| **count == 0).count();
    let doubled = expected.values().filter(|count| **count > 1).map(|count| count - 1).sum();
    [missing, doubled, foreign]
}

fn hash(content: &[u8]) -> u64 {
    zrelay_tests::Marked::find(content).map_or(0, |marked| marked.hash)
}

/// The rates of one work.
struct Rates<'a>(Vec<&'a Outcome>);

impl Rates<'_> {
    fn of(&self, contender: Contender) -> Option<f64> {
        self.0.iter().find(|it| it.contender == contender).map(|it| it.rate())
    }
}

/// A goal in words, what was reached, and whether that is enough; `None` when it was not measured.
fn judge(goal: &Goal, outcome: &Outcome, rates: &Rates<'_>) -> Vec<(String, f64, bool)> {
    let rate = outcome.rate();
    let ratio = |words: &str, least: f64, other: Contender| {
        let reached = rate / rates.of(other)?;
        Some((format!("at least {least} x {words}"), reached, reached >= least))
    };
    match goal {
        Goal::Rate(least) => vec![(format!("at least {least:.0}/s"), rate, rate >= *least)],
        Goal::OfPlain(least) => ratio("plain TCP", *least, Contender::Plain).into_iter().collect(),
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
            let mut verdicts: Vec<_> = ratio("zrelay on one connection", *least, Contender::Zrelay).into_iter().collect();
            verdicts.push((words, used as f64, connections.contains(&used)));
            verdicts
        }
    }
}

pub(crate) fn table(options: &Options, outcomes: &[Outcome]) -> String {
    let clause = if options.clause.is_empty() { "its defaults" } else { &options.clause };
    let mut text = format!("congestion control: {}; zrelay with {clause}\n\n", options.congestion);
    let header = format!(
        "{:<22} {:>7} {:>9} {:>9} {:>9} {:>9} {:>6} {:>5} {:>6} {:>7} {:>8}\n",
        "", "n", "seconds", "rate/s", "of plain", "x Postfix", "conns", "lost", "double", "idle s", "CPU us/n"
    );
    text.push_str(&header);
    for group in outcomes.chunk_by(|one, other| one.work.name == other.work.name) {
        let rates = Rates(group.iter().collect());
        let Some(first) = group.first() else { continue };
        let _infallible = writeln!(text, "{}", first.work.title(Contender::Zrelay));
        for outcome in group {
            let share = |other: Contender| {
                let other = rates.of(other).filter(|_| outcome.contender != other);
                other.map_or_else(|| "-".to_owned(), |other| format!("{:.2}", outcome.rate() / other))
            };
            let cpu = outcome.usage.map(|usage| usage.cpu.as_secs_f64() * 1e6 / outcome.recipients.max(1) as f64);
            let _infallible = writeln!(
                text,
                "  {:<20} {:>7} {:>9.3} {:>9} {:>9} {:>9} {:>6} {:>5} {:>6} {:>7.2} {:>8}",
                outcome.contender.name(),
                outcome.recipients,
                outcome.seconds,
                number(outcome.rate()),
                share(Contender::Plain),
                share(Contender::PostfixOne),
                outcome.connections,
                outcome.missing + outcome.foreign,
                outcome.doubled,
                outcome.idle,
                cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.0}")),
            );
            for violation in outcome.violations.iter().take(3) {
                let _infallible = writeln!(text, "    violation: {violation}");
            }
        }
        for outcome in group.iter().filter(|it| it.is_judged()) {
            for (words, reached, met) in outcome.work.goals.iter().flat_map(|goal| judge(goal, outcome, &rates)) {
                let verdict = if met { "met" } else { "MISSED" };
                let _infallible = writeln!(text, "    goal: {words}: {} {verdict}", number(reached));
            }
        }
    }
    let late: u64 = outcomes.iter().flat_map(|it| it.line).map(|line| line.late).sum();
    let packets: u64 = outcomes.iter().flat_map(|it| it.line).map(|line| line.packets).sum();
    let worst = outcomes.iter().flat_map(|it| it.line).map(|line| line.lateness_max).max().unwrap_or_default();
    let _infallible = writeln!(
        text,
        "\nlink: {late} of {packets} packets more than 2 ms late, at most {:.1} ms",
        worst.as_secs_f64() * 1e3
    );
    text
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

pub(crate) fn json(options: &Options, outcomes: &[Outcome], real: &[crate::real::Row]) -> Value {
    let rows = outcomes.iter().map(|outcome| {
        let same = outcomes.iter().filter(|it| it.work.name == outcome.work.name);
        let rates = Rates(same.collect());
        let share = |other: Contender| rates.of(other).map(|other| outcome.rate() / other);
        let goals = outcome.work.goals.iter().filter(|_| outcome.is_judged());
        let goals = goals.flat_map(|goal| judge(goal, outcome, &rates));
        let line = outcome.line.map(|line| {
            json!({
                "packets": line.packets,
                "octets": line.octets,
                "lost": line.lost,
                "dropped": line.dropped,
                "late": line.late,
                "lateness_max_milliseconds": line.lateness_max.as_secs_f64() * 1e3,
            })
        });
        json!({
            "work": outcome.work.name,
            "title": outcome.work.title(outcome.contender),
            "contender": outcome.contender.name(),
            "round_trip_milliseconds": outcome.work.line.round_trip().as_millis(),
            "bits_per_second": outcome.work.line.rate * 8,
            "queue_octets": outcome.work.line.queue,
            "loss": outcome.work.line.loss,
            "recipients": outcome.recipients,
            "seconds": outcome.seconds,
            "rate": outcome.rate(),
            "of_plain": share(Contender::Plain),
            "of_postfix_one_connection": share(Contender::PostfixOne),
            "of_postfix_default": share(Contender::Postfix),
            "octets": outcome.octets_all,
            "connections": outcome.connections,
            "connections_late": outcome.connections_late,
            "missing": outcome.missing,
            "doubled": outcome.doubled,
            "foreign": outcome.foreign,
            "violations": outcome.violations,
            "far_side_idle_seconds": outcome.idle,
            "far_side_busy_seconds": outcome.busy,
            "gaps": outcome.gaps.iter().map(|gap| json!({
                "at_seconds": gap.at.as_secs_f64(),
                "seconds": gap.length.as_secs_f64(),
                "after": gap.after,
            })).collect::<Vec<_>>(),
            "cpu_seconds": outcome.usage.map(|usage| usage.cpu.as_secs_f64()),
            "resident_peak_octets": outcome.usage.map(|usage| usage.resident_peak),
            "goals": goals.map(|(goal, reached, met)| json!({ "goal": goal, "reached": reached, "met": met }))
                .collect::<Vec<_>>(),
            "line_forth": line[0],
            "line_back": line[1],
            "octets_over_time": outcome.curve,
        })
    });
    json!({
        "congestion": options.congestion,
        "clause": options.clause,
        "outcomes": rows.collect::<Vec<_>>(),
        "into_real_servers": crate::real::json(real),
    })
}

//! What came of one work by one contender.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use zrelay_lab::plain::Transfer;
use zrelay_lab::{Books, Curve, Final, Gap, LinkReport};
use zrelay_tests::{Mail, Usage};

use crate::contenders::Contender;
use crate::works::{Timed, Work};

/// Gaps that the JSON tells of.
const GAPS_TOLD: usize = 20;

/// One work by one contender.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) contender: Contender,
    pub(crate) work: Work,
    /// Recipients in the time that counts.
    pub(crate) recipients: usize,
    pub(crate) seconds: f64,
    /// Octets the client sent in all.
    pub(crate) octets_all: u64,
    pub(crate) connections: usize,
    /// Those on which the last third of the recipients were accepted.
    pub(crate) connections_late: usize,
    /// Recipients of messages that never came.
    pub(crate) missing: usize,
    /// Recipients that came more than once.
    pub(crate) doubled: usize,
    /// Recipients or contents that nobody sent.
    pub(crate) foreign: usize,
    pub(crate) violations: Vec<String>,
    /// Seconds in which the far side had nothing to do, up to the last final reply; sum over connections.
    pub(crate) idle: f64,
    /// Seconds in which the client waited for the far side.
    pub(crate) busy: f64,
    /// The longest.
    pub(crate) gaps: Vec<Gap>,
    /// Round trips from the first SYN until the first BDAT or DATA left.
    pub(crate) flights: f64,
    /// Seconds of the shortest and the longest run, if there were several.
    pub(crate) spread: Option<[f64; 2]>,
    /// Seconds since the first SYN, and octets that were there.
    pub(crate) curve: Vec<(f64, u64)>,
    pub(crate) usage: Option<Usage>,
    pub(crate) line: [LinkReport; 2],
}

impl Outcome {
    pub(crate) fn of_plain(work: &Work, transfer: &Transfer, line: [LinkReport; 2]) -> Self {
        let round_trip = work.line.round_trip();
        let begin = before(transfer.accepted, round_trip);
        let end = transfer.replied + round_trip / 2;
        let all = total(&work.mails(Contender::Plain));
        let (recipients, from) = match work.timed {
            Timed::All => (all, begin),
            Timed::Behind => {
                let first = 1.0 / work.count(Contender::Plain) as f64;
                ((all as f64 * (1.0 - first)) as usize, part(&transfer.curve, first).unwrap_or(begin))
            }
            Timed::Last => (all / 3, part(&transfer.curve, 2.0 / 3.0).unwrap_or(begin)),
        };
        // With all of it, the reply's way back counts too.
        let until = if work.timed == Timed::All { end } else { transfer.replied };
        Self {
            contender: Contender::Plain,
            work: work.clone(),
            recipients,
            seconds: (until - from).as_secs_f64(),
            octets_all: transfer.curve.total,
            connections: 1,
            connections_late: 1,
            missing: 0,
            doubled: 0,
            foreign: 0,
            violations: Vec::new(),
            idle: 0.0,
            busy: 0.0,
            gaps: silences(transfer),
            flights: 1.0,
            spread: None,
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
        let end = books.finals.iter().map(|it| it.at).max().unwrap_or(now);
        let late = late(books);
        // The first by time: several connections inject them. One of many recipients has many final replies.
        let mark = books.finals.first().map(|it| &it.mark);
        let first = books.finals.iter().rfind(|it| Some(&it.mark) == mark);
        let others = total(mails.get(1..).unwrap_or_default());
        let (recipients, seconds) = match (work.timed, first, late.first()) {
            (Timed::Behind, Some(first), _) => (others, end - first.at),
            (Timed::Last, _, Some(first)) => (late.iter().map(|it| it.recipients).sum(), end - first.at),
            _ => (total(mails), end + round_trip / 2 - begin),
        };
        let connections_late = late.iter().map(|it| it.connection).collect::<HashSet<_>>().len();
        let text = books.sessions.iter().filter_map(|session| session.text).min().unwrap_or(begin);
        let flights = (text.saturating_duration_since(begin).as_secs_f64() / round_trip.as_secs_f64() - 0.5).max(0.0);
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
        Self {
            contender,
            work: work.clone(),
            recipients,
            seconds: seconds.as_secs_f64(),
            octets_all: books.octets(),
            connections: books.sessions.len(),
            connections_late,
            missing,
            doubled,
            foreign,
            violations: books.violations.clone(),
            idle,
            busy,
            gaps: longest(gaps),
            flights,
            spread: None,
            curve: since(begin, &books.curve.points),
            usage,
            line,
        }
    }

    /// Several runs as one: the one in the middle, with what went wrong in any of them.
    pub(crate) fn middle(mut runs: Vec<Self>) -> Option<Self> {
        runs.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        let mut middle = runs.get(runs.len() / 2)?.clone();
        if let [first, .., last] = &runs[..] {
            middle.spread = Some([first.seconds, last.seconds]);
        }
        let sum = |count: fn(&Self) -> usize| runs.iter().map(count).sum();
        middle.missing = sum(|run| run.missing);
        middle.doubled = sum(|run| run.doubled);
        middle.foreign = sum(|run| run.foreign);
        middle.violations = runs.iter().flat_map(|run| run.violations.clone()).collect();
        middle.connections = runs.iter().map(|run| run.connections).max()?;
        middle.gaps = longest(runs.iter().flat_map(|run| run.gaps.clone()).collect());
        Some(middle)
    }

    /// The longest silence, in seconds.
    pub(crate) fn silence(&self) -> f64 {
        self.gaps.iter().map(|gap| gap.length.as_secs_f64()).fold(0.0, f64::max)
    }

    /// Recipients a second.
    pub(crate) fn rate(&self) -> f64 {
        self.recipients as f64 / self.seconds.max(1e-6)
    }

    /// Whether the work's goals are meant for it.
    pub(crate) fn is_judged(&self) -> bool {
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

/// When this part of a transfer was there.
fn part(curve: &Curve, part: f64) -> Option<Instant> {
    curve.reached((curve.total as f64 * part) as u64)
}

/// The longest of them, in the order of time.
fn longest(mut gaps: Vec<Gap>) -> Vec<Gap> {
    gaps.sort_by_key(|gap| std::cmp::Reverse(gap.length));
    gaps.truncate(GAPS_TOLD);
    gaps.sort_by_key(|gap| gap.at);
    gaps
}

/// The times in which nothing of a transfer came.
fn silences(transfer: &Transfer) -> Vec<Gap> {
    let pairs = transfer.curve.points.windows(2).filter_map(|pair| match pair {
        [(from, _), (until, octets)] => Some(Gap {
            at: from.saturating_duration_since(transfer.accepted),
            length: *until - *from,
            after: format!("before octet {octets}"),
        }),
        _ => None,
    });
    longest(pairs.collect())
}

fn since(begin: Instant, points: &[(Instant, u64)]) -> Vec<(f64, u64)> {
    points.iter().map(|(at, octets)| (at.saturating_duration_since(begin).as_secs_f64(), *octets)).collect()
}

/// The final replies to the last third of the recipients.
fn late(books: &Books) -> &[Final] {
    let mut left = books.deliveries.len() / 3;
    let begin = books.finals.iter().rposition(|it| {
        left = left.saturating_sub(it.recipients);
        left == 0
    });
    books.finals.get(begin.unwrap_or(0)..).unwrap_or_default()
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

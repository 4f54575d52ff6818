//! The columns of each listing, and its rows as cells.

use serde::Deserialize;
use zrelay_scheduler::control::{HoldRow, Scope};
use zrelay_scheduler::snapshot::{
    AgeRow, ChannelRow, FlowRow, LeaseRow, MessageRow, ReplyRow, RingRow, ThreadDetail, ThreadRow, Usage,
};

use crate::print::{self, Column, Row, Tone, numbers, octets, seconds, words};

/// These columns, and behind them those of a [`Usage`].
fn with_usage<const N: usize>(own: [Column; N]) -> Vec<Column> {
    let usage = [
        numbers("threads"),
        numbers("batches"),
        numbers("recipients"),
        numbers("size"),
        numbers("agents"),
        numbers("idle"),
        numbers("waiting"),
    ];
    own.into_iter().chain(usage).collect()
}

/// These cells, and behind them those of `usage`.
fn and_usage<const N: usize>(own: [String; N], usage: Usage) -> Row {
    let cells = [
        usage.threads.to_string(),
        usage.load.batches.to_string(),
        usage.load.recipients.to_string(),
        octets(usage.load.bytes),
        format!("{}/{}", usage.agents, usage.agents_max),
        usage.idle.to_string(),
        usage.waiting.to_string(),
    ];
    own.into_iter().chain(cells).collect::<Vec<_>>().into()
}

pub(super) fn channel_columns() -> Vec<Column> {
    with_usage([words("channel")])
}

pub(super) fn channel(row: ChannelRow) -> Row {
    and_usage([row.channel], row.usage)
}

pub(super) fn ring_columns() -> Vec<Column> {
    with_usage([words("channel"), words("site"), words("clause")])
}

pub(super) fn ring(row: RingRow) -> Row {
    and_usage([row.channel, row.site, row.clause], row.usage)
}

pub(super) const THREADS: [Column; 16] = [
    words("thread"),
    words("state"),
    numbers("batches"),
    numbers("recipients"),
    numbers("oldest"),
    numbers("agents"),
    numbers("rtt"),
    numbers("in flight"),
    numbers("credit"),
    numbers("replies"),
    numbers("delivery rate"),
    numbers("use"),
    numbers("rcpt/s"),
    words("level"),
    numbers("next"),
    words("reason"),
];

pub(super) fn thread(row: ThreadRow) -> Row {
    let tone = Tone::of_state(&row.state);
    let cells = vec![
        row.thread,
        row.state,
        row.batches.to_string(),
        row.recipients.to_string(),
        row.oldest.map_or_else(|| "-".to_owned(), |age| seconds(age as f64)),
        format!("{}/{}", row.agents, row.agents_max),
        milliseconds(row.rtt),
        octets(row.bytes_in_flight),
        row.credit.to_string(),
        row.replies.to_string(),
        format!("{}/s", octets(row.delivery_rate)),
        percent(row.link_use),
        format!("{:.1}", row.recipient_rate),
        row.level,
        row.next_attempt_in.map_or_else(|| "-".to_owned(), |wait| seconds(wait as f64)),
        row.reason,
    ];
    Row { tone, cells }
}

const AGENTS: [Column; 17] = [
    numbers("lease"),
    words("state"),
    numbers("age"),
    words("peer"),
    words("link"),
    words("level"),
    numbers("rtt"),
    numbers("credit"),
    numbers("in flight"),
    numbers("replies"),
    numbers("bytes in flight"),
    numbers("window"),
    numbers("delivery rate"),
    numbers("use"),
    numbers("rcpt/s"),
    numbers("delivered"),
    numbers("sent"),
];

pub(super) const HOLDS: [Column; 4] = [words("hold"), words("scope"), words("since"), words("by")];

pub(super) fn hold(row: HoldRow) -> Row {
    let scope = match row.scope {
        Scope::Thread => "thread",
        Scope::Threads => "threads",
        Scope::Mail => "mail",
    };
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![row.hold, scope.to_owned(), row.since.unwrap_or_else(|| "-".to_owned()), or_dash(row.by)].into()
}

pub(super) const MESSAGES: [Column; 9] = [
    words("message"),
    words("thread"),
    words("state"),
    numbers("age"),
    numbers("size"),
    numbers("tries"),
    words("sender"),
    numbers("recipients"),
    words("recipient"),
];

pub(super) fn message(row: MessageRow) -> Row {
    let tone = Tone::of_state(&row.state);
    let cells = vec![
        row.message,
        row.thread,
        row.state,
        seconds(row.age as f64),
        octets(row.size),
        row.attempts.to_string(),
        row.sender,
        row.recipients.to_string(),
        row.recipient,
    ];
    Row { tone, cells }
}

fn milliseconds(rtt: Option<f64>) -> String {
    rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.1}ms", rtt * 1_000.0))
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{:.0}%", part * 100.0))
}

fn agent(lease: LeaseRow) -> Row {
    vec![
        lease.lease.to_string(),
        lease.state,
        seconds(lease.age as f64),
        lease.peer,
        lease.link,
        lease.level,
        milliseconds(lease.rtt),
        lease.credit.to_string(),
        lease.in_flight.to_string(),
        lease.replies.to_string(),
        octets(lease.bytes_in_flight),
        format!("{} {}", lease.window_messages, octets(lease.window_bytes)),
        format!("{}/s", octets(lease.delivery_rate)),
        percent(lease.link_use),
        format!("{:.1}", lease.recipient_rate),
        lease.delivered.to_string(),
        octets(lease.bytes),
    ]
    .into()
}

const FLOWS: [Column; 3] = [words("flow"), numbers("due"), words("next sender")];

fn flow(row: FlowRow) -> Row {
    vec![row.flow, row.due.to_string(), row.sender].into()
}

const REPLIES: [Column; 4] = [numbers("ago"), words("outcome"), numbers("recipients"), words("reply")];

fn reply(row: ReplyRow) -> Row {
    Row {
        tone: Tone::of_outcome(&row.outcome),
        cells: vec![seconds(row.age as f64), row.outcome, row.recipients.to_string(), row.reply],
    }
}

/// Everything about one thread.
pub(super) fn thread_detail(detail: ThreadDetail) {
    let ThreadDetail { row, clause, retries, expiry, ring, leases, flows, heard, first_batches } = detail;
    let ring = format!("{} ({} of {} agents)", ring.site, ring.usage.agents, ring.usage.agents_max);
    print::line(format_args!("clause {clause}: tries again after {}, gives up after {expiry}", retries.join(" ")));
    print::line(format_args!("ring   {}", print::clean(&ring)));
    if row.at_risk > 0 {
        print::line(format_args!(
            "sent, never answered and sent again: {} message(s), which may have arrived twice",
            row.at_risk
        ));
    }
    print::table(&THREADS, vec![thread(row)]);
    let section = |columns: &[Column], rows: Vec<Row>| {
        if !rows.is_empty() {
            print::line("");
            print::table(columns, rows);
        }
    };
    section(&AGENTS, leases.into_iter().map(agent).collect());
    section(&FLOWS, flows.into_iter().map(flow).collect());
    section(&MESSAGES, first_batches.into_iter().map(message).collect());
    section(&REPLIES, heard.into_iter().map(reply).collect());
}

/// The answer of `qshape`.
#[derive(Deserialize)]
pub(super) struct Ages {
    qshape: Vec<AgeRow>,
    total: AgeRow,
    limits_minutes: Vec<u64>,
}

/// Ages as Postfix's `qshape` prints them: the columns are upper limits in minutes.
pub(super) fn ages(ages: Ages) {
    let Ages { qshape, total, limits_minutes } = ages;
    let rest = limits_minutes.last().map(|last| format!("{last}+"));
    let limits = limits_minutes.iter().map(u64::to_string).chain(rest).map(print::numbers_named);
    let columns: Vec<Column> = [words("thread"), numbers("T")].into_iter().chain(limits).collect();
    let row = |row: AgeRow| -> Row {
        let counts = row.ages.iter().map(u64::to_string);
        [row.thread, row.recipients.to_string()].into_iter().chain(counts).collect::<Vec<_>>().into()
    };
    print::table(&columns, std::iter::once(total).chain(qshape).map(row).collect());
}

//! What `top` knows, on the screen.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table, TableState};
use zrelay_scheduler::snapshot::{MessageRow, ThreadDetail, ThreadRow};

use super::app::{App, Mode, View};
use crate::print::{Tone, clean, octets, seconds};

const HELP: [&str; 12] = [
    "up, down, PgUp, PgDn, Home, End   choose a thread",
    "Enter    its agents, flows, batches, and what its host said",
    "Esc      back to all threads",
    "s        sort by the next field",
    "/        only threads that match a pattern: smtp/*.example.net",
    "h        hold the thread: nothing more is handed out",
    "r        release it",
    "t        try again now, whatever the back-off says",
    "q        quit",
    "",
    "States: running, idle, retry (the host failed), waiting (all was",
    "put off), held, paused (the spool fails), limit:... (all agents busy)",
];

pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let [title, chart, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(if frame.area().height >= 16 { 4 } else { 0 }),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(totals(app)), title);
    throughput(frame, app, chart);
    match (&app.view, app.detail()) {
        (View::Thread(_), Some(detail)) => thread(frame, detail, body),
        (View::Thread(name), None) => {
            frame.render_widget(Paragraph::new(format!("no thread {name} now")).block(Block::bordered()), body);
        }
        (View::List, _) => list(frame, app, body),
    }
    frame.render_widget(footer(app), foot);
    if app.mode == Mode::Help {
        help(frame);
    }
}

fn style_of(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warning => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
        Tone::Held => Style::new().fg(Color::Magenta),
        Tone::Dim => Style::new().add_modifier(Modifier::DIM),
    }
}

fn totals(app: &App) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    if let Some(reason) = &app.lost {
        return vec![Line::styled(format!("{}; looking for it", clean(reason)), style_of(Tone::Bad))];
    }
    let Some(overview) = &app.overview else { return vec![Line::raw("waiting for the hub")] };
    let totals = &overview.totals;
    let condition = match (&totals.paused, totals.draining) {
        (Some(why), _) => Span::styled(format!("  paused: {}", clean(why)), style_of(Tone::Bad)),
        (None, true) => Span::styled("  shutting down", style_of(Tone::Warning)),
        (None, false) => Span::raw(""),
    };
    let first = vec![
        Span::styled("zrelay", bold),
        Span::raw(format!(" up {}   ", seconds(overview.uptime as f64))),
        Span::styled(totals.recipients.to_string(), bold),
        Span::raw(format!(" recipients in {} batches, {}   ", totals.batches, octets(totals.bytes))),
        Span::styled(format!("{}/{}", totals.agents, totals.agents_max), bold),
        Span::raw(format!(" agents, {} idle", totals.idle)),
        condition,
    ];
    let rates = app.rates;
    let second = format!(
        "delivered {:.0}/s  deferred {:.0}/s  failed {:.0}/s   since the start {} {} {}",
        rates.delivered, rates.deferred, rates.failed, totals.delivered, totals.deferred, totals.failed
    );
    vec![Line::from(first), Line::raw(second)]
}

fn throughput(frame: &mut Frame<'_>, app: &App, area: Rect) {
    if area.height == 0 {
        return;
    }
    let width = usize::from(area.width.saturating_sub(2));
    let data: Vec<u64> = app.throughput.iter().rev().take(width).rev().copied().collect();
    let most = data.iter().max().copied().unwrap_or(0);
    let block = Block::bordered().title(format!(" delivered per second, at most {most} "));
    frame.render_widget(Sparkline::default().data(&data).style(style_of(Tone::Good)).block(block), area);
}

fn titles(names: &[&'static str]) -> Row<'static> {
    Row::new(names.to_vec()).style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED))
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Line::raw(text.into()).alignment(Alignment::Right))
}

fn words(text: &str) -> Cell<'static> {
    Cell::from(clean(text).into_owned())
}

fn thread_row(row: &ThreadRow) -> Row<'static> {
    let age = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| seconds(value as f64));
    let cells = [
        words(&row.thread),
        words(&row.state),
        right(row.recipients.to_string()),
        right(row.batches.to_string()),
        right(age(row.oldest)),
        right(format!("{}/{}", row.agents, row.agents_max)),
        right(row.rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.0}ms", rtt * 1000.0))),
        right(octets(row.bytes_in_flight)),
        right(format!("{:.1}", row.recipient_rate)),
        right(age(row.next_attempt_in)),
        words(why(row)),
    ];
    Row::new(cells).style(style_of(Tone::of_state(&row.state)))
}

/// State and time of the next attempt have columns of their own: what is left to say is what the host said.
fn why(row: &ThreadRow) -> &str {
    match (&row.last_reply, row.state.as_str()) {
        (Some(reply), "retry" | "waiting") => reply,
        _ => &row.reason,
    }
}

fn list(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let names =
        &["thread", "state", "rcpts", "batches", "oldest", "agents", "rtt", "flying", "rcpt/s", "next", "reason"];
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Fill(4),
    ];
    let matched = app.overview.as_ref().map_or(0, |overview| overview.matched);
    let title = format!(" {matched} threads {} by {} ", clean(&app.pattern), app.sort_name());
    let table = Table::new(app.rows().iter().map(thread_row), widths)
        .header(titles(names))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(title));
    let mut state = TableState::default().with_selected(app.position());
    frame.render_stateful_widget(table, area, &mut state);
}

fn thread(frame: &mut Frame<'_>, detail: &ThreadDetail, area: Rect) {
    let row = &detail.row;
    let rows = |length: usize| Constraint::Length(u16::try_from(length).unwrap_or(u16::MAX).saturating_add(3));
    let [head, agents, flows, batches, replies] = Layout::vertical([
        Constraint::Length(5),
        rows(detail.leases.len().min(4)),
        rows(detail.flows.len().min(3)),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ])
    .areas(area);
    let state = Line::styled(format!("{}  {}", row.state, clean(&row.reason)), style_of(Tone::of_state(&row.state)));
    let queue = format!(
        "{} recipients in {} batches, {}, oldest {}, {} held",
        row.recipients,
        row.batches,
        octets(row.bytes),
        row.oldest.map_or_else(|| "-".to_owned(), |age| seconds(age as f64)),
        row.held
    );
    let rule = format!(
        "clause {}  ring {} ({}/{} agents)  gives up after {}",
        detail.clause, detail.ring.site, detail.ring.usage.agents, detail.ring.usage.agents_max, detail.expiry
    );
    let text = vec![state, Line::raw(queue), Line::raw(clean(&rule).into_owned())];
    let block = Block::bordered().title(format!(" {} ", clean(&row.thread)));
    frame.render_widget(Paragraph::new(text).block(block), head);
    agents_table(frame, detail, agents);
    let flow = |flow: &zrelay_scheduler::snapshot::FlowRow| {
        Row::new([words(&flow.flow), right(flow.due.to_string()), words(&flow.sender)])
    };
    let widths = [Constraint::Length(9), Constraint::Length(8), Constraint::Fill(1)];
    section(frame, "flows", &["flow", "due", "next sender"], widths, detail.flows.iter().map(flow), flows);
    let widths = [
        Constraint::Length(16),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ];
    let names = ["message", "state", "age", "tries", "rcpts", "sender", "recipient"];
    section(frame, "batches", &names, widths, detail.first_batches.iter().map(batch), batches);
    let reply = |heard: &zrelay_scheduler::snapshot::ReplyRow| {
        let cells = [
            right(seconds(heard.age as f64)),
            words(&heard.outcome),
            right(heard.recipients.to_string()),
            words(&heard.reply),
        ];
        Row::new(cells)
    };
    let widths = [Constraint::Length(7), Constraint::Length(9), Constraint::Length(8), Constraint::Fill(1)];
    section(frame, "replies", &["ago", "outcome", "rcpts", "reply"], widths, detail.heard.iter().map(reply), replies);
}

fn agents_table(frame: &mut Frame<'_>, detail: &ThreadDetail, area: Rect) {
    let agent = |lease: &zrelay_scheduler::snapshot::LeaseRow| {
        Row::new([
            right(lease.lease.to_string()),
            words(&lease.state),
            words(&lease.link),
            words(&lease.level),
            right(lease.rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.0}ms", rtt * 1000.0))),
            right(octets(lease.bytes_in_flight)),
            right(octets(lease.window_bytes)),
            right(format!("{:.1}", lease.recipient_rate)),
            right(lease.delivered.to_string()),
            words(&lease.peer),
        ])
    };
    let widths = [
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(11),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let names = ["lease", "state", "link", "level", "rtt", "flying", "window", "rcpt/s", "delivered", "peer"];
    section(frame, "agents", &names, widths, detail.leases.iter().map(agent), area);
}

fn batch(row: &MessageRow) -> Row<'static> {
    let cells = [
        words(&row.message),
        words(&row.state),
        right(seconds(row.age as f64)),
        right(row.attempts.to_string()),
        right(row.recipients.to_string()),
        words(&row.sender),
        words(&row.recipient),
    ];
    Row::new(cells).style(style_of(Tone::of_state(&row.state)))
}

fn section<const N: usize>(
    frame: &mut Frame<'_>,
    title: &'static str,
    names: &[&'static str],
    widths: [Constraint; N],
    rows: impl Iterator<Item = Row<'static>>,
    area: Rect,
) {
    let table = Table::new(rows, widths).header(titles(names)).block(Block::bordered().title(format!(" {title} ")));
    frame.render_widget(table, area);
}

fn footer(app: &App) -> Line<'static> {
    match &app.mode {
        Mode::Filter(text) => Line::raw(format!("pattern: {text}_   Enter applies, Esc does not")),
        Mode::Confirm { method, thread } => {
            Line::styled(format!("{method} {}? y/n", clean(thread)), style_of(Tone::Warning))
        }
        _ if !app.message.is_empty() => Line::raw(clean(&app.message).into_owned()),
        _ if app.view == View::List => {
            Line::raw("Enter look inside  s sort  / filter  h hold  r release  t retry  ? help  q quit")
        }
        _ => Line::raw("Esc back  h hold  r release  t retry  ? help  q quit"),
    }
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let width = area.width.min(74);
    let height = area.height.min(u16::try_from(HELP.len()).unwrap_or(0) + 2);
    let window = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::raw(*line)).collect();
    frame.render_widget(Clear, window);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" help, any key closes it ")), window);
}

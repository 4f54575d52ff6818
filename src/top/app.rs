//! What `top` knows and what keys do.

use std::collections::VecDeque;
use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};
use zrelay_scheduler::control::Overview;
use zrelay_scheduler::snapshot::{ThreadDetail, ThreadRow, Totals};

use crate::cli::TopArgs;

/// Rows asked for: more than a screen has, so that there is something to scroll through.
const ROWS: usize = 200;
/// Overviews whose throughput is remembered.
const HISTORY: usize = 240;
/// Longest filter, characters.
const FILTER_MAX: usize = 200;
/// Lines that PgUp and PgDn move by.
const PAGE: usize = 10;

/// What can be sorted by, in the order in which `s` goes through it.
const SORTS: [&str; 7] = ["recipients", "recipient_rate", "oldest", "failures", "next_attempt", "in_flight", "thread"];

/// What is on the screen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// All threads.
    List,
    /// One.
    Thread(String),
}

/// What keys go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// The view.
    Browse,
    /// The pattern, being typed.
    Filter(String),
    /// A question.
    Confirm { method: &'static str, thread: String },
    /// The help is over the view.
    Help,
}

/// What the loop is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Quit,
    /// Something else is wanted: see [`App::wanted`].
    Subscribe,
    Act {
        method: &'static str,
        thread: String,
    },
}

/// Recipients per second between two overviews.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Rates {
    pub(super) delivered: f64,
    pub(super) deferred: f64,
    pub(super) failed: f64,
}

/// See the module's documentation.
pub(super) struct App {
    interval: f64,
    pub(super) pattern: String,
    sort: usize,
    pub(super) view: View,
    pub(super) mode: Mode,
    pub(super) overview: Option<Overview>,
    /// When it came, and what was counted then.
    counted: Option<(Instant, Totals)>,
    pub(super) rates: Rates,
    /// Delivered per second, the newest last.
    pub(super) throughput: VecDeque<u64>,
    /// The thread under the bar; it stays with its thread when the order changes.
    selected: Option<String>,
    pub(super) message: String,
    pub(super) lost: Option<String>,
}

impl App {
    pub(super) fn new(args: &TopArgs) -> Self {
        Self {
            interval: args.interval,
            pattern: args.pattern.clone(),
            sort: 0,
            view: View::List,
            mode: Mode::Browse,
            overview: None,
            counted: None,
            rates: Rates::default(),
            throughput: VecDeque::new(),
            selected: None,
            message: String::new(),
            lost: None,
        }
    }

    /// The parameters of the subscription.
    pub(super) fn wanted(&self) -> Value {
        let mut wanted = json!({
            "topic": "overview",
            "interval": self.interval,
            "pattern": self.pattern,
            "sort": self.sort_name(),
            "limit": ROWS,
        });
        if let View::Thread(thread) = &self.view {
            wanted["thread"] = thread.as_str().into();
        }
        wanted
    }

    pub(super) fn sort_name(&self) -> &'static str {
        SORTS.get(self.sort).copied().unwrap_or("thread")
    }

    pub(super) fn rows(&self) -> &[ThreadRow] {
        self.overview.as_ref().map(|overview| overview.threads.as_slice()).unwrap_or_default()
    }

    pub(super) fn detail(&self) -> Option<&ThreadDetail> {
        self.overview.as_ref().and_then(|overview| overview.thread.as_ref())
    }

    /// The line under the bar.
    pub(super) fn position(&self) -> Option<usize> {
        let rows = self.rows();
        let found = self.selected.as_ref().and_then(|name| rows.iter().position(|row| row.thread == *name));
        found.or_else(|| (!rows.is_empty()).then_some(0))
    }

    /// News of the hub.
    pub(super) fn handle_overview(&mut self, now: Instant, overview: Overview) {
        let totals = overview.totals.clone();
        if let Some((then, before)) = &self.counted {
            let seconds = now.duration_since(*then).as_secs_f64().max(0.001);
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            self.rates = Rates {
                delivered: rate(totals.delivered, before.delivered),
                deferred: rate(totals.deferred, before.deferred),
                failed: rate(totals.failed, before.failed),
            };
            if self.throughput.len() >= HISTORY {
                self.throughput.pop_front();
            }
            self.throughput.push_back(self.rates.delivered.round() as u64);
        }
        self.counted = Some((now, totals));
        self.lost = None;
        self.overview = Some(overview);
        if self.selected.is_none() {
            self.select(0);
        }
    }

    /// The hub is gone, or refuses.
    pub(super) fn handle_lost(&mut self, reason: String) {
        self.lost = Some(reason);
        self.counted = None;
    }

    /// What an action brought.
    pub(super) fn handle_done(&mut self, message: String) {
        self.message = message;
    }

    /// A key. Returns what is to be done about it.
    pub(super) fn handle_key(&mut self, key: KeyEvent) -> Option<Effect> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Effect::Quit);
        }
        match std::mem::replace(&mut self.mode, Mode::Browse) {
            Mode::Browse => self.browse(key.code),
            Mode::Help => None,
            Mode::Confirm { method, thread } => match key.code {
                KeyCode::Char('y' | 'Y') => Some(Effect::Act { method, thread }),
                _ => {
                    self.message = format!("{method} {thread}: not done");
                    None
                }
            },
            Mode::Filter(text) => self.filter(key.code, text),
        }
    }

    fn filter(&mut self, code: KeyCode, mut text: String) -> Option<Effect> {
        match code {
            KeyCode::Esc => return None,
            KeyCode::Enter => {
                self.pattern = if text.is_empty() { "*".to_owned() } else { text };
                self.selected = None;
                return Some(Effect::Subscribe);
            }
            KeyCode::Backspace => {
                text.pop();
            }
            KeyCode::Char(c) if text.chars().count() < FILTER_MAX => text.push(c),
            _ => {}
        }
        self.mode = Mode::Filter(text);
        None
    }

    fn browse(&mut self, code: KeyCode) -> Option<Effect> {
        self.message.clear();
        let at = self.position().unwrap_or(0);
        match code {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Char('?') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char('h') => self.ask("hold"),
            KeyCode::Char('r') => self.ask("release"),
            KeyCode::Char('t') => self.ask("retry"),
            KeyCode::Esc | KeyCode::Backspace if self.view != View::List => {
                self.view = View::List;
                return Some(Effect::Subscribe);
            }
            _ if self.view != View::List => {}
            KeyCode::Up | KeyCode::Char('k') => self.select(at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(at + 1),
            KeyCode::PageUp => self.select(at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.select(at + PAGE),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('/') => self.mode = Mode::Filter(String::new()),
            KeyCode::Char('s') => {
                self.sort = (self.sort + 1) % SORTS.len();
                return Some(Effect::Subscribe);
            }
            KeyCode::Enter => {
                self.view = View::Thread(self.current()?);
                return Some(Effect::Subscribe);
            }
            _ => {}
        }
        None
    }

    /// The thread that an action is for.
    fn current(&self) -> Option<String> {
        match &self.view {
            View::Thread(name) => Some(name.clone()),
            View::List => self.rows().get(self.position()?).map(|row| row.thread.clone()),
        }
    }

    fn ask(&mut self, method: &'static str) {
        if let Some(thread) = self.current() {
            self.mode = Mode::Confirm { method, thread };
        }
    }

    fn select(&mut self, position: usize) {
        let rows = self.rows();
        let row = rows.get(position.min(rows.len().saturating_sub(1)));
        self.selected = row.map(|row| row.thread.clone());
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::draw::draw;
    use super::*;

    fn app() -> App {
        App::new(&TopArgs { pattern: "*".to_owned(), interval: 1.0 })
    }

    fn overview(delivered: u64, threads: &[(&str, &str, u64)]) -> Overview {
        let row = |(thread, state, recipients): &(&str, &str, u64)| {
            json!({
                "thread": thread, "state": state, "reason": "because \u{1b}[2J", "batches": 1, "recipients": recipients, "bytes": 1000,
                "oldest": 5, "held": 0, "agents": 1, "agents_max": 1, "credit": 0, "in_flight": 0, "rtt": 0.02,
                "replies": 0, "bytes_in_flight": 0, "delivery_rate": 0, "recipient_rate": 1.0, "level": "stream",
                "peer": "", "next_attempt": null, "next_attempt_in": null, "failures": 0, "last_reply": null,
            })
        };
        let rows: Vec<Value> = threads.iter().map(row).collect();
        serde_json::from_value(json!({
            "subscription": 1, "at": "2026-11-22T02:00:00.000Z", "uptime": 3600, "matched": rows.len(), "threads": rows,
            "thread": null,
            "totals": {
                "threads": 2, "batches": 2, "recipients": 10, "bytes": 2000, "agents": 1, "agents_max": 1000, "idle": 0,
                "paused": null, "draining": false, "delivered": delivered, "deferred": 0, "failed": 0, "expired": 0,
                "dropped": 0, "holds": [],
            },
        }))
        .unwrap()
    }

    fn press(app: &mut App, keys: &[KeyCode]) -> Option<Effect> {
        keys.iter().filter_map(|key| app.handle_key((*key).into())).last()
    }

    fn screen(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn rates_are_what_changed_between_two_overviews() {
        let mut app = app();
        let begin = Instant::now();
        app.handle_overview(begin, overview(100, &[]));
        assert!(app.throughput.is_empty());
        app.handle_overview(begin + std::time::Duration::from_secs(2), overview(300, &[]));
        assert_eq!((app.rates.delivered, app.throughput.back().copied()), (100.0, Some(100)));
        // A hub that was started anew counts from zero.
        app.handle_lost("gone".to_owned());
        app.handle_overview(begin + std::time::Duration::from_secs(3), overview(0, &[]));
        assert_eq!(app.throughput.len(), 1);
        assert!(screen(&app, 100, 24).contains("delivered 100/s"));
    }

    #[test]
    fn the_bar_stays_with_its_thread_when_the_order_changes() {
        let mut app = app();
        let now = Instant::now();
        app.handle_overview(now, overview(0, &[("smtp/a", "running", 9), ("smtp/b", "retry", 5)]));
        press(&mut app, &[KeyCode::Down]);
        assert_eq!(app.position(), Some(1));
        app.handle_overview(now, overview(0, &[("smtp/b", "retry", 50), ("smtp/a", "running", 9)]));
        assert_eq!(app.position(), Some(0));
        press(&mut app, &[KeyCode::End, KeyCode::Down, KeyCode::Down]);
        assert_eq!(app.position(), Some(1));
        app.handle_overview(now, overview(0, &[]));
        assert_eq!(app.position(), None);
        assert_eq!(press(&mut app, &[KeyCode::Enter, KeyCode::Char('h')]), None);
    }

    #[test]
    fn nothing_is_done_to_a_thread_without_a_yes() {
        let mut app = app();
        app.handle_overview(Instant::now(), overview(0, &[("smtp/a", "running", 9)]));
        assert_eq!(press(&mut app, &[KeyCode::Char('h'), KeyCode::Char('n')]), None);
        assert!(screen(&app, 80, 24).contains("hold smtp/a: not done"));
        assert_eq!(press(&mut app, &[KeyCode::Char('h')]), None);
        assert!(screen(&app, 80, 24).contains("hold smtp/a? y/n"));
        let effect = press(&mut app, &[KeyCode::Char('y')]);
        assert_eq!(effect, Some(Effect::Act { method: "hold", thread: "smtp/a".to_owned() }));
        assert_eq!(press(&mut app, &[KeyCode::Char('q')]), Some(Effect::Quit));
    }

    #[test]
    fn a_pattern_is_typed_and_asked_for() {
        let mut app = app();
        let keys: Vec<KeyCode> = "/smtp/x".chars().map(KeyCode::Char).collect();
        assert_eq!(press(&mut app, &keys), None);
        assert_eq!(press(&mut app, &[KeyCode::Backspace, KeyCode::Char('*'), KeyCode::Enter]), Some(Effect::Subscribe));
        assert_eq!(
            (app.wanted()["pattern"].clone(), app.wanted()["sort"].clone()),
            (json!("smtp/*"), json!("recipients"))
        );
        assert_eq!(press(&mut app, &[KeyCode::Char('s')]), Some(Effect::Subscribe));
        assert_eq!(app.wanted()["sort"], "recipient_rate");
        assert_eq!(press(&mut app, &[KeyCode::Char('/'), KeyCode::Char('z'), KeyCode::Esc]), None);
        assert_eq!(app.pattern, "smtp/*");
    }

    #[test]
    fn every_size_of_screen_is_drawn_and_no_reply_moves_its_cursor() {
        let mut app = app();
        app.handle_overview(Instant::now(), overview(0, &[("smtp/a", "running", 9), ("smtp/b", "limit:agents", 5)]));
        for (width, height) in [(1, 1), (5, 3), (20, 8), (80, 24), (200, 60)] {
            for keys in [&[][..], &[KeyCode::Char('?')], &[KeyCode::Enter], &[KeyCode::Esc, KeyCode::Char('h')]] {
                press(&mut app, keys);
                assert!(!screen(&app, width, height).contains('\u{1b}'));
            }
            press(&mut app, &[KeyCode::Esc, KeyCode::Esc]);
        }
    }
}

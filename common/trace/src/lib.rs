//! Live conversations, for whoever watches them.
//!
//! ```text
//!   control socket ──watch(pattern)──▶ Tracing ◀──version── agents, once a turn
//!                  ◀──Line──────────── bounded mailbox ◀──Tap── the conversations of threads that match
//! ```
//!
//! An agent looks at one number a turn; only when that has changed does it ask whether its thread is watched, and then
//! its conversation gets a [`Tap`]. So nothing is paid while nobody watches, and by threads that nobody watches. A tap
//! never waits: what does not fit into the watcher's mailbox is counted ([`Tracing::dropped`]) and gone.
//!
//! Content of messages is given as a number of octets, and what follows an `AUTH` as `***`.
#![forbid(unsafe_code)]

mod tap;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zrelay_clock::Timestamp;
use zrelay_config::Pattern;
use zrelay_mailbox::{SendError, Sender};
use zrelay_spool::ThreadKey;

pub use tap::{LINE_OCTETS_MAX, Tap};

/// Watches at a time: every one costs the conversations that it matches a copy of their lines.
pub const WATCHES_MAX: usize = 16;

/// Lines that wait for one watcher: a second or so of a fast conversation. What comes beyond is counted and gone.
pub const LINES_MAX: usize = 4096;

/// What one line of a trace is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To the next hop.
    Sent,
    /// From the next hop.
    Received,
    /// What happened to the connection.
    Note,
}

/// One line of a conversation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When it was whole.
    pub at: Timestamp,
    /// The thread.
    pub thread: ThreadKey,
    /// The lease of the agent.
    pub lease: u64,
    /// What is sent without waiting for a reply is one flight; they count up from 1 on each connection. A reply has the
    /// number of the flight that was out when it came.
    pub flight: u64,
    /// Which way it went.
    pub direction: Direction,
    /// Its text, without its end, at most [`LINE_OCTETS_MAX`] octets.
    pub text: String,
}

/// Names a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchId(u64);

/// There are [`WATCHES_MAX`] already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany;

/// Where watchers and conversations meet. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Tracing {
    board: Arc<Board>,
}

#[derive(Debug, Default)]
struct Board {
    /// Changes whenever a watch begins or ends; 0 before the first.
    version: AtomicU64,
    watches: Mutex<Vec<Watch>>,
}

#[derive(Debug)]
struct Watch {
    id: WatchId,
    pattern: Pattern,
    wire: Wire,
}

/// To one watcher.
#[derive(Clone, Debug)]
struct Wire {
    lines: Sender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Wire {
    fn send(&self, line: Line) {
        if let Err(SendError::Full(_)) = self.lines.try_send(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tracing {
    /// Nobody watches yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn watches(&self) -> MutexGuard<'_, Vec<Watch>> {
        // Nothing panics while it is held.
        self.board.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the threads whose name the pattern matches, until [`Tracing::unwatch`].
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn watch(&self, pattern: Pattern, lines: Sender<Line>) -> Result<WatchId, TooMany> {
        let mut watches = self.watches();
        if watches.len() >= WATCHES_MAX {
            return Err(TooMany);
        }
        let id = WatchId(self.board.version.fetch_add(1, Ordering::Relaxed) + 1);
        watches.push(Watch { id, pattern, wire: Wire { lines, dropped: Arc::default() } });
        Ok(id)
    }

    /// Ends a watch.
    pub fn unwatch(&self, id: WatchId) {
        self.watches().retain(|watch| watch.id != id);
        self.board.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that a watch has missed, since it began.
    pub fn dropped(&self, id: WatchId) -> u64 {
        let find = |watch: &&Watch| watch.id == id;
        self.watches().iter().find(find).map_or(0, |watch| watch.wire.dropped.load(Ordering::Relaxed))
    }

    /// Another number whenever it is worth asking [`Tracing::tap`] again.
    pub fn version(&self) -> u64 {
        self.board.version.load(Ordering::Relaxed)
    }

    /// For a conversation of this thread, if it is watched.
    pub fn tap(&self, thread: &ThreadKey, lease: u64) -> Option<Tap> {
        if self.version() == 0 {
            return None;
        }
        let name = thread.to_string();
        let matching = |watch: &&Watch| watch.pattern.matches(&name);
        let wires: Vec<Wire> = self.watches().iter().filter(matching).map(|watch| watch.wire.clone()).collect();
        (!wires.is_empty()).then(|| Tap::new(wires, thread.clone(), lease))
    }

    /// Says what happens to a connection, if its thread is watched. Costs as little as [`Tracing::version`] if not.
    pub fn note(&self, now: Timestamp, thread: &ThreadKey, lease: u64, text: impl FnOnce() -> String) {
        if let Some(mut tap) = self.tap(thread, lease) {
            tap.note(now, &text());
        }
    }
}

#[cfg(test)]
mod tests {
    use zrelay_mailbox::mailbox;

    use super::*;

    #[test]
    fn only_threads_that_match_are_tapped_and_only_while_they_are_watched() {
        let tracing = Tracing::new();
        let one = ThreadKey::new("smtp", "a.example");
        let other = ThreadKey::new("smtp", "b.example");
        assert!(tracing.version() == 0 && tracing.tap(&one, 1).is_none());
        let (sender, lines) = mailbox(8);
        let id = tracing.watch(Pattern::new("smtp/a.*").unwrap(), sender).unwrap();
        let watched = tracing.version();
        assert!(watched != 0 && tracing.tap(&other, 1).is_none());
        tracing.note(Timestamp::from_secs(1), &one, 7, || "connected".to_owned());
        tracing.note(Timestamp::from_secs(1), &other, 8, || unreachable!("nobody watches"));
        let line = lines.drain(8).next().unwrap();
        assert_eq!((line.lease, line.text.as_str(), line.direction), (7, "connected", Direction::Note));
        tracing.unwatch(id);
        assert!(tracing.version() != watched && tracing.tap(&one, 1).is_none());
    }

    #[test]
    fn a_watcher_that_does_not_keep_up_misses_lines_and_is_told_how_many() {
        let tracing = Tracing::new();
        let thread = ThreadKey::new("smtp", "a.example");
        let (sender, lines) = mailbox(2);
        let id = tracing.watch(Pattern::new("*").unwrap(), sender).unwrap();
        for _ in 0..5 {
            tracing.note(Timestamp::ZERO, &thread, 1, || "x".to_owned());
        }
        assert_eq!((lines.drain(8).count(), tracing.dropped(id)), (2, 3));
    }

    #[test]
    fn there_are_not_more_watches_than_the_hub_can_bear() {
        let tracing = Tracing::new();
        let (sender, _lines) = mailbox(1);
        let pattern = Pattern::new("*").unwrap();
        let ids: Vec<WatchId> =
            (0..WATCHES_MAX).map(|_| tracing.watch(pattern.clone(), sender.clone()).unwrap()).collect();
        assert_eq!(tracing.watch(pattern.clone(), sender.clone()), Err(TooMany));
        tracing.unwatch(ids[3]);
        assert!(tracing.watch(pattern, sender).is_ok());
    }
}

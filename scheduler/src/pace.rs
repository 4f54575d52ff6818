//! The pace of a site: how many connections it may have now, and whether it is to be left alone.
//!
//! ```text
//!             each connection that delivers: one more        refused beside others that work: what is open, and
//!   initial ────────────────────────────────▶ window ◀────── one more after each hold ── held, hold grows
//!                                               │
//!                      fails, nothing works     ▼                     answers
//!                    ┌──────────────────────▶ down ── probe, when the wait is over ──▶ initial
//!                    └── fails: waits longer ◀──┘
//! ```
//!
//! A pace has no clock and no dice: whoever reports a refusal says for how long.

use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_spool::Diagnostic;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// Connections that the configuration allows.
    max: u32,
    /// Connections to begin with.
    initial: u32,
    /// Connections allowed now, 1 to `max`.
    window: u32,
    /// The site has refused more than the window: not before this time is one more tried.
    hold: Option<Timestamp>,
    /// Refusals that count towards the length of the next hold.
    refusals: u32,
    rest: Rest,
    /// Times in a row that it was suspended without having taken anything behind it.
    suspensions: u32,
}

/// Whether a site is left alone.
#[derive(Clone, Debug, Default)]
pub(crate) enum Rest {
    #[default]
    Awake,
    /// It takes mail, but not now: nothing more is sent before this time.
    Suspended { until: Timestamp, diagnostic: Arc<Diagnostic> },
    /// It failed: no connection before this time, and one alone from then on until it has answered.
    Down { failures: u32, until: Timestamp, diagnostic: Arc<Diagnostic> },
}

/// How many connections a site that is suspended has behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Less {
    /// Half of those it had.
    ByHalf,
    /// One.
    One,
}

/// What is worth knowing of a pace behind a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Kept {
    /// Connections allowed.
    pub(crate) connections: u32,
    /// The site has refused more.
    pub(crate) refusals: u32,
    /// Until when one more is not tried, microseconds since the epoch.
    pub(crate) hold: Option<u64>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// When the site is left alone until, microseconds since the epoch.
    pub(crate) until: u64,
}

impl Pace {
    /// Of a site that nothing is known of.
    pub(crate) fn new(initial: u32, max: u32) -> Self {
        let max = max.max(1);
        let initial = initial.clamp(1, max);
        Self { max, initial, window: initial, hold: None, refusals: 0, rest: Rest::Awake, suspensions: 0 }
    }

    /// Connections allowed now.
    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    /// Whether the window, and not the configuration, is what holds connections back.
    pub(crate) fn is_slow(&self) -> bool {
        self.window < self.max
    }

    /// Until when nothing is sent to it although it takes mail, and why.
    pub(crate) fn suspended(&self, now: Timestamp) -> Option<(Timestamp, &Arc<Diagnostic>)> {
        match &self.rest {
            Rest::Suspended { until, diagnostic } if *until > now => Some((*until, diagnostic)),
            _ => None,
        }
    }

    /// Until when nothing is tried because it failed, how often in a row, and why.
    pub(crate) fn down(&self, now: Timestamp) -> Option<(Timestamp, u32, &Arc<Diagnostic>)> {
        match &self.rest {
            Rest::Down { failures, until, diagnostic } if *until > now => Some((*until, *failures, diagnostic)),
            _ => None,
        }
    }

    /// Whether one connection alone is to find out whether it is up again.
    pub(crate) fn is_probed(&self) -> bool {
        matches!(self.rest, Rest::Down { .. })
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        if let Rest::Down { failures, .. } = self.rest { failures } else { 0 }
    }

    /// Refusals that count towards the next hold.
    pub(crate) fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Suspensions in a row.
    pub(crate) fn suspensions(&self) -> u32 {
        self.suspensions
    }

    /// A connection has delivered for the first time. Returns whether more are allowed than before.
    pub(crate) fn connection_works(&mut self) -> bool {
        if self.hold.is_some() || self.is_probed() {
            return false;
        }
        self.widen()
    }

    /// Something was delivered. Returns whether more are allowed than before: where more were refused, one when the
    /// hold is over, and `hold` is how long it is until the one after that.
    pub(crate) fn delivered(&mut self, now: Timestamp, hold: impl FnOnce() -> Timestamp) -> bool {
        if !matches!(self.rest, Rest::Suspended { until, .. } if until > now) {
            self.suspensions = 0;
        }
        if self.window >= self.max {
            return false;
        }
        if self.hold.is_none_or(|until| until > now) {
            return false;
        }
        self.refusals = self.refusals.saturating_sub(1);
        self.hold = Some(hold());
        self.widen()
    }

    /// It has answered: failures are over. Returns whether more connections are allowed than before.
    pub(crate) fn answered(&mut self) -> bool {
        if !self.is_probed() {
            return false;
        }
        self.rest = Rest::Awake;
        let before = self.window;
        self.window = if self.hold.is_some() { 1 } else { self.initial };
        self.window > before
    }

    fn widen(&mut self) -> bool {
        let before = self.window;
        self.window = self.window.saturating_add(1).min(self.max);
        self.window > before
    }

    /// A connection was refused while `open` others work: no more than those until `hold`. Saying so again, before it is
    /// over, of no fewer connections changes nothing.
    pub(crate) fn refused(&mut self, now: Timestamp, open: u32, hold: Timestamp) {
        if open >= self.window && self.hold.is_some_and(|before| before > now) {
            return;
        }
        self.window = open.clamp(1, self.window);
        self.refusals = self.refusals.saturating_add(1);
        self.hold = Some(hold);
    }

    /// It wants less from here: nothing until `until`, and from then on over fewer connections. What is said while it is suspended was said to what had been sent before, and counts once.
    pub(crate) fn suspend(
        &mut self,
        now: Timestamp,
        until: Timestamp,
        less: Less,
        diagnostic: &Arc<Diagnostic>,
    ) -> bool {
        if self.suspended(now).is_some() || self.is_probed() {
            return false;
        }
        self.window = match less {
            Less::ByHalf => self.window.div_ceil(2),
            Less::One => 1,
        };
        // It is to take what it gets for as long as it rested before it gets more.
        self.hold = Some(until + until.since(now));
        self.suspensions = self.suspensions.saturating_add(1);
        self.rest = Rest::Suspended { until, diagnostic: diagnostic.clone() };
        true
    }

    /// It failed, and nothing of it works.
    pub(crate) fn failed(&mut self, failures: u32, until: Timestamp, diagnostic: &Arc<Diagnostic>) {
        self.window = 1;
        self.rest = Rest::Down { failures, until, diagnostic: diagnostic.clone() };
    }

    /// An operator wants it tried now. Returns whether it was suspended.
    pub(crate) fn wake(&mut self) -> bool {
        self.suspensions = 0;
        match &mut self.rest {
            Rest::Awake => false,
            Rest::Down { until, .. } => {
                *until = Timestamp::ZERO;
                false
            }
            Rest::Suspended { .. } => {
                self.rest = Rest::Awake;
                true
            }
        }
    }

    /// What is worth keeping, if anything is.
    pub(crate) fn keep(&self) -> Option<Kept> {
        let (failures, until) = match &self.rest {
            Rest::Awake => (0, Timestamp::ZERO),
            Rest::Suspended { until, .. } => (0, *until),
            Rest::Down { failures, until, .. } => (*failures, *until),
        };
        let kept = Kept {
            connections: self.window,
            refusals: self.refusals,
            hold: self.hold.map(Timestamp::as_micros),
            failures,
            until: until.as_micros(),
        };
        let nothing = self.window == self.initial && self.hold.is_none() && matches!(self.rest, Rest::Awake);
        (!nothing).then_some(kept)
    }

    /// Goes on where another of the same site was.
    pub(crate) fn recall(&mut self, kept: Kept, diagnostic: &Arc<Diagnostic>) {
        self.window = kept.connections.clamp(1, self.max);
        self.refusals = kept.refusals;
        self.hold = kept.hold.map(Timestamp::from_micros);
        let until = Timestamp::from_micros(kept.until);
        let diagnostic = diagnostic.clone();
        self.rest = match (kept.failures, kept.until) {
            (0, 0) => Rest::Awake,
            (0, _) => Rest::Suspended { until, diagnostic },
            (failures, _) => Rest::Down { failures, until, diagnostic },
        };
    }
}

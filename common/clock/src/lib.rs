//! Time as a value.
//!
//! Every state machine of the hub takes the time as an argument, so that tests can run a day in a second and
//! replay it from a seed. [`Timestamp`] is that argument: microseconds since the Unix epoch, so that a due time
//! means the same before and after a restart. Only the thin drivers own a [`Clock`]; it never goes backwards.
//!
//! [`Span`] is a duration as an operator writes it in the configuration: `30s`, `5m`, `1h30m`, `5d`.
#![forbid(unsafe_code)]

mod span;
mod timestamp;

pub use span::{Span, SpanError};
pub use timestamp::Timestamp;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of the present time, owned by drivers only.
///
/// Reads the wall clock once and follows the monotonic clock from there, so that a step of the wall clock (NTP, an
/// operator) never makes a deadline jump within one run of the process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Instant,
    wall: Timestamp,
}

impl Clock {
    /// Anchors a clock at the present moment.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { anchor: Instant::now(), wall: Timestamp::ZERO + since_epoch }
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        self.wall + self.anchor.elapsed()
    }
}

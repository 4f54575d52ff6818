//! What the tools see: counters copied out of the scheduler, and the rows that are made of them elsewhere.
//!
//! The scheduler's part of a listing is a page of views: a copy of counters and shared names, no text is made. The
//! control socket's thread turns views into rows ([`ThreadView::row`] and its like), sorts and prints them.
//!
//! Durations in rows are whole seconds unless the field says otherwise; points in time are RFC 3339 in UTC.

mod detail;
mod mail;
mod rows;
mod take;
mod view;

pub use detail::{FlowRow, LeaseRow, ReplyRow, ThreadDetail};
pub(crate) use mail::name;
pub use mail::{AttemptRow, MessageRow, RecipientRow};
pub use rows::{AgeRow, ChannelRow, RingRow, ThreadRow, Totals, Usage};
pub use view::{
    AgeView, BatchMark, BatchPlace, BatchView, ChannelView, FLOWS_MAX, FlowView, LeaseView, RingMark, RingView, State,
    ThreadView, ThreadZoom, TotalsView, Used,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zrelay_spool::Disposition;

/// What is in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    /// Batches.
    pub batches: u64,
    /// Open recipients.
    pub recipients: u64,
    /// Octets of the batches' messages; a message counts in each of its threads.
    pub bytes: u64,
}

impl Load {
    pub(crate) fn of(recipients: &[u32], bytes: u64) -> Self {
        Self { batches: 1, recipients: u64::try_from(recipients.len()).unwrap_or(u64::MAX), bytes }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.batches += other.batches;
        self.recipients += other.recipients;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    pub(crate) fn remove(&mut self, other: Self) {
        debug_assert!(
            self.batches >= other.batches && self.recipients >= other.recipients && self.bytes >= other.bytes
        );
        self.batches = self.batches.saturating_sub(other.batches);
        self.recipients = self.recipients.saturating_sub(other.recipients);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// Outcomes since the start, in recipients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Taken by the next hop.
    pub delivered: u64,
    /// Put off; a recipient counts each time.
    pub deferred: u64,
    /// Refused for good.
    pub failed: u64,
    /// Given up for age.
    pub expired: u64,
    /// Dropped by an operator.
    pub dropped: u64,
    /// Their senders were told of the delay.
    #[serde(default)]
    pub delayed: u64,
}

impl Tally {
    pub(crate) fn count(&mut self, disposition: Disposition, recipients: usize) {
        let count = match disposition {
            Disposition::Delivered { .. } => &mut self.delivered,
            Disposition::Deferred => &mut self.deferred,
            Disposition::Failed => &mut self.failed,
            Disposition::Expired => &mut self.expired,
            Disposition::Dropped => &mut self.dropped,
            Disposition::Delayed => &mut self.delayed,
        };
        *count += u64::try_from(recipients).unwrap_or(0);
    }
}

//! Hosts that say nothing. An agent that resolves, connects or waits for a greeting has timeouts of minutes, as SMTP
//! wants them; while other threads wait for the place it holds, it is not given so long.
//!
//! Only the lines before a channel and before all agents count: those before a ring want the same host.

use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::LeaseId;
use zrelay_clock::Timestamp;
use zrelay_spool::{Diagnostic, Status};

use crate::limit::Level;
use crate::line::Rank;
use crate::scheduler::{Phase, Scheduler};

/// How long an agent may hold a place without a greeting while others wait for it. Look-up, connection, TLS and greeting
/// of a host that works take less than a few seconds; a host that greets late to test its clients does so within six
/// seconds in the usual setups.
pub const STARTING_SLICE: Duration = Duration::from_secs(10);
/// The same while only threads wait whose hosts failed at their last attempt: a host that is merely slow gets its
/// chance, and nobody better waits for it.
pub const STARTING_SLICE_AMONG_FAILED: Duration = Duration::from_secs(60);

impl Level {
    /// The lease that is to give up its place first, and when.
    pub(crate) fn next_mute(&self) -> Option<(Timestamp, LeaseId)> {
        if !self.is_contended() {
            return None;
        }
        let patience = match self.line.best_rank()? {
            Rank::Proven | Rank::New => STARTING_SLICE,
            Rank::Failed => STARTING_SLICE_AMONG_FAILED,
        };
        let first = |rank| self.starting.of(rank).first().copied();
        let (since, lease) = Rank::ALL.into_iter().filter_map(first).min()?;
        Some((since + patience, lease))
    }
}

impl Scheduler {
    /// The first of the leases whose time without a greeting is limited because others wait, and when it is over.
    pub(crate) fn next_mute(&self) -> Option<(Timestamp, LeaseId)> {
        if self.paused.is_some() || self.phase == Phase::Draining {
            return None;
        }
        let channels = self.channels.iter().map(|channel| &channel.level);
        channels.chain([&self.all]).filter_map(Level::next_mute).min()
    }

    /// Ends leases that have not been heard of for too long, as many as there are others waiting for their places.
    pub(crate) fn dismiss_mute(&mut self, now: Timestamp) {
        while let Some((_, lease_id)) = self.next_mute().filter(|(at, _)| *at <= now) {
            let Some(lease) = self.leases.get_mut(&lease_id) else { return };
            lease.mute = Some(now.since(lease.since));
            self.close(lease_id);
        }
    }
}

/// Why a lease was ended.
pub(crate) fn diagnostic(waited: Duration) -> Arc<Diagnostic> {
    let text = format!("no greeting within {} s while others waited for its place", waited.as_secs());
    Arc::new(Diagnostic::local(Status(4, 4, 1), text))
}

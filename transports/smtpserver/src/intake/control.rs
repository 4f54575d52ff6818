//! How the rest of the hub ends the intake.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::shared::{Door, Shared};

/// What the loops are to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    /// Serve.
    Serving,
    /// Take nothing new, finish what is under way.
    Draining,
    /// Drop everything.
    Stopped,
}

/// Ends the intake: gently, or at once. Clone it freely.
#[derive(Clone, Debug)]
pub struct Control {
    phase: Arc<AtomicU8>,
    shared: Arc<Shared>,
    wakers: Arc<[Arc<mio::Waker>]>,
}

impl Control {
    pub(super) fn new(phase: Arc<AtomicU8>, shared: Arc<Shared>, wakers: Vec<Arc<mio::Waker>>) -> Self {
        Self { phase, shared, wakers: wakers.into() }
    }

    /// The loops accept no connections any more, tell idle sessions `421 4.3.2`, let transactions under way finish, and
    /// end when the last session has ended.
    pub fn drain(&self) {
        self.shared.set_door(Door::Draining);
        self.order(Phase::Draining);
    }

    /// The loops drop all sessions and end. Messages that were not answered stay with their clients.
    pub fn stop(&self) {
        self.shared.set_door(Door::Draining);
        self.order(Phase::Stopped);
    }

    fn order(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        for waker in self.wakers.iter() {
            // Fails only for a loop that has ended.
            let _ = waker.wake();
        }
    }
}

/// What was ordered.
pub(super) fn phase(of: &AtomicU8) -> Phase {
    match of.load(Ordering::Acquire) {
        0 => Phase::Serving,
        1 => Phase::Draining,
        _ => Phase::Stopped,
    }
}

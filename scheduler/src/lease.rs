//! A lease: one agent's tenure over one thread, its credit and what it carries.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{Credit, Link, Pace, Verdict, Work};
use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, Diagnostic};

use crate::limit::{ChannelId, RingId};
use crate::line::Rank;
use crate::thread::ThreadId;

/// One tenure of one agent.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) thread: ThreadId,
    /// The ring in whose limit it counts: the thread's, except while it closes because the thread has moved.
    pub(crate) ring: RingId,
    pub(crate) channel: ChannelId,
    pub(crate) state: LeaseState,
    /// What was known of the host when it was granted.
    pub(crate) rank: Rank,
    pub(crate) window: Window,
    /// How long its host takes, once it has said so.
    pub(crate) pace: Option<Pace>,
    pub(crate) carried: BTreeMap<BatchId, Carried>,
    /// What it was given and has not answered.
    pub(crate) in_hand: Work,
    pub(crate) since: Timestamp,
    /// What it may be given before it gives way to threads that wait.
    pub(crate) allowance: i64,
    /// It has brought a verdict.
    pub(crate) fruitful: bool,
    /// Its host has answered, and it is not about to close: it counts among the working ones of its ring.
    pub(crate) works: bool,
    /// Its connection has been counted against the rate of its site.
    pub(crate) counted: bool,
    /// It has delivered something.
    pub(crate) delivered: bool,
    /// It was told to idle or to close: a release in good order is no surprise.
    pub(crate) dismissed: bool,
    /// It was ended because it had been silent for so long, and has not been heard of since.
    pub(crate) mute: Option<Duration>,
    pub(crate) link: Option<Box<Link>>,
}

/// What a lease is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LeaseState {
    /// Granted; the host has not been heard yet. It may have asked for a first batch all the same.
    Starting,
    /// Works.
    Open,
    /// Its time slice is over while others wait: gets no more work, and gives way when it is through.
    Yielding,
    /// Without work since then, connection kept.
    Idle(Timestamp),
    /// Ordered to close.
    Closing,
}

/// How much more a lease may be given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    pub(crate) batches: u32,
    /// Below zero when a large batch has overdrawn it.
    pub(crate) bytes: i64,
}

impl Window {
    pub(crate) fn open(&mut self, credit: Credit) {
        self.batches = self.batches.saturating_add(credit.batches);
        self.bytes = self.bytes.saturating_add(i64::try_from(credit.bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn take(&mut self, weight: u64) {
        self.batches = self.batches.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(i64::try_from(weight).unwrap_or(i64::MAX));
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.batches == 0 || self.bytes <= 0
    }
}

impl Lease {
    /// Whether it can be given a batch now.
    pub(crate) fn takes(&self) -> bool {
        let open = matches!(self.state, LeaseState::Starting | LeaseState::Open | LeaseState::Idle(_));
        open && !self.window.is_used_up() && !self.has_enough()
    }

    /// Whether it has as much in hand as its host does in the time that others may have to wait.
    fn has_enough(&self) -> bool {
        self.pace.is_some_and(|pace| pace.is_full(self.in_hand))
    }

    /// How many of so many recipients of a batch, with so many senders, it is to be given.
    pub(crate) fn part(&self, senders: u32, recipients: usize) -> usize {
        let Some(pace) = self.pace else { return recipients };
        let count = u64::try_from(recipients).unwrap_or(u64::MAX);
        usize::try_from(pace.part(self.in_hand, senders.into(), count)).unwrap_or(recipients)
    }

    /// What a part of a batch is as work.
    pub(crate) fn work(&self, senders: u32, recipients: usize) -> Work {
        let recipients = u64::try_from(recipients).unwrap_or(u64::MAX);
        let senders = u64::from(senders).clamp(1, recipients.max(1));
        self.pace.map_or(Work { messages: senders, recipients }, |pace| pace.work(senders, recipients))
    }

    /// It has the batch no more.
    pub(crate) fn let_go(&mut self, batch: BatchId) -> Option<Carried> {
        let carried = self.carried.remove(&batch)?;
        self.in_hand.remove(carried.in_hand);
        Some(carried)
    }

    /// Whether it leaves due batches of its thread to another agent.
    pub(crate) fn is_full(&self) -> bool {
        match self.state {
            LeaseState::Starting => false,
            LeaseState::Open | LeaseState::Idle(_) => self.window.is_used_up() || self.has_enough(),
            LeaseState::Yielding | LeaseState::Closing => true,
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state == LeaseState::Closing
    }
}

/// What is known of a batch under way.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// One mark per recipient of the batch; empty before the first verdict.
    pub(crate) marks: Vec<Mark>,
    /// Which of them, by position, the agent was given: those before had their turn, those behind come next.
    pub(crate) given: Range<usize>,
    /// What of that is not answered.
    pub(crate) in_hand: Work,
    /// Messages that the host has answered for it.
    pub(crate) messages: u64,
    /// When the last deferral came, and the due time drawn then: all deferred recipients of a batch are due together,
    /// counted from the last of them.
    pub(crate) due: Option<(Timestamp, Timestamp)>,
    /// The last deferral.
    pub(crate) last: Option<Arc<Diagnostic>>,
}

/// What became of a recipient under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    Open,
    Deferred,
    Final,
}

impl Carried {
    /// The recipients among `claimed` that are open, marked as `mark` now. What the agent was not given, or has
    /// answered before, is left out.
    pub(crate) fn mark(&mut self, ticket: &[u32], claimed: &[u32], mark: Mark) -> Vec<u32> {
        if self.marks.is_empty() {
            self.marks = vec![Mark::Open; ticket.len()];
        }
        let mut taken = Vec::with_capacity(claimed.len().min(ticket.len()));
        for recipient in claimed {
            let Ok(position) = ticket.binary_search(recipient) else { continue };
            match self.marks.get_mut(position) {
                Some(slot) if *slot == Mark::Open => *slot = mark,
                _ => continue,
            }
            taken.push(*recipient);
        }
        taken
    }

    /// A transaction of it has brought these.
    pub(crate) fn answered(&mut self, verdicts: &[Verdict]) {
        let recipients: usize = verdicts.iter().map(|verdict| verdict.recipients.len()).sum();
        let recipients = u64::try_from(recipients).unwrap_or(u64::MAX);
        self.in_hand.remove(Work { messages: u64::from(recipients > 0), recipients });
    }

    /// Whether the agent was given a recipient that it has not answered for.
    pub(crate) fn is_unanswered(&self) -> bool {
        let given = self.marks.get(self.given.clone()).unwrap_or_default();
        self.marks.is_empty() || given.contains(&Mark::Open)
    }

    /// The recipients of the ticket that are not finished.
    pub(crate) fn remaining(&self, ticket: &Arc<[u32]>) -> Arc<[u32]> {
        if !self.marks.contains(&Mark::Final) {
            return ticket.clone();
        }
        ticket.iter().zip(&self.marks).filter(|(_, mark)| **mark != Mark::Final).map(|(index, _)| *index).collect()
    }
}

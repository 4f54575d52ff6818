//! Telling the router of messages, no faster than their batches find a place.
//!
//! A message is small until it is routed: a post to ten thousand hosts then is ten thousand batches. So the messages under
//! way to the router and back are counted in recipients.

use std::collections::VecDeque;

use zrelay_mailbox::{SendError, Sender};

use crate::ledger::Ledger;
use crate::{Arrived, MessageId};

/// Recipients of messages that are under way to the router and back: each may become a batch of some hundred octets. The
/// last message may have more.
const UNDER_WAY_RECIPIENTS_MAX: u64 = 16 * 1024;

/// The messages that wait for the router, and those that are with it.
pub(crate) struct Announcer {
    to: Sender<Arrived>,
    waiting: VecDeque<Arrived>,
    /// With their recipients, as announced.
    under_way: VecDeque<(MessageId, u32)>,
    recipients: u64,
}

impl Announcer {
    pub(crate) fn new(to: Sender<Arrived>) -> Self {
        Self { to, waiting: VecDeque::new(), under_way: VecDeque::new(), recipients: 0 }
    }

    /// Keeps a message until [`flush`](Self::flush).
    pub(crate) fn keep(&mut self, arrived: Arrived) {
        self.waiting.push_back(arrived);
    }

    /// Messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nothing that was announced is under way any more, but for what a router has in hand. Messages that it could not
    /// read are forgotten here: they must not count for ever.
    pub(crate) fn forget_if_taken(&mut self) {
        if self.to.is_empty() {
            self.under_way.clear();
            self.recipients = 0;
        }
    }

    /// Tells the router of as many as may be under way.
    pub(crate) fn flush(&mut self, ledger: &Ledger) {
        while let Some((message, recipients)) = self.under_way.front()
            && !ledger.is_unrouted(*message)
        {
            self.recipients -= u64::from(*recipients);
            self.under_way.pop_front();
        }
        while self.recipients < UNDER_WAY_RECIPIENTS_MAX
            && let Some(Arrived(message)) = self.waiting.pop_front()
        {
            match self.to.try_send(Arrived(message)) {
                Ok(()) => {
                    let (recipients, _) = ledger.counts(message);
                    self.recipients += u64::from(recipients);
                    self.under_way.push_back((message, recipients));
                }
                Err(SendError::Full(arrived)) => return self.waiting.push_front(arrived),
                // Only a hub that shuts down ends the router; its work stays in the log.
                Err(SendError::Closed(_)) => self.waiting.clear(),
            }
        }
    }
}

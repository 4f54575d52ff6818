//! A batch in hand, and how it is divided into transactions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::Ticket;
use zrelay_clock::Timestamp;
use zrelay_spool::Timing;
use zrelay_wire::Capabilities;

use super::fitness::{Unfit, fitness};
use crate::letter::Letter;

slotmap::new_key_type! {
    /// A batch in a conversation.
    pub(super) struct BatchKey;
}

/// A batch in hand.
#[derive(Debug)]
pub(super) struct Batch<L> {
    pub(super) ticket: Ticket,
    pub(super) letter: Arc<L>,
    /// The ticket's recipients, those of one sender together.
    order: Arc<[u32]>,
    /// How many of them have been taken.
    next: usize,
    /// Recipients for whom there was no room in their transaction.
    pub(super) again: VecDeque<u32>,
    /// Transactions under way.
    pub(super) open: u32,
    /// Whether anything of it was ever sent.
    pub(super) begun: bool,
    /// Whether the message as a whole was found fit for the far side.
    pub(super) fit: bool,
}

/// What [`Batch::take`] found.
pub(super) struct Taken {
    /// For one transaction, all of one sender.
    pub(super) recipients: Vec<u32>,
    /// Recipients that cannot be sent to, and why.
    pub(super) unfit: Vec<(u32, Unfit)>,
    /// Whether an address needs SMTPUTF8.
    pub(super) internationalised: bool,
}

impl<L: Letter> Batch<L> {
    pub(super) fn new(ticket: Ticket, letter: Arc<L>) -> Self {
        let sender = |index: u32| letter.recipient(index).map(|recipient| recipient.sender_number);
        let first = ticket.recipients.first().copied().and_then(sender);
        let order = if ticket.recipients.iter().all(|&index| sender(index) == first) {
            Arc::clone(&ticket.recipients)
        } else {
            let mut order = ticket.recipients.to_vec();
            order.sort_by_key(|&index| (sender(index), index));
            order.into()
        };
        Self { ticket, letter, order, next: 0, again: VecDeque::new(), open: 0, begun: false, fit: false }
    }

    /// Whether every recipient has been taken.
    pub(super) fn is_spent(&self) -> bool {
        self.again.is_empty() && self.next >= self.order.len()
    }

    /// The next recipients, at most `limit`.
    pub(super) fn take(&mut self, limit: usize, offered: &Capabilities) -> Taken {
        let letter = Arc::clone(&self.letter);
        let mut taken = Taken { recipients: Vec::new(), unfit: Vec::new(), internationalised: false };
        let mut sender = None;
        while let Some(index) = self.again.front().or_else(|| self.order.get(self.next)).copied() {
            let addressee = letter.recipient(index);
            let number = addressee.map(|addressee| addressee.sender_number);
            let other_sender = sender.is_some() && number != sender;
            if other_sender || taken.recipients.len() >= limit {
                break;
            }
            if self.again.pop_front().is_none() {
                self.next += 1;
            }
            match fitness(addressee, offered) {
                Ok(internationalised) => {
                    sender = number;
                    taken.internationalised |= internationalised;
                    taken.recipients.push(index);
                }
                Err(unfit) => taken.unfit.push((index, unfit)),
            }
        }
        taken
    }

    /// Everything that is left, to be settled as a whole.
    pub(super) fn take_all(&mut self) -> Vec<u32> {
        let mut all: Vec<u32> = self.again.drain(..).collect();
        all.extend(self.order.iter().skip(self.next));
        self.next = self.order.len();
        all.sort_unstable();
        all
    }

    /// Where the time went so far.
    pub(super) fn timing(&self, now: Timestamp, connected: Duration) -> Timing {
        let waited = now.since(self.ticket.due);
        let connected = connected.min(waited);
        Timing {
            queued: self.ticket.due.since(self.ticket.received),
            waited: waited.saturating_sub(connected),
            connected,
            ..Timing::default()
        }
    }
}

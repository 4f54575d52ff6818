//! The messages that a replay is for; and how one that would take too much memory leaves some of them to another.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::Replay;
use crate::MessageId;
use crate::shared::Place;

/// The messages that a replay is for.
#[derive(Debug)]
pub(super) enum Interest {
    All,
    /// Each from its own record on: whatever older records say of it is void.
    These(HashMap<MessageId, Own>),
    Within(RangeInclusive<MessageId>),
}

/// How far a replay is with the record of a message itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Own {
    /// Not there yet.
    Ahead(Place),
    Read,
}

impl Interest {
    pub(super) fn includes(&self, message: MessageId) -> bool {
        match self {
            Self::All => true,
            Self::These(messages) => messages.get(&message) == Some(&Own::Read),
            Self::Within(range) => range.contains(&message),
        }
    }

    /// Whether the record at `place`, the message's own, is of interest.
    pub(super) fn begins(&mut self, message: MessageId, place: Place) -> bool {
        if let Self::These(messages) = self
            && let Some(own) = messages.get_mut(&message)
            && matches!(own, Own::Ahead(ahead) if ahead.is_end_of(place))
        {
            *own = Own::Read;
        }
        self.includes(message)
    }

    /// The message is of no interest any more.
    pub(super) fn lose(&mut self, message: MessageId) {
        if let Self::These(messages) = self {
            messages.remove(&message);
        }
    }
}

impl Replay {
    /// Leaves the last messages to another replay, if those that records were of take more than so many octets of memory;
    /// the first one stays in any case. Returns the last message that this one is for.
    pub(crate) fn narrow(&mut self, octets_max: usize) -> MessageId {
        let Interest::Within(range) = &self.interest else { return MessageId(u64::MAX) };
        let (first, mut last) = (*range.start(), *range.end());
        if self.octets() <= octets_max {
            return last;
        }
        let mut messages: Vec<MessageId> = self.known().chain(self.gone.iter().copied()).collect();
        messages.sort_unstable();
        messages.dedup();
        // Half of it is enough: records of those that stay are yet to come.
        while messages.len() > 1 && self.octets() > octets_max / 2 {
            let half = messages.split_off(messages.len() / 2);
            half.iter().for_each(|message| self.leave(*message));
            last = half.first().map_or(last, |left| MessageId(left.0 - 1));
        }
        self.interest = Interest::Within(first..=last);
        last
    }

    fn octets(&self) -> usize {
        /// Of a message that is gone, in a table that is not quite full.
        const GONE: usize = 2 * size_of::<MessageId>();
        self.ledger.octets() + self.details.octets() + self.gone.len() * GONE
    }

    fn leave(&mut self, message: MessageId) {
        self.ledger.forget(message);
        self.shared.remove(message);
        self.details.remove(message);
        self.gone.remove(&message);
    }
}

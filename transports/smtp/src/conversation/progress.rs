//! What can be seen of a conversation, and what it has learned of the far side.

use std::time::Duration;

use zrelay_agent::{Statistics, Work};
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_wire::Capabilities;

use super::presumed::Basis;
use super::{Conversation, State};
use crate::letter::Letter;

/// Transactions that are over since the connection began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Finished {
    /// How many.
    pub messages: u64,
    /// Octets of their messages.
    pub octets: u64,
    /// The shortest time from queuing a transaction to its final reply.
    pub quickest: Option<Duration>,
}

/// Since when the next reply is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owed {
    /// Since a command was queued when nothing was owed: a round trip is part of it.
    BehindCommand(Timestamp),
    /// Since the reply before it.
    BehindReply(Timestamp),
}

impl<L: Letter> Conversation<L> {
    /// The level in use.
    pub fn level(&self) -> Pipelining {
        self.level
    }

    /// A lower level to meet this host with from now on, because it mishandled the one in use.
    pub fn advice(&self) -> Option<Pipelining> {
        self.advice
    }

    /// How many recipients the far side takes in a transaction, when it has shown that since the last call of this.
    pub fn take_lesson(&mut self) -> Option<u32> {
        self.lesson.take()
    }

    /// How many transactions the far side takes on a connection, when it has shown that since the last call of this.
    pub fn take_lesson_in_messages(&mut self) -> Option<u32> {
        self.lesson_in_messages.take()
    }

    /// Whether the connection is too old for another transaction.
    pub fn is_worn(&self, now: Timestamp) -> bool {
        now.since(self.settings.begun) >= self.settings.age || self.carried >= self.messages_max()
    }

    /// Transactions that the settings and the far side (RFC 9422) allow on this connection.
    pub(super) fn messages_max(&self) -> u32 {
        let announced = self.capabilities.limits.mailmax.filter(|&limit| limit > 0).unwrap_or(u64::MAX);
        self.settings.messages.min(u32::try_from(announced).unwrap_or(u32::MAX)).max(1)
    }

    /// What the far side offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether mail can be sent.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready && self.basis == Basis::Confirmed
    }

    /// Whether no batch is here.
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether nothing new is begun any more.
    pub fn is_ending(&self) -> bool {
        self.stop.is_some() || matches!(self.state, State::Quitting | State::Closed)
    }

    /// Replies awaited.
    pub fn replies_awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Octets of messages that are under way and not answered.
    pub fn bytes_in_flight(&self) -> u64 {
        self.bytes_in_flight
    }

    /// Transactions that are over.
    pub fn finished(&self) -> Finished {
        self.finished
    }

    /// Replies to messages and to recipients so far; with LMTP, where both are about recipients, those to messages.
    pub fn answers(&self) -> Work {
        self.answers
    }

    /// Since when the next reply is waited for; says nothing while none is.
    pub fn owed(&self) -> Owed {
        self.owed
    }

    /// Transactions under way.
    pub fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// Whether there is work that waits for room.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.output.is_empty()
    }

    /// What was done since the last call of this.
    pub fn take_statistics(&mut self) -> Statistics {
        std::mem::take(&mut self.statistics)
    }
}

//! Names of the things in the queue.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A message's queue id: microseconds since the Unix epoch when it came in, made unique by counting up. Prints and
/// parses as upper-case hexadecimal, the form Postfix log analysers expect of a queue id. Never used twice by a spool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MessageId(pub u64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}", self.0)
    }
}

impl FromStr for MessageId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl MessageId {
    /// The names that its batches can have.
    pub fn batches(self) -> std::ops::RangeInclusive<BatchId> {
        BatchId { message: self, number: 0 }..=BatchId { message: self, number: u32::MAX }
    }
}

/// One batch: the recipients of one message in one thread. Numbers count from 0 within the message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BatchId {
    /// The message.
    pub message: MessageId,
    /// Which of its batches.
    pub number: u32,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.message, self.number)
    }
}

/// The name of a thread: channel and host, written `smtp/lists.example.net`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ThreadKey {
    /// The way to deliver: `smtp`, `lmtp`, `hold`, `error`, `discard`.
    pub channel: Arc<str>,
    /// The next hop inside the channel: a lower-case domain (MX lookup), `[host]` or `[host]:port` (none); for the
    /// channels without a next hop a note such as the reason of an `error`.
    pub host: Arc<str>,
}

impl ThreadKey {
    /// A key of these parts.
    pub fn new(channel: &str, host: &str) -> Self {
        Self { channel: channel.into(), host: host.into() }
    }
}

impl fmt::Display for ThreadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.channel, self.host)
    }
}

impl FromStr for ThreadKey {
    type Err = ThreadKeyError;

    fn from_str(text: &str) -> Result<Self, ThreadKeyError> {
        match text.split_once('/') {
            Some((channel, host)) if !channel.is_empty() && !host.is_empty() => Ok(Self::new(channel, host)),
            _ => Err(ThreadKeyError),
        }
    }
}

/// A text is not a [`ThreadKey`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected a thread as channel/host, for example smtp/lists.example.net")]
pub struct ThreadKeyError;

//! What a conversation is asked to do.

use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;

/// What a conversation is to do and to respect.
#[derive(Clone, Debug)]
pub struct Settings {
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// Our name in `EHLO`.
    pub hostname: Arc<str>,
    /// The far side for the log: `name[address]:port`.
    pub peer: Arc<str>,
    /// What is wanted of TLS.
    pub security: Security,
    /// Highest level to use.
    pub highest: Pipelining,
    /// Recipients in one transaction.
    pub recipients: u32,
    /// Transactions on this connection.
    pub messages: u32,
    /// Age of the connection, from [`Settings::begun`], at which no more transactions are begun.
    pub age: Duration,
    /// Transactions sent whose final reply is not there yet, to begin with; see
    /// [`Conversation::set_room`](crate::Conversation::set_room).
    pub unacknowledged_messages: u32,
    /// The same in octets; one message may overdraw it.
    pub unacknowledged_bytes: u64,
    /// Patience for a reply or for room to write; doubled for the reply to a message.
    pub timeout: Duration,
    /// When the connection was begun to be set up, for the log; equal to the time of
    /// [`Conversation::new`](crate::Conversation::new) or before.
    pub begun: Timestamp,
}

/// The protocol of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// RFC 5321: one reply to a message.
    Smtp,
    /// RFC 2033: one reply to a message for every recipient accepted.
    Lmtp,
}

/// What is wanted of TLS on one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// No STARTTLS.
    Clear,
    /// STARTTLS where it is offered; refused, the connection ends with [`End::ClearOnly`](crate::End::ClearOnly).
    Opportunistic,
    /// STARTTLS or nothing.
    Required,
    /// TLS from the first octet on (RFC 8314 §3), or nothing.
    Implicit,
}

/// How much is entrusted to a connection that has not shown yet that it works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Approach {
    /// As much as may be under way.
    Bold,
    /// One transaction more than the far side has answered on this connection, so that no more is lost with it than it
    /// has achieved; two, four, eight of them with each round trip.
    Careful,
}

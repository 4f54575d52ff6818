//! What comes in with a message: the envelope as the intake hands it to the spool.

use zrelay_clock::Timestamp;

use crate::{Handling, MessageId};

/// A message's envelope. The senders stand in a table of their own because the envelope sender is an attribute of
/// each recipient (VERP): one stored message can go out with a million senders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// When the message came in.
    pub received: Timestamp,
    /// Header lines that this hub adds in front of the content, each with its CRLF (`Received:`).
    pub trace: Vec<u8>,
    /// The client for the logs: `name[address]`.
    pub client: String,
    /// What the content holds.
    pub content: Content,
    /// RFC 3461 `ENVID`, in xtext as it came.
    pub envid: Option<String>,
    /// RFC 3461 `RET`.
    pub ret: Option<Ret>,
    /// What else was asked for it.
    pub handling: Handling,
    /// Reverse paths without brackets; the null sender is the empty string.
    pub senders: Vec<String>,
    /// The recipients, in the order they came.
    pub recipients: Vec<Recipient>,
    /// Set when this message is a delivery status notification of ours: storing it settles what was owed.
    pub origin: Option<Origin>,
}

/// What a message's content holds, judged once at intake from the octets and the declared `BODY=` and `SMTPUTF8`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// RFC 6152: declared `BODY=8BITMIME`, or octets above 127 were seen.
    pub eight_bit: bool,
    /// RFC 6531: the submitter gave `SMTPUTF8`.
    pub smtputf8: bool,
}

/// RFC 3461 §4.3: what of the message a failure report returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header only.
    Headers,
}

/// One recipient of an [`Envelope`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient {
    /// The forward path without brackets.
    pub address: String,
    /// Index of its sender in [`Envelope::senders`].
    pub sender: u32,
    /// RFC 3461 `ORCPT`, `type;xtext` as it came.
    pub orcpt: Option<String>,
    /// RFC 3461 `NOTIFY`.
    pub notify: Notify,
}

/// RFC 3461 §4.1: when the sender wants to hear of a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Notify {
    /// No parameter was given: failures are reported, delays may be.
    #[default]
    Default,
    /// `NEVER`.
    Never,
    /// Any of `SUCCESS`, `FAILURE`, `DELAY`.
    On {
        /// `SUCCESS`
        success: bool,
        /// `FAILURE`
        failure: bool,
        /// `DELAY`
        delay: bool,
    },
}

impl Notify {
    /// Whether a failure is to be reported.
    pub fn failure(self) -> bool {
        matches!(self, Self::Default | Self::On { failure: true, .. })
    }

    /// Whether a delay may be reported: without the parameter it is the relay's choice, and a useful one.
    pub fn delay(self) -> bool {
        matches!(self, Self::Default | Self::On { delay: true, .. })
    }

    /// Whether a delivery is to be reported.
    pub fn success(self) -> bool {
        matches!(self, Self::On { success: true, .. })
    }
}

/// Which notification a message of ours is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The message it reports on.
    pub message: MessageId,
    /// The recipients whose outcome it reports.
    pub recipients: Vec<u32>,
}

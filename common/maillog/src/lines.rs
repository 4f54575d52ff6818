//! What else happens to a message, each as one line. All print without a newline.

use std::fmt;

use zrelay_spool::MessageId;

use crate::delivery::Address;

/// A client begins to submit it (target `smtpd`): `ID: client=name[address]`.
pub fn client(message: MessageId, client: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{message}: client={client}"))
}

/// Its header names it (target `cleanup`): `ID: message-id=<…>`. `message_id` with its brackets, as it stands there.
pub fn message_id(message: MessageId, message_id: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{message}: message-id={message_id}"))
}

/// It is in the queue and routed (target `qmgr`): `ID: from=<…>, size=…, nrcpt=… (queue active)`. Analysers take size and
/// sender of all its deliveries from this line.
pub fn active(message: MessageId, sender: &str, size: u64, recipients: u32) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        write!(f, "{message}: from=<{}>, size={size}, nrcpt={recipients} (queue active)", Address(sender))
    })
}

/// Some recipients were tried until their time was over (target `qmgr`).
pub fn expired(message: MessageId, sender: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{message}: from=<{}>, status=expired, returned to sender", Address(sender)))
}

/// It has left the queue (target `qmgr`).
pub fn removed(message: MessageId) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{message}: removed"))
}

/// What a notification tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notification {
    /// The sender, of failures.
    Failure,
    /// The sender, of deliveries that he asked to hear of.
    Success,
    /// The sender, of a delay.
    Delay,
    /// The postmaster, of failures that no sender can be told of.
    Postmaster,
}

/// A notification was made of it (target `bounce`): `ID: sender non-delivery notification: NEW`.
pub fn notification(message: MessageId, what: Notification, new: MessageId) -> impl fmt::Display {
    let what = match what {
        Notification::Failure => "sender non-delivery notification",
        Notification::Success => "sender delivery status notification",
        Notification::Delay => "sender delay notification",
        Notification::Postmaster => "postmaster non-delivery notification",
    };
    fmt::from_fn(move |f| write!(f, "{message}: {what}: {new}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_life_are_those_of_postfix() {
        let id = MessageId(0x64A0B);
        assert_eq!(client(id, "lists.example[192.0.2.1]").to_string(), "64A0B: client=lists.example[192.0.2.1]");
        assert_eq!(message_id(id, "<1@x>").to_string(), "64A0B: message-id=<1@x>");
        assert_eq!(active(id, "a@b", 1234, 5).to_string(), "64A0B: from=<a@b>, size=1234, nrcpt=5 (queue active)");
        assert_eq!(active(id, "", 1, 1).to_string(), "64A0B: from=<>, size=1, nrcpt=1 (queue active)");
        assert_eq!(expired(id, "a@b").to_string(), "64A0B: from=<a@b>, status=expired, returned to sender");
        assert_eq!(
            notification(id, Notification::Failure, MessageId(0xF)).to_string(),
            "64A0B: sender non-delivery notification: F"
        );
        assert_eq!(removed(id).to_string(), "64A0B: removed");
    }
}

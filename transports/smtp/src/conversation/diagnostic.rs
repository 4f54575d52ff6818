//! Replies as diagnostics.

use std::sync::Arc;

use zrelay_agent::Judgement;
use zrelay_spool::{Diagnostic, Status};
use zrelay_wire::Reply;

/// RFC 3463 statuses of our own reasons.
pub(crate) mod status {
    use zrelay_spool::Status;

    /// An address that cannot be written in a command.
    pub(crate) const BAD_ADDRESS: Status = Status(5, 1, 3);
    /// Larger than the far side takes.
    pub(crate) const TOO_LARGE: Status = Status(5, 3, 4);
    /// A connection was lost or timed out.
    pub(crate) const BAD_CONNECTION: Status = Status(4, 4, 2);
    /// The far side did not keep to the protocol.
    pub(crate) const PROTOCOL: Status = Status(4, 5, 0);
    /// What the message needs is not offered.
    pub(crate) const NOT_CAPABLE: Status = Status(5, 3, 3);
    /// 8-bit content and no 8BITMIME.
    pub(crate) const NO_CONVERSION: Status = Status(5, 6, 3);
    /// Internationalised, and the far side is not (RFC 6531).
    pub(crate) const NOT_INTERNATIONAL: Status = Status(5, 6, 7);
    /// TLS is required and not to be had.
    pub(crate) const NO_TLS: Status = Status(4, 7, 4);
    /// The far side takes no more on this connection.
    pub(crate) const NO_MORE: Status = Status(4, 7, 0);
}

/// `text` fit for one line of a log: control characters replaced, cut at [`Diagnostic::TEXT_MAX`] octets.
pub(crate) fn sanitise(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(Diagnostic::TEXT_MAX));
    for character in text.chars() {
        if clean.len() + character.len_utf8() > Diagnostic::TEXT_MAX {
            break;
        }
        clean.push(if character.is_control() { '?' } else { character });
    }
    clean
}

/// What the far side said, as a diagnostic.
pub(super) fn said(reply: &Reply, peer: &str, command: &str) -> Arc<Diagnostic> {
    let class = u8::try_from(reply.code / 100).unwrap_or(4);
    let status = match reply.status {
        // An enhanced code of another class than the reply's is a mistake; the reply decides (RFC 2034 §4).
        Some(status) => Status(class, status.1, status.2),
        None => Status(class, 0, 0),
    };
    Arc::new(Diagnostic {
        code: reply.code,
        status,
        text: sanitise(&reply.text()),
        peer: peer.to_owned(),
        command: command.to_owned(),
    })
}

/// What a refusing reply means for a recipient.
pub(super) fn judge(reply: &Reply) -> Judgement {
    match (reply.code, reply.status) {
        // chasquid says "503 5.7.1 Relay not allowed" where others say 550: the enhanced code is the more exact one, and
        // only those of subject 5 and the general ones can be about the conversation (RFC 3463 §3.6).
        (503, Some(zrelay_wire::Status(5, subject, _))) if !matches!(subject, 0 | 5) => Judgement::Failed,
        // "Bad sequence of commands" is about the conversation, never about the recipient.
        (503, _) => Judgement::Deferred,
        (500..=599, _) => Judgement::Failed,
        _ => Judgement::Deferred,
    }
}

/// The classes a reply can have where the engine looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// 2xx
    Positive,
    /// 3xx
    Intermediate,
    /// 4xx, 5xx
    Refusal,
}

/// The kind of a reply; `None` for a code that no reply can have here.
pub(super) fn kind(reply: &Reply) -> Option<Kind> {
    match reply.code {
        200..=299 => Some(Kind::Positive),
        300..=399 => Some(Kind::Intermediate),
        400..=599 => Some(Kind::Refusal),
        _ => None,
    }
}

/// Whether a refusal at MAIL means "no more messages on this connection" rather than anything about the sender or the host.
/// Only to be asked when the connection has carried a message. There is no code for it: Exim says "421 too many messages in
/// this connection", OpenSMTPD "452 4.5.3 Too many recipients: Too many messages sent", Stalwart "452 4.4.5 Maximum number
/// of messages per session exceeded", aiosmtpd "421 4.7.0 MAIL sent too many times".
pub(super) fn is_too_many_messages(reply: &Reply) -> bool {
    let text = reply.text().to_ascii_lowercase();
    let many = text.contains("too many") || text.contains("maximum number");
    (400..=499).contains(&reply.code) && many && (text.contains("messages") || text.contains("mail sent"))
}

/// Whether a refusal at RCPT means "no more recipients in this transaction" rather than anything about the recipient
/// (RFC 5321 §4.5.3.1.10, RFC 3463 x.5.3, RFC 9422 §4). Only to be asked when the transaction has a recipient accepted.
pub(super) fn is_too_many(reply: &Reply) -> bool {
    match (reply.code, reply.status) {
        (400..=599, Some(status)) => (status.1, status.2) == (5, 3),
        (452 | 455, None) => true,
        // Old servers say 552 here, which without more words is a full mailbox.
        (450 | 451 | 552 | 554 | 550, None) => reply.text().to_ascii_lowercase().contains("too many"),
        _ => false,
    }
}

//! What replies of next hops are about, and rules by which a clause reads some of them differently.

use std::time::Duration;

use crate::Pattern;

/// What a reply of a next hop, or a failure to get one, is about. Each class has its effect on the number of
/// connections to the site, on the site's rest, and on the recipients; the scheduler's documentation has the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReplyClass {
    /// No connection, or one that died or fell silent before it was ready for mail.
    Connect,
    /// TLS is required and not to be had.
    Tls,
    /// A 4xx in place of the greeting, or to EHLO or STARTTLS.
    Greeting4xx,
    /// A 5xx there.
    Greeting5xx,
    /// 421: the host takes nothing more on this connection (RFC 5321 §4.2.1).
    Unavailable,
    /// The host has too many connections open, or too many from here.
    Connections,
    /// The host takes mail from here more slowly than it is sent.
    Rate,
    /// The host puts mail off because of who sends it.
    Reputation,
    /// About one recipient or one sender.
    Recipient,
    /// About one message.
    Content,
}

impl ReplyClass {
    /// All of them, with their names in the configuration.
    pub const NAMES: [(&'static str, Self); 10] = [
        ("connect", Self::Connect),
        ("tls", Self::Tls),
        ("greeting-4xx", Self::Greeting4xx),
        ("greeting-5xx", Self::Greeting5xx),
        ("unavailable", Self::Unavailable),
        ("connections", Self::Connections),
        ("rate", Self::Rate),
        ("reputation", Self::Reputation),
        ("recipient", Self::Recipient),
        ("content", Self::Content),
    ];

    /// The name in the configuration and in the tools.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, class)| *class == self).map_or("", |(name, _)| *name)
    }
}

/// A `[[thread.reply]]`: how replies that match are read in threads of this clause, whatever they would be else.
#[derive(Clone, PartialEq, Debug)]
pub struct ReplyRule {
    /// A pattern over the whole reply, `CODE STATUS TEXT` in one line: `450 4.7.1 Error: too much mail from *`. A reason
    /// of our own has no code: it begins with the status.
    pub matches: Pattern,
    /// The class.
    pub class: ReplyClass,
    /// How long the site is left alone, where the class lets it rest at all; else by the clause's retries.
    pub suspend: Option<Duration>,
}

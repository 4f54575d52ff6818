//! What a listener wants of its sessions.

use zrelay_config::{Config, Intake, Listen, Protocol};

/// How sessions come to TLS: whether STARTTLS (RFC 3207) is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartTls {
    /// Offered until TLS is active.
    Offered,
    /// Not offered: `502`.
    Absent,
    /// Not offered, because TLS begins with the first octet (RFC 8314 §3).
    Implicit,
}

/// Whether a client is told that it may send commands ahead of the greeting when it comes again: Exim's PIPECONNECT,
/// which has no RFC. Whether a client does that makes no difference to a session: it works off what has come, and greets
/// at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PipeConnect {
    /// It is.
    Announced,
    /// It is not.
    Absent,
}

/// What all sessions of one listener have in common.
#[derive(Clone, Debug)]
pub struct SessionPolicy {
    /// The hub's own name: greeting, `EHLO`, `Received:`.
    pub hostname: String,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// Whether STARTTLS is offered.
    pub starttls: StartTls,
    /// The priority of mail that names none.
    pub priority: i8,
    /// Whose mail all of it is.
    pub tag: Option<String>,
    /// Sizes, counts and times.
    pub limits: Intake,
}

impl SessionPolicy {
    /// The policy of one of the configuration's listeners.
    pub fn of(config: &Config, listen: &Listen) -> Self {
        let starttls = match () {
            () if config.tls.is_none() => StartTls::Absent,
            () if listen.implicit_tls => StartTls::Implicit,
            () if listen.starttls => StartTls::Offered,
            () => StartTls::Absent,
        };
        Self {
            hostname: config.hostname.clone(),
            protocol: listen.protocol,
            starttls,
            priority: listen.priority,
            tag: listen.tag.clone(),
            limits: config.intake.clone(),
        }
    }
}

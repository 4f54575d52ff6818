//! What a listener wants of its sessions.

use zrelay_config::{Config, Intake, Listen, Protocol};

/// Whether STARTTLS (RFC 3207) is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartTls {
    /// Offered until TLS is active.
    Offered,
    /// Not offered: `502`.
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
        let starttls = if listen.starttls && config.tls.is_some() { StartTls::Offered } else { StartTls::Absent };
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

//! The questions, the answers and the settings.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What is asked. Names are domains with or without trailing dot, in any case, with A-labels or U-labels.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Question {
    /// Where mail for this domain goes: its MX records, or without any the domain itself (RFC 5321 §5.1), with all
    /// addresses.
    Mx(String),
    /// The addresses of this host, without MX lookup.
    Hosts(String),
}

/// Where mail goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The names of the exchanges in order of preference, then name, joined by commas: two domains with the same
    /// site are served by the same hosts.
    pub site: String,
    /// The exchanges that have addresses, by preference, then name; never empty. The order inside one preference is
    /// the caller's to choose at random (RFC 5321 §5.1).
    pub exchanges: Vec<Exchange>,
}

/// One host that takes the mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    /// Lower is tried first.
    pub preference: u16,
    /// In lower case and A-labels, without trailing dot.
    pub name: String,
    /// IPv6 and IPv4 in turn, beginning with IPv6 where there is any; never empty.
    pub addresses: Vec<IpAddr>,
}

impl Target {
    /// A target of `exchanges` in their order.
    pub(crate) fn new(exchanges: Vec<Exchange>) -> Self {
        let names: Vec<&str> = exchanges.iter().map(|exchange| exchange.name.as_str()).collect();
        Self { site: names.join(","), exchanges }
    }

    /// What is left of the target for the host called `own_name`: if it is an exchange itself, only those with a better
    /// preference (RFC 5321 §5.1), for the others would hand the mail back.
    ///
    /// # Errors
    /// [`DnsError::OwnName`] if nothing is left.
    pub fn beyond(mut self, own_name: &str) -> Result<Self, DnsError> {
        let own_name = own_name.strip_suffix('.').unwrap_or(own_name);
        let own = self.exchanges.iter().find(|exchange| exchange.name.eq_ignore_ascii_case(own_name));
        let Some(limit) = own.map(|exchange| exchange.preference) else {
            return Ok(self);
        };
        self.exchanges.retain(|exchange| exchange.preference < limit);
        if self.exchanges.is_empty() {
            return Err(DnsError::OwnName);
        }
        Ok(Self::new(self.exchanges))
    }
}

/// Why there is no target.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// The name does not exist.
    #[error("Host or domain name not found")]
    NoSuchDomain,
    /// What was asked for is not the name of a host.
    #[error("Not a host or domain name")]
    BadName,
    /// The domain says that it takes no mail (RFC 7505).
    #[error("Domain does not accept mail (nullMX)")]
    NullMx,
    /// The names exist and none has an address.
    #[error("No address for host or domain")]
    NoAddress,
    /// The best exchange is this host itself: [`Target::beyond`].
    #[error("Mail for the domain loops back to this host")]
    OwnName,
    /// The name servers do not know now; in the words for the log.
    #[error("Name service error: {0}")]
    Temporary(String),
}

impl DnsError {
    /// Whether asking again later may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary(_))
    }

    /// The enhanced status code (RFC 3463, RFC 7505) as class, subject and detail.
    pub fn status(&self) -> (u8, u16, u16) {
        match self {
            Self::NoSuchDomain | Self::BadName => (5, 1, 2),
            Self::NullMx => (5, 1, 10),
            Self::NoAddress => (5, 4, 4),
            Self::OwnName => (5, 4, 6),
            Self::Temporary(_) => (4, 4, 3),
        }
    }
}

/// The name servers and the patience with them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Recursive servers, in order of preference. Empty: see [`system_servers`](crate::system_servers).
    pub servers: Vec<SocketAddr>,
    /// How long one try waits for an answer. Default 5 s, as in resolv.conf(5).
    pub timeout: Duration,
    /// Tries in all, over the servers in turn; at least one. Default 3.
    pub attempts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(5), attempts: 3 }
    }
}

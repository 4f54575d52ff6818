//! The argument of ETRN (RFC 1985 §5.3): whose mail a client wants sent now.

use std::fmt;

use crate::address::{DOMAIN_MAX, LABEL_MAX};

/// What ETRN is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Node {
    /// `ETRN example.net`: this domain.
    Domain(String),
    /// `ETRN @example.net`: this domain and those below it.
    Subdomains(String),
    /// `ETRN #name`: a queue that is named as the server names its own.
    Queue(String),
}

impl Node {
    /// Reads the argument; `None` when it is none. Domains are letters, digits, hyphens and underscores in labels, as
    /// they stand in the DNS, and become lower-case; the name of a queue is a word of printable ASCII.
    pub fn parse(argument: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(argument).ok()?;
        if let Some(queue) = text.strip_prefix('#') {
            let valid = (1..=DOMAIN_MAX).contains(&queue.len()) && queue.bytes().all(|octet| octet.is_ascii_graphic());
            return valid.then(|| Self::Queue(queue.to_owned()));
        }
        let (domain, below) = text.strip_prefix('@').map_or((text, false), |domain| (domain, true));
        let label = |label: &str| {
            let octets = label.bytes();
            let inside = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
            (1..=LABEL_MAX).contains(&label.len()) && octets.clone().all(inside) && !label.starts_with('-')
        };
        if domain.len() > DOMAIN_MAX || !domain.split('.').all(label) {
            return None;
        }
        let domain = domain.to_ascii_lowercase();
        Some(if below { Self::Subdomains(domain) } else { Self::Domain(domain) })
    }
}

impl fmt::Display for Node {
    /// As the command has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(name) => f.write_str(name),
            Self::Subdomains(name) => write!(f, "@{name}"),
            Self::Queue(name) => write!(f, "#{name}"),
        }
    }
}

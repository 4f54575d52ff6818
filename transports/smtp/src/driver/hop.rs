//! The host of a thread, taken apart.

use std::net::IpAddr;

/// Where a thread goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Hop {
    /// A domain, by its MX records.
    Domain(String),
    /// `[host]`, `[host]:port`: this host, whatever its MX records say.
    Host {
        /// Its name.
        name: String,
        /// The port given.
        port: Option<u16>,
    },
    /// `[192.0.2.1]`, `[IPv6:2001:db8::1]:port`.
    Address {
        /// The address.
        address: IpAddr,
        /// The port given.
        port: Option<u16>,
    },
}

impl Hop {
    /// Reads a thread's host. `None` if it is nothing that can be connected to.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Some(rest) = text.strip_prefix('[') else {
            return (!text.is_empty()).then(|| Self::Domain(text.to_owned()));
        };
        let (inside, behind) = rest.split_once(']')?;
        let port = match behind.strip_prefix(':') {
            Some(port) => Some(port.parse().ok().filter(|&port| port != 0)?),
            None if behind.is_empty() => None,
            None => return None,
        };
        let bare = inside.strip_prefix("IPv6:").unwrap_or(inside);
        match bare.parse() {
            Ok(address) => Some(Self::Address { address, port }),
            Err(_) if inside.is_empty() || inside.contains(':') => None,
            Err(_) => Some(Self::Host { name: inside.to_owned(), port }),
        }
    }

    /// The port to connect to.
    pub(crate) fn port(&self, default: u16) -> u16 {
        match self {
            Self::Domain(_) => default,
            Self::Host { port, .. } | Self::Address { port, .. } => port.unwrap_or(default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_apart() {
        let v6 = "2001:db8::1".parse().unwrap();
        let hops = [
            ("example.net", Hop::Domain("example.net".into())),
            ("[mx.example.net]", Hop::Host { name: "mx.example.net".into(), port: None }),
            ("[mx.example.net]:2525", Hop::Host { name: "mx.example.net".into(), port: Some(2525) }),
            ("[192.0.2.1]:24", Hop::Address { address: [192, 0, 2, 1].into(), port: Some(24) }),
            ("[IPv6:2001:db8::1]", Hop::Address { address: v6, port: None }),
            ("[2001:db8::1]:25", Hop::Address { address: v6, port: Some(25) }),
        ];
        for (text, hop) in hops {
            assert_eq!(Hop::parse(text), Some(hop), "{text}");
        }
        for text in ["", "[", "[]", "[a]b", "[a]:0", "[a]:65536", "[a:b]"] {
            assert_eq!(Hop::parse(text), None, "{text}");
        }
    }
}

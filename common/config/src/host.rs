//! Names of hosts as they stand in the configuration and behind the `@` of an address, brought into one form: lower
//! case, internationalised labels as A-labels (RFC 5891).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest domain name, octets (RFC 1035 §2.3.4, as text without the root's dot).
pub const DOMAIN_MAX: usize = 253;
/// Longest label, octets.
pub const LABEL_MAX: usize = 63;

/// Why a text is not a host.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Longer than [`DOMAIN_MAX`].
    #[error("the name is longer than 253 octets")]
    TooLong,
    /// A label is empty, as in `a..b`, or longer than [`LABEL_MAX`].
    #[error("a label of the name is empty or longer than 63 octets")]
    Label,
    /// A character that no host name has.
    #[error("the name holds {0:?}")]
    Character(char),
    /// A label begins or ends with a hyphen.
    #[error("a label of the name begins or ends with a hyphen")]
    Hyphen,
    /// Not convertible to A-labels.
    #[error("the internationalised name is not valid")]
    Idna,
    /// `[…]` that holds neither an address nor a name.
    #[error("the brackets hold neither an address nor a name")]
    Literal,
    /// `[…]:port` with a port that is none.
    #[error("behind the bracket comes nothing or a colon and a port from 1 to 65535")]
    Port,
}

/// `text` as a domain: lower case, A-labels, without the root's dot. Underscores are let through, since hosts with
/// them exist and answer.
///
/// # Errors
/// [`HostError`].
pub fn domain(text: &str) -> Result<String, HostError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    let ascii = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        if text.len() > 4 * DOMAIN_MAX {
            return Err(HostError::TooLong);
        }
        idna::domain_to_ascii(text).map_err(|_| HostError::Idna)?
    };
    if ascii.len() > DOMAIN_MAX {
        return Err(HostError::TooLong);
    }
    ascii.split('.').try_for_each(label)?;
    Ok(ascii)
}

fn label(label: &str) -> Result<(), HostError> {
    if label.is_empty() || label.len() > LABEL_MAX {
        return Err(HostError::Label);
    }
    if let Some(odd) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
        return Err(HostError::Character(odd));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::Hyphen);
    }
    Ok(())
}

/// The other spelling of an internationalised domain: A-labels of U-labels and the other way round, so that a pattern
/// written in one matches an address written in the other. `None` for all other domains.
pub fn other_spelling(text: &str) -> Option<String> {
    if text.len() > 4 * DOMAIN_MAX {
        return None;
    }
    if !text.is_ascii() {
        return domain(text).ok();
    }
    let internationalised =
        text.split('.').any(|label| label.get(..4).is_some_and(|tag| tag.eq_ignore_ascii_case("xn--")));
    if !internationalised {
        return None;
    }
    let (unicode, valid) = idna::domain_to_unicode(text);
    valid.ok().map(|()| unicode)
}

/// `text` as the name of a mail system: a domain or an address literal (RFC 5321 §4.1.3).
///
/// # Errors
/// [`HostError`].
pub fn domain_or_literal(text: &str) -> Result<String, HostError> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => address(inside).map(literal).ok_or(HostError::Literal),
        None => domain(text),
    }
}

/// `text` as the host of a thread: a domain (looked up by MX), `[host]` or `[host]:port` (not looked up by MX) where
/// the host is a name or an address. Addresses print as `[192.0.2.1]` and `[IPv6:2001:db8::1]`.
///
/// # Errors
/// [`HostError`].
pub fn next_hop(text: &str) -> Result<String, HostError> {
    let Some(rest) = text.strip_prefix('[') else { return domain(text) };
    let (inside, behind) = rest.split_once(']').ok_or(HostError::Literal)?;
    let host = match address(inside) {
        Some(address) => literal(address),
        None if inside.contains(':') => return Err(HostError::Literal),
        None => format!("[{}]", domain(inside)?),
    };
    if behind.is_empty() {
        return Ok(host);
    }
    let port = behind.strip_prefix(':').ok_or(HostError::Port)?;
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|c| c.is_ascii_digit()) => Ok(format!("{host}:{number}")),
        _ => Err(HostError::Port),
    }
}

fn address(inside: &str) -> Option<IpAddr> {
    let v6 = inside.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:")).and_then(|_| inside.get(5..));
    match v6 {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => inside.parse::<Ipv4Addr>().map(IpAddr::V4).or_else(|_| inside.parse::<Ipv6Addr>().map(IpAddr::V6)).ok(),
    }
}

fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_come_out_in_one_form() {
        assert_eq!(domain("Example.ORG.").unwrap(), "example.org");
        assert_eq!(domain("Bücher.example").unwrap(), "xn--bcher-kva.example");
        assert_eq!(domain("_mta.example").unwrap(), "_mta.example");
        let long = "a".repeat(64);
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            ("a..b", HostError::Label),
            (long.as_str(), HostError::Label),
            ("a b.example", HostError::Character(' ')),
            ("-a.example", HostError::Hyphen),
        ] {
            assert_eq!(domain(text), Err(error), "{text}");
        }
        assert_eq!(domain(&["abcdefg"; 40].join(".")), Err(HostError::TooLong));
        assert!(domain("b\u{fc}..example").is_err());
    }

    #[test]
    fn internationalised_domains_have_two_spellings() {
        assert_eq!(other_spelling("Bücher.example").as_deref(), Some("xn--bcher-kva.example"));
        assert_eq!(other_spelling("XN--bcher-kva.example").as_deref(), Some("bücher.example"));
        assert_eq!(other_spelling("example.org"), None);
        assert_eq!(other_spelling("xn--\u{7f}.example"), None);
    }

    #[test]
    fn next_hops_are_domains_or_bracketed_hosts_with_or_without_a_port() {
        for (text, form) in [
            ("Lists.Example.net", "lists.example.net"),
            ("[10.0.0.9]:2526", "[10.0.0.9]:2526"),
            ("[Mx.example.net]", "[mx.example.net]"),
            ("[::1]:25", "[IPv6:::1]:25"),
            ("[ipv6:2001:DB8::1]", "[IPv6:2001:db8::1]"),
        ] {
            assert_eq!(next_hop(text).unwrap(), form);
        }
        for text in ["[10.0.0.9]:0", "[10.0.0.9]:+5", "[10.0.0.9]x", "[10.0.0.9", "[]", "mx:25", "[1:2]"] {
            assert!(next_hop(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_hub_is_named_by_a_domain_or_an_address_literal() {
        assert_eq!(domain_or_literal("[192.0.2.1]").unwrap(), "[192.0.2.1]");
        assert!(domain_or_literal("[hub.example]").is_err());
        assert!(domain_or_literal("hub_1.example").is_ok());
    }
}

//! Mailboxes: `local@domain` (RFC 5321 §4.1.2), with SMTPUTF8 (RFC 6531 §3.3) where it is allowed.
//!
//! The text is kept exactly as it was given. Where we are more lenient than the grammar, it is because refusing would
//! cost a list its subscriber: dots may stand anywhere in an unquoted local part (old Japanese carrier mailboxes have
//! them doubled and trailing), and labels of a domain may contain underscores.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::char;
use nom::combinator::{recognize, verify};
use nom::multi::many0_count;
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

/// Longest local part, octets. RFC 5321 §4.5.3.1.1 says 64, but VERP senders carry a whole address in theirs.
pub const LOCAL_MAX: usize = 255;
/// Longest domain, octets (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_MAX: usize = 255;
/// Longest label of a domain, characters (RFC 1035 §2.3.4). A U-label is never shorter as an A-label.
pub const LABEL_MAX: usize = 63;
/// Longest address, octets. RFC 5321 §4.5.3.1.3 says 254 with its brackets off; see [`LOCAL_MAX`].
pub const ADDRESS_MAX: usize = LOCAL_MAX + 1 + DOMAIN_MAX;

/// Characters that IDNA maps to a full stop (RFC 3490 §3.1): inside a label they would make two labels of one.
const FULL_STOPS: [char; 3] = ['\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// Whether text beyond US-ASCII may occur.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Utf8 {
    /// US-ASCII only.
    Refused,
    /// RFC 6531: UTF-8 in local part and domain.
    Allowed,
}

/// A mailbox, `local@domain`, valid and as it was given.
///
/// Two addresses are equal when their texts are: whether the case of a local part matters only its host knows, and
/// domains are compared with [`Address::domain_lowercase`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Address {
    text: Box<str>,
    /// Index of the `@` between local part and domain.
    at: u16,
}

/// Why text is not an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is nothing.
    #[error("the address is empty")]
    Empty,
    /// The local part is empty, or has a character that needs quotes, or its quotes do not close.
    #[error("bad character or quoting in the local part")]
    Local,
    /// There is no `@` behind the local part.
    #[error("the address has no domain")]
    NoDomain,
    /// The local part is longer than [`LOCAL_MAX`].
    #[error("the local part is longer than {LOCAL_MAX} octets")]
    LocalTooLong,
    /// A label is empty, begins or ends with a hyphen, or has a character that is not of a domain.
    #[error("the domain is not valid")]
    Domain,
    /// A domain ends in a dot.
    #[error("the domain ends in a dot")]
    TrailingDot,
    /// A label is longer than [`LABEL_MAX`].
    #[error("a label of the domain is longer than {LABEL_MAX} characters")]
    LabelTooLong,
    /// The domain is longer than [`DOMAIN_MAX`].
    #[error("the domain is longer than {DOMAIN_MAX} octets")]
    DomainTooLong,
    /// `[...]` holds neither an IPv4 address nor `IPv6:` and an IPv6 address.
    #[error("the address literal is not valid")]
    Literal,
    /// Octets above 127 without SMTPUTF8.
    #[error("the address is not ASCII, and SMTPUTF8 was not given")]
    NonAscii,
    /// Octets above 127 that are not UTF-8.
    #[error("the address is not valid UTF-8")]
    NotUtf8,
}

impl Address {
    /// Parses `text`, which stands for itself: no brackets, no source route, no blanks around it.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &[u8], utf8: Utf8) -> Result<Self, AddressError> {
        let text = text_of(text, utf8)?;
        let (local, domain) = split(text)?;
        check_local_length(local)?;
        check_domain(domain)?;
        // Both parts are at most 255 octets long by now.
        let at = u16::try_from(local.len()).map_err(|_| AddressError::LocalTooLong)?;
        Ok(Self { text: text.into(), at })
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local part, with its quotes if it has them.
    pub fn local(&self) -> &str {
        self.text.split_at_checked(usize::from(self.at)).map_or("", |(local, _)| local)
    }

    /// The domain as given: case, U-labels and the brackets of a literal included.
    pub fn domain(&self) -> &str {
        self.text.get(usize::from(self.at) + 1..).unwrap_or_default()
    }

    /// Whether the address can go to a host that does not offer SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// The domain in lower case: the key for tables and queues.
    pub fn domain_lowercase(&self) -> String {
        self.domain().to_lowercase()
    }

    /// The IP address of a domain like `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    pub fn literal(&self) -> Option<IpAddr> {
        parse_literal(self.domain())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The IP address of an address literal (RFC 5321 §4.1.3), brackets included.
pub fn parse_literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    let Some((label, address)) = inner.split_at_checked(5) else {
        return inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    };
    if label.eq_ignore_ascii_case("IPv6:") {
        return address.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// Checks a domain or address literal.
///
/// # Errors
/// [`AddressError`].
pub fn check_domain(domain: &str) -> Result<(), AddressError> {
    if domain.is_empty() {
        return Err(AddressError::NoDomain);
    }
    if domain.len() > DOMAIN_MAX {
        return Err(AddressError::DomainTooLong);
    }
    if domain.starts_with('[') {
        return parse_literal(domain).map(|_| ()).ok_or(AddressError::Literal);
    }
    if domain.ends_with('.') {
        return Err(AddressError::TrailingDot);
    }
    domain.split('.').try_for_each(check_label)
}

fn check_label(label: &str) -> Result<(), AddressError> {
    if label.chars().count() > LABEL_MAX {
        return Err(AddressError::LabelTooLong);
    }
    let valid = !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(is_domain);
    valid.then_some(()).ok_or(AddressError::Domain)
}

fn check_local_length(local: &str) -> Result<(), AddressError> {
    (local.len() <= LOCAL_MAX).then_some(()).ok_or(AddressError::LocalTooLong)
}

/// `text` as a string, if its octets above 127 are welcome.
pub(crate) fn text_of(text: &[u8], utf8: Utf8) -> Result<&str, AddressError> {
    if utf8 == Utf8::Refused && !text.is_ascii() {
        return Err(AddressError::NonAscii);
    }
    std::str::from_utf8(text).map_err(|_| AddressError::NotUtf8)
}

/// Splits into local part and domain; the domain is not judged.
fn split(text: &str) -> Result<(&str, &str), AddressError> {
    if text.is_empty() {
        return Err(AddressError::Empty);
    }
    let (rest, local) = local_part(text).map_err(|_| AddressError::Local)?;
    if let Some(domain) = rest.strip_prefix('@') {
        return Ok((local, domain));
    }
    // `a b@c` stopped at the blank; `a` at its end.
    Err(if rest.is_empty() { AddressError::NoDomain } else { AddressError::Local })
}

/// `Local-part = Dot-string / Quoted-string`.
pub(crate) fn local_part(input: &str) -> IResult<&str, &str> {
    alt((quoted_string, take_while1(is_atom_or_dot))).parse(input)
}

/// `Quoted-string`, quotes included.
fn quoted_string(input: &str) -> IResult<&str, &str> {
    recognize(delimited(char('"'), many0_count(alt((take_while1(is_qtext), quoted_pair))), char('"'))).parse(input)
}

fn quoted_pair(input: &str) -> IResult<&str, &str> {
    recognize(preceded(char('\\'), nom::character::complete::satisfy(|c| matches!(c, ' '..='~')))).parse(input)
}

/// A domain or literal, delimited only.
pub(crate) fn domain(input: &str) -> IResult<&str, &str> {
    alt((
        recognize(delimited(tag("["), take_while(|c: char| c.is_ascii_graphic() && !matches!(c, '[' | ']')), tag("]"))),
        verify(take_while(|c| is_domain(c) || c == '.'), |name: &str| !name.is_empty()),
    ))
    .parse(input)
}

fn is_atom_or_dot(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || is_wide(c)
}

fn is_qtext(c: char) -> bool {
    matches!(c, ' ' | '!' | '#'..='[' | ']'..='~') || is_wide(c)
}

fn is_domain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || (is_wide(c) && !FULL_STOPS.contains(&c))
}

/// `UTF8-non-ascii` without the C1 controls and without the line and paragraph separators, which some programs take
/// for line ends.
pub(crate) fn is_wide(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}') && !c.is_whitespace()
}

#[cfg(test)]
mod tests;

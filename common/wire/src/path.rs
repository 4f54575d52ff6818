//! Paths: what stands between the angle brackets of MAIL and RCPT (RFC 5321 §4.1.2).

use std::fmt;

use nom::bytes::complete::{tag, take_while};
use nom::combinator::{opt, recognize};
use nom::multi::separated_list1;
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};

use crate::address::{self, Address, AddressError, Utf8};

/// The one recipient that needs no domain (RFC 5321 §4.1.1.3).
const POSTMASTER: &str = "postmaster";

/// The envelope sender.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ReversePath {
    /// `<>`: the sender of notifications, to whom none are sent.
    Null,
    /// A mailbox.
    Address(Address),
}

/// A recipient.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ForwardPath {
    /// `postmaster` without a domain, in the case it was written.
    Postmaster(Box<str>),
    /// A mailbox.
    Address(Address),
}

impl ReversePath {
    /// Parses text without brackets; the empty text is the null path.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &[u8], utf8: Utf8) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        Address::parse(text, utf8).map(Self::Address)
    }

    /// The text without brackets; empty for the null path.
    pub fn as_str(&self) -> &str {
        self.address().map_or("", Address::as_str)
    }

    /// The mailbox, unless the path is null.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }

    /// Whether the path can go to a host that does not offer SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.as_str().is_ascii()
    }
}

impl ForwardPath {
    /// Parses text without brackets.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &[u8], utf8: Utf8) -> Result<Self, AddressError> {
        if text.eq_ignore_ascii_case(POSTMASTER.as_bytes()) {
            return Ok(Self::Postmaster(address::text_of(text, utf8)?.into()));
        }
        Address::parse(text, utf8).map(Self::Address)
    }

    /// The text without brackets.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Postmaster(text) => text,
            Self::Address(address) => address.as_str(),
        }
    }

    /// The mailbox, unless the path is the bare `postmaster`.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Postmaster(_) => None,
            Self::Address(address) => Some(address),
        }
    }

    /// Whether the path can go to a host that does not offer SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.as_str().is_ascii()
    }
}

/// As it stands in a command, with its brackets.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.as_str())
    }
}

/// As it stands in a command, with its brackets.
impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.as_str())
    }
}

/// `"<" [source-route ":"] text ">"`: gives the text, which is still to be judged. Source routes are accepted and
/// dropped, as RFC 5321 appendix C asks.
pub(crate) fn bracketed(input: &str) -> IResult<&str, &str> {
    delimited(tag("<"), preceded(opt(source_route), inner), tag(">")).parse(input)
}

/// Anything that ends at the closing bracket: the quoted local part is the only place where a `>` can stand.
fn inner(input: &str) -> IResult<&str, &str> {
    recognize((opt(address::local_part), take_while(|c| c != '>'))).parse(input)
}

/// `"@" domain *("," "@" domain) ":"`
fn source_route(input: &str) -> IResult<&str, ()> {
    let hop = preceded(tag("@"), address::domain);
    terminated(separated_list1(tag(","), hop), tag(":")).map(|_| ()).parse(input)
}

#[cfg(test)]
mod tests;

//! The mail of a simulation: every recipient and every message has a number, and says so.
//!
//! A recipient is `r7@d3.example`, number 7 in domain 3. A message is `bounce-5@lists2.example`'s, and its content tells
//! its number: a far side knows of every octet and address that reaches it whether it belongs there.

use std::fmt;
use std::sync::LazyLock;

use zrelay_spool::Notify;
use zrelay_spool::testing::Random;

/// The header line that a hub would add.
pub(crate) const TRACE: &[u8] = b"Received: from client by hub.example; in a simulation\r\n";

/// Octets of text that contents are cut from.
const TEXT_OCTETS: usize = 256 * 1024;

/// Lines of text, some of which begin with dots.
static TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random(7);
    let mut text = Vec::with_capacity(TEXT_OCTETS + 100);
    while text.len() < TEXT_OCTETS {
        let draw = random.next();
        if draw.is_multiple_of(9) {
            text.push(b'.');
        }
        let letters = (0..draw % 70).map(|n| b'a' + u8::try_from((draw >> (n % 48)) % 26).unwrap_or(0));
        text.extend(letters);
        text.extend_from_slice(b"\r\n");
    }
    text
});

/// The content of a message: its number, and some text of about this length.
pub(crate) fn content(message: u32, length: u32) -> Vec<u8> {
    let text = &*TEXT;
    let length = (length as usize).min(text.len());
    let end = text[..length].iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
    let mut content = format!("X-Message: {message}\r\nSubject: number {message}\r\n\r\n").into_bytes();
    content.extend_from_slice(&text[..end]);
    content
}

/// The number of the message with this content, trace included; `None` for a report of the hub.
pub(crate) fn number(content: &[u8]) -> Option<u32> {
    let digits = content.strip_prefix(TRACE)?.strip_prefix(b"X-Message: ")?;
    let end = digits.iter().position(|octet| *octet == b'\r')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Whether this is the content of the message, trace included.
pub(crate) fn is_content(octets: &[u8], message: u32, length: u32) -> bool {
    octets.strip_prefix(TRACE).is_some_and(|octets| octets == content(message, length))
}

/// An address of the simulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// The recipient of this number.
    Recipient(u32),
    /// The envelope sender of the message of this number.
    Bounces(u32),
}

impl Address {
    /// Reads `r7@...` and `bounce-7@...`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (local, _) = text.split_once('@')?;
        if let Some(number) = local.strip_prefix("bounce-") {
            return number.parse().ok().map(Self::Bounces);
        }
        local.strip_prefix('r')?.parse().ok().map(Self::Recipient)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recipient(number) => write!(f, "r{number}@here"),
            Self::Bounces(message) => write!(f, "bounce-{message}@here"),
        }
    }
}

/// The address of a recipient.
pub(crate) fn recipient(number: u32, domain: u32) -> String {
    format!("r{number}@d{domain}.example")
}

/// When the sender wants to hear of a recipient.
pub(crate) fn notify(number: u32) -> Notify {
    match number % 13 {
        3 => Notify::Never,
        4 => Notify::On { success: false, failure: true, delay: false },
        5 => Notify::On { success: false, failure: false, delay: true },
        _ => Notify::Default,
    }
}

/// The envelope sender of a message.
pub(crate) fn sender(message: u32, list: u32) -> String {
    format!("bounce-{message}@lists{list}.example")
}

//! The `Received:` line that the hub adds (RFC 5321 §4.4).

use std::fmt::Write;
use std::net::IpAddr;

use zrelay_clock::Timestamp;
use zrelay_config::Protocol;
use zrelay_spool::MessageId;
use zrelay_wire::Utf8;

/// How the client introduced itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    /// The name it gave, fit for a header and a log.
    pub(super) name: Box<str>,
    /// By which command.
    pub(super) kind: GreetingKind,
}

/// By which command a client introduced itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GreetingKind {
    /// `HELO`: no extensions.
    Plain,
    /// `EHLO` or `LHLO`.
    Extended,
}

/// Longest name of a client that is kept, octets (RFC 5321 §4.5.3.1.2).
const NAME_MAX: usize = 255;

impl Greeting {
    pub(super) fn new(name: &str, kind: GreetingKind) -> Self {
        let fit = |octet: char| octet.is_ascii_alphanumeric() || ".-_:[]".contains(octet);
        let name: String = name.chars().take(NAME_MAX).map(|octet| if fit(octet) { octet } else { '?' }).collect();
        Self { name: if name.is_empty() { "unknown".into() } else { name.into() }, kind }
    }
}

/// What the line tells.
#[derive(Debug)]
pub(super) struct Trace<'a> {
    pub(super) greeting: &'a Greeting,
    pub(super) client: IpAddr,
    pub(super) hostname: &'a str,
    pub(super) protocol: Protocol,
    /// Version and cipher.
    pub(super) tls: Option<&'a str>,
    pub(super) utf8: Utf8,
    pub(super) id: MessageId,
    /// Given only when it is the only one: the others' recipients are nobody's business.
    pub(super) recipient: Option<&'a str>,
    pub(super) at: Timestamp,
}

impl Trace<'_> {
    /// The line, folded, with its CRLFs.
    pub(super) fn line(&self) -> String {
        let mut line = format!("Received: from {} ({})", self.greeting.name, literal(self.client));
        // Writing to a string cannot fail.
        if let Some(tls) = self.tls {
            let _ = write!(line, "\r\n\t(using {tls})");
        }
        let _ = write!(line, "\r\n\tby {} (zrelay) with {} id {}", self.hostname, self.with(), self.id);
        if let Some(recipient) = self.recipient {
            let _ = write!(line, "\r\n\tfor <{recipient}>");
        }
        let _ = write!(line, ";\r\n\t{}\r\n", self.at.rfc5322());
        line
    }

    /// The names of RFC 3848 and RFC 6531 §4.3.
    fn with(&self) -> String {
        let tls = if self.tls.is_some() { "S" } else { "" };
        match (self.protocol, self.utf8, self.greeting.kind) {
            (Protocol::Smtp, Utf8::Allowed, _) => format!("UTF8SMTP{tls}"),
            (Protocol::Lmtp, Utf8::Allowed, _) => format!("UTF8LMTP{tls}"),
            (Protocol::Lmtp, Utf8::Refused, _) => format!("LMTP{tls}"),
            (Protocol::Smtp, Utf8::Refused, GreetingKind::Extended) => format!("ESMTP{tls}"),
            (Protocol::Smtp, Utf8::Refused, GreetingKind::Plain) => "SMTP".to_owned(),
        }
    }
}

/// RFC 5321 §4.1.3.
fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(change: impl FnOnce(&mut Trace<'_>)) -> String {
        let greeting = Greeting::new("client.example", GreetingKind::Extended);
        let mut trace = Trace {
            greeting: &greeting,
            client: "192.0.2.1".parse().unwrap(),
            hostname: "hub.example",
            protocol: Protocol::Smtp,
            tls: None,
            utf8: Utf8::Refused,
            id: MessageId(0xabc),
            recipient: None,
            at: Timestamp::from_secs(1_795_299_277),
        };
        change(&mut trace);
        trace.line()
    }

    #[test]
    fn the_line_is_folded_and_complete() {
        let text = line(|trace| trace.recipient = Some("a@b.example"));
        let mut lines = text.split("\r\n");
        assert_eq!(lines.next(), Some("Received: from client.example ([192.0.2.1])"));
        assert_eq!(lines.next(), Some("\tby hub.example (zrelay) with ESMTP id ABC"));
        assert_eq!(lines.next(), Some("\tfor <a@b.example>;"));
        assert!(lines.next().unwrap().starts_with("\tSat, 21 Nov 2026") || text.contains(" Nov 2026 "));
        assert_eq!(lines.next(), Some(""));
    }

    #[test]
    fn the_protocol_has_the_registered_name() {
        assert!(line(|trace| trace.tls = Some("TLSv1.3 with cipher X")).contains(" with ESMTPS id"));
        assert!(line(|trace| trace.utf8 = Utf8::Allowed).contains(" with UTF8SMTP id"));
        assert!(line(|trace| trace.protocol = Protocol::Lmtp).contains(" with LMTP id"));
        assert!(line(|trace| trace.client = "2001:db8::1".parse().unwrap()).contains("([IPv6:2001:db8::1])"));
    }

    #[test]
    fn a_name_cannot_forge_a_header() {
        assert_eq!(&*Greeting::new("a (b)\r\nX: c", GreetingKind::Plain).name, "a??b???X:?c");
        assert_eq!(&*Greeting::new("[127.0.0.1]", GreetingKind::Plain).name, "[127.0.0.1]");
        assert_eq!(&*Greeting::new("", GreetingKind::Plain).name, "unknown");
        assert_eq!(Greeting::new(&"é".repeat(1000), GreetingKind::Plain).name.len(), NAME_MAX);
    }
}

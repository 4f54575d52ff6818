//! What a server offers: the reply to EHLO or LHLO (RFC 5321 §4.1.1.1), read and written.

use std::borrow::Cow;

use crate::reply::Reply;

/// Most keywords that are kept in [`Capabilities::other`] and [`Capabilities::auth`].
const KEPT_MAX: usize = 64;

/// `LIMITS` (RFC 9422). `None`: not announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// `MAILMAX`: transactions in a session.
    pub mailmax: Option<u64>,
    /// `RCPTMAX`: recipients in a transaction.
    pub rcptmax: Option<u64>,
    /// `RCPTDOMAINMAX`: recipient domains in a transaction.
    pub rcptdomainmax: Option<u64>,
}

/// What a server offers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// The server's name, the first word of its first line.
    pub name: String,
    /// RFC 2920
    pub pipelining: bool,
    /// RFC 3030
    pub chunking: bool,
    /// RFC 1870: the largest message, octets. `Some(None)`: announced without a number, or as 0, which says that there
    /// is no fixed limit.
    pub size: Option<Option<u64>>,
    /// RFC 6152
    pub eight_bit_mime: bool,
    /// RFC 6531
    pub smtputf8: bool,
    /// RFC 3461
    pub dsn: bool,
    /// RFC 2034
    pub enhanced_status_codes: bool,
    /// RFC 3207
    pub starttls: bool,
    /// RFC 9422
    pub limits: Limits,
    /// Postfix's `XVERP`.
    pub xverp: bool,
    /// RFC 4954: mechanisms, in upper case.
    pub auth: Vec<String>,
    /// `HELP`
    pub help: bool,
    /// `VRFY`
    pub vrfy: bool,
    /// RFC 1985
    pub etrn: bool,
    /// RFC 6710: the priority assignment policy; empty when none is named.
    pub mt_priority: Option<String>,
    /// RFC 2852: the shortest time to deliver by with `R`, seconds; 0 when none is named.
    pub deliver_by: Option<u64>,
    /// Exim's early pipelining: commands may come before the greeting.
    pub pipeconnect: bool,
    /// Other lines as they came, at most 64.
    pub other: Vec<String>,
}

impl Capabilities {
    /// Reads the reply to EHLO. A reply to HELO, of one line, offers nothing.
    pub fn from_reply(reply: &Reply) -> Self {
        let mut lines = reply.lines.iter();
        let name = lines.next().and_then(|line| line.split_ascii_whitespace().next()).unwrap_or_default();
        let mut found = Self { name: name.to_owned(), ..Self::default() };
        lines.for_each(|line| found.read(line));
        found
    }

    fn read(&mut self, line: &str) {
        // smtp-sink ends its reply with an empty keyword.
        let mut words = line.split_ascii_whitespace();
        let Some(word) = words.next() else { return };
        let keyword = uppercase(word);
        match &*keyword {
            "PIPELINING" => self.pipelining = true,
            "CHUNKING" => self.chunking = true,
            "SIZE" => self.size = Some(words.next().and_then(positive)),
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "DSN" => self.dsn = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "STARTTLS" => self.starttls = true,
            "LIMITS" => words.for_each(|limit| self.limits.read(limit)),
            "XVERP" => self.xverp = true,
            "AUTH" => words.for_each(|mechanism| self.add_mechanism(mechanism)),
            "HELP" => self.help = true,
            "VRFY" => self.vrfy = true,
            "ETRN" => self.etrn = true,
            "MT-PRIORITY" => self.mt_priority = Some(words.next().unwrap_or_default().to_owned()),
            "DELIVERBY" => self.deliver_by = Some(words.next().and_then(positive).unwrap_or(0)),
            "PIPECONNECT" => self.pipeconnect = true,
            _ => match keyword.strip_prefix("AUTH=") {
                // The form of the drafts before RFC 2554: `AUTH=LOGIN PLAIN`.
                Some(first) => std::iter::once(first).chain(words).for_each(|mechanism| self.add_mechanism(mechanism)),
                None if self.other.len() < KEPT_MAX => self.other.push(line.trim_ascii().to_owned()),
                None => {}
            },
        }
    }

    fn add_mechanism(&mut self, mechanism: &str) {
        let mechanism = mechanism.to_ascii_uppercase();
        if !mechanism.is_empty() && self.auth.len() < KEPT_MAX && !self.auth.contains(&mechanism) {
            self.auth.push(mechanism);
        }
    }

    /// The lines of the reply to EHLO: the name with `greeting`, then the keywords.
    pub fn to_lines(&self, greeting: &str) -> Vec<String> {
        let first = if greeting.is_empty() { self.name.clone() } else { format!("{} {greeting}", self.name) };
        let mut lines = vec![first];
        let size = self.size.map(|size| size.map_or_else(|| "SIZE".to_owned(), |octets| format!("SIZE {octets}")));
        let flags = [
            (self.pipelining, "PIPELINING"),
            (self.chunking, "CHUNKING"),
            (self.eight_bit_mime, "8BITMIME"),
            (self.smtputf8, "SMTPUTF8"),
            (self.dsn, "DSN"),
            (self.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (self.starttls, "STARTTLS"),
            (self.xverp, "XVERP"),
            (self.vrfy, "VRFY"),
            (self.etrn, "ETRN"),
            (self.pipeconnect, "PIPECONNECT"),
            (self.help, "HELP"),
        ];
        lines.extend(flags.into_iter().filter(|(offered, _)| *offered).map(|(_, keyword)| keyword.to_owned()));
        lines.extend(size);
        lines.extend(self.limits.to_line());
        lines.extend(self.mt_priority.as_ref().map(|policy| format!("MT-PRIORITY {policy}").trim_end().to_owned()));
        lines.extend(
            self.deliver_by
                .map(|seconds| if seconds == 0 { "DELIVERBY".to_owned() } else { format!("DELIVERBY {seconds}") }),
        );
        lines.extend((!self.auth.is_empty()).then(|| format!("AUTH {}", self.auth.join(" "))));
        lines.extend(self.other.iter().cloned());
        lines
    }
}

impl Limits {
    /// `NAME=value`. What is unknown or no number is passed over, as RFC 9422 §4 asks.
    fn read(&mut self, limit: &str) {
        let Some((name, value)) = limit.split_once('=') else { return };
        let slot = match name.to_ascii_uppercase().as_str() {
            "MAILMAX" => &mut self.mailmax,
            "RCPTMAX" => &mut self.rcptmax,
            "RCPTDOMAINMAX" => &mut self.rcptdomainmax,
            _ => return,
        };
        *slot = positive(value).or(*slot);
    }

    fn to_line(self) -> Option<String> {
        let limits = [("MAILMAX", self.mailmax), ("RCPTMAX", self.rcptmax), ("RCPTDOMAINMAX", self.rcptdomainmax)];
        let limits: String =
            limits.into_iter().filter_map(|(name, value)| Some(format!(" {name}={}", value?))).collect();
        (!limits.is_empty()).then(|| format!("LIMITS{limits}"))
    }
}

/// In capitals, as keywords are nearly everywhere; those are not copied.
fn uppercase(word: &str) -> Cow<'_, str> {
    if word.bytes().any(|octet| octet.is_ascii_lowercase()) { word.to_ascii_uppercase().into() } else { word.into() }
}

/// A number above zero.
fn positive(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number > 0)
}

#[cfg(test)]
mod tests;

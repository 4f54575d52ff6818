//! The file as it is written: which keys there are and which notation each takes. Every value keeps its place, so
//! that a check that finds fault with it can point there.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use toml::Spanned;

/// A value that may be missing, with its place.
pub(crate) type Key<T> = Option<Spanned<T>>;

/// The keys outside of tables.
pub(crate) const TOP: [&str; 20] = [
    "access",
    "hostname",
    "spool",
    "control",
    "postmaster",
    "drain",
    "bounce_gather",
    "segment_size",
    "compaction_rate",
    "checkpoint_interval",
    "agents",
    "listen",
    "tls",
    "intake",
    "queue",
    "route",
    "thread",
    "source",
    "dns",
    "loops",
];

/// The whole file. Filled table by table (see `check.rs`), so that a mistake in one does not hide the next.
#[derive(Default)]
pub(crate) struct File {
    pub(crate) hostname: Key<String>,
    pub(crate) spool: Key<String>,
    pub(crate) control: Key<String>,
    pub(crate) postmaster: Key<String>,
    pub(crate) drain: Key<String>,
    pub(crate) bounce_gather: Key<String>,
    pub(crate) segment_size: Key<Size>,
    pub(crate) compaction_rate: Key<Size>,
    pub(crate) checkpoint_interval: Key<Size>,
    pub(crate) agents: Key<i64>,
    pub(crate) listen: Vec<Spanned<Listen>>,
    pub(crate) tls: Key<Tls>,
    pub(crate) intake: Intake,
    pub(crate) queue: Queue,
    pub(crate) route: Vec<Spanned<Route>>,
    pub(crate) thread: Vec<Spanned<Thread>>,
    pub(crate) access: Access,
    pub(crate) source: Vec<Spanned<Source>>,
    pub(crate) dns: Dns,
    pub(crate) loops: Loops,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    pub(crate) address: Spanned<String>,
    pub(crate) protocol: Key<String>,
    pub(crate) relay_from: Option<Vec<Spanned<String>>>,
    pub(crate) starttls: Key<bool>,
    pub(crate) priority: Key<i64>,
    pub(crate) tag: Key<String>,
    pub(crate) implicit_tls: Key<bool>,
    pub(crate) pipeconnect: Option<Vec<Spanned<String>>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    pub(crate) certificate: Spanned<String>,
    pub(crate) key: Spanned<String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Queue {
    pub(crate) memory: Key<Size>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intake {
    pub(crate) message_size: Key<Size>,
    pub(crate) recipients: Key<i64>,
    pub(crate) connections: Key<i64>,
    pub(crate) client_connections: Key<i64>,
    pub(crate) errors: Key<i64>,
    pub(crate) commands: Key<i64>,
    pub(crate) bare_newline: Key<String>,
    pub(crate) hops: Key<i64>,
    pub(crate) command_timeout: Key<String>,
    pub(crate) data_timeout: Key<String>,
    pub(crate) data_rate: Key<i64>,
    pub(crate) memory: Key<Size>,
    pub(crate) reserve: Key<Size>,
    pub(crate) flow: Key<String>,
    pub(crate) flow_header: Key<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub(crate) recipient: Key<String>,
    pub(crate) sender: Key<String>,
    pub(crate) channel: Spanned<String>,
    pub(crate) host: Key<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Thread {
    #[serde(rename = "match")]
    pub(crate) matches: Spanned<String>,
    pub(crate) thread_agents: Key<i64>,
    pub(crate) ring_agents: Key<i64>,
    pub(crate) weight: Key<i64>,
    pub(crate) priority: Key<i64>,
    pub(crate) channel_agents: Key<i64>,
    pub(crate) interval: Key<String>,
    pub(crate) retries: Key<Vec<Spanned<i64>>>,
    pub(crate) jitter: Key<f64>,
    pub(crate) expiry: Key<String>,
    pub(crate) delay_warning: Key<String>,
    pub(crate) tls: Key<String>,
    pub(crate) implicit_tls: Key<bool>,
    pub(crate) port: Key<i64>,
    pub(crate) source: Key<String>,
    pub(crate) recipients: Key<i64>,
    pub(crate) unacknowledged_messages: Key<i64>,
    pub(crate) unacknowledged_bytes: Key<Size>,
    pub(crate) pipelining: Key<String>,
    pub(crate) idle: Key<String>,
    pub(crate) connection_messages: Key<i64>,
    pub(crate) connection_age: Key<String>,
    pub(crate) connect_timeout: Key<String>,
    pub(crate) timeout: Key<String>,
    pub(crate) initial_agents: Key<i64>,
    pub(crate) ring_rates: Option<Rates>,
    pub(crate) clause_rates: Option<Rates>,
    pub(crate) reply: Option<Vec<Spanned<Reply>>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rates {
    pub(crate) connections: Key<String>,
    pub(crate) messages: Key<String>,
    pub(crate) recipients: Key<String>,
    pub(crate) bytes: Key<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reply {
    #[serde(rename = "match")]
    pub(crate) matches: Spanned<String>,
    pub(crate) class: Spanned<String>,
    pub(crate) suspend: Key<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) address: Spanned<String>,
    pub(crate) start: Spanned<String>,
    pub(crate) warm_up: Spanned<Vec<Spanned<i64>>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Access {
    pub(crate) read_only: Option<Vec<Spanned<String>>>,
    pub(crate) operator: Option<Vec<Spanned<String>>>,
    pub(crate) admin: Option<Vec<Spanned<String>>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dns {
    pub(crate) servers: Option<Vec<Spanned<String>>>,
    pub(crate) timeout: Key<String>,
    pub(crate) attempts: Key<i64>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Loops {
    pub(crate) intake: Key<i64>,
    pub(crate) transport: Key<i64>,
}

/// Octets: a number, or a text such as `"100MB"` or `"64KiB"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(pub(crate) u64);

const SIZE_UNITS: [(&str, u64); 8] = [
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("B", 1),
];

impl Size {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let unit = unit.strip_prefix(' ').unwrap_or(unit);
        let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1;
        number.parse::<u64>().ok()?.checked_mul(factor).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size: a number of octets, or a text like \"64KiB\" or \"100MB\"")
    }

    fn visit_i64<E: Error>(self, octets: i64) -> Result<Size, E> {
        u64::try_from(octets).map(Size).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(octets), &self))
    }

    fn visit_u64<E: Error>(self, octets: u64) -> Result<Size, E> {
        Ok(Size(octets))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
        Size::parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        assert_eq!(Size::parse("64KiB"), Some(Size(65_536)));
        assert_eq!(Size::parse("100 MB"), Some(Size(100_000_000)));
        assert_eq!(Size::parse("7B"), Some(Size(7)));
        for text in ["", "7", "KiB", "1.5MB", "-1MB", "1mb", "99999999999999999999GiB", "9999999999999GiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }
}

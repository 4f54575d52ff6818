//! Checks of single values: notation, unit, range.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use zrelay_clock::Span;

use super::Check;
use crate::Pattern;
use crate::error::Finding;
use crate::raw::Size;

pub(super) const ZERO: Duration = Duration::ZERO;
pub(super) const TENTH: Duration = Duration::from_millis(100);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);

impl Check<'_> {
    fn out_of_range(&mut self, name: &str, at: std::ops::Range<usize>, low: impl Display, high: impl Display) {
        self.find(Finding::new(at, format!("{name} is out of range")).help(format!("expected {low} to {high}")));
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        given: Option<&Spanned<i64>>,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let Some(given) = given else { return default.min(*range.end()) };
        match u32::try_from(*given.get_ref()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.out_of_range(name, given.span(), range.start(), range.end());
                default
            }
        }
    }

    pub(super) fn size(
        &mut self,
        name: &str,
        given: Option<&Spanned<Size>>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(given) = given else { return default };
        let octets = given.get_ref().0;
        if !range.contains(&octets) {
            self.out_of_range(name, given.span(), octets_text(*range.start()), octets_text(*range.end()));
            return default;
        }
        octets
    }

    pub(super) fn span(
        &mut self,
        name: &str,
        given: Option<&Spanned<String>>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(given) = given else { return default };
        match given.get_ref().parse::<Span>() {
            Ok(Span(duration)) if range.contains(&duration) => duration,
            Ok(_) => {
                self.out_of_range(name, given.span(), Span(*range.start()), Span(*range.end()));
                default
            }
            Err(error) => {
                self.find(Finding::new(given.span(), format!("{name} is not a duration")).help(error.to_string()));
                default
            }
        }
    }

    pub(super) fn tag(&mut self, given: &Spanned<String>) -> Option<String> {
        let tag = given.get_ref();
        if tag.is_empty() || tag.len() > 100 || tag.chars().any(char::is_control) {
            self.find(Finding::new(given.span(), "unusable tag").help("expected a name of 1 to 100 octets"));
            return None;
        }
        Some(tag.clone())
    }

    /// The name of a header field (RFC 5322 §2.2), in lower case with its colon.
    pub(super) fn header_name(&mut self, name: &str, given: &Spanned<String>) -> Option<Arc<str>> {
        let field = given.get_ref();
        if field.is_empty() || field.len() > 76 || !field.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':')
        {
            let help = "expected a name without its colon, such as \"X-Campaign\"";
            self.find(Finding::new(given.span(), format!("{name} is not the name of a header field")).help(help));
            return None;
        }
        Some(format!("{}:", field.to_ascii_lowercase()).into())
    }

    /// RFC 6710 §4.
    pub(super) fn priority(&mut self, given: Option<&Spanned<i64>>, default: i8) -> i8 {
        let Some(given) = given else { return default };
        match i8::try_from(*given.get_ref()) {
            Ok(priority) if (-9..=9).contains(&priority) => priority,
            _ => {
                self.out_of_range("priority", given.span(), -9, 9);
                default
            }
        }
    }

    pub(super) fn jitter(&mut self, given: Option<&Spanned<f64>>, default: f64) -> f64 {
        let Some(given) = given else { return default };
        if !(0.0..=1.0).contains(given.get_ref()) {
            self.out_of_range("jitter", given.span(), "0.0", "1.0");
            return default;
        }
        *given.get_ref()
    }

    pub(super) fn port(&mut self, given: Option<&Spanned<i64>>, default: u16) -> u16 {
        let port = self.number("port", given, u32::from(default), 1..=65_535);
        u16::try_from(port).unwrap_or(default)
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &str,
        given: Option<&Spanned<String>>,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let Some(given) = given else { return default };
        if let Some((_, chosen)) = choices.iter().find(|(word, _)| word == given.get_ref()) {
            return *chosen;
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.find(
            Finding::new(given.span(), format!("unknown value of {name}"))
                .help(format!("expected one of {}", words.join(", "))),
        );
        default
    }

    pub(super) fn path(&mut self, name: &str, given: Option<&Spanned<String>>, default: &str) -> PathBuf {
        let Some(given) = given else { return PathBuf::from(default) };
        if given.get_ref().is_empty() || given.get_ref().contains('\0') {
            self.find(Finding::new(given.span(), format!("{name} is not a path")).help("expected the path of a file"));
        }
        PathBuf::from(given.get_ref())
    }

    pub(super) fn pattern(&mut self, name: &str, given: &Spanned<String>) -> Option<Pattern> {
        Pattern::new(given.get_ref())
            .map_err(|error| {
                self.find(Finding::new(given.span(), format!("unusable pattern in {name}")).help(error.to_string()));
            })
            .ok()
    }

    pub(super) fn address(&mut self, name: &str, given: &Spanned<String>) -> Option<IpAddr> {
        given
            .get_ref()
            .parse()
            .map_err(|_| {
                self.find(
                    Finding::new(given.span(), format!("{name} is not an address"))
                        .help("expected an IPv4 or IPv6 address like \"192.0.2.1\" or \"2001:db8::1\""),
                );
            })
            .ok()
    }

    /// An address with its port; without one when there is a usual port.
    pub(super) fn socket(&mut self, name: &str, given: &Spanned<String>, usual: Option<u16>) -> Option<SocketAddr> {
        let text = given.get_ref();
        if let Ok(socket) = text.parse() {
            return Some(socket);
        }
        if let (Some(port), Ok(address)) = (usual, text.parse()) {
            return Some(SocketAddr::new(address, port));
        }
        let example = match usual {
            Some(_) => "\"192.0.2.53\", \"192.0.2.53:53\" or \"[2001:db8::53]:53\"",
            None => "\"127.0.0.1:2525\" or \"[::1]:2525\"",
        };
        self.find(
            Finding::new(given.span(), format!("{name} is not an address with a port"))
                .help(format!("expected an address like {example}; names are not looked up here")),
        );
        None
    }

    /// A network; an address alone is a network of one.
    pub(super) fn network(&mut self, given: &Spanned<String>) -> Option<IpNet> {
        let text = given.get_ref();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(IpNet::from(address));
        }
        let Ok(network) = text.parse::<IpNet>() else {
            self.find(
                Finding::new(given.span(), "not a network")
                    .help("expected a network like \"10.0.0.0/8\" or \"2001:db8::/32\", or one address"),
            );
            return None;
        };
        if network.trunc() != network {
            self.find(
                Finding::new(given.span(), "an address with a prefix length that cuts it")
                    .help(format!("expected the network {:?}, or the address alone", network.trunc().to_string())),
            );
        }
        Some(network)
    }
}

fn octets_text(octets: u64) -> String {
    for (unit, length) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if octets >= length && octets.is_multiple_of(length) {
            return format!("{}{unit}", octets / length);
        }
    }
    octets.to_string()
}

//! Checks of what sets the pace of clauses and sources: rates, replies, warm-up.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::Spanned;
use zrelay_clock::Timestamp;

use super::{Check, value};
use crate::error::Finding;
use crate::{Pattern, Rate, RateError, Rates, ReplyClass, ReplyRule, WarmUp, raw};

/// Days of a warm-up at most: a year.
const WARM_UP_DAYS_MAX: usize = 366;

impl Check<'_> {
    pub(super) fn rates(&mut self, given: Option<&raw::Rates>) -> Rates {
        let Some(given) = given else { return Rates::default() };
        Rates {
            connections: self.rate("connections", given.connections.as_ref(), Unit::Count),
            messages: self.rate("messages", given.messages.as_ref(), Unit::Count),
            recipients: self.rate("recipients", given.recipients.as_ref(), Unit::Count),
            bytes: self.rate("bytes", given.bytes.as_ref(), Unit::Octets),
        }
    }

    fn rate(&mut self, name: &str, given: Option<&Spanned<String>>, unit: Unit) -> Option<Rate> {
        let given = given?;
        let text = given.get_ref();
        let sized = text.split('/').next().is_some_and(|amount| amount.bytes().any(|c| !c.is_ascii_digit()));
        let rate = match unit {
            Unit::Count if sized => Err(RateError),
            Unit::Count | Unit::Octets => text.parse(),
        };
        rate.map_err(|error: RateError| {
            self.find(Finding::new(given.span(), format!("{name} is not a rate")).help(error.to_string()));
        })
        .ok()
    }

    pub(super) fn reply_rule(&mut self, given: &raw::Reply) -> Option<ReplyRule> {
        let matches = Pattern::over_text(given.matches.get_ref()).map_err(|error| {
            let help = format!("{error}; an example: \"450 4.7.1 *too much mail*\"");
            self.find(Finding::new(given.matches.span(), "unusable pattern in reply").help(help));
        });
        let class = self.choice("class", Some(&given.class), ReplyClass::Recipient, &ReplyClass::NAMES);
        let suspend = given
            .suspend
            .as_ref()
            .map(|span| self.span("suspend", Some(span), value::MINUTE, value::SECOND..=value::DAY));
        Some(ReplyRule { matches: matches.ok()?, class, suspend })
    }

    pub(super) fn sources(&mut self, given: Vec<Spanned<raw::Source>>) -> Vec<WarmUp> {
        let mut seen: HashMap<IpAddr, usize> = HashMap::new();
        given.into_iter().filter_map(|source| self.source(source.get_ref(), &mut seen)).collect()
    }

    fn source(&mut self, given: &raw::Source, seen: &mut HashMap<IpAddr, usize>) -> Option<WarmUp> {
        let address = self.address("address", &given.address)?;
        let line = self.line_of(given.address.span().start);
        if let Some(first) = seen.insert(address, line) {
            self.find(
                Finding::new(given.address.span(), "two sources with one address")
                    .label(format!("already given in line {first}")),
            );
        }
        let start = Timestamp::from_date(given.start.get_ref());
        if start.is_none() {
            self.find(
                Finding::new(given.start.span(), "start is not a date").help("expected a day like \"2026-11-22\""),
            );
        }
        let days = given.warm_up.get_ref();
        if days.is_empty() || days.len() > WARM_UP_DAYS_MAX {
            self.find(
                Finding::new(given.warm_up.span(), "a warm-up without a day, or with more than a year of them")
                    .help("expected recipients per day, such as [50, 100, 500, 1000, 5000]"),
            );
        }
        let days = days.iter().map(|day| self.number("warm_up", Some(day), 1, 1..=1_000_000_000)).collect();
        Some(WarmUp { address, start: start?, days })
    }
}

/// What a rate counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Count,
    Octets,
}

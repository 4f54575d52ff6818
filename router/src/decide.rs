//! The decision on one recipient.

use zrelay_config::{Pattern, Route, host};
use zrelay_spool::ThreadKey;

use crate::{BAD_DOMAIN, NO_HOST, NO_POSTMASTER, REFUSED, Router};

/// What was found out about a domain, once for all recipients there.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    /// In its one form; `None` when it is no domain.
    pub(crate) name: Option<String>,
    /// As patterns may also spell it.
    pub(crate) other: Option<String>,
}

impl Domain {
    pub(crate) fn of(given: &str) -> Self {
        Self { name: host::domain_or_literal(given).ok(), other: host::other_spelling(given) }
    }
}

/// Local part and domain. The domain of a bare `postmaster` is empty.
pub(crate) fn split(address: &str) -> (&str, &str) {
    address.rsplit_once('@').unwrap_or((address, ""))
}

/// RFC 5321 §4.1.1.3: `postmaster` without a domain.
pub(crate) fn is_bare_postmaster(address: &str) -> bool {
    address.eq_ignore_ascii_case("postmaster")
}

/// Which rule decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Rule {
    /// A `[[route]]`, by its position.
    Route(usize),
    /// None: the recipient's domain.
    Default,
}

impl Router {
    pub(crate) fn rule(&self, address: &str, domain: &Domain, sender: &str) -> Rule {
        let found = self.routes.iter().position(|route| {
            matches_recipient(route.recipient.as_ref(), address, domain)
                && route.sender.as_ref().is_none_or(|pattern| pattern.matches_address(sender))
        });
        found.map_or(Rule::Default, Rule::Route)
    }

    pub(crate) fn thread(&self, rule: Rule, domain: &Domain) -> ThreadKey {
        let route = match rule {
            Rule::Route(at) => self.routes.get(at),
            Rule::Default => None,
        };
        match route {
            Some(route) => by_route(route, domain),
            None => next_hop("smtp", domain),
        }
    }

    /// A bare `postmaster` goes where the hub's postmaster has his mailbox: every mail system takes that name without a
    /// domain.
    pub(crate) fn postmaster_domain(&self) -> Option<&str> {
        self.postmaster.as_deref().map(|address| split(address).1)
    }
}

pub(crate) fn matches_recipient(pattern: Option<&Pattern>, address: &str, domain: &Domain) -> bool {
    let Some(pattern) = pattern else { return true };
    if pattern.matches_address(address) {
        return true;
    }
    let Some(other) = &domain.other else { return false };
    pattern.matches_address(&format!("{}@{other}", split(address).0))
}

fn by_route(route: &Route, domain: &Domain) -> ThreadKey {
    match (route.channel.as_str(), &route.host) {
        (channel, Some(host)) => ThreadKey::new(channel, host),
        ("error", None) => ThreadKey::new("error", REFUSED),
        (channel @ ("smtp" | "lmtp"), None) => next_hop(channel, domain),
        (channel, None) => ThreadKey::new(channel, domain.name.as_deref().unwrap_or(NO_HOST)),
    }
}

fn next_hop(channel: &str, domain: &Domain) -> ThreadKey {
    match &domain.name {
        Some(name) => ThreadKey::new(channel, name),
        None => ThreadKey::new("error", BAD_DOMAIN),
    }
}

pub(crate) fn no_postmaster() -> ThreadKey {
    ThreadKey::new("error", NO_POSTMASTER)
}

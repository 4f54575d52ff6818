//! From names to addresses in the order in which they are tried.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use zrelay_agent::Release;
use zrelay_dns::{DnsError, Target};
use zrelay_spool::{Diagnostic, Status};

use super::hop::Hop;

/// Addresses of one host that are tried in one lease; Postfix's `smtp_mx_address_limit`.
pub(crate) const ADDRESSES_MAX: usize = 5;

/// One address to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    /// The exchange's name, or the address in brackets' stead.
    pub(crate) name: Arc<str>,
    /// Address and port.
    pub(crate) address: SocketAddr,
    /// The exchange's preference; `None` for an address that is not one of several.
    pub(crate) preference: Option<u16>,
}

impl Candidate {
    /// `name[address]:port`, as the logs name a peer.
    pub(crate) fn peer(&self) -> String {
        format!("{}[{}]:{}", self.name, self.address.ip(), self.address.port())
    }
}

/// A cheap source of order, seeded so that a run can be repeated.
#[derive(Debug)]
pub(crate) struct Shuffle(u64);

impl Shuffle {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % (bound as u64).max(1)).unwrap_or(0)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// The addresses to try: exchanges by preference, in random order within one (RFC 5321 §5.1), of the family of `source`
/// if one is given.
pub(crate) fn candidates(mut target: Target, port: u16, source: Option<IpAddr>, dice: &mut Shuffle) -> Vec<Candidate> {
    target.exchanges.sort_by_key(|exchange| exchange.preference);
    for equals in target.exchanges.chunk_by_mut(|one, other| one.preference == other.preference) {
        dice.shuffle(equals);
    }
    let mut candidates = Vec::new();
    for exchange in target.exchanges {
        let name: Arc<str> = exchange.name.into();
        let fitting = exchange
            .addresses
            .into_iter()
            .filter(|address| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4()));
        candidates.extend(by_turns(fitting.collect()).into_iter().map(|address| Candidate {
            name: Arc::clone(&name),
            address: SocketAddr::new(address, port),
            preference: Some(exchange.preference),
        }));
    }
    candidates.truncate(ADDRESSES_MAX);
    candidates
}

/// The families by turns (RFC 8305 §4), that of the first address first, each in the order given.
fn by_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv4() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    loop {
        let before = turns.len();
        turns.extend(one.next());
        turns.extend(other.next());
        if turns.len() == before {
            return turns;
        }
    }
}

/// What a failed look-up means for the thread.
pub(crate) fn release(hop: &Hop, host: &str, error: &DnsError) -> Release {
    let (class, subject, detail) = error.status();
    let text = format!("{error} for {host}");
    match hop {
        // A domain that does not exist takes no mail, ever.
        Hop::Domain(_) if !error.is_temporary() => {
            Release::Rejected(Arc::new(Diagnostic::local(Status(class, subject, detail), text)))
        }
        // A host that an operator wrote down is an error in the configuration or in the zone: both get repaired.
        _ => Release::Failed(Arc::new(Diagnostic::local(Status(4, subject, detail), text))),
    }
}

#[cfg(test)]
mod tests {
    use zrelay_dns::Exchange;

    use super::*;

    fn exchange(preference: u16, name: &str, addresses: &[&str]) -> Exchange {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Exchange { preference, name: name.into(), addresses }
    }

    fn target() -> Target {
        let exchanges = vec![
            exchange(20, "c", &["192.0.2.3"]),
            exchange(10, "a", &["2001:db8::1", "192.0.2.1"]),
            exchange(10, "b", &["192.0.2.2"]),
        ];
        Target { site: "a,b,c".into(), exchanges }
    }

    #[test]
    fn preference_decides_and_chance_within_it() {
        let mut firsts = std::collections::BTreeSet::new();
        let mut dice = Shuffle::new(42);
        for _ in 0..50 {
            let order = candidates(target(), 25, None, &mut dice);
            assert_eq!(order.len(), 4);
            assert_eq!(order[3].peer(), "c[192.0.2.3]:25");
            firsts.insert(order[0].name.to_string());
        }
        assert_eq!(firsts.len(), 2, "both of one preference come first at times");
    }

    #[test]
    fn families_take_turns() {
        let order = |texts: &[&str]| {
            let addresses = by_turns(texts.iter().map(|text| text.parse().unwrap()).collect());
            addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(&["::1", "::2", "::3", "10.0.0.1", "10.0.0.2"]), "::1 10.0.0.1 ::2 10.0.0.2 ::3");
        assert_eq!(order(&["10.0.0.1", "10.0.0.2", "::1"]), "10.0.0.1 ::1 10.0.0.2");
        assert_eq!(order(&[]), "");
    }

    #[test]
    fn a_source_address_decides_the_family() {
        let source = Some("192.0.2.99".parse().unwrap());
        let order = candidates(target(), 25, source, &mut Shuffle::new(1));
        assert!(order.iter().all(|candidate| candidate.address.is_ipv4()));
    }

    #[test]
    fn names_that_do_not_exist_fail_domains_for_good_and_configured_hosts_for_now() {
        let gone = DnsError::NoSuchDomain;
        let domain = Hop::parse("example.net").unwrap();
        assert!(
            matches!(release(&domain, "example.net", &gone), Release::Rejected(why) if why.status == Status(5, 1, 2))
        );
        let host = Hop::parse("[example.net]").unwrap();
        assert!(matches!(release(&host, "[example.net]", &gone), Release::Failed(_)));
        let later = DnsError::Temporary("timed out".into());
        assert!(matches!(release(&domain, "example.net", &later), Release::Failed(_)));
    }
}

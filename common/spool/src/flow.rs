//! Flows: whose mail it is, as far as fairness is concerned.

use crc32fast::Hasher;

/// Whose mail a batch is: mail of one flow takes turns with that of others where both wait for the same next hop.
///
/// The flow of a sender is its domain, whatever its case: the thousand senders that a list makes of its bounce address
/// (VERP) are one flow, and so is everything that one organisation sends. The null sender is a flow of its own. It is a
/// hash of 32 bits: two domains that collide share their turns, and nothing worse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Flow(pub u32);

impl Flow {
    /// The flow of this name, whatever its case: a list's, a listener's, or what a header says.
    pub fn named(name: &str) -> Self {
        let mut hasher = Hasher::new();
        for octet in name.bytes() {
            hasher.update(&[octet.to_ascii_lowercase()]);
        }
        Self(hasher.finalize())
    }

    /// The flow of an envelope sender, given without brackets; empty for the null sender.
    pub fn of_sender(sender: &str) -> Self {
        let domain = sender.rsplit_once('@').map_or(sender, |(_, domain)| domain);
        Self::named(domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_of_one_domain_are_one_flow_whatever_their_local_parts_and_case() {
        let list = Flow::of_sender("list-bounces+ann=example.org@lists.example.net");
        assert_eq!(list, Flow::of_sender("list-bounces+bob=example.com@LISTS.example.NET"));
        assert_eq!(list, Flow::of_sender("\"odd@local\"@lists.example.net"));
        assert_ne!(list, Flow::of_sender("noreply@example.net"));
        assert_ne!(list, Flow::of_sender(""));
        assert_eq!(Flow::of_sender(""), Flow::default());
    }
}

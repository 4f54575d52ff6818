//! Whose mail a message is and how urgent: what MAIL, header, listener and configuration say of it.

use zrelay_config::FlowKey;
use zrelay_spool::{Flow, Handling};

use super::Session;
use super::header::HeaderScan;
use super::transaction::Transaction;

impl Session {
    /// What is stored with the message beside its envelope.
    ///
    /// The parameter of MAIL goes before the field `MT-Priority`, and both before the listener's own priority. Whose mail
    /// it is, the listener's tag says, else the configured field, else its list, else its sender's domain.
    pub(super) fn handling(&self, transaction: &Transaction, header: &HeaderScan) -> Handling {
        Handling {
            flow: self.flow(transaction, header),
            priority: transaction.priority.or_else(|| header.priority()).unwrap_or(self.policy.priority),
            deliver_by: transaction.deliver_by,
        }
    }

    fn flow(&self, transaction: &Transaction, header: &HeaderScan) -> Option<Flow> {
        if let Some(tag) = &self.policy.tag {
            return Some(Flow::named(tag));
        }
        let wanted = header.wanted();
        if !wanted.is_empty() {
            return Some(Flow::named(&wanted));
        }
        if self.policy.limits.flow == FlowKey::SenderDomain {
            return None;
        }
        let list = header.list_id();
        if !list.is_empty() {
            return Some(Flow::named(&list));
        }
        let sender = transaction.from.address().map(|_| list_of(transaction.from.as_str()))?;
        Some(Flow::named(&sender))
    }
}

/// The sender without what a list manager puts into it for each subscriber (VERP): `list-bounces+ann=example.org@l` is
/// `list-bounces@l`, and so is `list-bounces-ann=example.org@l`.
fn list_of(sender: &str) -> String {
    let Some((local, domain)) = sender.rsplit_once('@') else { return sender.to_owned() };
    let list = match (local.split_once('+'), local.split_once('=')) {
        (Some((list, _)), _) => list,
        (None, Some((before, _))) => before.rsplit_once('-').map_or(local, |(list, _)| list),
        (None, None) => local,
    };
    format!("{list}@{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_senders_that_a_list_makes_are_one() {
        for sender in ["l-bounces+ann=example.org@x", "l-bounces-bob=example.com@x", "l-bounces@x"] {
            assert_eq!(list_of(sender), "l-bounces@x", "{sender}");
        }
        assert_eq!(list_of("talk+bounces-123-ann=example.org@x"), "talk@x");
        assert_eq!(list_of("a=b@x"), "a=b@x");
        assert_eq!(list_of("odd"), "odd");
    }
}

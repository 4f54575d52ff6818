//! Who is told of what.

use std::collections::BTreeMap;

use zrelay_spool::Disposition;

use crate::{Item, Original, Ripe};

/// Recipients in one report. One report per message and sender is the rule; beyond this number it would be longer than
/// many systems accept, and what is left gets the next one.
pub const RECIPIENTS_MAX: usize = 10_000;

/// Who is told.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Addressee {
    /// The envelope sender.
    Sender(String),
    /// The postmaster, since the sender is null.
    Postmaster(String),
}

impl Addressee {
    /// The address.
    pub fn address(&self) -> &str {
        match self {
            Self::Sender(address) | Self::Postmaster(address) => address,
        }
    }
}

/// What to do about a ripe message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Reports to be made, each with what it tells, ascending by recipient.
    pub notices: Vec<(Addressee, Vec<Item>)>,
    /// What nobody is told of but the log.
    pub unsent: Vec<Item>,
}

/// Divides what is owed by addressee. Senders come in the order of their addresses.
pub fn plan(original: &impl Original, ripe: Ripe, postmaster: Option<&str>) -> Plan {
    // News of delays is a notice of its own: it settles nothing, and says that nothing is to be done.
    let mut groups: BTreeMap<(bool, Addressee), Vec<Item>> = BTreeMap::new();
    let mut plan = Plan::default();
    for item in ripe.items {
        match addressee(original, &item, postmaster) {
            Some(addressee) => groups.entry((is_delay(&item), addressee)).or_default().push(item),
            // Nobody waits for it.
            None if is_delay(&item) => {}
            None => plan.unsent.push(item),
        }
    }
    for ((_, addressee), items) in groups {
        for part in items.chunks(RECIPIENTS_MAX) {
            plan.notices.push((addressee.clone(), part.to_vec()));
        }
    }
    plan
}

/// Whether it tells of a delay alone.
pub(crate) fn is_delay(item: &Item) -> bool {
    item.disposition == Disposition::Delayed
}

fn addressee(original: &impl Original, item: &Item, postmaster: Option<&str>) -> Option<Addressee> {
    // Operators drop without a report, and a deferral is no news yet.
    if matches!(item.disposition, Disposition::Dropped | Disposition::Deferred) {
        return None;
    }
    let recipient = original.recipient(item.recipient);
    let sender = original.sender(recipient.sender);
    if !sender.is_empty() {
        return Some(Addressee::Sender(sender.to_owned()));
    }
    // RFC 3461 §8: what fails for a null sender is the postmaster's business, and nobody's when it was for him.
    let postmaster = postmaster.filter(|postmaster| !recipient.address.eq_ignore_ascii_case(postmaster))?;
    matches!(item.disposition, Disposition::Failed | Disposition::Expired)
        .then(|| Addressee::Postmaster(postmaster.to_owned()))
}

//! All recipients of a message at once: duplicates out, the others into batches.
//!
//! Every recipient costs one look-up of its domain and one of itself; the rules are asked once per domain unless they
//! look at local parts or senders. Nothing is copied but one key per batch.
//!
//! A batch is what the scheduler hands out at once and what a crash may double, so it is not to be larger than what goes
//! out at once: see [`crate::slice`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use zrelay_spool::{RoutedBatch, ThreadKey};

use crate::Router;
use crate::decide::{Domain, Rule, is_bare_postmaster, no_postmaster, split};
use crate::slice::{Group, Groups};

/// A recipient as it was submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Submitted<'a> {
    /// Its index in the message's envelope.
    pub index: u32,
    /// The forward path without brackets.
    pub address: &'a str,
    /// The reverse path without brackets; empty for the null sender.
    pub sender: &'a str,
}

/// A recipient that is another one's equal: same address (the local part as written, the domain whatever its case or
/// spelling) and same sender. The first keeps its DSN parameters and gets the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Duplicate {
    /// Its index.
    pub recipient: u32,
    /// The index of the one that stays.
    pub of: u32,
    /// The position of the batch that holds that one.
    pub batch: u32,
}

/// What became of a message's recipients: each is in exactly one batch, or is a duplicate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routing {
    /// Recipients ascending, batches in the order of their first recipients. Many recipients of one thread are several
    /// batches.
    pub batches: Vec<RoutedBatch>,
    /// Ascending.
    pub duplicates: Vec<Duplicate>,
}

/// Position of a domain in [`Work::domains`].
type DomainAt = usize;

struct Work<'a> {
    router: &'a Router,
    by_text: HashMap<&'a str, DomainAt>,
    by_name: HashMap<String, DomainAt>,
    domains: Vec<(Domain, Option<Group>)>,
    /// What identifies a recipient, and where the first of its kind is: index and batch.
    seen: HashMap<(DomainAt, &'a str, &'a str), (u32, usize)>,
    by_rule: HashMap<(Rule, DomainAt), Group>,
    groups: Groups<'a>,
    duplicates: Vec<Duplicate>,
}

impl Router {
    /// Routes the recipients of one message, given in ascending order of their indices. The same input gives the same
    /// output, so that a message whose routing was lost with a crash is routed again without harm. `size`: octets of the
    /// message.
    pub fn route<'a>(&'a self, size: u64, recipients: impl IntoIterator<Item = Submitted<'a>>) -> Routing {
        let recipients = recipients.into_iter();
        let mut work = Work {
            router: self,
            by_text: HashMap::new(),
            by_name: HashMap::new(),
            domains: Vec::new(),
            seen: HashMap::with_capacity(recipients.size_hint().0),
            by_rule: HashMap::new(),
            groups: Groups::new(&self.clauses, size, self.standing.get()),
            duplicates: Vec::new(),
        };
        recipients.for_each(|recipient| work.add(recipient));
        Routing { batches: work.groups.into_batches(), duplicates: work.duplicates }
    }
}

impl<'a> Work<'a> {
    fn add(&mut self, recipient: Submitted<'a>) {
        let (local, domain_text) = split(recipient.address);
        let bare = domain_text.is_empty() && is_bare_postmaster(recipient.address);
        // A bare name has no `@` and so cannot be taken for the local part of an empty domain.
        let local = if bare { "postmaster" } else { local };
        let domain = self.domain(domain_text);
        let known = self.domains.get(domain).and_then(|(_, group)| *group).filter(|_| !bare);
        let group = known.unwrap_or_else(|| self.decide(recipient, domain, bare));
        let group = self.groups.apart(group, recipient);
        match self.seen.entry((domain, local, recipient.sender)) {
            Entry::Occupied(first) => {
                let (of, batch) = *first.get();
                let batch = u32::try_from(batch).unwrap_or(u32::MAX);
                self.duplicates.push(Duplicate { recipient: recipient.index, of, batch });
            }
            Entry::Vacant(entry) => {
                entry.insert((recipient.index, self.groups.add(group, recipient.index, recipient.sender)));
            }
        }
    }

    fn domain(&mut self, text: &'a str) -> DomainAt {
        if let Some(at) = self.by_text.get(text) {
            return *at;
        }
        let domain = Domain::of(text);
        let fresh = self.domains.len();
        let at = match &domain.name {
            Some(name) => *self.by_name.entry(name.clone()).or_insert(fresh),
            None => fresh,
        };
        if at == fresh {
            self.domains.push((domain, None));
        }
        self.by_text.insert(text, at);
        at
    }

    /// Where a recipient goes whose domain does not tell yet.
    fn decide(&mut self, recipient: Submitted<'a>, at: DomainAt, bare: bool) -> Group {
        if bare {
            let thread = self.postmaster_thread(recipient);
            return self.groups.of(thread);
        }
        let Some((domain, _)) = self.domains.get(at) else { return self.groups.of(no_postmaster()) };
        let rule = self.router.rule(recipient.address, domain, recipient.sender);
        if let Some(group) = self.by_rule.get(&(rule, at)) {
            return *group;
        }
        let thread = self.router.thread(rule, domain);
        let group = self.groups.of(thread);
        self.by_rule.insert((rule, at), group);
        if self.router.by_domain
            && let Some((_, known)) = self.domains.get_mut(at)
        {
            *known = Some(group);
        }
        group
    }

    fn postmaster_thread(&self, recipient: Submitted<'_>) -> ThreadKey {
        let Some(domain) = self.router.postmaster_domain() else { return no_postmaster() };
        let found = Domain::of(domain);
        let rule = self.router.rule(&format!("postmaster@{domain}"), &found, recipient.sender);
        self.router.thread(rule, &found)
    }
}

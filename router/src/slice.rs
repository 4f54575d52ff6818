//! Slices: a post to a hundred thousand recipients of one thread is not one batch but many.
//!
//! A batch is what the scheduler hands to an agent at once. All of it may be under way when a connection breaks, and
//! nothing else of its thread can overtake it there. So a batch ends where the thread's clause says that enough is under
//! way: at `recipients`, the most that fit one transaction, or, since each envelope sender is a transaction of its own,
//! at `unacknowledged_messages` senders, or at as many as send `unacknowledged_bytes` of this message. The next
//! recipient begins the next batch. Slicing here, before the decision is stored, leaves every later room with small
//! batches and nothing new to know; the price is that slices stay slices when only some of their recipients are left.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use zrelay_config::{Clause, defaults};
use zrelay_holds::Terms;
use zrelay_spool::{RoutedBatch, ThreadKey};

use crate::Submitted;

/// The recipients of a message that go to one thread: position in [`Groups`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Group(usize);

/// All batches of a message in the making.
pub(crate) struct Groups<'a> {
    clauses: &'a [Arc<Clause>],
    /// Holds that stand.
    holds: Arc<[Arc<Terms>]>,
    /// Octets of the message.
    size: u64,
    by_thread: HashMap<ThreadKey, Group>,
    groups: Vec<Open<'a>>,
    batches: Vec<RoutedBatch>,
}

/// A group and its latest batch, which may have room.
struct Open<'a> {
    thread: ThreadKey,
    /// Holds that can be for some of its recipients.
    holds: Vec<Arc<Terms>>,
    /// Where these are kept.
    held: Option<Group>,
    limits: Limits,
    batch: Option<usize>,
    senders: HashSet<&'a str>,
    last: &'a str,
}

#[derive(Clone, Copy)]
struct Limits {
    recipients: usize,
    senders: usize,
}

impl Limits {
    fn of(clauses: &[Arc<Clause>], thread: &ThreadKey, size: u64) -> Self {
        let name = thread.to_string();
        let clause = clauses.iter().find(|clause| clause.matches.matches(&name));
        let recipients = clause.map_or(defaults::RECIPIENTS, |clause| clause.recipients);
        let messages = clause.map_or(defaults::UNACKNOWLEDGED_MESSAGES, |clause| clause.unacknowledged_messages);
        let bytes = clause.map_or(defaults::UNACKNOWLEDGED_BYTES, |clause| clause.unacknowledged_bytes);
        let senders = u64::from(messages).min(bytes / size.max(1));
        let at_least_one = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        Self { recipients: at_least_one(recipients.into()), senders: at_least_one(senders) }
    }
}

impl<'a> Groups<'a> {
    pub(crate) fn new(clauses: &'a [Arc<Clause>], size: u64, holds: Arc<[Arc<Terms>]>) -> Self {
        Self { clauses, holds, size, by_thread: HashMap::new(), groups: Vec::new(), batches: Vec::new() }
    }

    /// The group of a thread.
    pub(crate) fn of(&mut self, thread: ThreadKey) -> Group {
        if let Some(group) = self.by_thread.get(&thread) {
            return *group;
        }
        let limits = Limits::of(self.clauses, &thread, self.size);
        let mut holds = Vec::new();
        if !self.holds.is_empty() {
            let name = thread.to_string();
            holds.extend(self.holds.iter().filter(|terms| terms.admits_thread(&name)).cloned());
        }
        let group = self.open(thread.clone(), limits, holds);
        self.by_thread.insert(thread, group);
        group
    }

    fn open(&mut self, thread: ThreadKey, limits: Limits, holds: Vec<Arc<Terms>>) -> Group {
        let group = Group(self.groups.len());
        self.groups.push(Open { thread, holds, held: None, limits, batch: None, senders: HashSet::new(), last: "" });
        group
    }

    /// The group for this recipient of a group: that of the held ones, if a hold is for it.
    pub(crate) fn apart(&mut self, group: Group, recipient: Submitted<'_>) -> Group {
        let Some(open) = self.groups.get(group.0).filter(|open| !open.holds.is_empty()) else { return group };
        if !open.holds.iter().any(|terms| terms.admits_address(recipient.sender, recipient.address)) {
            return group;
        }
        if let Some(held) = open.held {
            return held;
        }
        let (thread, limits) = (open.thread.clone(), open.limits);
        let held = self.open(thread, limits, Vec::new());
        if let Some(open) = self.groups.get_mut(group.0) {
            open.held = Some(held);
        }
        held
    }

    /// Puts a recipient into its group; returns the position of its batch.
    pub(crate) fn add(&mut self, group: Group, recipient: u32, sender: &'a str) -> usize {
        let fresh = self.batches.len();
        let Some(group) = self.groups.get_mut(group.0) else { return fresh };
        if let Some(batch) = group.batch
            && let Some(open) = self.batches.get_mut(batch)
            && open.recipients.len() < group.limits.recipients
            && group.admits(sender)
        {
            open.recipients.push(recipient);
            return batch;
        }
        self.batches.push(RoutedBatch { thread: group.thread.clone(), recipients: vec![recipient] });
        group.begin(fresh, sender);
        fresh
    }

    pub(crate) fn into_batches(self) -> Vec<RoutedBatch> {
        self.batches
    }
}

impl<'a> Open<'a> {
    /// Whether the sender is in the batch, or finds room.
    fn admits(&mut self, sender: &'a str) -> bool {
        if sender == self.last || self.senders.contains(sender) {
            return true;
        }
        if self.senders.len() >= self.limits.senders {
            return false;
        }
        self.last = sender;
        self.senders.insert(sender)
    }

    fn begin(&mut self, batch: usize, sender: &'a str) {
        self.batch = Some(batch);
        self.senders.clear();
        self.senders.insert(sender);
        self.last = sender;
    }
}

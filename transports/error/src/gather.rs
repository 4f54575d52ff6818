//! What is owed, kept together per message until it is time to tell.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_spool::{Diagnostic, Disposition, MessageId, Owed};

/// Recipients gathered over all messages. Above it the message that is due first is told of at once: a report more
/// is better than memory without a bound.
pub const OWED_MAX: usize = 1_000_000;

/// How long a report waits that the spool refused. A full disk is looked at by the spool every second; composing reports
/// again at that pace would be waste.
pub const RETRY: Duration = Duration::from_secs(30);

/// What became of one recipient whose sender is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Its index in the message's envelope.
    pub recipient: u32,
    /// What became of it.
    pub disposition: Disposition,
    /// Why.
    pub diagnostic: Arc<Diagnostic>,
    /// When.
    pub at: Timestamp,
    /// For [`Disposition::Delayed`]: when it will be given up.
    pub until: Option<Timestamp>,
}

/// A message whose sender or senders are to be told now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ripe {
    /// The message.
    pub message: MessageId,
    /// Ascending by recipient.
    pub items: Vec<Item>,
}

/// The gathering: a state machine without I/O. Give it every [`Owed`], `Done` and `Removed`; take [`Ripe`] messages with
/// [`Gatherer::poll_ripe`] until there are none; call again at [`Gatherer::poll_timeout`].
#[derive(Debug)]
pub struct Gatherer {
    gather: Duration,
    messages: HashMap<MessageId, Waiting>,
    by_time: BTreeSet<(Timestamp, MessageId)>,
    items: usize,
}

#[derive(Debug)]
struct Waiting {
    due: Timestamp,
    items: Vec<Item>,
}

impl Gatherer {
    /// Gathers for `gather` from the first thing owed of each message.
    pub fn new(gather: Duration) -> Self {
        Self { gather, messages: HashMap::new(), by_time: BTreeSet::new(), items: 0 }
    }

    /// Something is owed.
    pub fn handle_owed(&mut self, now: Timestamp, owed: Owed) {
        let Owed { message, recipients, disposition, diagnostic, at, until } = owed;
        let items = recipients.into_iter();
        let items = items.map(|recipient| Item { recipient, disposition, diagnostic: diagnostic.clone(), at, until });
        self.keep(message, now + self.gather, items.collect());
    }

    /// No recipient of the message is open any more.
    pub fn handle_done(&mut self, now: Timestamp, message: MessageId) {
        if let Some(waiting) = self.messages.get_mut(&message)
            && waiting.due > now
        {
            self.by_time.remove(&(waiting.due, message));
            waiting.due = now;
            self.by_time.insert((now, message));
        }
    }

    /// The message has left the queue: nothing is owed.
    pub fn handle_removed(&mut self, message: MessageId) {
        if let Some(waiting) = self.messages.remove(&message) {
            self.by_time.remove(&(waiting.due, message));
            self.items = self.items.saturating_sub(waiting.items.len());
        }
    }

    /// A report could not be stored: what it told is owed again, and not before [`RETRY`].
    pub fn handle_refused(&mut self, now: Timestamp, message: MessageId, items: Vec<Item>) {
        self.keep(message, now + RETRY, items);
    }

    /// A message that it is time to tell of.
    pub fn poll_ripe(&mut self, now: Timestamp) -> Option<Ripe> {
        let (due, message) = *self.by_time.first()?;
        if due > now && self.items <= OWED_MAX {
            return None;
        }
        self.by_time.remove(&(due, message));
        let waiting = self.messages.remove(&message)?;
        self.items = self.items.saturating_sub(waiting.items.len());
        let mut items = waiting.items;
        // The spool repeats what is owed after a restart; a recipient is told of once. That it was late is no news once
        // its fate is known.
        items.sort_by_key(|item| (item.recipient, item.disposition == Disposition::Delayed));
        items.dedup_by_key(|item| item.recipient);
        Some(Ripe { message, items })
    }

    /// When [`Gatherer::poll_ripe`] will have something; `None`: not before something else happens.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// Recipients gathered now.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    fn keep(&mut self, message: MessageId, due: Timestamp, items: Vec<Item>) {
        self.items += items.len();
        let waiting = self.messages.entry(message).or_insert_with(|| {
            self.by_time.insert((due, message));
            Waiting { due, items: Vec::new() }
        });
        waiting.items.extend(items);
    }
}

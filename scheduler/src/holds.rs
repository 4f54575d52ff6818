//! Standing holds: what an operator holds by `smtp/*.example.net`, or by `sender:*@bad.example`, holds for mail that is
//! not there yet.
//!
//! - A hold on a pattern of **threads** holds the threads as such, now and later: a thread is held while any such pattern
//!   matches it, or it is held by its own name.
//! - A hold by sender, recipient or flow, with or without a thread, holds **batches**: what is in the queue is found by
//!   whoever sets the hold; what comes is looked at as it is announced ([`Scheduler::catch`]), at a restart too, and held
//!   by itself from then on, durably. The router has put the recipients that are meant into batches of their own by then;
//!   a batch that it had made before is held as a whole when any of its recipients is meant.
//!
//! Addresses are read ([`Envelopes`]) only while a hold stands that is for some, for batches that all its other terms
//! admit; they were written, or read for the restart, a moment before.
//!
//! A hold is released by the same terms, or by wider ones ([`Terms::covers`]): `*` releases all. In the spool a hold is
//! kept as the state of a thread whose channel no configuration can name; `due` is since when it stands, the words of its
//! diagnostic say who set it.

use std::fmt;
use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_config::Pattern;
use zrelay_holds::{Standing, Terms};
use zrelay_spool::{
    BatchState, Diagnostic, Flow, MessageId, QueuedBatch, Reader, Request, Status, ThreadKey, ThreadState,
};

use crate::scheduler::Scheduler;
use crate::thread::ThreadId;

/// Holds that stand at a time at most: every new thread and every new batch is held against all of them.
pub const HOLDS_MAX: usize = 1000;
/// Stands for the channel in the record of a pattern of threads; the host is the pattern.
const PATTERN_CHANNEL: &str = "*pattern";
/// Stands for the channel in the record of other terms; the host is the terms, a line each.
const TERMS_CHANNEL: &str = "*terms";

/// Reads addresses of messages in the spool. They never change, so that this is no input of the state machine.
pub trait Envelopes: fmt::Debug + Send {
    /// Whether `admits` says so of any of these recipients, given envelope sender and address without brackets, the null
    /// sender empty. `false` when the message cannot be read.
    fn any(&self, message: MessageId, recipients: &[u32], admits: &dyn Fn(&str, &str) -> bool) -> bool;
}

impl Envelopes for Reader {
    fn any(&self, message: MessageId, recipients: &[u32], admits: &dyn Fn(&str, &str) -> bool) -> bool {
        let Ok(stored) = self.message(message) else { return false };
        let count = stored.recipients();
        recipients.iter().filter(|index| **index < count).any(|index| {
            let recipient = stored.recipient(*index);
            admits(stored.sender(recipient.sender), recipient.address)
        })
    }
}

/// Knows no message.
#[derive(Debug)]
pub(crate) struct NoEnvelopes;

impl Envelopes for NoEnvelopes {
    fn any(&self, _: MessageId, _: &[u32], _: &dyn Fn(&str, &str) -> bool) -> bool {
        false
    }
}

/// A hold that stands.
#[derive(Clone, Debug)]
pub struct HoldView {
    /// What it is for.
    pub terms: Arc<Terms>,
    /// Since when; `None` when that is not known any more.
    pub since: Option<Timestamp>,
    /// Who set it; empty when that is not known.
    pub by: Arc<str>,
}

/// What became of a wish to let a hold stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stood {
    /// It stands from now on.
    New,
    /// It stood already.
    Known,
    /// There are [`HOLDS_MAX`] already.
    Full,
}

/// The holds in force, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Holds {
    list: Vec<HoldView>,
    standing: Standing,
    pub(crate) envelopes: Box<dyn Envelopes>,
}

impl Default for Holds {
    fn default() -> Self {
        Self { list: Vec::new(), standing: Standing::default(), envelopes: Box::new(NoEnvelopes) }
    }
}

impl Holds {
    /// The first pattern that holds a thread of this name.
    pub(crate) fn find(&self, key: &ThreadKey) -> Option<Arc<Pattern>> {
        if self.list.is_empty() {
            return None;
        }
        let name = key.to_string();
        let mut patterns = self.list.iter().filter(|hold| hold.terms.is_for_threads());
        let found = patterns.find(|hold| hold.terms.admits_thread(&name))?;
        found.terms.threads.clone().map(Arc::new)
    }

    /// Whether a batch of this thread is to be held by itself.
    fn is_for(&self, thread: &ThreadKey, message: MessageId, recipients: &[u32], flow: Flow) -> bool {
        let mut name = None;
        self.list.iter().map(|hold| &hold.terms).filter(|terms| !terms.is_for_threads()).any(|terms| {
            terms.admits_flow(flow)
                && terms.admits_thread(name.get_or_insert_with(|| thread.to_string()))
                && (!terms.reads_addresses()
                    || self
                        .envelopes
                        .any(message, recipients, &|sender, address| terms.admits_address(sender, address)))
        })
    }

    fn add(&mut self, hold: HoldView) -> Stood {
        if self.list.iter().any(|other| other.terms == hold.terms) {
            return Stood::Known;
        }
        if self.list.len() >= HOLDS_MAX {
            return Stood::Full;
        }
        self.list.push(hold);
        self.publish();
        Stood::New
    }

    /// Takes out those that the given terms cover.
    fn remove(&mut self, terms: &Terms) -> Vec<HoldView> {
        let (gone, rest) = std::mem::take(&mut self.list).into_iter().partition(|hold| terms.covers(&hold.terms));
        self.list = rest;
        self.publish();
        gone
    }

    /// The router need not know holds that concern whole threads or flows.
    fn publish(&self) {
        let terms = self.list.iter().map(|hold| hold.terms.clone()).filter(|terms| terms.reads_addresses());
        self.standing.set(terms.collect());
    }
}

impl Scheduler {
    /// Reads addresses from `envelopes`, and shows the router the holds that stand. Without this call no hold is for a
    /// sender or recipient of mail to come.
    #[must_use]
    pub fn holding(mut self, envelopes: Box<dyn Envelopes>, standing: Standing) -> Self {
        self.holds.envelopes = envelopes;
        self.holds.standing = standing;
        self.holds.publish();
        self
    }

    /// The holds that stand, in the order in which they came.
    pub fn holds(&self) -> Vec<HoldView> {
        self.holds.list.clone()
    }

    /// Holds what these terms are for, if it comes from now on; threads that there are as well. What is in the queue of
    /// other terms is for the caller to find, behind this. `by` says who wants it.
    pub fn stand(&mut self, now: Timestamp, terms: &Terms, by: &str) -> Stood {
        let hold = HoldView { terms: Arc::new(terms.clone()), since: Some(now), by: by.into() };
        let record = Request::Thread(state(&hold, true));
        let stood = self.holds.add(hold);
        if stood == Stood::New {
            self.record(record);
            self.apply_holds();
            self.turn(now);
        }
        stood
    }

    /// Holds that these terms cover stand no more. Returns how many. Batches stay held until they are released.
    pub fn lift(&mut self, now: Timestamp, terms: &Terms) -> u64 {
        let gone = self.holds.remove(terms);
        for hold in &gone {
            self.record(Request::Thread(state(hold, false)));
        }
        if !gone.is_empty() {
            self.apply_holds();
            self.turn(now);
        }
        u64::try_from(gone.len()).unwrap_or(u64::MAX)
    }

    /// Whether an operator holds a batch like this, of this thread, before it is there.
    pub(crate) fn is_awaited(&self, thread: &ThreadKey, message: MessageId, recipients: &[u32], flow: Flow) -> bool {
        !self.holds.list.is_empty() && self.holds.is_for(thread, message, recipients, flow)
    }

    /// Holds a batch that is announced if a hold stands that is for it.
    pub(crate) fn catch(&mut self, batch: &mut QueuedBatch) {
        if batch.held || !self.is_awaited(&batch.thread, batch.id.message, &batch.recipients, batch.flow) {
            return;
        }
        batch.held = true;
        let QueuedBatch { id, held, due, attempts, .. } = *batch;
        self.record(Request::Batch(BatchState { id, held, due, attempts }));
    }

    /// A hold that the spool remembers; says whether it is one.
    pub(crate) fn recall_hold(&mut self, remembered: &ThreadState) -> bool {
        let texts = match &*remembered.key.channel {
            PATTERN_CHANNEL => vec![&*remembered.key.host],
            TERMS_CHANNEL => remembered.key.host.lines().collect(),
            _ => return false,
        };
        match Terms::parse(texts) {
            Ok(terms) if remembered.held => {
                let since = (remembered.due != Timestamp::ZERO).then_some(remembered.due);
                let by = remembered.last.as_ref().map_or("", |last| &last.text);
                self.holds.add(HoldView { terms: Arc::new(terms), since, by: by.into() });
                // The spool tells them in any order.
                self.holds.list.sort_by_key(|hold| hold.since);
                self.apply_holds();
            }
            Ok(_) => {}
            Err(error) => log::warn!("a hold on \"{}\" is forgotten: {error}", remembered.key.host),
        }
        true
    }

    fn apply_holds(&mut self) {
        let threads: Vec<ThreadId> = self.names.values().copied().collect();
        for id in threads {
            let Some(thread) = self.threads.get_mut(id) else { continue };
            let held = self.holds.find(&thread.key);
            if held == thread.held_by {
                continue;
            }
            let begins = held.is_some();
            thread.held_by = held;
            if begins {
                self.close_all(id);
            }
            self.touch(id);
        }
    }
}

fn state(hold: &HoldView, held: bool) -> ThreadState {
    let channel = if hold.terms.is_for_threads() { PATTERN_CHANNEL } else { TERMS_CHANNEL };
    let key = ThreadKey::new(channel, &hold.terms.texts().join("\n"));
    let due = hold.since.unwrap_or(Timestamp::ZERO);
    let last = (!hold.by.is_empty()).then(|| Arc::new(Diagnostic::local(Status(2, 0, 0), &*hold.by)));
    ThreadState { key, failures: 0, due, held, last }
}

//! The queue as operators know it: which batch rests in which thread, what is held, and what they were told has been done
//! to it; across crashes.
//!
//! Kept from the outside, as the [books](crate::books) are: from what the spool hands to the scheduler, what the scheduler
//! hands to agents and to the spool, and what operators are answered. What must hold:
//!
//! - nothing that is held is carried, or expires by its clause; nothing is dropped that no operator wanted dropped;
//! - what an operator wants ended has ended at once, or was under way; what is sent elsewhere waits there at once, as old
//!   as it was, and held if it was;
//! - what an operator did is still so behind a crash, once the spool has made it durable, and nothing is held that nobody
//!   held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use zrelay_agent::{LeaseId, Report, Rest, Ticket};
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, Config};
use zrelay_holds::Terms;
use zrelay_scheduler::snapshot::{BatchPlace, BatchView};
use zrelay_spool::testing::News;
use zrelay_spool::{BatchId, ByMode, DeliverBy, Disposition, Flow, MessageId, Outcome, QueuedBatch, ThreadKey};

use crate::holds::{Addressed, Holds};

/// A batch.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) thread: ThreadKey,
    /// Recipients without an end.
    pub(crate) open: Arc<[u32]>,
    pub(crate) flow: Flow,
    received: Timestamp,
    pub(crate) held: bool,
    /// Who carries it.
    pub(crate) lease: Option<LeaseId>,
    deliver_by: Option<DeliverBy>,
    /// Its sender was told of a delay.
    warned: bool,
    tries: Tries,
    /// Those of its recipients that were put off, and until when.
    put_off: HashMap<u32, Timestamp>,
}

/// How often a batch was tried.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    /// As the disk was told last.
    told: u32,
    /// At most: once each time that it was carried and some were put off, or that its host failed.
    most: u32,
    /// Nobody was put off since it was carried last.
    carried: bool,
}

impl Entry {
    /// How often it can have been tried with this deferral.
    fn most_tries(&self, outcome: &Outcome) -> u32 {
        let host_failed = outcome.recipients.len() == self.open.len();
        self.tries.most + u32::from(self.tries.carried || host_failed)
    }

    fn check_deferred(&self, outcome: &Outcome) {
        let (id, attempts, told, most) = (outcome.batch, outcome.attempts, self.tries.told, self.most_tries(outcome));
        assert!(
            (told..=most).contains(&attempts),
            "batch {id} is tried for time {attempts} behind {told}, {most} at most"
        );
    }
}

/// What an operator has changed and the disk may not know yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Change {
    Batch(BatchId),
    Thread(ThreadKey),
    Holds,
}

/// Recipients that an operator wants to come to this end.
#[derive(Clone, Debug)]
pub(crate) struct Doom {
    pub(crate) batch: BatchId,
    pub(crate) recipients: Arc<[u32]>,
    pub(crate) end: Disposition,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Queue {
    clauses: Vec<Arc<Clause>>,
    pub(crate) batches: BTreeMap<BatchId, Entry>,
    leases: HashMap<LeaseId, (ThreadKey, BTreeSet<BatchId>)>,
    held: BTreeSet<ThreadKey>,
    pub(crate) holds: Holds,
    pending: HashSet<Change>,
    dooms: Vec<Doom>,
    /// The spool has told the scheduler to pause.
    pub(crate) paused: bool,
}

impl Queue {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            clauses: config.clauses.clone(),
            batches: BTreeMap::new(),
            leases: HashMap::default(),
            held: BTreeSet::new(),
            holds: Holds::default(),
            pending: HashSet::default(),
            dooms: Vec::new(),
            paused: false,
        }
    }

    /// The clause of a thread.
    pub(crate) fn clause(&self, thread: &ThreadKey) -> &Arc<Clause> {
        let name = thread.to_string();
        let found = self.clauses.iter().find(|clause| clause.matches.matches(&name));
        found.expect("the clauses of a simulation match everything")
    }

    /// The spool hands a batch with these recipients to the scheduler: a hold that stands may catch it.
    pub(crate) fn arrived(&mut self, batch: &QueuedBatch, recipients: &[Addressed]) {
        let held = batch.held || self.holds.catches(&batch.thread, batch.flow, recipients);
        if held != batch.held {
            self.pending.insert(Change::Batch(batch.id));
        }
        let entry = Entry {
            thread: batch.thread.clone(),
            open: batch.recipients.clone(),
            flow: batch.flow,
            received: batch.received,
            held,
            lease: None,
            deliver_by: batch.deliver_by,
            warned: batch.warned,
            tries: Tries { told: batch.attempts, most: batch.attempts, carried: false },
            put_off: HashMap::default(),
        };
        assert!(self.batches.insert(batch.id, entry).is_none(), "batch {} comes twice", batch.id);
    }

    /// Everything that was asked of the spool so far is on the disk.
    pub(crate) fn durable(&mut self) {
        self.pending.clear();
    }

    pub(crate) fn leased(&mut self, lease: LeaseId, thread: &ThreadKey, takes_over: Option<LeaseId>) {
        if let Some((_, carried)) = takes_over.and_then(|old| self.leases.remove(&old)) {
            assert!(carried.is_empty(), "a lease with work is taken over");
        }
        self.leases.insert(lease, (thread.clone(), BTreeSet::new()));
    }

    /// The thread that a lease is for.
    pub(crate) fn thread_of(&self, lease: LeaseId) -> Option<&ThreadKey> {
        self.leases.get(&lease).map(|(thread, _)| thread)
    }

    /// A batch is handed to an agent.
    pub(crate) fn carried(&mut self, now: Timestamp, lease: LeaseId, ticket: &Ticket) {
        let id = ticket.id;
        // What crossed with the end of the lease is with the scheduler again.
        let Some((thread, carried)) = self.leases.get_mut(&lease) else { return };
        let entry = self.batches.get_mut(&id).unwrap_or_else(|| panic!("batch {id} is carried and not in the queue"));
        assert_eq!(entry.thread, *thread, "batch {id} is carried elsewhere");
        assert!(!entry.held, "batch {id} is held and carried");
        assert!(entry.lease.replace(lease).is_none(), "batch {id} is carried twice");
        assert!(ticket.due <= now && ticket.received == entry.received, "batch {id} is not due, or of another age");
        let of_batch = ticket.recipients.iter().all(|recipient| entry.open.binary_search(recipient).is_ok());
        assert!(of_batch, "batch {id} is carried with recipients that have come to an end");
        let early = ticket.recipients.iter().find(|one| entry.put_off.get(one).is_some_and(|until| *until > now));
        assert_eq!(early, None, "a recipient of batch {id} is tried again before its time");
        entry.tries.carried = true;
        carried.insert(id);
        let thread = entry.thread.clone();
        assert!(!self.is_held(&thread), "{thread} is held and carried");
    }

    /// An agent has told the scheduler something.
    pub(crate) fn heard(&mut self, report: &Report) {
        match report {
            Report::Settled { lease, batch, rest: Rest::Done, .. } | Report::Returned { lease, batch } => {
                self.back(*lease, *batch);
            }
            Report::Released { lease, .. } => {
                let carried = self.leases.get(lease).map(|(_, carried)| carried.clone()).unwrap_or_default();
                carried.into_iter().for_each(|batch| self.back(*lease, batch));
                self.leases.remove(lease);
            }
            _ => {}
        }
    }

    fn back(&mut self, lease: LeaseId, batch: BatchId) {
        let Some((_, carried)) = self.leases.get_mut(&lease) else { return };
        if carried.remove(&batch)
            && let Some(entry) = self.batches.get_mut(&batch)
        {
            entry.lease = None;
        }
    }

    /// The scheduler wants an outcome recorded.
    pub(crate) fn staged(&mut self, now: Timestamp, outcome: &Outcome) {
        let id = outcome.batch;
        let Some(entry) = self.batches.get(&id) else { return };
        match outcome.disposition {
            Disposition::Expired => self.check_expired(now, entry, outcome),
            Disposition::Dropped => {
                assert!(self.is_doomed(outcome), "recipients {:?} of {id} are dropped by nobody", outcome.recipients);
            }
            Disposition::Delayed => {
                let (warned, late) = (entry.warned, self.late(entry));
                assert!(!warned, "the sender of batch {id} is told twice of a delay");
                assert!(late.is_some_and(|at| at <= now), "the sender of batch {id} is told too early of a delay");
            }
            Disposition::Deferred => entry.check_deferred(outcome),
            _ => {}
        }
        let is_final = outcome.disposition.is_final();
        let Some(entry) = self.batches.get_mut(&id) else { return };
        if outcome.disposition == Disposition::Deferred {
            entry.tries.told = outcome.attempts;
            entry.tries.most = entry.most_tries(outcome);
            entry.tries.carried = false;
            entry.put_off.extend(outcome.recipients.iter().map(|recipient| (*recipient, outcome.due)));
        }
        entry.warned |= outcome.disposition == Disposition::Delayed;
        if !is_final {
            return;
        }
        let ended: HashSet<&u32> = outcome.recipients.iter().collect();
        entry.open = entry.open.iter().filter(|recipient| !ended.contains(recipient)).copied().collect();
        if entry.open.is_empty() {
            self.batches.remove(&id);
        }
    }

    fn is_doomed(&self, outcome: &Outcome) -> bool {
        let dooms = || self.dooms.iter().filter(|doom| doom.batch == outcome.batch && doom.end == outcome.disposition);
        outcome.recipients.iter().all(|recipient| dooms().any(|doom| doom.recipients.contains(recipient)))
    }

    fn check_expired(&self, now: Timestamp, entry: &Entry, outcome: &Outcome) {
        let over = |by: DeliverBy| by.mode == ByMode::Return && by.deadline <= now;
        if self.is_doomed(outcome) || entry.deliver_by.is_some_and(over) {
            return;
        }
        let (id, thread) = (outcome.batch, &entry.thread);
        let age = now.since(entry.received);
        assert!(age >= self.clause(thread).expiry, "batch {id} of {thread} expires at the age of {age:?}");
        let rests = entry.lease.is_none() && (entry.held || self.is_held(thread));
        assert!(!rests, "batch {id} of {thread} is held and expires");
    }

    /// When the sender of a batch is to be told of its delay.
    fn late(&self, entry: &Entry) -> Option<Timestamp> {
        let warning = self.clause(&entry.thread).delay_warning;
        let by_clause = (!warning.is_zero()).then(|| entry.received + warning);
        let notify = entry.deliver_by.filter(|by| by.mode == ByMode::Notify && by.deadline > entry.received);
        [by_clause, notify.map(|by| by.deadline)].into_iter().flatten().min()
    }

    /// Whether an operator holds the thread, or its channel does.
    pub(crate) fn is_held(&self, thread: &ThreadKey) -> bool {
        &*thread.channel == "hold" || self.held.contains(thread) || self.holds.is_for_thread(thread)
    }

    /// Batches of which this is true.
    pub(crate) fn find(&self, matches: impl Fn(BatchId, &Entry) -> bool) -> Vec<BatchId> {
        self.batches.iter().filter(|(id, entry)| matches(**id, entry)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn of_message(&self, message: MessageId) -> Vec<BatchId> {
        self.find(|id, _| id.message == message)
    }

    /// A hold on a thread by its name.
    pub(crate) fn hold_thread(&mut self, thread: &ThreadKey) {
        if !self.holds.is_for_thread(thread) && self.held.insert(thread.clone()) {
            self.pending.insert(Change::Thread(thread.clone()));
        }
    }

    /// A release of a thread, by its name or by a pattern: of what is held in it, too.
    pub(crate) fn release_thread(&mut self, thread: &ThreadKey) {
        if self.held.remove(thread) {
            self.pending.insert(Change::Thread(thread.clone()));
        }
        let batches = self.find(|_, entry| entry.thread == *thread);
        batches.into_iter().for_each(|batch| self.set_held(batch, false));
    }

    /// A hold stands from now on. Says whether it is new.
    pub(crate) fn stand(&mut self, terms: &Terms) -> bool {
        let is_new = self.holds.begin(terms);
        self.pending.extend(is_new.then_some(Change::Holds));
        is_new
    }

    /// Holds that these terms cover stand no more. Gives how many.
    pub(crate) fn lift(&mut self, by: &Terms) -> u64 {
        let gone = self.holds.lift(by);
        self.pending.extend((gone > 0).then_some(Change::Holds));
        gone
    }

    pub(crate) fn set_held(&mut self, batch: BatchId, held: bool) {
        let Some(entry) = self.batches.get_mut(&batch) else { return };
        if std::mem::replace(&mut entry.held, held) != held {
            self.pending.insert(Change::Batch(batch));
        }
    }

    /// A batch is to be tried now, if it rests and nobody holds it.
    pub(crate) fn retried(&mut self, batch: BatchId) {
        if let Some(entry) = self.batches.get_mut(&batch) {
            entry.put_off.clear();
        }
    }

    /// A batch with these recipients that rests moves to another thread: a hold that stands may catch it there.
    pub(crate) fn moved(&mut self, batch: BatchId, to: &ThreadKey, recipients: &[Addressed]) {
        let Some(entry) = self.batches.get_mut(&batch) else { return };
        entry.thread = to.clone();
        entry.tries = Tries::default();
        entry.put_off.clear();
        entry.held |= self.holds.catches(to, entry.flow, recipients);
        self.pending.insert(Change::Batch(batch));
    }

    /// Recipients are to come to an end.
    pub(crate) fn doom(&mut self, doom: Doom) {
        self.dooms.push(doom);
    }

    /// Whether anything is held, or was released and may come back as held.
    pub(crate) fn holds_anything(&self) -> bool {
        let rests = |entry: &Entry| entry.held || &*entry.thread.channel == "hold";
        let held = !self.held.is_empty() || !self.holds.is_empty() || self.batches.values().any(rests);
        held || !self.pending.is_empty()
    }

    /// The rooms have done all that they can do: what was to end has ended.
    pub(crate) fn look(&mut self) {
        if self.paused {
            return;
        }
        for Doom { batch, recipients, end } in std::mem::take(&mut self.dooms) {
            let Some(entry) = self.batches.get(&batch) else { continue };
            let left = recipients.iter().any(|recipient| entry.open.binary_search(recipient).is_ok());
            assert!(!left, "{recipients:?} of batch {batch} were to be {end:?}, and are in the queue");
        }
    }

    /// What the scheduler lists, and what it has beyond its window, is what is known here, and what was promised of it is
    /// kept.
    pub(crate) fn compare<'a>(
        &self,
        now: Timestamp,
        listed: &[BatchView],
        beyond: impl Iterator<Item = &'a QueuedBatch>,
        holds: &[String],
    ) {
        assert_eq!(holds.iter().cloned().collect::<BTreeSet<_>>(), self.holds.texts(), "other holds stand");
        let resting = listed.iter().filter(|view| view.place != BatchPlace::Carried);
        let mut count = 0;
        for view in resting {
            let entry = self.batches.get(&view.id).unwrap_or_else(|| panic!("{view:?} is listed and has ended"));
            count += 1;
            let held = entry.held || self.is_held(&entry.thread);
            assert_eq!((&view.thread, view.received), (&entry.thread, entry.received), "{}", view.id);
            assert_eq!(view.recipients, entry.open, "{}", view.id);
            assert_eq!(view.place == BatchPlace::Held, held, "{view:?}, {entry:?}");
            assert!(entry.lease.is_none(), "{view:?} is carried");
            self.check_promises(now, view.id, entry);
        }
        for batch in beyond {
            let entry = self.batches.get(&batch.id).unwrap_or_else(|| panic!("{batch:?} waits on disk and has ended"));
            count += 1;
            assert_eq!((&batch.thread, batch.received), (&entry.thread, entry.received), "{}", batch.id);
            assert_eq!(batch.recipients, entry.open, "{}", batch.id);
            assert!(entry.lease.is_none() && batch.held == entry.held, "{batch:?}, {entry:?}");
            self.check_promises(now, batch.id, entry);
        }
        let known = self.batches.values().filter(|entry| entry.lease.is_none()).count();
        assert_eq!(count, known, "batches are lost to the listing");
    }

    /// The sender of what is late was told so, and what was to be returned by now was.
    fn check_promises(&self, now: Timestamp, id: BatchId, entry: &Entry) {
        if self.paused {
            return;
        }
        let (thread, late) = (&entry.thread, self.late(entry).is_some_and(|at| at <= now));
        assert!(!late || entry.warned, "nobody is told that {id} of {thread} is late");
        let over = |by: DeliverBy| by.mode == ByMode::Return && by.deadline <= now;
        let over = entry.deliver_by.filter(|by| by.deadline > entry.received).is_some_and(over);
        assert!(!over, "the time of {id} is over, and it rests in {thread}");
    }

    /// The hub starts again on what the disk holds. `holds` are those of the new scheduler.
    pub(crate) fn recovered<'a>(&mut self, news: impl Iterator<Item = &'a News>, holds: &[String]) {
        let before = std::mem::take(&mut self.batches);
        let pending = std::mem::take(&mut self.pending);
        let is_pending = |change: Change| pending.contains(&change);
        self.leases.clear();
        self.dooms.clear();
        self.paused = false;
        let mut held = BTreeSet::new();
        for item in news {
            match item {
                News::Queue(zrelay_spool::Queue::Batch(batch)) => {
                    if let Some(entry) = before.get(&batch.id).filter(|_| !is_pending(Change::Batch(batch.id))) {
                        assert_eq!(batch.held, entry.held, "the hold on {} has changed", batch.id);
                        assert_eq!(batch.thread, entry.thread, "{} has moved", batch.id);
                    }
                    if let Some(entry) = before.get(&batch.id) {
                        assert_eq!(batch.received, entry.received, "{} is of another age", batch.id);
                    }
                }
                News::Queue(zrelay_spool::Queue::Thread(state))
                    if state.held && !state.key.channel.starts_with('*') =>
                {
                    held.insert(state.key.clone());
                }
                _ => {}
            }
        }
        for thread in held.symmetric_difference(&self.held) {
            assert!(is_pending(Change::Thread(thread.clone())), "the hold on {thread} has changed");
        }
        self.held = held;
        let (known, now) = (self.holds.texts(), holds.iter().cloned().collect::<BTreeSet<_>>());
        assert!(known == now || is_pending(Change::Holds), "held were {known:?}, and now {now:?}");
        self.holds.recovered(holds);
    }
}

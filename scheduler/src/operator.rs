//! What operators do to threads and messages.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zrelay_clock::Timestamp;
use zrelay_config::{Pattern, PatternError};
use zrelay_holds::Terms;
use zrelay_spool::{BatchId, BatchState, Diagnostic, Disposition, MessageId, Request, Status, ThreadKey};

use crate::batch::{Hold, Place};
use crate::beyond::{Deed, RunId};
use crate::holds::Stood;
use crate::scheduler::Scheduler;
use crate::sweep::Work;
use crate::thread::ThreadId;

/// What an action is for.
#[derive(Clone, PartialEq, Debug)]
pub enum Selector {
    /// The one thread of this name.
    Thread(ThreadKey),
    /// The threads whose name, `channel/host`, the pattern matches. A hold on it goes for threads to come too, and is
    /// released by this pattern or a wider one, not by names of threads.
    Threads(Pattern),
    /// All batches of one message.
    Message(MessageId),
}

/// A text is not a [`Selector`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SelectorError {
    /// Neither the one nor the other.
    #[error("expected a thread like smtp/lists.example.net, a pattern like 'smtp/*.example.net', or a queue id")]
    Neither,
    /// A pattern that cannot be.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.contains(['*', '?']) {
            return Ok(Self::Threads(Pattern::new(text)?));
        }
        if let Ok(key) = text.parse() {
            return Ok(Self::Thread(key));
        }
        text.parse().map(Self::Message).map_err(|_| SelectorError::Neither)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread(key) => key.fmt(f),
            Self::Threads(pattern) => pattern.fmt(f),
            Self::Message(id) => id.fmt(f),
        }
    }
}

/// What is to be done. Everything is effective at once, and hold, release and drop survive a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Hand nothing out any more; what is under way comes to its end. Held batches do not expire.
    Hold,
    /// Undo a hold. A thread's release also releases the messages in it that are held by themselves. Threads of the
    /// channel `hold` stay held: no agent could carry them.
    Release,
    /// Try now: due times and the host's back-off are forgotten. Holds stay.
    Retry,
    /// Take the open recipients out of the queue, without a report to the sender.
    Drop,
    /// Give the open recipients up now, as if their time were over: the sender gets its report. Held ones too.
    Expire,
}

impl Action {
    /// Whether it ends recipients, so that it cannot be undone.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Drop | Self::Expire)
    }
}

/// A batch that an operator has chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its thread.
    pub thread: ThreadKey,
    /// Its name.
    pub batch: BatchId,
    /// In which run beyond the window it was seen last.
    pub run: Option<RunId>,
    /// Its open recipients as they were seen: what is counted of it while it is beyond the window.
    pub open: u32,
    /// The recipients that are meant, ascending; `None` means all. Only drop and expire tell recipients of a batch
    /// apart, what else is done is done to the batch.
    pub recipients: Option<Vec<u32>>,
}

impl Chosen {
    /// Recipients that an action concerns.
    fn meant(&self, action: Action) -> u64 {
        let part = self.recipients.as_ref().filter(|_| action.is_final());
        part.map_or_else(|| u64::from(self.open), |part| u64::try_from(part.len()).unwrap_or(u64::MAX))
    }
}

/// How much an action concerned. Field names are those of the control socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Changed {
    /// Threads that matched, or that hold batches of the message.
    pub threads: u64,
    /// Batches in them that the action concerns.
    pub batches: u64,
    /// Their open recipients.
    pub recipients: u64,
    /// Recipients under way with an agent: drop and expire do not concern them, the other actions do when they come back.
    pub under_way: u64,
    /// Threads in which batches beyond the window are looked through for a message: what is found is done there as well,
    /// at once, and not counted here.
    #[serde(default)]
    pub beyond: u64,
    /// Holds for mail to come that stand from now on, or not any more.
    #[serde(default)]
    pub patterns: u64,
    /// Batches that `reroute` left where they are, since other recipients in them were not meant.
    #[serde(default)]
    pub divided: u64,
}

impl Scheduler {
    /// Does what an operator wants.
    pub fn operate(&mut self, now: Timestamp, action: Action, selector: &Selector) -> Changed {
        let mut changed = Changed::default();
        match selector {
            Selector::Message(message) => self.operate_on_message(now, action, *message, &mut changed),
            Selector::Thread(key) => {
                if let Some(id) = self.find_thread(key) {
                    self.operate_on_thread(now, action, id, &mut changed);
                }
            }
            Selector::Threads(pattern) => {
                let terms = || Terms { threads: Some(pattern.clone()), ..Terms::default() };
                match action {
                    Action::Hold => changed.patterns += u64::from(self.stand(now, &terms(), "") == Stood::New),
                    Action::Release => changed.patterns += self.lift(now, &terms()),
                    _ => {}
                }
                let matching = |(key, id): (&ThreadKey, &ThreadId)| pattern.matches(&key.to_string()).then_some(*id);
                let threads: Vec<ThreadId> = self.names.iter().filter_map(matching).collect();
                for id in threads {
                    self.operate_on_thread(now, action, id, &mut changed);
                }
            }
        }
        self.turn(now);
        changed
    }

    /// Does what an operator wants to these batches; what has left the queue meanwhile is passed over. Threads are counted
    /// once for each run of batches of one thread.
    pub fn operate_on(&mut self, now: Timestamp, action: Action, chosen: &[Chosen]) -> Changed {
        let mut changed = Changed::default();
        let mut last = None;
        for one in chosen {
            let Some(id) = self.find_thread(&one.thread) else { continue };
            let before = changed;
            let part = one.recipients.as_deref();
            if self.threads.get(id).is_some_and(|thread| thread.batches.contains_key(&one.batch)) {
                self.operate_on_batch(now, action, (id, one.batch), part, &mut changed);
            } else if self.pend_for_batch((id, one.batch), one.run, Deed::Do(action), part) {
                changed.batches += 1;
                changed.recipients += one.meant(action);
            }
            if changed != before && last != Some(id) {
                changed.threads += 1;
                last = Some(id);
            }
        }
        self.turn(now);
        changed
    }

    /// Hosts are lower-case; operators need not be.
    pub(crate) fn find_thread(&self, key: &ThreadKey) -> Option<ThreadId> {
        let lower = || ThreadKey::new(&key.channel.to_lowercase(), &key.host.to_lowercase());
        self.names.get(key).or_else(|| self.names.get(&lower())).copied()
    }

    fn operate_on_thread(&mut self, now: Timestamp, action: Action, id: ThreadId, changed: &mut Changed) {
        let Some(thread) = self.threads.get(id) else { return };
        let under_way = self.under_way(thread);
        changed.threads += 1;
        changed.batches += thread.load.batches;
        changed.recipients += thread.load.recipients;
        changed.under_way += under_way.recipients;
        match action {
            // A pattern holds it, see `holds`; its own name does not.
            Action::Hold if self.threads.get(id).is_some_and(|thread| thread.held_by.is_some()) => {}
            Action::Hold | Action::Release => self.hold_thread(id, action, now),
            Action::Retry => self.retry_thread(id),
            Action::Drop | Action::Expire => {
                changed.batches -= under_way.batches.min(changed.batches);
                changed.recipients -= under_way.recipients.min(changed.recipients);
                let (disposition, diagnostic) = ending(action);
                let work = match disposition {
                    Disposition::Expired => Work::Expire { diagnostic },
                    _ => Work::Drop { diagnostic },
                };
                self.sweep(id, work);
            }
        }
        self.sweep_small(id, now);
        self.touch(id);
    }

    /// Small sweeps are over before the operator reads the answer.
    pub(crate) fn sweep_small(&mut self, id: ThreadId, now: Timestamp) {
        let small = self.threads.get(id).is_some_and(|thread| thread.batches.len() <= crate::sweep::SWEEP_MAX);
        if small && self.sweeping.len() == 1 && self.sweeping.front() == Some(&id) {
            self.sweep_turn(now);
        }
    }

    fn hold_thread(&mut self, id: ThreadId, action: Action, now: Timestamp) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let hold = Hold::from_flag(action == Action::Hold);
        if thread.hold != hold {
            thread.hold = hold;
            let state = thread.state();
            self.record(Request::Thread(state));
        }
        if hold.is_held() {
            self.close_all(id);
            return;
        }
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.beyond.release();
        // One that is under way may be held for when it comes back.
        let leases = thread.leases.iter().filter_map(|lease| self.leases.get(lease));
        let carried = leases.flat_map(|lease| lease.carried.keys());
        let batches: Vec<BatchId> = thread.aside.iter().chain(carried).copied().collect();
        for batch in batches {
            self.hold_batch(id, batch, Hold::Free, now);
        }
    }

    fn retry_thread(&mut self, id: ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.fruitless = 0;
        let ring = thread.ring;
        self.wake_site(ring);
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.backoff.failures > 0 {
            thread.forget_failures();
            let state = thread.state();
            self.record(Request::Thread(state));
        }
        self.sweep(id, Work::Retry);
    }

    fn operate_on_message(&mut self, now: Timestamp, action: Action, message: MessageId, changed: &mut Changed) {
        for (id, batch) in self.find_batches(message) {
            changed.threads += 1;
            self.operate_on_batch(now, action, (id, batch), None, changed);
        }
        changed.beyond += self.pend_for_message(message, Deed::Do(action));
    }

    pub(crate) fn operate_on_batch(
        &mut self,
        now: Timestamp,
        action: Action,
        (id, batch): (ThreadId, BatchId),
        part: Option<&[u32]>,
        changed: &mut Changed,
    ) {
        let Some(state) = self.threads.get(id).and_then(|thread| thread.batches.get(&batch)) else { return };
        let recipients = u64::try_from(state.recipients.len()).unwrap_or(u64::MAX);
        if state.place == Place::Carried {
            changed.under_way += recipients;
            if action.is_final() {
                return;
            }
        }
        let mut concerned = recipients;
        match action {
            Action::Hold => self.hold_batch(id, batch, Hold::Held, now),
            Action::Release => self.hold_batch(id, batch, Hold::Free, now),
            Action::Retry => {
                self.work_on(id, batch, &Work::Retry, now);
            }
            Action::Drop | Action::Expire => {
                let (disposition, diagnostic) = ending(action);
                let all = state.recipients.clone();
                concerned = self.finish_part(id, batch, part.unwrap_or(&all), disposition, &diagnostic, now);
            }
        }
        changed.batches += u64::from(concerned > 0);
        changed.recipients += concerned;
        self.touch(id);
    }

    /// The batches of a message and their threads.
    pub(crate) fn find_batches(&self, message: MessageId) -> Vec<(ThreadId, BatchId)> {
        let of_thread = |(id, thread): (ThreadId, &crate::thread::Thread)| {
            thread.batches.range(message.batches()).map(|(batch, _)| (id, *batch)).collect::<Vec<_>>()
        };
        self.threads.iter().flat_map(of_thread).collect()
    }

    fn hold_batch(&mut self, id: ThreadId, batch_id: BatchId, hold: Hold, now: Timestamp) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.dequeue(batch_id);
        let Some(batch) = thread.batches.get_mut(&batch_id) else { return };
        let changes = batch.hold != hold;
        batch.hold = hold;
        let state = BatchState { id: batch_id, held: hold.is_held(), due: batch.due, attempts: batch.attempts };
        if batch.place != Place::Carried {
            thread.enqueue(batch_id, now);
        }
        if changes {
            self.record(Request::Batch(state));
        }
        self.touch(id);
    }
}

/// What the sender is told of a recipient that an operator has expired.
pub(crate) const GIVEN_UP: &str = "given up by the operator";

/// How a final action ends recipients.
fn ending(action: Action) -> (Disposition, Arc<Diagnostic>) {
    match action {
        Action::Expire => (Disposition::Expired, Arc::new(Diagnostic::local(Status(4, 4, 7), GIVEN_UP))),
        _ => (Disposition::Dropped, Arc::new(Diagnostic::local(Status(5, 7, 0), "dropped by the operator"))),
    }
}

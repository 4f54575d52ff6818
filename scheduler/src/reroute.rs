//! Sending mail that is in the queue to another thread.
//!
//! Durable, and effective at once, beyond the window as well. What moves keeps its age, so that expiry counts on, and its
//! hold; it begins anew as far as attempts, due time and last reply go, since these were the old next hop's. A hold that
//! stands for the new thread holds it. What an agent carries stays where it is, and so does a batch of which only some
//! recipients were meant. Mail that comes later goes where its route says.

use zrelay_clock::Timestamp;
use zrelay_spool::{BatchId, BatchState, Request, ThreadKey};

use crate::batch::{Hold, Place};
use crate::beyond::Deed;
use crate::operator::{Changed, Chosen, Selector};
use crate::scheduler::Scheduler;
use crate::snapshot::Load;
use crate::sweep::Work;
use crate::thread::ThreadId;

impl Scheduler {
    /// Sends what is selected to the thread `to`.
    pub fn reroute(&mut self, now: Timestamp, selector: &Selector, to: &ThreadKey) -> Changed {
        let mut changed = Changed::default();
        match selector {
            Selector::Message(message) => {
                for (id, batch) in self.find_batches(*message) {
                    self.reroute_one(now, (id, batch), to, &mut changed);
                }
                changed.beyond += self.pend_for_message(*message, Deed::Reroute(to.clone()));
            }
            Selector::Thread(key) => {
                if let Some(id) = self.find_thread(key) {
                    self.reroute_thread(now, id, to, &mut changed);
                }
            }
            Selector::Threads(pattern) => {
                let matching = |(key, id): (&ThreadKey, &ThreadId)| {
                    pattern.matches(&key.to_string()).then_some((key.clone(), *id))
                };
                let threads: Vec<(ThreadKey, ThreadId)> = self.names.iter().filter_map(matching).collect();
                for (_, id) in threads.into_iter().filter(|(key, _)| key != to) {
                    self.reroute_thread(now, id, to, &mut changed);
                }
            }
        }
        self.turn(now);
        changed
    }

    /// Sends these batches to the thread `to`; what has left the queue meanwhile is passed over, and what is meant in part
    /// stays.
    pub fn reroute_chosen(&mut self, now: Timestamp, chosen: &[Chosen], to: &ThreadKey) -> Changed {
        let mut changed = Changed::default();
        for one in chosen {
            let Some(id) = self.find_thread(&one.thread) else { continue };
            if one.recipients.is_some() {
                changed.divided += 1;
                continue;
            }
            if self.threads.get(id).is_some_and(|thread| thread.batches.contains_key(&one.batch)) {
                self.reroute_one(now, (id, one.batch), to, &mut changed);
            } else if one.thread != *to
                && self.pend_for_batch((id, one.batch), one.run, Deed::Reroute(to.clone()), None)
            {
                changed.threads += 1;
                changed.batches += 1;
                changed.recipients += u64::from(one.open);
            }
        }
        self.turn(now);
        changed
    }

    fn reroute_thread(&mut self, now: Timestamp, id: ThreadId, to: &ThreadKey, changed: &mut Changed) {
        let Some(thread) = self.threads.get(id).filter(|thread| thread.key != *to) else { return };
        let under_way = self.under_way(thread);
        changed.threads += 1;
        changed.batches += thread.load.batches.saturating_sub(under_way.batches);
        changed.recipients += thread.load.recipients.saturating_sub(under_way.recipients);
        changed.under_way += under_way.recipients;
        self.sweep(id, Work::Reroute { to: to.clone() });
        self.sweep_small(id, now);
        self.touch(id);
    }

    fn reroute_one(&mut self, now: Timestamp, from: (ThreadId, BatchId), to: &ThreadKey, changed: &mut Changed) {
        let Some(batch) = self.threads.get(from.0).and_then(|thread| thread.batches.get(&from.1)) else { return };
        let recipients = u64::try_from(batch.recipients.len()).unwrap_or(u64::MAX);
        if batch.place == Place::Carried {
            changed.under_way += recipients;
        } else if self.reroute_batch(from.0, from.1, to, now) {
            changed.threads += 1;
            changed.batches += 1;
            changed.recipients += recipients;
        }
    }

    /// Moves a batch that is not under way; says whether it was somewhere else.
    pub(crate) fn reroute_batch(&mut self, id: ThreadId, batch_id: BatchId, to: &ThreadKey, now: Timestamp) -> bool {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.key != *to) else { return false };
        thread.dequeue(batch_id);
        let Some(mut batch) = thread.batches.remove(&batch_id) else { return false };
        thread.unpromise(batch_id, &batch);
        let (received, load) = (batch.received, Load::of(&batch.recipients, batch.size));
        self.count_out(id, received, load);
        self.touch(id);

        let was_held = batch.hold.is_held();
        batch.due = received;
        batch.attempts = 0;
        batch.reported = 0;
        batch.last = None;
        batch.round = None;
        batch.place = Place::Queued;
        if self.is_awaited(to, batch_id.message, &batch.recipients, batch.flow) {
            batch.hold = Hold::Held;
        }
        let state = BatchState { id: batch_id, held: batch.hold.is_held(), due: batch.due, attempts: 0 };
        let held = !was_held && state.held;
        let new = self.thread_named(to);
        if let Some(thread) = self.threads.get_mut(new) {
            thread.batches.insert(batch_id, batch);
            thread.enqueue(batch_id, now);
            thread.promise(batch_id);
        }
        self.count_in(new, received, load);
        self.touch(new);
        self.record(Request::Reroute { id: batch_id, thread: to.clone() });
        if held {
            self.record(Request::Batch(state));
        }
        true
    }
}

//! Handing out a batch, whole or in parts.
//!
//! A batch is given whole where its next hop is through with it in a moment, and where no rate is in the way. Else it is
//! given in parts, each of which comes back before the next one of the same batch goes out; batches behind it fill the time
//! between. Parts go **round**: each recipient is given once before any is given again. Those deferred in a round wait,
//! together, from its end on; the others do not wait for them.

use zrelay_agent::{LeaseId, Order, Pace, Ticket};
use zrelay_clock::Timestamp;
use zrelay_config::Clause;
use zrelay_spool::BatchId;

use crate::batch::{Batch, Place, Round};
use crate::lease::{Carried, Lease, LeaseState};
use crate::scheduler::Scheduler;
use crate::thread::{Thread, ThreadId};

/// What the time of a next hop counts among flows, where it is slower than octets: as much as a line of 8 Mbit/s carries in
/// it. A post must not count as little as its octets where it keeps a slow host busy for long.
const OCTETS_PER_MICROSECOND: u64 = 1;

impl Scheduler {
    /// An agent has found out how long its host takes.
    pub(crate) fn paced(&mut self, lease_id: LeaseId, pace: Pace) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        lease.pace = Some(pace);
        let thread = lease.thread;
        self.touch(thread);
    }

    /// Hands out the batch whose turn it is.
    pub(crate) fn carry(&mut self, id: ThreadId, lease_id: LeaseId, batch_id: BatchId, now: Timestamp) {
        if matches!(self.leases.get(&lease_id), Some(Lease { state: LeaseState::Idle(_), .. })) {
            self.unidle(lease_id);
            let allowance = self.threads.get_mut(id).map_or(0, Thread::take_allowance);
            if let Some(lease) = self.leases.get_mut(&lease_id) {
                lease.state = LeaseState::Open;
                lease.since = now;
                lease.allowance = allowance;
            }
        }
        let room = self.threads.get(id).map_or(usize::MAX, |thread| self.room(thread, now));
        let (Some(thread), Some(lease)) = (self.threads.get_mut(id), self.leases.get_mut(&lease_id)) else { return };
        let Some(batch) = thread.batches.get_mut(&batch_id) else { return };
        let round = batch.round.take();
        let start = round.as_ref().map_or(0, |round| batch.recipients.partition_point(|one| *one < round.from));
        debug_assert!(start < batch.recipients.len(), "its round would be over");
        let left = batch.recipients.len() - start;
        let count = left.min(room).min(lease.part(batch.copies, left));
        let given = start..start + count;
        let recipients = match batch.recipients.get(given.clone()) {
            Some(part) if count < batch.recipients.len() => part.into(),
            _ => batch.recipients.clone(),
        };
        let weight = zrelay_agent::weight(batch.size, batch.copies, count);
        let (messages, bytes) = outgoing(&thread.clause, batch, count);
        let work = lease.work(batch.copies, count);
        let time = lease.pace.map_or(0, |pace| u64::try_from(pace.time(work).as_micros()).unwrap_or(u64::MAX));
        thread.flows.serve(weight.max(time.saturating_mul(OCTETS_PER_MICROSECOND)));
        batch.place = Place::Carried;
        thread.in_flight += 1;
        lease.window.take(weight);
        lease.in_hand.add(work);
        // Only the last batch can overdraw it: what went out while nobody waited is not held against the thread.
        lease.allowance = lease.allowance.max(0).saturating_sub(i64::try_from(weight).unwrap_or(i64::MAX));
        let (deferred, last) = round.map_or((None, None), |round| (round.due, round.last));
        let carried = Carried { marks: Vec::new(), given, in_hand: work, messages: 0, due: deferred, last };
        lease.carried.insert(batch_id, carried);
        let batch = Ticket {
            id: batch_id,
            recipients,
            size: batch.size,
            weight,
            received: batch.received,
            due: batch.due,
            carried: now,
        };
        self.order(Order::Carry { lease: lease_id, batch });
        self.charge(id, now, messages, u64::try_from(count).unwrap_or(u64::MAX), bytes);
    }
}

impl Thread {
    /// A batch, or a part of it, has come back with these recipients left; it is queued anew next.
    pub(crate) fn take_back(&mut self, batch_id: BatchId, carried: &Carried, remaining: std::sync::Arc<[u32]>) {
        let Some(batch) = self.batches.get_mut(&batch_id) else { return };
        let next = batch.recipients.get(carried.given.end).copied();
        batch.recipients = remaining;
        batch.place = Place::Queued;
        if next.is_some() || carried.due.is_some() {
            let from = next.unwrap_or(u32::MAX);
            batch.round = Some(Box::new(Round { from, due: carried.due, last: carried.last.clone() }));
            batch.end_round();
        }
    }
}

/// Transactions that so many recipients of a batch make, and their octets.
pub(crate) fn outgoing(clause: &Clause, batch: &Batch, recipients: usize) -> (u64, u64) {
    let recipients = u64::try_from(recipients).unwrap_or(u64::MAX);
    let copies = u64::from(batch.copies).clamp(1, recipients.max(1));
    let messages = copies.max(recipients.div_ceil(u64::from(clause.recipients.max(1))));
    (messages, batch.size.saturating_mul(messages))
}

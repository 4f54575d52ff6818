//! What agents report: credit, verdicts, sites, and the end of their leases.

use std::sync::Arc;

use zrelay_agent::{Credit, Judgement, LeaseId, Order, Pace, Release, Rest, Site, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::ReplyClass;
use zrelay_spool::{BatchId, Diagnostic, Disposition, Outcome};

use crate::carry::outgoing;
use crate::class::classify;
use crate::door::Place as DoorPlace;
use crate::gain::{Advice, Done, Moment};
use crate::lease::{Carried, LeaseState, Mark, Window};
use crate::limit::{Limit, RingKey, RingPlace};
use crate::mute;
use crate::retry;
use crate::scheduler::Scheduler;
use crate::snapshot::Load;
use crate::sweep::{Sweep, Work};
use crate::thread::ThreadId;

/// Leases in a row that may end early without a verdict before the host counts as failed.
pub const FRUITLESS_MAX: u32 = 3;

impl Scheduler {
    pub(crate) fn hungry(&mut self, lease_id: LeaseId, credit: Credit) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        lease.window.open(credit);
        // It may have been given up as mute: the greeting crossed with the order to close.
        lease.mute = None;
        let (thread, begins) = (lease.thread, lease.state == LeaseState::Starting);
        if begins {
            self.unstart(lease_id);
            if let Some(lease) = self.leases.get_mut(&lease_id) {
                lease.state = LeaseState::Open;
            }
        }
        if let Some(thread) = self.threads.get_mut(thread) {
            thread.proven = true;
        }
        self.touch(thread);
    }

    /// A first batch is wanted for a host that has not greeted: it gets one, and still has to greet.
    pub(crate) fn early(&mut self, lease_id: LeaseId, credit: Credit) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        lease.window.open(credit);
        let thread = lease.thread;
        self.touch(thread);
    }

    pub(crate) fn settled(
        &mut self,
        now: Timestamp,
        lease_id: LeaseId,
        batch_id: BatchId,
        verdicts: Vec<Verdict>,
        rest: Rest,
    ) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        let thread = lease.thread;
        let Some(mut carried) = lease.let_go(batch_id) else {
            log::debug!("lease {lease_id} reports on batch {batch_id}, which it does not carry");
            return;
        };
        lease.fruitful |= !verdicts.is_empty();
        carried.answered(&verdicts);
        if let Some(thread) = self.threads.get_mut(thread).filter(|_| !verdicts.is_empty()) {
            thread.fruitless = 0;
        }
        self.learn(now, lease_id, thread, &verdicts);
        if verdicts.iter().any(answers_a_message) {
            self.message_answered(now, thread, batch_id, &mut carried);
        }
        for verdict in verdicts {
            self.judge(now, thread, batch_id, &mut carried, verdict);
        }
        if rest == Rest::Done {
            let unanswered = carried.is_unanswered();
            self.finish_carry(thread, batch_id, &carried, now);
            self.close_window_if(lease_id, unanswered);
        } else if let Some(lease) = self.leases.get_mut(&lease_id) {
            lease.in_hand.add(carried.in_hand);
            lease.carried.insert(batch_id, carried);
        }
        self.touch(thread);
    }

    /// The host has answered a message. What a host takes in more messages than were counted when the batch was handed out
    /// is paid for with each answer.
    fn message_answered(&mut self, now: Timestamp, id: ThreadId, batch_id: BatchId, carried: &mut Carried) {
        carried.messages += 1;
        let Some(thread) = self.threads.get(id) else { return };
        let Some(batch) = thread.batches.get(&batch_id) else { return };
        let (counted, _) = outgoing(&thread.clause, batch, carried.given.len());
        if carried.messages > counted {
            let size = batch.size;
            self.charge(id, now, 1, 0, size);
        }
    }

    /// An agent that gives work back unanswered wants none until it asks again: else the same batch would go to and
    /// fro.
    fn close_window_if(&mut self, lease_id: LeaseId, unanswered: bool) {
        if let Some(lease) = self.leases.get_mut(&lease_id).filter(|_| unanswered) {
            lease.window = Window::default();
        }
    }

    pub(crate) fn returned(&mut self, now: Timestamp, lease_id: LeaseId, batch_id: BatchId) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        let Some(carried) = lease.let_go(batch_id) else { return };
        let thread = lease.thread;
        self.finish_carry(thread, batch_id, &carried, now);
        self.close_window_if(lease_id, true);
        self.touch(thread);
    }

    fn judge(&mut self, now: Timestamp, id: ThreadId, batch_id: BatchId, carried: &mut Carried, verdict: Verdict) {
        let Some(thread) = self.threads.get(id) else { return };
        let Some(batch) = thread.batches.get(&batch_id) else { return };
        let attempts = batch.attempts.saturating_add(1);
        let disposition = match verdict.judgement {
            Judgement::Delivered { dsn_relayed } => Disposition::Delivered { dsn_relayed },
            Judgement::Failed => Disposition::Failed,
            Judgement::Deferred if batch.received + thread.clause.expiry <= now => Disposition::Expired,
            Judgement::Deferred => Disposition::Deferred,
        };
        let mark = if disposition.is_final() { Mark::Final } else { Mark::Deferred };
        let recipients = carried.mark(&batch.recipients, &verdict.recipients, mark);
        if recipients.is_empty() {
            return;
        }
        let heard = recipients.len();
        let mut due = batch.due;
        if disposition == Disposition::Deferred {
            let mut draw = || now + retry::wait(&thread.clause, attempts, &mut self.rng);
            due = match carried.due {
                Some((drawn, due)) if drawn == now => due,
                Some((_, before)) => draw().max(before),
                None => draw(),
            };
            carried.due = Some((now, due));
            carried.last = Some(verdict.diagnostic.clone());
        }
        let outcome = Outcome {
            batch: batch_id,
            recipients,
            disposition,
            diagnostic: verdict.diagnostic,
            at: verdict.at,
            attempts,
            due,
            timing: verdict.timing,
            channel: None,
        };
        if let Some(thread) = self.threads.get_mut(id) {
            thread.recent.hear(now, disposition, &outcome.diagnostic, heard);
        }
        self.record_outcome(id, outcome);
    }

    /// The batch has come back: what is left of it goes into the queue again.
    fn finish_carry(&mut self, id: ThreadId, batch_id: BatchId, carried: &Carried, now: Timestamp) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.in_flight = thread.in_flight.saturating_sub(1);
        let Some(batch) = thread.batches.get_mut(&batch_id) else { return };
        let remaining = carried.remaining(&batch.recipients);
        let finished = batch.recipients.len() - remaining.len();
        let octets = if finished > 0 { zrelay_agent::weight(batch.size, batch.copies, finished) } else { 0 };
        let work =
            zrelay_agent::Work { messages: carried.messages, recipients: u64::try_from(finished).unwrap_or(u64::MAX) };
        let gone = remaining.is_empty();
        let received = batch.received;
        let load = Load {
            batches: u64::from(gone),
            recipients: u64::try_from(finished).unwrap_or(0),
            bytes: if gone { batch.size } else { 0 },
        };
        if gone {
            if let Some(batch) = thread.batches.remove(&batch_id) {
                thread.unpromise(batch_id, &batch);
            }
        } else {
            thread.take_back(batch_id, carried, remaining);
            thread.enqueue(batch_id, now);
        }
        self.count_out(id, received, load);
        self.weigh_agents(id, Done { octets, work }, now);
        self.keep_promise(id, batch_id, now);
    }

    /// Something came back: whether the thread's agents are worth it.
    fn weigh_agents(&mut self, id: ThreadId, done: Done, now: Timestamp) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.clause.thread_agents > 1) else { return };
        let leases = || thread.leases.iter().filter_map(|lease| self.leases.get(lease));
        let working = leases().filter(|lease| lease.works && lease.state == LeaseState::Open).count();
        let uses = leases().filter_map(|lease| lease.link.as_ref()?.link_use);
        let moment = Moment {
            now,
            working: u32::try_from(working).unwrap_or(u32::MAX),
            max: thread.clause.thread_agents,
            backlog: !thread.flows.is_empty(),
            link_use: uses.reduce(f64::max),
            pace: leases().filter_map(|lease| lease.pace).max_by_key(|pace| matches!(pace, Pace::Measured(_))),
        };
        match thread.gain.finished(done, moment) {
            Advice::Stay => {}
            Advice::More => self.touch(id),
            Advice::Fewer => {
                let allowed = usize::try_from(thread.gain.allowed()).unwrap_or(usize::MAX);
                let stays = |lease: &&LeaseId| self.leases.get(lease).is_some_and(|lease| !lease.is_closing());
                // The newest have the least under way.
                let surplus: Vec<LeaseId> = thread.leases.iter().filter(stays).skip(allowed).copied().collect();
                for lease in surplus {
                    self.close(lease);
                }
            }
        }
    }

    /// What an agent has sent and never heard of again.
    pub(crate) fn count_at_risk(&mut self, lease_id: LeaseId, messages: u64) {
        let Some(lease) = self.leases.get(&lease_id) else { return };
        self.at_risk += messages;
        if let Some(thread) = self.threads.get_mut(lease.thread) {
            thread.at_risk += messages;
        }
    }

    pub(crate) fn released(&mut self, now: Timestamp, lease_id: LeaseId, reason: Release) {
        let Some(mut lease) = self.end_lease(lease_id) else { return };
        let id = lease.thread;
        for (batch, carried) in std::mem::take(&mut lease.carried) {
            self.finish_carry(id, batch, &carried, now);
        }
        if let Release::Ended(diagnostic) = &reason {
            self.ended(now, id, diagnostic);
        }
        match reason {
            Release::Done if lease.mute.is_some() => {
                self.host_failed(now, id, mute::diagnostic(lease.mute.unwrap_or_default()));
            }
            Release::Ended(diagnostic) if lease.mute.is_some() => self.host_failed(now, id, diagnostic),
            Release::Done if lease.dismissed || lease.fruitful => {}
            Release::Done => {
                let text = "the agent ended before it had carried anything";
                let diagnostic = Diagnostic::local(zrelay_spool::Status(4, 3, 0), text);
                self.fruitless(now, id, Arc::new(diagnostic));
            }
            Release::Ended(_) if lease.fruitful => {}
            Release::Ended(diagnostic) => self.fruitless(now, id, diagnostic),
            Release::Failed(diagnostic) => self.host_failed(now, id, diagnostic),
            Release::Rejected(diagnostic) => self.sweep(id, Work::Rejected { diagnostic }),
        }
    }

    /// A working connection was ended by the far side: perhaps with a word on the pace.
    fn ended(&mut self, now: Timestamp, id: ThreadId, diagnostic: &Arc<Diagnostic>) {
        let Some(thread) = self.threads.get(id) else { return };
        let (ring, clause) = (thread.ring, thread.clause.clone());
        let classified = classify(&clause, diagnostic);
        let refused = classified.class == ReplyClass::Connections;
        // If no other works it is no use to talk of fewer; it counts as fruitless, if it was.
        if !refused || self.rings.get(ring).is_some_and(|ring| ring.working > 0) {
            let beside = self.open_agents(ring);
            self.push_back(now, ring, &clause, classified, diagnostic, beside);
        }
    }

    fn fruitless(&mut self, now: Timestamp, id: ThreadId, diagnostic: Arc<Diagnostic>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.fruitless += 1;
        if thread.fruitless >= FRUITLESS_MAX {
            self.host_failed(now, id, diagnostic);
        }
    }

    /// Begins something that concerns all batches of the thread that are there now.
    pub(crate) fn sweep(&mut self, id: ThreadId, work: Work) {
        self.sweep_beyond(id, &work);
        let Some(thread) = self.threads.get_mut(id) else { return };
        let Some((last, _)) = thread.batches.last_key_value() else { return };
        let sweep = Sweep::until(*last, work);
        if thread.sweeps.is_empty() {
            self.sweeping.push_back(id);
        }
        thread.sweeps.push_back(sweep);
        self.touch(id);
    }

    /// The thread's host turned out to be this site. The agent waits for a word before it connects: a thousand domains
    /// of one site must not become a thousand connections before that is known.
    pub(crate) fn located(&mut self, now: Timestamp, lease_id: LeaseId, site: Site) {
        let Some(id) = self.leases.get(&lease_id).map(|lease| lease.thread) else { return };
        self.moved(now, id, site);
        let Some(lease) = self.leases.get(&lease_id).filter(|lease| !lease.is_closing()) else { return };
        let (ring, counted) = (lease.ring, lease.counted);
        let rests = self.rings.get(ring).is_some_and(|ring| ring.rests(now));
        if rests || (!counted && self.is_too_soon(ring, now)) {
            self.close(lease_id);
            return;
        }
        if !counted {
            self.charge_connection_at(DoorPlace::Ring(ring), now);
        }
        if let Some(lease) = self.leases.get_mut(&lease_id) {
            lease.counted = true;
        }
        self.order(Order::Connect { lease: lease_id });
    }

    /// The thread's host turned out to be this site: the thread moves to the site's ring with its agents. An agent
    /// for which that ring has no place closes, and counts in the old ring until it has.
    fn moved(&mut self, now: Timestamp, id: ThreadId, site: Site) {
        let Some(thread) = self.threads.get(id) else { return };
        let key = RingKey { channel: thread.channel, clause: thread.clause_index, place: RingPlace::Site(site) };
        if self.rings.get(thread.ring).is_some_and(|ring| ring.key == key) {
            return;
        }
        self.leave_door(id);
        let Some(thread) = self.threads.get(id) else { return };
        let (old, channel, load) = (thread.ring, thread.channel, thread.load);
        let (clause, leases) = (thread.clause.clone(), thread.leases.clone());
        if matches!(thread.line, Some((Limit::Ring, _))) {
            self.leave_line(id);
        }
        let is_new = !self.ring_names.contains_key(&key);
        let new = self.ring_named(key, &clause);
        if is_new {
            self.recall_pace(now, new);
        }
        let mut waits = false;
        if let Some(thread) = self.threads.get_mut(id) {
            thread.ring = new;
            waits = thread.line.is_some();
        }
        if let Some(ring) = self.rings.get_mut(old) {
            ring.waiting.remove(&id);
            ring.threads = ring.threads.saturating_sub(1);
            ring.level.load.remove(load);
        }
        if let Some(ring) = self.rings.get_mut(new) {
            ring.threads += 1;
            ring.level.load.add(load);
            if waits {
                ring.waiting.insert(id);
            }
        }
        for lease in leases {
            self.move_lease(now, lease, new);
        }
        self.freed.push((old, channel));
        self.changed_rings.push(new);
        self.touch(id);
    }

    fn move_lease(&mut self, now: Timestamp, lease_id: LeaseId, new: crate::limit::RingId) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        if lease.is_closing() {
            return;
        }
        let full = self.rings.get(new).is_none_or(|ring| ring.level.is_full() || ring.rests(now));
        if full {
            self.close(lease_id);
            return;
        }
        let old = std::mem::replace(&mut lease.ring, new);
        let (rank, since, working) = (lease.rank, lease.since, u32::from(lease.works));
        let starting = (lease.state == LeaseState::Starting).then_some((since, lease_id));
        let idle = match lease.state {
            LeaseState::Idle(since) => Some((since, lease_id)),
            _ => None,
        };
        if let Some(ring) = self.rings.get_mut(old) {
            ring.level.agents = ring.level.agents.saturating_sub(1);
            ring.working = ring.working.saturating_sub(working);
            if let Some(idle) = idle {
                ring.level.idle.remove(&idle);
            }
            ring.level.starting.of_mut(rank).remove(&(since, lease_id));
        }
        if let Some(ring) = self.rings.get_mut(new) {
            ring.level.agents += 1;
            ring.working += working;
            ring.level.idle.extend(idle);
            ring.level.starting.of_mut(rank).extend(starting);
        }
    }
}

/// Whether the far side has seen a whole message for this verdict: each frame is about one at most.
fn answers_a_message(verdict: &Verdict) -> bool {
    let command = verdict.diagnostic.command.as_str();
    matches!(verdict.judgement, Judgement::Delivered { .. }) || matches!(command, "end of DATA" | "BDAT")
}

//! What replies do to the pace of sites: see the table in [the crate's documentation](crate#what-replies-change).

use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{Judgement, LeaseId, Verdict};
use zrelay_clock::Timestamp;
use zrelay_config::{Clause, ReplyClass};
use zrelay_spool::{Diagnostic, Disposition, Request, Status};

use crate::class::{Classified, classify};
use crate::limit::{Ring, RingId, RingPlace};
use crate::pace::{Kept, Less};
use crate::retry;
use crate::scheduler::Scheduler;
use crate::sweep::Work;
use crate::thread::ThreadId;

/// How long the pace of a site is remembered when it has no thread any more.
pub const SITE_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// The topic under which the paces of a channel's sites are remembered.
const PACE: &str = "pace";
/// Steps by which a site rests longer that does not want mail from here, rather than less of it.
const SEVERE: u32 = 2;

impl Ring {
    /// Whether no connection is to be made now.
    pub(crate) fn rests(&self, now: Timestamp) -> bool {
        self.pace.suspended(now).is_some() || self.pace.down(now).is_some()
    }

    /// Lets the level heed the pace.
    fn heed(&mut self) {
        self.level.window = self.pace.window();
    }
}

impl Scheduler {
    /// Verdicts of a lease, before they are booked: what they say of the site.
    pub(crate) fn learn(&mut self, now: Timestamp, lease_id: LeaseId, id: ThreadId, verdicts: &[Verdict]) {
        let Some(thread) = self.threads.get(id) else { return };
        let (ring_id, clause) = (thread.ring, thread.clause.clone());
        let delivered = verdicts.iter().any(|verdict| matches!(verdict.judgement, Judgement::Delivered { .. }));
        if verdicts.iter().any(speaks_for_the_host) {
            self.host_works(now, id);
            self.lease_works(lease_id);
        }
        if delivered {
            self.site_delivers(now, lease_id, ring_id, &clause);
        }
        for verdict in verdicts {
            let diagnostic = &verdict.diagnostic;
            // A reply for good is about a recipient or a message, unless a rule knows better.
            if diagnostic.code < 400 || (diagnostic.code >= 500 && clause.replies.is_empty()) {
                continue;
            }
            let classified = classify(&clause, diagnostic);
            let beside = self.open_agents(ring_id).saturating_sub(1);
            self.push_back(now, ring_id, &clause, classified, diagnostic, beside);
        }
    }

    /// Agents of a ring that are not about to close.
    pub(crate) fn open_agents(&self, ring_id: RingId) -> u32 {
        self.rings.get(ring_id).map_or(0, |ring| ring.level.agents.saturating_sub(ring.level.closing))
    }

    fn lease_works(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&lease_id).filter(|lease| !lease.works && !lease.is_closing()) else {
            return;
        };
        lease.works = true;
        if let Some(ring) = self.rings.get_mut(lease.ring) {
            ring.working += 1;
        }
    }

    /// The lease does not count as one that works any more.
    pub(crate) fn unwork(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&lease_id).filter(|lease| lease.works) else { return };
        lease.works = false;
        if let Some(ring) = self.rings.get_mut(lease.ring) {
            ring.working = ring.working.saturating_sub(1);
        }
    }

    /// Success: the site may have more connections.
    fn site_delivers(&mut self, now: Timestamp, lease_id: LeaseId, ring_id: RingId, clause: &Arc<Clause>) {
        let first = self.leases.get_mut(&lease_id).is_some_and(|lease| !std::mem::replace(&mut lease.delivered, true));
        let Some(ring) = self.rings.get_mut(ring_id) else { return };
        let rng = &mut self.rng;
        let grown = ring.pace.delivered(now, || now + retry::wait(clause, 1, rng));
        let more = first && ring.pace.connection_works();
        if grown || more {
            self.pace_changed(now, ring_id);
        }
    }

    /// A reply of a site that works, as far as it is about the pace: too many connections, or too much mail. Returns
    /// whether it is. `beside` are the connections beside the one that was told so.
    pub(crate) fn push_back(
        &mut self,
        now: Timestamp,
        ring_id: RingId,
        clause: &Clause,
        classified: Classified,
        diagnostic: &Arc<Diagnostic>,
        beside: u32,
    ) -> bool {
        match classified.class {
            ReplyClass::Connections => self.site_refuses(now, ring_id, clause, classified, beside),
            ReplyClass::Rate => self.site_rests(now, ring_id, clause, classified, diagnostic, Less::ByHalf),
            ReplyClass::Reputation => self.site_rests(now, ring_id, clause, classified, diagnostic, Less::One),
            _ => return false,
        }
        true
    }

    /// The site does not take as many connections as there are: those `beside` the one that it refused are enough for a
    /// while.
    fn site_refuses(&mut self, now: Timestamp, ring_id: RingId, clause: &Clause, classified: Classified, beside: u32) {
        let Some(ring) = self.rings.get_mut(ring_id) else { return };
        let refusals = ring.pace.refusals().saturating_add(1);
        let hold = now + classified.suspend.unwrap_or_else(|| retry::wait(clause, refusals, &mut self.rng));
        ring.pace.refused(now, beside, hold);
        self.pace_changed(now, ring_id);
    }

    /// The site takes mail, but less of it, or less from here.
    fn site_rests(
        &mut self,
        now: Timestamp,
        ring_id: RingId,
        clause: &Clause,
        classified: Classified,
        diagnostic: &Arc<Diagnostic>,
        less: Less,
    ) {
        let Some(ring) = self.rings.get_mut(ring_id) else { return };
        let severe = if less == Less::One { SEVERE } else { 0 };
        let attempts = ring.pace.suspensions().saturating_add(1 + severe);
        let wait = classified.suspend.unwrap_or_else(|| retry::wait(clause, attempts, &mut self.rng));
        if ring.pace.suspend(now, now + wait, less, diagnostic) {
            log::info!("{}: left alone for {} s: {diagnostic}", ring.key.place.name(), wait.as_secs());
            self.pace_changed(now, ring_id);
            self.touch_line(ring_id);
        }
    }

    /// A connection of the thread failed. When others of the site work, it is only the further one that the host does
    /// not want; else the site is down, and each of its threads backs off when it would be its turn.
    pub(crate) fn host_failed(&mut self, now: Timestamp, id: ThreadId, diagnostic: Arc<Diagnostic>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.recent.hear(now, Disposition::Deferred, &diagnostic, 0);
        thread.fruitless = 0;
        let (ring_id, clause) = (thread.ring, thread.clause.clone());
        let classified = classify(&clause, &diagnostic);
        if self.rings.get(ring_id).is_some_and(|ring| ring.working > 0) {
            thread.backoff.last = Some(diagnostic.clone());
            let beside = self.open_agents(ring_id);
            if !self.push_back(now, ring_id, &clause, classified, &diagnostic, beside) {
                self.site_refuses(now, ring_id, &clause, classified, beside);
            }
            return;
        }
        let suspended = self.rings.get(ring_id).is_some_and(|ring| ring.pace.suspended(now).is_some());
        if !thread.has_batches() || thread.backs_off(now) || suspended {
            // It is left alone already; when that is over, it is seen whether it still fails.
            thread.backoff.last = Some(diagnostic);
            return;
        }
        let failures = thread.backoff.failures;
        self.site_failed(now, ring_id, &clause, failures, classified, &diagnostic);
        self.join_failure(now, id);
    }

    fn site_failed(
        &mut self,
        now: Timestamp,
        ring_id: RingId,
        clause: &Clause,
        failures: u32,
        classified: Classified,
        diagnostic: &Arc<Diagnostic>,
    ) {
        let Some(ring) = self.rings.get_mut(ring_id).filter(|ring| ring.pace.down(now).is_none()) else { return };
        let failures = failures.max(ring.pace.failures()).saturating_add(1);
        let severe = matches!(classified.class, ReplyClass::Greeting5xx | ReplyClass::Reputation);
        let attempts = failures.saturating_add(if severe { SEVERE } else { 0 });
        let wait = classified.suspend.unwrap_or_else(|| retry::wait(clause, attempts, &mut self.rng));
        ring.pace.failed(failures, now + wait, diagnostic);
        self.pace_changed(now, ring_id);
        self.touch_line(ring_id);
    }

    /// The thread's site is down: the thread backs off as long, once, whatever arrives for it meanwhile. Returns whether
    /// it is.
    pub(crate) fn join_failure(&mut self, now: Timestamp, id: ThreadId) -> bool {
        let Some(thread) = self.threads.get_mut(id) else { return false };
        let Some(ring) = self.rings.get(thread.ring) else { return false };
        let Some((due, failures, diagnostic)) = ring.pace.down(now) else { return false };
        let diagnostic = diagnostic.clone();
        thread.proven = false;
        thread.backoff.failures = failures;
        thread.backoff.due = due;
        thread.backoff.last = Some(diagnostic.clone());
        let state = thread.state();
        self.record(Request::Thread(state));
        self.leave_line(id);
        self.close_all(id);
        self.sweep(id, Work::HostFailed { diagnostic, due });
        true
    }

    /// The host has answered: failures are forgotten, the thread's and the site's.
    fn host_works(&mut self, now: Timestamp, id: ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let ring_id = thread.ring;
        if thread.backoff.failures > 0 {
            thread.forget_failures();
            let state = thread.state();
            self.record(Request::Thread(state));
        }
        if self.rings.get_mut(ring_id).is_some_and(|ring| ring.pace.answered()) {
            self.pace_changed(now, ring_id);
        }
    }

    /// Those of its threads that stand in line find out that it is not their turn for some time.
    fn touch_line(&mut self, ring_id: RingId) {
        let waiting = self.rings.get(ring_id).map(|ring| ring.waiting.clone()).unwrap_or_default();
        for id in waiting {
            self.touch(id);
        }
    }

    /// An operator wants the site tried now.
    pub(crate) fn wake_site(&mut self, ring_id: RingId) {
        if self.rings.get_mut(ring_id).is_some_and(|ring| ring.pace.wake()) {
            self.open_site(ring_id);
        }
    }

    /// The level heeds the pace, and it is remembered.
    fn pace_changed(&mut self, now: Timestamp, ring_id: RingId) {
        let Some(ring) = self.rings.get_mut(ring_id) else { return };
        ring.heed();
        let channel = ring.key.channel;
        self.freed.push((ring_id, channel));
        let Some((subject, topic)) = self.fact_of(ring_id) else { return };
        match self.rings.get(ring_id).and_then(|ring| ring.pace.keep()) {
            Some(kept) => self.sites.learn(now, &subject, &topic, &kept, SITE_MEMORY),
            None => self.sites.forget(&subject, &topic),
        }
    }

    /// Under which subject and topic the pace of a ring is remembered; `None` while its site is not known.
    fn fact_of(&self, ring_id: RingId) -> Option<(Arc<str>, String)> {
        let ring = self.rings.get(ring_id)?;
        let RingPlace::Site(site) = &ring.key.place else { return None };
        let channel = self.channels.get(ring.key.channel.0)?;
        Some((site.0.clone(), format!("{} {PACE}", channel.name)))
    }

    /// A ring of a site begins where the last one ended.
    pub(crate) fn recall_pace(&mut self, now: Timestamp, ring_id: RingId) {
        let Some((subject, topic)) = self.fact_of(ring_id) else { return };
        let Some(kept) = self.sites.recall::<Kept>(now, &subject, &topic) else { return };
        let diagnostic = Diagnostic::local(Status(4, 4, 1), "the site was left alone when it was last dealt with");
        let Some(ring) = self.rings.get_mut(ring_id) else { return };
        ring.pace.recall(kept, &Arc::new(diagnostic));
        ring.heed();
    }
}

/// Whether the verdict shows that the host can be worked with: it took something, or it said something.
fn speaks_for_the_host(verdict: &Verdict) -> bool {
    matches!(verdict.judgement, Judgement::Delivered { .. }) || verdict.diagnostic.code != 0
}

//! What must hold after every event.

use zrelay_scheduler::snapshot::State;
use zrelay_spool::ThreadKey;

use super::World;

impl World {
    /// Looks at what must always hold.
    pub(super) fn look(&mut self) {
        self.queue.look();
        self.look_at_retried();
        for key in std::mem::take(&mut self.touched) {
            let state = self.scheduler.audit_thread(self.now, &key);
            self.look_at_state(&key, state);
        }
        if self.events.is_multiple_of(self.plan.audit_every) {
            let recipients = self.scheduler.audit(self.now);
            let known = self.books.open() + (self.books.figures.reports + self.books.figures.delays) as usize;
            assert!(recipients <= known, "the scheduler has {recipients} recipients, where {known} are known");
            let (listed, _) = self.scheduler.batches(self.now, None, None, usize::MAX);
            let beyond = self.spilled.values().flatten();
            self.queue.compare(self.now, &listed, beyond, &self.scheduler.totals().holds);
        }
    }

    /// What a thread is said to wait for is there.
    fn look_at_state(&mut self, thread: &ThreadKey, state: Option<State>) {
        let Some(state @ (State::Rate(..) | State::Suspended(_))) = state else { return };
        match state {
            State::Rate(..) => self.seen.rates += 1,
            _ => self.seen.suspensions += 1,
        }
        let way = self.manners.way(thread, self.queue.clause(thread), self.site_of_thread(thread));
        self.manners.check(self.now, &way, state);
    }
}

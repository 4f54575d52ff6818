//! The rooms of the hub, which hand each other work until nothing is left to do at this moment.

use std::time::Duration;

use zrelay_mailbox::Received;
use zrelay_spool::Request;

use super::{Event, RETRY_AFTER, SETTLE_AFTER, World, tell};

/// More is no work, but a circle.
const TURNS_MAX: u32 = 100_000;

impl World {
    /// Lets the rooms do all that there is to do.
    pub(super) fn rooms(&mut self) {
        self.desk.work(self.now);
        let mut calls = 0;
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "the rooms do not come to rest");
            let mut rest = true;
            self.wakes_at = self.scheduler.poll_timeout();
            while self.wakes_at.is_some_and(|at| at <= self.now) {
                calls += 1;
                assert!(calls < TURNS_MAX, "the scheduler wants to be called again and again");
                self.scheduler.handle_timeout(self.now);
                self.wakes_at = self.scheduler.poll_timeout();
                rest = false;
            }
            rest &= !self.spill();
            while let Some(request) = self.scheduler.poll_record() {
                if let Request::Outcomes(outcomes) = &request {
                    outcomes.iter().for_each(|outcome| self.books.staged(outcome));
                    outcomes.iter().for_each(|outcome| self.queue.staged(self.now, outcome));
                }
                self.inbox.push(request);
                rest = false;
            }
            rest &= !self.orders();
            while let Some(report) = self.local.poll_report() {
                self.reports.push(report);
            }
            for report in std::mem::take(&mut self.reports) {
                self.hear(report);
                // What it is answered at once is not what it is answered behind the next one.
                self.orders();
                rest = false;
            }
            while let Received::Item(request) = self.notary_requests.try_recv() {
                if let Request::Commit { message, envelope, .. } = &request {
                    tell!(self, "notary  {message}: a report on {:?}", envelope.origin);
                    self.books.report_staged(*message, envelope);
                }
                self.inbox.push(request);
                rest = false;
            }
            if rest {
                break;
            }
        }
        self.arm_disk();
    }

    /// Hands out the scheduler's orders. Returns whether there were any.
    fn orders(&mut self) -> bool {
        let mut any = false;
        while let Some(order) = self.scheduler.poll_order() {
            self.order(order);
            any = true;
        }
        any
    }

    fn arm_disk(&mut self) {
        if !self.inbox.is_empty() && !self.disk_busy {
            self.disk_busy = true;
            let time = self.dice.between(Duration::from_millis(1), self.plan.sync_time);
            self.agenda.set(self.now + time, Event::Disk(self.life));
        }
        if !self.spool.is_settled() && !self.settle_set {
            self.settle_set = true;
            self.agenda.set(self.now + SETTLE_AFTER, Event::Settle(self.life));
        }
        if self.spool.is_in_trouble() && !self.retry_set {
            self.retry_set = true;
            self.agenda.set(self.now + RETRY_AFTER, Event::Retry(self.life));
        }
    }
}

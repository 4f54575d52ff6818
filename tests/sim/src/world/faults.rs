//! What breaks.

use std::sync::Arc;

use zrelay_agent::Release;
use zrelay_local::Agents as Local;
use zrelay_mailbox::mailbox;
use zrelay_scheduler::{Scheduler, Settings};
use zrelay_sites::Sites;
use zrelay_spool::testing::{Idle, News, Simulated, Stepped};
use zrelay_spool::{Diagnostic, MessageId, Queue, Status};

use super::{ANSWERS_MAX, DOWN, Fault, World, desk, tell};
use crate::agent::{Agent, ConnectionKey};

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        tell!(self, "fault   {fault:?}");
        match fault {
            Fault::Kill => {
                let disk = self.disk.after_kill();
                self.crash(disk);
            }
            Fault::PowerCut => {
                // What waits for the disk is being written when the lights go out.
                if self.dice.below(2) == 0 {
                    for request in std::mem::take(&mut self.inbox) {
                        self.spool.take(self.now, request);
                    }
                    if self.dice.below(2) == 0 {
                        self.disk.break_after(self.dice.below(3) as u32, std::io::ErrorKind::Other);
                        self.spool.turn(self.now, Idle::No);
                    }
                }
                let disk = self.disk.after_power_cut(self.dice.raw());
                self.crash(disk);
            }
            Fault::Disk(operations, kind) => self.disk.break_after(operations, kind),
            Fault::Heal => self.disk.heal(),
            Fault::Agent => {
                let count = self.agents.len() as u64;
                if count == 0 {
                    return;
                }
                let Some(key) = self.agents.keys().nth(self.dice.below(count) as usize) else { return };
                let reason = Arc::new(Diagnostic::local(Status(4, 3, 0), "the agent has died"));
                self.with(key, |agent, with| agent.die(Release::Failed(reason), with));
            }
        }
    }

    /// The hub is dead, and starts again on what is on the disk.
    pub(super) fn crash(&mut self, disk: Simulated) {
        self.crashes += 1;
        self.life += 1;
        let in_hand: usize = self.agents.values().map(Agent::in_hand).sum();
        self.books.unanswered(in_hand);
        let open: Vec<ConnectionKey> = self.connections.keys().collect();
        for key in open {
            if self.connections.get(key).is_some_and(|connection| connection.agent.is_some()) {
                self.hang_up(key);
            }
        }
        self.inbox.clear();
        self.reports.clear();
        self.touched.clear();
        self.retried.clear();
        self.agents.clear();
        self.leases.clear();
        self.agents_of.clear();
        (self.disk_busy, self.settle_set, self.retry_set) = (false, false, false);
        self.answers = mailbox(ANSWERS_MAX);
        self.local = Local::new();
        disk.heal();
        self.disk = disk;
        self.now = self.now + DOWN;
        let opened = Stepped::open(&self.disk, self.plan.segment_bytes, self.now);
        let (spool, news) = opened.expect("what a crash leaves can be read");
        self.spool = spool;
        self.reader = self.spool.reader();
        self.learned = Sites::new();
        self.kept.iter().for_each(|fact| self.learned.put(self.now, fact.clone()));
        self.manners.crashed();
        self.scheduler = Scheduler::new(Settings::from(&self.config), self.dice.seed())
            .remembering(self.now, self.learned.clone())
            .holding(Box::new(self.spool.reader()), self.standing.clone());
        self.scheduler.set_window(self.plan.window);
        self.spilled.clear();
        (self.desk, self.notary_requests) = desk(&self.spool, &self.config);
        let unrouted: Vec<MessageId> = news
            .iter()
            .filter_map(|news| if let News::Arrived(arrived) = news { Some(arrived.0) } else { None })
            .collect();
        let queued: Vec<(MessageId, Vec<u32>)> = news
            .iter()
            .filter_map(|news| match news {
                News::Queue(Queue::Batch(batch)) => Some((batch.id.message, batch.recipients.to_vec())),
                _ => None,
            })
            .collect();
        tell!(self, "hub     starts again with {} unrouted messages and {} batches", unrouted.len(), queued.len());
        let lost = self.books.recovered(&unrouted, &queued);
        // Clients without an answer come again; of those whose message is there, some do not, and that is no loss.
        lost.into_iter().for_each(|number| self.try_again(number));
        let (threads, rest): (Vec<News>, Vec<News>) =
            news.into_iter().partition(|news| matches!(news, News::Queue(Queue::Thread(_))));
        for news in &threads {
            if let News::Queue(item) = news {
                tell!(self, "spool   {item:?}");
                self.scheduler.handle_queue(self.now, item.clone());
            }
        }
        let holds = self.scheduler.totals().holds;
        self.queue.recovered(threads.iter().chain(&rest), &holds);
        rest.into_iter().for_each(|news| self.one_news(news));
    }
}

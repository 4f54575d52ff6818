//! Clients, the spool and those that it tells its news.

use zrelay_mailbox::Received;
use zrelay_spool::testing::{Idle, News};
use zrelay_spool::{
    CommitReply, Committed, Content, DeliverBy, Disposition, Envelope, Fact, Handling, Queue, Recipient, Request,
};

use super::{CLIENT_RETRY, Event, World, tell};
use crate::{mail, routes};

impl World {
    pub(super) fn post(&mut self, message: u32) {
        let posting = self.plan.posting(message);
        let length = posting.length;
        let by = |(span, mode)| DeliverBy { deadline: self.now + span, mode, trace: false };
        let deliver_by = posting.deliver_by.map(by);
        let handling = Handling { flow: None, priority: posting.priority, deliver_by };
        let (number, first) = self.books.offer(posting.domains.len() as u32, length, handling);
        let recipients = (first..).zip(&posting.domains).map(|(recipient, domain)| Recipient {
            address: mail::recipient(recipient, *domain),
            sender: 0,
            orcpt: None,
            notify: mail::notify(recipient),
        });
        let envelope = Box::new(Envelope {
            received: self.now,
            trace: mail::TRACE.to_vec(),
            client: "client[192.0.2.1]".into(),
            content: Content::default(),
            envid: None,
            ret: None,
            handling,
            senders: vec![mail::sender(number, posting.list)],
            recipients: recipients.collect(),
            origin: None,
        });
        let id = (self.spool.next_id())();
        self.books.name(id, number);
        self.tries.push(message);
        tell!(
            self,
            "client  {id}: message {number} from list {} to {} recipients",
            posting.list,
            posting.domains.len()
        );
        let reply = CommitReply { to: self.answers.0.clone(), token: u64::from(number) };
        let tail = mail::content(number, length);
        // Equal digests only make the spool compare the octets.
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_le_bytes());
        self.inbox.push(Request::Commit { message: id, tail, digest, envelope, reply });
    }

    /// The disk takes everything that waits for it.
    pub(super) fn disk_turn(&mut self) {
        self.disk_busy = false;
        for request in std::mem::take(&mut self.inbox) {
            self.spool.take(self.now, request);
        }
        self.spool.turn(self.now, Idle::No);
        self.check_disk();
        self.news();
    }

    /// If the disk works, everything that was taken so far is on it: all that the rooms asked for, when nothing waits.
    pub(super) fn check_disk(&mut self) {
        if self.inbox.is_empty() && !self.spool.is_in_trouble() && self.spool.backlog() == 0 {
            self.queue.durable();
        }
    }

    /// The spool's news go where they belong.
    pub(super) fn news(&mut self) {
        while let Some(news) = self.spool.poll() {
            self.one_news(news);
        }
        self.answers();
    }

    pub(super) fn one_news(&mut self, news: News) {
        match news {
            News::Answer(to, committed) => {
                // Answers are taken from the mailbox behind each group.
                assert!(to.try_send(committed).is_ok(), "an answer has no room");
                self.answers();
            }
            News::Arrived(arrived) => {
                let id = arrived.0;
                self.books.arrived(id);
                let stored = self.reader.message(id).expect("what has arrived can be read");
                let requests: Vec<Request> = zrelay_router::decide(&self.router, &stored, self.now).collect();
                tell!(self, "router  {id}: {} recipients", stored.recipients());
                routes::check(&self.config, &self.queue, &stored, &requests);
                for request in requests {
                    if let Request::Outcomes(outcomes) = &request {
                        outcomes.iter().for_each(|outcome| self.books.staged(outcome));
                    }
                    self.inbox.push(request);
                }
            }
            News::Queue(item) => {
                match &item {
                    Queue::Batch(batch) => {
                        tell!(self, "spool   {}: {} recipients for {}", batch.id, batch.recipients.len(), batch.thread);
                        self.touched.push(batch.thread.clone());
                        let recipients = self.held_against(batch.id.message, &batch.recipients);
                        self.queue.arrived(batch, &recipients);
                    }
                    other => tell!(self, "spool   {other:?}"),
                }
                match &item {
                    Queue::Paused(_) => self.queue.paused = true,
                    Queue::Resumed => self.queue.paused = false,
                    _ => {}
                }
                self.scheduler.handle_queue(self.now, item);
            }
            News::Fact(fact) => {
                match &fact {
                    Fact::Outcome(recorded) => self.books.durable(&recorded.outcome),
                    Fact::Removed(id) => {
                        tell!(self, "spool   {id}: removed");
                        self.books.removed(*id);
                    }
                    Fact::Owed(owed) if owed.disposition == Disposition::Delayed => {
                        self.books.delayed(owed.message, &owed.recipients);
                    }
                    Fact::Owed(_) | Fact::Done(_) => {}
                }
                self.desk.handle_fact(self.now, fact);
            }
        }
    }

    /// What clients are told.
    pub(super) fn answers(&mut self) {
        while let Received::Item(Committed { token, result }) = self.answers.1.try_recv() {
            let number = token as u32;
            match result {
                Ok(()) => self.books.accepted(number),
                Err(refused) => {
                    tell!(self, "client  message {number} is refused: {refused}");
                    self.books.refused(number);
                    self.try_again(number);
                }
            }
        }
    }

    /// A client whose message was not taken comes again.
    pub(super) fn try_again(&mut self, number: u32) {
        let posting = self.tries[number as usize];
        self.agenda.set(self.now + CLIENT_RETRY, Event::Post(posting));
    }
}

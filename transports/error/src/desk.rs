//! The thread around it: facts in; lines to the log and reports to the spool out.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use aws_lc_rs::digest;
use zrelay_clock::{Clock, Timestamp};
use zrelay_mailbox::{Received, Receiver, Sender, mailbox};
use zrelay_maillog::lines::{self, Notification};
use zrelay_maillog::{DeliveryLines, target};
use zrelay_spool::{
    CommitReply, Committed, Disposition, Fact, MessageId, Outcome, PIECE_MAX, Reader, Recorded, Request, SpoolHandle,
};

use crate::plan::is_delay;
use crate::{Addressee, Archive, Gatherer, Item, Notice, Original, Ripe, plan};

/// Reports handed to the spool whose answer is awaited: enough for a group commit to carry many.
const IN_FLIGHT_MAX: usize = 64;
/// Longest sleep. Nothing is due when it ends; it bounds how late a swallowed wake-up can be noticed.
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Sleep while answers of the spool are awaited.
const PATIENCE_IN_FLIGHT: Duration = Duration::from_millis(5);

/// What the notary must know of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Name of this hub.
    pub hostname: String,
    /// Who is told when a sender is null; `None`: only the log.
    pub postmaster: Option<String>,
    /// How long failures of one message are gathered.
    pub gather: Duration,
}

/// The thread.
#[derive(Debug)]
pub struct Notary;

impl Notary {
    /// The body of the notary's thread. Returns when the senders of `facts` or the spool are gone; what is owed by then
    /// is told after the next start.
    pub fn run(facts: Receiver<Fact>, handle: SpoolHandle, reader: Reader, clock: Clock, options: Options) {
        let requests = handle.sender();
        let mut desk = Desk::new(reader, requests, Box::new(move || handle.next_id()), options);
        while desk.turn(&facts, &clock) == Turn::Again {}
    }
}

/// Names of new messages.
pub type NextId = Box<dyn Fn() -> MessageId + Send>;

/// Whether there is a next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Again,
    Over,
}

/// The notary's work, apart from waiting for it.
pub struct Desk<A: Archive> {
    archive: A,
    requests: Sender<Request>,
    next_id: NextId,
    options: Options,
    gatherer: Gatherer,
    jobs: VecDeque<Job>,
    in_flight: HashMap<u64, Job>,
    token: u64,
    committed: (Sender<Committed>, Receiver<Committed>),
    spool: Spool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spool {
    Open,
    Gone,
}

/// A report to be made, or under way.
#[derive(Clone, Debug)]
struct Job {
    about: MessageId,
    to: Addressee,
    items: Vec<Item>,
    /// Its own id, once it is under way.
    id: MessageId,
}

impl<A: Archive> Desk<A> {
    /// A desk that reads from `archive`, hands its reports to `requests` and names them by `next_id`.
    pub fn new(archive: A, requests: Sender<Request>, next_id: NextId, options: Options) -> Self {
        Self {
            archive,
            requests,
            next_id,
            gatherer: Gatherer::new(options.gather),
            options,
            jobs: VecDeque::new(),
            in_flight: HashMap::new(),
            token: 0,
            committed: mailbox(IN_FLIGHT_MAX),
            spool: Spool::Open,
        }
    }

    /// Waits for something to do, and does it.
    pub(crate) fn turn(&mut self, facts: &Receiver<Fact>, clock: &Clock) -> Turn {
        let next = if self.in_flight.len() >= IN_FLIGHT_MAX {
            // Nothing else can go on; the facts wait in their mailbox.
            match self.committed.1.wait(PATIENCE_MAX) {
                Received::Item(committed) => {
                    self.handle_committed(clock.now(), &committed);
                    Received::Nothing
                }
                // A spool that has ended answers no more.
                Received::Nothing | Received::Closed => facts.try_recv(),
            }
        } else {
            facts.wait(self.patience(clock.now()))
        };
        match next {
            Received::Item(fact) => self.handle_fact(clock.now(), fact),
            Received::Nothing => {}
            Received::Closed => return Turn::Over,
        }
        self.work(clock.now());
        if self.spool == Spool::Gone { Turn::Over } else { Turn::Again }
    }

    fn patience(&self, now: Timestamp) -> Duration {
        let longest = if self.in_flight.is_empty() { PATIENCE_MAX } else { PATIENCE_IN_FLIGHT };
        self.gatherer.poll_timeout().map_or(longest, |due| due.since(now).min(longest))
    }

    /// Takes in a fact.
    pub fn handle_fact(&mut self, now: Timestamp, fact: Fact) {
        match fact {
            Fact::Outcome(recorded) => self.log_outcome(&recorded),
            Fact::Owed(owed) => self.gatherer.handle_owed(now, owed),
            Fact::Done(message) => self.gatherer.handle_done(now, message),
            Fact::Removed(message) => {
                // The report that settled the last of it is known to be stored; its line comes first.
                self.take_answers(now);
                self.gatherer.handle_removed(message);
                log::info!(target: target::QMGR, "{}", lines::removed(message));
            }
        }
    }

    /// Does what is due: takes the spool's answers, plans ripe messages, makes reports.
    pub fn work(&mut self, now: Timestamp) {
        self.take_answers(now);
        while self.in_flight.len() < IN_FLIGHT_MAX && self.spool == Spool::Open {
            if let Some(job) = self.jobs.pop_front() {
                self.make(now, job);
                continue;
            }
            let Some(ripe) = self.gatherer.poll_ripe(now) else { return };
            self.plan(ripe);
        }
    }

    /// When [`Desk::work`] is next due by the clock; not while as many reports are under way as may be.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.gatherer.poll_timeout().filter(|_| self.in_flight.len() < IN_FLIGHT_MAX)
    }

    fn take_answers(&mut self, now: Timestamp) {
        while let Received::Item(committed) = self.committed.1.try_recv() {
            self.handle_committed(now, &committed);
        }
    }

    fn handle_committed(&mut self, now: Timestamp, committed: &Committed) {
        let Some(job) = self.in_flight.remove(&committed.token) else { return };
        if let Err(refused) = &committed.result {
            log::warn!(target: target::BOUNCE, "{}: notification not stored: {refused}; trying again later", job.about);
            self.gatherer.handle_refused(now, job.about, job.items);
            return;
        }
        let failures = job.items.iter().any(|item| !matches!(item.disposition, Disposition::Delivered { .. }));
        let what = match job.to {
            Addressee::Postmaster(_) => Notification::Postmaster,
            Addressee::Sender(_) if job.items.iter().any(is_delay) => Notification::Delay,
            Addressee::Sender(_) if failures => Notification::Failure,
            Addressee::Sender(_) => Notification::Success,
        };
        log::info!(target: target::BOUNCE, "{}", lines::notification(job.about, what, job.id));
    }

    fn plan(&mut self, ripe: Ripe) {
        let about = ripe.message;
        let original = match self.archive.find(about) {
            Ok(original) => original,
            Err(error) => {
                // It stays owed in the spool's books and comes again with the next start.
                log::error!(target: target::BOUNCE, "{about}: no notification can be made: {error}");
                return;
            }
        };
        let plan = plan(&original, ripe, self.options.postmaster.as_deref());
        let jobs = plan.notices.into_iter().map(|(to, items)| Job { about, to, items, id: MessageId(0) });
        self.jobs.extend(jobs);
        for item in &plan.unsent {
            let recipient = original.recipient(item.recipient);
            log::warn!(
                target: target::BOUNCE,
                "{about}: nobody to notify of recipient {} ({})", recipient.address, item.diagnostic
            );
        }
        if !plan.unsent.is_empty() {
            let recipients = plan.unsent.iter().map(|item| item.recipient).collect();
            self.request(Request::Settled { message: about, recipients });
        }
    }

    fn make(&mut self, now: Timestamp, mut job: Job) {
        let original = match self.archive.find(job.about) {
            Ok(original) => original,
            Err(error) => {
                log::error!(target: target::BOUNCE, "{}: no notification can be made: {error}", job.about);
                return;
            }
        };
        job.id = (self.next_id)();
        let notice = Notice {
            id: job.id,
            about: job.about,
            to: &job.to,
            items: &job.items,
            hostname: &self.options.hostname,
            now,
        };
        let shape = notice.shape(&original);
        let mut pieces = Pieces::new(job.id, self.requests.clone());
        notice.write(&original, shape, |octets| pieces.push(octets));
        let envelope = Box::new(notice.envelope(&original, shape));
        log::info!(target: target::CLEANUP, "{}", lines::message_id(job.id, &notice.message_id()));
        let (tail, digest) = pieces.finish();
        self.token += 1;
        let reply = CommitReply { to: self.committed.0.clone(), token: self.token };
        let message = job.id;
        self.in_flight.insert(self.token, job);
        self.request(Request::Commit { message, tail, digest, envelope, reply });
    }

    fn request(&mut self, request: Request) {
        if self.requests.send(request).is_err() {
            self.spool = Spool::Gone;
        }
    }

    fn log_outcome(&self, Recorded { outcome, stored }: &Recorded) {
        if let Some(stored) = stored {
            return log_deliveries(outcome, stored);
        }
        match self.archive.find(outcome.batch.message) {
            Ok(original) => log_deliveries(outcome, &original),
            Err(_) => log_nameless(outcome),
        }
    }
}

fn log_deliveries(outcome: &Outcome, original: &impl Original) {
    if log::max_level() < log::Level::Info {
        return;
    }
    let lines = DeliveryLines::new(outcome, original.received());
    for recipient in &outcome.recipients {
        log::info!(target: lines.target(), "{}", lines.to(original.recipient(*recipient).address));
    }
    let first = outcome.recipients.first().filter(|_| outcome.disposition == Disposition::Expired);
    if let Some(first) = first {
        let sender = original.sender(original.recipient(*first).sender);
        log::info!(target: target::QMGR, "{}", lines::expired(outcome.batch.message, sender));
    }
}

/// A message that cannot be read any more still gets its lines, with the recipients' numbers.
fn log_nameless(outcome: &Outcome) {
    let lines = DeliveryLines::new(outcome, outcome.at);
    for recipient in &outcome.recipients {
        log::info!(target: lines.target(), "{}", lines.to(&format!("recipient {recipient}")));
    }
}

/// Collects a content into requests of bearable size and digests it on the way.
struct Pieces {
    message: MessageId,
    requests: Sender<Request>,
    buffer: Vec<u8>,
    digest: digest::Context,
}

impl Pieces {
    fn new(message: MessageId, requests: Sender<Request>) -> Self {
        Self { message, requests, buffer: Vec::new(), digest: digest::Context::new(&digest::SHA256) }
    }

    fn push(&mut self, mut octets: &[u8]) {
        self.digest.update(octets);
        while !octets.is_empty() {
            let room = (PIECE_MAX - self.buffer.len()).min(octets.len());
            let (now, later) = octets.split_at(room);
            self.buffer.extend_from_slice(now);
            octets = later;
            if self.buffer.len() == PIECE_MAX {
                let bytes = std::mem::take(&mut self.buffer);
                // A spool that is gone is noticed with the commit.
                let _ = self.requests.send(Request::Append { message: self.message, bytes });
            }
        }
    }

    fn finish(self) -> (Vec<u8>, [u8; 32]) {
        let mut digest = [0; 32];
        digest.iter_mut().zip(self.digest.finish().as_ref()).for_each(|(to, from)| *to = *from);
        (self.buffer, digest)
    }
}

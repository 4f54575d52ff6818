//! The loop of the appender's thread.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zrelay_mailbox::{Outbox, Received, Receiver, Sender, wait_either};

use crate::announce::Announcer;
use crate::appender::{Appender, Output};
use crate::backlog::Backlog;
use crate::checkpoint::job::Job;
use crate::checkpoint::{Checkpoint, Position};
use crate::recovery::Work;
use crate::{Arrived, Committed, Fact, Outlets, Queue, Request};

/// Items that may wait for a room that does not keep up before no more mail is taken in.
const OUTBOX_MAX: usize = 10_000;
/// Records that may wait for a disk that does not work before no more outcomes are taken either.
const BACKLOG_MAX: usize = 100_000;
/// Requests taken from one mailbox in one group: bounds how long the first of them waits for its `fdatasync`.
const GROUP_MAX: usize = 1024;
/// How long a thread without work waits before it makes durable what nobody is in a hurry for.
const SETTLE_AFTER: Duration = Duration::from_millis(100);
/// How often the space left on the file system is looked at.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Smallest grant to compaction, in octets.
const GRANT_MIN: u64 = 1024;
/// How often a disk in trouble is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long to wait for room in somebody's mailbox: those who make room there do not wake this thread.
const ROOM_AFTER: Duration = Duration::from_millis(2);
/// How long to wait at the end for others to take what is ready for them.
const PART_AFTER: Duration = Duration::from_secs(1);
/// Messages of an earlier run that are handed out between two groups, and octets of their content that are checked.
const BACKLOG_MESSAGES_MAX: usize = 512;
const BACKLOG_OCTETS_MAX: u64 = 4 << 20;
/// How often to look whether a checkpoint is made.
const CHECKPOINT_LOOK: Duration = Duration::from_millis(100);
/// How long to wait when there is nothing at all to do but to look after the space and the directory.
const IDLE: Duration = Duration::from_secs(5);

/// The appender with its mailboxes.
pub(crate) struct Driver {
    appender: Appender,
    intake: Inbox,
    requests: Inbox,
    routing: Announcer,
    scheduler: Outbox<Queue>,
    facts: Outbox<Fact>,
    answers: VecDeque<(Sender<Committed>, Committed)>,
    recovered: Recovered,
    backlog: Backlog,
    /// Messages in it.
    left: u64,
    checkpoint: Option<JoinHandle<Made>>,
    retry_at: Option<Instant>,
    /// Octets that compaction may read and write in a second.
    compaction_rate: u64,
    /// Up to when compaction has been paid for.
    granted_at: Instant,
    /// When the space was looked at last.
    measured_at: Option<Instant>,
    /// Pages that could not be read, as far as it was told.
    unreadable: u64,
}

struct Inbox {
    receiver: Receiver<Request>,
    state: InboxState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InboxState {
    Open,
    Closed,
}

/// What came of making a checkpoint.
type Made = io::Result<(Arc<Checkpoint>, Position)>;

/// Work of an earlier run that comes before its messages.
struct Recovered {
    queue: VecDeque<Queue>,
    facts: VecDeque<Fact>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

impl Driver {
    pub(crate) fn new(
        appender: Appender,
        intake: Receiver<Request>,
        requests: Receiver<Request>,
        outlets: Outlets,
        work: Work,
        compaction_rate: u64,
    ) -> Self {
        // Threads first: the scheduler must know that a host is down before it sees the batches for it.
        let recovered =
            Recovered { queue: work.threads.into_iter().map(Queue::Thread).collect(), facts: work.facts.into() };
        Self {
            appender,
            intake: Inbox { receiver: intake, state: InboxState::Open },
            requests: Inbox { receiver: requests, state: InboxState::Open },
            routing: Announcer::new(outlets.routing),
            scheduler: Outbox::new(outlets.scheduler),
            facts: Outbox::new(outlets.facts),
            answers: VecDeque::new(),
            recovered,
            backlog: Backlog::default(),
            left: 0,
            checkpoint: None,
            retry_at: None,
            compaction_rate,
            granted_at: Instant::now(),
            measured_at: None,
            unreadable: 0,
        }
    }

    /// Hands out what an earlier run left: so many messages.
    pub(crate) fn with_backlog(mut self, messages: usize, backlog: Backlog) -> Self {
        self.left = messages as u64;
        self.backlog = backlog;
        self.appender.expect_recalls();
        self.count_left(0);
        self
    }

    /// Runs until asked to stop, or until nobody is left who could ask for anything.
    pub(crate) fn run(mut self) {
        self.appender.start();
        loop {
            let next = self.take();
            self.grant();
            self.measure();
            self.appender.turn();
            if next == Next::Stop {
                break;
            }
            self.retry();
            self.look_after_checkpoint();
            self.hand_out();
            self.hand_out_backlog();
            self.wait();
        }
        self.appender.cancel_checkpoint();
        // A last attempt, so that outcomes are not forgotten for a disk that works by now.
        self.appender.retry();
        // Twice: the first brings ends of messages to light, the second records them.
        self.appender.settle();
        self.appender.settle();
        // It must not come to its end under a later hub. One that is begun now is never run.
        if let Some(checkpoint) = self.checkpoint.take() {
            let _ = checkpoint.join();
        }
        self.part();
    }

    /// Hands out what was ready. Mostly log lines: all else is in the log and comes again after a restart.
    fn part(mut self) {
        self.hand_out();
        let until = Instant::now() + PART_AFTER;
        while self.is_backed_up() && Instant::now() < until {
            thread::sleep(ROOM_AFTER);
            self.hand_out();
        }
    }

    fn take(&mut self) -> Next {
        let mut next = Next::GoOn;
        if self.takes_requests() {
            next = self.requests.take(&mut self.appender, Appender::take);
        }
        if self.takes_intake() && self.intake.take(&mut self.appender, Appender::take_from_client) == Next::Stop {
            next = Next::Stop;
        }
        let closed = self.requests.state == InboxState::Closed && self.intake.state == InboxState::Closed;
        if closed { Next::Stop } else { next }
    }

    fn takes_requests(&self) -> bool {
        self.appender.backlog() < BACKLOG_MAX
    }

    fn takes_intake(&self) -> bool {
        self.routing.len().max(self.scheduler.len()).max(self.facts.len()) < OUTBOX_MAX
    }

    fn grant(&mut self) {
        let now = Instant::now();
        let micros = u64::try_from((now - self.granted_at).as_micros()).unwrap_or(u64::MAX);
        let octets = micros.saturating_mul(self.compaction_rate) / 1_000_000;
        // Not for less than a record's worth, so that nothing is lost to rounding.
        if octets >= GRANT_MIN {
            self.appender.grant(octets);
            self.granted_at = now;
        }
    }

    fn measure(&mut self) {
        if self.measured_at.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
            self.appender.measure();
            let unreadable = zrelay_sys::unreadable_pages();
            if unreadable > self.unreadable {
                log::error!(
                    "spool: {unreadable} page(s) of the spool's files cannot be read, the disk fails; messages on them are \
                     put off, `zrelay spool check` names them"
                );
                self.unreadable = unreadable;
            }
            self.measured_at = Some(Instant::now());
        }
    }

    fn retry(&mut self) {
        if !self.appender.is_in_trouble() {
            self.retry_at = None;
            return;
        }
        let now = Instant::now();
        let at = *self.retry_at.get_or_insert(now + RETRY_AFTER);
        if now >= at {
            self.appender.retry();
            self.retry_at = Some(now + RETRY_AFTER);
        }
    }

    fn hand_out(&mut self) {
        while let Some(output) = self.appender.poll_output() {
            match output {
                Output::Answer(to, committed) => self.answers.push_back((to, committed)),
                Output::Arrived(arrived) => self.routing.keep(arrived),
                Output::Queue(queue) => self.scheduler.push(queue),
                Output::Fact(fact) => self.facts.push(fact),
                Output::Checkpoint(job) => self.begin_checkpoint(job),
            }
        }
        // One that does not read its answers must not keep them from the others.
        for _ in 0..self.answers.len() {
            let Some((to, committed)) = self.answers.pop_front() else { break };
            if let Err(zrelay_mailbox::SendError::Full(committed)) = to.try_send(committed) {
                self.answers.push_back((to, committed));
            }
        }
        // What had no room before may have it now. While the scheduler does not take the batches there are, or the disk not
        // their records, no more are made.
        self.scheduler.flush();
        if self.requests.receiver.is_empty() {
            self.routing.forget_if_taken();
        }
        if self.scheduler.len() < OUTBOX_MAX && self.takes_requests() {
            self.routing.flush(self.appender.ledger());
        }
        self.facts.flush();
        feed(&mut self.recovered.queue, &mut self.scheduler);
        feed(&mut self.recovered.facts, &mut self.facts);
    }

    /// Makes a checkpoint in a thread of its own: it reads and writes files, and nobody waits for it.
    fn begin_checkpoint(&mut self, job: Box<Job>) {
        let make = move || {
            let made = job.run();
            // It took memory of what is known of some hundred thousand messages.
            zrelay_sys::release_unused_memory();
            made
        };
        match thread::Builder::new().name("checkpoint".to_owned()).spawn(make) {
            Ok(thread) => self.checkpoint = Some(thread),
            Err(error) => self.appender.checkpointed(Err(error)),
        }
    }

    fn look_after_checkpoint(&mut self) {
        let Some(thread) = self.checkpoint.take_if(|thread| thread.is_finished()) else { return };
        let result = thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes it has died")));
        self.appender.checkpointed(result);
    }

    /// A bounded part of what an earlier run left, as long as the rooms take it.
    fn hand_out_backlog(&mut self) {
        let mut octets = 0;
        for _ in 0..BACKLOG_MESSAGES_MAX {
            if octets >= BACKLOG_OCTETS_MAX || !self.takes_backlog() {
                return;
            }
            let left = self.appender.recall(&mut self.backlog);
            if self.backlog.is_over() {
                // The reading of the log took some times as much memory as what is left of it.
                zrelay_sys::release_unused_memory();
            }
            let Some(left) = left else { return self.count_left(self.left) };
            octets += left.octets;
            self.count_left(1);
            left.facts.into_iter().for_each(|fact| self.facts.push(fact));
            left.batches.into_iter().for_each(|batch| self.scheduler.push(Queue::Batch(batch)));
            if left.is_unrouted {
                self.routing.keep(Arrived(left.message));
            }
        }
    }

    fn takes_backlog(&self) -> bool {
        let outboxes = self.routing.is_empty() && self.scheduler.is_empty() && self.facts.is_empty();
        outboxes && self.recovered.queue.is_empty() && !self.backlog.is_over()
    }

    fn count_left(&mut self, fewer: u64) {
        self.left = self.left.saturating_sub(fewer);
        self.appender.count_recovering(self.left);
    }

    /// Whether somebody's mailbox is too full for what is ready for them.
    fn is_backed_up(&self) -> bool {
        !(self.routing.is_empty() && self.scheduler.is_empty() && self.facts.is_empty() && self.answers.is_empty())
    }

    fn wait(&mut self) {
        let settled = self.appender.is_settled() && !self.appender.is_compacting();
        let mut patience = if settled { IDLE } else { SETTLE_AFTER };
        if self.is_backed_up() {
            patience = patience.min(ROOM_AFTER);
        }
        if self.takes_backlog() {
            patience = Duration::ZERO;
        }
        if self.checkpoint.is_some() {
            patience = patience.min(CHECKPOINT_LOOK);
        }
        if let Some(at) = self.retry_at {
            patience = patience.min(at.saturating_duration_since(Instant::now()));
        }
        if self.appender.is_short_of_space() {
            // Nothing may come that would make it look again.
            patience = patience.min(MEASURE_EVERY);
        }
        let requests = self.requests.watched(self.takes_requests());
        let intake = self.intake.watched(self.takes_intake());
        if !wait_either(requests, intake, patience) && !settled {
            self.appender.settle();
        }
    }
}

/// Moves recovered work as long as there is room for it right away.
fn feed<T>(from: &mut VecDeque<T>, to: &mut Outbox<T>) {
    while to.is_empty()
        && let Some(item) = from.pop_front()
    {
        to.push(item);
    }
}

impl Inbox {
    fn take(&mut self, appender: &mut Appender, hand_over: fn(&mut Appender, Request)) -> Next {
        for _ in 0..GROUP_MAX {
            match self.receiver.try_recv() {
                Received::Item(Request::Shutdown) => return Next::Stop,
                Received::Item(request) => hand_over(appender, request),
                Received::Nothing => break,
                Received::Closed => {
                    self.state = InboxState::Closed;
                    break;
                }
            }
        }
        Next::GoOn
    }

    fn watched(&self, takes: bool) -> Option<&Receiver<Request>> {
        (takes && self.state == InboxState::Open).then_some(&self.receiver)
    }
}

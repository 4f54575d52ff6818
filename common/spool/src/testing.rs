//! A spool that is stepped by hand, on a disk in memory: for simulations of the whole hub under virtual time.
//!
//! [`Stepped`] stands where [`Spool::run`](crate::Spool::run) stands in the hub: it hands requests to the appender, ends
//! groups, and gives what the appender tells to whoever steps it. There is no thread, no mailbox and no clock.

use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_mailbox::Sender;

use crate::appender::{Appender, Output};
use crate::recovery::{Recovery, recover};
use crate::shared::Shared;
pub use crate::simulated::{Random, Simulated};
use crate::storage::Storage;
use crate::writer::Log;
use crate::{Arrived, Committed, Fact, Health, MessageId, Queue, Reader, Request, Statistics};

/// What the spool tells another room.
#[derive(Debug)]
pub enum News {
    /// To whoever asked.
    Answer(Sender<Committed>, Committed),
    /// To the router.
    Arrived(Arrived),
    /// To the scheduler.
    Queue(Queue),
    /// To the notary.
    Fact(Fact),
}

/// See the module's head.
pub struct Stepped {
    appender: Appender,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Stepped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepped").finish_non_exhaustive()
    }
}

impl Stepped {
    /// Recovers what `disk` holds and goes on there; also gives what an earlier run left to be done, in the order in
    /// which a running spool sends it.
    ///
    /// # Errors
    /// In words, when the log cannot be read at all or is damaged: a disk of a simulation never is.
    pub fn open(disk: &Simulated, segment_bytes: u32, now: Timestamp) -> Result<(Self, Vec<News>), String> {
        let shared = Arc::new(Shared::at(now));
        let mut storage: Box<dyn Storage> = Box::new(disk.clone());
        let mut recovery = recover(&mut *storage, &shared).map_err(|error| error.to_string())?;
        let base = recovery.backlog.base.clone();
        recovery.finish(&shared);
        let Recovery { ledger, threads, sealed, next_number, finishing, work, damage, position, recorded, .. } =
            recovery;
        if let Some(damage) = damage.first() {
            return Err(damage.to_string());
        }
        let log = Log::new(storage, shared.clone(), segment_bytes, sealed, next_number);
        let mut appender = Appender::new(shared.clone(), log, ledger, threads, finishing);
        appender.set_checkpoint(base, position, recorded);
        appender.start();
        let threads = work.threads.into_iter().map(Queue::Thread);
        let queue = threads.chain(work.batches.into_iter().map(Queue::Batch)).map(News::Queue);
        let arrived = work.arrived.into_iter().map(|message| News::Arrived(Arrived(message)));
        let news = queue.chain(arrived).chain(work.facts.into_iter().map(News::Fact)).collect();
        Ok((Self { appender, shared }, news))
    }

    /// Takes a request of one of the rooms, or of a client.
    pub fn take(&mut self, now: Timestamp, request: Request) {
        self.shared.set_time(now);
        match request {
            Request::Append { .. } | Request::Abort { .. } | Request::Commit { .. } => {
                self.appender.take_from_client(request);
            }
            _ => self.appender.take(request),
        }
    }

    /// Ends a group: what was taken is durable behind this, unless the disk fails. `idle`: also what nobody waits for.
    pub fn turn(&mut self, now: Timestamp, idle: Idle) {
        self.shared.set_time(now);
        self.appender.turn();
        if idle == Idle::Yes && !self.is_settled() {
            self.appender.settle();
        }
    }

    /// Tries a disk in trouble again; a driver does so every second.
    pub fn retry(&mut self, now: Timestamp) {
        self.shared.set_time(now);
        self.appender.retry();
    }

    /// Lets compaction read and write so many octets, and looks at the space that is left.
    pub fn grant(&mut self, octets: u64) {
        self.appender.grant(octets);
        self.appender.measure();
    }

    /// The next thing to tell another room.
    pub fn poll(&mut self) -> Option<News> {
        loop {
            return Some(match self.appender.poll_output()? {
                Output::Answer(to, committed) => News::Answer(to, committed),
                Output::Arrived(arrived) => News::Arrived(arrived),
                Output::Queue(queue) => News::Queue(queue),
                Output::Fact(fact) => News::Fact(fact),
                // Beside the rest in a hub; here at once.
                Output::Checkpoint(job) => {
                    self.appender.checkpointed(job.run());
                    continue;
                }
            });
        }
    }

    /// Whether nothing waits for a turn.
    pub fn is_settled(&self) -> bool {
        self.appender.is_settled() && !self.appender.is_compacting()
    }

    /// Whether the disk fails, and wants a retry.
    pub fn is_in_trouble(&self) -> bool {
        self.appender.is_in_trouble()
    }

    /// Records that wait for a disk that does not work.
    pub fn backlog(&self) -> usize {
        self.appender.backlog()
    }

    /// Access to the stored messages.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// Names of new messages.
    pub fn next_id(&self) -> impl Fn() -> MessageId + Send + use<> {
        let shared = self.shared.clone();
        move || shared.next_id()
    }

    /// As the intake sees it.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// The present figures.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }
}

/// Whether the spool has been idle for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Long enough to make durable what nobody is in a hurry for.
    Yes,
    /// Not yet.
    No,
}

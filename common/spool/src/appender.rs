//! The appender: takes requests, records them in groups, and tells what came of them.
//!
//! It owns no thread and no clock. Its driver ([`crate::Spool::run`]) calls, in this order and again and again:
//! [`take`](Appender::take) for each request, [`turn`](Appender::turn) when no more wait, and
//! [`poll_output`](Appender::poll_output) until nothing is left. What was taken is *staged*: written, but believed by
//! nobody before the `fdatasync` of the turn. Only then is it applied to the ledger, answered and told.
//!
//! **When the disk fails**, nothing of the group counts: commits are refused, and all else (decisions, outcomes) is
//! kept in the backlog. The segment is abandoned where it was last durable, and each call of
//! [`retry`](Appender::retry) tries a new one, beginning with the backlog. Until that works, messages are refused and
//! the scheduler is told to hand nothing out, so the backlog is bounded by what was under way.

mod apply;
mod checkpoints;
mod compact;
mod reclaim;
mod space;
mod trouble;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zrelay_mailbox::Sender;

pub(crate) use apply::queued_batch;
use checkpoints::Checkpoints;
use compact::Compaction;
use space::Space;
use trouble::{Trouble, refusal};

use crate::bodies::Bodies;
use crate::checkpoint::job::Job;
use crate::format::{BODY_MAX, Kind};
use crate::ledger::Ledger;
use crate::message::{self, Extent};
use crate::record::{Mark, Record};
use crate::shared::{Place, Shared};
use crate::threads::Threads;
use crate::writer::Log;
use crate::{
    Arrived, CommitReply, Committed, Envelope, Fact, MessageId, Origin, PIECE_MAX, Queue, Reader, Refused, Request,
    RoutedBatch,
};

/// Something for another room.
#[derive(Debug)]
pub(crate) enum Output {
    Answer(Sender<Committed>, Committed),
    Arrived(Arrived),
    Queue(Queue),
    Fact(Fact),
    /// To be run beside, with its result for [`Appender::checkpointed`].
    Checkpoint(Box<Job>),
}

/// What was written and waits for its `fdatasync`.
enum Staged {
    Commit(Box<StagedCommit>),
    Record(Record, Place),
    Flush(CommitReply),
    /// A segment is to go when all before this is durable.
    Delete(u32),
    Move(Move),
}

struct StagedCommit {
    message: MessageId,
    place: Place,
    recipients: u32,
    extents: Arc<[Extent]>,
    origin: Option<Origin>,
    reply: CommitReply,
}

/// A message is at a new place.
struct Move {
    message: MessageId,
    /// Of the message's own record.
    place: Place,
    /// From where on older segments may hold records of it.
    oldest: u32,
    extents: Vec<Extent>,
}

/// A message of which pieces have come and the commit has not.
#[derive(Default)]
struct UnderWay {
    extents: Vec<Extent>,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Fate {
    #[default]
    Sound,
    /// A piece was lost with a disk error: the commit will be refused.
    Lost,
}

/// See the module's head.
pub(crate) struct Appender {
    shared: Arc<Shared>,
    reader: Reader,
    log: Log,
    ledger: Ledger,
    threads: Threads,
    bodies: Bodies,
    under_way: HashMap<MessageId, UnderWay>,
    staged: Vec<Staged>,
    urgency: Urgency,
    /// Messages whose end is known and not yet recorded.
    finishing: Vec<Mark>,
    outputs: VecDeque<Output>,
    trouble: Option<Trouble>,
    /// Whether a segment may have become superfluous.
    reclaim: Reclaim,
    compaction: Compaction,
    space: Space,
    checkpoints: Checkpoints,
    body: Vec<u8>,
}

/// Whether somebody waits for the next `fdatasync`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    None,
    Now,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reclaim {
    Nothing,
    Look,
}

impl Appender {
    pub(crate) fn new(shared: Arc<Shared>, log: Log, ledger: Ledger, threads: Threads, finishing: Vec<Mark>) -> Self {
        let appender = Self {
            reader: Reader::new(shared.clone()),
            shared,
            log,
            ledger,
            threads,
            bodies: Bodies::default(),
            under_way: HashMap::new(),
            staged: Vec::new(),
            urgency: Urgency::None,
            finishing,
            outputs: VecDeque::new(),
            trouble: None,
            reclaim: Reclaim::Look,
            compaction: Compaction::default(),
            space: Space::default(),
            checkpoints: Checkpoints::default(),
            body: Vec::new(),
        };
        appender.count_open();
        appender
    }

    /// Starts the first segment, so that a full or broken disk shows at once.
    pub(crate) fn start(&mut self) {
        match self.log.ensure_started() {
            Ok(()) => self.log.release_tails(),
            Err(error) => self.fail(&error),
        }
    }

    /// The books.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes one request.
    pub(crate) fn take(&mut self, request: Request) {
        match request {
            Request::Append { message, bytes } => self.append(message, &bytes),
            Request::Abort { message } => self.abort(message),
            Request::Commit { message, tail, digest, envelope, reply } => {
                self.commit(message, tail, digest, &envelope, reply);
            }
            Request::Routed { message, mut batches } => {
                if self.concerns(message, "a routing decision") {
                    self.disentangle(message, &mut batches);
                    self.record(Record::Routed { message, batches });
                }
            }
            Request::Outcomes(mut outcomes) => {
                outcomes.retain(|outcome| self.concerns(outcome.batch.message, "an outcome"));
                if !outcomes.is_empty() {
                    self.record(Record::Outcomes(outcomes));
                }
            }
            Request::Batch(state) => {
                if self.concerns(state.id.message, "the state of a batch") {
                    self.record(Record::Batch(state));
                }
            }
            Request::Reroute { id, thread } => {
                if self.concerns(id.message, "a batch's new thread") {
                    self.record(Record::Rerouted { id, thread });
                }
            }
            Request::Thread(state) => self.record(Record::Thread(state)),
            Request::Settled { message, recipients } => {
                if self.concerns(message, "a settled report") {
                    self.record(Record::Settled { message, recipients });
                }
            }
            Request::Flush { reply } => self.flush(reply),
            // The driver's business.
            Request::Shutdown => {}
        }
    }

    fn concerns(&self, message: MessageId, what: &str) -> bool {
        let live = self.ledger.is_live(message);
        if !live {
            log::warn!("spool: {what} for message {message}, which is not in the queue, is ignored");
        }
        live
    }

    /// Leaves each open recipient in the first batch that names it, and all others in none.
    fn disentangle(&self, message: MessageId, batches: &mut [RoutedBatch]) {
        let mut seen = HashSet::new();
        for batch in batches {
            let before = batch.recipients.len();
            batch.recipients.retain(|recipient| self.ledger.is_open(message, *recipient) && seen.insert(*recipient));
            if batch.recipients.len() != before {
                log::error!("spool: message {message} was routed with recipients that are not open, or twice");
            }
        }
    }

    fn append(&mut self, message: MessageId, bytes: &[u8]) {
        let result = if self.trouble.is_some() { None } else { Some(self.append_pieces(bytes)) };
        if let Some(Err(error)) = &result {
            self.fail(error);
        }
        let under_way = self.under_way.entry(message).or_default();
        let Some(Ok(extents)) = result else {
            under_way.fate = Fate::Lost;
            return;
        };
        for extent in extents {
            if under_way.extents.last().is_none_or(|last| last.segment != extent.segment) {
                self.ledger.pin(extent.segment);
            }
            under_way.extents.push(extent);
        }
    }

    fn append_pieces(&mut self, bytes: &[u8]) -> io::Result<Vec<Extent>> {
        let mut extents = Vec::with_capacity(1);
        for piece in bytes.chunks(PIECE_MAX) {
            let place = self.log.append(Kind::Piece, piece)?;
            extents.push(Extent { segment: place.segment, offset: place.offset, length: place.length });
        }
        Ok(extents)
    }

    fn abort(&mut self, message: MessageId) {
        let Some(under_way) = self.under_way.remove(&message) else { return };
        self.release(&under_way.extents);
    }

    /// Takes the pins of a message under way back. Nothing is reclaimed before the end of the group.
    fn release(&mut self, extents: &[Extent]) {
        let mut last = None;
        for extent in extents {
            if last != Some(extent.segment) {
                self.ledger.unpin(extent.segment);
            }
            last = Some(extent.segment);
        }
        self.reclaim = Reclaim::Look;
    }

    fn commit(&mut self, message: MessageId, tail: Vec<u8>, digest: [u8; 32], envelope: &Envelope, reply: CommitReply) {
        let under_way = self.under_way.remove(&message).unwrap_or_default();
        let result = self.stage_commit(message, tail, digest, envelope, &under_way, &reply);
        self.release(&under_way.extents);
        if let Err(refused) = result {
            self.answer(&reply, Err(refused));
        }
    }

    fn stage_commit(
        &mut self,
        message: MessageId,
        tail: Vec<u8>,
        digest: [u8; 32],
        envelope: &Envelope,
        under_way: &UnderWay,
        reply: &CommitReply,
    ) -> Result<(), Refused> {
        if let Some(trouble) = &self.trouble {
            return Err(trouble.refused.clone());
        }
        if under_way.fate == Fate::Lost {
            return Err(Refused::Broken);
        }
        if self.ledger.is_live(message) {
            log::error!("spool: message {message} was committed twice; the second one is refused");
            return Err(Refused::Broken);
        }
        let written = self.write_message(message, tail, digest, envelope, under_way);
        let (place, extents) = written.map_err(|error| match error {
            WriteError::TooLarge => {
                log::error!("spool: the envelope of message {message} does not fit a record");
                Refused::Full
            }
            WriteError::Disk(error) => {
                self.fail(&error);
                refusal(&error)
            }
        })?;
        self.staged.push(Staged::Commit(Box::new(StagedCommit {
            message,
            place,
            recipients: envelope.recipients.len() as u32,
            extents,
            origin: envelope.origin.clone(),
            reply: reply.clone(),
        })));
        self.urgency = Urgency::Now;
        Ok(())
    }

    fn write_message(
        &mut self,
        message: MessageId,
        tail: Vec<u8>,
        digest: [u8; 32],
        envelope: &Envelope,
        under_way: &UnderWay,
    ) -> Result<(Place, Arc<[Extent]>), WriteError> {
        let known = match under_way.extents[..] {
            [] => self.bodies.find(&digest, &tail, &self.shared),
            [..] => None,
        };
        let extents: Arc<[Extent]> = match known {
            Some(extents) => {
                self.shared.counters.shared_bodies.fetch_add(1, Ordering::Relaxed);
                extents
            }
            None => {
                let last = self.append_pieces(&tail)?;
                if under_way.extents.is_empty() {
                    self.bodies.remember(digest, &last, tail);
                }
                under_way.extents.iter().copied().chain(last).collect()
            }
        };
        self.body.clear();
        message::encode(message, envelope, &extents, &mut self.body).map_err(|_| WriteError::TooLarge)?;
        self.checkpoints.recorded += self.body.len() as u64;
        Ok((self.log.append(Kind::Message, &self.body)?, extents))
    }

    /// Writes a record that needs no answer; it is kept until it is durable.
    fn record(&mut self, record: Record) {
        if let Some(trouble) = &mut self.trouble {
            trouble.backlog.push_back(record);
            return;
        }
        if let Err((error, record)) = self.stage(record, Urgency::Now) {
            self.fail(&error);
            self.trouble.iter_mut().for_each(|trouble| trouble.backlog.extend(record.clone()));
        }
    }

    fn stage(&mut self, record: Record, urgency: Urgency) -> Result<(), (io::Error, Option<Record>)> {
        self.body.clear();
        record.encode(&mut self.body);
        if self.body.len() > BODY_MAX as usize {
            log::error!("spool: a record of {} octets is too large to be kept", self.body.len());
            return Ok(());
        }
        self.checkpoints.recorded += self.body.len() as u64;
        match self.log.append(record.kind(), &self.body) {
            Ok(place) => self.staged.push(Staged::Record(record, place)),
            Err(error) => return Err((error, Some(record))),
        }
        if urgency == Urgency::Now {
            self.urgency = urgency;
        }
        Ok(())
    }

    fn flush(&mut self, reply: CommitReply) {
        match &self.trouble {
            Some(trouble) => {
                let refused = trouble.refused.clone();
                self.answer(&reply, Err(refused));
            }
            None => {
                self.staged.push(Staged::Flush(reply));
                self.urgency = Urgency::Now;
            }
        }
    }

    /// Ends a group: makes it durable if anybody waits for that, and tells what came of it.
    pub(crate) fn turn(&mut self) {
        if self.urgency == Urgency::Now {
            self.settle();
        }
    }

    /// Whether something waits for an `fdatasync` that nobody is in a hurry for.
    pub(crate) fn is_settled(&self) -> bool {
        self.trouble.is_some() || (self.staged.is_empty() && self.finishing.is_empty())
    }

    /// Makes everything durable that was written. The ends of messages that this brings to light are written as well,
    /// for the next time.
    pub(crate) fn settle(&mut self) {
        if self.trouble.is_some() {
            return;
        }
        self.urgency = Urgency::None;
        if let Err(error) = self.log.sync() {
            self.fail(&error);
            return;
        }
        self.bodies.published();
        for staged in std::mem::take(&mut self.staged) {
            self.apply(staged);
        }
        self.look_for_checkpoint();
        self.reclaim();
        self.compact();
        if !self.finishing.is_empty() && self.trouble.is_none() {
            let marks = std::mem::take(&mut self.finishing);
            self.record_quietly(Record::Finished(marks));
        }
        self.count_open();
    }

    fn record_quietly(&mut self, record: Record) {
        if let Err((error, record)) = self.stage(record, Urgency::None) {
            self.fail(&error);
            self.trouble.iter_mut().for_each(|trouble| trouble.backlog.extend(record.clone()));
        }
    }

    /// The next thing to tell somebody.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn answer(&mut self, reply: &CommitReply, result: Result<(), Refused>) {
        self.outputs.push_back(Output::Answer(reply.to.clone(), Committed { token: reply.token, result }));
    }

    fn count_open(&self) {
        self.shared.counters.open_messages.store(self.ledger.live() as u64, Ordering::Relaxed);
    }
}

enum WriteError {
    TooLarge,
    Disk(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

#[cfg(test)]
pub(crate) mod bench;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod model;
#[cfg(test)]
mod past;
#[cfg(test)]
mod recalls;
#[cfg(test)]
mod tests;

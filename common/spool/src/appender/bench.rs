//! An appender on a simulated disk, and what its tests say again and again.

use zrelay_clock::Timestamp;
use zrelay_mailbox::mailbox;

use super::*;
use crate::backlog::Backlog;
use crate::recovery::{Recovery, Work, recover};
use crate::simulated::Simulated;
use crate::storage::Storage;
use crate::{
    BatchId, Content, Damage, Diagnostic, Disposition, Handling, Notify, Outcome, Recipient, Status, ThreadKey, Timing,
};

/// Driven by hand.
pub(super) struct Bench {
    pub(super) disk: Simulated,
    pub(super) appender: Appender,
    pub(super) shared: Arc<Shared>,
    pub(super) work: Work,
    pub(super) damage: Vec<Damage>,
    segment_bytes: u32,
    to: Sender<Committed>,
    /// A checkpoint that could be made.
    pub(super) job: Option<Box<Job>>,
    /// What the making of it may take.
    pub(super) job_octets: usize,
}

/// Octets of records between checkpoints: a dozen of them.
const CHECKPOINT_OCTETS: u64 = 600;
/// Memory for a checkpoint: some messages, so that it is made in several passes.
const JOB_OCTETS: usize = 2000;

impl Bench {
    pub(super) fn open(disk: Simulated, segment_bytes: u32) -> Self {
        Self::open_with(disk, segment_bytes, Recovery::finish).0
    }

    /// As a hub does that hands out what an earlier run left while it works.
    pub(super) fn open_with_backlog(disk: Simulated, segment_bytes: u32) -> (Self, Backlog) {
        let (mut bench, backlog) = Self::open_with(disk, segment_bytes, |_, _| {});
        bench.appender.expect_recalls();
        (bench, backlog)
    }

    fn open_with(disk: Simulated, segment_bytes: u32, finish: fn(&mut Recovery, &Arc<Shared>)) -> (Self, Backlog) {
        let shared = Arc::new(Shared::new());
        let mut storage: Box<dyn Storage> = Box::new(disk.clone());
        let mut recovery = recover(&mut *storage, &shared).unwrap();
        let base = recovery.backlog.base.clone();
        finish(&mut recovery, &shared);
        let log = Log::new(storage, shared.clone(), segment_bytes, recovery.sealed, recovery.next_number);
        let mut appender = Appender::new(shared.clone(), log, recovery.ledger, recovery.threads, recovery.finishing);
        appender.set_checkpoint(base, recovery.position, recovery.recorded);
        appender.set_checkpoint_octets(CHECKPOINT_OCTETS);
        appender.start();
        let (work, damage, to) = (recovery.work, recovery.damage, mailbox(1).0);
        let backlog = recovery.backlog;
        (Self { disk, appender, shared, work, damage, segment_bytes, to, job: None, job_octets: JOB_OCTETS }, backlog)
    }

    /// A new hub on what `kill -9` leaves.
    pub(super) fn restarted(&self) -> Self {
        Self::open(self.disk.after_kill(), self.segment_bytes)
    }

    pub(super) fn reply(&self, message: MessageId) -> CommitReply {
        CommitReply { to: self.to.clone(), token: message.0 }
    }

    /// Commits a message of a single piece; the token of the answer is its id.
    pub(super) fn commit(&mut self, body: &[u8], envelope: Envelope) -> MessageId {
        let message = self.shared.next_id();
        let reply = self.reply(message);
        self.commit_as(message, body, envelope, reply);
        message
    }

    pub(super) fn commit_as(&mut self, message: MessageId, body: &[u8], envelope: Envelope, reply: CommitReply) {
        let envelope = Box::new(envelope);
        self.appender.take(Request::Commit { message, tail: body.to_vec(), digest: digest(body), envelope, reply });
    }

    pub(super) fn outputs(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.appender.poll_output() {
            match output {
                Output::Checkpoint(job) => self.job = Some(job),
                other => outputs.push(other),
            }
        }
        outputs
    }

    /// Makes a checkpoint, if it is time for one; says whether one was made.
    pub(super) fn checkpoint(&mut self) -> bool {
        let Some(job) = self.job.take() else { return false };
        let result = job.run_within(self.job_octets);
        let made = result.is_ok();
        self.appender.checkpointed(result);
        made
    }

    /// Makes a checkpoint of all that is on record.
    pub(super) fn checkpoint_all(&mut self) {
        for _ in 0..100 {
            self.job = None;
            self.appender.cancel_and_forget_checkpoint();
            self.appender.set_checkpoint_octets(0);
            self.appender.settle();
            self.outputs();
            if self.appender.is_settled() && self.checkpoint() {
                return;
            }
        }
        panic!("it is never time for a checkpoint");
    }

    pub(super) fn turn(&mut self) -> Vec<Output> {
        self.appender.turn();
        self.outputs()
    }

    pub(super) fn body(&self, message: MessageId) -> Vec<u8> {
        Reader::new(self.shared.clone()).message(message).unwrap().body().collect::<Vec<_>>().concat()
    }

    pub(super) fn settle(&mut self) -> Vec<Output> {
        while !self.appender.is_settled() {
            self.appender.settle();
        }
        self.outputs()
    }
}

impl Bench {
    /// Lets compaction do all that it finds to do.
    pub(super) fn compact(&mut self) {
        for _ in 0..1000 {
            self.appender.grant(1 << 20);
            self.appender.settle();
            if !self.appender.is_compacting() && self.appender.is_settled() {
                return;
            }
        }
        panic!("it never ends");
    }
}

/// Stands in for SHA-256, which the spool never computes itself.
pub(super) fn digest(body: &[u8]) -> [u8; 32] {
    [(crc32fast::hash(body) & 0xff) as u8; 32]
}

pub(crate) fn envelope(notify: &[Notify]) -> Envelope {
    let recipient = |(n, notify): (usize, &Notify)| Recipient {
        address: format!("user{n}@example.net"),
        sender: 0,
        orcpt: None,
        notify: *notify,
    };
    Envelope {
        received: Timestamp::from_secs(1000),
        trace: b"Received: here\r\n".to_vec(),
        client: "localhost[127.0.0.1]".into(),
        content: Content::default(),
        envid: None,
        ret: None,
        handling: Handling::default(),
        senders: vec!["list-bounces@example.org".into()],
        recipients: notify.iter().enumerate().map(recipient).collect(),
        origin: None,
    }
}

pub(super) fn outcome(message: MessageId, number: u32, recipients: &[u32], disposition: Disposition) -> Outcome {
    Outcome {
        batch: BatchId { message, number },
        recipients: recipients.to_vec(),
        disposition,
        diagnostic: Arc::new(Diagnostic::local(Status(4, 4, 1), "connection refused")),
        at: Timestamp::from_secs(1001),
        attempts: 1,
        due: Timestamp::from_secs(1060),
        timing: Timing::default(),
        channel: None,
    }
}

/// Each recipient of a message with so many to a host of its own.
pub(super) fn route_apart(message: MessageId, recipients: u32) -> Request {
    let batch = |n| RoutedBatch { thread: ThreadKey::new("smtp", &format!("host{n}.example")), recipients: vec![n] };
    Request::Routed { message, batches: (0..recipients).map(batch).collect() }
}

pub(super) fn route(message: MessageId, recipients: &[u32]) -> Request {
    let batches = vec![RoutedBatch { thread: ThreadKey::new("smtp", "example.net"), recipients: recipients.to_vec() }];
    Request::Routed { message, batches }
}

/// Delivers messages until `segments` more have been begun.
pub(super) fn fill(bench: &mut Bench, segments: u32) {
    let until = bench.disk.segments().last().unwrap() + segments;
    while *bench.disk.segments().last().unwrap() < until {
        let message = bench.commit(&[b'x'; 1500], envelope(ONE));
        bench.turn();
        bench.appender.take(route(message, &[0]));
        bench.turn();
        bench.appender.take(Request::Outcomes(vec![outcome(message, 0, &[0], DELIVERED)]));
        bench.turn();
        bench.settle();
    }
}

/// A message that waits in a segment which nothing else needs.
pub(super) fn left_behind(bench: &mut Bench) -> MessageId {
    let message = bench.commit(b"x", envelope(ONE));
    bench.turn();
    bench.appender.take(route(message, &[0]));
    bench.turn();
    fill(bench, 3);
    message
}

pub(super) const DELIVERED: Disposition = Disposition::Delivered { dsn_relayed: false };
pub(super) const ONE: &[Notify] = &[Notify::Default];

pub(super) fn names(outputs: &[Output]) -> Vec<&'static str> {
    let name = |output: &Output| match output {
        Output::Answer(_, Committed { result: Ok(()), .. }) => "stored",
        Output::Answer(_, Committed { result: Err(Refused::Full), .. }) => "full",
        Output::Answer(_, Committed { result: Err(Refused::Broken), .. }) => "broken",
        Output::Arrived(_) => "arrived",
        Output::Queue(Queue::Batch(_)) => "batch",
        Output::Queue(Queue::Thread(_)) => "thread",
        Output::Queue(Queue::Paused(_)) => "paused",
        Output::Queue(Queue::Resumed) => "resumed",
        Output::Fact(Fact::Outcome(_)) => "outcome",
        Output::Fact(Fact::Owed(_)) => "owed",
        Output::Fact(Fact::Done(_)) => "done",
        Output::Fact(Fact::Removed(_)) => "removed",
        Output::Checkpoint(_) => "checkpoint",
    };
    outputs.iter().map(name).collect()
}

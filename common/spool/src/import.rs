//! Putting messages into a spool that no hub runs on.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_mailbox::{Sender, mailbox};

use crate::appender::{Appender, Output};
use crate::{
    BatchId, BatchState, CommitReply, Committed, Diagnostic, Disposition, Envelope, MessageId, OpenError, Options,
    Outcome, PIECE_MAX, Refused, Request, RoutedBatch, Spool, SpoolHandle, ThreadKey, Timing,
};

/// How far a message has come on its way out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Its batches, as far as they have open recipients.
    pub batches: Vec<BatchProgress>,
    /// Reports that are owed to its senders.
    pub reports: Vec<Report>,
}

/// See [`Progress::batches`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchProgress {
    /// The thread it belongs to.
    pub thread: ThreadKey,
    /// Indices of its open recipients in the envelope, ascending.
    pub recipients: Vec<u32>,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this time.
    pub due: Timestamp,
    /// An operator holds it.
    pub held: bool,
    /// What the last attempt brought.
    pub last: Option<Arc<Diagnostic>>,
}

/// See [`Progress::reports`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Indices of the recipients in the envelope, ascending.
    pub recipients: Vec<u32>,
    /// What became of them.
    pub disposition: Disposition,
    /// Why.
    pub diagnostic: Arc<Diagnostic>,
    /// When.
    pub at: Timestamp,
}

impl Progress {
    /// Whether the router has not decided on the message yet.
    pub fn is_unrouted(&self) -> bool {
        self.batches.is_empty() && self.reports.is_empty()
    }

    /// The requests that bring a message there.
    fn requests(self, message: MessageId) -> Vec<Request> {
        let mut batches = Vec::new();
        let (mut outcomes, mut states) = (Vec::new(), Vec::new());
        for (number, batch) in (0..).zip(self.batches) {
            let id = BatchId { message, number };
            let BatchProgress { thread, recipients, attempts, due, held, last } = batch;
            outcomes.extend(last.map(|diagnostic| Outcome {
                batch: id,
                recipients: recipients.clone(),
                disposition: Disposition::Deferred,
                diagnostic,
                at: due,
                attempts,
                due,
                timing: Timing::default(),
                channel: None,
            }));
            batches.push(RoutedBatch { thread, recipients });
            states.push(Request::Batch(BatchState { id, held, due, attempts }));
        }
        for report in self.reports {
            let batch = BatchId { message, number: batches.len() as u32 };
            let Report { recipients, disposition, diagnostic, at } = report;
            // Its thread is over; nobody looks for it any more.
            batches.push(RoutedBatch { thread: ThreadKey::new("error", "imported"), recipients: recipients.clone() });
            let (timing, channel) = (Timing::default(), None);
            outcomes.push(Outcome {
                batch,
                recipients,
                disposition,
                diagnostic,
                at,
                attempts: 1,
                due: at,
                timing,
                channel,
            });
        }
        [Request::Routed { message, batches }, Request::Outcomes(outcomes)].into_iter().chain(states).collect()
    }
}

/// Takes messages in through the appender itself, so that they are stored as if a client had sent them. The next hub on
/// this spool routes those that were not.
pub struct Importer {
    appender: Appender,
    handle: SpoolHandle,
    /// What is to be recorded of messages once they are stored.
    progress: HashMap<MessageId, Progress>,
    /// Nobody listens: the answers are picked up before they get there.
    to: Sender<Committed>,
    _lock: File,
}

impl std::fmt::Debug for Importer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Importer").finish_non_exhaustive()
    }
}

impl Importer {
    /// Opens the spool in `directory`, which is made when it is not there.
    ///
    /// # Errors
    /// [`OpenError`]; above all [`OpenError::Locked`] while a hub runs on it.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, OpenError> {
        let (Spool { mut appender, lock, .. }, handle, _) = Spool::open(Options::new(directory), now)?;
        appender.start();
        Ok(Self { appender, handle, progress: HashMap::new(), to: mailbox(1).0, _lock: lock })
    }

    /// Writes a message that has come so far. It is stored when [`commit`](Self::commit) says so.
    pub fn add_at(&mut self, envelope: Envelope, content: &[u8], progress: Progress) -> MessageId {
        let message = self.add(envelope, content);
        if !progress.is_unrouted() {
            self.progress.insert(message, progress);
        }
        message
    }

    /// Writes a message that the next hub routes. It is stored when [`commit`](Self::commit) says so.
    pub fn add(&mut self, envelope: Envelope, content: &[u8]) -> MessageId {
        let message = self.handle.next_id();
        let mut pieces = content.chunks(PIECE_MAX).peekable();
        let mut tail = Vec::new();
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                tail = piece.to_vec();
            } else {
                self.appender.take(Request::Append { message, bytes: piece.to_vec() });
            }
        }
        // The digest finds candidates for equal bodies only; the octets decide.
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
        let reply = CommitReply { to: self.to.clone(), token: message.0 };
        self.appender.take(Request::Commit { message, tail, digest, envelope: Box::new(envelope), reply });
        message
    }

    /// Makes durable what was added since the last time; the results come in any order.
    pub fn commit(&mut self) -> Vec<(MessageId, Result<(), Refused>)> {
        let mut results = self.settle();
        if self.progress.is_empty() {
            return results;
        }
        for (message, result) in &results {
            let progress = self.progress.remove(message).filter(|_| result.is_ok());
            let requests = progress.map(|progress| progress.requests(*message));
            requests.into_iter().flatten().for_each(|request| self.appender.take(request));
        }
        self.settle();
        if self.appender.is_in_trouble() {
            // It is stored, but not how far it had come: the next hub would route it.
            results.iter_mut().for_each(|(_, result)| *result = Err(Refused::Broken));
        }
        results
    }

    fn settle(&mut self) -> Vec<(MessageId, Result<(), Refused>)> {
        self.appender.settle();
        let outputs = std::iter::from_fn(|| self.appender.poll_output());
        let answer = |output| match output {
            Output::Answer(_, committed) => Some((MessageId(committed.token), committed.result)),
            _ => None,
        };
        outputs.filter_map(answer).collect()
    }
}

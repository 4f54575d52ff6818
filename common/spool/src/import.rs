//! Putting messages into a spool that no hub runs on.

use std::fs::File;
use std::path::Path;

use zrelay_clock::Timestamp;
use zrelay_mailbox::{Sender, mailbox};

use crate::appender::{Appender, Output};
use crate::{
    CommitReply, Committed, Envelope, MessageId, OpenError, Options, PIECE_MAX, Refused, Request, Spool, SpoolHandle,
};

/// Takes messages in through the appender itself, so that they are stored as if a client had sent them. The next hub on
/// this spool routes them.
pub struct Importer {
    appender: Appender,
    handle: SpoolHandle,
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
        Ok(Self { appender, handle, to: mailbox(1).0, _lock: lock })
    }

    /// Writes a message. It is stored when [`commit`](Self::commit) says so.
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
        self.appender.settle();
        let outputs = std::iter::from_fn(|| self.appender.poll_output());
        let answer = |output| match output {
            Output::Answer(_, committed) => Some((MessageId(committed.token), committed.result)),
            _ => None,
        };
        outputs.filter_map(answer).collect()
    }
}

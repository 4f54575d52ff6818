//! What the connections of one loop share while it is their turn: the way to the spool, and buffers.

use std::collections::VecDeque;

use slotmap::{Key, KeyData, SlotMap, new_key_type};
use zrelay_mailbox::{Outbox, Receiver, Sender};
use zrelay_spool::{CommitReply, Committed, Health, MessageId, Request, SpoolHandle};

use crate::session::Effect;
use crate::shared::Door;

new_key_type! {
    /// A connection, with a generation: an event for one that has gone never reaches its successor.
    pub(super) struct ConnectionKey;
    /// A commit that the spool has not answered.
    pub(super) struct CommitKey;
}

/// Octets read at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// Commits that one loop may have outstanding. The mailbox of the answers is as large, so that an answer always finds
/// room and the spool never waits for a loop. Enough for two thousand clients that wait for the same sync.
pub(super) const COMMITS_MAX: usize = 4096;
/// Commits that one step of one session can bring: a loop with less room than that pauses.
const COMMITS_PER_STEP: usize = 64;

/// What the intake needs of the spool; tests put another in its place.
pub trait Storage: Send + 'static {
    /// A fresh queue id.
    fn next_id(&self) -> MessageId;
    /// Whether the spool can record.
    fn health(&self) -> Health;
    /// Where `Append`, `Abort` and `Commit` go.
    fn intake(&self) -> Sender<Request>;
}

impl Storage for SpoolHandle {
    fn next_id(&self) -> MessageId {
        Self::next_id(self)
    }

    fn health(&self) -> Health {
        Self::health(self)
    }

    fn intake(&self) -> Sender<Request> {
        Self::intake(self)
    }
}

/// Where an answer of the spool belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) connection: ConnectionKey,
    pub(super) serial: u64,
}

/// What the connections of one loop share while it is their turn.
pub(super) struct Desk {
    pub(super) storage: Box<dyn Storage>,
    requests: Outbox<Request>,
    commits: SlotMap<CommitKey, Asked>,
    reply_to: Sender<Committed>,
    /// What was read.
    pub(super) buffer: Vec<u8>,
    /// What it decrypts to.
    pub(super) plain: Vec<u8>,
    /// What is to be said.
    pub(super) replies: Vec<u8>,
}

impl Desk {
    pub(super) fn new(storage: Box<dyn Storage>, reply_to: Sender<Committed>) -> Self {
        let requests = Outbox::new(storage.intake());
        Self {
            storage,
            requests,
            commits: SlotMap::with_key(),
            reply_to,
            buffer: vec![0; BUFFER_BYTES],
            plain: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Asks the spool for what a session wants of it.
    pub(super) fn ask(&mut self, effect: Effect, connection: ConnectionKey) {
        let request = match effect {
            Effect::Append { message, bytes } => Request::Append { message, bytes },
            Effect::Abort { message } => Request::Abort { message },
            Effect::Commit { message, serial, envelope, tail, digest } => {
                let token = self.commits.insert(Asked { connection, serial }).data().as_ffi();
                let reply = CommitReply { to: self.reply_to.clone(), token };
                Request::Commit { message, tail, digest, envelope, reply }
            }
            Effect::StartTls | Effect::Close => return,
        };
        self.requests.push(request);
    }

    /// Whom an answer concerns.
    pub(super) fn answered(&mut self, token: u64) -> Option<Asked> {
        self.commits.remove(KeyData::from_ffi(token).into())
    }

    /// Tries again to hand over what the spool had no room for. Returns whether everything is handed over.
    pub(super) fn flush(&mut self) -> bool {
        self.requests.flush()
    }

    /// Whether the spool must catch up before more input is worked off.
    pub(super) fn is_congested(&self) -> bool {
        !self.requests.is_empty() || self.commits.len() + COMMITS_PER_STEP > COMMITS_MAX
    }

    /// Whether requests wait for room at the spool.
    pub(super) fn is_blocked(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn door(&self) -> Door {
        match self.storage.health() {
            Health::Good => Door::Open,
            Health::Full => Door::Full,
            Health::Broken => Door::Broken,
        }
    }
}

/// The connections that can go on, in the order of their turns.
pub(super) type Ready = VecDeque<ConnectionKey>;

/// The spool's answers.
pub(super) type Answers = Receiver<Committed>;

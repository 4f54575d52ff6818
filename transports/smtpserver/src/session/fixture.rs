//! Sessions for tests.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::{BareNewline, FlowKey, Intake, Protocol};
use zrelay_mailbox::Sender;
use zrelay_spool::{Envelope, MessageId, Refused};

use super::{ClientInfo, Effect, Session};
use crate::policy::{PipeConnect, SessionPolicy, StartTls};
use crate::shared::{Relay, Shared};
use crate::turns::Turn;

/// The defaults of the configuration, smaller where a test wants to reach them.
pub(crate) fn limits() -> Intake {
    Intake {
        message_size: 1_000_000,
        recipients: 1000,
        connections: 20_000,
        client_connections: 50,
        errors: 20,
        commands: 1000,
        bare_newline: BareNewline::Refuse,
        hops: 50,
        command_timeout: Duration::from_secs(600),
        data_timeout: Duration::from_secs(180),
        data_rate: 500,
        memory: 64 << 20,
        reserve: 0,
        flow: FlowKey::SenderDomain,
        flow_header: None,
    }
}

pub(crate) fn policy() -> SessionPolicy {
    SessionPolicy {
        hostname: "hub.example".to_owned(),
        protocol: Protocol::Smtp,
        starttls: StartTls::Absent,
        priority: 0,
        tag: None,
        limits: limits(),
    }
}

pub(crate) const START: Timestamp = Timestamp::from_secs(1_795_299_277);

pub(crate) fn session(policy: SessionPolicy, relay: Relay, turns: Option<Sender<Turn>>) -> (Session, Arc<Shared>) {
    let shared = Shared::turning(&policy.limits, turns);
    let client = ClientInfo { address: [192, 0, 2, 1].into(), relay, pipeconnect: PipeConnect::Absent };
    (Session::new(Arc::new(policy), Arc::clone(&shared), client, START), shared)
}

/// What the spool was asked to do about one message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Commit {
        message: u64,
        sender: String,
        recipients: Vec<(String, String)>,
        content: Vec<u8>,
        envelope: Box<Envelope>,
    },
    Abort {
        message: u64,
    },
    StartTls,
    Close,
}

/// A client, a spool and a session between them. The spool answers only when told, or when nothing else goes on.
pub(crate) struct Bench {
    pub(crate) session: Session,
    pub(crate) shared: Arc<Shared>,
    pub(crate) now: Timestamp,
    /// What the client heard.
    pub(crate) heard: Vec<u8>,
    pub(crate) asked: Vec<Asked>,
    /// Commits to be answered, in order.
    pub(crate) owed: VecDeque<u64>,
    /// The most octets of content that were ever in one piece.
    pub(crate) piece_max: usize,
    /// Whether contents are kept; otherwise only their lengths count.
    pub(crate) keeping: Keeping,
    next_id: u64,
    parts: HashMap<u64, Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keeping {
    Contents,
    Nothing,
}

impl Bench {
    pub(crate) fn new(policy: SessionPolicy, relay: Relay) -> Self {
        Self::turning(policy, relay, None)
    }

    /// With somebody who takes the wishes of ETRN.
    pub(crate) fn turning(policy: SessionPolicy, relay: Relay, turns: Option<Sender<Turn>>) -> Self {
        let (session, shared) = session(policy, relay, turns);
        let mut bench = Self {
            session,
            shared,
            now: START,
            heard: Vec::new(),
            asked: Vec::new(),
            owed: VecDeque::new(),
            piece_max: 0,
            keeping: Keeping::Contents,
            next_id: 0xA0,
            parts: HashMap::new(),
        };
        bench.settle();
        bench
    }

    /// Sends `input` in pieces of `step` octets; the spool answers when the session waits for it.
    pub(crate) fn send(&mut self, input: &[u8], step: usize) {
        for piece in input.chunks(step.max(1)) {
            let mut rest = piece;
            while !rest.is_empty() {
                let used = self.session.handle_input(self.now, rest, &mut || {
                    self.next_id += 1;
                    MessageId(self.next_id)
                });
                rest = &rest[used..];
                self.settle();
                if used == 0 && !self.answer(Ok(())) {
                    return;
                }
            }
        }
    }

    /// Answers the oldest commit. Returns whether there was one.
    pub(crate) fn answer(&mut self, result: Result<(), Refused>) -> bool {
        let Some(serial) = self.owed.pop_front() else {
            return false;
        };
        self.session.handle_committed(self.now, serial, result);
        self.settle();
        true
    }

    pub(crate) fn answer_all(&mut self) {
        while self.answer(Ok(())) {}
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.session.handle_timeout(self.now);
        self.settle();
    }

    pub(crate) fn settle(&mut self) {
        loop {
            while let Some(effect) = self.session.poll_effect() {
                self.perform(effect);
            }
            let before = self.heard.len();
            self.session.poll_output(&mut self.heard);
            if self.heard.len() == before {
                return;
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Append { message, bytes } => {
                self.piece_max = self.piece_max.max(bytes.len());
                if self.keeping == Keeping::Contents {
                    self.parts.entry(message.0).or_default().extend(bytes);
                }
            }
            Effect::Abort { message } => {
                self.parts.remove(&message.0);
                self.asked.push(Asked::Abort { message: message.0 });
            }
            Effect::Commit { message, serial, mut envelope, tail, digest } => {
                let mut content = self.parts.remove(&message.0).unwrap_or_default();
                content.extend(tail);
                if self.keeping == Keeping::Contents {
                    let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content);
                    assert_eq!(expected.as_ref(), digest);
                }
                let sender = |number: u32| envelope.senders[number as usize].clone();
                let recipients =
                    envelope.recipients.iter().map(|one| (one.address.clone(), sender(one.sender))).collect();
                let first = sender(0);
                envelope.trace = String::from_utf8(envelope.trace).unwrap().into_bytes();
                self.owed.push_back(serial);
                self.asked.push(Asked::Commit { message: message.0, sender: first, recipients, content, envelope });
            }
            Effect::StartTls => self.asked.push(Asked::StartTls),
            Effect::Close => self.asked.push(Asked::Close),
        }
    }

    /// The lines heard so far, which are forgotten.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let heard = std::mem::take(&mut self.heard);
        let text = String::from_utf8(heard).unwrap();
        assert!(text.is_empty() || text.ends_with("\r\n"), "half a reply: {text:?}");
        text.split_terminator("\r\n").map(str::to_owned).collect()
    }
}

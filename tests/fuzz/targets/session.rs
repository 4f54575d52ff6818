//! Any octets from a client, cut anywhere, with the spool answering in any order: no panic, no session that wedges,
//! memory and replies bounded, and the same dialogue whatever the cuts.
//!
//! The first octets choose the policy, the cuts and the spool's answers.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use zrelay_clock::Timestamp;
use zrelay_config::{BareNewline, Intake, Protocol};
use zrelay_smtpserver::session::{ClientInfo, Effect, Session};
use zrelay_smtpserver::{PipeConnect, Relay, SessionPolicy, Shared, StartTls};
use zrelay_spool::{MessageId, PIECE_MAX, Refused};

/// Small, so that a few octets reach it.
const MEMORY: u64 = 64 * 1024;
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
/// Octets of replies that one octet of input may bring: an empty line brings the longest of them.
const REPLY_PER_OCTET: usize = 256;

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, cut, dice], octets)) = input.split_first_chunk() else { return };
    let one = converse(kind, usize::from(cut) + 1, dice, octets);
    let other = converse(kind, octets.len().max(1), dice.wrapping_mul(31), octets);
    // Octets behind STARTTLS are told from those that come later by the cut alone.
    if policy(kind).starttls == StartTls::Absent {
        assert_eq!(String::from_utf8_lossy(&one.heard), String::from_utf8_lossy(&other.heard));
        assert_eq!(one.stored, other.stored);
    }
});

fn policy(kind: u8) -> SessionPolicy {
    SessionPolicy {
        hostname: "hub.example".to_owned(),
        protocol: if kind & 1 == 0 { Protocol::Smtp } else { Protocol::Lmtp },
        starttls: if kind & 2 == 0 { StartTls::Absent } else { StartTls::Offered },
        limits: Intake {
            message_size: 1500,
            recipients: 10,
            connections: 10,
            client_connections: 10,
            errors: 20,
            commands: 100,
            bare_newline: if kind & 4 == 0 { BareNewline::Refuse } else { BareNewline::Normalise },
            hops: 5,
            command_timeout: Duration::from_secs(600),
            data_timeout: Duration::from_secs(180),
            data_rate: 500,
            memory: if kind & 8 == 0 { MEMORY } else { MEMORY * 1024 },
            reserve: 0,
        },
    }
}

/// What came of it.
struct Outcome {
    heard: Vec<u8>,
    stored: Vec<(String, Vec<u8>)>,
}

struct Client {
    session: Session,
    outcome: Outcome,
    /// Commits to be answered.
    owed: Vec<u64>,
    pieces: BTreeMap<u64, Vec<u8>>,
    dice: u32,
    closed: bool,
}

fn converse(kind: u8, step: usize, dice: u8, octets: &[u8]) -> Outcome {
    let policy = policy(kind);
    let shared = Shared::new(&policy.limits);
    let relay = if kind & 16 == 0 { Relay::Allowed } else { Relay::Denied };
    let client = ClientInfo { address: [192, 0, 2, 1].into(), relay, pipeconnect: PipeConnect::Announced };
    let mut client = Client {
        session: Session::new(Arc::new(policy), Arc::clone(&shared), client, NOW),
        outcome: Outcome { heard: Vec::new(), stored: Vec::new() },
        owed: Vec::new(),
        pieces: BTreeMap::new(),
        dice: u32::from(dice) << 8 | 1,
        closed: false,
    };
    let mut ids = 0;
    client.settle();
    for piece in octets.chunks(step) {
        client.say(piece, &mut ids);
        // Answers come when they like.
        if client.roll().is_multiple_of(3) {
            client.answer();
        }
        assert!(shared.memory_used() <= (MEMORY * 1024).max(MEMORY) + PIECE_MAX as u64);
    }
    client.session.handle_disconnect(NOW);
    client.settle();
    while client.session.pending() > 0 {
        client.answer();
    }
    client.settle();
    assert!(client.closed, "the session does not end");
    assert!(client.pieces.is_empty(), "the spool is left with pieces");
    let outcome = client.outcome;
    drop(client.session);
    assert_eq!(shared.memory_used(), 0);
    assert!(outcome.heard.len() <= 4096 + octets.len() * REPLY_PER_OCTET, "{} octets of replies", outcome.heard.len());
    assert!(outcome.heard.is_empty() || outcome.heard.ends_with(b"\r\n"));
    outcome
}

impl Client {
    fn roll(&mut self) -> u32 {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.dice >> 16
    }

    fn say(&mut self, mut piece: &[u8], ids: &mut u64) {
        while !piece.is_empty() && !self.closed {
            let used = self.session.handle_input(NOW, piece, &mut || {
                *ids += 1;
                MessageId(*ids)
            });
            piece = &piece[used..];
            self.settle();
            if self.closed || piece.is_empty() {
                return;
            }
            if !self.session.wants_input() {
                // Only the spool can hold a session up; its answers let it go on.
                assert!(self.session.pending() > 0, "the session takes nothing and waits for nothing");
                self.answer();
            }
        }
    }

    /// The spool answers one commit, any of them; what it says depends on the message alone.
    fn answer(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let at = self.roll() as usize % self.owed.len();
        let serial = self.owed.swap_remove(at);
        let result = match serial % 5 {
            3 => Err(Refused::Full),
            4 => Err(Refused::Broken),
            _ => Ok(()),
        };
        self.session.handle_committed(NOW, serial, result);
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            while let Some(effect) = self.session.poll_effect() {
                self.perform(effect);
            }
            let before = self.outcome.heard.len();
            self.session.poll_output(&mut self.outcome.heard);
            if self.outcome.heard.len() == before {
                return;
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        assert!(!self.closed, "something behind the end: {effect:?}");
        match effect {
            Effect::Append { message, bytes } => {
                assert!(!bytes.is_empty() && bytes.len() <= PIECE_MAX);
                self.pieces.entry(message.0).or_default().extend(bytes);
            }
            Effect::Abort { message } => assert!(self.pieces.remove(&message.0).is_some(), "nothing to abort"),
            Effect::Commit { message, serial, envelope, tail, .. } => {
                assert!(tail.len() <= PIECE_MAX && !envelope.recipients.is_empty() && envelope.recipients.len() <= 10);
                let mut content = self.pieces.remove(&message.0).unwrap_or_default();
                content.extend(tail);
                assert!(content.len() <= 1500 + 2, "larger than the limit");
                assert!(!self.owed.contains(&serial));
                self.owed.push(serial);
                let recipients = envelope.recipients.iter().map(|recipient| recipient.address.as_str());
                let envelope = format!("{:?} {:?}", envelope.senders, recipients.collect::<Vec<_>>());
                self.outcome.stored.push((envelope, content));
            }
            Effect::StartTls => self.session.handle_tls(NOW, "TLSv1.3"),
            Effect::Close => self.closed = true,
        }
    }
}

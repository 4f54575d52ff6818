//! The server's side of SMTP and LMTP as a pure state machine.
//!
//! The driver calls, in this order whenever something happened:
//! * `handle_*` for what arrived: octets ([`Session::handle_input`]), the spool's answer
//!   ([`Session::handle_committed`]), the end of a TLS handshake, a time-out, the end of the connection;
//! * [`Session::poll_effect`] until `None`: what has to be done;
//! * [`Session::poll_output`]: the replies that can be sent, all of them for one write. Again
//!   [`Session::poll_effect`] behind it: closing and TLS wait until the replies are out;
//! * [`Session::poll_timeout`]: when [`Session::handle_timeout`] has to be called.
//!
//! A session takes only as much input as it can work off ([`Session::wants_input`]); what it did not consume stays with
//! the driver. Its memory does not grow with what the client sends: content leaves in pieces, recipients are paid
//! for out of a budget, replies and outstanding commits are counted.

mod body;
mod commands;
mod content;
mod counters;
#[cfg(test)]
pub(crate) mod fixture;
mod handling;
mod header;
mod replies;
mod state;
#[cfg(test)]
mod tests;
mod trace;
mod transaction;
mod verp;

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::Protocol;
use zrelay_maillog::target;
use zrelay_spool::{Envelope, MessageId, Refused};
use zrelay_wire::LineBuffer;

use self::content::PassedOn;
use self::counters::{Counters, Verb, Verdict};
use self::replies::Replies;
use self::state::{State, Told};
use self::trace::Greeting;
use crate::policy::{PipeConnect, SessionPolicy, StartTls};
use crate::shared::{Relay, Shared};

/// Effects that may wait for the driver before the input is paused.
const EFFECTS_MAX: usize = 8;
/// How long a handshake may take. Three minutes is what RFC 5321 §4.5.3.2 gives the slowest of its phases that the
/// client is busy with; a handshake is no slower.
const TLS_TIMEOUT: Duration = Duration::from_secs(180);
/// How long the last replies may take to leave.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the octets of a message may come in before their average rate is looked at.
const RATE_GRACE: Duration = Duration::from_secs(60);

/// Who the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientInfo {
    /// Its address.
    pub address: IpAddr,
    /// Whether it may relay to anywhere.
    pub relay: Relay,
    /// Whether it is told that it may send commands ahead of the greeting when it comes again.
    pub pipeconnect: PipeConnect,
}

impl fmt::Display for ClientInfo {
    /// As Postfix logs a client whose name was not looked up: `unknown[192.0.2.1]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown[{}]", self.address.to_canonical())
    }
}

/// What the driver has to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Hand a piece of content to the spool.
    Append {
        /// The message.
        message: MessageId,
        /// The octets, at most [`zrelay_spool::PIECE_MAX`].
        bytes: Vec<u8>,
    },
    /// Tell the spool that a message, of which it has pieces, comes to nothing.
    Abort {
        /// The message.
        message: MessageId,
    },
    /// Have the message stored, and call [`Session::handle_committed`] with this serial number.
    Commit {
        /// The message.
        message: MessageId,
        /// The session's number for this commit.
        serial: u64,
        /// The envelope.
        envelope: Box<Envelope>,
        /// The octets behind those that were appended.
        tail: Vec<u8>,
        /// SHA-256 of the whole content.
        digest: [u8; 32],
    },
    /// All replies are out: begin the handshake with the next octet from the socket.
    StartTls,
    /// All replies are out: close the connection once they are sent.
    Close,
}

/// One SMTP or LMTP session.
#[derive(Debug)]
pub struct Session {
    policy: Arc<SessionPolicy>,
    shared: Arc<Shared>,
    client: ClientInfo,
    greeting: Option<Greeting>,
    /// Version and cipher, once TLS is active.
    tls: Option<Box<str>>,
    state: State,
    lines: LineBuffer,
    replies: Replies,
    effects: VecDeque<Effect>,
    counters: Counters,
    errors: u32,
    /// Commands since a message was accepted last.
    commands: u32,
    /// The last command, for the log.
    last: Option<Verb>,
    /// Commands in the last call of `handle_input`.
    burst: u32,
    /// The client's silence is measured from here.
    since: Timestamp,
    draining: Draining,
}

/// Whether the session ends with its transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Draining {
    No,
    Yes,
}

impl Session {
    /// A session with a client that has just connected; the greeting is ready to be sent, or comes behind the handshake
    /// with [`StartTls::Implicit`].
    pub fn new(policy: Arc<SessionPolicy>, shared: Arc<Shared>, client: ClientInfo, now: Timestamp) -> Self {
        log::info!(target: target::SMTPD, "connect from {client}");
        let implicit = policy.starttls == StartTls::Implicit;
        let mut session = Self {
            policy,
            shared,
            client,
            greeting: None,
            tls: None,
            state: if implicit { State::Tls(Told::NotYet) } else { State::Idle },
            lines: LineBuffer::default(),
            replies: Replies::default(),
            effects: VecDeque::new(),
            counters: Counters::default(),
            errors: 0,
            commands: 0,
            last: None,
            burst: 0,
            since: now,
            draining: Draining::No,
        };
        if !implicit {
            session.greet();
        }
        session
    }

    fn greet(&mut self) {
        let protocol = match self.policy.protocol {
            Protocol::Smtp => "ESMTP",
            Protocol::Lmtp => "LMTP",
        };
        self.replies.push(&format!("220 {} {protocol} zrelay\r\n", self.policy.hostname));
    }

    /// The client.
    pub fn client(&self) -> ClientInfo {
        self.client
    }

    /// Final replies that the spool still owes.
    pub fn pending(&self) -> usize {
        self.replies.pending()
    }

    /// Whether the session has ended; replies may still have to be sent.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Whether the session is between transactions with nothing outstanding.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle) && self.replies.is_empty() && self.lines.buffered() == 0
    }

    /// Whether the client was seen to send commands without waiting for replies when it spoke last.
    pub fn is_pipelining(&self) -> bool {
        self.burst > 1
    }

    /// Whether input can be worked off now. Otherwise wait for [`Session::handle_committed`], or take effects and output.
    pub fn wants_input(&self) -> bool {
        match self.state {
            State::Tls(_) => false,
            State::Ended(_) => true,
            _ => !self.replies.is_congested() && self.effects.len() < EFFECTS_MAX,
        }
    }

    /// Takes octets from the client, as many as it can work off, and returns how many those were. `ids` makes the
    /// names of new messages.
    pub fn handle_input(&mut self, now: Timestamp, input: &[u8], ids: &mut dyn FnMut() -> MessageId) -> usize {
        self.burst = 0;
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty())
            && self.wants_input()
        {
            used += self.step(now, rest, ids);
        }
        self.lines.shrink();
        used
    }

    /// Works off some octets of `rest`, at least one.
    fn step(&mut self, now: Timestamp, rest: &[u8], ids: &mut dyn FnMut() -> MessageId) -> usize {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Data(phase) => self.take_data(now, phase, rest),
            State::Chunk(phase, chunk) => self.take_chunk(now, phase, chunk, rest),
            State::Skip(skip) => self.take_skipped(now, skip, rest),
            ended @ State::Ended(_) => {
                self.state = ended;
                rest.len()
            }
            state => {
                self.state = state;
                self.take_line(now, rest, ids)
            }
        }
    }

    /// The spool's answer to [`Effect::Commit`].
    pub fn handle_committed(&mut self, now: Timestamp, serial: u64, result: Result<(), Refused>) {
        let client = self.client;
        self.replies.settle(serial, result.clone(), |filed| {
            if let Err(cause) = result {
                log::warn!(target: target::SMTPD, "{}: not stored: {cause}; client={client}", filed.id);
            }
        });
        if !self.has_ended() {
            self.since = now;
        }
    }

    /// The TLS handshake that [`Effect::StartTls`] asked for has ended well. Nothing that was said before counts.
    pub fn handle_tls(&mut self, now: Timestamp, description: &str) {
        if !matches!(self.state, State::Tls(_)) {
            return;
        }
        log::info!(target: target::SMTPD, "TLS connection established from {}: {description}", self.client);
        self.state = State::Idle;
        self.greeting = None;
        self.lines = LineBuffer::default();
        self.tls = Some(description.into());
        self.since = now;
        if self.policy.starttls == StartTls::Implicit {
            self.greet();
        }
        self.leave_if_draining(now);
    }

    /// The client sends no more, or the connection broke. What is outstanding is still told, if it can be.
    pub fn handle_disconnect(&mut self, now: Timestamp) {
        if self.has_ended() {
            return;
        }
        if !self.is_idle() && self.replies.pending() == 0 {
            log::info!(target: target::SMTPD, "lost connection after {} from {}", self.stage(), self.client);
        }
        self.end(now);
    }

    /// The hub shuts down: an idle session is told so at once, another one finishes its transaction.
    pub fn handle_drain(&mut self, now: Timestamp) {
        self.draining = Draining::Yes;
        self.leave_if_draining(now);
    }

    /// For `stall` the driver did not read what the client may have sent: that is not held against it.
    pub fn handle_stall(&mut self, stall: Duration) {
        self.since = self.since + stall;
        if let Some(rate) = self.state.rate_mut() {
            rate.0 = rate.0 + stall;
        }
    }

    /// The time of [`Session::poll_timeout`] has come. Does nothing when called too early.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if now < self.poll_timeout() {
            return;
        }
        match self.state {
            State::Ended(_) => {
                // The client does not take the last replies.
                self.state = State::Ended(Told::Done);
                self.effects.push_back(Effect::Close);
                self.since = Timestamp::NEVER;
            }
            State::Tls(_) => self.end_now(now),
            _ => {
                log::info!(target: target::SMTPD, "timeout after {} from {}", self.stage(), self.client);
                self.hang_up(now, "421 4.4.2", "Error: timeout exceeded");
            }
        }
    }

    /// When [`Session::handle_timeout`] has to be called, if nothing else happens before.
    pub fn poll_timeout(&self) -> Timestamp {
        let limits = &self.policy.limits;
        match self.state {
            State::Ended(_) => self.since + FAREWELL_TIMEOUT,
            State::Tls(_) => self.since + TLS_TIMEOUT,
            State::Data(_) | State::Chunk(..) | State::Chunks(_) | State::Skip(_) => self.since + limits.data_timeout,
            // It is the spool that is slow, not the client.
            _ if self.replies.pending() > 0 => Timestamp::NEVER,
            State::Idle | State::Envelope(_) | State::Refused(_) => self.since + limits.command_timeout,
        }
    }

    /// Moves the replies that can be sent to the end of `out`.
    pub fn poll_output(&mut self, out: &mut Vec<u8>) {
        self.replies.take(out);
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if let Some(effect) = self.effects.pop_front() {
            if self.effects.is_empty() {
                self.effects = VecDeque::new();
            }
            return Some(effect);
        }
        if !self.replies.is_empty() {
            return None;
        }
        match &mut self.state {
            State::Tls(told @ Told::NotYet) => {
                *told = Told::Done;
                Some(Effect::StartTls)
            }
            State::Ended(told @ Told::NotYet) => {
                *told = Told::Done;
                Some(Effect::Close)
            }
            _ => None,
        }
    }

    /// What the session did, for the log: `ehlo=1 mail=1 rcpt=2/3 data=1 quit=1 commands=6/7`.
    pub fn summary(&self) -> String {
        self.counters.to_string()
    }

    /// What the client was at, for the log.
    fn stage(&self) -> String {
        self.last.map_or_else(|| "CONNECT".to_owned(), Verb::name)
    }

    /// An accepted command: its reply, with CRLF.
    fn accept(&mut self, verb: Verb, reply: &str) {
        self.counters.count(verb, Verdict::Accepted);
        self.replies.push(reply);
    }

    /// A command refused for a reason of our own: no error of the client.
    fn decline(&mut self, verb: Verb, reply: &str) {
        self.counters.count(verb, Verdict::Refused);
        self.replies.push(reply);
    }

    /// A command that is the client's error.
    fn refuse(&mut self, now: Timestamp, verb: Verb, reply: &str) {
        self.decline(verb, reply);
        self.count_error(now);
    }

    /// Clients that may not relay have only so many errors.
    fn count_error(&mut self, now: Timestamp) {
        self.errors = self.errors.saturating_add(1);
        if self.client.relay == Relay::Denied && self.errors >= self.policy.limits.errors {
            log::info!(target: target::SMTPD, "too many errors after {} from {}", self.stage(), self.client);
            self.hang_up(now, "421 4.7.0", "Error: too many errors");
        }
    }

    /// One last reply, and the end.
    fn hang_up(&mut self, now: Timestamp, code: &str, text: &str) {
        self.replies.push(&format!("{code} {} {text}\r\n", self.policy.hostname));
        self.end(now);
    }

    /// Nothing is read any more; the connection is closed when all replies are out.
    fn end(&mut self, now: Timestamp) {
        self.reset_transaction();
        self.lines = LineBuffer::default();
        self.state = State::Ended(Told::NotYet);
        self.since = now;
    }

    /// The end without another word.
    fn end_now(&mut self, now: Timestamp) {
        self.end(now);
        self.state = State::Ended(Told::Done);
        self.effects.push_back(Effect::Close);
    }

    /// The one way out of a transaction that came to nothing.
    fn reset_transaction(&mut self) {
        let content = match std::mem::replace(&mut self.state, State::Idle) {
            State::Data(phase) => phase.content,
            State::Chunks(phase) | State::Chunk(phase, _) => phase.content,
            State::Idle | State::Envelope(_) | State::Skip(_) | State::Refused(_) => return,
            state @ (State::Tls(_) | State::Ended(_)) => {
                self.state = state;
                return;
            }
        };
        self.abort(content.id, content.passed_on());
    }

    fn abort(&mut self, message: MessageId, passed_on: PassedOn) {
        if passed_on == PassedOn::Pieces {
            self.effects.push_back(Effect::Abort { message });
        }
    }

    fn leave_if_draining(&mut self, now: Timestamp) {
        let between = matches!(self.state, State::Idle) && self.lines.buffered() == 0;
        if self.draining == Draining::Yes && between {
            self.hang_up(now, "421 4.3.2", "Service shutting down");
        }
    }
}

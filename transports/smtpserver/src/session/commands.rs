//! The commands.

use memchr::memchr;
use zrelay_clock::Timestamp;
use zrelay_config::{BareNewline, Protocol};
use zrelay_maillog::{lines, target};
use zrelay_spool::MessageId;
use zrelay_wire::{
    ByMode, Capabilities, Command, CommandError, DeliverBy, DotDecoder, ForwardPath, Last, Limits, Line,
    MailParameters, NewlineCheck, Node, Normaliser, RcptParameters, Reply, ReversePath, Utf8,
};

use super::content::{Content, WINDOW_BYTES};
use super::counters::{Verb, Verdict};
use super::state::{Chunk, ChunkPhase, DataPhase, Newlines, RateClock, Skip, State, Told};
use super::trace::{Greeting, GreetingKind};
use super::transaction::{TRANSACTION_BYTES, Transaction};
use super::{Draining, Session};
use crate::policy::{PipeConnect, StartTls};
use crate::shared::{Door, Relay, Reservation};
use crate::turns::{Turn, Turned};

/// First words that no SMTP client says: a browser that was tricked, or a body whose DATA was refused.
const FOREIGN: [&[u8]; 8] = [b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS", b"DELETE", b"PATCH"];

/// The levels that other systems of the policy tell apart (RFC 6710 §6.1); here all nineteen are.
const PRIORITY_POLICY: &str = "MIXER";
/// Shortest time to deliver by with `R`, seconds: one attempt, and as much again for its answer.
const BY_SECONDS_MIN: u64 = 60;

const NO_RECIPIENTS: &str = "554 5.5.1 Error: no valid recipients\r\n";
const NEED_MAIL: &str = "503 5.5.1 Error: need MAIL command\r\n";

/// Whether the client has sent something behind a command already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behind {
    Nothing,
    Octets,
}

impl Session {
    /// The octets up to the end of a line, or all there are.
    pub(super) fn take_line(&mut self, now: Timestamp, input: &[u8], ids: &mut dyn FnMut() -> MessageId) -> usize {
        let window = input.get(..WINDOW_BYTES).unwrap_or(input);
        let end = memchr(b'\n', window).map_or(window.len(), |end| end + 1);
        let behind = if end < input.len() { Behind::Octets } else { Behind::Nothing };
        // The line is lent out of the buffer while the rest of the session works on it.
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(input.get(..end).unwrap_or_default());
        match lines.next_line() {
            None => {
                self.lines = lines;
                return end;
            }
            Some(Line::Complete(line)) => self.take_command(now, line, behind, ids),
            Some(Line::TooLong) => self.refuse(now, Verb::Unknown, "500 5.5.2 Error: line too long\r\n"),
        }
        self.lines = lines;
        self.burst = self.burst.saturating_add(1);
        if !self.has_ended() {
            self.since = now;
            self.count_command(now);
            self.leave_if_draining(now);
        }
        end
    }

    fn count_command(&mut self, now: Timestamp) {
        self.commands = self.commands.saturating_add(1);
        if self.client.relay == Relay::Denied && self.commands > self.policy.limits.commands {
            self.hang_up(now, "421 4.7.0", "Error: too many commands without a message");
        }
    }

    fn take_command(&mut self, now: Timestamp, line: &[u8], behind: Behind, ids: &mut dyn FnMut() -> MessageId) {
        let verb = Verb::of(line);
        let before = self.last.replace(verb);
        if is_foreign(line) {
            self.last = before;
            log::info!(target: target::SMTPD, "non-SMTP command after {} from {}", self.stage(), self.client);
            self.decline(verb, "221 2.7.0 Error: this is not SMTP\r\n");
            return self.end(now);
        }
        let utf8 = match &self.state {
            State::Envelope(transaction) => transaction.utf8,
            _ => Utf8::Refused,
        };
        match Command::parse(line, utf8) {
            Ok(command) => self.run(now, verb, command, behind, ids),
            Err(error) => self.refuse_unparsed(now, verb, &error),
        }
    }

    fn run(
        &mut self,
        now: Timestamp,
        verb: Verb,
        command: Command,
        behind: Behind,
        ids: &mut dyn FnMut() -> MessageId,
    ) {
        match command {
            Command::Helo(name) => self.helo(now, verb, &name),
            Command::Ehlo(name) => self.ehlo(now, verb, &name, Protocol::Smtp),
            Command::Lhlo(name) => self.ehlo(now, verb, &name, Protocol::Lmtp),
            Command::Mail { from, parameters } => self.mail(now, from, parameters),
            Command::Rcpt { to, parameters } => self.rcpt(now, &to, parameters),
            Command::Data => self.data(now, ids),
            Command::Bdat { size, last } => self.bdat(now, Chunk { remaining: size, last }, ids),
            Command::Rset => {
                self.reset_transaction();
                self.accept(verb, "250 2.0.0 Ok\r\n");
            }
            Command::Noop => self.accept(verb, "250 2.0.0 Ok\r\n"),
            Command::Vrfy(_) => self.accept(verb, "252 2.0.0 Send mail and see\r\n"),
            Command::Expn(_) => self.refuse(now, verb, "502 5.5.1 Error: command not implemented\r\n"),
            Command::Help => self.accept(
                verb,
                "214 2.0.0 Commands: EHLO HELO LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY ETRN STARTTLS HELP QUIT\r\n",
            ),
            Command::Etrn(node) => self.etrn(now, node),
            Command::Starttls => self.starttls(now, behind),
            Command::Quit => {
                self.accept(verb, "221 2.0.0 Bye\r\n");
                self.end(now);
            }
        }
    }

    fn refuse_unparsed(&mut self, now: Timestamp, verb: Verb, error: &CommandError) {
        // How many octets follow cannot be known, so that nothing behind it can be trusted to be a command.
        if verb == Verb::Bdat {
            self.decline(verb, "521 5.5.4 Error: syntax of BDAT; closing\r\n");
            return self.end(now);
        }
        let mut reply = Vec::new();
        error.reply().encode(&mut reply);
        self.counters.count(verb, Verdict::Refused);
        self.replies.push_bytes(&reply);
        self.count_error(now);
    }

    fn helo(&mut self, now: Timestamp, verb: Verb, name: &str) {
        if self.policy.protocol == Protocol::Lmtp {
            return self.refuse(now, verb, "500 5.5.1 Error: this is LMTP, say LHLO\r\n");
        }
        self.reset_transaction();
        self.greeting = Some(Greeting::new(name, GreetingKind::Plain));
        let reply = format!("250 {}\r\n", self.policy.hostname);
        self.accept(verb, &reply);
    }

    fn ehlo(&mut self, now: Timestamp, verb: Verb, name: &str, protocol: Protocol) {
        if self.policy.protocol != protocol {
            let reply = match protocol {
                Protocol::Smtp => "500 5.5.1 Error: this is LMTP, say LHLO\r\n",
                Protocol::Lmtp => "500 5.5.1 Error: this is SMTP, say EHLO\r\n",
            };
            return self.refuse(now, verb, reply);
        }
        self.reset_transaction();
        self.greeting = Some(Greeting::new(name, GreetingKind::Extended));
        let lines = self.capabilities().to_lines("");
        let mut reply = Vec::new();
        Reply::multiline(250, lines).encode(&mut reply);
        self.counters.count(verb, Verdict::Accepted);
        self.replies.push_bytes(&reply);
    }

    fn capabilities(&self) -> Capabilities {
        let limits = &self.policy.limits;
        Capabilities {
            name: self.policy.hostname.clone(),
            pipelining: true,
            chunking: true,
            size: Some(Some(limits.message_size)),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            enhanced_status_codes: true,
            starttls: self.policy.starttls == StartTls::Offered && self.tls.is_none(),
            limits: Limits { rcptmax: Some(u64::from(limits.recipients)), ..Limits::default() },
            xverp: self.client.relay == Relay::Allowed,
            pipeconnect: self.policy.protocol == Protocol::Smtp && self.client.pipeconnect == PipeConnect::Announced,
            help: true,
            etrn: self.offers_etrn() && self.client.relay == Relay::Allowed,
            mt_priority: Some(PRIORITY_POLICY.to_owned()),
            deliver_by: Some(BY_SECONDS_MIN),
            ..Capabilities::default()
        }
    }

    /// All refusals that have to do with the hub's state are given here and nowhere later: a list manager puts a
    /// refused MAIL back and comes again, while a refused RCPT costs a member a bounce.
    fn mail(&mut self, now: Timestamp, from: ReversePath, parameters: MailParameters) {
        let verb = Verb::Mail;
        if self.greeting.is_none() {
            let reply = match self.policy.protocol {
                Protocol::Smtp => "503 5.5.1 Error: send EHLO or HELO first\r\n",
                Protocol::Lmtp => "503 5.5.1 Error: send LHLO first\r\n",
            };
            return self.refuse(now, verb, reply);
        }
        if !matches!(self.state, State::Idle) {
            return self.refuse(now, verb, "503 5.5.1 Error: nested MAIL command\r\n");
        }
        if parameters.xverp.is_some() && self.client.relay == Relay::Denied {
            return self.refuse(now, verb, "555 5.5.4 Error: XVERP is for clients that may relay\r\n");
        }
        if parameters.xverp.is_some() && from.address().is_none() {
            return self.refuse(now, verb, "501 5.5.4 Error: XVERP needs a sender\r\n");
        }
        let hasty = |by: DeliverBy| by.mode == ByMode::Return && i64::from(by.seconds) < BY_SECONDS_MIN.cast_signed();
        if parameters.by.is_some_and(hasty) {
            return self.refuse(
                now,
                verb,
                "555 5.5.4 Error: the time to deliver by is shorter than DELIVERBY says\r\n",
            );
        }
        if parameters.size.is_some_and(|size| size > self.policy.limits.message_size) {
            return self.refuse(now, verb, "552 5.3.4 Message size exceeds fixed limit\r\n");
        }
        let memory = match self.shared.door() {
            Door::Open => Reservation::open(&self.shared, TRANSACTION_BYTES).ok(),
            Door::Full | Door::Broken => None,
            Door::Draining => {
                self.counters.count(verb, Verdict::Refused);
                self.draining = Draining::Yes;
                return self.hang_up(now, "421 4.3.2", "Service shutting down");
            }
        };
        let Some(memory) = memory else {
            return self.decline(verb, "452 4.3.1 Insufficient system storage\r\n");
        };
        self.state = State::Envelope(Box::new(Transaction::new(from, parameters, memory, now)));
        self.accept(verb, "250 2.1.0 Ok\r\n");
    }

    /// Every valid recipient is accepted; whether mail for it can be delivered is found out later and told by a report.
    fn rcpt(&mut self, now: Timestamp, to: &ForwardPath, parameters: RcptParameters) {
        let verb = Verb::Rcpt;
        let State::Envelope(transaction) = &mut self.state else {
            return self.refuse(now, verb, NEED_MAIL);
        };
        if self.client.relay == Relay::Denied {
            log::info!(
                target: target::SMTPD,
                "NOQUEUE: reject: RCPT from {}: 550 5.7.1 <{}>: Relay access denied; from=<{}>",
                self.client, to.as_str(), transaction.from.as_str()
            );
            return self.refuse(now, verb, "550 5.7.1 Relaying denied\r\n");
        }
        if transaction.recipients.len() >= self.policy.limits.recipients as usize {
            return self.decline(verb, "452 4.5.3 Error: too many recipients\r\n");
        }
        match transaction.add(to, parameters) {
            Ok(()) => self.accept(verb, "250 2.1.5 Ok\r\n"),
            Err(_) => self.decline(verb, "452 4.5.3 Error: too many recipients, out of memory\r\n"),
        }
    }

    fn data(&mut self, now: Timestamp, ids: &mut dyn FnMut() -> MessageId) {
        let verb = Verb::Data;
        let transaction = match std::mem::replace(&mut self.state, State::Idle) {
            State::Envelope(transaction) if !transaction.recipients.is_empty() => *transaction,
            // The transaction ends here: a client that pipelines has its next MAIL under way already.
            State::Envelope(_) => {
                let reply = match self.policy.protocol {
                    Protocol::Smtp => NO_RECIPIENTS,
                    // RFC 2033 §4.2 wants this code.
                    Protocol::Lmtp => "503 5.5.1 Error: no valid recipients\r\n",
                };
                return self.refuse(now, verb, reply);
            }
            state @ (State::Chunks(_) | State::Refused(_)) => {
                self.state = state;
                return self.refuse(now, verb, "503 5.5.1 Error: DATA after BDAT\r\n");
            }
            state => {
                self.state = state;
                return self.refuse(now, verb, NEED_MAIL);
            }
        };
        let policy = match self.policy.limits.bare_newline {
            BareNewline::Refuse => zrelay_wire::BareNewline::Refuse,
            BareNewline::Normalise => zrelay_wire::BareNewline::Normalise,
        };
        let content = self.new_content(now, ids);
        let decoder = DotDecoder::new(policy);
        self.state = State::Data(Box::new(DataPhase { transaction, content, decoder, rate: RateClock(now) }));
        self.accept(verb, "354 End data with <CR><LF>.<CR><LF>\r\n");
    }

    fn new_content(&mut self, now: Timestamp, ids: &mut dyn FnMut() -> MessageId) -> Content {
        let id = ids();
        log::info!(target: target::SMTPD, "{}", lines::client(id, &self.client.to_string()));
        let limits = &self.policy.limits;
        Content::new(id, now, (limits.message_size, limits.hops), limits.flow_header.clone())
    }

    fn bdat(&mut self, now: Timestamp, chunk: Chunk, ids: &mut dyn FnMut() -> MessageId) {
        let phase = match std::mem::replace(&mut self.state, State::Idle) {
            State::Chunks(phase) => phase,
            State::Envelope(transaction) if !transaction.recipients.is_empty() => {
                self.first_chunk(now, *transaction, ids)
            }
            State::Envelope(_) => return self.skip_chunk(now, chunk, NO_RECIPIENTS, refused(chunk, NO_RECIPIENTS)),
            State::Refused(reply) => return self.skip_chunk(now, chunk, reply, refused(chunk, reply)),
            // Idle: no other state reads commands.
            state => return self.skip_chunk(now, chunk, NEED_MAIL, state),
        };
        let announced = phase.content.received.saturating_add(chunk.remaining);
        if announced > self.policy.limits.message_size.saturating_mul(2) {
            self.state = State::Chunks(phase);
            return self.give_up_on_octets(now, Verb::Bdat);
        }
        // An empty chunk has no octet that could bring it to its end.
        if chunk.remaining == 0 {
            return self.end_chunk(now, phase, chunk.last);
        }
        self.state = State::Chunk(phase, chunk);
    }

    fn first_chunk(
        &mut self,
        now: Timestamp,
        transaction: Transaction,
        ids: &mut dyn FnMut() -> MessageId,
    ) -> Box<ChunkPhase> {
        let newlines = match self.policy.limits.bare_newline {
            BareNewline::Refuse => Newlines::Check(NewlineCheck::new()),
            BareNewline::Normalise => Newlines::Normalise(Normaliser::new(), NewlineCheck::new()),
        };
        let content = self.new_content(now, ids);
        Box::new(ChunkPhase { transaction, content, newlines, rate: RateClock(now) })
    }

    fn skip_chunk(&mut self, now: Timestamp, chunk: Chunk, reply: &'static str, then: State) {
        let skip = Skip { remaining: chunk.remaining, reply, then, taken: 0, rate: RateClock(now) };
        if skip.remaining > self.policy.limits.message_size.saturating_mul(2) {
            return self.give_up_on_octets(now, Verb::Bdat);
        }
        self.begin_skip(now, skip);
    }

    fn begin_skip(&mut self, now: Timestamp, skip: Skip) {
        if skip.remaining > 0 {
            self.state = State::Skip(Box::new(skip));
            return;
        }
        self.end_skip(now, skip);
    }

    fn offers_etrn(&self) -> bool {
        self.policy.protocol == Protocol::Smtp && self.shared.turns().is_some()
    }

    /// RFC 1985. Whether anything waits for the node is the scheduler's to know, whom no session waits for: 250, not 251
    /// or 253.
    fn etrn(&mut self, now: Timestamp, node: Node) {
        let verb = Verb::Etrn;
        if !self.offers_etrn() {
            return self.refuse(now, verb, "502 5.5.1 Error: command not implemented\r\n");
        }
        if self.client.relay == Relay::Denied {
            let reply = format!("459 5.7.1 Node {node} not allowed: this is for clients that may relay\r\n");
            return self.refuse(now, verb, &reply);
        }
        if self.greeting.is_none() {
            return self.refuse(now, verb, "503 5.5.1 Error: send EHLO or HELO first\r\n");
        }
        if !matches!(self.state, State::Idle) {
            return self.refuse(now, verb, "503 5.5.1 Error: MAIL transaction in progress\r\n");
        }
        let turn = Turn { node: node.clone(), client: self.client.address };
        let turned = self.shared.turns().map_or(Turned::Busy, |turns| turns.ask(now, turn));
        let why = match turned {
            Turned::Begun => {
                log::info!(target: target::SMTPD, "ETRN {node} from {}", self.client);
                return self.accept(verb, &format!("250 2.0.0 OK, queuing for node {node} started\r\n"));
            }
            Turned::TooSoon => "4.7.0 Unable to queue messages for node {}: it was asked for less than a minute ago",
            Turned::Busy => "4.3.2 Unable to queue messages for node {}: too much else to do",
        };
        self.decline(verb, &format!("458 {}\r\n", why.replace("{}", &node.to_string())));
    }

    fn starttls(&mut self, now: Timestamp, behind: Behind) {
        let verb = Verb::Starttls;
        if self.policy.starttls == StartTls::Absent {
            return self.refuse(now, verb, "502 5.5.1 Error: command not implemented\r\n");
        }
        if self.tls.is_some() {
            return self.refuse(now, verb, "503 5.5.1 Error: TLS is active already\r\n");
        }
        if behind == Behind::Octets {
            log::warn!(target: target::SMTPD, "octets behind STARTTLS from {}: closing", self.client);
            self.decline(verb, "554 5.5.1 Error: no octets may follow STARTTLS\r\n");
            return self.end(now);
        }
        self.reset_transaction();
        self.accept(verb, "220 2.0.0 Ready to start TLS\r\n");
        self.state = State::Tls(Told::NotYet);
    }
}

/// What follows a refused chunk.
fn refused(chunk: Chunk, reply: &'static str) -> State {
    match chunk.last {
        Last::Yes => State::Idle,
        Last::No => State::Refused(reply),
    }
}

/// Whether a line is no SMTP at all: another protocol's request, a header line, or binary.
fn is_foreign(line: &[u8]) -> bool {
    let Some(first) = line.first() else {
        return false;
    };
    let word = line.split(|octet| matches!(octet, b' ' | b'\t')).next().unwrap_or_default();
    !first.is_ascii_alphabetic()
        || word.contains(&b':')
        || FOREIGN.iter().any(|foreign| word.eq_ignore_ascii_case(foreign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_smtp_is_told_apart() {
        for line in ["GET / HTTP/1.1", "post /", "From: a@b", "Received:from x", "\x16\x03\x01", " EHLO x", ".", "--"] {
            assert!(is_foreign(line.as_bytes()), "{line:?}");
        }
        for line in ["", "EHLO [IPv6:::1]", "MAIL FROM:<a@b>", "rcpt to:<a@b>", "XYZZY", "GETX"] {
            assert!(!is_foreign(line.as_bytes()), "{line:?}");
        }
    }
}

//! Replies, matched to commands by their position.
//!
//! A reply that comes before its command can have been read by the far side, or for which there is no command, means
//! that the count is off; from there on nothing could be believed, so the connection ends. The exception is 421, which
//! a server may say at any time (RFC 5321 §3.8).

use std::sync::Arc;

use zrelay_agent::Judgement;
use zrelay_clock::Timestamp;
use zrelay_spool::Status;
use zrelay_wire::Reply;

use super::diagnostic::{Kind, is_too_many, is_too_many_messages, judge, kind, said};
use super::opening::Hello;
use super::transaction::{Answer, Form, Go};
use super::writing::{Footing, REFUSALS_CAUTIOUS};
use super::{Conversation, End, Protocol, State, Stop};
use crate::letter::Letter;

/// A reply that is owed to us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    pub(super) what: What,
    /// Where its command ends in the output: a reply cannot come before that is written.
    pub(super) position: u64,
    /// Where all that it answers ends: a chunk may be refused while its octets are on their way, and not be accepted.
    pub(super) whole: u64,
}

/// To what. Numbers are those of transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Greeting,
    Hello(Hello),
    StartTls,
    /// RSET in front of the transaction.
    Reset(u64),
    Mail(u64),
    Rcpt(u64),
    Data(u64),
    /// The message, after the final dot or `BDAT LAST`; with LMTP several replies.
    Final(u64),
    Quit,
}

impl Awaited {
    /// To something that ends there.
    fn at(what: What, position: u64) -> Self {
        Self { what, position, whole: position }
    }

    pub(super) fn greeting() -> Self {
        Self::at(What::Greeting, 0)
    }
}

/// Senders put off in a row after which the host is taken at its word: the first may be about the sender.
const PUT_OFF_MAX: u32 = 2;

impl<L: Letter> Conversation<L> {
    /// Queues a command that owes a reply.
    pub(super) fn command(&mut self, what: What, encode: impl FnOnce(&mut Vec<u8>)) {
        self.output.command(encode);
        self.await_reply(what);
    }

    /// Expects a reply to everything queued so far.
    pub(super) fn await_reply(&mut self, what: What) {
        self.awaited.push_back(Awaited::at(what, self.output.queued()));
    }

    /// What was queued last belongs to the command in front of it, and has no reply of its own.
    pub(super) fn extend_last(&mut self) {
        let whole = self.output.queued();
        if let Some(last) = self.awaited.back_mut() {
            last.whole = whole;
        }
    }

    pub(super) fn handle_reply(&mut self, now: Timestamp, reply: &Reply) {
        self.activity = now;
        self.stalling = None;
        let Some(kind) = kind(reply) else {
            return self.violated(&format!("reply code {} where none can be", reply.code));
        };
        let Some(awaited) = self.awaited.pop_front() else {
            return self.handle_unasked(reply);
        };
        let needed = if kind == Kind::Refusal { awaited.position } else { awaited.whole };
        if needed > self.output.written() {
            return self.handle_early(now, awaited, kind, reply);
        }
        if reply.code == 421 {
            self.handle_shutting_down(awaited.what, reply);
        }
        match awaited.what {
            What::Greeting => self.handle_greeting(reply),
            What::Hello(word) => self.handle_hello(now, word, reply),
            What::StartTls => self.handle_starttls(now, reply),
            What::Reset(number) => self.handle_reset(now, number, kind, reply),
            What::Mail(number) => self.handle_mail(now, number, kind, reply),
            What::Rcpt(number) => self.handle_rcpt(now, number, kind, reply),
            What::Data(number) => self.handle_data(now, number, kind, reply),
            What::Final(number) => self.handle_final(now, number, kind, reply),
            What::Quit => self.end_as_stopped(End::Done),
        }
    }

    fn handle_unasked(&mut self, reply: &Reply) {
        if reply.code != 421 {
            return self.violated(&format!("a reply too many ({})", reply.code));
        }
        self.stop(Stop::Refused(said(reply, &self.settings.peer, "")));
        self.end_as_stopped(End::Done);
    }

    /// A reply to something that is not written. Only a refusal in the middle of a message makes sense; behind DATA, the rest
    /// of the message would be taken for commands, so the connection ends with it.
    fn handle_early(&mut self, now: Timestamp, awaited: Awaited, kind: Kind, reply: &Reply) {
        let What::Final(number) = awaited.what else {
            return self.handle_unasked(reply);
        };
        if kind != Kind::Refusal {
            return self.violated(&format!("a reply too many ({})", reply.code));
        }
        let diagnostic = said(reply, &self.settings.peer, "end of DATA");
        if reply.code == 421 {
            self.stop(Stop::Refused(Arc::clone(&diagnostic)));
        }
        if let Some(transaction) = self.flight(number) {
            transaction.settle_accepted(now, judge(reply), &diagnostic);
        }
        self.worked += u64::from(reply.code != 421);
        self.end_as_stopped(End::Ended(diagnostic));
    }

    /// 421: the far side closes as soon as it has said what it still has to say.
    fn handle_shutting_down(&mut self, what: What, reply: &Reply) {
        let command = match what {
            What::Greeting | What::Hello(_) | What::StartTls | What::Quit => return,
            What::Reset(_) => "RSET",
            What::Mail(_) => "MAIL FROM",
            What::Rcpt(_) => "RCPT TO",
            What::Data(_) => "DATA",
            What::Final(number) => self.final_command(number),
        };
        self.stop(Stop::Refused(said(reply, &self.settings.peer, command)));
    }

    fn handle_reset(&mut self, now: Timestamp, number: u64, kind: Kind, reply: &Reply) {
        if kind != Kind::Positive {
            // What follows may fall into the envelope before it. What is already on its way cannot be helped and is not
            // believed; nothing more must go.
            let diagnostic = said(reply, &self.settings.peer, "RSET");
            if matches!(self.stop, Some(Stop::Refused(_))) {
                // It has said before that it takes no more. Exim goes on answering then, until it has had enough of RSET.
                return self.end_as_stopped(End::Ended(diagnostic));
            }
            if let Some(transaction) = self.flight(number) {
                transaction.refuse(now, Judgement::Deferred, diagnostic);
            }
            return self.violated(&format!("{} in reply to RSET", reply.code));
        }
        self.answered(now, number);
    }

    fn handle_mail(&mut self, now: Timestamp, number: u64, kind: Kind, reply: &Reply) {
        match kind {
            Kind::Intermediate => return self.violated(&format!("{} in reply to MAIL FROM", reply.code)),
            Kind::Positive => self.put_off = 0,
            Kind::Refusal => self.handle_mail_refused(now, number, reply),
        }
        self.senders = self.senders.saturating_add(1);
        self.answered(now, number);
    }

    fn handle_mail_refused(&mut self, now: Timestamp, number: u64, reply: &Reply) {
        self.refusals += 1;
        let diagnostic = said(reply, &self.settings.peer, "MAIL FROM");
        if let Some(transaction) = self.flight(number) {
            transaction.refuse(now, judge(reply), Arc::clone(&diagnostic));
        }
        // x.1.7 and x.1.8 are about the sender's address and say nothing about the host.
        let about_sender = matches!(diagnostic.status, Status(_, 1, 7 | 8));
        if reply.code >= 500 || about_sender {
            return;
        }
        self.put_off += 1;
        self.refusals = self.refusals.max(REFUSALS_CAUTIOUS);
        let is_limit = self.worked > 0 && is_too_many_messages(reply);
        if is_limit && self.put_off == 1 {
            self.lesson_in_messages = Some(self.senders);
        }
        if is_limit || self.put_off >= PUT_OFF_MAX {
            self.stop(Stop::Refused(diagnostic));
        }
    }

    fn handle_rcpt(&mut self, now: Timestamp, number: u64, kind: Kind, reply: &Reply) {
        let peer = Arc::clone(&self.settings.peer);
        let has_worked = self.has_worked();
        let Some(transaction) = self.flight(number) else {
            return;
        };
        let answer = match kind {
            Kind::Intermediate => return self.violated(&format!("{} in reply to RCPT TO", reply.code)),
            // The far side has had enough of the connection; that is not about the recipient it says it to.
            Kind::Refusal if reply.code == 421 && has_worked => Answer::Open,
            Kind::Positive if transaction.is_refused() => {
                // It took the recipient into an envelope that is not ours.
                transaction.foreign = true;
                return self.violated("a recipient accepted without its sender");
            }
            Kind::Positive => Answer::Accepted,
            Kind::Refusal if transaction.is_refused() => Answer::Open,
            Kind::Refusal if transaction.accepted > 0 && is_too_many(reply) => Answer::Again,
            Kind::Refusal => Answer::Refused(judge(reply), said(reply, &peer, "RCPT TO")),
        };
        let too_many = matches!(answer, Answer::Again).then_some(transaction.accepted);
        transaction.answer(now, answer);
        self.answers.recipients += u64::from(self.settings.protocol == Protocol::Smtp);
        if kind == Kind::Refusal {
            self.refusals += 1;
        }
        if let Some(accepted) = too_many {
            self.recipients_max = self.recipients_max.min(accepted);
            self.lesson = Some(self.recipients_max);
        }
        self.answered(now, number);
    }

    fn handle_data(&mut self, now: Timestamp, number: u64, kind: Kind, reply: &Reply) {
        if kind == Kind::Positive {
            return self.violated(&format!("{} in reply to DATA", reply.code));
        }
        let diagnostic = said(reply, &self.settings.peer, "DATA");
        let Some(transaction) = self.flight(number) else {
            return;
        };
        if kind == Kind::Intermediate && transaction.is_refused() {
            // Whoever's envelope that is, even an empty message would go to it.
            return self.violated("a message asked for without its sender");
        }
        if kind == Kind::Intermediate {
            transaction.go = Some(Go::Ahead);
        } else {
            transaction.go = Some(Go::Refused);
            transaction.settle_accepted(now, judge(reply), &diagnostic);
            self.refusals += 1;
        }
        self.answered(now, number);
    }

    fn handle_final(&mut self, now: Timestamp, number: u64, kind: Kind, reply: &Reply) {
        if kind == Kind::Intermediate {
            return self.violated(&format!("{} in reply to a message", reply.code));
        }
        let judgement = match kind {
            Kind::Positive => Judgement::Delivered { dsn_relayed: self.capabilities.dsn },
            _ => judge(reply),
        };
        let command = self.final_command(number);
        let diagnostic = said(reply, &self.settings.peer, command);
        let protocol = self.settings.protocol;
        let Some(transaction) = self.flight(number) else {
            return;
        };
        let had_recipients = transaction.accepted > 0;
        match protocol {
            Protocol::Smtp => transaction.settle_accepted(now, judgement, &diagnostic),
            Protocol::Lmtp => transaction.settle_next_accepted(now, judgement, diagnostic),
        }
        let more = transaction.has_accepted();
        self.answers.recipients += u64::from(protocol == Protocol::Lmtp);
        if protocol == Protocol::Lmtp && more {
            self.awaited.push_front(Awaited::at(What::Final(number), self.output.written()));
            return;
        }
        self.answers.messages += 1;
        match kind {
            Kind::Positive if had_recipients => self.refusals = 0,
            Kind::Positive => {}
            _ => self.refusals += 1,
        }
        self.answered(now, number);
        let is_owed = self.awaited.front().is_some_and(|awaited| awaited.position <= self.output.written());
        if is_owed && self.level == zrelay_config::Pipelining::Pipelined {
            self.stalling = Some(now);
        }
    }

    /// As Postfix names the command that a message's final reply answers.
    fn final_command(&mut self, number: u64) -> &'static str {
        match self.flight(number).map(|transaction| transaction.form) {
            Some(Form::Bdat) => "BDAT",
            Some(Form::Data) | None => "end of DATA",
        }
    }

    /// One reply of a transaction is through.
    fn answered(&mut self, now: Timestamp, number: u64) {
        if self.state == State::Closed {
            return;
        }
        if let Some(transaction) = self.flight(number) {
            transaction.outstanding = transaction.outstanding.saturating_sub(1);
        }
        self.complete(now);
    }

    /// Finishes the oldest transactions that have all their replies and need no further command.
    pub(super) fn complete(&mut self, now: Timestamp) {
        loop {
            let being_written = self.stage.is_some() && self.flights.len() == 1;
            match self.flights.front() {
                Some(transaction) if transaction.outstanding == 0 && !being_written => {}
                _ => return,
            }
            let Some(transaction) = self.flights.pop_front() else {
                return;
            };
            self.first += 1;
            self.eldest = now;
            if self.flights.is_empty() {
                self.footing = if transaction.is_success() { Footing::Clean } else { Footing::Spoiled };
            }
            self.worked += u64::from(transaction.has_outcome());
            self.finish(transaction);
        }
    }
}

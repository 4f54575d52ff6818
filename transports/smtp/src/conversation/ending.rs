//! How conversations end, wanted or not.

use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::Rest;
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_spool::Diagnostic;

use super::diagnostic::status;
use super::presumed::Basis;
use super::replies::{Awaited, What};
use super::transaction::Transaction;
use super::{Approach, Conversation, End, Event, Security, State, Stop};
use crate::letter::Letter;

/// How long the reply to QUIT is waited for: the mail is through, and a host that cannot say goodbye does not matter.
const QUIT_TIME: Duration = Duration::from_secs(5);

/// How long a host that has said it will take no more (421) is listened to for what it still owes.
const LAST_WORDS_TIME: Duration = Duration::from_secs(30);

/// How long a host is waited for that was sent commands ahead of its greeting. It may be slow, or the commands may have
/// been lost on the way; trying again in the usual way costs nothing.
const PRESUMED_TIME: Duration = Duration::from_secs(60);

/// How long the oldest transaction under way may take before anything is added for its size. Each sign of life renews
/// the patience for the next one; without this a far side that gives one now and then would keep its agent for ever.
const TRANSACTION_TIME: Duration = Duration::from_secs(60 * 60);

/// Added for each recipient: hosts that slow senders down on purpose do it by some seconds a command.
const RECIPIENT_TIME: Duration = Duration::from_secs(10);

/// Octets of the message for which a second is added: a modem is faster, and so is a share of any link in use.
const OCTETS_PER_SECOND_MIN: u64 = 1024;

/// Signs of life, each at the end of its patience, that a transaction needs: for MAIL, RCPT and DATA, and the message's
/// reply, which has twice as long. Patience beyond the usual is configured to be used.
const PATIENCES: u32 = 5;

impl<L: Letter> Conversation<L> {
    /// The connection is gone: the far side closed it (`cause` is empty) or it broke.
    pub fn handle_lost(&mut self, now: Timestamp, cause: &str) {
        if self.state == State::Closed {
            return;
        }
        if self.parser.buffered() > 0 {
            log::debug!("{} hung up within a reply", self.settings.peer);
        }
        let peer = &self.settings.peer;
        let phase = self.phase();
        let text = match cause {
            "" => format!("lost connection with {peer} while {phase}"),
            cause => format!("lost connection with {peer} while {phase}: {cause}"),
        };
        let diagnostic = self.reason(status::BAD_CONNECTION, &text);
        if self.is_shaking_hands_at_will() {
            return self.end(End::ClearOnly(diagnostic));
        }
        self.broken(now, diagnostic);
    }

    pub(super) fn timed_out(&mut self, now: Timestamp) {
        let stalled = self.stalling.is_some_and(|since| since + super::writing::STALL_TIME <= now);
        let peer = &self.settings.peer;
        if self.state == State::Quitting && self.flights.is_empty() {
            return self.end_as_stopped(End::Done);
        }
        if stalled && self.awaited_since() > now {
            // A host that drops what came with the end of a message: nothing of what it dropped had a body yet.
            let text = format!("{peer} does not answer commands sent behind the end of a message");
            let diagnostic = self.reason(status::PROTOCOL, &text);
            self.advice = Some(Pipelining::Transaction);
            return self.end(End::Ended(diagnostic));
        }
        let text = match self.overdue() {
            Some(overdue) if overdue <= now => {
                let seconds = now.since(self.eldest).as_secs();
                format!("conversation with {peer} timed out while {}: {seconds} s for one message", self.phase())
            }
            _ => format!("conversation with {peer} timed out while {}", self.phase()),
        };
        let diagnostic = self.reason(status::BAD_CONNECTION, &text);
        self.blame(now, &diagnostic);
        self.end_as_stopped(match () {
            () if self.is_shaking_hands_at_will() => End::ClearOnly(diagnostic),
            () if self.is_opening() => End::Unready(diagnostic),
            () => End::Failed(diagnostic),
        });
    }

    /// Whether a TLS handshake is under way that could be done without.
    fn is_shaking_hands_at_will(&self) -> bool {
        self.state == State::Securing && self.settings.security == Security::Opportunistic
    }

    /// When the plain patience for the next reply is over.
    fn awaited_since(&self) -> Timestamp {
        self.activity + self.patience()
    }

    /// When the oldest transaction under way has taken too long in all.
    pub(super) fn overdue(&self) -> Option<Timestamp> {
        let transaction = self.flights.front()?;
        let recipients = u32::try_from(transaction.recipients.len()).unwrap_or(u32::MAX);
        let span = TRANSACTION_TIME
            .max(self.settings.timeout.saturating_mul(PATIENCES))
            .saturating_add(RECIPIENT_TIME.saturating_mul(recipients))
            .saturating_add(Duration::from_secs(transaction.size / OCTETS_PER_SECOND_MIN));
        Some(self.eldest + span)
    }

    /// How to meet this host next, as far as this connection, which is over, has shown that. A far side that hangs up
    /// with unread input destroys the replies that it has given: it has taken messages, and none of that is known here.
    pub fn next_approach(&self) -> Option<Approach> {
        match self.at_risk {
            0 if self.worked > 0 => Some(Approach::Bold),
            lost if lost > self.worked => Some(Approach::Careful),
            _ => None,
        }
    }

    /// Messages that are written to their end, and may be taken, of which the final reply is not here.
    fn count_at_risk(&mut self) -> u64 {
        let written = self.output.written();
        let awaited = std::mem::take(&mut self.awaited);
        let finals = awaited.iter().filter(|awaited| awaited.whole <= written);
        let may_succeed = |awaited: &&Awaited| match awaited.what {
            What::Final(number) => self.flight(number).is_some_and(|transaction| transaction.may_succeed()),
            _ => false,
        };
        finals.filter(may_succeed).count() as u64
    }

    /// How long the far side may be silent now.
    pub(super) fn patience(&self) -> Duration {
        match (&self.stop, self.awaited.front().map(|awaited| awaited.what)) {
            (_, Some(What::Quit)) => QUIT_TIME,
            (Some(Stop::Refused(_)), _) => self.settings.timeout.min(LAST_WORDS_TIME),
            (_, Some(What::Final(_))) => self.settings.timeout.saturating_mul(2),
            _ if self.basis == Basis::Presumed => self.settings.timeout.min(PRESUMED_TIME),
            _ => self.settings.timeout,
        }
    }

    /// The far side did not keep to the protocol: nothing it says can be matched to anything any more.
    pub(super) fn violated(&mut self, what: &str) {
        log::warn!("{}: {what}, while {}", self.settings.peer, self.phase());
        let text = format!("protocol error in reply from {}: {what}", self.settings.peer);
        let diagnostic = self.reason(status::PROTOCOL, &text);
        if self.is_opening() {
            return self.end(End::Unready(diagnostic));
        }
        self.step_down();
        self.broken(self.activity, diagnostic);
    }

    /// Meets this host more carefully from now on.
    pub(super) fn step_down(&mut self) {
        self.advice = match self.level {
            Pipelining::Stream => Some(Pipelining::Pipelined),
            Pipelining::Pipelined => Some(Pipelining::Transaction),
            Pipelining::Transaction => Some(Pipelining::Lockstep),
            Pipelining::Lockstep => self.advice,
        };
    }

    /// The end of a connection that nobody wanted.
    fn broken(&mut self, now: Timestamp, diagnostic: Arc<Diagnostic>) {
        if self.is_opening() {
            return self.end(End::Unready(diagnostic));
        }
        if !self.has_worked() {
            self.blame(now, &diagnostic);
        }
        self.end_as_stopped(if self.has_worked() { End::Ended(diagnostic) } else { End::Failed(diagnostic) });
    }

    /// Whether this connection has got the work on: a transaction is over, or recipients of the one under way are done
    /// with for ever. Some hosts hang up at the third dead address; the others of the message are not to wait for that.
    pub(super) fn has_worked(&self) -> bool {
        self.worked > 0 || self.flights.front().is_some_and(Transaction::has_final_outcome)
    }

    /// Ends as the stop under way says, if one is.
    pub(super) fn end_as_stopped(&mut self, otherwise: End) {
        let end = match &self.stop {
            None => otherwise,
            Some(Stop::Asked) => End::Done,
            Some(Stop::Worn(why)) => End::Ended(Arc::clone(why)),
            Some(Stop::Refused(said)) if self.has_worked() => End::Ended(Arc::clone(said)),
            Some(Stop::Refused(said)) => End::Failed(Arc::clone(said)),
        };
        self.end(end);
    }

    fn is_opening(&self) -> bool {
        let heard = self.basis == Basis::Confirmed;
        !heard || matches!(self.state, State::Greeting | State::Hello | State::StartTls | State::Securing)
    }

    /// Begins nothing new, and returns what is not begun.
    pub(super) fn stop(&mut self, why: Stop) {
        match (&self.stop, &why) {
            // What the far side says is more to the point than what we wanted.
            (None, _) | (Some(Stop::Asked | Stop::Worn(_)), Stop::Refused(_)) => self.stop = Some(why),
            (Some(_), _) => {}
        }
        self.queue.clear();
        let untouched: Vec<_> = self.batches.iter().filter(|(_, batch)| batch.open == 0).map(|(key, _)| key).collect();
        for key in untouched {
            self.give_back(key);
        }
    }

    /// A batch of which nothing is under way leaves the conversation.
    fn give_back(&mut self, key: super::BatchKey) {
        let Some(batch) = self.batches.remove(key) else {
            return;
        };
        let id = batch.ticket.id;
        self.events.push_back(if batch.begun {
            Event::Settled { batch: id, verdicts: Vec::new(), rest: Rest::Done }
        } else {
            Event::Returned { batch: id }
        });
    }

    /// A connection died before it brought any outcome: the oldest message under way may be the cause. It is put off
    /// like any other failure, so that it cannot stand in front of the thread for ever.
    fn blame(&mut self, now: Timestamp, diagnostic: &Arc<Diagnostic>) {
        if self.has_worked() || self.basis == Basis::Presumed {
            return;
        }
        let Some(transaction) = self.flights.front_mut() else {
            return;
        };
        transaction.blame(now, diagnostic);
    }

    /// The last thing that happens: gives everything back and says how it ended.
    pub(super) fn end(&mut self, end: End) {
        if self.state == State::Closed {
            return;
        }
        let end = match (self.basis, end) {
            (Basis::Presumed, End::Ended(why) | End::Failed(why) | End::Unready(why) | End::ClearOnly(why)) => {
                End::Stale(why)
            }
            (_, end) => end,
        };
        self.at_risk = self.count_at_risk();
        self.statistics.at_risk += self.at_risk;
        self.stage = None;
        while let Some(transaction) = self.flights.pop_front() {
            self.first += 1;
            self.finish(transaction);
        }
        if self.at_risk > 0 {
            log::info!("{}: {} messages sent and not answered may arrive twice", self.settings.peer, self.at_risk);
        }
        self.queue.clear();
        let left: Vec<_> = self.batches.keys().collect();
        for key in left {
            self.give_back(key);
        }
        self.state = State::Closed;
        self.output.clear();
        self.stalling = None;
        self.bytes_in_flight = 0;
        self.events.push_back(Event::Closed(end));
    }

    /// What the far side was about, in Postfix's words.
    fn phase(&self) -> &'static str {
        let Some(awaited) = self.awaited.front() else {
            return if self.output.is_empty() { "idle" } else { "sending" };
        };
        match awaited.what {
            What::Greeting => "receiving the initial server greeting",
            What::Hello(_) => "performing the EHLO handshake",
            What::StartTls => "performing the STARTTLS handshake",
            What::Reset(_) => "sending RSET",
            What::Mail(_) => "sending MAIL FROM",
            What::Rcpt(_) => "sending RCPT TO",
            What::Data(_) => "sending DATA command",
            What::Final(_) if awaited.whole > self.output.written() => "sending message body",
            What::Final(_) => "sending end of data -- message may be sent more than once",
            What::Quit => "sending QUIT",
        }
    }
}

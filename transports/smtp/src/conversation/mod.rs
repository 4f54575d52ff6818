//! One connection to a next hop, without the connection.
//!
//! A [`Conversation`] is an ordered list of commands queued and replies expected. Reading and writing never wait for each
//! other: replies are taken while commands are still being written, so no depth of pipelining can deadlock
//! (RFC 2920 §3.1). It has four kinds of method:
//!
//! - `handle_*`: octets came, octets went, the far side hung up, TLS is there, time passed;
//! - mutators: [`Conversation::carry`], [`Conversation::close`];
//! - `poll_*`: what the driver must do now: [`Conversation::poll_event`] until `None`, then write what
//!   [`Conversation::gather`] gives, then sleep until [`Conversation::poll_timeout`];
//! - plain getters.
//!
//! A carried batch becomes one or more **transactions** (one sender, a bounded number of recipients). How many of them are
//! under way at a time is the [`Pipelining`] level: see `writing`. Replies are matched to commands by position: see
//! `replies`. What a reply means for the recipients is in `transaction`; what the far side need not be asked for, in
//! `fitness`.
//!
//! What fails and how: everything the far side can do ends in an [`Event::Closed`] with a reason. Before it every batch
//! comes back exactly once: settled, returned untouched, or settled with recipients missing, which are unanswered.

mod batch;
mod diagnostic;
mod ending;
mod event;
mod fitness;
mod opening;
mod presumed;
mod progress;
mod replies;
mod settings;
mod transaction;
mod urgency;
mod writing;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slotmap::SlotMap;
use zrelay_agent::{Statistics, Ticket, Work};
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_spool::Diagnostic;
use zrelay_trace::Tap;
use zrelay_wire::{Capabilities, ReplyParser};

use crate::letter::Letter;
use crate::output::{Output, Piece};

use batch::{Batch, BatchKey};
pub(crate) use diagnostic::sanitise;
pub use event::{End, Event};
use presumed::Basis;
pub use presumed::Offered;
pub(crate) use progress::{Finished, Owed};
use replies::Awaited;
pub use settings::{Approach, Protocol, Security, Settings};
use transaction::Transaction;
use writing::{Footing, Stage};

/// Why no new transaction is begun.
#[derive(Clone, Debug)]
enum Stop {
    /// We were asked to end.
    Asked,
    /// The connection has served as many messages, or as long, as it may.
    Worn(Arc<Diagnostic>),
    /// The far side said that it takes no more.
    Refused(Arc<Diagnostic>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The greeting is awaited.
    Greeting,
    /// The reply to EHLO, LHLO or HELO is awaited.
    Hello,
    /// The reply to STARTTLS is awaited.
    StartTls,
    /// The driver shakes hands.
    Securing,
    /// Transactions.
    Ready,
    /// QUIT is queued.
    Quitting,
    Closed,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Conversation<L> {
    settings: Settings,
    state: State,
    stop: Option<Stop>,
    capabilities: Capabilities,
    basis: Basis,
    presumed: Option<Box<Offered>>,
    offered: Offered,
    level: Pipelining,
    /// A lower level that this host should be met with from now on.
    advice: Option<Pipelining>,
    encrypted: bool,
    parser: ReplyParser,
    awaited: VecDeque<Awaited>,
    output: Output<L>,
    events: VecDeque<Event>,
    batches: SlotMap<BatchKey, Batch<L>>,
    /// Batches that have recipients not yet in a transaction.
    queue: VecDeque<BatchKey>,
    /// Transactions under way, oldest first; `first` is the number of the first.
    flights: VecDeque<Transaction>,
    first: u64,
    /// What is written of the newest of them.
    stage: Option<Stage>,
    footing: Footing,
    approach: Approach,
    /// Octets of messages under way.
    bytes_in_flight: u64,
    /// Octets queued and not written above which nothing more is queued.
    backlog_max: u64,
    finished: Finished,
    answers: Work,
    owed: Owed,
    /// Recipients for a transaction, by how long the far side takes; see [`Conversation::set_portion`].
    portion: u32,
    /// Recipients per transaction, as configured, announced or learned.
    recipients_max: u32,
    /// The far side took so many recipients and refused one more for want of room; not told yet.
    lesson: Option<u32>,
    /// The far side took so many transactions and refused one more for that; not told yet.
    lesson_in_messages: Option<u32>,
    /// Refusals since the last message was accepted.
    refusals: u32,
    /// Senders put off in a row.
    put_off: u32,
    /// Replies to MAIL.
    senders: u32,
    /// Transactions that this connection has carried.
    carried: u32,
    /// Transactions whose outcome the far side gave.
    worked: u64,
    /// Messages written whose final reply never came, once it is over.
    at_risk: u64,
    /// When the last octet was written or the last reply read.
    activity: Timestamp,
    /// When the oldest transaction under way began to be the oldest.
    eldest: Timestamp,
    /// When the final reply came behind which the far side owes replies to commands that it has had for long.
    stalling: Option<Timestamp>,
    /// Time spent on setting the connection up, until the first transaction has told it.
    setting_up: Duration,
    statistics: Statistics,
    /// Who watches.
    tap: Option<Box<Tap>>,
}

/// Octets queued and not written above which nothing more is queued, until the driver knows better: enough to keep a
/// socket's buffer full between two turns of the loop, little enough that a dying connection takes few transactions with
/// it that it never sent.
const BACKLOG_OCTETS: u64 = 128 * 1024;

impl<L: Letter> Conversation<L> {
    /// A conversation whose connection stands, and whose greeting is awaited, behind a handshake with
    /// [`Security::Implicit`].
    pub fn new(settings: Settings, now: Timestamp) -> Self {
        let recipients_max = settings.recipients.max(1);
        let level = settings.highest;
        let (state, events) = match settings.security {
            Security::Implicit => (State::Securing, VecDeque::from([Event::StartTls])),
            Security::Clear | Security::Opportunistic | Security::Required => (State::Greeting, VecDeque::new()),
        };
        Self {
            settings,
            state,
            stop: None,
            capabilities: Capabilities::default(),
            basis: Basis::Confirmed,
            presumed: None,
            offered: Offered::default(),
            level,
            advice: None,
            encrypted: false,
            parser: ReplyParser::new(),
            awaited: VecDeque::from([Awaited::greeting()]),
            output: Output::new(),
            events,
            batches: SlotMap::with_key(),
            queue: VecDeque::new(),
            flights: VecDeque::new(),
            first: 0,
            stage: None,
            footing: Footing::Clean,
            approach: Approach::Bold,
            bytes_in_flight: 0,
            backlog_max: BACKLOG_OCTETS,
            finished: Finished::default(),
            answers: Work::default(),
            owed: Owed::BehindCommand(now),
            portion: u32::MAX,
            recipients_max,
            lesson: None,
            lesson_in_messages: None,
            refusals: 0,
            put_off: 0,
            senders: 0,
            carried: 0,
            worked: 0,
            at_risk: 0,
            activity: now,
            eldest: now,
            stalling: None,
            setting_up: Duration::ZERO,
            statistics: Statistics::default(),
            tap: None,
        }
    }

    /// Carries a batch. It is begun when the far side, the level and the limits allow; when nothing more is begun it
    /// comes back at once.
    pub fn carry(&mut self, now: Timestamp, ticket: Ticket, letter: Arc<L>) {
        let refused = self.stop.is_some() || matches!(self.state, State::Quitting | State::Closed);
        if refused {
            self.events.push_back(Event::Returned { batch: ticket.id });
            return;
        }
        let key = self.batches.insert(Batch::new(ticket, letter));
        self.queue.push_back(key);
        self.pump(now);
    }

    /// Finishes what is under way, returns what was not begun, says QUIT.
    pub fn close(&mut self, now: Timestamp) {
        if self.state == State::Closed {
            return;
        }
        self.stop(Stop::Asked);
        if matches!(self.state, State::Ready | State::Quitting) {
            self.pump(now);
        } else {
            self.end(End::Done);
        }
    }

    /// Lets somebody watch, or nobody any more. Flights are counted anew.
    pub fn set_tap(&mut self, tap: Option<Tap>) {
        self.tap = tap.map(Box::new);
    }

    /// Octets came from the far side. Takes all of them.
    pub fn handle_input(&mut self, now: Timestamp, octets: &[u8]) {
        if let Some(tap) = &mut self.tap {
            tap.received(now, octets);
        }
        match self.state {
            State::Closed => return,
            // The far side has nothing to say in the clear once it has agreed to TLS: an injected reply (CVE-2011-0411).
            State::Securing => return self.violated("unexpected octets before the TLS handshake"),
            _ => self.parser.push(octets),
        }
        while self.state != State::Closed && self.state != State::Securing {
            match self.parser.next() {
                Ok(Some(reply)) => {
                    self.handle_reply(now, &reply);
                    self.parser.recycle(reply);
                }
                Ok(None) => break,
                Err(error) => return self.violated(&format!("unintelligible reply: {error}")),
            }
        }
        self.owed = Owed::BehindReply(now);
        self.pump(now);
    }

    /// `octets` of what [`Conversation::gather`] gave are written.
    pub fn handle_written(&mut self, now: Timestamp, octets: usize) {
        match &mut self.tap {
            None => self.output.advance(octets, |_| {}),
            Some(tap) => self.output.advance(octets, |piece| match piece {
                Piece::Commands(octets) => tap.sent(now, octets),
                Piece::Content(octets) => tap.sent_content(octets),
            }),
        }
        self.statistics.bytes = self.statistics.bytes.saturating_add(octets as u64);
        self.activity = now;
        self.pump(now);
    }

    /// The TLS handshake has ended as the policy wants.
    pub fn handle_secured(&mut self, now: Timestamp) {
        if self.state != State::Securing {
            return;
        }
        self.encrypted = true;
        self.activity = now;
        self.secured(now);
    }

    /// Time has passed; does nothing before [`Conversation::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.state == State::Closed || self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return;
        }
        self.timed_out(now);
    }

    /// The next thing for the driver to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Hands slices to be written to `take`, in order, until it returns false.
    pub fn gather<'a>(&'a self, take: impl FnMut(&'a [u8]) -> bool) {
        self.output.gather(take);
    }

    /// Whether there is something to be written.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// When to call [`Conversation::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        if self.state == State::Closed {
            return None;
        }
        let waits = !self.awaited.is_empty() || !self.output.is_empty() || self.state == State::Securing;
        let reply = waits.then(|| self.activity + self.patience());
        let stall = self.stalling.map(|since| since + writing::STALL_TIME);
        reply.into_iter().chain(stall).chain(self.overdue()).min()
    }

    /// What may be under way from here on: transactions without a final reply, octets of their messages (one message may
    /// overdraw that), and octets queued and not written.
    pub fn set_room(&mut self, now: Timestamp, messages: u32, octets: u64, backlog: u64) {
        self.settings.unacknowledged_messages = messages.max(1);
        self.settings.unacknowledged_bytes = octets;
        self.backlog_max = backlog.max(1);
        self.pump(now);
    }

    /// Recipients that a transaction should have from here on, unless the settings or the far side want fewer; one in four
    /// is made twice as large, to see what that does.
    pub fn set_portion(&mut self, recipients: u32) {
        self.portion = recipients.max(1);
    }

    /// How to begin; boldly, unless told otherwise before the far side is ready.
    pub fn set_approach(&mut self, approach: Approach) {
        self.approach = approach;
    }

    /// The transaction of this number, if it is under way.
    fn flight(&mut self, number: u64) -> Option<&mut Transaction> {
        let at = number.checked_sub(self.first)?;
        self.flights.get_mut(usize::try_from(at).ok()?)
    }
}

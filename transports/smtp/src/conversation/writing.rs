//! What is written when: the ladder of conversation levels.
//!
//! | level | one flight holds | a new transaction begins |
//! |---|---|---|
//! | `Lockstep` | one command | behind the final reply |
//! | `Transaction` | `MAIL RCPT* DATA` | behind the final reply |
//! | `Pipelined` | `body dot` of k, `MAIL RCPT* DATA` of k+1 | behind the dot |
//! | `Stream` | `MAIL RCPT* BDAT n LAST` of k, k+1, k+2, ... | at once, within the window |
//!
//! DATA is only ever the last of a flight, because its reply decides what comes next. `RSET` stands in front of every MAIL
//! whose predecessor is not known to have ended well: without it several servers refuse the next MAIL and then take the
//! *next* message into the *previous* envelope. It costs six octets and no round trip.
//!
//! A message larger than the far side's limit is never sent, and one that comes near it is never streamed: there are
//! servers that stop skipping the octets of a refused chunk and run them as commands. Such a message goes alone and by
//! DATA, behind the replies to its envelope.

use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_spool::{Notify, Ret};
use zrelay_wire as wire;

use super::diagnostic::status;
use super::presumed::Basis;
use super::replies::What;
use super::transaction::{Form, Go, Plan, Transaction};
use super::urgency;
use super::{Approach, BatchKey, Conversation, Owed, Protocol, State, Stop};
use crate::letter::Letter;

/// What is written of the newest transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// MAIL is next.
    Mail,
    /// RCPTs are next, then DATA or BDAT.
    Rcpt,
    /// DATA is written, its reply decides.
    Data,
}

/// What the far side makes of a MAIL that comes now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Footing {
    /// No transaction is open there.
    Clean,
    /// That depends on replies not yet here.
    Unknown,
    /// A transaction was refused, and may still be open.
    Spoiled,
}

/// Refusals since the last acceptance from which on transactions are sent one at a time: Postfix hangs up at 20, and
/// what is in flight then is lost.
pub(super) const REFUSALS_CAUTIOUS: u32 = 8;

/// Silence behind a final reply after which a host is taken to have dropped what came with the dot. Long against any
/// round trip, short against the timeout.
pub(super) const STALL_TIME: Duration = Duration::from_secs(10);

/// RCPTs of one transaction that are under way at a time to a host without CHUNKING: a server is known that runs out of
/// stack at 437, and it has none. Others get as many as the path holds.
const RCPT_BURST: usize = 320;

/// Replies that may be owed to us at a time: bounds what is remembered of them.
pub(super) const REPLIES_OWED_MAX: usize = 8192;

/// One transaction in so many is twice as large as the others, where the far side's time divides a post.
const TRIAL_EVERY: u32 = 4;

/// Largest message that is streamed to a host that names no limit: 1 MiB, well below any limit in use.
const STREAM_OCTETS_MAX: u64 = 1024 * 1024;

impl<L: Letter> Conversation<L> {
    /// Queues what may be queued now.
    pub(super) fn pump(&mut self, now: Timestamp) {
        if self.state != State::Ready {
            return;
        }
        if self.awaited.is_empty() {
            self.owed = Owed::BehindCommand(now);
            if self.output.is_empty() {
                self.activity = now;
            }
        }
        while self.state == State::Ready && self.step(now) {}
        if self.state == State::Ready && self.may_quit() {
            self.state = State::Quitting;
            self.command(What::Quit, |out| out.extend_from_slice(b"QUIT\r\n"));
        }
    }

    /// Whether QUIT may be queued: when all is through, or behind the last message where pipelining allows. Not to a host
    /// that has said it will take no more; it is read to the end.
    fn may_quit(&self) -> bool {
        let through = self.flights.is_empty() && self.awaited.is_empty();
        match &self.stop {
            None => false,
            Some(Stop::Refused(_)) => through,
            Some(Stop::Asked | Stop::Worn(_)) => {
                let pipelines = self.level >= Pipelining::Pipelined && self.stage.is_none();
                // An LMTP server that refuses a message as a whole may give fewer replies than are awaited.
                let one_reply = self.settings.protocol == Protocol::Smtp;
                // What found no room goes into another transaction, and so does what waits for its turn.
                let last = self.flights.iter().all(|flight| flight.sent && !flight.is_full());
                through || (pipelines && one_reply && last && !self.flights.is_empty())
            }
        }
    }

    /// Queues one thing. Returns whether it is worth trying again.
    fn step(&mut self, now: Timestamp) -> bool {
        if self.output.backlog() >= self.backlog_max || self.awaited.len() >= REPLIES_OWED_MAX {
            return false;
        }
        match self.stage {
            None => self.begin(now),
            // Nothing new for a host that has had enough; what it has agreed to take, it gets.
            Some(Stage::Mail | Stage::Rcpt) if matches!(self.stop, Some(Stop::Refused(_))) => self.abandon(now),
            Some(Stage::Mail) => self.write_mail(now),
            Some(Stage::Rcpt) => self.write_rcpt(now),
            Some(Stage::Data) => self.write_body(now),
        }
    }

    /// Begins a transaction.
    fn begin(&mut self, now: Timestamp) -> bool {
        let Some(&key) = self.queue.front() else {
            return false;
        };
        if self.is_worn(now) {
            let what = if self.carried >= self.messages_max() { "limit of messages per" } else { "age of the" };
            let text = format!("{what} connection with {} reached", self.settings.peer);
            self.stop(Stop::Worn(self.reason(status::NO_MORE, &text)));
            return false;
        }
        let Some(batch) = self.batches.get(key) else {
            self.queue.pop_front();
            return true;
        };
        if let Some(reason) = self.unfit(batch) {
            // What is presumed of a host is good enough to ask it, not to answer for it.
            return self.basis == Basis::Confirmed && self.refuse_locally(now, key, reason);
        }
        let size = batch.letter.size();
        if let Some(batch) = self.batches.get_mut(key).filter(|_| self.basis == Basis::Confirmed) {
            // To be looked at once: it may have to wait here for long, and may be large.
            batch.fit = true;
        }
        let alone = self.level == Pipelining::Stream && self.is_large(size);
        if !self.may_begin(alone) {
            return false;
        }
        self.open_transaction(now, key, alone)
    }

    fn open_transaction(&mut self, now: Timestamp, key: BatchKey, alone: bool) -> bool {
        let trial = self.carried % TRIAL_EVERY == TRIAL_EVERY - 1;
        let portion = if trial { self.portion.saturating_mul(2) } else { self.portion };
        let limit = usize::try_from(self.recipients_max.min(portion)).unwrap_or(usize::MAX);
        let Some(batch) = self.batches.get_mut(key) else {
            return false;
        };
        let mut taken = batch.take(limit, &self.capabilities);
        if self.basis == Basis::Presumed {
            batch.again.extend(taken.unfit.drain(..).map(|(index, _)| index));
            if taken.recipients.is_empty() {
                return false;
            }
        }
        let spent = batch.is_spent();
        if spent {
            self.queue.pop_front();
        }
        let mut unfit = taken.unfit;
        if !taken.recipients.is_empty() {
            let connected = std::mem::take(&mut self.setting_up);
            let mut timing = batch.timing(now, connected);
            timing.reused = self.carried;
            timing.encrypted = self.encrypted;
            batch.open += 1;
            batch.begun = true;
            let plan = Plan {
                batch: key,
                form: if self.level == Pipelining::Stream && !alone { Form::Bdat } else { Form::Data },
                size: batch.letter.size(),
                alone,
                smtputf8: self.capabilities.smtputf8 && (taken.internationalised || batch.letter.content().smtputf8),
                recipients: taken.recipients,
                timing,
            };
            self.start(now, Transaction::new(now, plan));
        }
        unfit.sort_unstable_by_key(|&(index, why)| (why, index));
        let groups = unfit.chunk_by(|one, other| one.1 == other.1);
        let refusals: Vec<_> = groups.filter_map(|group| self.unfit_for_sending(group)).collect();
        if !refusals.is_empty() {
            self.settle_locally(now, key, refusals);
        }
        true
    }

    fn start(&mut self, now: Timestamp, transaction: Transaction) {
        let number = self.first + self.flights.len() as u64;
        if self.flights.is_empty() {
            self.eldest = now;
        }
        self.bytes_in_flight = self.bytes_in_flight.saturating_add(transaction.size);
        self.carried = self.carried.saturating_add(1);
        self.flights.push_back(transaction);
        self.stage = Some(Stage::Mail);
        if self.footing != Footing::Clean {
            self.ask(What::Reset(number), |out| out.extend_from_slice(b"RSET\r\n"));
        }
        self.footing = Footing::Unknown;
    }

    /// Whether a transaction may begin now.
    fn may_begin(&self, alone: bool) -> bool {
        let Some(newest) = self.flights.back() else {
            return true;
        };
        if alone || newest.alone || self.refusals >= REFUSALS_CAUTIOUS {
            return false;
        }
        // How many replies an LMTP server gives to a message that it refuses as a whole is not certain, and a reply to
        // something behind it must not be taken for one of them.
        if self.settings.protocol == Protocol::Lmtp && newest.recipients.len() > 1 {
            return false;
        }
        match self.level {
            Pipelining::Lockstep | Pipelining::Transaction => return false,
            Pipelining::Pipelined if self.flights.len() > 1 => return false,
            Pipelining::Pipelined | Pipelining::Stream => {}
        }
        let messages_max = match self.approach {
            Approach::Bold => u64::from(self.settings.unacknowledged_messages),
            Approach::Careful => u64::from(self.settings.unacknowledged_messages).min(self.worked + 1),
        };
        (self.flights.len() as u64) < messages_max && self.bytes_in_flight < self.settings.unacknowledged_bytes
    }

    /// Whether a message must not be streamed.
    fn is_large(&self, size: u64) -> bool {
        match self.capabilities.size {
            Some(Some(limit)) => size > limit / 2,
            Some(None) | None => size > STREAM_OCTETS_MAX,
        }
    }

    fn write_mail(&mut self, now: Timestamp) -> bool {
        if self.must_wait() {
            return false;
        }
        let (number, Some(transaction)) = self.newest() else {
            return false;
        };
        if transaction.is_refused() {
            return self.abandon(now);
        }
        let (key, smtputf8) = (transaction.batch, transaction.smtputf8);
        let first = transaction.recipients.first().copied().unwrap_or_default();
        let Some(letter) = self.batches.get(key).map(|batch| Arc::clone(&batch.letter)) else {
            return false;
        };
        let (offered, handling) = (&self.capabilities, letter.handling());
        let parameters = wire::MailParameters {
            size: offered.size.map(|_| letter.size()),
            body: (offered.eight_bit_mime && letter.content().eight_bit).then_some(wire::Body::EightBitMime),
            smtputf8,
            ret: letter.ret().filter(|_| offered.dsn).map(|ret| match ret {
                Ret::Full => wire::Ret::Full,
                Ret::Headers => wire::Ret::Headers,
            }),
            envid: letter.envid().filter(|_| offered.dsn).map(str::to_owned),
            mt_priority: urgency::priority(handling, offered),
            by: urgency::deliver_by(handling, offered, now),
            ..wire::MailParameters::default()
        };
        let sender = letter.recipient(first).map_or("", |recipient| recipient.sender);
        self.ask(What::Mail(number), |out| wire::encode_mail(out, sender, &parameters));
        self.stage = Some(Stage::Rcpt);
        true
    }

    /// The next RCPT, or what follows the last one.
    fn write_rcpt(&mut self, now: Timestamp) -> bool {
        if self.must_wait() {
            return false;
        }
        let dsn = self.capabilities.dsn;
        let burst = if self.capabilities.chunking { usize::MAX } else { RCPT_BURST };
        let (number, Some(transaction)) = self.newest() else {
            return false;
        };
        if transaction.is_refused() {
            return self.abandon(now);
        }
        if transaction.is_full() {
            transaction.shorten();
        }
        let Some(&index) = transaction.recipients.get(transaction.asked) else {
            return self.write_message(now);
        };
        if transaction.asked - transaction.told >= burst {
            return false;
        }
        transaction.asked += 1;
        let key = transaction.batch;
        let Some(letter) = self.batches.get(key).map(|batch| Arc::clone(&batch.letter)) else {
            return false;
        };
        if let Some(recipient) = letter.recipient(index) {
            let notify = wire_notify(recipient.notify).filter(|_| dsn);
            let orcpt = recipient.orcpt.filter(|_| dsn);
            self.ask(What::Rcpt(number), |out| wire::encode_rcpt(out, recipient.address, notify, orcpt));
        }
        true
    }

    /// BDAT with the message, or DATA.
    fn write_message(&mut self, now: Timestamp) -> bool {
        let presumed = self.basis == Basis::Presumed;
        let (number, Some(transaction)) = self.newest() else {
            return false;
        };
        let all_told = transaction.told == transaction.recipients.len();
        if all_told && transaction.accepted == 0 {
            return self.abandon(now);
        }
        if transaction.form == Form::Data {
            self.ask(What::Data(number), |out| out.extend_from_slice(b"DATA\r\n"));
            self.stage = Some(Stage::Data);
            return true;
        }
        if presumed {
            return false;
        }
        transaction.sent = true;
        let key = transaction.batch;
        let Some(letter) = self.batches.get(key).map(|batch| Arc::clone(&batch.letter)) else {
            return false;
        };
        self.ask(What::Final(number), |out| wire::encode_bdat(out, letter.size(), wire::Last::Yes));
        self.output.plain(letter);
        self.extend_last();
        self.stage = None;
        true
    }

    /// The message behind 354, or the lone dot that a server wants that says 354 with no recipient left (RFC 2920 §3.1).
    fn write_body(&mut self, now: Timestamp) -> bool {
        let (number, Some(transaction)) = self.newest() else {
            return false;
        };
        match transaction.go {
            None => return false,
            Some(Go::Refused) => return self.abandon(now),
            Some(Go::Ahead) => {}
        }
        let accepted = transaction.accepted > 0;
        transaction.sent = accepted;
        transaction.outstanding += 1;
        let key = transaction.batch;
        let Some(letter) = self.batches.get(key).map(|batch| Arc::clone(&batch.letter)) else {
            return false;
        };
        if accepted {
            self.output.stuffed(letter);
        } else {
            self.output.command(|out| out.extend_from_slice(b".\r\n"));
        }
        self.await_reply(What::Final(number));
        // Whatever the reply to the dot is, the transaction ends with it.
        self.footing = if accepted { Footing::Clean } else { Footing::Spoiled };
        self.stage = None;
        true
    }

    /// Writes no more of the newest transaction.
    fn abandon(&mut self, now: Timestamp) -> bool {
        self.stage = None;
        self.footing = Footing::Spoiled;
        self.complete(now);
        true
    }

    /// Queues a command of the newest transaction.
    fn ask(&mut self, what: What, encode: impl FnOnce(&mut Vec<u8>)) {
        if let Some(transaction) = self.flights.back_mut() {
            transaction.outstanding += 1;
        }
        self.command(what, encode);
    }

    fn newest(&mut self) -> (u64, Option<&mut Transaction>) {
        let number = (self.first + self.flights.len() as u64).saturating_sub(1);
        (number, self.flights.back_mut())
    }

    /// Whether the level allows no command before the last one is answered.
    fn must_wait(&self) -> bool {
        self.level == Pipelining::Lockstep && !self.awaited.is_empty()
    }
}

fn wire_notify(notify: Notify) -> Option<wire::Notify> {
    match notify {
        Notify::Default => None,
        Notify::Never => Some(wire::Notify::Never),
        Notify::On { success, failure, delay } => Some(wire::Notify::On { success, failure, delay }),
    }
}

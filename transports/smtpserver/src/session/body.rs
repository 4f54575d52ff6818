//! The content: DATA, chunks, chunks that nobody receives, and the end of a message.

use zrelay_clock::Timestamp;
use zrelay_config::BareNewline;
use zrelay_maillog::{lines, target};
use zrelay_spool::{Content as ContentKind, Envelope};
use zrelay_wire::{Last, Progress, Utf8};

use super::content::{Content, Fault, Pace, WINDOW_BYTES};
use super::counters::{Verb, Verdict};
use super::replies::Filed;
use super::state::{Chunk, ChunkPhase, DataPhase, Newlines, RateClock, Skip, State};
use super::trace::{Greeting, GreetingKind, Trace};
use super::transaction::Transaction;
use super::{Effect, RATE_GRACE, Session};
use zrelay_config::Protocol;

/// Whether octets come fast enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rate {
    Fair,
    TooSlow,
}

impl Session {
    /// Octets behind 354.
    pub(super) fn take_data(&mut self, now: Timestamp, mut phase: Box<DataPhase>, input: &[u8]) -> usize {
        let window = input.get(..WINDOW_BYTES).unwrap_or(input);
        let (used, progress) = phase.decoder.push(window, phase.content.tail_mut());
        if phase.decoder.bare() && self.policy.limits.bare_newline == BareNewline::Refuse {
            phase.content.set_fault(Fault::BareNewline);
        }
        let pace = phase.content.judge(used);
        self.since = now;
        if pace == Pace::Hopeless {
            self.state = State::Data(phase);
            self.counters.retract(Verb::Data);
            self.give_up_on_content(now);
            return used;
        }
        if progress == Progress::End {
            let DataPhase { transaction, content, .. } = *phase;
            self.finish(now, Verb::Data, transaction, content);
            return used;
        }
        let rate = self.rate(now, phase.rate, phase.content.received);
        self.pass_on(&mut phase.transaction, &mut phase.content);
        self.state = State::Data(phase);
        self.mind(now, rate);
        used
    }

    /// Octets within a chunk.
    pub(super) fn take_chunk(
        &mut self,
        now: Timestamp,
        mut phase: Box<ChunkPhase>,
        mut chunk: Chunk,
        input: &[u8],
    ) -> usize {
        let used = usize::try_from(chunk.remaining).unwrap_or(usize::MAX).min(input.len()).min(WINDOW_BYTES);
        let window = input.get(..used).unwrap_or_default();
        decode(&mut phase, window);
        // Chunks that are hopeless were refused by their size already.
        phase.content.judge(used);
        chunk.remaining -= used as u64;
        self.since = now;
        if chunk.remaining == 0 {
            self.end_chunk(now, phase, chunk.last);
            return used;
        }
        let rate = self.rate(now, phase.rate, phase.content.received);
        self.pass_on(&mut phase.transaction, &mut phase.content);
        self.state = State::Chunk(phase, chunk);
        self.mind(now, rate);
        used
    }

    /// The end of a chunk; each has its reply (RFC 3030 §2).
    pub(super) fn end_chunk(&mut self, now: Timestamp, mut phase: Box<ChunkPhase>, last: Last) {
        if last == Last::Yes {
            complete(&mut phase);
            self.counters.count(Verb::Bdat, Verdict::Accepted);
            let ChunkPhase { transaction, content, .. } = *phase;
            return self.finish(now, Verb::Bdat, transaction, content);
        }
        if let Some(fault) = phase.content.fault() {
            self.abort(phase.content.id, phase.content.passed_on());
            self.state = State::Refused(fault.reply());
            return self.refuse(now, Verb::Bdat, fault.reply());
        }
        self.pass_on(&mut phase.transaction, &mut phase.content);
        self.state = State::Chunks(phase);
        self.accept(Verb::Bdat, "250 2.0.0 Ok: chunk received\r\n");
    }

    /// Octets within a chunk that nobody will receive.
    pub(super) fn take_skipped(&mut self, now: Timestamp, mut skip: Box<Skip>, input: &[u8]) -> usize {
        let used = usize::try_from(skip.remaining).unwrap_or(usize::MAX).min(input.len());
        skip.remaining -= used as u64;
        skip.taken = skip.taken.saturating_add(used as u64);
        self.since = now;
        if skip.remaining == 0 {
            self.end_skip(now, *skip);
            return used;
        }
        let rate = self.rate(now, skip.rate, skip.taken);
        self.state = State::Skip(skip);
        self.mind(now, rate);
        used
    }

    pub(super) fn end_skip(&mut self, now: Timestamp, skip: Skip) {
        self.state = skip.then;
        self.refuse(now, Verb::Bdat, skip.reply);
        self.leave_if_draining(now);
    }

    /// More octets are announced than anybody would read to the end.
    pub(super) fn give_up_on_octets(&mut self, now: Timestamp, verb: Verb) {
        self.counters.count(verb, Verdict::Refused);
        self.give_up_on_content(now);
    }

    fn give_up_on_content(&mut self, now: Timestamp) {
        self.replies.push(Fault::TooBig.reply());
        self.end(now);
    }

    /// Passes a full piece on to the spool, or what there is when memory is short.
    fn pass_on(&mut self, transaction: &mut Transaction, content: &mut Content) {
        let piece = match transaction.hold(content.held()) {
            Ok(()) => content.next_piece(),
            Err(_) => content.flush(),
        };
        let Some(bytes) = piece else {
            return;
        };
        self.effects.push_back(Effect::Append { message: content.id, bytes });
        // Less than before always fits.
        let _ = transaction.hold(content.held());
    }

    fn rate(&self, now: Timestamp, clock: RateClock, octets: u64) -> Rate {
        let elapsed = now.since(clock.0);
        if elapsed < RATE_GRACE {
            return Rate::Fair;
        }
        let due = elapsed.as_secs().saturating_mul(u64::from(self.policy.limits.data_rate));
        if octets < due { Rate::TooSlow } else { Rate::Fair }
    }

    fn mind(&mut self, now: Timestamp, rate: Rate) {
        if rate == Rate::Fair {
            return;
        }
        log::info!(target: target::SMTPD, "data too slow after {} from {}", self.stage(), self.client);
        self.hang_up(now, "421 4.4.2", "Error: data comes too slowly");
    }

    /// The end of a message's content: to the spool with it, or a refusal.
    fn finish(&mut self, now: Timestamp, verb: Verb, mut transaction: Transaction, mut content: Content) {
        self.state = State::Idle;
        let replies = match self.policy.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => transaction.recipients.len(),
        };
        let (id, passed_on, started) = (content.id, content.passed_on(), content.started);
        let seen_eight_bit = content.eight_bit;
        let header = std::mem::take(&mut content.header);
        let held = content.held();
        let whole = match content.finish() {
            Ok(whole) => whole,
            Err(fault) => {
                self.abort(id, passed_on);
                self.counters.retract(verb);
                (0..replies).for_each(|_| self.replies.push(fault.reply()));
                log::info!(target: target::SMTPD, "{id}: reject from {}: {}", self.client, fault.reply().trim_end());
                self.count_error(now);
                return self.leave_if_draining(now);
            }
        };
        // Over the budget or not, it is on its way to the disk.
        let _ = transaction.hold(held.min(whole.tail.capacity()));
        log::info!(target: target::CLEANUP, "{}", lines::message_id(id, &header.message_id()));
        let trace = self.trace(&transaction, id, started);
        let handling = self.handling(&transaction, &header);
        let Transaction { from, eight_bit, utf8, envid, ret, recipients, senders, memory, .. } = transaction;
        let filed = Filed { id, replies, memory };
        let serial = self.replies.push_gap(filed);
        let envelope = Box::new(Envelope {
            received: started,
            trace: trace.into_bytes(),
            client: self.client.to_string(),
            content: ContentKind { eight_bit: eight_bit || seen_eight_bit, smtputf8: utf8 == Utf8::Allowed },
            envid,
            ret,
            handling,
            senders: Transaction::into_senders(senders, &from),
            recipients,
            origin: None,
        });
        let (tail, digest) = (whole.tail, whole.digest);
        self.effects.push_back(Effect::Commit { message: id, serial, envelope, tail, digest });
        self.commands = 0;
        self.leave_if_draining(now);
    }

    fn trace(&self, transaction: &Transaction, id: zrelay_spool::MessageId, at: Timestamp) -> String {
        let unnamed = Greeting::new("", GreetingKind::Plain);
        let recipient = match transaction.recipients.as_slice() {
            [only] => Some(only.address.as_str()),
            _ => None,
        };
        Trace {
            greeting: self.greeting.as_ref().unwrap_or(&unnamed),
            client: self.client.address,
            hostname: &self.policy.hostname,
            protocol: self.policy.protocol,
            tls: self.tls.as_deref(),
            utf8: transaction.utf8,
            id,
            recipient,
            at,
        }
        .line()
    }
}

/// Appends the octets of a chunk to the content, as the policy on bare CR and LF wants it.
fn decode(phase: &mut ChunkPhase, octets: &[u8]) {
    let ChunkPhase { content, newlines, .. } = phase;
    match newlines {
        Newlines::Check(check) => {
            check.push(octets);
            content.tail_mut().extend_from_slice(octets);
        }
        Newlines::Normalise(normaliser, check) => {
            let tail = content.tail_mut();
            let before = tail.len();
            normaliser.push(octets, tail);
            check.push(tail.get(before..).unwrap_or_default());
        }
    }
}

/// Brings the content of chunks into the form that DATA could carry: the last line ends in CRLF.
fn complete(phase: &mut ChunkPhase) {
    let ChunkPhase { content, newlines, .. } = phase;
    let check = match newlines {
        Newlines::Check(check) => check,
        Newlines::Normalise(normaliser, check) => {
            let tail = content.tail_mut();
            let before = tail.len();
            normaliser.finish(tail);
            check.push(tail.get(before..).unwrap_or_default());
            check
        }
    };
    let report = check.report();
    if report.bare {
        content.set_fault(Fault::BareNewline);
    } else if !report.ends_with_newline {
        content.tail_mut().extend_from_slice(b"\r\n");
    }
    content.judge(0);
}

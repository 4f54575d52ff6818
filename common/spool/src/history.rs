//! What became of a message's recipients, attempt by attempt, for those who ask.
//!
//! The log has each outcome once, and its segments go when the queue does not need them any more. So that an answer does
//! not depend on that, and costs neither the appender nor the scheduler anything:
//!
//! - Nothing is added to the record of an outcome, nothing is kept of it in the books, and nobody looks an earlier one up.
//!   Putting off a million batches of a dead host costs what it did.
//! - The thread that makes a checkpoint reads each outcome anyway; it keeps the latest of them with their message
//!   ([`History`]), in the checkpoint. So does compaction in the record of a message that it moves.
//! - Whoever asks ([`Reader::past`](crate::Reader::past)) takes what the checkpoint has and reads the log behind it: 64 MiB
//!   of records and the headers of the content between, in the asker's thread.
//!
//! Kept are the last [`ATTEMPTS_MAX`] attempts of each batch and the ends of its recipients, in
//! [`OCTETS_MAX`] + [`OCTETS_PER_RECIPIENT`] octets for each recipient of the message. An attempt takes 15 octets where
//! recipients and reply are like before, as with a host that is down: 120 octets more in the checkpoint for each message
//! that it finds tried eight times. What is gone is in the
//! delivery log. An outcome whose segment goes before a checkpoint has seen it is gone as well; that takes a segment that
//! no message needs although less than 64 MiB have been recorded since.
//!
//! Layout, in the notation of [`crate::record`]: octets var of what follows, 0 for nothing · cut u8 · count var · (reply)* ·
//! (batch var · disposition u8 · attempts var · at u64 · 0, or 1 and channel text · host text · reply var · recipients
//! indices)*. A reply is 0 · batch var when it is the last one of that batch, else a diagnostic.

mod read;

use std::collections::HashMap;
use std::sync::Arc;

use zrelay_clock::Timestamp;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::moved::BatchDetail;
use crate::record::{
    decode_diagnostic, decode_disposition, decode_key, disposition_octet, encode_diagnostic, encode_key,
};
use crate::{Diagnostic, Disposition, Outcome, ThreadKey};

pub use read::{Known, Past, Tried};

/// Attempts of a batch that are kept, the latest: beyond them a host says what it has said before.
const ATTEMPTS_MAX: u32 = 8;
/// Octets that are kept of a message.
const OCTETS_MAX: usize = 1024;
/// And for each of its recipients: about what its address takes in the log.
const OCTETS_PER_RECIPIENT: usize = 64;
/// Octets that may be added before it is looked whether some are too many.
const SLACK: usize = 512;
/// Replies, the latest, among which a reply is looked for before it is kept once more.
const ALIKE: usize = 4;

/// What one attempt brought for some recipients of a message, or what was decided on them without one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// The number of the batch.
    pub batch: u32,
    /// The thread through which it was tried, when it is known.
    pub thread: Option<ThreadKey>,
    /// When it was known.
    pub at: Timestamp,
    /// How often the batch had been tried then, this time included.
    pub attempts: u32,
    /// What became of the recipients.
    pub disposition: Disposition,
    /// Indices of the recipients in the message's envelope, ascending.
    pub recipients: Vec<u32>,
    /// Who said so and in which words.
    pub diagnostic: Arc<Diagnostic>,
}

/// See the module's head. One without attempts takes a pointer's width.
#[derive(Clone, Default, Debug)]
pub(crate) struct History(Option<Box<Kept>>);

/// The attempts as they are written, for they are many.
#[derive(Clone, Default, Debug)]
struct Kept {
    replies: Vec<Arc<Diagnostic>>,
    attempts: Vec<u8>,
    /// Octets of the replies.
    texts: usize,
    /// Octets when it was last looked whether some are too many.
    looked: usize,
    known: Known,
}

impl History {
    /// Whether there are no attempts.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// An outcome of a message with so many recipients, for these of them. Of a batch's thread nothing is said as long as it
    /// stays the same.
    pub(crate) fn note(&mut self, outcome: &Outcome, recipients: &[u32], of: u32) {
        let attempt = Attempt {
            batch: outcome.batch.number,
            thread: None,
            at: outcome.at,
            attempts: outcome.attempts,
            disposition: outcome.disposition,
            recipients: recipients.to_vec(),
            diagnostic: outcome.diagnostic.clone(),
        };
        let kept = self.0.get_or_insert_default();
        kept.push(&attempt);
        if kept.octets() > 2 * kept.looked + SLACK {
            self.look(of);
        }
    }

    /// The batch has left `thread`.
    pub(crate) fn rerouted(&mut self, batch: u32, thread: &ThreadKey) {
        let Some(kept) = &mut self.0 else { return };
        let mut attempts = kept.attempts();
        let here = attempts.iter_mut().filter(|attempt| attempt.batch == batch && attempt.thread.is_none());
        here.for_each(|attempt| attempt.thread = Some(thread.clone()));
        kept.replace(&attempts);
    }

    /// What another record knows as well.
    pub(crate) fn merge(&mut self, other: &Self, of: u32) {
        self.join(other);
        self.look(of);
    }

    /// The same, and whether some are too many is for [`finished`](Self::finished) to look.
    pub(crate) fn join(&mut self, other: &Self) {
        let Some(theirs) = &other.0 else { return };
        let Some(kept) = &mut self.0 else { return self.0.clone_from(&other.0) };
        if theirs.known == Known::Latest {
            kept.known = Known::Latest;
        }
        theirs.attempts().iter().for_each(|attempt| kept.push(attempt));
    }

    /// Octets of memory that it takes, about.
    pub(crate) fn memory(&self) -> usize {
        let Some(kept) = &self.0 else { return 0 };
        let reply = Diagnostic::default().memory() + size_of::<Arc<Diagnostic>>();
        // A vector that has grown is three quarters full, on the average.
        size_of::<(u64, Self, Kept)>() + kept.attempts.len() * 4 / 3 + kept.texts + kept.replies.len() * reply
    }

    /// All attempts, in the order of time, and whether there were more.
    pub(crate) fn attempts(&self) -> (Vec<Attempt>, Known) {
        self.0.as_ref().map_or_else(Default::default, |kept| (kept.attempts(), kept.known))
    }

    /// Leaves what may be kept, in order and each once.
    fn look(&mut self, of: u32) {
        let Some(kept) = &mut self.0 else { return };
        let (attempts, known) = latest(kept.attempts(), OCTETS_MAX + OCTETS_PER_RECIPIENT * of as usize);
        if known == Known::Latest {
            kept.known = known;
        }
        kept.replace(&attempts);
        kept.looked = kept.octets();
    }

    /// No more than may be kept of a message with so many recipients.
    pub(crate) fn finished(mut self, of: u32) -> Self {
        // Whatever is added makes it longer.
        if self.0.as_ref().is_some_and(|kept| kept.octets() != kept.looked) {
            self.look(of);
        }
        self
    }

    /// Writes it into the record of a message with these batches.
    pub(crate) fn encode(&self, out: &mut Encoder<'_>, batches: &[BatchDetail]) {
        let Some(kept) = &self.0 else { return out.var(0) };
        let mut octets = Vec::with_capacity(kept.octets());
        let mut body = Encoder(&mut octets);
        body.u8((kept.known == Known::Latest).into());
        body.var(kept.replies.len() as u32);
        for reply in &kept.replies {
            let same = |batch: &BatchDetail| batch.last.as_ref() == Some(reply);
            match batches.iter().take(ALIKE).position(same) {
                Some(batch) => {
                    body.u8(0);
                    body.var(batch as u32);
                }
                None => encode_diagnostic(&mut body, reply),
            }
        }
        body.0.extend_from_slice(&kept.attempts);
        out.var(octets.len() as u32);
        out.0.extend_from_slice(&octets);
    }

    /// Reads past it.
    pub(crate) fn skip(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let octets = from.var()? as usize;
        from.take(octets)?;
        Ok(Self::default())
    }

    pub(crate) fn decode(from: &mut Decoder<'_>, batches: &[BatchDetail]) -> Result<Self, Malformed> {
        let octets = from.var()? as usize;
        let mut from = Decoder(from.take(octets)?);
        if octets == 0 {
            return Ok(Self::default());
        }
        let known = if from.u8()? == 0 { Known::All } else { Known::Latest };
        let reply = |from: &mut Decoder<'_>| {
            if from.0.first() != Some(&0) {
                return decode_diagnostic(from, None);
            }
            from.u8()?;
            let batch = batches.get(from.var()? as usize);
            batch.and_then(|batch| batch.last.clone()).ok_or(Malformed)
        };
        let replies: Vec<_> = (0..from.count(2)?).map(|_| reply(&mut from)).collect::<Result<_, _>>()?;
        let texts = replies.iter().map(|reply| text_octets(reply)).sum();
        let kept = Kept { replies, attempts: from.0.to_vec(), texts, looked: 0, known };
        let looked = kept.octets();
        Ok(Self(Some(Box::new(Kept { looked, ..kept }))))
    }
}

impl Kept {
    fn octets(&self) -> usize {
        self.attempts.len() + self.texts
    }

    fn push(&mut self, attempt: &Attempt) {
        let first = self.replies.len().saturating_sub(ALIKE);
        let known = self.replies.iter().skip(first).position(|reply| *reply == attempt.diagnostic);
        let reply = known.map_or(self.replies.len(), |at| first + at);
        if known.is_none() {
            self.texts += text_octets(&attempt.diagnostic);
            self.replies.push(attempt.diagnostic.clone());
        }
        let mut out = Encoder(&mut self.attempts);
        out.var(attempt.batch);
        out.u8(disposition_octet(attempt.disposition));
        out.var(attempt.attempts);
        out.u64(attempt.at.as_micros());
        out.u8(attempt.thread.is_some().into());
        if let Some(thread) = &attempt.thread {
            encode_key(&mut out, thread);
        }
        out.var(reply as u32);
        out.indices(&attempt.recipients);
    }

    fn replace(&mut self, attempts: &[Attempt]) {
        self.replies.clear();
        self.attempts.clear();
        self.texts = 0;
        attempts.iter().for_each(|attempt| self.push(attempt));
    }

    /// As far as they make sense.
    fn attempts(&self) -> Vec<Attempt> {
        let mut from = Decoder(&self.attempts);
        std::iter::from_fn(|| (!from.0.is_empty()).then(|| self.attempt(&mut from).ok())?).collect()
    }

    fn attempt(&self, from: &mut Decoder<'_>) -> Result<Attempt, Malformed> {
        let batch = from.var()?;
        let disposition = decode_disposition(from.u8()?)?;
        let attempts = from.var()?;
        let at = Timestamp::from_micros(from.u64()?);
        let thread = if from.u8()? == 0 { None } else { Some(decode_key(from)?) };
        let diagnostic = self.replies.get(from.var()? as usize).cloned().ok_or(Malformed)?;
        Ok(Attempt { batch, thread, at, attempts, disposition, recipients: from.indices()?, diagnostic })
    }
}

/// Octets that a reply takes.
fn text_octets(reply: &Diagnostic) -> usize {
    /// All but the texts.
    const FIXED: usize = 14;
    FIXED + reply.text.len() + reply.peer.len() + reply.command.len()
}

/// What of these may be kept in so many octets, in the order of time, each once; and whether that is all.
fn latest(mut attempts: Vec<Attempt>, octets_max: usize) -> (Vec<Attempt>, Known) {
    attempts.sort_by_key(|attempt| attempt.at);
    let mut unique: Vec<Attempt> = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        let mut same_time = unique.iter().rev().take_while(|other| other.at == attempt.at);
        if !same_time.any(|other| *other == attempt) {
            unique.push(attempt);
        }
    }
    let count = unique.len();
    let mut highest: HashMap<(u32, Option<ThreadKey>), u32> = HashMap::new();
    for attempt in &unique {
        let highest = highest.entry((attempt.batch, attempt.thread.clone())).or_default();
        *highest = attempt.attempts.max(*highest);
    }
    unique.retain(|attempt| {
        let highest = highest.get(&(attempt.batch, attempt.thread.clone())).copied().unwrap_or(0);
        attempt.disposition.is_final() || attempt.attempts.saturating_add(ATTEMPTS_MAX) > highest
    });
    let mut room = octets_max;
    let mut after: Option<&Arc<Diagnostic>> = None;
    let fitting = unique.iter().rev().take_while(|attempt| {
        let text = if after == Some(&attempt.diagnostic) { 0 } else { text_octets(&attempt.diagnostic) };
        after = Some(&attempt.diagnostic);
        let takes = text + attempt_octets(attempt);
        let fits = takes <= room;
        room = room.saturating_sub(takes);
        fits
    });
    let fitting = fitting.count();
    let kept = unique.split_off(unique.len() - fitting);
    let known = if kept.len() < count { Known::Latest } else { Known::All };
    (kept, known)
}

/// About what an attempt takes beside its reply.
fn attempt_octets(attempt: &Attempt) -> usize {
    /// All but the recipients and the thread.
    const FIXED: usize = 18;
    let thread = attempt.thread.as_ref().map_or(0, |thread| thread.channel.len() + thread.host.len() + 2);
    let mut before = 0;
    let index = |index: &u32| {
        let bits = u32::BITS - index.wrapping_sub(std::mem::replace(&mut before, *index)).leading_zeros();
        bits.div_ceil(7).max(1) as usize
    };
    FIXED + thread + attempt.recipients.iter().map(index).sum::<usize>()
}

#[cfg(test)]
mod tests;

//! A message in the queue, copied forward with all that is known of it, so that the segments behind it can go.
//!
//! One record says everything, so that a crash leaves either the old state or the new one:
//!
//! | what | |
//! |---|---|
//! | message | u64 |
//! | the first segment that may hold an older record of it | u32 |
//! | routed | u8 |
//! | recipients that are open | indices |
//! | batches | count var · (channel text · host text · recipients indices · attempts u32 · u8 with 1 held, 2 warned · 0, or 1 and due u64 · 0, or a diagnostic)* |
//! | reports owed | count var · (disposition u8 · at u64 · recipients indices · diagnostic)* |
//! | what became of it so far, since format 4 | see [`crate::history`] |
//! | the message's record, with extents that are brought up to date | the rest; see [`crate::message`] |
//!
//! Batches keep their numbers: one that is over stays as an empty one. Notation as in [`crate::record`].

use std::sync::Arc;

use zrelay_clock::Timestamp;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::format::Kind;
use crate::history::History;
use crate::record::{
    decode_diagnostic, decode_disposition, decode_key, disposition_octet, encode_diagnostic, encode_key,
};
use crate::{Diagnostic, MessageId, Owed, RoutedBatch};

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    pub(crate) message: MessageId,
    pub(crate) oldest: u32,
    pub(crate) stage: Stage,
    pub(crate) open: Vec<u32>,
    pub(crate) batches: Vec<BatchDetail>,
    pub(crate) owed: Vec<Owed>,
    pub(crate) history: History,
    pub(crate) record: Vec<u8>,
}

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// Before format 4, and in checkpoints of format 1.
    WithoutHistory,
    WithHistory,
    /// As above, and nobody asks for the history.
    WithHistoryUnread,
}

/// Whether the router has decided on a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Unrouted,
    Routed,
}

/// What is known of a batch.
#[derive(Clone, Debug)]
pub(crate) struct BatchDetail {
    pub(crate) routed: RoutedBatch,
    pub(crate) attempts: u32,
    pub(crate) due: Option<Timestamp>,
    pub(crate) held: bool,
    pub(crate) warned: bool,
    pub(crate) last: Option<Arc<Diagnostic>>,
}

impl Moved {
    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        out.u64(self.message.0);
        out.u32(self.oldest);
        out.u8((self.stage == Stage::Routed).into());
        out.indices(&self.open);
        out.var(self.batches.len() as u32);
        for batch in &self.batches {
            encode_key(out, &batch.routed.thread);
            out.indices(&batch.routed.recipients);
            out.u32(batch.attempts);
            out.u8(u8::from(batch.held) | u8::from(batch.warned) << 1);
            out.u8(batch.due.is_some().into());
            if let Some(due) = batch.due {
                out.u64(due.as_micros());
            }
            match &batch.last {
                Some(last) => encode_diagnostic(out, last),
                None => out.u8(0),
            }
        }
        out.var(self.owed.len() as u32);
        for owed in &self.owed {
            out.u8(disposition_octet(owed.disposition));
            out.u64(owed.at.as_micros());
            out.indices(&owed.recipients);
            encode_diagnostic(out, &owed.diagnostic);
        }
        self.history.encode(out, &self.batches);
        out.0.extend_from_slice(&self.record);
    }

    /// Whose record it is, without a look at the rest.
    pub(crate) fn message_of(body: &[u8]) -> Result<MessageId, Malformed> {
        Decoder(body).u64().map(MessageId)
    }

    /// What a record of this kind says, but for what became of the message so far.
    pub(crate) fn without_history(kind: Kind, body: &[u8]) -> Result<Self, Malformed> {
        let form = if kind == Kind::Moved { Form::WithoutHistory } else { Form::WithHistoryUnread };
        Self::decode(&mut Decoder(body), form)
    }

    pub(crate) fn decode(from: &mut Decoder<'_>, form: Form) -> Result<Self, Malformed> {
        let message = MessageId(from.u64()?);
        let oldest = from.u32()?;
        let stage = if from.u8()? == 0 { Stage::Unrouted } else { Stage::Routed };
        let open = from.indices()?;
        // Octets of a batch and of a report at the least.
        let batches = (0..from.count(10)?).map(|_| batch(from)).collect::<Result<Vec<_>, _>>()?;
        let owed = (0..from.count(19)?).map(|_| decode_owed(message, from)).collect::<Result<_, _>>()?;
        let history = match form {
            Form::WithoutHistory => History::default(),
            Form::WithHistory => History::decode(from, &batches)?,
            Form::WithHistoryUnread => History::skip(from)?,
        };
        Ok(Self { message, oldest, stage, open, batches, owed, history, record: std::mem::take(&mut from.0).to_vec() })
    }
}

fn batch(from: &mut Decoder<'_>) -> Result<BatchDetail, Malformed> {
    let routed = RoutedBatch { thread: decode_key(from)?, recipients: from.indices()? };
    let (attempts, bits) = (from.u32()?, from.u8()?);
    let (held, warned) = (bits & 1 != 0, bits & 2 != 0);
    let due = if from.u8()? == 0 { None } else { Some(Timestamp::from_micros(from.u64()?)) };
    let last = if from.0.first() == Some(&0) {
        from.u8()?;
        None
    } else {
        Some(decode_diagnostic(from, None)?)
    };
    Ok(BatchDetail { routed, attempts, due, held, warned, last })
}

fn decode_owed(message: MessageId, from: &mut Decoder<'_>) -> Result<Owed, Malformed> {
    let disposition = decode_disposition(from.u8()?)?;
    let at = Timestamp::from_micros(from.u64()?);
    let recipients = from.indices()?;
    Ok(Owed { message, recipients, disposition, diagnostic: decode_diagnostic(from, None)?, at, until: None })
}

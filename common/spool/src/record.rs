//! The small records: decisions, outcomes and what operators did. (Messages: [`crate::message`].)
//!
//! Bodies, in the notation of [`crate::codec`] (`var`: LEB128; `text`: length and octets; `indices`: count and
//! differences; the rest little-endian):
//!
//! | kind | body |
//! |---|---|
//! | Segments | highest id u64 · count var · (number u32 · end u32)* |
//! | Routed | message u64 · count var · (channel text · host text · recipients indices)* |
//! | Outcomes | count var · (message u64 · batch u32 · disposition u8 · attempts u32 · at u64 · due u64 · recipients indices · diagnostic)* |
//! | Batch | message u64 · batch u32 · held u8 · due u64 · attempts u32 |
//! | Thread | channel text · host text · failures u32 · due u64 · held u8 · 0, or 1 and a diagnostic |
//! | Settled | message u64 · recipients indices |
//! | Finished | count var · (message u64 · oldest segment with records of it u32)* |
//! | Moved, MovedWithHistory | see [`crate::moved`] |
//! | Rerouted | message u64 · batch u32 · channel text · host text |
//!
//! A diagnostic is 0 when it is the same as the one before it in the record, else 1 · code u16 · status u8 u16 u16 ·
//! text · peer text · command text. Dispositions: 0 delivered, 1 delivered with the DSN parameters passed on,
//! 2 deferred, 3 failed, 4 expired, 5 dropped, 6 delayed.

use std::sync::Arc;

use zrelay_clock::Timestamp;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::format::Kind;
use crate::moved::{Form, Moved};
use crate::{
    BatchId, BatchState, Diagnostic, Disposition, MessageId, Outcome, RoutedBatch, Status, ThreadKey, ThreadState,
    Timing,
};

/// A message is finished: its records in `oldest` and later segments are to be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub(crate) message: MessageId,
    pub(crate) oldest: u32,
}

/// An older segment that is still needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fence {
    pub(crate) segment: u32,
    /// Nothing from here on is believed.
    pub(crate) end: u32,
}

/// A record other than a piece or a message.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    Segments {
        highest: u64,
        older: Vec<Fence>,
    },
    Routed {
        message: MessageId,
        batches: Vec<RoutedBatch>,
    },
    Outcomes(Vec<Outcome>),
    Batch(BatchState),
    Thread(ThreadState),
    Settled {
        message: MessageId,
        recipients: Vec<u32>,
    },
    Finished(Vec<Mark>),
    Moved(Box<Moved>),
    /// The batch belongs to another thread from here on, as if it had never been tried.
    Rerouted {
        id: BatchId,
        thread: ThreadKey,
    },
}

impl Record {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Segments { .. } => Kind::Segments,
            Self::Routed { .. } => Kind::Routed,
            Self::Outcomes(_) => Kind::Outcomes,
            Self::Batch(_) => Kind::Batch,
            Self::Thread(_) => Kind::Thread,
            Self::Settled { .. } => Kind::Settled,
            Self::Finished(_) => Kind::Finished,
            Self::Moved(_) => Kind::MovedWithHistory,
            Self::Rerouted { .. } => Kind::Rerouted,
        }
    }

    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        let mut out = Encoder(body);
        match self {
            Self::Segments { highest, older } => {
                out.u64(*highest);
                out.var(older.len() as u32);
                for fence in older {
                    out.u32(fence.segment);
                    out.u32(fence.end);
                }
            }
            Self::Routed { message, batches } => {
                out.u64(message.0);
                out.var(batches.len() as u32);
                for batch in batches {
                    encode_key(&mut out, &batch.thread);
                    out.indices(&batch.recipients);
                }
            }
            Self::Outcomes(outcomes) => encode_outcomes(&mut out, outcomes),
            Self::Batch(state) => {
                out.u64(state.id.message.0);
                out.u32(state.id.number);
                out.u8(state.held.into());
                out.u64(state.due.as_micros());
                out.u32(state.attempts);
            }
            Self::Thread(state) => {
                encode_key(&mut out, &state.key);
                out.u32(state.failures);
                out.u64(state.due.as_micros());
                out.u8(state.held.into());
                out.u8(state.last.is_some().into());
                if let Some(last) = &state.last {
                    encode_diagnostic(&mut out, last);
                }
            }
            Self::Settled { message, recipients } => {
                out.u64(message.0);
                out.indices(recipients);
            }
            Self::Moved(moved) => moved.encode(&mut out),
            Self::Rerouted { id, thread } => {
                out.u64(id.message.0);
                out.u32(id.number);
                encode_key(&mut out, thread);
            }
            Self::Finished(marks) => {
                out.var(marks.len() as u32);
                for mark in marks {
                    out.u64(mark.message.0);
                    out.u32(mark.oldest);
                }
            }
        }
    }

    /// Reads a body. Pieces and messages are not read here and count as malformed.
    pub(crate) fn decode(kind: Kind, body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder(body);
        let record = match kind {
            Kind::Piece | Kind::Message => return Err(Malformed),
            Kind::Segments => {
                let highest = from.u64()?;
                let older = (0..from.count(8)?).map(|_| Ok(Fence { segment: from.u32()?, end: from.u32()? }));
                Self::Segments { highest, older: older.collect::<Result<_, _>>()? }
            }
            Kind::Routed => {
                let message = MessageId(from.u64()?);
                let count = from.count(3)?;
                let batch = |_| Ok(RoutedBatch { thread: decode_key(&mut from)?, recipients: from.indices()? });
                Self::Routed { message, batches: (0..count).map(batch).collect::<Result<_, _>>()? }
            }
            Kind::Outcomes => Self::Outcomes(decode_outcomes(&mut from)?),
            Kind::Batch => Self::Batch(BatchState {
                id: BatchId { message: MessageId(from.u64()?), number: from.u32()? },
                held: from.u8()? != 0,
                due: Timestamp::from_micros(from.u64()?),
                attempts: from.u32()?,
            }),
            Kind::Thread => Self::Thread(ThreadState {
                key: decode_key(&mut from)?,
                failures: from.u32()?,
                due: Timestamp::from_micros(from.u64()?),
                held: from.u8()? != 0,
                last: if from.u8()? == 0 { None } else { Some(decode_diagnostic(&mut from, None)?) },
            }),
            Kind::Settled => Self::Settled { message: MessageId(from.u64()?), recipients: from.indices()? },
            Kind::Rerouted => Self::Rerouted {
                id: BatchId { message: MessageId(from.u64()?), number: from.u32()? },
                thread: decode_key(&mut from)?,
            },
            Kind::Moved => Self::Moved(Box::new(Moved::decode(&mut from, Form::WithoutHistory)?)),
            Kind::MovedWithHistory => Self::Moved(Box::new(Moved::decode(&mut from, Form::WithHistory)?)),
            Kind::Finished => {
                let count = from.count(12)?;
                let mark = |_| Ok(Mark { message: MessageId(from.u64()?), oldest: from.u32()? });
                Self::Finished((0..count).map(mark).collect::<Result<_, _>>()?)
            }
        };
        Ok(record)
    }
}

pub(crate) fn encode_key(out: &mut Encoder<'_>, key: &ThreadKey) {
    out.text(&key.channel);
    out.text(&key.host);
}

pub(crate) fn decode_key(from: &mut Decoder<'_>) -> Result<ThreadKey, Malformed> {
    Ok(ThreadKey::new(from.text()?, from.text()?))
}

pub(crate) fn encode_diagnostic(out: &mut Encoder<'_>, diagnostic: &Diagnostic) {
    out.u8(1);
    out.u16(diagnostic.code);
    out.u8(diagnostic.status.0);
    out.u16(diagnostic.status.1);
    out.u16(diagnostic.status.2);
    out.text(&diagnostic.text);
    out.text(&diagnostic.peer);
    out.text(&diagnostic.command);
}

pub(crate) fn decode_diagnostic(
    from: &mut Decoder<'_>,
    last: Option<&Arc<Diagnostic>>,
) -> Result<Arc<Diagnostic>, Malformed> {
    if from.u8()? == 0 {
        return last.cloned().ok_or(Malformed);
    }
    Ok(Arc::new(Diagnostic {
        code: from.u16()?,
        status: Status(from.u8()?, from.u16()?, from.u16()?),
        text: from.text()?.to_owned(),
        peer: from.text()?.to_owned(),
        command: from.text()?.to_owned(),
    }))
}

pub(crate) fn disposition_octet(disposition: Disposition) -> u8 {
    match disposition {
        Disposition::Delivered { dsn_relayed } => dsn_relayed.into(),
        Disposition::Deferred => 2,
        Disposition::Failed => 3,
        Disposition::Expired => 4,
        Disposition::Dropped => 5,
        Disposition::Delayed => 6,
    }
}

pub(crate) fn decode_disposition(octet: u8) -> Result<Disposition, Malformed> {
    Ok(match octet {
        0 => Disposition::Delivered { dsn_relayed: false },
        1 => Disposition::Delivered { dsn_relayed: true },
        2 => Disposition::Deferred,
        3 => Disposition::Failed,
        4 => Disposition::Expired,
        5 => Disposition::Dropped,
        6 => Disposition::Delayed,
        _ => return Err(Malformed),
    })
}

fn encode_outcomes(out: &mut Encoder<'_>, outcomes: &[Outcome]) {
    out.var(outcomes.len() as u32);
    let mut last: Option<&Arc<Diagnostic>> = None;
    for outcome in outcomes {
        out.u64(outcome.batch.message.0);
        out.u32(outcome.batch.number);
        out.u8(disposition_octet(outcome.disposition));
        out.u32(outcome.attempts);
        out.u64(outcome.at.as_micros());
        out.u64(outcome.due.as_micros());
        out.indices(&outcome.recipients);
        match last {
            Some(last) if **last == *outcome.diagnostic => out.u8(0),
            _ => encode_diagnostic(out, &outcome.diagnostic),
        }
        last = Some(&outcome.diagnostic);
    }
}

fn decode_outcomes(from: &mut Decoder<'_>) -> Result<Vec<Outcome>, Malformed> {
    /// Octets of an outcome at the least.
    const OUTCOME_MIN: usize = 35;
    let count = from.count(OUTCOME_MIN)?;
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(count);
    for _ in 0..count {
        let batch = BatchId { message: MessageId(from.u64()?), number: from.u32()? };
        let disposition = decode_disposition(from.u8()?)?;
        let attempts = from.u32()?;
        let at = Timestamp::from_micros(from.u64()?);
        let due = Timestamp::from_micros(from.u64()?);
        let recipients = from.indices()?;
        let diagnostic = decode_diagnostic(from, outcomes.last().map(|outcome| &outcome.diagnostic))?;
        let timing = Timing::default();
        outcomes.push(Outcome { batch, recipients, disposition, diagnostic, at, attempts, due, timing, channel: None });
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Owed;
    use crate::history::History;
    use crate::moved::{BatchDetail, Stage};

    fn outcome(disposition: Disposition, text: &str) -> Outcome {
        Outcome {
            batch: BatchId { message: MessageId(77), number: 3 },
            recipients: vec![0, 1, 2, 900_000],
            disposition,
            diagnostic: Arc::new(Diagnostic {
                code: 450,
                status: Status(4, 2, 1),
                text: text.into(),
                peer: "mx.example.net[192.0.2.1]:25".into(),
                command: "RCPT TO".into(),
            }),
            at: Timestamp::from_micros(5),
            attempts: 2,
            due: Timestamp::NEVER,
            timing: Timing::default(),
            channel: None,
        }
    }

    fn moved() -> Moved {
        let diagnostic = Arc::new(Diagnostic::local(Status(5, 1, 1), "no such user"));
        let routed = |recipients| RoutedBatch { thread: ThreadKey::new("smtp", "a"), recipients };
        let due = Some(Timestamp::from_secs(8));
        let last = Some(diagnostic.clone());
        Moved {
            message: MessageId(77),
            oldest: 3,
            stage: Stage::Routed,
            open: vec![1, 2],
            batches: vec![
                BatchDetail { routed: routed(vec![1, 2]), attempts: 4, due, held: true, warned: true, last },
                BatchDetail { routed: routed(vec![]), attempts: 0, due: None, held: false, warned: false, last: None },
            ],
            owed: vec![Owed {
                message: MessageId(77),
                recipients: vec![0],
                disposition: Disposition::Failed,
                diagnostic,
                at: Timestamp::from_secs(9),
                until: None,
            }],
            history: History::default(),
            record: vec![1, 2, 3],
        }
    }

    fn samples() -> Vec<Record> {
        let key = ThreadKey::new("smtp", "example.net");
        let last = Some(Arc::new(Diagnostic::local(Status(4, 4, 1), "refused")));
        vec![
            Record::Segments { highest: 9, older: vec![Fence { segment: 1, end: 64 }, Fence { segment: 3, end: 900 }] },
            Record::Routed {
                message: MessageId(77),
                batches: vec![RoutedBatch { thread: key.clone(), recipients: vec![1, 2, 5] }],
            },
            Record::Outcomes(vec![
                outcome(Disposition::Deferred, "slow down"),
                outcome(Disposition::Delayed, "slow down"),
                outcome(Disposition::Expired, "slow down"),
                outcome(Disposition::Delivered { dsn_relayed: true }, "ok"),
            ]),
            Record::Batch(BatchState {
                id: BatchId { message: MessageId(1), number: 0 },
                held: true,
                due: Timestamp::from_secs(9),
                attempts: 4,
            }),
            Record::Thread(ThreadState { key, failures: 2, due: Timestamp::from_secs(1), held: true, last }),
            Record::Settled { message: MessageId(77), recipients: vec![5] },
            Record::Finished(vec![Mark { message: MessageId(3), oldest: 2 }]),
            Record::Moved(Box::new(moved())),
            Record::Rerouted {
                id: BatchId { message: MessageId(1), number: 2 },
                thread: ThreadKey::new("smtp", "[192.0.2.1]:26"),
            },
        ]
    }

    #[test]
    fn every_record_is_read_back_as_it_was_written() {
        for record in samples() {
            let mut body = Vec::new();
            record.encode(&mut body);
            let read = Record::decode(record.kind(), &body).unwrap();
            assert_eq!(format!("{read:?}"), format!("{record:?}"));
        }
    }

    #[test]
    fn a_record_cut_short_anywhere_is_malformed() {
        for record in samples() {
            let mut body = Vec::new();
            record.encode(&mut body);
            if let Record::Moved(moved) = &record {
                // The message's record at its end has a length of its own.
                body.truncate(body.len() - moved.record.len());
            }
            for length in 0..body.len() {
                assert!(Record::decode(record.kind(), &body[..length]).is_err(), "{record:?} at {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn noise_is_survived(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            for record in samples() {
                let _ = Record::decode(record.kind(), &octets);
            }
        }
    }
}

//! A message's record: its envelope, and where its content lies. Read in place, nothing is copied.
//!
//! | at | octets | what |
//! |---:|---:|---|
//! | 0 | 8 | id |
//! | 8 | 8 | received, microseconds since the Unix epoch |
//! | 16 | 8 | octets of the content |
//! | 24 | 8 | origin: the message that this one reports on |
//! | 32 | 4 | flags: 1 eight bit, 2 SMTPUTF8, 4 has an ENVID, 8 `RET=FULL`, 16 `RET=HDRS`, 32 has an origin, 64 has a handling |
//! | 36 | 4 | octets of the trace header |
//! | 40 | 4 | octets of the client's name |
//! | 44 | 4 | octets of the ENVID |
//! | 48 | 4 | E, extents of the content |
//! | 52 | 4 | O, recipients of the origin |
//! | 56 | 4 | S, senders |
//! | 60 | 4 | R, recipients |
//! | 64 | 12 E | extents: segment u32, offset u32, length u32 |
//! | | 4 O | recipients of the origin: index u32 |
//! | | 8 S | senders: offset u32, length u32 |
//! | | 16 R | recipients: offset u32, octets of the address u16, octets of the ORCPT behind it u16, sender u32, notify u8, has an ORCPT u8, zero u16 |
//! | | | trace header, client, ENVID, the handling if there is one, then the texts of senders and recipients |
//!
//! Offsets of texts count from the start of the body. Notify: 0 no parameter, 1 `NEVER`, else 128 plus 1 `SUCCESS`,
//! 2 `FAILURE`, 4 `DELAY`. Every table has entries of fixed size, so that recipient i costs the same whatever i is.
//!
//! The handling takes 16 octets: flow u32, u8 with 1 has a flow, 2 has a time to deliver by, 4 `R` (else `N`), 8 `T`,
//! priority i8, zero u16, the time to deliver by u64. Since texts are found by their offsets, a hub that does not know
//! of it reads the message without.

use zrelay_clock::Timestamp;

use crate::codec::{Encoder, Malformed};
use crate::format::{BODY_MAX, u32_at, u64_at};
use crate::handling;
use crate::{Content, Envelope, Handling, MessageId, Notify, Origin, Ret, StoredRecipient};

const FIXED: usize = 64;
const EXTENT: usize = 12;
const INDEX: usize = 4;
const SENDER: usize = 8;
const RECIPIENT: usize = 16;

const EIGHT_BIT: u32 = 1;
const SMTPUTF8: u32 = 2;
const ENVID: u32 = 4;
const RET_FULL: u32 = 8;
const RET_HEADERS: u32 = 16;
const ORIGIN: u32 = 32;
const HANDLING: u32 = 64;

/// A stretch of content in a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Extent {
    pub(crate) segment: u32,
    /// Of the first octet of content, behind the header of its piece.
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// An envelope is beyond what a record can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the envelope does not fit a record")]
pub(crate) struct TooLarge;

/// Writes the body of a message's record.
pub(crate) fn encode(
    id: MessageId,
    envelope: &Envelope,
    extents: &[Extent],
    out: &mut Vec<u8>,
) -> Result<(), TooLarge> {
    let origin = envelope.origin.as_ref();
    let origin_recipients = origin.map_or(&[][..], |origin| &origin.recipients);
    let envid = envelope.envid.as_deref().unwrap_or_default();
    let start = out.len();
    let mut out = Encoder(out);
    out.u64(id.0);
    out.u64(envelope.received.as_micros());
    out.u64(extents.iter().map(|extent| u64::from(extent.length)).sum());
    out.u64(origin.map_or(0, |origin| origin.message.0));
    out.u32(flags(envelope));
    let counts = [
        envelope.trace.len(),
        envelope.client.len(),
        envid.len(),
        extents.len(),
        origin_recipients.len(),
        envelope.senders.len(),
        envelope.recipients.len(),
    ];
    for count in counts {
        out.u32(u32::try_from(count).map_err(|_| TooLarge)?);
    }
    for extent in extents {
        out.u32(extent.segment);
        out.u32(extent.offset);
        out.u32(extent.length);
    }
    for index in origin_recipients {
        out.u32(*index);
    }
    // In u64, so that no sum can overflow; what exceeds a record is refused at the end, before anybody sees it.
    let tables = FIXED + extents.len() * EXTENT + origin_recipients.len() * INDEX;
    let tables = tables + envelope.senders.len() * SENDER + envelope.recipients.len() * RECIPIENT;
    let handled = envelope.handling != Handling::default();
    let handling_octets = if handled { handling::OCTETS } else { 0 };
    let before = envelope.trace.len() + envelope.client.len() + envid.len() + handling_octets;
    let mut text_at = (tables + before) as u64;
    for sender in &envelope.senders {
        out.u32(text_at as u32);
        out.u32(sender.len() as u32);
        text_at += sender.len() as u64;
    }
    for recipient in &envelope.recipients {
        let orcpt = recipient.orcpt.as_deref();
        out.u32(text_at as u32);
        out.u16(u16::try_from(recipient.address.len()).map_err(|_| TooLarge)?);
        out.u16(u16::try_from(orcpt.map_or(0, str::len)).map_err(|_| TooLarge)?);
        if recipient.sender as usize >= envelope.senders.len() {
            return Err(TooLarge);
        }
        out.u32(recipient.sender);
        out.u8(notify_octet(recipient.notify));
        out.u8(orcpt.is_some().into());
        out.u16(0);
        text_at += (recipient.address.len() + orcpt.map_or(0, str::len)) as u64;
    }
    if text_at > u64::from(BODY_MAX) {
        return Err(TooLarge);
    }
    let out = out.0;
    out.extend_from_slice(&envelope.trace);
    out.extend_from_slice(envelope.client.as_bytes());
    out.extend_from_slice(envid.as_bytes());
    if handled {
        envelope.handling.encode(&mut Encoder(out));
    }
    envelope.senders.iter().for_each(|sender| out.extend_from_slice(sender.as_bytes()));
    for recipient in &envelope.recipients {
        out.extend_from_slice(recipient.address.as_bytes());
        out.extend_from_slice(recipient.orcpt.as_deref().unwrap_or_default().as_bytes());
    }
    debug_assert_eq!((out.len() - start) as u64, text_at);
    Ok(())
}

/// Brings the extents in a message's record up to date.
pub(crate) fn replace_extents(body: &mut [u8], layout: &Layout, new: impl Fn(Extent) -> Extent) {
    for index in 0..layout.extents {
        let Some(extent) = layout.extent(body, index).map(&new) else { continue };
        let at = FIXED + index as usize * EXTENT;
        let Some(entry) = body.get_mut(at..at + EXTENT) else { continue };
        entry[..4].copy_from_slice(&extent.segment.to_le_bytes());
        entry[4..8].copy_from_slice(&extent.offset.to_le_bytes());
        entry[8..].copy_from_slice(&extent.length.to_le_bytes());
    }
}

fn flags(envelope: &Envelope) -> u32 {
    let when = |set: bool, flag: u32| if set { flag } else { 0 };
    when(envelope.content.eight_bit, EIGHT_BIT)
        | when(envelope.content.smtputf8, SMTPUTF8)
        | when(envelope.envid.is_some(), ENVID)
        | when(envelope.ret == Some(Ret::Full), RET_FULL)
        | when(envelope.ret == Some(Ret::Headers), RET_HEADERS)
        | when(envelope.origin.is_some(), ORIGIN)
        | when(envelope.handling != Handling::default(), HANDLING)
}

fn notify_octet(notify: Notify) -> u8 {
    match notify {
        Notify::Default => 0,
        Notify::Never => 1,
        Notify::On { success, failure, delay } => {
            0x80 | u8::from(success) | u8::from(failure) << 1 | u8::from(delay) << 2
        }
    }
}

fn notify_from(octet: u8) -> Notify {
    match octet {
        0 => Notify::Default,
        1 => Notify::Never,
        bits => Notify::On { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 },
    }
}

/// What stands where in a message's record: read once, used for every access to the same octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub(crate) id: MessageId,
    pub(crate) received: Timestamp,
    pub(crate) content_octets: u64,
    pub(crate) extents: u32,
    pub(crate) senders: u32,
    pub(crate) recipients: u32,
    pub(crate) trace_octets: u32,
    origin_message: MessageId,
    origin_recipients: u32,
    flags: u32,
    client_octets: u32,
    envid_octets: u32,
    senders_at: usize,
    recipients_at: usize,
    trace_at: usize,
}

impl Layout {
    /// Reads the fixed part and checks that all tables fit; takes the same time however many recipients there are.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let word = |at| u32_at(body, at).ok_or(Malformed);
        let long = |at| u64_at(body, at).ok_or(Malformed);
        let (extents, origin_recipients, senders, recipients) = (word(48)?, word(52)?, word(56)?, word(60)?);
        let (trace_octets, client_octets, envid_octets) = (word(36)?, word(40)?, word(44)?);
        // Each count is below 2^32, so that sums in 64 bits cannot overflow.
        let senders_at = FIXED + extents as usize * EXTENT + origin_recipients as usize * INDEX;
        let recipients_at = senders_at + senders as usize * SENDER;
        let trace_at = recipients_at + recipients as usize * RECIPIENT;
        let handling_octets = if word(32)? & HANDLING != 0 { handling::OCTETS } else { 0 };
        let texts_at = trace_at + trace_octets as usize + client_octets as usize + envid_octets as usize;
        if texts_at + handling_octets > body.len() {
            return Err(Malformed);
        }
        Ok(Self {
            id: MessageId(long(0)?),
            received: Timestamp::from_micros(long(8)?),
            content_octets: long(16)?,
            origin_message: MessageId(long(24)?),
            flags: word(32)?,
            extents,
            senders,
            recipients,
            trace_octets,
            origin_recipients,
            client_octets,
            envid_octets,
            senders_at,
            recipients_at,
            trace_at,
        })
    }

    /// Checks every entry, so that later accesses cannot miss.
    pub(crate) fn validate(&self, body: &[u8]) -> Result<(), Malformed> {
        let extents = (0..self.extents).map(|index| self.extent(body, index).map(|extent| u64::from(extent.length)));
        let octets = extents.sum::<Option<u64>>().ok_or(Malformed)?;
        let texts = self.client(body).is_some() && (!self.has(ENVID) || self.envid(body).is_some());
        let senders = (0..self.senders).all(|index| self.sender(body, index).is_some());
        let recipient = |index| self.recipient(body, index).is_some_and(|recipient| recipient.sender < self.senders);
        let sound = octets == self.content_octets && texts && senders && (0..self.recipients).all(recipient);
        if sound { Ok(()) } else { Err(Malformed) }
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn size(&self) -> u64 {
        self.content_octets.saturating_add(self.trace_octets.into())
    }

    pub(crate) fn content(&self) -> Content {
        Content { eight_bit: self.has(EIGHT_BIT), smtputf8: self.has(SMTPUTF8) }
    }

    pub(crate) fn ret(&self) -> Option<Ret> {
        let headers = self.has(RET_HEADERS).then_some(Ret::Headers);
        if self.has(RET_FULL) { Some(Ret::Full) } else { headers }
    }

    pub(crate) fn extent(&self, body: &[u8], index: u32) -> Option<Extent> {
        if index >= self.extents {
            return None;
        }
        let at = FIXED + index as usize * EXTENT;
        Some(Extent { segment: u32_at(body, at)?, offset: u32_at(body, at + 4)?, length: u32_at(body, at + 8)? })
    }

    pub(crate) fn origin(&self, body: &[u8]) -> Option<Origin> {
        if !self.has(ORIGIN) {
            return None;
        }
        let at = FIXED + self.extents as usize * EXTENT;
        let recipients = (0..self.origin_recipients as usize).filter_map(|index| u32_at(body, at + index * INDEX));
        Some(Origin { message: self.origin_message, recipients: recipients.collect() })
    }

    pub(crate) fn trace<'a>(&self, body: &'a [u8]) -> Option<&'a [u8]> {
        octets(body, self.trace_at, self.trace_octets)
    }

    pub(crate) fn client<'a>(&self, body: &'a [u8]) -> Option<&'a str> {
        text(body, self.trace_at + self.trace_octets as usize, self.client_octets)
    }

    pub(crate) fn envid<'a>(&self, body: &'a [u8]) -> Option<&'a str> {
        if !self.has(ENVID) {
            return None;
        }
        text(body, self.trace_at + self.trace_octets as usize + self.client_octets as usize, self.envid_octets)
    }

    pub(crate) fn handling(&self, body: &[u8]) -> Handling {
        if !self.has(HANDLING) {
            return Handling::default();
        }
        let at = self.trace_at + self.trace_octets as usize + self.client_octets as usize + self.envid_octets as usize;
        octets(body, at, handling::OCTETS as u32).and_then(|octets| Handling::decode(octets).ok()).unwrap_or_default()
    }

    pub(crate) fn sender<'a>(&self, body: &'a [u8], index: u32) -> Option<&'a str> {
        if index >= self.senders {
            return None;
        }
        let at = self.senders_at + index as usize * SENDER;
        text(body, u32_at(body, at)? as usize, u32_at(body, at + 4)?)
    }

    pub(crate) fn recipient<'a>(&self, body: &'a [u8], index: u32) -> Option<StoredRecipient<'a>> {
        if index >= self.recipients {
            return None;
        }
        let at = self.recipients_at + index as usize * RECIPIENT;
        let entry = body.get(at..at + RECIPIENT)?;
        let start = u32_at(entry, 0)? as usize;
        let address_octets = u16::from_le_bytes([entry[4], entry[5]]);
        let orcpt_octets = u16::from_le_bytes([entry[6], entry[7]]);
        let address = text(body, start, address_octets.into())?;
        let orcpt = text(body, start + usize::from(address_octets), orcpt_octets.into())?;
        let orcpt = (entry[13] != 0).then_some(orcpt);
        Some(StoredRecipient { address, sender: u32_at(entry, 8)?, orcpt, notify: notify_from(entry[12]) })
    }
}

fn octets(body: &[u8], at: usize, length: u32) -> Option<&[u8]> {
    body.get(at..at.checked_add(length as usize)?)
}

fn text(body: &[u8], at: usize, length: u32) -> Option<&str> {
    std::str::from_utf8(octets(body, at, length)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ByMode, DeliverBy, Flow, Recipient};

    fn notify() -> impl Strategy<Value = Notify> {
        let on =
            any::<(bool, bool, bool)>().prop_map(|(success, failure, delay)| Notify::On { success, failure, delay });
        prop_oneof![Just(Notify::Default), Just(Notify::Never), on]
    }

    fn handling() -> impl Strategy<Value = Handling> {
        let by = any::<(u64, bool, bool)>().prop_map(|(deadline, returns, trace)| DeliverBy {
            deadline: Timestamp::from_micros(deadline),
            mode: if returns { ByMode::Return } else { ByMode::Notify },
            trace,
        });
        (any::<Option<u32>>(), -9i8..=9, proptest::option::of(by)).prop_map(|(flow, priority, deliver_by)| Handling {
            flow: flow.map(Flow),
            priority,
            deliver_by,
        })
    }

    prop_compose! {
        fn envelopes()(
            trace: Vec<u8>, client: String, bits: (bool, bool), envid: Option<String>, received: u32, ret in 0..3,
            senders in proptest::collection::vec("[a-zé]{0,9}", 1..4),
            recipients in proptest::collection::vec(("[a-zé]{1,9}", 0usize..4, any::<Option<String>>(), notify()), 0..9),
            origin: Option<(u64, Vec<u32>)>, handling in prop_oneof![Just(Handling::default()), handling()],
        ) -> Envelope {
            let count = senders.len();
            let recipient = |(address, sender, orcpt, notify): (String, usize, Option<String>, Notify)| {
                Recipient { address, sender: (sender % count) as u32, orcpt, notify }
            };
            Envelope {
                received: Timestamp::from_micros(received.into()),
                trace,
                client,
                content: Content { eight_bit: bits.0, smtputf8: bits.1 },
                envid,
                ret: [None, Some(Ret::Full), Some(Ret::Headers)][ret as usize],
                handling,
                senders,
                recipients: recipients.into_iter().map(recipient).collect(),
                origin: origin.map(|(message, recipients)| Origin { message: MessageId(message), recipients }),
            }
        }
    }

    proptest! {
        #[test]
        fn an_envelope_is_read_back_as_it_was_written(envelope in envelopes(), lengths: Vec<u16>) {
            let extent = |length: u16| Extent { segment: 3, offset: 84, length: length.into() };
            let extents: Vec<Extent> = lengths.into_iter().map(extent).collect();
            let mut body = Vec::new();
            encode(MessageId(9), &envelope, &extents, &mut body).unwrap();

            let layout = Layout::parse(&body).unwrap();

            prop_assert_eq!(layout.validate(&body), Ok(()));
            prop_assert_eq!(layout.trace(&body).unwrap(), &envelope.trace);
            prop_assert_eq!(layout.client(&body).unwrap(), &envelope.client);
            prop_assert_eq!(layout.envid(&body), envelope.envid.as_deref());
            prop_assert_eq!(layout.ret(), envelope.ret);
            prop_assert_eq!(layout.handling(&body), envelope.handling);
            prop_assert_eq!(layout.content(), envelope.content);
            prop_assert_eq!(layout.received, envelope.received);
            prop_assert_eq!(layout.origin(&body), envelope.origin.clone());
            let read: Vec<Extent> = (0..layout.extents).map(|index| layout.extent(&body, index).unwrap()).collect();
            prop_assert_eq!(read, extents);
            for (index, sender) in envelope.senders.iter().enumerate() {
                prop_assert_eq!(layout.sender(&body, index as u32).unwrap(), sender);
            }
            for (index, recipient) in envelope.recipients.iter().enumerate() {
                let read = layout.recipient(&body, index as u32).unwrap();
                prop_assert_eq!(read.address, &recipient.address);
                prop_assert_eq!(read.orcpt, recipient.orcpt.as_deref());
                prop_assert_eq!((read.sender, read.notify), (recipient.sender, recipient.notify));
            }
            prop_assert_eq!(layout.recipient(&body, envelope.recipients.len() as u32), None);
        }

        #[test]
        fn noise_is_survived(envelope in envelopes(), at: usize, octet: u8, cut: usize) {
            let mut body = Vec::new();
            encode(MessageId(9), &envelope, &[], &mut body).unwrap();
            let at = at % body.len();
            body[at] ^= octet;
            body.truncate(cut % (2 * body.len()));
            if let Ok(layout) = Layout::parse(&body) {
                let _ = layout.validate(&body);
                let _ = (layout.recipient(&body, 0), layout.sender(&body, 0), layout.origin(&body));
            }
        }
    }

    #[test]
    fn a_recipient_of_a_sender_that_is_not_there_is_refused() {
        let recipient = Recipient { address: "a@b".into(), sender: 1, orcpt: None, notify: Notify::Default };
        let envelope = Envelope {
            received: Timestamp::ZERO,
            trace: Vec::new(),
            client: String::new(),
            content: Content::default(),
            envid: None,
            ret: None,
            handling: Handling::default(),
            senders: vec![String::new()],
            recipients: vec![recipient],
            origin: None,
        };
        assert_eq!(encode(MessageId(9), &envelope, &[], &mut Vec::new()), Err(TooLarge));
    }
}

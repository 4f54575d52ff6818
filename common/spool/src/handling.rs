//! How a message wants to be handled on its way: whose turn it takes, how urgent it is, until when it is of use.
//!
//! Stored with the message where anything was asked; a message without is stored as ever, and is not a bit longer.

use zrelay_clock::Timestamp;

use crate::Flow;
use crate::codec::{Decoder, Encoder, Malformed};

/// Octets of a stored handling.
pub(crate) const OCTETS: usize = 16;

const HAS_FLOW: u8 = 1;
const HAS_DELIVER_BY: u8 = 2;
const RETURN: u8 = 4;
const TRACE: u8 = 8;

/// What was asked for a message beside its envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handling {
    /// Whose mail it is; `None`: the sender's domain tells.
    pub flow: Option<Flow>,
    /// RFC 6710 `MT-PRIORITY`: -9 to 9, the highest the most urgent.
    pub priority: i8,
    /// RFC 2852 `BY`.
    pub deliver_by: Option<DeliverBy>,
}

/// RFC 2852: until when a message is to be delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliverBy {
    /// The time.
    pub deadline: Timestamp,
    /// What happens when it is over.
    pub mode: ByMode,
    /// `T`: relays report that they passed it on. Passed on by this hub, not acted upon.
    pub trace: bool,
}

/// RFC 2852 §4: what becomes of a message whose time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByMode {
    /// `R`: it is returned to its sender, and is passed on only to hosts that keep the promise.
    Return,
    /// `N`: its sender is told of the delay, and it is delivered all the same.
    Notify,
}

impl Handling {
    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        let when = |set: bool, bit: u8| if set { bit } else { 0 };
        let by = self.deliver_by;
        out.u32(self.flow.unwrap_or_default().0);
        out.u8(when(self.flow.is_some(), HAS_FLOW)
            | when(by.is_some(), HAS_DELIVER_BY)
            | when(by.is_some_and(|by| by.mode == ByMode::Return), RETURN)
            | when(by.is_some_and(|by| by.trace), TRACE));
        out.u8(self.priority.cast_unsigned());
        out.u16(0);
        out.u64(by.map_or(0, |by| by.deadline.as_micros()));
    }

    pub(crate) fn decode(octets: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder(octets);
        let (flow, bits, priority) = (from.u32()?, from.u8()?, from.u8()?.cast_signed());
        from.u16()?;
        let deadline = Timestamp::from_micros(from.u64()?);
        let mode = if bits & RETURN != 0 { ByMode::Return } else { ByMode::Notify };
        Ok(Self {
            flow: (bits & HAS_FLOW != 0).then_some(Flow(flow)),
            priority,
            deliver_by: (bits & HAS_DELIVER_BY != 0).then_some(DeliverBy { deadline, mode, trace: bits & TRACE != 0 }),
        })
    }
}

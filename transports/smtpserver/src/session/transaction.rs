//! The envelope of a message while it comes in.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};

use zrelay_clock::Timestamp;
use zrelay_spool::{ByMode, DeliverBy, Notify, Recipient, Ret};
use zrelay_wire::{ForwardPath, MailParameters, RcptParameters, ReversePath, Utf8, Verp};

use super::verp::verp_sender;
use crate::shared::{OutOfMemory, Reservation};

/// Memory that a transaction is held to cost from MAIL on, octets: session state, content buffer and envelope of a
/// small message.
pub(super) const TRANSACTION_BYTES: u64 = 4 * 1024;
/// Memory of a recipient beside its text, octets: the record, its place in a growing vector, the allocator's share.
const RECIPIENT_BYTES: u64 = 160;
/// The same of a sender of its own: the string and its place in the table.
const SENDER_BYTES: u64 = 96;

/// The envelope of a message while it comes in.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) from: ReversePath,
    pub(super) eight_bit: bool,
    pub(super) utf8: Utf8,
    pub(super) envid: Option<String>,
    pub(super) ret: Option<Ret>,
    /// As MAIL said; `None`: it said nothing.
    pub(super) priority: Option<i8>,
    pub(super) deliver_by: Option<DeliverBy>,
    pub(super) recipients: Vec<Recipient>,
    pub(super) senders: Senders,
    /// What the transaction holds of the memory's budget.
    pub(super) memory: Reservation,
    /// The part of it that is content.
    content_bytes: u64,
}

/// The table of envelope senders.
#[derive(Debug)]
pub(super) enum Senders {
    /// One for all.
    One,
    /// One for each recipient.
    Verp { delimiters: Verp, table: Vec<String>, known: HashMap<u64, u32> },
}

impl Transaction {
    pub(super) fn new(from: ReversePath, parameters: MailParameters, memory: Reservation, now: Timestamp) -> Self {
        let senders = match parameters.xverp {
            Some(delimiters) => Senders::Verp { delimiters, table: Vec::new(), known: HashMap::new() },
            None => Senders::One,
        };
        let ret = parameters.ret.map(|ret| match ret {
            zrelay_wire::Ret::Full => Ret::Full,
            zrelay_wire::Ret::Headers => Ret::Headers,
        });
        Self {
            from,
            eight_bit: parameters.body == Some(zrelay_wire::Body::EightBitMime),
            utf8: if parameters.smtputf8 { Utf8::Allowed } else { Utf8::Refused },
            envid: parameters.envid,
            ret,
            priority: parameters.mt_priority,
            deliver_by: parameters.by.map(|by| deliver_by(now, by)),
            recipients: Vec::new(),
            senders,
            memory,
            content_bytes: 0,
        }
    }

    /// Adds a recipient.
    ///
    /// # Errors
    /// When the budget of memory has no room for it; nothing is changed then.
    pub(super) fn add(&mut self, to: &ForwardPath, parameters: RcptParameters) -> Result<(), OutOfMemory> {
        let address = to.as_str().to_owned();
        let sender = self.verp_sender(to);
        let texts = address.len() + parameters.orcpt.as_ref().map_or(0, String::len);
        let own = sender.as_ref().map_or(0, |sender| sender.len() as u64 + SENDER_BYTES);
        self.memory.grow(texts as u64 + RECIPIENT_BYTES + own)?;
        let sender = sender.map_or(0, |sender| self.senders.number(sender));
        let notify = match parameters.notify {
            None => Notify::Default,
            Some(zrelay_wire::Notify::Never) => Notify::Never,
            Some(zrelay_wire::Notify::On { success, failure, delay }) => Notify::On { success, failure, delay },
        };
        self.recipients.push(Recipient { address, sender, orcpt: parameters.orcpt, notify });
        Ok(())
    }

    fn verp_sender(&self, to: &ForwardPath) -> Option<String> {
        let Senders::Verp { delimiters, .. } = &self.senders else {
            return None;
        };
        self.from.address().map(|from| verp_sender(from, to, *delimiters))
    }

    /// Accounts for `held` octets of content.
    ///
    /// # Errors
    /// When the budget has no room: the content should leave for the spool.
    pub(super) fn hold(&mut self, held: usize) -> Result<(), OutOfMemory> {
        let held = held as u64;
        if held <= self.content_bytes {
            let kept = self.memory.bytes().saturating_sub(self.content_bytes - held);
            self.memory.set(kept);
            self.content_bytes = held;
            return Ok(());
        }
        self.memory.grow(held - self.content_bytes)?;
        self.content_bytes = held;
        Ok(())
    }

    /// The table of senders for the envelope.
    pub(super) fn into_senders(senders: Senders, from: &ReversePath) -> Vec<String> {
        match senders {
            Senders::One => vec![from.as_str().to_owned()],
            Senders::Verp { table, .. } => table,
        }
    }
}

/// The time that is meant by seconds from now.
fn deliver_by(now: Timestamp, by: zrelay_wire::DeliverBy) -> DeliverBy {
    let micros = i64::from(by.seconds).saturating_mul(1_000_000);
    DeliverBy {
        deadline: Timestamp::from_micros(now.as_micros().saturating_add_signed(micros)),
        mode: match by.mode {
            zrelay_wire::ByMode::Return => ByMode::Return,
            zrelay_wire::ByMode::Notify => ByMode::Notify,
        },
        trace: by.trace,
    }
}

impl Senders {
    /// The place of `sender` in the table. Equal senders share one, hash collisions apart, which cost only space.
    fn number(&mut self, sender: String) -> u32 {
        let Self::Verp { table, known, .. } = self else {
            return 0;
        };
        let mut hasher = DefaultHasher::new();
        sender.hash(&mut hasher);
        let next = u32::try_from(table.len()).unwrap_or(u32::MAX);
        let place = match known.entry(hasher.finish()) {
            Entry::Occupied(entry) if table.get(*entry.get() as usize) == Some(&sender) => return *entry.get(),
            Entry::Occupied(_) => next,
            Entry::Vacant(entry) => *entry.insert(next),
        };
        table.push(sender);
        place
    }
}

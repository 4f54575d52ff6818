//! What the engine needs to know of a message.

use zrelay_spool::{Content, Handling, Notify, Ret};

/// A message as the engine sends it: envelope and octets. The spool's stored messages are letters; tests use plain
/// vectors. Reading must be cheap and must not fail: a letter is opened before it is carried.
pub trait Letter {
    /// Octets on the wire: trace header and content.
    fn size(&self) -> u64;

    /// The octets from `from` on, in order; the concatenation of all slices from 0 has [`Letter::size`] octets, and the
    /// same slices come every time.
    fn slices(&self, from: u64) -> impl Iterator<Item = &[u8]>;

    /// What the content holds.
    fn content(&self) -> Content;

    /// RFC 3461 `ENVID`, in xtext.
    fn envid(&self) -> Option<&str>;

    /// RFC 3461 `RET`.
    fn ret(&self) -> Option<Ret>;

    /// What else was asked for it.
    fn handling(&self) -> Handling;

    /// The recipient of this index; `None` if there is none.
    fn recipient(&self, index: u32) -> Option<Addressee<'_>>;
}

/// One recipient of a [`Letter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addressee<'a> {
    /// The forward path without brackets.
    pub address: &'a str,
    /// Its reverse path without brackets; the null sender is empty.
    pub sender: &'a str,
    /// Names the sender: recipients with equal numbers have equal senders.
    pub sender_number: u32,
    /// RFC 3461 `ORCPT`, `type;xtext`.
    pub orcpt: Option<&'a str>,
    /// RFC 3461 `NOTIFY`.
    pub notify: Notify,
}

/// Whether any octet of the letter is above 127.
pub(crate) fn has_eight_bit_octets(letter: &impl Letter) -> bool {
    !letter.slices(0).all(<[u8]>::is_ascii)
}

/// Whether any octet of the header is above 127 (RFC 6532): such a message needs `SMTPUTF8` whatever its addresses.
pub(crate) fn has_eight_bit_header(letter: &impl Letter) -> bool {
    let mut matched = 0;
    for slice in letter.slices(0) {
        for &octet in slice {
            if !octet.is_ascii() {
                return true;
            }
            // The header ends at the first empty line: CR LF CR LF.
            matched = match (matched, octet) {
                (0 | 2, b'\r') => matched + 1,
                (1 | 3, b'\n') => matched + 1,
                (_, b'\r') => 1,
                _ => 0,
            };
            if matched == 4 {
                return false;
            }
        }
    }
    false
}

impl Letter for zrelay_spool::Stored {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn slices(&self, from: u64) -> impl Iterator<Item = &[u8]> {
        Self::slices(self, from)
    }

    fn content(&self) -> Content {
        Self::content(self)
    }

    fn envid(&self) -> Option<&str> {
        Self::envid(self)
    }

    fn ret(&self) -> Option<Ret> {
        Self::ret(self)
    }

    fn handling(&self) -> Handling {
        Self::handling(self)
    }

    fn recipient(&self, index: u32) -> Option<Addressee<'_>> {
        if index >= self.recipients() {
            return None;
        }
        let recipient = Self::recipient(self, index);
        Some(Addressee {
            address: recipient.address,
            sender: self.sender(recipient.sender),
            sender_number: recipient.sender,
            orcpt: recipient.orcpt,
            notify: recipient.notify,
        })
    }
}

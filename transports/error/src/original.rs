//! What the notary reads of the messages it reports on. A trait, so that tests need no disk.

use zrelay_clock::Timestamp;
use zrelay_spool::{Content, MessageId, ReadError, Reader, Ret, Stored, StoredRecipient};

/// A message reported on.
pub trait Original {
    /// When it came in.
    fn received(&self) -> Timestamp;
    /// What its content holds.
    fn content(&self) -> Content;
    /// RFC 3461 `ENVID` in xtext.
    fn envid(&self) -> Option<&str>;
    /// RFC 3461 `RET`.
    fn ret(&self) -> Option<Ret>;
    /// Sender number `index`; the null sender is empty.
    fn sender(&self, index: u32) -> &str;
    /// Recipient number `index`.
    fn recipient(&self, index: u32) -> StoredRecipient<'_>;
    /// Octets of trace header and content.
    fn size(&self) -> u64;
    /// Trace header and content in slices.
    fn slices(&self) -> impl Iterator<Item = &[u8]>;
}

/// Where messages are found.
pub trait Archive {
    /// What is found.
    type Found: Original;

    /// The message `id`.
    ///
    /// # Errors
    /// [`ReadError`].
    fn find(&self, id: MessageId) -> Result<Self::Found, ReadError>;
}

impl Archive for Reader {
    type Found = Stored;

    fn find(&self, id: MessageId) -> Result<Stored, ReadError> {
        match self.intact(id) {
            // Its sender is told all the same, and not shown what the disk has made of it.
            Err(ReadError::Content(_)) => self.message(id).map(Stored::without_content),
            found => found,
        }
    }
}

impl Original for Stored {
    fn received(&self) -> Timestamp {
        self.received()
    }

    fn content(&self) -> Content {
        self.content()
    }

    fn envid(&self) -> Option<&str> {
        self.envid()
    }

    fn ret(&self) -> Option<Ret> {
        self.ret()
    }

    fn sender(&self, index: u32) -> &str {
        self.sender(index)
    }

    fn recipient(&self, index: u32) -> StoredRecipient<'_> {
        self.recipient(index)
    }

    fn size(&self) -> u64 {
        self.size()
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.slices(0)
    }
}

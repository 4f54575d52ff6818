//! Reading messages out of the mapped segments.

use std::fmt;
use std::sync::Arc;

use zrelay_clock::Timestamp;

use crate::message::{Extent, Layout};
use crate::recovery::is_intact;
use crate::shared::{Place, Shared};
use crate::storage::View;
use crate::{Content, Handling, MessageId, Notify, Origin, Ret};

/// Finds messages; clone it freely. A look-up takes two short read locks and copies nothing of the message.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// Why a message cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// It has left the queue, or was never in it.
    #[error("no message {0} is in the queue")]
    Unknown(MessageId),
    /// The segment that holds its record is gone.
    #[error("message {message}: segment {segment} of the spool is missing")]
    Missing {
        /// The message.
        message: MessageId,
        /// The segment's number.
        segment: u32,
    },
    /// Its record does not make sense.
    #[error("message {0}: its record in the spool is damaged")]
    Damaged(MessageId),
    /// Its content is not what was written.
    #[error("message {0}: its content in the spool is damaged")]
    Content(MessageId),
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The message `id`. Damage may have taken some of its content: see [`intact`](Self::intact).
    ///
    /// # Errors
    /// [`ReadError`], but for [`ReadError::Content`].
    pub fn message(&self, id: MessageId) -> Result<Stored, ReadError> {
        let mut place = self.shared.place(id).ok_or(ReadError::Unknown(id))?;
        loop {
            let (found, whole) = match self.read(id, place) {
                Ok((stored, whole)) => (Ok(stored), whole),
                Err(error) => (Err(error), false),
            };
            // It may have left the queue or moved, and its segment the disk, between one look-up and the next.
            match self.shared.place(id) {
                Some(now) if now != place && !whole => place = now,
                None if !whole => return Err(ReadError::Unknown(id)),
                _ => return found,
            }
        }
    }

    /// The message `id`, every octet of which is as it was written: checked here, so that it costs a look at all of them.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn intact(&self, id: MessageId) -> Result<Stored, ReadError> {
        let stored = self.message(id)?;
        // Views reach to the ends of their segments at least.
        let is_sound = |extent: Extent| {
            let view = stored.maps.iter().find(|(segment, _)| *segment == extent.segment);
            view.is_some_and(|(_, view)| is_intact(extent, &**view, view.len()))
        };
        let sound = stored.extents().all(is_sound);
        if sound { Ok(stored) } else { Err(ReadError::Content(id)) }
    }

    /// The message with its record at `place`, and whether there is something at all places of its content.
    fn read(&self, id: MessageId, place: Place) -> Result<(Stored, bool), ReadError> {
        let missing = || ReadError::Missing { message: id, segment: place.segment };
        let record = self.shared.view(place.segment).ok_or_else(missing)?;
        let damaged = || ReadError::Damaged(id);
        let bytes = record.get(place.offset, place.length).ok_or_else(damaged)?;
        let layout = Layout::parse(bytes).map_err(|_| damaged())?;
        if layout.id != id {
            return Err(damaged());
        }
        let mut maps: Vec<(u32, Arc<dyn View>)> = Vec::with_capacity(1);
        let mut whole = true;
        for index in 0..layout.extents {
            let extent = layout.extent(bytes, index).ok_or_else(damaged)?;
            // Extents of one message mostly rise, so that a new segment is behind the last one. Where they do not, as
            // when a part of it was moved, it may be in here twice.
            if maps.last().is_none_or(|(segment, _)| *segment != extent.segment) {
                maps.extend(self.shared.view(extent.segment).map(|view| (extent.segment, view)));
            }
            let map = maps.last().filter(|(segment, _)| *segment == extent.segment);
            whole &= map.is_some_and(|(_, map)| map.get(extent.offset, extent.length).is_some());
        }
        Ok((Stored { layout, place, record, maps: maps.into() }, whole))
    }
}

/// A stored message, readable in place. It keeps the segments that it lies in mapped, so it stays valid even when the
/// message leaves the queue meanwhile. A clone costs two reference counts, and no access allocates but
/// [`origin`](Self::origin).
#[derive(Clone)]
pub struct Stored {
    layout: Layout,
    place: Place,
    record: Arc<dyn View>,
    maps: Arc<[(u32, Arc<dyn View>)]>,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("layout", &self.layout).field("place", &self.place).finish_non_exhaustive()
    }
}

/// A recipient, as stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredRecipient<'a> {
    /// The forward path without brackets.
    pub address: &'a str,
    /// Index of its sender, for [`Stored::sender`].
    pub sender: u32,
    /// RFC 3461 `ORCPT`, `type;xtext` as it came.
    pub orcpt: Option<&'a str>,
    /// RFC 3461 `NOTIFY`.
    pub notify: Notify,
}

// Every text was checked when it was written and again when it was recovered, so the defaults below stand for a fault
// of the machine only.
impl Stored {
    fn bytes(&self) -> &[u8] {
        self.record.get(self.place.offset, self.place.length).unwrap_or_default()
    }

    fn stretch(&self, extent: Extent) -> Option<&[u8]> {
        let (_, map) = self.maps.iter().find(|(segment, _)| *segment == extent.segment)?;
        map.get(extent.offset, extent.length)
    }

    /// The octets of its record.
    pub(crate) fn record(&self) -> &[u8] {
        self.bytes()
    }

    pub(crate) fn extents(&self) -> impl Iterator<Item = Extent> {
        (0..self.layout.extents).filter_map(|index| self.layout.extent(self.bytes(), index))
    }

    /// The message without its content, as one that is [damaged](ReadError::Content): envelope and trace header.
    #[must_use]
    pub fn without_content(mut self) -> Self {
        self.layout.extents = 0;
        self.layout.content_octets = 0;
        self
    }

    /// Its queue id.
    pub fn id(&self) -> MessageId {
        self.layout.id
    }

    /// When it came in.
    pub fn received(&self) -> Timestamp {
        self.layout.received
    }

    /// Header lines that this hub adds in front of the content.
    pub fn trace(&self) -> &[u8] {
        self.layout.trace(self.bytes()).unwrap_or_default()
    }

    /// The client for the logs: `name[address]`.
    pub fn client(&self) -> &str {
        self.layout.client(self.bytes()).unwrap_or_default()
    }

    /// What the content holds.
    pub fn content(&self) -> Content {
        self.layout.content()
    }

    /// RFC 3461 `ENVID`, in xtext as it came.
    pub fn envid(&self) -> Option<&str> {
        self.layout.envid(self.bytes())
    }

    /// RFC 3461 `RET`.
    pub fn ret(&self) -> Option<Ret> {
        self.layout.ret()
    }

    /// What else was asked for it.
    pub fn handling(&self) -> Handling {
        self.layout.handling(self.bytes())
    }

    /// Set when this message is a delivery status notification of ours.
    pub fn origin(&self) -> Option<Origin> {
        self.layout.origin(self.bytes())
    }

    /// How many senders there are.
    pub fn senders(&self) -> u32 {
        self.layout.senders
    }

    /// The reverse path number `index`, without brackets; empty for the null sender, and when there is no such one.
    pub fn sender(&self, index: u32) -> &str {
        self.layout.sender(self.bytes(), index).unwrap_or_default()
    }

    /// How many recipients there are.
    pub fn recipients(&self) -> u32 {
        self.layout.recipients
    }

    /// Recipient number `index`. When there is no such one, its address is empty.
    pub fn recipient(&self, index: u32) -> StoredRecipient<'_> {
        const NOBODY: StoredRecipient<'_> =
            StoredRecipient { address: "", sender: 0, orcpt: None, notify: Notify::Default };
        self.layout.recipient(self.bytes(), index).unwrap_or(NOBODY)
    }

    /// Octets of the content, without the trace header.
    pub fn body_len(&self) -> u64 {
        self.layout.content_octets
    }

    /// Octets as sent: trace header and content.
    pub fn size(&self) -> u64 {
        self.layout.size()
    }

    /// The content in order, as slices of the mapped segments: as much of it as can be read.
    pub fn body(&self) -> impl Iterator<Item = &[u8]> {
        self.body_slices(0)
    }

    /// The content from octet `from` on.
    pub fn body_slices(&self, from: u64) -> impl Iterator<Item = &[u8]> {
        let mut skip = from;
        self.extents().filter_map(move |extent| {
            let octets = u64::from(extent.length);
            if skip >= octets {
                skip -= octets;
                return None;
            }
            let slice = self.stretch(extent)?.get(skip as usize..)?;
            skip = 0;
            Some(slice)
        })
    }

    /// Trace header and content as they go on the wire (but for dot-stuffing), from octet `from` on.
    pub fn slices(&self, from: u64) -> impl Iterator<Item = &[u8]> {
        let trace = self.trace();
        let rest = usize::try_from(from).ok().and_then(|from| trace.get(from..)).filter(|rest| !rest.is_empty());
        rest.into_iter().chain(self.body_slices(from.saturating_sub(trace.len() as u64)))
    }
}

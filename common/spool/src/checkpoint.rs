//! What is known of every message at one place of the log, in one file, so that a restart reads that and the rest of the
//! log only.
//!
//! The log is the truth. A checkpoint is believed only where the log still has what it was made from: a message whose own
//! record lies in a segment that is gone has left the queue since then, for such a segment goes only when nothing needs
//! it. (That a message was finished is on record as long as any segment with a record of it is there; one that was moved
//! has everything about it in a later record.) A checkpoint that is damaged, of another version, or does not belong to
//! the segments beside it is set aside, and the whole log is read.
//!
//! The file `checkpoint`, little-endian, in the notation of [`crate::record`]:
//!
//! | what | |
//! |---|---|
//! | head | `ZRELAYCP` · version u32 ([`VERSION`]) · zero u32 |
//! | messages, ascending | octets u32 · id u64 · place · recipients u32 · segment of the last deferral u32 · segments needed (count var · u32*) · the rest as in [`crate::moved`], without a record |
//! | rest | segment u32 · offset u32: all records before are in here |
//! | | count var · (segment u32 · checksum of its header u32 · most messages it ever had u32)* |
//! | | count var · (place of a record of finished messages)* |
//! | | count var · (channel text · host text · place of its state · oldest segment u32 · worth u8)* |
//! | index | (id u64 · offset u32)* of every [`STRIDE`]th message |
//! | foot | messages u32 · offset of the rest u32 · offset of the index u32 · CRC-32 of everything before |
//!
//! A place is segment u32 · offset u32 · length u32. It is written under another name, synced, and then renamed: there
//! is always a whole one, or none. See [`job`] for how one is made.

pub(crate) mod job;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::MessageId;
use crate::codec::{Decoder, Encoder, Malformed};
use crate::format::{SEGMENT_HEADER, u32_at, u64_at};
use crate::ledger::Dump;
use crate::moved::{Form, Moved};
use crate::shared::Place;
use crate::storage::{CheckpointFile, View};
use crate::threads::Threads;

/// The format written here. Version 1, without what became of messages, is read as well.
const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"ZRELAYCP";
const HEAD: u32 = 16;
const FOOT: u32 = 16;
/// Messages from one entry of the index to the next: so many are read at most to find one.
const STRIDE: u32 = 64;
const INDEX_ENTRY: u32 = 12;
/// Octets that are gathered before they are written.
const GATHER_MAX: usize = 1 << 20;

/// Where the log goes on behind a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Position {
    pub(crate) segment: u32,
    pub(crate) at: u32,
}

/// A segment that a checkpoint was made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) segment: u32,
    /// The checksum of its header: another segment of this number has another one.
    pub(crate) identity: u32,
    /// The most messages that ever had records in it.
    pub(crate) pins_peak: u32,
}

/// What is known beside the messages.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    pub(crate) position: Position,
    pub(crate) sources: Vec<Source>,
    pub(crate) marks: Vec<Place>,
    pub(crate) threads: Threads,
}

/// What is known of one message.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) dump: Dump,
    /// Its record is empty, and `oldest` is where void ones may begin.
    pub(crate) moved: Moved,
}

impl Entry {
    fn encode(&self, out: &mut Encoder<'_>) {
        let start = out.0.len();
        out.u32(0);
        out.u64(self.moved.message.0);
        encode_place(out, self.place);
        out.u32(self.dump.recipients);
        out.u32(self.dump.deferred);
        out.var(self.dump.pins.len() as u32);
        self.dump.pins.iter().for_each(|pin| out.u32(*pin));
        self.moved.encode(out);
        let octets = (out.0.len() - start - size_of::<u32>()) as u32;
        if let Some(length) = out.0.get_mut(start..start + size_of::<u32>()) {
            length.copy_from_slice(&octets.to_le_bytes());
        }
    }

    /// Reads an entry without its length.
    fn decode(octets: &[u8], form: Form) -> Result<Self, Malformed> {
        let mut from = Decoder(octets);
        let id = MessageId(from.u64()?);
        let place = decode_place(&mut from)?;
        let (recipients, deferred) = (from.u32()?, from.u32()?);
        let pins = (0..from.count(4)?).map(|_| from.u32()).collect::<Result<_, _>>()?;
        let moved = Moved::decode(&mut from, form)?;
        if moved.message != id || !moved.record.is_empty() {
            return Err(Malformed);
        }
        Ok(Self { place, dump: Dump { recipients, deferred, pins }, moved })
    }
}

fn encode_place(out: &mut Encoder<'_>, place: Place) {
    out.u32(place.segment);
    out.u32(place.offset);
    out.u32(place.length);
}

fn decode_place(from: &mut Decoder<'_>) -> Result<Place, Malformed> {
    Ok(Place { segment: from.u32()?, offset: from.u32()?, length: from.u32()? })
}

impl Rest {
    fn encode(&self, out: &mut Encoder<'_>) {
        out.u32(self.position.segment);
        out.u32(self.position.at);
        out.var(self.sources.len() as u32);
        for source in &self.sources {
            out.u32(source.segment);
            out.u32(source.identity);
            out.u32(source.pins_peak);
        }
        out.var(self.marks.len() as u32);
        self.marks.iter().for_each(|place| encode_place(out, *place));
        self.threads.encode(out);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let position = Position { segment: from.u32()?, at: from.u32()? };
        let source =
            |from: &mut Decoder<'_>| Ok(Source { segment: from.u32()?, identity: from.u32()?, pins_peak: from.u32()? });
        let sources = (0..from.count(12)?).map(|_| source(from)).collect::<Result<_, _>>()?;
        let marks = (0..from.count(12)?).map(|_| decode_place(from)).collect::<Result<_, _>>()?;
        Ok(Self { position, sources, marks, threads: Threads::decode(from)? })
    }
}

/// A checkpoint that was verified as a whole.
pub(crate) struct Checkpoint {
    view: Arc<dyn View>,
    form: Form,
    /// Where the messages end.
    end: u32,
    index: (u32, u32),
    /// Segments that were there when it was opened: of messages that lie in others nothing is told.
    live: BTreeMap<u32, u32>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("end", &self.end).finish_non_exhaustive()
    }
}

/// Why a checkpoint is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it is damaged")]
    Damaged,
    #[error("it has another format")]
    Version,
    #[error("it does not belong to the segments beside it")]
    Foreign,
}

impl From<Malformed> for Unusable {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}

impl Checkpoint {
    /// Verifies a file against the `live` segments with their ends; `identity` tells the checksum of a segment's header.
    pub(crate) fn open(
        view: Arc<dyn View>,
        live: BTreeMap<u32, u32>,
        identity: impl Fn(u32) -> Option<u32>,
    ) -> Result<(Self, Rest), Unusable> {
        let head = view.get(0, HEAD).ok_or(Unusable::Damaged)?;
        if !head.starts_with(MAGIC) {
            return Err(Unusable::Damaged);
        }
        let form = match u32_at(head, 8) {
            Some(VERSION) => Form::WithHistory,
            Some(1) => Form::WithoutHistory,
            _ => return Err(Unusable::Version),
        };
        let body = view.len().checked_sub(FOOT).ok_or(Unusable::Damaged)?;
        let foot = view.get(body, FOOT).ok_or(Unusable::Damaged)?;
        let all = view.get(0, view.len() - 4).ok_or(Unusable::Damaged)?;
        if u32_at(foot, 12) != Some(crc32fast::hash(all)) {
            return Err(Unusable::Damaged);
        }
        let (Some(rest_at), Some(index_at)) = (u32_at(foot, 4), u32_at(foot, 8)) else {
            return Err(Unusable::Damaged);
        };
        let octets = index_at.checked_sub(rest_at).and_then(|octets| view.get(rest_at, octets));
        let rest = Rest::decode(&mut Decoder(octets.ok_or(Unusable::Damaged)?))?;
        let known = |segment: &u32| rest.sources.iter().find(|source| source.segment == *segment);
        let mut before = live.keys().filter(|segment| **segment <= rest.position.segment);
        let same =
            before.all(|segment| known(segment).is_some_and(|source| Some(source.identity) == identity(*segment)));
        let reached = live.get(&rest.position.segment).is_none_or(|end| rest.position.at <= *end);
        if !(same && reached) {
            return Err(Unusable::Foreign);
        }
        Ok((Self { view, form, end: rest_at, index: (index_at, body), live }, rest))
    }

    /// The messages from `from` on, with where each is and its octets.
    fn scan(&self, from: u32) -> impl Iterator<Item = (MessageId, &[u8])> {
        let mut at = from;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let length = u32_at(self.view.get(at, 4)?, 0)?;
            let octets = self.view.get(at + 4, length)?;
            at = at.checked_add(4)?.checked_add(length)?;
            Some((MessageId(u64_at(octets, 0)?), octets))
        })
    }

    fn is_live(&self, octets: &[u8]) -> bool {
        u32_at(octets, 8).is_some_and(|segment| self.live.contains_key(&segment))
    }

    /// All messages that are not known to have left the queue, ascending.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        let live = self.scan(HEAD).filter(|(_, octets)| self.is_live(octets));
        live.filter_map(|(_, octets)| Entry::decode(octets, self.form).ok())
    }

    /// What is known of a message that is not known to have left the queue.
    pub(crate) fn find(&self, message: MessageId) -> Option<Entry> {
        let octets = self.octets(message).filter(|octets| self.is_live(octets))?;
        Entry::decode(octets, self.form).ok()
    }

    /// What was known of a message, wherever it lay then.
    pub(crate) fn find_any(&self, message: MessageId) -> Option<Entry> {
        Entry::decode(self.octets(message)?, self.form).ok()
    }

    fn octets(&self, message: MessageId) -> Option<&[u8]> {
        let octets = self.index.1.checked_sub(self.index.0)?;
        let index = self.view.get(self.index.0, octets)?;
        let begins = |row: Option<&[u8]>| row.and_then(|row| u64_at(row, 0)).is_some_and(|id| id <= message.0);
        let count = index.len() / INDEX_ENTRY as usize;
        let row = |number: usize| index.get(number * INDEX_ENTRY as usize..(number + 1) * INDEX_ENTRY as usize);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if begins(row(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let at = u32_at(row(low.checked_sub(1)?)?, 8)?;
        let near = self.scan(at).take(STRIDE as usize);
        near.take_while(|(id, _)| *id <= message).find(|(id, _)| *id == message).map(|(_, octets)| octets)
    }
}

/// Writes a checkpoint.
struct Writer<'a> {
    file: &'a mut dyn CheckpointFile,
    buffer: Vec<u8>,
    hasher: crc32fast::Hasher,
    at: u32,
    messages: u32,
    index: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(file: &'a mut dyn CheckpointFile) -> Self {
        let mut writer = Self {
            file,
            buffer: Vec::with_capacity(GATHER_MAX),
            hasher: crc32fast::Hasher::new(),
            at: 0,
            messages: 0,
            index: Vec::new(),
        };
        writer.buffer.extend_from_slice(MAGIC);
        writer.buffer.extend_from_slice(&VERSION.to_le_bytes());
        writer.buffer.extend_from_slice(&[0; 4]);
        writer
    }

    /// Where the next octet goes. Offsets are 32 bits wide.
    fn position(&self) -> io::Result<u32> {
        u32::try_from(self.buffer.len()).ok().and_then(|gathered| self.at.checked_add(gathered)).ok_or_else(too_large)
    }

    fn note(&mut self, message: MessageId) -> io::Result<()> {
        if self.messages.is_multiple_of(STRIDE) {
            let at = self.position()?;
            self.index.extend_from_slice(&message.0.to_le_bytes());
            self.index.extend_from_slice(&at.to_le_bytes());
        }
        self.messages += 1;
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.note(entry.moved.message)?;
        entry.encode(&mut Encoder(&mut self.buffer));
        self.flush(GATHER_MAX)
    }

    /// An entry as it was read from `base`.
    fn copy(&mut self, base: &Checkpoint, message: MessageId, octets: &[u8]) -> io::Result<()> {
        if base.form == Form::WithoutHistory {
            let entry = Entry::decode(octets, base.form).map_err(io::Error::other)?;
            return self.entry(&entry);
        }
        self.note(message)?;
        self.buffer.extend_from_slice(&(octets.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(octets);
        self.flush(GATHER_MAX)
    }

    fn flush(&mut self, at_least: usize) -> io::Result<()> {
        if self.buffer.len() < at_least {
            return Ok(());
        }
        self.at = self.position()?;
        self.hasher.update(&self.buffer);
        self.file.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, rest: &Rest) -> io::Result<Arc<dyn View>> {
        let rest_at = self.position()?;
        rest.encode(&mut Encoder(&mut self.buffer));
        let index_at = self.position()?;
        let index = std::mem::take(&mut self.index);
        self.buffer.extend_from_slice(&index);
        for number in [self.messages, rest_at, index_at] {
            self.buffer.extend_from_slice(&number.to_le_bytes());
        }
        self.flush(0)?;
        let checksum = std::mem::take(&mut self.hasher).finalize();
        self.file.write(&checksum.to_le_bytes())?;
        self.file.commit()
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "a checkpoint is limited to 4 GiB")
}

/// What tells a segment from others of its number: the checksum of its header.
pub(crate) fn identity(view: &dyn View) -> Option<u32> {
    u32_at(view.get(0, SEGMENT_HEADER)?, SEGMENT_HEADER as usize - 4)
}

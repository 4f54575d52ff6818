//! Writing the segments: one buffer, one write, one `fdatasync` for a group of records.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::{self, Kind, RECORD_HEADER, SEGMENT_HEADER, framed};
use crate::record::{Fence, Record};
use crate::shared::{Place, Shared};
use crate::storage::{CheckpointFile, SegmentFile, Storage};

/// Octets that are gathered before they are written without waiting for the end of the group: bounds the memory that
/// a large message takes.
const GATHER_MAX: usize = 1 << 20;

/// The writing end of the log.
pub(crate) struct Log {
    storage: Box<dyn Storage>,
    shared: Arc<Shared>,
    segment_bytes: u32,
    current: Option<Current>,
    /// The other segments, with the end of each.
    sealed: BTreeMap<u32, u32>,
    next_number: u32,
    /// Encoded and not written yet; belongs at [`Current::written`].
    buffer: Vec<u8>,
}

/// The segment that is being filled.
struct Current {
    number: u32,
    octets: u32,
    file: Box<dyn SegmentFile>,
    written: u32,
    synced: u32,
}

impl Log {
    /// Goes on behind the `sealed` segments, in a new one that is created when the first record comes.
    pub(crate) fn new(
        storage: Box<dyn Storage>,
        shared: Arc<Shared>,
        segment_bytes: u32,
        sealed: BTreeMap<u32, u32>,
        next_number: u32,
    ) -> Self {
        let log = Self { storage, shared, segment_bytes, current: None, sealed, next_number, buffer: Vec::new() };
        log.count_segments();
        log
    }

    /// Appends a record, in a new segment when the present one is full. It is neither readable nor durable yet.
    ///
    /// # Errors
    /// Whatever the disk reports. The present segment is to be [abandoned](Self::abandon) then.
    pub(crate) fn append(&mut self, kind: Kind, body: &[u8]) -> io::Result<Place> {
        let octets = framed(body.len() as u32);
        let gathered = self.buffer.len() as u32;
        let fits = |current: &Current| current.octets - current.written - gathered >= octets;
        if !self.current.as_ref().is_some_and(fits) {
            self.seal()?;
            self.start(octets)?;
        }
        let Some(current) = &self.current else { return Err(io::ErrorKind::NotFound.into()) };
        let at = current.written + self.buffer.len() as u32;
        format::frame(&mut self.buffer, current.number, at, current.synced, kind, body);
        let place = Place { segment: current.number, offset: at + RECORD_HEADER, length: body.len() as u32 };
        if self.buffer.len() >= GATHER_MAX {
            self.write()?;
        }
        Ok(place)
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if self.buffer.is_empty() {
            return Ok(());
        }
        current.file.write(current.written, &self.buffer)?;
        let octets = self.buffer.len() as u32;
        current.written += octets;
        self.shared.counters.bytes.fetch_add(octets.into(), Ordering::Relaxed);
        self.shared.counters.live_bytes.fetch_add(octets.into(), Ordering::Relaxed);
        self.buffer.clear();
        Ok(())
    }

    /// Makes everything that was appended durable, and readable.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.synced == current.written {
            return Ok(());
        }
        self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
        current.file.sync()?;
        current.synced = current.written;
        current.file.publish(current.synced);
        Ok(())
    }

    /// Ends the present segment, all of which is durable afterwards.
    fn seal(&mut self) -> io::Result<()> {
        self.sync()?;
        if let Some(current) = &self.current {
            self.sealed.insert(current.number, current.written);
        }
        Ok(())
    }

    /// Creates the next segment, with room for a record of `room` octets at least. The one before must be sealed.
    fn start(&mut self, room: u32) -> io::Result<()> {
        let older = self.sealed.iter().map(|(segment, end)| Fence { segment: *segment, end: *end }).collect();
        let mut body = Vec::new();
        Record::Segments { highest: self.shared.last_id(), older }.encode(&mut body);
        // A number is never tried twice: what a failed attempt has left behind must not be mistaken for the next one.
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or(io::ErrorKind::StorageFull)?;
        let needed = SEGMENT_HEADER + framed(body.len() as u32) + room;
        let octets = self.segment_bytes.max(needed);
        let created = self.create(number, octets, &body);
        if created.is_err() {
            // Best effort: what is left behind has no records and is removed by the next recovery.
            let _ = self.storage.remove(number);
        }
        let former = self.current.replace(created?);
        if let Some(mut former) = former {
            let end = former.written;
            former.file.release(end);
        }
        self.count_segments();
        Ok(())
    }

    fn create(&mut self, number: u32, octets: u32, segments: &[u8]) -> io::Result<Current> {
        let mut file = self.storage.create(number, octets)?;
        let mut head = format::segment_header(number, self.shared.now().as_micros(), octets).to_vec();
        format::frame(&mut head, number, SEGMENT_HEADER, SEGMENT_HEADER, Kind::Segments, segments);
        file.write(0, &head)?;
        file.sync()?;
        self.storage.sync_directory()?;
        let end = head.len() as u32;
        file.publish(end);
        self.shared.insert_view(number, file.view());
        self.shared.counters.live_bytes.fetch_add(end.into(), Ordering::Relaxed);
        Ok(Current { number, octets, file, written: end, synced: end })
    }

    /// After an error: ends the present segment where it was last known to be durable. Nothing behind that point will
    /// be believed, now or after a restart: the next segment says so before anything is written to it.
    pub(crate) fn abandon(&mut self) {
        self.buffer.clear();
        if let Some(current) = self.current.take() {
            self.sealed.insert(current.number, current.synced);
            let lost = u64::from(current.written - current.synced);
            self.shared.counters.live_bytes.fetch_sub(lost, Ordering::Relaxed);
        }
    }

    /// Makes sure that there is a segment to write to.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(crate) fn ensure_started(&mut self) -> io::Result<()> {
        if self.current.is_some() { Ok(()) } else { self.start(0) }
    }

    /// Whether what is at `place` is durable.
    pub(crate) fn is_durable(&self, place: Place) -> bool {
        let current = self.current.as_ref().filter(|current| current.number == place.segment);
        let end = current.map(|current| current.synced).or_else(|| self.sealed.get(&place.segment).copied());
        end.is_some_and(|end| place.offset + place.length <= end)
    }

    /// The segments that are full, with their ends, oldest first.
    pub(crate) fn sealed(&self) -> impl Iterator<Item = (u32, u32)> {
        let current = self.current.as_ref().map(|current| current.number);
        let sealed = self.sealed.iter().map(|(segment, end)| (*segment, *end));
        sealed.filter(move |(segment, _)| Some(*segment) != current)
    }

    /// All segments, with the end of what is durable in each, oldest first.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (u32, u32)> {
        let current = self.current.as_ref().map(|current| (current.number, current.synced));
        self.sealed().chain(current)
    }

    /// For a new checkpoint.
    pub(crate) fn checkpoint_file(&self) -> Box<dyn CheckpointFile> {
        self.storage.checkpoint_file()
    }

    /// Octets left on the file system.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub(crate) fn free(&mut self) -> io::Result<u64> {
        self.storage.free()
    }

    /// Where what is durable of a segment ends, if it is there.
    pub(crate) fn end(&self, segment: u32) -> Option<u32> {
        let current = self.current.as_ref().filter(|current| current.number == segment);
        current.map(|current| current.synced).or_else(|| self.sealed.get(&segment).copied())
    }

    /// The first segment from `from` on.
    pub(crate) fn first_from(&self, from: u32) -> Option<u32> {
        let current = self.current.as_ref().map(|current| current.number).filter(|number| *number >= from);
        self.sealed.range(from..).next().map(|(segment, _)| *segment).into_iter().chain(current).min()
    }

    /// The oldest existing segment that is not below `from`, and below `to`.
    pub(crate) fn first_between(&self, from: u32, to: u32) -> Option<u32> {
        if from >= to {
            return None;
        }
        self.sealed.range(from..to).next().map(|(segment, _)| *segment)
    }

    /// Removes a full segment, durably.
    ///
    /// # Errors
    /// Whatever the disk reports; the segment counts as there until it is certain to be gone.
    pub(crate) fn remove(&mut self, number: u32) -> io::Result<()> {
        match self.storage.remove(number) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.storage.sync_directory()?,
        }
        let end = self.sealed.remove(&number).unwrap_or(0);
        self.shared.remove_view(number);
        self.shared.counters.live_bytes.fetch_sub(end.into(), Ordering::Relaxed);
        self.count_segments();
        Ok(())
    }

    fn count_segments(&self) {
        let current = self.current.as_ref().filter(|current| !self.sealed.contains_key(&current.number));
        let count = self.sealed.len() + usize::from(current.is_some());
        self.shared.counters.segments.store(count as u64, Ordering::Relaxed);
    }
}

//! Files that only grow, and mappings that show what of them is final.
//!
//! Mapping a file is sound only as long as nobody shortens it (the reader would be killed by `SIGBUS`) or changes
//! octets under a slice that was handed out. Both are ruled out here by construction: an [`AppendFile`] gets its full
//! size when it is created and has no operation that shrinks it; it refuses to write below the published end; and a
//! [`Map`] hands out slices below that end only. What is left to the owner of the directory is to keep others out of
//! it (mode 0700, a lock file). If a page cannot be read all the same, it reads as zeros; see `fault.rs`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;

use crate::fault::Guard;

/// A read-only mapping of a file of fixed size, of which a prefix is published.
#[derive(Debug)]
pub struct Map {
    // Dropped in this order: what is looked after is still mapped.
    _guard: Guard,
    raw: MmapRaw,
    published: AtomicU64,
}

impl Map {
    fn new(file: &File, published: u64) -> io::Result<Self> {
        let raw = MmapOptions::new().map_raw_read_only(file)?;
        let published = AtomicU64::new(published.min(raw.len() as u64));
        Ok(Self { _guard: Guard::new(raw.as_ptr(), raw.len()), raw, published })
    }

    /// Maps an existing file, all of it published. Only for files that were written through an [`AppendFile`] which
    /// is gone by now.
    ///
    /// # Errors
    /// Whatever opening and mapping the file reports; an empty file maps to nothing.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(&File::open(path)?, u64::MAX)
    }

    /// The octets `offset..offset + length`, if all of them are published.
    #[allow(unsafe_code)]
    pub fn get(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let end = offset.checked_add(length)?;
        if end > self.published.load(Ordering::Acquire) {
            return None;
        }
        let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        // SAFETY: `offset + length` is at most the published end, which is at most the length of the mapping, so the
        // range lies inside one live allocation; the mapping lives as long as `self`, which the slice borrows. The
        // octets never change again: the only writer refuses to write below the published end, the file is never
        // shortened (the contract of this module), and the acquiring load above orders this read behind the writes.
        Some(unsafe { slice::from_raw_parts(self.raw.as_ptr().add(offset), length) })
    }

    /// Octets that can be seen.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }
}

/// A new file of fixed size that is filled from the front.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
    map: Arc<Map>,
}

impl AppendFile {
    /// Creates the file `path`, readable by its owner only, with all of its `octets` allocated, reading as zeros.
    ///
    /// # Errors
    /// Whatever creating, allocating or mapping it reports; `AlreadyExists` when it is there. A file that could not be
    /// allocated is left behind for the caller to remove.
    pub fn create(path: &Path, octets: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, octets) {
            Ok(()) => {}
            // A file system without allocation: at least the size is fixed, and a full disk shows when writing.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(octets)?,
            Err(error) => return Err(error.into()),
        }
        let map = Arc::new(Map::new(&file, 0)?);
        Ok(Self { file, map })
    }

    /// Writes `bytes` at `offset`, without making them visible or durable.
    ///
    /// # Errors
    /// `InvalidInput` below the published end or beyond the end of the file; else whatever writing reports.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if offset < self.map.published() || end.is_none_or(|end| end > self.map.raw.len() as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.write_all_at(bytes, offset)
    }

    /// Makes what was written durable (`fdatasync`).
    ///
    /// # Errors
    /// Whatever the kernel reports. After an error nothing written since the last success can be relied on, whatever
    /// a second attempt says.
    pub fn sync(&self) -> io::Result<()> {
        fdatasync(&self.file).map_err(io::Error::from)
    }

    /// Shows readers everything below `end`. It can never be written again. An `end` below the present one is ignored.
    pub fn publish(&self, end: u64) {
        self.map.published.fetch_max(end.min(self.map.raw.len() as u64), Ordering::AcqRel);
    }

    /// Gives the disk space from `end` on back to the file system, as well as it can; the size stays. For a file that
    /// is written no more.
    pub fn release(&self, end: u64) {
        let end = end.max(self.map.published());
        punch(&self.file, end, self.map.raw.len() as u64);
    }

    /// The mapping of this file.
    pub fn map(&self) -> Arc<Map> {
        self.map.clone()
    }
}

/// Gives the disk space of a file from `end` on back to the file system, as [`AppendFile::release`] does, for a file
/// that is there already. Nobody may look behind `end` through a [`Map`] any more: octets there read as zeros afterwards.
/// Says whether there was any.
///
/// # Errors
/// Whatever opening the file for writing reports.
pub fn release_tail(path: &Path, end: u64) -> io::Result<bool> {
    /// What `st_blocks` counts in, on every file system.
    const BLOCK_OCTETS: u64 = 512;
    let file = OpenOptions::new().write(true).open(path)?;
    let metadata = file.metadata()?;
    let slack = metadata.blksize().max(BLOCK_OCTETS);
    let has_tail = metadata.len() > end && metadata.blocks().saturating_mul(BLOCK_OCTETS) > end.saturating_add(slack);
    if has_tail {
        punch(&file, end, metadata.len());
    }
    Ok(has_tail)
}

fn punch(file: &File, from: u64, to: u64) {
    let length = to.saturating_sub(from);
    if length > 0 {
        // Optional: a file system that cannot do it keeps the space until the file is removed.
        let _ = fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_is_published_and_nothing_more() {
        let directory = tempfile::tempdir().unwrap();
        let file = AppendFile::create(&directory.path().join("a"), 8192).unwrap();
        let map = file.map();
        file.write(0, b"hello").unwrap();
        assert_eq!(map.get(0, 5), None);
        file.publish(5);
        assert_eq!(map.get(0, 5), Some(&b"hello"[..]));
        assert_eq!(map.get(1, 5), None);
        assert_eq!(map.get(u64::MAX, 2), None);
        file.publish(u64::MAX);
        assert_eq!(map.published(), 8192);
        assert_eq!(map.get(8191, 1), Some(&b"\0"[..]));
    }

    #[test]
    fn what_is_published_can_not_be_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = AppendFile::create(&directory.path().join("a"), 4096).unwrap();
        file.write(0, b"hello").unwrap();
        file.publish(5);
        assert!(file.write(4, b"x").is_err());
        assert!(file.write(4095, b"xy").is_err());
        file.write(5, b" world").unwrap();
        file.sync().unwrap();
        file.release(11);
        file.publish(11);
        assert_eq!(file.map().get(0, 11), Some(&b"hello world"[..]));
    }

    #[test]
    fn the_unused_end_of_a_file_is_given_back_and_its_size_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let file = AppendFile::create(&path, 1 << 20).unwrap();
        file.write(0, &[b'x'; 5000]).unwrap();
        let allocated = || std::fs::metadata(&path).unwrap().blocks() * 512;
        if allocated() < 1 << 20 {
            return; // This file system does not allocate ahead.
        }
        drop(file);
        assert!(release_tail(&path, 5000).unwrap());
        assert!(allocated() <= 1 << 16, "{}", allocated());
        assert!(!release_tail(&path, 5000).unwrap());
        let map = Map::open(&path).unwrap();
        assert_eq!((map.published(), map.get(4999, 2)), (1 << 20, Some(&b"x\0"[..])));
    }

    #[test]
    fn a_mapping_outlives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        AppendFile::create(&path, 4096).unwrap().write(0, b"hello").unwrap();
        let map = Map::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(map.get(0, 5), Some(&b"hello"[..]));
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        File::create(&path).unwrap();
        assert_eq!(Map::open(&path).unwrap().get(0, 1), None);
    }
}

//! A disk in memory that forgets what was not synced, tears what was being written, fills up and breaks.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use crate::storage::{SegmentFile, Storage, View};

/// What a power cut leaves of a write, it leaves in units of this many octets.
const SECTOR: usize = 64;

/// A small generator, so that a scenario replays from its seed.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

#[derive(Default)]
struct Disk {
    files: BTreeMap<u32, File>,
    /// Removed, but the directory does not know it yet.
    removed: BTreeMap<u32, File>,
    fault: Option<(u32, io::ErrorKind)>,
    free: u64,
}

#[derive(Clone, Default)]
struct File {
    octets: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<(usize, usize)>,
    named: bool,
}

/// The directory; clones are the same one.
#[derive(Clone, Default)]
pub struct Simulated(Arc<Mutex<Disk>>);

struct SimulatedFile {
    disk: Simulated,
    number: u32,
    view: Arc<Chunks>,
    published: u32,
}

/// What is published, in the pieces in which it was.
#[derive(Default)]
struct Chunks {
    first: OnceLock<Box<Chunk>>,
}

struct Chunk {
    start: u32,
    octets: Vec<u8>,
    next: OnceLock<Box<Self>>,
}

impl Chunks {
    fn last(&self) -> (&OnceLock<Box<Chunk>>, u32) {
        let (mut slot, mut end) = (&self.first, 0);
        while let Some(chunk) = slot.get() {
            (slot, end) = (&chunk.next, chunk.start + chunk.octets.len() as u32);
        }
        (slot, end)
    }

    fn push(&self, octets: Vec<u8>) {
        let (slot, start) = self.last();
        assert!(slot.set(Box::new(Chunk { start, octets, next: OnceLock::new() })).is_ok());
    }
}

impl View for Chunks {
    fn get(&self, offset: u32, length: u32) -> Option<&[u8]> {
        let mut slot = &self.first;
        while let Some(chunk) = slot.get() {
            let from = offset.checked_sub(chunk.start)? as usize;
            if from <= chunk.octets.len() && length == 0 || from < chunk.octets.len() {
                return chunk.octets.get(from..from + length as usize);
            }
            slot = &chunk.next;
        }
        None
    }

    fn len(&self) -> u32 {
        self.last().1
    }
}

impl Simulated {
    fn disk<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    /// After `operations` more, all that writes fails with `kind`, until [`heal`](Self::heal).
    pub fn break_after(&self, operations: u32, kind: io::ErrorKind) {
        self.disk(|disk| disk.fault = Some((operations, kind)));
    }

    /// The disk works again.
    pub fn heal(&self) {
        self.disk(|disk| disk.fault = None);
    }

    /// So much space is left, as far as anybody asks for it.
    pub fn set_free(&self, octets: u64) {
        self.disk(|disk| disk.free = octets);
    }

    /// The numbers of the segments that are there, ascending.
    pub fn segments(&self) -> Vec<u32> {
        self.disk(|disk| disk.files.keys().copied().collect())
    }

    /// Changes an octet behind the hub's back.
    #[cfg(test)]
    pub(crate) fn corrupt(&self, number: u32, at: u32) {
        self.disk(|disk| {
            let file = disk.files.get_mut(&number).unwrap();
            file.octets[at as usize] ^= 0x55;
            file.durable[at as usize] ^= 0x55;
        });
    }

    #[cfg(test)]
    pub(crate) fn octets(&self, number: u32) -> Vec<u8> {
        self.disk(|disk| disk.files[&number].octets.clone())
    }

    /// What a power cut leaves: all that was synced, and of the rest whatever had made it to the disk.
    pub fn after_power_cut(&self, random: &mut Random) -> Self {
        let mut left = Disk::default();
        self.disk(|disk| {
            for (number, file) in disk.files.iter().chain(&disk.removed) {
                let certain = file.named && !disk.removed.contains_key(number);
                if !certain && random.coin() {
                    continue;
                }
                let mut octets = file.durable.clone();
                for &(from, to) in &file.dirty {
                    for sector in (from / SECTOR..to.div_ceil(SECTOR)).filter(|_| random.coin()) {
                        let range = (sector * SECTOR).max(from)..((sector + 1) * SECTOR).min(to);
                        octets[range.clone()].copy_from_slice(&file.octets[range]);
                    }
                }
                left.files.insert(*number, File { durable: octets.clone(), octets, dirty: vec![], named: true });
            }
        });
        Self(Arc::new(Mutex::new(left)))
    }

    /// What `kill -9` leaves: all that was written.
    pub fn after_kill(&self) -> Self {
        let files = self.disk(|disk| disk.files.clone());
        Self(Arc::new(Mutex::new(Disk { files, ..Disk::default() })))
    }
}

impl Disk {
    fn work(&mut self) -> io::Result<()> {
        match &mut self.fault {
            None => Ok(()),
            Some((0, kind)) => Err((*kind).into()),
            Some((operations, _)) => {
                *operations -= 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, number: u32) -> io::Result<&mut File> {
        self.files.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for Simulated {
    fn list(&mut self) -> io::Result<Vec<u32>> {
        Ok(self.segments())
    }

    fn create(&mut self, number: u32, octets: u32) -> io::Result<Box<dyn SegmentFile>> {
        self.disk(|disk| {
            assert!(!disk.files.contains_key(&number));
            disk.files.insert(number, File::default());
            disk.work()?;
            let zeros = vec![0; octets as usize];
            disk.files.insert(number, File { octets: zeros.clone(), durable: zeros, ..File::default() });
            Ok(())
        })
        .map(|()| {
            let view = Arc::new(Chunks::default());
            Box::new(SimulatedFile { disk: self.clone(), number, view, published: 0 }) as Box<dyn SegmentFile>
        })
    }

    fn open(&mut self, number: u32) -> io::Result<Arc<dyn View>> {
        let chunks = Chunks::default();
        chunks.push(self.disk(|disk| {
            let file = disk.file(number)?;
            file.durable = file.octets.clone();
            file.dirty.clear();
            Ok::<_, io::Error>(file.octets.clone())
        })?);
        Ok(Arc::new(chunks))
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        self.disk(|disk| {
            let file = disk.files.remove(&number).ok_or(io::ErrorKind::NotFound)?;
            disk.removed.insert(number, file);
            Ok(())
        })
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.disk(|disk| {
            disk.work()?;
            disk.files.values_mut().for_each(|file| file.named = true);
            disk.removed.clear();
            Ok(())
        })
    }

    fn free(&mut self) -> io::Result<u64> {
        self.disk(|disk| Ok(disk.free))
    }
}

impl SegmentFile for SimulatedFile {
    fn write(&mut self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        assert!(offset >= self.published);
        self.disk.disk(|disk| {
            let result = disk.work();
            let file = disk.file(self.number)?;
            // A write that fails has written a part.
            let octets = if result.is_ok() { bytes.len() } else { bytes.len() / 2 };
            let range = offset as usize..offset as usize + octets;
            file.octets[range.clone()].copy_from_slice(&bytes[..octets]);
            file.dirty.push((range.start, range.end));
            result
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.disk(|disk| {
            let result = disk.work();
            let file = disk.file(self.number)?;
            // As Linux does it: after a failure the pages count as clean, and the next sync succeeds without them.
            let dirty = std::mem::take(&mut file.dirty);
            result?;
            for (from, to) in dirty {
                file.durable[from..to].copy_from_slice(&file.octets[from..to]);
            }
            Ok(())
        })
    }

    fn publish(&mut self, end: u32) {
        if end <= self.published {
            return;
        }
        let range = self.published as usize..end as usize;
        self.view.push(self.disk.disk(|disk| disk.files[&self.number].octets[range].to_vec()));
        self.published = end;
    }

    fn release(&mut self, end: u32) {
        self.disk.disk(|disk| {
            if let Some(file) = disk.files.get_mut(&self.number) {
                file.octets[end as usize..].fill(0);
                file.durable[end as usize..].fill(0);
            }
        });
    }

    fn view(&self) -> Arc<dyn View> {
        self.view.clone()
    }
}

//! A disk in memory that forgets what was not synced, tears what was being written, fills up and breaks.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::storage::{CheckpointFile, SegmentFile, Storage, View};

/// What a power cut leaves of a write, it leaves in units of this many octets: smaller
/// ones than any disk's.
pub(crate) const SECTOR: usize = 64;

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
    fault: Option<Fault>,
    free: u64,
    misplaced: bool,
    checkpoint: Option<Vec<u8>>,
}

/// A checkpoint that is being written; it takes the place of the one before as a whole, or not at all.
struct SimulatedCheckpoint {
    disk: Simulated,
    octets: Vec<u8>,
}

impl CheckpointFile for SimulatedCheckpoint {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.disk(|disk| disk.work(Victim::Writes))?;
        self.octets.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(&mut self) -> io::Result<Arc<dyn View>> {
        let octets = std::mem::take(&mut self.octets);
        self.disk.disk(|disk| {
            disk.work(Victim::Names)?;
            disk.checkpoint = Some(octets.clone());
            Ok::<_, io::Error>(())
        })?;
        let chunks = Chunks::default();
        chunks.push(octets);
        Ok(Arc::new(chunks))
    }
}

/// What the disk refuses to do, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// So many operations of that sort succeed before it.
    pub(crate) after: u32,
    /// So many fail before the disk works again by itself; [`Fault::FOREVER`]: until it is healed.
    pub(crate) times: u32,
    pub(crate) victim: Victim,
    pub(crate) kind: io::ErrorKind,
}

impl Fault {
    pub(crate) const FOREVER: u32 = u32::MAX;
}

/// Operations that fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Victim {
    All,
    /// Of segments.
    Writes,
    /// Of segments.
    Syncs,
    /// Creating, removing, and making that durable.
    Names,
}

#[derive(Clone, Default)]
struct File {
    octets: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<(usize, usize)>,
    /// Was dirty at a sync that failed: no later sync brings it to the disk, though it may have got there.
    failed: Vec<(usize, usize)>,
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

/// Enough levels for any number of pieces.
const LEVELS: usize = 32;

/// What is published, in the pieces in which it was: level by level, each twice as long as the one before, so that no
/// piece ever moves and the one that holds an octet is found by halving.
#[derive(Default)]
struct Chunks {
    levels: [OnceLock<Box<[OnceLock<Chunk>]>>; LEVELS],
    count: AtomicUsize,
    /// Where something was found last: a record is looked at again and again.
    last: AtomicUsize,
}

struct Chunk {
    start: u32,
    octets: Vec<u8>,
}

impl Chunk {
    fn end(&self) -> u32 {
        self.start + self.octets.len() as u32
    }

    fn get(&self, offset: u32, length: u32) -> Option<&[u8]> {
        let from = offset.checked_sub(self.start)? as usize;
        self.octets.get(from..from + length as usize)
    }
}

impl Chunks {
    fn find(&self, offset: u32, length: u32) -> Option<&[u8]> {
        let (mut low, mut high) = (0, self.count.load(Ordering::Acquire));
        while low < high {
            let middle = low + (high - low) / 2;
            let chunk = self.chunk(middle)?;
            if chunk.end() < offset || (chunk.end() == offset && length > 0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.last.store(low, Ordering::Relaxed);
        self.chunk(low)?.get(offset, length)
    }

    fn chunk(&self, index: usize) -> Option<&Chunk> {
        let level = (index + 1).ilog2();
        self.levels[level as usize].get()?[index + 1 - (1 << level)].get()
    }

    fn push(&self, octets: Vec<u8>) {
        let index = self.count.load(Ordering::Acquire);
        let chunk = Chunk { start: self.len(), octets };
        let level = (index + 1).ilog2();
        let slots = self.levels[level as usize].get_or_init(|| (0..1 << level).map(|_| OnceLock::new()).collect());
        assert!(slots[index + 1 - (1 << level)].set(chunk).is_ok());
        self.count.store(index + 1, Ordering::Release);
    }
}

impl View for Chunks {
    fn get(&self, offset: u32, length: u32) -> Option<&[u8]> {
        let last = || self.chunk(self.last.load(Ordering::Relaxed))?.get(offset, length).filter(|_| length > 0);
        last().or_else(|| self.find(offset, length))
    }

    fn len(&self) -> u32 {
        let last = self.count.load(Ordering::Acquire).checked_sub(1);
        last.and_then(|last| self.chunk(last)).map_or(0, Chunk::end)
    }
}

impl Simulated {
    fn disk<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    /// After `operations` more, all that writes fails with `kind`, until [`heal`](Self::heal).
    pub fn break_after(&self, operations: u32, kind: io::ErrorKind) {
        self.fail(Fault { after: operations, times: Fault::FOREVER, victim: Victim::All, kind });
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.disk(|disk| disk.fault = Some(fault));
    }

    /// The disk works again.
    pub fn heal(&self) {
        self.disk(|disk| disk.fault = None);
    }

    /// Somebody moves the directory away, or puts it back.
    pub(crate) fn set_misplaced(&self, misplaced: bool) {
        self.disk(|disk| disk.misplaced = misplaced);
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
    pub(crate) fn corrupt(&self, number: u32, at: u32) {
        self.tamper(number, |octets| octets[at as usize] ^= 0x55);
    }

    /// Changes octets behind the hub's back; what is cut off is gone.
    pub(crate) fn tamper(&self, number: u32, change: impl FnOnce(&mut Vec<u8>)) {
        self.disk(|disk| {
            let file = disk.files.get_mut(&number).unwrap();
            change(&mut file.octets);
            file.durable.clone_from(&file.octets);
        });
    }

    /// The checkpoint, to be changed behind the hub's back.
    pub(crate) fn checkpoint_mut<T>(&self, change: impl FnOnce(&mut Option<Vec<u8>>) -> T) -> T {
        self.disk(|disk| change(&mut disk.checkpoint))
    }

    pub(crate) fn octets(&self, number: u32) -> Vec<u8> {
        self.disk(|disk| disk.files[&number].octets.clone())
    }

    /// What a power cut leaves: all that was synced, and of the rest whatever had made it to the disk, in any order.
    pub fn after_power_cut(&self, random: &mut Random) -> Self {
        self.after_power_cut_with(|_| random.coin())
    }

    /// The same, where `reached` tells of each sector that was written and not synced, by its number in its segment,
    /// whether it reached the disk; and of each name that was made or removed and not synced (`None`).
    pub(crate) fn after_power_cut_with(&self, mut reached: impl FnMut(Option<usize>) -> bool) -> Self {
        let mut left = Disk::default();
        self.disk(|disk| {
            left.checkpoint.clone_from(&disk.checkpoint);
            for (number, file) in disk.files.iter().chain(&disk.removed) {
                let certain = file.named && !disk.removed.contains_key(number);
                if !certain && !reached(None) {
                    continue;
                }
                let mut octets = file.durable.clone();
                for &(from, to) in file.failed.iter().chain(&file.dirty) {
                    for sector in (from / SECTOR..to.div_ceil(SECTOR)).filter(|sector| reached(Some(*sector))) {
                        let range = (sector * SECTOR).max(from)..((sector + 1) * SECTOR).min(to);
                        octets[range.clone()].copy_from_slice(&file.octets[range]);
                    }
                }
                left.files.insert(*number, File { durable: octets.clone(), octets, named: true, ..File::default() });
            }
        });
        Self(Arc::new(Mutex::new(left)))
    }

    /// What `kill -9` leaves: all that was written.
    pub fn after_kill(&self) -> Self {
        let (files, checkpoint) = self.disk(|disk| (disk.files.clone(), disk.checkpoint.clone()));
        Self(Arc::new(Mutex::new(Disk { files, checkpoint, ..Disk::default() })))
    }
}

impl Disk {
    fn work(&mut self, victim: Victim) -> io::Result<()> {
        let Some(fault) = self.fault.as_mut().filter(|fault| [Victim::All, victim].contains(&fault.victim)) else {
            return Ok(());
        };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        if fault.times == 0 {
            self.fault = None;
            return Ok(());
        }
        if fault.times != Fault::FOREVER {
            fault.times -= 1;
        }
        Err(fault.kind.into())
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
            disk.work(Victim::Names)?;
            let zeros = || vec![0; octets as usize];
            disk.files.insert(number, File { octets: zeros(), durable: zeros(), ..File::default() });
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
            file.failed.clear();
            Ok::<_, io::Error>(file.octets.clone())
        })?);
        Ok(Arc::new(chunks))
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        self.disk(|disk| {
            disk.work(Victim::Names)?;
            let file = disk.files.remove(&number).ok_or(io::ErrorKind::NotFound)?;
            disk.removed.insert(number, file);
            Ok(())
        })
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.disk(|disk| {
            disk.work(Victim::Names)?;
            disk.files.values_mut().for_each(|file| file.named = true);
            disk.removed.clear();
            Ok(())
        })
    }

    fn release_tail(&mut self, number: u32, end: u32) -> io::Result<bool> {
        self.disk(|disk| {
            let file = disk.file(number)?;
            let tail = file.octets.iter().skip(end as usize).any(|octet| *octet != 0);
            for octets in [&mut file.octets, &mut file.durable] {
                octets.iter_mut().skip(end as usize).for_each(|octet| *octet = 0);
            }
            Ok(tail)
        })
    }

    fn is_in_place(&mut self) -> io::Result<()> {
        self.disk(|disk| if disk.misplaced { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) })
    }

    fn free(&mut self) -> io::Result<u64> {
        self.disk(|disk| Ok(disk.free))
    }

    fn checkpoint(&mut self) -> io::Result<Option<Arc<dyn View>>> {
        let Some(octets) = self.disk(|disk| disk.checkpoint.clone()) else { return Ok(None) };
        let chunks = Chunks::default();
        chunks.push(octets);
        Ok(Some(Arc::new(chunks)))
    }

    fn set_checkpoint_aside(&mut self) -> io::Result<()> {
        self.disk(|disk| disk.checkpoint = None);
        Ok(())
    }

    fn checkpoint_file(&self) -> Box<dyn CheckpointFile> {
        Box::new(SimulatedCheckpoint { disk: self.clone(), octets: Vec::new() })
    }
}

impl SegmentFile for SimulatedFile {
    fn write(&mut self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        assert!(offset >= self.published);
        self.disk.disk(|disk| {
            let result = disk.work(Victim::Writes);
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
            let result = disk.work(Victim::Syncs);
            let file = disk.file(self.number)?;
            // As Linux does it: after a failure the pages count as clean, and the next sync succeeds without them.
            let dirty = std::mem::take(&mut file.dirty);
            if result.is_err() {
                file.failed.extend(dirty);
                return result;
            }
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

//! Batches that wait on disk because the memory for the queue is used up.
//!
//! What is here is no record: the log has it all, and a restart hands every batch out anew. So nothing is ever synced,
//! and the file has no name: it is gone with the process. It is a copy of what the scheduler knows of each batch, so that
//! reading it back needs no look at the log.
//!
//! Batches lie in **runs** of some hundred of one thread, read at once. A run is one piece or several, one behind the
//! other, each with its octets (u32) in front of it and its CRC-32 behind it: so a run can grow by a few batches at a
//! time, and somebody who has to remember something of each run has little to remember. A run begins at a multiple of
//! [`BLOCK`], so that its space can be given back when it has been read.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, remove_file};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use zrelay_clock::Timestamp;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::handling;
use crate::record::{decode_diagnostic, encode_diagnostic};
use crate::{BatchId, Diagnostic, Handling, MessageId, QueuedBatch, ThreadKey};

/// Octets of the unit in which file systems give space back.
const BLOCK: u64 = 4096;
/// Octets of a batch at the least: bounds what is believed of a count.
const BATCH_MIN: usize = 50;

/// Batches on disk, outside of the log.
pub struct Spill {
    file: File,
    runs: HashMap<u64, Stretch>,
    /// Where the next run goes. It only grows; the file is sparse.
    end: u64,
    octets: u64,
}

/// Where a run lies.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    at: u64,
    octets: u32,
    /// Octets that it may take where it is.
    room: u32,
}

impl fmt::Debug for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spill").field("runs", &self.runs.len()).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Spill {
    /// An empty one in the directory of the spool, whose lock the caller must hold.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(directory: &Path) -> io::Result<Self> {
        let path = directory.join("spill");
        // One may be left of a process that died between the two calls.
        let options = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).clone();
        let file = options.open(&path)?;
        remove_file(&path)?;
        Ok(Self { file, runs: HashMap::new(), end: 0, octets: 0 })
    }

    /// Writes batches of one thread as the run of this number, or behind those that are in it already.
    ///
    /// # Errors
    /// They cannot be written; nothing is kept of them, and what was in the run before stays.
    pub fn write(&mut self, run: u64, batches: &[QueuedBatch]) -> io::Result<()> {
        let mut piece = vec![0; size_of::<u32>()];
        piece.reserve(batches.len() * 64);
        encode(&mut piece, batches);
        let body = piece.get(size_of::<u32>()..).unwrap_or_default();
        let (length, checksum) = (body.len() as u32, crc32fast::hash(body));
        piece.splice(..size_of::<u32>(), length.to_le_bytes());
        piece.extend_from_slice(&checksum.to_le_bytes());
        let before = self.runs.get(&run).copied();
        let stretch = match before {
            Some(before) => self.extend(before, &piece)?,
            None => self.append(&piece, 1)?,
        };
        self.runs.insert(run, stretch);
        self.octets += piece.len() as u64;
        if let Some(before) = before.filter(|before| before.at != stretch.at) {
            self.punch(before);
        }
        Ok(())
    }

    /// Octets at the end of the file, with room for so many times as much.
    fn append(&mut self, octets: &[u8], times: u64) -> io::Result<Stretch> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let room = (octets.len() as u64 * times).next_multiple_of(BLOCK);
        let room = u32::try_from(room).map_err(too_large)?;
        let stretch = Stretch { at: self.end, octets: octets.len() as u32, room };
        self.file.write_all_at(octets, stretch.at)?;
        self.end += u64::from(room);
        Ok(stretch)
    }

    fn extend(&mut self, before: Stretch, piece: &[u8]) -> io::Result<Stretch> {
        let end = u64::from(before.octets) + piece.len() as u64;
        if end <= u64::from(before.room) {
            self.file.write_all_at(piece, before.at + u64::from(before.octets))?;
            return Ok(Stretch { octets: end as u32, ..before });
        }
        // Twice the room, so that a run which grows again and again is seldom copied. Room takes no space.
        let octets = [&*self.read_octets(before)?, piece].concat();
        self.append(&octets, 2)
    }

    fn read_octets(&self, stretch: Stretch) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; stretch.octets as usize];
        self.file.read_exact_at(&mut octets, stretch.at)?;
        Ok(octets)
    }

    /// Reads a run of `thread`, and keeps it.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is not what was written.
    pub fn read(&self, run: u64, thread: &ThreadKey) -> io::Result<Vec<QueuedBatch>> {
        let stretch = self.runs.get(&run).ok_or(io::ErrorKind::NotFound)?;
        let octets = self.read_octets(*stretch)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "batches on disk are not what was written");
        let mut batches = Vec::new();
        let mut rest = Decoder(&octets);
        while !rest.0.is_empty() {
            let piece = piece(&mut rest).map_err(|Malformed| damaged())?;
            batches.append(&mut decode(piece, thread).map_err(|Malformed| damaged())?);
        }
        Ok(batches)
    }

    /// Gives the space of a run back.
    pub fn forget(&mut self, run: u64) {
        let Some(stretch) = self.runs.remove(&run) else { return };
        self.octets -= u64::from(stretch.octets);
        if self.runs.is_empty() {
            // An empty file that begins anew is better than one full of holes. If it cannot be cut, it only grows on.
            if self.file.set_len(0).is_ok() {
                self.end = 0;
            }
            return;
        }
        self.punch(stretch);
    }

    fn punch(&self, stretch: Stretch) {
        let length = u64::from(stretch.octets).next_multiple_of(BLOCK);
        // A file system that cannot do this keeps the space until the file is empty.
        let _ = fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, stretch.at, length);
    }

    /// Octets in all runs.
    pub fn octets(&self) -> u64 {
        self.octets
    }
}

/// The next piece of a run, without its frame.
fn piece<'a>(from: &mut Decoder<'a>) -> Result<&'a [u8], Malformed> {
    let length = from.u32()?;
    let body = from.take(length as usize)?;
    if from.u32()? == crc32fast::hash(body) { Ok(body) } else { Err(Malformed) }
}

fn encode(octets: &mut Vec<u8>, batches: &[QueuedBatch]) {
    let mut out = Encoder(octets);
    out.var(batches.len() as u32);
    let mut before: Option<&Arc<Diagnostic>> = None;
    for batch in batches {
        // All fields by name: one that is added must not be forgotten here.
        let QueuedBatch {
            id,
            thread: _,
            recipients,
            received,
            size,
            copies,
            flow,
            priority,
            deliver_by,
            warned,
            attempts,
            due,
            held,
            last,
        } = batch;
        out.u64(id.message.0);
        out.u32(id.number);
        out.indices(recipients);
        out.u64(received.as_micros());
        out.u64(*size);
        out.u32(*copies);
        Handling { flow: Some(*flow), priority: *priority, deliver_by: *deliver_by }.encode(&mut out);
        out.u32(*attempts);
        out.u64(due.as_micros());
        out.u8(u8::from(*held) | u8::from(*warned) << 1);
        out.u8(last.is_some().into());
        if let Some(last) = last {
            match before {
                Some(before) if **before == **last => out.u8(0),
                _ => encode_diagnostic(&mut out, last),
            }
            before = Some(last);
        }
    }
}

fn decode(body: &[u8], thread: &ThreadKey) -> Result<Vec<QueuedBatch>, Malformed> {
    let mut from = Decoder(body);
    let count = from.count(BATCH_MIN)?;
    let mut batches = Vec::with_capacity(count);
    let mut before: Option<Arc<Diagnostic>> = None;
    for _ in 0..count {
        let id = BatchId { message: MessageId(from.u64()?), number: from.u32()? };
        let recipients = from.indices()?.into();
        let (received, size, copies) = (Timestamp::from_micros(from.u64()?), from.u64()?, from.u32()?);
        let Handling { flow, priority, deliver_by } = Handling::decode(from.take(handling::OCTETS)?)?;
        let (attempts, due, bits) = (from.u32()?, Timestamp::from_micros(from.u64()?), from.u8()?);
        let last = if from.u8()? == 0 {
            None
        } else {
            before = Some(decode_diagnostic(&mut from, before.as_ref())?);
            before.clone()
        };
        batches.push(QueuedBatch {
            id,
            thread: thread.clone(),
            recipients,
            received,
            size,
            copies,
            flow: flow.unwrap_or_default(),
            priority,
            deliver_by,
            warned: bits & 2 != 0,
            attempts,
            due,
            held: bits & 1 != 0,
            last,
        });
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;
    use crate::{ByMode, DeliverBy, Flow, Status};

    fn key() -> ThreadKey {
        ThreadKey::new("smtp", "example.net")
    }

    fn batches() -> impl Strategy<Value = Vec<QueuedBatch>> {
        let ids = (any::<u64>(), any::<u32>(), prop::collection::btree_set(any::<u32>(), 0..9));
        let times = (any::<u64>(), any::<u64>(), any::<u64>());
        let rest = (any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>(), 0u8..3);
        let batch = (ids, times, rest).prop_map(|((message, number, recipients), (received, size, due), rest)| {
            let (copies, flow, attempts, held, last) = rest;
            let text = |last| Arc::new(Diagnostic::local(Status(4, 0, 0), ["slow down", "later"][last]));
            QueuedBatch {
                id: BatchId { message: MessageId(message), number },
                thread: key(),
                recipients: recipients.into_iter().collect(),
                received: Timestamp::from_micros(received),
                size,
                copies,
                flow: Flow(flow),
                priority: attempts as i8,
                deliver_by: held.then_some(DeliverBy {
                    deadline: Timestamp::from_micros(size),
                    mode: if copies % 2 == 0 { ByMode::Return } else { ByMode::Notify },
                    trace: number % 2 == 0,
                }),
                warned: copies % 3 == 0,
                attempts,
                due: Timestamp::from_micros(due),
                held,
                last: (last > 0).then(|| text(usize::from(last) - 1)),
            }
        });
        prop::collection::vec(batch, 0..20)
    }

    proptest! {
        #[test]
        fn batches_come_back_as_they_were(runs in prop::collection::vec(batches(), 1..5)) {
            let directory = tempfile::tempdir().unwrap();
            let mut spill = Spill::create(directory.path()).unwrap();
            for (number, run) in (0..).zip(&runs) {
                spill.write(number, run).unwrap();
            }
            for (number, run) in (0u64..).zip(&runs) {
                prop_assert_eq!(&spill.read(number, &key()).unwrap(), run);
                spill.forget(number);
                prop_assert!(spill.read(number, &key()).is_err());
            }
            prop_assert_eq!((spill.octets(), spill.file.metadata().unwrap().len()), (0, 0));
            prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has no name");
        }

        #[test]
        fn runs_that_grow_in_turn_hold_all_that_was_written(
            pieces in prop::collection::vec((0u64..3, batches()), 1..30),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut spill = Spill::create(directory.path()).unwrap();
            let mut expected: HashMap<u64, Vec<QueuedBatch>> = HashMap::new();
            for (run, batches) in pieces {
                spill.write(run, &batches).unwrap();
                expected.entry(run).or_default().extend(batches);
            }
            for (run, batches) in expected {
                prop_assert_eq!(spill.read(run, &key()).unwrap(), batches);
                spill.forget(run);
            }
            prop_assert_eq!((spill.octets(), spill.file.metadata().unwrap().len()), (0, 0));
        }

        #[test]
        fn noise_is_survived(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&octets, &key());
        }
    }

    #[test]
    fn what_was_read_takes_no_space_any_more_and_damage_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut spill = Spill::create(directory.path()).unwrap();
        let batch = QueuedBatch {
            id: BatchId { message: MessageId(1), number: 0 },
            thread: key(),
            recipients: (0..100_000).collect(),
            received: Timestamp::ZERO,
            size: 1,
            copies: 1,
            flow: Flow(0),
            priority: 0,
            deliver_by: None,
            warned: false,
            attempts: 0,
            due: Timestamp::ZERO,
            held: false,
            last: None,
        };
        for run in 0..10 {
            spill.write(run, std::slice::from_ref(&batch)).unwrap();
        }
        // In units of 512 octets, whatever the file system.
        let blocks = |spill: &Spill| spill.file.metadata().unwrap().blocks();
        let before = blocks(&spill);
        (1..10).for_each(|run| spill.forget(run));
        assert!(blocks(&spill) <= before / 5, "{} of {before}", blocks(&spill));
        spill.file.write_all_at(b"?", 50).unwrap();
        assert_eq!(spill.read(0, &key()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

//! Making a checkpoint, beside the appender and without its help: from the one before and the log since then, as a
//! restart would.
//!
//! The appender only says up to where the log is durable, and goes on. The messages of which the log since the last
//! checkpoint says something are brought up to date; all others are copied. Memory is taken for the former only, for what
//! has changed of them, and never more than [`OCTETS_MAX`]: when there are more than fit, the log is read again for the
//! next of them, in the order of their ids, which is that of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Checkpoint, HEAD, Position, Rest, Writer};
use crate::MessageId;
use crate::format::SEGMENT_HEADER;
use crate::replay::Replay;
use crate::storage::{CheckpointFile, View};

/// Memory for what has changed since the checkpoint before.
const OCTETS_MAX: usize = 32 << 20;
/// The part of it that is read of records between two looks at how much is taken: what they say takes some times as much.
const LOOK_PART: usize = 32;

/// A segment as it was when the job was made.
pub(crate) struct Stretch {
    pub(crate) view: Arc<dyn View>,
    /// What is behind is not durable yet.
    pub(crate) end: u32,
}

/// What a checkpoint is made from.
pub(crate) struct Sources {
    pub(crate) base: Option<Arc<Checkpoint>>,
    /// Where the base ends.
    pub(crate) from: Position,
    pub(crate) segments: BTreeMap<u32, Stretch>,
    /// Set when nobody wants it any more.
    pub(crate) cancelled: Arc<AtomicBool>,
}

/// What is to be done.
pub(crate) struct Job {
    pub(crate) sources: Sources,
    pub(crate) rest: Rest,
    pub(crate) file: Box<dyn CheckpointFile>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("from", &self.sources.from).field("to", &self.rest.position).finish_non_exhaustive()
    }
}

impl Job {
    /// Writes the checkpoint, and says where it ends.
    ///
    /// # Errors
    /// The disk fails, or the job was cancelled; the checkpoint before stays.
    pub(crate) fn run(self) -> io::Result<(Arc<Checkpoint>, Position)> {
        self.run_within(OCTETS_MAX)
    }

    /// The same with so much memory, or what one message needs.
    pub(crate) fn run_within(self, octets_max: usize) -> io::Result<(Arc<Checkpoint>, Position)> {
        let Self { sources, rest, mut file } = self;
        let mut writer = Writer::new(&mut *file);
        let mut base = sources.base.iter().flat_map(|base| base.scan(HEAD)).peekable();
        let mut first = Some(MessageId(0));
        while let Some(from) = first {
            let (replay, last) = sources.replay(from, octets_max)?;
            sources.write(&mut writer, &replay, std::iter::from_fn(|| base.next_if(|(id, _)| *id <= last)))?;
            first = last.0.checked_add(1).map(MessageId);
        }
        let view = writer.finish(&rest)?;
        let identity = |segment| super::identity(&*sources.segments.get(&segment)?.view);
        let live = sources.segments.iter().map(|(number, stretch)| (*number, stretch.end)).collect();
        match Checkpoint::open(view, live, identity) {
            Ok((checkpoint, _)) => Ok((Arc::new(checkpoint), rest.position)),
            Err(unusable) => Err(io::Error::other(unusable)),
        }
    }
}

impl Sources {
    /// What the log says of the messages from `first` on, and which is the last of those.
    fn replay(&self, first: MessageId, octets_max: usize) -> io::Result<(Replay, MessageId)> {
        let views = self.segments.iter().map(|(number, stretch)| (*number, stretch.view.clone()));
        let mut replay = Replay::behind(self.base.clone(), views, first);
        let mut last = MessageId(u64::MAX);
        let look = (octets_max / LOOK_PART).max(1) as u64;
        for (number, stretch) in self.segments.range(self.from.segment..) {
            let mut at = if *number == self.from.segment { self.from.at } else { SEGMENT_HEADER };
            loop {
                let (next, octets) = replay.go_on(*number, &stretch.view, (at, stretch.end), look);
                at = next;
                last = replay.narrow(octets_max);
                self.check()?;
                if octets < look {
                    break;
                }
            }
        }
        Ok((replay, last))
    }

    /// Writes the messages of one replay, and of those that the base has between them.
    fn write<'a>(
        &self,
        writer: &mut Writer<'_>,
        replay: &Replay,
        base: impl Iterator<Item = (MessageId, &'a [u8])>,
    ) -> io::Result<()> {
        // One that is missing here would be lost with the next restart.
        let entry =
            |message| replay.entry(message).ok_or_else(|| io::Error::other(format!("{message} is not understood")));
        let mut changed = replay.known().peekable();
        for (message, octets) in base {
            while let Some(before) = changed.next_if(|changed| *changed < message) {
                writer.entry(&entry(before)?)?;
            }
            // The segments of today: one may have gone since the base was opened.
            let home = crate::format::u32_at(octets, 8);
            let live = home.is_some_and(|home| self.segments.contains_key(&home));
            if replay.is_touched(message) || !live {
                continue;
            }
            if let Some(base) = &self.base {
                writer.copy(base, message, octets)?;
            }
            self.check()?;
        }
        for message in changed {
            writer.entry(&entry(message)?)?;
        }
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

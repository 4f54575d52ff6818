//! Making a checkpoint, beside the appender and without its help: from the one before and the log since then, as a
//! restart would.
//!
//! The appender only says up to where the log is durable, and goes on. The messages of which the log since the last
//! checkpoint says something are brought up to date; all others are copied. Memory is taken for the former only.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Checkpoint, Position, Rest, Writer};
use crate::format::SEGMENT_HEADER;
use crate::replay::Replay;
use crate::storage::{CheckpointFile, View};

/// A segment as it was when the job was made.
pub(crate) struct Stretch {
    pub(crate) view: Arc<dyn View>,
    /// What is behind is not durable yet.
    pub(crate) end: u32,
}

/// What is to be done.
pub(crate) struct Job {
    pub(crate) base: Option<Arc<Checkpoint>>,
    /// Where the base ends.
    pub(crate) from: Position,
    pub(crate) segments: BTreeMap<u32, Stretch>,
    pub(crate) rest: Rest,
    pub(crate) file: Box<dyn CheckpointFile>,
    /// Set when nobody wants it any more.
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("from", &self.from).field("to", &self.rest.position).finish_non_exhaustive()
    }
}

impl Job {
    /// Writes the checkpoint, and says where it ends.
    ///
    /// # Errors
    /// The disk fails, or the job was cancelled; the checkpoint before stays.
    pub(crate) fn run(mut self) -> io::Result<(Arc<Checkpoint>, Position)> {
        let views = self.segments.iter().map(|(number, stretch)| (*number, stretch.view.clone()));
        let mut replay = Replay::behind(self.base.clone(), views);
        for (number, stretch) in self.segments.range(self.from.segment..) {
            let at = if *number == self.from.segment { self.from.at } else { SEGMENT_HEADER };
            replay.go_on(*number, &stretch.view, (at, stretch.end), u64::MAX);
            self.check()?;
        }
        // One that is missing here would be lost with the next restart.
        let entry =
            |message| replay.entry(message).ok_or_else(|| io::Error::other(format!("{message} is not understood")));
        let mut writer = Writer::new(&mut *self.file);
        let mut changed = replay.known().peekable();
        if let Some(base) = &self.base {
            for (message, octets) in base.scan(super::HEAD) {
                while let Some(before) = changed.next_if(|changed| *changed < message) {
                    writer.entry(&entry(before)?)?;
                }
                // The segments of today: one may have gone since the base was opened.
                let home = crate::format::u32_at(octets, 8);
                let live = home.is_some_and(|home| self.segments.contains_key(&home));
                if replay.is_touched(message) || !live {
                    continue;
                }
                writer.copy(base, message, octets)?;
                if self.cancelled.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
        }
        for message in changed {
            writer.entry(&entry(message)?)?;
        }
        let view = writer.finish(&self.rest)?;
        let position = self.rest.position;
        let identity = |segment| super::identity(&*self.segments.get(&segment)?.view);
        let live = self.segments.iter().map(|(number, stretch)| (*number, stretch.end)).collect();
        match Checkpoint::open(view, live, identity) {
            Ok((checkpoint, _)) => Ok((Arc::new(checkpoint), position)),
            Err(unusable) => Err(io::Error::other(unusable)),
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

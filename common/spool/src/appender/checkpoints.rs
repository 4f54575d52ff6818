//! When a checkpoint is made, and what is said of the log then; the making is in [`crate::checkpoint::job`]. And handing
//! out what an earlier run left.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Appender, Output, Reclaim};
use crate::Options;
use crate::backlog::{Backlog, Left};
use crate::checkpoint::job::{Job, Sources, Stretch};
use crate::checkpoint::{Checkpoint, Position, Rest, Source, identity};
use crate::recovery::Damage;

pub(super) struct Checkpoints {
    base: Option<Arc<Checkpoint>>,
    /// Where the base ends.
    position: Position,
    /// Octets of records since.
    pub(super) recorded: u64,
    octets: u64,
    /// Set when the one that is being made is not wanted any more.
    cancelled: Option<Arc<AtomicBool>>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self {
            base: None,
            position: Position::default(),
            recorded: 0,
            octets: Options::CHECKPOINT_BYTES_DEFAULT,
            cancelled: None,
        }
    }
}

impl Appender {
    /// What recovery began with: a checkpoint up to there, if any, and so many octets of records behind it.
    pub(crate) fn set_checkpoint(&mut self, base: Option<Arc<Checkpoint>>, position: Position, recorded: u64) {
        self.shared.set_checkpoint(base.clone(), position);
        self.checkpoints = Checkpoints { base, position, recorded, ..Checkpoints::default() };
    }

    /// Makes checkpoints after so many octets of records.
    pub(crate) fn set_checkpoint_octets(&mut self, octets: u64) {
        self.checkpoints.octets = octets;
    }

    /// The one that was begun is not made.
    #[cfg(test)]
    pub(crate) fn cancel_and_forget_checkpoint(&mut self) {
        self.checkpoints.cancelled = None;
    }

    /// Begins a checkpoint when it is time for one. Only when all that was written is durable and in the books.
    pub(super) fn look_for_checkpoint(&mut self) {
        let checkpoints = &self.checkpoints;
        if checkpoints.recorded < checkpoints.octets || checkpoints.cancelled.is_some() {
            return;
        }
        let views = self.log.segments().filter_map(|(number, end)| Some((number, end, self.shared.view(number)?)));
        let segments: BTreeMap<u32, Stretch> =
            views.map(|(number, end, view)| (number, Stretch { view, end })).collect();
        let Some((last, stretch)) = segments.last_key_value() else { return };
        let position = Position { segment: *last, at: stretch.end };
        let source = |(segment, stretch): (&u32, &Stretch)| {
            let pins_peak = self.ledger.pins_peak(*segment);
            Some(Source { segment: *segment, identity: identity(&*stretch.view)?, pins_peak })
        };
        let sources = segments.iter().filter_map(source).collect();
        let rest = Rest { position, sources, marks: self.ledger.all_marks(), threads: self.threads.clone() };
        let cancelled = Arc::new(AtomicBool::new(false));
        let sources = Sources {
            base: checkpoints.base.clone(),
            from: checkpoints.position,
            segments,
            cancelled: cancelled.clone(),
        };
        let job = Job { sources, rest, file: self.log.checkpoint_file() };
        self.checkpoints.cancelled = Some(cancelled);
        self.checkpoints.recorded = 0;
        self.outputs.push_back(Output::Checkpoint(Box::new(job)));
    }

    /// The checkpoint is made, or could not be.
    pub(crate) fn checkpointed(&mut self, result: io::Result<(Arc<Checkpoint>, Position)>) {
        self.checkpoints.cancelled = None;
        match result {
            Ok((checkpoint, position)) => {
                self.shared.set_checkpoint(Some(checkpoint.clone()), position);
                self.checkpoints.base = Some(checkpoint);
                self.checkpoints.position = position;
                self.shared.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => log::warn!("spool: no checkpoint could be made: {error}; a restart takes longer"),
        }
    }

    /// So many messages of an earlier run are still to be told of.
    pub(crate) fn count_recovering(&self, messages: u64) {
        self.shared.counters.recovering.store(messages, Ordering::Relaxed);
    }

    /// Nobody wants the checkpoint that is being made.
    pub(crate) fn cancel_checkpoint(&mut self) {
        if let Some(cancelled) = &self.checkpoints.cancelled {
            cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Damage that was found while the hub runs.
    pub(super) fn report(&self, damage: &Damage) {
        log::error!("spool: {damage}");
        self.shared.counters.damage.fetch_add(1, Ordering::Relaxed);
    }

    /// The next message that an earlier run left. Those that are lost are reported and leave the queue.
    pub(crate) fn recall(&mut self, backlog: &mut Backlog) -> Option<Left> {
        loop {
            let left = backlog.poll(&self.ledger, &self.shared);
            if backlog.is_over() {
                self.all_recalled();
                backlog.release();
            }
            match left? {
                Ok(left) => {
                    left.damage.iter().for_each(|damage| self.report(damage));
                    return Some(left);
                }
                Err((message, damage)) => {
                    self.report(&damage);
                    self.shared.remove(message);
                    self.ledger.forget(message);
                    self.reclaim = Reclaim::Look;
                    self.count_open();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

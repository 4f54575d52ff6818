//! When the disk does not take what it is given: what is kept, what is refused, and how it starts again.

use std::collections::VecDeque;
use std::io;

use super::{Appender, Fate, Move, Output, Reclaim, Staged, Urgency};
use crate::message::Extent;
use crate::record::Record;
use crate::shared::Place;
use crate::{Health, Queue, Refused};

/// The disk does not take what it is given.
pub(super) struct Trouble {
    pub(super) refused: Refused,
    /// What could not be recorded and must be.
    pub(super) backlog: VecDeque<Record>,
}

impl Appender {
    /// Whether the disk fails; then [`retry`](Self::retry) is due in a second.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// Records that wait for the disk to work again.
    pub(crate) fn backlog(&self) -> usize {
        self.trouble.as_ref().map_or(0, |trouble| trouble.backlog.len())
    }

    /// Tries the disk again after trouble, beginning with what could not be recorded.
    pub(crate) fn retry(&mut self) {
        let Some(mut trouble) = self.trouble.take() else { return };
        // Reclaiming needs no space when nothing in the segment is wanted any more: it may be what helps.
        self.reclaim_for_free();
        let mut result = self.log.is_in_place().and_then(|()| self.log.ensure_started());
        while result.is_ok()
            && let Some(record) = trouble.backlog.pop_front()
        {
            result = self.stage(record, Urgency::Now).map_err(|(error, record)| {
                record.into_iter().for_each(|record| trouble.backlog.push_front(record));
                error
            });
        }
        let result = result.and_then(|()| self.log.sync());
        match result {
            Ok(()) => {
                log::info!("spool: recording again");
                self.tell_health();
                self.outputs.push_back(Output::Queue(Queue::Resumed));
                self.settle();
            }
            Err(error) => {
                self.trouble = Some(Trouble { refused: trouble.refused, backlog: VecDeque::new() });
                self.fail(&error);
                self.trouble.iter_mut().for_each(|now| now.backlog.append(&mut trouble.backlog));
            }
        }
    }

    /// The disk failed: sorts what was durable by then from what was not.
    pub(super) fn fail(&mut self, error: &io::Error) {
        self.log.abandon();
        self.bodies.clear();
        self.urgency = Urgency::None;
        self.give_up_compaction();
        let refused = refusal(error);
        let mut backlog = VecDeque::new();
        let mut lost = false;
        for staged in std::mem::take(&mut self.staged) {
            let place = match &staged {
                Staged::Commit(commit) => Some(commit.place),
                Staged::Record(_, place) | Staged::Move(Move { place, .. }) => Some(*place),
                Staged::Flush(_) | Staged::Delete(_) => None,
            };
            lost |= place.is_some_and(|place| !self.log.is_durable(place));
            match staged {
                staged if !lost => self.apply(staged),
                Staged::Commit(commit) => self.answer(&commit.reply, Err(refused.clone())),
                Staged::Flush(reply) => self.answer(&reply, Err(refused.clone())),
                Staged::Record(record, _) => backlog.push_back(record),
                // It stays where it was.
                Staged::Move(_) => {}
                Staged::Delete(_) => self.reclaim = Reclaim::Look,
            }
        }
        let log = &self.log;
        for under_way in self.under_way.values_mut() {
            let place =
                |extent: &Extent| Place { segment: extent.segment, offset: extent.offset, length: extent.length };
            if !under_way.extents.iter().all(|extent| log.is_durable(place(extent))) {
                under_way.fate = Fate::Lost;
            }
        }
        self.shared.set_health(if refused == Refused::Full { Health::Full } else { Health::Broken });
        match &mut self.trouble {
            Some(trouble) => {
                trouble.refused = refused;
                trouble.backlog.append(&mut backlog);
            }
            None => {
                log::error!("spool: cannot record: {error}; mail is refused and delivery pauses until it works again");
                self.outputs.push_back(Output::Queue(Queue::Paused(error.to_string())));
                self.trouble = Some(Trouble { refused, backlog });
            }
        }
    }
}

/// How a client is told of `error`.
pub(super) fn refusal(error: &io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Refused::Full,
        _ => Refused::Broken,
    }
}

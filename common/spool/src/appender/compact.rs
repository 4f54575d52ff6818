//! Emptying the segments that a few messages keep, so that they can go.
//!
//! A round picks segments of which half or more is free, and the messages that need them. It reads back what is known
//! of these messages as recovery would ([`Replay`]), from the segment with the first of their own records up to the end
//! of the log. Only when it has caught up, and between groups, when all that was written is durable and in the books,
//! it records a message again: the pieces of its content that lie in those segments (once, however many messages share
//! them), then one record with everything else. What the books say of a message must be what was read, or it stays.
//!
//! A crash at any time leaves the message at its old place or at its new one; the pins of the old one go when the new
//! one is durable. Pieces that were copied for a message that was not recorded again are garbage in a new segment.
//!
//! Nothing is moved before all that an earlier run left has been handed out: until then, where those messages go is read
//! from the records of that run.
//!
//! All of it is paid for out of an allowance of octets that the driver [grants](Appender::grant) as time goes by.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering;

use super::{Appender, Move, Reclaim, Staged};
use crate::MessageId;
use crate::format::{Kind, SEGMENT_HEADER};
use crate::message::{self, Extent, Layout};
use crate::moved::Moved;
use crate::record::Record;
use crate::recovery::is_intact;
use crate::replay::Replay;
use crate::shared::Place;

/// Messages moved in one round: bounds the memory that it takes.
const MESSAGES_MAX: usize = 10_000;
/// Octets that may be saved up while there is nothing to do: bounds how long a group waits for a step.
const ALLOWANCE_MAX: i64 = 1 << 20;

#[derive(Default)]
pub(super) struct Compaction {
    /// Octets that may be read and written. Below zero after a message that was larger than what was left.
    allowance: i64,
    round: Option<Round>,
    /// Whether a segment may have become sparse.
    look: Look,
    backlog: Handed,
}

/// Whether what an earlier run left has been handed out. Until then it is read where that run wrote it, and stays there.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Handed {
    #[default]
    Out,
    NotYet,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Look {
    #[default]
    Now,
    Later,
}

struct Round {
    sources: Vec<u32>,
    replay: Replay,
    /// Where the replay goes on.
    segment: u32,
    at: u32,
    /// What is left to do, last first.
    messages: Vec<MessageId>,
    /// Where pieces have gone. Each of them pins its new segment until the end of the round.
    copied: HashMap<Extent, Extent>,
}

/// Why a message stays where it is.
enum Stays {
    Damaged,
    Disk(io::Error),
}

impl Appender {
    /// Allows for so many octets more.
    pub(crate) fn grant(&mut self, octets: u64) {
        let sum = self.compaction.allowance.saturating_add_unsigned(octets);
        self.compaction.allowance = sum.min(ALLOWANCE_MAX);
    }

    /// Whether a round is under way or may begin, so that [`settle`](Self::settle) is worth calling once something is granted.
    pub(crate) fn is_compacting(&self) -> bool {
        let work = self.compaction.round.is_some() || self.compaction.look == Look::Now;
        work && self.compaction.backlog == Handed::Out && self.trouble.is_none()
    }

    /// There are messages of an earlier run that are still to be [recalled](Self::recall).
    pub(crate) fn expect_recalls(&mut self) {
        self.compaction.backlog = Handed::NotYet;
    }

    /// All of them have been.
    pub(super) fn all_recalled(&mut self) {
        self.compaction.backlog = Handed::Out;
    }

    /// Something has left the queue.
    pub(super) fn look_for_sparse(&mut self) {
        self.compaction.look = Look::Now;
    }

    /// Goes on for as long as the allowance lasts. Only between groups.
    pub(super) fn compact(&mut self) {
        if self.trouble.is_some() || self.compaction.backlog == Handed::NotYet || self.compaction.allowance <= 0 {
            return;
        }
        let round = self.compaction.round.take().or_else(|| self.begin_round());
        let Some(mut round) = round else { return };
        self.catch_up(&mut round);
        while self.compaction.allowance > 0 {
            match self.move_next(&mut round) {
                Ok(true) => {}
                Ok(false) => {
                    self.end_round(round);
                    return;
                }
                Err(error) => {
                    self.compaction.round = Some(round);
                    self.fail(&error);
                    return;
                }
            }
        }
        self.compaction.round = Some(round);
    }

    fn spend(&mut self, octets: u64) {
        self.compaction.allowance = self.compaction.allowance.saturating_sub_unsigned(octets);
    }

    fn begin_round(&mut self) -> Option<Round> {
        if std::mem::replace(&mut self.compaction.look, Look::Later) == Look::Later {
            return None;
        }
        let sealed = self.log.sealed().filter(|(segment, _)| self.ledger.may_be_sparse(*segment));
        let candidates: Vec<(u32, u32)> = sealed.filter(|(segment, _)| !self.is_being_filled(*segment)).collect();
        if candidates.is_empty() {
            return None;
        }
        let (sources, messages) = self.choose(&candidates);
        let places: Vec<(MessageId, Place)> =
            messages.iter().filter_map(|message| Some((*message, self.shared.place(*message)?))).collect();
        let first = places.iter().map(|(_, place)| place.segment).min()?;
        // Equal bodies that come from now on are not to be tied to what is about to go.
        sources.iter().for_each(|segment| self.bodies.drop_segment(*segment));
        let replay = Replay::of(places.into_iter());
        log::debug!("spool: compacting segments {sources:?}: {} message(s) to move", messages.len());
        Some(Round { sources, replay, segment: first, at: SEGMENT_HEADER, messages, copied: HashMap::new() })
    }

    /// Whether pieces of a message that has not been committed are in there.
    fn is_being_filled(&self, segment: u32) -> bool {
        self.under_way.values().flat_map(|message| &message.extents).any(|extent| extent.segment == segment)
    }

    /// Those of `candidates` that are half free, oldest first, and the messages that need them, last first.
    fn choose(&mut self, candidates: &[(u32, u32)]) -> (Vec<u32>, Vec<MessageId>) {
        let segments: Vec<u32> = candidates.iter().map(|(segment, _)| *segment).collect();
        let mut live: HashMap<u32, u64> = HashMap::new();
        let mut counted = HashSet::new();
        let needing = self.ledger.needing(&segments);
        for (message, _) in &needing {
            let (Some(place), Ok(stored)) = (self.shared.place(*message), self.reader.message(*message)) else {
                continue;
            };
            *live.entry(place.segment).or_default() += u64::from(place.length);
            for extent in stored.extents().filter(|extent| counted.insert(*extent)) {
                *live.entry(extent.segment).or_default() += u64::from(extent.length);
            }
        }
        let mut sources = Vec::new();
        let mut messages = HashSet::new();
        for (segment, end) in candidates {
            let needed = needing.iter().filter(|(_, needed)| needed.contains(segment)).map(|(message, _)| *message);
            let half_free = live.get(segment).copied().unwrap_or(0) <= u64::from(*end) / 2;
            if messages.len() >= MESSAGES_MAX {
                break;
            }
            self.ledger.judged(*segment);
            if half_free {
                sources.push(*segment);
                messages.extend(needed.take(MESSAGES_MAX));
            }
        }
        let mut messages: Vec<MessageId> = messages.into_iter().collect();
        messages.sort_unstable_by(|one, other| other.cmp(one));
        (sources, messages)
    }

    /// Reads on, to the end of what is durable if the allowance lasts.
    fn catch_up(&mut self, round: &mut Round) {
        while self.compaction.allowance > 0 {
            if let (Some(view), Some(end)) = (self.shared.view(round.segment), self.log.end(round.segment)) {
                let budget = self.compaction.allowance.unsigned_abs();
                let (at, octets) = round.replay.go_on(round.segment, &view, (round.at, end), budget);
                round.at = at;
                self.spend(octets);
                if at < end && octets > 0 {
                    continue;
                }
            }
            let Some(next) = self.log.first_from(round.segment.saturating_add(1)) else { return };
            (round.segment, round.at) = (next, SEGMENT_HEADER);
        }
    }

    /// Copies a piece of the next message, or moves the message when all of them are copied: a large body is copied as
    /// the allowance allows, over many groups. Says whether anything was left to do.
    fn move_next(&mut self, round: &mut Round) -> io::Result<bool> {
        let Some(message) = round.messages.last().copied() else { return Ok(false) };
        if let Some(extent) = self.next_piece(round, message) {
            match self.copy(extent) {
                Ok(copy) => {
                    self.ledger.pin(copy.segment);
                    round.copied.insert(extent, copy);
                    return Ok(true);
                }
                // It is left to the move itself to say so.
                Err(Stays::Damaged) => {}
                Err(Stays::Disk(error)) => return Err(error),
            }
        }
        round.messages.pop();
        // It may have left the queue meanwhile.
        let moved = self.ledger.is_live(message).then(|| round.replay.take(message, &self.ledger)).flatten();
        match moved.map(|moved| self.move_message(round, moved)) {
            None | Some(Ok(())) => {}
            Some(Err(Stays::Damaged)) => log::error!("spool: message {message} is damaged; it is not moved"),
            Some(Err(Stays::Disk(error))) => return Err(error),
        }
        Ok(true)
    }

    /// A piece of the message that is to be copied before it is moved.
    fn next_piece(&self, round: &Round, message: MessageId) -> Option<Extent> {
        let stored = self.ledger.is_live(message).then(|| self.reader.message(message).ok()).flatten()?;
        stored.extents().find(|extent| round.sources.contains(&extent.segment) && !round.copied.contains_key(extent))
    }

    fn move_message(&mut self, round: &mut Round, mut moved: Moved) -> Result<(), Stays> {
        let layout = Layout::parse(&moved.record).map_err(|_| Stays::Damaged)?;
        let extents = (0..layout.extents).filter_map(|index| layout.extent(&moved.record, index));
        let extents: Vec<Extent> = extents.collect();
        for extent in extents.iter().filter(|extent| round.sources.contains(&extent.segment)) {
            if !round.copied.contains_key(extent) {
                let copy = self.copy(*extent)?;
                self.ledger.pin(copy.segment);
                round.copied.insert(*extent, copy);
            }
        }
        let new = |extent: Extent| round.copied.get(&extent).copied().unwrap_or(extent);
        message::replace_extents(&mut moved.record, &layout, new);
        let (message, oldest) = (moved.message, moved.oldest);
        let octets = moved.record.len() as u32;
        self.body.clear();
        let record = Record::Moved(Box::new(moved));
        record.encode(&mut self.body);
        let place = self.log.append(record.kind(), &self.body).map_err(Stays::Disk)?.tail(octets);
        self.spend(self.body.len() as u64);
        let extents = extents.into_iter().map(new).collect();
        self.staged.push(Staged::Move(Move { message, place, oldest, extents }));
        Ok(())
    }

    fn copy(&mut self, extent: Extent) -> Result<Extent, Stays> {
        let view = self.shared.view(extent.segment).ok_or(Stays::Damaged)?;
        let end = self.log.end(extent.segment).ok_or(Stays::Damaged)?;
        // A copy gets a checksum of its own: what is damaged must not become sound by it.
        let bytes = view.get(extent.offset, extent.length).filter(|_| is_intact(extent, &*view, end));
        let place = self.log.append(Kind::Piece, bytes.ok_or(Stays::Damaged)?).map_err(Stays::Disk)?;
        self.spend(extent.length.into());
        Ok(Extent { segment: place.segment, offset: place.offset, length: place.length })
    }

    /// The message is at its new place, durably.
    pub(super) fn apply_move(&mut self, moved: Move) {
        let Move { message, place, oldest, extents } = moved;
        // Nothing else takes a message out of the queue before this: it was live when its move was staged.
        if !self.ledger.is_live(message) {
            return;
        }
        self.shared.insert(message, place);
        self.shared.counters.moved_messages.fetch_add(1, Ordering::Relaxed);
        let segments = extents.iter().map(|extent| extent.segment).chain([place.segment]);
        self.ledger.moved(message, oldest, segments);
        self.reclaim = Reclaim::Look;
    }

    fn end_round(&mut self, round: Round) {
        round.copied.values().for_each(|copy| self.ledger.unpin(copy.segment));
        self.reclaim = Reclaim::Look;
        self.compaction.look = Look::Now;
    }

    /// After a disk error: what was copied may be lost.
    pub(super) fn give_up_compaction(&mut self) {
        if let Some(round) = self.compaction.round.take() {
            self.end_round(round);
        }
    }
}

#[cfg(test)]
mod tests;

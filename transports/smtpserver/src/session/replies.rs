//! The replies of a session, in the order of their commands, some of which wait for the disk.
//!
//! A final reply is known only when the message is on stable storage. Commands behind it are worked off meanwhile, and
//! what they answer waits here behind the gap, so that a client which streams transactions shares one sync among its
//! own messages. Nothing is ever answered out of order.

use std::collections::VecDeque;

use zrelay_spool::{MessageId, Refused};

use crate::shared::Reservation;

/// Final replies that may be outstanding. One group commit takes in what came during the last one; 32 messages in
/// each keep a single client ahead of a disk that syncs in milliseconds.
pub(super) const PENDING_MAX: usize = 32;
/// Octets of replies behind a gap before the input is paused: 32 transactions of a thousand recipients.
const BEHIND_BYTES_MAX: usize = 512 * 1024;
/// Octets of replies that may wait for the driver before the input is paused.
const READY_BYTES_MAX: usize = 64 * 1024;

/// Room for replies that a session keeps while it is idle, octets: the reply to EHLO fits, so that a client which waits
/// for each reply costs no allocation.
const KEPT_BYTES_MAX: usize = 256;

/// A message that was handed to the spool.
#[derive(Debug)]
pub(super) struct Filed {
    pub(super) id: MessageId,
    /// How many final replies answer it: LMTP has one for each recipient (RFC 2033 §4.2).
    pub(super) replies: usize,
    /// The memory of its envelope and content, until the spool has written them.
    pub(super) memory: Reservation,
}

/// A final reply that is not known, and the replies behind it.
#[derive(Debug)]
struct Gap {
    filed: Filed,
    answer: Option<Result<(), Refused>>,
    behind: Vec<u8>,
}

/// The replies of a session, in the order of their commands.
#[derive(Debug, Default)]
pub(super) struct Replies {
    ready: Vec<u8>,
    gaps: VecDeque<Gap>,
    behind_bytes: usize,
    /// The serial number of the first gap; they count up.
    first: u64,
}

impl Replies {
    /// A reply that is known, with its CRLF.
    pub(super) fn push(&mut self, reply: &str) {
        self.push_bytes(reply.as_bytes());
    }

    /// The same, several lines or not, as octets.
    pub(super) fn push_bytes(&mut self, reply: &[u8]) {
        let Some(gap) = self.gaps.back_mut() else {
            self.ready.extend_from_slice(reply);
            return;
        };
        gap.behind.extend_from_slice(reply);
        self.behind_bytes += reply.len();
    }

    /// Leaves a gap for the final reply to `filed`, and returns its serial number.
    pub(super) fn push_gap(&mut self, filed: Filed) -> u64 {
        let serial = self.first.wrapping_add(self.gaps.len() as u64);
        self.gaps.push_back(Gap { filed, answer: None, behind: Vec::new() });
        serial
    }

    /// Fills a gap, after `look` has seen what it was for. Nothing happens when there is no such gap or it is filled.
    pub(super) fn settle(&mut self, serial: u64, answer: Result<(), Refused>, look: impl FnOnce(&Filed)) {
        let Ok(position) = usize::try_from(serial.wrapping_sub(self.first)) else {
            return;
        };
        let Some(gap) = self.gaps.get_mut(position).filter(|gap| gap.answer.is_none()) else {
            return;
        };
        look(&gap.filed);
        gap.answer = Some(answer);
        gap.filed.memory.set(0);
        self.advance();
    }

    /// Moves what no gap holds back any more to the ready replies.
    fn advance(&mut self) {
        while let Some(answer) = self.gaps.front().and_then(|gap| gap.answer.clone()) {
            let Some(gap) = self.gaps.pop_front() else {
                return;
            };
            self.first = self.first.wrapping_add(1);
            self.behind_bytes -= gap.behind.len();
            let reply = final_reply(&gap.filed, answer);
            (0..gap.filed.replies).for_each(|_| self.ready.extend_from_slice(reply.as_bytes()));
            self.ready.extend_from_slice(&gap.behind);
        }
    }

    /// Moves the replies that can be sent to `out`.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.ready);
        if self.ready.capacity() > KEPT_BYTES_MAX {
            self.ready = Vec::new();
        }
    }

    /// How many final replies are outstanding.
    pub(super) fn pending(&self) -> usize {
        self.gaps.len()
    }

    /// Whether everything said so far has been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty() && self.ready.is_empty()
    }

    /// Whether the client has to wait for replies before more of its commands are worked off.
    pub(super) fn is_congested(&self) -> bool {
        self.gaps.len() >= PENDING_MAX || self.behind_bytes >= BEHIND_BYTES_MAX || self.ready.len() >= READY_BYTES_MAX
    }
}

fn final_reply(filed: &Filed, answer: Result<(), Refused>) -> String {
    match answer {
        Ok(()) => format!("250 2.0.0 Ok: queued as {}\r\n", filed.id),
        Err(Refused::Full) => "452 4.3.1 Insufficient system storage\r\n".to_owned(),
        Err(Refused::Broken) => "451 4.3.0 Error: queue file write error\r\n".to_owned(),
    }
}

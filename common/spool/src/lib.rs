//! The spool: where mail lies from the 250 that accepts it until nobody needs it any more.
//!
//! An append-only log of checksummed records in segments, written by one thread. Requests of all rooms are gathered
//! while the disk is busy, written together and made durable by one `fdatasync` (**group commit**); only then are they
//! answered, told to the other rooms and entered in the books.
//!
//! ```text
//!   intake ──Append* Commit──▶ ┌──────────┐ ──Arrived──▶ router
//!                              │ appender │ ──Queue────▶ scheduler
//!   router, scheduler,         │  ledger  │ ──Fact─────▶ notary, delivery log
//!   notary ──Routed Outcomes──▶└────┬─────┘ ──Committed▶ whoever asked
//!            Batch Settled ...      │ append, fdatasync
//!                              segments ◀──mapped, read only── Reader ◀── router, agents
//! ```
//!
//! | what happens | record | durable | what a crash means | test in `appender/durability.rs` |
//! |---|---|---|---|---|
//! | a segment is begun | Segments | before anything else is written to it, with its name in the directory | before that: it was never there | `a_segment_that_was_not_finished_being_made_was_never_there` |
//! | [`Request::Append`] | Piece | with the commit | before the commit: the message was never there, its client has no answer | `pieces_without_a_commit_were_never_there` |
//! | [`Request::Commit`] | Message (the envelope, and where its content lies) | before [`Committed`] | answered: it is there. Not answered: it may be there, and the client may send it again | `a_message_is_there_when_it_was_answered` |
//! | [`Request::Routed`] | Routed | before [`Queue::Batch`] | lost before that: the message is announced to the router again | `a_decision_that_was_not_told_is_asked_for_again` |
//! | [`Request::Outcomes`] | Outcomes | before [`Fact::Outcome`] | lost before that: the recipients are open, and may get the message twice | `an_outcome_that_was_not_told_leaves_the_recipient_open` |
//! | [`Request::Batch`], [`Request::Reroute`], [`Request::Thread`] | Batch, Rerouted, Thread | at the end of its group | lost before that: the state before | `what_an_operator_did_counts_from_the_end_of_its_group` |
//! | a notification ([`Envelope::origin`]) | its Message | before [`Committed`] | stored and settled, or neither | `a_notification_is_stored_and_settles_or_neither` |
//! | [`Request::Settled`] | Settled | at the end of its group | lost before that: the report is owed, and told again | `a_report_that_was_not_settled_is_owed_again` |
//! | a message is copied forward | Pieces, Moved | with the next group, or 100 ms later | lost before that: it is where it was, and its old segment stays until it is durable | `a_message_that_moves_is_at_one_place_or_the_other` |
//! | the last recipient done, nothing owed | Finished | with the next group, or 100 ms later | lost before that: it follows from the outcomes, which stay until it is durable | `an_end_that_was_not_recorded_follows_from_the_outcomes` |
//! | a segment is removed | none | its name leaves the directory when what it still held is durable elsewhere | lost before that: it is there, is not believed and removed again | `a_segment_whose_removal_was_lost_is_not_believed` |
//! | [`Request::Flush`] | none | all before it, before [`Committed`] | | `a_flush_is_answered_when_all_before_it_is_durable` |
//!
//! **Space.** A message in the queue pins every segment with a record of it, and those with its content. A full
//! segment that nothing pins is removed. Before that, what else in it is still wanted is recorded again: that messages
//! are finished which have records in older segments, so that recovery does not bring them back; and the states of
//! threads.
//!
//! **Compaction.** A full segment that a few messages keep, half of which or more is free, is emptied: what is known of
//! each of these messages is read back from the log, as recovery would, and recorded again at the end of the log, in one
//! record (Moved), with the pieces of its content in front of it. When that is durable, the message needs its new
//! segments only. It happens between groups, a little at a time; see `appender/compact.rs`.
//!
//! **Checkpoints.** With every 64 MiB of records ([`Options::checkpoint_bytes`]), content not counted, a thread of its own
//! writes down what is known of every message at that place of the log, from the checkpoint before and the log since; the
//! appender only says where the log is durable. A restart reads the checkpoint and the log behind it, and hands messages
//! out as the rooms take them, each after a look at its content, so that the first is delivered long before the last is
//! read. The log stays the truth: a checkpoint that does not fit it is set aside. See `checkpoint.rs`.
//!
//! **What became of a message** in the queue ([`Reader::past`]) is read when somebody asks, from the checkpoint, which keeps
//! the latest attempts of each batch and the ends of its recipients, and the log behind it. It costs the log nothing, the
//! checkpoint 15 octets an attempt, and the appender and the scheduler no look at anything earlier. See `history.rs`.
//!
//! **Equal bodies** that come one after another (VERP) are stored once.
//!
//! **A reserve** of the file system is kept for delivery: while less is free, no new mail is taken in
//! ([`Health::Full`]), and outcomes and reports go on being recorded.
//!
//! **When the disk is full or fails**, mail is refused ([`Refused`]), the scheduler is told to pause, and the disk is
//! tried every second. Outcomes that arrive meanwhile are kept in memory and are the first thing recorded afterwards,
//! in a new segment: after a failed `fdatasync` nobody knows what of the old one is on the disk. The new segment says
//! where the old one ended. Only when the process dies before the disk works again may a restart believe a message
//! whose client was told that it is not stored: a possible duplicate, never a loss.
//!
//! **Memory.** A message with one recipient takes 32 octets, a post some hundred and a bit or two for each recipient;
//! everything else is on disk. [`Options::memory_bytes`] bounds the sum. [`Spill`] takes batches that do not fit into the
//! scheduler's memory. A restart takes some hundred octets more for each batch of which the log behind the checkpoint says
//! something, however many there are beside it in its message, until it is handed out; without a checkpoint that is the
//! whole log, and 12 octets for each message. The making of a checkpoint takes 32 MiB at the most: when more has changed,
//! the log is read several times for it. See `details.rs` and `checkpoint/job.rs`.
//!
//! Layouts on disk: `checkpoint.rs`, `format.rs` (segments, framing, where a torn log ends), `message.rs`, `record.rs`.
#![forbid(unsafe_code)]

mod announce;
mod appender;
mod backlog;
mod bits;
mod bodies;
mod checkpoint;
mod codec;
mod details;
mod driver;
mod envelope;
mod fates;
mod flow;
mod format;
mod handle;
mod handling;
mod history;
mod id;
mod import;
mod ledger;
mod message;
mod moved;
mod offline;
mod outcome;
mod pins;
mod record;
mod recovery;
mod replay;
mod request;
mod shared;
mod spill;
mod spool;
mod storage;
mod stored;
mod table;
mod threads;
mod writer;

// Parts of it serve the tests of this crate only.
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), expect(dead_code))]
mod simulated;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use envelope::{Content, Envelope, Notify, Origin, Recipient, Ret};
pub use flow::Flow;
pub use handle::{Health, SpoolHandle, Statistics};
pub use handling::{ByMode, DeliverBy, Handling};
pub use history::{Attempt, Known, Past, Tried};
pub use id::{BatchId, MessageId, ThreadKey, ThreadKeyError};
pub use import::{BatchProgress, Importer, Progress, Report};
pub use offline::{Check, Fate, Figures, Offline};
pub use outcome::{
    BatchState, Diagnostic, Disposition, Outcome, Owed, QueuedBatch, RoutedBatch, Status, ThreadState, Timing,
};
pub use recovery::Damage;
pub use request::{Arrived, CommitReply, Committed, Fact, Queue, Recorded, Refused, Request};
pub use spill::Spill;
pub use spool::{Holder, OpenError, Options, Outlets, Recovered, Spool};
pub use stored::{ReadError, Reader, Stored, StoredRecipient};

/// Longest piece of content in one [`Request::Append`], in octets.
pub const PIECE_MAX: usize = 256 * 1024;

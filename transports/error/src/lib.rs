//! The notary: what happened to recipients is put on record and told to those who must hear of it.
//!
//! ```text
//!   spool ──Fact──▶ Desk ──▶ delivery log: one line per recipient and outcome
//!                    │
//!                  Gatherer: what is owed, per message, until the message is done or the gather time is over
//!                    │
//!                  plan: one notice per message and sender; a null sender's go to the postmaster or the log
//!                    │
//!                  Notice::write: the report, streamed ──Request──▶ spool, as a message of our own
//! ```
//!
//! Reports are delivery status notifications (RFC 3464 in the form of RFC 6522, and RFC 6533 where addresses are not
//! ASCII) with what RFC 3461 asks for: `ENVID`, `ORCPT` and `RET` are honoured here, `NOTIFY` by the spool, which alone
//! decides what is owed. The sender of a report is the null sender. A report carries its [`Origin`] into the spool, so
//! that storing it and settling what was owed are one record: a crash neither loses a report nor sends it twice.
//!
//! A report that the spool refuses (no space, a broken disk) is made again later; nothing is forgotten, since the spool
//! itself keeps what is owed until it is settled.
//!
//! [`Origin`]: zrelay_spool::Origin
#![forbid(unsafe_code)]

mod desk;
mod fields;
mod gather;
mod notice;
mod original;
mod plan;

pub use desk::{Desk, NextId, Notary, Options};
pub use gather::{Gatherer, Item, OWED_MAX, RETRY, Ripe};
pub use notice::{FULL_MAX, FULL_MAX_WANTED, HEADER_MAX, Notice, Shape};
pub use original::{Archive, Original};
pub use plan::{Addressee, Plan, RECIPIENTS_MAX, plan};

#[cfg(test)]
mod tests;

//! A long link on one machine, and a strict far side behind it.
//!
//! What a relay is worth on a line with a long round trip cannot be seen on loopback. This crate makes such a line where
//! the kernel has no `netem`: two network namespaces, a TUN device in each, and a thread per direction that holds each
//! packet back until its time has come.
//!
//! ```text
//!   namespace "near"                   this process                    namespace "far"
//!   relay ── 10.77.0.1 ── wan0 ──▶ rate · queue · loss · delay ──▶ wan0 ── 10.77.0.2 ── FarSide, plain::Receiver
//!                              ◀──   the same, backwards       ◀──
//! ```
//!
//! - [`Lab`] is the whole of it; [`Lab::near`] and [`Lab::far`] are the namespaces, to run things in.
//! - [`LinkSettings`] say what the line is like, [`LinkReport`] what went over it.
//! - [`FarSide`] is an SMTP server that follows RFC 2920, 3030 and 9422 to the letter, keeps books of every recipient
//!   and a hash of every body, misbehaves on request, and measures how long each side waited for the other.
//! - [`plain`] transfers the same octets over bare TCP: what the line could do.
//!
//! Namespaces have no names and devices are not persistent: both are gone with the process, however it ends. All of it
//! needs root.

mod far;
mod lab;
mod link;
mod namespace;
pub mod plain;
mod tun;

pub use far::{
    Action, Books, Curve, Delivery, FarSide, FarSideBuilder, Final, Gap, Handshake, Moment, Offer,
    Session as SessionReport, Verb,
};
pub use lab::{Lab, LabError};
pub use link::{LinkReport, LinkSettings};
pub use namespace::Namespace;

//! The hub's few calls that need `unsafe`, behind interfaces that do not.
//!
//! * [`AppendFile`] and [`Map`]: a file that only grows below a fixed size, and a read-only mapping of it that shows
//!   only what its writer has published. Together they keep the promise that makes mapping a file sound: octets that a
//!   reader can see never change.
//! * [`tcp_info`]: what the kernel measures of a TCP connection.
//! * [`quickack`]: acknowledge at once, for clients that stop and wait.
#![deny(unsafe_code)]

mod map;
mod tcp;

pub use map::{AppendFile, Map};
pub use tcp::{TcpInfo, accept_fast_open, fast_open, quickack, tcp_info};

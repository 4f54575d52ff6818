//! The hub's few calls that need `unsafe`, behind interfaces that do not.
//!
//! * [`AppendFile`] and [`Map`]: a file that only grows below a fixed size, and a read-only mapping of it that shows
//!   only what its writer has published. Together they keep the promise that makes mapping a file sound: octets that a
//!   reader can see never change.
//! * [`unreadable_pages`]: a bad block under a mapping is an error of its reader, not the end of the process.
//! * [`release_unused_memory`]: gives the kernel back what the heap does not use.
//! * [`tcp_info`]: what the kernel measures of a TCP connection.
//! * [`quickack`]: acknowledge at once, for clients that stop and wait.
#![deny(unsafe_code)]

mod fault;
mod heap;
mod map;
mod tcp;

pub use fault::unreadable_pages;
pub use heap::release_unused_memory;
pub use map::{AppendFile, Map, release_tail};
pub use tcp::{TcpInfo, accept_fast_open, fast_open, quickack, tcp_info};

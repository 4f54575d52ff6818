//! Where mail for a domain goes: a stub resolver for MX and address records.
//!
//! [`Resolver`] is the machine, without a socket and a clock; [`DnsClient`] is its driver, made to be embedded in the
//! `mio` loop of whoever asks. Both answer a [`Question`] with a [`Target`]: the exchanges of a domain in order, each
//! with its addresses.
//!
//! ```text
//!   Question ──▶ cache ──▶ queries: MX, then AAAA and A of each exchange ──▶ Target or DnsError
//!                             │ UDP (EDNS0, 1232 octets), TCP where the answer was cut
//!                         name servers, in turn, each try with its own patience
//! ```
//!
//! How to drive a [`Resolver`]: `resolve` and the `handle_*` methods take what happens, with the time; after each of
//! them call `poll_transmit` and `poll_answer` until they have nothing, and call `handle_timeout` at the time of
//! `poll_timeout`.
//!
//! **What the answers mean** (RFC 5321 §5.1). A domain without MX records is its own exchange. A null MX (RFC 7505), a
//! name that does not exist and a domain none of whose exchanges has an address are final; servers that are silent or
//! answer SERVFAIL are temporary, and one of them among the exchanges makes the lack of addresses temporary too. An
//! exchange that has no address is left out beside one that has.
//!
//! **What is bounded**: questions that wait, queries in flight, aliases in a row, exchanges and addresses of a domain,
//! the cache, and the time of an answer: every try ends after the configured patience, and so does the question after
//! the configured tries.
//!
//! **Forged answers** must match the server's address, the socket out of four that the query left through, its random
//! id, and its question; anything else is dropped without a trace.
#![forbid(unsafe_code)]

mod cache;
mod client;
mod message;
mod model;
mod name;
mod queries;
mod random;
mod resolv_conf;
mod resolver;
#[doc(hidden)]
pub mod testing;

pub use client::DnsClient;
pub use model::{DnsError, Exchange, Question, Settings, Target};
pub use queries::{Transmit, Transport};
pub use resolv_conf::system_servers;
pub use resolver::{QUESTIONS_MAX, Resolver};

#[cfg(test)]
mod tests;

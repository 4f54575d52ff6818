//! The SMTP and LMTP client: carries threads to their next hops over connections that never wait for a round trip they
//! can avoid.
//!
//! ```text
//!   scheduler ──Order──▶ AgentLoop ──▶ agent: resolve · connect · talk ──▶ next hop
//!   scheduler ◀─Report── (one thread)        Conversation (octets in, octets out)
//!                                              ▲ Letter: slices of the spool's maps
//! ```
//!
//! - [`Conversation`] is the engine: one connection as a state machine, without a socket or a clock. It knows the ladder
//!   of conversation levels from lock-step to streamed `BDAT`, and what every reply means for every recipient.
//! - [`AgentLoop`] is the driver: one `mio` loop with many agents, a resolver, TLS, deadlines, and the agent protocol.
//! - [`Letter`] is what both need of a message: the spool's stored messages are letters.
//!
//! No body is copied on the way: it goes from the spool's maps to `writev`, or into TLS.
//!
//! # The first flight
//!
//! Round trips of a new connection from the first packet until a message of any number of recipients is answered, as
//! the tests count them with real TLS sessions. A host is **known** while it is remembered what it offered on its last
//! connection, PIPECONNECT among it ([`Offered`]); that is kept with the other facts about hosts, for a day.
//!
//! | | unknown | known | what they are spent on, where the host is known |
//! |---|---|---|---|
//! | in the clear | 4 | 3 | TCP · `EHLO MAIL RCPT*` · `BDAT` |
//! | STARTTLS, TLS 1.3 | 7 | 5 | TCP · `EHLO STARTTLS` · handshake · `EHLO MAIL RCPT*` · `BDAT` |
//! | implicit TLS, TLS 1.3 | 5 | 4 | TCP · handshake · `EHLO MAIL RCPT*` · `BDAT` |
//!
//! Where the host is not known the greeting and the reply to EHLO are waited for as well, each of both once; behind
//! STARTTLS a second EHLO. To a known host the kernel may send the first flight with the first packet (TCP Fast Open,
//! RFC 7413), which saves the round trip of TCP (`tests/line.rs` shows it between two namespaces; the host's kernel has to
//! have it switched on). Sessions of TLS are resumed; with TLS 1.3 that saves computing and no round trip, with TLS 1.2
//! one: behind STARTTLS it takes 8 to an unknown host and 5 to a known one. Octets of a message never go ahead of the reply
//! to EHLO, which a bolder client would do to save one more: a host that has stopped to offer CHUNKING would run them as
//! commands.
//!
//! # Many connections
//!
//! An outgoing connection in the clear that waits for work took 5,669 octets of resident memory where the test
//! `driver::tests::many` was measured, with 10,000 of them in one loop; the test fails above 16 KiB. It takes no turn of
//! its agent: messages on one connection cost the same beside 10,000 idle ones, and the test counts that.
#![forbid(unsafe_code)]

mod conversation;
mod driver;
mod letter;
mod output;
mod stuffing;
#[cfg(test)]
mod testing;

pub use conversation::{Approach, Conversation, End, Event, Offered, Protocol, Security, Settings};
pub use driver::{AgentLoop, Letters, Options};
pub use letter::{Addressee, Letter};

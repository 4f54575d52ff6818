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
#![forbid(unsafe_code)]

mod conversation;
mod driver;
mod letter;
mod output;
mod stuffing;
#[cfg(test)]
mod testing;

pub use conversation::{Approach, Conversation, End, Event, Protocol, Security, Settings};
pub use driver::{AgentLoop, Letters, Options};
pub use letter::{Addressee, Letter};

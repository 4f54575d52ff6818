//! Sockets, time and names around the engine: one thread, many agents.
//!
//! [`AgentLoop`] owns one `mio::Poll`. Orders come in through a mailbox that wakes it, reports go out through an outbox
//! that never blocks. Every lease is an [`agent`]: it resolves, connects, and then drives a
//! [`Conversation`](crate::Conversation) over a [`link`]. What may be in flight is
//! measured in [`pipe`], how long the far side takes in [`service`]; what hosts taught is kept in [`memory`].

mod agent;
mod agent_loop;
mod hop;
mod link;
mod memory;
mod pipe;
mod race;
mod resolve;
mod service;
mod timers;
mod window;

#[cfg(test)]
mod tests;

pub use agent_loop::{AgentLoop, Letters, Options};

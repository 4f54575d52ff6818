//! The control socket: JSON-RPC 2.0 over a Unix socket, one request or response per line.
//!
//! ```text
//!   zrelay threads ──line──▶ ControlServer (own thread) ──Query──▶ scheduler
//!                  ◀──line── rows, sorted and printed   ◀──views── a page of counters
//! ```
//!
//! Whoever connects must be root or the hub's own user (`SO_PEERCRED`); the socket file has mode 0600. A request has at
//! most [`REQUEST_MAX`] octets. A client that is silent, or does not read, for [`SILENCE_MAX`] is disconnected. There is
//! one request at a time per connection; requests may be written ahead, and are answered in order. Batches (arrays of
//! requests) are refused; a request without `id` is done and not answered.
//!
//! # Methods
//!
//! Parameters are given by name; those marked `?` may be left out. Unknown ones are refused.
//!
//! | method | parameters | result |
//! |---|---|---|
//! | `status` | | `{version, pid, uptime, totals: `[`Totals`]`, spool: {...}}`; `uptime` in seconds |
//! | `channels` | | `{channels: [`[`ChannelRow`]`]}` |
//! | `rings` | | `{rings: [`[`RingRow`]`]}` |
//! | `threads` | `pattern?` over `channel/host`, `sort?`, `limit?` (default 100,000) | `{threads: [`[`ThreadRow`]`], matched}` |
//! | `thread` | `thread` | [`ThreadDetail`] |
//! | `messages` | `thread?` (name or pattern), `sender?`, `recipient?` (patterns), `limit?` (default 1,000) | `{messages: [`[`MessageRow`]`], more}` |
//! | `message` | `id` | [`MessageDetail`] |
//! | `hold` | `selector`: a thread, a pattern or a queue id | [`Changed`](crate::Changed) |
//! | `release` | `selector` | `Changed` |
//! | `retry` | `selector` | `Changed` |
//! | `drop` | `selector` | `Changed` |
//!
//! `sort` is one of `thread` (the default), `recipients`, `batches`, `bytes`, `oldest`, `failures`, `in_flight` (largest
//! first), `next_attempt` (soonest first), `state`. A sender pattern `<>` means the null sender. An empty thread that is
//! only remembered counts as a thread.
//!
//! What else the hub offers ([`Store::call`]) has its methods on the same socket.
//!
//! # Errors
//!
//! Beside JSON-RPC's own codes (-32700 not JSON, -32600 not a request, -32601 no such method, -32602 wrong parameters):
//! [`NOTHING_MATCHED`] -32001, [`UNAVAILABLE`] -32002. The message is a sentence for people.
//!
//! [`Totals`]: crate::snapshot::Totals
//! [`ChannelRow`]: crate::snapshot::ChannelRow
//! [`RingRow`]: crate::snapshot::RingRow
//! [`ThreadRow`]: crate::snapshot::ThreadRow
//! [`ThreadDetail`]: crate::snapshot::ThreadDetail
//! [`MessageRow`]: crate::snapshot::MessageRow

pub mod client;
mod connection;
mod methods;
mod rpc;
mod server;
mod spool;

pub use client::{Client, ClientError};
pub use connection::REQUEST_MAX;
pub use methods::{Addressed, MessageDetail, MessageFacts, Store};
pub use rpc::{
    INTERNAL, INVALID_PARAMS, INVALID_REQUEST, NO_METHOD, NOTHING_MATCHED, PARSE_ERROR, RpcError, UNAVAILABLE,
};
pub use server::{BindError, CLIENTS_MAX, ControlServer, SILENCE_MAX, Stopper};
pub use spool::SpoolStore;

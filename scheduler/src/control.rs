//! The control socket: JSON-RPC 2.0 over a Unix socket, one request or response per line.
//!
//! ```text
//!   zrelay threads ──line──▶ ControlServer (own thread) ──Query──▶ scheduler
//!                  ◀──line── rows, sorted and printed   ◀──views── a page of counters
//! ```
//!
//! Whoever connects must be root, the hub's own user, or have a [`Role`] by the configuration (`SO_PEERCRED`); the socket
//! file has mode 0600 unless others have roles. A request has at most [`REQUEST_MAX`] octets. A client that is silent for [`SILENCE_MAX`], or does not read for [`STALL_MAX`], is
//! disconnected. There is one request at a time per connection; requests may be written ahead, and are answered in order. Batches (arrays of
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
//! | `threads` | `pattern?` over `channel/host`, `state?`, `sort?`, `limit?` (default 100,000) | `{threads: [`[`ThreadRow`]`], matched}` |
//! | `thread` | `thread` | [`ThreadDetail`] |
//! | `qshape` | `pattern?`, `limit?` (default 1,000) | `{qshape: [`[`AgeRow`]`], total: `[`AgeRow`]`, limits_minutes, matched}` |
//! | `whoami` | | [`Caller`] |
//! | `holds` | | `{holds: [`[`HoldRow`]`]}` |
//! | `messages` | `selector?`, `limit?` (default 1,000) | `{messages: [`[`MessageRow`]`], more}` |
//! | `message` | `id` | [`MessageDetail`] |
//! | `hold` | `selector`, `dry_run?` | [`Changed`](crate::Changed), or [`Preview`] |
//! | `release` | `selector`, `dry_run?` | the same |
//! | `retry` | `selector`, `dry_run?` | the same |
//! | `expire` | `selector`, `dry_run?` | the same |
//! | `drop` | `selector`, `dry_run?` | the same |
//!
//! | `subscribe` | `topic`: `overview` with `interval?` (seconds, default 1), `pattern?`, `state?`, `sort?`, `limit?` (default 100), `thread?`; or `trace` with `pattern` | `{subscription}` |
//! | `unsubscribe` | `subscription` | `{subscription}` |
//!
//! # Subscriptions
//!
//! A subscription brings notifications, `overview` ([`Overview`]) or `trace` ([`Trace`]), until it or the connection ends;
//! a connection may have several. One notification at most waits for a client: who reads slowly is told of less, and of a
//! trace how many lines it has missed.
//!
//! # Selectors
//!
//! A `selector` is a term, or an array of terms that must all hold:
//!
//! | term | allows |
//! |---|---|
//! | `smtp/lists.example.net` | this thread |
//! | `smtp/*.example.net` | threads whose name matches; `*` is any run of characters, `?` any one |
//! | `640A1B2C3D4E5` | this message |
//! | `sender:PATTERN` | recipients with an envelope sender that matches; `sender:<>` is the null sender |
//! | `recipient:PATTERN` | recipients whose address matches; a domain alone is any address in it |
//! | `age:2h`, `age:>2h`, `age:<5m` | messages at least, or less than, so old |
//! | `state:due` | batches that are `due`, `waiting`, `carried` (with an agent) or `held` |
//! | `attempts:3`, `attempts:>3`, `attempts:<3` | batches tried so often, more, or less often |
//! | `reply:TEXT` | batches whose last reply holds the text, whatever its case |
//!
//! With a thread or a pattern alone, an action concerns the threads as such: held threads hold what comes later too, and a
//! retry forgets the host's back-off. A hold on a pattern of threads, or by sender, recipient or flow, goes for mail to
//! come, stands in `holds`, and is released by the same terms or wider ones; of a message to come only the recipients
//! that are meant are held. A release of one thread or message lets go what is there, whatever else stands. Everything else concerns the batches that are there now; `expire` and `drop` end
//! only those of their recipients that are meant, the other actions do not tell recipients of one batch apart. With
//! `dry_run` nothing is done: the answer counts what would be concerned, and shows the first few.
//!
//! `sort` is one of `thread` (the default), `recipients`, `batches`, `bytes`, `oldest`, `failures`, `agents`, `in_flight`,
//! `rtt`, `delivery_rate`, `recipient_rate` (largest first), `next_attempt` (soonest first), `state`. A `state` of `limit`
//! is any of `limit:...`. A sender pattern `<>` means the null sender. An empty thread that is
//! only remembered counts as a thread.
//!
//! What else the hub offers ([`Store::call`]) has its methods on the same socket: `sites` and `sites.forget`, what was
//! learned of hosts.
//!
//! # Errors
//!
//! Beside JSON-RPC's own codes (-32700 not JSON, -32600 not a request, -32601 no such method, -32602 wrong parameters):
//! [`NOTHING_MATCHED`] -32001, [`UNAVAILABLE`] -32002, [`FORBIDDEN`] -32003. The message is a sentence for people.
//!
//! [`Totals`]: crate::snapshot::Totals
//! [`ChannelRow`]: crate::snapshot::ChannelRow
//! [`RingRow`]: crate::snapshot::RingRow
//! [`AgeRow`]: crate::snapshot::AgeRow
//! [`ThreadRow`]: crate::snapshot::ThreadRow
//! [`ThreadDetail`]: crate::snapshot::ThreadDetail
//! [`MessageRow`]: crate::snapshot::MessageRow

mod access;
pub mod client;
mod connection;
mod methods;
mod rpc;
mod search;
mod selection;
mod server;
mod spool;
mod subscription;

pub use access::{Access, Caller, OwnerOnly, Role};
pub use client::{Client, ClientError};
pub use connection::REQUEST_MAX;
pub use methods::{Addressed, HoldRow, MessageDetail, MessageFacts, Method, Preview, SAMPLE_MAX, Scope, Status, Store};
pub use rpc::{
    FORBIDDEN, INTERNAL, INVALID_PARAMS, INVALID_REQUEST, NO_METHOD, NOTHING_MATCHED, PARSE_ERROR, RpcError,
    UNAVAILABLE,
};
pub use server::{BindError, CLIENTS_MAX, ControlServer, SILENCE_MAX, STALL_MAX, Stopper};
pub use spool::SpoolStore;
pub use subscription::{Overview, Trace, TraceLine};

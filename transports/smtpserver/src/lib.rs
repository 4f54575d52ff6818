//! How mail comes into the hub: SMTP (RFC 5321) and LMTP (RFC 2033) on the server's side.
//!
//! ```text
//!   socket ──octets──▶ Session ──Effect──▶ requests to the spool's appender (append, commit, abort)
//!   socket ◀─replies── Session ◀─handle_committed── its answers, once the message is on stable storage
//! ```
//!
//! [`session`] is the protocol without a socket: octets and events in, replies and effects out, time as an argument.
//! [`IntakeLoop`] is the thin driver around many sessions: one thread, one `mio::Poll`, listeners, timers, TLS.
//! [`Shared`] is what all loops share: the budget of memory, the counts of connections, and whether new messages are
//! taken at all.
//!
//! # What list managers need, and where it is done
//! * Replies are single lines with the classic codes, `EHLO` apart: `session::replies`.
//! * A client that stops and waits after each command must not wait for a delayed acknowledgement: the driver arms
//!   `TCP_QUICKACK` before each read until the client is seen to pipeline.
//! * Every syntactically valid recipient of a client that may relay is accepted; refusals come at `MAIL`.
//! * A client that streams transactions gets group commit across its own messages: commands behind a final reply that
//!   is not known yet go on being processed, and the replies wait in order.
//!
//! # Past mistakes of others, guarded here
//! * **SMTP smuggling**: only CRLF.CRLF ends `DATA`; a bare CR or LF refuses the message or is made a CRLF.
//! * **Injection before STARTTLS**: octets behind `STARTTLS` end the connection; nothing that was said before TLS counts
//!   after it.
//! * **Chunks without a transaction**: the octets of a refused `BDAT` are consumed as octets, never run as commands.
//! * **Lists of recipients without end**: counted, and paid for out of one budget of memory.
#![forbid(unsafe_code)]

mod intake;
mod policy;
pub mod session;
mod shared;
mod turns;

pub use intake::{BindError, Control, Intake, IntakeLoop, Options, Storage};
pub use policy::{PipeConnect, SessionPolicy, StartTls};
pub use shared::{Admission, Door, Relay, Shared, TurnedAway};
pub use turns::{CLIENT_TURNS, TURN_PAUSE, Turn, Turned};

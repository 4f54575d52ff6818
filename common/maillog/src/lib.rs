//! The log, in the grammar that tools for Postfix's log read.
//!
//! ```text
//! Nov 21 22:14:37 hub zrelay/smtp[1234]: 64A0B1C2D3E4F: to=<ann@example.org>, relay=mx.example.org[192.0.2.10]:25, …
//! └── stamp ────┘ └host┘ └ program ───┘  └ queue id ─┘  └ one line per recipient and outcome
//! ```
//!
//! Two halves. [`init`] sets up the process's logger: every record of the `log` crate becomes one such line on standard
//! error, its target the second half of the program's name (`smtp`, `lmtp`, `smtpd`, `qmgr`, `cleanup`, `bounce`, …).
//! Control characters are escaped on the way, so that nothing a remote peer says can forge a line or drive a terminal.
//!
//! The other half are pure functions from facts to texts: [`DeliveryLines`] for deliveries, and those in [`lines`] for
//! what else happens to a message. A site can read these lines with `pflogsumm --syslog-name=zrelay`.
#![forbid(unsafe_code)]

mod delivery;
pub mod lines;
mod logger;

pub use delivery::{DeliveryLines, Seconds};
pub use logger::{LINE_MAX, Options, init, render};

/// Targets of the `log` crate as they are used over all rooms: the second half of the program's name in a line.
pub mod target {
    /// Deliveries by SMTP.
    pub const SMTP: &str = "smtp";
    /// Deliveries by LMTP.
    pub const LMTP: &str = "lmtp";
    /// Sessions of clients.
    pub const SMTPD: &str = "smtpd";
    /// The queue: messages that enter and leave it.
    pub const QMGR: &str = "qmgr";
    /// What is known of a message's content.
    pub const CLEANUP: &str = "cleanup";
    /// Notifications to senders.
    pub const BOUNCE: &str = "bounce";
    /// The channel `error`.
    pub const ERROR: &str = "error";
    /// The channel `discard`.
    pub const DISCARD: &str = "discard";
}

//! What the end-to-end tests of zrelay stand on.
//!
//! The tests treat the hub as its users do: a process with a configuration, listeners, a spool and a control socket.
//! Mail goes in through [`Client`], [`inject()`] or a real client ([`peers`]), through the [`Hub`], and out to a
//! [`Sink`] or a real server; what arrives is compared with what was sent by the marks of [`Mail`].
//!
//! ```text
//! Client, inject, smtp-source, smtplib, swaks, mlmmj ──▶ Hub (zrelay serve) ──▶ Sink, smtp-sink, Postfix, Exim,
//!                                                          OpenSMTPD, sendmail, chasquid, Dovecot, aiosmtpd
//! ```
//!
//! Everything here ends with the value that started it, and the processes also with the test process, however that
//! ends. Every wait has a limit. Ports come from [`Port::free`], which two test processes never give out alike.
#![forbid(unsafe_code)]

mod bench;
mod certificate;
mod client;
mod disk;
mod hub;
mod inject;
mod mail;
pub mod peers;
mod port;
mod process;
mod sink;

use std::time::{Duration, Instant};

pub use bench::prepare;
pub use certificate::Certificate;
pub use client::{Client, Reply};
pub use hub::{Hub, HubBuilder};
pub use inject::{Answered, inject};
pub use mail::{Body, Mail, Marked, random};
pub use port::Port;
pub use process::{Process, Usage};
pub use sink::{Answer, Offer, Sink, SinkBuilder, Step, Transaction};

/// Longest wait for something that should take well under a second; generous, because test machines are busy.
pub const SOON: Duration = Duration::from_secs(30);

/// Polls `condition` until it holds or `limit` has passed; whether it held.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Polls `make` until it makes something or `limit` has passed.
pub fn wait_for<T>(limit: Duration, mut make: impl FnMut() -> Option<T>) -> Option<T> {
    let mut made = None;
    wait_until(limit, || {
        made = make();
        made.is_some()
    });
    made
}

/// Leaves the calling test early when its condition (root, peers) is not there, and says so. Under `tests/run`, which
/// sets `ZRELAY_REQUIRE_PEERS` where nothing should be missing, that is a failure.
///
/// # Panics
/// When `ZRELAY_REQUIRE_PEERS` is set.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("ZRELAY_REQUIRE_PEERS").is_none(), "this test must run here, but: {reason}");
    eprintln!("skipped: {reason}");
}

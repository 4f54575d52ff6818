//! TLS as bytes in and bytes out.
//!
//! A [`Session`] is one end of a TLS connection without a socket: the driver feeds what it read into
//! [`Session::read_tls`], gets plain octets appended, and sends what [`Session::flush`] and [`Session::write`] append
//! to its output buffer. Both kinds of session look the same; [`ClientTls`] and [`ServerTls`] make them.
//!
//! ```text
//!   socket ──ciphertext──▶ read_tls ──▶ plain octets for the SMTP machine
//!   socket ◀─ciphertext── out ◀── flush (handshake, alerts, tickets)  and  write (plain octets)
//! ```
//!
//! **Certificates are judged after the handshake.** Mail between hosts that never met mostly uses certificates that
//! no authority signed, so the handshake itself accepts whatever comes, and the [`Policy`] of the destination is
//! applied to the result. That lets all destinations share one configuration and one store of sessions, hence resume
//! them, and repeats the judgement when a session is resumed. It cannot be forgotten: the judgement is part of
//! the call of [`Session::read_tls`] that ends the handshake, which fails when the policy is not met; no plain octet
//! passes in either direction before.
//!
//! [`Policy::Verify`] uses a store and a verifier of its own. Under the other policies the far side's proof that it
//! owns the key of its certificate is not looked at, so that odd keys and certificates of decades past still encrypt;
//! a session from there must never be resumed where the certificate is to mean something.
//!
//! What fails and how: every failure is a [`TlsError`] and final for its session. After one, [`Session::flush`] still
//! has the alert that tells the far side why. No early data (0-RTT): it can be replayed, and nothing is gained behind
//! STARTTLS.
#![forbid(unsafe_code)]

mod client;
mod error;
mod server;
mod session;
mod verifier;

pub use client::{ClientTls, Policy, Roots};
pub use error::TlsError;
pub use server::ServerTls;
pub use session::{Progress, Session};

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

/// The one place that names the provider of cryptography. Never the process-wide default: any dependency could
/// switch a second provider on, and rustls would then refuse to choose.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // The first random octets of a process take some 70 ms, in which entropy is gathered from the jitter of the
        // clock. Here that delays the start; in a loop it would hold up the connections of everybody. Should there be
        // none, the first session says so.
        let _ = provider.secure_random.fill(&mut [0; 32]);
        Arc::new(provider)
    });
    Arc::clone(provider)
}

#[cfg(test)]
mod tests;

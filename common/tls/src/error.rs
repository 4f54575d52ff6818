//! What can go wrong, in sentences an operator can act on.

use std::path::PathBuf;

/// A failure of TLS. Final for the session it happened in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The far side broke the protocol, offered nothing in common, or sent an alert.
    #[error("TLS failed: {0}")]
    Protocol(String),
    /// [`Policy::Verify`](crate::Policy::Verify) and the certificate does not stand for the host.
    #[error("the certificate of {host} is not trusted: {reason}")]
    Untrusted {
        /// The name that was wanted.
        host: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// [`Policy::Verify`](crate::Policy::Verify) and there is no authority to trust.
    #[error(
        "no certificate of {host} can be trusted: there are no trusted root certificates (Debian: ca-certificates)"
    )]
    NoRoots {
        /// The name that was wanted.
        host: String,
    },
    /// The verdict was asked for before the handshake ended.
    #[error("the TLS handshake has not ended")]
    Unfinished,
    /// A file of certificates or keys cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// A file is not in PEM format.
    #[error("{} is not a valid PEM file: {reason}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        reason: String,
    },
    /// A file has no certificate inside.
    #[error("{} contains no certificate (-----BEGIN CERTIFICATE-----)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file has no private key inside.
    #[error("{} contains no private key (-----BEGIN PRIVATE KEY-----, no passphrase)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate cannot be used.
    #[error("the certificate in {} cannot be used: {reason}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A private key cannot be used.
    #[error("the private key in {} cannot be used: {reason}", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key are no pair.
    #[error("the private key in {} does not match the first certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Protocol(error.to_string())
    }
}

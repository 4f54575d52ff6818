//! The server side: the hub's own certificate.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerConnection;
use rustls::{InconsistentKeys, ServerConfig};

use crate::session::Session;
use crate::{TlsError, provider};

/// Longest PEM file, octets: a chain of a dozen certificates with all their extensions is some 50 KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Makes the sessions with clients. Cheap to clone; all clones share one set of ticket keys.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads the chain, leaf first, and its private key from PEM files; they may be one file.
    ///
    /// # Errors
    /// The [`TlsError`]s that name a file.
    pub fn from_pem(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read_chain(certificate)?;
        let private = read_key(key)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth();
        let mut config = builder.with_single_cert(chain, private).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::KeyMismatch { certificate: certificate.to_owned(), key: key.to_owned() }
            }
            rustls::Error::InvalidCertificate(why) => {
                TlsError::BadCertificate { path: certificate.to_owned(), reason: why.to_string() }
            }
            other => TlsError::BadKey { path: key.to_owned(), reason: other.to_string() },
        })?;
        // Stateless: clients come back for hours, and nothing is kept here for them.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Self { config: Arc::new(config) })
    }

    /// A new session with a client.
    ///
    /// # Errors
    /// [`TlsError::Protocol`] when the system has no randomness to give.
    pub fn session(&self) -> Result<Session, TlsError> {
        let connection = ServerConnection::new(Arc::clone(&self.config))?;
        Ok(Session::new(connection.into(), None))
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| TlsError::NotPem { path: path.to_owned(), reason: error.to_string() })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: path.to_owned() },
        other => TlsError::NotPem { path: path.to_owned(), reason: other.to_string() },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |reason: String| TlsError::Unreadable { path: path.to_owned(), reason };
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > PEM_BYTES_MAX {
        return Err(unreadable(format!("longer than {PEM_BYTES_MAX} octets")));
    }
    Ok(text)
}

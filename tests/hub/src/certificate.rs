//! A certificate for the tests' servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A self-signed certificate and its key.
pub struct Certificate {
    pair: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

impl Certificate {
    /// One for these names.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Self { pair: rcgen::generate_simple_self_signed(names).expect("a certificate can be made") }
    }

    /// Writes `NAME.crt` and `NAME.key` (PEM) into `directory`; their paths.
    ///
    /// # Panics
    /// When the directory is not writable.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = directory.join(format!("{name}.crt"));
        let key = directory.join(format!("{name}.key"));
        fs::write(&certificate, self.pair.cert.pem()).expect("the certificate can be written");
        fs::write(&key, self.pair.signing_key.serialize_pem()).expect("the key can be written");
        (certificate, key)
    }

    /// For a server of the test itself.
    ///
    /// # Panics
    /// When rustls does not take it.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.pair.cert.der().clone()], key)
            .expect("the pair fits");
        Arc::new(config)
    }
}

//! The verifier inside the handshake, and the judge behind it.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::client::Roots;
use crate::{TlsError, provider};

/// Whether the far side must prove in the handshake that it owns the key of the certificate it shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proof {
    /// Yes. Without it a certificate says nothing: everyone can show a copy.
    Required,
    /// No: RSA keys of 1024 bits, version 1 certificates and the like encrypt as well as others.
    Ignored,
}

/// Accepts every certificate; the [`Judge`] comes later.
#[derive(Debug)]
pub(crate) struct Verifier {
    proof: Proof,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(crate) fn new(proof: Proof) -> Self {
        Self { proof, provider: provider() }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.proof {
            Proof::Ignored => Ok(HandshakeSignatureValid::assertion()),
            Proof::Required => {
                verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
            }
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.proof {
            Proof::Ignored => Ok(HandshakeSignatureValid::assertion()),
            Proof::Required => {
                verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The authorities that are trusted, read when the first certificate is judged by them.
#[derive(Debug)]
pub(crate) struct Anchors {
    roots: Roots,
    store: OnceLock<RootCertStore>,
}

impl Anchors {
    pub(crate) fn new(roots: Roots) -> Self {
        Self { roots, store: OnceLock::new() }
    }

    fn store(&self) -> &RootCertStore {
        self.store.get_or_init(|| match &self.roots {
            Roots::System => system_roots(),
            Roots::Given(certificates) => store_of(certificates),
        })
    }
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::warn!("trusted root certificates of the system: {error}");
    }
    store_of(&found.certs)
}

fn store_of(certificates: &[CertificateDer<'static>]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    let (_, refused) = store.add_parsable_certificates(certificates.iter().cloned());
    if refused > 0 {
        log::warn!("{refused} trusted root certificates cannot be used");
    }
    store
}

/// Decides whether a chain stands for a host.
#[derive(Debug)]
pub(crate) struct Judge {
    /// The host as the caller named it, for error texts.
    pub(crate) host: String,
    /// The same as a name that certificates can bear; none for what is not a host's name.
    pub(crate) name: Option<ServerName<'static>>,
    /// Whom to trust.
    pub(crate) anchors: Arc<Anchors>,
}

impl Judge {
    /// Whether `chain`, leaf first, leads to a trusted authority and bears the host's name, at `now`.
    ///
    /// # Errors
    /// [`TlsError::Untrusted`] and [`TlsError::NoRoots`].
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), TlsError> {
        let name = self.name.as_ref().ok_or_else(|| self.untrusted("the host's name cannot be in a certificate"))?;
        let (leaf, intermediates) = chain.split_first().ok_or_else(|| self.untrusted("it sent none"))?;
        let store = self.anchors.store();
        if store.is_empty() {
            return Err(TlsError::NoRoots { host: self.host.clone() });
        }
        let leaf = ParsedCertificate::try_from(leaf).map_err(|error| self.untrusted(&plainly(&error)))?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, store, intermediates, now, algorithms)
            .and_then(|()| verify_server_name(&leaf, name))
            .map_err(|error| self.untrusted(&plainly(&error)))
    }

    fn untrusted(&self, reason: &str) -> TlsError {
        TlsError::Untrusted { host: self.host.clone(), reason: reason.to_owned() }
    }
}

/// The error without rustls' own preface, which repeats what [`TlsError::Untrusted`] says.
fn plainly(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => why.to_string(),
        other => other.to_string(),
    }
}

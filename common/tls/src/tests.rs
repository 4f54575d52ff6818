//! Both ends in memory.

mod files;
mod handshake;
mod names;
mod policy;

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use crate::{ClientTls, Policy, Progress, Roots, ServerTls, Session, TlsError};

/// A host with a certificate, and the authority behind it.
struct Host {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Host {
    fn new(names: &[&str]) -> Self {
        Self::with(names, |_| ())
    }

    fn with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &authority).unwrap();
        let host = Self { directory: TempDir::new().unwrap(), authority };
        std::fs::write(host.certificate(), leaf.pem()).unwrap();
        std::fs::write(host.key(), key.serialize_pem()).unwrap();
        host
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("host.crt")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("host.key")
    }

    fn server(&self) -> ServerTls {
        ServerTls::from_pem(&self.certificate(), &self.key()).unwrap()
    }

    fn root(&self) -> CertificateDer<'static> {
        self.authority.der().clone()
    }

    /// A client that trusts the authority of this host.
    fn client(&self) -> ClientTls {
        ClientTls::new(Roots::Given(vec![self.root()])).unwrap()
    }
}

/// A session with what it has received and what it has to send.
struct End {
    session: Session,
    plain: Vec<u8>,
    out: Vec<u8>,
    result: Result<Progress, TlsError>,
}

impl End {
    fn new(session: Session) -> Self {
        let mut end = Self { session, plain: Vec::new(), out: Vec::new(), result: Ok(Progress::Handshaking) };
        end.session.flush(&mut end.out);
        end
    }

    /// Feeds `octets` in pieces of `step`.
    fn feed(&mut self, octets: &[u8], step: usize) {
        for piece in octets.chunks(step) {
            let before = self.plain.len();
            self.result = self.session.read_tls(piece, &mut self.plain);
            self.session.flush(&mut self.out);
            if self.session.is_handshaking() || self.result.is_err() {
                assert_eq!(self.plain.len(), before, "plain octets before the verdict");
            }
        }
    }

    fn say(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            let taken = self.session.write(text, &mut self.out);
            assert!(taken > 0, "nothing taken");
            text = &text[taken..];
        }
    }
}

/// Carries octets to and fro, in pieces of `step`, until neither has anything to say.
fn exchange(client: &mut End, server: &mut End, step: usize) {
    while !client.out.is_empty() || !server.out.is_empty() {
        server.feed(&std::mem::take(&mut client.out), step);
        client.feed(&std::mem::take(&mut server.out), step);
    }
}

/// Both ends of a handshake that went as far as it goes.
fn meet(client: &ClientTls, server: &ServerTls, name: &str, policy: Policy) -> (End, End) {
    let mut client = End::new(client.session(name, policy).unwrap());
    let mut server = End::new(server.session().unwrap());
    exchange(&mut client, &mut server, usize::MAX);
    (client, server)
}

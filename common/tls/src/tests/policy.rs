//! The verdict, and what is remembered of it.

use std::sync::Arc;

use rcgen::date_time_ymd;
use rustls::ServerConfig;
use rustls::server::ServerConnection;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::*;
use crate::provider;

fn verdict(host: &Host, client: &ClientTls, name: &str, policy: Policy) -> Result<(), TlsError> {
    let (client, mut server) = meet(client, &host.server(), name, policy);
    assert_eq!(client.result.is_ok(), client.session.verdict().is_ok());
    if client.result.is_err() {
        // Nothing may be written any more, and the server hears of it.
        let mut client = client;
        assert_eq!(client.session.write(b"secret", &mut client.out), 0);
        server.feed(&client.out, usize::MAX);
        assert!(server.plain.is_empty());
        assert_ne!(server.session.progress(), Ok(Progress::Open));
        return client.session.verdict();
    }
    client.session.verdict()
}

#[test]
fn a_trusted_certificate_for_the_name_is_verified() {
    let host = Host::new(&["mx.example.net", "192.0.2.1"]);
    for name in ["mx.example.net", "MX.Example.net.", "192.0.2.1", "[192.0.2.1]"] {
        assert_eq!(verdict(&host, &host.client(), name, Policy::Verify), Ok(()), "{name}");
    }
}

#[test]
fn whatever_is_wrong_with_a_certificate_matters_only_to_verify() {
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let good = Host::new(&["mx.example.net"]);
    let expired = Host::with(&["mx.example.net"], past);
    let stranger = Host::new(&["mx.example.net"]).client();
    let rootless = ClientTls::new(Roots::Given(Vec::new())).unwrap();
    let cases = [
        (&good, good.client(), "other.example.net", "not valid for name"),
        (&good, good.client(), "192.0.2.1", "not valid for name"),
        (&good, good.client(), "odd name", "cannot be in a certificate"),
        (&expired, expired.client(), "mx.example.net", "expired"),
        (&good, stranger, "mx.example.net", "is not trusted: "),
        (&good, rootless, "mx.example.net", "no trusted root certificates"),
    ];
    for (host, client, name, reason) in cases {
        for policy in [Policy::May, Policy::Encrypt] {
            assert_eq!(verdict(host, &client, name, policy), Ok(()), "{reason}");
        }
        let text = verdict(host, &client, name, Policy::Verify).unwrap_err().to_string();
        assert!(text.contains(reason) && text.contains(name), "{text}");
    }
}

/// A server that shows the certificate of another and does not have its key.
fn impostor(host: &Host, versions: &[&'static rustls::SupportedProtocolVersion]) -> End {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    let chain = CertificateDer::pem_file_iter(host.certificate()).unwrap().map(Result::unwrap).collect();
    let other = PrivateKeyDer::from_pem_file(Host::new(&["impostor.example"]).key()).unwrap();
    let key = provider().key_provider.load_private_key(other).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
    End::new(Session::new(ServerConnection::new(Arc::new(config)).unwrap().into(), None))
}

#[test]
fn a_copied_certificate_without_its_key_is_not_verified() {
    let host = Host::new(&["mx.example.net"]);
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        for (policy, accepted) in [(Policy::May, true), (Policy::Encrypt, true), (Policy::Verify, false)] {
            let mut client = End::new(host.client().session("mx.example.net", policy).unwrap());
            let mut server = impostor(&host, versions);
            exchange(&mut client, &mut server, usize::MAX);
            assert_eq!(client.session.verdict().is_ok(), accepted, "{policy:?} {versions:?}");
        }
    }
}

#[test]
fn sessions_are_resumed_by_name_and_judged_again() {
    let host = Host::new(&["mx.example.net", "mx2.example.net"]);
    let (client, server) = (host.client(), host.server());
    for policy in [Policy::May, Policy::Verify] {
        let resumed = |name| {
            let (client, _) = meet(&client, &server, name, policy);
            assert_eq!(client.session.verdict(), Ok(()));
            client.session.is_resumed()
        };
        assert!(!resumed("mx.example.net"), "{policy:?}");
        assert!(resumed("MX.example.net."));
        assert!(resumed("mx.example.net"));
        assert!(!resumed("mx2.example.net"));
    }
}

#[test]
fn a_session_that_proved_nothing_is_not_resumed_where_proof_is_wanted() {
    let host = Host::new(&["mx.example.net"]);
    let (client, server) = (host.client(), host.server());
    let (first, _) = meet(&client, &server, "mx.example.net", Policy::May);
    let (second, _) = meet(&client, &server, "mx.example.net", Policy::Verify);
    assert!(first.result.is_ok() && second.result.is_ok() && !second.session.is_resumed());
}

#[test]
fn clones_share_what_is_remembered() {
    let host = Host::new(&["mx.example.net"]);
    let (client, server) = (host.client(), host.server());
    meet(&client.clone(), &server.clone(), "mx.example.net", Policy::May);
    assert!(meet(&client, &server, "mx.example.net", Policy::Encrypt).0.session.is_resumed());
}

#[test]
fn the_roots_of_the_system_do_not_trust_a_stranger() {
    let host = Host::new(&["mx.example.net"]);
    let client = ClientTls::new(Roots::System).unwrap();
    let error = verdict(&host, &client, "mx.example.net", Policy::Verify).unwrap_err();
    assert!(matches!(error, TlsError::Untrusted { .. } | TlsError::NoRoots { .. }), "{error}");
}

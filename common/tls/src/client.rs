//! The client side: one configuration for all destinations.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::{ClientConnection, Resumption};
use rustls::pki_types::{CertificateDer, DnsName, ServerName};

use crate::session::Session;
use crate::verifier::{Anchors, Judge, Proof, Verifier};
use crate::{TlsError, provider};

/// Hosts whose sessions are remembered for resumption, per store; the oldest is forgotten first. Some 10 KiB for each
/// host in the worst case, so 20 MiB.
const SESSION_HOSTS_MAX: usize = 2048;

/// How rustls counts: it divides what it is given by the tickets it keeps per host.
const TICKETS_PER_HOST: usize = 8;

/// What a destination asks of TLS. All of them encrypt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Opportunistic: any certificate, any key. The caller goes on in the clear where TLS fails.
    May,
    /// Any certificate, any key; the caller gives up where TLS fails.
    Encrypt,
    /// A certificate from a trusted authority that bears the host's name, and the proof of its key.
    Verify,
}

/// The authorities that [`Policy::Verify`] trusts.
#[derive(Clone, Debug)]
pub enum Roots {
    /// Those of the operating system, read when first needed.
    System,
    /// These.
    Given(Vec<CertificateDer<'static>>),
}

/// Makes the sessions towards next hops. Cheap to clone; all clones share the stores of sessions.
#[derive(Clone, Debug)]
pub struct ClientTls {
    lax: Arc<ClientConfig>,
    strict: Arc<ClientConfig>,
    anchors: Arc<Anchors>,
}

impl ClientTls {
    /// A client that trusts `roots` where trust is asked for.
    ///
    /// # Errors
    /// [`TlsError::Protocol`] if the library lacks a protocol version, which is an error in its build.
    pub fn new(roots: Roots) -> Result<Self, TlsError> {
        Ok(Self {
            lax: Arc::new(config(Proof::Ignored)?),
            strict: Arc::new(config(Proof::Required)?),
            anchors: Arc::new(Anchors::new(roots)),
        })
    }

    /// A new session with the host `server_name`: a domain, with or without trailing dot, or an address, with or
    /// without brackets. The name goes into the SNI where it can (RFC 6066 §3 allows no addresses); sessions are
    /// resumed by it.
    ///
    /// # Errors
    /// [`TlsError::Protocol`] when the system has no randomness to give.
    pub fn session(&self, server_name: &str, policy: Policy) -> Result<Session, TlsError> {
        let name = host_name(server_name);
        let (config, judge) = match policy {
            Policy::May | Policy::Encrypt => (&self.lax, None),
            Policy::Verify => (
                &self.strict,
                Some(Judge { host: server_name.to_owned(), name: name.clone(), anchors: Arc::clone(&self.anchors) }),
            ),
        };
        let name = name.unwrap_or_else(|| stand_in(server_name));
        let connection = ClientConnection::new(Arc::clone(config), name)?;
        Ok(Session::new(connection.into(), judge))
    }
}

fn config(proof: Proof) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(proof)))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSION_HOSTS_MAX * TICKETS_PER_HOST);
    config.enable_early_data = false;
    Ok(config)
}

/// `text` as TLS knows hosts, if it can.
fn host_name(text: &str) -> Option<ServerName<'static>> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let bare = bare.strip_prefix("IPv6:").unwrap_or(bare);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(ServerName::IpAddress(address.into()));
    }
    let name = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
    DnsName::try_from(name).ok().map(ServerName::DnsName)
}

/// A name for a host that has none TLS can express. As an address it sends no SNI; being made of the text, it keeps the
/// sessions of different hosts apart. 100::/64 is the discard prefix (RFC 6666), where no host is.
fn stand_in(text: &str) -> ServerName<'static> {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3));
    let prefix: u128 = 0x0100 << 112;
    ServerName::IpAddress(IpAddr::V6(Ipv6Addr::from_bits(prefix | u128::from(hash))).into())
}

//! Listening sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};
use zrelay_config::Listen;
use zrelay_tls::ServerTls;

use crate::policy::{PipeConnect, SessionPolicy};
use crate::shared::Relay;

/// Connections that may wait to be accepted; the kernel cuts it down to its own limit.
const BACKLOG: i32 = 1024;

/// Connections with octets in their first packet (TCP Fast Open) that may wait for the packet that proves where they come
/// from.
const FAST_OPEN_QUEUE: u16 = 256;

/// Why the intake cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {}", explain(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no event queue.
    #[error("cannot set up an event loop: {0}")]
    Loop(#[from] io::Error),
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "address already in use; stop the program that listens there, or change \"address\" in [[listen]]"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; change \"address\" in [[listen]]".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Whether several loops listen on the same address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sharing {
    /// No: a second listener there is an error.
    Alone,
    /// `SO_REUSEPORT`: the kernel spreads connections over the loops.
    Shared,
}

/// A listening socket with what its sessions need.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) policy: Arc<SessionPolicy>,
    pub(super) tls: Option<ServerTls>,
    relay_from: Vec<IpNet>,
    pipeconnect: Vec<IpNet>,
    pub(super) acceptable: Acceptable,
}

/// Whether connections may wait to be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acceptable {
    Maybe,
    No,
}

impl Listener {
    pub(super) fn bind(
        listen: &Listen,
        address: SocketAddr,
        policy: Arc<SessionPolicy>,
        tls: Option<ServerTls>,
        sharing: Sharing,
    ) -> Result<Self, BindError> {
        let socket = open(address, sharing).map_err(|source| BindError::Listen { address, source })?;
        let (relay_from, pipeconnect) = (listen.relay_from.clone(), listen.pipeconnect.clone());
        Ok(Self { socket, policy, tls, relay_from, pipeconnect, acceptable: Acceptable::Maybe })
    }

    /// Whether a client may relay to anywhere.
    pub(super) fn relay(&self, client: IpAddr) -> Relay {
        if is_in(&self.relay_from, client) { Relay::Allowed } else { Relay::Denied }
    }

    /// Whether a client is told that it may send commands ahead of the greeting.
    pub(super) fn pipeconnect(&self, client: IpAddr) -> PipeConnect {
        if is_in(&self.pipeconnect, client) { PipeConnect::Announced } else { PipeConnect::Absent }
    }
}

fn is_in(networks: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    networks.iter().any(|net| net.contains(&client))
}

fn open(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // One listener, one family: `[::]` and `0.0.0.0` may then both be named.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // Where the system does not do it, everything works as it always did.
    let _ = zrelay_sys::accept_fast_open(&socket, FAST_OPEN_QUEUE);
    Ok(TcpListener::from_std(socket.into()))
}

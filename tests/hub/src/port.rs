//! Ports that belong to one test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

/// A loopback port that no other test has. Taken from below the ephemeral range, so that no outgoing connection gets
/// it by chance, and reserved until dropped by a socket in the abstract namespace, which needs no file and goes with the
/// process.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: UnixListener,
}

const FIRST: u16 = 11_000;
const COUNT: u16 = 20_000;

impl Port {
    /// A port that is free now.
    ///
    /// # Panics
    /// When none is left.
    pub fn free() -> Self {
        let start = u16::try_from(crate::random(u64::from(std::process::id()) ^ nanoseconds()) % u64::from(COUNT))
            .expect("below the count");
        for step in 0..COUNT {
            let number = FIRST + (start + step) % COUNT;
            let name = UnixAddr::from_abstract_name(format!("zrelay-test-port-{number}")).expect("a short name");
            let Ok(reservation) = UnixListener::bind_addr(&name) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _reservation: reservation };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// With the loopback address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

fn nanoseconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() ^ (u64::from(since.subsec_nanos()) << 20))
}

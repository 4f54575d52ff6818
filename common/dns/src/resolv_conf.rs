//! The name servers of the system: resolv.conf(5).

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

const PATH: &str = "/etc/resolv.conf";
/// Octets read of the file.
const BYTES_MAX: u64 = 64 * 1024;
/// Servers used; the C library takes three.
const SERVERS_MAX: usize = 8;
const PORT: u16 = 53;

/// The servers of `/etc/resolv.conf`, in order; 127.0.0.1 without any, as resolv.conf(5) has it. Its options are not
/// looked at: the hub has its own.
pub fn system_servers() -> Vec<SocketAddr> {
    let mut text = Vec::new();
    match File::open(PATH).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) => log::warn!("cannot read {PATH}: {error}; asking the name server on this host"),
    }
    let servers = servers(&String::from_utf8_lossy(&text));
    if servers.is_empty() {
        return vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)];
    }
    servers
}

/// The `nameserver` lines of `text`.
fn servers(text: &str) -> Vec<SocketAddr> {
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

fn server(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    let word = words.next()?;
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    // fe80::1%2: a scope is usable as a number only.
    let scoped = word.split_once('%').and_then(|(address, scope)| Some((address.parse().ok()?, scope.parse().ok()?)));
    let Some((address, scope)) = scoped else {
        log::warn!("{PATH}: name server {word} is no address this program can use");
        return None;
    };
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_everything_else_is_passed_over() {
        let text = "# comment\nsearch example.net\nnameserver 192.0.2.1\n; nameserver 192.0.2.9\n\
                    \tnameserver\t2001:db8::1 extra\nnameserver nonsense\nnameserver\n\
                    nameserver fe80::1%3\noptions timeout:1\n\u{0}";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%3]:53"]);
    }

    #[test]
    fn the_number_of_servers_is_bounded() {
        assert_eq!(servers(&"nameserver 192.0.2.1\n".repeat(1000)).len(), SERVERS_MAX);
    }

    #[test]
    fn there_is_always_a_server() {
        assert!(!system_servers().is_empty());
    }
}

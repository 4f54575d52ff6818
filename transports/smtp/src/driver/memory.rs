//! What hosts taught: which ones fail at TLS, which ones mishandle pipelining. Bounded, and forgotten after a while,
//! because hosts get repaired.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;

/// How long a host whose TLS failed is met in the clear.
const CLEAR_TIME: Duration = Duration::from_secs(60 * 60);

/// How long a host that mishandled a conversation level is met on a lower one.
const LEVEL_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Hosts remembered, per kind: some 100 octets each.
const HOSTS_MAX: usize = 10_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    clear: HashMap<SocketAddr, Timestamp>,
    levels: HashMap<SocketAddr, (Timestamp, Pipelining)>,
}

impl Memory {
    /// TLS with this host failed.
    pub(crate) fn remember_clear(&mut self, now: Timestamp, host: SocketAddr) {
        if self.clear.len() >= HOSTS_MAX {
            self.clear.retain(|_, until| *until > now);
        }
        if self.clear.len() < HOSTS_MAX {
            self.clear.insert(host, now + CLEAR_TIME);
        }
    }

    /// Whether TLS with this host failed a short while ago.
    pub(crate) fn is_clear(&self, now: Timestamp, host: SocketAddr) -> bool {
        self.clear.get(&host).is_some_and(|until| *until > now)
    }

    /// This host is to be met on this level at most.
    pub(crate) fn remember_level(&mut self, now: Timestamp, host: SocketAddr, level: Pipelining) {
        if self.levels.len() >= HOSTS_MAX {
            self.levels.retain(|_, (until, _)| *until > now);
        }
        if self.levels.len() < HOSTS_MAX {
            self.levels.insert(host, (now + LEVEL_TIME, level));
        }
    }

    /// The level to meet this host on.
    pub(crate) fn level(&self, now: Timestamp, host: SocketAddr, highest: Pipelining) -> Pipelining {
        match self.levels.get(&host) {
            Some((until, level)) if *until > now => highest.min(*level),
            _ => highest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lessons_are_forgotten_in_time() {
        let host = "192.0.2.1:25".parse().unwrap();
        let mut memory = Memory::default();
        let start = Timestamp::from_secs(1000);
        memory.remember_clear(start, host);
        memory.remember_level(start, host, Pipelining::Transaction);
        assert!(memory.is_clear(start + CLEAR_TIME / 2, host));
        assert!(!memory.is_clear(start + CLEAR_TIME, host));
        assert_eq!(memory.level(start, host, Pipelining::Stream), Pipelining::Transaction);
        assert_eq!(memory.level(start, host, Pipelining::Lockstep), Pipelining::Lockstep);
        assert_eq!(memory.level(start + LEVEL_TIME, host, Pipelining::Stream), Pipelining::Stream);
    }
}

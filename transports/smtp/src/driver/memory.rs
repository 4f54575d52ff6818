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
        make_room(&mut self.clear, |until| *until > now);
        self.clear.insert(host, now + CLEAR_TIME);
    }

    /// Whether TLS with this host failed a short while ago.
    pub(crate) fn is_clear(&self, now: Timestamp, host: SocketAddr) -> bool {
        self.clear.get(&host).is_some_and(|until| *until > now)
    }

    /// This host is to be met on this level at most.
    pub(crate) fn remember_level(&mut self, now: Timestamp, host: SocketAddr, level: Pipelining) {
        make_room(&mut self.levels, |(until, _)| *until > now);
        self.levels.insert(host, (now + LEVEL_TIME, level));
    }

    /// The level to meet this host on.
    pub(crate) fn level(&self, now: Timestamp, host: SocketAddr, highest: Pipelining) -> Pipelining {
        match self.levels.get(&host) {
            Some((until, level)) if *until > now => highest.min(*level),
            _ => highest,
        }
    }
}

/// Room for one more: what has expired goes, and if that is not enough, any one. The newest lesson is always learned: the
/// connection that taught it is made again at once, and without it would fail in the same way, again and again.
fn make_room<T>(hosts: &mut HashMap<SocketAddr, T>, is_valid: impl Fn(&T) -> bool) {
    if hosts.len() < HOSTS_MAX {
        return;
    }
    hosts.retain(|_, lesson| is_valid(lesson));
    if hosts.len() < HOSTS_MAX {
        return;
    }
    if let Some(any) = hosts.keys().next().copied() {
        hosts.remove(&any);
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

    #[test]
    fn the_newest_lesson_is_learned_however_many_there_are() {
        let mut memory = Memory::default();
        let now = Timestamp::from_secs(1000);
        for number in 0..=HOSTS_MAX as u32 {
            let host = SocketAddr::from((number.to_be_bytes(), 25));
            memory.remember_clear(now, host);
            memory.remember_level(now, host, Pipelining::Lockstep);
            assert!(memory.is_clear(now, host));
            assert_eq!(memory.level(now, host, Pipelining::Stream), Pipelining::Lockstep);
        }
        assert_eq!((memory.clear.len(), memory.levels.len()), (HOSTS_MAX, HOSTS_MAX));
    }
}

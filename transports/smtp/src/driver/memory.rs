//! What hosts taught: which ones fail at TLS, which ones mishandle pipelining, which ones lose what they are sent, how many
//! recipients they take. Bounded, and forgotten after a while, because hosts get repaired.
//!
//! It is the loop's memory: it outlives connections, and all agents of a loop learn from each other.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;

use crate::conversation::Approach;

/// How long a host whose TLS failed is met in the clear.
const CLEAR_TIME: Duration = Duration::from_secs(60 * 60);

/// How long a host that mishandled a conversation level is met on a lower one.
const LEVEL_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a host that hung up on more than it had answered is met with care, unless it shows before that it can do
/// without. Care costs some round trips at the beginning of a connection.
const CARE_TIME: Duration = Duration::from_secs(60 * 60);

/// How long a number of recipients that a host took stands before twice as many are tried. A try that fails costs one
/// overlong transaction, whose rest follows at once.
const RECIPIENTS_TIME: Duration = Duration::from_secs(60 * 60);

/// Doublings after which nothing of a limit is left: the largest that a clause allows is below 2^20.
const DOUBLINGS_MAX: u32 = 20;

/// Hosts remembered, per kind: some 100 octets each.
const HOSTS_MAX: usize = 10_000;

/// Lessons of one kind.
#[derive(Debug)]
struct Lessons<T> {
    /// Until when, and what.
    hosts: HashMap<SocketAddr, (Timestamp, T)>,
}

impl<T> Default for Lessons<T> {
    fn default() -> Self {
        Self { hosts: HashMap::new() }
    }
}

impl<T: Copy> Lessons<T> {
    fn learn(&mut self, now: Timestamp, host: SocketAddr, span: Duration, lesson: T) {
        if self.hosts.len() >= HOSTS_MAX {
            self.hosts.retain(|_, (until, _)| *until > now);
        }
        // The newest lesson is always learned: the connection that taught it is made again at once, and without it
        // would fail in the same way, again and again. Another host is met as if for the first time instead.
        if self.hosts.len() >= HOSTS_MAX
            && !self.hosts.contains_key(&host)
            && let Some(any) = self.hosts.keys().next().copied()
        {
            self.hosts.remove(&any);
        }
        self.hosts.insert(host, (now + span, lesson));
    }

    fn forget(&mut self, host: SocketAddr) {
        self.hosts.remove(&host);
    }

    fn recall(&self, now: Timestamp, host: SocketAddr) -> Option<T> {
        self.hosts.get(&host).filter(|(until, _)| *until > now).map(|(_, lesson)| *lesson)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    clear: Lessons<()>,
    levels: Lessons<Pipelining>,
    careful: Lessons<()>,
    /// When it was learned, and how many.
    recipients: Lessons<(Timestamp, u32)>,
}

impl Memory {
    /// TLS with this host failed.
    pub(crate) fn remember_clear(&mut self, now: Timestamp, host: SocketAddr) {
        self.clear.learn(now, host, CLEAR_TIME, ());
    }

    /// Whether TLS with this host failed a short while ago.
    pub(crate) fn is_clear(&self, now: Timestamp, host: SocketAddr) -> bool {
        self.clear.recall(now, host).is_some()
    }

    /// This host is to be met on this level at most.
    pub(crate) fn remember_level(&mut self, now: Timestamp, host: SocketAddr, level: Pipelining) {
        self.levels.learn(now, host, LEVEL_TIME, level);
    }

    /// The level to meet this host on.
    pub(crate) fn level(&self, now: Timestamp, host: SocketAddr, highest: Pipelining) -> Pipelining {
        self.levels.recall(now, host).map_or(highest, |level| highest.min(level))
    }

    /// A connection to this host has shown how to begin the next one.
    pub(crate) fn remember_approach(&mut self, now: Timestamp, host: SocketAddr, approach: Approach) {
        match approach {
            Approach::Careful => self.careful.learn(now, host, CARE_TIME, ()),
            Approach::Bold => self.careful.forget(host),
        }
    }

    /// How to begin a connection to this host.
    pub(crate) fn approach(&self, now: Timestamp, host: SocketAddr) -> Approach {
        self.careful.recall(now, host).map_or(Approach::Bold, |()| Approach::Careful)
    }

    /// This host took so many recipients in one transaction and refused the next.
    pub(crate) fn remember_recipients(&mut self, now: Timestamp, host: SocketAddr, most: u32) {
        self.recipients.learn(now, host, RECIPIENTS_TIME * DOUBLINGS_MAX, (now, most));
    }

    /// How many recipients to begin with: what the clause allows, or what the host has taken, doubled for every hour
    /// that has passed since it refused more.
    pub(crate) fn recipients(&self, now: Timestamp, host: SocketAddr, most: u32) -> u32 {
        let Some((learned, taken)) = self.recipients.recall(now, host) else {
            return most;
        };
        let hours = now.since(learned).as_secs() / RECIPIENTS_TIME.as_secs();
        let doublings = u32::try_from(hours).unwrap_or(DOUBLINGS_MAX).min(DOUBLINGS_MAX);
        most.min(taken.saturating_mul(1 << doublings)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    #[test]
    fn lessons_are_forgotten_in_time() {
        let host = host(25);
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
    fn care_lasts_until_the_host_has_done_well_or_an_hour_is_over() {
        let mut memory = Memory::default();
        let start = Timestamp::from_secs(1000);
        assert_eq!(memory.approach(start, host(25)), Approach::Bold);
        memory.remember_approach(start, host(25), Approach::Careful);
        assert_eq!(memory.approach(start + CARE_TIME / 2, host(25)), Approach::Careful);
        assert_eq!(memory.approach(start, host(26)), Approach::Bold, "another host");
        assert_eq!(memory.approach(start + CARE_TIME, host(25)), Approach::Bold);
        memory.remember_approach(start, host(25), Approach::Bold);
        assert_eq!(memory.approach(start, host(25)), Approach::Bold);
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
        assert_eq!((memory.clear.hosts.len(), memory.levels.hosts.len()), (HOSTS_MAX, HOSTS_MAX));
    }

    #[test]
    fn a_limit_of_recipients_is_kept_and_then_tried_upwards() {
        let mut memory = Memory::default();
        let start = Timestamp::from_secs(1000);
        assert_eq!(memory.recipients(start, host(25), 1000), 1000);
        memory.remember_recipients(start, host(25), 100);
        assert_eq!(memory.recipients(start + RECIPIENTS_TIME / 2, host(25), 1000), 100);
        assert_eq!(memory.recipients(start, host(25), 50), 50, "the clause stays above it");
        assert_eq!(memory.recipients(start + RECIPIENTS_TIME, host(25), 1000), 200);
        assert_eq!(memory.recipients(start + RECIPIENTS_TIME * 4, host(25), 1000), 1000);
        let later = start + RECIPIENTS_TIME * 2;
        memory.remember_recipients(later, host(25), 100);
        assert_eq!(memory.recipients(later, host(25), 1000), 100, "it has refused again");
        assert_eq!(memory.recipients(Timestamp::NEVER, host(25), 1000), 1000);
    }

    #[test]
    fn no_more_hosts_are_remembered_than_there_is_room_for() {
        let mut memory = Memory::default();
        let start = Timestamp::from_secs(1000);
        for number in 0..=HOSTS_MAX as u16 {
            memory.remember_recipients(start, host(number), 7);
        }
        assert_eq!(memory.recipients.hosts.len(), HOSTS_MAX);
        memory.remember_recipients(start, host(3), 5);
        assert_eq!(memory.recipients(start, host(3), 1000), 5, "who is known can still teach");
        let later = start + RECIPIENTS_TIME * DOUBLINGS_MAX;
        memory.remember_recipients(later, host(1), 7);
        assert_eq!(memory.recipients.hosts.len(), 1);
    }
}

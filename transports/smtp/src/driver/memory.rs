//! What hosts taught: which ones fail at TLS, which ones mishandle pipelining, which ones lose what they are sent, how many
//! recipients and messages they take. Forgotten after a while, because hosts get repaired.
//!
//! It outlives connections and, kept in [`Sites`], restarts; all agents of all loops learn from each other. The subject
//! of each fact is the address with its port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_sites::Sites;

use zrelay_wire::{Capabilities, Reply};

use crate::conversation::{Approach, Offered};

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

/// How long a number of messages that a host took on one connection stands. A try beyond it costs what was sent ahead.
const MESSAGES_TIME: Duration = Duration::from_secs(60 * 60);

/// TLS with this address fails; the value says nothing more.
const CLEAR: &str = "clear";
/// The highest conversation level that this address stands.
const LEVEL: &str = "level";
/// How to begin, where not boldly.
const APPROACH: &str = "approach";
/// How many recipients this address took in one transaction.
const RECIPIENTS: &str = "recipients";
/// How many messages this address took on one connection.
const MESSAGES: &str = "messages";

/// How long it is presumed that a host offers what it offered. Operators change that seldom, and a presumption that does
/// not hold costs one connection.
const OFFERED_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// What this address offered in reply to EHLO.
const OFFERED: &str = "ehlo";

/// Under which circumstances a host is met: what it offers may depend on them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Encounter {
    /// The host.
    pub(crate) host: SocketAddr,
    /// Our name in EHLO.
    pub(crate) hello: Arc<str>,
    /// Our address, where one is configured.
    pub(crate) source: Option<IpAddr>,
}

/// [`Offered`] as it is stored: the lines of the replies, the host's name first.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Lines {
    hello: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clear: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encrypted: Option<Vec<String>>,
}

/// [`Pipelining`] as it is stored, in the words of the configuration.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Lockstep,
    Transaction,
    Pipelined,
    Stream,
}

/// [`Approach`], where there is something to remember.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Manner {
    Careful,
}

impl From<Pipelining> for Level {
    fn from(level: Pipelining) -> Self {
        match level {
            Pipelining::Lockstep => Self::Lockstep,
            Pipelining::Transaction => Self::Transaction,
            Pipelining::Pipelined => Self::Pipelined,
            Pipelining::Stream => Self::Stream,
        }
    }
}

impl From<Level> for Pipelining {
    fn from(level: Level) -> Self {
        match level {
            Level::Lockstep => Self::Lockstep,
            Level::Transaction => Self::Transaction,
            Level::Pipelined => Self::Pipelined,
            Level::Stream => Self::Stream,
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    sites: Sites,
}

impl Memory {
    /// What `sites` knows of addresses.
    pub(crate) fn new(sites: Sites) -> Self {
        Self { sites }
    }

    /// TLS with this host failed.
    pub(crate) fn remember_clear(&self, now: Timestamp, host: SocketAddr) {
        self.sites.learn(now, &host.to_string(), CLEAR, &true, CLEAR_TIME);
    }

    /// Whether TLS with this host failed a short while ago.
    pub(crate) fn is_clear(&self, now: Timestamp, host: SocketAddr) -> bool {
        self.sites.recall(now, &host.to_string(), CLEAR).unwrap_or(false)
    }

    /// This host is to be met on this level at most.
    pub(crate) fn remember_level(&self, now: Timestamp, host: SocketAddr, level: Pipelining) {
        self.sites.learn(now, &host.to_string(), LEVEL, &Level::from(level), LEVEL_TIME);
    }

    /// The level to meet this host on.
    pub(crate) fn level(&self, now: Timestamp, host: SocketAddr, highest: Pipelining) -> Pipelining {
        let level = self.sites.recall::<Level>(now, &host.to_string(), LEVEL);
        level.map_or(highest, |level| highest.min(level.into()))
    }

    /// A connection to this host has shown how to begin the next one.
    pub(crate) fn remember_approach(&self, now: Timestamp, host: SocketAddr, approach: Approach) {
        match approach {
            Approach::Careful => self.sites.learn(now, &host.to_string(), APPROACH, &Manner::Careful, CARE_TIME),
            Approach::Bold => self.sites.forget(&host.to_string(), APPROACH),
        }
    }

    /// How to begin a connection to this host.
    pub(crate) fn approach(&self, now: Timestamp, host: SocketAddr) -> Approach {
        match self.sites.recall(now, &host.to_string(), APPROACH) {
            Some(Manner::Careful) => Approach::Careful,
            None => Approach::Bold,
        }
    }

    /// What a host has offered.
    pub(crate) fn remember_offered(&self, now: Timestamp, encounter: &Encounter, offered: &Offered) {
        let lines = |offered: &Option<Capabilities>| offered.as_ref().map(|offered| offered.to_lines(""));
        let before = self.sites.fact(now, &encounter.host.to_string(), OFFERED);
        let mut fresh = Lines {
            hello: Arc::clone(&encounter.hello),
            source: encounter.source,
            clear: lines(&offered.clear),
            encrypted: lines(&offered.encrypted),
        };
        if let Some(fact) = before
            && let Ok(known) = serde_json::from_value::<Lines>(fact.value)
        {
            if known == fresh && now.since(fact.since) < OFFERED_TIME / 4 {
                return;
            }
            // A connection in the clear says nothing about those behind a handshake, and the other way round.
            if known.hello == fresh.hello && known.source == fresh.source {
                fresh.clear = fresh.clear.or(known.clear);
                fresh.encrypted = fresh.encrypted.or(known.encrypted);
            }
        }
        self.sites.learn(now, &encounter.host.to_string(), OFFERED, &fresh, OFFERED_TIME);
    }

    /// What a host offered when it was met last under the same circumstances.
    pub(crate) fn offered(&self, now: Timestamp, encounter: &Encounter) -> Option<Offered> {
        let known: Lines = self.sites.recall(now, &encounter.host.to_string(), OFFERED)?;
        if known.hello != encounter.hello || known.source != encounter.source {
            return None;
        }
        let read = |lines: Vec<String>| Capabilities::from_reply(&Reply::multiline(250, lines));
        Some(Offered { clear: known.clear.map(read), encrypted: known.encrypted.map(read) })
    }

    /// What a host offered does not hold any more.
    pub(crate) fn forget_offered(&self, host: SocketAddr) {
        self.sites.forget(&host.to_string(), OFFERED);
    }

    /// This host took so many recipients in one transaction and refused the next.
    pub(crate) fn remember_recipients(&self, now: Timestamp, host: SocketAddr, most: u32) {
        self.sites.learn(now, &host.to_string(), RECIPIENTS, &most, RECIPIENTS_TIME * DOUBLINGS_MAX);
    }

    /// How many recipients to begin with: what the clause allows, or what the host has taken, doubled for every hour
    /// that has passed since it refused more.
    pub(crate) fn recipients(&self, now: Timestamp, host: SocketAddr, most: u32) -> u32 {
        let Some(fact) = self.sites.fact(now, &host.to_string(), RECIPIENTS) else {
            return most;
        };
        let Some(taken) = fact.value.as_u64().and_then(|taken| u32::try_from(taken).ok()) else {
            return most;
        };
        let hours = now.since(fact.since).as_secs() / RECIPIENTS_TIME.as_secs();
        let doublings = u32::try_from(hours).unwrap_or(DOUBLINGS_MAX).min(DOUBLINGS_MAX);
        most.min(taken.saturating_mul(1 << doublings)).max(1)
    }

    /// This host took so many messages on one connection and refused the next for that.
    pub(crate) fn remember_messages(&self, now: Timestamp, host: SocketAddr, most: u32) {
        self.sites.learn(now, &host.to_string(), MESSAGES, &most, MESSAGES_TIME);
    }

    /// How many messages to carry on a connection: what the clause allows, or what the host has taken.
    pub(crate) fn messages(&self, now: Timestamp, host: SocketAddr, most: u32) -> u32 {
        let taken = self.sites.recall::<u32>(now, &host.to_string(), MESSAGES);
        taken.map_or(most, |taken| taken.min(most)).max(1)
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
        let memory = Memory::new(Sites::new());
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
        let memory = Memory::new(Sites::new());
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
    fn a_limit_of_recipients_is_kept_and_then_tried_upwards() {
        let memory = Memory::new(Sites::new());
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
    fn what_was_offered_is_presumed_under_the_same_circumstances_only() {
        let memory = Memory::new(Sites::new());
        let now = Timestamp::from_secs(1000);
        let met = Encounter { host: host(25), hello: "hub.example".into(), source: None };
        let lines = ["mx.example", "PIPELINING", "SIZE 1000", "LIMITS RCPTMAX=7", "PIPECONNECT"].map(str::to_owned);
        let clear = Capabilities::from_reply(&Reply::multiline(250, lines.to_vec()));
        let offered = Offered { clear: Some(clear.clone()), encrypted: None };
        memory.remember_offered(now, &met, &offered);
        assert_eq!(memory.offered(now, &met), Some(offered.clone()));
        assert!(offered.is_early());
        assert_eq!(memory.offered(now, &Encounter { hello: "other.example".into(), ..met.clone() }), None);
        assert_eq!(memory.offered(now, &Encounter { source: Some([127, 0, 0, 2].into()), ..met.clone() }), None);
        assert_eq!(memory.offered(now, &Encounter { host: host(26), ..met.clone() }), None);

        let encrypted = Offered { clear: None, encrypted: Some(Capabilities::default()) };
        memory.remember_offered(now, &met, &encrypted);
        let both = Offered { clear: Some(clear), ..encrypted };
        assert_eq!(memory.offered(now, &met), Some(both.clone()));
        assert_eq!(memory.offered(now + OFFERED_TIME, &met), None, "forgotten in time");
        memory.remember_offered(now, &met, &both);
        memory.forget_offered(host(25));
        assert_eq!(memory.offered(now, &met), None);
    }

    #[test]
    fn a_limit_of_messages_is_kept_for_an_hour() {
        let memory = Memory::new(Sites::new());
        let start = Timestamp::from_secs(1000);
        memory.remember_messages(start, host(25), 100);
        assert_eq!(memory.messages(start, host(25), 1000), 100);
        assert_eq!(memory.messages(start, host(25), 50), 50, "the clause stays above it");
        assert_eq!(memory.messages(start, host(26), 1000), 1000, "another host");
        assert_eq!(memory.messages(start + MESSAGES_TIME, host(25), 1000), 1000);
    }

    #[test]
    fn every_level_is_recalled_as_it_was_learned() {
        let memory = Memory::new(Sites::new());
        let now = Timestamp::from_secs(1000);
        for level in [Pipelining::Lockstep, Pipelining::Transaction, Pipelining::Pipelined, Pipelining::Stream] {
            memory.remember_level(now, host(25), level);
            assert_eq!(memory.level(now, host(25), Pipelining::Stream), level);
        }
    }
}

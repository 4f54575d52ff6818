//! Which clause a thread falls under.

use std::sync::Arc;

use zrelay_config::{Clause, Config, Pattern, defaults};
use zrelay_spool::ThreadKey;

/// What the scheduler takes from the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clauses, first match wins; behind them the built-in one.
    pub clauses: Vec<Arc<Clause>>,
    /// All agents together.
    pub agents: u32,
    /// Agents per channel, for the channels that may have fewer than all.
    pub channel_agents: Vec<(String, u32)>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self { clauses: config.clauses.clone(), agents: config.agents, channel_agents: config.channel_agents.clone() }
    }
}

/// The clause behind all configured ones, with every value at its default. Only the port depends on the channel.
pub(crate) fn built_in(channel: &str) -> Clause {
    let any = Pattern::new("*");
    Clause {
        matches: match any {
            Ok(pattern) => pattern,
            Err(_) => unreachable!("a star is a pattern"),
        },
        thread_agents: defaults::THREAD_AGENTS,
        ring_agents: defaults::RING_AGENTS,
        interval: defaults::INTERVAL,
        retries: defaults::RETRIES.to_vec(),
        jitter: defaults::JITTER,
        expiry: defaults::EXPIRY,
        tls: defaults::TLS,
        port: if channel == "lmtp" { defaults::LMTP_PORT } else { defaults::PORT },
        source: None,
        recipients: defaults::RECIPIENTS,
        unacknowledged_messages: defaults::UNACKNOWLEDGED_MESSAGES,
        unacknowledged_bytes: defaults::UNACKNOWLEDGED_BYTES,
        pipelining: defaults::PIPELINING,
        idle: defaults::IDLE,
        connect_timeout: defaults::CONNECT_TIMEOUT,
        timeout: defaults::TIMEOUT,
    }
}

/// The configured clauses and, per channel, the built-in one.
#[derive(Debug)]
pub(crate) struct Clauses {
    configured: Vec<Arc<Clause>>,
    lmtp: Arc<Clause>,
    other: Arc<Clause>,
}

impl Clauses {
    pub(crate) fn new(configured: Vec<Arc<Clause>>) -> Self {
        Self { configured, lmtp: Arc::new(built_in("lmtp")), other: Arc::new(built_in("smtp")) }
    }

    /// The clause of a thread and its position, which tells rings apart; the built-in one stands behind the last.
    pub(crate) fn find(&self, key: &ThreadKey) -> (usize, Arc<Clause>) {
        let name = key.to_string();
        let found = self.configured.iter().enumerate().find(|(_, clause)| clause.matches.matches(&name));
        match found {
            Some((index, clause)) => (index, clause.clone()),
            None if &*key.channel == "lmtp" => (self.configured.len(), self.lmtp.clone()),
            None => (self.configured.len(), self.other.clone()),
        }
    }
}

//! Which clause a thread falls under.

use std::sync::Arc;

use zrelay_config::{Clause, Config, WarmUp};
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
    /// Source addresses that are being warmed up.
    pub sources: Vec<WarmUp>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            clauses: config.clauses.clone(),
            agents: config.agents,
            channel_agents: config.channel_agents.clone(),
            sources: config.sources.clone(),
        }
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
        Self {
            configured,
            lmtp: Arc::new(Clause::default_for("lmtp/*")),
            other: Arc::new(Clause::default_for("smtp/*")),
        }
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

//! The router: where each recipient goes.
//!
//! ```text
//!   Arrived ──▶ Worker ──▶ Router::route ──▶ Routed (batches) ──▶ spool ──▶ scheduler
//! ```
//!
//! [`Router`] is a pure function of the configuration and the holds that stand: recipients in, batches out, no I/O, no clock, no DNS. Duplicates
//! are taken out first (per message and sender), then every recipient gets its channel and host from the first
//! `[[route]]` that matches, or from its domain; recipients with the same pair form one batch, or several where they are
//! more than go out at once; those that an operator holds before they are there ([`Standing`]) are kept apart, so that the
//! others are not held with them. A recipient that cannot be
//! routed goes to the channel `error`, whose host is the reason: failures come back to the sender in the same way
//! wherever they are noticed.
//!
//! [`Router::explain`] walks the same steps aloud, with file and line of each rule. [`Worker`] is the thread around it.
#![forbid(unsafe_code)]

mod decide;
mod explain;
mod route;
mod slice;
mod worker;

pub use explain::{Step, Verdict};
pub use route::{Duplicate, Routing, Submitted};
pub use worker::{Worker, decide, duplicates};

use std::sync::Arc;

use zrelay_config::{Clause, Config, Route};
use zrelay_holds::Standing;

/// Reason for a recipient whose domain is no domain. The channel `error` answers with it; the leading status is RFC
/// 3463's "bad destination system address".
pub const BAD_DOMAIN: &str = "5.1.2 The domain of the recipient address is not valid";
/// Reason for a bare `postmaster` when the hub has no postmaster address.
pub const NO_POSTMASTER: &str = "5.1.1 This hub has no postmaster address";
/// Reason of a route to the channel `error` that gives none.
pub const REFUSED: &str = "5.7.1 Delivery is refused by a route of this hub";
/// Host of a recipient on the channels `hold` and `discard` that has no usable domain.
pub const NO_HOST: &str = "-";

/// The routing rules of one configuration.
#[derive(Clone, Debug)]
pub struct Router {
    routes: Vec<Route>,
    /// They say how much of a thread goes out at once.
    clauses: Vec<Arc<Clause>>,
    postmaster: Option<String>,
    file: Option<String>,
    /// Whether the recipient's domain alone decides, so that it need be asked once only.
    by_domain: bool,
    standing: Standing,
}

impl Router {
    /// The rules of `config`.
    pub fn new(config: &Config) -> Self {
        let by_domain = config.routes.iter().all(|route| {
            route.sender.is_none() && !route.recipient.as_ref().is_some_and(|pattern| pattern.is_whole_address())
        });
        let (routes, clauses) = (config.routes.clone(), config.clauses.clone());
        Self {
            routes,
            clauses,
            postmaster: config.postmaster.clone(),
            file: None,
            by_domain,
            standing: Standing::default(),
        }
    }

    /// The same, but recipients that an operator holds go into batches of their own.
    #[must_use]
    pub fn apart(mut self, standing: Standing) -> Self {
        self.standing = standing;
        self
    }

    /// The same with the name of the file that the rules stand in, for [`Router::explain`].
    #[must_use]
    pub fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }
}

#[cfg(test)]
mod tests;

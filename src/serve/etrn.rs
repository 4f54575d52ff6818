//! ETRN: what a client wants tried now becomes the scheduler's `retry`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use zrelay_clock::{Clock, Timestamp};
use zrelay_config::Pattern;
use zrelay_mailbox::{Received, Receiver};
use zrelay_router::{Router, Verdict};
use zrelay_scheduler::{Action, Answer, Ask, SchedulerHandle, Selector};
use zrelay_smtpserver::{TURN_PAUSE, Turn};
use zrelay_spool::ThreadKey;
use zrelay_wire::Node;

/// Wishes that wait for the scheduler; who asks for more is told to come again.
pub(super) const TURNS_MAX: usize = 64;
/// How long the thread sleeps when nobody wants anything; it only looks whether the hub has ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// Threads and patterns that are remembered as tried; more than are asked for in [`TURN_PAUSE`] by a hundred clients.
const TRIED_MAX: usize = 10_000;

/// The body of the thread. Returns when the intake or the scheduler has ended.
#[expect(clippy::needless_pass_by_value, reason = "a thread owns what it works with")]
pub(super) fn run(turns: Receiver<Turn>, scheduler: SchedulerHandle, router: Arc<RwLock<Arc<Router>>>, clock: Clock) {
    let mut tried: HashMap<String, Timestamp> = HashMap::new();
    loop {
        let turn = match turns.wait(PATIENCE) {
            Received::Item(turn) => turn,
            Received::Nothing => continue,
            Received::Closed => return,
        };
        let router = router.read().unwrap_or_else(PoisonError::into_inner).clone();
        for selector in selectors(&turn.node, &router) {
            let (name, now) = (selector.to_string(), clock.now());
            // Many domains may have one host: it is tried once for all of them.
            let is_recent = |since: &Timestamp| now.since(*since) < TURN_PAUSE;
            tried.retain(|_, since| is_recent(since));
            if tried.contains_key(&name) || tried.len() >= TRIED_MAX {
                continue;
            }
            tried.insert(name, now);
            match scheduler.ask(Ask::Operate { action: Action::Retry, selector: selector.clone() }) {
                Ok(Answer::Changed(changed)) => {
                    let (recipients, threads) = (changed.recipients, changed.threads);
                    log::info!(target: "hub", "ETRN {} from {}: Retry {selector}: {recipients} recipients, {threads} threads", turn.node, turn.client);
                }
                Ok(_) => {}
                Err(error) => log::warn!(target: "hub", "ETRN {}: {error}", turn.node),
            }
        }
    }
}

/// The threads that mail for a node is in: its own, and the one to which the routes send its domain.
fn selectors(node: &Node, router: &Router) -> Vec<Selector> {
    let threads = |pattern: String| Pattern::new(&pattern).ok().map(Selector::Threads);
    let named = |domain: &str| ["smtp", "lmtp"].map(|channel| Selector::Thread(ThreadKey::new(channel, domain)));
    let routed = |domain: &str| {
        let steps = router.explain(&format!("postmaster@{domain}"), "");
        steps.into_iter().find_map(|step| match step.verdict {
            Verdict::Taken(thread) if matches!(&*thread.channel, "smtp" | "lmtp") => Some(Selector::Thread(thread)),
            _ => None,
        })
    };
    let mut selectors = Vec::new();
    match node {
        Node::Domain(domain) => {
            selectors.extend(named(domain));
            selectors.extend(routed(domain));
        }
        Node::Subdomains(domain) => {
            selectors.extend(named(domain));
            selectors.extend(routed(domain));
            selectors.extend(threads(format!("?mtp/*.{domain}")));
        }
        // A name of a thread is a pattern too.
        Node::Queue(name) => selectors.extend(threads(name.clone())),
    }
    let mut seen = Vec::new();
    selectors.retain(|selector| {
        let fresh = !seen.contains(selector);
        seen.push(selector.clone());
        fresh
    });
    selectors
}

#[cfg(test)]
mod tests {
    use zrelay_config::Config;

    use super::*;

    #[test]
    fn a_node_is_its_threads_and_the_one_that_its_domain_is_routed_to() {
        let text = "[[route]]\nrecipient = 'b.example'\nchannel = 'smtp'\nhost = '[192.0.2.1]:26'\n\
                    [[route]]\nrecipient = 'q.example'\nchannel = 'hold'\nhost = 'q'\n";
        let router = Router::new(&Config::parse("hub.toml", text).expect("it is right"));
        let names = |node: &str| {
            let node = Node::parse(node.as_bytes()).expect("a node");
            selectors(&node, &router).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("a.example"), ["smtp/a.example", "lmtp/a.example"]);
        assert_eq!(names("b.example"), ["smtp/b.example", "lmtp/b.example", "smtp/[192.0.2.1]:26"]);
        assert_eq!(names("q.example"), ["smtp/q.example", "lmtp/q.example"], "a hold is not undone");
        assert_eq!(names("@a.example"), ["smtp/a.example", "lmtp/a.example", "?mtp/*.a.example"]);
        assert_eq!(names("#smtp/*"), ["smtp/*"]);
    }
}

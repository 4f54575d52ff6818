//! ETRN (RFC 1985): clients that may relay ask that mail for a domain is tried now.
//!
//! Whoever runs the hub takes the wishes out of a mailbox ([`Turn`]); a session never waits for that. What one client may
//! ask for is limited, so that nobody hammers a host that is down: see [`TURN_PAUSE`] and [`CLIENT_TURNS`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_mailbox::Sender;
use zrelay_wire::Node;

/// How soon the same node may be asked for again, by whomever.
pub const TURN_PAUSE: Duration = Duration::from_secs(60);
/// Nodes that one client may ask for in [`TURN_PAUSE`]: a host with many domains asks for all of them when it comes up.
pub const CLIENT_TURNS: u32 = 100;
/// Nodes that are remembered; while they are all recent, no other is taken.
const NODES_MAX: usize = 10_000;

/// A wish: mail for this node is to be tried now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Whose mail.
    pub node: Node,
    /// Who wants it.
    pub client: IpAddr,
}

/// What becomes of a wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turned {
    /// It is passed on.
    Begun,
    /// The node, or too much, was asked for a moment ago.
    TooSoon,
    /// The hub has too much else to do.
    Busy,
}

/// The wishes of all sessions.
#[derive(Debug)]
pub(crate) struct Turns {
    outlet: Sender<Turn>,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    nodes: HashMap<Node, Timestamp>,
    /// Since when, and how many.
    clients: HashMap<IpAddr, (Timestamp, u32)>,
}

impl Turns {
    pub(crate) fn new(outlet: Sender<Turn>) -> Self {
        Self { outlet, recent: Mutex::default() }
    }

    /// Passes a wish on, if its time has come.
    pub(crate) fn ask(&self, now: Timestamp, turn: Turn) -> Turned {
        // Nothing that holds it can panic half way.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |since: Timestamp| now.since(since) < TURN_PAUSE;
        let (node, client) = (turn.node.clone(), turn.client);
        if recent.nodes.get(&node).is_some_and(|since| is_recent(*since)) {
            return Turned::TooSoon;
        }
        if recent.nodes.len() >= NODES_MAX {
            recent.nodes.retain(|_, since| is_recent(*since));
            recent.clients.retain(|_, (since, _)| is_recent(*since));
        }
        let (since, count) = recent.clients.get(&client).copied().filter(|one| is_recent(one.0)).unwrap_or((now, 0));
        if count >= CLIENT_TURNS || recent.nodes.len() >= NODES_MAX {
            return Turned::TooSoon;
        }
        if self.outlet.try_send(turn).is_err() {
            return Turned::Busy;
        }
        recent.nodes.insert(node, now);
        recent.clients.insert(client, (since, count + 1));
        Turned::Begun
    }
}

#[cfg(test)]
mod tests {
    use zrelay_mailbox::mailbox;

    use super::*;

    #[test]
    fn a_node_is_asked_for_once_a_minute_and_a_client_asks_for_so_many() {
        let (outlet, wishes) = mailbox(1000);
        let turns = Turns::new(outlet);
        let ask = |second: u64, node: &str, client: u8| {
            let node = Node::parse(node.as_bytes()).unwrap();
            turns.ask(Timestamp::from_secs(second), Turn { node, client: [192, 0, 2, client].into() })
        };
        assert_eq!(ask(1000, "a.example", 1), Turned::Begun);
        assert_eq!(ask(1059, "A.example", 2), Turned::TooSoon, "whoever asks, and however it is spelled");
        assert_eq!(ask(1060, "a.example", 2), Turned::Begun);
        let begun = (0..200).filter(|number| ask(1061, &format!("{number}.example"), 3) == Turned::Begun).count();
        assert_eq!(begun, CLIENT_TURNS as usize);
        assert_eq!(ask(1061, "other.example", 4), Turned::Begun, "another client is not concerned");
        assert_eq!(ask(1121, "199.example", 3), Turned::Begun);
        assert_eq!(wishes.drain(1000).count(), 4 + begun);
    }

    #[test]
    fn what_the_hub_does_not_take_may_be_asked_for_again() {
        let (outlet, wishes) = mailbox(1);
        let turns = Turns::new(outlet);
        let turn = |name: &str| Turn { node: Node::Domain(name.to_owned()), client: [192, 0, 2, 1].into() };
        let now = Timestamp::from_secs(1000);
        assert_eq!(turns.ask(now, turn("a")), Turned::Begun);
        assert_eq!(turns.ask(now, turn("b")), Turned::Busy);
        assert_eq!(wishes.drain(1).count(), 1);
        assert_eq!(turns.ask(now, turn("b")), Turned::Begun);
    }
}

//! What the sessions of all intake loops share: memory, connections, and whether new messages are taken.
//!
//! Everything here is an atomic or is touched only when a connection comes or goes; no loop waits for another on the
//! path of a message.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zrelay_config::Intake;
use zrelay_mailbox::Sender;

use crate::turns::{Turn, Turns};

/// New transactions are refused above this part of the memory, in percent: those under way need the rest to finish.
const OPENING_PERCENT: u64 = 75;
/// The prefix of an IPv6 address that is one client, in bits: a whole /64 belongs to one subscriber.
const CLIENT_IPV6_BITS: u32 = 64;

/// Whether a client may relay to anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relay {
    /// Its address is in `relay_from`.
    Allowed,
    /// It is not: `550 5.7.1` at RCPT.
    Denied,
}

/// Whether new messages are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// Yes.
    Open,
    /// The spool has no space: `452 4.3.1` at MAIL.
    Full,
    /// The spool's disk fails: `452 4.3.1` at MAIL.
    Broken,
    /// The hub shuts down: `421 4.3.2`.
    Draining,
}

impl Door {
    const ALL: [Self; 4] = [Self::Open, Self::Full, Self::Broken, Self::Draining];

    fn index(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Full => 1,
            Self::Broken => 2,
            Self::Draining => 3,
        }
    }
}

/// What the sessions of all intake loops share.
#[derive(Debug)]
pub struct Shared {
    memory_used: AtomicU64,
    memory_max: u64,
    door: AtomicU8,
    connections_max: u32,
    client_connections_max: u32,
    connections: Mutex<Connections>,
    /// Where wishes for ETRN go, if they are taken.
    turns: Option<Turns>,
}

#[derive(Debug, Default)]
struct Connections {
    all: u32,
    /// Only clients that may not relay are counted one by one.
    clients: HashMap<IpAddr, u32>,
}

/// Why a connection is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TurnedAway {
    /// `421 4.3.2`: as many connections as the hub serves.
    #[error("too many connections")]
    Full,
    /// `421 4.7.0`: as many as one client may have.
    #[error("too many connections from one client")]
    TooManyFromClient,
    /// `421 4.3.2`: the hub shuts down.
    #[error("shutting down")]
    Draining,
}

impl Shared {
    /// With the limits of the configuration and the door open; ETRN is not offered.
    pub fn new(limits: &Intake) -> Arc<Self> {
        Self::turning(limits, None)
    }

    /// The same, and ETRN is offered if somebody takes the wishes.
    pub fn turning(limits: &Intake, turns: Option<Sender<Turn>>) -> Arc<Self> {
        Arc::new(Self {
            turns: turns.map(Turns::new),
            memory_used: AtomicU64::new(0),
            memory_max: limits.memory,
            door: AtomicU8::new(Door::Open.index()),
            connections_max: limits.connections,
            client_connections_max: limits.client_connections,
            connections: Mutex::default(),
        })
    }

    pub(crate) fn turns(&self) -> Option<&Turns> {
        self.turns.as_ref()
    }

    /// Whether new messages are taken.
    pub fn door(&self) -> Door {
        let index = usize::from(self.door.load(Ordering::Relaxed));
        Door::ALL.get(index).copied().unwrap_or(Door::Broken)
    }

    /// Opens or closes the door. [`Door::Draining`] is final.
    pub fn set_door(&self, door: Door) {
        let draining = Door::Draining.index();
        let _ = self
            .door
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now != draining).then_some(door.index()));
    }

    /// Octets of memory that sessions hold now.
    pub fn memory_used(&self) -> u64 {
        self.memory_used.load(Ordering::Relaxed)
    }

    /// Connections that are served now.
    pub fn connections(&self) -> u32 {
        self.lock().all
    }

    /// Counts a connection in; the [`Admission`] counts it out when it is dropped.
    ///
    /// # Errors
    /// [`TurnedAway`] with the limit that was reached.
    pub fn admit(self: &Arc<Self>, client: IpAddr, relay: Relay) -> Result<Admission, TurnedAway> {
        if self.door() == Door::Draining {
            return Err(TurnedAway::Draining);
        }
        let counted = (relay == Relay::Denied).then(|| one_client(client));
        let mut connections = self.lock();
        if connections.all >= self.connections_max {
            return Err(TurnedAway::Full);
        }
        if let Some(client) = counted {
            let mine = connections.clients.entry(client).or_insert(0);
            if *mine >= self.client_connections_max {
                return Err(TurnedAway::TooManyFromClient);
            }
            *mine += 1;
        }
        connections.all += 1;
        Ok(Admission { shared: Arc::clone(self), counted })
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Only counts are behind it, and no code that holds it can panic half way.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, bytes: u64, max: u64) -> Result<(), OutOfMemory> {
        let before = self.memory_used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= max {
            return Ok(());
        }
        self.release(bytes);
        Err(OutOfMemory)
    }

    fn release(&self, bytes: u64) {
        let before = self.memory_used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more memory released than was reserved");
    }
}

/// The address under which a client's connections are counted.
fn one_client(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let mask = u128::MAX << (u128::BITS - CLIENT_IPV6_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// One connection that is counted as long as this lives.
#[derive(Debug)]
pub struct Admission {
    shared: Arc<Shared>,
    counted: Option<IpAddr>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut connections = self.shared.lock();
        connections.all = connections.all.saturating_sub(1);
        let Some(client) = self.counted else {
            return;
        };
        if let Some(mine) = connections.clients.get_mut(&client) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                connections.clients.remove(&client);
            }
        }
    }
}

/// The budget does not allow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfMemory;

/// A part of the memory's budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reservation {
    /// Nothing yet.
    pub(crate) fn empty(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), bytes: 0 }
    }

    /// For a new transaction: refused while there is room for those under way only.
    pub(crate) fn open(shared: &Arc<Shared>, bytes: u64) -> Result<Self, OutOfMemory> {
        let max = (shared.memory_max / 100).saturating_mul(OPENING_PERCENT);
        shared.reserve(bytes, max)?;
        Ok(Self { shared: Arc::clone(shared), bytes })
    }

    /// More for something under way.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        self.shared.reserve(bytes, self.shared.memory_max)?;
        self.bytes += bytes;
        Ok(())
    }

    /// For what is there already and cannot be refused: it keeps others out instead.
    pub(crate) fn set(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.shared.memory_used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.shared.release(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// The octets held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fixture::limits;

    fn shared(change: impl FnOnce(&mut Intake)) -> Arc<Shared> {
        let mut limits = limits();
        change(&mut limits);
        Shared::new(&limits)
    }

    #[test]
    fn a_client_outside_is_limited_and_one_inside_is_not() {
        let shared = shared(|limits| limits.client_connections = 2);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let _kept = [shared.admit(client, Relay::Denied).unwrap(), shared.admit(client, Relay::Denied).unwrap()];
        assert_eq!(shared.admit(client, Relay::Denied).unwrap_err(), TurnedAway::TooManyFromClient);
        assert!(shared.admit(client, Relay::Allowed).is_ok());
        assert!(shared.admit("192.0.2.2".parse().unwrap(), Relay::Denied).is_ok());
    }

    #[test]
    fn a_connection_that_ends_makes_room() {
        let shared = shared(|limits| limits.connections = 1);
        let client: IpAddr = "2001:db8::1".parse().unwrap();
        let first = shared.admit(client, Relay::Denied).unwrap();
        assert_eq!(shared.admit(client, Relay::Allowed).unwrap_err(), TurnedAway::Full);
        drop(first);
        assert_eq!(shared.connections(), 0);
        assert!(shared.admit(client, Relay::Allowed).is_ok());
        assert!(shared.lock().clients.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_addresses_is_one_client() {
        assert_eq!(one_client("2001:db8::1".parse().unwrap()), one_client("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(one_client("2001:db8::1".parse().unwrap()), one_client("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(one_client("::ffff:192.0.2.1".parse().unwrap()), one_client("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn new_transactions_leave_room_for_those_under_way() {
        let shared = shared(|limits| limits.memory = 1000);
        let mut first = Reservation::open(&shared, 700).unwrap();
        assert!(Reservation::open(&shared, 100).is_err());
        assert_eq!(first.grow(300), Ok(()));
        assert_eq!(first.grow(1), Err(OutOfMemory));
        drop(first);
        assert_eq!(shared.memory_used(), 0);
    }

    #[test]
    fn draining_is_final() {
        let shared = shared(|_| {});
        shared.set_door(Door::Full);
        assert_eq!(shared.door(), Door::Full);
        shared.set_door(Door::Draining);
        shared.set_door(Door::Open);
        assert_eq!(shared.door(), Door::Draining);
        assert_eq!(shared.admit("192.0.2.1".parse().unwrap(), Relay::Allowed).unwrap_err(), TurnedAway::Draining);
    }
}

//! The conversation with the name servers: one query in flight per name and kind, tries, aliases, forgeries.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::Timestamp;

use crate::Settings;
use crate::cache::{Found, Key};
use crate::message::{ALIASES_MAX, Answer, Content, Edns, Response, decode, encode};
use crate::random::Random;

/// Sockets per address family among which queries are spread at random.
pub(crate) const PATHS: u8 = 4;

/// Queries in flight; more would overrun the sockets' buffers when the answers come together, and dilute the ids, which
/// are unique among them.
pub(crate) const IN_FLIGHT_MAX: usize = 1024;

/// A try waits at least this long, whatever the settings say: less is a busy loop.
const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// Ids tried until one is free; with at most [`IN_FLIGHT_MAX`] of 65,536 taken, one of 64 is.
const ID_DRAWS: usize = 64;

/// What the driver must send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// To this name server.
    pub server: SocketAddr,
    /// How.
    pub transport: Transport,
    /// The query's id, unique among those in flight: the handle for
    /// [`Resolver::handle_failure`](crate::Resolver::handle_failure).
    pub id: u16,
    /// When nobody waits for the answer any more.
    pub deadline: Timestamp,
    /// The query, without the length that goes before it over TCP.
    pub bytes: Vec<u8>,
}

/// How a query travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// As a datagram through the socket of this number; its answer must come in there.
    Udp {
        /// Less than the number of sockets.
        path: u8,
    },
    /// Over a connection of its own.
    Tcp,
}

/// How a message came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    Datagram { from: SocketAddr, path: u8 },
    Connection { id: u16 },
}

#[derive(Debug)]
struct Flight {
    /// The name asked for now: the key's, or the end of its aliases.
    name: Arc<str>,
    aliases: usize,
    tries: u32,
    server: usize,
    edns: Edns,
    sent: Option<Sent>,
}

#[derive(Debug)]
struct Sent {
    id: u16,
    serial: u64,
    transport: Transport,
}

/// All queries.
#[derive(Debug)]
pub(crate) struct Queries {
    settings: Settings,
    random: Random,
    flights: HashMap<Key, Flight>,
    by_id: HashMap<u16, Key>,
    /// Those that wait for [`IN_FLIGHT_MAX`].
    waiting: VecDeque<Key>,
    /// In order of time, as all tries have the same patience. Those that are over are skipped.
    deadlines: VecDeque<(Timestamp, u16, u64)>,
    transmits: VecDeque<Transmit>,
    done: VecDeque<(Key, Found, u32)>,
    /// The server that is asked first: the last one known not to be silent.
    preferred: usize,
    serial: u64,
}

impl Queries {
    pub(crate) fn new(settings: Settings, seed: [u8; 32]) -> Self {
        Self {
            settings,
            random: Random::new(seed),
            flights: HashMap::new(),
            by_id: HashMap::new(),
            waiting: VecDeque::new(),
            deadlines: VecDeque::new(),
            transmits: VecDeque::new(),
            done: VecDeque::new(),
            preferred: 0,
            serial: 0,
        }
    }

    /// Looks `key` up, unless that is under way.
    pub(crate) fn ask(&mut self, now: Timestamp, key: Key) {
        if self.flights.contains_key(&key) {
            return;
        }
        let flight = Flight {
            name: Arc::clone(&key.name),
            aliases: 0,
            tries: 0,
            server: self.preferred,
            edns: Edns::On,
            sent: None,
        };
        self.flights.insert(key.clone(), flight);
        self.waiting.push_back(key);
        self.start(now);
    }

    /// A message that came in. What does not match a query is dropped: RFC 5452 §9.
    pub(crate) fn handle_message(&mut self, now: Timestamp, arrival: Arrival, octets: &[u8]) {
        let Some(response) = decode(octets) else {
            return;
        };
        let Some(key) = self.by_id.get(&response.id).filter(|key| self.matches(key, arrival, &response)).cloned()
        else {
            return;
        };
        self.land(&key);
        match (response.content, arrival) {
            (Content::Truncated, Arrival::Datagram { .. }) => self.send(now, &key, Transport::Tcp),
            (content, _) => self.digest(now, key, content),
        }
        self.start(now);
    }

    /// The query `id` could not be sent, or its connection ended without an answer.
    pub(crate) fn handle_failure(&mut self, now: Timestamp, id: u16, reason: &str) {
        if let Some(key) = self.by_id.get(&id).cloned() {
            self.land(&key);
            self.try_next(now, key, reason);
            self.start(now);
        }
    }

    /// Gives up the tries whose time has come.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((_, id, serial)) = self.deadlines.pop_front_if(|(deadline, _, _)| *deadline <= now) {
            let Some(key) = self.flight_of(id, serial).cloned() else {
                continue;
            };
            let seconds = self.settings.timeout.as_secs_f32();
            let asked = self.flights.get(&key).map_or(0, |flight| flight.server);
            if asked == self.preferred {
                self.preferred = self.after(asked);
            }
            self.land(&key);
            self.try_next(now, key, &format!("no answer within {seconds} s"));
        }
        self.start(now);
    }

    /// The next thing to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next look-up that is done, with its time to live in seconds.
    pub(crate) fn poll_done(&mut self) -> Option<(Key, Found, u32)> {
        self.done.pop_front()
    }

    /// When [`Queries::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.deadlines.front().map(|(deadline, _, _)| *deadline)
    }

    fn flight_of(&self, id: u16, serial: u64) -> Option<&Key> {
        let key = self.by_id.get(&id)?;
        let sent = self.flights.get(key)?.sent.as_ref()?;
        (sent.serial == serial).then_some(key)
    }

    fn matches(&self, key: &Key, arrival: Arrival, response: &Response) -> bool {
        let Some(flight) = self.flights.get(key) else {
            return false;
        };
        let (Some(sent), Some(server)) = (&flight.sent, self.settings.servers.get(flight.server)) else {
            return false;
        };
        let way = match (arrival, sent.transport) {
            (Arrival::Datagram { from, path: came }, Transport::Udp { path }) => {
                // Not the scope and flow of IPv6, which the system fills in.
                came == path && from.ip() == server.ip() && from.port() == server.port()
            }
            (Arrival::Connection { id }, Transport::Tcp) => id == sent.id,
            _ => false,
        };
        way && response.kind == key.kind && response.name == *flight.name
    }

    /// Takes a query out of flight; what comes for its id now is not for it.
    fn land(&mut self, key: &Key) {
        if let Some(sent) = self.flights.get_mut(key).and_then(|flight| flight.sent.take()) {
            self.by_id.remove(&sent.id);
        }
        while let Some((_, id, serial)) = self.deadlines.front().copied() {
            if self.flight_of(id, serial).is_some() {
                break;
            }
            self.deadlines.pop_front();
        }
        // Behind a slow one many that are over could gather.
        if self.deadlines.len() > 2 * IN_FLIGHT_MAX {
            let mut deadlines = std::mem::take(&mut self.deadlines);
            deadlines.retain(|(_, id, serial)| self.flight_of(*id, *serial).is_some());
            self.deadlines = deadlines;
        }
    }

    fn digest(&mut self, now: Timestamp, key: Key, content: Content) {
        let answer = match content {
            Content::Answer(answer) => answer,
            Content::Truncated => return self.try_next(now, key, "answer too long for TCP"),
            Content::Failure(code) => return self.try_next(now, key, &code),
            Content::Unreadable => return self.try_next(now, key, "unreadable answer"),
            Content::Misunderstood => {
                if let Some(flight) = self.flights.get_mut(&key) {
                    flight.edns = Edns::Off;
                }
                return self.try_next(now, key, "query not understood");
            }
        };
        match answer {
            Answer::Exchanges { exchanges, ttl } => self.finish(key, Found::Exchanges(exchanges.into()), ttl),
            Answer::Addresses { addresses, ttl } => self.finish(key, Found::Addresses(addresses.into()), ttl),
            Answer::NoData { ttl } => self.finish(key, Found::NoData, ttl),
            Answer::NoDomain { ttl } => self.finish(key, Found::NoDomain, ttl),
            Answer::Alias(target) => self.follow(now, key, target.into()),
            Answer::Loop => self.give_up(key, "too many aliases in a row"),
        }
    }

    fn follow(&mut self, now: Timestamp, key: Key, target: Arc<str>) {
        let Some(flight) = self.flights.get_mut(&key) else {
            return;
        };
        flight.aliases += 1;
        flight.name = target;
        if flight.aliases > ALIASES_MAX {
            return self.give_up(key, "too many aliases in a row");
        }
        let transport = self.datagram();
        self.send(now, &key, transport);
    }

    fn try_next(&mut self, now: Timestamp, key: Key, reason: &str) {
        let next = self.flights.get(&key).map_or(0, |flight| self.after(flight.server));
        let Some(flight) = self.flights.get_mut(&key) else {
            return;
        };
        let failed = self.settings.servers.get(flight.server);
        let reason = failed.map_or_else(|| reason.to_owned(), |server| format!("{reason} from {server}"));
        flight.tries += 1;
        flight.server = next;
        if flight.tries >= self.settings.attempts.max(1) {
            return self.give_up(key, &reason);
        }
        let transport = self.datagram();
        self.send(now, &key, transport);
    }

    fn give_up(&mut self, key: Key, reason: &str) {
        self.finish(key, Found::Failed(reason.into()), 0);
    }

    fn finish(&mut self, key: Key, found: Found, ttl: u32) {
        self.flights.remove(&key);
        self.done.push_back((key, found, ttl));
    }

    fn start(&mut self, now: Timestamp) {
        while self.by_id.len() < IN_FLIGHT_MAX {
            let Some(key) = self.waiting.pop_front() else {
                return;
            };
            // The server may have fallen silent since.
            if let Some(flight) = self.flights.get_mut(&key) {
                flight.server = self.preferred;
            }
            let transport = self.datagram();
            self.send(now, &key, transport);
        }
    }

    fn send(&mut self, now: Timestamp, key: &Key, transport: Transport) {
        let id = self.free_id();
        let Some(flight) = self.flights.get_mut(key) else {
            return;
        };
        let Some(server) = self.settings.servers.get(flight.server).copied() else {
            return self.give_up(key.clone(), "no name server is configured");
        };
        let (Some(id), Some(bytes)) = (id, id.and_then(|id| encode(id, &flight.name, key.kind, flight.edns))) else {
            return self.give_up(key.clone(), "the name cannot be asked for");
        };
        let deadline = now + self.settings.timeout.max(TIMEOUT_MIN);
        self.serial = self.serial.wrapping_add(1);
        flight.sent = Some(Sent { id, serial: self.serial, transport });
        self.by_id.insert(id, key.clone());
        self.deadlines.push_back((deadline, id, self.serial));
        self.transmits.push_back(Transmit { server, transport, id, deadline, bytes });
    }

    fn free_id(&mut self) -> Option<u16> {
        (0..ID_DRAWS).map(|_| self.random.id()).find(|id| !self.by_id.contains_key(id))
    }

    fn datagram(&mut self) -> Transport {
        // PATHS divides the range: every path is as likely.
        let path = (self.random.word() % u32::from(PATHS)) as u8;
        Transport::Udp { path }
    }

    fn after(&self, server: usize) -> usize {
        (server + 1).checked_rem(self.settings.servers.len()).unwrap_or(0)
    }
}

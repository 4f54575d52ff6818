//! The driver: a [`Resolver`] with its sockets, inside somebody else's `mio` loop.

mod tcp;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::event::Event;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use zrelay_clock::Timestamp;

use crate::queries::PATHS;
use crate::resolver::Resolver;
use crate::{DnsError, Question, Settings, Target, Transmit, Transport, system_servers};
use tcp::{Exchange, Step};

/// Sockets per address family.
const PATHS_USIZE: usize = PATHS as usize;
/// IPv4 and IPv6.
const UDP_SOCKETS: usize = 2 * PATHS_USIZE;
/// Queries over TCP at one time; the others wait.
const TCP_CONNECTIONS: usize = DnsClient::TOKENS - UDP_SOCKETS;
/// Octets read of a datagram. Answers are 1232 at most, as the queries say; the rest is for servers that do not listen.
const DATAGRAM_MAX: usize = 4096;
/// Datagrams read from a socket before others have their turn.
const DATAGRAMS_PER_TURN: usize = 256;

/// A resolver with sockets. After every call that takes `now`, call [`DnsClient::poll_answer`] until it has none.
#[derive(Debug)]
pub struct DnsClient {
    resolver: Resolver,
    registry: Registry,
    base: usize,
    sockets: [Socket; UDP_SOCKETS],
    exchanges: [Option<Exchange>; TCP_CONNECTIONS],
    /// Queries that wait for a connection; the resolver bounds them, and their deadlines end them.
    queue: VecDeque<Transmit>,
}

#[derive(Debug)]
enum Socket {
    /// No server of this family.
    Absent,
    Idle(UdpSocket),
    /// There was more to read than one turn allows.
    Backlog(UdpSocket),
}

impl DnsClient {
    /// How many tokens of the loop it uses, from its base on.
    pub const TOKENS: usize = 16;

    /// A client that registers its sockets as `base..base + TOKENS`. Without servers in the settings it asks
    /// those of the system.
    ///
    /// # Errors
    /// Those of the system when no socket can be had.
    pub fn new(registry: &Registry, base: usize, mut settings: Settings) -> io::Result<Self> {
        if settings.servers.is_empty() {
            settings.servers = system_servers();
        }
        let wanted = [true, false].map(|v4| settings.servers.iter().any(|server| server.is_ipv4() == v4));
        let mut client = Self {
            resolver: Resolver::new(settings, seed()),
            registry: registry.try_clone()?,
            base,
            sockets: [const { Socket::Absent }; UDP_SOCKETS],
            exchanges: [const { None }; TCP_CONNECTIONS],
            queue: VecDeque::new(),
        };
        let opened = [client.open_family(0, wanted[0]), client.open_family(PATHS_USIZE, wanted[1])];
        match opened {
            // A host without IPv6 may have an IPv6 server in its list.
            [Ok(()), Err(error)] | [Err(error), Ok(())] if wanted == [true, true] => {
                log::warn!("some name servers cannot be asked: {error}");
                Ok(client)
            }
            [v4, v6] => v4.and(v6).map(|()| client),
        }
    }

    /// Whether events with `token` are for this client.
    pub fn owns(&self, token: Token) -> bool {
        self.index(token).is_some()
    }

    /// Asks `question`; the answer comes from [`DnsClient::poll_answer`] with `token`, once for each call, perhaps at
    /// once.
    pub fn resolve(&mut self, now: Timestamp, token: u64, question: Question) {
        self.resolver.resolve(now, token, question);
        self.pump(now);
    }

    /// An event of the loop; those of other owners are passed over.
    pub fn handle_event(&mut self, now: Timestamp, event: &Event) {
        let Some(index) = self.index(event.token()) else {
            return;
        };
        match index.checked_sub(UDP_SOCKETS) {
            None => self.receive(now, index),
            Some(slot) => self.drive(now, slot),
        }
        self.pump(now);
    }

    /// Time has passed. Call when [`DnsClient::poll_timeout`] says so; any other time does no harm.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        for index in 0..UDP_SOCKETS {
            if matches!(self.sockets.get(index), Some(Socket::Backlog(_))) {
                self.receive(now, index);
            }
        }
        self.resolver.handle_timeout(now);
        for slot in 0..TCP_CONNECTIONS {
            // The resolver gave up at the same deadline.
            if self.exchanges.get(slot).and_then(Option::as_ref).is_some_and(|exchange| exchange.deadline <= now) {
                self.close(slot);
            }
        }
        self.pump(now);
    }

    /// When [`DnsClient::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        if self.sockets.iter().any(|socket| matches!(socket, Socket::Backlog(_))) {
            return Some(Timestamp::ZERO);
        }
        self.resolver.poll_timeout()
    }

    /// The next answer.
    pub fn poll_answer(&mut self) -> Option<(u64, Result<Target, DnsError>)> {
        self.resolver.poll_answer()
    }

    fn index(&self, token: Token) -> Option<usize> {
        token.0.checked_sub(self.base).filter(|index| *index < Self::TOKENS)
    }

    fn open_family(&mut self, first: usize, wanted: bool) -> io::Result<()> {
        if !wanted {
            return Ok(());
        }
        let any: SocketAddr = match first {
            0 => (Ipv4Addr::UNSPECIFIED, 0).into(),
            _ => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        for (index, slot) in self.sockets.iter_mut().enumerate().skip(first).take(PATHS_USIZE) {
            // Port 0: the system picks one at random, which a forger has to guess too.
            let mut socket = UdpSocket::bind(any)?;
            self.registry.register(&mut socket, Token(self.base + index), Interest::READABLE)?;
            *slot = Socket::Idle(socket);
        }
        Ok(())
    }

    fn pump(&mut self, now: Timestamp) {
        loop {
            while let Some(transmit) = self.resolver.poll_transmit() {
                match transmit.transport {
                    Transport::Udp { path } => self.send(now, &transmit, path),
                    Transport::Tcp => self.queue.push_back(transmit),
                }
            }
            if !self.connect_next(now) {
                return;
            }
        }
    }

    fn send(&mut self, now: Timestamp, transmit: &Transmit, path: u8) {
        let first = if transmit.server.is_ipv4() { 0 } else { PATHS_USIZE };
        let socket = match self.sockets.get(first + usize::from(path)) {
            Some(Socket::Idle(socket) | Socket::Backlog(socket)) => socket,
            Some(Socket::Absent) | None => {
                return self.resolver.handle_failure(now, transmit.id, "no socket for the server's address family");
            }
        };
        match socket.send_to(&transmit.bytes, transmit.server) {
            // A full socket loses a datagram as the network does: the next try makes up for it.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.resolver.handle_failure(now, transmit.id, &error.to_string());
            }
            _ => {}
        }
    }

    fn receive(&mut self, now: Timestamp, index: usize) {
        let Some(slot) = self.sockets.get_mut(index) else {
            return;
        };
        let socket = match std::mem::replace(slot, Socket::Absent) {
            Socket::Absent => return,
            Socket::Idle(socket) | Socket::Backlog(socket) => socket,
        };
        let path = u8::try_from(index % PATHS_USIZE).unwrap_or(u8::MAX);
        let mut buffer = [0; DATAGRAM_MAX];
        let mut turns = 0..DATAGRAMS_PER_TURN;
        let drained = loop {
            if turns.next().is_none() {
                break false;
            }
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    self.resolver.handle_datagram(now, from, path, datagram);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                // An ICMP error for some earlier datagram; reading goes on behind it.
                Err(_) => {}
            }
        };
        if let Some(slot) = self.sockets.get_mut(index) {
            *slot = if drained { Socket::Idle(socket) } else { Socket::Backlog(socket) };
        }
    }

    /// Opens a connection for the next query that waits, if there is one and a free slot. Returns whether the resolver
    /// may have more to say.
    fn connect_next(&mut self, now: Timestamp) -> bool {
        while self.queue.pop_front_if(|transmit| transmit.deadline <= now).is_some() {}
        let Some(slot) = self.exchanges.iter().position(Option::is_none) else {
            return false;
        };
        let Some(transmit) = self.queue.pop_front() else {
            return false;
        };
        let id = transmit.id;
        let token = Token(self.base + UDP_SOCKETS + slot);
        let opened = Exchange::open(&self.registry, token, transmit);
        match (opened, self.exchanges.get_mut(slot)) {
            (Ok(exchange), Some(place)) => {
                *place = Some(exchange);
                self.drive(now, slot);
            }
            (Err(error), _) => self.resolver.handle_failure(now, id, &error.to_string()),
            (Ok(_), None) => {}
        }
        true
    }

    fn drive(&mut self, now: Timestamp, slot: usize) {
        let Some(exchange) = self.exchanges.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let id = exchange.id;
        match exchange.drive() {
            Step::Waiting => return,
            Step::Answer(message) => {
                self.resolver.handle_tcp(now, id, &message);
                // An answer that does not match leaves the query in flight; with its connection gone it has failed.
                self.resolver.handle_failure(now, id, "unrelated answer over TCP");
            }
            Step::Failed(reason) => self.resolver.handle_failure(now, id, &reason),
        }
        self.close(slot);
    }

    fn close(&mut self, slot: usize) {
        if let Some(mut exchange) = self.exchanges.get_mut(slot).and_then(Option::take) {
            exchange.close(&self.registry);
        }
    }
}

/// From the randomness of the operating system, which the standard library's hash keys are made of.
fn seed() -> [u8; 32] {
    let keys = RandomState::new();
    let mut seed = [0; 32];
    for (number, octets) in seed.chunks_exact_mut(8).enumerate() {
        octets.copy_from_slice(&keys.hash_one(number).to_le_bytes());
    }
    seed
}

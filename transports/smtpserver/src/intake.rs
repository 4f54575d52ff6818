//! The intake loops: many sessions on one thread each.
//!
//! A loop is one `mio::Poll`. What happened to a socket is noted at its connection, and the connection is put into a
//! queue; each connection in the queue has a turn of a few reads, so that one busy client does not starve the
//! others (events are edge-triggered, so a connection that could go on stays in the queue). An idle connection costs
//! no work at all, and some 1,200 octets: 568 for session and socket, a timer entry of 16, and at most 256 each of room
//! for a command line and a reply, which are kept so that a client that waits for each reply costs no allocation.
//!
//! Towards the spool a loop never blocks: while requests wait for room there, or too many commits are outstanding, no
//! input is read, which the clients feel as slower replies.

mod connection;
mod control;
mod desk;
mod listener;
#[cfg(test)]
mod tests;
mod timers;

pub use self::control::Control;
pub use self::desk::Storage;
pub use self::listener::BindError;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use slotmap::{Key, KeyData, SlotMap};
use zrelay_clock::{Clock, Timestamp};
use zrelay_config::Config;
use zrelay_mailbox::{Sender, mailbox_waking};
use zrelay_maillog::target;
use zrelay_tls::ServerTls;

use self::connection::{Connection, Next, Queued};
use self::control::{Phase, phase};
use self::desk::{Answers, COMMITS_MAX, ConnectionKey, Desk, Ready};
use self::listener::{Acceptable, Listener, Sharing};
use self::timers::Timers;
use crate::policy::{SessionPolicy, StartTls};
use crate::session::{ClientInfo, Session};
use crate::shared::{Relay, Reservation, Shared, TurnedAway};
use crate::turns::Turn;

/// The waker's token. Listeners count up from 1; connections have a generation in the upper half, which is never 0.
const WAKER: Token = Token(0);
const LISTENER_FIRST: usize = 1;
const _: () = assert!(usize::BITS >= 64, "tokens need room for a generation");
/// Events taken at once.
const EVENTS: usize = 1024;
/// Connections accepted in one turn of the loop, per listener.
const ACCEPTS_PER_TURN: u32 = 64;
/// How long nothing is accepted when the process has no descriptors left, and how often that is logged.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How soon a full spool mailbox is tried again: half a sync of a fast disk.
const RETRY: Duration = Duration::from_millis(5);
/// A stall of the spool that clients are credited with; shorter ones do not matter to limits of minutes.
const STALL_MIN: Duration = Duration::from_secs(1);

/// What the intake is made of, beside the configuration.
#[derive(Debug)]
pub struct Options<S> {
    /// The spool; each loop has a clone.
    pub storage: S,
    /// The certificate, for listeners that offer STARTTLS.
    pub tls: Option<ServerTls>,
    /// Where wishes that mail for a domain is tried now (ETRN) go; without it, ETRN is not offered.
    pub turns: Option<Sender<Turn>>,
    /// The time.
    pub clock: Clock,
}

/// The intake, listening and ready to run.
#[derive(Debug)]
pub struct Intake {
    /// The loops, each to be run on a thread of its own.
    pub loops: Vec<IntakeLoop>,
    /// Ends them.
    pub control: Control,
    /// What they share.
    pub shared: Arc<Shared>,
}

impl Intake {
    /// Listens where the configuration says, with as many loops as it says. Nothing is accepted before the loops run.
    ///
    /// # Errors
    /// [`BindError`], a sentence for the operator.
    pub fn bind<S: Storage + Clone>(config: &Config, options: Options<S>) -> Result<Self, BindError> {
        let shared = Shared::turning(&config.intake, options.turns.clone());
        let order = Arc::new(AtomicU8::new(Phase::Serving as u8));
        let count = config.loops.intake.max(1);
        let sharing = if count > 1 { Sharing::Shared } else { Sharing::Alone };
        let mut addresses: Vec<SocketAddr> = config.listen.iter().map(|listen| listen.address).collect();
        let mut loops = Vec::new();
        for _ in 0..count {
            let mut listeners = Vec::new();
            for (listen, address) in config.listen.iter().zip(&addresses) {
                let mut policy = SessionPolicy::of(config, listen);
                if options.tls.is_none() {
                    policy.starttls = StartTls::Absent;
                }
                let tls = options.tls.clone().filter(|_| policy.starttls != StartTls::Absent);
                listeners.push(Listener::bind(listen, *address, Arc::new(policy), tls, sharing)?);
            }
            // Port 0 means any port, but the same one for all loops.
            for (address, listener) in addresses.iter_mut().zip(&listeners) {
                *address = listener.socket.local_addr()?;
            }
            let storage = Box::new(options.storage.clone());
            loops.push(IntakeLoop::new(listeners, storage, Arc::clone(&shared), Arc::clone(&order), options.clock)?);
        }
        let wakers = loops.iter().map(|one| Arc::clone(&one.waker)).collect();
        let control = Control::new(order, Arc::clone(&shared), wakers);
        Ok(Self { loops, control, shared })
    }

    /// Where it listens, in the order of the configuration.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.loops.first().map(IntakeLoop::local_addresses).unwrap_or_default()
    }
}

/// One event loop with its listeners and connections.
pub struct IntakeLoop {
    poll: Poll,
    waker: Arc<Waker>,
    listeners: Vec<Listener>,
    connections: SlotMap<ConnectionKey, Connection>,
    ready: Ready,
    timers: Timers<ConnectionKey>,
    desk: Desk,
    answers: Answers,
    shared: Arc<Shared>,
    order: Arc<AtomicU8>,
    clock: Clock,
    accepting: Accepting,
    /// Since when the spool takes no more.
    stalled: Option<Timestamp>,
}

/// Whether connections are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Accepting {
    Yes,
    /// Not until then: the process has no descriptors left.
    Paused(Timestamp),
}

impl fmt::Debug for IntakeLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntakeLoop")
            .field("listeners", &self.listeners)
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

impl IntakeLoop {
    fn new(
        mut listeners: Vec<Listener>,
        storage: Box<dyn Storage>,
        shared: Arc<Shared>,
        order: Arc<AtomicU8>,
        clock: Clock,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (reply_to, answers) = mailbox_waking(COMMITS_MAX, Arc::clone(&waker));
        for (number, listener) in listeners.iter_mut().enumerate() {
            let token = Token(LISTENER_FIRST + number);
            poll.registry().register(&mut listener.socket, token, Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            waker,
            listeners,
            connections: SlotMap::with_key(),
            ready: Ready::new(),
            timers: Timers::new(),
            desk: Desk::new(storage, reply_to),
            answers,
            shared,
            order,
            clock,
            accepting: Accepting::Yes,
            stalled: None,
        })
    }

    /// Where it listens, in the order of the configuration.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect()
    }

    /// Serves until [`Control::stop`], or until the last session has ended after [`Control::drain`].
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut served = Phase::Serving;
        loop {
            let patience = self.patience(self.clock.now());
            if let Err(error) = self.poll.poll(&mut events, patience)
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!(target: target::SMTPD, "cannot wait for events: {error}");
                return;
            }
            let now = self.clock.now();
            self.note(&events);
            let ordered = phase(&self.order);
            if ordered == Phase::Stopped {
                return;
            }
            if ordered == Phase::Draining && served == Phase::Serving {
                self.drain(now);
            }
            served = ordered;
            self.take_answers(now);
            self.recover(now);
            self.shared.set_door(self.desk.door());
            self.accept(now);
            self.turns(now);
            self.expire(now);
            if served == Phase::Draining && self.connections.is_empty() && self.desk.flush() {
                return;
            }
        }
    }

    /// How long to wait for events.
    fn patience(&self, now: Timestamp) -> Option<Duration> {
        if self.desk.is_blocked() {
            return Some(RETRY);
        }
        let idle = self.ready.is_empty() || self.desk.is_congested();
        let resume = match self.accepting {
            Accepting::Paused(until) => Some(until.since(now)),
            Accepting::Yes if self.listeners.iter().any(|one| one.acceptable == Acceptable::Maybe) => {
                Some(Duration::ZERO)
            }
            Accepting::Yes => None,
        };
        let work = (!idle).then_some(Duration::ZERO);
        // Rounded up, so that the deadline has come when the loop wakes.
        let timer = self.timers.next().map(|at| at.since(now) + Duration::from_millis(1));
        [resume, work, timer].into_iter().flatten().min()
    }

    fn note(&mut self, events: &Events) {
        for event in events {
            let Token(token) = event.token();
            if event.token() == WAKER {
                continue;
            }
            if let Some(listener) = self.listeners.get_mut(token.wrapping_sub(LISTENER_FIRST)) {
                listener.acceptable = Acceptable::Maybe;
                continue;
            }
            let key = KeyData::from_ffi(token as u64).into();
            if let Some(connection) = self.connections.get_mut(key) {
                connection.note(event);
                enqueue(&mut self.ready, key, connection);
            }
        }
    }

    fn drain(&mut self, now: Timestamp) {
        log::info!(target: target::SMTPD, "draining: {} connections", self.connections.len());
        for mut listener in self.listeners.drain(..) {
            let _ = self.poll.registry().deregister(&mut listener.socket);
        }
        for (key, connection) in &mut self.connections {
            connection.session_mut().handle_drain(now);
            enqueue(&mut self.ready, key, connection);
        }
    }

    fn take_answers(&mut self, now: Timestamp) {
        for committed in self.answers.drain(COMMITS_MAX) {
            let Some(asked) = self.desk.answered(committed.token) else {
                continue;
            };
            if let Some(connection) = self.connections.get_mut(asked.connection) {
                connection.session_mut().handle_committed(now, asked.serial, committed.result);
                enqueue(&mut self.ready, asked.connection, connection);
            }
        }
    }

    /// Tries the spool again when it had no room, and credits the clients with the time it took.
    fn recover(&mut self, now: Timestamp) {
        if !self.desk.flush() {
            self.stalled.get_or_insert(now);
            return;
        }
        let Some(since) = self.stalled.take() else {
            return;
        };
        let stall = now.since(since);
        if stall < STALL_MIN {
            return;
        }
        log::warn!(target: target::SMTPD, "the spool took no mail for {:.1} s", stall.as_secs_f64());
        self.connections.values_mut().for_each(|connection| connection.session_mut().handle_stall(stall));
    }

    fn accept(&mut self, now: Timestamp) {
        if matches!(self.accepting, Accepting::Paused(until) if now < until) {
            return;
        }
        self.accepting = Accepting::Yes;
        for number in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.accept_one(now, number) {
                    break;
                }
            }
        }
    }

    /// Returns whether more may wait.
    fn accept_one(&mut self, now: Timestamp, number: usize) -> bool {
        let Some(listener) = self.listeners.get_mut(number).filter(|one| one.acceptable == Acceptable::Maybe) else {
            return false;
        };
        match listener.socket.accept() {
            Ok((stream, peer)) => {
                self.welcome(now, number, stream, peer);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                listener.acceptable = Acceptable::No;
                false
            }
            // The client went away before it was its turn.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => true,
            // No descriptors, no memory: trying again at once would only spin.
            Err(error) => {
                log::error!(target: target::SMTPD, "cannot accept connections: {error}; trying again in a second");
                self.accepting = Accepting::Paused(now + ACCEPT_PAUSE);
                false
            }
        }
    }

    fn welcome(&mut self, now: Timestamp, number: usize, mut stream: TcpStream, peer: SocketAddr) {
        let Some(listener) = self.listeners.get(number) else {
            return;
        };
        let client = ClientInfo {
            address: peer.ip().to_canonical(),
            relay: listener.relay(peer.ip()),
            pipeconnect: listener.pipeconnect(peer.ip()),
        };
        let admission = match self.shared.admit(client.address, client.relay) {
            Ok(admission) => admission,
            Err(reason) => return turn_away(&mut stream, &listener.policy, client, reason),
        };
        // Replies are written once per turn, so that nothing is gained by holding them back. Failing costs only time.
        let _ = stream.set_nodelay(true);
        let session = Session::new(Arc::clone(&listener.policy), Arc::clone(&self.shared), client, now);
        let memory = Reservation::empty(&self.shared);
        let key = self.connections.insert(Connection::new(stream, session, listener.tls.clone(), admission, memory));
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(connection.stream_mut(), token(key), interest) {
            log::error!(target: target::SMTPD, "cannot serve {client}: {error}");
            self.connections.remove(key);
            return;
        }
        enqueue(&mut self.ready, key, connection);
    }

    /// One turn for each connection that can go on now.
    fn turns(&mut self, now: Timestamp) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else {
                return;
            };
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            connection.queued = Queued::No;
            let next = connection.attend(key, now, &mut self.desk);
            let deadline = connection.deadline();
            self.timers.arm(key, &mut connection.armed, deadline);
            match next {
                Next::Wait => {}
                Next::Again => enqueue(&mut self.ready, key, connection),
                Next::Gone => self.dismiss(key),
            }
        }
    }

    fn dismiss(&mut self, key: ConnectionKey) {
        if let Some(mut connection) = self.connections.remove(key) {
            connection.log_farewell();
            let _ = self.poll.registry().deregister(connection.stream_mut());
        }
    }

    fn expire(&mut self, now: Timestamp) {
        // Who was not read from cannot be late.
        if self.stalled.is_some() {
            return;
        }
        while let Some((at, key)) = self.timers.pop(now) {
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            if !connection.armed.is_for(at) {
                continue;
            }
            if connection.deadline() <= now {
                connection.expire(now);
                enqueue(&mut self.ready, key, connection);
            }
            let deadline = connection.deadline();
            self.timers.arm(key, &mut connection.armed, deadline);
        }
    }
}

fn enqueue(ready: &mut Ready, key: ConnectionKey, connection: &mut Connection) {
    if connection.queued == Queued::No {
        connection.queued = Queued::Yes;
        ready.push_back(key);
    }
}

fn token(key: ConnectionKey) -> Token {
    // The assertion above: nothing is cut off.
    Token(key.data().as_ffi() as usize)
}

/// One reply, as far as it goes, and the end.
fn turn_away(stream: &mut TcpStream, policy: &SessionPolicy, client: ClientInfo, reason: TurnedAway) {
    let code = match reason {
        TurnedAway::Full | TurnedAway::Draining => "421 4.3.2",
        TurnedAway::TooManyFromClient => "421 4.7.0",
    };
    let relay = if client.relay == Relay::Allowed { " (may relay)" } else { "" };
    log::warn!(target: target::SMTPD, "connection from {client}{relay} refused: {reason}");
    // Who expects a handshake would not understand.
    if policy.starttls != StartTls::Implicit {
        let _ = stream.write(format!("{code} {} Error: {reason}\r\n", policy.hostname).as_bytes());
    }
}

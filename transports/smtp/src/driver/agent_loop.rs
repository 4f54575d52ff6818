//! The thread's loop: events, orders, names, deadlines, turns; nothing in it blocks but the poll.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use slotmap::{Key, KeyData, SlotMap};
use zrelay_agent::{LeaseId, Order, Report};
use zrelay_clock::{Clock, Timestamp};
use zrelay_config::Clause;
use zrelay_dns::DnsClient;
use zrelay_mailbox::{Outbox, Received, Receiver, Sender, mailbox_waking};
use zrelay_sites::Sites;
use zrelay_spool::{MessageId, Reader, ThreadKey};
use zrelay_tls::ClientTls;
use zrelay_trace::Tracing;

use super::agent::{Agent, Fate, Shared};
use super::link::Scratch;
use super::memory::Memory;
use super::resolve::Shuffle;
use super::timers::Timers;
use crate::letter::Letter;

/// Orders that may wait; the scheduler keeps what does not fit.
const ORDERS_MAX: usize = 4096;

/// Orders taken in one turn of the loop.
const ORDERS_PER_TURN: usize = 512;

/// Events taken in one turn of the loop.
const EVENTS_PER_TURN: usize = 1024;

/// Reports waiting for the scheduler above which sockets are left alone until it has caught up.
const REPORTS_MAX: usize = 8192;

/// How soon a full mailbox of the scheduler is tried again.
const FLUSH_TIME: Duration = Duration::from_millis(5);

/// How soon the loop finds out that nobody can send it orders any more.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// The waker's token; the resolver's follow.
const WAKER: Token = Token(0);

/// The first of the resolver's tokens.
const DNS_TOKENS: usize = 1;

slotmap::new_key_type! {
    /// An agent of this loop. As a number it is the token of its socket, generation included.
    struct AgentKey;
}

/// What a loop needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our name in `EHLO`.
    pub hostname: Arc<str>,
    /// The name servers.
    pub dns: zrelay_dns::Settings,
    /// TLS towards next hops; clones share their stores of sessions.
    pub tls: ClientTls,
    /// What is known of hosts, shared with the other loops.
    pub sites: Sites,
    /// Who watches conversations.
    pub tracing: Tracing,
    /// The time.
    pub clock: Clock,
    /// Seed for the order of exchanges with equal preference.
    pub seed: u64,
}

/// Where letters come from.
pub trait Letters {
    /// What is found there.
    type Letter: Letter;

    /// The letter with this id.
    ///
    /// # Errors
    /// Why it cannot be read, in words for the log.
    fn letter(&self, message: MessageId) -> Result<Self::Letter, String>;
}

impl Letters for Reader {
    type Letter = zrelay_spool::Stored;

    fn letter(&self, message: MessageId) -> Result<Self::Letter, String> {
        self.message(message).map_err(|error| error.to_string())
    }
}

/// Many agents on one thread. See the module's documentation.
pub struct AgentLoop<S: Letters> {
    poll: Poll,
    orders: Receiver<Order>,
    letters: S,
    dns: DnsClient,
    options: Options,
    turns: Arc<AtomicU64>,
}

impl<S: Letters> AgentLoop<S> {
    /// A loop, and where its orders go. It ends when all senders of orders are gone and its agents have finished.
    ///
    /// # Errors
    /// No descriptors are left for the poll or for the resolver's sockets.
    pub fn new(letters: S, options: Options) -> io::Result<(Self, Sender<Order>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, orders) = mailbox_waking(ORDERS_MAX, waker);
        let dns = DnsClient::new(poll.registry(), DNS_TOKENS, options.dns.clone())?;
        Ok((Self { poll, orders, letters, dns, options, turns: Arc::default() }, sender))
    }

    /// How often something has happened to an agent of this loop: what the loop does beside that does not grow with their
    /// number.
    pub fn turns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turns)
    }

    /// Runs until all senders of orders are gone and all agents have finished.
    ///
    /// # Errors
    /// The poll failed, which it does not on a system in order.
    pub fn run(self, reports: Sender<Report>) -> io::Result<()> {
        let shared = Shared {
            registry: self.poll.registry().try_clone()?,
            reports: Outbox::new(reports),
            dns: self.dns,
            letters: self.letters,
            tls: self.options.tls,
            memory: Memory::new(self.options.sites),
            dice: Shuffle::new(self.options.seed),
            scratch: Scratch::new(),
            hostname: self.options.hostname,
            tracing: self.options.tracing,
        };
        let mut running = Running {
            shared,
            agents: SlotMap::with_key(),
            by_lease: HashMap::new(),
            timers: Timers::new(),
            runnable: VecDeque::new(),
            source: Source::Open,
            turns: self.turns,
        };
        running.run(self.poll, &self.orders, &self.options.clock)
    }
}

/// Whether orders can still come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Open,
    Ended,
}

struct Running<S: Letters> {
    shared: Shared<S>,
    agents: SlotMap<AgentKey, Agent<S::Letter>>,
    by_lease: HashMap<LeaseId, AgentKey>,
    timers: Timers<AgentKey>,
    /// Agents that want a turn.
    runnable: VecDeque<AgentKey>,
    source: Source,
    turns: Arc<AtomicU64>,
}

impl<S: Letters> Running<S> {
    fn run(&mut self, mut poll: Poll, orders: &Receiver<Order>, clock: &Clock) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while self.source == Source::Open || !self.agents.is_empty() || !self.shared.reports.is_empty() {
            match poll.poll(&mut events, Some(self.patience(clock.now()))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Err(_) => continue,
                Ok(()) => {}
            }
            let now = clock.now();
            self.events(now, &events);
            self.orders(now, orders);
            self.shared.dns.handle_timeout(now);
            self.answers();
            self.deadlines(now);
            self.turns(now);
            self.shared.reports.flush();
        }
        Ok(())
    }

    /// How long to sleep.
    fn patience(&self, now: Timestamp) -> Duration {
        let held_up = !self.shared.reports.is_empty();
        if !self.runnable.is_empty() && !held_up {
            return Duration::ZERO;
        }
        let due = self.timers.next().into_iter().chain(self.shared.dns.poll_timeout()).min();
        let due = due.map_or(LOOK_TIME, |due| due.since(now)).min(LOOK_TIME);
        if held_up { due.min(FLUSH_TIME) } else { due }
    }

    fn events(&mut self, now: Timestamp, events: &Events) {
        for event in events {
            if event.token() == WAKER {
                continue;
            }
            if self.shared.dns.owns(event.token()) {
                self.shared.dns.handle_event(now, event);
                continue;
            }
            let key = AgentKey::from(KeyData::from_ffi(event.token().0 as u64));
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            self.with(key, |agent, shared| agent.ready(now, shared, readable, writable));
        }
    }

    fn orders(&mut self, now: Timestamp, orders: &Receiver<Order>) {
        let mut taken = 0;
        for order in orders.drain(ORDERS_PER_TURN) {
            taken += 1;
            self.order(now, order);
        }
        if taken > 0 || self.source == Source::Ended {
            return;
        }
        match orders.try_recv() {
            Received::Item(order) => self.order(now, order),
            Received::Nothing => {}
            Received::Closed => {
                self.source = Source::Ended;
                let all: Vec<AgentKey> = self.agents.keys().collect();
                for key in all {
                    self.with(key, |agent, shared| agent.close(now, shared));
                }
            }
        }
    }

    fn order(&mut self, now: Timestamp, order: Order) {
        match order {
            Order::Lease { lease, thread, clause, takes_over } => self.lease(now, lease, thread, clause, takes_over),
            Order::Connect { lease } => self.with_lease(lease, |agent, shared| agent.connect(now, shared)),
            Order::Carry { lease, batch } => self.with_lease(lease, |agent, shared| {
                agent.carry(now, shared, batch);
                Fate::Runs
            }),
            Order::Idle { lease } => self.with_lease(lease, |agent, shared| {
                agent.idle(now, shared);
                Fate::Waits
            }),
            Order::Close { lease } => self.with_lease(lease, |agent, shared| agent.close(now, shared)),
        }
    }

    fn lease(
        &mut self,
        now: Timestamp,
        lease: LeaseId,
        thread: ThreadKey,
        clause: Arc<Clause>,
        takes_over: Option<LeaseId>,
    ) {
        if let Some(old) = takes_over.and_then(|old| self.by_lease.remove(&old)) {
            let free = self.agents.get(old).is_some_and(|agent| agent.is_free_for(now, &thread.channel));
            if free {
                self.by_lease.insert(lease, old);
                return self.with(old, |agent, shared| {
                    agent.taken_over(now, shared, lease, thread, clause);
                    Fate::Runs
                });
            }
            self.with(old, |agent, shared| {
                agent.hush();
                agent.close(now, shared)
            });
        }
        let key = self.agents.insert_with_key(|key| {
            let token = Token(usize::try_from(key.data().as_ffi()).unwrap_or(usize::MAX));
            Agent::new(now, token, lease, thread, clause)
        });
        self.by_lease.insert(lease, key);
        self.with(key, |agent, shared| agent.begin(now, shared));
    }

    fn answers(&mut self) {
        while let Some((token, answer)) = self.shared.dns.poll_answer() {
            let key = AgentKey::from(KeyData::from_ffi(token));
            self.with(key, |agent, shared| agent.resolved(shared, answer));
        }
    }

    fn deadlines(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.timers.pop(now) {
            self.with(key, |agent, shared| {
                agent.armed.came_up(at);
                if agent.deadline() <= now { agent.timeout(now, shared) } else { Fate::Waits }
            });
        }
    }

    /// One turn for everyone who wants one; who wants another waits for the next round.
    fn turns(&mut self, now: Timestamp) {
        for _ in 0..self.runnable.len() {
            if self.shared.reports.len() > REPORTS_MAX {
                return;
            }
            let Some(key) = self.runnable.pop_front() else {
                return;
            };
            if let Some(agent) = self.agents.get_mut(key) {
                agent.listed = false;
            }
            self.with(key, |agent, shared| agent.turn(now, shared));
        }
    }

    fn with_lease(&mut self, lease: LeaseId, act: impl FnOnce(&mut Agent<S::Letter>, &mut Shared<S>) -> Fate) {
        // An order that has crossed the lease's end on the way is answered by that.
        if let Some(&key) = self.by_lease.get(&lease) {
            self.with(key, act);
        }
    }

    /// Lets something happen to an agent and does what it wants next. A key that is gone is an event that came late.
    fn with(&mut self, key: AgentKey, act: impl FnOnce(&mut Agent<S::Letter>, &mut Shared<S>) -> Fate) {
        let Some(agent) = self.agents.get_mut(key) else {
            return;
        };
        self.turns.fetch_add(1, Ordering::Relaxed);
        match act(agent, &mut self.shared) {
            Fate::Gone => {
                let lease = agent.lease;
                self.agents.remove(key);
                if self.by_lease.get(&lease) == Some(&key) {
                    self.by_lease.remove(&lease);
                }
                return;
            }
            Fate::Runs if !agent.listed => {
                agent.listed = true;
                self.runnable.push_back(key);
            }
            Fate::Runs | Fate::Waits => {}
        }
        let deadline = agent.deadline();
        self.timers.arm(key, &mut agent.armed, deadline);
    }
}

//! The hub and the world around it: who tells whom what, and when.
//!
//! ```text
//!   clients ──Request──▶ spool ──Arrived──▶ router ──Request──▶ spool ──Queue──▶ scheduler ──Order──▶ agents ◀──▶ far sides
//!                          ▲ └──Fact──▶ notary ──Request──▶ spool                    ▲ └─Request─▶ spool │
//!                          │                                                         └──────Report───────┘
//! ```
//!
//! The rooms are the real ones, driven as their threads drive them, but at moments that the [`Agenda`] says. A request to
//! the spool waits until the disk has finished what it does, as in a group commit. Between two events nothing is left to
//! do, and all that must hold is looked at.

mod agents;
mod checks;
mod faults;
mod holds;
mod mail;
mod network;
mod operator;
mod rooms;
mod window;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use foldhash::HashMap;
use slotmap::SlotMap;
use zrelay_agent::{LeaseId, Report};
use zrelay_clock::Timestamp;
use zrelay_config::Config;
use zrelay_error::Desk;
use zrelay_holds::Standing;
use zrelay_local::Agents as Local;
use zrelay_mailbox::{Receiver, Sender, mailbox};
use zrelay_router::Router;
use zrelay_scheduler::{RunId, Scheduler, Settings};
use zrelay_sites::{Fact, Sites};
use zrelay_spool::testing::{Idle, Simulated, Stepped};
use zrelay_spool::{Committed, QueuedBatch, Reader, Request, ThreadKey};

use crate::Seen;
use crate::agent::{Agent, AgentKey, ConnectionKey};
use crate::books::Books;
use crate::chance::{Agenda, Dice};
use crate::far::Session;
use crate::manners::{Manners, Way};
use crate::plan::{Faults, Plan};
use crate::queue::Queue;
use crate::site::{Site, SitePace};

/// Requests of the notary in one turn; more than it makes.
const NOTARY_MAX: usize = 4096;
/// Answers to clients in one group; more than there are.
const ANSWERS_MAX: usize = 65_536;
/// Octets that a connection takes before the far side has read them.
const SEND_BUFFER: usize = 256 * 1024;
/// Octets of one write.
const WRITE_MAX: usize = 64 * 1024;
/// How long a spool without work waits before it makes durable what nobody is in a hurry for.
const SETTLE_AFTER: Duration = Duration::from_millis(100);
/// How often a disk in trouble is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a client waits that was told to come again.
const CLIENT_RETRY: Duration = Duration::from_secs(60);
/// How often the hub writes down what it has learned, as the real one does.
const KEEP_EVERY: Duration = zrelay_sites::WRITE_PAUSE;
/// How long a hub that has crashed is down.
const DOWN: Duration = Duration::from_secs(2);

/// What is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client has a message for the hub.
    Post(u32),
    /// The disk has done what it did, and takes what has gathered meanwhile.
    Disk(u32),
    /// The spool has been idle.
    Settle(u32),
    /// The disk is tried again.
    Retry(u32),
    /// The resolver's answer.
    Resolved(AgentKey),
    /// The connection stands, or does not.
    Connected(AgentKey),
    /// Octets reach the far side.
    ToFar(ConnectionKey, Vec<u8>),
    /// Octets reach the hub, and with them the last of so many final replies; behind them the far side may have closed.
    FromFar(ConnectionKey, Vec<u8>, u64, bool),
    /// The far side hears that the hub has closed.
    Gone(ConnectionKey),
    /// An agent's deadline may have come.
    Timer(AgentKey),
    /// The local agents' leases may have been idle for long enough.
    Local,
    /// Something breaks.
    Fault(Fault),
    /// An operator does something.
    Operator,
    /// An operator lets go of everything.
    LastOperator,
}

/// What breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The process dies.
    Kill,
    /// The machine dies, and with it what was not on the disk.
    PowerCut,
    /// The disk fails after so many operations.
    Disk(u32, std::io::ErrorKind),
    /// It works again.
    Heal,
    /// One of the agents dies.
    Agent,
}

/// A connection: the far side's end of it, and what is on the way.
struct Connection {
    site: usize,
    session: Session,
    way: Way,
    /// Whose it is; none when the hub's end is closed.
    agent: Option<AgentKey>,
    rtt: Duration,
    /// Octets that the far side has not read.
    unread: usize,
    /// Final replies that have reached the hub, and messages without one that may be on the way.
    finals: u64,
    window: u32,
    /// When the last octets of each direction arrive.
    up: Timestamp,
    down: Timestamp,
}

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) dice: Dice,
    pub(crate) agenda: Agenda<Event>,
    /// Postings to come, the next one first.
    posts: VecDeque<(Timestamp, u32)>,
    pub(crate) books: Books,
    queue: Queue,
    manners: Manners,
    /// What the hub knows of sites, and what of it is written down.
    learned: Sites,
    kept: Vec<Fact>,
    keep_at: Timestamp,
    plan: Plan,
    config: Config,
    router: Router,
    /// The holds that stand, as the router sees them.
    standing: Standing,
    sites: Vec<Site>,
    connections: SlotMap<ConnectionKey, Connection>,

    disk: Simulated,
    /// Counts the crashes: what was set for a hub that is dead concerns nobody.
    life: u32,
    spool: Stepped,
    reader: Reader,
    scheduler: Scheduler,
    /// What waits beyond its window.
    spilled: BTreeMap<RunId, Vec<QueuedBatch>>,
    /// When the scheduler wants to be called, as it said last.
    wakes_at: Option<Timestamp>,
    desk: Desk<Reader>,
    notary_requests: Receiver<Request>,
    answers: (Sender<Committed>, Receiver<Committed>),
    local: Local,
    agents: SlotMap<AgentKey, Agent>,
    leases: HashMap<LeaseId, AgentKey>,
    agents_of: HashMap<ThreadKey, u32>,

    /// What waits for the disk.
    inbox: Vec<Request>,
    /// What an agent writes, before it is on its way.
    written: Vec<u8>,
    disk_busy: bool,
    settle_set: bool,
    retry_set: bool,
    reports: Vec<Report>,
    /// Threads that something has happened to.
    touched: Vec<ThreadKey>,
    /// Which posting a message of the books is a try of.
    tries: Vec<u32>,
    /// Threads that an operator wants tried now.
    retried: Vec<ThreadKey>,
    pub(crate) seen: Seen,
    pub(crate) events: u64,
    pub(crate) crashes: u64,
    pub(crate) tells: bool,
    start: Timestamp,
}

/// Prints a line of the history, if it is wanted.
macro_rules! tell {
    ($world:expr, $($what:tt)*) => {
        if $world.tells {
            $world.tell(format_args!($($what)*));
        }
    };
}
use tell;

impl World {
    /// A world with an empty queue, in which these postings come at their times, ascending.
    pub(crate) fn new(
        plan: Plan,
        config: Config,
        sites: Vec<Site>,
        mut dice: Dice,
        start: Timestamp,
        posts: Vec<(Timestamp, u32)>,
    ) -> Self {
        let disk = Simulated::default();
        let (spool, news) = Stepped::open(&disk, plan.segment_bytes, start).expect("an empty disk can be read");
        assert!(news.is_empty(), "an empty disk holds something");
        let learned = Sites::new();
        let standing = Standing::default();
        let mut scheduler = Scheduler::new(Settings::from(&config), dice.seed())
            .remembering(start, learned.clone())
            .holding(Box::new(spool.reader()), standing.clone());
        scheduler.set_window(plan.window);
        let (desk, notary_requests) = desk(&spool, &config);
        let mut world = Self {
            now: start,
            agenda: Agenda::new(),
            posts: posts.into(),
            books: Books::default(),
            queue: Queue::new(&config),
            manners: Manners::new(&config, &sites),
            learned: learned.clone(),
            kept: Vec::new(),
            keep_at: start + KEEP_EVERY,
            router: Router::new(&config).apart(standing.clone()),
            standing,
            sites,
            connections: SlotMap::with_key(),
            disk,
            life: 0,
            reader: spool.reader(),
            spool,
            scheduler,
            spilled: BTreeMap::new(),
            wakes_at: None,
            desk,
            notary_requests,
            answers: mailbox(ANSWERS_MAX),
            local: Local::new(),
            agents: SlotMap::with_key(),
            leases: HashMap::default(),
            agents_of: HashMap::default(),
            inbox: Vec::new(),
            written: Vec::new(),
            disk_busy: false,
            settle_set: false,
            retry_set: false,
            reports: Vec::new(),
            touched: Vec::new(),
            tries: Vec::new(),
            retried: Vec::new(),
            seen: Seen::default(),
            events: 0,
            crashes: 0,
            tells: false,
            plan,
            config,
            dice,
            start,
        };
        world.await_post();
        world
    }

    /// The next posting is set down only now: a day's would make the agenda deep.
    fn await_post(&mut self) {
        if let Some((at, posting)) = self.posts.pop_front() {
            self.agenda.set(at, Event::Post(posting));
        }
    }

    /// Runs until nothing is left to happen and the queue is empty.
    pub(crate) fn run(&mut self) {
        tell!(self, "config  {:?}", self.config.clauses);
        while self.step() {
            self.rooms();
            self.keep();
            self.look();
        }
        assert_eq!(self.scheduler.audit(self.now), 0, "the scheduler keeps recipients that nobody waits for");
        assert!(self.agents.is_empty() && self.inbox.is_empty());
        self.books.close();
    }

    /// What each site got, and how fast: the largest first.
    pub(crate) fn paces(&self) -> Vec<SitePace> {
        let mut paces: Vec<SitePace> = self.sites.iter().map(Site::report).collect();
        paces.sort_by_key(|pace| Reverse(pace.recipients));
        paces
    }

    /// To the next moment at which something happens; false when nothing will.
    fn step(&mut self) -> bool {
        self.events += 1;
        let open = self.spool.statistics().open_messages;
        assert!(self.events < self.plan.events_max, "it never ends: {open} messages are open");
        let rooms = [self.wakes_at, self.desk.poll_timeout()];
        let room = rooms.into_iter().flatten().min().map(|at| at.max(self.now));
        match (room, self.agenda.next_at()) {
            // All that is left is what the scheduler remembers of empty threads.
            (_, None) if open == 0 => return false,
            (None, None) => panic!("{open} messages are stuck"),
            (Some(room), None) => self.now = room,
            (Some(room), Some(next)) if room < next => self.now = room,
            _ => {
                if let Some((at, event)) = self.agenda.pop() {
                    self.now = self.now.max(at);
                    self.happens(event);
                }
            }
        }
        true
    }

    /// What the hub has learned of sites is written down, if it is time.
    fn keep(&mut self) {
        if self.now < self.keep_at || self.plan.faults == Faults::None {
            return;
        }
        self.keep_at = self.now + KEEP_EVERY;
        self.manners.keep();
        self.kept.clear();
        loop {
            let page = self.learned.page(self.now, self.kept.last().map(|fact| &fact.key));
            if page.is_empty() {
                return;
            }
            self.kept.extend(page);
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Post(message) => {
                self.await_post();
                self.post(message);
            }
            Event::Disk(life) if life == self.life => self.disk_turn(),
            Event::Settle(life) if life == self.life => {
                self.settle_set = false;
                self.spool.grant(1 << 20);
                self.spool.turn(self.now, Idle::Yes);
                self.news();
            }
            Event::Retry(life) if life == self.life => {
                self.retry_set = false;
                self.spool.retry(self.now);
                self.check_disk();
                self.news();
            }
            Event::Disk(_) | Event::Settle(_) | Event::Retry(_) => {}
            Event::Resolved(key) => self.resolved(key),
            Event::Connected(key) => self.connected(key),
            Event::ToFar(key, octets) => self.reaches_far_side(key, &octets),
            Event::FromFar(key, octets, finals, closed) => self.reaches_hub(key, &octets, finals, closed),
            Event::Gone(key) => {
                if let Some(connection) = self.connections.remove(key) {
                    self.sites[connection.site].leave();
                }
            }
            Event::Timer(key) => self.timer(key),
            Event::Local => self.local.handle_timeout(self.now),
            Event::Fault(fault) => self.fault(fault),
            Event::Operator => self.operator(),
            Event::LastOperator => self.last_operator(),
        }
    }

    fn tell(&self, what: std::fmt::Arguments<'_>) {
        let time = self.now.since(self.start);
        println!("{:>6}.{:06}  {what}", time.as_secs(), time.subsec_micros());
    }
}

/// A notary for this spool, and where its requests come out.
fn desk(spool: &Stepped, config: &Config) -> (Desk<Reader>, Receiver<Request>) {
    let (sender, receiver) = mailbox(NOTARY_MAX);
    let options =
        zrelay_error::Options { hostname: "hub.example".into(), postmaster: None, gather: config.bounce_gather };
    (Desk::new(spool.reader(), sender, Box::new(spool.next_id()), options), receiver)
}

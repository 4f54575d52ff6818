//! The wiring: every room on threads of its own, met in bounded mailboxes.
//!
//! ```text
//!   intake ──Request──▶ spool ──Arrived──▶ router ──Request──▶ spool ──Queue──▶ scheduler ──Order──▶ smtp, local
//!                         ▲ └──Fact──▶ notary ──Request──▶ spool                    ▲ │                │
//!                         └────────────────────────Request──────────────────────────┼─┘                │
//!                                                                                   └─────Report───────┘
//! ```
//!
//! Everything that can be refused (ports, spool, socket, certificate) is taken before the first thread starts, so that
//! a hub that cannot serve says why in one sentence and changes nothing.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use zrelay_agent::{Order, Report};
use zrelay_clock::Clock;
use zrelay_config::Config;
use zrelay_holds::Standing;
use zrelay_mailbox::{SendError, Sender, mailbox};
use zrelay_router::{Router, Worker};
use zrelay_scheduler::control::{ControlServer, SpoolStore, Stopper};
use zrelay_scheduler::{BATCH_OCTETS, Outlets, Scheduler, SchedulerHandle, SchedulerLoop, Settings};
use zrelay_sites::{Keeper, Sites};
use zrelay_smtp::AgentLoop;
use zrelay_smtpserver::{Control, Intake};
use zrelay_spool::{Reader, Request, Spill, Spool};
use zrelay_tls::{ClientTls, Roots, ServerTls};
use zrelay_trace::Tracing;

use super::access::Users;
use super::etrn;
use super::store::HubStore;
use super::threads::{Notices, Thread};
use crate::Failure;

/// Messages that wait for a router worker; the rest waits with the spool, where it costs nothing. Few, since what is routed
/// may be large: a batch for each host of a post, 200 KiB at a thousand hosts.
const ROUTING_MAX: usize = 64;
/// Facts that wait for the notary; the rest waits with the spool.
const FACTS_MAX: usize = 4096;
/// Orders that wait for the local agents; the rest waits with the scheduler.
const LOCAL_ORDERS_MAX: usize = 1024;
/// The file in the spool's directory with what was learned of hosts.
const SITES: &str = "sites.jsonl";
/// How long a thread that was told to end may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long agents may take when nobody is left to hear them. Behind a drain they have nothing under way and end as soon
/// as they look, once a second; what they would still deliver without one would not be on record, and come again.
const AGENTS_PATIENCE: Duration = Duration::from_secs(2);
/// How soon to look again whether the spool's mailbox has room.
const ROOM_AFTER: Duration = Duration::from_millis(5);

/// The running hub.
pub(crate) struct Hub {
    addresses: Vec<SocketAddr>,
    recovered: usize,
    intake: Control,
    scheduler: SchedulerHandle,
    control: Stopper,
    requests: Sender<Request>,
    sites: Sites,
    threads: Threads,
}

struct Threads {
    intake: Vec<Thread>,
    scheduler: Thread,
    agents: Vec<Thread>,
    control: Thread,
    spool: Thread,
    router: Thread,
    notary: Thread,
    keeper: Thread,
    etrn: Thread,
}

impl Hub {
    /// Takes what the configuration names and starts all rooms.
    pub(crate) fn start(config: &Config, file: Option<&Path>, notices: &Notices) -> Result<Self, Failure> {
        let clock = Clock::start();
        let tls = config
            .tls
            .as_ref()
            .map(|tls| ServerTls::from_pem(&tls.certificate, &tls.key))
            .transpose()
            .map_err(Failure::new)?;
        // Five eighths for the books, a quarter for batches; the rest is for what is on its way between the rooms.
        let options = zrelay_spool::Options {
            segment_bytes: config.segment_size,
            reserve_bytes: config.intake.reserve,
            compaction_rate: config.compaction_rate,
            checkpoint_bytes: config.checkpoint_interval,
            memory_bytes: config.queue.memory / 8 * 5,
            ..zrelay_spool::Options::new(&config.spool)
        };
        let window = usize::try_from(config.queue.memory / 4 / BATCH_OCTETS).unwrap_or(usize::MAX);
        let (spool, handle, recovered) = Spool::open(options, clock.now()).map_err(Failure::new)?;
        let spill = Spill::create(&config.spool).map_err(|error| {
            Failure::new(format_args!("cannot create a file in {}: {error}; make it writable", config.spool.display()))
        })?;
        let (scheduler_loop, inlets) = SchedulerLoop::new().map_err(no_descriptors)?;
        let scheduler_loop = scheduler_loop.with_spill(spill);
        let tracing = Tracing::new();
        let access = Box::new(Users::new(config.access.clone()));
        let (keeper, sites) = Keeper::open(&config.spool.join(SITES), clock);
        let store = Box::new(HubStore { spool: SpoolStore(handle.clone()), sites: sites.clone(), clock });
        let version = env!("CARGO_PKG_VERSION");
        let control =
            ControlServer::bind(&config.control, inlets.handle.clone(), store, access, tracing.clone(), version, clock)
                .map_err(Failure::new)?;
        let (turns, wishes) = mailbox(etrn::TURNS_MAX);
        let options = zrelay_smtpserver::Options { storage: handle.clone(), tls, turns: Some(turns), clock };
        let intake = Intake::bind(config, options).map_err(Failure::new)?;

        let addresses = intake.local_addresses();
        let messages = recovered.messages();
        let stopper = control.stopper();
        let agents = start_agents(config, &handle.reader(), &sites, &tracing, &inlets.reports, clock, notices)?;
        let outlets = Outlets { spool: handle.sender(), smtp: agents.smtp, local: agents.local };
        let agents = agents.threads;
        let standing = Standing::default();
        let mut scheduler = Scheduler::new(Settings::from(config), seed())
            .remembering(clock.now(), sites.clone())
            .holding(Box::new(handle.reader()), standing.clone());
        scheduler.set_window(window);
        let scheduler = Thread::start("scheduler", notices, move || scheduler_loop.run(scheduler, outlets, &clock))?;

        let (routing, arrived) = mailbox(ROUTING_MAX);
        let (facts, told) = mailbox(FACTS_MAX);
        let requests = handle.sender();
        let router = router(config, file, standing);
        let (retries, routes) = (inlets.handle.clone(), Arc::clone(&router));
        let etrn = Thread::start("etrn", notices, move || etrn::run(wishes, retries, routes, clock))?;
        let reader = handle.reader();
        let worker = requests.clone();
        let router = Thread::start("router", notices, move || Worker::run(arrived, reader, worker, router, clock))?;
        let options = zrelay_error::Options {
            hostname: config.hostname.clone(),
            postmaster: config.postmaster.clone(),
            gather: config.bounce_gather,
        };
        let notary = Thread::start("notary", notices, move || {
            let reader = handle.reader();
            zrelay_error::Notary::run(told, handle, reader, clock, options);
        })?;
        let outlets = zrelay_spool::Outlets { routing, scheduler: inlets.queue, facts };
        let spool = Thread::start("spool", notices, move || spool.run(outlets, recovered))?;
        let control = Thread::start("control", notices, move || control.run())?;
        let keeper = Thread::start("sites", notices, move || keeper.run())?;
        let loops = intake.loops.into_iter().map(|one| Thread::start("intake", notices, move || one.run()));
        let intake_loops = loops.collect::<Result<_, _>>()?;
        let threads = Threads { intake: intake_loops, scheduler, agents, control, spool, router, notary, keeper, etrn };
        Ok(Self {
            addresses,
            recovered: messages,
            intake: intake.control,
            scheduler: inlets.handle,
            control: stopper,
            requests,
            sites,
            threads,
        })
    }

    /// Where it listens, in the order of the configuration.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Messages that were in the queue at the start.
    pub(crate) fn recovered(&self) -> usize {
        self.recovered
    }

    /// Takes nothing new, and finishes what is under way.
    pub(crate) fn drain(&mut self) {
        self.intake.drain();
        if let Err(error) = self.scheduler.drain() {
            log::warn!(target: "hub", "draining: {error}");
        }
    }

    /// Whether everything under way is finished.
    pub(crate) fn is_drained(&self) -> bool {
        self.threads.scheduler.has_ended() && self.threads.intake.iter().all(Thread::has_ended)
    }

    /// Ends all threads, the spool's last but those that wait for it: what they recorded is durable then.
    pub(crate) fn stop(self) {
        let Threads { intake, scheduler, agents, control, spool, router, notary, keeper, etrn } = self.threads;
        self.intake.stop();
        intake.into_iter().for_each(|thread| thread.join(PATIENCE));
        // Nobody is left to wish for anything.
        drop(self.intake);
        etrn.join(PATIENCE);
        // An error says that it has ended, as it does after a drain.
        let _ = self.scheduler.stop();
        scheduler.join(PATIENCE);
        self.control.stop();
        control.join(PATIENCE);
        ask_to_end(&self.requests);
        drop(self.requests);
        spool.join(PATIENCE);
        router.join(PATIENCE);
        notary.join(PATIENCE);
        agents.into_iter().for_each(|thread| thread.join(AGENTS_PATIENCE));
        // Behind the agents, who learn to their end.
        self.sites.stop();
        keeper.join(PATIENCE);
    }
}

/// Tells the spool to end. Its mailbox may be full while its disk does not work; what waits there is lost then, but
/// nothing that was acknowledged is.
fn ask_to_end(spool: &Sender<Request>) {
    let until = Instant::now() + PATIENCE;
    while let Err(SendError::Full(_)) = spool.try_send(Request::Shutdown) {
        if Instant::now() >= until {
            return;
        }
        std::thread::sleep(ROOM_AFTER);
    }
}

fn no_descriptors(error: std::io::Error) -> Failure {
    Failure::new(format_args!("cannot start an event loop: {error}"))
}

/// The routing rules, in the place where a reload could swap them.
fn router(config: &Config, file: Option<&Path>, standing: Standing) -> Arc<RwLock<Arc<Router>>> {
    let mut router = Router::new(config).apart(standing);
    if let Some(file) = file {
        router = router.in_file(&file.display().to_string());
    }
    Arc::new(RwLock::new(Arc::new(router)))
}

/// Where orders go, and the threads that take them.
struct Agents {
    smtp: Vec<Sender<Order>>,
    local: Sender<Order>,
    threads: Vec<Thread>,
}

fn start_agents(
    config: &Config,
    reader: &Reader,
    sites: &Sites,
    tracing: &Tracing,
    reports: &Sender<Report>,
    clock: Clock,
    notices: &Notices,
) -> Result<Agents, Failure> {
    let tls = ClientTls::new(Roots::System).map_err(Failure::new)?;
    let (mut smtp, mut threads) = (Vec::new(), Vec::new());
    for _ in 0..config.loops.transport.max(1) {
        let options = zrelay_smtp::Options {
            hostname: config.hostname.as_str().into(),
            dns: zrelay_dns::Settings {
                servers: config.dns.servers.clone(),
                timeout: config.dns.timeout,
                attempts: config.dns.attempts,
            },
            tls: tls.clone(),
            sites: sites.clone(),
            tracing: tracing.clone(),
            clock,
            seed: seed(),
        };
        let (agents, orders) = AgentLoop::new(reader.clone(), options).map_err(no_descriptors)?;
        let reports = reports.clone();
        threads.push(Thread::start("smtp", notices, move || {
            if let Err(error) = agents.run(reports) {
                log::error!(target: "smtp", "the agents cannot wait for events: {error}");
            }
        })?);
        smtp.push(orders);
    }
    let (local, orders) = mailbox(LOCAL_ORDERS_MAX);
    let reports = reports.clone();
    threads.push(Thread::start("local", notices, move || zrelay_local::run(&orders, reports, &clock))?);
    Ok(Agents { smtp, local, threads })
}

/// A seed that nobody can guess, from the source that seeds the standard library's hash maps.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

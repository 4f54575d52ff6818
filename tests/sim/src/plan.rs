//! What is going to be sent, and where to.

use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::Config;
use zrelay_spool::ByMode;

use crate::chance::Dice;
use crate::site::{Site, Temper};
use crate::world::{Event, Fault, World};

/// When every simulation begins: a Thursday in 2026, midnight.
const START: Timestamp = Timestamp::from_secs(1_795_651_200);

/// One message that a client sends.
#[derive(Clone, Debug)]
pub(crate) struct Posting {
    pub(crate) list: u32,
    pub(crate) length: u32,
    pub(crate) priority: i8,
    /// How long behind its arrival it is to be delivered, and what if it is not.
    pub(crate) deliver_by: Option<(Duration, ByMode)>,
    /// The domains of its recipients.
    pub(crate) domains: Vec<u32>,
}

/// Whether the hub dies in a simulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Faults {
    Some,
    None,
}

/// The scale of a simulation, and how closely it is looked at.
#[derive(Debug)]
pub(crate) struct Plan {
    postings: Vec<Posting>,
    sites: u32,
    pub(crate) domains: u32,
    pub(crate) faults: Faults,
    pub(crate) segment_bytes: u32,
    /// Longest time that the disk takes for a group.
    pub(crate) sync_time: Duration,
    /// Whether octets are cut anywhere on the way.
    pub(crate) splits: bool,
    /// Events between two looks at everything.
    pub(crate) audit_every: u64,
    /// Events after which it is taken for endless.
    pub(crate) events_max: u64,
    pub(crate) idle: Duration,
    /// Batches that the scheduler may have in memory.
    pub(crate) window: usize,
}

impl Plan {
    pub(crate) fn posting(&self, number: u32) -> Posting {
        self.postings[number as usize].clone()
    }

    /// The site of a domain. Site 0 is the one of the lists themselves; of the others each has about as many domains.
    pub(crate) fn site_of(&self, domain: u32) -> usize {
        (1 + domain % (self.sites - 1)) as usize
    }
}

/// A world of a few hosts and a few dozen messages, in which everything breaks: other limits, tempers, faults and mail
/// with every seed.
pub(crate) fn small(seed: u64) -> World {
    let mut dice = Dice::new(seed);
    let sites = 4 + dice.below(6) as u32;
    let domains = sites + dice.below(10) as u32;
    let hours = 1 + dice.below(3);
    let thread_agents = 1 + dice.below(3);
    let ring_agents = thread_agents + dice.below(3);
    let agents = ring_agents + dice.below(10);
    let own = dice.below(2) * (1 + dice.below(hours * 3600));
    let common = format!(
        "thread_agents = {thread_agents}\nring_agents = {ring_agents}\ninterval = \"{}s\"\nretries = [1, 1, 2, 3]\n\
         expiry = \"{hours}h\"\nrecipients = {}\nunacknowledged_messages = {}\nidle = \"{}s\"\nconnection_messages = {}\n\
         timeout = \"{}s\"\ndelay_warning = \"{own}s\"\n",
        10 + dice.below(200),
        1 + dice.below(20),
        1 + dice.below(40),
        1 + dice.below(60),
        1 + dice.below(100),
        20 + dice.below(100),
    );
    let config = format!(
        "hostname = \"hub.example\"\nagents = {agents}\nbounce_gather = \"{}s\"\n\
         [[route]]\nrecipient = \"d2.example\"\nchannel = \"error\"\nhost = \"5.7.1 not from here\"\n\
         [[route]]\nrecipient = \"d3.example\"\nchannel = \"discard\"\n\
         [[route]]\nrecipient = \"d?5.example\"\nchannel = \"lmtp\"\n\
         [[route]]\nrecipient = \"d4.example\"\nchannel = \"lmtp\"\n\
         {}[[thread]]\nmatch = \"*\"\n{common}{}",
        10 + dice.below(300),
        limited(&common, &mut dice),
        if dice.below(4) == 0 { rates("clause_rates", &mut dice) } else { String::new() },
    );
    let messages = 20 + dice.below(60) as u32;
    let postings: Vec<Posting> = (0..messages)
        .map(|_| {
            let most = if dice.below(5) == 0 { 60 } else { 6 };
            let longest = if dice.below(10) == 0 { 60_000 } else { 3000 };
            // Some posts are for many at few hosts.
            let range = if dice.below(4) == 0 { 2 } else { domains.into() };
            let first = dice.below(domains.into());
            Posting {
                list: dice.below(4) as u32,
                length: dice.below(longest) as u32,
                priority: if dice.below(4) == 0 { dice.below(19) as i8 - 9 } else { 0 },
                deliver_by: deliver_by(&mut dice),
                domains: (0..=dice.below(most))
                    .map(|_| ((first + dice.below(range)) % u64::from(domains)) as u32)
                    .collect(),
            }
        })
        .collect();
    let narrow = dice.below(3) == 0;
    let plan = Plan {
        postings,
        sites,
        domains,
        faults: Faults::Some,
        segment_bytes: 16 << 10,
        sync_time: Duration::from_millis(1 + dice.below(200)),
        splits: true,
        audit_every: 5,
        events_max: 2_000_000,
        idle: Duration::from_secs(60),
        window: if narrow { 1 + dice.below(30) as usize } else { usize::MAX },
    };
    let sites = (0..sites).map(|number| Site::new(number, temper(number, 400, &mut dice), &mut dice)).collect();
    let span = Duration::from_secs(60 + dice.below(3600));
    let mut world = world(plan, &config, sites, dice, span);
    for _ in 0..world.dice.below(6) {
        let at = START + world.dice.between(Duration::ZERO, span * 2);
        let fault = match world.dice.below(6) {
            0 => Fault::Kill,
            1 | 2 => Fault::PowerCut,
            3 => {
                let kinds = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::Other];
                let kind = kinds[world.dice.below(2) as usize];
                let heal = at + world.dice.between(Duration::from_secs(1), Duration::from_secs(600));
                world.agenda.set(heal, Event::Fault(Fault::Heal));
                Fault::Disk(world.dice.below(8) as u32, kind)
            }
            _ => Fault::Agent,
        };
        world.agenda.set(at, Event::Fault(fault));
    }
    let operators = if world.dice.below(2) == 0 { world.dice.below(30) } else { 0 };
    operators_come(&mut world, operators, span * 2);
    world
}

/// A clause of some domains that are sent to no faster than so, or from an address that is to become known; or none.
fn limited(common: &str, dice: &mut Dice) -> String {
    let pattern = ["smtp/d1*", "*/d?.example", "smtp/*"][dice.below(3) as usize];
    let clause = format!("[[thread]]\nmatch = \"{pattern}\"\n{common}");
    match dice.below(6) {
        0 | 1 => clause + &rates("ring_rates", dice),
        2 => clause + &rates("ring_rates", dice) + &rates("clause_rates", dice),
        3 => {
            let days = [1 + dice.below(100), 50 + dice.below(200), 100 + dice.below(1000)];
            let start = ["2026-11-26", "2026-11-27"][dice.below(2) as usize];
            let address = "192.0.2.7";
            format!(
                "{clause}source = \"{address}\"\n\
                 [[source]]\naddress = \"{address}\"\nstart = \"{start}\"\nwarm_up = {days:?}\n"
            )
        }
        _ => String::new(),
    }
}

/// One to four rates.
fn rates(key: &str, dice: &mut Dice) -> String {
    let mut limit = |unit: &str, least: u64, most: u64| {
        let (amount, period) = (dice.between_numbers(least, most), ["m", "h"][dice.below(2) as usize]);
        let amount = if period == "h" { amount * 20 } else { amount };
        (dice.below(2) == 0).then(|| format!("{unit} = \"{amount}/{period}\""))
    };
    let limits = [
        limit("connections", 1, 20),
        limit("messages", 1, 60),
        limit("recipients", 1, 100),
        limit("bytes", 1000, 1_000_000),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    format!("{key} = {{ {} }}\n", limits.join(", "))
}

/// So many operators do something within `span`; the last of all lets go of everything.
fn operators_come(world: &mut World, operators: u64, span: Duration) {
    for _ in 0..operators {
        let at = START + world.dice.between(Duration::ZERO, span);
        world.agenda.set(at, Event::Operator);
    }
    world.agenda.set(START + span + Duration::from_secs(1), Event::LastOperator);
}

/// A day of a busy hub: so many recipients in so many threads, and one host in ten with a temper.
pub(crate) fn day(seed: u64, recipients: u32, domains: u32) -> World {
    const LISTS: u32 = 200;
    /// Domains to which half of all recipients belong.
    const LARGE: u32 = 20;
    let mut dice = Dice::new(seed);
    let sites = domains / 4 + 2;
    let config = "hostname = \"hub.example\"\nagents = 500\n\
                  [[thread]]\nmatch = \"*\"\nexpiry = \"8h\"\nidle = \"10s\"\n";
    let domain = |dice: &mut Dice| {
        let range = if dice.below(2) == 0 { LARGE } else { domains };
        dice.below(range.into()) as u32
    };
    let subscribers: Vec<Vec<u32>> = (0..LISTS)
        .map(|list| {
            let count = 10 << (list % 9);
            (0..count).map(|_| domain(&mut dice)).collect()
        })
        .collect();
    let (mut postings, mut left) = (Vec::new(), recipients);
    while left > 0 {
        let list = dice.below(LISTS.into()) as u32;
        // Half of the messages are single ones.
        let mut domains = match dice.below(2) {
            0 => vec![domain(&mut dice)],
            _ => subscribers[list as usize].clone(),
        };
        domains.truncate(left as usize);
        left -= domains.len() as u32;
        let length = 200 + dice.below(4000) as u32;
        postings.push(Posting { list, length, priority: 0, deliver_by: None, domains });
    }
    let plan = Plan {
        postings,
        sites,
        domains,
        faults: Faults::None,
        segment_bytes: 16 << 20,
        sync_time: Duration::from_millis(20),
        splits: false,
        audit_every: 200_000,
        events_max: 100_000_000,
        idle: Duration::from_secs(10),
        window: usize::MAX,
    };
    let sites = (0..sites).map(|number| Site::new(number, temper(number, 100, &mut dice), &mut dice)).collect();
    world(plan, config, sites, dice, Duration::from_secs(86_400))
}

/// Few messages have a time of their own.
fn deliver_by(dice: &mut Dice) -> Option<(Duration, ByMode)> {
    if dice.below(8) > 0 {
        return None;
    }
    let mode = if dice.below(2) == 0 { ByMode::Return } else { ByMode::Notify };
    Some((dice.between(Duration::from_secs(1), Duration::from_secs(7200)), mode))
}

/// One in so many of a thousand sites has a temper; that of the lists has none.
fn temper(number: u32, cases: u64, dice: &mut Dice) -> Temper {
    if number == 0 || !dice.in_thousand(cases) {
        return Temper::Good;
    }
    match dice.below(10) {
        0 => Temper::Slow(Duration::from_millis(1 + dice.below(200))),
        1 => Temper::Dead,
        2 => Temper::Refusing,
        3 => Temper::Flapping(Duration::from_secs(60 + dice.below(3600))),
        4 | 9 => Temper::RateLimiting(1 + dice.below(20) as u32),
        5 => Temper::Greylisting,
        6 => Temper::Breaking,
        7 => Temper::Odd,
        _ => Temper::Unknown,
    }
}

/// A world in which all messages are posted within `span`.
fn world(plan: Plan, config: &str, sites: Vec<Site>, mut dice: Dice, span: Duration) -> World {
    let config = Config::parse("the simulation", config).expect("the configuration of the simulation is right");
    let time = |posting| (START + dice.between(Duration::ZERO, span), posting);
    let mut posts: Vec<(Timestamp, u32)> = (0..plan.postings.len() as u32).map(time).collect();
    posts.sort_unstable();
    World::new(plan, config, sites, dice, START, posts)
}

//! `kill -9` again and again while mail comes in, goes out and is moved about in the spool.
//!
//! The short form of `tests/soak-crash`, which sets how often, and from which seed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use zrelay_tests::{Answer, Answered, Body, Hub, Mail, Marked, SOON, Sink, Step, inject, random, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
/// Kills in the short form.
const KILLS: u64 = 12;
const CONNECTIONS: usize = 6;
/// Transactions that may be under way in a thread when the hub dies.
const UNACKNOWLEDGED: usize = 32;
/// Messages that are answered 250 between two kills, at most.
const BETWEEN_MAX: u64 = 150;
/// How long a kill waits for what it is aimed at.
const AIM_PATIENCE: Duration = Duration::from_secs(10);
/// One message in so many stays in the queue until the end, so that the segments around it are compacted.
const STRAGGLERS: usize = 40;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} wants a number")))
}

/// The recipient of the next hop that defers until the end, and those of the other one.
fn make(number: usize) -> Mail {
    let octets = [300, 2000, 9000, 40_000][number % 4];
    let (one, other, late) = (format!("r{number}@b.test"), format!("q{number}@b.test"), format!("r{number}@late.test"));
    let mut recipients = vec![one.as_str()];
    if number.is_multiple_of(10) {
        recipients.push(&other);
    }
    if number.is_multiple_of(STRAGGLERS) {
        recipients.push(&late);
    }
    Mail::generate(&format!("soak.{number}"), octets, Body::Text, "sender@a.test", &recipients)
}

/// When a kill comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// At any time.
    Anywhere,
    /// While a checkpoint is made.
    Checkpoint,
    /// When compaction has just removed a segment.
    Removal,
}

impl Aim {
    fn of(kill: u64) -> Self {
        [Self::Anywhere, Self::Checkpoint, Self::Removal][(kill % 3) as usize]
    }
}

/// The directory of the spool, in which the hub is caught at work.
struct Spool {
    directory: PathBuf,
    /// What the last kill has left of a checkpoint that was being made.
    stale: Option<(SystemTime, u64)>,
}

impl Spool {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.join("spool"), stale: None }
    }

    /// The checkpoint that is being made: when it was written last, and its octets.
    fn unfinished(&self) -> Option<(SystemTime, u64)> {
        let metadata = fs::metadata(self.directory.join("checkpoint.new")).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    fn segments(&self) -> HashSet<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
    }

    /// Waits for what the kill is meant to meet, and looks often, since that is over within a few milliseconds. It need not
    /// come: there is nothing to compact right behind a restart.
    fn meets(&self, aim: Aim) -> bool {
        let before = self.segments();
        let end = Instant::now() + AIM_PATIENCE;
        let met = || match aim {
            Aim::Anywhere => true,
            Aim::Checkpoint => self.unfinished().is_some_and(|file| Some(file) != self.stale),
            Aim::Removal => before.iter().any(|segment| !segment.exists()),
        };
        while !met() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        true
    }

    /// Whether the hub, which is dead now, died while it made a checkpoint.
    fn has_interrupted_checkpoint(&mut self) -> bool {
        let left = self.unfinished();
        let before = std::mem::replace(&mut self.stale, left);
        self.stale.is_some() && self.stale != before
    }
}

/// What clients heard, over all kills.
#[derive(Default)]
struct Books {
    next: AtomicUsize,
    accepted: AtomicUsize,
    answers: Mutex<HashMap<usize, Answered>>,
}

impl Books {
    /// Sends mail over connections that are made again whenever they end, until `stop`.
    fn keep_sending(&self, address: std::net::SocketAddr, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            // Numbers of their own for each round, as nothing is sent twice: what is sent twice may arrive twice.
            let first = self.next.fetch_add(1000, Ordering::Relaxed);
            let counted = |number: usize| make(first + number);
            let answers = inject(address, 50, 1, stop, counted);
            if answers.iter().all(|answer| *answer == Answered::NotSent) {
                // The hub is about to come back.
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let mut books = self.answers.lock().expect("nobody panics");
            for (number, answer) in answers.into_iter().enumerate() {
                self.accepted.fetch_add(usize::from(answer == Answered::Accepted), Ordering::Relaxed);
                books.insert(first + number, answer);
            }
        }
    }
}

#[test]
fn kills_while_everything_goes_on_lose_nothing_and_double_only_what_was_under_way() {
    let (kills, seed) = (number("ZRELAY_KILLS", KILLS), number("ZRELAY_SEED", 1));
    let open = Arc::new(AtomicBool::new(false));
    let asked = open.clone();
    let b = Sink::build().delay(Duration::from_millis(1)).start();
    let late = Sink::build().answer(move |step| match step {
        Step::Rcpt(_) if !asked.load(Ordering::Relaxed) => Answer::Say("450 4.2.1 later".to_owned()),
        _ => Answer::Accept,
    });
    let late = late.start();
    let keys = format!("unacknowledged_messages = {UNACKNOWLEDGED}\ninterval = \"1s\"\nretries = [1]");
    let mut hub = Hub::build(ZRELAY)
        .setting("segment_size", "\"1MiB\"")
        .setting("compaction_rate", "\"64MiB\"")
        .setting("checkpoint_interval", "\"16KiB\"")
        .table("[intake]\nreserve = 0")
        .route("*@b.test", "smtp", &b.host())
        .route("*@late.test", "smtp", &late.host())
        .clause("smtp/*", &keys)
        .start();
    let (books, stop) = (Books::default(), AtomicBool::new(false));
    let address = hub.smtp();
    let (mut moved, mut checkpoints, mut interrupted, mut removals) = (0, 0, 0, 0);
    let mut spool = Spool::new(hub.path());
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| books.keep_sending(address, &stop));
        }
        let mut state = seed;
        for kill in 0..kills {
            state = random(state);
            // The moment is counted in deliveries, so that slow and fast machines are both caught at work.
            let (until, since) = (b.count() + 1 + (state % BETWEEN_MAX) as usize, b.count());
            let reached = wait_until(SOON, || b.count() >= until);
            if !reached {
                stop.store(true, Ordering::Relaxed);
                panic!("kill {kill}: {} delivered since the last one: {}", b.count() - since, hub.json(&["status"]));
            }
            let figures = hub.json(&["status"])["spool"].clone();
            moved += figures["moved_messages"].as_u64().unwrap_or_default();
            checkpoints += figures["checkpoints"].as_u64().unwrap_or_default();
            let met = spool.meets(Aim::of(kill));
            hub.kill();
            removals += u64::from(met && Aim::of(kill) == Aim::Removal);
            interrupted += u64::from(spool.has_interrupted_checkpoint());
            hub.start();
        }
        stop.store(true, Ordering::Relaxed);
    });
    open.store(true, Ordering::Relaxed);

    let answers = books.answers.into_inner().expect("nobody panics");
    let accepted: Vec<Mail> =
        answers.iter().filter(|(_, answer)| **answer == Answered::Accepted).map(|(number, _)| make(*number)).collect();
    let expected: HashSet<(Marked, String)> = accepted
        .into_iter()
        .flat_map(|mail| {
            let marked = mail.marked();
            mail.recipients.into_iter().map(move |recipient| (marked.clone(), recipient))
        })
        .collect();
    let deliveries = || b.deliveries().into_iter().chain(late.deliveries());
    let missing = || {
        let got: HashSet<_> = deliveries().collect();
        expected.difference(&got).cloned().collect::<Vec<_>>()
    };
    wait_until(SOON, || missing().is_empty());
    assert!(hub.wait_until_empty(Duration::from_secs(120)), "{}", hub.json(&["threads"]));
    let missing = missing();
    assert!(missing.is_empty(), "seed {seed}: {} answered 250 and lost: {missing:?}", missing.len());

    let mut delivered: HashMap<(String, String), usize> = HashMap::new();
    deliveries().for_each(|(marked, recipient)| *delivered.entry((marked.mark, recipient)).or_default() += 1);
    let doubled: usize = delivered.values().map(|count| count - 1).sum();
    for (mark, _) in delivered.keys() {
        let number = mark.strip_prefix("soak.").and_then(|number| number.parse::<usize>().ok());
        let answer = number.and_then(|number| answers.get(&number));
        assert!(
            answer.is_some_and(|answer| *answer != Answered::NotSent),
            "{mark} was never sent whole, yet delivered"
        );
    }
    // Each thread may have sent so many transactions without a recorded answer; two recipients in one, at most.
    let bound = kills as usize * 2 * 2 * UNACKNOWLEDGED;
    let unknown = answers.values().filter(|answer| **answer == Answered::Unknown).count();
    println!(
        "seed {seed}: {kills} kills, {} recipients of messages answered 250 and all delivered, {unknown} messages unanswered, \
         {moved} messages moved by compaction, {checkpoints} checkpoints, {interrupted} kills while one was made, {removals} as \
         a segment was removed, {doubled} recipients doubled (at most {bound})",
        expected.len(),
    );
    assert!(doubled <= bound);
    assert!(answers.values().all(|answer| !matches!(answer, Answered::Refused(_))), "something was refused");
    assert!(unknown > 0 || kills < 5, "no kill has met a message on its way in");
    assert!(moved > 0 || kills < 5, "no kill has met compaction");
    assert!(interrupted > 0 || kills < 5, "no kill has met the making of a checkpoint");
    assert!(removals > 0 || kills < 30, "no kill has met the removal of a segment");
    assert!(checkpoints > 0, "no restart has begun with a checkpoint");
}

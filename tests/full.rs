//! A full disk: what clients hear, what goes on, and that it is over when there is space again, without a restart.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use zrelay_tests::{Answer, Answered, Body, Hub, Mail, Marked, SOON, Sink, Step, inject, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
/// The file system of the spool.
const DISK_OCTETS: u64 = 24 << 20;
const MAIL_OCTETS: usize = 60_000;
/// More than fit the disk.
const MAILS_MAX: usize = 600;
const BALLAST: &str = "spool/ballast";
const PATIENCE: Duration = Duration::from_secs(60);

fn mail(number: usize) -> Mail {
    Mail::generate(&format!("full.{number}"), MAIL_OCTETS, Body::Text, "s@a.test", &["r@b.test"])
}

/// A next hop that defers everything until it is opened.
fn gate() -> (Sink, Arc<AtomicBool>) {
    let open = Arc::new(AtomicBool::new(false));
    let asked = open.clone();
    let sink = Sink::build().answer(move |step| match step {
        Step::Mail(_) if !asked.load(Ordering::Relaxed) => Answer::Say("450 4.2.1 not yet".to_owned()),
        _ => Answer::Accept,
    });
    (sink.start(), open)
}

/// Whether a small file system can be mounted here.
fn can_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let user: &[&str] = if root { &[] } else { &["--user", "--map-root-user"] };
    let mount = ["--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"];
    Command::new("unshare").args(user).args(mount).output().is_ok_and(|output| output.status.success())
}

/// Sends mail until the first refusal; what was accepted, and the code and text of the refusal.
fn fill(hub: &Hub) -> (HashSet<Marked>, u16, String) {
    let mut accepted = HashSet::new();
    let mut client = hub.client();
    for number in 0..MAILS_MAX {
        let mail = mail(number);
        let reply = client.mail(&mail.sender, &["r@b.test"], &mail.content);
        if reply.code != 250 {
            return (accepted, reply.code, reply.text());
        }
        accepted.insert(mail.marked());
    }
    panic!("the disk is never full");
}

/// Takes all space that is left, as another program might.
fn fill_up(hub: &Hub) -> std::path::PathBuf {
    let path = hub.seen_by_hub(BALLAST);
    let mut file = File::options().create(true).append(true).open(&path).expect("the ballast can be made");
    while file.write_all(&[0; 4096]).is_ok() {}
    path
}

fn health(hub: &Hub) -> String {
    hub.json(&["status"])["spool"]["health"].as_str().unwrap_or_default().to_owned()
}

/// Everything that was accepted has arrived, once, and new mail is taken.
fn all_is_well(hub: &Hub, sink: &Sink, accepted: &HashSet<Marked>) {
    let arrived = || sink.deliveries().into_iter().map(|(marked, _)| marked).collect::<HashSet<_>>();
    let complete = wait_until(PATIENCE, || accepted.is_subset(&arrived()));
    assert!(complete, "{} of {}: {}", arrived().len(), accepted.len(), hub.json(&["status"]));
    assert!(hub.wait_until_empty(SOON), "{}", hub.json(&["status"]));
    assert!(wait_until(SOON, || health(hub) == "good"), "{}", hub.json(&["status"]));
    let reply = hub.client().mail("s@a.test", &["r@b.test"], &mail(MAILS_MAX).content);
    assert_eq!(reply.code, 250, "{reply:?}");
    let last = mail(MAILS_MAX).marked();
    assert!(wait_until(SOON, || arrived().contains(&last)));
    assert_eq!(sink.deliveries().len(), accepted.len() + 1, "nothing arrives twice, and nothing that was refused");
}

#[test]
fn below_the_reserve_mail_is_refused_at_mail_and_what_is_queued_leaves() {
    if !can_mount() {
        return skip("no mount namespaces here");
    }
    let (sink, open) = gate();
    let hub = Hub::towards(ZRELAY, &sink.host()).setting("segment_size", "\"1MiB\"").small_disk(DISK_OCTETS);
    let hub = hub.table("[intake]\nreserve = \"6MiB\"").start();

    let (accepted, code, text) = fill(&hub);

    assert_eq!((code, text.contains("4.3.1")), (452, true), "{text}");
    assert!(accepted.len() > 100, "{}", accepted.len());
    assert_eq!(health(&hub), "full");
    assert!(hub.log_lines(&["cannot record"]).is_empty(), "it was never quite full: {}", hub.log());
    let mut client = hub.client();
    assert_eq!(client.command("MAIL FROM:<s@a.test>").code, 452, "refused before a recipient or an octet is sent");
    open.store(true, Ordering::Relaxed);
    all_is_well(&hub, &sink, &accepted);
}

#[test]
fn a_disk_without_any_space_loses_nothing_and_all_goes_on_when_there_is_space_again() {
    if !can_mount() {
        return skip("no mount namespaces here");
    }
    let (sink, open) = gate();
    let hub = Hub::towards(ZRELAY, &sink.host()).setting("segment_size", "\"1MiB\"").small_disk(DISK_OCTETS);
    let hub = hub.table("[intake]\nreserve = 0").start();
    let ballast = fill_up(&hub);

    let (accepted, code, text) = fill(&hub);

    assert_eq!((code, text.contains("4.3.1")), (452, true), "{text}");
    assert!(wait_until(SOON, || health(&hub) == "full"), "{}", hub.json(&["status"]));
    let mut client = hub.client();
    assert_eq!(client.command("MAIL FROM:<s@a.test>").code, 452);
    assert!(!hub.log_lines(&["cannot record", "delivery pauses"]).is_empty(), "{}", hub.log());
    // What cannot be recorded is not delivered.
    open.store(true, Ordering::Relaxed);
    let under_way = sink.deliveries().len();
    fs::remove_file(ballast).expect("the ballast can be removed");
    assert!(under_way <= accepted.len());
    all_is_well(&hub, &sink, &accepted);
    assert!(!hub.log_lines(&["recording again"]).is_empty(), "{}", hub.log());
}

/// Full and killed again and again, and every other time there is still no space when it starts again. `tests/soak-crash`
/// sets how often.
#[test]
fn kills_while_the_disk_is_full_lose_nothing() {
    const ROUNDS: usize = 8;
    const SENT_MAX: usize = 10_000;
    const UNACKNOWLEDGED: usize = 16;
    let rounds = std::env::var("ZRELAY_KILLS").map_or(ROUNDS, |kills| kills.parse().expect("a number"));
    if !can_mount() {
        return skip("no mount namespaces here");
    }
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).setting("segment_size", "\"1MiB\"").small_disk(DISK_OCTETS);
    let hub = hub.setting("checkpoint_interval", "\"16KiB\"").table("[intake]\nreserve = 0");
    let keys = format!("unacknowledged_messages = {UNACKNOWLEDGED}\ninterval = \"1s\"\nretries = [1]");
    let mut hub = hub.clause("smtp/*", &keys).start();
    let (mut accepted, mut refused) = (HashSet::new(), 0);
    for round in 0..rounds {
        let make = |number| mail(round * SENT_MAX + number);
        let (address, stop) = (hub.smtp(), AtomicBool::new(false));
        let (ballast, answers) = thread::scope(|scope| {
            let sending = scope.spawn(|| inject(address, SENT_MAX, 4, &stop, make));
            let until = sink.count() + 3 * (round % 17);
            assert!(wait_until(SOON, || sink.count() >= until), "{}", hub.json(&["status"]));
            // What is delivered makes space again.
            let full = wait_until(SOON, || fill_up(&hub).exists() && health(&hub) == "full");
            hub.kill();
            stop.store(true, Ordering::Relaxed);
            assert!(full, "{}", hub.log());
            (hub.seen_by_hub(BALLAST), sending.join().expect("nobody panics"))
        });
        let of = |wanted: fn(&Answered) -> bool| (0..).zip(&answers).filter(move |(_, answer)| wanted(answer));
        accepted.extend(of(|answer| *answer == Answered::Accepted).map(|(number, _)| make(number).marked()));
        // What follows a refused MAIL in the same write is out of sequence.
        refused += of(|answer| matches!(answer, Answered::Refused(452 | 503))).count();
        assert_eq!(of(|answer| matches!(answer, Answered::Refused(code) if ![452, 503].contains(code))).next(), None);
        if round % 2 == 0 {
            hub.start();
        }
        fs::remove_file(ballast).expect("the ballast can be removed");
        if round % 2 == 1 {
            hub.start();
        }
        assert!(wait_until(SOON, || health(&hub) == "good"), "{}", hub.json(&["status"]));
    }

    assert!(hub.wait_until_empty(PATIENCE), "{}", hub.json(&["status"]));
    let arrived: HashSet<Marked> = sink.deliveries().into_iter().map(|(marked, _)| marked).collect();
    let lost = accepted.difference(&arrived).count();
    assert_eq!(lost, 0, "of {} that were answered 250", accepted.len());
    let (kept, doubled) = (accepted.len(), sink.count().saturating_sub(arrived.len()));
    println!(
        "{rounds} kills with a full disk, {kept} messages answered 250 and all delivered, {doubled} twice, {refused} refused"
    );
    assert!(kept > rounds && refused > 0);
    assert!(doubled <= rounds * UNACKNOWLEDGED, "more than was under way");
}

//! Rates, warm-ups and sites that want less mail: what the next hop sees of them, and what the tools say.
//!
//! A limiter may be slow, since the machine may be; it must never be quick. So what is held against the clock here is only
//! that nothing comes before its time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use zrelay_tests::{Answer, Answered, Body, Hub, HubBuilder, Mail, SOON, Sink, SinkBuilder, Step, inject, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

/// When the next hop took how many recipients.
type Times = Arc<Mutex<Vec<(Instant, u64)>>>;

fn timed() -> (SinkBuilder, Times) {
    let times = Times::default();
    let kept = Arc::clone(&times);
    let sink = Sink::build().answer(move |step| {
        if let Step::End(transaction) = step {
            kept.lock().expect("a list of times").push((Instant::now(), transaction.recipients.len() as u64));
        }
        Answer::Accept
    });
    (sink, times)
}

fn hub(host: &str, keys: &str) -> HubBuilder {
    Hub::towards(ZRELAY, host).clause("smtp/*", &format!("retries = [1]\n{keys}"))
}

fn send(hub: &Hub, messages: usize, recipients: usize) {
    let addresses: Vec<String> = (0..recipients).map(|number| format!("r{number}@b.test")).collect();
    let make = |number: usize| {
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        Mail::generate(&format!("rate.{number}"), 700, Body::Text, "sender@a.test", &addresses)
    };
    let answers = inject(hub.smtp(), messages, 1, &AtomicBool::new(false), make);
    assert!(answers.iter().all(|answer| *answer == Answered::Accepted), "{answers:?}");
}

/// The shortest span in which more than `amount`, a tenth of it and one item were taken; `None` when there is none.
fn quickest(times: &Times, amount: u64, item: u64) -> Option<Duration> {
    let times = times.lock().expect("a list of times").clone();
    let most = amount + amount / 10 + item;
    let from = |first: usize| {
        let mut sum = 0;
        let over = times[first..].iter().find(|(_, units)| {
            sum += units;
            sum > most
        });
        over.map(|(at, _)| at.duration_since(times[first].0))
    };
    (0..times.len()).filter_map(from).min()
}

#[test]
fn messages_go_no_faster_than_their_rate_and_the_tools_say_what_is_used_up() {
    let (sink, times) = timed();
    let sink = sink.start();
    let hub = hub(&sink.host(), "ring_rates = { messages = \"10/s\" }").start();
    send(&hub, 40, 1);
    let name = format!("smtp/{}", sink.host());
    let mut reason = String::new();
    let seen = wait_until(SOON, || {
        let thread = hub.thread(&name);
        reason = thread["reason"].as_str().unwrap_or_default().to_owned();
        thread["state"] == "limit:rate"
    });
    assert!(seen, "{}", hub.json(&["threads"]));
    assert!(reason.starts_with("messages of its site are used up (10/s), more in"), "{reason}");
    assert!(sink.wait(40, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
    assert!(hub.wait_until_empty(SOON));
    // 40 are 4 seconds' worth, and what a busy machine delays in between makes up for nothing: the period is measured
    // where it is shortest, with a quarter of it for what waits on the way to the next hop.
    let quickest = quickest(&times, 10, 1).expect("more than one period's worth");
    assert!(quickest >= Duration::from_millis(750), "12 messages within {quickest:?}");
    let times = times.lock().expect("a list of times");
    let whole = times[39].0.duration_since(times[0].0);
    assert!(whole >= Duration::from_millis(3700), "40 messages within {whole:?}");
}

#[test]
fn a_post_is_taken_apart_by_a_rate_of_recipients() {
    let (sink, times) = timed();
    let sink = sink.start();
    let hub = hub(&sink.host(), "clause_rates = { recipients = \"1200/m\" }").start();
    send(&hub, 1, 160);
    assert!(sink.wait(160, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
    assert!(hub.wait_until_empty(SOON));
    let times = times.lock().expect("a list of times");
    assert!(times.len() > 1, "it went as a whole");
    // A tenth of a minute's worth, 120 and one, at once; the other 39 at 20 a second.
    assert!(times[0].1 <= 121, "{} recipients at once", times[0].1);
    let whole = times.last().expect("one").0.duration_since(times[0].0);
    assert!(whole >= Duration::from_millis(1500), "160 recipients within {whole:?}");
}

#[test]
fn connections_are_begun_no_faster_than_their_rate() {
    let times = Times::default();
    let kept = Arc::clone(&times);
    let sink = Sink::build().answer(move |step| {
        if let Step::Connect(_) = step {
            kept.lock().expect("a list of times").push((Instant::now(), 1));
        }
        Answer::Accept
    });
    let sink = sink.start();
    let hub = hub(&sink.host(), "connection_messages = 1\nring_rates = { connections = \"2/s\" }").start();
    send(&hub, 6, 1);
    assert!(sink.wait(6, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
    let times = times.lock().expect("a list of times");
    let whole = times[5].0.duration_since(times[0].0);
    // One at once, and five at two a second; a connection may have waited for its greeting.
    assert!(whole >= Duration::from_millis(1900), "6 connections within {whole:?}");
}

/// A next hop that says once, to the third message, that it has too much; it counts the messages that it is offered.
fn fed_up() -> (SinkBuilder, Arc<AtomicUsize>) {
    let mails = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&mails);
    let sink = Sink::build().answer(move |step| match step {
        Step::Mail(_) if counted.fetch_add(1, Ordering::SeqCst) == 2 => {
            Answer::Say("450 4.7.1 Error: too much mail from 127.0.0.1".to_owned())
        }
        _ => Answer::Accept,
    });
    (sink, mails)
}

/// The thread to a host that has just said so.
fn suspended(hub: &Hub, name: &str) -> serde_json::Value {
    let mut thread = serde_json::Value::Null;
    let seen = wait_until(SOON, || {
        thread = hub.thread(name);
        thread["state"] == "suspended"
    });
    assert!(seen, "{}", hub.json(&["threads"]));
    thread
}

#[test]
fn a_site_that_has_too_much_gets_nothing_until_an_operator_wants_it_tried() {
    let (sink, mails) = fed_up();
    let sink = sink.start();
    let hub = hub(&sink.host(), "interval = \"1h\"").start();
    let name = format!("smtp/{}", sink.host());
    send(&hub, 3, 1);
    assert!(wait_until(SOON, || mails.load(Ordering::SeqCst) == 3), "{}", hub.json(&["threads"]));
    assert!(wait_until(SOON, || hub.thread(&name)["recipients"] == 1), "{}", hub.json(&["threads"]));

    // What comes now waits, and a look at it does not wake it.
    send(&hub, 5, 1);
    let thread = suspended(&hub, &name);
    assert!(thread["next_attempt"].as_str().is_some(), "{thread}");
    assert!(thread["last_reply"].as_str().is_some_and(|reply| reply.contains("too much mail")), "{thread}");
    assert!(wait_until(SOON, || hub.thread(&name)["recipients"] == 6), "{}", hub.json(&["threads"]));
    let before = mails.load(Ordering::SeqCst);
    assert_eq!((hub.thread(&name)["state"].as_str(), sink.count()), (Some("suspended"), 2));
    assert_eq!(mails.load(Ordering::SeqCst), before, "it was asked again");

    assert!(hub.zrelay(&["retry", &name]).status.success());
    assert!(sink.wait(8, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
    assert!(hub.wait_until_empty(SOON));
}

#[test]
fn a_suspension_ends_by_itself_when_its_time_is_over() {
    let (sink, _) = fed_up();
    let (sink, first) = (sink.start(), Instant::now());
    let hub = hub(&sink.host(), "interval = \"1s\"\njitter = 0.0").start();
    send(&hub, 8, 1);
    assert!(sink.wait(8, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
    assert!(first.elapsed() >= Duration::from_secs(1), "it was left alone for less than a second");
    assert!(hub.log_lines(&["left alone for 1 s", "too much mail"]).len() == 1, "{}", hub.log());
}

#[test]
fn a_day_of_a_warm_up_is_not_begun_anew_by_a_restart() {
    let sink = Sink::start();
    let date = std::process::Command::new("date").args(["-u", "+%F"]).output().expect("today's date");
    let today = String::from_utf8_lossy(&date.stdout).trim().to_owned();
    let source = format!("[[source]]\naddress = \"127.0.0.1\"\nstart = \"{today}\"\nwarm_up = [5, 5, 5]");
    let mut hub = hub(&sink.host(), "source = \"127.0.0.1\"").table(&source).start();
    let name = format!("smtp/{}", sink.host());
    send(&hub, 8, 1);
    assert!(sink.wait(5, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
    let mut thread = serde_json::Value::Null;
    let waits = |hub: &Hub, thread: &mut serde_json::Value| {
        wait_until(SOON, || {
            *thread = hub.thread(&name);
            thread["state"] == "limit:rate" && thread["recipients"] == 3
        })
    };
    assert!(waits(&hub, &mut thread), "{}", hub.json(&["threads"]));
    let reason = thread["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("recipients of its source address are used up for today (5), more in"), "{thread}");

    assert!(hub.terminate(SOON).is_some_and(|status| status.success()), "{}", hub.log());
    hub.start();
    assert!(waits(&hub, &mut thread), "{}", hub.json(&["threads"]));
    assert_eq!(sink.count(), 5, "the day's count was forgotten");
}

//! Holds that stand: by sender and recipient, for mail to come, over crashes; and selections that reach beyond the window.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;
use zrelay_tests::{Answered, Body, Hub, Mail, Port, SOON, Sink, inject, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const CONTENT: &[u8] = b"Subject: x\r\n\r\nx\r\n";

fn send(hub: &Hub, sender: &str, recipients: &[&str]) {
    let reply = hub.client().mail(sender, recipients, CONTENT);
    assert_eq!(reply.code, 250, "{reply:?}");
}

fn done(hub: &Hub, arguments: &[&str]) -> String {
    let output = hub.zrelay(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Recipients of all batches in a state.
fn recipients(hub: &Hub, terms: &[&str]) -> u64 {
    let rows = hub.json(&[&["messages"], terms].concat());
    rows.as_array().into_iter().flatten().filter_map(|row| row["recipients"].as_u64()).sum()
}

#[test]
fn a_hold_by_sender_or_recipient_catches_mail_to_come_and_survives_kill_9() {
    let sink = Sink::start();
    let mut hub = Hub::towards(ZRELAY, &sink.host()).start();
    done(&hub, &["hold", "sender:*@bad.test"]);
    done(&hub, &["hold", "smtp/*", "recipient:held@*"]);
    for killed in [false, true] {
        if killed {
            // At once: what was answered is on disk.
            hub.kill();
            hub.start();
        }
        sink.clear();
        // What the hub held before it was killed it tells of while it starts.
        let held = if killed { 6 } else { 3 };
        send(&hub, "x@bad.test", &["a@b.test", "b@b.test"]);
        send(&hub, "s@good.test", &["held@b.test", "c@b.test", "d@b.test"]);
        assert!(wait_until(SOON, || recipients(&hub, &["state:held"]) == held), "{}", hub.json(&["messages"]));
        assert!(wait_until(SOON, || recipients(&hub, &[]) == held), "{}", hub.json(&["messages"]));
        let mut sent: Vec<String> = sink.transactions().iter().flat_map(|one| one.recipients.clone()).collect();
        sent.sort();
        assert_eq!(sent, ["c@b.test", "d@b.test"], "of a message only the recipients that are meant are held");
    }

    let rows = hub.json(&["holds"]);
    let texts: Vec<&str> = rows.as_array().into_iter().flatten().filter_map(|row| row["hold"].as_str()).collect();
    assert_eq!(texts, ["sender:*@bad.test", "smtp/* recipient:held@*"], "{rows}");
    for row in rows.as_array().expect("rows") {
        assert!(row["by"].as_str().is_some_and(|by| by.starts_with("user ")), "{row}");
        assert!(row["since"].is_string() && row["scope"] == "mail", "{row}");
    }
    assert_eq!(hub.json(&["status"])["totals"]["holds"], serde_json::json!(texts));
    assert!(done(&hub, &["holds"]).contains("sender:*@bad.test"));

    done(&hub, &["release", "sender:*@bad.test"]);
    assert!(wait_until(SOON, || hub.queued() == 2), "{}", hub.json(&["messages"]));
    done(&hub, &["release", "*"]);
    assert!(hub.wait_until_empty(SOON), "{}", hub.json(&["messages"]));
    assert_eq!(hub.json(&["holds"]), Value::Array(Vec::new()));
    hub.kill();
    hub.start();
    send(&hub, "x@bad.test", &["held@b.test"]);
    assert!(hub.wait_until_empty(SOON), "what was released stays released: {}", hub.json(&["messages"]));
}

#[test]
fn a_thread_held_by_its_name_is_among_the_holds() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    send(&hub, "x@a.test", &["a@b.test"]);
    assert!(sink.wait(1, SOON));
    let name = format!("smtp/{}", sink.host());
    done(&hub, &["hold", &name]);
    let rows = hub.json(&["holds"]);
    assert_eq!((&rows[0]["hold"], &rows[0]["scope"]), (&Value::from(name.as_str()), &Value::from("thread")));
    done(&hub, &["release", &name]);
    assert_eq!(hub.zrelay(&["holds"]).status.code(), Some(1), "none is left");
}

#[test]
fn terms_reach_what_waits_beyond_the_window_and_count_it_right() {
    // A window of 8,192 batches, the smallest there is.
    const MESSAGES: usize = 12_000;
    let down = Port::free();
    let host = format!("[127.0.0.1]:{}", down.number());
    let hub =
        Hub::towards(ZRELAY, &host).table("[queue]\nmemory = \"16MiB\"").clause("smtp/*", "interval = \"1h\"").start();
    let make = |number: usize| {
        let sender = if number.is_multiple_of(10) { "x@bad.test" } else { "s@good.test" };
        Mail::generate(&format!("w.{number}"), 300, Body::Text, sender, &[&*format!("r{number}@b.test")])
    };
    assert_eq!(inject(hub.smtp(), MESSAGES, 8, &AtomicBool::new(false), make), vec![Answered::Accepted; MESSAGES]);
    let late = Duration::from_secs(60);
    assert!(wait_until(late, || hub.queued() == MESSAGES as u64), "{}", hub.queued());
    let counted = |method: &str, terms: &[&str]| {
        let answer = hub.json(&[&[method], terms].concat());
        (answer["batches"].as_u64(), answer["recipients"].as_u64(), answer["threads"].as_u64())
    };
    let bad = (Some(1200), Some(1200), Some(1));
    assert_eq!(counted("drop", &["--dry-run", "sender:*@bad.test"]), bad);
    assert_eq!(hub.json(&["messages", "--limit", "20000"]).as_array().map(Vec::len), Some(MESSAGES), "all are listed");
    assert_eq!(counted("hold", &["sender:*@bad.test"]), bad);
    let held = || hub.json(&["messages", "--limit", "20000", "state:held"]).as_array().map_or(0, Vec::len);
    assert!(wait_until(late, || held() == 1200), "{}", held());
    assert_eq!(counted("expire", &["--dry-run", "state:held", "recipient:r11990@*"]), (Some(1), Some(1), Some(1)));
    assert_eq!(counted("drop", &["recipient:r11999@*"]), (Some(1), Some(1), Some(1)));
    assert!(wait_until(late, || hub.queued() == MESSAGES as u64 - 1), "{}", hub.queued());
    assert_eq!(counted("drop", &["state:held"]), bad);
    assert!(wait_until(late, || hub.queued() == MESSAGES as u64 - 1201), "{}", hub.queued());
    assert_eq!(counted("drop", &["--dry-run", "sender:*@good.test", "age:<1h"]).0, Some(MESSAGES as u64 - 1201));
}

//! Watching and steering a hub at work.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::Value;
use zrelay_tests::{Answer, Answered, Body, Hub, Mail, Port, SOON, Sink, Step, inject, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

fn one(hub: &Hub, recipients: &[&str]) -> String {
    let reply = hub.client().mail("sender@a.test", recipients, b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    let row = zrelay_tests::wait_for(SOON, || {
        let rows = hub.json(&["messages", "--recipient", recipients[0]]);
        rows.get(0).and_then(|row| row["message"].as_str()).map(str::to_owned)
    });
    row.unwrap_or_else(|| panic!("{recipients:?} is not listed: {}", hub.json(&["messages"])))
}

fn fastest(times: usize, mut work: impl FnMut()) -> Duration {
    let measure = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    };
    (0..times).map(measure).min().unwrap_or_default()
}

#[test]
fn a_listing_with_100_000_recipients_queued_is_as_quick_as_with_none_and_slows_nothing() {
    let (sink, down) = (Sink::start(), Port::free());
    let hub = Hub::build(ZRELAY)
        .route("*@b.test", "smtp", &sink.host())
        .route("*", "smtp", &format!("[127.0.0.1]:{}", down.number()))
        .clause(&format!("smtp/[127.0.0.1]:{}", down.number()), "interval = \"1h\"")
        .start();
    let idle = fastest(5, || drop(hub.json(&["threads"])));

    // 100,000 recipients in 2,000 messages for a host that is down.
    let make = |number: usize| {
        let recipients: Vec<String> = (0..50).map(|index| format!("r{number}.{index}@down.test")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        Mail::generate(&format!("q.{number}"), 500, Body::Text, "s@a.test", &recipients)
    };
    assert_eq!(inject(hub.smtp(), 2000, 8, &AtomicBool::new(false), make), vec![Answered::Accepted; 2000]);
    let queued = |hub: &Hub| -> u64 {
        let rows = hub.json(&["threads"]);
        rows.as_array().into_iter().flatten().filter_map(|row| row["recipients"].as_u64()).sum()
    };
    assert!(wait_until(SOON, || queued(&hub) == 100_000), "{}", queued(&hub));
    let full = fastest(5, || drop(hub.json(&["threads"])));

    // Delivery with somebody looking all the time, and without.
    let deliver = |round: usize| {
        let make =
            |number: usize| Mail::generate(&format!("d{round}.{number}"), 2000, Body::Text, "s@a.test", &["r@b.test"]);
        let begin = Instant::now();
        assert_eq!(inject(hub.smtp(), 1000, 8, &AtomicBool::new(false), make), vec![Answered::Accepted; 1000]);
        assert!(sink.wait(1000 * (round + 1), SOON), "{}", sink.count());
        begin.elapsed()
    };
    let alone = deliver(0).min(deliver(1));
    let stop = AtomicBool::new(false);
    let (watched, looks) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(hub.json(&["threads"]));
                looks += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            looks
        });
        let watched = deliver(2).min(deliver(3));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (watched, watcher.join().expect("the watcher does not panic"))
    });
    println!(
        "zrelay threads --json: {idle:.1?} idle, {full:.1?} with 100,000 recipients; \
         1,000 messages in {alone:.2?} alone, {watched:.2?} with {looks} listings meanwhile"
    );
    // Generous: the machine is shared. A listing that walks the queue would miss this by far.
    assert!(full < idle * 5 + Duration::from_millis(200), "{idle:?} idle, {full:?} full");
    assert!(watched < alone * 3 + Duration::from_secs(1), "{alone:?} alone, {watched:?} watched");
    assert!(wait_until(SOON, || queued(&hub) == 100_000), "the queue is still there");
}

#[test]
fn a_thread_is_held_and_released() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let name = format!("smtp/{}", sink.host());
    // A thread is known once mail was there for it.
    one_delivered(&hub, &sink);
    let held = hub.zrelay(&["hold", &name]);
    assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stderr));
    let id = one(&hub, &["r@b.test"]);
    assert_eq!(hub.thread(&name)["state"], "held");
    // Mail elsewhere is not held; and the retry command does not release.
    assert!(!wait_until(Duration::from_millis(500), || sink.count() > 1), "held");
    let detail = hub.json(&["message", &id]);
    assert!(detail.to_string().contains("r@b.test"), "{detail}");
    assert!(hub.zrelay(&["release", &name]).status.success());
    assert!(sink.wait(2, SOON), "{}", hub.json(&["threads"]));
}

fn one_delivered(hub: &Hub, sink: &Sink) {
    let count = sink.count();
    assert_eq!(hub.client().mail("sender@a.test", &["first@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(sink.wait(count + 1, SOON));
    assert!(hub.wait_until_empty(SOON));
}

#[test]
fn the_hold_channel_keeps_mail_until_it_is_dropped() {
    let sink = Sink::start();
    let hub = Hub::build(ZRELAY).route("*@q.test", "hold", "quarantine").route("*", "smtp", &sink.host()).start();
    let id = one(&hub, &["a@q.test", "b@q.test"]);
    assert_eq!(hub.thread("hold/quarantine")["recipients"], 2);
    let dropped = hub.zrelay(&["drop", &id]);
    assert!(dropped.status.success(), "{}", String::from_utf8_lossy(&dropped.stderr));
    assert!(hub.wait_until_empty(SOON), "{}", hub.json(&["threads"]));
    assert_eq!(sink.count(), 0, "no report of a drop");
    assert!(
        wait_until(SOON, || hub.log_lines(&[&id, "a@q.test"]).iter().any(|line| line.contains("drop"))),
        "on record: {}",
        hub.log()
    );
}

#[test]
fn the_discard_and_error_channels_end_mail() {
    let reports = Sink::start();
    let hub = Hub::build(ZRELAY)
        .route("*@gone.test", "discard", "gone")
        .route("*@no.test", "error", "5.1.2 no such place")
        .route("*", "smtp", &reports.host())
        .start();
    let reply = hub.client().mail("sender@a.test", &["x@gone.test", "y@no.test"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250);
    assert!(reports.wait(1, SOON), "{}", hub.log());
    let text = reports.transactions()[0].text();
    assert!(text.contains("y@no.test") && text.contains("no such place") && !text.contains("x@gone.test"), "{text}");
    assert!(hub.wait_until_empty(SOON));
    assert_eq!(hub.log_lines(&["to=<x@gone.test>", "status=sent"]).len(), 1);
    assert_eq!(hub.log_lines(&["to=<y@no.test>", "status=bounced"]).len(), 1);
}

#[test]
fn retry_does_not_wait_for_the_clock() {
    let port = Port::free();
    let host = format!("[127.0.0.1]:{}", port.number());
    let hub = Hub::towards(ZRELAY, &host).table("").clause("smtp/*", "interval = \"1h\"").start();
    let name = format!("smtp/{host}");
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(wait_until(SOON, || hub.thread(&name)["state"] == "retry"), "{}", hub.json(&["threads"]));
    assert!(hub.thread(&name)["next_attempt_in"].as_u64() > Some(1000));
    let sink = Sink::build().start_on(port);
    assert!(hub.zrelay(&["retry", &name]).status.success());
    assert!(sink.wait(1, SOON), "{}", hub.json(&["threads"]));
}

#[test]
fn drop_takes_a_whole_thread_out() {
    let port = Port::free();
    let host = format!("[127.0.0.1]:{}", port.number());
    let hub = Hub::towards(ZRELAY, &host).clause("smtp/*", "interval = \"1h\"").start();
    let make = |number: usize| Mail::generate(&format!("x.{number}"), 500, Body::Text, "", &["r@b.test"]);
    assert_eq!(inject(hub.smtp(), 300, 4, &AtomicBool::new(false), make), vec![Answered::Accepted; 300]);
    assert!(wait_until(SOON, || hub.queued() == 300));
    assert!(hub.zrelay(&["drop", &format!("smtp/{host}")]).status.success());
    assert!(hub.wait_until_empty(SOON), "{}", hub.json(&["threads"]));
}

#[test]
fn expire_ends_the_recipients_that_are_meant_and_tells_the_sender() {
    let sink = Sink::start();
    let hub = Hub::build(ZRELAY).route("*@q.test", "hold", "quarantine").route("*", "smtp", &sink.host()).start();
    one(&hub, &["a@q.test", "b@q.test"]);
    let terms = ["hold/*", "sender:*@a.test", "recipient:a@q.test"];
    let dry = hub.zrelay(&[&["expire", "--dry-run"], &terms[..]].concat());
    let text = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(dry.status.success() && text.contains("recipients 1") && text.contains("a@q.test"), "{text}");
    assert_eq!(hub.thread("hold/quarantine")["recipients"], 2);
    assert!(hub.zrelay(&[&["expire"], &terms[..]].concat()).status.success());
    assert_eq!(hub.thread("hold/quarantine")["recipients"], 1);
    let logged = || !hub.log_lines(&["to=<a@q.test>", "status=expired", "given up by the operator"]).is_empty();
    assert!(wait_until(SOON, logged), "{}", hub.log());
    // The report goes out when nothing of the message is left.
    assert!(hub.zrelay(&["expire", "hold/*", "age:<1h"]).status.success());
    assert!(sink.wait(1, SOON), "no report: {}", hub.log());
}

#[test]
fn listings_are_tables_for_people_and_json_for_programs() {
    let sink = Sink::start();
    let hub = Hub::build(ZRELAY).route("*@q.test", "hold", "q").route("*", "smtp", &sink.host()).start();
    let id = one(&hub, &["a@q.test"]);
    for arguments in [
        &["threads"][..],
        &["threads", "hold/*"],
        &["channels"],
        &["rings"],
        &["messages"],
        &["messages", "--sender", "sender@a.test"],
        &["status"],
        &["message", &id],
        &["thread", "hold/q"],
    ] {
        let output = hub.zrelay(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && !text.trim().is_empty(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let json = hub.json(arguments);
        assert!(json.is_object() || json.as_array().is_some_and(|rows| !rows.is_empty()), "{arguments:?}: {json}");
    }
    assert_eq!(
        hub.json(&["threads", "--state", "held", "--sort", "recipients", "--limit", "1"])[0]["thread"],
        "hold/q"
    );
    let columns = hub.zrelay(&["messages", "--columns", "recipients,recipient", "--sort", "age"]);
    assert_eq!(String::from_utf8_lossy(&columns.stdout), "recipients  recipient\n         1  a@q.test\n");
    for arguments in [&["threads", "--sort", "size"][..], &["rings", "--sort", "size"], &["rings", "--columns", "x"]] {
        let output = hub.zrelay(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains("batches"), "{arguments:?}: {error}");
    }
    for arguments in [
        &["threads", "smtp/nothing"][..],
        &["threads", "--state", "retry"],
        &["message", "ABCDEF"],
        &["thread", "smtp/x.test"],
        &["hold", "smtp/zzz"],
    ] {
        assert_eq!(hub.zrelay(arguments).status.code(), Some(1), "{arguments:?}");
    }
    assert_eq!(hub.zrelay(&["messages", "--recipient", "nobody@x.test"]).status.code(), Some(1));
}

#[test]
fn a_thread_shows_its_flows_its_batches_and_what_its_host_said() {
    let sink = Sink::build()
        .answer(|step| match step {
            Step::Rcpt(address) if address.starts_with("later") => {
                Answer::Say("450 4.2.1 \u{1b}[2Jslow down".to_owned())
            }
            _ => Answer::Accept,
        })
        .start();
    let hub = Hub::towards(ZRELAY, &sink.host()).clause("smtp/*", "interval = \"1h\"").start();
    let name = format!("smtp/{}", sink.host());
    assert_eq!(hub.client().mail("s@a.test", &["now@b.test", "later@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(wait_until(SOON, || hub.thread(&name)["recipients"] == 1), "{}", hub.json(&["threads"]));
    let detail = hub.json(&["thread", &name]);
    let outcomes: Vec<&str> = detail["recent_replies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|reply| reply["outcome"].as_str())
        .collect();
    assert!(outcomes.contains(&"delivered") && outcomes.contains(&"deferred"), "{detail}");
    assert_eq!(detail["first_batches"][0]["recipient"], "later@b.test");
    let text = String::from_utf8_lossy(&hub.zrelay(&["thread", &name]).stdout).into_owned();
    assert!(text.contains("slow down") && !text.contains('\u{1b}'), "{text}");
    // What waits together takes turns by flow.
    assert!(hub.zrelay(&["hold", &name]).status.success());
    for sender in ["x@one.test", "y@two.test"] {
        assert_eq!(hub.client().mail(sender, &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    }
    let flows = || hub.json(&["thread", &name])["turns"].as_array().map_or(0, Vec::len);
    assert!(wait_until(SOON, || flows() == 2), "{}", hub.json(&["thread", &name]));
    let detail = hub.json(&["thread", &name]);
    let senders = detail["turns"].to_string();
    assert!(senders.contains("x@one.test") && senders.contains("y@two.test"), "{senders}");
}

#[test]
fn ages_are_counted_by_thread_without_reading_the_queue() {
    let sink = Sink::start();
    let hub = Hub::build(ZRELAY).route("*@q.test", "hold", "q").route("*", "smtp", &sink.host()).start();
    assert_eq!(hub.zrelay(&["qshape"]).status.code(), Some(1), "an empty queue");
    let id = one(&hub, &["a@q.test", "b@q.test", "c@q.test"]);
    let shape = hub.json(&["qshape", "hold/*"]);
    assert_eq!(shape["qshape"][0]["thread"], "hold/q");
    assert_eq!(shape["qshape"][0]["ages"], serde_json::json!([3, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(shape["total"]["recipients"], 3);
    let text = String::from_utf8_lossy(&hub.zrelay(&["qshape"]).stdout).into_owned();
    assert!(text.contains("1280+") && text.contains("TOTAL"), "{text}");
    assert!(hub.zrelay(&["drop", &id, "recipient:b@q.test"]).status.success());
    assert!(wait_until(SOON, || hub.json(&["qshape"])["total"]["recipients"] == 2));
}

#[test]
fn route_explains_where_a_recipient_goes() {
    let hub =
        Hub::build(ZRELAY).route("*.example.net", "smtp", "[10.0.0.9]:2526").route("*@q.test", "hold", "q").write();
    for (address, destination) in [
        ("ann@lists.example.net", "smtp/[10.0.0.9]:2526"),
        ("x@q.test", "hold/q"),
        ("bob@Other.Test", "smtp/other.test"),
    ] {
        let output = hub.zrelay(&["route", address]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(destination), "{address}: {text}");
        let json: Value = hub.json(&["route", address]);
        assert!(json.to_string().contains(destination), "{address}: {json}");
    }
    let text = String::from_utf8_lossy(&hub.zrelay(&["route", "ann@lists.example.net"]).stdout).into_owned();
    assert!(text.contains("zrelay.toml:"), "file and line of the rule: {text}");
    assert_eq!(hub.zrelay(&["route", "not an address"]).status.code(), Some(1));
}

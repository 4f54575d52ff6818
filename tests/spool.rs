//! The tools that look into the spool's files.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use zrelay_tests::{Answer, Hub, Port, SOON, Sink, Step, wait_for, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const MAIL: &[u8] = b"Subject: kept\r\n\r\nEvery octet \xc3\xa9 counts.\r\n";

/// A hub whose next hop is down, with one message for three recipients in its queue.
fn waiting() -> (Hub, String) {
    let down = Port::free();
    let hub = Hub::towards(ZRELAY, &format!("[127.0.0.1]:{}", down.number())).start();
    let reply = hub.client().mail("sender@a.test", &["one@b.test", "two@b.test", "three@b.test"], MAIL);
    assert_eq!(reply.code, 250, "{reply:?}");
    let row = wait_for(SOON, || hub.json(&["messages"]).get(0)?["message"].as_str().map(str::to_owned));
    (hub, row.expect("the message is listed"))
}

fn delivered(sink: &Sink, recipient: &str) -> usize {
    let transactions = sink.transactions();
    let accepted = transactions.iter().filter(|transaction| transaction.accepted);
    accepted.flat_map(|transaction| &transaction.recipients).filter(|address| *address == recipient).count()
}

#[test]
fn a_message_is_printed_byte_for_byte_beside_a_running_hub() {
    let (hub, id) = waiting();
    let output = hub.zrelay(&["message", &id, "--content"]);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"Received: ") && output.stdout.ends_with(MAIL), "{output:?}");
    assert_eq!(hub.zrelay(&["message", "1", "--content"]).status.code(), Some(1));
}

#[test]
fn mail_moves_from_one_hub_to_another_as_files() {
    let (mut old, id) = waiting();
    assert_eq!(old.json(&["spool", "stat"])["hub"]["health"], "good");
    assert!(old.terminate(SOON).is_some());
    let files = tempfile::tempdir().unwrap();
    let directory = files.path().to_str().unwrap();

    assert_eq!(old.json(&["spool", "export", directory])["exported"], 1);
    let envelope = fs::read(files.path().join(format!("{id}.json"))).unwrap();
    let envelope: Value = serde_json::from_slice(&envelope).unwrap();
    assert_eq!(envelope["recipients"][2]["address"], "three@b.test");
    assert_eq!(envelope["recipients"][2]["state"], "open");

    let sink = Sink::start();
    let mut new = Hub::towards(ZRELAY, &sink.host()).start();
    let refused = new.zrelay(&["spool", "import", directory]);
    assert_eq!(refused.status.code(), Some(1), "a hub runs on it: {refused:?}");
    assert!(new.terminate(SOON).is_some());
    assert_eq!(new.json(&["spool", "import", "--route", directory])["imported"], 1);
    assert_eq!(new.zrelay(&["spool", "import", directory]).status.code(), Some(1), "it is not imported twice");
    let figures = new.json(&["spool", "stat"]);
    assert_eq!((&figures["messages"], &figures["recipients_open"]), (&1.into(), &3.into()));
    new.start();

    assert!(wait_until(SOON, || !sink.transactions().is_empty()), "{}", new.log());
    let received = &sink.transactions()[0];
    assert_eq!(received.recipients.len(), 3);
    assert!(received.content.ends_with(MAIL));
    assert!(new.wait_until_empty(SOON));
}

#[test]
fn a_check_says_what_is_damaged_and_which_message_it_costs() {
    let (mut hub, id) = waiting();
    assert!(hub.terminate(SOON).is_some());
    let sound = hub.zrelay(&["spool", "check"]);
    assert!(sound.status.success(), "{sound:?}");
    let spool = hub.json(&["spool", "check"])["directory"].as_str().unwrap().to_owned();
    let path = fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().path());
    let path = path.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).min().unwrap();
    let octets = fs::read(&path).unwrap();
    let at = octets.windows(5).position(|window| window == b"Every").unwrap();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(b"e", at as u64).unwrap();

    let damaged = hub.zrelay(&["spool", "check"]);

    assert_eq!(damaged.status.code(), Some(1));
    let text = String::from_utf8(damaged.stdout).unwrap();
    assert!(text.contains(&format!("the content of message {id} is damaged")), "{text}");
    // What is left of it is printed, and not passed off as what came in.
    let printed = hub.zrelay(&["message", &id, "--content"]);
    assert_eq!(printed.status.code(), Some(1));
    assert!(printed.stdout.windows(5).any(|window| window == b"every"), "{printed:?}");
    assert!(String::from_utf8_lossy(&printed.stderr).contains("its content in the spool is damaged"), "{printed:?}");
}

#[test]
fn mail_is_refused_while_less_is_free_than_is_kept_for_delivery() {
    let down = Port::free();
    let hub = Hub::towards(ZRELAY, &format!("[127.0.0.1]:{}", down.number()));
    let hub = hub.table("[intake]\nreserve = 1125899906842624").start();
    let reply = hub.client().mail("sender@a.test", &["one@b.test"], MAIL);
    assert_eq!((reply.code, reply.text().contains("4.3.1")), (452, true), "{reply:?}");
    assert_eq!(hub.json(&["spool", "stat"])["hub"]["health"], "full");
}

#[test]
fn what_was_known_of_a_message_moves_with_it() {
    let refusing = Sink::build()
        .answer(|step| match step {
            Step::Rcpt(address) if address.starts_with("never") => Answer::Say("550 5.1.1 no such user".to_owned()),
            Step::Rcpt(_) => Answer::Say("450 4.2.1 not now".to_owned()),
            _ => Answer::Accept,
        })
        .start();
    let build = || {
        let hub = Hub::build(ZRELAY).setting("bounce_gather", "\"1h\"").clause("smtp/*", "interval = \"1h\"");
        hub.route("*@b.test", "smtp", &refusing.host()).route("*@held.test", "hold", "quarantine")
    };
    let mut old = build().start();
    let recipients = ["late@b.test", "never@b.test", "x@held.test"];
    assert_eq!(old.client().mail("sender@a.test", &recipients, MAIL).code, 250);
    let settled = || old.log_lines(&["status=deferred"]).len() == 1 && old.log_lines(&["status=bounced"]).len() == 1;
    assert!(wait_until(SOON, settled), "{}", old.log());
    assert!(old.zrelay(&["hold", &format!("smtp/{}", refusing.host())]).status.success());
    let listing = |hub: &Hub| {
        let mut rows = hub.json(&["messages"]).as_array().cloned().unwrap_or_default();
        for row in &mut rows {
            // Names, and what changes with time.
            for key in ["age", "message", "batch"] {
                row[key] = Value::Null;
            }
        }
        rows.sort_by_key(|row| row["thread"].to_string());
        rows
    };
    let before = listing(&old);
    assert_eq!(before.len(), 2, "{before:?}");
    assert!(old.terminate(SOON).is_some());
    let files = tempfile::tempdir().unwrap();
    let directory = files.path().to_str().unwrap();
    assert_eq!(old.json(&["spool", "export", directory])["exported"], 1);

    let mut new = build().write();
    assert_eq!(new.json(&["spool", "import", directory])["imported"], 1);
    assert_eq!(new.json(&["spool", "stat"])["reports_owed"], 1);
    new.start();

    assert!(wait_until(SOON, || listing(&new).len() == 2));
    let after = listing(&new);
    // The hold was on the thread, which is the old hub's own.
    for (before, after) in before.iter().zip(&after) {
        for key in ["thread", "attempts", "due", "last", "recipients"] {
            assert_eq!(before[key], after[key], "{key}: {before} {after}");
        }
    }
    assert_eq!(delivered(&refusing, "late@b.test"), 0);
}

#[test]
fn a_message_whose_content_the_disk_has_changed_is_put_off_and_the_others_leave() {
    let closed = Arc::new(AtomicBool::new(true));
    let asked = closed.clone();
    let sink = Sink::build().answer(move |step| match step {
        Step::Mail(_) if asked.load(Ordering::Relaxed) => Answer::Say("450 4.2.1 not yet".to_owned()),
        _ => Answer::Accept,
    });
    let sink = sink.start();
    let mut hub = Hub::towards(ZRELAY, &sink.host()).start();
    assert_eq!(hub.client().mail("sender@a.test", &["one@b.test"], MAIL).code, 250);
    assert_eq!(hub.client().mail("sender@a.test", &["two@b.test"], b"Subject: other\r\n\r\nSound.\r\n").code, 250);
    assert!(wait_until(SOON, || hub.log_lines(&["status=deferred"]).len() >= 2), "{}", hub.log());
    assert!(hub.terminate(SOON).is_some());
    let path = hub.path().join("spool/00000001.seg");
    let octets = fs::read(&path).unwrap();
    let at = octets.windows(5).position(|window| window == b"Every").unwrap();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(b"e", at as u64).unwrap();
    closed.store(false, Ordering::Relaxed);

    hub.start();

    assert!(wait_until(SOON, || delivered(&sink, "two@b.test") == 1), "{}", hub.log());
    let deferred =
        || !hub.log_lines(&["to=<one@b.test>", "status=deferred", "content in the spool is damaged"]).is_empty();
    assert!(wait_until(SOON, deferred), "{}", hub.log());
    assert_eq!(hub.json(&["status"])["spool"]["damage"], 1);
    assert_eq!(delivered(&sink, "one@b.test"), 0);
    // What is left of it can be had.
    let files = tempfile::tempdir().unwrap();
    let export = hub.zrelay(&["spool", "export", files.path().to_str().unwrap()]);
    assert_eq!(export.status.code(), Some(1), "{export:?}");
    let kept = fs::read_dir(files.path()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    assert!(kept.into_iter().any(|octets| octets.ends_with(b"every octet \xc3\xa9 counts.\r\n")));
    // Its sender is told in the end, and not shown what the disk has made of it.
    assert!(hub.zrelay(&["expire", "recipient:one@b.test"]).status.success());
    assert!(wait_until(SOON, || delivered(&sink, "sender@a.test") == 1), "{}", hub.log());
    let report = sink.transactions().into_iter().find(|transaction| transaction.recipients == ["sender@a.test"]);
    let text = report.map(|report| report.text()).unwrap_or_default();
    assert!(text.contains("Final-Recipient: rfc822; one@b.test") && !text.contains("counts."), "{text}");
}

#[test]
fn a_spool_that_is_moved_away_is_noticed_and_used_again_when_it_is_back() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    // It has begun to record, so that it is not the first segment that cannot be made.
    assert_eq!(hub.client().mail("sender@a.test", &["zero@b.test"], MAIL).code, 250);
    assert!(sink.wait(1, SOON), "{}", hub.log());
    let (spool, away) = (hub.path().join("spool"), hub.path().join("away"));
    fs::rename(&spool, &away).unwrap();

    let health = |hub: &Hub| hub.json(&["status"])["spool"]["health"].clone();
    assert!(wait_until(SOON, || health(&hub) == "broken"), "{}", hub.log());
    // The sessions know it a moment before it is logged.
    let said = || !hub.log_lines(&["was moved away or replaced while the hub ran"]).is_empty();
    assert!(wait_until(SOON, said), "{}", hub.log());
    let reply = hub.client().mail("sender@a.test", &["one@b.test"], MAIL);
    assert_eq!(reply.code, 452, "{reply:?}");

    fs::rename(&away, &spool).unwrap();
    assert!(wait_until(SOON, || health(&hub) == "good"), "{}", hub.log());
    assert_eq!(hub.client().mail("sender@a.test", &["one@b.test"], MAIL).code, 250);
    assert!(sink.wait(2, SOON), "{}", hub.log());
}

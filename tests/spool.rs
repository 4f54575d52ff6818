//! The tools that look into the spool's files.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::Value;
use zrelay_tests::{Hub, Port, SOON, Sink, wait_for, wait_until};

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
    assert_eq!(new.json(&["spool", "import", directory])["imported"], 1);
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

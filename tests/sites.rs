//! What a hub learns of a host is kept, shown and forgotten.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use zrelay_tests::{Answer, Hub, Offer, SOON, Sink, Step, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

fn facts(hub: &Hub, pattern: &str) -> Vec<Value> {
    hub.json(&["sites", pattern, "--topic", "recipients"]).as_array().cloned().unwrap_or_default()
}

#[test]
fn a_limit_once_learned_outlives_restart_and_kill_until_it_is_forgotten() {
    let taken = AtomicUsize::new(0);
    let limit = move |step: Step<'_>| match step {
        Step::Mail(_) => {
            taken.store(0, Ordering::SeqCst);
            Answer::Accept
        }
        Step::Rcpt(_) if taken.fetch_add(1, Ordering::SeqCst) >= 3 => Answer::Say("452 4.5.3 Too many".to_owned()),
        _ => Answer::Accept,
    };
    let sink = Sink::build().offers(&[Offer::Pipelining]).answer(limit).start();
    let mut hub = Hub::towards(ZRELAY, &sink.host()).start();
    let address = sink.address().to_string();
    assert!(facts(&hub, "*").is_empty());

    // Seven recipients are tried, three are taken.
    let names: Vec<String> = (0..7).map(|number| format!("r{number}@b.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let reply = hub.client().mail("sender@a.test", &names, b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    assert!(sink.wait(7, SOON), "{}", hub.log());
    assert!(wait_until(SOON, || !facts(&hub, &address).is_empty()), "{}", hub.json(&["sites"]));
    let learned = facts(&hub, &address);
    assert_eq!((learned.len(), &learned[0]["value"]), (1, &Value::from(3)), "{learned:?}");
    assert_eq!(learned[0]["subject"], address);
    let table = hub.zrelay(&["sites"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains(&address), "{table:?}");

    let file = hub.path().join("spool/sites.jsonl");
    let is_written = |text: &str| std::fs::read_to_string(&file).is_ok_and(|content| content.contains(text));
    assert!(wait_until(SOON, || is_written("\"recipients\"")), "written without a shutdown");
    hub.kill();
    hub.start();
    assert_eq!(facts(&hub, "127.0.0.1:*")[0]["since"], learned[0]["since"], "known after a kill");
    assert!(hub.terminate(SOON).is_some());
    hub.start();
    assert_eq!(facts(&hub, &address)[0]["since"], learned[0]["since"], "known after a restart");

    assert_eq!(hub.zrelay(&["sites", "forget", "192.0.2.*"]).status.code(), Some(1), "nothing is known of these");
    assert_eq!(hub.json(&["sites", "forget", &address, "--topic", "recipients"])["facts"], 1);
    assert!(facts(&hub, "*").is_empty());
    assert!(hub.terminate(SOON).is_some());
    hub.start();
    assert!(facts(&hub, "*").is_empty(), "forgotten for good");
}

#[test]
fn a_hub_starts_with_a_broken_file_of_facts_and_says_where_it_is() {
    let sink = Sink::start();
    let mut hub = Hub::towards(ZRELAY, &sink.host()).write();
    std::fs::create_dir(hub.path().join("spool")).unwrap();
    std::fs::write(hub.path().join("spool/sites.jsonl"), "no facts").unwrap();
    hub.start();
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(sink.wait(1, SOON));
    assert!(hub.log().contains("sites.jsonl.bad"), "{}", hub.log());
    assert_eq!(std::fs::read(hub.path().join("spool/sites.jsonl.bad")).unwrap(), b"no facts");
}

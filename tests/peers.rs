//! A real Postfix and a real Exim as next hops. What they deliver is compared with what the hub was given.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use zrelay_tests::peers::{self, Delivered, Exim, Peers, Postfix};
use zrelay_tests::{Answered, Body, Hub, Mail, inject, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const MESSAGES: usize = 120;
const PATIENCE: Duration = Duration::from_secs(90);

/// One to three recipients, text and eight bit, up to some hundred kilobytes, one in five with the null sender.
fn make(number: usize) -> Mail {
    let octets = [200, 4000, 40_000, 300_000][number % 4];
    let body = if number.is_multiple_of(3) { Body::EightBit } else { Body::Text };
    let sender = if number.is_multiple_of(5) { String::new() } else { format!("sender{number}@a.test") };
    let recipients: Vec<String> = (0..=number % 3).map(|index| format!("r{number}.{index}@b.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    Mail::generate(&format!("peer.{number}"), octets, body, &sender, &recipients)
}

fn through_the_hub_to(host: &str, delivered: impl Fn() -> Vec<Delivered>, log: impl Fn() -> String) {
    let hub = Hub::towards(ZRELAY, host).start();
    assert_eq!(inject(hub.smtp(), MESSAGES, 4, &AtomicBool::new(false), make), [Answered::Accepted; MESSAGES]);
    let expected: HashSet<_> = (0..MESSAGES)
        .flat_map(|number| {
            let mail = make(number);
            let marked = mail.marked();
            let sender = mail.sender.clone();
            mail.recipients.into_iter().map(move |recipient| (sender.clone(), recipient, Some(marked.clone())))
        })
        .collect();
    let arrived = wait_until(PATIENCE, || delivered().len() >= expected.len());
    assert!(arrived, "{} of {}\n{}\n{}", delivered().len(), expected.len(), hub.json(&["threads"]), tail(&log()));
    assert!(hub.wait_until_empty(PATIENCE));
    let got: Vec<_> = delivered().into_iter().map(|it| (it.sender, it.recipient, it.marked)).collect();
    assert_eq!(got.len(), expected.len(), "each once");
    let got: HashSet<_> = got.into_iter().collect();
    let missing: Vec<_> = expected.difference(&got).take(3).collect();
    let odd: Vec<_> = got.difference(&expected).take(3).collect();
    assert!(missing.is_empty() && odd.is_empty(), "missing {missing:?}\nodd {odd:?}");
    assert_eq!(hub.log_lines(&["status=sent"]).len(), expected.len());
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}

#[test]
fn postfix_receives_what_the_hub_was_given() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let postfix = Postfix::start(&peers, "");
    through_the_hub_to(&postfix.host(), || postfix.delivered(), || postfix.log());
    let log = postfix.log();
    // The harness itself connects once and hangs up.
    let complaint = log.lines().find(|line| {
        line.contains("improper command") || (line.contains("lost connection") && !line.contains("after CONNECT"))
    });
    assert_eq!(complaint, None);
}

#[test]
fn postfix_without_chunking_receives_the_same() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let postfix = Postfix::start(&peers, "smtpd_discard_ehlo_keywords = chunking, dsn");
    through_the_hub_to(&postfix.host(), || postfix.delivered(), || postfix.log());
}

#[test]
fn exim_receives_what_the_hub_was_given() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let exim = Exim::start(&peers, "");
    through_the_hub_to(&exim.host(), || exim.delivered(), || exim.log());
    let log = exim.log();
    assert!(!log.contains("synchronization error") && !log.contains("SMTP protocol error"), "{}", tail(&log));
}

#[test]
fn exim_without_chunking_and_pipelining_receives_the_same() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let exim = Exim::start(&peers, "pipelining_advertise_hosts =\ndsn_advertise_hosts =\n");
    through_the_hub_to(&exim.host(), || exim.delivered(), || exim.log());
}

#[test]
fn postfix_that_refuses_some_recipients_gets_the_others_once() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let postfix =
        Postfix::start(&peers, "smtpd_recipient_restrictions = check_recipient_access inline:{bad@b.test=REJECT}\n");
    let hub = Hub::build(ZRELAY).route("*@a.test", "discard", "reports").route("*", "smtp", &postfix.host()).start();
    let make = |number: usize| {
        let good = format!("good{number}@b.test");
        Mail::generate(&format!("mixed.{number}"), 3000, Body::Text, "s@a.test", &[&good, "bad@b.test"])
    };
    assert_eq!(inject(hub.smtp(), 30, 2, &AtomicBool::new(false), make), [Answered::Accepted; 30]);
    let settled =
        || hub.log_lines(&["to=<bad@b.test>", "status=bounced"]).len() == 30 && postfix.delivered().len() >= 30;
    assert!(wait_until(PATIENCE, settled), "{}\n{}", hub.json(&["threads"]), tail(&postfix.log()));
    let recipients: HashSet<_> = postfix.delivered().into_iter().map(|it| it.recipient).collect();
    assert_eq!((recipients.len(), postfix.delivered().len()), (30, 30));
}

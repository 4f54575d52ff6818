//! The delivery log is read by what sites have: pflogsumm.

use std::fs;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use zrelay_tests::{Answer, Answered, Body, Hub, Mail, SOON, Sink, Step, inject, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const GOOD: usize = 40;
const BAD: usize = 5;

#[test]
fn pflogsumm_counts_what_happened() {
    if Command::new("pflogsumm").arg("--version").output().is_err() {
        return skip("pflogsumm is not installed");
    }
    let reports = Sink::start();
    let sink = Sink::build()
        .answer(|step| match step {
            Step::Rcpt(address) if address.starts_with("bad") => Answer::Say("550 5.1.1 no such user".to_owned()),
            Step::Rcpt(address) if address.starts_with("later") => Answer::Say("450 4.2.1 not now".to_owned()),
            _ => Answer::Accept,
        })
        .start();
    let hub = Hub::build(ZRELAY)
        .route("*@b.test", "smtp", &sink.host())
        .route("*@a.test", "smtp", &reports.host())
        .clause("smtp/*", "interval = \"1h\"")
        // So few that no machine's limit on open files is worth a warning.
        .table("[intake]\nconnections = 100")
        .start();
    let make = |number: usize| {
        let recipient = match number {
            0 => "later@b.test".to_owned(),
            number if number <= BAD => format!("bad{number}@b.test"),
            number => format!("good{number}@b.test"),
        };
        Mail::generate(&format!("log.{number}"), 3000, Body::Text, &format!("s{number}@a.test"), &[&recipient])
    };
    let count = 1 + BAD + GOOD;
    assert_eq!(inject(hub.smtp(), count, 3, &AtomicBool::new(false), make), vec![Answered::Accepted; count]);
    assert!(sink.wait(GOOD, SOON) && reports.wait(BAD, SOON), "{}", hub.log());
    let logged = wait_until(SOON, || {
        hub.log_lines(&["status=sent"]).len() == GOOD + BAD && hub.log_lines(&["status=deferred"]).len() == 1
    });
    assert!(logged, "{}", hub.log());

    let log = fs::read_to_string(hub.path().join("hub.err")).expect("the log goes to standard error");
    let file = hub.path().join("mail.log");
    fs::write(&file, &log).expect("the hub's directory is ours");
    let output = Command::new("pflogsumm").args(["--syslog-name=zrelay", "--problems-first"]).arg(&file).output();
    let output = output.expect("pflogsumm can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let grand = |name: &str| {
        let words = |line: &str| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
        text.lines()
            .map(words)
            .find(|words| words.get(1).is_some_and(|word| word == name))?
            .first()?
            .parse::<usize>()
            .ok()
    };
    // The reports to the five senders are delivered as well; as with Postfix they count as received by nobody.
    assert_eq!(grand("delivered"), Some(GOOD + BAD), "{text}\n{log}");
    assert_eq!(grand("bounced"), Some(BAD), "{text}\n{log}");
    assert_eq!(grand("deferred"), Some(1), "{text}\n{log}");
    assert_eq!(grand("received"), Some(count), "{text}\n{log}");
    assert!(text.contains("Warnings: none") && text.contains("Fatal Errors: none"), "{text}");
    assert!(text.contains("good20@b.test"), "recipients by name: {text}");
}

#[test]
fn every_delivery_has_its_line_in_postfixs_grammar() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test", "t@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(sink.wait(2, SOON));
    assert!(wait_until(SOON, || hub.log_lines(&["status=sent"]).len() == 2), "{}", hub.log());
    for line in hub.log_lines(&["status=sent"]) {
        for part in [
            " zrelay/smtp[",
            ": to=<",
            &format!(", relay=127.0.0.1[127.0.0.1]:{}", sink.address().port()),
            ", delay=",
            ", delays=",
            ", dsn=2.",
            "status=sent (250 2.0.0 taken)",
        ] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
    for parts in [&["smtpd[", "connect from"][..], &["client="], &["from=<s@a.test>", "size=", "nrcpt=2"], &["removed"]]
    {
        assert!(wait_until(SOON, || !hub.log_lines(parts).is_empty()), "no line with {parts:?}: {}", hub.log());
    }
}

#[test]
fn nothing_that_a_peer_says_forges_a_line() {
    let sink = Sink::build()
        .answer(|step| match step {
            Step::Rcpt(_) => Answer::Say("550 5.1.1 \x1b[2Jbad\x07\x7f\u{85} user".to_owned()),
            _ => Answer::Accept,
        })
        .start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let mut client = hub.client();
    client.command("EHLO evil\x1b[2J.test");
    assert_eq!(hub.client().mail("", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(wait_until(SOON, || !hub.log_lines(&["status=bounced"]).is_empty()), "{}", hub.log());
    assert!(!hub.log().chars().any(|c| c.is_control() && c != '\n'), "{:?}", hub.log_lines(&["status=bounced"]));
}

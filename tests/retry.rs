//! What is put off comes again, what fails comes back, and nobody else waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use zrelay_tests::{Answer, Answered, Body, Hub, HubBuilder, Mail, Port, SOON, Sink, Step, inject, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

/// Everything for `b.test` to `host`, everything for `a.test` (where the senders are) to `reports`.
fn hub(host: &str, reports: &Sink) -> HubBuilder {
    Hub::build(ZRELAY).route("*@b.test", "smtp", host).route("*@a.test", "smtp", &reports.host())
}

fn send(hub: &Hub, mail: &Mail) {
    let recipients: Vec<&str> = mail.recipients.iter().map(String::as_str).collect();
    let reply = hub.client().mail(&mail.sender, &recipients, &mail.content);
    assert_eq!(reply.code, 250, "{reply:?}");
}

fn mail(mark: &str) -> Mail {
    Mail::generate(mark, 1500, Body::Text, "sender@a.test", &["r@b.test"])
}

#[test]
fn a_host_that_is_down_is_tried_again_until_it_is_up_and_others_do_not_wait() {
    let reports = Sink::start();
    let up = Sink::start();
    let port = Port::free();
    let down = format!("[127.0.0.1]:{}", port.number());
    let hub = hub(&down, &reports).route("*@up.test", "smtp", &up.host()).start();
    let make =
        |number: usize| Mail::generate(&format!("down.{number}"), 800, Body::Text, "sender@a.test", &["r@b.test"]);
    assert_eq!(inject(hub.smtp(), 50, 2, &AtomicBool::new(false), make), [Answered::Accepted; 50]);

    let name = format!("smtp/{down}");
    let visible = wait_until(SOON, || {
        let thread = hub.thread(&name);
        thread["state"] == "retry" && thread["last_reply"].as_str().is_some_and(|text| text.contains("refused"))
    });
    assert!(visible, "{}", hub.json(&["threads"]));
    // The first may be tried before the last is routed.
    assert!(wait_until(SOON, || hub.thread(&name)["recipients"] == 50), "{}", hub.thread(&name));

    // Others pass while it is down, and it is tried again meanwhile.
    for round in 0..10 {
        let other = Mail::generate(&format!("up.{round}"), 800, Body::Text, "sender@a.test", &["r@up.test"]);
        send(&hub, &other);
        assert!(up.wait(round + 1, SOON), "round {round}");
    }
    let retried = wait_until(SOON, || hub.thread(&name)["failures"].as_u64() >= Some(2));
    assert!(retried, "{}", hub.json(&["threads"]));
    assert!(!hub.log_lines(&["to=<r@b.test>", "status=deferred", "refused"]).is_empty());

    let sink = Sink::build().start_on(port);
    assert!(sink.wait(50, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
    assert!(hub.wait_until_empty(SOON));
    let deliveries = sink.deliveries();
    assert!((0..50).all(|number| deliveries.iter().filter(|it| it.0 == make(number).marked()).count() == 1));
    assert_eq!(reports.count(), 0, "nobody is told of a delay that ended");
}

#[test]
fn a_recipient_that_is_put_off_comes_again_without_its_neighbours() {
    let reports = Sink::start();
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let sink = Sink::build()
        .answer(move |step| match step {
            Step::Rcpt("slow@b.test") if counted.fetch_add(1, Ordering::SeqCst) < 2 => {
                Answer::Say("450 4.2.1 mailbox busy".to_owned())
            }
            _ => Answer::Accept,
        })
        .start();
    let hub = hub(&sink.host(), &reports).start();
    send(
        &hub,
        &Mail::generate("one", 900, Body::Text, "sender@a.test", &["slow@b.test", "quick@b.test", "also@b.test"]),
    );
    assert!(sink.wait(3, SOON), "{}", hub.json(&["threads"]));
    assert!(hub.wait_until_empty(SOON));
    let mut recipients: Vec<String> = sink.deliveries().into_iter().map(|it| it.1).collect();
    recipients.sort();
    assert_eq!(recipients, ["also@b.test", "quick@b.test", "slow@b.test"]);
    assert_eq!(hub.log_lines(&["to=<slow@b.test>", "status=deferred", "dsn=4.2.1", "mailbox busy"]).len(), 2);
    assert!(sink.violations().is_empty(), "{:?}", sink.violations());
}

#[test]
fn what_was_tried_for_each_recipient_is_told_while_the_message_is_in_the_queue() {
    let reports = Sink::start();
    let sink = Sink::build()
        .answer(|step| match step {
            Step::Rcpt("slow@b.test") => Answer::Say("450 4.2.1 mailbox busy".to_owned()),
            Step::Rcpt("no@b.test") => Answer::Say("550 5.1.1 no such user".to_owned()),
            _ => Answer::Accept,
        })
        .start();
    let mut hub = hub(&sink.host(), &reports).start();
    let recipients = ["slow@b.test", "quick@b.test", "no@b.test"];
    send(&hub, &Mail::generate("history", 900, Body::Text, "sender@a.test", &recipients));
    let rows = || hub.json(&["messages", "sender:sender@*"]);
    assert!(wait_until(SOON, || rows()[0]["attempts"].as_u64() >= Some(2)), "{}", rows());
    let id = rows()[0]["message"].as_str().expect("an id").to_owned();

    // What, how often by then, and for whom.
    let told = |detail: &Value| -> Vec<(String, u64, u64)> {
        let rows = detail["attempts"].as_array().expect("rows").iter();
        let each =
            rows.flat_map(|row| row["recipients"].as_array().expect("indices").iter().map(move |who| (row, who)));
        let text = |row: &Value| row["disposition"].as_str().unwrap_or_default().to_owned();
        each.map(|(row, who)| (text(row), row["attempts"].as_u64().unwrap_or(0), who.as_u64().unwrap_or(9))).collect()
    };
    let detail = hub.json(&["message", &id]);
    let mut first: Vec<_> = told(&detail).into_iter().filter(|(_, attempts, _)| *attempts <= 2).collect();
    first.sort();
    let expected = [("deferred", 1, 0), ("deferred", 2, 0), ("delivered", 1, 1), ("failed", 1, 2)];
    assert_eq!(first, expected.map(|(what, attempts, who)| (what.to_owned(), attempts, who)), "{detail}");
    let thread = format!("smtp/{}", sink.host());
    assert!(detail["attempts"].as_array().unwrap().iter().all(|row| row["thread"] == thread), "{detail}");
    let ends: Vec<&Value> = detail["recipients"].as_array().unwrap().iter().map(|row| &row["outcome"]).collect();
    assert_eq!(ends, [&Value::Null, &Value::from("delivered"), &Value::from("failed")]);

    let printed = String::from_utf8(hub.zrelay(&["message", &id]).stdout).expect("text");
    let lines = |parts: &[&str]| printed.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count();
    assert!(lines(&["slow@b.test", "deferred", &thread, "450 4.2.1 mailbox busy"]) >= 2, "{printed}");
    assert_eq!(lines(&["no@b.test", "failed", &thread, "550 5.1.1 no such user"]), 1, "{printed}");
    assert_eq!(lines(&["quick@b.test", "delivered", "127.0.0.1", "250"]), 1, "{printed}");

    hub.kill();
    hub.start();
    let again = told(&hub.json(&["message", &id]));
    assert!(again.len() >= 4 && again.starts_with(&told(&detail)), "{again:?} after {detail}");
}

#[test]
fn a_refused_recipient_comes_back_to_its_sender_in_one_report() {
    let reports = Sink::start();
    let sink = Sink::build()
        .answer(|step| match step {
            Step::Rcpt(address) if address.starts_with("no") => Answer::Say("550 5.1.1 no such user here".to_owned()),
            _ => Answer::Accept,
        })
        .start();
    let hub = hub(&sink.host(), &reports).start();
    let mail = Mail::generate("refused", 900, Body::Text, "sender@a.test", &["no1@b.test", "yes@b.test", "no2@b.test"]);
    send(&hub, &mail);
    assert!(reports.wait(1, SOON), "no report; {}", hub.log());
    assert!(hub.wait_until_empty(SOON));
    let transactions = reports.transactions();
    assert_eq!(transactions.len(), 1, "one report for one message and sender");
    let report = &transactions[0];
    assert_eq!((report.sender.as_str(), report.recipients[0].as_str()), ("", "sender@a.test"));
    let text = report.text();
    for part in [
        "multipart/report",
        "report-type=delivery-status",
        "Reporting-MTA: dns; hub.test",
        "Final-Recipient: rfc822; no1@b.test",
        "Final-Recipient: rfc822; no2@b.test",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user here",
        "Auto-Submitted: auto-replied",
        "X-Mark: refused",
    ] {
        assert!(text.to_lowercase().contains(&part.to_lowercase()), "no {part:?} in\n{text}");
    }
    assert!(!text.contains("yes@b.test"), "{text}");
    assert_eq!(sink.deliveries().len(), 1);
}

#[test]
fn dsn_parameters_are_honoured() {
    let reports = Sink::start();
    let refusing = Sink::build().answer(|step| match step {
        Step::Rcpt(_) => Answer::Say("550 5.1.1 no such user here".to_owned()),
        _ => Answer::Accept,
    });
    let sink = refusing.start();
    let hub = hub(&sink.host(), &reports).start();
    let mut client = hub.client();
    for command in [
        "MAIL FROM:<sender@a.test> RET=HDRS ENVID=QQ+2B314",
        "RCPT TO:<never@b.test> NOTIFY=NEVER",
        "RCPT TO:<delay@b.test> NOTIFY=DELAY",
        "RCPT TO:<failure@b.test> NOTIFY=FAILURE ORCPT=rfc822;original+2Bname@c.test",
    ] {
        assert_eq!(client.command(command).code, 250, "{command}");
    }
    assert_eq!(client.command("DATA").code, 354);
    client.send(b"Subject: the subject\r\n\r\nthe secret body\r\n.\r\n");
    assert_eq!(client.reply().code, 250);
    assert!(reports.wait(1, SOON), "no report; {}", hub.log());
    assert!(hub.wait_until_empty(SOON));
    let text = reports.transactions()[0].text();
    assert!(text.contains("Original-Envelope-Id: QQ+314"), "{text}");
    assert!(text.contains("Original-Recipient: rfc822;") && text.contains("original+name@c.test"), "{text}");
    assert!(
        text.contains("failure@b.test") && !text.contains("never@b.test") && !text.contains("delay@b.test"),
        "{text}"
    );
    assert!(text.contains("Subject: the subject") && !text.contains("the secret body"), "RET=HDRS\n{text}");
    assert_eq!(reports.transactions().len(), 1);
}

#[test]
fn a_wanted_success_report_is_made_here_where_the_next_hop_does_not_know_dsn() {
    use zrelay_tests::Offer;
    let reports = Sink::start();
    let sink = Sink::build().offers(&[Offer::Pipelining]).start();
    let hub = hub(&sink.host(), &reports).start();
    let mut client = hub.client();
    assert_eq!(client.command("MAIL FROM:<sender@a.test>").code, 250);
    assert_eq!(client.command("RCPT TO:<r@b.test> NOTIFY=SUCCESS").code, 250);
    assert_eq!(client.command("DATA").code, 354);
    client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n");
    assert_eq!(client.reply().code, 250);
    assert!(reports.wait(1, SOON), "no report; {}", hub.log());
    let text = reports.transactions()[0].text();
    assert!(text.contains("Action: relayed"), "{text}");
}

#[test]
fn what_is_too_old_is_given_up_and_reported() {
    let reports = Sink::start();
    let port = Port::free();
    let down = format!("[127.0.0.1]:{}", port.number());
    let hub = hub(&down, &reports)
        .clause(&format!("smtp/{down}"), "interval = \"1s\"\nretries = [1]\nexpiry = \"3s\"")
        .start();
    send(&hub, &mail("old"));
    assert!(reports.wait(1, SOON), "no report; {}", hub.json(&["threads"]));
    let text = reports.transactions()[0].text();
    assert!(text.contains("Action: failed") && text.contains("r@b.test") && text.contains("Status: 4.4."), "{text}");
    assert!(hub.wait_until_empty(SOON));
    assert_eq!(hub.log_lines(&["to=<r@b.test>", "status=expired"]).len(), 1, "{}", hub.log());
}

#[test]
fn a_failure_of_the_null_sender_goes_to_the_log_and_to_nobody() {
    let reports = Sink::start();
    let sink = Sink::build().answer(|step| match step {
        Step::Rcpt(_) => Answer::Say("550 5.1.1 no such user here".to_owned()),
        _ => Answer::Accept,
    });
    let sink = sink.start();
    let hub = Hub::build(ZRELAY).route("*@b.test", "smtp", &sink.host()).route("*", "smtp", &reports.host()).start();
    let mut mail = mail("null");
    mail.sender.clear();
    send(&hub, &mail);
    assert!(wait_until(SOON, || !hub.log_lines(&["status=bounced"]).is_empty()));
    assert!(hub.wait_until_empty(SOON));
    // Something else goes through afterwards: were there a report, it would be there too.
    send(&hub, &Mail::generate("after", 500, Body::Text, "sender@a.test", &["r@a.test"]));
    assert!(reports.wait(1, SOON));
    assert_eq!(reports.deliveries()[0].0.mark, "after");
}

#[test]
fn a_failure_of_the_null_sender_goes_to_the_postmaster_where_so_configured() {
    let reports = Sink::start();
    let sink = Sink::build().answer(|step| match step {
        Step::Rcpt(_) => Answer::Say("550 5.1.1 no such user here".to_owned()),
        _ => Answer::Accept,
    });
    let sink = sink.start();
    let hub = hub(&sink.host(), &reports).setting("postmaster", "\"postmaster@a.test\"").start();
    let mut mail = mail("null");
    mail.sender.clear();
    send(&hub, &mail);
    assert!(reports.wait(1, SOON), "no report; {}", hub.log());
    assert_eq!(reports.transactions()[0].recipients, ["postmaster@a.test"]);
    assert_eq!(reports.transactions()[0].sender, "");
}

#[test]
fn a_host_that_hangs_up_in_the_middle_gets_each_message_in_the_end() {
    let reports = Sink::start();
    let ends = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ends);
    // Every seventh message loses its connection instead of the final reply.
    let sink = Sink::build()
        .answer(move |step| match step {
            Step::End(_) if counted.fetch_add(1, Ordering::SeqCst) % 7 == 6 => Answer::Close,
            _ => Answer::Accept,
        })
        .start();
    let hub = hub(&sink.host(), &reports).start();
    let make =
        |number: usize| Mail::generate(&format!("cut.{number}"), 2000, Body::Text, "sender@a.test", &["r@b.test"]);
    assert_eq!(inject(hub.smtp(), 24, 3, &AtomicBool::new(false), make), [Answered::Accepted; 24]);
    assert!(hub.wait_until_empty(Duration::from_secs(120)), "{}", hub.json(&["threads"]));
    let deliveries = sink.deliveries();
    for number in 0..24 {
        assert!(deliveries.iter().any(|it| it.0 == make(number).marked()), "message {number}");
    }
    assert!(sink.violations().is_empty(), "{:?}", sink.violations());
    assert_eq!(reports.count(), 0);
    // Each of them may have been taken, for all that the hub knows.
    let lost = (ends.load(Ordering::SeqCst) / 7) as u64;
    let at_risk = hub.json(&["status"])["totals"]["at_risk"].as_u64().expect("it is counted");
    assert!(lost >= 3 && at_risk >= lost, "{lost} were lost, {at_risk} counted");
    assert_eq!(hub.thread(&format!("smtp/{}", sink.host()))["at_risk"], at_risk);
}

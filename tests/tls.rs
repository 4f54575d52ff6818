//! STARTTLS on both sides.

use std::sync::atomic::AtomicBool;

use zrelay_tests::peers::{self, Exim, Peers, Postfix, python, swaks};
use zrelay_tests::{Answered, Body, Certificate, Client, Hub, Mail, SOON, Sink, inject, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

fn make(number: usize) -> Mail {
    Mail::generate(&format!("tls.{number}"), 300 + 9000 * (number % 5), Body::Text, "s@a.test", &["r@b.test"])
}

#[test]
fn mail_goes_out_encrypted_where_it_is_offered() {
    let sink = Sink::build().certificate(Certificate::new(&["sink.test"])).start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    assert_eq!(inject(hub.smtp(), 100, 4, &AtomicBool::new(false), make), [Answered::Accepted; 100]);
    assert!(sink.wait(100, SOON), "{} {:?}", sink.count(), hub.json(&["threads"]));
    let transactions = sink.transactions();
    assert!(transactions.iter().all(|it| it.encrypted));
    assert!((0..100).all(|number| transactions.iter().any(|it| it.marked() == Some(make(number).marked()))));
    assert!(sink.violations().is_empty(), "{:?}", sink.violations());
    assert_eq!(sink.connections(), 1);
}

#[test]
fn a_clause_can_want_encryption_or_none() {
    let plain = Sink::start();
    let offered = Sink::build().certificate(Certificate::new(&["sink.test"])).start();
    let hub = Hub::build(ZRELAY)
        .route("*@plain.test", "smtp", &plain.host())
        .route("*@offered.test", "smtp", &offered.host())
        .clause(&format!("smtp/{}", plain.host()), "tls = \"encrypt\"\ninterval = \"1h\"")
        .clause(&format!("smtp/{}", offered.host()), "tls = \"none\"")
        .start();
    let reply = hub.client().mail("s@a.test", &["r@plain.test", "r@offered.test"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250);
    assert!(offered.wait(1, SOON));
    assert!(!offered.transactions()[0].encrypted);
    let deferred = wait_until(SOON, || !hub.log_lines(&["to=<r@plain.test>", "status=deferred"]).is_empty());
    assert!(deferred && plain.count() == 0, "{}", hub.log());
}

#[test]
fn a_certificate_that_nobody_vouches_for_does_not_pass_verify() {
    let sink = Sink::build().certificate(Certificate::new(&["localhost"])).start();
    let hub = Hub::towards(ZRELAY, &sink.host()).clause("smtp/*", "tls = \"verify\"\ninterval = \"1h\"").start();
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(wait_until(SOON, || !hub.log_lines(&["status=deferred"]).is_empty()), "{}", hub.log());
    assert_eq!(sink.count(), 0);
}

/// Mail from swaks, which goes `way` to a listener with these keys.
fn swaks_comes_in(way: &str, listener: &str) {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).certificate(&Certificate::new(&["hub.test"])).listen(listener).start();
    let arguments = [way, "--from", "s@a.test", "--to", "r@b.test", "--body", "by TLS"];
    let Some((transcript, content)) = swaks(hub.smtp(), &arguments) else { return skip("swaks is not installed") };
    assert!(content && transcript.contains("TLS started"), "{transcript}");
    assert!(sink.wait(1, SOON));
    let text = sink.transactions()[0].text();
    assert!(text.contains("with ESMTPS"), "{text}");
}

#[test]
fn swaks_comes_in_encrypted() {
    swaks_comes_in("-tls", "");
}

#[test]
fn swaks_comes_in_with_implicit_tls() {
    swaks_comes_in("--tls-on-connect", "implicit_tls = true");
}

#[test]
fn mail_passes_from_hub_to_hub_by_implicit_tls_and_ahead_of_the_greeting() {
    let sink = Sink::start();
    let certificate = Certificate::new(&["next.test"]);
    let next = Hub::towards(ZRELAY, &sink.host()).certificate(&certificate).listen("implicit_tls = true").start();
    let host = format!("[127.0.0.1]:{}", next.smtp().port());
    let hub = Hub::towards(ZRELAY, &host)
        .clause(&format!("smtp/{host}"), "implicit_tls = true\nidle = \"0s\"\ninterval = \"1s\"\nretries = [1]")
        .start();
    for number in 0..3 {
        assert_eq!(inject(hub.smtp(), 1, 1, &AtomicBool::new(false), |_| make(number)), [Answered::Accepted]);
        assert!(sink.wait(number + 1, SOON), "{}\n{}", hub.log(), next.log());
        assert!(wait_until(SOON, || hub.json(&["status"])["totals"]["agents"] == 0));
    }
    assert!(sink.transactions().iter().all(|it| it.text().contains("with ESMTPS")));
    let known = hub.json(&["sites", &next.smtp().to_string(), "--topic", "ehlo"]);
    let encrypted = known[0]["value"]["encrypted"].as_array().cloned().unwrap_or_default();
    assert!(encrypted.iter().any(|line| line == "PIPECONNECT") && known[0]["value"]["clear"].is_null(), "{known}");
    assert!(hub.log_lines(&["status=deferred"]).is_empty());
}

#[test]
fn postfix_receives_by_implicit_tls() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let directory = tempfile::tempdir().expect("a directory can be made");
    open(directory.path());
    let tls = Postfix::tls(&Certificate::new(&["peer.test"]), directory.path());
    let postfix = Postfix::start(&peers, &format!("{tls}smtpd_tls_wrappermode = yes\n"));
    let hub = Hub::towards(ZRELAY, &postfix.host())
        .clause("smtp/*", "tls = \"encrypt\"\nimplicit_tls = true\ninterval = \"1s\"\nretries = [1]")
        .start();
    assert_eq!(inject(hub.smtp(), 20, 2, &AtomicBool::new(false), make), [Answered::Accepted; 20]);
    let all = wait_until(SOON * 2, || postfix.delivered().len() == 20);
    assert!(all, "{}\n{}\n{}", postfix.delivered().len(), hub.json(&["threads"]), postfix.log());
    assert!(postfix.log().contains("TLS connection established"), "{}", postfix.log());
}

#[test]
fn smtplib_comes_in_encrypted_with_a_large_message() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).certificate(&Certificate::new(&["hub.test"])).start();
    let script = "
import ssl
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
s = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))
s.starttls(context=context)
s.ehlo()
assert 'starttls' not in s.esmtp_features
s.sendmail('s@a.test', ['r@b.test'], 'Subject: large\\r\\n\\r\\n' + ('x' * 70 + '\\r\\n') * 40000)
s.quit()";
    let file = hub.path().join("hub.crt").display().to_string();
    python(script, &[&hub.smtp().port().to_string(), &file]);
    assert!(sink.wait(1, SOON));
    assert_eq!(sink.transactions()[0].content.iter().filter(|octet| **octet == b'x').count(), 70 * 40_000);
}

#[test]
fn what_is_pipelined_behind_starttls_ends_the_connection() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).certificate(&Certificate::new(&["hub.test"])).start();
    let mut client = Client::connect(hub.smtp());
    assert!(client.command("EHLO c.test").lines.iter().any(|line| line == "STARTTLS"));
    client.send(b"STARTTLS\r\nMAIL FROM:<injected@a.test>\r\n");
    let reply = client.reply();
    assert!(reply.code != 250, "{reply:?}");
    assert!(client.is_closed());
    assert_eq!(hub.client().command("STARTTLS now").code / 100, 5, "no argument is allowed");
}

#[test]
fn postfix_and_exim_receive_encrypted() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let directory = tempfile::tempdir().expect("a directory can be made");
    open(directory.path());
    let certificate = Certificate::new(&["peer.test"]);
    let postfix = Postfix::start(&peers, &Postfix::tls(&certificate, directory.path()));
    let exim = Exim::start(&peers, &Exim::tls(&certificate, directory.path()));
    let hub = Hub::build(ZRELAY)
        .route("*@b.test", "smtp", &postfix.host())
        .route("*@c.test", "smtp", &exim.host())
        .clause("smtp/*", "tls = \"encrypt\"\ninterval = \"1s\"\nretries = [1]")
        .start();
    let make = |number: usize| {
        Mail::generate(&format!("tls.{number}"), 30_000, Body::Text, "s@a.test", &["r@b.test", "r@c.test"])
    };
    assert_eq!(inject(hub.smtp(), 30, 2, &AtomicBool::new(false), make), [Answered::Accepted; 30]);
    let all = wait_until(SOON * 2, || postfix.delivered().len() == 30 && exim.delivered().len() == 30);
    assert!(all, "{} {}\n{}", postfix.delivered().len(), exim.delivered().len(), hub.json(&["threads"]));
    for delivered in [postfix.delivered(), exim.delivered()] {
        assert!((0..30).all(|number| delivered.iter().any(|it| it.marked == Some(make(number).marked()))));
    }
    assert!(exim.log().contains("P=esmtps"), "{}", exim.log());
    assert!(postfix.log().contains("TLS connection established"), "{}", postfix.log());
}

fn open(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own directory");
}

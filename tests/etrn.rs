//! ETRN: a host that was down asks for its mail.

use std::process::Command;

use zrelay_tests::{Client, Hub, Port, SOON, Sink, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

/// What Python's `smtplib` says and hears: three questions, of which the second comes too soon.
const PYTHON: &str = r#"
import smtplib, sys
client = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=30)
client.ehlo("c.test")
assert client.has_extn("etrn"), client.esmtp_features
for argument in ["b.test", "b.test", "a..b", "@other.test"]:
    code, text = client.docmd("ETRN", argument)
    print(code, text.decode())
client.quit()
"#;

#[test]
fn a_host_that_comes_up_asks_for_its_mail_and_has_it_long_before_the_next_retry() {
    let down = Port::free();
    let host = format!("[127.0.0.1]:{}", down.number());
    let hub = Hub::towards(ZRELAY, &host).clause("smtp/*", "interval = \"1h\"").start();
    let name = format!("smtp/{host}");
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(wait_until(SOON, || hub.thread(&name)["state"] == "retry"), "{}", hub.json(&["threads"]));
    let sink = Sink::build().start_on(down);

    let python = Command::new("python3").args(["-c", PYTHON, &hub.smtp().port().to_string()]).output();
    let Ok(python) = python else { return skip("python3 is not installed") };
    let said = String::from_utf8_lossy(&python.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let [started, again, wrong, other] = lines[..] else { panic!("{said}{}", String::from_utf8_lossy(&python.stderr)) };
    assert_eq!(started, "250 2.0.0 OK, queuing for node b.test started");
    assert!(again.starts_with("458 4.7.0 "), "{again}");
    assert!(wrong.starts_with("501 5.5.4 "), "{wrong}");
    assert_eq!(other, "250 2.0.0 OK, queuing for node @other.test started");
    assert!(sink.wait(1, SOON), "{}", hub.json(&["threads"]));
    assert!(hub.wait_until_empty(SOON));
    assert!(!hub.log_lines(&["ETRN b.test from", "Retry", &name]).is_empty(), "{}", hub.log());
}

#[test]
fn who_may_not_relay_is_not_offered_etrn_and_not_obeyed() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).listen("relay_from = [\"192.0.2.0/24\"]").start();
    let mut client = Client::connect(hub.smtp());
    let said = client.command("EHLO c.test").text();
    assert!(said.contains("PIPELINING") && !said.contains("ETRN"), "{said}");
    let reply = client.command("ETRN b.test");
    assert_eq!(reply.code, 459, "{reply:?}");
}

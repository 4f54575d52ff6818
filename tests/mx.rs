//! Next hops by MX lookup, against a name server of the test.

use zrelay_dns::testing::FakeServer;
use zrelay_tests::{Hub, SOON, Sink, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

fn hub(server: &FakeServer, port: u16) -> Hub {
    Hub::build(ZRELAY)
        .table(&format!("[dns]\nservers = [\"{}\"]", server.address()))
        .clause("smtp/*", &format!("port = {port}\ninterval = \"1s\"\nretries = [1]"))
        .start()
}

#[test]
fn mail_goes_to_the_mx_hosts_of_its_domain() {
    let zone = "
        b.test.     MX 10 dead.b.test.
        b.test.     MX 20 mx.b.test.
        dead.b.test. A 127.0.0.9
        mx.b.test.  A 127.0.0.1
        plain.test. A 127.0.0.1
        long.test.  MX 10 mx.b.test.
        long.test.  TRUNCATED
    ";
    let server = FakeServer::start(zone).expect("the name server starts");
    let sink = Sink::start();
    let hub = hub(&server, sink.address().port());
    let recipients = ["r@b.test", "r@B.TEST", "r@plain.test", "r@long.test"];
    let reply = hub.client().mail("s@a.test", &recipients, b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    assert!(sink.wait(3, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
    assert!(hub.wait_until_empty(SOON), "{}", hub.json(&["threads"]));
    assert!(
        !hub.log_lines(&["to=<r@b.test>", "relay=mx.b.test[127.0.0.1]", "status=sent"]).is_empty(),
        "{}",
        hub.log()
    );
    assert_eq!(hub.thread("smtp/b.test")["batches"], 0);
}

#[test]
fn a_domain_that_takes_no_mail_or_is_not_there_fails_at_once() {
    let server = FakeServer::start("null.test. MX 0 .\nself.test. MX 10 hub.test.\nhub.test. A 127.0.0.1")
        .expect("the name server starts");
    let sink = Sink::start();
    let hub = hub(&server, sink.address().port());
    let reply = hub.client().mail("", &["r@null.test", "r@missing.test", "r@self.test"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250);
    for (recipient, status) in
        [("r@null.test", "dsn=5.1.10"), ("r@missing.test", "dsn=5.1.2"), ("r@self.test", "dsn=5.4.6")]
    {
        let bounced = || !hub.log_lines(&[&format!("to=<{recipient}>"), "status=bounced", status]).is_empty();
        assert!(wait_until(SOON, bounced), "{recipient} {status}: {}", hub.log());
    }
    assert_eq!(sink.count(), 0);
}

#[test]
fn a_name_server_in_trouble_puts_mail_off_and_others_go_on() {
    let zone = "lame.test. SERVFAIL\nmute.test. SILENT\ngood.test. MX 10 mx.good.test.\nmx.good.test. A 127.0.0.1";
    let server = FakeServer::start(zone).expect("the name server starts");
    let sink = Sink::start();
    let hub = hub(&server, sink.address().port());
    let reply =
        hub.client().mail("s@a.test", &["r@lame.test", "r@mute.test", "r@good.test"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250);
    assert!(sink.wait(1, SOON), "{}", hub.json(&["threads"]));
    let deferred = || !hub.log_lines(&["to=<r@lame.test>", "status=deferred", "dsn=4.4.3"]).is_empty();
    assert!(wait_until(SOON, deferred), "{}", hub.log());
    server.set_zone("lame.test. MX 10 mx.good.test.\nmx.good.test. A 127.0.0.1").expect("a good zone");
    assert!(sink.wait(2, SOON), "{}", hub.json(&["threads"]));
}

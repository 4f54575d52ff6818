//! The first flight of a new connection to a host that is known: PIPECONNECT, with a real Exim on the other side.

use std::time::Duration;

use zrelay_tests::peers::{self, Exim, Peers};
use zrelay_tests::{Certificate, Client, Hub, Mail, SOON, Sink, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const CONTENT: &[u8] = b"Subject: early\r\n\r\nHello.\r\n";
/// Connections end as soon as they have nothing to do, so that each message begins a new one.
const NO_IDLE: &str = "idle = \"0s\"\ninterval = \"1s\"\nretries = [1]";
/// Exim starts a process for each delivery.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends this many messages, each when the one before has arrived and its connection is over.
fn one_by_one(hub: &Hub, messages: usize, arrived: impl Fn() -> usize) {
    for number in 1..=messages {
        assert_eq!(hub.client().mail("s@a.test", &["one@b.test", "two@b.test"], CONTENT).code, 250);
        assert!(wait_until(PATIENCE, || arrived() >= 2 * number), "{} of {number}\n{}", arrived(), hub.log());
        let idle = || hub.json(&["status"])["totals"]["agents"] == 0;
        assert!(wait_until(SOON, idle), "{}", hub.json(&["status"]));
    }
}

/// Messages that are sent at most until two have gone ahead.
const MESSAGES_MAX: usize = 16;

/// Sends messages until Exim says of two that they came ahead of its greeting; of the first it cannot. It looks for what
/// has come once, in the moment before it greets: on a busy machine the hub's octets may come behind that moment, which it
/// takes as well, and does not count.
fn until_two_are_early(hub: &Hub, exim: &Exim, early: impl Fn() -> usize) {
    for number in 0..MESSAGES_MAX {
        let before = exim.delivered().len();
        one_by_one(hub, 1, || exim.delivered().len() - before);
        assert!(number > 0 || early() == 0, "it was not offered yet\n{}", exim.log());
        if early() == 2 {
            return;
        }
    }
    panic!("{} of {MESSAGES_MAX} were early\n{}", early(), exim.log());
}

/// How often the hub, as a client of this Exim, used what it had been offered.
fn accepted_early(exim: &Exim) -> usize {
    exim.log().lines().filter(|line| line.contains(" <= ") && line.contains(" L* ")).count()
}

#[test]
fn exim_is_sent_envelopes_ahead_of_its_greeting_once_it_has_offered_that() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let exim = Exim::start(&peers, "log_selector = +pipelining\npipelining_connect_advertise_hosts = *\n");
    let hub = Hub::towards(ZRELAY, &exim.host()).clause("smtp/*", NO_IDLE).start();
    until_two_are_early(&hub, &exim, || accepted_early(&exim));
    assert!(!exim.log().contains("synchronization error"), "{}", exim.log());
    assert!(hub.json(&["sites", "--topic", "ehlo"]).to_string().contains("PIPECONNECT"));
    assert!(hub.log_lines(&["status=deferred"]).is_empty());
}

#[test]
fn exim_is_sent_envelopes_ahead_of_its_greeting_behind_starttls_too() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let files = tempfile::tempdir().unwrap();
    let tls = Exim::tls(&Certificate::new(&["exim.test"]), files.path());
    let exim = Exim::start(&peers, &format!("log_selector = +pipelining\n{tls}"));
    let hub = Hub::towards(ZRELAY, &exim.host()).clause("smtp/*", NO_IDLE).start();
    let early = || exim.log().lines().filter(|line| line.contains(" L* ") && line.contains(" X=TLS")).count();
    until_two_are_early(&hub, &exim, early);
}

#[test]
fn exim_that_does_not_take_it_any_more_is_met_anew_without_a_failure() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let files = tempfile::tempdir().unwrap();
    let switch = files.path().join("refuse");
    // As long as the file is there, whoever speaks first is thrown out.
    let settings = format!(
        "log_selector = +pipelining\npipelining_connect_advertise_hosts = ${{if exists{{{}}}{{}}{{*}}}}\n",
        switch.display()
    );
    let exim = Exim::start(&peers, &settings);
    let hub = Hub::towards(ZRELAY, &exim.host()).clause("smtp/*", NO_IDLE).start();
    one_by_one(&hub, 1, || exim.delivered().len());
    std::fs::write(&switch, "").unwrap();
    let before = exim.delivered().len();
    one_by_one(&hub, 1, || exim.delivered().len() - before);
    assert!(!hub.log_lines(&["trying again, waiting for the greeting"]).is_empty(), "{}", hub.log());
    assert!(hub.log_lines(&["status=deferred"]).is_empty(), "{}", hub.log());
    assert_eq!(exim.delivered().len(), 4, "each once");
}

#[test]
fn exim_sends_its_envelopes_ahead_of_the_hubs_greeting() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    for certificate in [None, Some(Certificate::new(&["hub.test"]))] {
        let sink = Sink::start();
        let hub = Hub::towards(ZRELAY, &sink.host());
        let hub = match &certificate {
            Some(certificate) => hub.certificate(certificate).start(),
            None => hub.start(),
        };
        let exim = Exim::start_towards(
            &peers,
            hub.smtp(),
            "log_selector = +pipelining\n",
            "  hosts_pipe_connect = *\n  hosts_noproxy_tls = *\n  connection_max_messages = 1\n",
        );
        for number in 0..3 {
            let mark = format!("early.{number}");
            let mail = Mail::generate(&mark, 2000, zrelay_tests::Body::Text, "s@a.test", &["r@b.test"]);
            let reply = Client::ehlo(exim.address()).mail("s@a.test", &["r@b.test"], &mail.content);
            assert_eq!(reply.code, 250, "{reply:?}");
            assert!(sink.wait(number + 1, PATIENCE), "{}\n{}", exim.log(), hub.log());
        }
        let log = || exim.log();
        let early = || log().lines().filter(|line| line.contains(" => ") && line.contains(" L* ")).count();
        assert!(wait_until(SOON, || early() == 2), "all but the first\n{}", exim.log());
        let encrypted = log().lines().filter(|line| line.contains(" => ") && line.contains(" X=TLS")).count();
        assert_eq!(encrypted, if certificate.is_some() { 3 } else { 0 }, "{}", exim.log());
    }
}

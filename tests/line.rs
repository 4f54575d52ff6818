//! What takes a line between two network namespaces to be shown: addresses that do not answer, and what the kernels do.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use zrelay_dns::testing::FakeServer;
use zrelay_lab::{FarSide, Lab, LinkSettings, Offer};
use zrelay_tests::{Hub, SOON, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const CONTENT: &[u8] = b"Subject: x\r\n\r\nx\r\n";

fn lab() -> Option<Lab> {
    Lab::for_test(LinkSettings::new(Duration::from_millis(20), 10_000_000))
}

/// A counter of the kernel's in the namespace of the calling thread, such as `Tcp` `ActiveOpens`.
fn counter(file: &str, table: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(&format!("{table}:")));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(it, _)| *it == name).and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
}

#[test]
fn an_ipv6_address_that_does_not_answer_does_not_hold_mail_up_where_an_ipv4_address_does() {
    let Some(lab) = lab() else { return };
    let far = lab.far().run(|| FarSide::build().start((Ipv4Addr::UNSPECIFIED, 2525))).unwrap().unwrap();
    let zone = format!("b.test. MX 10 mx.b.test.\nmx.b.test. AAAA fd77::2\nmx.b.test. A {}", lab.far_address());
    let work = || {
        // Packets to it go over the line, and the far end, which has no such address, drops them.
        let there = ["-6", "address", "add", "fd77::1/64", "dev", "wan0", "nodad"];
        if !Command::new("ip").args(there).status().is_ok_and(|status| status.success()) {
            return eprintln!("left out, there is no IPv6 here");
        }
        let server = FakeServer::start(&zone).expect("the name server starts");
        let hub = Hub::build(ZRELAY)
            .table(&format!("[dns]\nservers = [\"{}\"]", server.address()))
            // Nothing but the race can save the message in the time of the test.
            .clause("smtp/*", "port = 2525\nconnect_timeout = \"1h\"\ninterval = \"1h\"\nretries = [1]")
            .start();
        hub.zrelay(&["hold", "smtp/b.test"]);
        assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], CONTENT).code, 250);
        let before = counter("snmp", "Tcp", "ActiveOpens");
        hub.zrelay(&["release", "smtp/b.test"]);
        assert!(wait_until(SOON, || far.delivered() == 1), "{}\n{}", hub.thread("smtp/b.test"), hub.log());
        assert_eq!(counter("snmp", "Tcp", "ActiveOpens") - before, 2, "both were tried");
        let sent = format!("relay=mx.b.test[{}]:2525", lab.far_address());
        let is_sent = || !hub.log_lines(&[&sent, "status=sent"]).is_empty();
        assert!(wait_until(SOON, is_sent), "{}", hub.log());
    };
    lab.near().run(work).unwrap();
}

#[test]
fn the_first_flight_to_a_known_host_goes_with_the_first_packet_where_the_kernels_know_how() {
    /// The server's part, for every listener; RFC 7413.
    const SERVER: &str = "1026";
    let Some(lab) = lab() else { return };
    let start = || {
        fs::write("/proc/sys/net/ipv4/tcp_fastopen", SERVER).unwrap();
        FarSide::build().with(Offer::PipeConnect).start((Ipv4Addr::UNSPECIFIED, 2525))
    };
    let far = lab.far().run(start).unwrap().unwrap();
    let host = format!("[{}]:2525", lab.far_address());
    let work = || {
        // Connections end as soon as they have nothing to do, so that each message begins a new one.
        let hub = Hub::towards(ZRELAY, &host).clause("smtp/*", "idle = \"0s\"").start();
        // One to learn that the host may be spoken to first, one to be given the kernel's cookie, one that uses it.
        for number in 1..=3 {
            assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], CONTENT).code, 250);
            assert!(wait_until(SOON, || far.delivered() == number), "{number}: {}", hub.log());
            let idle = || hub.json(&["status"])["totals"]["agents"] == 0;
            assert!(wait_until(SOON, idle), "{}", hub.json(&["status"]));
        }
        counter("netstat", "TcpExt", "TCPFastOpenActive")
    };
    let active = lab.near().run(work).unwrap();
    let passive = lab.far().run(|| counter("netstat", "TcpExt", "TCPFastOpenPassive")).unwrap();
    assert_eq!((active, passive), (1, 1), "connections that brought their first octets with the first packet");
    assert!(far.books().violations.is_empty(), "{:?}", far.books().violations);
}

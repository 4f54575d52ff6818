//! Reading files, and what good files come to.

use std::time::Duration;

use zrelay_config::{Config, ConfigError, Pipelining, Protocol, TlsPolicy};

const FULL: &str = r#"
hostname = "Hub.Example.ORG"
spool    = "/var/spool/zrelay"
control  = "/run/zrelay/control.sock"
agents   = 200

[tls]
certificate = "/etc/zrelay/cert.pem"
key = "/etc/zrelay/key.pem"

[[listen]]
address    = "127.0.0.1:2525"
relay_from = ["127.0.0.0/8", "::1", "10.1.0.0/16"]

[[listen]]
address  = "[::1]:2424"
protocol = "lmtp"
starttls = false

[intake]
message_size = "10MB"
memory = 67108864
reserve = "1GiB"

[[route]]
recipient = "*.example.net"
channel   = "smtp"
host      = "[10.0.0.9]:2526"

[[route]]
sender = "<>"
channel = "error"
host = "5.7.1 no bounces here"

[[thread]]
match = "smtp/*.slow.example"
thread_agents = 30
retries = [5, 10]
interval = "1h30m"
tls = "verify"
pipelining = "lockstep"

[[thread]]
match = "smtp/*"
channel_agents = 100
jitter = 0

[[thread]]
match = "lmtp/*"

[dns]
servers = ["192.0.2.53", "[2001:db8::53]:5353"]
"#;

#[test]
fn a_full_file_becomes_a_configuration() {
    let config = Config::parse("hub.toml", FULL).unwrap();
    assert_eq!(config.hostname, "hub.example.org");
    assert_eq!(config.listen[0].relay_from.len(), 3);
    assert!(config.listen[0].starttls && !config.listen[1].starttls);
    assert_eq!(config.listen[1].protocol, Protocol::Lmtp);
    assert_eq!((config.intake.message_size, config.intake.memory), (10_000_000, 64 << 20));
    assert_eq!(config.intake.reserve, 1 << 30);
    assert_eq!(config.routes[0].line, 25);
    assert_eq!(config.routes[0].host.as_deref(), Some("[10.0.0.9]:2526"));
    assert_eq!(config.routes[1].host.as_deref(), Some("5.7.1 no bounces here"));
    assert_eq!(config.channel_agents, [("smtp".to_owned(), 100)]);
    assert_eq!(config.dns.servers[0].port(), 53);

    let slow = config.clause("smtp/mx.slow.example");
    assert_eq!((slow.thread_agents, slow.ring_agents), (30, 30));
    assert_eq!(
        (slow.interval, slow.tls, slow.pipelining),
        (Duration::from_secs(5400), TlsPolicy::Verify, Pipelining::Lockstep)
    );
    assert_eq!(config.clause("smtp/example.com").port, 25);
    assert_eq!(config.clause("lmtp/[::1]").port, 24);
    assert_eq!(Config::embedded().clause("lmtp/[::1]").port, 24);
}

#[test]
fn without_a_file_the_hub_listens_on_loopback() {
    let config = Config::default();
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:2525");
    assert!(!config.listen[0].starttls);
    assert!(config.spool.starts_with("zrelay-data"));
}

#[test]
fn mistakes_in_several_tables_are_reported_together_in_their_order() {
    let text =
        "hostname = 7\ndrain = \"x\"\n[[listen]]\nadress = 1\n[[route]]\nchannel = \"uucp\"\n[dns]\nattempts = 99\n";
    let error = Config::parse("hub.toml", text).unwrap_err();
    let lines: Vec<usize> = error.problems().iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 2, 4, 6, 8], "{error}");
    assert_eq!(error.problems()[2].column, 1);
}

#[test]
fn a_file_that_is_missing_or_not_text_is_named_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.toml");
    let error = Config::load(&missing).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert!(error.to_string().contains("none.toml"));
    let binary = directory.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    assert!(matches!(Config::load(&binary), Err(ConfigError::Unreadable { .. })));
    let good = directory.path().join("good.toml");
    std::fs::write(&good, FULL).unwrap();
    assert_eq!(Config::load(&good).unwrap().agents, 200);
}

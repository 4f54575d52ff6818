//! What a host's name becomes.

use rustls::server::Acceptor;

use super::*;

/// The SNI that a session with `name` sends.
fn sni(name: &str) -> Option<String> {
    let client = End::new(ClientTls::new(Roots::Given(Vec::new())).unwrap().session(name, Policy::May).unwrap());
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut &client.out[..]).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    accepted.client_hello().server_name().map(str::to_owned)
}

#[test]
fn names_go_into_the_sni_and_everything_else_stays_out() {
    assert_eq!(sni("MX.Example.NET.").as_deref(), Some("mx.example.net"));
    assert_eq!(sni("_under_score.example").as_deref(), Some("_under_score.example"));
    let long = "a".repeat(300);
    for name in [
        "192.0.2.1",
        "[192.0.2.1]",
        "2001:db8::1",
        "[IPv6:2001:db8::1]",
        "",
        ".",
        "a b",
        "bücher.example",
        "a\0b",
        &long,
    ] {
        assert_eq!(sni(name), None, "{name:?}");
    }
}

#[test]
fn hosts_without_a_usable_name_still_handshake_and_do_not_share_sessions() {
    let host = Host::new(&["mx.example.net"]);
    let (client, server) = (host.client(), host.server());
    let resumed = |name| {
        let (client, _) = meet(&client, &server, name, Policy::May);
        assert_eq!(client.session.verdict(), Ok(()), "{name:?}");
        client.session.is_resumed()
    };
    assert!(!resumed("odd name"));
    assert!(!resumed("odder name"));
    assert!(resumed("odd name"));
}

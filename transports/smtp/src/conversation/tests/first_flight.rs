//! Round trips of a new connection, counted with real TLS sessions: the table in the documentation of the crate.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use zrelay_tls::{ClientTls, Policy, Roots, Session};

use super::far::{Far, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{Offered, Security, Settings};

/// How a connection comes to TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Clear,
    StartTls,
    Implicit,
}

/// The keys of one hub and one host, for several connections.
struct Pair {
    client: ClientTls,
    server: Arc<ServerConfig>,
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let issued = rcgen::generate_simple_self_signed(vec!["far.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
        let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .unwrap();
        Self { client: ClientTls::new(Roots::Given(Vec::new())).unwrap(), server: Arc::new(server) }
    }
}

/// The far end of TLS.
struct Server(ServerConnection);

impl Server {
    /// What is in these octets.
    fn read(&mut self, mut octets: &[u8]) -> Vec<u8> {
        while !octets.is_empty() {
            self.0.read_tls(&mut octets).unwrap();
            self.0.process_new_packets().unwrap();
        }
        let mut plain = Vec::new();
        // It says that it would block when there is no more.
        let _ = self.0.reader().read_to_end(&mut plain);
        plain
    }

    fn write(&mut self, plain: &[u8], octets: &mut Vec<u8>) {
        self.0.writer().write_all(plain).unwrap();
        while self.0.wants_write() {
            self.0.write_tls(octets).unwrap();
        }
    }
}

/// One connection in memory: octets that are said arrive half a round trip later.
struct Line {
    run: Run,
    /// Both ends, once the handshake has begun.
    tls: Option<(Session, Server)>,
    towards: Vec<u8>,
    back: Vec<u8>,
}

fn offers(way: Way) -> Offers {
    let offers = Offers::everything().with(&["PIPECONNECT"]);
    if way == Way::StartTls { offers.with(&["STARTTLS"]) } else { offers }
}

impl Line {
    fn new(way: Way, known: Option<Offered>) -> Self {
        let security = match way {
            Way::Clear => Security::Clear,
            Way::StartTls => Security::Required,
            Way::Implicit => Security::Implicit,
        };
        let far = Far::new(offers(way), |_| None);
        let mut run = Run::new(Settings { security, ..settings() }, far, 1).in_one_piece();
        if let Some(known) = known {
            run.conversation.presume(run.now, known);
        }
        Self { run, tls: None, towards: Vec::new(), back: Vec::new() }
    }

    /// What the hub has to say now.
    fn speak(&mut self, pair: &Pair) {
        self.run.events();
        if std::mem::take(&mut self.run.starttls) {
            let client = pair.client.session("far.example", Policy::Encrypt).unwrap();
            self.tls = Some((client, Server(ServerConnection::new(Arc::clone(&pair.server)).unwrap())));
            // Behind STARTTLS there is a new beginning.
            let offered = Offers::everything().with(&["PIPECONNECT"]);
            self.run.far.offer(offered);
        }
        if let Some((client, _)) = &mut self.tls {
            client.flush(&mut self.towards);
        }
        if self.tls.as_ref().is_some_and(|(client, _)| client.is_handshaking()) {
            return;
        }
        while self.run.conversation.wants_write() {
            let mut plain = Vec::new();
            self.run.conversation.gather(|slice| {
                plain.extend_from_slice(slice);
                true
            });
            let written = match &mut self.tls {
                Some((client, _)) => client.write(&plain, &mut self.towards),
                None => {
                    self.towards.extend_from_slice(&plain);
                    plain.len()
                }
            };
            self.run.conversation.handle_written(self.run.now, written);
        }
    }

    /// The far side hears, and what it says is heard. Returns whether anything was said.
    fn round_trip(&mut self) -> bool {
        let towards = std::mem::take(&mut self.towards);
        let spoke = !towards.is_empty();
        let was_handshaking = self.tls.as_ref().is_some_and(|(client, _)| client.is_handshaking());
        if let Some((_, server)) = &mut self.tls {
            let plain = server.read(&towards);
            if !plain.is_empty() {
                self.run.far.receive(&plain);
            }
            let said = if server.0.is_handshaking() { Vec::new() } else { std::mem::take(&mut self.run.far.output) };
            server.write(&said, &mut self.back);
        } else {
            self.run.far.receive(&towards);
            self.back.append(&mut self.run.far.output);
        }
        let back = std::mem::take(&mut self.back);
        let heard = !back.is_empty();
        self.run.now = self.run.now + std::time::Duration::from_millis(130);
        match &mut self.tls {
            Some((client, _)) => {
                let mut plain = Vec::new();
                client.read_tls(&back, &mut plain).unwrap();
                if was_handshaking && !client.is_handshaking() {
                    self.run.conversation.handle_secured(self.run.now);
                }
                if !plain.is_empty() {
                    self.run.conversation.handle_input(self.run.now, &plain);
                }
            }
            None => self.run.conversation.handle_input(self.run.now, &back),
        }
        self.run.events();
        spoke || heard
    }

    /// Round trips until the final reply to the last of so many messages, that of TCP's own handshake included.
    fn round_trips(&mut self, pair: &Pair, messages: usize) -> usize {
        (0..messages).for_each(|number| self.run.carry(letter(number, &["a@dst", "b@dst"])));
        let mut trips = 1;
        while !self.run.conversation.is_idle() {
            self.speak(pair);
            assert!(self.round_trip(), "nobody says anything");
            trips += 1;
        }
        self.run.assert_all_delivered();
        trips
    }
}

/// How many a connection takes to a host that is not known, and to one that is.
fn table(version: &'static SupportedProtocolVersion) -> Vec<(Way, usize, usize)> {
    let ways = [Way::Clear, Way::StartTls, Way::Implicit].into_iter();
    let rows = ways.map(|way| {
        let pair = Pair::new(version);
        let mut first = Line::new(way, None);
        let unknown = first.round_trips(&pair, 1);
        let mut second = Line::new(way, Some(first.run.conversation.offered().clone()));
        let known = second.round_trips(&pair, 1);
        let resumed = second.tls.as_ref().is_some_and(|(client, _)| client.is_resumed());
        assert_eq!(resumed, way != Way::Clear);
        (way, unknown, known)
    });
    rows.collect()
}

#[test]
fn a_host_that_is_known_costs_fewer_round_trips_than_one_that_is_not() {
    assert_eq!(table(&version::TLS13), [(Way::Clear, 4, 3), (Way::StartTls, 7, 5), (Way::Implicit, 5, 4)]);
}

/// A full handshake of TLS 1.2 takes two round trips (RFC 5246 §7.3, figure 1): what is said behind STARTTLS waits for the
/// far side's Finished, one more than with TLS 1.3. With implicit TLS the greeting comes together with that Finished, and is
/// waited for anyway. In an abbreviated one (figure 2; RFC 5077 §3.1 with a ticket) the far side finishes first, and what
/// we say goes with our Finished, as in TLS 1.3.
#[test]
fn with_tls_1_2_a_session_that_is_resumed_saves_a_round_trip() {
    assert_eq!(table(&version::TLS12), [(Way::Clear, 4, 3), (Way::StartTls, 8, 5), (Way::Implicit, 5, 4)]);
}

#[test]
fn further_messages_cost_no_round_trip_under_tls_either() {
    for way in [Way::Clear, Way::StartTls, Way::Implicit] {
        let pair = Pair::new(&version::TLS13);
        let mut first = Line::new(way, None);
        let one = first.round_trips(&pair, 1);
        assert_eq!(Line::new(way, None).round_trips(&pair, 40), one, "{way:?}");
        let known = first.run.conversation.offered();
        let one = Line::new(way, Some(known.clone())).round_trips(&pair, 1);
        assert_eq!(Line::new(way, Some(known.clone())).round_trips(&pair, 40), one, "{way:?}");
    }
}

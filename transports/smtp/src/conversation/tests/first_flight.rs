//! Round trips of a new connection, counted with real TLS sessions: the table in the documentation of the crate.

use zrelay_tls::{ClientTls, Policy, Roots, ServerTls, Session};

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
    server: ServerTls,
    _files: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let issued = rcgen::generate_simple_self_signed(vec!["far.example".to_owned()]).unwrap();
        let files = tempfile::tempdir().unwrap();
        let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
        std::fs::write(&certificate, issued.cert.pem()).unwrap();
        std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
        let server = ServerTls::from_pem(&certificate, &key).unwrap();
        Self { client: ClientTls::new(Roots::Given(Vec::new())).unwrap(), server, _files: files }
    }
}

/// One connection in memory: octets that are said arrive half a round trip later.
struct Line {
    run: Run,
    /// Both ends, once the handshake has begun.
    tls: Option<(Session, Session)>,
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
            self.tls = Some((client, pair.server.session().unwrap()));
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
            let mut plain = Vec::new();
            server.read_tls(&towards, &mut plain).unwrap();
            server.flush(&mut self.back);
            if !plain.is_empty() {
                self.run.far.receive(&plain);
            }
            let said = if server.is_handshaking() { Vec::new() } else { std::mem::take(&mut self.run.far.output) };
            if !said.is_empty() {
                server.write(&said, &mut self.back);
            }
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

#[test]
fn a_host_that_is_known_costs_fewer_round_trips_than_one_that_is_not() {
    let mut table = Vec::new();
    for way in [Way::Clear, Way::StartTls, Way::Implicit] {
        let pair = Pair::new();
        let mut first = Line::new(way, None);
        let unknown = first.round_trips(&pair, 1);
        let mut second = Line::new(way, Some(first.run.conversation.offered().clone()));
        let known = second.round_trips(&pair, 1);
        let resumed = second.tls.as_ref().is_some_and(|(client, _)| client.is_resumed());
        assert_eq!(resumed, way != Way::Clear);
        table.push((way, unknown, known));
    }
    assert_eq!(table, [(Way::Clear, 4, 3), (Way::StartTls, 7, 5), (Way::Implicit, 5, 4)]);
}

#[test]
fn further_messages_cost_no_round_trip_under_tls_either() {
    for way in [Way::Clear, Way::StartTls, Way::Implicit] {
        let pair = Pair::new();
        let mut first = Line::new(way, None);
        let one = first.round_trips(&pair, 1);
        assert_eq!(Line::new(way, None).round_trips(&pair, 40), one, "{way:?}");
        let known = first.run.conversation.offered();
        let one = Line::new(way, Some(known.clone())).round_trips(&pair, 1);
        assert_eq!(Line::new(way, Some(known.clone())).round_trips(&pair, 40), one, "{way:?}");
    }
}

//! The resolver in virtual time, against a table of records; the driver against a server on a loopback port.

mod answers;
mod driver;
mod network;
mod properties;

use std::net::SocketAddr;
use std::time::Duration;

use zrelay_clock::Timestamp;

use crate::testing::{Via, Zone};
use crate::{DnsError, Question, Resolver, Settings, Target, Transmit, Transport};

type Answer = Result<Target, DnsError>;

/// A resolver, the servers it asks, and a clock.
struct World {
    resolver: Resolver,
    zone: Zone,
    now: Timestamp,
    sent: usize,
}

impl World {
    fn new(zone: &str) -> Self {
        let settings = Settings { servers: vec![server(1), server(2)], timeout: Duration::from_secs(5), attempts: 3 };
        Self::with(zone, settings)
    }

    fn with(zone: &str, settings: Settings) -> Self {
        let resolver = Resolver::new(settings, [1; 32]);
        Self { resolver, zone: Zone::parse(zone).unwrap(), now: Timestamp::from_secs(1_000), sent: 0 }
    }

    fn ask(&mut self, token: u64, question: Question) {
        self.resolver.resolve(self.now, token, question);
    }

    fn transmits(&mut self) -> Vec<Transmit> {
        let transmits: Vec<Transmit> = std::iter::from_fn(|| self.resolver.poll_transmit()).collect();
        self.sent += transmits.len();
        transmits
    }

    /// The answer of the servers to `transmit`, if any.
    fn reply(&self, transmit: &Transmit) -> Option<Vec<u8>> {
        let via = match transmit.transport {
            Transport::Udp { .. } => Via::Udp,
            Transport::Tcp => Via::Tcp,
        };
        self.zone.answer(&transmit.bytes, via)
    }

    fn deliver(&mut self, transmit: &Transmit, message: &[u8]) {
        match transmit.transport {
            Transport::Udp { path } => self.resolver.handle_datagram(self.now, transmit.server, path, message),
            Transport::Tcp => self.resolver.handle_tcp(self.now, transmit.id, message),
        }
    }

    /// Lets the servers answer until nothing is sent any more.
    fn settle(&mut self) {
        loop {
            let transmits = self.transmits();
            if transmits.is_empty() {
                return;
            }
            for transmit in &transmits {
                if let Some(message) = self.reply(transmit) {
                    self.deliver(transmit, &message);
                }
            }
        }
    }

    /// Jumps to the next time-out; whether there was one.
    fn next_timeout(&mut self) -> bool {
        let Some(due) = self.resolver.poll_timeout() else {
            return false;
        };
        self.now = self.now.max(due);
        self.resolver.handle_timeout(self.now);
        true
    }

    fn answers(&mut self) -> Vec<(u64, Answer)> {
        std::iter::from_fn(|| self.resolver.poll_answer()).collect()
    }

    /// Asks, and waits for as long as it takes.
    fn answer(&mut self, question: Question) -> Answer {
        self.ask(7, question);
        loop {
            self.settle();
            if let Some((token, answer)) = self.answers().pop() {
                assert_eq!(token, 7);
                return answer;
            }
            assert!(self.next_timeout(), "neither an answer nor a time-out");
        }
    }
}

fn server(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 53))
}

fn mx(name: &str) -> Question {
    Question::Mx(name.to_owned())
}

fn hosts(name: &str) -> Question {
    Question::Hosts(name.to_owned())
}

/// `site` and the addresses of each exchange, in one string.
fn shown(answer: &Answer) -> String {
    let Ok(target) = answer else {
        return answer.as_ref().err().map_or_else(String::new, ToString::to_string);
    };
    let exchanges = target.exchanges.iter().map(|exchange| {
        let addresses: Vec<String> = exchange.addresses.iter().map(ToString::to_string).collect();
        format!("{} {} {}", exchange.preference, exchange.name, addresses.join(" "))
    });
    format!("{}: {}", target.site, exchanges.collect::<Vec<_>>().join(", "))
}

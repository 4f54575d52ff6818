//! One link over loopback, its other end in the hands of the test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as Blocking};
use std::time::Duration;

use zrelay_agent::{Judgement, Rest, Ticket};
use zrelay_config::Pipelining;
use zrelay_spool::{BatchId, MessageId};
use zrelay_tls::{ClientTls, Policy, Roots, ServerTls};

use super::*;
use crate::conversation::{Event, Protocol as Speech, Security, Settings};
use crate::testing::Parcel;

const MESSAGES: u64 = 60;
const OCTETS: usize = 200_000;
const TURNS_MAX: usize = 1_000_000;

/// A server with TLS from the first octet, which offers CHUNKING and takes everything, when it reads.
struct Far {
    stream: Blocking,
    tls: Session,
    /// Decrypted and not worked off.
    input: Vec<u8>,
    /// Octets of a chunk that are still to come.
    chunk: usize,
    /// Ciphertext that the socket does not take.
    out: Vec<u8>,
    greeted: bool,
    messages: u64,
}

impl Far {
    fn say(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let taken = self.tls.write(rest, &mut self.out);
            rest = &rest[taken..];
        }
    }

    /// Reads what is there and answers.
    fn serve(&mut self) {
        let mut buffer = [0; 65_536];
        if let Ok(octets) = self.stream.read(&mut buffer) {
            assert!(octets > 0, "the link hung up");
            self.tls.read_tls(&buffer[..octets], &mut self.input).unwrap();
            self.tls.flush(&mut self.out);
        }
        if !self.greeted && !self.tls.is_handshaking() {
            self.greeted = true;
            self.say("220 far.example ESMTP\r\n");
        }
        while self.step() {}
        let written = self.stream.write(&self.out).unwrap_or(0);
        self.out.drain(..written);
    }

    fn step(&mut self) -> bool {
        if self.chunk > 0 {
            let octets = self.chunk.min(self.input.len());
            self.input.drain(..octets);
            self.chunk -= octets;
            if self.chunk == 0 {
                self.messages += 1;
                self.say("250 2.0.0 Ok\r\n");
            }
            return octets > 0;
        }
        let Some(end) = self.input.iter().position(|&octet| octet == b'\n') else {
            return false;
        };
        let line = String::from_utf8(self.input.drain(..=end).collect()).unwrap();
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["EHLO", _] => self.say("250-far.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE 10000000\r\n"),
            ["BDAT", octets, "LAST"] => self.chunk = octets.parse().unwrap(),
            _ => self.say("250 2.0.0 Ok\r\n"),
        }
        true
    }
}

fn pair() -> (Link<Parcel>, Far) {
    let issued = rcgen::generate_simple_self_signed(vec!["far.example".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let server = ServerTls::from_pem(&certificate, &key).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stream, _) = connect(address, None, FirstWord::Theirs).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let limits = Limits { messages: 1000, octets: 1 << 30 };
    let settings = Settings {
        protocol: Speech::Smtp,
        hostname: "hub.example".into(),
        peer: "far.example[127.0.0.1]:465".into(),
        security: Security::Implicit,
        highest: Pipelining::Stream,
        recipients: 1000,
        messages: u32::MAX,
        age: Duration::from_secs(3600),
        unacknowledged_messages: limits.messages,
        unacknowledged_bytes: limits.octets,
        timeout: Duration::from_secs(300),
        begun: Timestamp::ZERO,
    };
    let conversation = Conversation::new(settings, Timestamp::ZERO);
    let mut link = Link::new(stream, address, "far.example".into(), conversation, Pipe::new(limits));
    assert!(matches!(link.conversation.poll_event(), Some(Event::StartTls)));
    let client = ClientTls::new(Roots::Given(Vec::new())).unwrap();
    link.secure(client.session("far.example", Policy::Encrypt).unwrap());
    let tls = server.session().unwrap();
    let far = Far { stream: accepted, tls, input: Vec::new(), chunk: 0, out: Vec::new(), greeted: false, messages: 0 };
    (link, far)
}

impl Link<Parcel> {
    /// As if the socket had said that it is ready; it says so itself when it is not.
    fn attend(&mut self, scratch: &mut Scratch) {
        self.readable = true;
        self.writable = true;
        self.turn(Timestamp::from_secs(1), scratch);
        let sealed = self.sealed.len();
        // A record has at most 16 KiB and a little around it, and the last one written may begin below the bound.
        assert!(sealed <= SEALED_OCTETS_MAX + 17 * 1024, "{sealed} octets are sealed and wait");
    }
}

#[test]
fn a_far_side_that_does_not_read_holds_up_bounded_octets_under_tls_and_nothing_is_lost() {
    let (mut link, mut far) = pair();
    let mut scratch = Scratch::new();
    for _ in 0..TURNS_MAX {
        link.attend(&mut scratch);
        far.serve();
        if link.conversation.is_ready() {
            break;
        }
    }
    assert!(link.conversation.is_ready() && link.conversation.is_encrypted());
    link.conversation.set_room(Timestamp::from_secs(1), 1000, 1 << 30, 1 << 20);
    for number in 0..MESSAGES {
        let letter = Parcel::new(&vec![b'x'; OCTETS]).in_slices_of(70_000).to("s@src", &["r@dst"]);
        let ticket = Ticket {
            id: BatchId { message: MessageId(number), number: 0 },
            recipients: [0].into(),
            size: OCTETS as u64,
            weight: OCTETS as u64,
            received: Timestamp::ZERO,
            due: Timestamp::ZERO,
            carried: Timestamp::ZERO,
        };
        link.conversation.carry(Timestamp::from_secs(1), ticket, Arc::new(letter));
    }
    // Twelve megabytes into a socket that nobody reads: at some time it is full, and the link with it.
    for _ in 0..2000 {
        link.attend(&mut scratch);
    }
    assert!(!link.writable && link.wants_write(), "the socket is full");

    let mut delivered = 0;
    for _ in 0..TURNS_MAX {
        far.serve();
        link.attend(&mut scratch);
        while let Some(event) = link.conversation.poll_event() {
            let Event::Settled { verdicts, rest, .. } = event else { continue };
            assert_eq!(rest, Rest::Done);
            assert!(matches!(verdicts[0].judgement, Judgement::Delivered { .. }), "{verdicts:?}");
            delivered += 1;
        }
        if delivered == MESSAGES {
            break;
        }
    }
    assert_eq!((delivered, far.messages), (MESSAGES, MESSAGES));
}

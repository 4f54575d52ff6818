//! From a client's octets to the messages that the real spool gives back.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use zrelay_clock::Clock;
use zrelay_config::Config;
use zrelay_mailbox::mailbox;
use zrelay_smtpserver::{Intake, Options};
use zrelay_spool::{MessageId, Outlets, Request, Spool};

const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody works on the news in this test; there must be room for all of them.
const NEWS: usize = 4096;

#[test]
fn what_was_answered_250_is_in_the_spool_octet_for_octet() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let (spool, handle, recovered) = Spool::open(zrelay_spool::Options::new(folder.path()), clock.now()).unwrap();
    let ((routing, _arrived), (scheduler, _queue), (facts, _facts)) = (mailbox(NEWS), mailbox(NEWS), mailbox(NEWS));
    let outlets = Outlets { routing, scheduler, facts };
    let appender = std::thread::spawn(move || spool.run(outlets, recovered));

    let mut config = Config::embedded();
    config.listen[0].address = "127.0.0.1:0".parse().unwrap();
    let intake = Intake::bind(&config, Options { storage: handle.clone(), tls: None, turns: None, clock }).unwrap();
    let address = intake.local_addresses()[0];
    let loops: Vec<_> = intake.loops.into_iter().map(|one| std::thread::spawn(move || one.run())).collect();

    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(|line| line.unwrap());
    let bodies: Vec<Vec<u8>> = (0..50_usize).map(|number| body(number * number * 100)).collect();
    let mut flight = b"HELO client.example\r\n".to_vec();
    for body in &bodies {
        flight.extend(b"MAIL FROM:<list@example.net> XVERP\r\nRCPT TO:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n");
        flight.extend(format!("BDAT {} LAST\r\n", body.len()).into_bytes());
        flight.extend(body);
    }
    flight.extend(b"QUIT\r\n");
    let writer = std::thread::spawn(move || stream.write_all(&flight).unwrap());
    let mut stored: Vec<MessageId> = Vec::new();
    for line in &mut lines {
        match line.strip_prefix("250 2.0.0 Ok: queued as ") {
            // Readable as soon as the client knows.
            Some(id) => stored.push(id.parse().unwrap()),
            None => assert!(line.starts_with("220 ") || line.starts_with("250 ") || line.starts_with("221 "), "{line}"),
        }
    }
    writer.join().unwrap();
    drop(lines);
    assert_eq!(stored.len(), bodies.len());
    let reader = handle.reader();
    for (id, body) in stored.iter().zip(&bodies) {
        let message = reader.message(*id).unwrap();
        assert_eq!(&message.body().collect::<Vec<_>>().concat(), body);
        assert_eq!(message.recipients(), 2);
        let second = message.recipient(1);
        assert_eq!(
            (second.address, message.sender(second.sender)),
            ("b@example.org", "list+b=example.org@example.net")
        );
        assert!(message.trace().starts_with(b"Received: from client.example ([127.0.0.1])\r\n"));
        assert_eq!(message.client(), "unknown[127.0.0.1]");
    }

    intake.control.drain();
    loops.into_iter().for_each(|one| one.join().unwrap());
    handle.sender().send(Request::Shutdown).unwrap();
    appender.join().unwrap();
}

fn body(octets: usize) -> Vec<u8> {
    let line = b"the quick brown fox jumps over the lazy dog\r\n";
    let mut body = format!("Message-ID: <{octets}@example>\r\n\r\n").into_bytes();
    body.extend(line.iter().cycle().take(octets / line.len() * line.len()));
    body
}

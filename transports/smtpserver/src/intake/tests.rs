//! The loop over loopback, with plain blocking clients and a spool that only remembers.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use zrelay_clock::Clock;
use zrelay_config::{Config, Listen, Protocol, ServerTls as ServerTlsFiles};
use zrelay_mailbox::{Received, Receiver, Sender, mailbox};
use zrelay_spool::{CommitReply, Committed, Envelope, Health, MessageId, Request};
use zrelay_tls::{ClientTls, Policy, Roots, ServerTls};

use super::{BindError, Control, Intake, Options, Storage};
use crate::shared::Shared;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Memory {
    next: Arc<AtomicU64>,
    intake: Sender<Request>,
}

impl Storage for Memory {
    fn next_id(&self) -> MessageId {
        MessageId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn health(&self) -> Health {
        Health::Good
    }

    fn intake(&self) -> Sender<Request> {
        self.intake.clone()
    }
}

/// A message that was stored.
struct Stored {
    envelope: Envelope,
    content: Vec<u8>,
}

#[derive(Default)]
struct Kept {
    parts: HashMap<MessageId, Vec<u8>>,
    stored: Vec<Stored>,
}

impl Kept {
    fn take(&mut self, request: Request, answers: &mut Vec<CommitReply>) {
        match request {
            Request::Append { message, bytes } => self.parts.entry(message).or_default().extend(bytes),
            Request::Abort { message } => drop(self.parts.remove(&message)),
            Request::Commit { message, tail, envelope, reply, .. } => {
                let mut content = self.parts.remove(&message).unwrap_or_default();
                content.extend(tail);
                self.stored.push(Stored { envelope: *envelope, content });
                answers.push(reply);
            }
            other => panic!("the intake does not ask for {other:?}"),
        }
    }
}

/// Stores until all senders are gone; answers a burst at once, as a group commit does.
fn spool(requests: &Receiver<Request>, kept: &Mutex<Kept>) {
    loop {
        let first = match requests.wait(PATIENCE) {
            Received::Item(first) => first,
            Received::Nothing => continue,
            Received::Closed => return,
        };
        let mut answers = Vec::new();
        {
            let mut kept = kept.lock().unwrap();
            kept.take(first, &mut answers);
            requests.drain(1000).for_each(|request| kept.take(request, &mut answers));
        }
        for CommitReply { to, token } in answers {
            to.try_send(Committed { token, result: Ok(()) }).expect("an answer always finds room");
        }
    }
}

struct Hub {
    address: SocketAddr,
    control: Control,
    shared: Arc<Shared>,
    kept: Arc<Mutex<Kept>>,
    threads: Vec<JoinHandle<()>>,
}

impl Hub {
    fn start(capacity: usize, tls: Option<ServerTls>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        let (sender, receiver) = mailbox(capacity);
        let storage = Memory { next: Arc::new(AtomicU64::new(0xA1)), intake: sender };
        let intake = Intake::bind(&config, Options { storage, tls, turns: None, clock: Clock::start() }).unwrap();
        let address = intake.local_addresses()[0];
        let kept = Arc::<Mutex<Kept>>::default();
        let keeper = Arc::clone(&kept);
        let mut threads = vec![std::thread::spawn(move || spool(&receiver, &keeper))];
        threads.extend(intake.loops.into_iter().map(|one| std::thread::spawn(move || one.run())));
        Self { address, control: intake.control, shared: intake.shared, kept, threads }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    /// A client past EHLO.
    fn greeted(&self) -> Client {
        let mut client = self.connect();
        assert!(client.line().starts_with("220 "));
        client.ehlo();
        client
    }

    /// Drains, and sees that every thread ends and everything was given back.
    fn finish(self) -> Vec<Stored> {
        self.control.drain();
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(self.shared.connections(), 0);
        assert_eq!(self.shared.memory_used(), 0);
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        assert!(kept.parts.is_empty(), "pieces of a message were neither committed nor aborted");
        kept.stored
    }
}

fn config() -> Config {
    let mut config = Config::embedded();
    config.hostname = "hub.example".to_owned();
    config.listen = vec![Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        protocol: Protocol::Smtp,
        relay_from: vec!["127.0.0.0/8".parse().unwrap()],
        starttls: true,
        priority: 0,
        tag: None,
        implicit_tls: false,
        pipeconnect: Vec::new(),
    }];
    config
}

struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).unwrap();
    }

    /// One command, one reply.
    fn ask(&mut self, command: &str) -> String {
        self.say(format!("{command}\r\n"));
        self.line()
    }

    fn ehlo(&mut self) -> Vec<String> {
        self.say("EHLO client.example\r\n");
        let mut lines = vec![self.line()];
        while lines.last().unwrap().as_bytes().get(3) == Some(&b'-') {
            lines.push(self.line());
        }
        lines
    }

    /// One message, one command at a time.
    fn submit(&mut self, body: &[u8]) -> String {
        assert_eq!(self.ask("MAIL FROM:<a@example.net>"), "250 2.1.0 Ok");
        assert_eq!(self.ask("RCPT TO:<b@example.org>"), "250 2.1.5 Ok");
        assert!(self.ask("DATA").starts_with("354 "));
        // In two pieces, as mlmmj does it.
        let (head, rest) = body.split_at(body.len() / 2);
        self.say(head);
        self.say(rest);
        self.say(".\r\n");
        self.line()
    }

    fn hears_the_end(&mut self) -> bool {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).unwrap();
        rest.is_empty()
    }
}

#[test]
fn messages_come_in_one_at_a_time_and_all_at_once() {
    let hub = Hub::start(64, None, |_| {});
    let mut client = hub.greeted();
    for number in 0..20 {
        assert_eq!(
            client.submit(b"Subject: x\r\n\r\nbody\r\n"),
            format!("250 2.0.0 Ok: queued as {:X}", 0xA1 + number)
        );
    }
    let one = "MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nBDAT 6 LAST\r\nbody\r\n";
    client.say(one.repeat(50));
    for number in 20..70 {
        assert_eq!(client.line(), "250 2.1.0 Ok");
        assert_eq!(client.line(), "250 2.1.5 Ok");
        assert_eq!(client.line(), format!("250 2.0.0 Ok: queued as {:X}", 0xA1 + number));
    }
    assert_eq!(client.ask("QUIT"), "221 2.0.0 Bye");
    assert!(client.hears_the_end());
    drop(client);
    let stored = hub.finish();
    assert_eq!(stored.len(), 70);
    let trace = String::from_utf8_lossy(&stored[0].envelope.trace).into_owned();
    assert!(
        trace.starts_with("Received: from client.example ([127.0.0.1])\r\n\tby hub.example (zrelay) with ESMTP id A1")
    );
    assert_eq!(stored[0].content, b"Subject: x\r\n\r\nbody\r\n");
}

#[test]
fn a_spool_with_hardly_any_room_slows_clients_down_and_loses_nothing() {
    let hub = Hub::start(1, None, |_| {});
    let body = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(20_000);
    let submitters: Vec<JoinHandle<()>> = (0..4)
        .map(|_| {
            let (mut client, body) = (hub.greeted(), body.clone());
            std::thread::spawn(move || {
                for _ in 0..3 {
                    assert!(client.submit(&body).starts_with("250 2.0.0 Ok: queued as "));
                }
            })
        })
        .collect();
    submitters.into_iter().for_each(|one| one.join().unwrap());
    let stored = hub.finish();
    assert_eq!(stored.len(), 12);
    assert!(stored.iter().all(|message| message.content == body));
}

#[test]
fn many_idle_clients_do_not_hurt_one_that_works() {
    let hub = Hub::start(64, None, |_| {});
    let idle: Vec<Client> = (0..2000).map(|_| hub.connect()).collect();
    let mut client = hub.greeted();
    for _ in 0..200 {
        assert!(client.submit(b"x\r\n").starts_with("250 2.0.0"));
    }
    assert_eq!(hub.shared.connections(), 2001);
    assert_eq!(hub.shared.memory_used(), 0, "an idle client holds no buffer");
    drop(client);
    drop(idle);
    assert_eq!(hub.finish().len(), 200);
}

#[test]
fn a_connection_costs_little_while_it_is_idle() {
    assert!(size_of::<super::Connection>() <= 640, "{}", size_of::<super::Connection>());
}

#[test]
fn a_client_that_does_not_read_does_not_grow_the_hub() {
    let hub = Hub::start(64, None, |_| {});
    let mut client = hub.connect();
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let noops = "NOOP\r\n".repeat(10_000);
    // Ends when both socket buffers are full, because the hub has paused the input.
    while client.stream.write_all(noops.as_bytes()).is_ok() {}
    assert!(hub.shared.memory_used() < 1 << 20, "{}", hub.shared.memory_used());
    drop(client);
    hub.control.stop();
    assert!(hub.threads.into_iter().all(|thread| thread.join().is_ok()));
}

#[test]
fn a_half_closed_client_still_hears_the_replies() {
    let hub = Hub::start(64, None, |_| {});
    let mut client = hub.greeted();
    client.say(
        "MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nBDAT 3 LAST\r\nx\r\nMAIL FROM:<c@example.net>\r\n",
    );
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let lines: Vec<String> = (0..4).map(|_| client.line()).collect();
    assert_eq!(lines, ["250 2.1.0 Ok", "250 2.1.5 Ok", "250 2.0.0 Ok: queued as A1", "250 2.1.0 Ok"]);
    assert!(client.hears_the_end());
    assert_eq!(hub.finish().len(), 1);
}

#[test]
fn the_last_reply_arrives_although_the_client_goes_on_sending() {
    let hub = Hub::start(64, None, |config| config.intake.message_size = 100_000);
    let mut client = hub.greeted();
    client.say("MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n");
    let block = b"0123456789\r\n".repeat(1000);
    for _ in 0..40 {
        if client.stream.write_all(&block).is_err() {
            break;
        }
    }
    let lines: Vec<String> = (0..4).map(|_| client.line()).collect();
    assert!(lines[3].starts_with("552 5.3.4 "), "{lines:?}");
    drop(client);
    assert!(hub.finish().is_empty());
}

#[test]
fn connections_beyond_the_limits_are_told_why() {
    let hub = Hub::start(64, None, |config| {
        config.intake.connections = 3;
        config.intake.client_connections = 2;
        config.listen[0].relay_from.clear();
    });
    let mut kept: Vec<Client> = (0..2).map(|_| hub.connect()).collect();
    assert!(kept.iter_mut().all(|client| client.line().starts_with("220 ")));
    assert_eq!(hub.connect().line(), "421 4.7.0 hub.example Error: too many connections from one client");
    assert_eq!(kept[0].ask("HELO c"), "250 hub.example");
    assert_eq!(kept[0].ask("MAIL FROM:<a@example.net>"), "250 2.1.0 Ok");
    assert_eq!(kept[0].ask("RCPT TO:<b@example.org>"), "550 5.7.1 Relaying denied");
    drop(kept);
    assert!(hub.finish().is_empty());
}

#[test]
fn draining_ends_idle_sessions_and_lets_others_finish() {
    let hub = Hub::start(64, None, |_| {});
    let (mut idle, mut busy) = (hub.greeted(), hub.greeted());
    assert_eq!(busy.ask("MAIL FROM:<a@example.net>"), "250 2.1.0 Ok");
    hub.control.drain();
    assert_eq!(idle.line(), "421 4.3.2 hub.example Service shutting down");
    assert!(idle.hears_the_end());
    assert_eq!(busy.ask("RCPT TO:<b@example.org>"), "250 2.1.5 Ok");
    busy.say("BDAT 3 LAST\r\nx\r\n");
    assert_eq!(busy.line(), "250 2.0.0 Ok: queued as A1");
    assert_eq!(busy.line(), "421 4.3.2 hub.example Service shutting down");
    assert!(busy.hears_the_end());
    drop((idle, busy));
    assert_eq!(hub.finish().len(), 1);
}

#[test]
fn a_silent_client_is_told_that_its_time_is_over() {
    let hub = Hub::start(64, None, |config| config.intake.command_timeout = Duration::from_millis(50));
    let (mut one, mut other) = (hub.connect(), hub.connect());
    for client in [&mut one, &mut other] {
        assert!(client.line().starts_with("220 "));
        assert_eq!(client.line(), "421 4.4.2 hub.example Error: timeout exceeded");
        assert!(client.hears_the_end());
    }
    drop((one, other));
    assert!(hub.finish().is_empty());
}

#[test]
fn stopping_drops_everything_at_once() {
    let hub = Hub::start(64, None, |_| {});
    let mut client = hub.greeted();
    client.ask("MAIL FROM:<a@example.net>");
    hub.control.stop();
    assert!(hub.threads.into_iter().all(|thread| thread.join().is_ok()));
    assert_eq!(hub.shared.memory_used(), 0);
}

#[test]
fn several_loops_share_a_port() {
    let hub = Hub::start(64, None, |config| config.loops.intake = 3);
    let clients: Vec<JoinHandle<()>> = (0..12)
        .map(|_| {
            let mut client = hub.greeted();
            std::thread::spawn(move || assert!(client.submit(b"x\r\n").starts_with("250 ")))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(hub.finish().len(), 12);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.listen[0].address = taken.local_addr().unwrap();
    let storage = Memory { next: Arc::default(), intake: mailbox(1).0 };
    let error = Intake::bind(&config, Options { storage, tls: None, turns: None, clock: Clock::start() }).unwrap_err();
    assert!(matches!(error, BindError::Listen { .. }));
    let expected = format!("cannot listen on {}: address already in use; ", taken.local_addr().unwrap());
    assert!(error.to_string().starts_with(&expected), "{error}");
}

/// A TLS client over a blocking socket.
struct TlsClient {
    stream: TcpStream,
    tls: zrelay_tls::Session,
    plain: Vec<u8>,
}

impl TlsClient {
    fn handshake(stream: TcpStream) -> Self {
        let client = ClientTls::new(Roots::Given(Vec::new())).unwrap();
        let tls = client.session("hub.example", Policy::Encrypt).unwrap();
        let mut this = Self { stream, tls, plain: Vec::new() };
        while this.tls.is_handshaking() {
            this.exchange();
        }
        this
    }

    fn exchange(&mut self) {
        let mut out = Vec::new();
        self.tls.flush(&mut out);
        self.stream.write_all(&out).unwrap();
        let mut buffer = [0; 16 * 1024];
        let octets = self.stream.read(&mut buffer).unwrap();
        assert!(octets > 0, "the hub hung up");
        self.tls.read_tls(&buffer[..octets], &mut self.plain).unwrap();
        let mut out = Vec::new();
        self.tls.flush(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn say(&mut self, text: &[u8]) {
        let mut rest = text;
        while !rest.is_empty() {
            let mut out = Vec::new();
            let taken = self.tls.write(rest, &mut out);
            self.stream.write_all(&out).unwrap();
            rest = &rest[taken..];
        }
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.plain.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.plain.drain(..=end).collect();
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
            self.exchange();
        }
    }
}

fn certificate() -> (tempfile::TempDir, ServerTls, ServerTlsFiles) {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["hub.example".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = ServerTls::from_pem(&certificate, &key).unwrap();
    (folder, tls, ServerTlsFiles { certificate, key })
}

#[test]
fn a_message_comes_in_over_starttls() {
    let (_folder, tls, files) = certificate();
    let hub = Hub::start(64, Some(tls), |config| config.tls = Some(files));
    let mut client = hub.connect();
    client.line();
    assert!(client.ehlo().iter().any(|line| line.ends_with("STARTTLS")));
    assert_eq!(client.ask("STARTTLS"), "220 2.0.0 Ready to start TLS");
    let mut client = TlsClient::handshake(client.stream);
    client.say(b"EHLO client.example\r\n");
    let mut line = client.line();
    while line.as_bytes()[3] == b'-' {
        assert!(!line.ends_with("STARTTLS"));
        line = client.line();
    }
    let body = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(10_000);
    client.say(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n");
    client.say(format!("BDAT {} LAST\r\n", body.len()).as_bytes());
    client.say(&body);
    assert_eq!(client.line(), "250 2.1.0 Ok");
    assert_eq!(client.line(), "250 2.1.5 Ok");
    assert_eq!(client.line(), "250 2.0.0 Ok: queued as A1");
    client.say(b"QUIT\r\n");
    assert_eq!(client.line(), "221 2.0.0 Bye");
    drop(client);
    let stored = hub.finish();
    assert_eq!(stored[0].content, body);
    let trace = String::from_utf8_lossy(&stored[0].envelope.trace).into_owned();
    assert!(trace.contains("(using TLSv1.3 with cipher ") && trace.contains(" with ESMTPS id A1"), "{trace}");
}

#[test]
fn a_message_comes_in_over_implicit_tls() {
    let (_folder, tls, files) = certificate();
    let hub = Hub::start(64, Some(tls), |config| {
        config.tls = Some(files);
        config.listen[0].implicit_tls = true;
        config.listen[0].pipeconnect = config.listen[0].relay_from.clone();
    });
    let mut client = TlsClient::handshake(hub.connect().stream);
    // Ahead of the greeting, as a client does that was here before.
    client.say(b"EHLO client.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n");
    assert_eq!(client.line(), "220 hub.example ESMTP zrelay");
    let mut offered = vec![client.line()];
    while offered.last().unwrap().as_bytes()[3] == b'-' {
        offered.push(client.line());
    }
    assert!(offered.iter().any(|line| line.ends_with("PIPECONNECT")), "{offered:?}");
    assert!(!offered.iter().any(|line| line.ends_with("STARTTLS")), "{offered:?}");
    assert_eq!((client.line().as_str(), client.line().as_str()), ("250 2.1.0 Ok", "250 2.1.5 Ok"));
    client.say(b"STARTTLS\r\n");
    assert_eq!(client.line(), "503 5.5.1 Error: TLS is active already");
    client.say(b"BDAT 3 LAST\r\nx\r\nQUIT\r\n");
    assert_eq!(client.line(), "250 2.0.0 Ok: queued as A1");
    assert_eq!(client.line(), "221 2.0.0 Bye");
    drop(client);
    let stored = hub.finish();
    let trace = String::from_utf8_lossy(&stored[0].envelope.trace).into_owned();
    assert!(trace.contains(" with ESMTPS id A1"), "{trace}");
}

#[test]
fn a_client_that_speaks_in_the_clear_to_implicit_tls_hears_nothing_of_smtp() {
    let (_folder, tls, files) = certificate();
    let hub = Hub::start(64, Some(tls), |config| {
        config.tls = Some(files);
        config.listen[0].implicit_tls = true;
    });
    let mut client = hub.connect();
    client.say("EHLO client.example\r\nMAIL FROM:<evil@example.net>\r\n");
    let mut rest = Vec::new();
    let _ = client.reader.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"2") && !rest.starts_with(b"5"), "{:?}", String::from_utf8_lossy(&rest));
    drop(client);
    assert!(hub.finish().is_empty());
}

#[test]
fn plain_octets_where_a_handshake_belongs_end_the_connection() {
    let (_folder, tls, files) = certificate();
    let hub = Hub::start(64, Some(tls), |config| config.tls = Some(files));
    let mut client = hub.greeted();
    assert_eq!(client.ask("STARTTLS"), "220 2.0.0 Ready to start TLS");
    client.say("MAIL FROM:<evil@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nevil\r\n.\r\n");
    let mut rest = Vec::new();
    let _ = client.reader.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"2") && !rest.starts_with(b"5"), "{:?}", String::from_utf8_lossy(&rest));
    drop(client);
    let mut client = hub.greeted();
    client.say("STARTTLS\r\nMAIL FROM:<evil@example.net>\r\n");
    assert!(client.line().starts_with("554 5.5.1 "));
    assert!(client.hears_the_end());
    drop(client);
    assert!(hub.finish().is_empty());
}

#[test]
fn one_busy_client_does_not_starve_another() {
    let hub = Hub::start(64, None, |config| config.intake.message_size = 1 << 30);
    let (stop, stopped) = mpsc::channel::<()>();
    let mut greedy = hub.greeted();
    let uploading = std::thread::spawn(move || {
        greedy.say("MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n");
        let block = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(1024);
        while stopped.try_recv().is_err() {
            if greedy.stream.write_all(&block).is_err() {
                return;
            }
        }
    });
    let mut client = hub.greeted();
    for _ in 0..50 {
        assert!(client.submit(b"x\r\n").starts_with("250 2.0.0"));
    }
    drop(client);
    stop.send(()).unwrap();
    uploading.join().unwrap();
    assert_eq!(hub.finish().len(), 50);
}

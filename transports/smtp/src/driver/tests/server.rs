//! A small blocking server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use zrelay_tls::{ServerTls, Session};

#[derive(Clone)]
pub(super) struct Behaviour {
    pub(super) greeting: &'static str,
    pub(super) keywords: &'static [&'static str],
    pub(super) lmtp: bool,
    pub(super) tls: Option<Arc<ServerTls>>,
    /// TLS begins with the first octet.
    pub(super) implicit: bool,
    /// Sent with the go-ahead of STARTTLS.
    pub(super) injection: &'static str,
    /// Answers the handshake with rubbish.
    pub(super) broken_tls: bool,
    /// Said behind the reply to the first message, and then nothing more is read.
    pub(super) parting: Option<Parting>,
    /// RCPT commands taken in one transaction.
    pub(super) recipients_max: usize,
    /// Messages after which the first connection is left, and none of the replies to them arrives.
    pub(super) silent: usize,
    /// The recipient whom LMTP refuses after the data.
    pub(super) refuse: &'static str,
}

impl Behaviour {
    pub(super) fn plain() -> Self {
        Self {
            greeting: "220 far.example ESMTP",
            keywords: &[],
            lmtp: false,
            tls: None,
            implicit: false,
            injection: "",
            broken_tls: false,
            parting: None,
            recipients_max: usize::MAX,
            silent: 0,
            refuse: "nobody",
        }
    }

    pub(super) fn with_tls() -> Self {
        let issued = rcgen::generate_simple_self_signed(vec!["far.example".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        std::fs::write(&certificate, issued.cert.pem()).unwrap();
        std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
        Self { tls: Some(Arc::new(ServerTls::from_pem(&certificate, &key).unwrap())), ..Self::plain() }
    }
}

/// How a server leaves a connection that has worked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parting {
    /// With 421.
    SaysSo,
    /// By closing its half and listening on.
    HalfClosed,
}

#[derive(Default)]
struct Record {
    connections: usize,
    sizes: Vec<usize>,
    log: Vec<String>,
    /// Whether there was more to read behind the first message, by connection.
    streamed: Vec<bool>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

impl Server {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        // The thread lives as long as the test's process; it holds nothing that needs an end.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let peer = Peer { stream, tls: None, buffer: Vec::new(), mute: false };
                let (mut behaviour, record) = (behaviour.clone(), Arc::clone(&shared));
                let mut counts = shared.lock().unwrap();
                counts.connections += 1;
                if counts.connections > 1 {
                    behaviour.silent = 0;
                }
                drop(counts);
                thread::spawn(move || {
                    // A client that hangs up is what half of the tests are about.
                    let _ = serve(peer, &behaviour, &record);
                });
            }
        });
        Self { address, record }
    }

    pub(super) fn host(&self) -> String {
        format!("[{}]:{}", self.address.ip(), self.address.port())
    }

    pub(super) fn connections(&self) -> usize {
        self.record.lock().unwrap().connections
    }

    pub(super) fn messages(&self) -> usize {
        self.record.lock().unwrap().sizes.len()
    }

    pub(super) fn sizes(&self) -> Vec<usize> {
        self.record.lock().unwrap().sizes.clone()
    }

    pub(super) fn streamed(&self) -> Vec<bool> {
        self.record.lock().unwrap().streamed.clone()
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.record.lock().unwrap().log.clone()
    }
}

struct Peer {
    stream: TcpStream,
    tls: Option<Session>,
    buffer: Vec<u8>,
    /// What is said gets lost.
    mute: bool,
}

impl Peer {
    fn fill(&mut self) -> io::Result<()> {
        let mut input = [0; 16_384];
        let octets = self.stream.read(&mut input)?;
        if octets == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(tls) = &mut self.tls else {
            self.buffer.extend_from_slice(&input[..octets]);
            return Ok(());
        };
        let result = tls.read_tls(&input[..octets], &mut self.buffer);
        let mut out = Vec::new();
        tls.flush(&mut out);
        self.stream.write_all(&out)?;
        result.map(|_| ()).map_err(io::Error::other)
    }

    fn take(&mut self, octets: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < octets {
            self.fill()?;
        }
        Ok(self.buffer.drain(..octets).collect())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&octet| octet == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            self.fill()?;
        }
    }

    /// The octets of a message sent by DATA, dots undone.
    fn data(&mut self) -> io::Result<usize> {
        let mut octets = 0;
        loop {
            let line = self.line()?;
            if line == "." {
                return Ok(octets);
            }
            octets += line.strip_prefix('.').unwrap_or(&line).len() + 2;
        }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        if self.mute {
            return Ok(());
        }
        let line = format!("{text}\r\n");
        let Some(tls) = &mut self.tls else {
            return self.stream.write_all(line.as_bytes());
        };
        let mut out = Vec::new();
        assert_eq!(tls.write(line.as_bytes(), &mut out), line.len());
        self.stream.write_all(&out)
    }
}

fn serve(mut peer: Peer, behaviour: &Behaviour, record: &Mutex<Record>) -> io::Result<()> {
    let mut recipients: Vec<String> = Vec::new();
    let mut chunks = 0;
    if behaviour.implicit {
        peer.tls = Some(behaviour.tls.as_ref().unwrap().session().unwrap());
        while peer.tls.as_ref().is_some_and(Session::is_handshaking) {
            peer.fill()?;
        }
    }
    peer.say(behaviour.greeting)?;
    loop {
        let line = peer.line()?;
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_owned();
        record.lock().unwrap().log.push(verb.clone());
        match verb.as_str() {
            "EHLO" | "LHLO" => {
                assert_eq!(verb == "LHLO", behaviour.lmtp);
                peer.say("250-far.example")?;
                if behaviour.tls.is_some() && peer.tls.is_none() {
                    peer.say("250-STARTTLS")?;
                }
                for keyword in behaviour.keywords {
                    peer.say(&format!("250-{keyword}"))?;
                }
                peer.say("250 8BITMIME")?;
            }
            "STARTTLS" => {
                peer.say(format!("220 Go ahead\r\n{}", behaviour.injection).trim_end_matches("\r\n"))?;
                if behaviour.broken_tls {
                    peer.take(1)?;
                    return peer.say("454 what is this?");
                }
                peer.tls = Some(behaviour.tls.as_ref().unwrap().session().unwrap());
            }
            "RCPT" if recipients.len() >= behaviour.recipients_max => peer.say("452 4.5.3 Too many recipients")?,
            "RCPT" => {
                recipients.push(line.split(['<', '>']).nth(1).unwrap_or_default().to_owned());
                peer.say("250 2.1.5 Ok")?;
            }
            "DATA" => {
                peer.say("354 Go ahead")?;
                let octets = peer.data()?;
                message(&mut peer, behaviour, record, &mut recipients, octets)?;
                if part(&mut peer, behaviour)? {
                    return Ok(());
                }
            }
            "BDAT" => {
                let size = line.split(' ').nth(1).unwrap().parse().unwrap();
                let octets = peer.take(size)?.len();
                chunks += 1;
                if chunks == 1 {
                    record.lock().unwrap().streamed.push(!peer.buffer.is_empty());
                }
                peer.mute = behaviour.silent > 0;
                message(&mut peer, behaviour, record, &mut recipients, octets)?;
                if chunks == behaviour.silent {
                    return Ok(());
                }
            }
            "QUIT" => return peer.say("221 2.0.0 Bye"),
            _ => peer.say("250 2.0.0 Ok")?,
        }
    }
}

/// Leaves as the behaviour says. Returns whether that is the end.
fn part(peer: &mut Peer, behaviour: &Behaviour) -> io::Result<bool> {
    match behaviour.parting {
        None => return Ok(false),
        Some(Parting::SaysSo) => peer.say("421 4.4.2 Bored")?,
        Some(Parting::HalfClosed) => peer.stream.shutdown(std::net::Shutdown::Write)?,
    }
    // Until the client has gone too.
    while peer.fill().is_ok() {}
    Ok(true)
}

fn message(
    peer: &mut Peer,
    behaviour: &Behaviour,
    record: &Mutex<Record>,
    recipients: &mut Vec<String>,
    octets: usize,
) -> io::Result<()> {
    record.lock().unwrap().sizes.push(octets);
    let replies = if behaviour.lmtp { std::mem::take(recipients) } else { vec![String::new()] };
    recipients.clear();
    for recipient in replies {
        let refused = recipient == behaviour.refuse;
        peer.say(if refused { "550 5.2.1 Not here" } else { "250 2.0.0 Ok: queued" })?;
    }
    Ok(())
}

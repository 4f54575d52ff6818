//! A name server for tests: a table, UDP and TCP on one loopback port, and ways to misbehave.
//!
//! The table is text, one record per line, `;` and `#` begin comments:
//!
//! ```text
//!   example.net.      MX 10 mx.example.net.      ; an optional time to live may stand before the type: 60 MX 10 ...
//!   mx.example.net.   A 127.0.0.1
//!   *.wild.example.   MX 10 mx.example.net.      ; names below wild.example. without lines of their own
//!   alias.example.    CNAME example.net.         ; followed as a recursive server does
//!   lame.example.     SERVFAIL                   ; every type; or one: SERVFAIL AAAA
//!   grumpy.example.   REFUSED MX
//!   mute.example.     SILENT                     ; no answer
//!   long.example.     TRUNCATED                  ; over UDP; whole over TCP
//!   lazy.example.     UNCHASED                   ; its CNAME is answered without what is behind it
//! ```
//!
//! Names that are not in the table do not exist.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

const TTL: u32 = 300;
const PORT_ATTEMPTS: usize = 20;
const TCP_PATIENCE: Duration = Duration::from_secs(1);

/// How a query came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// As a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    ServFail,
    Refused,
    Silent,
    Truncated,
    Unchased,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    records: BTreeMap<String, Vec<(u32, RData)>>,
    marks: Vec<(String, Mark, Option<RecordType>)>,
}

impl Zone {
    /// Reads a table.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut zone = Self::default();
        for line in text.lines() {
            let bare = line.split([';', '#']).next().unwrap_or_default();
            let words: Vec<&str> = bare.split_whitespace().collect();
            if !words.is_empty() {
                zone.add(&words).ok_or_else(|| format!("not a record: {line}"))?;
            }
        }
        Ok(zone)
    }

    fn add(&mut self, words: &[&str]) -> Option<()> {
        let (owner, rest) = words.split_first()?;
        let owner = name(owner)?.to_ascii().to_ascii_lowercase();
        let (ttl, rest) = match rest.first()?.parse() {
            Ok(ttl) => (ttl, rest.get(1..)?),
            Err(_) => (TTL, rest),
        };
        let mark = match *rest.first()? {
            "SERVFAIL" => Some(Mark::ServFail),
            "REFUSED" => Some(Mark::Refused),
            "SILENT" => Some(Mark::Silent),
            "TRUNCATED" => Some(Mark::Truncated),
            "UNCHASED" => Some(Mark::Unchased),
            _ => None,
        };
        if let Some(mark) = mark {
            let only = match rest.get(1) {
                Some(kind) => Some(kind.parse().ok()?),
                None => None,
            };
            self.marks.push((owner, mark, only));
            return Some(());
        }
        let data = match rest {
            ["MX", preference, exchange] => RData::MX(MX::new(preference.parse().ok()?, name(exchange)?)),
            ["A", address] => RData::A(A(address.parse().ok()?)),
            ["AAAA", address] => RData::AAAA(AAAA(address.parse().ok()?)),
            ["CNAME", target] => RData::CNAME(CNAME(name(target)?)),
            _ => return None,
        };
        self.records.entry(owner).or_default().push((ttl, data));
        Some(())
    }

    /// The answer to `query`; none for silence and for what is no query.
    pub fn answer(&self, query: &[u8], via: Via) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        let question = query.queries.first()?.clone();
        let (owner, kind) = (question.name().to_ascii().to_ascii_lowercase(), question.query_type());
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(question);
        if query.edns.is_some() {
            answer.set_edns(Edns::new());
        }
        match self.mark(&owner, kind) {
            Some(Mark::Silent) => return None,
            Some(Mark::ServFail) => answer.metadata.response_code = ResponseCode::ServFail,
            Some(Mark::Refused) => answer.metadata.response_code = ResponseCode::Refused,
            Some(Mark::Truncated) if via == Via::Udp => answer.metadata.truncation = true,
            Some(Mark::Truncated | Mark::Unchased) | None => self.fill(&mut answer, owner, kind),
        }
        answer.to_vec().ok()
    }

    fn fill(&self, answer: &mut Message, mut owner: String, kind: RecordType) {
        for _ in 0..=10 {
            let Some(records) = self.lookup(&owner) else {
                answer.metadata.response_code = ResponseCode::NXDomain;
                return negative(answer);
            };
            let Some(owner_name) = name(&owner) else {
                return;
            };
            let mut next = None;
            for (ttl, data) in records {
                if data.record_type() == kind || data.record_type() == RecordType::CNAME {
                    answer.add_answer(Record::from_rdata(owner_name.clone(), *ttl, data.clone()));
                }
                if let RData::CNAME(target) = data {
                    next = Some(target.0.to_ascii().to_ascii_lowercase());
                }
            }
            let chased = next.filter(|_| self.mark(&owner, kind) != Some(Mark::Unchased));
            match chased {
                Some(target) => owner = target,
                None if records.iter().any(|(_, data)| matches!(data, RData::CNAME(_))) => return,
                None if answer.answers.iter().any(|record| record.record_type() == kind) => return,
                None => return negative(answer),
            }
        }
        answer.metadata.response_code = ResponseCode::ServFail;
    }

    fn mark(&self, owner: &str, kind: RecordType) -> Option<Mark> {
        let mut fitting =
            self.marks.iter().filter(|(name, _, only)| name == owner && only.is_none_or(|only| only == kind));
        fitting.next().map(|(_, mark, _)| *mark)
    }

    /// The records of a name; empty for one that is only in the middle of others.
    fn lookup(&self, owner: &str) -> Option<&[(u32, RData)]> {
        if let Some(records) = self.records.get(owner) {
            return Some(records);
        }
        let below = format!(".{owner}");
        if self.records.keys().any(|name| name.ends_with(&below)) {
            return Some(&[]);
        }
        let mut parent = owner;
        while let Some((_, rest)) = parent.split_once('.') {
            if let Some(records) = self.records.get(&format!("*.{rest}")) {
                return Some(records);
            }
            parent = rest;
        }
        self.marks.iter().any(|(name, _, _)| name == owner).then_some(&[])
    }
}

/// A name with any octets: `\054` in octal, as the codec writes them, and `\,` for themselves.
fn name(text: &str) -> Option<Name> {
    let mut labels = vec![Vec::new()];
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        match octet {
            b'.' => labels.push(Vec::new()),
            b'\\' => labels.last_mut()?.push(escaped(&mut octets)?),
            _ => labels.last_mut()?.push(octet),
        }
    }
    labels.retain(|label| !label.is_empty());
    let mut name = Name::from_labels(labels.iter().map(Vec::as_slice)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn escaped(octets: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = octets.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, octets.next()?, octets.next()?];
    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}

fn negative(answer: &mut Message) {
    let root = Name::root();
    let soa = SOA::new(root.clone(), root.clone(), 1, 3600, 600, 86_400, 60);
    answer.add_authority(Record::from_rdata(root, TTL, RData::SOA(soa)));
}

#[derive(Debug)]
struct Shared {
    zone: Mutex<Zone>,
    queries: AtomicUsize,
    tcp_queries: AtomicUsize,
    ended: AtomicBool,
}

impl Shared {
    fn answer(&self, query: &[u8], via: Via) -> Option<Vec<u8>> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        if via == Via::Tcp {
            self.tcp_queries.fetch_add(1, Ordering::Relaxed);
        }
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).answer(query, via)
    }
}

/// A name server on a loopback port of its own. Ends when dropped.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl FakeServer {
    /// Starts a server with the table `zone`.
    ///
    /// # Errors
    /// Those of the system, and `InvalidInput` for a table that is not understood.
    pub fn start(zone: &str) -> io::Result<Self> {
        let zone = Zone::parse(zone).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let (udp, tcp) = bind()?;
        let address = udp.local_addr()?;
        let shared = Arc::new(Shared {
            zone: Mutex::new(zone),
            queries: AtomicUsize::new(0),
            tcp_queries: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let (for_udp, for_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::Builder::new().name("fake-dns-udp".into()).spawn(move || serve_udp(&udp, &for_udp))?,
            std::thread::Builder::new().name("fake-dns-tcp".into()).spawn(move || serve_tcp(&tcp, &for_tcp))?,
        ];
        Ok(Self { address, shared, threads })
    }

    /// Where it listens, with UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the table.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn set_zone(&self, zone: &str) -> Result<(), String> {
        *self.shared.zone.lock().unwrap_or_else(PoisonError::into_inner) = Zone::parse(zone)?;
        Ok(())
    }

    /// Queries seen so far.
    pub fn queries(&self) -> usize {
        self.shared.queries.load(Ordering::Relaxed)
    }

    /// Those of them that came over TCP.
    pub fn tcp_queries(&self) -> usize {
        self.shared.tcp_queries.load(Ordering::Relaxed)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Both threads block in the system; something must come in.
        let _ = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.send_to(&[], self.address));
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One port free for both.
fn bind() -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4096];
    loop {
        let received = socket.recv_from(&mut buffer);
        if shared.ended.load(Ordering::Acquire) {
            return;
        }
        let Ok((length, from)) = received else {
            continue;
        };
        if let Some(answer) = shared.answer(buffer.get(..length).unwrap_or_default(), Via::Udp) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Shared) {
    loop {
        let accepted = listener.accept();
        if shared.ended.load(Ordering::Acquire) {
            return;
        }
        if let Ok((stream, _)) = accepted {
            // A client that goes away in the middle is no concern of this server.
            let _ = converse(stream, shared);
        }
    }
}

fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(TCP_PATIENCE))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        let Some(answer) = shared.answer(&query, Via::Tcp) else {
            continue;
        };
        let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&answer)?;
    }
}

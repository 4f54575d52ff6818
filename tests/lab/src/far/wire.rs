//! Octets in and out of one connection, and who waits for whom.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Shared;

/// Octets read at a time.
const READ_OCTETS: usize = 256 * 1024;

/// Longest command line that is taken, octets; RFC 5321 with room for parameters.
const LINE_MAX: usize = 4096;

/// The connection is over.
#[derive(Debug)]
pub(super) struct Ended;

/// What the client has sent so far, in words; for the gaps.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) verb: &'static str,
    pub(super) transaction: u64,
    pub(super) recipients: u64,
}

impl Place {
    fn words(&self) -> String {
        match self.verb {
            "RCPT" => format!("RCPT {} of transaction {}", self.recipients, self.transaction),
            verb => format!("{verb} of transaction {}", self.transaction),
        }
    }
}

/// The connection, in the clear or under TLS.
enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
    /// Between the two, or a handshake that failed.
    Gone,
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Gone => Ok(0),
        }
    }

    fn write(&mut self, octets: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(octets),
            Self::Tls(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
            Self::Gone => Err(std::io::ErrorKind::NotConnected.into()),
        }
    }
}

pub(super) struct Wire<'a> {
    stream: Stream,
    shared: &'a Shared,
    number: usize,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    output: Vec<u8>,
    /// When the octets came that `output` is the answer to.
    came: Instant,
    /// Final replies in `output`: mark and recipients.
    finals: Vec<(String, usize)>,
    pub(super) place: Place,
}

impl<'a> Wire<'a> {
    pub(super) fn new(stream: TcpStream, number: usize, shared: &'a Shared) -> Self {
        Self {
            stream: Stream::Clear(stream),
            shared,
            number,
            buffer: vec![0; READ_OCTETS],
            begin: 0,
            end: 0,
            output: Vec::new(),
            came: Instant::now(),
            finals: Vec::new(),
            place: Place { verb: "connecting", ..Place::default() },
        }
    }

    /// Whether something has come that is not used up.
    pub(super) fn has_more(&self) -> bool {
        self.begin < self.end
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Goes on under TLS; the handshake comes with the next octets. What came in the clear behind STARTTLS is dropped.
    pub(super) fn encrypt(&mut self, config: &Arc<ServerConfig>) -> Result<(), Ended> {
        self.flush()?;
        let Stream::Clear(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else { return Err(Ended) };
        let connection = ServerConnection::new(Arc::clone(config)).map_err(|_| Ended)?;
        self.stream = Stream::Tls(Box::new(StreamOwned::new(connection, stream)));
        (self.begin, self.end) = (0, 0);
        Ok(())
    }

    /// Queues a reply line.
    pub(super) fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    /// Queues octets.
    pub(super) fn raw(&mut self, octets: &[u8]) {
        self.output.extend_from_slice(octets);
    }

    /// The reply queued last accepts a message.
    pub(super) fn accepted(&mut self, mark: String, recipients: usize) {
        self.finals.push((mark, recipients));
    }

    /// Writes what is queued.
    pub(super) fn flush(&mut self) -> Result<(), Ended> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = self.stream.write(&self.output);
        let now = Instant::now();
        {
            let mut books = self.shared.books();
            if let Some(session) = books.sessions.get_mut(self.number) {
                session.octets_out += self.output.len() as u64;
                session.busy += now - self.came;
                session.messages += self.finals.len() as u64;
            }
            let finals = self.finals.drain(..);
            let connection = self.number;
            books.finals.extend(finals.map(|(mark, recipients)| super::Final {
                at: now,
                connection,
                mark,
                recipients,
            }));
        }
        self.output.clear();
        written.map_err(|_| Ended)
    }

    /// What has come last brings a message's text, or asks to send it.
    pub(super) fn text_begins(&self) {
        if let Some(session) = self.shared.books().sessions.get_mut(self.number) {
            session.text.get_or_insert(self.came);
        }
    }

    /// A command line without its CRLF; the second value is false when only LF ended it.
    pub(super) fn line(&mut self) -> Result<(Vec<u8>, bool), Ended> {
        let mut line = Vec::new();
        loop {
            let there = self.buffer.get(self.begin..self.end).unwrap_or_default();
            match there.iter().position(|&octet| octet == b'\n') {
                Some(at) => {
                    line.extend_from_slice(there.get(..at).unwrap_or_default());
                    self.begin += at + 1;
                    let strict = line.last() == Some(&b'\r');
                    if strict {
                        line.pop();
                    }
                    return Ok((line, strict));
                }
                None => {
                    line.extend_from_slice(there);
                    self.begin = self.end;
                }
            }
            if line.len() > LINE_MAX {
                self.violation(format!("a command line is longer than {LINE_MAX} octets"));
                return Err(Ended);
            }
            self.more()?;
        }
    }

    /// At most `max` octets, at least one.
    pub(super) fn piece(&mut self, max: u64, out: &mut Vec<u8>) -> Result<u64, Ended> {
        if !self.has_more() {
            self.more()?;
        }
        let there = self.buffer.get(self.begin..self.end).unwrap_or_default();
        let size = usize::try_from(max).unwrap_or(usize::MAX).min(there.len());
        out.extend_from_slice(there.get(..size).unwrap_or_default());
        self.begin += size;
        Ok(size as u64)
    }

    fn more(&mut self) -> Result<(), Ended> {
        self.flush()?;
        let began = Instant::now();
        let octets = self.stream.read(&mut self.buffer).unwrap_or(0);
        let now = Instant::now();
        if octets == 0 {
            return Err(Ended);
        }
        (self.begin, self.end, self.came) = (0, octets, now);
        let mut books = self.shared.books();
        books.curve.add(now, octets as u64);
        if let Some(session) = books.sessions.get_mut(self.number) {
            session.octets_in += octets as u64;
            session.silence(began, now - began, self.shared.options.gap, || self.place.words());
        }
        Ok(())
    }

    pub(super) fn violation(&self, text: String) {
        self.shared.books().violations.push(text);
    }
}

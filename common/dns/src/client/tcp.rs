//! One query and its answer over a connection of its own (RFC 7766).

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use zrelay_clock::Timestamp;

use crate::Transmit;

/// Octets of the length in front of a message.
const PREFIX: usize = 2;

/// A query on its way.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) id: u16,
    pub(super) deadline: Timestamp,
    stream: TcpStream,
    link: Link,
    output: Vec<u8>,
    written: usize,
    /// At most a length and the 65,535 octets it can mean.
    input: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    Connecting,
    Connected,
}

/// What driving an exchange led to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet.
    Waiting,
    /// The answer, without its length.
    Answer(Vec<u8>),
    /// There will be none.
    Failed(String),
}

impl Exchange {
    /// Begins to connect.
    pub(super) fn open(registry: &Registry, token: Token, transmit: Transmit) -> io::Result<Self> {
        let length = u16::try_from(transmit.bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut stream = TcpStream::connect(transmit.server)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let output = [&length.to_be_bytes()[..], &transmit.bytes].concat();
        let (id, deadline) = (transmit.id, transmit.deadline);
        Ok(Self { id, deadline, stream, link: Link::Connecting, output, written: 0, input: Vec::new() })
    }

    /// Does whatever can be done now.
    pub(super) fn drive(&mut self) -> Step {
        match self.proceed() {
            Ok(Some(message)) => Step::Answer(message),
            Ok(None) => Step::Waiting,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Waiting,
            Err(error) => Step::Failed(format!("{error} over TCP")),
        }
    }

    /// Takes the socket out of the loop.
    pub(super) fn close(&mut self, registry: &Registry) {
        // The descriptor is closed next, which would do by itself.
        let _ = registry.deregister(&mut self.stream);
    }

    fn proceed(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.link == Link::Connecting {
            self.finish_connecting()?;
        }
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(sent) => self.written = self.written.saturating_add(sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            let wanted = self.wanted();
            if wanted == 0 {
                return Ok(Some(self.input.split_off(PREFIX.min(self.input.len()))));
            }
            let mut buffer = [0; 4096];
            let room = wanted.min(buffer.len());
            match self.stream.read(buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.input.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn finish_connecting(&mut self) -> io::Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => self.link = Link::Connected,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Octets missing: first of the length, then of the message.
    fn wanted(&self) -> usize {
        let length = match self.input.first_chunk::<PREFIX>() {
            Some(octets) => usize::from(u16::from_be_bytes(*octets)),
            None => return PREFIX.saturating_sub(self.input.len()),
        };
        (PREFIX + length).saturating_sub(self.input.len())
    }
}

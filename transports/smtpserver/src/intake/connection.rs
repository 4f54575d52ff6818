//! One connection: socket, TLS and session together.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use zrelay_clock::Timestamp;
use zrelay_maillog::target;
use zrelay_tls::{Progress, ServerTls};

use super::desk::{ConnectionKey, Desk};
use super::timers::Armed;
use crate::session::{Effect, Session};
use crate::shared::{Admission, Reservation};

/// Reads of one connection before the others get their turn.
const READS_PER_TURN: u32 = 4;
/// How long a closed connection is kept to swallow what the client still sends: the reset that unread octets cause
/// would destroy the last reply on its way.
const LINGER: Duration = Duration::from_secs(2);
/// Memory held to be behind an active TLS session, octets: the library's state and buffers, as measured.
const TLS_BYTES: u64 = 16 * 1024;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    session: Session,
    /// To make a TLS session from; `None` where it is not offered.
    server: Option<ServerTls>,
    tls: Option<Box<zrelay_tls::Session>>,
    /// Plain octets that the session did not take yet.
    inbox: Vec<u8>,
    /// Octets that the socket did not take yet.
    out: Vec<u8>,
    sent: usize,
    readable: Readable,
    line: Line,
    pub(super) queued: Queued,
    pub(super) armed: Armed,
    memory: Reservation,
    _admission: Admission,
}

/// Whether the socket may have something to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Readable {
    No,
    Yes,
    /// And its end is announced: read on until it is there.
    ToTheEnd,
}

/// The state of the connection itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Up,
    /// The client sends no more; it may still listen.
    HalfClosed,
    /// The session is over, its last replies are being sent.
    Closing,
    /// Everything is sent; what still comes is thrown away until then.
    Lingering(Timestamp),
    /// The connection broke; only answers of the spool are still waited for.
    Broken,
}

/// Whether the connection stands in the queue of those that can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queued {
    No,
    Yes,
}

/// What becomes of a connection after its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing until something happens.
    Wait,
    /// It could go on at once.
    Again,
    /// It has ended.
    Gone,
}

/// What one reading brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Got {
    Octets(usize),
    Nothing,
    End,
    Broken,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        session: Session,
        server: Option<ServerTls>,
        admission: Admission,
        memory: Reservation,
    ) -> Self {
        Self {
            stream,
            session,
            server,
            tls: None,
            inbox: Vec::new(),
            out: Vec::new(),
            sent: 0,
            readable: Readable::No,
            line: Line::Up,
            queued: Queued::No,
            armed: Armed::default(),
            memory,
            _admission: admission,
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(super) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The last thing that is logged of it.
    pub(super) fn log_farewell(&self) {
        log::info!(target: target::SMTPD, "disconnect from {} {}", self.session.client(), self.session.summary());
    }

    /// What the event queue says of the socket.
    pub(super) fn note(&mut self, event: &mio::event::Event) {
        if event.is_read_closed() || event.is_error() {
            self.readable = Readable::ToTheEnd;
        } else if event.is_readable() && self.readable == Readable::No {
            self.readable = Readable::Yes;
        }
    }

    /// When [`Connection::expire`] has to be called.
    pub(super) fn deadline(&self) -> Timestamp {
        match self.line {
            Line::Lingering(until) => until,
            _ => self.session.poll_timeout(),
        }
    }

    /// A deadline has come.
    pub(super) fn expire(&mut self, now: Timestamp) {
        match self.line {
            Line::Lingering(until) if until <= now => self.line = Line::Broken,
            Line::Lingering(_) => {}
            _ => self.session.handle_timeout(now),
        }
    }

    /// One turn: write, read, work off, and so on as long as it is this connection's turn.
    pub(super) fn attend(&mut self, key: ConnectionKey, now: Timestamp, desk: &mut Desk) -> Next {
        let next = self.turn(key, now, desk);
        let buffers = self.inbox.capacity() + self.out.capacity();
        let tls = if self.tls.is_some() { TLS_BYTES } else { 0 };
        let held = buffers as u64 + tls;
        if held != self.memory.bytes() {
            self.memory.set(held);
        }
        next
    }

    fn turn(&mut self, key: ConnectionKey, now: Timestamp, desk: &mut Desk) -> Next {
        self.settle(key, now, desk);
        for _ in 0..READS_PER_TURN {
            if !self.is_ready_for_input() || desk.is_congested() {
                break;
            }
            self.take_input(now, desk);
            self.settle(key, now, desk);
        }
        match self.line {
            Line::Lingering(_) => self.swallow(desk),
            Line::Broken if self.session.pending() == 0 => Next::Gone,
            Line::Broken => Next::Wait,
            _ if self.is_ready_for_input() => Next::Again,
            _ => Next::Wait,
        }
    }

    fn is_ready_for_input(&self) -> bool {
        let up = matches!(self.line, Line::Up) || (self.line == Line::HalfClosed && !self.inbox.is_empty());
        let there = !self.inbox.is_empty() || self.readable != Readable::No;
        let wanted = self.session.wants_input() || self.tls_is_handshaking();
        up && there && wanted && self.out.is_empty() && !self.session.has_ended()
    }

    fn tls_is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Carries out what the session wants, and sends what it says.
    fn settle(&mut self, key: ConnectionKey, now: Timestamp, desk: &mut Desk) {
        loop {
            while let Some(effect) = self.session.poll_effect() {
                self.perform(effect, key, now, desk);
            }
            desk.replies.clear();
            self.session.poll_output(&mut desk.replies);
            if desk.replies.is_empty() {
                break;
            }
            self.say(&mut desk.replies);
        }
        self.flush();
        if self.line == Line::Closing && self.out.is_empty() {
            self.hang_up(now);
        }
    }

    fn perform(&mut self, effect: Effect, key: ConnectionKey, now: Timestamp, desk: &mut Desk) {
        match effect {
            Effect::StartTls => self.start_tls(now),
            Effect::Close if self.line == Line::Broken => {}
            Effect::Close if self.line == Line::Closing => {
                // Said a second time: the client does not take the last replies.
                self.line = Line::Broken;
                self.out = Vec::new();
            }
            Effect::Close => self.close(),
            Effect::Append { .. } | Effect::Abort { .. } | Effect::Commit { .. } => desk.ask(effect, key),
        }
    }

    fn start_tls(&mut self, now: Timestamp) {
        // The session has refused octets behind STARTTLS; none may be carried over from before the handshake.
        let tls = self.server.as_ref().filter(|_| self.inbox.is_empty()).map(ServerTls::session);
        match tls {
            Some(Ok(tls)) => self.tls = Some(Box::new(tls)),
            Some(Err(error)) => {
                log::error!(target: target::SMTPD, "TLS with {}: {error}", self.session.client());
                self.session.handle_disconnect(now);
            }
            None => self.session.handle_disconnect(now),
        }
    }

    fn close(&mut self) {
        self.line = Line::Closing;
        self.inbox = Vec::new();
        if let Some(tls) = &mut self.tls {
            tls.close(&mut self.out);
        }
    }

    /// Everything is sent.
    fn hang_up(&mut self, now: Timestamp) {
        let ended = self.readable == Readable::ToTheEnd || self.stream.shutdown(Shutdown::Write).is_err();
        self.line = if ended { Line::Broken } else { Line::Lingering(now + LINGER) };
    }

    /// Throws away what the client sends behind the end.
    fn swallow(&mut self, desk: &mut Desk) -> Next {
        for _ in 0..READS_PER_TURN {
            match self.read(&mut desk.buffer) {
                Got::Octets(_) => {}
                Got::Nothing => return Next::Wait,
                Got::End | Got::Broken => return Next::Gone,
            }
        }
        Next::Again
    }

    /// Octets from where there are some, to the session.
    fn take_input(&mut self, now: Timestamp, desk: &mut Desk) {
        if !self.inbox.is_empty() {
            let inbox = std::mem::take(&mut self.inbox);
            let used = self.session.handle_input(now, &inbox, &mut || desk.storage.next_id());
            self.inbox = inbox.get(used..).unwrap_or_default().to_vec();
            if self.inbox.is_empty() && self.line == Line::HalfClosed {
                self.session.handle_disconnect(now);
            }
            return;
        }
        if !self.session.is_pipelining() {
            // The client waits, perhaps with the second half of what it wants to say, for an acknowledgement that the
            // kernel would hold back. The option wears off, so it is set each time; failing costs only time.
            let _ = zrelay_sys::quickack(&self.stream);
        }
        match self.read(&mut desk.buffer) {
            Got::Octets(octets) if self.tls.is_some() => self.take_ciphertext(now, octets, desk),
            Got::Octets(octets) => {
                let fresh = desk.buffer.get(..octets).unwrap_or_default();
                let used = self.session.handle_input(now, fresh, &mut || desk.storage.next_id());
                self.inbox = fresh.get(used..).unwrap_or_default().to_vec();
            }
            Got::Nothing => {}
            Got::End => {
                self.line = Line::HalfClosed;
                self.session.handle_disconnect(now);
            }
            Got::Broken => {
                self.line = Line::Broken;
                self.session.handle_disconnect(now);
            }
        }
    }

    fn take_ciphertext(&mut self, now: Timestamp, octets: usize, desk: &mut Desk) {
        let Some(tls) = &mut self.tls else {
            return;
        };
        let was_handshaking = tls.is_handshaking();
        desk.plain.clear();
        let progress = tls.read_tls(desk.buffer.get(..octets).unwrap_or_default(), &mut desk.plain);
        tls.flush(&mut self.out);
        match progress {
            Err(error) => {
                log::info!(target: target::SMTPD, "TLS error from {}: {error}", self.session.client());
                return self.session.handle_disconnect(now);
            }
            Ok(Progress::Handshaking) => return,
            Ok(Progress::Open | Progress::Closed) if was_handshaking => {
                let description = tls.description();
                self.session.handle_tls(now, &description);
            }
            Ok(_) => {}
        }
        let used = self.session.handle_input(now, &desk.plain, &mut || desk.storage.next_id());
        self.inbox = desk.plain.get(used..).unwrap_or_default().to_vec();
        if matches!(progress, Ok(Progress::Closed)) {
            self.line = Line::HalfClosed;
            if self.inbox.is_empty() {
                self.session.handle_disconnect(now);
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Got {
        loop {
            return match self.stream.read(buffer) {
                Ok(0) => {
                    self.readable = Readable::No;
                    Got::End
                }
                Ok(octets) => {
                    // A reading that does not fill the buffer has emptied the socket; the next octet is an event again.
                    if octets < buffer.len() && self.readable == Readable::Yes {
                        self.readable = Readable::No;
                    }
                    Got::Octets(octets)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = Readable::No;
                    Got::Nothing
                }
                Err(_) => Got::Broken,
            };
        }
    }

    /// Sends replies, or puts them behind those that wait.
    fn say(&mut self, replies: &mut Vec<u8>) {
        if self.line == Line::Broken {
            return;
        }
        let Some(tls) = &mut self.tls else {
            if self.out.is_empty() {
                // The common case: one write straight from the buffer that all connections share.
                let sent = self.write(replies);
                replies.drain(..sent);
            }
            return self.out.extend_from_slice(replies);
        };
        let mut rest = replies.as_slice();
        while !rest.is_empty() {
            let taken = tls.write(rest, &mut self.out);
            if taken == 0 {
                // Only after the end of the TLS session, when nobody would hear it.
                return;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Writes what waits, as far as the socket takes it.
    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let out = std::mem::take(&mut self.out);
        self.sent += self.write(out.get(self.sent..).unwrap_or_default());
        if self.sent < out.len() && self.line != Line::Broken {
            self.out = out;
            return;
        }
        self.sent = 0;
    }

    /// Octets that the socket took. A connection that breaks takes everything: nobody is left to hear it.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(octets) => sent += octets,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    // What the client sent before it went is still read; the next reading ends the session.
                    self.readable = Readable::ToTheEnd;
                    return bytes.len();
                }
            }
        }
        sent
    }
}

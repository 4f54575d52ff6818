//! One connection: a socket, perhaps TLS, and the conversation over it.
//!
//! Octets go from the letters' slices to the socket without a copy (`writev`), or through TLS in bounded pieces. A turn
//! moves a bounded amount, so that one fast peer does not starve the others; edge-triggered readiness is kept here
//! until the socket says that it would block.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use zrelay_agent::Pace;
use zrelay_clock::Timestamp;
use zrelay_config::Pipelining;
use zrelay_tls::{Progress, Session, TlsError};

use super::pipe::{Limits, Load, Pipe, Room, Sample};
use super::service::{BURST_GAP, Path, Service};
use crate::conversation::{Conversation, Owed};
use crate::letter::Letter;

/// Octets read at a time; replies are small.
const READ_OCTETS: usize = 16 * 1024;

/// Reads in one turn.
const READS_PER_TURN: usize = 8;

/// Writes in one turn.
const WRITES_PER_TURN: usize = 8;

/// Slices in one `writev`; Linux takes 1024, more than 64 gain nothing.
const SLICES_MAX: usize = 64;

/// Octets offered in one write.
const WRITE_OCTETS: usize = 256 * 1024;

/// Ciphertext waiting for the socket above which nothing more is encrypted.
const SEALED_OCTETS_MAX: usize = 64 * 1024;

/// A reply to a message that takes longer than this says more of the message than of the path.
const REPLY_TIME_MAX: Duration = Duration::from_secs(2);

/// Buffers shared by all links of a loop.
#[derive(Debug)]
pub(crate) struct Scratch {
    input: Vec<u8>,
    plain: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { input: vec![0; READ_OCTETS], plain: Vec::new() }
    }
}

/// The path's round trip without its queues, as far as the kernel knows it.
fn shortest(info: &zrelay_sys::TcpInfo) -> Duration {
    if info.min_rtt.is_zero() { info.rtt } else { info.min_rtt }
}

/// Whether there is something to be written as soon as a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FirstWord {
    /// There is, so that it may be made with the first octets (TCP Fast Open).
    Ours,
    /// The far side speaks first.
    Theirs,
}

/// How far a socket has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Started {
    /// The connection is made, or will be with the first octets.
    Open,
    /// It is on its way.
    UnderWay,
}

/// A socket to `address`, non-blocking.
///
/// # Errors
/// What the system says at once: no route, no such source address, no descriptors.
pub(crate) fn connect(
    address: SocketAddr,
    source: Option<IpAddr>,
    first: FirstWord,
) -> io::Result<(TcpStream, Started)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    if first == FirstWord::Ours {
        // Where the kernel does not do it, the connection is made in the usual way.
        let _ = zrelay_sys::fast_open(&socket);
    }
    let started = match socket.connect(&address.into()) {
        Ok(()) => Started::Open,
        Err(error) if is_under_way(&error) => Started::UnderWay,
        Err(error) => return Err(error),
    };
    Ok((TcpStream::from_std(socket.into()), started))
}

fn is_under_way(error: &io::Error) -> bool {
    // EINPROGRESS; the standard library has a kind of its own for it, which not every version names.
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(EINPROGRESS)
}

/// Linux's number; the hub runs on nothing else.
const EINPROGRESS: i32 = 115;

/// Whether a socket on its way has arrived.
///
/// # Errors
/// The connection could not be made.
pub(crate) fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// A system error in the words of the system, without its number.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Whether a turn is worth repeating at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// The budget is used up and there is more.
    Again,
    /// Waits for the far side, or for work.
    Blocked,
}

/// A connection at work.
#[derive(Debug)]
pub(crate) struct Link<L> {
    pub(crate) stream: TcpStream,
    pub(crate) conversation: Conversation<L>,
    pub(crate) address: SocketAddr,
    /// The exchange's name, for TLS.
    pub(crate) name: Arc<str>,
    tls: Option<Session>,
    /// Why the handshake failed.
    pub(crate) tls_failure: Option<TlsError>,
    sealed: Vec<u8>,
    sealed_done: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) pipe: Pipe,
    service: Service,
    /// The shortest round trip of the path, once it was asked for.
    round_trip: Option<Duration>,
    /// Segments known to be lost on the path, one way or the other, or to have overtaken one.
    losses: u32,
    /// What the socket takes beyond what it has sent, octets.
    unsent: u64,
}

impl<L: Letter> Link<L> {
    pub(crate) fn new(
        stream: TcpStream,
        address: SocketAddr,
        name: Arc<str>,
        conversation: Conversation<L>,
        pipe: Pipe,
    ) -> Self {
        let mut link = Self {
            stream,
            conversation,
            address,
            name,
            tls: None,
            tls_failure: None,
            sealed: Vec::new(),
            sealed_done: 0,
            // Both may have happened while the connection was set up, and the edge is gone.
            readable: true,
            writable: true,
            pipe,
            service: Service::new(),
            round_trip: None,
            losses: 0,
            unsent: 0,
        };
        link.bound_unsent(link.pipe.room().unsent);
        link
    }

    /// Looks at the path now and then, and sizes what may be under way by it.
    pub(crate) fn measure(&mut self, now: Timestamp) -> Room {
        if !self.conversation.is_ready() || self.conversation.is_idle() || !self.pipe.is_due(now) {
            return self.pipe.room();
        }
        // A socket that does not tell has ended, which reading it finds out.
        if let Ok(info) = zrelay_sys::tcp_info(&self.stream) {
            let finished = self.conversation.finished();
            let rtt = shortest(&info);
            self.round_trip = Some(rtt);
            self.pipe.sample(Sample {
                at: now,
                // Behind a proxy the path goes on where the kernel's knowledge ends, but the replies come from its end.
                rtt: rtt.max(finished.quickest.unwrap_or_default().min(REPLY_TIME_MAX)),
                congestion: u64::from(info.cwnd).saturating_mul(u64::from(info.mss)),
                rate: info.delivery_rate,
                messages: finished.messages,
                octets: finished.octets,
                load: if self.conversation.has_work() { Load::Full } else { Load::Slack },
            });
        }
        self.fit(now)
    }

    /// How long the far side takes, as far as that is known.
    pub(crate) fn pace(&mut self) -> Pace {
        let round_trip = self.round_trip();
        self.service.pace(round_trip)
    }

    fn round_trip(&mut self) -> Duration {
        let stream = &self.stream;
        let asked = || zrelay_sys::tcp_info(stream).map(|info| shortest(&info)).unwrap_or_default();
        *self.round_trip.get_or_insert_with(asked)
    }

    /// Gives what came to the conversation, and draws conclusions from how long it was waited for.
    fn hear(&mut self, now: Timestamp, octets: &[u8]) {
        let waits = self.conversation.is_ready() && self.conversation.replies_awaited() > 0;
        let (owed, before) = (self.conversation.owed(), self.conversation.answers());
        self.conversation.handle_input(now, octets);
        if !waits {
            return;
        }
        let round_trip = self.round_trip();
        let waited = match owed {
            // Of a stream the next round trip is not waited for; below it, each is.
            Owed::BehindCommand(at) if self.conversation.level() == Pipelining::Stream => {
                now.since(at).saturating_sub(round_trip)
            }
            Owed::BehindCommand(at) | Owed::BehindReply(at) => now.since(at),
        };
        let path = if waited >= BURST_GAP { self.look_at_path() } else { Path::Smooth };
        let mut answers = self.conversation.answers();
        answers.remove(before);
        let under_way = self.conversation.under_way() as u64;
        self.service.heard(waited, path, answers, under_way, round_trip);
        self.conversation.set_portion(self.service.portion());
    }

    /// What the path did since the last look.
    fn look_at_path(&mut self) -> Path {
        let Ok(info) = zrelay_sys::tcp_info(&self.stream) else { return Path::Smooth };
        let losses = info.retransmits.wrapping_add(info.out_of_order);
        if std::mem::replace(&mut self.losses, losses) == losses { Path::Smooth } else { Path::Lossy }
    }

    /// Another clause bounds what may be under way.
    pub(crate) fn limit(&mut self, now: Timestamp, limits: Limits) -> Room {
        self.pipe.limit(limits);
        self.fit(now)
    }

    fn fit(&mut self, now: Timestamp) -> Room {
        let room = self.pipe.room();
        self.conversation.set_room(now, room.messages, room.octets, room.unsent);
        self.bound_unsent(room.unsent);
        room
    }

    /// Keeps what waits in the kernel small (`TCP_NOTSENT_LOWAT`): what is not sent can still be taken back. The send
    /// buffer itself is left alone, because a size that is set switches the kernel's own tuning off.
    fn bound_unsent(&mut self, octets: u64) {
        // Half and double are near enough to save the call.
        if octets < self.unsent * 2 && octets > self.unsent / 2 {
            return;
        }
        self.unsent = octets;
        // Without it the kernel queues more, and everything works.
        let _ = SockRef::from(&self.stream).set_tcp_notsent_lowat(u32::try_from(octets).unwrap_or(u32::MAX));
    }

    /// Begins the handshake.
    pub(crate) fn secure(&mut self, session: Session) {
        self.tls.insert(session).flush(&mut self.sealed);
    }

    /// Reads and writes what can be.
    pub(crate) fn turn(&mut self, now: Timestamp, scratch: &mut Scratch) -> Turn {
        let reading = self.read(now, scratch);
        let writing = self.write(now);
        if reading == Turn::Again || writing == Turn::Again { Turn::Again } else { Turn::Blocked }
    }

    /// Says goodbye to TLS as far as the socket takes it at once.
    pub(crate) fn farewell(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close(&mut self.sealed);
            // The peer is told if that costs nothing; the connection ends anyway.
            let _ = self.stream.write(self.sealed.get(self.sealed_done..).unwrap_or_default());
        }
    }

    fn read(&mut self, now: Timestamp, scratch: &mut Scratch) -> Turn {
        for _ in 0..READS_PER_TURN {
            if !self.readable || self.tls_failure.is_some() {
                return Turn::Blocked;
            }
            match self.stream.read(&mut scratch.input) {
                Ok(0) => {
                    self.readable = false;
                    self.conversation.handle_lost(now, "");
                }
                Ok(octets) => {
                    // Servers that write their replies piecemeal wait for the acknowledgement of each piece; at best
                    // this saves 40 ms, at worst it does nothing.
                    let _ = zrelay_sys::quickack(&self.stream);
                    self.take(now, octets, scratch);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.readable = false;
                    self.conversation.handle_lost(now, &words(&error));
                }
            }
        }
        Turn::Again
    }

    fn take(&mut self, now: Timestamp, octets: usize, scratch: &mut Scratch) {
        let input = scratch.input.get(..octets).unwrap_or_default();
        let Some(tls) = &mut self.tls else {
            return self.hear(now, input);
        };
        let handshaking = tls.is_handshaking();
        scratch.plain.clear();
        let progress = tls.read_tls(input, &mut scratch.plain);
        tls.flush(&mut self.sealed);
        match progress {
            Err(error) if handshaking => {
                self.tls_failure = Some(error);
                return;
            }
            Err(error) => return self.conversation.handle_lost(now, &error.to_string()),
            Ok(Progress::Handshaking) => return,
            Ok(Progress::Open | Progress::Closed) if handshaking => self.conversation.handle_secured(now),
            Ok(_) => {}
        }
        if !scratch.plain.is_empty() {
            self.hear(now, &scratch.plain);
        }
        if matches!(progress, Ok(Progress::Closed)) {
            self.conversation.handle_lost(now, "");
        }
    }

    fn write(&mut self, now: Timestamp) -> Turn {
        for _ in 0..WRITES_PER_TURN {
            if !self.writable || !self.wants_write() {
                return Turn::Blocked;
            }
            let result = if self.tls.is_some() { self.write_sealed(now) } else { self.write_plain(now) };
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // The far side's last words may still be there to be read; reading finds the end too.
                    self.writable = false;
                    self.readable = true;
                    return Turn::Again;
                }
            }
        }
        Turn::Again
    }

    fn wants_write(&self) -> bool {
        let handshaking = self.tls.as_ref().is_some_and(Session::is_handshaking);
        self.sealed_done < self.sealed.len() || (self.conversation.wants_write() && !handshaking)
    }

    fn write_plain(&mut self, now: Timestamp) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (mut count, mut octets) = (0, 0);
        self.conversation.gather(|slice| {
            let room = slice.get(..WRITE_OCTETS - octets).unwrap_or(slice);
            if let Some(place) = slices.get_mut(count) {
                *place = IoSlice::new(room);
                count += 1;
                octets += room.len();
            }
            count < SLICES_MAX && octets < WRITE_OCTETS
        });
        let written = self.stream.write_vectored(slices.get(..count).unwrap_or_default())?;
        self.conversation.handle_written(now, written);
        Ok(())
    }

    fn write_sealed(&mut self, now: Timestamp) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            let sealed = &mut self.sealed;
            let mut taken = 0;
            self.conversation.gather(|slice| {
                let room = SEALED_OCTETS_MAX.saturating_sub(sealed.len());
                let part = slice.get(..room).unwrap_or(slice);
                let done = tls.write(part, sealed);
                taken += done;
                done == slice.len() && sealed.len() < SEALED_OCTETS_MAX
            });
            if taken > 0 {
                self.conversation.handle_written(now, taken);
            }
        }
        let written = self.stream.write(self.sealed.get(self.sealed_done..).unwrap_or_default())?;
        self.sealed_done += written;
        if self.sealed_done >= self.sealed.len() {
            self.sealed.clear();
            self.sealed_done = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

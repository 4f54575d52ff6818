//! The same octets over bare TCP: what the line can do.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Curve;

/// One transfer, as the receiving end saw it.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// When the connection was accepted: one and a half round trips after the sender began.
    pub accepted: Instant,
    /// When all was there and the one reply was written: half a round trip before the sender has it.
    pub replied: Instant,
    /// What was there when.
    pub curve: Curve,
}

/// Longest silence in a transfer.
const PATIENCE: Duration = Duration::from_secs(300);

/// Octets read and written at a time.
const PIECE: usize = 256 * 1024;

/// Receives one transfer. To be made in the far namespace.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    thread: JoinHandle<io::Result<Transfer>>,
}

impl Receiver {
    /// Listens on any port of this address.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(address: Ipv4Addr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        Ok(Self { address, thread: std::thread::spawn(move || receive(&listener)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The transfer, when it is through.
    ///
    /// # Errors
    /// It broke.
    pub fn finish(self) -> io::Result<Transfer> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the receiver panicked")))
    }
}

fn receive(listener: &TcpListener) -> io::Result<Transfer> {
    let (mut stream, _) = listener.accept()?;
    let accepted = Instant::now();
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; PIECE];
    let mut curve = Curve::default();
    loop {
        let octets = stream.read(&mut buffer)?;
        if octets == 0 {
            break;
        }
        curve.add(Instant::now(), octets as u64);
    }
    stream.write_all(b"250 done\r\n")?;
    Ok(Transfer { accepted, replied: Instant::now(), curve })
}

/// Sends this many octets and waits for the reply. To be called in the near namespace.
///
/// # Errors
/// What the system says.
pub fn send(address: SocketAddr, octets: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let piece = vec![b'x'; PIECE];
    let mut left = octets;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        stream.write_all(piece.get(..size).unwrap_or(&piece))?;
        left -= size as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    if reply.is_empty() { Err(io::Error::other("no reply")) } else { Ok(()) }
}

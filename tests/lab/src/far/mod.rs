//! The far side: a strict SMTP server that keeps books.
//!
//! It answers as a good server does: each reply at once when the octets that lead to it are there, many replies in one
//! write (RFC 2920 §3.2). What the client must not do is a *violation*, noted and answered as the RFCs say. A test may
//! change any answer through [`FarSideBuilder::script`].

mod books;
mod dialogue;
mod wire;

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use zrelay_tests::Certificate;

pub use books::{Books, Curve, Delivery, Final, Gap, Session};

/// An extension that EHLO offers. ENHANCEDSTATUSCODES is always offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// RFC 2920; without it, whatever comes before a reply is out is a violation.
    Pipelining,
    /// RFC 3030; without it, BDAT is a violation.
    Chunking,
    /// RFC 1870 with this limit in octets; 0 for none.
    Size(u64),
    /// RFC 6152.
    EightBitMime,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 3461.
    Dsn,
    /// Commands are welcome ahead of the greeting, as with Exim.
    PipeConnect,
    /// RFC 9422. What exceeds a limit is answered 452 4.5.3.
    Limits {
        /// Recipients in one transaction.
        rcptmax: Option<usize>,
        /// Transactions on one connection.
        mailmax: Option<usize>,
    },
}

/// Everything, as a current server offers it.
pub(crate) const OFFERS: [Offer; 6] =
    [Offer::Pipelining, Offer::Chunking, Offer::Size(0), Offer::EightBitMime, Offer::SmtpUtf8, Offer::Dsn];

/// What a moment is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verb {
    /// The connection is there; the reply is the greeting.
    Connect,
    /// EHLO or HELO.
    Hello,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, before the 354.
    Data,
    /// A BDAT command, before its octets are read. Saying something else here does not change that they are.
    Bdat,
    /// The end of a message, before the final reply.
    End,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
}

/// A moment at which a script decides what happens.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Number of the connection, from 0.
    pub connection: usize,
    /// What it is about.
    pub verb: Verb,
    /// How often this came on this connection before.
    pub count: u64,
    /// The command line, empty where there is none.
    pub line: &'a str,
}

/// What the far side does at a [`Moment`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// As a server that takes everything.
    Usual,
    /// This line instead, such as `450 4.2.1 slow down`.
    Say(String),
    /// This line, and then the connection ends.
    SayAndClose(String),
    /// The usual, after this time. What was answered before is out by then.
    Delay(Duration),
    /// These octets instead of a reply.
    Garbage(Vec<u8>),
    /// The connection ends, unread octets and all.
    Close,
    /// At BDAT: the connection ends after this many octets of the chunk.
    CloseWithin(u64),
}

/// How a connection comes to TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    /// RFC 3207.
    StartTls,
    /// From the first octet on (RFC 8314 §3).
    Implicit,
}

type Script = dyn Fn(&Moment<'_>) -> Action + Send + Sync;

/// How a far side is to behave.
#[derive(Clone)]
pub struct FarSideBuilder {
    offers: Vec<Offer>,
    tls: Option<(Arc<ServerConfig>, Handshake)>,
    script: Arc<Script>,
    gap: Duration,
}

/// Shortest silence that is a gap of its own, unless asked for otherwise: packets of a fast line come closer together.
const GAP: Duration = Duration::from_millis(10);

impl Default for FarSideBuilder {
    fn default() -> Self {
        Self { offers: OFFERS.to_vec(), tls: None, script: Arc::new(|_| Action::Usual), gap: GAP }
    }
}

impl FarSideBuilder {
    /// Offers these and no others.
    #[must_use]
    pub fn offers(mut self, offers: &[Offer]) -> Self {
        self.offers = offers.to_vec();
        self
    }

    /// Offers this too.
    #[must_use]
    pub fn with(mut self, offer: Offer) -> Self {
        self.offers.push(offer);
        self
    }

    /// Offers the usual, but not this.
    #[must_use]
    pub fn without(mut self, offer: Offer) -> Self {
        self.offers.retain(|it| *it != offer);
        self
    }

    /// TLS with this certificate. Far sides that are started from clones of this know each other's sessions.
    #[must_use]
    pub fn certificate(mut self, certificate: &Certificate, handshake: Handshake) -> Self {
        self.tls = Some((certificate.server(), handshake));
        self
    }

    /// Lets a script decide what happens.
    #[must_use]
    pub fn script(mut self, script: impl Fn(&Moment<'_>) -> Action + Send + Sync + 'static) -> Self {
        self.script = Arc::new(script);
        self
    }

    /// Silences from this length on are noted one by one; on a slow line that is more than a packet takes.
    #[must_use]
    pub fn gap(mut self, least: Duration) -> Self {
        self.gap = least;
        self
    }

    /// Starts it on this address in the namespace of the calling thread; port 0 for any.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(self, address: (Ipv4Addr, u16)) -> std::io::Result<FarSide> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options: self,
            books: Mutex::default(),
            stopping: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        // It polls, because nobody outside the namespace could wake it by connecting.
        listener.set_nonblocking(true)?;
        let theirs = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &theirs));
        Ok(FarSide { address, shared, acceptor: Some(acceptor) })
    }
}

/// A running far side. Ends on drop.
#[derive(Debug)]
pub struct FarSide {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl FarSide {
    /// One to be configured.
    pub fn build() -> FarSideBuilder {
        FarSideBuilder::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The host of a route that leads here.
    pub fn host(&self) -> String {
        format!("[{}]:{}", self.address.ip(), self.address.port())
    }

    /// The books so far.
    pub fn books(&self) -> Books {
        self.shared.books().clone()
    }

    /// Recipients accepted so far, which is cheaper than the books.
    pub fn delivered(&self) -> usize {
        self.shared.books().deliveries.len()
    }
}

impl Drop for FarSide {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ended = acceptor.join();
        }
        for stream in self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
    }
}

struct Shared {
    options: FarSideBuilder,
    books: Mutex<Books>,
    stopping: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("offers", &self.options.offers).finish_non_exhaustive()
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often the acceptor looks; the time of acceptance is that inexact.
const ACCEPT_TICK: Duration = Duration::from_micros(500);

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stopping.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(ACCEPT_TICK);
            continue;
        };
        let number = shared.books().open(Instant::now());
        let (Ok(()), Ok(kept)) = (stream.set_nonblocking(false), stream.try_clone()) else { continue };
        shared.streams.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || dialogue::run(stream, number, &shared));
    }
}

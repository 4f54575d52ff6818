//! A next hop that is strict about what it hears, keeps everything, and answers as the test wishes.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Certificate, Marked, Port, wait_until};

mod session;

/// An SMTP or LMTP server of the test. Ends on drop.
#[derive(Debug)]
pub struct Sink {
    port: Port,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// How a [`Sink`] is to behave.
#[derive(Clone)]
pub struct SinkBuilder {
    offers: Vec<Offer>,
    lmtp: bool,
    certificate: Option<Arc<Certificate>>,
    delay: Duration,
    answer: Arc<dyn Fn(Step<'_>) -> Answer + Send + Sync>,
}

/// What a sink's EHLO offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// RFC 2920; without it, commands in one write are a violation.
    Pipelining,
    /// RFC 3030; without it, BDAT is a violation.
    Chunking,
    /// RFC 1870 with this limit; 0 for none.
    Size(u64),
    /// RFC 6152.
    EightBitMime,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 3461.
    Dsn,
    /// RFC 9422 with this `RCPTMAX`; more recipients get 452 4.5.3.
    RecipientsMax(usize),
}

/// A moment at which the test can decide what the sink says.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Connection number, from 0.
    Connect(usize),
    /// The reverse path.
    Mail(&'a str),
    /// The forward path.
    Rcpt(&'a str),
    /// DATA, before the 354.
    Data,
    /// The whole message, before the final reply.
    End(&'a Transaction),
}

/// What the sink does at a [`Step`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// As a server that takes everything.
    Accept,
    /// With this reply line instead, such as `450 4.2.1 slow down`.
    Say(String),
    /// With this line, and then the connection ends.
    SayAndClose(String),
    /// The connection ends without a word.
    Close,
}

/// A transaction that got as far as its content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    /// Number of the connection, from 0.
    pub connection: usize,
    /// Reverse path, without brackets.
    pub sender: String,
    /// Parameters of MAIL, upper-cased keywords.
    pub mail_parameters: HashMap<String, String>,
    /// Accepted forward paths, without brackets.
    pub recipients: Vec<String>,
    /// Parameters of each accepted RCPT.
    pub recipient_parameters: Vec<HashMap<String, String>>,
    /// Header and body, dots removed.
    pub content: Vec<u8>,
    /// Whether it came by BDAT.
    pub chunked: bool,
    /// Whether it came through TLS.
    pub encrypted: bool,
    /// Whether the sink accepted it.
    pub accepted: bool,
}

impl Transaction {
    /// The generated message in it.
    pub fn marked(&self) -> Option<Marked> {
        Marked::find(&self.content)
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }
}

struct Shared {
    options: SinkBuilder,
    state: Mutex<State>,
    stopping: AtomicBool,
    open: AtomicUsize,
    open_peak: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("open", &self.open).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    transactions: Vec<Transaction>,
    violations: Vec<String>,
    connections: Vec<TcpStream>,
    commands: Vec<String>,
}

/// Commands of the dialogue that are kept for [`Sink::commands`].
const COMMANDS_KEPT: usize = 10_000;

impl Default for SinkBuilder {
    fn default() -> Self {
        Self {
            offers: vec![
                Offer::Pipelining,
                Offer::Chunking,
                Offer::Size(0),
                Offer::EightBitMime,
                Offer::SmtpUtf8,
                Offer::Dsn,
            ],
            lmtp: false,
            certificate: None,
            delay: Duration::ZERO,
            answer: Arc::new(|_| Answer::Accept),
        }
    }
}

impl SinkBuilder {
    /// Offers these extensions and no others; ENHANCEDSTATUSCODES is always there.
    #[must_use]
    pub fn offers(mut self, offers: &[Offer]) -> Self {
        self.offers = offers.to_vec();
        self
    }

    /// Speaks LMTP.
    #[must_use]
    pub fn lmtp(mut self) -> Self {
        self.lmtp = true;
        self
    }

    /// Offers STARTTLS.
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(Arc::new(certificate));
        self
    }

    /// Waits this long before each write of replies.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Lets the test decide what is said.
    #[must_use]
    pub fn answer(mut self, answer: impl Fn(Step<'_>) -> Answer + Send + Sync + 'static) -> Self {
        self.answer = Arc::new(answer);
        self
    }

    /// Starts it on a free port.
    pub fn start(self) -> Sink {
        self.start_on(Port::free())
    }

    /// Starts it on this port.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start_on(self, port: Port) -> Sink {
        let listener = TcpListener::bind(port.address()).expect("a reserved port is free");
        let shared = Arc::new(Shared {
            options: self,
            state: Mutex::default(),
            stopping: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            open_peak: AtomicUsize::new(0),
        });
        let theirs = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &theirs));
        Sink { port, shared, acceptor: Some(acceptor) }
    }
}

impl Sink {
    /// One that takes everything and offers everything.
    pub fn start() -> Self {
        SinkBuilder::default().start()
    }

    /// One to be configured.
    pub fn build() -> SinkBuilder {
        SinkBuilder::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The host of a route that leads here: `[127.0.0.1]:PORT`.
    pub fn host(&self) -> String {
        format!("[127.0.0.1]:{}", self.port.number())
    }

    /// The transactions so far.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.shared.state().transactions.clone()
    }

    /// What was accepted so far: one entry per message and recipient.
    pub fn deliveries(&self) -> Vec<(Marked, String)> {
        let state = self.shared.state();
        let accepted = state.transactions.iter().filter(|transaction| transaction.accepted);
        let each = accepted.flat_map(|transaction| {
            let marked = transaction.marked();
            transaction.recipients.iter().filter_map(move |recipient| Some((marked.clone()?, recipient.clone())))
        });
        each.collect()
    }

    /// Recipients accepted so far.
    pub fn count(&self) -> usize {
        let state = self.shared.state();
        state.transactions.iter().filter(|it| it.accepted).map(|it| it.recipients.len()).sum()
    }

    /// Waits until this many recipients were accepted; whether they were.
    pub fn wait(&self, count: usize, limit: Duration) -> bool {
        wait_until(limit, || self.count() >= count)
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections.len()
    }

    /// Connections open at the same time, at most.
    pub fn connections_peak(&self) -> usize {
        self.shared.open_peak.load(Ordering::Relaxed)
    }

    /// The first commands of all connections, as heard.
    pub fn commands(&self) -> Vec<String> {
        self.shared.state().commands.clone()
    }

    /// What the client did that it must not do.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state().violations.clone()
    }

    /// Forgets the transactions so far.
    pub fn clear(&self) {
        self.shared.state().transactions.clear();
    }

    /// Ends all connections and refuses new ones; the port, to start another on it.
    pub fn stop(mut self) -> Port {
        self.end();
        std::mem::replace(&mut self.port, Port::free())
    }

    fn end(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _wakes_the_acceptor = TcpStream::connect(self.port.address());
        let _never_panics = acceptor.join();
        for connection in &self.shared.state().connections {
            let _gone_already = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn violation(&self, text: String) {
        self.state().violations.push(text);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let number = {
            let mut state = shared.state();
            let Ok(kept) = stream.try_clone() else { continue };
            state.connections.push(kept);
            state.connections.len() - 1
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
            shared.open_peak.fetch_max(open, Ordering::SeqCst);
            session::run(stream, number, &shared);
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

//! The socket and its thread.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use zrelay_clock::Clock;
use zrelay_trace::Tracing;

use super::access::{Access, Caller, Role};
use super::connection::{Connection, Life};
use super::methods::{Methods, Store};
use crate::query::SchedulerHandle;

/// Clients at a time; more are closed at once.
pub const CLIENTS_MAX: usize = 64;
/// How long a client may leave what it asked for unread.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// How long a client without a subscription may be silent.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often silent clients are looked for.
const PATROL: Duration = Duration::from_secs(5);

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);
/// Tokens of connections count up from here and are never used twice, so no stale event meets another connection.
const FIRST: usize = 2;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another hub is listening on the control socket {0}; set \"control\" to another path, or stop that hub")]
    InUse(PathBuf),
    /// What is there is no socket, and is not touched.
    #[error("{0} exists and is not a socket; set \"control\" to another path, or remove it")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on the control socket {path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The control socket, bound and not yet served.
pub struct ControlServer {
    poll: Poll,
    listener: UnixListener,
    /// Removed when the server ends, if it is still ours.
    file: SocketFile,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    methods: Methods,
    access: Box<dyn Access>,
    connections: HashMap<Token, Connection>,
    next: usize,
}

/// Ends a [`ControlServer`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Stopper {
    /// Lets the server's thread end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Fails only when nobody sleeps there any more.
        let _ = self.waker.wake();
    }
}

/// The socket's file: owner and inode tell whether it is still the one that was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
    owner: u32,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            // Left behind it is stale, which the next start copes with.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ControlServer {
    /// Makes the socket: readable for its owner alone from the first moment unless others have roles, in place of a stale one, never of a live
    /// one. Missing directories of the path are made.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        path: &Path,
        scheduler: SchedulerHandle,
        store: Box<dyn Store>,
        access: Box<dyn Access>,
        tracing: Tracing,
        version: &str,
        clock: Clock,
    ) -> Result<Self, BindError> {
        refuse_live(path)?;
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        let (listener, file) = make(path, access.is_open()).map_err(failed)?;
        let poll = Poll::new().map_err(failed)?;
        let waker = Arc::new(Waker::new(poll.registry(), STOP).map_err(failed)?);
        let mut listener = UnixListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(failed)?;
        let methods = Methods {
            scheduler,
            store,
            started: clock.now(),
            clock,
            version: version.to_owned(),
            tracing,
            waker: Arc::clone(&waker),
        };
        let stop = Arc::new(AtomicBool::new(false));
        Ok(Self { poll, listener, file, stop, waker, methods, access, connections: HashMap::new(), next: FIRST })
    }

    /// To end it later.
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: self.stop.clone(), waker: self.waker.clone() }
    }

    /// Serves until stopped. Blocks.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(64);
        while !self.stop.load(Ordering::Acquire) {
            let patience = self.patience();
            if let Err(error) = self.poll.poll(&mut events, Some(patience)) {
                if error.kind() != io::ErrorKind::Interrupted {
                    log::error!("the control socket cannot wait for events: {error}");
                    return;
                }
                continue;
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    STOP => {}
                    token => self.advance(token),
                }
            }
            self.tell();
            self.patrol();
        }
    }

    /// How long to sleep: until the next notification is due, and not long without a look at silent clients.
    fn patience(&self) -> Duration {
        let now = self.methods.clock.now();
        let due = self.connections.values().filter_map(Connection::due).min();
        due.map_or(PATROL, |due| due.since(now)).min(PATROL)
    }

    /// Lets those speak whose notifications are due.
    fn tell(&mut self) {
        let now = self.methods.clock.now();
        let is_due = |connection: &Connection| connection.due().is_some_and(|due| due <= now);
        let due: Vec<Token> =
            self.connections.iter().filter(|(_, connection)| is_due(connection)).map(|(token, _)| *token).collect();
        due.into_iter().for_each(|token| self.advance(token));
    }

    fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Without descriptors the next connection's event will bring us here again.
                    log::warn!("the control socket cannot accept a connection: {error}");
                    return;
                }
            };
            if let Err(reason) = self.admit(stream) {
                log::warn!("the control socket refuses a connection: {reason}");
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream) -> Result<(), String> {
        let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|error| error.to_string())?;
        let (uid, gid) = (peer.uid.as_raw(), peer.gid.as_raw());
        let own = uid == 0 || uid == self.file.owner;
        let role = if own { Some(Role::Admin) } else { self.access.role(uid, gid) };
        let Some(role) = role else {
            return Err(format!("user {uid} has no role in [access], and is neither root nor the hub's user"));
        };
        let caller = Caller { uid, user: self.access.name(uid), pid: peer.pid.as_raw_nonzero().get(), role };
        if self.connections.len() >= CLIENTS_MAX {
            return Err(format!("there are {CLIENTS_MAX} clients already"));
        }
        let token = Token(self.next);
        self.next += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, token, interest).map_err(|error| error.to_string())?;
        self.connections.insert(token, Connection::new(stream, caller, self.methods.clock.now()));
        Ok(())
    }

    fn advance(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.advance(&mut self.methods) == Life::Over {
            self.close(token);
        }
    }

    fn close(&mut self, token: Token) {
        if let Some(mut connection) = self.connections.remove(&token) {
            // Closing the descriptor deregisters it in any case.
            let _ = self.poll.registry().deregister(&mut connection.stream);
        }
    }

    fn patrol(&mut self) {
        let now = self.methods.clock.now();
        let stale: Vec<Token> =
            self.connections.iter().filter(|(_, one)| one.is_stale(now)).map(|(token, _)| *token).collect();
        for token in stale {
            self.close(token);
        }
    }
}

/// A hub that answers on the path keeps it; anything but a socket is not ours to remove.
fn refuse_live(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Binds beside the path, restricts, and renames into place: at no moment can others connect.
fn make(path: &Path, open: bool) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory)?;
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&draft)?;
    // Where others have roles, everybody may knock, and is told apart by the kernel's word.
    let mode = if open { 0o666 } else { 0o600 };
    fs::set_permissions(&draft, fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    let meta = fs::symlink_metadata(&draft)?;
    fs::rename(&draft, path)?;
    Ok((listener, SocketFile { path: path.to_owned(), inode: meta.ino(), owner: meta.uid() }))
}

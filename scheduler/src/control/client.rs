//! The other end of the control socket: what the command line speaks with.
//!
//! ```no_run
//! use zrelay_scheduler::control::Client;
//!
//! let mut client = Client::connect("/run/zrelay/control.sock".as_ref())?;
//! let result = client.call("threads", serde_json::json!({"pattern": "smtp/*"}))?;
//! println!("{} threads", result["matched"]);
//! # Ok::<(), zrelay_scheduler::control::ClientError>(())
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::rpc::RpcError;

/// How long to wait for the hub.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Longest response, octets: a million threads.
pub const RESPONSE_MAX: u64 = 1 << 30;

/// Why a call brought nothing. The texts are for people.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no hub is listening on {}; is \"zrelay serve\" running?", .0.display())]
    NoHub(PathBuf),
    /// The file's mode or the hub says so.
    #[error("you may not control the hub on {}; it is for root and the user that runs the hub", .0.display())]
    Forbidden(PathBuf),
    /// The connection broke.
    #[error("lost the hub on {path}: {source}")]
    Lost {
        /// The socket.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// What came is no response.
    #[error("the hub on {path} gave no valid response: {reason}")]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The hub refuses.
    #[error(transparent)]
    Refused(#[from] RpcError),
}

/// A connection to a hub.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    next_id: u64,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
}

#[derive(Deserialize)]
struct Told<T> {
    params: T,
}

#[derive(Deserialize)]
struct Response {
    id: Option<Value>,
    result: Option<Value>,
    error: Option<RpcError>,
}

impl Client {
    /// Connects to the hub on `path`.
    ///
    /// # Errors
    /// [`ClientError::NoHub`], [`ClientError::Forbidden`] or [`ClientError::Lost`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoHub(path.to_owned()),
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(path.to_owned()),
            _ => ClientError::Lost { path: path.to_owned(), source },
        })?;
        let lost = |source| ClientError::Lost { path: path.to_owned(), source };
        stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(lost)?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream), next_id: 0, partial: Vec::new() })
    }

    /// Calls a method and waits for its result, at most [`PATIENCE`] between two pieces of it.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] is the method's own error.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.next_id += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        let mut line = request.to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|source| self.lost(source))?;
        let answer = self.line()?;
        let response: Response = serde_json::from_slice(&answer).map_err(|error| self.garbled(error.to_string()))?;
        match response {
            Response { error: Some(error), .. } => Err(error.into()),
            Response { id: Some(id), .. } if id != self.next_id => Err(self.garbled("it answers another request")),
            Response { result: Some(result), .. } => Ok(result),
            _ => Err(self.garbled("it has neither result nor error")),
        }
    }

    /// The next notification of a subscription; `None` when none comes within `patience`. Not to be mixed with further
    /// calls on the same connection.
    ///
    /// # Errors
    /// [`ClientError::Lost`], [`ClientError::Garbled`].
    pub fn notification<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<Option<T>, ClientError> {
        let patience = patience.max(Duration::from_millis(1));
        self.stream.get_ref().set_read_timeout(Some(patience)).map_err(|source| self.lost(source))?;
        let line = match self.line() {
            Err(ClientError::Lost { source, .. })
                if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                return Ok(None);
            }
            line => line?,
        };
        let told: Told<T> = serde_json::from_slice(&line).map_err(|error| self.garbled(error.to_string()))?;
        Ok(Some(told.params))
    }

    /// The next whole line. What has come of it stays when the patience of the stream is over.
    fn line(&mut self) -> Result<Vec<u8>, ClientError> {
        let room = RESPONSE_MAX.saturating_sub(u64::try_from(self.partial.len()).unwrap_or(u64::MAX));
        let read = self.stream.by_ref().take(room).read_until(b'\n', &mut self.partial);
        read.map_err(|source| self.lost(source))?;
        if self.partial.last() != Some(&b'\n') {
            return Err(self.lost(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(std::mem::take(&mut self.partial))
    }

    fn lost(&self, source: io::Error) -> ClientError {
        // Who is not admitted is disconnected without a word.
        if matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) && self.next_id == 1 {
            return ClientError::Forbidden(self.path.clone());
        }
        ClientError::Lost { path: self.path.clone(), source }
    }

    fn garbled(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), reason: reason.into() }
    }
}

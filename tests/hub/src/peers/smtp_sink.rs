//! Postfix's test programs: `smtp-source` and `smtp-sink`.

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Peers, open_directory};
use crate::{Port, Process, SOON, wait_until};

/// A running `smtp-sink` that keeps every transaction in a file.
#[derive(Debug)]
pub struct SmtpSink {
    // First, so that it ends before its directory goes.
    _process: Process,
    directory: TempDir,
    port: Port,
}

/// A transaction as `smtp-sink` keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dumped {
    /// Reverse path, without brackets.
    pub sender: String,
    /// Forward paths, without brackets.
    pub recipients: Vec<String>,
    /// Header and body, LF lines, without the line that smtp-sink adds.
    pub content: Vec<u8>,
}

impl Dumped {
    fn parse(file: &[u8]) -> Option<Self> {
        let mut dumped = Self { sender: String::new(), recipients: Vec::new(), content: Vec::new() };
        let mut rest = file;
        loop {
            let end = rest.iter().position(|&octet| octet == b'\n')? + 1;
            let line = std::str::from_utf8(rest.get(..end)?).ok();
            let path = |prefix: &str| {
                let argument = line?.strip_prefix(prefix)?;
                Some(argument.split_once('<')?.1.split_once('>')?.0.to_owned())
            };
            if let Some(sender) = path("X-Mail-Args: ") {
                dumped.sender = sender;
            } else if let Some(recipient) = path("X-Rcpt-Args: ") {
                dumped.recipients.push(recipient);
            } else if !rest.starts_with(b"X-") {
                break;
            }
            rest = rest.get(end..)?;
        }
        // Its own Received header, three lines.
        for _ in 0..3 {
            let end = rest.iter().position(|&octet| octet == b'\n')? + 1;
            rest = rest.get(end..)?;
        }
        dumped.content = rest.strip_suffix(b"\n").unwrap_or(rest).to_vec();
        Some(dumped)
    }

    /// Header fields and body.
    pub fn split(&self) -> (HashMap<String, String>, &[u8]) {
        let end = self.content.windows(2).position(|pair| pair == b"\n\n").map_or(self.content.len(), |end| end + 1);
        let head = String::from_utf8_lossy(self.content.get(..end).unwrap_or_default()).into_owned();
        let mut fields = HashMap::new();
        for line in head.lines() {
            if let Some((name, value)) = line.split_once(": ") {
                fields.insert(name.to_ascii_lowercase(), value.to_owned());
            }
        }
        (fields, self.content.get(end + 1..).unwrap_or_default())
    }
}

impl SmtpSink {
    /// Starts one with further options, such as `-w 1`.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(peers: &Peers, options: &[&str]) -> Self {
        Self::run(peers, &[options, &["-d", "m."]].concat())
    }

    /// Starts one that keeps nothing.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn discarding(peers: &Peers) -> Self {
        Self::run(peers, &[])
    }

    fn run(peers: &Peers, options: &[&str]) -> Self {
        let directory = open_directory("zrelay-sink.");
        fs::create_dir(directory.path().join("mail")).expect("our own directory");
        let port = Port::free();
        let program = peers.path("usr/sbin/smtp-sink");
        let process = Process::start("smtp-sink", directory.path(), program, |command| {
            command.env("LD_LIBRARY_PATH", peers.libraries()).current_dir(directory.path().join("mail"));
            if nix::unistd::geteuid().is_root() {
                command.args(["-u", "root"]);
            }
            command.args(options).arg(port.address().to_string()).arg("512");
        });
        assert!(wait_until(SOON, || TcpStream::connect(port.address()).is_ok()), "smtp-sink does not listen");
        Self { directory, port, _process: process }
    }

    /// The host of a route that leads here.
    pub fn host(&self) -> String {
        format!("[127.0.0.1]:{}", self.port.number())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Transactions begun so far.
    pub fn count(&self) -> usize {
        fs::read_dir(self.directory.path().join("mail")).map_or(0, Iterator::count)
    }

    /// The transactions so far, those still arriving included.
    pub fn transactions(&self) -> Vec<Dumped> {
        let Ok(entries) = fs::read_dir(self.directory.path().join("mail")) else { return Vec::new() };
        let files = entries.filter_map(Result::ok).filter_map(|entry| fs::read(entry.path()).ok());
        files.filter_map(|file| Dumped::parse(&file)).collect()
    }
}

/// `smtp-source` towards `address` with these options, to be run with [`super::run`] or spawned.
pub fn smtp_source(peers: &Peers, options: &[&str], address: SocketAddr, limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &limit.as_secs().to_string()]);
    command.arg(peers.path("usr/sbin/smtp-source")).env("LD_LIBRARY_PATH", peers.libraries());
    command.args(options).arg(address.to_string());
    command
}

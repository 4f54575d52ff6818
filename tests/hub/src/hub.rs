//! The hub under test: a process with its own directory, ports and configuration.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::disk::SmallDisk;
use crate::{Certificate, Client, Port, Process, SOON, Usage, wait_until};

/// A running hub. Killed on drop, its directory removed.
#[derive(Debug)]
pub struct Hub {
    // First, so that it ends before its directory goes.
    process: Option<Process>,
    disk: Option<SmallDisk>,
    binary: PathBuf,
    directory: TempDir,
    smtp: Port,
    lmtp: Option<Port>,
}

/// The configuration of a [`Hub`]. Retries come after a second unless a clause says otherwise.
#[derive(Debug)]
pub struct HubBuilder {
    binary: PathBuf,
    directory: TempDir,
    settings: String,
    tables: String,
    listen: String,
    smtp: Port,
    lmtp: Option<Port>,
    disk: Option<u64>,
}

impl HubBuilder {
    /// A top-level key, the value in TOML.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        let _infallible = writeln!(self.settings, "{key} = {value}");
        self
    }

    /// A table, in TOML, with its header.
    #[must_use]
    pub fn table(mut self, text: &str) -> Self {
        let _infallible = writeln!(self.tables, "\n{text}");
        self
    }

    /// A `[[route]]` by recipient pattern.
    #[must_use]
    pub fn route(self, recipient: &str, channel: &str, host: &str) -> Self {
        self.table(&format!("[[route]]\nrecipient = \"{recipient}\"\nchannel = \"{channel}\"\nhost = \"{host}\""))
    }

    /// A `[[thread]]` clause; first match wins.
    #[must_use]
    pub fn clause(self, pattern: &str, keys: &str) -> Self {
        self.table(&format!("[[thread]]\nmatch = \"{pattern}\"\n{keys}"))
    }

    /// Keys for the SMTP listener.
    #[must_use]
    pub fn listen(mut self, keys: &str) -> Self {
        let _infallible = writeln!(self.listen, "{keys}");
        self
    }

    /// An LMTP listener beside the SMTP one.
    #[must_use]
    pub fn lmtp(mut self) -> Self {
        self.lmtp = Some(Port::free());
        self
    }

    /// A certificate, so that STARTTLS is offered.
    #[must_use]
    pub fn certificate(self, certificate: &Certificate) -> Self {
        let (chain, key) = certificate.write(self.directory.path(), "hub");
        self.table(&format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"", chain.display(), key.display()))
    }

    /// The spool is on a disk of its own with so many octets: a tmpfs in a mount namespace that the hub is alone in. As
    /// another user than root it needs user namespaces.
    #[must_use]
    pub fn small_disk(mut self, octets: u64) -> Self {
        self.disk = Some(octets);
        self
    }

    /// The hub's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes the configuration without starting anything.
    ///
    /// # Panics
    /// When the directory is not writable.
    pub fn write(self) -> Hub {
        let path = self.directory.path();
        let mut text = self.settings;
        for (key, value) in [("hostname", "hub.test"), ("spool", "SPOOL"), ("control", "CONTROL")] {
            if text.lines().any(|line| line.starts_with(key)) {
                continue;
            }
            let value = match value {
                "SPOOL" => path.join("spool").display().to_string(),
                "CONTROL" => path.join("control.sock").display().to_string(),
                other => other.to_owned(),
            };
            let _infallible = writeln!(text, "{key} = \"{value}\"");
        }
        let _infallible = writeln!(text, "\n[[listen]]\naddress = \"{}\"\n{}", self.smtp.address(), self.listen);
        if let Some(port) = &self.lmtp {
            let _infallible = writeln!(text, "\n[[listen]]\naddress = \"{}\"\nprotocol = \"lmtp\"", port.address());
        }
        text.push_str(&self.tables);
        // Behind the test's own clauses: the first match wins.
        text.push_str("\n[[thread]]\nmatch = \"*/*\"\ninterval = \"1s\"\nretries = [1]\n");
        fs::write(path.join("zrelay.toml"), text).expect("the configuration can be written");
        let disk = self.disk.map(|octets| {
            let spool = path.join("spool");
            fs::create_dir_all(&spool).expect("the spool's directory can be made");
            SmallDisk::mount(octets, &spool, path)
        });
        Hub { process: None, disk, binary: self.binary, directory: self.directory, smtp: self.smtp, lmtp: self.lmtp }
    }

    /// Starts the hub and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(self) -> Hub {
        let mut hub = self.write();
        hub.start();
        hub
    }
}

impl Hub {
    /// A hub of this binary (`env!("CARGO_BIN_EXE_zrelay")`).
    ///
    /// # Panics
    /// When no directory can be made.
    pub fn build(binary: &str) -> HubBuilder {
        HubBuilder {
            binary: binary.into(),
            directory: tempfile::Builder::new().prefix("zrelay-test.").tempdir().expect("a directory can be made"),
            settings: String::new(),
            tables: String::new(),
            listen: String::new(),
            smtp: Port::free(),
            lmtp: None,
            disk: None,
        }
    }

    /// One that sends everything to `host`.
    pub fn towards(binary: &str, host: &str) -> HubBuilder {
        Self::build(binary).route("*", "smtp", host)
    }

    /// Starts `zrelay serve` without waiting for anything.
    ///
    /// # Panics
    /// When it is running already.
    pub fn spawn(&mut self) -> &mut Process {
        assert!(self.process.is_none(), "the hub is running already");
        let directory = self.directory.path();
        let mut words = self.disk.as_ref().map(|disk| disk.enter(directory)).unwrap_or_default();
        words.push(self.binary.clone().into());
        let process = Process::start("hub", directory, &words[0], |command| {
            command.current_dir(directory).args(&words[1..]);
            command.args(["serve", "--config"]).arg(directory.join("zrelay.toml"));
            command.env_remove("ZRELAY_CONFIG").env("RUST_BACKTRACE", "1");
        });
        self.process.insert(process)
    }

    /// Starts it (again, on the same spool) and waits until it listens.
    ///
    /// # Panics
    /// When it does not within half a minute.
    pub fn start(&mut self) {
        let ports: Vec<SocketAddr> =
            [Some(&self.smtp), self.lmtp.as_ref()].into_iter().flatten().map(Port::address).collect();
        let control = self.path().join("control.sock");
        let process = self.spawn();
        let ready = wait_until(SOON, || {
            let ended = process.status();
            assert!(ended.is_none(), "the hub ended at once, {}: {}", ended.unwrap_or_default(), process.errors());
            ports.iter().all(|port| TcpStream::connect(port).is_ok()) && UnixStream::connect(&control).is_ok()
        });
        assert!(ready, "the hub does not listen");
    }

    /// Where the hub's file `name` is for us, when the hub sees another disk there; whether it runs or not.
    pub fn seen_by_hub(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        self.disk.as_ref().map_or_else(|| path.clone(), |disk| disk.seen_from_outside(&path))
    }

    /// Where it listens for SMTP.
    pub fn smtp(&self) -> SocketAddr {
        self.smtp.address()
    }

    /// Where it listens for LMTP.
    ///
    /// # Panics
    /// When it was built without.
    pub fn lmtp(&self) -> SocketAddr {
        self.lmtp.as_ref().expect("built with an LMTP listener").address()
    }

    /// A client that has said EHLO.
    pub fn client(&self) -> Client {
        Client::ehlo(self.smtp())
    }

    /// Its directory: `zrelay.toml`, `spool`, `control.sock`, `hub.out`, `hub.err`.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The process.
    ///
    /// # Panics
    /// When it was not started.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the hub was started")
    }

    /// The process id; 0 when it does not run.
    pub fn id(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    /// What the process has used.
    pub fn usage(&self) -> Usage {
        self.process.as_ref().map(Process::usage).unwrap_or_default()
    }

    /// What it wrote to standard output and standard error so far, over all its starts.
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.path().join(name)).unwrap_or_default();
        read("hub.out") + &read("hub.err")
    }

    /// The lines of the delivery log that contain all these texts.
    pub fn log_lines(&self, texts: &[&str]) -> Vec<String> {
        let log = self.log();
        log.lines().filter(|line| texts.iter().all(|text| line.contains(text))).map(str::to_owned).collect()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// SIGTERM, and its exit status when it has one within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        let process = self.process();
        process.signal(Signal::SIGTERM);
        let status = process.wait(limit)?;
        self.process = None;
        Some(status)
    }

    /// Runs `zrelay` with these arguments on the hub's configuration.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn zrelay(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "60"]).arg(&self.binary).args(arguments);
        command.arg("--config").arg(self.path().join("zrelay.toml"));
        command.env_remove("ZRELAY_CONFIG").output().expect("zrelay can be run")
    }

    /// Runs `zrelay` with these arguments and `--json`.
    ///
    /// # Panics
    /// When it fails or what it prints is not JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        let output = self.zrelay(&arguments);
        // Status 1 without a message: nothing matched.
        let answered = output.status.success() || (output.status.code() == Some(1) && output.stderr.is_empty());
        assert!(
            answered,
            "zrelay {}: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("zrelay {}: {error}\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stdout))
        })
    }

    /// Batches that are queued.
    pub fn queued(&self) -> u64 {
        self.json(&["threads"]).as_array().into_iter().flatten().filter_map(|row| row["batches"].as_u64()).sum()
    }

    /// Waits until every message that was accepted is finished; whether that came. Asks the spool: what was accepted a
    /// moment ago, or is being recovered, is in no thread yet.
    pub fn wait_until_empty(&self, limit: Duration) -> bool {
        wait_until(limit, || {
            let status = self.json(&["status"]);
            status["spool"]["open_messages"] == 0 && status["totals"]["batches"] == 0
        })
    }

    /// The row of the thread with this name, such as `smtp/[127.0.0.1]:2526`; null when there is none.
    pub fn thread(&self, name: &str) -> Value {
        let rows = self.json(&["threads"]);
        rows.as_array().into_iter().flatten().find(|row| row["thread"] == name).cloned().unwrap_or_default()
    }
}

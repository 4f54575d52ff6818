//! A child process that never outlives the test.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_for;

/// A child process with its output in files. Killed on drop, and by the kernel when the test process dies.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
    ended: Option<ExitStatus>,
}

/// What a process has used so far.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Usage {
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// Memory now, octets.
    pub resident: u64,
    /// Memory at most so far, octets.
    pub resident_peak: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Process {
    /// Starts `program`; its output goes to `NAME.out` and `NAME.err` in `directory`, appended.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, directory: &Path, program: impl AsRef<OsStr>, setup: impl FnOnce(&mut Command)) -> Self {
        let output = directory.join(format!("{name}.out"));
        let errors = directory.join(format!("{name}.err"));
        let append = |path: &Path| File::options().create(true).append(true).open(path).expect("output can be written");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref());
        command.stdin(Stdio::null()).stdout(append(&output)).stderr(append(&errors));
        setup(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, output, errors, ended: None }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Standard output so far.
    pub fn output(&self) -> String {
        read(&self.output)
    }

    /// Standard error so far.
    pub fn errors(&self) -> String {
        read(&self.errors)
    }

    /// Its exit status, if it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or(None);
        }
        self.ended
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_for(limit, || self.status())
    }

    /// Sends a signal; nothing when it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.status().is_none() {
            let id = Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"));
            kill(id, signal).unwrap_or_else(|error| eprintln!("{signal} to {}: {error}", self.name));
        }
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// What it has used so far; zeros when it has ended.
    pub fn usage(&self) -> Usage {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = read(&process.join("status"));
        let kibibytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
                .map_or(0, |value| value * 1024)
        };
        Usage {
            cpu: cpu(&read(&process.join("stat"))).unwrap_or_default(),
            resident: kibibytes("VmRSS:"),
            resident_peak: kibibytes("VmHWM:"),
            descriptors: fs::read_dir(process.join("fd")).map_or(0, Iterator::count),
        }
    }
}

/// utime and stime of `/proc/PID/stat`, in clock ticks, of which Linux has 100 a second on every architecture.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            return;
        }
        for (kind, text) in [("standard output", self.output()), ("standard error", self.errors())] {
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
            eprintln!("--- {} of {}, last {} lines of {}:", kind, self.name, tail.len(), lines.len());
            eprintln!("{}", tail.join("\n"));
        }
    }
}

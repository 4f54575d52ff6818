//! Network namespaces without names: they live as long as something refers to them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace. Threads enter it; what they start, threads and processes, is in it too.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with nothing but a loopback device that is down.
    ///
    /// # Errors
    /// What the system says, as when it is not root that asks.
    pub fn new() -> io::Result<Self> {
        // In a thread of its own: whoever unshares stays in the new namespace.
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(Self { file })
    }

    /// Runs `work` on a thread inside. Processes it starts with a parent-death signal end with that thread, so whatever
    /// uses them belongs into `work`.
    ///
    /// # Errors
    /// The thread cannot enter. A panic of `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// A path for `nsenter --net=PATH`, valid while this process runs.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

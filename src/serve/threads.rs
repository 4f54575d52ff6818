//! The hub's threads, and the news that reach the one that started them.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::Failure;

/// What the main thread is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Notice {
    /// A signal came.
    Signal(i32),
    /// A thread has ended.
    Ended(&'static str),
}

/// The main thread's mailbox. Unbounded, but only signals and ends of threads come in.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    sender: Sender<Notice>,
    receiver: Receiver<Notice>,
}

impl Notices {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver }
    }

    pub(crate) fn signal(&self, signal: i32) {
        // The receiver lives as long as this struct.
        let _ = self.sender.send(Notice::Signal(signal));
    }

    /// The next notice.
    pub(crate) fn wait(&self) -> Notice {
        self.receiver.recv().unwrap_or(Notice::Ended("main"))
    }

    /// The next notice, unless none comes until then.
    pub(crate) fn wait_until(&self, until: Instant) -> Option<Notice> {
        self.receiver.recv_deadline(until).ok()
    }
}

/// A running thread that says when it ends.
#[derive(Debug)]
pub(crate) struct Thread {
    name: &'static str,
    handle: JoinHandle<()>,
}

/// Tells of the end, also of one by panic.
struct Farewell(&'static str, Sender<Notice>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.1.send(Notice::Ended(self.0));
    }
}

impl Thread {
    pub(crate) fn start(
        name: &'static str,
        notices: &Notices,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Failure> {
        let farewell = Farewell(name, notices.sender.clone());
        let run = move || {
            let _farewell = farewell;
            body();
        };
        let handle = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|error| Failure::new(format_args!("cannot start a thread: {error}")))?;
        Ok(Self { name, handle })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for the end, at most `patience`: what does not end by then ends with the process.
    pub(crate) fn join(self, patience: Duration) {
        let until = Instant::now() + patience;
        while !self.handle.is_finished() {
            if Instant::now() >= until {
                log::warn!(target: "hub", "the thread {} does not end; leaving it behind", self.name);
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // A panic has been reported by the panic hook.
        let _ = self.handle.join();
    }
}

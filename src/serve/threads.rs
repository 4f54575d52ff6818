//! The hub's threads, and the news that reach the one that started them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    ended: Arc<AtomicBool>,
}

/// Tells of the end, also of one by panic.
struct Farewell {
    name: &'static str,
    ended: Arc<AtomicBool>,
    notices: Sender<Notice>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Before the notice: who hears it looks, and would not be told again.
        self.ended.store(true, Ordering::Release);
        let _ = self.notices.send(Notice::Ended(self.name));
    }
}

impl Thread {
    pub(crate) fn start(
        name: &'static str,
        notices: &Notices,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Failure> {
        let ended = Arc::new(AtomicBool::new(false));
        let farewell = Farewell { name, ended: Arc::clone(&ended), notices: notices.sender.clone() };
        let run = move || {
            let _farewell = farewell;
            body();
        };
        let handle = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|error| Failure::new(format_args!("cannot start a thread: {error}")))?;
        Ok(Self { name, handle, ended })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_of_an_end_finds_the_thread_ended() {
        for _ in 0..200 {
            let notices = Notices::new();
            let thread = Thread::start("short", &notices, || {}).unwrap();
            assert!(matches!(notices.wait(), Notice::Ended("short")));
            assert!(thread.has_ended());
            thread.join(Duration::from_secs(10));
        }
    }

    #[test]
    fn a_panic_is_an_end_too() {
        let notices = Notices::new();
        let thread = Thread::start("falls", &notices, || panic!("on purpose")).unwrap();
        assert!(matches!(notices.wait(), Notice::Ended("falls")));
        assert!(thread.has_ended());
    }
}

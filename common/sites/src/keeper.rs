//! The thread that keeps the file.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use zrelay_clock::{Clock, Timestamp};

use crate::{Sites, file};

/// How soon the first change is written: what is learned comes in bursts.
pub const FIRST_WRITE: Duration = Duration::from_secs(1);

/// Shortest time between two writes. A crash forgets what was learned in it, which costs what not knowing costs.
pub const WRITE_PAUSE: Duration = Duration::from_secs(60);

/// Writes [`Sites`] to a file.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    sites: Sites,
    first: Duration,
    pause: Duration,
    clock: Clock,
}

/// What the keeper wakes up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Write,
    /// The last one; whether there is something to write.
    End {
        changed: bool,
    },
}

impl Keeper {
    /// Reads what was known when the hub ran last. Never fails: what cannot be read is set aside and said in the log.
    pub fn open(path: &Path, clock: Clock) -> (Self, Sites) {
        let sites = Sites::new();
        load(path, &sites, clock.now());
        let keeper =
            Self { path: path.to_owned(), sites: sites.clone(), first: FIRST_WRITE, pause: WRITE_PAUSE, clock };
        (keeper, sites)
    }

    /// Writes when there is something to write, until [`Sites::stop`]. Blocks.
    pub fn run(self) {
        let mut trouble = false;
        let mut earliest = Instant::now();
        loop {
            let call = self.wait(earliest);
            if call != (Call::End { changed: false }) {
                match file::write(&self.path, &self.sites, self.clock.now()) {
                    Ok(()) => trouble = false,
                    // Said once: a full disk stays full for a while, and nothing depends on this file.
                    Err(error) if !trouble => {
                        log::warn!("cannot write down what was learned of sites: {error}");
                        trouble = true;
                        self.again();
                    }
                    Err(_) => self.again(),
                }
            }
            if matches!(call, Call::End { .. }) {
                return;
            }
            earliest = Instant::now() + self.pause;
        }
    }

    /// Waits for a change and then until `earliest`, or for the end.
    fn wait(&self, earliest: Instant) -> Call {
        let bell = &self.sites.shared.bell;
        let mut state = self.sites.lock();
        while !state.changed && !state.stopped {
            state = bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let until = earliest.max(Instant::now() + self.first);
        while !state.stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let changed = std::mem::take(&mut state.changed);
        if state.stopped { Call::End { changed } } else { Call::Write }
    }

    /// What was not written is still to be written.
    fn again(&self) {
        self.sites.lock().changed = true;
    }
}

fn load(path: &Path, sites: &Sites, now: Timestamp) {
    match file::read(path, now) {
        Ok(facts) => {
            let mut state = sites.lock();
            for fact in facts {
                state.store.learn(now, fact);
            }
        }
        Err(error) => {
            log::warn!("what was learned of sites cannot be read and is learned anew: {error}");
            match file::set_aside(path) {
                Ok(aside) => log::warn!("the file is kept as {}", aside.display()),
                Err(error) => log::warn!("cannot get it out of the way: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const PATH: &str = "sites.jsonl";

    fn knows(sites: &Sites, clock: Clock) -> Option<u32> {
        sites.recall(clock.now(), "192.0.2.1:25", "recipients")
    }

    /// A keeper that has learned one thing, run to its end.
    fn written(directory: &Path) -> Clock {
        let clock = Clock::start();
        let (keeper, sites) = Keeper::open(&directory.join(PATH), clock);
        sites.learn(clock.now(), "192.0.2.1:25", "recipients", &7, HOUR);
        sites.stop();
        keeper.run();
        clock
    }

    #[test]
    fn what_was_learned_is_known_to_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let clock = written(directory.path());
        let (_, sites) = Keeper::open(&directory.path().join(PATH), clock);
        assert_eq!(knows(&sites, clock), Some(7));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left lying about");
    }

    #[test]
    fn a_change_is_written_without_being_asked_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(PATH);
        let clock = Clock::start();
        let (keeper, sites) = Keeper::open(&path, clock);
        let keeper = Keeper { first: Duration::ZERO, pause: Duration::ZERO, ..keeper };
        let thread = std::thread::spawn(move || keeper.run());
        for round in 0..20 {
            sites.learn(clock.now(), "192.0.2.1:25", "recipients", &round, HOUR);
            while Keeper::open(&path, clock).1.recall(clock.now(), "192.0.2.1:25", "recipients") != Some(round) {
                std::thread::yield_now();
            }
        }
        sites.stop();
        thread.join().unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_read_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(PATH);
        let clock = written(directory.path());
        let good = fs::read(&path).unwrap();
        let newer = b"{\"zrelay_sites\":2}\n".to_vec();
        let no_fact = [b"{\"zrelay_sites\":1}\n{}\n".as_slice(), &good].concat();
        let torn = (0..good.len()).filter(|&cut| cut == 0 || good[cut - 1] != b'\n').map(|cut| good[..cut].to_vec());
        for bad in torn.chain([newer, no_fact, b"\xff\n".to_vec(), b"[]\n".to_vec()]) {
            fs::write(&path, &bad).unwrap();
            let (_, sites) = Keeper::open(&path, clock);
            assert!(sites.is_empty(), "{}", String::from_utf8_lossy(&bad));
            assert!(!path.exists());
            assert_eq!(fs::read(directory.path().join("sites.jsonl.bad")).unwrap(), bad);
        }
        fs::write(&path, &good).unwrap();
        assert_eq!(knows(&Keeper::open(&path, clock).1, clock), Some(7));
    }

    #[test]
    fn facts_that_have_ended_or_come_from_the_future_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let clock = written(directory.path());
        let path = directory.path().join(PATH);
        let now = clock.now();
        assert_eq!(file::read(&path, now).unwrap().len(), 1);
        assert!(file::read(&path, now + HOUR * 2).unwrap().is_empty());
        assert!(file::read(&path, Timestamp::from_secs(1_000_000)).unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_cannot_be_written_ends_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gone").join(PATH);
        let clock = Clock::start();
        let (keeper, sites) = Keeper::open(&path, clock);
        sites.learn(clock.now(), "a", "b", &1, HOUR);
        sites.stop();
        keeper.run();
        assert_eq!(sites.len(), 1);
    }
}

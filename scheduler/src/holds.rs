//! Holds on a pattern: what an operator holds by `smtp/*.example.net` stays held in threads that are not there yet.
//!
//! A thread is held while any such pattern matches it, or it is held by its own name. A pattern is released as it was
//! given, or by a wider one: `*` releases all. In the spool a pattern is kept as the state of a thread whose channel is
//! [`PATTERN_CHANNEL`], which no configuration can name.

use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_config::Pattern;
use zrelay_spool::{Request, ThreadKey, ThreadState};

use crate::scheduler::Scheduler;
use crate::thread::ThreadId;

/// Patterns held at a time at most: every new thread is held against all of them.
pub const HOLDS_MAX: usize = 1000;
/// Stands for the channel in the record of a pattern.
const PATTERN_CHANNEL: &str = "*pattern";

/// The patterns in force.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    patterns: Vec<Arc<Pattern>>,
}

impl Holds {
    /// The first pattern that holds a thread of this name.
    pub(crate) fn find(&self, key: &ThreadKey) -> Option<Arc<Pattern>> {
        if self.patterns.is_empty() {
            return None;
        }
        let name = key.to_string();
        self.patterns.iter().find(|pattern| pattern.matches(&name)).cloned()
    }

    /// All of them, in the order in which they came.
    pub(crate) fn list(&self) -> Vec<String> {
        self.patterns.iter().map(ToString::to_string).collect()
    }

    fn add(&mut self, pattern: &Pattern) -> bool {
        let known = self.patterns.iter().any(|other| other.as_str() == pattern.as_str());
        if known || self.patterns.len() >= HOLDS_MAX {
            return false;
        }
        self.patterns.push(Arc::new(pattern.clone()));
        true
    }

    /// Takes out those that the given one covers, read as a pattern over their text.
    fn remove(&mut self, pattern: &Pattern) -> Vec<Arc<Pattern>> {
        let covered = |other: &Arc<Pattern>| other.as_str() == pattern.as_str() || pattern.matches(other.as_str());
        let (gone, rest) = std::mem::take(&mut self.patterns).into_iter().partition(covered);
        self.patterns = rest;
        gone
    }
}

impl Scheduler {
    /// Holds all threads of this pattern, now and later. Returns how many patterns are new.
    pub(crate) fn hold_pattern(&mut self, pattern: &Pattern) -> u64 {
        if !self.holds.add(pattern) {
            return 0;
        }
        self.record(Request::Thread(state(pattern, true)));
        self.apply_holds();
        1
    }

    /// Releases the patterns that this one covers. Returns how many.
    pub(crate) fn release_pattern(&mut self, pattern: &Pattern) -> u64 {
        let gone = self.holds.remove(pattern);
        for pattern in &gone {
            self.record(Request::Thread(state(pattern, false)));
        }
        if !gone.is_empty() {
            self.apply_holds();
        }
        u64::try_from(gone.len()).unwrap_or(u64::MAX)
    }

    /// A pattern that the spool remembers; says whether it is one.
    pub(crate) fn recall_pattern(&mut self, remembered: &ThreadState) -> bool {
        if &*remembered.key.channel != PATTERN_CHANNEL {
            return false;
        }
        match Pattern::new(&remembered.key.host) {
            Ok(pattern) if remembered.held => {
                self.holds.add(&pattern);
                self.apply_holds();
            }
            Ok(_) => {}
            Err(error) => log::warn!("a hold on \"{}\" is forgotten: {error}", remembered.key.host),
        }
        true
    }

    fn apply_holds(&mut self) {
        let threads: Vec<ThreadId> = self.names.values().copied().collect();
        for id in threads {
            let Some(thread) = self.threads.get_mut(id) else { continue };
            let held = self.holds.find(&thread.key);
            if held == thread.held_by {
                continue;
            }
            let begins = held.is_some();
            thread.held_by = held;
            if begins {
                self.close_all(id);
            }
            self.touch(id);
        }
    }
}

fn state(pattern: &Pattern, held: bool) -> ThreadState {
    let key = ThreadKey::new(PATTERN_CHANNEL, pattern.as_str());
    ThreadState { key, failures: 0, due: Timestamp::ZERO, held, last: None }
}

//! What was learned about hosts and sites, and how long it holds.
//!
//! A **fact** is a small value under a **subject** and a **topic**: of the address `192.0.2.1:25` the conversation level
//! that it stands, of the site `mx1.example.net,mx2.example.net` how many connections it likes. Every fact ends at a time
//! of its own, because hosts get repaired. Facts make things quicker; nothing depends on one: any of them may be gone at
//! any time, be it that it has ended, that there is no room, that the file is lost, or that an operator said so.
//!
//! ```text
//!   agent loops, scheduler ──learn──▶ ┌───────┐ ──page──▶ Keeper (own thread) ──▶ sites.jsonl
//!                          ◀─recall── │ Sites │
//!   zrelay sites [forget]  ◀──page─── └───────┘ ◀──once, at the start── sites.jsonl
//! ```
//!
//! - [`Store`] is the state machine: facts by subject and topic, at most [`FACTS_MAX`], those left that were asked for
//!   last. Time is an argument.
//! - [`Sites`] is the store as the rooms of the hub share it, behind a lock that is held for microseconds: it is asked
//!   once per connection, never per message.
//! - [`Keeper`] writes it to a file beside the spool: a second after the first change, then at most once a minute, and at
//!   the end. The file is replaced as a whole, so that it is always one or the other. One that cannot be read is renamed
//!   to `sites.jsonl.bad`, with a line in the log, and the hub begins without.
//!
//! # The file
//!
//! One JSON object per line. The first says `{"zrelay_sites": 1}`, the version of the format; each further one is a
//! fact: `{"subject", "topic", "value", "since", "expires"}`, times in microseconds since the Unix epoch.
#![forbid(unsafe_code)]

mod file;
mod keeper;
mod store;

pub use file::FileError;
pub use keeper::{FIRST_WRITE, Keeper, WRITE_PAUSE};
pub use store::{FACTS_MAX, Fact, Key, PAGE_MAX, SUBJECT_MAX, Store, VALUE_MAX};

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zrelay_clock::Timestamp;

/// What is known, shared by the rooms of the hub. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Rung when there is something to write, and at the end.
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    changed: bool,
    stopped: bool,
}

impl Sites {
    /// A store that knows nothing, and is not written anywhere unless a [`Keeper`] is made for it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns `value`, for as long as `span`. It takes the place of what was known of the subject under this topic.
    ///
    /// What is too large to be kept ([`SUBJECT_MAX`], [`VALUE_MAX`]) is not learned.
    pub fn learn(&self, now: Timestamp, subject: &str, topic: &str, value: &impl Serialize, span: Duration) {
        match serde_json::to_value(value) {
            Ok(value) => self.put(now, Fact::new(subject, topic, value, now, now + span)),
            // Types whose maps have keys that are not strings; none is stored here.
            Err(error) => log::debug!("{subject}: {topic} cannot be kept: {error}"),
        }
    }

    /// Learns a fact that is already one.
    pub fn put(&self, now: Timestamp, fact: Fact) {
        let mut state = self.lock();
        if state.store.learn(now, fact) {
            self.changed(&mut state);
        }
    }

    /// What is known of a subject under a topic. `None` as well when it is of another shape than `T`: an earlier zrelay
    /// may have meant something else by it.
    pub fn recall<T: DeserializeOwned>(&self, now: Timestamp, subject: &str, topic: &str) -> Option<T> {
        self.fact(now, subject, topic).and_then(|fact| serde_json::from_value(fact.value).ok())
    }

    /// The same with its times.
    pub fn fact(&self, now: Timestamp, subject: &str, topic: &str) -> Option<Fact> {
        self.lock().store.recall(now, subject, topic)
    }

    /// Forgets one fact, which has turned out wrong.
    pub fn forget(&self, subject: &str, topic: &str) {
        let mut state = self.lock();
        if state.store.forget(subject, topic) {
            self.changed(&mut state);
        }
    }

    /// Forgets all facts that `which` means, and returns them.
    pub fn forget_where(&self, now: Timestamp, which: impl Fn(&Key) -> bool) -> Vec<Fact> {
        let mut forgotten = Vec::new();
        let mut after = None;
        loop {
            let page = self.page(now, after.as_ref());
            let Some(last) = page.last() else {
                return forgotten;
            };
            after = Some(last.key.clone());
            for fact in page {
                if which(&fact.key) {
                    self.forget(&fact.key.subject, &fact.key.topic);
                    forgotten.push(fact);
                }
            }
        }
    }

    /// The next facts behind `after`, at most [`PAGE_MAX`], by subject and topic. An empty page is the end.
    pub fn page(&self, now: Timestamp, after: Option<&Key>) -> Vec<Fact> {
        self.lock().store.page(now, after)
    }

    /// All facts under one topic, as for a room that keeps what it learned itself and wants it back at the start.
    pub fn under(&self, now: Timestamp, topic: &str) -> Vec<Fact> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.page(now, after.as_ref());
            let Some(last) = page.last() else {
                return found;
            };
            after = Some(last.key.clone());
            found.extend(page.into_iter().filter(|fact| *fact.key.topic == *topic));
        }
    }

    /// How many facts there are, ended ones that nobody has come across yet included.
    pub fn len(&self) -> usize {
        self.lock().store.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets the [`Keeper`] write what is not written and end.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.shared.bell.notify_all();
    }

    fn changed(&self, state: &mut State) {
        if !state.changed {
            state.changed = true;
            self.shared.bell.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked with the lock ends the hub; until then hints that are half updated do no harm.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_is_learned_is_known_to_all_and_forgotten_in_time() {
        let sites = Sites::new();
        let other = sites.clone();
        let now = Timestamp::from_secs(1000);
        sites.learn(now, "192.0.2.1:25", "level", &"lockstep", HOUR);
        assert_eq!(other.recall::<String>(now, "192.0.2.1:25", "level").as_deref(), Some("lockstep"));
        assert_eq!(other.recall::<u32>(now, "192.0.2.1:25", "level"), None, "of another shape");
        assert_eq!(other.recall::<String>(now, "192.0.2.2:25", "level"), None);
        assert_eq!(other.recall::<String>(now + HOUR, "192.0.2.1:25", "level"), None);
    }

    #[test]
    fn a_pattern_of_facts_is_forgotten_and_the_rest_stays() {
        let sites = Sites::new();
        let now = Timestamp::from_secs(1000);
        for number in 0..1000 {
            sites.learn(now, &format!("192.0.2.{}:{number}", number % 2), "n", &number, HOUR);
        }
        sites.learn(now, "mx.example.net", "n", &1, HOUR);
        let forgotten = sites.forget_where(now, |key| key.subject.starts_with("192.0.2.1:"));
        assert_eq!((forgotten.len(), sites.len()), (500, 501));
        assert_eq!(sites.under(now, "n").len(), 501);
        assert!(sites.under(now, "m").is_empty());
    }
}

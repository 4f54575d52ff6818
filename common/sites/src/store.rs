//! The facts: a bounded map that forgets what has ended, and what nobody has asked for in the longest time.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zrelay_clock::Timestamp;

/// Facts at most. Some 400 octets each, so 20 MB: several facts for each of ten thousand hosts.
pub const FACTS_MAX: usize = 50_000;

/// Longest subject, octets: the names of a dozen exchanges. A longer one is not learned.
pub const SUBJECT_MAX: usize = 2048;

/// Longest value, octets of its JSON, about. A longer one is not learned.
pub const VALUE_MAX: usize = 4096;

/// Facts in one page: copying them takes well below a millisecond.
pub const PAGE_MAX: usize = 256;

/// What a fact is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key {
    /// An address with its port, or the name of a site.
    pub subject: Arc<str>,
    /// In which respect.
    pub topic: Arc<str>,
}

/// Something that was learned.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fact {
    /// About what.
    #[serde(flatten)]
    pub key: Key,
    /// What.
    pub value: Value,
    /// When it was learned.
    #[serde(with = "micros")]
    pub since: Timestamp,
    /// When it ends.
    #[serde(with = "micros")]
    pub expires: Timestamp,
}

impl Fact {
    /// A fact.
    pub fn new(subject: &str, topic: &str, value: Value, since: Timestamp, expires: Timestamp) -> Self {
        Self { key: Key { subject: subject.into(), topic: topic.into() }, value, since, expires }
    }
}

/// Octets that the value takes as JSON, about, without writing it.
fn octets(value: &Value) -> usize {
    /// Quotes, a comma and a colon; or a number.
    const AROUND: usize = 4;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => AROUND,
        Value::String(text) => AROUND + text.len(),
        Value::Array(values) => AROUND + values.iter().map(octets).sum::<usize>(),
        Value::Object(fields) => {
            AROUND + fields.iter().map(|(name, value)| AROUND + name.len() + octets(value)).sum::<usize>()
        }
    }
}

mod micros {
    use serde::{Deserialize, Deserializer, Serializer};
    use zrelay_clock::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(at.as_micros())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(deserializer).map(Timestamp::from_micros)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Store {
    facts: BTreeMap<Key, Entry>,
    /// The facts by when they were learned or asked for last.
    order: BTreeMap<u64, Key>,
    /// Topics in use: a handful, shared by the keys.
    topics: HashMap<Arc<str>, u32>,
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    since: Timestamp,
    expires: Timestamp,
    /// Its place in the order.
    used: u64,
}

impl Store {
    /// Learns a fact, in the place of what was known. Returns whether anything is different from before.
    pub fn learn(&mut self, now: Timestamp, fact: Fact) -> bool {
        let Fact { key, value, since, expires } = fact;
        if expires <= now || key.subject.len() > SUBJECT_MAX || octets(&value) > VALUE_MAX {
            return false;
        }
        let before = self.remove(&key);
        if self.facts.len() >= FACTS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.remove(&oldest);
        }
        let key = Key { topic: self.share(&key.topic), ..key };
        self.turn += 1;
        self.order.insert(self.turn, key.clone());
        let same =
            before.is_some_and(|before| before.value == value && before.since == since && before.expires == expires);
        self.facts.insert(key, Entry { value, since, expires, used: self.turn });
        !same
    }

    /// What is known of a subject under a topic.
    pub fn recall(&mut self, now: Timestamp, subject: &str, topic: &str) -> Option<Fact> {
        let key = Key { subject: subject.into(), topic: topic.into() };
        let entry = self.facts.get_mut(&key)?;
        if entry.expires <= now {
            self.remove(&key);
            return None;
        }
        self.turn += 1;
        self.order.remove(&entry.used);
        entry.used = self.turn;
        let fact = Fact { key: key.clone(), value: entry.value.clone(), since: entry.since, expires: entry.expires };
        self.order.insert(self.turn, key);
        Some(fact)
    }

    /// Forgets a fact. Returns whether there was one.
    pub fn forget(&mut self, subject: &str, topic: &str) -> bool {
        self.remove(&Key { subject: subject.into(), topic: topic.into() }).is_some()
    }

    /// The next facts behind `after`; what has ended is dropped in passing. An empty page is the end.
    pub fn page(&mut self, now: Timestamp, after: Option<&Key>) -> Vec<Fact> {
        let mut page = Vec::new();
        let mut ended = Vec::new();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, entry) in self.facts.range::<Key, _>((from, Bound::Unbounded)) {
            if entry.expires <= now {
                ended.push(key.clone());
                continue;
            }
            page.push(Fact {
                key: key.clone(),
                value: entry.value.clone(),
                since: entry.since,
                expires: entry.expires,
            });
            if page.len() >= PAGE_MAX {
                break;
            }
        }
        for key in ended {
            self.remove(&key);
        }
        page
    }

    /// How many facts there are, ended ones that nobody has come across yet included.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.facts.remove(key)?;
        self.order.remove(&entry.used);
        if let Some(count) = self.topics.get_mut(&key.topic) {
            *count -= 1;
            if *count == 0 {
                self.topics.remove(&key.topic);
            }
        }
        Some(entry)
    }

    /// The topic's one copy.
    fn share(&mut self, topic: &Arc<str>) -> Arc<str> {
        let shared = self.topics.get_key_value(topic).map_or_else(|| Arc::clone(topic), |(topic, _)| Arc::clone(topic));
        *self.topics.entry(Arc::clone(&shared)).or_default() += 1;
        shared
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn fact(subject: &str, value: u64, expires: u64) -> Fact {
        Fact::new(subject, "n", value.into(), at(0), at(expires))
    }

    #[test]
    fn the_fact_that_nobody_asked_for_makes_room() {
        let mut store = Store::default();
        for number in 0..FACTS_MAX {
            store.learn(at(1), fact(&number.to_string(), 0, 100));
        }
        assert!(store.recall(at(1), "0", "n").is_some());
        store.learn(at(1), fact("new", 0, 100));
        assert_eq!(store.len(), FACTS_MAX);
        assert!(store.recall(at(1), "1", "n").is_none(), "the one not used for longest");
        assert!(store.recall(at(1), "0", "n").is_some() && store.recall(at(1), "new", "n").is_some());
    }

    #[test]
    fn what_is_too_large_is_not_learned() {
        let mut store = Store::default();
        assert!(!store.learn(at(1), fact(&"x".repeat(SUBJECT_MAX + 1), 0, 100)));
        let large = Value::String("x".repeat(VALUE_MAX));
        assert!(!store.learn(at(1), Fact::new("a", "n", large, at(0), at(100))));
        assert!(!store.learn(at(1), fact("a", 0, 1)), "ended");
        assert!(store.is_empty());
    }

    #[test]
    fn learning_the_same_again_is_no_change() {
        let mut store = Store::default();
        assert!(store.learn(at(1), fact("a", 1, 100)));
        assert!(!store.learn(at(2), fact("a", 1, 100)));
        assert!(store.learn(at(2), fact("a", 2, 100)));
    }

    #[test]
    fn a_page_of_ended_facts_is_not_the_end_of_them_all() {
        let mut store = Store::default();
        for number in 0..PAGE_MAX * 2 {
            store.learn(at(1), fact(&format!("{number:05}"), 0, 10));
        }
        store.learn(at(1), fact("99999", 0, 100));
        assert_eq!(store.page(at(50), None).len(), 1);
        assert_eq!(store.len(), 1, "dropped in passing");
    }

    proptest! {
        #[test]
        fn the_books_balance_whatever_is_learned_and_forgotten(
            acts in proptest::collection::vec((0u8..4, 0u8..12, 0u8..3, 0u64..40), 0..200),
        ) {
            let mut store = Store::default();
            let mut model: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
            let mut now = 0;
            for (act, subject, topic, number) in acts {
                let (subject, topic) = (subject.to_string(), topic.to_string());
                let key = (subject.clone(), topic.clone());
                match act {
                    0 => {
                        let fact = Fact::new(&subject, &topic, number.into(), at(now), at(now + number));
                        store.learn(at(now), fact);
                        if number > 0 { model.insert(key, (number, now + number)); }
                    }
                    1 => { store.forget(&subject, &topic); model.remove(&key); }
                    2 => now += number / 4,
                    _ => {
                        let known = model.get(&key).filter(|(_, ends)| *ends > now).map(|(value, _)| *value);
                        let found = store.recall(at(now), &subject, &topic).map(|fact| fact.value);
                        prop_assert_eq!(found, known.map(Value::from));
                    }
                }
                prop_assert_eq!(store.facts.len(), store.order.len());
                prop_assert_eq!(store.topics.values().sum::<u32>() as usize, store.facts.len());
            }
            let live = model.values().filter(|(_, ends)| *ends > now).count();
            prop_assert_eq!(store.page(at(now), None).len(), live);
        }
    }

    #[test]
    fn a_fact_survives_being_written_and_read() {
        let fact = Fact::new("[2001:db8::1]:25", "level", "stream".into(), at(7), at(7) + Duration::from_micros(9));
        let text = serde_json::to_string(&fact).unwrap();
        assert!(text.contains(r#""subject":"[2001:db8::1]:25""#), "{text}");
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
    }
}

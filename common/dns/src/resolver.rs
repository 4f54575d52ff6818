//! Questions about mail made of look-ups of records.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use zrelay_clock::Timestamp;

use crate::cache::{Cache, Found, Key};
use crate::message::Kind;
use crate::name::{is_host, normal};
use crate::queries::{Arrival, Queries, Transmit};
use crate::{DnsError, Exchange, Question, Settings, Target};

/// Questions that may wait for their answers; further ones are answered [`DnsError::Temporary`] at once. Ten for each
/// of the thousand agents that a hub has by default.
pub const QUESTIONS_MAX: usize = 10_000;

/// Exchanges of a domain that are looked at, the best first. The largest sites publish a dozen.
const EXCHANGES_MAX: usize = 32;

/// Addresses of an exchange that are kept per family.
const ADDRESSES_MAX: usize = 16;

/// A stub resolver for mail without a socket. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Resolver {
    queries: Queries,
    cache: Cache,
    jobs: HashMap<u64, Job>,
    by_question: HashMap<Question, u64>,
    /// Which jobs wait for a look-up.
    wanted: HashMap<Key, Vec<u64>>,
    answers: VecDeque<(u64, Result<Target, DnsError>)>,
    waiting: usize,
    serial: u64,
}

/// One question, asked by everyone who asked it.
#[derive(Debug)]
struct Job {
    /// With its name in normal form.
    question: Question,
    tokens: Vec<u64>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Waits for the MX records.
    Exchanges,
    /// Waits for addresses.
    Addresses(Vec<Candidate>),
}

/// An exchange on its way to an [`Exchange`].
#[derive(Debug)]
struct Candidate {
    preference: u16,
    name: Arc<str>,
    v6: Option<Found>,
    v4: Option<Found>,
}

impl Resolver {
    /// A resolver that asks `settings.servers`. The driver takes `seed` from the operating system's randomness: the ids
    /// of queries follow from it.
    pub fn new(mut settings: Settings, seed: [u8; 32]) -> Self {
        settings.servers.iter_mut().for_each(reachable);
        Self {
            queries: Queries::new(settings, seed),
            cache: Cache::default(),
            jobs: HashMap::new(),
            by_question: HashMap::new(),
            wanted: HashMap::new(),
            answers: VecDeque::new(),
            waiting: 0,
            serial: 0,
        }
    }

    /// Asks `question`; the answer comes from [`Resolver::poll_answer`] with `token`, once for each call.
    pub fn resolve(&mut self, now: Timestamp, token: u64, question: Question) {
        let Some(question) = normalised(&question) else {
            return self.answers.push_back((token, Err(DnsError::BadName)));
        };
        if self.waiting >= QUESTIONS_MAX {
            let error = DnsError::Temporary("too many questions wait for an answer".to_owned());
            return self.answers.push_back((token, Err(error)));
        }
        self.waiting += 1;
        if let Some(job) = self.by_question.get(&question).and_then(|id| self.jobs.get_mut(id)) {
            return job.tokens.push(token);
        }
        self.begin(now, token, question);
        self.advance(now);
    }

    /// A datagram that came in from `from` through the socket `path`.
    pub fn handle_datagram(&mut self, now: Timestamp, from: SocketAddr, path: u8, datagram: &[u8]) {
        self.queries.handle_message(now, Arrival::Datagram { from, path }, datagram);
        self.advance(now);
    }

    /// A message that came in over the connection that was made for the query `id`, without its length.
    pub fn handle_tcp(&mut self, now: Timestamp, id: u16, message: &[u8]) {
        self.queries.handle_message(now, Arrival::Connection { id }, message);
        self.advance(now);
    }

    /// The query `id` could not be sent, or its connection ended without an answer; why, in a few words.
    pub fn handle_failure(&mut self, now: Timestamp, id: u16, reason: &str) {
        self.queries.handle_failure(now, id, reason);
        self.advance(now);
    }

    /// Time has passed. Call when [`Resolver::poll_timeout`] says so; any other time does no harm.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.queries.handle_timeout(now);
        self.advance(now);
    }

    /// What to send next; call until it has nothing, after every other call.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.queries.poll_transmit()
    }

    /// The next answer; call until it has none, after every other call.
    pub fn poll_answer(&mut self) -> Option<(u64, Result<Target, DnsError>)> {
        self.answers.pop_front()
    }

    /// When [`Resolver::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.queries.poll_timeout()
    }

    fn begin(&mut self, now: Timestamp, token: u64, question: Question) {
        self.serial = self.serial.wrapping_add(1);
        let id = self.serial;
        self.by_question.insert(question.clone(), id);
        let name: Arc<str> = name_of(&question).into();
        let stage = match question {
            Question::Mx(_) => Stage::Exchanges,
            Question::Hosts(_) => Stage::Addresses(vec![Candidate::new(0, Arc::clone(&name))]),
        };
        let kinds: &[Kind] = match stage {
            Stage::Exchanges => &[Kind::Mx],
            Stage::Addresses(_) => &[Kind::Aaaa, Kind::A],
        };
        self.jobs.insert(id, Job { question, tokens: vec![token], stage });
        for kind in kinds {
            self.look_up(now, id, Key { name: Arc::clone(&name), kind: *kind });
        }
    }

    fn look_up(&mut self, now: Timestamp, job: u64, key: Key) {
        if let Some(found) = self.cache.get(now, &key) {
            return self.found(now, job, &key, found);
        }
        self.wanted.entry(key.clone()).or_default().push(job);
        self.queries.ask(now, key);
    }

    fn advance(&mut self, now: Timestamp) {
        while let Some((key, found, ttl)) = self.queries.poll_done() {
            self.cache.insert(now, key.clone(), found.clone(), ttl);
            for job in self.wanted.remove(&key).unwrap_or_default() {
                self.found(now, job, &key, found.clone());
            }
        }
    }

    fn found(&mut self, now: Timestamp, id: u64, key: &Key, found: Found) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let candidates = match &mut job.stage {
            Stage::Exchanges => {
                let candidates = candidates(key, found);
                return self.exchanges(now, id, candidates);
            }
            Stage::Addresses(candidates) => candidates,
        };
        for candidate in candidates.iter_mut().filter(|candidate| candidate.name == key.name) {
            match key.kind {
                Kind::Aaaa => candidate.v6 = Some(found.clone()),
                Kind::A => candidate.v4 = Some(found.clone()),
                Kind::Mx => {}
            }
        }
        if candidates.iter().all(Candidate::is_complete) {
            let answer = target(candidates);
            self.answer(id, &answer);
        }
    }

    fn exchanges(&mut self, now: Timestamp, id: u64, candidates: Result<Vec<Candidate>, DnsError>) {
        let candidates = match candidates {
            Ok(candidates) => candidates,
            Err(error) => return self.answer(id, &Err(error)),
        };
        let names: Vec<Arc<str>> = candidates.iter().map(|candidate| Arc::clone(&candidate.name)).collect();
        if let Some(job) = self.jobs.get_mut(&id) {
            job.stage = Stage::Addresses(candidates);
        }
        for name in names {
            for kind in [Kind::Aaaa, Kind::A] {
                self.look_up(now, id, Key { name: Arc::clone(&name), kind });
            }
        }
    }

    fn answer(&mut self, id: u64, answer: &Result<Target, DnsError>) {
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        self.by_question.remove(&job.question);
        self.waiting = self.waiting.saturating_sub(job.tokens.len());
        self.answers.extend(job.tokens.into_iter().map(|token| (token, answer.clone())));
    }
}

impl Candidate {
    fn new(preference: u16, name: Arc<str>) -> Self {
        Self { preference, name, v6: None, v4: None }
    }

    fn is_complete(&self) -> bool {
        self.v6.is_some() && self.v4.is_some()
    }

    /// Both families in turn, IPv6 first.
    fn addresses(&self) -> Vec<IpAddr> {
        let [v6, v4] = [&self.v6, &self.v4].map(|found| match found {
            Some(Found::Addresses(addresses)) => addresses.get(..ADDRESSES_MAX).unwrap_or(addresses),
            _ => &[],
        });
        let longest = v6.len().max(v4.len());
        (0..longest).flat_map(|index| [v6.get(index), v4.get(index)]).flatten().copied().collect()
    }

    /// Why the servers could not tell, if they could not.
    fn failure(&self) -> Option<String> {
        [(Kind::A, &self.v4), (Kind::Aaaa, &self.v6)].into_iter().find_map(|(kind, found)| match found {
            Some(Found::Failed(reason)) => Some(failure(&self.name, kind, reason)),
            _ => None,
        })
    }

    fn is_unknown(&self) -> bool {
        [&self.v6, &self.v4].into_iter().any(|found| matches!(found, Some(Found::NoDomain)))
    }
}

/// The hosts to look up for what was found under the MX records of `key`.
fn candidates(key: &Key, found: Found) -> Result<Vec<Candidate>, DnsError> {
    let exchanges = match found {
        Found::Exchanges(exchanges) => exchanges,
        Found::NoDomain => return Err(DnsError::NoSuchDomain),
        Found::Failed(reason) => return Err(DnsError::Temporary(failure(&key.name, key.kind, &reason))),
        // RFC 5321 §5.1: the domain itself is its exchange, with preference 0.
        Found::NoData | Found::Addresses(_) => return Ok(vec![Candidate::new(0, Arc::clone(&key.name))]),
    };
    if exchanges.iter().all(|(_, name)| name.is_empty()) {
        return Err(DnsError::NullMx);
    }
    let mut exchanges: Vec<&(u16, String)> = exchanges.iter().filter(|(_, name)| is_host(name)).collect();
    exchanges.sort();
    let mut candidates: Vec<Candidate> = Vec::new();
    for (preference, name) in exchanges {
        let is_known = candidates.iter().any(|candidate| *candidate.name == **name);
        if !is_known && candidates.len() < EXCHANGES_MAX {
            candidates.push(Candidate::new(*preference, name.as_str().into()));
        }
    }
    if candidates.is_empty() {
        return Err(DnsError::NoAddress);
    }
    Ok(candidates)
}

/// What the complete `candidates` come to. An exchange without addresses is left out; if none is left, a failure that
/// may pass counts more than one that will not.
fn target(candidates: &[Candidate]) -> Result<Target, DnsError> {
    let exchanges: Vec<Exchange> = candidates
        .iter()
        .map(|candidate| Exchange {
            preference: candidate.preference,
            name: candidate.name.to_string(),
            addresses: candidate.addresses(),
        })
        .filter(|exchange| !exchange.addresses.is_empty())
        .collect();
    if !exchanges.is_empty() {
        return Ok(Target::new(exchanges));
    }
    if let Some(reason) = candidates.iter().find_map(Candidate::failure) {
        return Err(DnsError::Temporary(reason));
    }
    match candidates {
        [only] if only.is_unknown() => Err(DnsError::NoSuchDomain),
        _ => Err(DnsError::NoAddress),
    }
}

fn failure(name: &str, kind: Kind, reason: &str) -> String {
    format!("{reason} for {name} {}", kind.as_str())
}

fn normalised(question: &Question) -> Option<Question> {
    match question {
        Question::Mx(name) => normal(name).map(Question::Mx),
        Question::Hosts(name) => normal(name).map(Question::Hosts),
    }
}

fn name_of(question: &Question) -> &str {
    match question {
        Question::Mx(name) | Question::Hosts(name) => name,
    }
}

/// `0.0.0.0` in resolv.conf(5) means this host; the answers come from its loopback address.
fn reachable(server: &mut SocketAddr) {
    if server.ip().is_unspecified() {
        server.set_ip(match server.ip() {
            IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
}

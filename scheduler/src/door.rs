//! Doors: where threads wait for a time rather than for an agent. A door opens when its limiters and the rest of its site
//! allow, and lets those that wait in one by one, the first that came first; who is let in and finds it shut again goes
//! to the end.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_config::{Clause, Rates, WarmUp};
use zrelay_sites::Sites;

use crate::limit::{RingId, RingPlace};
use crate::limiter::{Allowance, Limiter, Unit};
use crate::scheduler::Scheduler;
use crate::thread::{Thread, ThreadId};

/// The topic under which the recipients of a day from a source are remembered.
const WARM_UP: &str = "warm_up";
/// How long the count of a day is worth knowing.
const WARM_UP_MEMORY: Duration = Duration::from_secs(2 * 86_400);

/// What a door is before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    /// The site of a ring.
    Ring(RingId),
    /// All threads of a clause, by its position.
    Clause(usize),
    /// Everything from a source address, by its position.
    Source(usize),
}

impl Place {
    /// The word for the tools.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ring(_) => "site",
            Self::Clause(_) => "clause",
            Self::Source(_) => "source address",
        }
    }
}

/// What wants to pass.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Passage {
    Mail,
    Connection,
}

/// The name of a door.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DoorKey {
    pub(crate) place: Place,
    pub(crate) passage: Passage,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Door {
    limiters: Vec<Limiter>,
    /// In the order in which they came.
    waiting: BTreeSet<(u64, ThreadId)>,
    timer: Option<Timestamp>,
}

impl Door {
    /// When it opens and what holds it shut, if it is.
    fn shut(&self, now: Timestamp) -> Option<(Timestamp, &Limiter)> {
        let shut = self.limiters.iter().map(|limiter| (limiter.opens(now), limiter)).filter(|(opens, _)| *opens > now);
        shut.max_by_key(|(opens, _)| *opens)
    }
}

/// The doors before one place.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    mail: Door,
    connections: Door,
}

impl Doors {
    pub(crate) fn new(rates: &Rates) -> Self {
        let limiter = |unit, rate: Option<_>| rate.map(|rate| Limiter::rate(unit, rate));
        let mail = [
            limiter(Unit::Messages, rates.messages),
            limiter(Unit::Recipients, rates.recipients),
            limiter(Unit::Bytes, rates.bytes),
        ];
        let connections = limiter(Unit::Connections, rates.connections);
        Self {
            mail: Door { limiters: mail.into_iter().flatten().collect(), ..Door::default() },
            connections: Door { limiters: connections.into_iter().collect(), ..Door::default() },
        }
    }

    fn of(&self, passage: Passage) -> &Door {
        match passage {
            Passage::Mail => &self.mail,
            Passage::Connection => &self.connections,
        }
    }

    fn of_mut(&mut self, passage: Passage) -> &mut Door {
        match passage {
            Passage::Mail => &mut self.mail,
            Passage::Connection => &mut self.connections,
        }
    }
}

/// All doors but those of the rings, and when they open.
#[derive(Debug)]
pub(crate) struct Gates {
    clauses: Vec<Doors>,
    sources: Vec<(IpAddr, Doors)>,
    timers: BTreeSet<(Timestamp, DoorKey)>,
    /// Doors at which those that wait may be let in.
    opened: Vec<DoorKey>,
    next_turn: u64,
}

impl Gates {
    pub(crate) fn new(clauses: &[std::sync::Arc<Clause>], sources: &[WarmUp]) -> Self {
        let source = |plan: &WarmUp| {
            let days = Limiter::days(plan.clone(), 0, 0);
            let mail = Door { limiters: vec![days], ..Door::default() };
            (plan.address, Doors { mail, connections: Door::default() })
        };
        Self {
            clauses: clauses.iter().map(|clause| Doors::new(&clause.clause_rates)).collect(),
            sources: sources.iter().map(source).collect(),
            timers: BTreeSet::new(),
            opened: Vec::new(),
            next_turn: 0,
        }
    }

    /// Takes the counts of the day from what is remembered.
    pub(crate) fn recall(&mut self, now: Timestamp, sources: &[WarmUp], sites: &Sites) {
        for (plan, (_, doors)) in sources.iter().zip(&mut self.sources) {
            let kept = sites.recall::<(u64, u64)>(now, &plan.address.to_string(), WARM_UP);
            let (day, count) = kept.unwrap_or_default();
            doors.mail.limiters = vec![Limiter::days(plan.clone(), day, count)];
        }
    }

    /// When the next door opens.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }
}

/// A door that is shut: which, until when, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shut {
    pub(crate) key: DoorKey,
    pub(crate) until: Timestamp,
    pub(crate) why: Why,
}

/// Why a door is shut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// The site wants less mail.
    Suspended,
    /// So much of this may go, and has gone.
    UsedUp(Unit, Allowance),
}

impl Scheduler {
    fn places(&self, thread: &Thread) -> impl Iterator<Item = Place> + use<> {
        let clause = (thread.clause_index < self.gates.clauses.len()).then_some(Place::Clause(thread.clause_index));
        let source = thread.clause.source;
        let source = source.and_then(|source| self.gates.sources.iter().position(|(address, _)| *address == source));
        [Some(Place::Ring(thread.ring)), clause, source.map(Place::Source)].into_iter().flatten()
    }

    fn doors(&self, place: Place) -> Option<&Doors> {
        match place {
            Place::Ring(ring) => self.rings.get(ring).map(|ring| &ring.doors),
            Place::Clause(index) => self.gates.clauses.get(index),
            Place::Source(index) => self.gates.sources.get(index).map(|(_, doors)| doors),
        }
    }

    fn door_mut(&mut self, key: DoorKey) -> Option<&mut Door> {
        let doors = match key.place {
            Place::Ring(ring) => self.rings.get_mut(ring).map(|ring| &mut ring.doors),
            Place::Clause(index) => self.gates.clauses.get_mut(index),
            Place::Source(index) => self.gates.sources.get_mut(index).map(|(_, doors)| doors),
        };
        doors.map(|doors| doors.of_mut(key.passage))
    }

    fn is_shut(&self, key: DoorKey, now: Timestamp) -> Option<Shut> {
        let doors = match key.place {
            Place::Ring(ring) => {
                let ring = self.rings.get(ring)?;
                if let (Passage::Mail, Some((until, _))) = (key.passage, ring.pace.suspended(now)) {
                    return Some(Shut { key, until, why: Why::Suspended });
                }
                &ring.doors
            }
            place => self.doors(place)?,
        };
        let (until, limiter) = doors.of(key.passage).shut(now)?;
        Some(Shut { key, until, why: Why::UsedUp(limiter.unit, limiter.allowance(now)) })
    }

    /// Whether the site has had as many connections as it may for now.
    pub(crate) fn is_too_soon(&self, ring: RingId, now: Timestamp) -> bool {
        self.is_shut(DoorKey { place: Place::Ring(ring), passage: Passage::Connection }, now).is_some()
    }

    /// The door that holds the thread back, if one does: the one that opens last.
    pub(crate) fn shut(&self, thread: &Thread, passage: Passage, now: Timestamp) -> Option<Shut> {
        let doors = self.places(thread).filter_map(|place| self.is_shut(DoorKey { place, passage }, now));
        doors.max_by_key(|shut| shut.until)
    }

    /// The thread waits at a door; one that does already keeps its turn.
    pub(crate) fn wait_at(&mut self, id: ThreadId, shut: Shut) {
        self.leave_line(id);
        let Some(thread) = self.threads.get(id) else { return };
        if thread.door.is_some_and(|(key, _)| key == shut.key) {
            return;
        }
        self.leave_door(id);
        self.gates.next_turn += 1;
        let turn = self.gates.next_turn;
        if let Some(thread) = self.threads.get_mut(id) {
            thread.door = Some((shut.key, turn));
        }
        if let Some(door) = self.door_mut(shut.key) {
            door.waiting.insert((turn, id));
        }
        self.arm_door(shut.key, shut.until);
    }

    /// The thread waits at no door any more.
    pub(crate) fn leave_door(&mut self, id: ThreadId) {
        let Some((key, turn)) = self.threads.get_mut(id).and_then(|thread| thread.door.take()) else { return };
        if let Some(door) = self.door_mut(key) {
            door.waiting.remove(&(turn, id));
        }
    }

    /// Sees to it that the door is looked at then, or before.
    fn arm_door(&mut self, key: DoorKey, at: Timestamp) {
        let Some(door) = self.door_mut(key) else { return };
        let before = door.timer;
        if before.is_some_and(|before| before <= at) {
            return;
        }
        door.timer = Some(at);
        if let Some(before) = before {
            self.gates.timers.remove(&(before, key));
        }
        self.gates.timers.insert((at, key));
    }

    /// The clock has come to the times at which doors open.
    pub(crate) fn open_doors(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.gates.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.gates.timers.remove(&(at, key));
            if let Some(door) = self.door_mut(key) {
                door.timer = None;
            }
            self.gates.opened.push(key);
        }
    }

    /// Somebody has opened the site before its time.
    pub(crate) fn open_site(&mut self, ring: RingId) {
        self.gates.opened.push(DoorKey { place: Place::Ring(ring), passage: Passage::Mail });
    }

    /// Lets one thread in at a door that has opened. Returns whether there was such a door.
    pub(crate) fn let_in(&mut self, now: Timestamp) -> bool {
        let Some(key) = self.gates.opened.last().copied() else { return false };
        let shut = self.is_shut(key, now);
        let Some(door) = self.door_mut(key) else {
            self.gates.opened.pop();
            return true;
        };
        let first = if shut.is_none() { door.waiting.pop_first() } else { None };
        let empty = door.waiting.is_empty();
        if let Some((_, id)) = first {
            if let Some(thread) = self.threads.get_mut(id) {
                thread.door = None;
            }
            self.touch(id);
            return true;
        }
        self.gates.opened.pop();
        if let Some(shut) = shut.filter(|_| !empty) {
            self.arm_door(key, shut.until);
        }
        true
    }

    /// A ring ends; nobody waits for it any more.
    pub(crate) fn drop_doors(&mut self, id: RingId, doors: &Doors) {
        for passage in [Passage::Mail, Passage::Connection] {
            if let Some(at) = doors.of(passage).timer {
                self.gates.timers.remove(&(at, DoorKey { place: Place::Ring(id), passage }));
            }
        }
    }

    /// Recipients of one batch that may go to the thread's host now, at least one.
    pub(crate) fn room(&self, thread: &Thread, now: Timestamp) -> usize {
        let doors = self.places(thread).filter_map(|place| self.doors(place));
        let limiters = doors.flat_map(|doors| &doors.mail.limiters).filter(|one| one.unit == Unit::Recipients);
        let room = limiters.map(|limiter| limiter.room(now)).min().unwrap_or(u64::MAX);
        usize::try_from(room).unwrap_or(usize::MAX).max(1)
    }

    /// Mail goes out.
    pub(crate) fn charge(&mut self, id: ThreadId, now: Timestamp, messages: u64, recipients: u64, bytes: u64) {
        let Some(thread) = self.threads.get(id) else { return };
        for place in self.places(thread) {
            let Some(door) = self.door_mut(DoorKey { place, passage: Passage::Mail }) else { continue };
            for limiter in &mut door.limiters {
                match limiter.unit {
                    Unit::Messages => limiter.take(now, messages),
                    Unit::Recipients => limiter.take(now, recipients),
                    Unit::Bytes => limiter.take(now, bytes),
                    Unit::Connections => {}
                }
            }
            self.remember_day(place, now);
        }
    }

    /// A day's count must not begin anew with the hub.
    fn remember_day(&self, place: Place, now: Timestamp) {
        let Place::Source(index) = place else { return };
        let Some((address, doors)) = self.gates.sources.get(index) else { return };
        if let Some(count) = doors.mail.limiters.iter().find_map(Limiter::day) {
            self.sites.learn(now, &address.to_string(), WARM_UP, &count, WARM_UP_MEMORY);
        }
    }

    /// A connection is begun for a thread. Returns whether its site is known and has been counted.
    pub(crate) fn charge_connection(&mut self, id: ThreadId, now: Timestamp) -> bool {
        let Some(thread) = self.threads.get(id) else { return false };
        let ring = self.rings.get(thread.ring);
        let known = ring.is_some_and(|ring| matches!(ring.key.place, RingPlace::Site(_)));
        for place in self.places(thread) {
            if known || !matches!(place, Place::Ring(_)) {
                self.charge_connection_at(place, now);
            }
        }
        known
    }

    /// A connection is begun to a place.
    pub(crate) fn charge_connection_at(&mut self, place: Place, now: Timestamp) {
        let Some(door) = self.door_mut(DoorKey { place, passage: Passage::Connection }) else { return };
        for limiter in &mut door.limiters {
            limiter.take(now, 1);
        }
    }
}

//! Damage that the disk does to what was durable: a changed octet, a sector that cannot be read, a file cut short.
//!
//! It may cost what was recorded there, and nothing else; and it is told.

use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;

use super::ops::{Op, ops};
use super::scenario::Scenario;
use super::state::State;
use crate::format::{Found, Kind, Scan, Step, framed};
use crate::message::Layout;
use crate::record::Record;
use crate::simulated::SECTOR;
use crate::storage::Storage;
use crate::{MessageId, Reader};

/// A scenario with damage at its end.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) ops: Vec<Op>,
    /// Which octet of all that is recorded.
    place: u64,
    harm: Harm,
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Octet(u8),
    /// Reads as zeros, as a page does that the disk does not give any more.
    Sector,
    Cut,
}

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let harm = prop_oneof![3 => (1u8..).prop_map(Harm::Octet), 2 => Just(Harm::Sector), 1 => Just(Harm::Cut)];
    let ops = proptest::collection::vec(ops(20), 50..300);
    (ops, any::<u64>(), harm).prop_map(|(ops, place, harm)| Case { ops, place, harm })
}

/// What records that were hit are about.
#[derive(Default, Debug)]
struct Touched {
    messages: BTreeSet<MessageId>,
    threads: BTreeSet<String>,
}

pub(super) fn run(case: &Case) {
    let mut scenario = Scenario::new();
    case.ops.iter().for_each(|op| scenario.run(op));
    // Everything is certain, and in segments whose ends are known.
    scenario.run(&Op::Heal);
    scenario.run(&Op::Kill);
    let Some((segment, at)) = place(&scenario, case.place) else { return };
    let octets = scenario.bench.disk.octets(segment).len();
    let hit = match case.harm {
        Harm::Octet(_) => at..at + 1,
        Harm::Sector => at / SECTOR * SECTOR..((at / SECTOR + 1) * SECTOR).min(octets),
        Harm::Cut => at..octets,
    };
    let touched = touched(&scenario, segment, &hit);
    scenario.bench.disk.tamper(segment, |octets| match case.harm {
        Harm::Octet(bits) => octets[at] ^= bits,
        Harm::Sector => octets[hit].fill(0),
        Harm::Cut => octets.truncate(at),
    });

    let found = restarted(&mut scenario, &touched);
    let expected = untouched(scenario.certain.visible(), &touched);
    assert_eq!(untouched(found.clone(), &touched), expected, "{:?}", scenario.bench.damage);
    let told = !scenario.bench.damage.is_empty();
    assert!(told || found == scenario.certain.visible(), "{touched:?} was damaged, and nobody was told");

    // It goes on from there, and compaction makes nothing worse.
    scenario.bench.compact();
    let again = restarted(&mut scenario, &touched);
    assert_eq!(untouched(again, &touched), expected);
}

/// Segment and offset of one of the octets that are recorded in full segments.
fn place(scenario: &Scenario, selector: u64) -> Option<(u32, usize)> {
    let sealed: Vec<(u32, u32)> = scenario.bench.appender.log.sealed().collect();
    let mut at = selector.checked_rem(sealed.iter().map(|(_, end)| u64::from(*end)).sum())?;
    for (segment, end) in sealed {
        if at < u64::from(end) {
            return Some((segment, at as usize));
        }
        at -= u64::from(end);
    }
    None
}

/// What is lost with these octets. What a full segment says of older ones is not needed any more.
fn touched(scenario: &Scenario, segment: u32, hit: &Range<usize>) -> Touched {
    let view = scenario.bench.disk.clone().open(segment).unwrap();
    let end = scenario.bench.appender.log.end(segment).unwrap();
    let mut touched = Touched::default();
    let reader = Reader::new(scenario.bench.shared.clone());
    for step in Scan::new(&*view, segment, end) {
        let Step::Record(found) = step else { continue };
        // With what fills it up: a segment that is cut there does not have all of it any more.
        let record = found.at as usize..(found.at + framed(found.length)) as usize;
        if record.end <= hit.start || hit.end <= record.start {
            continue;
        }
        match found.kind {
            Kind::Piece => {
                let uses = |id: &&MessageId| {
                    let stored = reader.message(**id).unwrap();
                    stored.extents().any(|extent| (extent.segment, extent.offset) == (segment, found.offset))
                };
                touched.messages.extend(scenario.certain.messages.keys().filter(uses));
            }
            _ => touched.record(&found, found.body(&*view).unwrap()),
        }
    }
    touched
}

impl Touched {
    fn record(&mut self, found: &Found, body: &[u8]) {
        if found.kind == Kind::Message {
            let layout = Layout::parse(body).unwrap();
            self.messages.extend(layout.origin(body).map(|origin| origin.message));
            self.messages.insert(layout.id);
            return;
        }
        match Record::decode(found.kind, body).unwrap() {
            Record::Routed { message, .. } | Record::Settled { message, .. } => drop(self.messages.insert(message)),
            Record::Outcomes(outcomes) => self.messages.extend(outcomes.iter().map(|outcome| outcome.batch.message)),
            Record::Batch(state) => drop(self.messages.insert(state.id.message)),
            Record::Rerouted { id, .. } => drop(self.messages.insert(id.message)),
            Record::Thread(state) => drop(self.threads.insert(state.key.to_string())),
            Record::Finished(marks) => self.messages.extend(marks.iter().map(|mark| mark.message)),
            Record::Moved(moved) => drop(self.messages.insert(moved.message)),
            Record::Segments { .. } => {}
        }
    }
}

fn restarted(scenario: &mut Scenario, touched: &Touched) -> State {
    let certain: BTreeSet<MessageId> = scenario.certain.messages.keys().copied().collect();
    scenario.bench = scenario.bench.restarted();
    scenario.recovered(|id| certain.contains(&id) || touched.messages.contains(&id))
}

fn untouched(mut state: State, touched: &Touched) -> State {
    state.messages.retain(|id, _| !touched.messages.contains(id));
    state.threads.retain(|key, _| !touched.threads.contains(key));
    state
}

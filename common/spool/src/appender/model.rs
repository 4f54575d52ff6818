//! The appender and recovery against a model: random requests, turns, power cuts and disk faults on tiny segments.
//!
//! What was taken since the last successful turn is uncertain. After a power cut the queue must be exactly what the
//! model says after some prefix of it: everything certain is there with its unfinished recipients and states, nothing
//! finished comes back, nothing is invented.
//!
//! A run of the tests does [`OPERATIONS`] random operations, from seeds that it prints. A failure names its seed and
//! the shortest list of operations that still fails. To run that seed again, or others, or more:
//!
//! ```text
//! ZRELAY_SEED=17 ZRELAY_OPERATIONS=10000000 cargo nextest run -p zrelay-spool model --success-output final
//! ```

mod damage;
mod ops;
mod scenario;
mod state;

use std::cell::Cell;
use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use ops::{Op, ops};
use scenario::Scenario;

use super::bench::{Bench, envelope, names};
use crate::simulated::{Fault, SECTOR, Simulated, Victim};
use crate::{MessageId, Notify};

/// Random operations in one run of all tests here.
const OPERATIONS: usize = 1_000_000;
/// Shares of the tests, which run side by side.
const STORMY: usize = OPERATIONS / 4;
const CALM: usize = OPERATIONS / 2;
const DAMAGED: usize = OPERATIONS / 4;
const _: () = assert!(STORMY + CALM + DAMAGED >= OPERATIONS);
/// Cases that are drawn from one seed.
const CASES: u32 = 50;

/// Runs cases from one seed after the other until they had so many operations, and says so.
fn simulate<C: Debug>(operations: usize, cases: impl Strategy<Value = C>, run: impl Fn(&C) -> usize) {
    let given = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let share = operations as f64 / OPERATIONS as f64;
    let wanted = given("ZRELAY_OPERATIONS").map_or(operations, |all| (all as f64 * share) as usize);
    let first = given("ZRELAY_SEED").unwrap_or(1);
    let (done, mut seed) = (Cell::new(0), first);
    while done.get() < wanted {
        let mut octets = [0; 32];
        octets[..8].copy_from_slice(&seed.to_le_bytes());
        let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &octets));
        let result = runner.run(&cases, |case| {
            done.set(done.get() + run(&case));
            Ok(())
        });
        if let Err(error) = result {
            panic!("seed {seed}: {error}");
        }
        seed += 1;
    }
    println!("seeds {first} to {}: {} operations", seed - 1, done.get());
    assert!(done.get() >= wanted);
}

/// Whatever happened: after another power cut all of the queue can still be finished, and then nothing is left of it.
fn end(mut scenario: Scenario, seed: u64) {
    scenario.run(&Op::PowerCut { seed });
    scenario.finish();
    scenario.run(&Op::Kill);
    assert!(scenario.certain.messages.is_empty());
}

#[test]
fn nothing_is_lost_brought_back_or_invented() {
    simulate(STORMY, proptest::collection::vec(ops(1), 1..120), |ops| {
        let mut scenario = Scenario::new();
        ops.iter().for_each(|op| scenario.run(op));
        end(scenario, 3);
        ops.len()
    });
}

/// Long enough between crashes that segments fill up and become sparse.
#[test]
fn what_compaction_moves_stays_what_it_was() {
    simulate(CALM, proptest::collection::vec(ops(20), 300..900), |ops| {
        let mut scenario = Scenario::new();
        ops.iter().for_each(|op| scenario.run(op));
        end(scenario, 5);
        ops.len()
    });
}

#[test]
fn damage_costs_what_is_recorded_there_and_is_told() {
    simulate(DAMAGED, damage::cases(), |case| {
        damage::run(case);
        case.ops.len()
    });
}

/// Not at random: a group of three commits of which each single sector, and each run of sectors from the front or the
/// back, did or did not reach the disk.
#[test]
fn however_a_group_is_torn_what_is_left_is_its_beginning() {
    const ONE: &[Notify] = &[Notify::Default];
    let mut bench = Bench::open(Simulated::default(), 1 << 16);
    let commit = |bench: &mut Bench| bench.commit(&[b'x'; 300], envelope(ONE));
    let certain: Vec<MessageId> = (0..2).map(|_| commit(&mut bench)).collect();
    bench.turn();
    let kind = std::io::ErrorKind::Other;
    bench.disk.fail(Fault { after: 0, times: Fault::FOREVER, victim: Victim::Syncs, kind });
    let torn: Vec<MessageId> = (0..3).map(|_| commit(&mut bench)).collect();
    assert_eq!(names(&bench.turn())[..3], ["broken"; 3]);
    let all: Vec<MessageId> = certain.iter().chain(&torn).copied().collect();
    let (sectors, mut seen) = ((1 << 16) / SECTOR, [false; 4]);
    for cut in 0..sectors {
        let tears: [&dyn Fn(usize) -> bool; 4] = [&|n| n < cut, &|n| n >= cut, &|n| n == cut, &|n| n != cut];
        for tear in tears {
            let disk = bench.disk.after_power_cut_with(|sector| sector.is_none_or(tear));
            let found = Bench::open(disk, 1 << 16).work.arrived;
            assert_eq!(found, all[..found.len()], "cut at sector {cut}");
            seen[found.len() - certain.len()] = true;
        }
    }
    assert_eq!(seen, [true; 4], "every beginning was seen");
}

//! Small worlds in which everything breaks (`tests/run` lets many more pass). A failure names its seed;
//! `tests/sim-replay SEED` tells its history, and so does this test with `ZRELAY_SIM_SEED=SEED` in its environment.

use std::ops::Range;

use zrelay_sim::{History, small};

/// Says which world it was that fell.
struct Falling(u64);

impl Drop for Falling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world of seed {0} has failed; its history: tests/sim-replay {0}", self.0);
        }
    }
}

fn worlds(seeds: Range<u64>) {
    let one: Option<u64> = std::env::var("ZRELAY_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let (seeds, history) = one.map_or((seeds, History::Silent), |seed| (seed..seed + 1, History::Printed));
    let (mut worlds, mut crashes, mut recipients, mut duplicates) = (0, 0, 0, 0);
    for seed in seeds {
        let _falling = Falling(seed);
        let ended = small(seed, history);
        worlds += 1;
        crashes += ended.crashes;
        recipients += ended.figures.accepted;
        duplicates += ended.figures.duplicates;
    }
    println!("{worlds} worlds, {crashes} crashes, {recipients} recipients, {duplicates} duplicates");
}

#[test]
fn whatever_breaks_every_recipient_has_one_end_and_nothing_waits_that_could_run() {
    worlds(0..100);
}

#[test]
fn whatever_breaks_every_recipient_has_one_end_and_nothing_waits_that_could_run_in_other_worlds() {
    worlds(1_000_000..1_000_100);
}

#[test]
fn a_seed_tells_the_same_history_each_time() {
    for seed in [3, 13, 69, 70, 77, 4711] {
        assert_eq!(small(seed, History::Silent), small(seed, History::Silent));
    }
}

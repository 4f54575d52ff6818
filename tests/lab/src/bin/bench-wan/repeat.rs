//! Works in which chance plays a part are done several times, each in a laboratory of its own.

use std::sync::atomic::Ordering;

use crate::contenders::{self, Bench, Contender, Failure};
use crate::outcome::Outcome;
use crate::works::Work;

/// Runs that go on side by side: with losses of 1 % they take some 10 Mbit/s together.
const AT_A_TIME: u64 = 8;

/// All runs of one work by one contender, as one outcome.
///
/// # Errors
/// One of them did not come to an end.
pub(crate) fn run(bench: Bench<'_>, contender: Contender, work: &Work, octets: u64) -> Result<Outcome, Failure> {
    let one = |number: u64| {
        let mut work = work.clone();
        work.line.seed += number;
        let outcome = contenders::run(bench, contender, &work, octets);
        if outcome.is_err() {
            bench.stop.store(true, Ordering::Relaxed);
        }
        outcome
    };
    // Losses slow most congestion controls down so much that the lines need not have the machine to themselves.
    let at_a_time = if bench.options.is_slowed_by_losses() { AT_A_TIME } else { 1 };
    let mut outcomes = Vec::new();
    let mut next = 0;
    while next < work.runs {
        let batch = next..(next + at_a_time).min(work.runs);
        next = batch.end;
        let done: Vec<Result<Outcome, Failure>> = std::thread::scope(|scope| {
            let threads: Vec<_> = batch.map(|number| scope.spawn(move || one(number))).collect();
            let panicked = |_| Err(Failure::Other("a run panicked".to_owned()));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        outcomes.extend(done.into_iter().collect::<Result<Vec<_>, _>>()?);
    }
    Outcome::middle(outcomes).ok_or_else(|| Failure::Other("there was no run".to_owned()))
}

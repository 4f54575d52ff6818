//! Batches beyond the window of the scheduler, which wait in a file of its driver.

use zrelay_scheduler::{RunId, SpillOrder, Spilled};
use zrelay_spool::{BatchId, QueuedBatch};

use super::{World, tell};
use crate::plan::Faults;

/// Of a thousand writes, so many are refused by the disk.
const REFUSED: u64 = 30;

impl World {
    /// Writes and reads what is beyond the window. Returns whether there was anything.
    pub(super) fn spill(&mut self) -> bool {
        let mut any = false;
        while let Some(order) = self.scheduler.poll_spill() {
            any = true;
            let spilled = match order {
                SpillOrder::Write { run, batches } => {
                    assert!(!batches.is_empty(), "nothing is written");
                    let ids: Vec<String> = batches.iter().map(|batch| batch.id.to_string()).collect();
                    tell!(self, "window  {} of {} wait in run {}", ids.join(", "), batches[0].thread, run.0);
                    self.seen.spilled += batches.len() as u64;
                    if self.plan.faults == Faults::None || !self.dice.in_thousand(REFUSED) {
                        self.spilled.entry(run).or_default().extend(batches);
                        continue;
                    }
                    Spilled::NotWritten { run, batches }
                }
                SpillOrder::Read { run, thread } => {
                    let batches = self.spilled.remove(&run).unwrap_or_else(|| panic!("{run:?} was never written"));
                    tell!(self, "window  run {} of {thread} is read", run.0);
                    assert!(batches.iter().all(|batch| batch.thread == thread), "{run:?} is not of {thread} alone");
                    Spilled::Read { run, batches }
                }
            };
            self.scheduler.handle_spill(self.now, spilled);
        }
        any
    }

    /// The run in which a batch waits.
    pub(super) fn run_of(&self, batch: BatchId) -> Option<RunId> {
        let holds = |(_, batches): &(&RunId, &Vec<QueuedBatch>)| batches.iter().any(|one| one.id == batch);
        self.spilled.iter().find(holds).map(|(run, _)| *run)
    }
}

//! What outcomes and operators change of a batch, without the batch itself.

use std::sync::Arc;

use zrelay_clock::Timestamp;

use crate::moved::BatchDetail;
use crate::{BatchId, BatchState, Diagnostic, Disposition, Outcome};

/// What is otherwise with a batch; `None` and `false` leave it as it was.
#[derive(Clone, Default, Debug)]
pub(crate) struct BatchChange {
    attempts: u32,
    due: Option<Timestamp>,
    held: Option<bool>,
    warned: bool,
    last: Option<Arc<Diagnostic>>,
}

impl BatchChange {
    /// It was tried.
    pub(crate) fn tried(outcome: &Outcome) -> Self {
        let is_deferred = outcome.disposition == Disposition::Deferred;
        Self {
            attempts: outcome.attempts,
            due: is_deferred.then_some(outcome.due),
            held: None,
            warned: outcome.disposition == Disposition::Delayed,
            last: is_deferred.then(|| outcome.diagnostic.clone()),
        }
    }

    /// An operator has done something.
    pub(crate) fn operated(state: &BatchState) -> Self {
        let BatchState { id: _, held, due, attempts } = *state;
        Self { attempts, due: Some(due), held: Some(held), warned: false, last: None }
    }

    /// Something else changes behind it.
    pub(super) fn join(&mut self, later: Self) {
        self.attempts = later.attempts;
        self.due = later.due.or(self.due);
        self.held = later.held.or(self.held);
        self.warned |= later.warned;
        self.last = later.last.or_else(|| self.last.take());
    }

    pub(super) fn apply(&self, batch: &mut BatchDetail) {
        batch.attempts = self.attempts;
        batch.due = self.due.or(batch.due);
        batch.held = self.held.unwrap_or(batch.held);
        batch.warned |= self.warned;
        if self.last.is_some() {
            batch.last.clone_from(&self.last);
        }
    }

    /// Octets of memory that it takes in a tree that is not quite full.
    pub(super) fn octets(&self) -> usize {
        let own = size_of::<(BatchId, Self)>();
        own + own / 2 + self.last.as_ref().map_or(0, |last| last.memory())
    }
}

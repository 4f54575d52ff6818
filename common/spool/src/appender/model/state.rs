//! The reference: what the queue is after each request, said as plainly as possible.

use std::collections::{BTreeMap, BTreeSet};

use zrelay_clock::Timestamp;

use crate::record::Record;
use crate::{Disposition, MessageId, Notify, Origin, Outcome, RoutedBatch};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub(super) body: Vec<u8>,
    pub(super) notify: Vec<Notify>,
    pub(super) unrouted: bool,
    pub(super) open: BTreeSet<u32>,
    pub(super) owed: BTreeMap<u32, Disposition>,
    pub(super) batches: Vec<Batch>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    pub(super) recipients: Vec<u32>,
    pub(super) attempts: u32,
    pub(super) due: Timestamp,
    pub(super) held: bool,
    pub(super) last: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct State {
    pub(super) messages: BTreeMap<MessageId, Message>,
    pub(super) threads: BTreeMap<String, (u32, bool)>,
}

/// One request, as the model sees it.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Commit { message: MessageId, body: Vec<u8>, notify: Vec<Notify>, origin: Option<Origin> },
    Record(Record),
}

#[derive(Clone, Debug)]
pub(super) struct Uncertain {
    pub(super) step: Step,
    /// The commit was refused.
    pub(super) refused: bool,
    /// The disk was in trouble when it was taken, so that it cannot have been written before the trouble.
    pub(super) late: bool,
}

impl State {
    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Commit { message, body, notify, origin } => {
                let fresh = Message {
                    body: body.clone(),
                    notify: notify.clone(),
                    unrouted: true,
                    open: (0..notify.len() as u32).collect(),
                    owed: BTreeMap::new(),
                    batches: Vec::new(),
                };
                self.messages.insert(*message, fresh);
                if let Some(origin) = origin {
                    self.settle(origin.message, &origin.recipients);
                }
            }
            Step::Record(Record::Routed { message, batches }) => {
                let Some(entry) = self.messages.get_mut(message) else { return };
                entry.unrouted = false;
                entry.open = batches.iter().flat_map(|batch| batch.recipients.clone()).collect();
                let batch = |batch: &RoutedBatch| Batch {
                    recipients: batch.recipients.clone(),
                    attempts: 0,
                    due: Timestamp::from_secs(1000),
                    held: false,
                    last: None,
                };
                entry.batches = batches.iter().map(batch).collect();
                self.sweep(*message);
            }
            Step::Record(Record::Outcomes(outcomes)) => outcomes.iter().for_each(|outcome| self.outcome(outcome)),
            Step::Record(Record::Batch(state)) => {
                let batches = self.messages.get_mut(&state.id.message).map(|message| &mut message.batches);
                let Some(batch) = batches.and_then(|batches| batches.get_mut(state.id.number as usize)) else { return };
                (batch.held, batch.due, batch.attempts) = (state.held, state.due, state.attempts);
            }
            Step::Record(Record::Thread(state)) => {
                self.threads.insert(state.key.to_string(), (state.failures, state.held));
                self.threads.retain(|_, (failures, held)| *failures > 0 || *held);
            }
            Step::Record(Record::Settled { message, recipients }) => self.settle(*message, recipients),
            Step::Record(_) => unreachable!(),
        }
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        let Some(message) = self.messages.get_mut(&outcome.batch.message) else { return };
        let open: Vec<u32> = outcome.recipients.iter().copied().filter(|r| message.open.contains(r)).collect();
        if open.is_empty() {
            return;
        }
        let batch = &mut message.batches[outcome.batch.number as usize];
        batch.attempts = outcome.attempts;
        if outcome.disposition == Disposition::Deferred {
            batch.due = outcome.due;
            batch.last = Some(outcome.diagnostic.text.clone());
            return;
        }
        for recipient in open {
            message.open.remove(&recipient);
            let notify = message.notify[recipient as usize];
            let owes = match outcome.disposition {
                Disposition::Failed | Disposition::Expired => notify.failure(),
                Disposition::Delivered { dsn_relayed: false } => notify.success(),
                _ => false,
            };
            if owes {
                message.owed.insert(recipient, outcome.disposition);
            }
        }
        self.sweep(outcome.batch.message);
    }

    pub(super) fn settle(&mut self, message: MessageId, recipients: &[u32]) {
        let Some(entry) = self.messages.get_mut(&message) else { return };
        entry.owed.retain(|recipient, _| !recipients.contains(recipient));
        self.sweep(message);
    }

    pub(super) fn sweep(&mut self, message: MessageId) {
        self.messages.retain(|id, entry| *id != message || !entry.open.is_empty() || !entry.owed.is_empty());
    }

    /// What a restart may tell of it: batches without open recipients are over.
    pub(super) fn visible(&self) -> Self {
        let mut visible = self.clone();
        for message in visible.messages.values_mut() {
            let open = &message.open;
            message.batches.iter_mut().for_each(|batch| batch.recipients.retain(|r| open.contains(r)));
            message.batches.retain(|batch| !batch.recipients.is_empty());
            if message.batches.is_empty() && !message.unrouted {
                message.batches.clear();
            }
        }
        visible
    }

    pub(super) fn pick(&self, selector: u8, fits: impl Fn(&Message) -> bool) -> Option<MessageId> {
        let fitting: Vec<MessageId> =
            self.messages.iter().filter(|(_, message)| fits(message)).map(|(id, _)| *id).collect();
        (!fitting.is_empty()).then(|| fitting[selector as usize % fitting.len()])
    }
}

//! Runs a spool and the reference side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

use zrelay_clock::Timestamp;

use super::super::bench::{Bench, digest, envelope};
use super::super::*;
use super::ops::Op;
use super::state::{Batch, Message, State, Step, Uncertain};
use crate::simulated::{Fault, Random, Simulated, Victim};
use crate::{BatchId, BatchState, Diagnostic, Disposition, Notify, Outcome, Status, ThreadKey, ThreadState, Timing};

/// Small, so that there are many.
const SEGMENT: u32 = 4096;

/// A spool on a simulated disk beside the reference.
pub(super) struct Scenario {
    pub(super) bench: Bench,
    /// Known to be durable.
    pub(super) certain: State,
    uncertain: Vec<Uncertain>,
    streamed: Option<(MessageId, Vec<u8>)>,
    random: Random,
}

impl Scenario {
    pub(super) fn new() -> Self {
        let bench = Bench::open(Simulated::default(), SEGMENT);
        Self { bench, certain: State::default(), uncertain: Vec::new(), streamed: None, random: Random(1) }
    }

    /// What the state will be when nothing goes wrong from here on.
    pub(super) fn expected(&self) -> State {
        let mut state = self.certain.clone();
        self.uncertain.iter().filter(|step| !step.refused).for_each(|step| state.apply(&step.step));
        state
    }

    fn send(&mut self, step: Step, request: Request) {
        let late = self.bench.appender.is_in_trouble();
        self.uncertain.push(Uncertain { step, refused: false, late });
        self.bench.appender.take(request);
        self.listen();
    }

    fn record(&mut self, record: Record) {
        let request = match record.clone() {
            Record::Routed { message, batches } => Request::Routed { message, batches },
            Record::Outcomes(outcomes) => Request::Outcomes(outcomes),
            Record::Batch(state) => Request::Batch(state),
            Record::Thread(state) => Request::Thread(state),
            Record::Settled { message, recipients } => Request::Settled { message, recipients },
            other => panic!("{other:?}"),
        };
        self.send(Step::Record(record), request);
    }

    fn commit(&mut self, message: MessageId, tail: Vec<u8>, content: Vec<u8>, recipients: u8, origin: Option<Origin>) {
        let on = |success, failure| Notify::On { success, failure, delay: false };
        let kinds = [Notify::Default, Notify::Never, on(true, false), on(false, true)];
        let notify: Vec<Notify> = (0..recipients).map(|n| kinds[usize::from(n + recipients) % 4]).collect();
        let mut envelope = Box::new(envelope(&notify));
        envelope.origin = origin.clone();
        let reply = self.bench.reply(message);
        let digest = digest(&content);
        let step = Step::Commit { message, body: content, notify, origin };
        self.send(step, Request::Commit { message, tail, digest, envelope, reply });
    }

    /// Hears what the appender says.
    fn listen(&mut self) {
        for output in self.bench.outputs() {
            let Output::Answer(_, Committed { token, result: Err(_) }) = output else { continue };
            let refused = |step: &Uncertain| matches!(&step.step, Step::Commit { message, .. } if message.0 == token);
            self.uncertain.iter_mut().rev().find(|step| refused(step)).unwrap().refused = true;
        }
        // Nothing that was answered with success may be uncertain any more; see `turned`.
    }

    fn turned(&mut self) {
        self.listen();
        if !self.bench.appender.is_in_trouble() {
            self.certain = self.expected();
            self.uncertain.clear();
            assert_eq!(self.bench.shared.statistics().open_messages, self.certain.messages.len() as u64);
        }
    }

    pub(super) fn run(&mut self, op: &Op) {
        match *op {
            Op::Commit { recipients, octets, body } => {
                let message = self.bench.shared.next_id();
                let content = vec![body; usize::from(octets)];
                self.commit(message, content.clone(), content, recipients, None);
            }
            Op::Append { octets } => {
                let (message, content) = self.streamed.get_or_insert_with(|| (self.bench.shared.next_id(), Vec::new()));
                let bytes = vec![content.len() as u8; usize::from(octets)];
                content.extend_from_slice(&bytes);
                let message = *message;
                self.bench.appender.take(Request::Append { message, bytes });
                self.listen();
            }
            Op::CommitStreamed { octets } => {
                let Some((message, mut content)) = self.streamed.take() else { return };
                let tail = vec![b't'; usize::from(octets)];
                content.extend_from_slice(&tail);
                self.commit(message, tail, content, 2, None);
            }
            Op::Abort => {
                let Some((message, _)) = self.streamed.take() else { return };
                self.bench.appender.take(Request::Abort { message });
            }
            Op::Route { message, split } => self.route(message, split),
            Op::Outcome { message, recipients, disposition, attempts } => {
                self.outcome(message, recipients, disposition, attempts);
            }
            Op::Hold { message, held, due } => {
                let Some(message) = self.certain.pick(message, |message| !message.batches.is_empty()) else { return };
                let (id, due) = (BatchId { message, number: 0 }, Timestamp::from_secs(due.into()));
                self.record(Record::Batch(BatchState { id, held, due, attempts: 7 }));
            }
            Op::Thread { host, failures, held } => self.record(Record::Thread(ThreadState {
                key: ThreadKey::new("smtp", &format!("host{host}")),
                failures: failures.into(),
                due: Timestamp::from_secs(5),
                held,
                last: None,
            })),
            Op::Settle { message } => {
                let Some(message) = self.certain.pick(message, |message| !message.owed.is_empty()) else { return };
                let recipients = self.certain.messages[&message].owed.keys().take(2).copied().collect();
                self.record(Record::Settled { message, recipients });
            }
            Op::Report { message } => {
                let Some(of) = self.certain.pick(message, |message| !message.owed.is_empty()) else { return };
                let recipients = self.certain.messages[&of].owed.keys().copied().collect();
                let message = self.bench.shared.next_id();
                let body = b"report".to_vec();
                self.commit(message, body.clone(), body, 1, Some(Origin { message: of, recipients }));
            }
            Op::Turn => {
                self.bench.appender.turn();
                self.turned();
            }
            Op::Checkpoint => {
                self.bench.checkpoint();
            }
            Op::Idle => {
                self.bench.appender.settle();
                self.turned();
            }
            Op::Compact { octets } => {
                self.bench.appender.grant(octets.into());
                self.bench.appender.settle();
                self.turned();
            }
            Op::Break { after, times, victim, full } => {
                let kind = if full { ErrorKind::StorageFull } else { ErrorKind::Other };
                let victim = match victim {
                    0 => Victim::Writes,
                    1 => Victim::Syncs,
                    2 => Victim::Names,
                    _ => Victim::All,
                };
                let times = times.map_or(Fault::FOREVER, u32::from);
                self.bench.disk.fail(Fault { after: after.into(), times, victim, kind });
            }
            Op::Retry => {
                self.bench.appender.retry();
                self.listen();
                self.bench.appender.turn();
                self.turned();
            }
            Op::PowerCutAfter { operations, seed } => {
                self.bench.disk.break_after(operations.into(), ErrorKind::Other);
                self.bench.appender.grant(10_000);
                self.bench.appender.settle();
                self.turned();
                self.run(&Op::PowerCut { seed });
            }
            Op::Heal => {
                self.bench.disk.heal();
                self.bench.appender.retry();
                self.listen();
                self.bench.appender.turn();
                self.turned();
                assert!(!self.bench.appender.is_in_trouble());
            }
            Op::PowerCut { seed } => {
                self.random = Random(seed);
                let disk = self.bench.disk.after_power_cut(&mut self.random);
                self.restart(disk);
            }
            Op::Kill => {
                let disk = self.bench.disk.after_kill();
                self.restart(disk);
            }
        }
    }

    fn route(&mut self, selector: u8, split: u8) {
        let Some(message) = self.certain.pick(selector, |message| message.unrouted) else { return };
        if !self.expected().messages.get(&message).is_some_and(|message| message.unrouted) {
            return;
        }
        let all = &self.certain.messages[&message].open;
        let (left, right): (Vec<u32>, Vec<u32>) = all.iter().partition(|r| split >> **r & 1 == 0);
        // One in eight is a duplicate of another.
        let right = if split >= 224 && !left.is_empty() { Vec::new() } else { right };
        let batch =
            |(host, recipients): (&str, Vec<u32>)| RoutedBatch { thread: ThreadKey::new("smtp", host), recipients };
        let batches = [("a", left), ("b", right)].into_iter().filter(|(_, recipients)| !recipients.is_empty());
        self.record(Record::Routed { message, batches: batches.map(batch).collect() });
    }

    fn outcome(&mut self, selector: u8, which: u8, disposition: u8, attempts: u8) {
        let expected = self.expected();
        let fits = |message: &Message| !message.batches.is_empty() && !message.open.is_empty();
        let Some(message) = self.certain.pick(selector, fits) else { return };
        let Some(entry) = expected.messages.get(&message) else { return };
        let disposition = match disposition % 7 {
            0 => Disposition::Deferred,
            1 => Disposition::Failed,
            2 => Disposition::Expired,
            3 => Disposition::Dropped,
            4 => Disposition::Delivered { dsn_relayed: true },
            _ => Disposition::Delivered { dsn_relayed: false },
        };
        let mut outcomes = Vec::new();
        for (number, batch) in (0..).zip(&entry.batches) {
            let chosen = |r: &u32| entry.open.contains(r) && (which == 255 || which >> (r % 7) & 1 == 1);
            let recipients: Vec<u32> = batch.recipients.iter().copied().filter(chosen).collect();
            if recipients.is_empty() {
                continue;
            }
            outcomes.push(Outcome {
                batch: BatchId { message, number },
                recipients,
                disposition,
                diagnostic: Arc::new(Diagnostic::local(Status(4, 0, 0), format!("attempt {attempts}"))),
                at: Timestamp::from_secs(7),
                attempts: attempts.into(),
                due: Timestamp::from_secs(2000 + u64::from(attempts)),
                timing: Timing::default(),
                channel: None,
            });
        }
        if !outcomes.is_empty() {
            self.record(Record::Outcomes(outcomes));
        }
    }

    pub(super) fn restart(&mut self, disk: Simulated) {
        self.streamed = None;
        let candidates = self.candidates();
        self.bench = Bench::open(disk, SEGMENT);
        assert_eq!(self.bench.damage, [], "no crash does damage");
        let found = self.recovered(|id| candidates.iter().any(|state| state.messages.contains_key(&id)));
        let expected = candidates.iter().rev().find(|state| state.visible() == found);
        let Some(expected) = expected else {
            panic!(
                "recovered {found:#?}\nexpected one of {:#?}",
                candidates.iter().map(State::visible).collect::<Vec<_>>()
            )
        };
        self.certain = expected.clone();
        self.uncertain.clear();
    }

    /// All states that a restart may find.
    fn candidates(&self) -> Vec<State> {
        let mut candidates = vec![self.certain.clone()];
        let early = self.uncertain.iter().filter(|step| !step.late);
        let kept = self.uncertain.iter().filter(|step| !step.refused);
        for steps in [early.collect::<Vec<_>>(), kept.collect()] {
            let mut state = self.certain.clone();
            for step in steps {
                state.apply(&step.step);
                candidates.push(state.clone());
            }
        }
        candidates
    }

    /// What the restart found, in the model's terms; nothing may be there that is not `known`.
    pub(super) fn recovered(&self, known: impl Fn(MessageId) -> bool) -> State {
        let mut state = State::default();
        let reader = Reader::new(self.bench.shared.clone());
        let mut message = |id: MessageId, change: &mut dyn FnMut(&mut Message)| {
            let entry = state.messages.entry(id).or_insert_with(|| {
                let stored = reader.message(id).unwrap();
                assert!(known(id), "{id} is back");
                Message {
                    body: stored.body().collect::<Vec<_>>().concat(),
                    notify: (0..stored.recipients()).map(|r| stored.recipient(r).notify).collect(),
                    unrouted: false,
                    open: BTreeSet::new(),
                    owed: BTreeMap::new(),
                    batches: Vec::new(),
                }
            });
            change(entry);
        };
        for id in &self.bench.work.arrived {
            message(*id, &mut |message| {
                message.unrouted = true;
                message.open = (0..message.notify.len() as u32).collect();
            });
        }
        for batch in &self.bench.work.batches {
            message(batch.id.message, &mut |message| {
                message.open.extend(batch.recipients.iter());
                message.batches.push(Batch {
                    recipients: batch.recipients.to_vec(),
                    attempts: batch.attempts,
                    due: batch.due,
                    held: batch.held,
                    last: batch.last.as_ref().map(|last| last.text.clone()),
                });
            });
        }
        for fact in &self.bench.work.facts {
            let Fact::Owed(owed) = fact else { continue };
            message(owed.message, &mut |message| {
                message.owed.extend(owed.recipients.iter().map(|recipient| (*recipient, owed.disposition)));
            });
        }
        let threads = self.bench.work.threads.iter();
        state.threads = threads.map(|thread| (thread.key.to_string(), (thread.failures, thread.held))).collect();
        state
    }

    /// Finishes every message; then hardly a segment may be left.
    pub(super) fn finish(&mut self) {
        self.run(&Op::Abort);
        self.run(&Op::Heal);
        while !self.certain.messages.is_empty() {
            for id in self.certain.messages.keys().copied().collect::<Vec<_>>() {
                let message = &self.certain.messages[&id];
                let owed: Vec<u32> = message.owed.keys().copied().collect();
                if message.unrouted {
                    self.run(&Op::Route { message: 0, split: 0 });
                } else if !message.open.is_empty() {
                    let position =
                        self.certain.messages.iter().filter(|(_, m)| !m.batches.is_empty() && !m.open.is_empty());
                    let position = position.map(|(id, _)| *id).position(|other| other == id).unwrap();
                    self.outcome(position as u8, 255, 3, 1);
                } else {
                    self.record(Record::Settled { message: id, recipients: owed });
                }
                self.run(&Op::Turn);
            }
        }
        for _ in 0..10 {
            self.run(&Op::Idle);
        }
        assert!(self.bench.appender.is_settled());
        let segments = self.bench.disk.segments();
        assert!(segments.len() <= 3, "space is not reclaimed: {segments:?}");
    }
}

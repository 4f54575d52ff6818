//! The appender and recovery against a model: random requests, turns, power cuts and disk faults on tiny segments.
//!
//! What was taken since the last successful turn is uncertain. After a power cut the queue must be exactly what the
//! model says after some prefix of it: everything certain is there with its unfinished recipients and states, nothing
//! finished comes back, nothing is invented.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use proptest::prelude::*;
use zrelay_clock::Timestamp;

use super::tests::{Bench, digest, envelope};
use super::*;
use crate::simulated::{Random, Simulated};
use crate::{BatchId, BatchState, Diagnostic, Disposition, Notify, Outcome, Status, ThreadKey, ThreadState, Timing};

const SEGMENT: u32 = 4096;

#[derive(Clone, Debug)]
enum Op {
    Commit { recipients: u8, octets: u16, body: u8 },
    Append { octets: u16 },
    CommitStreamed { octets: u16 },
    Abort,
    Route { message: u8, split: u8 },
    Outcome { message: u8, recipients: u8, disposition: u8, attempts: u8 },
    Hold { message: u8, held: bool, due: u8 },
    Thread { host: u8, failures: u8, held: bool },
    Settle { message: u8 },
    Report { message: u8 },
    Turn,
    Idle,
    Compact { octets: u16 },
    Break { after: u8, full: bool },
    Heal,
    PowerCut { seed: u64 },
    Kill,
}

/// Few lengths, so that equal bodies are common.
fn octets() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(64), Just(700), Just(1500)]
}

/// Crashes and faults are `calm` times rarer than the rest is told to be.
fn ops(calm: u32) -> impl Strategy<Value = Op> {
    prop_oneof![
        6 * calm => (1u8..5, octets(), 0u8..2).prop_map(|(recipients, octets, body)| Op::Commit { recipients, octets, body }),
        calm => (1u16..3000).prop_map(|octets| Op::Append { octets }),
        calm => (0u16..900).prop_map(|octets| Op::CommitStreamed { octets }),
        calm => Just(Op::Abort),
        6 * calm => any::<(u8, u8)>().prop_map(|(message, split)| Op::Route { message, split }),
        12 * calm => any::<(u8, u8, u8, u8)>().prop_map(|(message, recipients, disposition, attempts)| Op::Outcome {
            message, recipients, disposition, attempts
        }),
        3 * calm => any::<(u8, bool, u8)>().prop_map(|(message, held, due)| Op::Hold { message, held, due }),
        calm => (0u8..3, 0u8..2, any::<bool>()).prop_map(|(host, failures, held)| Op::Thread { host, failures, held }),
        2 * calm => any::<u8>().prop_map(|message| Op::Settle { message }),
        2 * calm => any::<u8>().prop_map(|message| Op::Report { message }),
        10 * calm => Just(Op::Turn),
        4 * calm => Just(Op::Idle),
        6 * calm => prop_oneof![0u16..300, 0u16..20_000].prop_map(|octets| Op::Compact { octets }),
        1 => (0u8..9, any::<bool>()).prop_map(|(after, full)| Op::Break { after, full }),
        2 => Just(Op::Heal),
        2 => any::<u64>().prop_map(|seed| Op::PowerCut { seed }),
        1 => Just(Op::Kill),
    ]
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Message {
    body: Vec<u8>,
    notify: Vec<Notify>,
    unrouted: bool,
    open: BTreeSet<u32>,
    owed: BTreeMap<u32, Disposition>,
    batches: Vec<Batch>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Batch {
    recipients: Vec<u32>,
    attempts: u32,
    due: Timestamp,
    held: bool,
    last: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct State {
    messages: BTreeMap<MessageId, Message>,
    threads: BTreeMap<String, (u32, bool)>,
}

/// One request, as the model sees it.
#[derive(Clone, Debug)]
enum Step {
    Commit { message: MessageId, body: Vec<u8>, notify: Vec<Notify>, origin: Option<Origin> },
    Record(Record),
}

#[derive(Clone, Debug)]
struct Uncertain {
    step: Step,
    /// The commit was refused.
    refused: bool,
    /// The disk was in trouble when it was taken, so that it cannot have been written before the trouble.
    late: bool,
}

impl State {
    fn apply(&mut self, step: &Step) {
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

    fn outcome(&mut self, outcome: &Outcome) {
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

    fn settle(&mut self, message: MessageId, recipients: &[u32]) {
        let Some(entry) = self.messages.get_mut(&message) else { return };
        entry.owed.retain(|recipient, _| !recipients.contains(recipient));
        self.sweep(message);
    }

    fn sweep(&mut self, message: MessageId) {
        self.messages.retain(|id, entry| *id != message || !entry.open.is_empty() || !entry.owed.is_empty());
    }

    /// What a restart may tell of it: batches without open recipients are over.
    fn visible(&self) -> Self {
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

    fn pick(&self, selector: u8, fits: impl Fn(&Message) -> bool) -> Option<MessageId> {
        let fitting: Vec<MessageId> =
            self.messages.iter().filter(|(_, message)| fits(message)).map(|(id, _)| *id).collect();
        (!fitting.is_empty()).then(|| fitting[selector as usize % fitting.len()])
    }
}

struct Scenario {
    bench: Bench,
    /// Known to be durable.
    certain: State,
    uncertain: Vec<Uncertain>,
    streamed: Option<(MessageId, Vec<u8>)>,
    random: Random,
}

impl Scenario {
    fn new() -> Self {
        let bench = Bench::open(Simulated::default(), SEGMENT);
        Self { bench, certain: State::default(), uncertain: Vec::new(), streamed: None, random: Random(1) }
    }

    /// What the state will be when nothing goes wrong from here on.
    fn expected(&self) -> State {
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

    fn run(&mut self, op: &Op) {
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
            Op::Idle => {
                self.bench.appender.settle();
                self.turned();
            }
            Op::Compact { octets } => {
                self.bench.appender.grant(octets.into());
                self.bench.appender.settle();
                self.turned();
            }
            Op::Break { after, full } => {
                let kind = if full { ErrorKind::StorageFull } else { ErrorKind::Other };
                self.bench.disk.break_after(after.into(), kind);
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

    fn restart(&mut self, disk: Simulated) {
        self.streamed = None;
        let candidates = self.candidates();
        self.bench = Bench::open(disk, SEGMENT);
        let found = self.recovered(&candidates);
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

    /// What the restart found, in the model's terms. Envelopes and bodies are taken from the log, the parts of the
    /// state that are not told (whether all recipients of a message are known) from whichever candidate knows them.
    fn recovered(&self, candidates: &[State]) -> State {
        let mut state = State::default();
        let reader = Reader::new(self.bench.shared.clone());
        let mut message = |id: MessageId, change: &mut dyn FnMut(&mut Message)| {
            let entry = state.messages.entry(id).or_insert_with(|| {
                let stored = reader.message(id).unwrap();
                assert!(candidates.iter().any(|state| state.messages.contains_key(&id)), "{id} is back");
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
    fn finish(&mut self) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_brought_back_or_invented(ops in proptest::collection::vec(ops(1), 1..120)) {
        let mut scenario = Scenario::new();
        for op in &ops {
            scenario.run(op);
        }
        scenario.run(&Op::PowerCut { seed: 3 });
        scenario.finish();
        scenario.run(&Op::Kill);
        prop_assert!(scenario.certain.messages.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Long enough between crashes that segments fill up and become sparse.
    #[test]
    fn what_compaction_moves_stays_what_it_was(ops in proptest::collection::vec(ops(20), 300..900)) {
        let mut scenario = Scenario::new();
        for op in &ops {
            scenario.run(op);
        }
        scenario.run(&Op::PowerCut { seed: 5 });
        scenario.finish();
        scenario.run(&Op::Kill);
        prop_assert!(scenario.certain.messages.is_empty());
    }
}

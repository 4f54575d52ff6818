//! Holds that stand: what they catch, and that they are what a simple model says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use zrelay_holds::{Standing, Terms};
use zrelay_spool::{BatchId, Flow, MessageId, Queue, QueuedBatch};

use super::world::{World, clause, settings};
use crate::holds::{Envelopes, HOLDS_MAX, Stood};
use crate::operator::{Action, Chosen};
use crate::scheduler::Scheduler;

/// Sender and recipients of each message.
#[derive(Clone, Debug, Default)]
struct Letters(Arc<Mutex<BTreeMap<MessageId, Letter>>>);

type Letter = (String, Vec<String>);

impl Letters {
    fn get(&self, message: MessageId) -> Letter {
        self.0.lock().unwrap()[&message].clone()
    }
}

impl Envelopes for Letters {
    fn any(&self, message: MessageId, recipients: &[u32], admits: &dyn Fn(&str, &str) -> bool) -> bool {
        let (sender, addresses) = self.get(message);
        recipients.iter().any(|index| admits(&sender, &addresses[*index as usize]))
    }
}

struct Hub {
    world: World,
    letters: Letters,
    standing: Standing,
    all: Vec<QueuedBatch>,
}

fn terms(text: &str) -> Terms {
    Terms::parse(text.split(' ')).unwrap()
}

impl Hub {
    fn new() -> Self {
        let (letters, standing) = (Letters::default(), Standing::default());
        let mut world = World::new(settings(clause(|_| {}), 0), 1);
        world.scheduler = Self::scheduler(&letters, &standing);
        Self { world, letters, standing, all: Vec::new() }
    }

    /// Without agents, so that everything stays.
    fn scheduler(letters: &Letters, standing: &Standing) -> Scheduler {
        Scheduler::new(settings(clause(|_| {}), 0), 1).holding(Box::new(letters.clone()), standing.clone())
    }

    fn arrive(&mut self, thread: &str, sender: &str, recipients: &[&str]) -> BatchId {
        let letter = (sender.to_owned(), recipients.iter().map(|address| (*address).to_owned()).collect());
        let (letters, all) = (self.letters.clone(), &mut self.all);
        self.world.arrive_as(thread, u32::try_from(recipients.len()).unwrap(), 100, |batch| {
            batch.flow = Flow::of_sender(sender);
            letters.0.lock().unwrap().insert(batch.id.message, letter);
            all.push(batch.clone());
        })
    }

    /// What is in the queue and these terms are for.
    fn found(&self, terms: &Terms) -> Vec<Chosen> {
        let is_meant = |batch: &&QueuedBatch| self.is_for(terms, batch);
        let chosen = |batch: &QueuedBatch| Chosen {
            thread: batch.thread.clone(),
            batch: batch.id,
            run: None,
            open: 1,
            recipients: None,
        };
        self.all.iter().filter(is_meant).map(chosen).collect()
    }

    fn is_for(&self, terms: &Terms, batch: &QueuedBatch) -> bool {
        let (sender, addresses) = self.letters.get(batch.id.message);
        terms.admits_thread(&batch.thread.to_string())
            && terms.admits_flow(batch.flow)
            && addresses.iter().any(|address| terms.admits_address(&sender, address))
    }

    fn hold(&mut self, terms: &Terms) -> Stood {
        let stood = self.world.scheduler.stand(self.world.now, terms, "user ann (7)");
        if !terms.is_for_threads() {
            let found = self.found(terms);
            self.world.scheduler.operate_on(self.world.now, Action::Hold, &found);
        }
        self.world.settle_down();
        stood
    }

    fn release(&mut self, terms: &Terms) -> u64 {
        let lifted = self.world.scheduler.lift(self.world.now, terms);
        let others = self.world.scheduler.holds();
        let mut found = self.found(terms);
        found.retain(|chosen| {
            let batch = self.all.iter().find(|batch| batch.id == chosen.batch).unwrap();
            !others.iter().any(|hold| !hold.terms.is_for_threads() && self.is_for(&hold.terms, batch))
        });
        self.world.scheduler.operate_on(self.world.now, Action::Release, &found);
        self.world.settle_down();
        lifted
    }

    fn restart(&mut self) {
        let scheduler = Self::scheduler(&self.letters, &self.standing);
        self.world.restart(scheduler, &self.all);
    }

    fn is_held(&self, batch: BatchId) -> bool {
        let (all, _) = self.world.scheduler.batches(self.world.now, None, None, usize::MAX);
        all.iter().find(|view| view.id == batch).unwrap().place.name() == "held"
    }
}

#[test]
fn a_hold_by_sender_or_recipient_or_flow_catches_mail_to_come() {
    for hold in ["sender:*@bad.example", "recipient:b.example", "flow:BAD.example", "smtp/b* sender:bad.example"] {
        let mut hub = Hub::new();
        let before = hub.arrive("smtp/b.example", "x@bad.example", &["one@b.example"]);
        assert_eq!((hub.hold(&terms(hold)), hub.hold(&terms(hold))), (Stood::New, Stood::Known));
        let behind = hub.arrive("smtp/b.example", "y@bad.example", &["two@b.example"]);
        let other = hub.arrive("smtp/c.example", "good@a.example", &["one@c.example"]);
        assert_eq!([before, behind, other].map(|batch| hub.is_held(batch)), [true, true, false], "{hold}");
        assert_eq!(hub.release(&terms("*")), 1);
        assert_eq!([before, behind, other].map(|batch| hub.is_held(batch)), [false; 3], "{hold}");
    }
}

#[test]
fn a_hold_and_what_it_caught_survive_a_restart_with_who_set_it_and_when() {
    let mut hub = Hub::new();
    hub.hold(&terms("smtp/* sender:*@bad.example"));
    let since = hub.world.now;
    let caught = hub.arrive("smtp/b.example", "x@bad.example", &["one@b.example"]);
    assert!(hub.world.states[&caught].held, "on record");
    hub.world.pass(std::time::Duration::from_secs(50));
    // A hub that died before the batch's hold was on record finds that the hold stands.
    hub.world.states.clear();
    hub.restart();
    let later = hub.arrive("smtp/b.example", "x@bad.example", &["one@b.example"]);
    assert!(hub.is_held(caught) && hub.is_held(later));
    let holds = hub.world.scheduler.holds();
    let [hold] = &holds[..] else { panic!("{holds:?}") };
    assert_eq!((hold.terms.to_string(), &*hold.by), ("smtp/* sender:*@bad.example".to_owned(), "user ann (7)"));
    assert_eq!(hold.since, Some(since));
    assert_eq!(hub.standing.get().len(), 1, "the router knows it");
    hub.release(&terms("sender:*"));
    hub.restart();
    assert!(hub.world.scheduler.holds().is_empty() && !hub.is_held(caught));
    assert!(hub.standing.get().is_empty());
}

#[test]
fn holds_of_a_version_that_did_not_know_who_set_them_still_stand() {
    let mut hub = Hub::new();
    hub.hold(&terms("smtp/*.example"));
    let mut old = hub.world.records.last().unwrap().clone();
    (old.last, old.due) = (None, zrelay_clock::Timestamp::ZERO);
    let mut later = Hub::new();
    later.world.scheduler.handle_queue(later.world.now, Queue::Thread(old));
    let holds = later.world.scheduler.holds();
    assert_eq!((holds[0].terms.to_string(), holds[0].since, &*holds[0].by), ("smtp/*.example".to_owned(), None, ""));
}

#[test]
fn there_are_so_many_holds_and_no_more() {
    let mut hub = Hub::new();
    for number in 0..HOLDS_MAX {
        assert_eq!(hub.hold(&terms(&format!("sender:s{number}@bad.example"))), Stood::New);
    }
    assert_eq!(hub.hold(&terms("sender:one@more.example")), Stood::Full);
    let caught = hub.arrive("smtp/b.example", "s999@bad.example", &["one@b.example"]);
    let free = hub.arrive("smtp/b.example", "one@more.example", &["one@b.example"]);
    assert!(hub.is_held(caught) && !hub.is_held(free));
    assert_eq!(hub.release(&terms("sender:s*")), u64::try_from(HOLDS_MAX).unwrap());
}

#[test]
fn what_another_hold_is_for_stays_when_one_is_released() {
    let mut hub = Hub::new();
    hub.hold(&terms("sender:*@bad.example"));
    hub.hold(&terms("recipient:b.example"));
    let both = hub.arrive("smtp/b.example", "x@bad.example", &["one@b.example"]);
    let one = hub.arrive("smtp/c.example", "x@bad.example", &["one@c.example"]);
    hub.release(&terms("sender:*@bad.example"));
    assert!(hub.is_held(both) && !hub.is_held(one));
}

#[test]
fn mail_that_is_rerouted_into_what_a_hold_is_for_is_held() {
    let mut hub = Hub::new();
    hub.hold(&terms("smtp/there sender:*@bad.example"));
    let batch = hub.arrive("smtp/here", "x@bad.example", &["one@b.example"]);
    assert!(!hub.is_held(batch));
    hub.world.scheduler.reroute(hub.world.now, &"smtp/here".parse().unwrap(), &"smtp/there".parse().unwrap());
    hub.world.settle_down();
    assert!(hub.is_held(batch) && hub.world.states[&batch].held);
}

#[derive(Clone, Debug)]
enum Step {
    Hold(String),
    Release(String),
    Arrive(u8, u8, u8, u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let hold =
        "(smtp/[ab*] )?((sender:([ab]@[ab]|[*]@[ab]|[ab]|[*])|flow:[ab]|recipient:([ab]|[ab]@[ab]|[*])))|smtp/[ab*]";
    prop_oneof![
        3 => hold.prop_map(Step::Hold),
        2 => hold.prop_map(Step::Release),
        1 => Just(Step::Release("*".to_owned())),
        5 => (0u8..2, 0u8..4, 0u8..4, 0u8..4).prop_map(|(a, b, c, d)| Step::Arrive(a, b, c, d)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// The model: a batch is held as long as a hold stands that is for one of its recipients, whenever the two came and
    /// however often the hub died between.
    #[test]
    fn any_holds_releases_and_arrivals_are_as_the_model_says(steps in proptest::collection::vec(step(), 1..40)) {
        let address = |number: u8| ["a@a", "a@b", "b@a", "b@b"][usize::from(number)];
        let mut hub = Hub::new();
        let mut model: Vec<Terms> = Vec::new();
        for step in steps {
            match &step {
                Step::Hold(text) => {
                    let terms = terms(text);
                    // Without a star it is the name of one thread, which is held otherwise.
                    let pattern = terms.threads.as_ref().is_none_or(|threads| threads.as_str().contains('*'));
                    if pattern || !terms.is_for_threads() {
                        hub.hold(&terms);
                        model.push(terms);
                    }
                }
                Step::Release(text) => {
                    let terms = terms(text);
                    hub.release(&terms);
                    model.retain(|hold| !terms.covers(hold));
                }
                Step::Arrive(thread, sender, one, other) => {
                    let thread = ["smtp/a", "smtp/b"][usize::from(*thread)];
                    hub.arrive(thread, address(*sender), &[address(*one), address(*other)]);
                }
                Step::Restart => hub.restart(),
            }
            for batch in &hub.all {
                let expected = model.iter().any(|hold| hub.is_for(hold, batch));
                prop_assert_eq!(hub.is_held(batch.id), expected, "{} after {:?}", batch.id, step);
            }
        }
    }
}

//! What operators do.

use std::sync::Arc;
use std::time::Duration;

use zrelay_config::Pattern;
use zrelay_holds::Terms;
use zrelay_scheduler::snapshot::State;
use zrelay_scheduler::{Action, Changed, Chosen, Selector};
use zrelay_spool::{BatchId, Disposition, MessageId, ThreadKey};

use super::{Event, World, tell};
use crate::queue::Doom;

/// How long the last operator waits for the disk.
const LATER: Duration = Duration::from_secs(10);

/// What an operator wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Do(Action),
    Reroute(ThreadKey),
}

/// What he wants it for.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Selected(Selector),
    /// Batches, and of each these recipients or all: what a term like `sender:` or `recipient:` finds.
    Chosen(Vec<Chosen>),
}

impl World {
    /// An operator comes by and does something, unless the disk is in trouble.
    pub(super) fn operator(&mut self) {
        if self.queue.paused {
            return;
        }
        let wish = match self.dice.below(18) {
            0..=2 => Wish::Do(Action::Hold),
            3..=5 => Wish::Do(Action::Release),
            6 | 7 => Wish::Do(Action::Retry),
            8 | 9 => Wish::Do(Action::Expire),
            10 | 11 => Wish::Do(Action::Drop),
            12..=14 => Wish::Reroute(self.some_place()),
            15 | 16 => return self.stand(),
            _ => return self.lift(),
        };
        let ends = matches!(wish, Wish::Do(action) if action.is_final());
        // What is under way is what they must spare.
        let busy = if ends && self.dice.below(2) == 0 { self.something_under_way() } else { None };
        let target = busy.unwrap_or_else(|| self.some_target());
        self.operate(&wish, &target);
    }

    /// A message that an agent carries, or its thread, if there is any.
    fn something_under_way(&mut self) -> Option<Target> {
        let carried = self.queue.find(|_, entry| entry.lease.is_some());
        let count = carried.len() as u64;
        let id = (count > 0).then(|| carried[self.dice.below(count) as usize])?;
        Some(Target::Selected(match self.dice.below(2) {
            0 => Selector::Message(id.message),
            _ => Selector::Thread(self.queue.batches[&id].thread.clone()),
        }))
    }

    /// The last operator of all: nothing is held any more, and everything is where it can end.
    pub(super) fn last_operator(&mut self) {
        if !self.queue.holds_anything() {
            return;
        }
        // Until the disk has it.
        self.agenda.set(self.now + LATER, Event::LastOperator);
        if self.queue.paused {
            return;
        }
        let threads = |text| Target::Selected(Selector::Threads(Pattern::new(text).expect("a pattern")));
        self.operate(&Wish::Do(Action::Release), &threads("*"));
        let somewhere = Wish::Reroute(ThreadKey::new("smtp", "d1.example"));
        self.operate(&somewhere, &threads("hold/*"));
    }

    fn some_place(&mut self) -> ThreadKey {
        let domain = format!("d{}.example", self.dice.below(self.plan.domains.into()));
        match self.dice.below(10) {
            0 => ThreadKey::new("hold", "parked"),
            1 => ThreadKey::new("discard", "gone"),
            2 => ThreadKey::new("error", "5.7.1 not from here any more"),
            3 | 4 => ThreadKey::new("lmtp", &domain),
            _ => ThreadKey::new("smtp", &domain),
        }
    }

    fn some_target(&mut self) -> Target {
        let domain = self.dice.below(self.plan.domains.into());
        let draw = self.dice.below(10);
        match draw {
            0..=2 => {
                let host = format!("d{domain}.example");
                let channel = if draw == 0 { "lmtp" } else { "smtp" };
                Target::Selected(Selector::Thread(ThreadKey::new(channel, &host)))
            }
            3 | 4 => {
                let patterns =
                    ["smtp/d1*", "smtp/d?.example", "lmtp/*", "*/d2*", "hold/*", "smtp/lists*", "*3.example"];
                let pattern = match self.dice.below(12) {
                    0 => "*",
                    1 => "smtp/*",
                    draw => patterns[draw as usize % patterns.len()],
                };
                Target::Selected(Selector::Threads(Pattern::new(pattern).expect("a pattern")))
            }
            5 | 6 => {
                let messages: Vec<MessageId> = self.queue.batches.keys().map(|id| id.message).collect();
                let count = messages.len() as u64;
                let message = if count == 0 { MessageId(1) } else { messages[self.dice.below(count) as usize] };
                Target::Selected(Selector::Message(message))
            }
            7 | 8 => {
                let list = self.dice.below(4) as u32;
                self.chosen(|world, id, _| world.list_of(id) == Some(list))
            }
            _ => {
                let divisor = 2 + self.dice.below(4) as u32;
                self.chosen(|_, _, recipient| recipient.is_multiple_of(divisor))
            }
        }
    }

    /// The list that a batch is from; none for a report.
    fn list_of(&self, batch: BatchId) -> Option<u32> {
        let message = self.books.message_of(batch.message)?;
        Some(self.plan.posting(self.tries[message as usize]).list)
    }

    /// What a listing finds of which this is true.
    pub(super) fn chosen(&self, wanted: impl Fn(&Self, BatchId, u32) -> bool) -> Target {
        let choose = |(id, entry): (&BatchId, &crate::queue::Entry)| {
            let some: Vec<u32> = entry.open.iter().copied().filter(|recipient| wanted(self, *id, *recipient)).collect();
            let recipients = (some.len() < entry.open.len()).then_some(some.clone());
            let open = entry.open.len() as u32;
            let run = || self.run_of(*id);
            (!some.is_empty()).then(|| Chosen {
                thread: entry.thread.clone(),
                batch: *id,
                run: run(),
                open,
                recipients,
            })
        };
        Target::Chosen(self.queue.batches.iter().filter_map(choose).collect())
    }

    pub(super) fn operate(&mut self, wish: &Wish, target: &Target) {
        let changed = match (wish, target) {
            (Wish::Do(action), Target::Selected(selector)) => self.scheduler.operate(self.now, *action, selector),
            (Wish::Do(action), Target::Chosen(chosen)) => self.scheduler.operate_on(self.now, *action, chosen),
            (Wish::Reroute(to), Target::Selected(selector)) => self.scheduler.reroute(self.now, selector, to),
            (Wish::Reroute(to), Target::Chosen(chosen)) => self.scheduler.reroute_chosen(self.now, chosen, to),
        };
        let selected = match target {
            Target::Selected(selector) => selector.to_string(),
            Target::Chosen(chosen) => format!("{} batches", chosen.len()),
        };
        tell!(self, "operator {wish:?} {selected}: {changed:?}");
        self.seen.operations += 1;
        match target {
            Target::Selected(Selector::Thread(key)) => {
                self.operated_on_threads(wish, &|thread| thread == key, &changed);
            }
            Target::Selected(Selector::Threads(pattern)) => {
                let terms = Terms { threads: Some(pattern.clone()), ..Terms::default() };
                let holds = match wish {
                    Wish::Do(Action::Hold) => u64::from(self.queue.stand(&terms)),
                    Wish::Do(Action::Release) => self.queue.lift(&terms),
                    _ => 0,
                };
                assert_eq!(changed.patterns, holds, "holds that stand, or not any more");
                self.operated_on_threads(wish, &|thread| pattern.matches(&thread.to_string()), &changed);
            }
            Target::Selected(Selector::Message(message)) => {
                let batches = self.queue.of_message(*message).into_iter().map(|id| (id, None));
                let count = self.operated_on_batches(wish, batches.collect());
                // What is found beyond the window is not counted.
                let known = if changed.beyond > 0 { count.min(changed.batches) } else { count };
                assert_eq!(changed.batches, known, "batches of the message");
            }
            Target::Chosen(chosen) => {
                let batches = chosen.iter().map(|one| (one.batch, one.recipients.clone()));
                let count = self.operated_on_batches(wish, batches.collect());
                assert_eq!(changed.batches, count, "batches that were chosen");
            }
        }
    }

    /// Threads were operated on, by name or by pattern.
    fn operated_on_threads(&mut self, wish: &Wish, matches: &dyn Fn(&ThreadKey) -> bool, changed: &Changed) {
        let threads: Vec<ThreadKey> =
            self.scheduler.threads(self.now, None, usize::MAX).into_iter().map(|view| view.key).collect();
        let threads: Vec<ThreadKey> = threads.into_iter().filter(|thread| matches(thread)).collect();
        let batches = self.queue.find(|_, entry| matches(&entry.thread));
        match wish {
            Wish::Do(Action::Hold) => threads.iter().for_each(|thread| self.queue.hold_thread(thread)),
            Wish::Do(Action::Release) => threads.iter().for_each(|thread| self.queue.release_thread(thread)),
            Wish::Do(Action::Retry) => {
                batches.into_iter().for_each(|batch| self.queue.retried(batch));
                for thread in threads {
                    if let Some(site) = self.site_of_thread(&thread) {
                        self.manners.woken(&thread.channel, site);
                    }
                    if !self.is_being_tried(&thread) {
                        self.retried.push(thread);
                    }
                }
            }
            Wish::Do(Action::Drop | Action::Expire) | Wish::Reroute(_) => {
                let recipients = batches.iter().map(|id| &self.queue.batches[id]).filter(|entry| entry.lease.is_none());
                let not_there =
                    |entry: &&crate::queue::Entry| !matches!(wish, Wish::Reroute(to) if entry.thread == *to);
                let recipients: u64 = recipients.filter(not_there).map(|entry| entry.open.len() as u64).sum();
                let count = self.operated_on_batches(wish, batches.into_iter().map(|id| (id, None)).collect());
                assert_eq!((changed.batches, changed.recipients), (count, recipients), "what the operator was told");
            }
        }
    }

    /// Whether an agent waits for the host, or its site, to say something: that may fail right now, for all its threads.
    fn is_being_tried(&self, thread: &ThreadKey) -> bool {
        let same = |other: &ThreadKey| {
            let site = |thread| self.site_of_thread(thread);
            other == thread || (site(other).is_some() && site(other) == site(thread))
        };
        self.agents.values().any(|agent| !agent.has_greeted() && same(&agent.thread))
    }

    /// Nothing that an operator wanted tried waits for its time.
    pub(super) fn look_at_retried(&mut self) {
        for thread in std::mem::take(&mut self.retried) {
            let Some(zoom) = self.scheduler.thread(self.now, &thread).filter(|_| !self.queue.paused) else { continue };
            let waits = matches!(zoom.thread.state, State::Retry(_) | State::Waiting(_) | State::Suspended(_));
            assert!(!waits, "{thread} was to be tried, and is at {:?}", zoom.thread.state);
        }
    }

    /// Batches were operated on: of each these recipients, or all. Gives how many it concerned.
    fn operated_on_batches(&mut self, wish: &Wish, batches: Vec<(BatchId, Option<Vec<u32>>)>) -> u64 {
        let mut count = 0;
        for (id, part) in batches {
            let Some(entry) = self.queue.batches.get(&id) else { continue };
            let under_way = entry.lease.is_some();
            match wish {
                Wish::Do(action @ (Action::Hold | Action::Release)) => {
                    self.queue.set_held(id, *action == Action::Hold);
                    count += 1;
                }
                Wish::Do(Action::Retry) => {
                    self.queue.retried(id);
                    count += 1;
                }
                Wish::Do(_) | Wish::Reroute(_) if under_way => {}
                Wish::Do(action) => {
                    let end = if *action == Action::Drop { Disposition::Dropped } else { Disposition::Expired };
                    let recipients: Arc<[u32]> = part.map_or_else(|| entry.open.clone(), Into::into);
                    self.queue.doom(Doom { batch: id, recipients, end });
                    count += 1;
                }
                // Of a batch that is meant in part nothing moves.
                Wish::Reroute(_) if part.is_some() => {}
                Wish::Reroute(to) if entry.thread == *to => {}
                Wish::Reroute(to) => {
                    let recipients = self.held_against(id.message, &entry.open.clone());
                    self.queue.moved(id, to, &recipients);
                    count += 1;
                }
            }
        }
        count
    }
}

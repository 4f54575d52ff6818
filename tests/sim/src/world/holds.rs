//! Standing holds: operators who hold mail by sender, recipient or flow before it is there, and let go of it again.

use zrelay_holds::Terms;
use zrelay_scheduler::{Action, Stood};
use zrelay_spool::{BatchId, MessageId};

use super::operator::{Target, Wish};
use super::{World, tell};
use crate::holds::{Addressed, is_for};

impl World {
    /// Who wrote to whom, of some recipients of a message.
    pub(super) fn addressed(&self, message: MessageId, recipients: &[u32]) -> Vec<Addressed> {
        let Ok(stored) = self.reader.message(message) else { return Vec::new() };
        let addressed = |index: &u32| {
            let recipient = stored.recipient(*index);
            (stored.sender(recipient.sender).to_owned(), recipient.address.to_owned())
        };
        recipients.iter().map(addressed).collect()
    }

    /// The same as far as holds that stand may ask: of nobody while there is none.
    pub(super) fn held_against(&self, message: MessageId, recipients: &[u32]) -> Vec<Addressed> {
        if self.queue.holds.is_empty() { Vec::new() } else { self.addressed(message, recipients) }
    }

    /// Holds some mail that is there, and that comes: the hold first, then what is there, as the control socket does it.
    pub(super) fn stand(&mut self) {
        let terms = self.some_terms();
        let stood = self.scheduler.stand(self.now, &terms, "the operator");
        tell!(self, "operator holds \"{terms}\": {stood:?}");
        assert_eq!(stood == Stood::New, self.queue.stand(&terms), "a hold on \"{terms}\"");
        let target = self.meant(&terms, |_, _| true);
        self.operate(&Wish::Do(Action::Hold), &target);
    }

    /// Ends holds, and lets go of what none of the others is for.
    pub(super) fn lift(&mut self) {
        let position = self.dice.below(4) as usize;
        let Some(standing) = self.queue.holds.nth_for_mail(position) else { return };
        let terms = match self.dice.below(4) {
            0 => terms(&["sender:*"]),
            1 => terms(&["recipient:*.example"]),
            _ => standing.clone(),
        };
        let lifted = self.scheduler.lift(self.now, &terms);
        tell!(self, "operator ends {lifted} holds with \"{terms}\"");
        assert_eq!(lifted, self.queue.lift(&terms), "holds that \"{terms}\" covers");
        let target = self.meant(&terms, |world, id| !world.is_caught(id));
        self.operate(&Wish::Do(Action::Release), &target);
    }

    /// Whether a hold stands that is for a batch of the queue.
    fn is_caught(&self, id: BatchId) -> bool {
        let Some(entry) = self.queue.batches.get(&id) else { return false };
        self.queue.holds.catches(&entry.thread, entry.flow, &self.held_against(id.message, &entry.open))
    }

    /// The batches that these terms are for.
    fn meant(&self, terms: &Terms, admit: impl Fn(&Self, BatchId) -> bool) -> Target {
        self.chosen(|world, id, recipient| {
            let Some(entry) = world.queue.batches.get(&id) else { return false };
            is_for(terms, &entry.thread, entry.flow, &world.addressed(id.message, &[recipient])) && admit(world, id)
        })
    }

    fn some_terms(&mut self) -> Terms {
        let domain = self.dice.below(self.plan.domains.into());
        let list = self.dice.below(4);
        match self.dice.below(8) {
            0 => terms(&[&format!("flow:lists{list}.example")]),
            1 => terms(&[&format!("smtp/d{domain}.example"), &format!("flow:lists{list}.example")]),
            2 | 3 => terms(&[&format!("sender:*@lists{list}.example")]),
            4 => terms(&["sender:<>"]),
            5 => terms(&[&format!("recipient:d{domain}.example")]),
            6 => terms(&[&format!("recipient:r*{}@*", self.dice.below(10))]),
            _ => terms(&["smtp/*", &format!("sender:*@lists{list}.example"), "recipient:d?.example"]),
        }
    }
}

fn terms(texts: &[&str]) -> Terms {
    Terms::parse(texts.iter().copied()).expect("terms of a hold")
}

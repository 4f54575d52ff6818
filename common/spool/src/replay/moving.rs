//! A replay for the few messages that compaction moves.

use std::sync::Arc;

use super::interest::{Interest, Own};
use super::{Histories, Replay};
use crate::MessageId;
use crate::backlog::still_owed;
use crate::details::Detail;
use crate::ledger::Ledger;
use crate::moved::Moved;
use crate::shared::{Place, Shared};

impl Replay {
    /// A replay of its own for these messages alone, each from its own record on, beside whatever goes on.
    pub(crate) fn of(messages: impl Iterator<Item = (MessageId, Place)>) -> Self {
        let interest = Interest::These(messages.map(|(message, place)| (message, Own::Ahead(place))).collect());
        Self { interest, histories: Histories::Gathered, ..Self::new(Arc::new(Shared::new())) }
    }

    /// All that is known of a message, with its record as it is, if the books of the hub say the same. It is of no
    /// interest any more then.
    pub(crate) fn take(&mut self, message: MessageId, books: &Ledger) -> Option<Moved> {
        let detail = self.details.get(message, self.origins());
        self.details.remove(message);
        let moved = self.moved_as(message, detail, books);
        self.ledger.forget(message);
        self.shared.remove(message);
        self.interest.lose(message);
        moved
    }

    fn moved_as(&self, message: MessageId, detail: Option<Detail>, books: &Ledger) -> Option<Moved> {
        if !books.agrees(&self.ledger, message) {
            log::error!("spool: the log and the books differ on message {message}; it is not moved");
            return None;
        }
        let (oldest, stage, open) = books.moving(message)?;
        let Detail { mut batches, owed, history } = detail?;
        for batch in &mut batches {
            batch.routed.recipients.retain(|recipient| books.is_open(message, *recipient));
        }
        let owed = owed.into_iter().filter_map(|owed| still_owed(owed, &self.ledger));
        let stored = self.reader.message(message).ok()?;
        let (record, history) = (stored.record().to_vec(), history.finished(stored.recipients()));
        Some(Moved { message, oldest, stage, open, batches, owed: owed.collect(), history, record })
    }
}

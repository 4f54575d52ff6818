//! The spool as the control socket's [`Store`].

use std::time::Duration;

use serde_json::{Value, json};
use zrelay_mailbox::{Received, mailbox};
use zrelay_spool::{CommitReply, Committed, Health, MessageId, Past, Request, SpoolHandle, Stored};

use super::methods::{Addressed, MessageFacts, Store};

/// How long an operator waits for what was done to be durable: a sync takes some milliseconds.
const DURABLE_WITHIN: Duration = Duration::from_secs(5);

/// Answers from the running spool. A hub with methods of its own wraps it and adds [`Store::call`].
///
/// `statistics` gives `{health: "good" | "full" | "broken", messages, open_messages, segments, live_bytes, written_bytes,
/// syncs, shared_bodies, moved_messages, free_bytes, damage, unreadable_pages, checkpoints, recovering}`; see
/// [`Statistics`](zrelay_spool::Statistics) for what they count.
#[derive(Clone, Debug)]
pub struct SpoolStore(pub SpoolHandle);

impl SpoolStore {
    fn stored(&self, id: MessageId) -> Option<Stored> {
        let found = self.0.reader().message(id);
        found.inspect_err(|error| log::debug!("the control socket: {error}")).ok()
    }
}

impl Store for SpoolStore {
    fn message(&self, id: MessageId) -> Option<MessageFacts> {
        let stored = self.stored(id)?;
        Some(MessageFacts {
            received: stored.received(),
            client: stored.client().to_owned(),
            size: stored.size(),
            recipients: stored.recipients(),
            trace: String::from_utf8_lossy(stored.trace()).into_owned(),
        })
    }

    fn addresses(&self, id: MessageId, recipients: &[u32]) -> Option<Vec<Addressed>> {
        let stored = self.stored(id)?;
        let count = stored.recipients();
        let addressed = |index: &u32| {
            let recipient = stored.recipient(*index);
            Addressed { address: recipient.address.to_owned(), sender: stored.sender(recipient.sender).to_owned() }
        };
        Some(recipients.iter().filter(|index| **index < count).map(addressed).collect())
    }

    fn past(&self, id: MessageId) -> Option<Past> {
        let past = self.0.reader().past(id);
        past.inspect_err(|error| log::debug!("the control socket: {error}")).ok()
    }

    fn settle(&self) -> bool {
        let (to, answers) = mailbox(1);
        let asked = self.0.sender().try_send(Request::Flush { reply: CommitReply { to, token: 0 } });
        asked.is_ok() && matches!(answers.wait(DURABLE_WITHIN), Received::Item(Committed { result: Ok(()), .. }))
    }

    fn statistics(&self) -> Value {
        let figures = self.0.statistics();
        let health = match self.0.health() {
            Health::Good => "good",
            Health::Full => "full",
            Health::Broken => "broken",
        };
        json!({
            "health": health,
            "messages": figures.messages,
            "open_messages": figures.open_messages,
            "segments": figures.segments,
            "live_bytes": figures.live_bytes,
            "written_bytes": figures.bytes,
            "syncs": figures.syncs,
            "shared_bodies": figures.shared_bodies,
            "moved_messages": figures.moved_messages,
            "free_bytes": figures.free_bytes,
            "damage": figures.damage,
            "unreadable_pages": figures.unreadable_pages,
            "checkpoints": figures.checkpoints,
            "recovering": figures.recovering,
        })
    }
}

//! The thread around the router: takes what has arrived, reads its envelope, hands the decision back to the spool.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use zrelay_clock::{Clock, Timestamp};
use zrelay_mailbox::{Received, Receiver, Sender};
use zrelay_maillog::{lines, target};
use zrelay_spool::{
    Arrived, BatchId, Diagnostic, Disposition, MessageId, Outcome, Reader, Request, Status, Stored, Timing,
};

use crate::{Router, Routing, Submitted};

/// How long the worker sleeps when nothing arrives; it only looks whether the hub has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A router worker. Any number may run; each takes messages from its own mailbox.
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// The body of the worker's thread. Returns when the senders of `arrived` or the receiver of `requests` are gone.
    ///
    /// `router` is swapped on reload; a message is routed by one router as a whole.
    // The parameters are the worker's own for the life of its thread.
    #[expect(clippy::needless_pass_by_value, reason = "a thread owns what it works with")]
    pub fn run(
        arrived: Receiver<Arrived>,
        reader: Reader,
        requests: Sender<Request>,
        router: Arc<RwLock<Arc<Router>>>,
        clock: Clock,
    ) {
        loop {
            let message = match arrived.wait(PATIENCE) {
                Received::Item(Arrived(message)) => message,
                Received::Nothing => continue,
                Received::Closed => return,
            };
            let router = router.read().unwrap_or_else(PoisonError::into_inner).clone();
            let stored = match reader.message(message) {
                Ok(stored) => stored,
                Err(error) => {
                    // Left as it is: the spool offers it again at the next start.
                    log::error!(target: "router", "{message}: not routed: {error}");
                    continue;
                }
            };
            log_active(&stored);
            for request in decide(&router, &stored, clock.now()) {
                if requests.send(request).is_err() {
                    return;
                }
            }
        }
    }
}

/// Readers of the log take sender and size of all that follows from this line. A message with many senders shows the
/// first.
fn log_active(stored: &Stored) {
    let line = lines::active(stored.id(), stored.sender(0), stored.size(), stored.recipients());
    log::info!(target: target::QMGR, "{line}");
}

/// What the spool is to record of a message: where its recipients go, and which of them are duplicates.
pub fn decide(router: &Router, stored: &Stored, now: Timestamp) -> impl Iterator<Item = Request> + use<> {
    let message = stored.id();
    let recipients = (0..stored.recipients()).map(|index| {
        let recipient = stored.recipient(index);
        Submitted { index, address: recipient.address, sender: stored.sender(recipient.sender) }
    });
    let routing = router.route(stored.size(), recipients);
    let outcomes = duplicates(message, &routing, now);
    let dropped = (!outcomes.is_empty()).then_some(Request::Outcomes(outcomes));
    // In this order: with the routing decision the spool's books close for whatever is in none of its batches. Lost
    // between the two, the message is routed again, and the same outcomes are recognised as known.
    dropped.into_iter().chain([Request::Routed { message, batches: routing.batches }])
}

/// The outcomes that account for the duplicates of a routing. Duplicates are named under the batch of the recipient
/// that stays.
pub fn duplicates(message: MessageId, routing: &Routing, now: Timestamp) -> Vec<Outcome> {
    let outcome = |duplicate: &crate::Duplicate| Outcome {
        batch: BatchId { message, number: duplicate.batch },
        recipients: vec![duplicate.recipient],
        disposition: Disposition::Dropped,
        diagnostic: Arc::new(Diagnostic::local(Status(2, 0, 0), format!("duplicate of recipient {}", duplicate.of))),
        at: now,
        attempts: 0,
        due: now,
        timing: Timing::default(),
        channel: None,
    };
    routing.duplicates.iter().map(outcome).collect()
}

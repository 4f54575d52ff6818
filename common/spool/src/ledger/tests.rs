use std::sync::Arc;

use zrelay_clock::Timestamp;

use super::*;
use crate::{BatchId, Diagnostic, ThreadKey, Timing};

const MESSAGE: MessageId = MessageId(1);

fn outcome(recipients: &[u32], disposition: Disposition) -> Outcome {
    Outcome {
        batch: BatchId { message: MESSAGE, number: 0 },
        recipients: recipients.to_vec(),
        disposition,
        diagnostic: Arc::new(Diagnostic::default()),
        at: Timestamp::ZERO,
        attempts: 1,
        due: Timestamp::ZERO,
        timing: Timing::default(),
        channel: None,
    }
}

fn routed(recipients: u32, batch: &[u32]) -> (Ledger, Change) {
    let mut ledger = Ledger::default();
    ledger.admit(MESSAGE, recipients, [1].into_iter());
    let batch = RoutedBatch { thread: ThreadKey::new("smtp", "a"), recipients: batch.to_vec() };
    let change = ledger.routed(MESSAGE, &[batch], 2);
    (ledger, change)
}

#[test]
fn a_message_is_finished_when_its_last_recipient_is() {
    let (mut ledger, _) = routed(2, &[0, 1]);
    let delivered = Disposition::Delivered { dsn_relayed: false };
    assert_eq!(ledger.outcome(&outcome(&[0], delivered), 3, |_| Notify::Default).change, Change::None);
    assert_eq!(ledger.outcome(&outcome(&[1], Disposition::Deferred), 3, |_| Notify::Default).change, Change::None);
    let applied = ledger.outcome(&outcome(&[1], delivered), 4, |_| Notify::Default);
    assert_eq!(applied.change, Change::DoneAndFinished);
    assert_eq!(ledger.begin_finish(MESSAGE), Some(Mark { message: MESSAGE, oldest: 1 }));
    assert!((1..=4).all(|segment| ledger.is_pinned(segment)));
    ledger.forget(MESSAGE);
    assert!(!(1..=4).any(|segment| ledger.is_pinned(segment)));
}

#[test]
fn a_surplus_outcome_changes_nothing() {
    let (mut ledger, _) = routed(2, &[0, 1]);
    let once = ledger.outcome(&outcome(&[0, 0, 7], Disposition::Failed), 3, |_| Notify::Default);
    assert_eq!((once.accepted, once.owed), (vec![0], vec![0]));
    let twice = ledger.outcome(&outcome(&[0], Disposition::Failed), 3, |_| Notify::Default);
    assert_eq!(twice, Applied { accepted: vec![], owed: vec![], change: Change::None });
    assert_eq!(ledger.counts(MESSAGE), (1, 1));
}

#[test]
fn a_failure_is_owed_until_it_is_settled() {
    let (mut ledger, _) = routed(1, &[0]);
    let applied = ledger.outcome(&outcome(&[0], Disposition::Expired), 3, |_| Notify::Default);
    assert_eq!((applied.owed, applied.change), (vec![0], Change::Done));
    assert_eq!(ledger.settle(MESSAGE, &[0], 4), Change::Finished);
    assert_eq!(ledger.settle(MESSAGE, &[0], 4), Change::None);
}

#[test]
fn who_is_told_what_follows_the_notify_parameter() {
    let on = |success, failure| Notify::On { success, failure, delay: false };
    for (disposition, notify, expected) in [
        (Disposition::Failed, Notify::Default, true),
        (Disposition::Expired, Notify::Never, false),
        (Disposition::Failed, on(true, false), false),
        (Disposition::Expired, on(false, true), true),
        (Disposition::Dropped, on(true, true), false),
        (Disposition::Delivered { dsn_relayed: false }, on(true, false), true),
        (Disposition::Delivered { dsn_relayed: true }, on(true, false), false),
        (Disposition::Delivered { dsn_relayed: false }, Notify::Default, false),
        (Disposition::Delayed, Notify::Default, true),
        (Disposition::Delayed, on(true, true), false),
        (Disposition::Delayed, Notify::On { success: false, failure: false, delay: true }, true),
        (Disposition::Delayed, Notify::Never, false),
        (Disposition::Deferred, Notify::On { success: false, failure: false, delay: true }, false),
    ] {
        assert_eq!(owes(disposition, notify), expected, "{disposition:?} {notify:?}");
    }
}

#[test]
fn recipients_that_no_batch_names_are_duplicates() {
    let (ledger, change) = routed(3, &[2, 9]);
    assert_eq!(change, Change::None);
    assert!(!ledger.is_open(MESSAGE, 0) && ledger.is_open(MESSAGE, 2));
    assert_eq!(routed(3, &[]).1, Change::DoneAndFinished);
}

//! When senders are told.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use zrelay_clock::{Clock, Timestamp};
use zrelay_mailbox::mailbox;
use zrelay_spool::{Disposition, Fact, MessageId, Owed, Refused};

use super::{Letter, Office, no_such_user};
use crate::desk::Turn;
use crate::{Gatherer, OWED_MAX};

#[test]
fn failures_are_gathered_for_the_gather_time_from_the_first() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["a@x", "b@x", "c@x"]));
    office.fail(&[0]);
    assert!(office.pass(200).is_empty());
    office.fail(&[1]);
    assert!(office.pass(99).is_empty());
    assert_eq!(office.desk.poll_timeout(), Some(office.now + Duration::from_secs(1)));
    let posted = office.pass(1);
    assert_eq!(posted[0].envelope.origin.as_ref().unwrap().recipients, [0, 1]);
    posted[0].answer(Ok(()));
    // What fails later has a report of its own.
    office.fail(&[2]);
    assert_eq!(office.done()[0].envelope.origin.as_ref().unwrap().recipients, [2]);
}

#[test]
fn nothing_is_due_by_the_clock_while_no_more_reports_may_be_under_way() {
    let senders: Vec<String> = (0..100).map(|number| format!("s{number}@lists.example")).collect();
    let recipients = (0..100).map(|number| (format!("r{number}@x"), number, None)).collect();
    let mut office = Office::new(Letter { senders, recipients, ..Letter::new("", &[]) });
    office.fail(&(0..99).collect::<Vec<_>>());
    let mut posted = office.done();
    office.fail(&[99]);
    assert!(office.pass(301).is_empty());
    assert_eq!(office.desk.poll_timeout(), None, "until the spool answers");
    let mut told = posted.len();
    while !posted.is_empty() {
        posted.iter().for_each(|report| report.answer(Ok(())));
        posted = office.work();
        told += posted.len();
    }
    assert_eq!(told, 100);
}

#[test]
fn a_refused_report_is_made_again_later_and_once() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["a@x"]));
    office.fail(&[0]);
    let posted = office.done();
    posted[0].answer(Err(Refused::Full));
    assert!(office.work().is_empty());
    assert!(office.pass(29).is_empty());
    let again = office.pass(1);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].envelope.origin, posted[0].envelope.origin);
    assert_ne!(again[0].content, posted[0].content, "an id is not used twice");
    again[0].answer(Ok(()));
    assert!(office.pass(1000).is_empty());
    assert_eq!(office.desk.poll_timeout(), None);
}

#[test]
fn what_the_spool_repeats_after_a_restart_is_told_once() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["a@x"]));
    office.fail(&[0]);
    office.fail(&[0]);
    let posted = office.done();
    assert_eq!(posted[0].text().matches("Final-Recipient:").count(), 1);
}

fn owed(message: u64, recipients: Vec<u32>) -> Owed {
    Owed {
        message: MessageId(message),
        recipients,
        disposition: Disposition::Failed,
        diagnostic: Arc::new(no_such_user()),
        at: Timestamp::ZERO,
        until: None,
    }
}

#[test]
fn above_its_bound_the_gatherer_lets_go_of_the_earliest() {
    let mut gatherer = Gatherer::new(Duration::from_secs(300));
    let half = u32::try_from(OWED_MAX / 2).unwrap();
    gatherer.handle_owed(Timestamp::ZERO, owed(1, (0..half).collect()));
    gatherer.handle_owed(Timestamp::from_secs(1), owed(2, (0..half).collect()));
    assert_eq!(gatherer.poll_ripe(Timestamp::from_secs(1)), None);
    gatherer.handle_owed(Timestamp::from_secs(2), owed(3, vec![0]));
    assert_eq!(gatherer.poll_ripe(Timestamp::from_secs(2)).unwrap().message, MessageId(1));
    assert_eq!(gatherer.poll_ripe(Timestamp::from_secs(2)), None);
    assert_eq!(gatherer.len(), OWED_MAX / 2 + 1);
}

#[derive(Clone, Debug)]
enum Event {
    Owed(u64),
    Done(u64),
    Removed(u64),
    Refused(u64),
    Pass(u64),
}

proptest! {
    /// Whatever happens in whatever order: what is owed comes out exactly once, unless its message was removed, and
    /// never later than gather time and retry allow.
    #[test]
    fn everything_owed_comes_out_once(events in proptest::collection::vec(
        prop_oneof![
            4 => (0u64..4).prop_map(Event::Owed),
            1 => (0u64..4).prop_map(Event::Done),
            1 => (0u64..4).prop_map(Event::Removed),
            1 => (0u64..4).prop_map(Event::Refused),
            1 => (0u64..200).prop_map(Event::Pass),
        ], 0..60)) {
        let mut gatherer = Gatherer::new(Duration::from_secs(300));
        let mut now = Timestamp::ZERO;
        let mut expected: Vec<(u64, u32)> = Vec::new();
        let mut told: Vec<(u64, u32)> = Vec::new();
        let mut next = 0u32;
        for event in events {
            match event {
                Event::Owed(message) => {
                    gatherer.handle_owed(now, owed(message, vec![next]));
                    expected.push((message, next));
                    next += 1;
                }
                Event::Done(message) => gatherer.handle_done(now, MessageId(message)),
                Event::Removed(message) => {
                    gatherer.handle_removed(MessageId(message));
                    expected.retain(|item| item.0 != message || told.contains(item));
                }
                Event::Refused(message) => {
                    let back: Vec<_> = told.iter().filter(|item| item.0 == message).copied().collect();
                    told.retain(|item| item.0 != message);
                    let items = back.iter().map(|(_, recipient)| crate::Item {
                        recipient: *recipient,
                        disposition: Disposition::Failed,
                        diagnostic: Arc::new(no_such_user()),
                        at: now,
                        until: None,
                    });
                    let items: Vec<_> = items.collect();
                    if !items.is_empty() {
                        gatherer.handle_refused(now, MessageId(message), items);
                    }
                }
                Event::Pass(seconds) => now = now + Duration::from_secs(seconds),
            }
            while let Some(ripe) = gatherer.poll_ripe(now) {
                told.extend(ripe.items.iter().map(|item| (ripe.message.0, item.recipient)));
            }
            prop_assert!(gatherer.poll_timeout().is_none_or(|due| due > now));
            prop_assert_eq!(gatherer.is_empty(), gatherer.poll_timeout().is_none());
        }
        now = now + Duration::from_secs(300);
        while let Some(ripe) = gatherer.poll_ripe(now) {
            told.extend(ripe.items.iter().map(|item| (ripe.message.0, item.recipient)));
        }
        told.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(told, expected);
        prop_assert!(gatherer.is_empty());
    }
}

#[test]
fn a_spool_that_ends_without_its_answers_ends_the_notary() {
    let senders: Vec<String> = (0..200).map(|number| format!("s{number}@lists.example")).collect();
    let recipients = (0..200).map(|number| (format!("r{number}@x"), number, None)).collect();
    let mut office = Office::new(Letter { senders, recipients, ..Letter::new("", &[]) });
    office.fail(&(0..200).collect::<Vec<_>>());
    let posted = office.done();
    assert!(posted.len() < 200, "so many reports at a time");
    let (facts, told) = mailbox::<Fact>(1);
    drop(facts);
    assert_eq!(office.desk.turn(&told, &Clock::start()), Turn::Over);
}

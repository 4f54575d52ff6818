//! Who gets a report, and of what.

use zrelay_spool::{Diagnostic, Disposition, Notify, Origin, Status};

use super::{ABOUT, Letter, Office, no_such_user};
use crate::RECIPIENTS_MAX;

#[test]
fn a_sender_gets_one_report_for_all_failures_of_a_message() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["a@x", "b@x", "c@x"]));
    office.fail(&[2]);
    office.fail(&[0]);
    assert!(office.work().is_empty(), "told before the gather time is over");
    let posted = office.done();
    assert_eq!(posted.len(), 1);
    let envelope = &posted[0].envelope;
    assert_eq!(envelope.senders, [""]);
    assert_eq!(envelope.recipients.len(), 1);
    assert_eq!(posted[0].to(), "ann@lists.example");
    assert_eq!(envelope.recipients[0].notify, Notify::Default);
    assert_eq!(envelope.origin, Some(Origin { message: ABOUT, recipients: vec![0, 2] }));
    assert!(office.settled.is_empty(), "settled by its origin, not by a request");
}

#[test]
fn each_verp_sender_gets_a_report_of_its_own() {
    let mut letter = Letter::new("list+a=x@lists.example", &["a@x", "b@x", "c@x"]);
    letter.senders.push("list+b=x@lists.example".to_owned());
    letter.recipients[1].1 = 1;
    let mut office = Office::new(letter);
    office.fail(&[0, 1, 2]);
    let posted = office.done();
    let told: Vec<_> = posted
        .iter()
        .map(|posted| (posted.to(), posted.envelope.origin.as_ref().unwrap().recipients.clone()))
        .collect();
    assert_eq!(told, [("list+a=x@lists.example", vec![0, 2]), ("list+b=x@lists.example", vec![1])]);
    let text = posted[1].text();
    assert!(text.contains("b@x") && !text.contains("a@x"), "{text}");
}

#[test]
fn a_thousand_verp_senders_are_told_without_more_than_a_window_under_way() {
    let mut letter = Letter::new("", &[]);
    letter.senders = (0..1000).map(|n| format!("l+{n:04}@lists.example")).collect();
    letter.recipients = (0..1000).map(|n| (format!("u{n}@x"), n, None)).collect();
    let mut office = Office::new(letter);
    office.fail(&(0..1000).collect::<Vec<_>>());
    let mut posted = office.done();
    let mut told = Vec::new();
    while !posted.is_empty() {
        assert!(posted.len() <= 64);
        for report in posted {
            told.push(report.to().to_owned());
            report.answer(Ok(()));
        }
        posted = office.work();
    }
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 1000);
}

#[test]
fn a_null_sender_is_never_told_and_without_a_postmaster_only_the_log_is() {
    let mut office = Office::new(Letter::new("", &["a@x", "b@x"]));
    office.fail(&[0, 1]);
    assert!(office.done().is_empty());
    assert_eq!(office.settled, [(ABOUT, vec![0, 1])]);
}

#[test]
fn a_null_senders_failure_goes_to_the_postmaster() {
    let mut office = Office::with(Letter::new("", &["a@x"]), Some("postmaster@hub.example"));
    office.fail(&[0]);
    let posted = office.done();
    assert_eq!(posted.len(), 1);
    assert_eq!(posted[0].to(), "postmaster@hub.example");
    assert_eq!(posted[0].envelope.senders, [""]);
    assert_eq!(posted[0].envelope.recipients[0].notify, Notify::Never, "its own failure must end here");
    assert!(posted[0].text().contains("Subject: Postmaster notice"));
    assert!(!posted[0].text().contains("Hello."), "the header is enough");
}

#[test]
fn a_failed_notice_to_the_postmaster_goes_to_the_log_only() {
    let mut office = Office::with(Letter::new("", &["Postmaster@hub.example"]), Some("postmaster@hub.example"));
    office.fail(&[0]);
    assert!(office.done().is_empty());
    assert_eq!(office.settled, [(ABOUT, vec![0])]);
}

#[test]
fn what_an_operator_dropped_is_settled_without_a_report() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["a@x", "b@x"]));
    office.owe(Disposition::Dropped, &[0], Diagnostic::default());
    office.fail(&[1]);
    let posted = office.done();
    assert_eq!(posted[0].envelope.origin.as_ref().unwrap().recipients, [1]);
    assert_eq!(office.settled, [(ABOUT, vec![0])]);
}

#[test]
fn a_report_too_long_for_one_message_continues_in_the_next() {
    let mut letter = Letter::new("ann@lists.example", &[]);
    let count = u32::try_from(RECIPIENTS_MAX).unwrap() + 5;
    letter.recipients = (0..count).map(|n| (format!("user{n}@example.net"), 0, None)).collect();
    let mut office = Office::new(letter);
    office.owe(Disposition::Failed, &(0..count).collect::<Vec<_>>(), Diagnostic::local(Status(5, 1, 2), "gone"));
    let posted = office.done();
    let told: Vec<usize> =
        posted.iter().map(|posted| posted.envelope.origin.as_ref().unwrap().recipients.len()).collect();
    assert_eq!(told, [RECIPIENTS_MAX, 5]);
    assert!(posted[0].appended > 0, "streamed in pieces");
    assert_eq!(posted[0].text().matches("Final-Recipient:").count(), RECIPIENTS_MAX);
    assert!(posted[0].text().contains("and 9950 more"));
}

#[test]
fn a_message_that_cannot_be_read_stays_owed_and_harms_nobody() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["a@x"]));
    let other = zrelay_spool::MessageId(0x5555);
    office.fail(&[0]);
    office.desk.handle_fact(
        office.now,
        zrelay_spool::Fact::Owed(zrelay_spool::Owed {
            message: other,
            recipients: vec![0],
            disposition: Disposition::Failed,
            diagnostic: std::sync::Arc::new(no_such_user()),
            at: office.now,
            until: None,
        }),
    );
    assert_eq!(office.pass(300).len(), 1);
    assert!(office.settled.is_empty());
}

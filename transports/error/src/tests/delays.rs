//! What a sender is told of mail that is late.

use zrelay_spool::{Diagnostic, Disposition, Status};

use super::{ABOUT, Letter, Office, no_such_user};

fn busy() -> Diagnostic {
    Diagnostic { code: 450, status: Status(4, 2, 1), text: "mailbox is busy".into(), ..no_such_user() }
}

#[test]
fn a_delay_is_told_in_a_notice_of_its_own_that_settles_nothing() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["bob@example.net", "eve@example.net"]));
    office.owe(Disposition::Delayed, &[0], busy());
    office.fail(&[1]);
    let posted = office.pass(300);
    assert_eq!(posted.len(), 2);
    assert_eq!(posted[0].envelope.origin.as_ref().unwrap().recipients, [1]);
    let notice = &posted[1];
    assert_eq!(notice.envelope.origin, None);
    assert_eq!(notice.envelope.senders, [""]);
    assert_eq!(notice.to(), "ann@lists.example");
    let text = notice.text();
    for part in [
        "Subject: Delayed Mail (still being retried)\r\n",
        "You do not need to send your message again",
        "<bob@example.net>\r\n",
        "Action: delayed\r\nStatus: 4.2.1\r\n",
        "Will-Retry-Until: ",
        "text/rfc822-headers",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("eve@") && !text.contains("Hello."), "{text}");
}

#[test]
fn a_delay_is_no_news_once_the_fate_is_known_and_never_for_the_null_sender() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["bob@example.net"]));
    office.owe(Disposition::Delayed, &[0], busy());
    office.owe(Disposition::Expired, &[0], busy());
    let posted = office.done();
    assert_eq!(posted.len(), 1);
    assert!(posted[0].text().contains("Action: failed"));

    let mut office = Office::with(Letter::new("", &["bob@example.net"]), Some("postmaster@hub.example"));
    office.owe(Disposition::Delayed, &[0], busy());
    assert!(office.pass(300).is_empty());
    assert!(office.settled.is_empty(), "{ABOUT}");
}

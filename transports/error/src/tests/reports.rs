//! What a report says, read back with mail-parser.

use aws_lc_rs::digest;
use mail_parser::{Message, MessageParser, MimeHeaders};
use proptest::prelude::*;
use zrelay_spool::{Content, Diagnostic, Disposition, Ret, Status};

use super::{Letter, Office, Posted, no_such_user};
use crate::{FULL_MAX, FULL_MAX_WANTED, HEADER_MAX};

fn one(office: &mut Office) -> Posted {
    let mut posted = office.done();
    assert_eq!(posted.len(), 1);
    let posted = posted.remove(0);
    assert_eq!(digest::digest(&digest::SHA256, &posted.content).as_ref(), posted.digest);
    let text = posted.text();
    assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
    posted
}

fn parse(posted: &Posted) -> Message<'_> {
    MessageParser::default().parse(&posted.content).expect("a message")
}

/// Type and raw octets of the three parts.
fn parts<'a>(message: &'a Message<'_>) -> Vec<(String, &'a [u8])> {
    let mut parts = Vec::new();
    let mut root = message.parts[0].sub_parts().expect("multipart").to_vec();
    for id in root.drain(..) {
        let part = &message.parts[id as usize];
        let kind = part.content_type().unwrap();
        let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or(""));
        parts.push((kind, &message.raw_message()[part.raw_body_offset() as usize..part.raw_end_offset() as usize]));
    }
    parts
}

/// The groups of fields of the program's part: of the message, then of each recipient; folded lines joined.
fn fields(text: &[u8]) -> Vec<Vec<(String, String)>> {
    let text = std::str::from_utf8(text).unwrap().replace("\r\n ", " ");
    let groups = text.trim_end().split("\r\n\r\n");
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    groups.map(|group| group.split("\r\n").map(field).collect()).collect()
}

fn value<'a>(group: &'a [(String, String)], name: &str) -> Option<&'a str> {
    group.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
}

#[test]
fn a_report_has_the_three_parts_of_rfc_3464() {
    let mut letter = Letter::new("ann@lists.example", &["bob@example.net", "eve@example.net"]);
    letter.envid = Some("QQ+3D17");
    letter.recipients[1].2 = Some("rfc822;eve+2Bold@example.org");
    let original = letter.bytes();
    let mut office = Office::new(letter);
    office.fail(&[0]);
    let late = Diagnostic { code: 450, status: Status(4, 2, 1), text: "mailbox is busy".into(), ..no_such_user() };
    office.owe(Disposition::Expired, &[1], late);
    let posted = one(&mut office);

    let message = parse(&posted);
    assert_eq!(message.subject(), Some("Undelivered Mail Returned to Sender"));
    assert_eq!(message.to().unwrap().first().unwrap().address(), Some("ann@lists.example"));
    assert_eq!(message.from().unwrap().first().unwrap().address(), Some("MAILER-DAEMON@hub.example"));
    assert_eq!(message.header_raw("Auto-Submitted").map(str::trim), Some("auto-replied"));
    assert_eq!(message.message_id(), Some("2000.1000@hub.example"));
    assert!(message.date().is_some());
    let kind = message.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));

    let parts = parts(&message);
    let kinds: Vec<&str> = parts.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["text/plain", "message/delivery-status", "message/rfc822"]);

    let person = String::from_utf8_lossy(parts[0].1);
    assert!(person.contains("<bob@example.net>\r\n"), "{person}");
    assert!(person.contains("said: 550 5.1.1 no such user here"), "{person}");
    assert!(person.contains("given up after repeated attempts"), "{person}");

    let fields = fields(parts[1].1);
    assert_eq!(fields.len(), 3);
    assert_eq!(value(&fields[0], "Reporting-MTA"), Some("dns; hub.example"));
    assert_eq!(value(&fields[0], "Original-Envelope-Id"), Some("QQ=17"));
    assert!(value(&fields[0], "Arrival-Date").is_some());
    assert_eq!(value(&fields[1], "Final-Recipient"), Some("rfc822; bob@example.net"));
    assert_eq!(value(&fields[1], "Original-Recipient"), None);
    assert_eq!(value(&fields[1], "Action"), Some("failed"));
    assert_eq!(value(&fields[1], "Status"), Some("5.1.1"));
    assert_eq!(value(&fields[1], "Remote-MTA"), Some("dns; mx.example.net"));
    assert_eq!(value(&fields[1], "Diagnostic-Code"), Some("smtp; 550 5.1.1 no such user here"));
    assert!(value(&fields[1], "Last-Attempt-Date").is_some());
    assert_eq!(value(&fields[2], "Original-Recipient"), Some("rfc822; eve+old@example.org"));
    assert_eq!(value(&fields[2], "Action"), Some("failed"));
    assert_eq!(value(&fields[2], "Status"), Some("4.2.1"));

    assert_eq!(parts[2].1, original, "returned to the octet");
    assert!(!posted.envelope.content.eight_bit && !posted.envelope.content.smtputf8);
    assert!(String::from_utf8_lossy(&posted.envelope.trace).starts_with("Received: by hub.example (zrelay) id 2000;"));
}

#[test]
fn a_failure_of_our_own_has_no_remote_host() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["bob@a..b"]));
    office.owe(Disposition::Failed, &[0], Diagnostic::local(Status(5, 1, 2), "bad domain"));
    let posted = one(&mut office);
    let message = parse(&posted);
    let fields = fields(parts(&message)[1].1);
    assert_eq!(value(&fields[1], "Remote-MTA"), None);
    assert_eq!(value(&fields[1], "Diagnostic-Code"), Some("x-zrelay; bad domain"));
    assert_eq!(value(&fields[0], "Original-Envelope-Id"), None);
}

#[test]
fn ret_and_the_size_decide_what_is_returned() {
    let long = || {
        let mut letter = Letter::new("ann@lists.example", &["bob@x"]);
        letter.slices.push(b"0123456789ABCDEF\r\n".repeat(usize::try_from(FULL_MAX).unwrap() / 18 + 1));
        letter
    };
    let huge = || {
        let mut letter = long();
        letter.slices.push(b"0123456789abcdef\r\n".repeat(usize::try_from(FULL_MAX_WANTED).unwrap() / 18 + 1));
        letter
    };
    let with = |mut letter: Letter, ret| {
        letter.ret = ret;
        letter
    };
    let header = "text/rfc822-headers";
    let whole = "message/rfc822";
    for (letter, expected) in [
        (Letter::new("ann@lists.example", &["bob@x"]), whole),
        (with(Letter::new("ann@lists.example", &["bob@x"]), Some(Ret::Headers)), header),
        (long(), header),
        (huge(), header),
        (with(huge(), Some(Ret::Full)), header),
    ] {
        let mut office = Office::new(letter);
        office.fail(&[0]);
        let posted = one(&mut office);
        let message = parse(&posted);
        let parts = parts(&message);
        assert_eq!(parts[2].0, expected);
        let text = String::from_utf8_lossy(parts[2].1);
        assert!(text.contains("Subject: the post\r\n"));
        assert_eq!(text.contains("Hello."), expected == whole);
    }
    let letter = with(long(), Some(Ret::Full));
    let original = letter.bytes();
    let mut office = Office::new(letter);
    office.fail(&[0]);
    let text = one(&mut office).content;
    assert!(text.windows(original.len()).any(|window| window == original));
}

#[test]
fn a_requested_success_that_was_relayed_is_reported_with_the_header_only() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["bob@x", "eve@x"]));
    let taken = Diagnostic { code: 250, status: Status(2, 0, 0), text: "OK".into(), ..no_such_user() };
    office.owe(Disposition::Delivered { dsn_relayed: false }, &[0], taken.clone());
    let posted = one(&mut office);
    let message = parse(&posted);
    assert_eq!(message.subject(), Some("Successful Mail Delivery Report"));
    let parts = parts(&message);
    assert_eq!(parts[2].0, "text/rfc822-headers");
    let group = &fields(parts[1].1)[1];
    assert_eq!((value(group, "Action"), value(group, "Status")), (Some("relayed"), Some("2.0.0")));
    posted.envelope.origin.as_ref().unwrap();
    posted.answer(Ok(()));

    office.owe(Disposition::Delivered { dsn_relayed: false }, &[0], taken);
    office.fail(&[1]);
    let posted = one(&mut office);
    assert_eq!(parse(&posted).subject(), Some("Mail Delivery Report"));
    assert_eq!(posted.text().matches("Action: relayed").count(), 1);
    assert_eq!(posted.text().matches("Action: failed").count(), 1);
}

#[test]
fn internationalised_addresses_are_reported_in_the_types_of_rfc_6533() {
    let mut letter = Letter::new("änn@lists.example", &["büb@example.net", "eve@example.net"]);
    letter.content = Content { eight_bit: true, smtputf8: true };
    letter.recipients[0].2 = Some("utf-8;b\\x{FC}b@example.net");
    let mut office = Office::new(letter);
    office.fail(&[0, 1]);
    let posted = one(&mut office);
    assert!(posted.envelope.content.smtputf8 && posted.envelope.content.eight_bit);
    let message = parse(&posted);
    let parts = parts(&message);
    let kinds: Vec<&str> = parts.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["text/plain", "message/global-delivery-status", "message/global"]);
    let fields = fields(parts[1].1);
    assert_eq!(value(&fields[1], "Final-Recipient"), Some("utf-8; büb@example.net"));
    assert_eq!(value(&fields[1], "Original-Recipient"), Some("utf-8; büb@example.net"));
    assert_eq!(value(&fields[2], "Final-Recipient"), Some("rfc822; eve@example.net"));
}

#[test]
fn an_eight_bit_message_makes_an_eight_bit_report() {
    let mut letter = Letter::new("ann@lists.example", &["bob@x"]);
    letter.content.eight_bit = true;
    letter.slices.push(b"gr\xfc\xdfe\r\n".to_vec());
    let mut office = Office::new(letter);
    office.fail(&[0]);
    let posted = office.done().remove(0);
    assert!(posted.envelope.content.eight_bit && !posted.envelope.content.smtputf8);
    assert!(posted.text().contains("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n"));
    assert!(posted.content.windows(6).any(|window| window == b"gr\xfc\xdfe\r"));
}

#[test]
fn a_remote_text_cannot_add_fields_to_a_report() {
    let mut office = Office::new(Letter::new("ann@lists.example", &["bob@x"]));
    let text = "no\r\nAction: delivered\r\n\r\nFinal-Recipient: rfc822; x@y gr\u{fc}\u{df}e".to_owned();
    office.owe(Disposition::Failed, &[0], Diagnostic { text, ..no_such_user() });
    let posted = one(&mut office);
    let message = parse(&posted);
    let parts = parts(&message);
    let fields = fields(parts[1].1);
    assert_eq!(fields.len(), 2);
    assert_eq!(fields[1].iter().filter(|field| field.0 == "Action").count(), 1);
    assert!(parts[1].1.is_ascii());
}

#[test]
fn a_header_without_an_end_is_cut_behind_a_line() {
    let mut letter = Letter::new("ann@lists.example", &["bob@x"]);
    letter.ret = Some(Ret::Headers);
    letter.slices = vec![b"X-Filler: 0123456789\r\n".repeat(2 * HEADER_MAX / 22)];
    let mut office = Office::new(letter);
    office.fail(&[0]);
    let posted = one(&mut office);
    let message = parse(&posted);
    let parts = parts(&message);
    assert!(parts[2].1.len() <= HEADER_MAX && parts[2].1.len() > HEADER_MAX - 50);
    assert!(parts[2].1.ends_with(b"9\r\n") || parts[2].1.ends_with(b"9"));
}

proptest! {
    #[test]
    fn the_header_is_found_at_every_division_into_slices(cuts in proptest::collection::vec(0usize..90, 0..6)) {
        let letter = Letter::new("ann@lists.example", &["bob@x"]);
        let whole = letter.bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
        cuts.sort_unstable();
        cuts.insert(0, 0);
        cuts.push(whole.len());
        let slices = cuts.windows(2).map(|pair| whole[pair[0]..pair[1]].to_vec()).collect();
        let mut office = Office::new(Letter { slices, ret: Some(Ret::Headers), ..letter });
        office.fail(&[0]);
        let text = one(&mut office).text();
        let expected = "\r\n\r\nReceived: from a by b; now\r\nSubject: the post\r\nMessage-ID: <1@lists.example>\r\n\r\n--=_";
        prop_assert!(text.contains(expected), "{}", text);
    }
}

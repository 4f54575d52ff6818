use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use zrelay_clock::Timestamp;

use super::*;
use crate::appender::bench;
use crate::{Envelope, Importer, Notify, PIECE_MAX, ReadError, Recipient, Refused};

fn envelope(recipients: u32) -> Envelope {
    let recipient = |n| Recipient {
        address: format!("user{n}@example.net"),
        sender: 0,
        orcpt: Some("rfc822;a@b".into()),
        notify: Notify::Never,
    };
    Envelope { recipients: (0..recipients).map(recipient).collect(), ..bench::envelope(&[]) }
}

fn import(directory: &Path, bodies: &[&[u8]]) -> Vec<MessageId> {
    let mut importer = Importer::open(directory, Timestamp::from_secs(2000)).unwrap();
    let ids: Vec<MessageId> = bodies.iter().map(|body| importer.add(envelope(2), body)).collect();
    let results: Vec<(MessageId, Result<(), Refused>)> = importer.commit();
    assert_eq!(results, ids.iter().map(|id| (*id, Ok(()))).collect::<Vec<_>>());
    ids
}

fn body(offline: &Offline, message: MessageId) -> Vec<u8> {
    offline.reader().message(message).unwrap().body().collect::<Vec<_>>().concat()
}

#[test]
fn what_was_imported_is_there_to_be_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let large = vec![b'x'; 2 * PIECE_MAX + 5];
    let ids = import(directory.path(), &[b"one", &large, b""]);

    let offline = Offline::open(directory.path()).unwrap();

    assert_eq!(offline.messages(), ids);
    assert_eq!(body(&offline, ids[1]), large);
    assert_eq!(body(&offline, ids[2]), b"");
    assert_eq!((offline.fate(ids[0], 1), offline.fate(ids[0], 2)), (Fate::Open, Fate::Done));
    let figures = offline.figures();
    assert_eq!((figures.messages, figures.unrouted, figures.recipients_open), (3, 3, 6));
    assert_eq!(figures.queued_bytes, 3 * 16 + 3 + large.len() as u64);
    let check = offline.check();
    assert_eq!((check.messages, check.damage), (3, vec![]));
    assert_eq!(offline.holder(), None);
}

#[test]
fn a_hub_that_has_the_spool_is_named_and_its_mail_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let mut importer = Importer::open(directory.path(), Timestamp::from_secs(2000)).unwrap();
    let message = importer.add(envelope(1), b"seen");
    assert_eq!(importer.commit(), [(message, Ok(()))]);

    let offline = Offline::open(directory.path()).unwrap();

    assert_eq!(offline.holder(), Some(Holder::Process(std::process::id())));
    assert_eq!(body(&offline, message), b"seen");
    assert!(matches!(Importer::open(directory.path(), Timestamp::ZERO), Err(OpenError::Locked { .. })));
}

#[test]
fn looking_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    import(directory.path(), &[b"one"]);
    // As a crash between the creation of a segment and its first record leaves it: a start removes it.
    fs::write(directory.path().join("00000009.seg"), [0; 4096]).unwrap();
    let listing = || {
        let entries = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect::<BTreeSet<_>>()
    };
    let before = listing();

    let offline = Offline::open(directory.path()).unwrap();

    assert_eq!((offline.check().damage, offline.figures().messages), (vec![], 1));
    assert_eq!(listing(), before);
}

#[test]
fn a_damaged_body_is_found_and_costs_no_other_message() {
    let directory = tempfile::tempdir().unwrap();
    let ids = import(directory.path(), &[b"the first body", b"the other body"]);
    let path = directory.path().join("00000001.seg");
    let octets = fs::read(&path).unwrap();
    let at = octets.windows(14).position(|window| window == b"the first body").unwrap();
    // A later segment makes this one sealed, so that the damage cannot be a torn tail.
    import(directory.path(), &[b"later"]);
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(b"T").unwrap();

    let offline = Offline::open(directory.path()).unwrap();

    let check = offline.check();
    let record = Damage::Record { segment: 1, at: at as u32 - 20, kind: "Piece".into() };
    assert_eq!(check.damage, [Damage::Content(ids[0]), record]);
    assert_eq!(offline.reader().intact(ids[0]).unwrap_err(), ReadError::Content(ids[0]));
    assert_eq!(body(&offline, ids[0]), b"The first body", "what is left of it can be had");
    assert_eq!((body(&offline, ids[1]), check.messages), (b"the other body".to_vec(), 2));
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(Offline::open(&directory.path().join("none")), Err(OpenError::Read { .. })));
}

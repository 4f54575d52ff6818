//! Segments that earlier versions have written, and that every later one must read.
//!
//! `common/spool/fixtures/vN` was written by the code below when the format was N, and says in `expected.txt` what is in
//! it. When the format changes, a new directory is made with
//!
//! ```text
//! ZRELAY_FIXTURE=$PWD/common/spool/fixtures/v4 cargo nextest run -p zrelay-spool formats
//! ```
//!
//! and those that are there stay as they are.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use zrelay_clock::Timestamp;

use super::bench::{Bench, DELIVERED, envelope, outcome, route};
use super::*;
use crate::simulated::Simulated;
use crate::{
    BatchId, BatchState, ByMode, DeliverBy, Disposition, Fate, Flow, Handling, Importer, Notify, Offline, Recipient,
    Ret, ThreadKey, ThreadState,
};

const SEGMENT: u32 = 4096;
const TWO: &[Notify] = &[Notify::Default, Notify::On { success: true, failure: true, delay: false }];

/// A spool with a record of every kind, and messages in every stage.
fn write() -> Simulated {
    let mut bench = Bench::open(Simulated::default(), SEGMENT);
    let settle = |bench: &mut Bench| {
        bench.turn();
        bench.appender.settle();
        bench.outputs();
    };
    // One that is moved: everything else in its segment goes.
    let moved = bench.commit(b"Subject: moved\r\n\r\nfrom an old segment\r\n", envelope(TWO));
    settle(&mut bench);
    bench.appender.take(route(moved, &[0, 1]));
    bench.appender.take(Request::Outcomes(vec![outcome(moved, 0, &[0], Disposition::Failed)]));
    bench.appender.take(Request::Outcomes(vec![outcome(moved, 0, &[1], Disposition::Deferred)]));
    settle(&mut bench);
    for n in 0..4 {
        let gone = bench.commit(&[b'0' + n; 2500], envelope(TWO));
        settle(&mut bench);
        bench.appender.take(route(gone, &[0, 1]));
        bench.appender.take(Request::Outcomes(vec![outcome(gone, 0, &[0, 1], DELIVERED)]));
        settle(&mut bench);
        bench.appender.take(Request::Settled { message: gone, recipients: vec![1] });
        settle(&mut bench);
    }
    bench.compact();
    // One in two pieces, with everything that an envelope can hold, not routed.
    let streamed = bench.shared.next_id();
    bench.appender.take(Request::Append { message: streamed, bytes: b"Subject: streamed\r\n\r\n".to_vec() });
    let mut full = envelope(TWO);
    full.envid = Some("QQ+3D1".to_owned());
    full.ret = Some(Ret::Headers);
    let deadline = Timestamp::from_secs(6000);
    let deliver_by = Some(DeliverBy { deadline, mode: ByMode::Return, trace: true });
    full.handling = Handling { flow: Some(Flow(7)), priority: -3, deliver_by };
    full.content.smtputf8 = true;
    full.senders.push(String::new());
    full.recipients.push(Recipient {
        address: "dr\u{f6}ge@example.net".to_owned(),
        sender: 1,
        orcpt: Some("rfc822;list@example.org".to_owned()),
        notify: Notify::Never,
    });
    let reply = bench.reply(streamed);
    let commit = Request::Commit {
        message: streamed,
        tail: b"in two pieces\r\n".to_vec(),
        digest: [7; 32],
        envelope: Box::new(full),
        reply,
    };
    bench.appender.take(commit);
    // Two that share a body; one is held, for one the report is owed, and a third is a report of ours.
    let body = [b's'; 100];
    let [held, owed] = [(); 2].map(|()| bench.commit(&body, envelope(TWO)));
    settle(&mut bench);
    bench.appender.take(route(held, &[0, 1]));
    bench.appender.take(route(owed, &[0, 1]));
    settle(&mut bench);
    let id = BatchId { message: held, number: 0 };
    bench.appender.take(Request::Reroute { id, thread: ThreadKey::new("lmtp", "elsewhere.example.net") });
    bench.appender.take(Request::Batch(BatchState { id, held: true, due: Timestamp::from_secs(4000), attempts: 5 }));
    bench.appender.take(Request::Outcomes(vec![outcome(owed, 0, &[0, 1], Disposition::Expired)]));
    settle(&mut bench);
    let mut report = envelope(&TWO[..1]);
    report.origin = Some(Origin { message: owed, recipients: vec![0] });
    bench.commit(b"Subject: failure\r\n\r\n", report);
    let last = Some(outcome(owed, 0, &[], Disposition::Deferred).diagnostic);
    let key = ThreadKey::new("smtp", "down.example.net");
    bench.appender.take(Request::Thread(ThreadState {
        key,
        failures: 3,
        due: Timestamp::from_secs(5000),
        held: true,
        last,
    }));
    settle(&mut bench);
    bench.disk.after_kill()
}

/// What is in a spool, without the ids, which are times.
fn describe(directory: &Path) -> String {
    let offline = Offline::open(directory).unwrap();
    let (reader, mut text) = (offline.reader(), String::new());
    let mut say = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").unwrap();
    let messages = offline.messages();
    let position = |id: MessageId| messages.iter().position(|other| *other == id).map_or(0, |at| at + 1);
    for id in &messages {
        let stored = reader.intact(*id).unwrap();
        let body = String::from_utf8(stored.body().collect::<Vec<_>>().concat()).unwrap();
        say(format_args!("message {}: {body:?}", position(*id)));
        say(format_args!(
            "  received {} from {}, trace {:?}",
            stored.received().as_micros(),
            stored.client(),
            stored.trace().len()
        ));
        let (content, envid, ret) = (stored.content(), stored.envid(), stored.ret());
        say(format_args!("  8bit {}, utf8 {}, envid {envid:?}, ret {ret:?}", content.eight_bit, content.smtputf8));
        // Asked for since version 3.
        let handling = stored.handling();
        if handling != Handling::default() {
            say(format_args!("  {handling:?}"));
        }
        for index in 0..stored.recipients() {
            let recipient = stored.recipient(index);
            let sender = stored.sender(recipient.sender);
            let fate = match offline.fate(*id, index) {
                Fate::Open => "open",
                Fate::Owed => "owed",
                Fate::Done => "done",
            };
            let (address, orcpt, notify) = (recipient.address, recipient.orcpt, recipient.notify);
            say(format_args!("  <{sender}> to <{address}>, {orcpt:?}, {notify:?}: {fate}"));
        }
        if let Some(origin) = stored.origin() {
            say(format_args!("  a report on {} {:?}", position(origin.message), origin.recipients));
        }
    }
    for batch in offline.batches() {
        let last = batch.last.as_ref().map(ToString::to_string);
        let (number, thread, recipients) = (position(batch.id.message), &batch.thread, &batch.recipients);
        let (attempts, due, held) = (batch.attempts, batch.due.as_micros(), batch.held);
        say(format_args!(
            "batch of {number} in {thread}: {recipients:?}, {attempts} attempts, due {due}, held {held}, {last:?}"
        ));
    }
    for (id, progress) in messages.iter().filter_map(|id| Some((id, offline.progress().remove(id)?))) {
        for report in progress.reports {
            let (about, why) = (report.disposition, report.diagnostic);
            say(format_args!("owed for {} {:?}: {about:?}, {why}", position(*id), report.recipients));
        }
    }
    say(format_args!("{:?}", offline.check().damage));
    text
}

/// What became of messages so far; on record with those that were moved since version 4.
fn describe_past(directory: &Path) -> String {
    let offline = Offline::open(directory).unwrap();
    let mut text = String::new();
    for (number, id) in (1..).zip(offline.messages()) {
        for attempt in offline.reader().past(id).unwrap().attempts {
            let (thread, at) = (attempt.thread.unwrap(), attempt.at.as_micros());
            let (attempts, what, why) = (attempt.attempts, attempt.disposition, attempt.diagnostic);
            writeln!(
                text,
                "{number} in {thread} at {at}: {:?}, attempt {attempts}, {what:?}, {why}",
                attempt.recipients
            )
            .unwrap();
        }
    }
    text
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn save(disk: &Simulated, directory: &Path) {
    for number in disk.segments() {
        fs::write(directory.join(format!("{number:08}.seg")), disk.octets(number)).unwrap();
    }
}

#[test]
fn formats_of_earlier_versions_are_read_and_continued() {
    let mut seen = 0;
    for fixture in fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()) {
        let directory = tempfile::tempdir().unwrap();
        for file in fs::read_dir(&fixture).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, directory.path().join(file.file_name().unwrap())).unwrap();
        }
        let expected = fs::read_to_string(fixture.join("expected.txt")).unwrap();
        assert_eq!(describe(directory.path()), expected, "{}", fixture.display());
        if let Ok(past) = fs::read_to_string(fixture.join("past.txt")) {
            assert_eq!(describe_past(directory.path()), past, "{}", fixture.display());
        }
        let (before, now) = (Offline::open(directory.path()).unwrap().messages(), Timestamp::from_secs(1));
        assert_eq!(Offline::open(directory.path()).unwrap().figures().threads, 1);
        let mut importer = Importer::open(directory.path(), now).unwrap();
        let added = importer.add(envelope(TWO), b"later");
        assert_eq!(importer.commit(), [(added, Ok(()))]);
        drop(importer);
        let after = Offline::open(directory.path()).unwrap().messages();
        assert_eq!(after, before.into_iter().chain([added]).collect::<Vec<_>>());
        seen += 1;
    }
    assert_eq!(seen, crate::format::VERSION, "one for each version");
}

#[test]
fn formats_of_today_say_the_same_as_the_latest_that_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    save(&write(), directory.path());
    let text = describe(directory.path());
    if let Some(keep) = std::env::var_os("ZRELAY_FIXTURE").map(PathBuf::from) {
        fs::create_dir_all(&keep).unwrap();
        save(&write(), &keep);
        fs::write(keep.join("expected.txt"), &text).unwrap();
        fs::write(keep.join("past.txt"), describe_past(directory.path())).unwrap();
    }
    let latest = fixtures().join(format!("v{}", crate::format::VERSION));
    assert_eq!(text, fs::read_to_string(latest.join("expected.txt")).unwrap());
    assert_eq!(describe_past(directory.path()), fs::read_to_string(latest.join("past.txt")).unwrap());
}

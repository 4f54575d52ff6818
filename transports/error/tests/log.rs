//! The delivery log that the notary writes. In a process of its own, since a process has one logger.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_error::{Archive, Desk, Options, Original};
use zrelay_mailbox::{Received, mailbox};
use zrelay_spool::{
    BatchId, Committed, Content, Diagnostic, Disposition, Fact, MessageId, Notify, Outcome, Owed, ReadError, Recorded,
    Request, Ret, Status, StoredRecipient, Timing,
};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}: {}", record.level(), record.target(), record.args());
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

#[derive(Clone)]
struct Post;

const POST: MessageId = MessageId(0xABC);

impl Original for Post {
    fn received(&self) -> Timestamp {
        Timestamp::from_secs(1000)
    }

    fn content(&self) -> Content {
        Content::default()
    }

    fn envid(&self) -> Option<&str> {
        None
    }

    fn ret(&self) -> Option<Ret> {
        None
    }

    fn sender(&self, _: u32) -> &'static str {
        "owner@lists.example"
    }

    fn recipient(&self, index: u32) -> StoredRecipient<'_> {
        let address = ["ann@x.example", "bob@x.example", "eve@x.example"][index as usize];
        StoredRecipient { address, sender: 0, orcpt: None, notify: Notify::Default }
    }

    fn size(&self) -> u64 {
        4
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(b"\r\n\r\n".as_slice())
    }
}

struct Shelf;

impl Archive for Shelf {
    type Found = Post;

    fn find(&self, id: MessageId) -> Result<Post, ReadError> {
        if id == POST { Ok(Post) } else { Err(ReadError::Unknown(id)) }
    }
}

fn outcome(disposition: Disposition, recipients: &[u32], diagnostic: Diagnostic) -> Fact {
    let outcome = Outcome {
        batch: BatchId { message: POST, number: 0 },
        recipients: recipients.to_vec(),
        disposition,
        diagnostic: Arc::new(diagnostic),
        at: Timestamp::from_secs(1003),
        attempts: 1,
        due: Timestamp::from_secs(1063),
        timing: Timing::default(),
        channel: Some("smtp".into()),
    };
    Fact::Outcome(Box::new(Recorded { outcome, stored: None }))
}

#[test]
fn the_life_of_a_message_is_in_the_log_line_by_line() {
    log::set_logger(&Capture).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let (sender, requests) = mailbox(100);
    let options = Options { hostname: "hub.example".into(), postmaster: None, gather: Duration::ZERO };
    let mut desk = Desk::new(Shelf, sender, Box::new(|| MessageId(0xDEF)), options);
    let now = Timestamp::from_secs(1003);

    let peer = "mx.x.example[192.0.2.1]:25".to_owned();
    let ok = Diagnostic { code: 250, status: Status(2, 0, 0), text: "OK".into(), peer, command: String::new() };
    desk.handle_fact(now, outcome(Disposition::Delivered { dsn_relayed: false }, &[0, 1], ok));
    let late = Diagnostic::local(Status(4, 4, 1), "connection timed out");
    desk.handle_fact(now, outcome(Disposition::Expired, &[2], late.clone()));
    let owed = Owed {
        message: POST,
        recipients: vec![2],
        disposition: Disposition::Expired,
        diagnostic: Arc::new(late),
        at: now,
        until: None,
    };
    desk.handle_fact(now, Fact::Owed(owed));
    desk.handle_fact(now, Fact::Done(POST));
    desk.work(now);
    let Received::Item(Request::Commit { reply, .. }) = requests.try_recv() else { panic!("no report") };
    reply.to.try_send(Committed { token: reply.token, result: Ok(()) }).unwrap();
    desk.work(now);
    desk.handle_fact(now, Fact::Removed(POST));

    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let relay = "relay=mx.x.example[192.0.2.1]:25, delay=3, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 OK)";
    let expected = [
        format!("INFO smtp: ABC: to=<ann@x.example>, {relay}"),
        format!("INFO smtp: ABC: to=<bob@x.example>, {relay}"),
        "INFO qmgr: ABC: to=<eve@x.example>, relay=none, delay=3, delays=0/0/0/0, dsn=4.4.1, status=expired \
         (connection timed out)"
            .to_owned(),
        "INFO qmgr: ABC: from=<owner@lists.example>, status=expired, returned to sender".to_owned(),
        "INFO cleanup: DEF: message-id=<DEF.ABC@hub.example>".to_owned(),
        "INFO bounce: ABC: sender non-delivery notification: DEF".to_owned(),
        "INFO qmgr: ABC: removed".to_owned(),
    ];
    assert_eq!(*lines, expected);
}

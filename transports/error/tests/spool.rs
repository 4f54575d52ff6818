//! The notary on a real spool: a failure becomes a report that is a message of the queue, and the books close.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest;
use zrelay_clock::Clock;
use zrelay_error::{Notary, Options};
use zrelay_mailbox::{Received, Receiver, mailbox};
use zrelay_spool::{
    Arrived, BatchId, CommitReply, Content, Diagnostic, Disposition, Envelope, Handling, MessageId, Notify, Outcome,
    Outlets, Queue, Recipient, Request, RoutedBatch, Spool, Status, ThreadKey, Timing,
};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn next<T: std::fmt::Debug>(receiver: &Receiver<T>) -> T {
    match receiver.wait(Duration::from_secs(30)) {
        Received::Item(item) => item,
        other => panic!("{other:?}, log {:?}", LINES.lock()),
    }
}

fn routed(message: MessageId) -> Request {
    let batch = RoutedBatch { thread: ThreadKey::new("smtp", "x.example"), recipients: vec![0] };
    Request::Routed { message, batches: vec![batch] }
}

fn outcome(message: MessageId, disposition: Disposition, status: Status, clock: &Clock) -> Request {
    Request::Outcomes(vec![Outcome {
        batch: BatchId { message, number: 0 },
        recipients: vec![0],
        disposition,
        diagnostic: Arc::new(Diagnostic::local(status, "so it is")),
        at: clock.now(),
        attempts: 1,
        due: clock.now(),
        timing: Timing::default(),
        channel: None,
    }])
}

#[test]
fn a_failure_is_reported_through_the_queue_and_both_messages_leave_it() {
    log::set_logger(&Capture).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let clock = Clock::start();
    let directory = tempfile::tempdir().unwrap();
    let options = zrelay_spool::Options::new(directory.path());
    let (spool, handle, recovered) = Spool::open(options, clock.now()).unwrap();
    let (routing, arrivals) = mailbox::<Arrived>(100);
    let (scheduler, queue) = mailbox::<Queue>(100);
    let (facts, to_notary) = mailbox(100);
    let appender = thread::spawn(move || spool.run(Outlets { routing, scheduler, facts }, recovered));
    let notary = {
        let (handle, reader) = (handle.clone(), handle.reader());
        let options = Options { hostname: "hub.example".into(), postmaster: None, gather: Duration::from_secs(3600) };
        thread::spawn(move || Notary::run(to_notary, handle, reader, clock, options))
    };

    let content = b"Subject: post\r\n\r\nHello.\r\n".to_vec();
    let message = handle.next_id();
    let (committed, answers) = mailbox(10);
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, &content).as_ref());
    let recipient = Recipient { address: "bob@x.example".into(), sender: 0, orcpt: None, notify: Notify::Default };
    let envelope = Envelope {
        received: clock.now(),
        trace: Vec::new(),
        client: "localhost[127.0.0.1]".into(),
        content: Content::default(),
        envid: None,
        ret: None,
        handling: Handling::default(),
        senders: vec!["ann@lists.example".into()],
        recipients: vec![recipient],
        origin: None,
    };
    let reply = CommitReply { to: committed, token: 1 };
    let commit = Request::Commit { message, tail: content, digest: sha256, envelope: Box::new(envelope), reply };
    handle.intake().send(commit).unwrap();
    assert_eq!(next(&answers).result, Ok(()));
    let requests = handle.sender();
    assert_eq!(next(&arrivals), Arrived(message));
    requests.send(routed(message)).unwrap();
    assert!(matches!(next(&queue), Queue::Batch(_)));
    requests.send(outcome(message, Disposition::Failed, Status(5, 1, 1), &clock)).unwrap();

    // The only recipient is finished, so the report comes at once and not after the gather time.
    let Arrived(report) = next(&arrivals);
    let stored = handle.reader().message(report).unwrap();
    assert_eq!(stored.sender(0), "");
    assert_eq!(stored.recipient(0).address, "ann@lists.example");
    assert_eq!(stored.origin().unwrap().message, message);
    let text = String::from_utf8(stored.body().flatten().copied().collect()).unwrap();
    assert!(text.contains("Final-Recipient: rfc822; bob@x.example") && text.contains("Hello."), "{text}");
    drop(stored);
    requests.send(routed(report)).unwrap();
    assert!(matches!(next(&queue), Queue::Batch(_)));
    requests.send(outcome(report, Disposition::Delivered { dsn_relayed: false }, Status(2, 0, 0), &clock)).unwrap();
    requests.send(Request::Shutdown).unwrap();
    appender.join().unwrap();
    notary.join().unwrap();

    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
    assert!(lines.contains(&format!("{message}: to=<bob@x.example>, relay=none")), "{lines}");
    assert!(lines.contains(&format!("{message}: sender non-delivery notification: {report}")), "{lines}");
    assert!(lines.contains(&format!("{message}: removed")), "{lines}");
    assert!(lines.contains(&format!("{report}: to=<ann@lists.example>")), "{lines}");
    assert!(lines.contains(&format!("{report}: removed")), "{lines}");
}

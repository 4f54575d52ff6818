//! The real thread on a real directory.

use std::os::unix::fs::PermissionsExt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use zrelay_mailbox::{Received, mailbox};

use super::*;
use crate::appender::bench;
use crate::{
    BatchId, CommitReply, Committed, Diagnostic, Disposition, Envelope, Health, MessageId, Notify, Offline, Outcome,
    Recipient, RoutedBatch, ThreadKey, ThreadState, Timing,
};

const PATIENCE: Duration = Duration::from_secs(20);
const NOW: Timestamp = Timestamp::from_secs(1000);

struct Hub {
    handle: SpoolHandle,
    thread: JoinHandle<()>,
    routing: Receiver<Arrived>,
    scheduler: Receiver<Queue>,
    facts: Receiver<Fact>,
}

fn options(directory: &Path) -> Options {
    Options { segment_bytes: 1 << 20, ..Options::new(directory.join("spool")) }
}

fn start(directory: &Path, capacity: usize) -> Hub {
    let (spool, handle, recovered) = Spool::open(options(directory), NOW).unwrap();
    let (to_routing, routing) = mailbox(capacity);
    let (to_scheduler, scheduler) = mailbox(capacity);
    let (to_facts, facts) = mailbox(capacity);
    let outlets = Outlets { routing: to_routing, scheduler: to_scheduler, facts: to_facts };
    let thread = thread::spawn(move || spool.run(outlets, recovered));
    Hub { handle, thread, routing, scheduler, facts }
}

fn next<T: fmt::Debug>(receiver: &Receiver<T>) -> T {
    match receiver.wait(PATIENCE) {
        Received::Item(item) => item,
        other => panic!("{other:?}"),
    }
}

impl Hub {
    fn stop(self) {
        assert!(self.handle.sender().send(Request::Shutdown).is_ok());
        self.thread.join().unwrap();
    }

    /// Commits a message and waits until it is stored.
    fn store(&self, body: &[u8]) -> MessageId {
        let (to, answers) = mailbox(1);
        let message = self.handle.next_id();
        assert!(self.handle.intake().send(commit(message, body, CommitReply { to, token: 5 })).is_ok());
        let answer = next(&answers);
        assert_eq!((answer.token, answer.result), (5, Ok(())));
        message
    }

    /// Posts to so many recipients, durable and as far told to the router as they are to be.
    fn post(&self, posts: u64, recipients: usize) {
        let (to, answers) = mailbox(16);
        for token in 0..posts {
            let reply = CommitReply { to: to.clone(), token };
            assert!(self.handle.intake().send(commit_to(recipients, self.handle.next_id(), b"hello", reply)).is_ok());
            assert_eq!(next(&answers).result, Ok(()));
        }
        self.flush();
    }

    /// Returns when all is done that was asked for before, and what follows from it.
    fn flush(&self) {
        let (to, answers) = mailbox(1);
        // The second one is answered in a later turn, behind what the first one's turn has told.
        for token in 0..2 {
            assert!(self.handle.sender().send(Request::Flush { reply: CommitReply { to: to.clone(), token } }).is_ok());
            next(&answers);
        }
    }

    /// Each recipient in a thread of its own.
    fn route(&self, message: MessageId, recipients: u32) {
        let batch = |n: u32| RoutedBatch { thread: ThreadKey::new("smtp", &n.to_string()), recipients: vec![n] };
        let batches = (0..recipients).map(batch).collect();
        assert!(self.handle.sender().send(Request::Routed { message, batches }).is_ok());
        self.flush();
    }

    fn deliver(&self, message: MessageId) {
        let batches = vec![RoutedBatch { thread: ThreadKey::new("smtp", "example.net"), recipients: vec![0] }];
        assert!(self.handle.sender().send(Request::Routed { message, batches }).is_ok());
        assert!(matches!(next(&self.scheduler), Queue::Batch(batch) if batch.id.message == message));
        let outcome = Outcome {
            batch: BatchId { message, number: 0 },
            recipients: vec![0],
            disposition: Disposition::Delivered { dsn_relayed: false },
            diagnostic: Arc::new(Diagnostic::default()),
            at: NOW,
            attempts: 1,
            due: NOW,
            timing: Timing::default(),
            channel: None,
        };
        assert!(self.handle.sender().send(Request::Outcomes(vec![outcome])).is_ok());
        assert!(matches!(next(&self.facts), Fact::Outcome(_)));
        assert!(matches!(next(&self.facts), Fact::Done(done) if done == message));
        assert!(matches!(next(&self.facts), Fact::Removed(removed) if removed == message));
    }
}

fn commit(message: MessageId, body: &[u8], reply: CommitReply) -> Request {
    commit_to(1, message, body, reply)
}

fn commit_to(recipients: usize, message: MessageId, body: &[u8], reply: CommitReply) -> Request {
    let recipient = Recipient { address: "a@example.net".into(), sender: 0, orcpt: None, notify: Notify::Default };
    let recipients = vec![recipient; recipients];
    let envelope = Envelope { senders: vec![String::new()], recipients, ..bench::envelope(&[]) };
    let digest = [crc32fast::hash(body) as u8; 32];
    Request::Commit { message, tail: body.to_vec(), digest, envelope: Box::new(envelope), reply }
}

#[test]
fn what_comes_while_the_disk_works_shares_a_sync() {
    const MESSAGES: u64 = 1280;
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 2 * MESSAGES as usize);
    let (to, answers) = mailbox(MESSAGES as usize);
    let requests = hub.handle.sender();
    for n in 0..MESSAGES {
        let body = format!("Subject: {n}\r\n\r\nhello\r\n");
        let reply = CommitReply { to: to.clone(), token: n };
        assert!(requests.send(commit(hub.handle.next_id(), body.as_bytes(), reply)).is_ok());
    }
    (0..MESSAGES).for_each(|n| assert_eq!(next(&answers).token, n));
    let statistics = hub.handle.statistics();
    assert_eq!(statistics.messages, MESSAGES);
    assert!(statistics.syncs * 4 < statistics.messages, "{statistics:?}");
    assert_eq!((statistics.open_messages, hub.handle.health()), (statistics.messages, Health::Good));
    hub.stop();

    assert_eq!(Offline::open(&directory.path().join("spool")).unwrap().figures().unrouted, MESSAGES);
}

#[test]
fn posts_under_way_to_the_router_are_bounded_by_their_recipients() {
    const RECIPIENTS: u32 = 9000;
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 50_000);
    hub.post(8, RECIPIENTS as usize);
    assert_eq!(hub.routing.len(), 2, "two have more recipients than may be under way");
    let Arrived(first) = next(&hub.routing);
    hub.flush();
    assert_eq!(hub.routing.len(), 1, "it is still under way");
    hub.route(first, RECIPIENTS);
    assert_eq!((hub.scheduler.len(), hub.routing.len()), (RECIPIENTS as usize, 2));
    hub.stop();
}

#[test]
fn a_post_that_the_router_can_not_read_does_not_keep_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 100);
    hub.post(8, 9000);
    let arrived: Vec<MessageId> = (0..8).map(|_| next(&hub.routing).0).collect();
    assert!(arrived.is_sorted());
    hub.stop();
}

#[test]
fn nothing_more_is_routed_while_the_scheduler_does_not_take_what_there_is() {
    const RECIPIENTS: u32 = 6000;
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 500);
    hub.post(8, RECIPIENTS as usize);
    for _ in 0..3 {
        let Arrived(message) = next(&hub.routing);
        hub.route(message, RECIPIENTS);
    }
    // Some were under way when the queue became too long.
    let under_way = hub.routing.len();
    hub.routing.drain(16).for_each(drop);
    hub.flush();
    assert_eq!((hub.routing.len(), under_way <= 2), (0, true), "{under_way}");
    for _ in 0..3 * RECIPIENTS {
        next(&hub.scheduler);
    }
    next(&hub.routing);
    hub.stop();
}

#[test]
fn a_delivered_message_leaves_and_its_space_is_reclaimed() {
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 16);
    for n in 0..30u8 {
        let message = hub.store(&vec![n; 200_000]);
        assert_eq!(next(&hub.routing), Arrived(message));
        assert_eq!(hub.handle.reader().message(message).unwrap().body().next().unwrap()[0], n);
        hub.deliver(message);
    }
    let handle = hub.handle.clone();
    hub.stop();
    let statistics = handle.statistics();
    assert_eq!(statistics.open_messages, 0);
    assert!(statistics.segments <= 2, "{statistics:?}");
    let (_spool, _handle, recovered) = Spool::open(options(directory.path()), NOW).unwrap();
    assert_eq!(recovered.messages(), 0);
}

#[test]
fn a_second_hub_is_kept_out() {
    let directory = tempfile::tempdir().unwrap();
    let first = Spool::open(options(directory.path()), NOW).unwrap();
    let text = Spool::open(options(directory.path()), NOW).unwrap_err().to_string();
    assert!(text.contains(&directory.path().join("spool").display().to_string()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    drop(first);
    assert!(Spool::open(options(directory.path()), NOW).is_ok());
}

#[test]
fn the_directory_is_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    drop(Spool::open(options(directory.path()), NOW).unwrap());
    let mode = fs::metadata(directory.path().join("spool")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn what_is_in_the_way_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("spool");
    fs::write(&file, "").unwrap();
    let text = Spool::open(options(directory.path()), NOW).unwrap_err().to_string();
    assert!(text.contains(&file.display().to_string()) && text.contains("set `spool`"), "{text}");

    let tiny = Options { segment_bytes: 100, ..Options::new(directory.path().join("other")) };
    assert!(matches!(Spool::open(tiny, NOW), Err(OpenError::SegmentBytes(100))));
}

#[test]
fn a_later_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path(), 1).stop();
    let path = directory.path().join("spool/00000001.seg");
    let mut octets = fs::read(&path).unwrap();
    octets[8] = 5;
    let checksum = crc32fast::hash(&octets[..60]);
    octets[60..64].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, octets).unwrap();
    let text = Spool::open(options(directory.path()), NOW).unwrap_err().to_string();
    assert!(text.contains("format 5") && text.contains("up to 4"), "{text}");
}

#[test]
fn the_first_format_is_still_read() {
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 16);
    let message = hub.store(b"kept");
    hub.stop();
    let path = directory.path().join("spool/00000001.seg");
    let mut octets = fs::read(&path).unwrap();
    octets[8] = 1;
    let checksum = crc32fast::hash(&octets[..60]);
    octets[60..64].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, octets).unwrap();
    assert_eq!(Offline::open(&directory.path().join("spool")).unwrap().messages(), [message]);
}

#[test]
fn ids_are_never_used_again_even_when_the_clock_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 16);
    let message = hub.store(b"x");
    hub.stop();
    let (_spool, handle, _) = Spool::open(options(directory.path()), Timestamp::ZERO).unwrap();
    assert!(handle.next_id() > message);
}

#[test]
fn mail_waits_when_a_room_does_not_keep_up_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    // Few items fit the router's mailbox, some ten thousand wait in front of it, and then the intake waits.
    let hub = start(directory.path(), 64);
    let (to, answers) = mailbox(20_000);
    let intake = hub.handle.intake();
    let ids: Vec<MessageId> = (0..12_000).map(|_| hub.handle.next_id()).collect();
    let commits = ids.clone();
    let writer = thread::spawn(move || {
        for id in commits {
            assert!(intake.send(commit(id, b"x", CommitReply { to: to.clone(), token: id.0 })).is_ok());
        }
    });
    // What does not come through the intake is answered while the intake waits.
    let (to_flush, flushed) = mailbox(1);
    let flush = Request::Flush { reply: CommitReply { to: to_flush, token: 1 } };
    assert!(hub.handle.sender().send(flush).is_ok());
    let Committed { result, .. } = next(&flushed);
    assert_eq!(result, Ok(()));
    ids.iter().for_each(|id| assert_eq!(next(&hub.routing), Arrived(*id)));
    ids.iter().for_each(|id| assert_eq!(next(&answers).token, id.0));
    writer.join().unwrap();
    hub.stop();
}

#[test]
fn an_earlier_runs_work_is_handed_out_first_threads_before_batches() {
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 16);
    let message = hub.store(b"x");
    let key = ThreadKey::new("smtp", "example.net");
    let state = ThreadState { key: key.clone(), failures: 2, due: NOW, held: true, last: None };
    let batches = vec![RoutedBatch { thread: key, recipients: vec![0] }];
    assert!(hub.handle.sender().send(Request::Routed { message, batches }).is_ok());
    assert!(hub.handle.sender().send(Request::Thread(state.clone())).is_ok());
    let unrouted = hub.store(b"y");
    hub.stop();

    let hub = start(directory.path(), 16);
    assert!(matches!(next(&hub.scheduler), Queue::Thread(found) if found == state));
    assert!(matches!(next(&hub.scheduler), Queue::Batch(batch) if batch.id.message == message));
    assert_eq!(next(&hub.routing), Arrived(unrouted));
    hub.stop();
}

#[test]
fn space_follows_the_queue_while_mail_comes_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let hub = start(directory.path(), 4096);
    let body = |n: u32| [n.to_string().into_bytes(), vec![b'x'; 8000]].concat();
    let ids: Vec<MessageId> = (0..400).map(|n| hub.store(&body(n))).collect();
    ids.iter().enumerate().filter(|(n, _)| n % 50 != 0).for_each(|(_, id)| hub.deliver(*id));
    // As long as it takes; each round is mail that comes and goes meanwhile.
    let until = std::time::Instant::now() + PATIENCE;
    while hub.handle.statistics().live_bytes > 1 << 20 {
        assert!(std::time::Instant::now() < until, "{:?}", hub.handle.statistics());
        let message = hub.store(b"short");
        hub.deliver(message);
    }
    assert!(hub.handle.statistics().moved_messages > 0);
    for (n, id) in ids.iter().enumerate().step_by(50) {
        assert_eq!(hub.handle.reader().message(*id).unwrap().body().collect::<Vec<_>>().concat(), body(n as u32));
    }
    hub.stop();
    assert_eq!(
        Offline::open(&directory.path().join("spool")).unwrap().messages(),
        ids.into_iter().step_by(50).collect::<Vec<_>>()
    );
}

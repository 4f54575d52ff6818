//! The loop and the control socket, as threads with real mailboxes and a real socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use zrelay_agent::{Credit, Judgement, Order, Report, Rest, Verdict};
use zrelay_clock::{Clock, Timestamp};
use zrelay_mailbox::{Received, Receiver, mailbox};
use zrelay_spool::{
    Attempt, BatchId, Diagnostic, Disposition, Flow, Known, MessageId, Past, Queue, QueuedBatch, Request, Timing,
};
use zrelay_trace::Tracing;

use super::world::{clause, reply, settings};
use crate::control::{
    Addressed, BindError, Client, ClientError, ControlServer, INVALID_PARAMS, INVALID_REQUEST, MessageDetail,
    MessageFacts, NO_METHOD, NOTHING_MATCHED, Overview, OwnerOnly, PARSE_ERROR, Preview, REQUEST_MAX, RpcError,
    Stopper, Store, UNAVAILABLE,
};
use crate::snapshot::{ChannelRow, MessageRow, RingRow, ThreadDetail, ThreadRow, Totals};
use crate::{Ask, Changed, Inlets, Outlets, Scheduler, SchedulerHandle, SchedulerLoop};

const PATIENCE: Duration = Duration::from_secs(20);

/// Every message has the recipients `r0@x.example` and so on; those of odd messages have the null sender.
struct Addresses {
    scheduler: SchedulerHandle,
}

impl Store for Addresses {
    fn message(&self, id: MessageId) -> Option<MessageFacts> {
        let (received, client) = (Timestamp::from_secs(id.0), "client[192.0.2.1]".to_owned());
        Some(MessageFacts { received, client, size: 100, recipients: 3, trace: "Received: x\r\n".to_owned() })
    }

    fn addresses(&self, id: MessageId, recipients: &[u32]) -> Option<Vec<Addressed>> {
        let sender = if id.0 % 2 == 1 { String::new() } else { "list@example.org".to_owned() };
        let one = |index: &u32| Addressed { address: format!("r{index}@x.example"), sender: sender.clone() };
        Some(recipients.iter().map(one).collect())
    }

    /// The second recipient was put off twice, of which the second time is known, and delivered. It is told by the disk,
    /// and the scheduler goes on meanwhile.
    fn past(&self, _: MessageId) -> Option<Past> {
        self.scheduler.ask(Ask::Totals).ok()?;
        let attempt = |attempts, disposition| Attempt {
            batch: 0,
            thread: Some("smtp/a.example".parse().unwrap()),
            at: Timestamp::from_secs(u64::from(attempts)),
            attempts,
            disposition,
            recipients: vec![1],
            diagnostic: Arc::new(Diagnostic { peer: "mx[192.0.2.1]:25".to_owned(), ..(*reply(450, "busy")).clone() }),
        };
        let delivered = Disposition::Delivered { dsn_relayed: false };
        let attempts = vec![attempt(2, Disposition::Deferred), attempt(3, delivered)];
        Some(Past { attempts, known: Known::All })
    }

    fn statistics(&self) -> Value {
        json!({"health": "good"})
    }

    fn call(&mut self, method: &str, _: &Value) -> Option<Result<Value, RpcError>> {
        (method == "reload").then(|| Ok(json!({"reloaded": true})))
    }
}

/// A hub of scheduler and control socket; the test plays spool and agents.
struct Hub {
    inlets: Inlets,
    orders: Receiver<Order>,
    records: Receiver<Request>,
    scheduler: Option<JoinHandle<()>>,
    control: Option<(Stopper, JoinHandle<()>)>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Hub {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/control.sock");
        let (scheduler_loop, inlets) = SchedulerLoop::new().unwrap();
        let (local, orders) = mailbox(1024);
        let (spool, records) = mailbox(4);
        let outlets = Outlets { spool, smtp: Vec::new(), local };
        let core = Scheduler::new(settings(clause(|_| {}), 100), 1);
        let scheduler = std::thread::spawn(move || scheduler_loop.run(core, outlets, &Clock::start()));
        let server = bind(&path, &inlets).unwrap();
        let stopper = server.stopper();
        let control = std::thread::spawn(move || server.run());
        Self {
            inlets,
            orders,
            records,
            scheduler: Some(scheduler),
            control: Some((stopper, control)),
            path,
            _directory: directory,
        }
    }

    fn arrive(&self, message: u64, thread: &str) {
        let batch = QueuedBatch {
            id: BatchId { message: MessageId(message), number: 0 },
            thread: thread.parse().unwrap(),
            recipients: vec![0, 2].into(),
            received: Clock::start().now(),
            size: 100,
            copies: 1,
            flow: Flow::default(),
            priority: 0,
            deliver_by: None,
            warned: false,
            attempts: 0,
            due: Timestamp::ZERO,
            held: false,
            last: None,
        };
        self.inlets.queue.send(Queue::Batch(batch)).unwrap();
    }

    fn order(&self) -> Order {
        match self.orders.wait(PATIENCE) {
            Received::Item(order) => order,
            nothing => panic!("no order: {nothing:?}"),
        }
    }

    /// Waits until the scheduler knows that many batches.
    fn settle(&self, client: &mut Client, batches: u64) {
        for _ in 0..10_000 {
            if status(client).batches == batches {
                return;
            }
            std::thread::yield_now();
        }
        panic!("the scheduler does not take what comes");
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.inlets.handle.stop();
        self.scheduler.take().unwrap().join().unwrap();
        let (stopper, control) = self.control.take().unwrap();
        stopper.stop();
        control.join().unwrap();
        assert!(!self.path.exists(), "the socket file is left behind");
    }
}

fn bind(path: &Path, inlets: &Inlets) -> Result<ControlServer, BindError> {
    ControlServer::bind(
        path,
        inlets.handle.clone(),
        Box::new(Addresses { scheduler: inlets.handle.clone() }),
        Box::new(OwnerOnly),
        Tracing::new(),
        "0.1.0",
        Clock::start(),
    )
}

fn status(client: &mut Client) -> Totals {
    let status = client.call("status", json!({})).unwrap();
    serde_json::from_value(status["totals"].clone()).unwrap()
}

fn code(result: Result<Value, ClientError>) -> i64 {
    match result {
        Err(ClientError::Refused(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_goes_round_from_the_spool_over_an_agent_to_the_spool() {
    let hub = Hub::start();
    hub.arrive(2, "smtp/a.example");
    let Order::Lease { lease, .. } = hub.order() else { panic!() };
    let credit = Credit { batches: 1, bytes: 1000 };
    hub.inlets.reports.send(Report::Hungry { lease, credit }).unwrap();
    let Order::Carry { batch, .. } = hub.order() else { panic!() };
    let verdict = Verdict {
        recipients: batch.recipients.to_vec(),
        judgement: Judgement::Delivered { dsn_relayed: false },
        diagnostic: reply(250, "ok"),
        at: Timestamp::ZERO,
        timing: Timing::default(),
    };
    let settled = Report::Settled { lease, batch: batch.id, verdicts: vec![verdict], rest: Rest::Done };
    hub.inlets.reports.send(settled).unwrap();
    let Received::Item(Request::Outcomes(outcomes)) = hub.records.wait(PATIENCE) else { panic!() };
    assert_eq!(outcomes[0].recipients, [0, 2]);
    assert!(matches!(hub.order(), Order::Idle { .. }));
}

#[test]
fn a_spool_that_does_not_keep_up_stops_nothing_but_its_own_records() {
    let hub = Hub::start();
    let mut client = Client::connect(&hub.path).unwrap();
    for message in 0..300 {
        hub.arrive(message, "hold/x");
    }
    hub.settle(&mut client, 300);
    for message in 0..300 {
        client.call("hold", json!({"selector": MessageId(message).to_string()})).unwrap();
    }
    let mut records = 0;
    while records < 300 {
        assert!(matches!(hub.records.wait(PATIENCE), Received::Item(Request::Batch(_))));
        records += 1;
    }
}

#[test]
fn a_drain_ends_the_loop_when_the_agents_are_through() {
    let mut hub = Hub::start();
    hub.arrive(2, "smtp/a.example");
    let Order::Lease { lease, .. } = hub.order() else { panic!() };
    hub.inlets.handle.drain().unwrap();
    assert!(matches!(hub.order(), Order::Close { .. }));
    assert!(!hub.scheduler.as_ref().unwrap().is_finished());
    let statistics = zrelay_agent::Statistics::default();
    let released = Report::Released { lease, reason: zrelay_agent::Release::Done, statistics };
    hub.inlets.reports.send(released).unwrap();
    hub.scheduler.take().unwrap().join().unwrap();
    assert_eq!(hub.inlets.handle.stop(), Err(crate::Unavailable::Ended));
    hub.scheduler = Some(std::thread::spawn(|| {}));
}

#[test]
fn listings_show_what_is_queued() {
    let hub = Hub::start();
    let mut client = Client::connect(&hub.path).unwrap();
    hub.arrive(2, "smtp/a.example");
    hub.arrive(3, "smtp/b.example");
    hub.arrive(4, "hold/review");
    hub.settle(&mut client, 3);

    let threads = client.call("threads", json!({"pattern": "smtp/*", "sort": "oldest"})).unwrap();
    assert_eq!(threads["matched"], 2);
    let rows: Vec<ThreadRow> = serde_json::from_value(threads["threads"].clone()).unwrap();
    assert_eq!((rows[0].state.as_str(), rows[0].recipients, rows[0].agents), ("running", 2, 1));

    let detail = client.call("thread", json!({"thread": "hold/review"})).unwrap();
    let detail: ThreadDetail = serde_json::from_value(detail).unwrap();
    assert_eq!((detail.row.state.as_str(), detail.clause.as_str(), detail.retries.len()), ("held", "*", 3));

    let channels = client.call("channels", json!({})).unwrap();
    let named: Vec<&str> = channels["channels"][1].as_object().unwrap().keys().map(String::as_str).collect();
    for field in ["channel", "threads", "batches", "recipients", "bytes", "agents", "agents_max", "idle", "waiting"] {
        assert!(named.contains(&field), "{field} stands in the row itself");
    }
    let channels: Vec<ChannelRow> = serde_json::from_value(channels["channels"].clone()).unwrap();
    assert_eq!((channels.len(), channels[1].channel.as_str(), channels[1].usage.agents), (2, "smtp", 2));
    let rings = client.call("rings", json!({})).unwrap();
    let rings: Vec<RingRow> = serde_json::from_value(rings["rings"].clone()).unwrap();
    assert_eq!(rings.len(), 3);

    let messages = |client: &mut Client, params: Value| -> Vec<MessageRow> {
        let result = client.call("messages", params).unwrap();
        serde_json::from_value(result["messages"].clone()).unwrap()
    };
    assert_eq!(messages(&mut client, json!({})).len(), 3);
    assert_eq!(messages(&mut client, json!({"limit": 2})).len(), 2);
    let null = messages(&mut client, json!({"selector": "sender:<>"}));
    assert_eq!((null.len(), null[0].message.as_str(), null[0].sender.as_str()), (1, "3", "<>"));
    let by_recipient = messages(&mut client, json!({"selector": ["recipient:r2@*", "smtp/a.example"]}));
    assert_eq!((by_recipient.len(), by_recipient[0].recipient.as_str()), (1, "r2@x.example"));
    assert!(messages(&mut client, json!({"selector": "recipient:r1@*"})).is_empty(), "r1 is finished");

    let message = client.call("message", json!({"id": "4"})).unwrap();
    let message: MessageDetail = serde_json::from_value(message).unwrap();
    assert_eq!((message.open, message.batches.len(), message.recipients.len()), (2, 1, 3));
    let states: Vec<&str> = message.recipients.iter().map(|recipient| recipient.state.as_str()).collect();
    assert_eq!(states, ["held", "finished", "held"]);
    let attempts: Vec<_> =
        message.attempts.iter().map(|row| (row.disposition.as_str(), row.attempts, &row.recipients[..])).collect();
    assert_eq!(attempts, [("deferred", 2, &[1][..]), ("delivered", 3, &[1])]);
    let first = &message.attempts[0];
    assert_eq!((first.thread.as_str(), first.peer.as_str()), ("smtp/a.example", "mx[192.0.2.1]:25"));
    let known: Vec<_> = message
        .recipients
        .iter()
        .map(|row| (row.outcome.as_deref(), row.attempts, row.earlier_attempts_gone))
        .collect();
    assert_eq!(known, [(None, 0, false), (Some("delivered"), 3, true), (None, 0, false)]);
}

#[test]
fn operators_act_over_the_socket_and_hear_when_nothing_matches() {
    let hub = Hub::start();
    let mut client = Client::connect(&hub.path).unwrap();
    hub.arrive(2, "smtp/a.example");
    hub.settle(&mut client, 1);
    for method in ["hold", "release", "retry"] {
        let changed: Changed =
            serde_json::from_value(client.call(method, json!({"selector": "smtp/*"})).unwrap()).unwrap();
        assert_eq!((changed.threads, changed.recipients), (1, 2), "{method}");
    }
    client.call("drop", json!({"selector": "2"})).unwrap();
    assert_eq!(status(&mut client).dropped, 2);
    assert_eq!(code(client.call("drop", json!({"selector": "2"}))), NOTHING_MATCHED);
    assert_eq!(code(client.call("thread", json!({"thread": "smtp/nowhere"}))), NOTHING_MATCHED);
    assert_eq!(code(client.call("flush", json!({}))), NO_METHOD);
    assert_eq!(client.call("reload", json!({})).unwrap(), json!({"reloaded": true}));
}

#[test]
fn a_selection_concerns_what_all_its_terms_allow_and_a_dry_run_nothing() {
    let hub = Hub::start();
    let mut client = Client::connect(&hub.path).unwrap();
    hub.arrive(2, "smtp/a.example");
    hub.arrive(3, "smtp/a.example");
    hub.arrive(4, "smtp/b.example");
    hub.settle(&mut client, 3);
    let list = json!(["sender:list@*", "recipient:r2@x.example", "smtp/*", "attempts:0", "age:<1h", "state:due"]);
    let preview = client.call("drop", json!({"selector": list, "dry_run": true})).unwrap();
    let preview: Preview = serde_json::from_value(preview).unwrap();
    let counts = Changed { threads: 2, batches: 2, recipients: 2, ..Changed::default() };
    assert_eq!(preview.counts, counts);
    let sample: Vec<_> = preview.sample.iter().map(|row| (row.message.as_str(), row.recipient.as_str())).collect();
    assert_eq!(sample, [("2", "r2@x.example"), ("4", "r2@x.example")]);
    assert_eq!(status(&mut client).recipients, 6, "a dry run did something");

    let changed: Changed = serde_json::from_value(client.call("drop", json!({"selector": list})).unwrap()).unwrap();
    assert_eq!(changed, counts);
    let totals = status(&mut client);
    assert_eq!((totals.recipients, totals.dropped, totals.batches), (4, 2, 3));
    let changed = client.call("expire", json!({"selector": ["sender:<>", "smtp/a.example"]})).unwrap();
    let changed: Changed = serde_json::from_value(changed).unwrap();
    assert_eq!((changed.threads, changed.batches, changed.recipients), (1, 1, 2));
    assert_eq!(status(&mut client).expired, 2);
    assert_eq!(code(client.call("drop", json!({"selector": ["smtp/*", "reply:spam"]}))), NOTHING_MATCHED);
}

#[test]
fn wrong_parameters_are_explained() {
    let hub = Hub::start();
    let mut client = Client::connect(&hub.path).unwrap();
    for (method, params, hint) in [
        ("threads", json!({"patern": "x"}), "patern"),
        ("threads", json!({"sort": "colour"}), "colour"),
        ("threads", json!({"pattern": ""}), "empty"),
        ("thread", json!({"thread": "nothing"}), "channel/host"),
        ("message", json!({"id": "xyz"}), "queue id"),
        ("hold", json!({"selector": "no such thing"}), "expected a thread"),
        ("drop", json!({"selector": ["smtp/*", "state:asleep"]}), "state:due"),
        ("hold", json!([1]), "by name"),
    ] {
        let error = client.call(method, params.clone()).unwrap_err().to_string();
        assert!(error.contains(hint), "{method} {params}: {error}");
    }
}

/// Sends raw octets; returns what comes back until the hub closes or a whole line is there.
fn raw(path: &Path, octets: &[u8]) -> Value {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The hub may close before it has read everything.
    let _ = stream.write_all(octets);
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn what_is_no_request_gets_its_code_and_the_socket_lives_on() {
    let hub = Hub::start();
    assert_eq!(raw(&hub.path, b"hello\n")["error"]["code"], PARSE_ERROR);
    assert_eq!(raw(&hub.path, b"[]\n")["error"]["code"], INVALID_REQUEST);
    assert_eq!(raw(&hub.path, b"{\"id\":7,\"method\":\"status\"}\n")["id"], 7);
    assert_eq!(
        raw(&hub.path, b"{\"jsonrpc\":\"2.0\",\"id\":[1],\"method\":\"status\"}\n")["error"]["code"],
        INVALID_REQUEST
    );
    let endless = vec![b'x'; REQUEST_MAX + 10];
    assert_eq!(raw(&hub.path, &endless)["error"]["code"], INVALID_REQUEST);
    assert_eq!(raw(&hub.path, b"\xff\xfe\n")["error"]["code"], PARSE_ERROR);
    status(&mut Client::connect(&hub.path).unwrap());
}

#[test]
fn requests_arrive_in_pieces_and_ahead_and_notifications_are_not_answered() {
    let hub = Hub::start();
    let mut stream = UnixStream::connect(&hub.path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let requests = concat!(
        r#"{"jsonrpc":"2.0","method":"channels"}"#,
        "\n\n",
        r#"{"jsonrpc":"2.0","id":"a","method":"channels"}"#,
        "\r\n",
        r#"{"jsonrpc":"2.0","id":null,"method":"rings"}"#,
        "\n",
    );
    for octet in requests.as_bytes() {
        stream.write_all(&[*octet]).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let ids: Vec<Value> = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [json!("a"), Value::Null]);
}

#[test]
fn a_live_socket_is_refused_a_stale_one_replaced_and_a_file_left_alone() {
    let hub = Hub::start();
    assert_eq!(std::fs::metadata(&hub.path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(bind(&hub.path, &hub.inlets), Err(BindError::InUse(_))));
    status(&mut Client::connect(&hub.path).unwrap());

    let stale = hub.path.with_file_name("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(matches!(Client::connect(&stale), Err(ClientError::NoHub(_))));
    drop(bind(&stale, &hub.inlets).unwrap());
    assert!(!stale.exists());

    let file = hub.path.with_file_name("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file, &hub.inlets), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let error = Client::connect(&hub.path.with_file_name("nowhere")).unwrap_err().to_string();
    assert!(error.ends_with("nowhere; is \"zrelay serve\" running?"), "{error}");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let hub = Hub::start();
    let mut client = Client::connect(&hub.path).unwrap();
    for message in 0..2000 {
        hub.arrive(message, &format!("hold/{message}"));
    }
    hub.settle(&mut client, 2000);
    let mut lazy = UnixStream::connect(&hub.path).unwrap();
    lazy.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let request = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"threads\"}\n".repeat(100);
    // More answers than any socket buffer holds.
    let _ = lazy.write_all(&request);
    assert_eq!(status(&mut client).threads, 2000);
}

#[test]
fn an_overview_comes_again_and_again_until_it_is_unsubscribed() {
    let hub = Hub::start();
    (0..3).for_each(|number| hub.arrive(number + 2, &format!("smtp/{number}.example")));
    let mut client = Client::connect(&hub.path).unwrap();
    hub.settle(&mut client, 3);
    let params =
        json!({"topic": "overview", "interval": 0.1, "sort": "batches", "limit": 2, "thread": "smtp/0.example"});
    let mut watcher = Client::connect(&hub.path).unwrap();
    assert_eq!(watcher.call("subscribe", params).unwrap(), json!({"subscription": 1}));
    for _ in 0..3 {
        let overview: Overview = watcher.notification(PATIENCE).unwrap().expect("an overview every 100 ms");
        assert_eq!((overview.subscription, overview.matched, overview.totals.batches), (1, 3, 3));
        let threads: Vec<&str> = overview.threads.iter().map(|row| row.thread.as_str()).collect();
        assert_eq!(threads, ["smtp/0.example", "smtp/1.example"]);
        assert_eq!(overview.thread.unwrap().row.batches, 1);
    }
    for params in [
        json!({"topic": "overview", "interval": 0.01}),
        json!({"topic": "overview", "pattern": ""}),
        json!({"topic": "weather"}),
        json!({"topic": "trace"}),
    ] {
        assert_eq!(code(client.call("subscribe", params)), INVALID_PARAMS);
    }
    for number in 0..4 {
        let subscribed = client.call("subscribe", json!({"topic": "trace", "pattern": "smtp/*"})).unwrap();
        assert_eq!(subscribed, json!({"subscription": number + 1}));
    }
    assert_eq!(code(client.call("subscribe", json!({"topic": "trace", "pattern": "*"}))), UNAVAILABLE);
    client.call("unsubscribe", json!({"subscription": 2})).unwrap();
    assert_eq!(code(client.call("unsubscribe", json!({"subscription": 2}))), NOTHING_MATCHED);
    client.call("subscribe", json!({"topic": "trace", "pattern": "*"})).unwrap();
}

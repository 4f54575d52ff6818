use zrelay_config::Config;
use zrelay_mailbox::mailbox;
use zrelay_spool::{BatchId, MessageId, ThreadKey};

use super::*;

fn lease_order(lease: u64, channel: &str, host: &str) -> Order {
    let mut config = Config::parse("test", "[[thread]]\nmatch = '*'\nidle = '30s'\n").unwrap();
    let clause = config.clauses.remove(0);
    Order::Lease { lease: LeaseId(lease), thread: ThreadKey::new(channel, host), clause, takes_over: None }
}

fn carry(lease: u64, message: u64) -> Order {
    let batch = Ticket {
        id: BatchId { message: MessageId(message), number: 0 },
        recipients: vec![0, 1, 2].into(),
        size: 100,
        weight: 100,
        received: Timestamp::from_secs(1),
        due: Timestamp::from_secs(2),
        carried: Timestamp::from_secs(4),
    };
    Order::Carry { lease: LeaseId(lease), batch }
}

fn reports(agents: &mut Agents) -> Vec<Report> {
    std::iter::from_fn(|| agents.poll_report()).collect()
}

#[test]
fn discard_takes_everything_and_asks_for_more() {
    let mut agents = Agents::new();
    let now = Timestamp::from_secs(7);
    agents.handle_order(now, lease_order(1, "discard", "-"));
    assert!(matches!(reports(&mut agents)[..], [Report::Hungry { .. }]));
    agents.handle_order(now, carry(1, 5));
    let said = reports(&mut agents);
    let [Report::Settled { verdicts, rest: Rest::Done, .. }, Report::Hungry { credit, .. }] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(verdicts[0].recipients, [0, 1, 2]);
    assert_eq!(verdicts[0].judgement, Judgement::Delivered { dsn_relayed: false });
    assert_eq!(verdicts[0].timing.queued + verdicts[0].timing.waited + verdicts[0].timing.sent, Duration::from_secs(6));
    assert_eq!(*credit, Credit { batches: 1, bytes: 100 });
    agents.handle_order(now, Order::Close { lease: LeaseId(1) });
    let said = reports(&mut agents);
    assert!(
        matches!(&said[..], [Report::Released { reason: Release::Done, statistics, .. }] if statistics.delivered == 3)
    );
}

#[test]
fn error_fails_with_the_text_of_the_route() {
    for (host, status, text) in [
        ("554 5.7.1 no such list", Status(5, 7, 1), "no such list"),
        ("5.1.1 gone", Status(5, 1, 1), "gone"),
        ("4.2.1 never temporary", Status(5, 2, 1), "never temporary"),
        ("this list has moved", Status(5, 0, 0), "this list has moved"),
        ("550", Status(5, 0, 0), "550"),
        ("5.1.1", Status(5, 1, 1), "delivery is refused by a route"),
        ("1.2.3.4 is no status", Status(5, 0, 0), "1.2.3.4 is no status"),
    ] {
        let mut agents = Agents::new();
        agents.handle_order(Timestamp::ZERO, lease_order(1, "error", host));
        agents.handle_order(Timestamp::ZERO, carry(1, 5));
        let said = reports(&mut agents);
        let Some(Report::Settled { verdicts, .. }) = said.get(1) else { panic!("{said:?}") };
        assert_eq!(verdicts[0].judgement, Judgement::Failed);
        assert_eq!((verdicts[0].diagnostic.status, verdicts[0].diagnostic.text.as_str()), (status, text));
    }
}

#[test]
fn an_idle_lease_ends_after_its_time_unless_work_comes() {
    let mut agents = Agents::new();
    let start = Timestamp::from_secs(100);
    agents.handle_order(start, lease_order(1, "discard", "-"));
    agents.handle_order(start, Order::Idle { lease: LeaseId(1) });
    agents.handle_order(start + Duration::from_secs(29), carry(1, 5));
    reports(&mut agents);
    agents.handle_timeout(start + Duration::from_secs(31));
    assert!(reports(&mut agents).is_empty());
    agents.handle_order(start + Duration::from_secs(40), Order::Idle { lease: LeaseId(1) });
    agents.handle_timeout(start + Duration::from_secs(70));
    assert!(matches!(reports(&mut agents)[..], [Report::Released { reason: Release::Done, .. }]));
    agents.handle_order(start, carry(1, 6));
    assert!(reports(&mut agents).is_empty());
}

#[test]
fn a_channel_without_an_agent_fails_by_name() {
    let mut agents = Agents::new();
    agents.handle_order(Timestamp::ZERO, lease_order(1, "pigeon", "roof"));
    let said = reports(&mut agents);
    let [Report::Released { reason: Release::Failed(diagnostic), .. }] = &said[..] else { panic!("{said:?}") };
    assert!(diagnostic.text.contains("pigeon"));
}

#[test]
fn the_thread_works_through_its_mailboxes_and_ends_with_them() {
    let (orders_in, orders) = mailbox(64);
    let (reports_in, reports) = mailbox(1);
    let worker = std::thread::spawn(move || run(&orders, reports_in, &Clock::start()));
    orders_in.send(lease_order(1, "discard", "-")).unwrap();
    (0..20).for_each(|n| orders_in.send(carry(1, n)).unwrap());
    let settled = std::iter::from_fn(|| match reports.wait(Duration::from_secs(10)) {
        Received::Item(report) => Some(report),
        _ => None,
    })
    .filter(|report| matches!(report, Report::Settled { .. }))
    .take(20)
    .count();
    assert_eq!(settled, 20);
    drop(orders_in);
    worker.join().unwrap();
}

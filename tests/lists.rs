//! A list manager posts through the hub.

use std::collections::HashSet;
use std::time::Duration;

use zrelay_tests::peers::{self, Mlmmj, Peers, Verp};
use zrelay_tests::{Hub, SOON, Sink, skip};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const MEMBERS: usize = 200;

fn post(verp: Verp) -> Option<(Duration, Sink, Hub)> {
    let peers = Peers::find()?;
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let list = Mlmmj::new(&peers, MEMBERS, hub.smtp(), verp);
    let body = "All work and no play.\n.\n..dots\n".repeat(60);
    let taken = list.post(&format!("From: a@b.test\nTo: list@lists.test\nSubject: post\n\n{body}"));
    assert!(sink.wait(MEMBERS, SOON), "{verp:?}: {} of {MEMBERS}", sink.count());
    assert!(hub.wait_until_empty(SOON));
    let mut got: Vec<String> = sink.transactions().into_iter().flat_map(|it| it.recipients).collect();
    let mut members = list.members().to_vec();
    got.sort();
    members.sort();
    assert_eq!(got, members, "{verp:?}: every member once");
    assert!(sink.violations().is_empty(), "{verp:?}: {:?}", sink.violations());
    let contents: HashSet<_> =
        sink.transactions().iter().map(|it| it.text().split("From: a@b").last().map(str::to_owned)).collect();
    assert_eq!(contents.len(), 1, "{verp:?}: all got the same");
    println!(
        "mlmmj {verp:?}: {MEMBERS} members handed over in {taken:.2?}, {:.0} members/s, {} connections out",
        MEMBERS as f64 / taken.as_secs_f64(),
        sink.connections()
    );
    Some((taken, sink, hub))
}

#[test]
fn mlmmj_posts_plainly() {
    let Some((_, sink, _hub)) = post(Verp::None) else { return skip(peers::MISSING) };
    let senders: HashSet<_> = sink.transactions().into_iter().map(|it| it.sender).collect();
    assert_eq!(senders.len(), 1, "{senders:?}");
}

#[test]
fn mlmmj_posts_with_its_own_verp_without_waiting_for_delayed_acknowledgements() {
    let Some((taken, sink, _hub)) = post(Verp::Own) else { return skip(peers::MISSING) };
    let senders: HashSet<_> = sink.transactions().into_iter().map(|it| it.sender).collect();
    assert_eq!(senders.len(), MEMBERS, "a sender for each member");
    // With a delayed acknowledgement in each of 200 messages it takes 8.9 s, whatever the machine.
    assert!(taken < Duration::from_secs(5), "{taken:?}");
}

#[test]
fn mlmmj_asks_for_xverp_and_is_served_or_falls_back() {
    let Some((_, sink, _hub)) = post(Verp::Xverp) else { return skip(peers::MISSING) };
    for transaction in sink.transactions() {
        for recipient in &transaction.recipients {
            let encoded = recipient.replace('@', "=");
            assert!(transaction.sender.contains(&encoded), "{} for {recipient}", transaction.sender);
        }
    }
}

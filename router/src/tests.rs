//! The router as a specification.

use std::collections::HashSet;

use proptest::prelude::*;
use zrelay_config::Config;
use zrelay_spool::{Disposition, MessageId};

use super::*;

fn router(routes: &str) -> Router {
    Router::new(&Config::parse("hub.toml", routes).unwrap()).in_file("hub.toml")
}

fn submitted<'a>(recipients: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = Submitted<'a>> {
    (0u32..).zip(recipients).map(|(index, (address, sender))| Submitted { index, address, sender })
}

fn threads(router: &Router, recipients: &[(&str, &str)]) -> Vec<(String, Vec<u32>)> {
    let routing = router.route(100, submitted(recipients));
    routing.batches.into_iter().map(|batch| (batch.thread.to_string(), batch.recipients)).collect()
}

fn thread(router: &Router, address: &str, sender: &str) -> String {
    threads(router, &[(address, sender)]).remove(0).0
}

#[test]
fn without_routes_the_domain_decides() {
    let router = router("");
    assert_eq!(thread(&router, "ann@Example.ORG", ""), "smtp/example.org");
    assert_eq!(thread(&router, "ann@bücher.example", ""), "smtp/xn--bcher-kva.example");
    assert_eq!(thread(&router, "ann@[192.0.2.1]", ""), "smtp/[192.0.2.1]");
    assert_eq!(thread(&router, "ann@[IPv6:2001:DB8::1]", ""), "smtp/[IPv6:2001:db8::1]");
    assert_eq!(thread(&router, "\"a@b\"@example.org", ""), "smtp/example.org");
}

#[test]
fn what_cannot_be_routed_goes_to_the_error_channel() {
    let router = router("");
    for address in ["ann@a..b", "ann@-a.example", "ann@[x:y]", "ann", ""] {
        assert_eq!(thread(&router, address, ""), format!("error/{BAD_DOMAIN}"), "{address:?}");
    }
    assert_eq!(thread(&router, "Postmaster", ""), format!("error/{NO_POSTMASTER}"));
}

#[test]
fn a_bare_postmaster_goes_to_the_configured_one() {
    let router =
        router("postmaster = 'root@ops.example'\n[[route]]\nrecipient='ops.example'\nchannel='lmtp'\nhost='[::1]'");
    assert_eq!(threads(&router, &[("PostMaster", ""), ("postmaster", "")]), [("lmtp/[IPv6:::1]".into(), vec![0])]);
    assert_eq!(router.explain("postmaster", "").len(), 3);
}

#[test]
fn the_first_route_that_matches_wins() {
    let router = router(
        "[[route]]\nrecipient = 'list-*@example.net'\nsender = '<>'\nchannel = 'discard'\n\
         [[route]]\nrecipient = 'example.net'\nchannel = 'smtp'\nhost = '[10.0.0.9]:2526'\n\
         [[route]]\nrecipient = '*.example.net'\nchannel = 'hold'\n\
         [[route]]\nsender = '*@spam.example'\nchannel = 'error'\n\
         [[route]]\nrecipient = 'bücher.example'\nchannel = 'error'\nhost = '5.1.1 closed'\n",
    );
    for (address, sender, expected) in [
        ("list-x@Example.net", "", "discard/example.net"),
        ("list-x@example.net", "a@b", "smtp/[10.0.0.9]:2526"),
        ("ann@deep.example.net", "a@b", "hold/deep.example.net"),
        ("ann@a..example.net", "a@b", "hold/-"),
        ("ann@example.com", "x@SPAM.example", &format!("error/{REFUSED}")),
        ("ann@xn--bcher-kva.example", "a@b", "error/5.1.1 closed"),
        ("ann@Bücher.example", "a@b", "error/5.1.1 closed"),
        ("ann@example.com", "a@b", "smtp/example.com"),
    ] {
        assert_eq!(thread(&router, address, sender), expected, "{address} {sender}");
        let steps = router.explain(address, sender);
        let last = steps.last().unwrap();
        assert!(matches!(&last.verdict, Verdict::Taken(thread) if thread.to_string() == expected), "{steps:?}");
    }
}

#[test]
fn an_explanation_names_file_and_line_of_every_rule() {
    let router = router(
        "[[route]]\nrecipient = '*.example.org'\nchannel = 'hold'\n\n[[route]]\nrecipient = '*.example.net'\n\
         channel = 'smtp'\nhost = 'mx.example.com'\n",
    );
    let lines: Vec<String> = router.explain("ann@lists.example.net", "").iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "ann@lists.example.net: the domain is lists.example.net",
            "hub.toml:1: recipient \"*.example.org\" does not match the recipient",
            "hub.toml:5: recipient \"*.example.net\" matches: smtp/mx.example.com",
        ]
    );
}

#[test]
fn duplicates_are_equal_in_address_and_sender_and_the_first_stays() {
    let recipients = [
        ("ann@example.org", "l"),
        ("bob@example.net", "l"),
        ("ann@EXAMPLE.org", "l"),
        ("Ann@example.org", "l"),
        ("ann@example.org", "l+verp"),
        ("ann@example.org", "l"),
    ];
    let router = router("");
    let routing = router.route(100, submitted(&recipients));
    assert_eq!(
        routing.duplicates,
        [Duplicate { recipient: 2, of: 0, batch: 0 }, Duplicate { recipient: 5, of: 0, batch: 0 }]
    );
    let batches: Vec<_> = routing.batches.iter().map(|batch| batch.recipients.clone()).collect();
    assert_eq!(batches, [vec![0, 3, 4], vec![1]]);

    let outcomes = duplicates(MessageId(7), &routing, zrelay_clock::Timestamp::ZERO);
    assert_eq!(outcomes.len(), 2);
    assert_eq!(outcomes[1].recipients, [5]);
    assert_eq!(outcomes[1].disposition, Disposition::Dropped);
    assert_eq!(outcomes[1].diagnostic.text, "duplicate of recipient 0");
}

fn sliced(router: &Router, size: u64, recipients: &[(&str, &str)]) -> Vec<Vec<u32>> {
    router.route(size, submitted(recipients)).batches.into_iter().map(|batch| batch.recipients).collect()
}

#[test]
fn a_batch_holds_no_more_than_goes_out_at_once() {
    let router = router("[[thread]]\nmatch = 'smtp/b'\nrecipients = 2\nunacknowledged_bytes = 65536\n");
    let one = [("a@b", "s"), ("x@c", "s"), ("b@b", "s"), ("c@b", "s"), ("y@c", "s"), ("a@b", "s"), ("c@b", "s")];
    assert_eq!(sliced(&router, 100, &one), [vec![0, 2], vec![1, 4], vec![3]]);
    let routing = router.route(100, submitted(&one));
    let duplicates = [Duplicate { recipient: 5, of: 0, batch: 0 }, Duplicate { recipient: 6, of: 3, batch: 2 }];
    assert_eq!(routing.duplicates, duplicates);
}

#[test]
fn a_batch_of_many_senders_counts_each_of_its_transactions() {
    let router = router("[[thread]]\nmatch = 'smtp/b'\nunacknowledged_messages = 3\nunacknowledged_bytes = 100000\n");
    let verp = [("a@b", "s1"), ("b@b", "s2"), ("c@b", "s3"), ("d@b", "s4")];
    assert_eq!(sliced(&router, 100, &verp), [vec![0, 1, 2], vec![3]]);
    assert_eq!(sliced(&router, 50_000, &verp), [vec![0, 1], vec![2, 3]]);
    assert_eq!(sliced(&router, 1_000_000, &verp), [vec![0], vec![1], vec![2], vec![3]]);
    // Senders that alternate are as many transactions as there are senders.
    let two = [("a@b", "s1"), ("b@b", "s2"), ("c@b", "s1"), ("d@b", "s2"), ("e@b", "s1")];
    assert_eq!(sliced(&router, 100, &two), [vec![0, 1, 2, 3, 4]]);
}

#[test]
fn fifty_thousand_recipients_of_one_thread_are_fifty_batches() {
    let addresses: Vec<String> = (0..50_000).map(|n| format!("user{n}@b.example")).collect();
    let recipients = (0u32..).zip(&addresses).map(|(index, address)| Submitted { index, address, sender: "l@x" });
    let routing = router("").route(100, recipients);
    assert_eq!(routing.batches.iter().map(|batch| batch.recipients.len()).collect::<Vec<_>>(), [1000; 50]);
}

#[test]
fn fifty_thousand_recipients_in_twenty_thousand_domains_are_all_there() {
    let addresses: Vec<String> = (0..50_000).map(|n| format!("user{n}@d{}.example", n % 20_000)).collect();
    let router = router("[[route]]\nrecipient = '*.invalid'\nchannel = 'discard'\n");
    let recipients = (0u32..).zip(&addresses).map(|(index, address)| Submitted { index, address, sender: "l@x" });
    let routing = router.route(100, recipients);
    assert_eq!(routing.batches.len(), 20_000);
    assert_eq!(routing.batches.iter().map(|batch| batch.recipients.len()).sum::<usize>(), 50_000);
}

fn recipients() -> impl Strategy<Value = Vec<(String, String)>> {
    let address = "([ab]|A|\"x@y\")@(a|A|b|ü|xn--tda|[.]|\\[192.0.2.1\\])(\\.example)?|postmaster|Postmaster";
    proptest::collection::vec((address, "(|s@a|t@b)"), 0..40)
}

proptest! {
    #[test]
    fn every_recipient_is_in_exactly_one_batch_or_a_named_duplicate(
        recipients in recipients(),
        routes in proptest::sample::subsequence(vec![
            "[[route]]\nrecipient = 'a.example'\nchannel = 'hold'\n",
            "[[route]]\nrecipient = 'a@*'\nchannel = 'discard'\n",
            "[[route]]\nsender = '<>'\nchannel = 'smtp'\nhost = '[::1]'\n",
        ], 0..=3),
    ) {
        let limits = "[[thread]]\nmatch = '*'\nrecipients = 3\nunacknowledged_messages = 2\n";
        let router = router(&(routes.concat() + limits));
        let recipients: Vec<(&str, &str)> = recipients.iter().map(|(a, s)| (a.as_str(), s.as_str())).collect();
        let routing = router.route(100, submitted(&recipients));

        let batched = routing.batches.iter().flat_map(|batch| batch.recipients.iter().copied());
        let mut all: Vec<u32> = batched.chain(routing.duplicates.iter().map(|duplicate| duplicate.recipient)).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..recipients.len() as u32).collect::<Vec<_>>());

        // Ascending inside, ordered by the first, one batch per thread, or several full ones.
        prop_assert!(routing.batches.iter().all(|batch| batch.recipients.is_sorted() && !batch.recipients.is_empty()));
        prop_assert!(routing.batches.iter().map(|batch| batch.recipients[0]).is_sorted());
        let mut partial = HashSet::new();
        for batch in &routing.batches {
            let senders: HashSet<_> = batch.recipients.iter().map(|index| recipients[*index as usize].1).collect();
            prop_assert!(batch.recipients.len() <= 3 && senders.len() <= 2);
            let full = batch.recipients.len() == 3 || senders.len() == 2;
            prop_assert!(full || partial.insert(&batch.thread));
        }

        // A duplicate names one that stays, in that batch, before it.
        for duplicate in &routing.duplicates {
            prop_assert!(duplicate.of < duplicate.recipient);
            prop_assert!(routing.batches[duplicate.batch as usize].recipients.contains(&duplicate.of));
        }

        // Every recipient alone goes where it goes in company, and the explanation agrees.
        for batch in &routing.batches {
            for index in &batch.recipients {
                let (address, sender) = recipients[*index as usize];
                prop_assert_eq!(thread(&router, address, sender), batch.thread.to_string());
                let steps = router.explain(address, sender);
                let taken = Verdict::Taken(batch.thread.clone());
                prop_assert_eq!(&steps.last().unwrap().verdict, &taken);
            }
        }

        // A pure function.
        prop_assert_eq!(router.route(100, submitted(&recipients)), routing);
    }
}

#[test]
fn recipients_that_a_hold_is_for_are_kept_apart_from_the_others() {
    let standing = Standing::default();
    let router = router("").apart(standing.clone());
    let recipients =
        [("ann@b.example", "x@bad.example"), ("bob@b.example", "y@good.example"), ("cyd@b.example", "x@bad.example")];
    let split = |router: &Router| threads(router, &recipients).into_iter().map(|(_, batch)| batch).collect::<Vec<_>>();
    assert_eq!(split(&router), [vec![0, 1, 2]]);
    let holds = |texts: &[&str]| {
        standing.set(vec![zrelay_holds::Terms::parse(texts.iter().copied()).unwrap().into()]);
    };
    holds(&["sender:*@bad.example"]);
    assert_eq!(split(&router), [vec![0, 2], vec![1]]);
    holds(&["recipient:bob@*"]);
    assert_eq!(split(&router), [vec![0, 2], vec![1]]);
    holds(&["smtp/elsewhere", "recipient:bob@*"]);
    assert_eq!(split(&router), [vec![0, 1, 2]]);
    standing.set(Vec::new());
    assert_eq!(split(&router), [vec![0, 1, 2]]);
}

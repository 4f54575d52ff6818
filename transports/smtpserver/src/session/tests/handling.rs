//! Whose mail a message is and how urgent, as the spool is told.

use zrelay_config::FlowKey;
use zrelay_spool::{ByMode, DeliverBy, Flow, Handling};

use super::super::fixture::{Asked, START};
use super::{Bench, bench};
use crate::policy::SessionPolicy;

/// How a message is handled that comes with these parameters of MAIL, from this sender, with this header.
fn handling(policy: impl FnOnce(&mut SessionPolicy), sender: &str, parameters: &str, header: &str) -> Handling {
    let mut bench = bench(policy);
    let text = format!(
        "EHLO c\r\nMAIL FROM:<{sender}>{parameters}\r\nRCPT TO:<b@example.org>\r\nDATA\r\n{header}\r\nbody\r\n.\r\n"
    );
    bench.send(text.as_bytes(), 7);
    bench.answer_all();
    let lines = bench.lines();
    let Some(Asked::Commit { envelope, .. }) = bench.asked.first() else { panic!("{lines:?}") };
    envelope.handling
}

#[test]
fn mail_without_wishes_is_stored_without() {
    let by_domain = handling(|_| {}, "list-bounces+ann@lists.example", "", "List-Id: <a.lists.example>\r\n");
    assert_eq!(by_domain, Handling::default());
}

#[test]
fn the_parameter_goes_before_the_field_and_both_before_the_listener() {
    let priority = |parameters, header| handling(|policy| policy.priority = -4, "a@b", parameters, header).priority;
    assert_eq!(priority(" MT-PRIORITY=6", "MT-Priority: 3\r\n"), 6);
    assert_eq!(priority("", "MT-Priority: 3\r\n"), 3);
    assert_eq!(priority(" MT-PRIORITY=0", ""), 0);
    assert_eq!(priority("", "Subject: x\r\n"), -4);
}

#[test]
fn the_time_to_deliver_by_counts_from_mail() {
    let by = |parameters| handling(|_| {}, "a@b", parameters, "").deliver_by;
    let second = std::time::Duration::from_secs(1);
    let returned = DeliverBy { deadline: START + 600 * second, mode: ByMode::Return, trace: true };
    assert_eq!(by(" BY=600;RT"), Some(returned));
    let over = by(" BY=-5;N").unwrap();
    assert_eq!((over.deadline + 5 * second, over.mode), (START, ByMode::Notify));
}

#[test]
fn a_flow_is_the_tag_the_field_the_list_or_the_sender_without_verp() {
    let list = |policy: &mut SessionPolicy| {
        policy.limits.flow = FlowKey::List;
        policy.limits.flow_header = Some("x-campaign:".into());
    };
    let sender = "news-bounces+ann=example.org@lists.example";
    let flow = |header| handling(list, sender, "", header).flow;
    assert_eq!(flow("X-Campaign: spring\r\nList-Id: News <news.lists.example>\r\n"), Some(Flow::named("SPRING")));
    assert_eq!(flow("List-Id: News <news.lists.example>\r\n"), Some(Flow::named("news.lists.example")));
    assert_eq!(flow(""), Some(Flow::named("news-bounces@lists.example")));
    assert_eq!(handling(list, "", "", "").flow, None, "the null sender is a flow of its own already");
    let tagged = |policy: &mut SessionPolicy| {
        list(policy);
        policy.tag = Some("bulk".to_owned());
    };
    assert_eq!(handling(tagged, sender, "", "X-Campaign: spring\r\n").flow, Some(Flow::named("bulk")));
}

#[test]
fn wrong_wishes_are_refused_with_a_reason() {
    let mut bench: Bench = bench(|_| {});
    bench.send(b"EHLO c\r\n", usize::MAX);
    bench.lines();
    for (parameters, code) in [
        ("MT-PRIORITY=10", "501 5.5.4"),
        ("MT-PRIORITY=1 MT-PRIORITY=2", "501 5.5.4"),
        ("BY=0;R", "501 5.5.4"),
        ("BY=120", "501 5.5.4"),
        ("BY=59;R", "555 5.5.4"),
    ] {
        bench.send(format!("MAIL FROM:<a@b> {parameters}\r\n").as_bytes(), usize::MAX);
        let lines = bench.lines();
        assert!(lines.len() == 1 && lines[0].starts_with(code), "{parameters}: {lines:?}");
    }
}

//! Transactions sized by how long the far side takes.

use std::time::Duration;

use super::far::{Far, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{Owed, Protocol, Settings};

fn run(offers: Offers, recipients: usize, portion: u32) -> Run {
    let many: Vec<String> = (0..recipients).map(|number| format!("r{number}@dst")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut run = Run::new(settings(), Far::new(offers, |_| None), 1).in_one_piece();
    run.conversation.set_portion(portion);
    run.carry(letter(0, &many));
    run.carry(letter(1, &["single@dst"]));
    run
}

fn sizes(run: &Run) -> Vec<usize> {
    run.far.deliveries.iter().map(|delivery| delivery.recipients.len()).collect()
}

#[test]
fn a_post_is_divided_into_portions_and_one_in_four_is_twice_as_large() {
    let mut stream = run(Offers::everything(), 480, 50);
    stream.finish();
    stream.assert_all_delivered();
    assert_eq!(sizes(&stream), [50, 50, 50, 100, 50, 50, 50, 80, 1]);
    let mut data = run(Offers::pipelining(), 120, 50);
    data.finish();
    data.assert_all_delivered();
    assert_eq!(sizes(&data), [50, 50, 20, 1]);
}

#[test]
fn what_the_clause_allows_is_not_exceeded_by_a_portion() {
    let mut run = run(Offers::everything(), 3000, u32::MAX);
    run.finish();
    run.assert_all_delivered();
    assert_eq!(sizes(&run), [1000, 1000, 1000, 1]);
}

#[test]
fn replies_are_counted_by_what_they_are_about() {
    let mut run = run(Offers::everything(), 120, 50);
    run.settle_down();
    let answers = run.conversation.answers();
    assert_eq!((answers.messages, answers.recipients), (4, 121));
    run.now = run.now + Duration::from_secs(5);
    run.carry(letter(2, &["later@dst"]));
    assert_eq!(run.conversation.owed(), Owed::BehindCommand(run.now), "nothing was owed before");
}

#[test]
fn with_lmtp_the_replies_to_messages_are_about_recipients() {
    let lmtp = Settings { protocol: Protocol::Lmtp, ..settings() };
    let mut run = Run::new(lmtp, Far::new(Offers::everything(), |_| None).lmtp(), 1);
    run.carry(letter(0, &["a@dst", "b@dst", "c@dst"]));
    run.settle_down();
    let answers = run.conversation.answers();
    assert_eq!((answers.messages, answers.recipients), (1, 3));
}

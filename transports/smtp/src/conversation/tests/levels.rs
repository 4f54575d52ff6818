//! What is in one flight at each level.

use zrelay_config::Pipelining;

use super::far::{Far, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{Protocol, Settings};

fn honest(offers: Offers) -> Far {
    Far::new(offers, |_| None)
}

/// The commands of each flight until everything is delivered, with everything moved at once.
fn flights(settings: Settings, far: Far, letters: usize) -> Vec<String> {
    let mut run = Run::new(settings, far, 1).in_one_piece();
    for number in 0..letters {
        run.carry(letter(number, &["a@dst", "b@dst"]));
    }
    let mut flights = Vec::new();
    loop {
        let seen = run.far.commands.len();
        let octets = std::mem::take(&mut run.far.output);
        run.conversation.handle_input(run.now, &octets);
        loop {
            let mut out = Vec::new();
            run.conversation.gather(|slice| {
                out.extend_from_slice(slice);
                true
            });
            if out.is_empty() {
                break;
            }
            run.conversation.handle_written(run.now, out.len());
            run.far.receive(&out);
        }
        run.events();
        if run.far.commands.len() == seen {
            break;
        }
        let verbs: Vec<&str> = run.far.commands[seen..].iter().map(|line| line.split(' ').next().unwrap()).collect();
        flights.push(verbs.join(" "));
    }
    run.finish();
    run.assert_all_delivered();
    flights
}

#[test]
fn without_pipelining_one_command_goes_at_a_time() {
    let flights = flights(settings(), honest(Offers::nothing()), 2);
    assert_eq!(flights, ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", ".", "MAIL", "RCPT", "RCPT", "DATA", "."]);
}

#[test]
fn chunking_without_pipelining_changes_nothing() {
    let offers = Offers { pipelining: false, ..Offers::everything() };
    assert_eq!(flights(settings(), honest(offers), 1), ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "."]);
}

#[test]
fn a_transaction_takes_two_flights() {
    let settings = Settings { highest: Pipelining::Transaction, ..settings() };
    let flights = flights(settings, honest(Offers::everything()), 2);
    assert_eq!(flights, ["EHLO", "MAIL RCPT RCPT DATA", ".", "MAIL RCPT RCPT DATA", "."]);
}

#[test]
fn pipelined_the_next_transaction_goes_with_the_dot() {
    let flights = flights(settings(), honest(Offers::pipelining()), 3);
    assert_eq!(flights, ["EHLO", "MAIL RCPT RCPT DATA", ". MAIL RCPT RCPT DATA", ". MAIL RCPT RCPT DATA", "."]);
}

#[test]
fn streamed_everything_goes_in_one_flight_with_a_reset_before_each_further_mail() {
    let flights = flights(settings(), honest(Offers::everything()), 3);
    let one = "MAIL RCPT RCPT BDAT";
    assert_eq!(flights, ["EHLO".to_owned(), format!("{one} RSET {one} RSET {one}")]);
}

#[test]
fn behind_a_known_success_no_reset_is_needed() {
    let settings = Settings { unacknowledged_messages: 1, ..settings() };
    let flights = flights(settings, honest(Offers::everything()), 2);
    assert_eq!(flights, ["EHLO", "MAIL RCPT RCPT BDAT", "MAIL RCPT RCPT BDAT"]);
}

#[test]
fn the_window_bounds_messages_and_octets_and_one_message_may_overdraw_it() {
    let two = Settings { unacknowledged_messages: 2, ..settings() };
    let flights_of_two = flights(two, honest(Offers::everything()), 4);
    assert_eq!(flights_of_two[1], "MAIL RCPT RCPT BDAT RSET MAIL RCPT RCPT BDAT");
    let tiny = Settings { unacknowledged_bytes: 1, ..settings() };
    assert_eq!(flights(tiny, honest(Offers::everything()), 2).len(), 3);
}

#[test]
fn with_lmtp_nothing_stands_behind_a_message_to_several() {
    let settings = Settings { protocol: Protocol::Lmtp, ..settings() };
    let flights = flights(settings, honest(Offers::everything()).lmtp(), 2);
    assert_eq!(flights, ["LHLO", "MAIL RCPT RCPT BDAT", "MAIL RCPT RCPT BDAT"]);
}

#[test]
fn a_message_near_the_limit_goes_alone_and_by_data() {
    let offers = Offers { keywords: vec!["SIZE 80".into()], ..Offers::everything() };
    let flights = flights(settings(), honest(offers), 2);
    assert_eq!(flights, ["EHLO", "MAIL RCPT RCPT DATA", ".", "MAIL RCPT RCPT DATA", "."]);
}

#[test]
fn a_message_of_more_than_a_mebibyte_is_not_streamed_to_a_host_without_a_number() {
    let offers = Offers { keywords: vec!["SIZE".into()], ..Offers::everything() };
    let mut run = Run::new(settings(), honest(offers), 1);
    let mut large = letter(0, &["a@dst"]);
    large.body.resize(1024 * 1024 + 1, b'x');
    large.slice = 10_000;
    run.carry(large);
    run.carry(letter(1, &["a@dst"]));
    run.finish();
    run.assert_all_delivered();
    assert_eq!(run.far.verbs(), "EHLO MAIL RCPT DATA . MAIL RCPT BDAT QUIT");
}

#[test]
fn recipients_go_in_transactions_of_the_announced_limit_and_by_sender() {
    let mut run = Run::new(settings(), honest(Offers::everything().with(&["LIMITS RCPTMAX=2"])), 1).in_one_piece();
    let verp = letter(0, &["a@dst", "b@dst", "c@dst"]).to("other@src", &["d@dst"]).to("s0@src.example", &["e@dst"]);
    run.carry(verp);
    run.finish();
    run.assert_all_delivered();
    let envelopes: Vec<_> = run.far.deliveries.iter().map(|d| (d.sender.as_str(), d.recipients.join(" "))).collect();
    assert_eq!(
        envelopes,
        [
            ("s0@src.example", "a@dst b@dst".to_owned()),
            ("s0@src.example", "c@dst e@dst".to_owned()),
            ("other@src", "d@dst".to_owned()),
        ]
    );
}

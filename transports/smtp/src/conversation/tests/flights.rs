//! Round trips, counted: a far side on virtual time that answers a flight only when it has all of it, so that every wait of
//! the conversation costs one round trip.

use zrelay_config::Pipelining;

use super::far::{Far, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{Protocol, Settings};

/// The round trips until the far side has said everything, from the connection's first octet on; the greeting comes
/// with the connection and counts as none.
fn round_trips(settings: Settings, offers: Offers, letters: usize, recipients: &[&str]) -> usize {
    let mut far = Far::new(offers, |_| None);
    if settings.protocol == Protocol::Lmtp {
        far = far.lmtp();
    }
    let mut run = Run::new(settings, far, 1).in_one_piece();
    for number in 0..letters {
        run.carry(letter(number, recipients));
    }
    let mut trips = 0;
    loop {
        // What has been said arrives; what is to be said about it goes.
        let octets = std::mem::take(&mut run.far.output);
        run.conversation.handle_input(run.now, &octets);
        let mut flight = Vec::new();
        while run.conversation.wants_write() {
            let before = flight.len();
            run.conversation.gather(|slice| {
                flight.extend_from_slice(slice);
                true
            });
            run.conversation.handle_written(run.now, flight.len() - before);
        }
        run.events();
        if flight.is_empty() {
            break;
        }
        run.now = run.now + std::time::Duration::from_millis(130);
        run.far.receive(&flight);
        trips += 1;
    }
    run.finish();
    run.assert_all_delivered();
    trips
}

/// On a fresh connection, and for each further message: the slope between a few and more of them.
fn cost(settings: &Settings, offers: &Offers, recipients: &[&str]) -> (usize, usize) {
    let trips = |letters| round_trips(settings.clone(), offers.clone(), letters, recipients);
    let (one, three, seven) = (trips(1), trips(3), trips(7));
    assert_eq!(2 * (three - one), seven - three, "each further message costs the same");
    (one, (seven - three) / 4)
}

const TWO: [&str; 2] = ["a@dst", "b@dst"];

#[test]
fn a_stream_costs_two_round_trips_and_none_per_further_message() {
    assert_eq!(cost(&settings(), &Offers::everything(), &TWO), (2, 0));
    let many: Vec<String> = (0..700).map(|number| format!("r{number}@dst")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(cost(&settings(), &Offers::everything(), &many), (2, 0), "however many recipients");
    let small = Settings { recipients: 100, ..settings() };
    assert_eq!(cost(&small, &Offers::everything(), &many), (2, 0), "in however many transactions");
}

#[test]
fn pipelined_data_costs_three_round_trips_and_one_per_further_message() {
    assert_eq!(cost(&settings(), &Offers::pipelining(), &TWO), (3, 1));
}

#[test]
fn a_transaction_at_a_time_costs_two_round_trips_per_message() {
    let settings = Settings { highest: Pipelining::Transaction, ..settings() };
    assert_eq!(cost(&settings, &Offers::everything(), &TWO), (3, 2));
}

#[test]
fn lock_step_costs_a_round_trip_per_command() {
    // MAIL, DATA and the dot, and each recipient.
    assert_eq!(cost(&settings(), &Offers::nothing(), &TWO), (6, 5));
    assert_eq!(cost(&settings(), &Offers::nothing(), &["a@dst"]), (5, 4));
}

#[test]
fn lmtp_streams_messages_to_one_and_waits_behind_messages_to_several() {
    let settings = Settings { protocol: Protocol::Lmtp, ..settings() };
    assert_eq!(cost(&settings, &Offers::everything(), &["a@dst"]), (2, 0));
    assert_eq!(cost(&settings, &Offers::everything(), &TWO), (2, 1));
    assert_eq!(cost(&settings, &Offers::pipelining(), &["a@dst"]), (3, 1));
    assert_eq!(cost(&settings, &Offers::pipelining(), &TWO), (3, 2));
}

#[test]
fn a_refused_message_costs_no_round_trip_in_a_stream() {
    let trips = |refused: &'static str| {
        let far = Far::new(Offers::everything(), move |line| {
            line.contains(refused).then_some(super::far::Mischief::Say("550 5.1.1 No"))
        });
        let mut run = Run::new(settings(), far, 1).in_one_piece();
        (0..5).for_each(|number| run.carry(letter(number, &TWO)));
        let mut trips = 0;
        while run.exchange() {
            trips += 1;
        }
        trips
    };
    assert_eq!(trips("RCPT TO:<b@"), trips("nothing"));
}

#[test]
fn the_farewell_goes_with_the_last_message_when_nothing_can_follow() {
    for offers in [Offers::everything(), Offers::pipelining()] {
        let limited = Settings { messages: 3, ..settings() };
        let mut run = Run::new(limited, Far::new(offers.clone(), |_| None), 1).in_one_piece();
        (0..4).for_each(|number| run.carry(letter(number, &TWO)));
        let mut last = Vec::new();
        while run.end.is_none() {
            let octets = std::mem::take(&mut run.far.output);
            run.conversation.handle_input(run.now, &octets);
            let mut flight = Vec::new();
            run.conversation.gather(|slice| {
                flight.extend_from_slice(slice);
                true
            });
            run.conversation.handle_written(run.now, flight.len());
            run.far.receive(&flight);
            run.events();
            if !flight.is_empty() {
                last = flight;
            }
        }
        let last = String::from_utf8(last).unwrap();
        assert!(last.ends_with("QUIT\r\n") && last.len() > 10, "{offers:?}: {last}");
        assert!((0..3).all(|batch| !run.is_unanswered(batch, 0)) && run.books[3].returned);
    }
}

#[test]
fn no_farewell_goes_before_it_is_known_that_nothing_is_left() {
    // With no room for the second recipient, the message is not through with its one transaction.
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 1).in_one_piece();
    run.far.recipients_max = 1;
    run.settle_down();
    run.carry(letter(0, &TWO));
    run.finish();
    run.assert_all_delivered();
    assert_eq!(run.far.verbs(), "EHLO MAIL RCPT RCPT BDAT MAIL RCPT BDAT QUIT");
}

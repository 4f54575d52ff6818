//! Conversations with a host that was met before: what goes ahead of its greeting, and what becomes of it when the host
//! is not what it was.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use zrelay_config::Pipelining;
use zrelay_wire::{Capabilities, Reply};

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{End, Offered, Protocol, Security, Settings};

fn capabilities(offers: &Offers) -> Capabilities {
    let mut lines = vec!["far.example".to_owned()];
    lines.extend(offers.pipelining.then(|| "PIPELINING".to_owned()));
    lines.extend(offers.chunking.then(|| "CHUNKING".to_owned()));
    lines.extend(offers.keywords.iter().cloned());
    Capabilities::from_reply(&Reply::multiline(250, lines))
}

fn everything() -> Offers {
    Offers::everything().with(&["PIPECONNECT"])
}

/// With a far side that offers `real` and is taken for one that offers `known`.
fn presuming(settings: Settings, known: &Offers, real: Offers) -> Run {
    presuming_of(settings, known, Far::new(real, |_| None))
}

fn presuming_of(settings: Settings, known: &Offers, far: Far) -> Run {
    let mut run = Run::new(settings, far, 1).in_one_piece();
    run.conversation.presume(run.now, Offered { clear: Some(capabilities(known)), encrypted: None });
    run
}

/// What goes before anything is heard, as verbs.
fn first_flight(run: &mut Run) -> String {
    run.send_all();
    run.far.verbs()
}

#[test]
fn a_known_host_is_sent_an_envelope_ahead_of_its_greeting_and_no_octet_of_a_message() {
    let mut run = presuming(settings(), &everything(), everything());
    (0..3).for_each(|number| run.carry(letter(number, &["a@dst", "b@dst"])));
    assert_eq!(first_flight(&mut run), "EHLO MAIL RCPT RCPT");
    assert!(!run.ready && run.far.deliveries.is_empty());
    run.finish();
    run.assert_all_delivered();
    assert_eq!(run.far.deliveries.len(), 3);
    assert_eq!(run.conversation.offered().clear, Some(capabilities(&everything())));

    let known = Offers::pipelining().with(&["PIPECONNECT"]);
    let mut run = presuming(settings(), &known, known.clone());
    run.carry(letter(0, &["a@dst"]));
    assert_eq!(first_flight(&mut run), "EHLO MAIL RCPT DATA");
    run.finish();
    run.assert_all_delivered();
}

#[test]
fn nothing_goes_ahead_of_the_greeting_where_that_is_not_known_to_be_taken() {
    let lockstep = Settings { highest: Pipelining::Lockstep, ..settings() };
    let lmtp = Settings { protocol: Protocol::Lmtp, ..settings() };
    let required = Settings { security: Security::Required, ..settings() };
    let no_pipelining = Offers::nothing().with(&["PIPECONNECT"]);
    for (settings, known) in [
        (settings(), Offers::everything()),
        (settings(), no_pipelining),
        (lockstep, everything()),
        (lmtp, everything()),
        (required, everything()),
    ] {
        let mut run = presuming(settings, &known, known.clone());
        run.carry(letter(0, &["a@dst"]));
        assert_eq!(first_flight(&mut run), "");
    }
}

#[test]
fn starttls_goes_with_ehlo_to_a_host_that_is_known_and_nothing_behind_it() {
    let known = everything().with(&["STARTTLS"]);
    let opportunistic = Settings { security: Security::Opportunistic, ..settings() };
    let mut run = Run::new(opportunistic, Far::new(known.clone(), |_| None), 1).in_one_piece();
    let encrypted = capabilities(&everything());
    let offered = Offered { clear: Some(capabilities(&known)), encrypted: Some(encrypted) };
    run.conversation.presume(run.now, offered);
    run.carry(letter(0, &["a@dst"]));
    assert_eq!(first_flight(&mut run), "EHLO STARTTLS");
    run.hear_all();
    assert!(run.starttls && run.end.is_none(), "{:?}", run.end);
    // Behind the handshake the same again, without waiting for the reply to EHLO.
    run.far.offer(everything());
    run.conversation.handle_secured(run.now);
    assert_eq!(first_flight(&mut run), "EHLO STARTTLS EHLO MAIL RCPT");
    run.finish();
    run.assert_all_delivered();
    assert_eq!(run.conversation.offered().clear, Some(capabilities(&known)));
}

/// Runs it until it ends as stale, with nothing decided and nothing delivered.
fn assert_stale(mut run: Run) {
    run.settle_down();
    assert!(matches!(run.end, Some(End::Stale(_))), "{:?}", run.end);
    assert!(run.far.deliveries.is_empty());
    for books in &run.books {
        assert!(books.verdicts.is_empty() && books.done != books.returned, "{books:?}");
    }
    assert_eq!((run.conversation.advice(), run.conversation.next_approach()), (None, None));
}

#[test]
fn a_host_that_offers_less_than_it_did_is_met_anew_before_it_has_anything() {
    let known = everything().with(&["SMTPUTF8", "DSN"]);
    let small = |size| Offers { keywords: vec![size, "8BITMIME".to_owned()], ..everything() };
    for real in [
        Offers { chunking: false, ..known.clone() },
        Offers::everything().with(&["DSN"]),
        Offers { keywords: Vec::new(), ..known.clone() },
        small("SIZE 10".to_owned()),
        known.clone().with(&["LIMITS RCPTMAX=1"]),
    ] {
        let mut run = presuming(settings(), &known, real);
        run.carry(letter(0, &["a@dst", "b@dst"]));
        run.carry(letter(1, &["a@dst"]));
        assert_stale(run);
    }
    let opportunistic = Settings { security: Security::Opportunistic, ..settings() };
    let mut run = presuming(opportunistic, &everything(), everything().with(&["STARTTLS"]));
    run.carry(letter(0, &["a@dst"]));
    assert_stale(run);
}

#[test]
fn a_host_that_offers_more_than_it_did_is_used_as_it_is() {
    let known = Offers::pipelining().with(&["PIPECONNECT", "SIZE 1000000"]);
    let mut run = presuming(settings(), &known, everything());
    (0..4).for_each(|number| run.carry(letter(number, &["a@dst"])));
    run.finish();
    run.assert_all_delivered();
    assert!(run.far.verbs().contains("BDAT"), "{}", run.far.verbs());
}

#[test]
fn whatever_ends_a_connection_before_ehlo_is_answered_says_nothing_against_the_host() {
    for mischief in [
        Mischief::SayAndClose("554 5.5.0 Error: SMTP protocol synchronization"),
        Mischief::SayAndClose("421 4.3.2 busy"),
        Mischief::Say("500 5.5.1 What?"),
        Mischief::Close,
        Mischief::Say("gibberish"),
    ] {
        let wanted = mischief.clone();
        let far = Far::new(everything(), move |line| line.starts_with("EHLO").then(|| wanted.clone()));
        let mut run = presuming_of(settings(), &everything(), far);
        run.carry(letter(0, &["a@dst"]));
        assert_stale(run);
    }
    for greeting in ["554 5.7.1 go away", "421 4.3.2 busy", "450 4.7.1 later"] {
        let mut run = presuming(settings(), &everything(), everything());
        run.far.output = format!("{greeting}\r\n").into_bytes();
        run.carry(letter(0, &["a@dst"]));
        assert_stale(run);
    }
    let far = Far::new(everything(), |line| line.starts_with("EHLO").then_some(Mischief::Mute));
    let mut run = presuming_of(settings(), &everything(), far);
    run.carry(letter(0, &["a@dst"]));
    run.settle_down();
    run.now = run.conversation.poll_timeout().unwrap();
    run.conversation.handle_timeout(run.now);
    run.events();
    assert_stale(run);
}

#[test]
fn a_presumption_never_refuses_anything() {
    // Known not to take such a message at all, which is not true any more.
    let known = Offers { keywords: vec!["SIZE 10".to_owned(), "PIPECONNECT".to_owned()], ..Offers::everything() };
    let mut run = presuming(settings(), &known, everything());
    run.carry(letter(0, &["a@dst"]));
    assert_eq!(first_flight(&mut run), "EHLO");
    run.finish();
    run.assert_all_delivered();

    let known = everything();
    let mut run = presuming(settings(), &known, everything().with(&["SMTPUTF8"]));
    run.carry(letter(0, &["ä@dst"]));
    run.carry(letter(1, &["a@dst"]));
    assert!(first_flight(&mut run).starts_with("EHLO"));
    run.finish();
    run.assert_all_delivered();
}

#[test]
fn a_refused_recipient_is_refused_whatever_its_command_rested_on() {
    let far = Far::new(everything(), |line| line.contains("<b@").then_some(Mischief::Say("550 5.1.1 No such user")));
    let mut run = presuming_of(settings(), &everything(), far);
    run.carry(letter(0, &["a@dst", "b@dst"]));
    run.finish();
    assert_eq!(run.books[0].verdicts.len(), 2);
    assert_eq!(run.books[0].verdicts[&1].diagnostic.code, 550);
}

fn offers() -> impl Strategy<Value = Offers> {
    let keywords = ["SIZE 100", "SIZE 10000000", "8BITMIME", "SMTPUTF8", "DSN", "PIPECONNECT", "LIMITS RCPTMAX=2"];
    let keywords = proptest::sample::subsequence(keywords.map(str::to_owned).to_vec(), 0..=keywords.len());
    (any::<bool>(), any::<bool>(), keywords).prop_map(|(pipelining, chunking, keywords)| Offers {
        // The far side of these tests does not stand commands that come together without it.
        pipelining: pipelining || chunking,
        chunking,
        keywords,
    })
}

proptest! {
    /// The far side records what it took; the books of the run hold that against every verdict.
    #[test]
    fn whatever_was_presumed_nothing_is_lost_and_nothing_is_believed_that_is_not_so(
        known in offers(), real in offers(), seed in any::<u64>(), cut in 0usize..12,
    ) {
        let lines = Rc::new(RefCell::new(0));
        let far = Far::new(Offers { pipelining: true, ..real }, move |_| {
            *lines.borrow_mut() += 1;
            (*lines.borrow() == cut).then_some(Mischief::Close)
        });
        let mut run = Run::new(settings(), far, seed);
        run.conversation.presume(run.now, Offered { clear: Some(capabilities(&known)), encrypted: None });
        for number in 0..3 {
            run.carry(letter(number, &["a@dst", "b@dst", "c@dst"]));
        }
        run.finish();
        prop_assert!(run.conversation.is_idle());
    }
}

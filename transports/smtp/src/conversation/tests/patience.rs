//! How long a far side may be silent, on virtual time, and what its silence means.

use std::time::Duration;

use zrelay_agent::Judgement::Deferred;
use zrelay_clock::Timestamp;

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{End, Offered, Security, Settings};

/// With a far side that falls silent at commands that begin so, and one letter; until nothing moves.
fn silent_at(settings: Settings, needle: &'static str) -> Run {
    let far = Far::new(Offers::everything(), move |line| line.starts_with(needle).then_some(Mischief::Mute));
    let mut run = Run::new(settings, far, 1).in_one_piece();
    run.settle_down();
    run.carry(letter(0, &["a@dst"]));
    run.settle_down();
    run
}

impl Run {
    /// How long the conversation waits before it gives up.
    fn patience(&self) -> Duration {
        self.conversation.poll_timeout().expect("something is waited for").since(self.conversation.activity)
    }

    fn time_out(&mut self) {
        self.now = self.conversation.poll_timeout().expect("something is waited for");
        self.conversation.handle_timeout(self.now);
        self.events();
    }
}

#[test]
fn silence_is_borne_as_long_as_what_is_waited_for_is_worth() {
    let seconds = Duration::from_secs;
    assert_eq!(silent_at(settings(), "MAIL").patience(), seconds(300), "as configured");
    assert_eq!(silent_at(settings(), ". ").patience(), seconds(600), "twice that for a message");
    let mut farewell = silent_at(settings(), "QUIT");
    farewell.conversation.close(farewell.now);
    farewell.settle_down();
    assert_eq!(farewell.patience(), seconds(5));
    let far = Far::new(Offers::everything(), |line| match line {
        _ if line.starts_with("MAIL") => Some(Mischief::Say("421 4.3.2 Busy")),
        _ if line.starts_with("RCPT") => Some(Mischief::Mute),
        _ => None,
    });
    let mut run = Run::new(settings(), far, 1).in_one_piece();
    run.carry(letter(0, &["a@dst"]));
    run.settle_down();
    assert_eq!(run.patience(), seconds(30), "for the last words of a host that has said 421");
    let mut known = silent_at(settings(), "EHLO").far;
    known.output.clear();
    let mut run = Run::new(settings(), known, 1);
    let offered =
        zrelay_wire::Reply::multiline(250, ["far.example", "PIPELINING", "PIPECONNECT"].map(String::from).to_vec());
    let clear = Some(zrelay_wire::Capabilities::from_reply(&offered));
    run.conversation.presume(run.now, Offered { clear, encrypted: None });
    run.send_all();
    assert_eq!(run.patience(), seconds(60), "for a host that was spoken to ahead of its greeting");
}

#[test]
fn a_patience_that_is_configured_holds_for_the_whole_transaction() {
    let patient = Settings { timeout: Duration::from_secs(3 * 3600), ..settings() };
    assert_eq!(silent_at(patient, "MAIL").patience(), Duration::from_secs(3 * 3600));
}

#[test]
fn a_host_that_is_silent_at_its_first_message_has_failed_and_the_message_is_put_off() {
    for needle in ["MAIL", "RCPT", ". "] {
        let mut run = silent_at(settings(), needle);
        run.time_out();
        assert_eq!(run.verdict(0, 0).0, Deferred, "{needle}");
        assert!(matches!(&run.end, Some(End::Failed(why)) if why.text.contains("timed out while")), "{:?}", run.end);
    }
    // The same where the farewell has gone with it.
    let far = Far::new(Offers::everything(), |line| line.starts_with(". ").then_some(Mischief::Mute));
    let mut run = Run::new(Settings { messages: 1, ..settings() }, far, 1).in_one_piece();
    (0..2).for_each(|number| run.carry(letter(number, &["a@dst"])));
    for _ in ["EHLO", "the message", "its envelope's replies"] {
        run.hear_all();
        run.send_all();
    }
    assert!(run.far.verbs().ends_with("BDAT QUIT"), "{}", run.far.verbs());
    run.time_out();
    assert_eq!(run.verdict(0, 0).0, Deferred);
}

#[test]
fn a_host_that_does_not_say_goodbye_has_ended_well() {
    let mut run = silent_at(settings(), "QUIT");
    run.conversation.close(run.now);
    run.settle_down();
    run.time_out();
    assert!(matches!(run.end, Some(End::Done)), "{:?}", run.end);
    assert!(!run.is_unanswered(0, 0));
}

#[test]
fn a_host_that_is_silent_before_mail_can_be_sent_is_not_ready() {
    let mut mute = Far::new(Offers::everything(), |_| None);
    mute.output.clear();
    let mut greeting = Run::new(settings(), mute, 1);
    greeting.carry(letter(0, &["a@dst"]));
    for mut run in [greeting, silent_at(settings(), "EHLO")] {
        run.time_out();
        assert!(matches!(run.end, Some(End::Unready(_))) && run.books[0].returned, "{:?}", run.end);
    }
}

#[test]
fn a_handshake_that_does_not_end_asks_for_a_clear_connection_where_tls_is_optional() {
    let offers = Offers::everything().with(&["STARTTLS"]);
    for (security, optional) in [(Security::Opportunistic, true), (Security::Required, false)] {
        let far = Far::new(offers.clone(), |_| None);
        let mut run = Run::new(Settings { security, ..settings() }, far, 1);
        run.settle_down();
        assert!(run.starttls);
        run.time_out();
        match &run.end {
            Some(End::ClearOnly(_)) => assert!(optional),
            Some(End::Unready(_)) => assert!(!optional),
            end => panic!("{end:?}"),
        }
    }
}

#[test]
fn what_a_transaction_took_is_told_with_its_verdicts_and_counted() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 1).in_one_piece();
    run.settle_down();
    let begun = run.now;
    for (number, seconds) in [(0, 3), (1, 2)] {
        run.carry(letter(number, &["a@dst", "b@dst"]));
        run.send_all();
        run.now = run.now + Duration::from_secs(seconds);
        run.hear_all();
        assert_eq!(run.books[number].verdicts[&0].timing.sent, Duration::from_secs(seconds));
    }
    assert!(begun > Timestamp::ZERO);
    let finished = run.conversation.finished();
    let octets: u64 = run.letters.iter().map(|letter| letter.body.len() as u64).sum();
    assert_eq!((finished.messages, finished.octets), (2, octets));
    assert_eq!(finished.quickest, Some(Duration::from_secs(2)));
    let statistics = run.conversation.take_statistics();
    assert_eq!((statistics.delivered, statistics.transactions), (4, 2));
}

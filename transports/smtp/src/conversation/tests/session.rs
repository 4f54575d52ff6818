//! Opening, ending, and everything that is not a transaction.

use std::time::Duration;

use zrelay_agent::Judgement::Deferred;

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{End, Protocol, Security, Settings};

fn run_with(settings: Settings, offers: Offers, script: impl FnMut(&str) -> Option<Mischief> + 'static) -> Run {
    let mut run = Run::new(settings, Far::new(offers, script), 5).in_one_piece();
    run.carry(letter(0, &["a@dst"]));
    run.finish();
    run
}

fn say(needle: &'static str, reply: &'static str) -> impl FnMut(&str) -> Option<Mischief> + 'static {
    move |line| line.starts_with(needle).then_some(Mischief::Say(reply))
}

#[test]
fn an_old_server_is_greeted_with_helo() {
    let run = run_with(settings(), Offers::everything(), say("EHLO", "500 What?"));
    run.assert_all_delivered();
    assert_eq!(run.far.verbs(), "EHLO HELO MAIL RCPT DATA . QUIT");
}

#[test]
fn a_server_that_puts_off_the_greeting_leaves_everything_untouched() {
    let mut far = Far::new(Offers::everything(), |_| None);
    far.output = b"421 4.3.2 Busy\r\n".to_vec();
    let mut run = Run::new(settings(), far, 5);
    run.carry(letter(0, &["a@dst"]));
    run.finish();
    assert!(run.books[0].returned);
    let Some(End::Unready(diagnostic)) = &run.end else { panic!("{:?}", run.end) };
    assert_eq!(diagnostic.to_string(), "host far.example[192.0.2.1]:25 said: 421 4.3.2 Busy");
}

#[test]
fn lmtp_has_no_helo() {
    let settings = Settings { protocol: Protocol::Lmtp, ..settings() };
    let far = Far::new(Offers::everything(), say("LHLO", "500 What?")).lmtp();
    let mut run = Run::new(settings, far, 5);
    run.finish();
    assert!(matches!(run.end, Some(End::Unready(_))));
}

#[test]
fn a_surplus_reply_ends_the_connection() {
    for level in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        let mut run = Run::new(settings(), Far::new(level, |_| None), 5).in_one_piece();
        run.carry(letter(0, &["a@dst"]));
        run.settle_down();
        run.far.output.extend_from_slice(b"250 2.0.0 And another\r\n");
        run.carry(letter(1, &["b@dst"]));
        // It is read before anything is written.
        let octets = std::mem::take(&mut run.far.output);
        run.conversation.handle_input(run.now, &octets);
        run.events();
        let Some(End::Ended(diagnostic)) = &run.end else { panic!("{:?}", run.end) };
        assert!(diagnostic.text.contains("a reply too many (250)"), "{diagnostic}");
        assert!(run.is_unanswered(1, 0));
        assert!(run.conversation.advice().is_some() || run.conversation.level() == zrelay_config::Pipelining::Lockstep);
    }
}

#[test]
fn an_unintelligible_reply_ends_the_connection() {
    let run = run_with(settings(), Offers::everything(), say("MAIL", "hello there"));
    let Some(End::Failed(diagnostic)) = &run.end else { panic!("{:?}", run.end) };
    assert!(diagnostic.text.contains("protocol error"), "{diagnostic}");
}

#[test]
fn an_idle_connection_closed_with_421_has_ended_in_good_order() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 5);
    run.carry(letter(0, &["a@dst"]));
    run.settle_down();
    assert!(run.conversation.poll_timeout().is_none(), "idle connections have no deadline here");
    run.far.output.extend_from_slice(b"421 4.4.2 Idle for too long\r\n");
    run.far.closed = true;
    run.settle_down();
    let Some(End::Ended(diagnostic)) = &run.end else { panic!("{:?}", run.end) };
    assert_eq!(diagnostic.code, 421);
}

#[test]
fn a_connection_lost_at_the_end_of_the_message_puts_off_the_message_it_died_of() {
    let run = run_with(settings(), Offers::everything(), |line| line.starts_with(". ").then_some(Mischief::Close));
    assert_eq!(run.verdict(0, 0).0, Deferred);
    let text = run.verdict(0, 0).1;
    assert_eq!(
        text,
        "lost connection with far.example[192.0.2.1]:25 while sending end of data -- message may be sent more than once"
    );
    assert!(matches!(run.end, Some(End::Failed(_))));
}

#[test]
fn once_it_has_worked_a_lost_connection_leaves_the_unanswered_unchanged() {
    let mut run =
        Run::new(settings(), Far::new(Offers::everything(), |line| (line == ". b@dst").then_some(Mischief::Close)), 5)
            .in_one_piece();
    for (number, whom) in ["a@dst", "b@dst", "c@dst"].into_iter().enumerate() {
        run.carry(letter(number, &[whom]));
    }
    run.finish();
    assert!(!run.is_unanswered(0, 0) && run.is_unanswered(1, 0) && run.is_unanswered(2, 0));
    assert!(matches!(run.end, Some(End::Ended(_))));
}

#[test]
fn a_mute_host_times_out() {
    let run = run_with(settings(), Offers::everything(), |line| line.starts_with("MAIL").then_some(Mischief::Mute));
    assert!(matches!(&run.end, Some(End::Failed(why)) if why.text.contains("timed out while sending MAIL FROM")));
    assert!(run.now.since(zrelay_clock::Timestamp::ZERO) < Duration::from_secs(400));
}

#[test]
fn a_host_that_does_not_read_times_out() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 5);
    run.settle_down();
    run.carry(letter(0, &["a@dst"]));
    let deadline = run.conversation.poll_timeout().expect("a deadline for writing");
    run.conversation.handle_timeout(deadline);
    run.events();
    assert!(matches!(run.end, Some(End::Failed(_))));
}

#[test]
fn closing_finishes_what_is_under_way_and_returns_the_rest() {
    let settings = Settings { unacknowledged_messages: 1, ..settings() };
    let mut run = Run::new(settings, Far::new(Offers::everything(), |_| None), 5).in_one_piece();
    run.settle_down();
    run.carry(letter(0, &["a@dst"]));
    run.carry(letter(1, &["b@dst"]));
    run.conversation.close(run.now);
    run.events();
    assert!(run.books[1].returned);
    run.carry(letter(2, &["c@dst"]));
    assert!(run.books[2].returned, "too late");
    run.finish();
    assert!(!run.is_unanswered(0, 0));
    assert!(matches!(run.end, Some(End::Done)));
    assert!(run.far.verbs().ends_with("BDAT QUIT"));
}

#[test]
fn closing_does_not_begin_anew_with_those_who_found_no_room() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 5).in_one_piece();
    run.far.recipients_max = 2;
    run.settle_down();
    run.carry(letter(0, &["a@dst", "b@dst", "c@dst"]));
    run.send_all();
    run.conversation.close(run.now);
    run.finish();
    assert!(!run.is_unanswered(0, 1) && run.is_unanswered(0, 2));
    assert_eq!(run.far.verbs().matches("MAIL").count(), 1);
}

#[test]
fn what_the_far_side_says_last_is_more_to_the_point_than_that_we_wanted_to_close() {
    let far = Far::new(Offers::everything(), |line| (line == ". b@dst").then_some(Mischief::Say("421 4.3.2 Bye")));
    let mut run = Run::new(settings(), far, 5).in_one_piece();
    run.settle_down();
    ["a@dst", "b@dst"].iter().enumerate().for_each(|(number, whom)| run.carry(letter(number, &[whom])));
    run.conversation.close(run.now);
    run.finish();
    assert!(matches!(&run.end, Some(End::Ended(why)) if why.code == 421), "{:?}", run.end);
}

#[test]
fn what_broke_a_connection_is_told() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 5).in_one_piece();
    run.settle_down();
    run.conversation.handle_lost(run.now, "Connection reset by peer");
    run.events();
    let Some(End::Failed(why)) = &run.end else { panic!("{:?}", run.end) };
    assert_eq!(why.text, "lost connection with far.example[192.0.2.1]:25 while idle: Connection reset by peer");
}

#[test]
fn a_host_met_with_one_transaction_at_a_time_is_met_in_lock_step_when_it_errs() {
    let careful = Settings { highest: zrelay_config::Pipelining::Transaction, ..settings() };
    let run = run_with(careful, Offers::everything(), say("MAIL", "354 Go on"));
    assert_eq!(run.conversation.advice(), Some(zrelay_config::Pipelining::Lockstep));
}

fn secure(security: Security, offers: Offers, script: impl FnMut(&str) -> Option<Mischief> + 'static) -> Run {
    let mut run = Run::new(Settings { security, ..settings() }, Far::new(offers, script), 5).in_one_piece();
    run.settle_down();
    run
}

#[test]
fn starttls_is_followed_by_a_second_ehlo() {
    let mut run = secure(Security::Opportunistic, Offers::everything().with(&["STARTTLS"]), |_| None);
    assert!(run.starttls && !run.ready);
    run.conversation.handle_secured(run.now);
    run.carry(letter(0, &["a@dst"]));
    run.finish();
    assert!(run.books[0].verdicts[&0].timing.encrypted);
    assert_eq!(run.far.verbs(), "EHLO STARTTLS EHLO MAIL RCPT BDAT QUIT");
}

#[test]
fn octets_behind_the_go_ahead_of_starttls_end_the_connection() {
    let script = say("STARTTLS", "220 2.0.0 Go ahead\r\n250 injected");
    let run = secure(Security::Opportunistic, Offers::everything().with(&["STARTTLS"]), script);
    assert!(!run.starttls);
    assert!(matches!(&run.end, Some(End::Unready(why)) if why.text.contains("before the TLS handshake")));
    let mut run = secure(Security::Opportunistic, Offers::everything().with(&["STARTTLS"]), |_| None);
    run.conversation.handle_input(run.now, b"250 injected\r\n");
    run.events();
    assert!(matches!(run.end, Some(End::Unready(_))));
}

#[test]
fn a_connection_lost_in_the_handshake_asks_for_a_clear_one_where_tls_is_optional() {
    let offers = Offers::everything().with(&["STARTTLS"]);
    let mut run = secure(Security::Opportunistic, offers.clone(), |_| None);
    run.conversation.handle_lost(run.now, "");
    run.events();
    assert!(matches!(run.end, Some(End::ClearOnly(_))));
    let mut run = secure(Security::Required, offers, |_| None);
    run.conversation.handle_lost(run.now, "");
    run.events();
    assert!(matches!(run.end, Some(End::Unready(_))));
}

#[test]
fn a_refused_starttls_asks_for_a_clear_connection_only_where_tls_is_optional() {
    let offers = Offers::everything().with(&["STARTTLS"]);
    let run = secure(Security::Opportunistic, offers.clone(), say("STARTTLS", "454 4.7.0 Not now"));
    assert!(matches!(run.end, Some(End::ClearOnly(_))));
    let run = secure(Security::Required, offers, say("STARTTLS", "454 4.7.0 Not now"));
    assert!(matches!(run.end, Some(End::Unready(_))));
    let run = secure(Security::Required, Offers::everything(), |_| None);
    assert!(matches!(&run.end, Some(End::Unready(why)) if why.text.contains("TLS is required")));
    let run = secure(Security::Opportunistic, Offers::everything(), |_| None);
    assert!(run.ready);
}

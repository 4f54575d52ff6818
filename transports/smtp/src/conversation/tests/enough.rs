//! Far sides that have had enough: of a connection, of its messages, of errors. What that means for the mail under way, and
//! what is learned for the next connection.

use std::time::Duration;

use zrelay_agent::Judgement::{Deferred, Failed};
use zrelay_config::Pipelining;

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use super::refusals::{DELIVERED, four, four_with, say};
use crate::conversation::{End, Settings};

#[test]
fn a_421_between_messages_ends_in_good_order_and_returns_the_rest() {
    for offers in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        let run = four(offers, |line| {
            line.starts_with("MAIL FROM:<s2@").then_some(Mischief::SayAndClose("421 4.7.0 Enough"))
        });
        assert_eq!(run.verdict(1, 0).0, DELIVERED);
        assert!(run.is_unanswered(2, 0) && run.is_unanswered(3, 0));
        let Some(End::Ended(diagnostic)) = &run.end else { panic!("{:?}", run.end) };
        assert_eq!(diagnostic.code, 421);
    }
}

#[test]
fn a_host_that_says_421_and_stays_is_read_to_the_end() {
    let settings = Settings { unacknowledged_messages: 2, ..settings() };
    let run = four_with(settings, Offers::everything(), {
        let mut done = false;
        move |line| {
            let now = line.contains("good1@") && !std::mem::replace(&mut done, line.contains("good1@"));
            now.then_some(Mischief::Say("421 4.7.0 Enough"))
        }
    });
    assert!(run.is_unanswered(1, 0), "it is not about the recipient");
    assert_eq!(run.verdict(1, 1).0, DELIVERED, "what it still takes, it takes");
    assert!(run.books[3].returned);
    assert!(run.far.verbs().ends_with("QUIT"));
    assert!(matches!(run.end, Some(End::Ended(_))));
}

#[test]
fn the_first_mail_refused_by_421_fails_the_host() {
    for reply in [Mischief::SayAndClose("421 4.3.2 Not now"), Mischief::Say("421 4.3.2 Not now")] {
        let run = four(Offers::everything(), move |line| line.starts_with("MAIL").then(|| reply.clone()));
        assert_eq!(run.verdict(0, 0).0, Deferred);
        assert!(matches!(run.end, Some(End::Failed(_))), "{:?}", run.end);
    }
}

#[test]
fn the_first_message_answered_by_421_fails_the_host() {
    // Else each message of a long queue would be tried on a connection of its own, one right behind the other.
    let (nothing, pipelining) = (Offers::nothing, Offers::pipelining);
    let cases = [(nothing(), "DATA"), (nothing(), "."), (pipelining(), "DATA"), (pipelining(), ".")];
    for (offers, command) in cases.into_iter().chain([(Offers::everything(), ".")]) {
        let run = four(offers, move |line| {
            line.starts_with(command).then_some(Mischief::SayAndClose("421 4.7.0 Too much, go away"))
        });
        assert_eq!(run.verdict(0, 0).0, Deferred);
        let Some(End::Failed(diagnostic)) = &run.end else { panic!("{command}: {:?}", run.end) };
        assert_eq!(diagnostic.code, 421);
    }
}

#[test]
fn the_first_recipient_refused_by_421_is_put_off_though_the_message_is_taken() {
    let run = four(Offers::everything(), |line| line.contains("good0@").then_some(Mischief::Say("421 4.3.2 Not now")));
    assert_eq!((run.verdict(0, 0).0, run.verdict(0, 1).0), (Deferred, DELIVERED));
}

#[test]
fn a_sender_refused_for_good_behind_421_is_refused() {
    let run = four(Offers::everything(), |line| match line {
        _ if line.contains("good1@") => Some(Mischief::Say("421 4.7.0 Enough")),
        _ if line.starts_with("MAIL FROM:<s2@") => Some(Mischief::Say("550 5.7.1 Not you")),
        _ => None,
    });
    assert_eq!((run.verdict(0, 0).0, run.verdict(2, 0).0), (DELIVERED, Failed));
}

#[test]
fn senders_put_off_in_a_row_end_the_connection() {
    let run = four_with(Settings { unacknowledged_messages: 1, ..settings() }, Offers::everything(), |line| {
        let hit = line.starts_with("MAIL FROM:<s1@") || line.starts_with("MAIL FROM:<s2@");
        hit.then_some(Mischief::Say("450 4.7.1 Too much mail"))
    });
    assert_eq!(run.verdict(0, 0).0, DELIVERED);
    assert_eq!(run.verdict(1, 0).0, Deferred);
    assert!(run.is_unanswered(2, 0) && run.books[3].returned);
    assert!(matches!(run.end, Some(End::Ended(_))));
}

#[test]
fn senders_put_off_here_and_there_say_nothing_about_the_host() {
    let one_at_a_time = Settings { unacknowledged_messages: 1, ..settings() };
    let run = four_with(one_at_a_time, Offers::everything(), |line| {
        let hit = line.starts_with("MAIL FROM:<s1@") || line.starts_with("MAIL FROM:<s3@");
        hit.then_some(Mischief::Say("450 4.7.1 Too much mail"))
    });
    assert_eq!([0, 1, 2, 3].map(|batch| run.verdict(batch, 0).0), [DELIVERED, Deferred, DELIVERED, Deferred]);
    assert!(matches!(run.end, Some(End::Done)), "{:?}", run.end);
}

#[test]
fn a_sender_put_off_makes_the_rest_go_one_at_a_time() {
    let put_off = |line: &str| line.starts_with("MAIL").then_some(Mischief::Say("450 4.7.1 Too much mail"));
    let mut run = Run::new(settings(), Far::new(Offers::everything(), put_off), 1);
    run.carry(letter(0, &["a@dst"]));
    run.settle_down();
    assert!(run.conversation.refusals >= 8, "{}", run.conversation.refusals);
}

#[test]
fn a_limit_of_messages_is_not_believed_of_a_host_that_has_taken_none() {
    let mut run = four_with(Settings { unacknowledged_messages: 1, ..settings() }, Offers::everything(), |line| {
        line.starts_with("MAIL FROM:<s0@").then_some(Mischief::Say("452 4.5.3 Too many messages"))
    });
    assert_eq!((run.verdict(0, 0).0, run.verdict(1, 0).0), (Deferred, DELIVERED));
    assert_eq!(run.conversation.take_lesson_in_messages(), None);
}

#[test]
fn the_first_recipient_refused_by_421_fails_the_host() {
    let run = four(Offers::everything(), |line| {
        line.starts_with("RCPT").then_some(Mischief::SayAndClose("421 4.3.2 Not now"))
    });
    assert_eq!(run.verdict(0, 0).0, Deferred, "it has had its turn");
    assert!(matches!(run.end, Some(End::Failed(_))), "{:?}", run.end);
}

#[test]
fn a_sender_put_off_for_its_address_says_nothing_about_the_host() {
    let run = four(Offers::everything(), |line| {
        let hit = line.starts_with("MAIL FROM:<s1@") || line.starts_with("MAIL FROM:<s2@");
        hit.then_some(Mischief::Say("450 4.1.8 Sender domain not found"))
    });
    assert_eq!((run.verdict(1, 0).0, run.verdict(2, 0).0), (Deferred, Deferred));
    assert_eq!(run.verdict(3, 0).0, DELIVERED);
}

#[test]
fn after_eight_refusals_transactions_go_one_at_a_time() {
    let far = Far::new(Offers::everything(), say("RCPT", "550 5.1.1 No such user"));
    let mut run = Run::new(Settings { unacknowledged_messages: 4, ..settings() }, far, 1).in_one_piece();
    for number in 0..12 {
        run.carry(letter(number, &["a@dst"]));
    }
    let mut cautious = false;
    while run.exchange() {
        cautious |= run.conversation.refusals >= 8 && run.conversation.flights.len() <= 1;
        assert!(!cautious || run.conversation.flights.len() <= 1, "streaming on");
    }
    assert!(cautious && run.books.iter().all(|books| books.done));
    run.finish();
}

#[test]
fn a_host_that_hangs_up_at_dead_addresses_keeps_the_others_waiting_for_nothing() {
    // chasquid: the third refusal of a session is its last word.
    let mut run = Run::new(
        settings(),
        Far::new(Offers::pipelining(), {
            let mut dead = 0;
            move |line| {
                dead += u32::from(line.contains("bad"));
                match dead {
                    3 if line.contains("bad") => Some(Mischief::SayAndClose("421 4.5.0 Too many errors, bye")),
                    1 | 2 if line.contains("bad") => Some(Mischief::Say("550 5.1.1 User unknown")),
                    _ => None,
                }
            }
        }),
        1,
    );
    run.carry(letter(0, &["bad0@dst", "bad1@dst", "bad2@dst", "bad3@dst", "good@dst"]));
    run.finish();
    assert_eq!((run.verdict(0, 0).0, run.verdict(0, 1).0), (Failed, Failed));
    assert!(run.is_unanswered(0, 2) && run.is_unanswered(0, 3) && run.is_unanswered(0, 4), "no failure of theirs");
    let Some(End::Ended(why)) = &run.end else { panic!("the host is put off: {:?}", run.end) };
    assert_eq!(why.code, 421);
}

#[test]
fn a_limit_of_messages_is_kept() {
    let run = four(Offers::everything().with(&["LIMITS MAILMAX=2"]), |_| None);
    assert_eq!((run.verdict(0, 0).0, run.verdict(1, 0).0), (DELIVERED, DELIVERED));
    assert!(run.books[2].returned && run.books[3].returned);
    assert!(matches!(run.end, Some(End::Ended(_))));
    assert!(run.far.verbs().ends_with("QUIT"));
    let own = Settings { messages: 3, ..settings() };
    let run = four_with(own, Offers::everything().with(&["LIMITS MAILMAX=9"]), |_| None);
    assert!(run.verdict(2, 0).0 == DELIVERED && run.books[3].returned);
    let Some(End::Ended(why)) = &run.end else { panic!("{:?}", run.end) };
    assert!(why.text.starts_with("limit of messages"), "{}", why.text);
}

#[test]
fn a_limit_of_messages_is_learned_where_it_is_said() {
    let limits = [
        "421 too many messages in this connection",
        "452 4.5.3 Too many recipients: Too many messages sent",
        "452 4.4.5 Maximum number of messages per session exceeded.",
        "421 4.7.0 MAIL sent too many times",
    ];
    for limit in limits {
        let mut run = four(Offers::everything(), move |line| {
            (line.starts_with("MAIL FROM:<s2@") || line.starts_with("MAIL FROM:<s3@")).then_some(Mischief::Say(limit))
        });
        assert_eq!(run.conversation.take_lesson_in_messages(), Some(2), "{limit}");
        assert!(run.is_unanswered(2, 0) && run.is_unanswered(3, 0), "{limit}: no failure of theirs");
        assert!(matches!(run.end, Some(End::Ended(_))), "{:?}", run.end);
    }
    let mut run = four(Offers::everything(), |line| {
        line.starts_with("MAIL FROM:<s2@").then_some(Mischief::Say("450 4.7.1 Error: too much mail from 192.0.2.1"))
    });
    assert_eq!(run.conversation.take_lesson_in_messages(), None, "a rate");
}

#[test]
fn a_host_that_has_said_421_and_tires_of_resets_is_not_met_more_carefully() {
    // Exim, behind its limit of messages per connection: each RSET of the stream counts against it from there on.
    let mut full = false;
    let run = four(Offers::everything(), move |line| {
        full |= line.starts_with("MAIL FROM:<s1@");
        match line {
            "RSET" if full => Some(Mischief::SayAndClose("554 Too many nonmail commands")),
            _ if line.starts_with("MAIL") && full => Some(Mischief::Say("421 too many messages in this connection")),
            _ => None,
        }
    });
    assert_eq!(run.verdict(0, 0).0, DELIVERED);
    assert!(run.is_unanswered(1, 0) && run.is_unanswered(2, 0));
    assert!(matches!(run.end, Some(End::Ended(_))), "{:?}", run.end);
    assert_eq!(run.conversation.advice(), None);
}

#[test]
fn an_old_connection_begins_nothing_more() {
    let mut run =
        Run::new(Settings { age: Duration::from_secs(60), ..settings() }, Far::new(Offers::everything(), |_| None), 1);
    run.settle_down();
    run.carry(letter(0, &["a@dst"]));
    run.settle_down();
    run.now = run.now + Duration::from_secs(60);
    assert!(run.conversation.is_worn(run.now));
    run.carry(letter(1, &["a@dst"]));
    run.finish();
    assert!(run.verdict(0, 0).0 == DELIVERED && run.books[1].returned);
    assert!(matches!(run.end, Some(End::Ended(_))), "{:?}", run.end);
}

#[test]
fn the_room_for_recipients_is_learned_once_it_has_shown() {
    let far = Far::new(Offers::everything(), |_| None);
    let mut run = Run::new(settings(), far, 1);
    run.far.recipients_max = 2;
    run.settle_down();
    assert_eq!(run.conversation.take_lesson(), None);
    run.carry(letter(0, &["a@dst", "b@dst", "c@dst", "d@dst", "e@dst"]));
    run.settle_down();
    assert_eq!(run.conversation.take_lesson(), Some(2));
    assert_eq!(run.conversation.take_lesson(), None);
    run.carry(letter(1, &["a@dst", "b@dst", "c@dst"]));
    run.finish();
    run.assert_all_delivered();
    assert_eq!(run.conversation.take_lesson(), None, "known by then");
}

#[test]
fn a_host_that_drops_what_comes_with_the_dot_is_met_more_carefully() {
    // From the first dot on, it never answers anything but the message.
    let run = four_with(settings(), Offers::pipelining(), {
        let mut dots = 0;
        move |line| {
            dots += u32::from(line.starts_with(". "));
            (dots > 0 && !line.starts_with(". ")).then_some(Mischief::Mute)
        }
    });
    assert_eq!(run.verdict(0, 0).0, DELIVERED);
    assert!(run.is_unanswered(1, 0));
    assert!(matches!(run.end, Some(End::Ended(_))), "{:?}", run.end);
    assert_eq!(run.conversation.advice(), Some(Pipelining::Transaction));
    assert!(run.now.since(zrelay_clock::Timestamp::ZERO) < Duration::from_secs(60));
}

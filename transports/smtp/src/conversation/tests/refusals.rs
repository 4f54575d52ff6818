//! What each refusal means, and what it leaves alone.

use std::time::Duration;

use zrelay_agent::Judgement::{Deferred, Delivered, Failed};
use zrelay_config::Pipelining;

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{End, Protocol, Settings};

pub(super) const DELIVERED: zrelay_agent::Judgement = Delivered { dsn_relayed: false };

/// A run over four messages, each to one or two recipients, against a far side with this script.
pub(super) fn four(offers: Offers, script: impl FnMut(&str) -> Option<Mischief> + 'static) -> Run {
    four_with(settings(), offers, script)
}

pub(super) fn four_with(
    settings: Settings,
    offers: Offers,
    script: impl FnMut(&str) -> Option<Mischief> + 'static,
) -> Run {
    let mut run = Run::new(settings, Far::new(offers, script), 7).in_one_piece();
    for number in 0..4 {
        run.carry(letter(number, &[&format!("good{number}@dst"), &format!("bad{number}@dst")]));
    }
    run.finish();
    run
}

pub(super) fn say(needle: &'static str, reply: &'static str) -> impl FnMut(&str) -> Option<Mischief> + 'static {
    move |line| line.contains(needle).then_some(Mischief::Say(reply))
}

#[test]
fn a_refused_recipient_leaves_the_others_alone() {
    for offers in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        let run = four(offers, say("bad1@", "550 5.1.1 No such user"));
        assert_eq!(run.verdict(1, 0).0, DELIVERED);
        let (judgement, text) = run.verdict(1, 1);
        assert_eq!(judgement, Failed);
        assert_eq!(text, "host far.example[192.0.2.1]:25 said: 550 5.1.1 No such user (in reply to RCPT TO command)");
        assert_eq!(run.far.deliveries.len(), 4);
        assert!(matches!(run.end, Some(End::Done)));
    }
}

#[test]
fn a_rejected_mail_leaves_its_neighbours_alone() {
    for offers in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        let run = four(offers, say("MAIL FROM:<s1@", "553 5.1.8 No such domain"));
        assert_eq!(run.verdict(1, 0).0, Failed);
        assert!(run.verdict(1, 1).1.ends_with("(in reply to MAIL FROM command)"));
        assert!([0, 2, 3].iter().all(|&batch| run.verdict(batch, 0).0 == DELIVERED));
    }
}

#[test]
fn all_recipients_refused_is_followed_by_a_reset() {
    for offers in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        let run = four(offers, |line| {
            let refused = line.contains("good1@") || line.contains("bad1@");
            refused.then_some(Mischief::Say("550 5.1.1 No such user"))
        });
        assert_eq!((run.verdict(1, 0).0, run.verdict(1, 1).0), (Failed, Failed));
        assert_eq!(run.far.deliveries.len(), 3);
        assert!(run.far.verbs().contains("RSET"));
    }
}

#[test]
fn a_chunk_taken_for_nobody_is_no_delivery() {
    let mut far = Far::new(Offers::everything(), say("RCPT", "550 5.1.1 No such user"));
    far.swallows = true;
    let mut run = Run::new(settings(), far, 3).in_one_piece();
    run.carry(letter(0, &["a@dst"]));
    run.finish();
    assert_eq!(run.verdict(0, 0).0, Failed);
}

#[test]
fn go_ahead_without_a_recipient_is_answered_by_the_lone_dot() {
    let mut far = Far::new(Offers::pipelining(), say("bad", "550 5.1.1 No such user"));
    far.goes_ahead = true;
    let mut run = Run::new(settings(), far, 3).in_one_piece();
    run.carry(letter(0, &["bad@dst"]));
    run.carry(letter(1, &["good@dst"]));
    run.finish();
    assert_eq!(run.verdict(0, 0).0, Failed);
    assert_eq!(run.verdict(1, 0).0, DELIVERED);
    assert_eq!(run.far.verbs(), "EHLO MAIL RCPT DATA . RSET MAIL RCPT DATA . QUIT");
}

#[test]
fn a_refused_reset_ends_the_connection_before_anything_falls_into_a_foreign_envelope() {
    for offers in [Offers::nothing(), Offers::pipelining()] {
        let run = four(offers, |line| match line {
            "RSET" => Some(Mischief::Say("502 5.5.1 What?")),
            // The first transaction stays open there, with its recipients.
            "DATA" => Some(Mischief::Say("451 4.3.0 Later")),
            _ => None,
        });
        assert_eq!(run.verdict(0, 0).0, Deferred);
        assert!(run.far.deliveries.is_empty());
        assert_eq!(run.verdict(1, 0).0, Deferred);
        assert!(run.is_unanswered(2, 0));
        let Some(End::Ended(why)) = &run.end else { panic!("{:?}", run.end) };
        assert!(why.text.contains("in reply to RSET"), "{why}");
    }
}

#[test]
fn go_ahead_without_the_sender_is_not_followed_by_anything() {
    let run =
        four_with(
            Settings { highest: Pipelining::Transaction, ..settings() },
            Offers::pipelining(),
            |line| match line {
                _ if line.starts_with("MAIL FROM:<s1@") => Some(Mischief::Say("450 4.7.1 Not now")),
                _ => None,
            },
        );
    // An honest far side refuses DATA there, and goes on.
    assert_eq!(run.verdict(3, 0).0, DELIVERED);
    let run = four(Offers::pipelining(), {
        let mut refused = false;
        move |line| {
            refused |= line.starts_with("MAIL FROM:<s1@");
            match line {
                _ if line.starts_with("MAIL FROM:<s1@") => Some(Mischief::Say("550 5.7.1 No")),
                "DATA" if refused => Some(Mischief::Say("354 Go on")),
                _ => None,
            }
        }
    });
    assert_eq!(run.far.verbs().matches('.').count(), 1, "{}", run.far.verbs());
    assert_eq!(run.verdict(1, 0).0, Failed);
    assert!(matches!(run.end, Some(End::Ended(_))));
}

#[test]
fn a_refused_data_or_message_is_the_verdict_of_the_accepted() {
    let run = four(Offers::pipelining(), {
        let mut count = 0;
        move |line| {
            count += u32::from(line == "DATA");
            (line == "DATA" && count == 2).then_some(Mischief::Say("451 4.3.0 Later"))
        }
    });
    assert_eq!(run.verdict(1, 0).0, Deferred);
    assert!(run.verdict(1, 1).1.ends_with("(in reply to DATA command)"));
    assert_eq!(run.verdict(2, 0).0, DELIVERED);
    for (offers, command) in [(Offers::pipelining(), "end of DATA"), (Offers::everything(), "BDAT")] {
        let run = four(offers, say(". good1@", "554 5.7.1 Spam"));
        assert_eq!(run.verdict(1, 0).0, Failed);
        assert!(run.verdict(1, 1).1.ends_with(&format!("(in reply to {command} command)")), "{}", run.verdict(1, 1).1);
        assert_eq!(run.verdict(2, 0).0, DELIVERED);
    }
}

#[test]
fn bad_sequence_is_never_held_against_a_recipient() {
    let run = four(Offers::everything(), say(". good1@", "503 5.5.1 What?"));
    assert_eq!(run.verdict(1, 0).0, Deferred);
    let run = four(Offers::everything(), say("RCPT TO:<good1@", "503 Need something first"));
    assert_eq!(run.verdict(1, 0).0, Deferred);
}

#[test]
fn a_503_with_an_enhanced_code_about_something_else_means_that() {
    // chasquid, to a recipient elsewhere.
    let run = four(Offers::everything(), say("RCPT TO:<good1@", "503 5.7.1 Relay not allowed"));
    assert_eq!(run.verdict(1, 0).0, Failed);
}

#[test]
fn a_recipient_accepted_without_its_sender_is_no_delivery() {
    let run = four(Offers::everything(), |line| match line {
        _ if line.starts_with("MAIL FROM:<s1@") => Some(Mischief::Say("550 5.7.1 Go away")),
        _ if line.contains("good1@") => Some(Mischief::Say("250 2.1.5 Ok")),
        _ => None,
    });
    assert_eq!(run.verdict(0, 0).0, DELIVERED);
    let (judgement, text) = run.verdict(1, 0);
    assert_eq!(judgement, Deferred);
    assert!(text.contains("not counted as delivered"), "{text}");
    assert!(matches!(run.end, Some(End::Ended(_))));
    assert_eq!(run.conversation.advice(), Some(Pipelining::Pipelined));
}

#[test]
fn what_does_not_fit_goes_at_once_in_the_next_transaction() {
    for offers in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        let mut far = Far::new(offers, |_| None);
        far.recipients_max = 2;
        let mut run = Run::new(settings(), far, 3).in_one_piece();
        run.carry(letter(0, &["a@dst", "b@dst", "c@dst", "d@dst", "e@dst"]));
        run.carry(letter(1, &["a@dst", "b@dst", "c@dst"]));
        run.finish();
        run.assert_all_delivered();
        assert!(run.far.deliveries.iter().all(|delivery| delivery.recipients.len() <= 2));
    }
    // In front of what else there is.
    let one_at_a_time = Settings { unacknowledged_messages: 1, ..settings() };
    let mut run = Run::new(one_at_a_time, Far::new(Offers::everything(), |_| None), 3).in_one_piece();
    run.far.recipients_max = 2;
    run.carry(letter(0, &["a@dst", "b@dst", "c@dst"]));
    run.carry(letter(1, &["a@dst"]));
    run.finish();
    let senders: Vec<_> = run.far.deliveries.iter().map(|delivery| &delivery.sender[..2]).collect();
    assert_eq!(senders, ["s0", "s0", "s1"]);
}

#[test]
fn too_many_with_nobody_accepted_is_a_plain_deferral() {
    let run = four(Offers::everything(), say("RCPT", "452 4.5.3 Too many recipients"));
    assert_eq!(run.verdict(0, 0).0, Deferred);
}

#[test]
fn a_full_mailbox_is_not_too_many_recipients() {
    let run = four(Offers::everything(), say("bad1@", "452 4.2.2 Mailbox full"));
    assert_eq!(run.verdict(1, 1).0, Deferred);
}

#[test]
fn a_message_larger_than_the_limit_is_never_sent() {
    let offers = Offers { keywords: vec!["SIZE 20".into()], ..Offers::everything() };
    let run = four(offers, |_| None);
    assert_eq!(run.verdict(0, 0).0, Failed);
    assert!(run.verdict(0, 0).1.contains("exceeds size limit 20 of server"), "{:?}", run.verdict(0, 0));
    assert_eq!(run.far.verbs(), "EHLO QUIT");
}

#[test]
fn eight_bit_content_needs_8bitmime_only_if_it_is_eight_bit() {
    for (octet, judgement) in [(0xe9, Failed), (b'e', DELIVERED)] {
        let mut run = Run::new(settings(), Far::new(Offers::pipelining(), |_| None), 3).in_one_piece();
        let mut parcel = letter(0, &["a@dst"]);
        parcel.content.eight_bit = true;
        parcel.body[30] = octet;
        run.carry(parcel);
        run.finish();
        assert_eq!(run.verdict(0, 0).0, judgement);
    }
}

#[test]
fn an_address_beyond_ascii_needs_smtputf8() {
    for (offers, judgement) in [(Offers::everything(), Failed), (Offers::everything().with(&["SMTPUTF8"]), DELIVERED)] {
        let mut run = Run::new(settings(), Far::new(offers, |_| None), 3).in_one_piece();
        run.carry(letter(0, &["ascii@dst", "\u{fc}mlaut@dst"]));
        run.finish();
        assert_eq!(run.verdict(0, 0).0, DELIVERED);
        assert_eq!(run.verdict(0, 1).0, judgement);
        let mail = run.far.commands.iter().find(|line| line.starts_with("MAIL")).unwrap();
        assert_eq!(mail.contains("SMTPUTF8"), judgement == DELIVERED, "{mail}");
    }
}

#[test]
fn recipients_that_cannot_be_sent_to_for_different_reasons_all_have_their_verdicts() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 3).in_one_piece();
    run.carry(letter(0, &["a\r\nb@dst", "\u{fc}mlaut@dst"]));
    run.finish();
    assert_eq!((run.verdict(0, 0).0, run.verdict(0, 1).0), (Failed, Failed));
}

#[test]
fn an_address_with_a_line_break_is_never_written() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 3).in_one_piece();
    run.carry(letter(0, &["a@dst>\r\nRCPT TO:<b@dst"]));
    run.finish();
    assert_eq!(run.verdict(0, 0).0, Failed);
    assert_eq!(run.far.verbs(), "EHLO QUIT");
}

#[test]
fn lmtp_judges_each_recipient_by_its_own_reply() {
    let settings = Settings { protocol: Protocol::Lmtp, ..settings() };
    for offers in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        let far = Far::new(offers, say(". b@", "452 4.2.2 Full")).lmtp();
        let mut run = Run::new(settings.clone(), far, 3).in_one_piece();
        run.carry(letter(0, &["a@dst", "b@dst", "c@dst"]));
        run.carry(letter(1, &["a@dst"]));
        run.finish();
        let judgements: Vec<_> = (0..3).map(|index| run.verdict(0, index).0).collect();
        assert_eq!(judgements, [DELIVERED, Deferred, DELIVERED]);
        assert_eq!(run.verdict(1, 0).0, DELIVERED);
    }
}

#[test]
fn parameters_are_sent_as_offered_and_given() {
    let script = |_: &str| None;
    let offers = Offers::everything().with(&["DSN"]);
    let mut run = Run::new(settings(), Far::new(offers, script), 3).in_one_piece();
    let mut parcel = letter(0, &["a@dst", "b@dst"]);
    parcel.content.eight_bit = true;
    parcel.envid = Some("QQ+2B314159".into());
    parcel.ret = Some(zrelay_spool::Ret::Headers);
    parcel.recipients[1].2 = Some("rfc822;Bob@dst".into());
    parcel.recipients[1].3 = zrelay_spool::Notify::On { success: true, failure: true, delay: false };
    let size = parcel.body.len();
    run.carry(parcel.clone());
    run.finish();
    assert_eq!(run.verdict(0, 0).0, Delivered { dsn_relayed: true });
    let mail = &run.far.commands[1];
    for part in [&format!("SIZE={size}"), "BODY=8BITMIME", "RET=HDRS", "ENVID=QQ+2B314159"] {
        assert!(mail.contains(part), "{mail}");
    }
    assert_eq!(run.far.commands[2], "RCPT TO:<a@dst>");
    assert!(run.far.commands[3].contains("NOTIFY=SUCCESS,FAILURE"), "{}", run.far.commands[3]);
    assert!(run.far.commands[3].contains("ORCPT=rfc822;Bob@dst"), "{}", run.far.commands[3]);

    let mut run = Run::new(settings(), Far::new(Offers::nothing(), script), 3).in_one_piece();
    parcel.content.eight_bit = false;
    run.carry(parcel);
    run.finish();
    assert_eq!(run.far.commands[1], "MAIL FROM:<s0@src.example>");
    assert_eq!(run.far.commands[3], "RCPT TO:<b@dst>");
}

#[test]
fn urgency_is_told_to_hosts_that_ask_and_a_promise_that_they_do_not_make_is_not_hoped_for() {
    use zrelay_spool::{ByMode, DeliverBy, Handling};
    let urgent = |mode| {
        let deadline = zrelay_clock::Timestamp::ZERO + Duration::from_secs(3600);
        let deliver_by = Some(DeliverBy { deadline, mode, trace: false });
        Handling { flow: None, priority: 7, deliver_by }
    };
    let offers = Offers::everything().with(&["MT-PRIORITY MIXER", "DELIVERBY 60"]);
    let mut run = Run::new(settings(), Far::new(offers, |_: &str| None), 3).in_one_piece();
    let mut parcel = letter(0, &["a@dst"]);
    parcel.handling = urgent(ByMode::Return);
    run.carry(parcel);
    run.finish();
    assert_eq!(run.verdict(0, 0).0, DELIVERED);
    let mail = &run.far.commands[1];
    assert!(mail.contains(" MT-PRIORITY=7 BY=3600;R") || mail.contains(" MT-PRIORITY=7 BY=3599;R"), "{mail}");

    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_: &str| None), 3).in_one_piece();
    for (number, mode) in [ByMode::Return, ByMode::Notify].into_iter().enumerate() {
        let mut parcel = letter(number, &["a@dst"]);
        parcel.handling = urgent(mode);
        run.carry(parcel);
    }
    run.finish();
    assert_eq!((run.verdict(0, 0).0, run.verdict(1, 0).0), (Failed, DELIVERED));
    assert!(run.far.commands.iter().all(|command| !command.contains("BY=") && !command.contains("PRIORITY")));
}

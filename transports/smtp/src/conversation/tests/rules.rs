//! The rules that real receivers have taught (measured with Postfix, Exim, OpenSMTPD, sendmail, chasquid, Haraka, Dovecot and
//! aiosmtpd), one test each; the fifteenth, when a further connection pays, stands with the scheduler (`tests/agents.rs`). A
//! relay that breaks one of them loses mail, or delivers it in a wrong envelope.

use std::time::Duration;

use zrelay_agent::Judgement::{self, Deferred, Failed};
use zrelay_config::Pipelining;

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{Approach, BACKLOG_OCTETS, End, Settings};
use crate::letter::Letter;
use crate::testing::Parcel;

const DELIVERED: Judgement = Judgement::Delivered { dsn_relayed: false };

fn run_of(
    letters: usize,
    settings: Settings,
    offers: Offers,
    script: impl FnMut(&str) -> Option<Mischief> + 'static,
) -> Run {
    let mut run = Run::new(settings, Far::new(offers, script), 1);
    for number in 0..letters {
        run.carry(letter(number, &[&format!("a{number}@dst"), &format!("b{number}@dst")]));
    }
    run.finish();
    run
}

/// What goes out in each write, until everything is delivered: all that there is at a time.
fn writes(offers: Offers, letters: usize) -> Vec<String> {
    writes_of(offers, (0..letters).map(|number| letter(number, &["a@dst", "b@dst"])).collect())
}

fn writes_of(offers: Offers, letters: Vec<Parcel>) -> Vec<String> {
    let mut run = Run::new(settings(), Far::new(offers, |_| None), 1).in_one_piece();
    letters.into_iter().for_each(|letter| run.carry(letter));
    let mut writes = Vec::new();
    for _ in 0..100 {
        let mut out = Vec::new();
        run.conversation.gather(|slice| {
            out.extend_from_slice(slice);
            true
        });
        if out.is_empty() {
            let replies = std::mem::take(&mut run.far.output);
            if replies.is_empty() {
                break;
            }
            run.conversation.handle_input(run.now, &replies);
        } else {
            run.conversation.handle_written(run.now, out.len());
            run.far.receive(&out);
            writes.push(String::from_utf8(out).unwrap());
        }
        run.events();
    }
    run.conversation.close(run.now);
    run.finish();
    run.assert_all_delivered();
    writes
}

#[test]
fn rule_1_only_what_ehlo_offered_in_this_session_is_streamed() {
    let offered = |pipelining, chunking| Offers { pipelining, chunking, keywords: Vec::new() };
    for offers in [offered(false, false), offered(false, true)] {
        let writes = writes(offers, 2);
        assert!(writes.iter().all(|write| write.lines().count() == 1 || write.starts_with("Subject")), "{writes:?}");
    }
    let writes_of_pipelined = writes(offered(true, false), 2);
    assert!(writes_of_pipelined.iter().all(|write| !write.contains("BDAT")));
    let writes = writes(offered(true, true), 2);
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert_eq!((writes[1].matches("MAIL").count(), writes[1].matches("BDAT").count()), (2, 2));
}

#[test]
fn rule_2_banner_and_ehlo_are_waited_for_and_only_the_last_of_a_write_may_be_data_or_quit() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 1);
    run.carry(letter(0, &["a@dst"]));
    assert!(!run.conversation.wants_write(), "something is to be written before the banner");
    run.conversation.handle_input(run.now, b"220 far.example ESMTP\r\n");
    let mut first = Vec::new();
    run.conversation.gather(|slice| {
        first.extend_from_slice(slice);
        true
    });
    assert_eq!(first, b"EHLO hub.example\r\n");
    for offers in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        for write in writes(offers, 5) {
            assert!(!write.contains("NOOP") && !write.contains("VRFY"), "{write}");
            for word in ["DATA\r\n", "QUIT\r\n"] {
                let at = write.find(word);
                assert!(at.is_none_or(|at| at + word.len() == write.len()), "{word:?} is not the last of {write:?}");
            }
        }
    }
}

#[test]
fn rule_3_a_reset_stands_in_front_of_every_mail_behind_an_unknown_result_and_of_none_behind_a_success() {
    let writes = writes(Offers::everything(), 3);
    let verbs: Vec<&str> = writes[1].lines().filter_map(|line| line.split([' ', ':']).next()).collect();
    let commands = ["RSET", "MAIL", "RCPT", "BDAT"];
    let verbs: Vec<&str> = verbs.into_iter().filter(|verb| commands.contains(verb)).collect();
    assert_eq!(verbs.join(" "), "MAIL RCPT RCPT BDAT RSET MAIL RCPT RCPT BDAT RSET MAIL RCPT RCPT BDAT");
    let one_at_a_time = Settings { unacknowledged_messages: 1, ..settings() };
    let run = run_of(3, one_at_a_time, Offers::everything(), |_| None);
    assert!(!run.far.verbs().contains("RSET"), "{}", run.far.verbs());
}

#[test]
fn rule_4_replies_are_matched_by_count_and_nothing_counts_behind_a_mail_that_was_not_accepted() {
    // It accepts the recipients of a message whose MAIL it refused, and then the message.
    let run = run_of(3, settings(), Offers::everything(), |line| match line {
        _ if line.starts_with("MAIL FROM:<s1@") => Some(Mischief::Say("503 sender already given")),
        _ if line.contains("a1@") || line.contains("b1@") => Some(Mischief::Say("250 Accepted")),
        _ => None,
    });
    let (judgement, words) = run.verdict(1, 0);
    assert_eq!(judgement, Deferred);
    assert!(words.contains("not counted as delivered"), "{words}");
    // The same when the host has been found to be full by then.
    let run = run_of(3, settings(), Offers::everything(), |line| match line {
        _ if line.starts_with("MAIL FROM:<s1@") || line.starts_with("MAIL FROM:<s2@") => {
            Some(Mischief::Say("450 4.7.1 Not now"))
        }
        _ if line.contains("a2@") => Some(Mischief::Say("250 Accepted")),
        _ => None,
    });
    assert!(run.verdict(2, 0).1.contains("not counted as delivered"), "{:?}", run.verdict(2, 0));
    // A reply to nothing is not kept for what comes next.
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 1).in_one_piece();
    run.carry(letter(0, &["a@dst"]));
    run.settle_down();
    run.far.output.extend_from_slice(b"250 2.0.0 Ok\r\n");
    run.carry(letter(1, &["a@dst"]));
    run.hear_all();
    assert_eq!(run.verdict(0, 0).0, DELIVERED);
    assert!(matches!(run.end, Some(End::Ended(_))) && run.is_unanswered(1, 0), "{:?}", run.end);
}

#[test]
fn rule_5_a_message_is_one_chunk() {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 1);
    for number in 0..3 {
        run.carry(Parcel::new(&vec![b'x'; 300_000]).in_slices_of(4096).to(&format!("s{number}@src"), &["a@dst"]));
    }
    run.finish();
    run.assert_all_delivered();
    let chunks: Vec<_> = run.far.commands.iter().filter(|line| line.starts_with("BDAT")).collect();
    assert_eq!(chunks, ["BDAT 300000 LAST"; 3]);
}

#[test]
fn rule_6_more_than_the_limit_is_never_sent_and_more_than_half_of_it_never_streamed() {
    let offers = |size: &str| Offers { keywords: vec![size.into()], ..Offers::everything() };
    let of = |octets: &[usize]| -> Vec<Parcel> {
        let of = |(number, &octets): (usize, &usize)| {
            Parcel::new(&vec![b'x'; octets]).to(&format!("s{number}@src"), &["a@dst"])
        };
        octets.iter().enumerate().map(of).collect()
    };
    let sizes = |size: &str, octets: &[usize]| {
        let mut run = Run::new(settings(), Far::new(offers(size), |_| None), 1);
        of(octets).into_iter().for_each(|letter| run.carry(letter));
        run.finish();
        run
    };
    let run = sizes("SIZE 1000", &[400, 900, 1001, 400]);
    assert_eq!(run.far.verbs(), "EHLO MAIL RCPT BDAT MAIL RCPT DATA . MAIL RCPT BDAT QUIT");
    assert_eq!(run.verdict(2, 0).0, Failed);
    assert!(run.far.commands[1].contains("SIZE=400"), "{}", run.far.commands[1]);
    let writes = writes_of(offers("SIZE 1000"), of(&[400, 900, 400]));
    assert!(writes.iter().any(|write| write.ends_with("xx\r\n.\r\n")), "it goes alone: {writes:?}");
    // Without a number.
    let run = sizes("SIZE", &[400, 1_048_577, 400]);
    assert_eq!(run.far.verbs(), "EHLO MAIL RCPT BDAT MAIL RCPT DATA . MAIL RCPT BDAT QUIT");
    run.assert_all_delivered();
}

#[test]
fn rule_7_data_takes_the_next_envelope_with_the_dot_and_a_reset_behind_a_refusal() {
    let run = run_of(3, settings(), Offers::pipelining(), |line| {
        (line.contains("a0@") || line.contains("b0@")).then_some(Mischief::Say("550 5.1.1 Unknown"))
    });
    assert_eq!(
        run.far.verbs(),
        "EHLO MAIL RCPT RCPT DATA RSET MAIL RCPT RCPT DATA . MAIL RCPT RCPT DATA . QUIT",
        "DATA refused: RSET; accepted: none"
    );
    let together = writes(Offers::pipelining(), 3);
    assert_eq!(together.iter().filter(|write| write.contains("\r\n.\r\nMAIL FROM")).count(), 2, "{together:?}");
    // 354 although nobody is left: the lone dot.
    let mut far = Far::new(Offers::pipelining(), |line| {
        (line.contains("a0@") || line.contains("b0@")).then_some(Mischief::Say("550 5.1.1 Unknown"))
    });
    far.goes_ahead = true;
    let mut run = Run::new(settings(), far, 1);
    (0..2).for_each(|number| run.carry(letter(number, &[&format!("a{number}@dst"), &format!("b{number}@dst")])));
    run.finish();
    assert_eq!((run.far.deliveries.len(), run.far.wasted), (1, 0));
    assert_eq!(run.far.verbs(), "EHLO MAIL RCPT RCPT DATA . RSET MAIL RCPT RCPT DATA . QUIT");
    // A refused MAIL is enough, though its recipients are not answered yet.
    let refused = |line: &str| line.starts_with("MAIL FROM:<s0@").then_some(Mischief::Say("550 5.7.1 No"));
    let mut run = Run::new(settings(), Far::new(Offers::pipelining(), refused), 1).in_one_piece();
    run.settle_down();
    run.carry(letter(0, &many(400).iter().map(String::as_str).collect::<Vec<_>>()));
    run.carry(letter(1, &["a@dst"]));
    run.send_all();
    let replies = std::mem::take(&mut run.far.output);
    let (first, rest) = replies.split_at(replies.iter().position(|&octet| octet == b'\n').unwrap() + 1);
    run.conversation.handle_input(run.now, first);
    run.send_all();
    assert!(run.far.verbs().ends_with("RCPT RSET MAIL RCPT DATA"), "{}", run.far.verbs());
    run.conversation.handle_input(run.now, rest);
    run.finish();
    assert_eq!((run.verdict(0, 399).0, run.verdict(1, 0).0), (Failed, DELIVERED));
}

/// So many recipients.
fn many(recipients: usize) -> Vec<String> {
    (0..recipients).map(|index| format!("r{index}@dst")).collect()
}

/// How many recipients were asked for in each transaction.
fn asked(run: &Run) -> Vec<usize> {
    let mut asked = Vec::new();
    for line in &run.far.commands {
        match (line.split([' ', ':']).next(), asked.last_mut()) {
            (Some("MAIL"), _) => asked.push(0),
            (Some("RCPT"), Some(count)) => *count += 1,
            _ => {}
        }
    }
    asked
}

#[test]
fn rule_8_silence_behind_a_final_reply_marks_a_host_that_drops_what_comes_with_the_dot() {
    let mut dots = 0;
    let run = run_of(3, settings(), Offers::pipelining(), move |line| {
        dots += u32::from(line.starts_with(". "));
        (dots > 0 && !line.starts_with(". ")).then_some(Mischief::Mute)
    });
    assert_eq!(run.verdict(0, 0).0, DELIVERED);
    assert!(run.is_unanswered(1, 0) && run.is_unanswered(2, 0), "nothing of theirs is at risk");
    assert_eq!(run.conversation.advice(), Some(Pipelining::Transaction));
    assert!(run.now.since(zrelay_clock::Timestamp::ZERO) < Duration::from_secs(30), "long before the timeout");
}

#[test]
fn rule_9_what_finds_no_room_goes_at_once_and_the_limit_is_kept() {
    let mut far = Far::new(Offers::everything(), |_| None);
    far.recipients_max = 100;
    let mut run = Run::new(settings(), far, 1);
    let recipients = many(1000);
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    run.carry(letter(0, &recipients[..250]));
    run.carry(letter(1, &recipients[..250]));
    run.finish();
    run.assert_all_delivered();
    let counts = asked(&run);
    assert!(counts.iter().filter(|&&count| count > 100).count() <= 2, "those that were under way: {counts:?}");
    assert!(counts.iter().all(|&count| count <= 1000));
    assert_eq!(run.conversation.take_lesson(), Some(100));
    // Without CHUNKING they go in bursts, so that the host shows in time that it is full.
    let mut far = Far::new(Offers::pipelining(), |_| None);
    far.recipients_max = 100;
    let mut run = Run::new(settings(), far, 1).in_one_piece();
    run.carry(letter(0, &recipients));
    run.finish();
    run.assert_all_delivered();
    let counts = asked(&run);
    assert!(counts[0] < 437 && counts[1..].iter().all(|&count| count == 100), "{counts:?}");
    let mut run = Run::new(settings(), Far::new(Offers::pipelining(), |_| None), 1);
    run.carry(letter(0, &recipients));
    while run.exchange() {
        assert!(run.conversation.flights.iter().all(|flight| flight.asked - flight.told < 437), "Haraka's stack");
    }
    run.finish();
    assert_eq!(asked(&run), [1000]);
}

#[test]
fn rule_10_from_eight_refusals_on_nothing_is_begun_ahead() {
    let far =
        Far::new(Offers::everything(), |line| line.contains("dead").then_some(Mischief::Say("550 5.1.1 Unknown")));
    let mut run = Run::new(Settings { unacknowledged_messages: 4, ..settings() }, far, 1).in_one_piece();
    (0..20).for_each(|number| run.carry(letter(number, &["dead@dst"])));
    run.carry(letter(20, &["alive@dst"]));
    loop {
        let begun = run.conversation.carried;
        if !run.exchange() {
            break;
        }
        let ahead = run.conversation.refusals >= 8 && run.conversation.flights.len() > 1;
        assert!(!ahead || run.conversation.carried == begun, "streaming on");
    }
    run.finish();
    assert_eq!(run.verdict(20, 0).0, DELIVERED);
    // What counts: every refusal, the far side's count being like this, and what was accepted for somebody ends it.
    let count = |offers: Offers, letters: usize, swallows, needle: &'static str| {
        let script = move |line: &str| line.starts_with(needle).then_some(Mischief::Say("550 5.0.0 No"));
        let mut run = Run::new(settings(), Far::new(offers, script), 1);
        run.far.swallows = swallows;
        (0..letters).for_each(|number| run.carry(letter(number, &[&format!("to{number}@dst")])));
        run.settle_down();
        run.conversation.refusals
    };
    let (bdat, data) = (Offers::everything, Offers::pipelining);
    assert_eq!(count(bdat(), 1, false, "MAIL"), 3, "the sender, the recipient, the message");
    assert_eq!(count(bdat(), 1, false, "RCPT"), 2, "the recipient, the message");
    assert_eq!(count(bdat(), 2, true, "RCPT"), 2, "the recipients; taken for nobody is not accepted");
    assert_eq!(count(data(), 1, false, "DATA"), 1);
    assert_eq!(count(bdat(), 1, false, ". "), 1);
    assert_eq!(count(bdat(), 2, false, "RCPT TO:<to0@"), 0, "the second was accepted");
}

#[test]
fn rule_11_after_421_or_a_mail_put_off_twice_nothing_is_begun_and_everything_is_read() {
    for refusal in ["421 4.7.0 Enough", "450 4.7.1 Error: too much mail from 192.0.2.1"] {
        let limits = Settings { unacknowledged_messages: 4, ..settings() };
        let run = run_of(12, limits, Offers::everything(), move |line| {
            let hit = line.starts_with("MAIL FROM:<s2@") || line.starts_with("MAIL FROM:<s3@");
            hit.then_some(Mischief::Say(refusal))
        });
        assert_eq!((run.verdict(0, 0).0, run.verdict(1, 0).0), (DELIVERED, DELIVERED));
        // The first that is only put off may be so for its sender.
        let first = if refusal.starts_with("421") { None } else { Some(Deferred) };
        assert_eq!(run.books[2].verdicts.get(&0).map(|verdict| verdict.judgement), first);
        assert!(run.is_unanswered(3, 0), "{refusal}");
        assert!(run.books[11].returned, "{refusal}: what was not begun is not begun");
        // What was under way and was taken is known to be taken.
        for delivery in &run.far.deliveries {
            let number: usize = delivery.sender[1..delivery.sender.find('@').unwrap()].parse().unwrap();
            assert_eq!(run.verdict(number, 0).0, DELIVERED);
        }
        assert!(matches!(run.end, Some(End::Ended(_))), "{:?}", run.end);
    }
    // No more recipients of a long message are asked for, and it is not sent.
    let enough = |line: &str| line.contains("<r5@").then_some(Mischief::Say("421 4.7.0 Enough"));
    let mut run = Run::new(settings(), Far::new(Offers::pipelining(), enough), 1).in_one_piece();
    run.carry(letter(0, &many(1000).iter().map(String::as_str).collect::<Vec<_>>()));
    run.finish();
    assert!(asked(&run)[0] < 437 && !run.far.verbs().contains("DATA"), "{}", run.far.verbs());
    // Nor is anything begun for the rest of a batch of which something is under way.
    let limits = Settings { unacknowledged_messages: 2, recipients: 1, ..settings() };
    let enough = |line: &str| line.starts_with(". r0@").then_some(Mischief::Say("421 4.7.0 Enough"));
    let mut run = Run::new(limits, Far::new(Offers::everything(), enough), 1).in_one_piece();
    run.settle_down();
    run.carry(letter(0, &["r0@dst", "r1@dst", "r2@dst", "r3@dst"]));
    run.send_all();
    let replies = std::mem::take(&mut run.far.output);
    let third = replies.iter().enumerate().filter(|(_, octet)| **octet == b'\n').nth(2).unwrap().0 + 1;
    run.conversation.handle_input(run.now, &replies[..third]);
    run.send_all();
    run.conversation.handle_input(run.now, &replies[third..]);
    run.finish();
    assert_eq!(asked(&run), [1, 1], "two were under way");
    assert_eq!(run.far.verbs().matches("RSET").count(), 1, "not so much as a RSET: {}", run.far.verbs());
    assert!(run.is_unanswered(0, 2) && run.is_unanswered(0, 3));
}

#[test]
fn rule_12_a_refusal_says_nothing_about_the_next_and_at_the_end_of_file_the_unanswered_is_unknown() {
    let mut run = run_of(5, settings(), Offers::everything(), |line| match line {
        _ if line.starts_with("MAIL FROM:<s1@") => Some(Mischief::Say("552 5.3.4 Message size exceeds fixed limit")),
        _ if line.starts_with(". a2@") => Some(Mischief::Say("451 4.3.0 Queue file write error")),
        _ if line.starts_with(". a4@") => Some(Mischief::Close),
        _ => None,
    });
    assert_eq!([0, 1, 2, 3].map(|batch| run.verdict(batch, 0).0), [DELIVERED, Failed, Deferred, DELIVERED]);
    assert!(run.is_unanswered(4, 0));
    assert_eq!(run.conversation.take_statistics().at_risk, 1, "it is counted as what may arrive twice");
}

#[test]
fn rule_13_no_more_is_under_way_than_the_window_holds() {
    for (messages, octets) in [(5, 1 << 20), (1000, 2000)] {
        let window = Settings { unacknowledged_messages: messages, unacknowledged_bytes: octets, ..settings() };
        let mut run = Run::new(window, Far::new(Offers::everything(), |_| None), 1);
        (0..60).for_each(|number| run.carry(letter(number, &["a@dst"])));
        let largest = run.letters.iter().map(|letter| letter.size()).max().unwrap();
        while run.exchange() {
            assert!(run.conversation.flights.len() <= messages as usize);
            assert!(run.conversation.bytes_in_flight() < octets + largest, "one message may overdraw it");
        }
        run.finish();
        run.assert_all_delivered();
    }
    // A host that has lost replies before gets one more than it has answered.
    let mut run = Run::new(settings(), Far::new(Offers::everything(), |_| None), 1).in_one_piece();
    run.conversation.set_approach(Approach::Careful);
    (0..20).for_each(|number| run.carry(letter(number, &["a@dst"])));
    while run.exchange() {
        assert!(run.conversation.flights.len() as u64 <= run.conversation.worked + 1);
    }
    run.finish();
    run.assert_all_delivered();
}

#[test]
fn rule_14_replies_are_read_while_writing_and_the_last_message_a_host_takes_goes_with_quit() {
    // The far side answers recipients while the rest of them is still to be written, and takes nothing more until its
    // replies are read: a client that only writes would wait for ever.
    let mut run = Run::new(Settings { recipients: 100_000, ..settings() }, Far::new(Offers::everything(), |_| None), 1);
    let many: Vec<String> = (0..2000).map(|index| format!("recipient.{index}@{}.example", "x".repeat(200))).collect();
    run.carry(letter(0, &many.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut answered_on_the_way = 0;
    while run.exchange() {
        assert!(run.far.output.len() < 64 * 1024 + BACKLOG_OCTETS as usize);
        let on_the_way = run.conversation.flights.iter().find(|flight| flight.asked < many.len());
        answered_on_the_way = on_the_way.map_or(answered_on_the_way, |flight| flight.told);
    }
    assert!(answered_on_the_way > 500, "{answered_on_the_way}");
    run.finish();
    run.assert_all_delivered();
    // As many messages as the host takes, the last one with QUIT, before anything is said to them.
    let limited = Settings { messages: 3, ..settings() };
    let mut run = Run::new(limited, Far::new(Offers::everything(), |_| None), 1).in_one_piece();
    (0..5).for_each(|number| run.carry(letter(number, &["a@dst"])));
    for _ in ["EHLO", "the messages"] {
        run.hear_all();
        run.send_all();
    }
    assert!(run.far.verbs().ends_with("BDAT QUIT"), "{}", run.far.verbs());
    run.finish();
    assert!(run.books[3].returned && run.books[4].returned);
    assert_eq!(run.verdict(2, 0).0, DELIVERED);
}

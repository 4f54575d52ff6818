//! What holds whatever the far side does, each with the least that shows it: replies belong to commands by their position,
//! one that cannot be the answer to anything ends the connection, nothing is delivered of which that was not said.

use zrelay_agent::Judgement::{Deferred, Delivered, Failed};

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{Approach, End, Protocol, Settings};
use crate::testing::Parcel;

/// Ready, with these letters carried and nothing of them written.
fn ready(settings: Settings, offers: Offers, letters: Vec<Parcel>) -> Run {
    let far = Far::new(offers, |_| None);
    let far = if settings.protocol == Protocol::Lmtp { far.lmtp() } else { far };
    let mut run = Run::new(settings, far, 1).in_one_piece();
    run.settle_down();
    letters.into_iter().for_each(|letter| run.carry(letter));
    run
}

fn large() -> Parcel {
    Parcel::new(&[b'x'; 10_000]).in_slices_of(4096).to("s@src", &["a@dst"])
}

impl Run {
    /// Writes what there is but for its last octet.
    fn send_all_but_one_octet(&mut self) {
        self.conversation.handle_written(self.now, self.to_be_written().len() - 1);
        self.events();
    }

    fn to_be_written(&self) -> String {
        let mut octets = Vec::new();
        self.conversation.gather(|slice| {
            octets.extend_from_slice(slice);
            true
        });
        String::from_utf8(octets).unwrap()
    }

    /// Writes what there is, past the far side, and hears this.
    fn hear_of_all_that_is_written(&mut self, replies: &str) {
        self.conversation.handle_written(self.now, self.to_be_written().len());
        self.hear(replies);
    }

    /// Hears this, whatever was sent.
    fn hear(&mut self, replies: &str) {
        self.conversation.handle_input(self.now, replies.as_bytes());
        self.events();
    }

    /// Hears so many lines of what the far side has said, and then that it is gone.
    fn hear_lines_and_lose(&mut self, lines: usize) {
        let said = String::from_utf8(std::mem::take(&mut self.far.output)).unwrap();
        assert!(said.lines().count() >= lines, "{said}");
        self.hear(&said.split_inclusive('\n').take(lines).collect::<String>());
        if self.end.is_none() {
            self.conversation.handle_lost(self.now, "Connection reset by peer");
            self.events();
        }
    }

    fn delivered(&self) -> usize {
        let all = self.books.iter().flat_map(|books| books.verdicts.values());
        all.filter(|verdict| matches!(verdict.judgement, Delivered { .. })).count()
    }

    fn is_delivered(&self, batch: usize, index: u32) -> bool {
        let verdict = self.books[batch].verdicts.get(&index);
        verdict.is_some_and(|verdict| matches!(verdict.judgement, Delivered { .. }))
    }

    fn assert_all_came_back(&self) {
        assert!(self.end.is_some() && self.books.iter().all(|books| books.done != books.returned), "{:?}", self.books);
    }
}

#[test]
fn a_reply_before_the_last_octet_of_its_command_is_no_reply_to_it() {
    let mut run = ready(settings(), Offers::nothing(), vec![letter(0, &["a@dst"])]);
    run.send_all_but_one_octet();
    run.hear("250 2.1.0 Ok\r\n");
    let Some(End::Failed(why)) = &run.end else { panic!("{:?}", run.end) };
    assert!(why.text.contains("a reply too many (250)"), "{why}");
    run.assert_all_came_back();
}

#[test]
fn a_success_before_the_last_octet_of_a_message_is_none() {
    let mut run = ready(settings(), Offers::pipelining(), vec![large()]);
    run.send_all();
    run.hear("250 Ok\r\n250 Ok\r\n354 Go on\r\n");
    run.send_all_but_one_octet();
    run.hear("250 2.0.0 Ok: queued\r\n");
    assert_eq!(run.verdict(0, 0).0, Deferred, "it is put off as the message that the connection died of");
    assert!(matches!(run.end, Some(End::Failed(_))), "{:?}", run.end);
    // In a stream, behind a message that is written and answered.
    let mut run = ready(settings(), Offers::everything(), vec![letter(0, &["a@dst"]), large()]);
    run.send_all_but_one_octet();
    run.hear(&format!("{}250 2.0.0 Ok: queued\r\n", "250 Ok\r\n".repeat(6)));
    assert_eq!(run.verdict(0, 0).0, Delivered { dsn_relayed: false });
    assert!(run.is_unanswered(1, 0));
    let Some(End::Ended(why)) = &run.end else { panic!("{:?}", run.end) };
    assert!(why.text.contains("a reply too many (250)"), "{why}");
    assert_eq!(run.conversation.take_statistics().at_risk, 0, "the far side cannot have it");
    run.assert_all_came_back();
}

#[test]
fn a_refusal_before_the_last_octet_of_a_message_is_its_verdict_and_the_end() {
    for (reply, judgement) in [("552 5.3.4 Too big", Failed), ("451 4.3.0 Disk full", Deferred)] {
        let mut run = ready(settings(), Offers::pipelining(), vec![large()]);
        run.send_all();
        run.hear("250 Ok\r\n250 Ok\r\n354 Go on\r\n");
        run.send_all_but_one_octet();
        run.carry(letter(1, &["b@dst"]));
        run.hear(&format!("{reply}\r\n"));
        let words = format!("said: {reply} (in reply to end of DATA command)");
        assert_eq!(run.verdict(0, 0), (judgement, format!("host far.example[192.0.2.1]:25 {words}")));
        assert!(run.is_unanswered(1, 0), "the far side takes what is left of the message for commands");
        assert!(matches!(run.end, Some(End::Ended(_))), "{:?}", run.end);
        assert_eq!(run.conversation.next_approach(), Some(Approach::Bold), "it is an answer");
        run.assert_all_came_back();
    }
    let mut run = ready(settings(), Offers::pipelining(), vec![large()]);
    run.send_all();
    run.hear("250 Ok\r\n250 Ok\r\n354 Go on\r\n");
    run.send_all_but_one_octet();
    run.hear("421 4.3.2 Shutting down\r\n");
    assert_eq!(run.verdict(0, 0).0, Deferred);
    let Some(End::Failed(why)) = &run.end else { panic!("it has not worked: {:?}", run.end) };
    assert_eq!(why.code, 421);
}

#[test]
fn a_reply_of_a_kind_that_its_command_cannot_have_ends_the_connection() {
    for (needle, reply) in [
        ("MAIL FROM:<s1@", "354 Go on"),
        ("RCPT TO:<one@", "354 Go on"),
        ("DATA", "250 Ok"),
        (". one@", "354 Go on"),
        ("RSET", "354 Go on"),
    ] {
        let offers = if needle == "DATA" { Offers::pipelining() } else { Offers::everything() };
        let mut seen = 0;
        let far = Far::new(offers, move |line| {
            seen += usize::from(line.starts_with(needle));
            (line.starts_with(needle) && (needle != "DATA" || seen == 2)).then_some(Mischief::Say(reply))
        });
        let mut run = Run::new(settings(), far, 1);
        ["none@dst", "one@dst", "two@dst"].iter().enumerate().for_each(|(at, whom)| run.carry(letter(at, &[whom])));
        run.finish();
        let Some(End::Ended(why)) = &run.end else { panic!("{needle}: {:?}", run.end) };
        assert!(why.text.contains(&format!("{} in reply to", &reply[..3])), "{needle}: {why}");
        assert_eq!(run.delivered(), 1, "{needle}: the one before");
    }
}

/// One octet of a chunk is still to be written, and this is said to it.
fn refused_within_a_chunk(reply: &str) -> Run {
    let mut run = ready(settings(), Offers::everything(), vec![large()]);
    run.send_all_but_one_octet();
    run.hear(&format!("250 Ok\r\n250 Ok\r\n{reply}\r\n"));
    run
}

#[test]
fn a_chunk_may_be_refused_before_it_is_all_there_and_is_written_to_its_end() {
    let mut run = refused_within_a_chunk("552 5.3.4 Too big");
    assert_eq!(run.verdict(0, 0).0, Failed);
    run.carry(letter(1, &["b@dst"]));
    assert!(run.to_be_written().starts_with("xRSET\r\nMAIL FROM:"), "{}", run.to_be_written());
    run.hear_of_all_that_is_written("250 Ok\r\n250 Ok\r\n250 Ok\r\n250 Ok: queued\r\n");
    assert_eq!(run.verdict(1, 0).0, Delivered { dsn_relayed: false });

    let mut run = refused_within_a_chunk("421 4.3.2 Shutting down");
    assert_eq!(run.verdict(0, 0).0, Deferred);
    assert_eq!(run.to_be_written(), "xQUIT\r\n");
    run.hear_of_all_that_is_written("221 Bye\r\n");
    let Some(End::Failed(why)) = &run.end else { panic!("{:?}", run.end) };
    assert_eq!(why.code, 421);
}

#[test]
fn what_is_no_reply_ends_the_connection_and_everything_comes_back() {
    for garbage in ["hello there", "600 6.0.0 Out of range", "150 Wait", "25", "250-one\r\n550 other", "\u{1}\u{2}"] {
        for heard in 0..11 {
            let letters = (0..3).map(|number| letter(number, &["a@dst"])).collect();
            let mut run = ready(settings(), Offers::everything(), letters);
            run.send_all();
            let said = String::from_utf8(std::mem::take(&mut run.far.output)).unwrap();
            let good: String = said.split_inclusive('\n').take(heard).collect();
            run.hear(&format!("{good}{garbage}\r\n"));
            let (Some(End::Failed(why)) | Some(End::Ended(why))) = &run.end else { panic!("{garbage}: {:?}", run.end) };
            assert!(why.text.contains("protocol error"), "{why}");
            assert_eq!(run.delivered(), finals(heard), "{garbage} behind {heard} replies");
            run.assert_all_came_back();
        }
    }
}

/// How many of so many replies to a stream of messages to one recipient are the last of their message: MAIL, RCPT, BDAT,
/// from the second message on with RSET in front.
fn finals(replies: usize) -> usize {
    (replies + 1) / 4
}

#[test]
fn a_connection_that_ends_within_a_stream_has_delivered_what_it_has_said_so_of() {
    for heard in 0..=11 {
        let letters = (0..3).map(|number| letter(number, &["a@dst"])).collect();
        let mut run = ready(settings(), Offers::everything(), letters);
        run.send_all();
        assert_eq!(run.far.deliveries.len(), 3, "the far side has all of them");
        run.hear_lines_and_lose(heard);
        assert_eq!(run.delivered(), finals(heard), "{heard} replies");
        let not_answered = 3 - finals(heard) as u64;
        assert_eq!(run.conversation.take_statistics().at_risk, not_answered, "{heard} replies");
        run.assert_all_came_back();
    }
}

#[test]
fn what_was_certainly_not_taken_is_not_at_risk() {
    let far = Far::new(Offers::everything(), |line| match line {
        _ if line.contains("refused@") => Some(Mischief::Say("550 5.1.1 Unknown")),
        "BDAT without recipients" => Some(Mischief::Close),
        _ => None,
    });
    let mut run = Run::new(settings(), far, 1).in_one_piece();
    ["good@dst", "refused@dst", "later@dst"].iter().enumerate().for_each(|(at, whom)| run.carry(letter(at, &[whom])));
    run.finish();
    assert_eq!(run.conversation.take_statistics().at_risk, 1, "the one behind, of which nothing is known");
    let far = Far::new(Offers::everything(), |line| match line {
        _ if line.starts_with("MAIL FROM:<s1@") => Some(Mischief::Say("550 5.7.1 No")),
        _ if line.contains("refused@") => Some(Mischief::Close),
        _ => None,
    });
    let mut run = Run::new(settings(), far, 1).in_one_piece();
    ["good@dst", "refused@dst"].iter().enumerate().for_each(|(at, whom)| run.carry(letter(at, &[whom])));
    run.finish();
    assert_eq!(run.conversation.take_statistics().at_risk, 0, "there is no envelope for it");
}

#[test]
fn a_chunk_of_which_an_octet_is_missing_is_not_at_risk() {
    let mut run = ready(settings(), Offers::everything(), vec![large()]);
    run.send_all_but_one_octet();
    run.hear("250 Ok\r\n250 Ok\r\n");
    run.conversation.handle_lost(run.now, "");
    run.events();
    assert!(run.verdict(0, 0).1.ends_with("while sending message body"), "{}", run.verdict(0, 0).1);
    assert_eq!(run.conversation.take_statistics().at_risk, 0);
}

#[test]
fn a_connection_that_dies_of_its_first_message_puts_off_all_of_its_recipients() {
    for heard in 0..4 {
        let mut run = ready(settings(), Offers::everything(), vec![letter(0, &["a@dst", "b@dst"])]);
        run.send_all();
        run.hear_lines_and_lose(heard);
        assert_eq!((run.verdict(0, 0).0, run.verdict(0, 1).0), (Deferred, Deferred), "{heard} replies");
        assert!(matches!(run.end, Some(End::Failed(_))), "{:?}", run.end);
    }
}

#[test]
fn lmtp_has_a_reply_for_each_recipient_and_none_for_those_it_refused() {
    let lmtp = Settings { protocol: Protocol::Lmtp, ..settings() };
    for offers in [Offers::nothing(), Offers::pipelining(), Offers::everything()] {
        for heard in 0..=3 {
            let no = |line: &str| line.contains("no@").then_some(Mischief::Say("550 5.1.1 Unknown"));
            let mut run = Run::new(lmtp.clone(), Far::new(offers.clone(), no).lmtp(), 1).in_one_piece();
            run.carry(letter(0, &["a@dst", "no@dst", "b@dst", "c@dst"]));
            while run.far.deliveries.is_empty() {
                run.hear_all();
                run.send_all();
            }
            // One flight holds the replies to all recipients where there is CHUNKING.
            let before = if offers.chunking { 5 } else { 0 };
            run.hear_lines_and_lose(before + heard);
            assert_eq!(run.delivered(), heard, "{offers:?}");
            assert_eq!(run.verdict(0, 1).0, Failed);
            let in_order = [0, 2, 3].map(|index| run.is_delivered(0, index));
            assert_eq!(in_order, [heard > 0, heard > 1, heard > 2]);
            run.assert_all_came_back();
        }
    }
}

#[test]
fn an_lmtp_server_with_a_reply_too_many_is_not_believed_any_more() {
    let lmtp = Settings { protocol: Protocol::Lmtp, ..settings() };
    let mut run = ready(lmtp, Offers::everything(), vec![letter(0, &["a@dst", "b@dst"])]);
    run.send_all();
    run.far.output.extend_from_slice(b"250 2.0.0 And another\r\n");
    run.carry(letter(1, &["c@dst"]));
    run.hear_all();
    assert_eq!(run.delivered(), 2);
    assert!(run.is_unanswered(1, 0));
    let Some(End::Ended(why)) = &run.end else { panic!("{:?}", run.end) };
    assert!(why.text.contains("a reply too many (250)"), "{why}");
}

#[test]
fn an_lmtp_server_hears_the_farewell_behind_its_last_reply() {
    let lmtp = Settings { protocol: Protocol::Lmtp, messages: 1, ..settings() };
    let mut run = ready(lmtp, Offers::everything(), vec![letter(0, &["a@dst", "b@dst"]), letter(1, &["c@dst"])]);
    run.send_all();
    assert!(run.books[1].returned && run.far.verbs().ends_with("RCPT BDAT"), "{}", run.far.verbs());
    run.finish();
    assert_eq!(run.delivered(), 2);
    assert!(run.far.verbs().ends_with("BDAT QUIT"), "{}", run.far.verbs());
}

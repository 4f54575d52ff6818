//! Far sides that give a sign of life now and then, on virtual time.

use std::time::Duration;

use zrelay_clock::Timestamp;

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::End;
use crate::testing::Parcel;

const HOUR: Duration = Duration::from_secs(3600);

/// A connection that is ready, to a far side that says nothing to mail.
fn silent() -> Run {
    let far = Far::new(Offers::everything(), |line| line.starts_with("MAIL").then_some(Mischief::Mute));
    let mut run = Run::new(settings(), far, 5).in_one_piece();
    run.settle_down();
    run
}

impl Run {
    /// Lets time pass. Returns whether the conversation goes on.
    fn pass(&mut self, span: Duration) -> bool {
        let until = self.now + span;
        while let Some(deadline) = self.conversation.poll_timeout().filter(|&deadline| deadline <= until) {
            self.now = deadline;
            self.conversation.handle_timeout(deadline);
            self.events();
        }
        if self.end.is_none() {
            self.now = until;
        }
        self.end.is_none()
    }

    /// Takes so many octets of what is there.
    fn take(&mut self, octets: usize) {
        let mut there = 0;
        self.conversation.gather(|slice| {
            there += slice.len();
            there < octets
        });
        self.conversation.handle_written(self.now, octets.min(there));
        self.events();
    }

    fn assert_given_up(&self, within: std::ops::Range<Duration>) {
        let Some(End::Failed(why)) = &self.end else { panic!("{:?}", self.end) };
        assert!(why.text.contains("timed out while") && why.text.ends_with(" s for one message"), "{why}");
        let took = self.now.since(Timestamp::ZERO);
        assert!(within.contains(&took), "{took:?}");
    }
}

#[test]
fn a_host_that_takes_an_octet_now_and_then_is_given_up() {
    let mut run = silent();
    run.carry(letter(0, &["a@dst"]));
    while run.pass(Duration::from_secs(200)) {
        run.take(1);
    }
    run.assert_given_up(HOUR..HOUR + Duration::from_secs(60));
}

#[test]
fn a_host_that_answers_a_recipient_now_and_then_is_given_up() {
    let mut run = silent();
    let many: Vec<String> = (0..500).map(|number| format!("r{number}@dst")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    run.carry(letter(0, &many));
    run.settle_down();
    while run.pass(Duration::from_secs(240)) {
        run.conversation.handle_input(run.now, b"250 Ok\r\n");
        run.events();
    }
    // An hour, and ten seconds for each recipient.
    run.assert_given_up(HOUR * 2..HOUR * 3);
}

#[test]
fn a_slow_path_gets_the_time_that_a_large_message_takes() {
    let mut run = silent();
    run.carry(Parcel::new(&b"A line of thirty octets in all\r\n".repeat(300_000)).to("s@src", &["a@dst"]));
    // MAIL, RCPT, the go-ahead, and then 1.5 KiB/s for some two hours.
    run.take(usize::MAX);
    run.conversation.handle_input(run.now, b"250 Ok\r\n250 Ok\r\n354 Ok\r\n");
    run.events();
    assert!(run.conversation.wants_write());
    while run.conversation.wants_write() {
        assert!(run.pass(Duration::from_secs(100)), "{:?}", run.end);
        run.take(150 * 1024);
    }
    assert!(run.now.since(Timestamp::ZERO) > HOUR + HOUR / 2);
    run.conversation.handle_input(run.now, b"250 Ok\r\n");
    run.events();
    assert!(run.end.is_none() && !run.is_unanswered(0, 0));
}

#[test]
fn the_time_of_a_transaction_begins_when_the_one_before_it_is_over() {
    let mut run = silent();
    (0..40).for_each(|number| run.carry(letter(number, &["a@dst"])));
    run.settle_down();
    for number in 0..40 {
        assert!(run.pass(Duration::from_secs(280)));
        // MAIL, RCPT and BDAT, with RSET before all but the first.
        let replies = if number == 0 { 3 } else { 4 };
        run.conversation.handle_input(run.now, "250 Ok\r\n".repeat(replies).as_bytes());
        run.events();
    }
    assert!(run.now.since(Timestamp::ZERO) > HOUR * 3 && run.end.is_none());
    assert!((0..40).all(|batch| !run.is_unanswered(batch, 0)));
    assert!(run.conversation.poll_timeout().is_none(), "nothing is under way");
}

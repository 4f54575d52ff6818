//! How much a connection is entrusted with before it has shown that it works, and what its end says of the next one.

use super::far::{Far, Mischief, Offers};
use super::harness::{Run, letter, settings};
use crate::conversation::{Approach, End};

fn run_of(letters: usize, approach: Approach, script: impl FnMut(&str) -> Option<Mischief> + 'static) -> Run {
    let mut run = Run::new(settings(), Far::new(Offers::everything(), script), 1).in_one_piece();
    run.conversation.set_approach(approach);
    (0..letters).for_each(|number| run.carry(letter(number, &["a@dst"])));
    run
}

impl Run {
    /// The far side has closed with unread input: what it had said is lost.
    fn reset(&mut self) {
        self.far.output.clear();
        self.conversation.handle_lost(self.now, "Connection reset by peer");
        self.events();
    }
}

#[test]
fn care_entrusts_a_connection_with_one_message_more_than_it_has_answered() {
    for (approach, expected) in [(Approach::Careful, [0, 1, 3, 7, 15, 31]), (Approach::Bold, [0, 40, 40, 40, 40, 40])] {
        let mut run = run_of(40, approach, |_| None);
        let mut seen = Vec::new();
        for _ in expected {
            run.hear_all();
            run.send_all();
            seen.push(run.far.deliveries.len());
        }
        assert_eq!(seen, expected, "{approach:?}");
        run.finish();
        run.assert_all_delivered();
    }
}

#[test]
fn replies_lost_with_the_connection_teach_care_and_care_bounds_what_is_lost() {
    for (approach, lost) in [(Approach::Bold, 40), (Approach::Careful, 1)] {
        let mut run = run_of(40, approach, |_| None);
        run.hear_all();
        run.send_all();
        run.hear_all();
        // The far side takes what comes now, and none of what it says gets here.
        run.send_all();
        assert_eq!(run.far.deliveries.len(), lost);
        run.reset();
        assert!(matches!(run.end, Some(End::Failed(_))));
        assert_eq!(run.conversation.next_approach(), Some(Approach::Careful), "{approach:?}");
    }
}

#[test]
fn a_connection_that_ends_well_teaches_that_no_care_is_needed() {
    let mut run = run_of(5, Approach::Careful, |_| None);
    run.finish();
    assert!(matches!(run.end, Some(End::Done)));
    assert_eq!(run.conversation.next_approach(), Some(Approach::Bold));
    let mut run = run_of(1, Approach::Bold, |line| line.starts_with("RCPT").then_some(Mischief::Say("550 5.1.1 No")));
    run.finish();
    assert_eq!(run.conversation.next_approach(), Some(Approach::Bold), "refusals are answers");
}

#[test]
fn a_connection_lost_idle_or_with_less_than_it_has_answered_teaches_nothing_bad() {
    let mut run = run_of(0, Approach::Bold, |_| None);
    run.settle_down();
    run.reset();
    assert_eq!(run.conversation.next_approach(), None, "nothing was entrusted to it");

    let mut run = run_of(5, Approach::Bold, |_| None);
    run.settle_down();
    run.carry(letter(5, &["a@dst"]));
    run.send_all();
    run.reset();
    assert_eq!(run.conversation.next_approach(), None, "five answered, one lost");
}

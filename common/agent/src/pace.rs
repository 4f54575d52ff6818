//! Pace: how long a next hop takes for mail, and how much of it an agent may have in hand.
//!
//! Credit keeps a path full and memory small. It says nothing of time: three thousand recipients are a moment's work for one
//! next hop and a quarter of a minute for another, and whatever an agent has in hand goes before any message that comes now.
//! So an agent also reports how long its next hop takes for a message and for a recipient, and is given no more than
//! [`IN_HAND`] of its time, and what is on the way there and back.

use std::time::Duration;

/// Time of a next hop that an agent has in hand; some round trips more ([`IN_HAND_ROUND_TRIPS`]), and one part of a batch.
/// Whoever comes next waits for that. Long against the moment that it takes to hand out more, so that no next hop waits.
pub const IN_HAND: Duration = Duration::from_millis(500);

/// Round trips of work in hand beside that: what is on the way both ways, and as much again, since a path that is still
/// opening its window takes twice as much with each of them.
pub const IN_HAND_ROUND_TRIPS: u32 = 4;

/// Time of a next hop that one transaction's recipients are to take: an agent's work is counted in transactions.
const PORTION_TIME: Duration = Duration::from_millis(250);

/// Recipients in a transaction below which nothing is divided: what Postfix sends at a time, so that it is usual.
pub const PORTION_MIN: u32 = 50;

/// Of the time that a transaction takes, so many parts go to its recipients for one that goes to the message: dividing a
/// post costs a fifth of its rate at most.
const RECIPIENTS_PER_MESSAGE: f64 = 4.0;

/// Transactions to a next hop that is slow even with one: one is worked on, the next ones are on the way.
const MESSAGES_MIN: u64 = 3;

/// Time per recipient, seconds, that is as good as none: no window is as large as what is done in [`IN_HAND`] then.
const NO_TIME: f64 = 1e-6;

/// Recipients in a transaction from which on it does not matter how many more there could be: hardly a batch has so many.
const WHOLE: u32 = 10_000;

/// Ratio by which a figure has to change to be worth a word.
const NOTABLE: f64 = 1.25;

/// Differences of times per message or recipient that are not worth a word, seconds.
const NOT_NOTABLE: f64 = 20e-6;

/// Work: transactions and their recipients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Transactions.
    pub messages: u64,
    /// Recipients.
    pub recipients: u64,
}

impl Work {
    /// This and more.
    pub fn add(&mut self, more: Self) {
        self.messages = self.messages.saturating_add(more.messages);
        self.recipients = self.recipients.saturating_add(more.recipients);
    }

    /// This without what is done.
    pub fn remove(&mut self, done: Self) {
        self.messages = self.messages.saturating_sub(done.messages);
        self.recipients = self.recipients.saturating_sub(done.recipients);
    }
}

/// What is known of a next hop's pace over one connection.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// Nothing yet: no more than this may be in hand until it has answered.
    Presumed(Work),
    /// It has answered enough to tell.
    Measured(Measured),
}

/// A measured pace.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measured {
    /// What a transaction takes, its recipients apart.
    pub message: Duration,
    /// What a recipient takes.
    pub recipient: Duration,
    /// The path's round trip.
    pub round_trip: Duration,
    /// Recipients in one transaction: see [`portion`].
    pub portion: u32,
}

/// Recipients that a transaction should have: so many as take [`PORTION_TIME`] or two round trips, and four times as long as
/// the message itself; at least [`PORTION_MIN`].
pub fn portion(message: Duration, recipient: Duration, round_trip: Duration) -> u32 {
    let recipient = recipient.as_secs_f64();
    if recipient < NO_TIME {
        return u32::MAX;
    }
    let time = PORTION_TIME.max(round_trip * 2).as_secs_f64().max(message.as_secs_f64() * RECIPIENTS_PER_MESSAGE);
    // A cast from a float saturates.
    ((time / recipient) as u32).max(PORTION_MIN)
}

impl Pace {
    /// Whether no more work should be added to `in_hand`.
    pub fn is_full(&self, in_hand: Work) -> bool {
        match self {
            Self::Presumed(most) => in_hand.messages >= most.messages || in_hand.recipients >= most.recipients,
            Self::Measured(measured) => in_hand.messages >= MESSAGES_MIN && measured.spare(in_hand) <= 0.0,
        }
    }

    /// How many of a batch's recipients to add to `in_hand`, at least one; `messages` is the number of transactions that
    /// all of them make at the least, one for each sender.
    pub fn part(&self, in_hand: Work, messages: u64, recipients: u64) -> u64 {
        let messages = messages.clamp(1, recipients.max(1));
        let each = recipients as f64 / messages as f64;
        let most = match self {
            Self::Presumed(most) => {
                let by_messages = most.messages.saturating_sub(in_hand.messages) as f64 * each;
                most.recipients.saturating_sub(in_hand.recipients).min(by_messages as u64)
            }
            Self::Measured(measured) => measured.part(in_hand, each),
        };
        let most = most.max(1);
        // No crumbs.
        if recipients <= most.saturating_add(most / 4) { recipients } else { most }
    }

    /// What a part of a batch is as [`Work`].
    pub fn work(&self, messages: u64, recipients: u64) -> Work {
        let portion = match self {
            Self::Presumed(_) => u64::MAX,
            Self::Measured(measured) => measured.portion.into(),
        };
        Work { messages: messages.max(recipients.div_ceil(portion.max(1))), recipients }
    }

    /// How long the next hop takes for it; nothing as long as that is not known.
    pub fn time(&self, work: Work) -> Duration {
        match self {
            Self::Presumed(_) => Duration::ZERO,
            Self::Measured(measured) => Duration::from_secs_f64(measured.seconds(work)),
        }
    }

    /// Whether `other` differs so much that it is worth telling.
    pub fn is_notable(&self, other: &Self) -> bool {
        let (Self::Measured(one), Self::Measured(other)) = (self, other) else {
            return self != other;
        };
        let differs =
            |one: f64, other: f64| (one - other).abs() > NOT_NOTABLE && one.max(other) > one.min(other) * NOTABLE;
        let time = |one: Duration, other: Duration| differs(one.as_secs_f64(), other.as_secs_f64());
        time(one.message, other.message)
            || time(one.recipient, other.recipient)
            || time(one.round_trip, other.round_trip)
            || differs(one.portion.min(WHOLE).into(), other.portion.min(WHOLE).into())
    }
}

impl Measured {
    /// Seconds of the next hop that may be added to what is in hand.
    fn spare(&self, in_hand: Work) -> f64 {
        let most = IN_HAND.as_secs_f64() + (self.round_trip * IN_HAND_ROUND_TRIPS).as_secs_f64();
        most - self.seconds(in_hand)
    }

    fn seconds(&self, work: Work) -> f64 {
        let messages = work.messages as f64 * self.message.as_secs_f64();
        messages + work.recipients as f64 * self.recipient.as_secs_f64()
    }

    /// Recipients of which each transaction takes `each` at most.
    fn part(&self, in_hand: Work, each: f64) -> u64 {
        let recipient = self.recipient.as_secs_f64() + self.message.as_secs_f64() / each.max(1.0);
        if recipient < NO_TIME {
            return u64::MAX;
        }
        // Two transactions at a time, so that their number can be varied to see what that does.
        let least = (2.0 * f64::from(self.portion)).min((PORTION_TIME.as_secs_f64() / recipient).max(each));
        let spare = self.spare(in_hand).max(0.0) / recipient;
        // A cast from a float saturates.
        spare.max(least) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(message_ms: u64, recipient_us: u64, round_trip_ms: u64) -> Pace {
        let (message, recipient) = (Duration::from_millis(message_ms), Duration::from_micros(recipient_us));
        let round_trip = Duration::from_millis(round_trip_ms);
        Pace::Measured(Measured { message, recipient, round_trip, portion: portion(message, recipient, round_trip) })
    }

    /// What is in hand when batches of this kind are handed out until it is full.
    fn fill(pace: Pace, messages: u64, recipients: u64) -> Work {
        let mut in_hand = Work::default();
        for _ in 0..100_000 {
            if pace.is_full(in_hand) {
                return in_hand;
            }
            let part = pace.part(in_hand, messages, recipients);
            assert!((1..=recipients).contains(&part));
            in_hand.add(pace.work(messages.min(part), part));
        }
        panic!("there is no end to it: {in_hand:?}");
    }

    #[test]
    fn a_slow_next_hop_has_less_than_a_second_of_a_post_in_hand_in_transactions_of_a_quarter() {
        assert_eq!(portion(Duration::ZERO, Duration::from_millis(5), Duration::ZERO), 50);
        assert_eq!(portion(Duration::ZERO, Duration::from_millis(1), Duration::ZERO), 250);
        let in_hand = fill(measured(0, 5000, 0), 1, 1000);
        assert!((100..=200).contains(&in_hand.recipients), "{in_hand:?}");
        let in_hand = fill(measured(0, 1000, 0), 1, 1000);
        assert!((500..=1000).contains(&in_hand.recipients), "{in_hand:?}");
    }

    #[test]
    fn a_post_of_single_messages_is_held_back_as_well() {
        let in_hand = fill(measured(100, 0, 0), 1, 1);
        assert_eq!(in_hand.messages, 5);
        let in_hand = fill(measured(100, 1000, 0), 1000, 1000);
        assert!((4..=8).contains(&in_hand.messages), "{in_hand:?}");
        assert_eq!(fill(measured(60_000, 0, 0), 1, 1).messages, MESSAGES_MIN, "and not stopped");
    }

    #[test]
    fn a_fast_next_hop_over_a_long_path_has_whole_batches_and_many() {
        let pace = measured(1, 30, 130);
        assert_eq!(pace.part(Work::default(), 1, 1000), 1000);
        assert!(fill(pace, 1, 1000).recipients > 15_000);
        assert_eq!(measured(0, 0, 0).part(Work::default(), 1, 1 << 20), 1 << 20);
    }

    #[test]
    fn where_a_message_takes_long_a_transaction_is_worth_it() {
        assert_eq!(portion(Duration::from_millis(300), Duration::from_millis(1), Duration::ZERO), 1200);
        assert_eq!(portion(Duration::from_millis(300), Duration::from_millis(5), Duration::ZERO), 240);
        assert_eq!(portion(Duration::from_secs(1), Duration::ZERO, Duration::ZERO), u32::MAX);
    }

    #[test]
    fn a_part_leaves_no_crumbs() {
        let pace = Pace::Presumed(Work { messages: 16, recipients: 100 });
        assert_eq!(pace.part(Work::default(), 1, 125), 125);
        assert_eq!(pace.part(Work::default(), 1, 126), 100);
        assert_eq!(pace.part(Work { messages: 1, recipients: 60 }, 1, 1000), 40);
        assert_eq!(pace.part(Work::default(), 1000, 1000), 16, "each has a sender of its own");
        assert!(
            pace.is_full(Work { messages: 16, recipients: 16 }) && pace.is_full(Work { messages: 1, recipients: 100 })
        );
    }

    #[test]
    fn small_changes_are_not_notable() {
        assert!(!measured(10, 5000, 0).is_notable(&measured(10, 5100, 0)));
        assert!(measured(10, 5000, 0).is_notable(&measured(10, 7000, 0)));
        assert!(!measured(0, 1, 0).is_notable(&measured(0, 2, 0)));
        assert!(Pace::Presumed(Work::default()).is_notable(&measured(0, 1, 0)));
    }
}

//! The window against a path in numbers: slow start, a bottleneck and a receiver, in steps of a millisecond.

use std::collections::VecDeque;

use super::*;

const LIMITS: Limits = Limits { messages: 512, octets: 4 << 20 };

/// A path: what it does with messages of one size.
struct Path {
    rtt_ms: u64,
    /// Octets per second of the narrowest link.
    bandwidth: u64,
    /// Messages per second that the receiver takes at a time, milliseconds from the beginning.
    receiver: fn(u64) -> f64,
    message: u64,
    /// Segments that congestion control allows at most, in octets.
    congestion_max: u64,
}

/// What came of it.
struct Outcome {
    answered: u64,
    room: Room,
    /// Milliseconds in which the congestion window had room and the window in flight had none.
    held_back: u64,
}

impl Path {
    fn wide() -> Self {
        Self { rtt_ms: 130, bandwidth: 12_500_000, receiver: |_| 1e9, message: 4096, congestion_max: 1 << 21 }
    }

    /// Sends for `ms` with `work` messages to send.
    fn run(&self, pipe: &mut Pipe, ms: u64, work: u64) -> Outcome {
        let mut congestion = 14_600u64;
        let (mut sent, mut acked, mut answered, mut held_back) = (0u64, 0u64, 0u64, 0u64);
        let (mut budget, mut patience) = (0f64, 0f64);
        // When the path's acknowledgement of a message is back, and when the receiver has it.
        let mut on_path = VecDeque::new();
        let (mut with_receiver, mut replies) = (0u64, VecDeque::new());
        for now in 0..ms {
            while on_path.front().is_some_and(|&at| at <= now) {
                on_path.pop_front();
                acked += 1;
                with_receiver += 1;
                congestion = (congestion + self.message).min(self.congestion_max);
            }
            let takes = (self.receiver)(now) / 1000.0;
            patience = (patience + takes).min(takes.max(1.0));
            while with_receiver > 0 && patience >= 1.0 {
                patience -= 1.0;
                with_receiver -= 1;
                replies.push_back(now);
            }
            while replies.pop_front().is_some() {
                answered += 1;
            }
            let room = pipe.room();
            budget = (budget + self.bandwidth as f64 / 1000.0).min(2.0 * self.bandwidth as f64 / 1000.0 + 4096.0);
            let mut closed = false;
            while sent < work && (sent - acked) * self.message < congestion && budget >= self.message as f64 {
                closed = sent - answered >= u64::from(room.messages) || (sent - answered) * self.message >= room.octets;
                if closed {
                    break;
                }
                budget -= self.message as f64;
                sent += 1;
                on_path.push_back(now + self.rtt_ms);
            }
            held_back += u64::from(closed);
            let at = Timestamp::from_micros(now * 1000);
            if pipe.is_due(at) {
                pipe.sample(Sample {
                    at,
                    rtt: Duration::from_millis(self.rtt_ms),
                    congestion,
                    rate: self.bandwidth,
                    messages: answered,
                    octets: answered * self.message,
                    load: if sent < work { Load::Full } else { Load::Slack },
                });
            }
        }
        Outcome { answered, room: pipe.room(), held_back }
    }
}

#[test]
fn a_wide_path_is_filled_and_slow_start_is_never_held_back() {
    let mut pipe = Pipe::new(LIMITS);
    let outcome = Path::wide().run(&mut pipe, 5000, u64::MAX);
    assert_eq!(outcome.held_back, 0);
    // 12.5 MB/s less the second or so of slow start and the first round trip.
    assert!(outcome.answered * 4096 > 12_500_000 * 4, "{} messages", outcome.answered);
    let bdp = 12_500_000 * 130 / 1000;
    assert!(outcome.room.octets >= bdp && outcome.room.octets <= 5 * bdp / 2, "{:?}", outcome.room);
    assert!(u64::from(outcome.room.messages) * 4096 >= bdp, "{:?}", outcome.room);
    assert_eq!(outcome.room.unsent, 12_500_000 / 40);
}

#[test]
fn a_receiver_that_is_slower_than_its_path_gets_what_it_can_have_in_hand_twice() {
    let mut pipe = Pipe::new(LIMITS);
    let path = Path { receiver: |_| 500.0, ..Path::wide() };
    let outcome = path.run(&mut pipe, 10_000, u64::MAX);
    assert!((120..=140).contains(&outcome.room.messages), "{:?}", outcome.room);
    assert!(outcome.room.octets <= 140 * 4096, "{:?}", outcome.room);
    // All but what slow start takes.
    assert!(outcome.answered >= 500 * 9, "{} messages", outcome.answered);
}

#[test]
fn a_receiver_that_becomes_faster_is_found_out() {
    let mut pipe = Pipe::new(LIMITS);
    let path = Path { receiver: |ms| if ms < 5000 { 600.0 } else { 2000.0 }, ..Path::wide() };
    let outcome = path.run(&mut pipe, 10_000, u64::MAX);
    assert!(outcome.room.messages > 400, "{:?}", outcome.room);
}

#[test]
fn the_clause_is_never_exceeded_and_the_floor_never_undercut() {
    let paths = [
        Path { rtt_ms: 1, bandwidth: 1_000, receiver: |_| 1.0, ..Path::wide() },
        Path { rtt_ms: 600, bandwidth: 125_000_000, ..Path::wide() },
        Path { rtt_ms: 130, bandwidth: 8_000, receiver: |_| 5.0, ..Path::wide() },
    ];
    for path in paths {
        let mut pipe = Pipe::new(LIMITS);
        let path = Path { message: 600, congestion_max: 1 << 26, ..path };
        let room = path.run(&mut pipe, 5000, u64::MAX).room;
        assert!((MESSAGES_MIN..=512).contains(&room.messages), "{room:?}");
        assert!((OCTETS_MIN..=4 << 20).contains(&room.octets), "{room:?}");
        pipe.limit(Limits { messages: 3, octets: 100 });
        assert_eq!((pipe.room().messages, pipe.room().octets), (3, 100));
    }
    assert_eq!(Pipe::new(LIMITS).room(), Room { messages: MESSAGES_MIN, octets: OCTETS_MIN, unsent: 64 * 1024 });
    assert_eq!(Pipe::new(Limits { messages: 0, octets: 0 }).room().messages, 1);
}

#[test]
fn times_without_work_do_not_close_the_window() {
    let mut pipe = Pipe::new(LIMITS);
    let busy = Path::wide().run(&mut pipe, 5000, u64::MAX).room;
    let mut sample = pipe.last.unwrap();
    for _ in 0..100 {
        sample.at = sample.at + Duration::from_millis(130);
        sample.load = Load::Slack;
        pipe.sample(sample);
    }
    assert_eq!(pipe.room(), busy);
    sample.load = Load::Full;
    for _ in 0..=ROUNDS {
        sample.at = sample.at + Duration::from_millis(130);
        pipe.sample(sample);
    }
    assert_eq!(pipe.room().messages, MESSAGES_MIN, "work that is not answered does");
}

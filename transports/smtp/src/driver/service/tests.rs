//! The estimate against far sides in numbers: one connection, transactions in a row, replies as they come.

use super::*;

/// A far side: what it takes, and when it writes its replies.
#[derive(Clone, Copy)]
struct Far {
    message: f64,
    recipient: f64,
    writes: Writes,
    round_trip: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writes {
    /// Each reply at once.
    AtOnce,
    /// When so many wait, and when it reads the content of a message.
    Buffer(u64),
    /// Those to a message together with those to the next envelope: the content was read with it.
    Behind,
}

impl Far {
    /// Sends a post of so many recipients in a row of transactions of the portion in force; how long that takes, and the
    /// largest transaction behind the first.
    fn send(&self, service: &mut Service, recipients: u64, most: u32) -> (f64, u64) {
        let round_trip = Duration::from_secs_f64(self.round_trip);
        let (mut left, mut time, mut largest) = (recipients, 0.0, 0);
        let (mut waited, mut pending) = (0.0, Work::default());
        let mut number = 0u64;
        while left > 0 {
            let portion = service.portion();
            let portion = if number % 4 == 3 { portion.saturating_mul(2) } else { portion };
            let size = u64::from(portion.min(most)).min(left);
            if number > 3 {
                largest = largest.max(size);
            }
            left -= size;
            let mut flush = |waited: &mut f64, pending: &mut Work| {
                service.heard(Duration::from_secs_f64(*waited), Path::Smooth, *pending, 3, round_trip);
                (*waited, *pending) = (0.0, Work::default());
            };
            for _ in 0..size {
                (time, waited) = (time + self.recipient, waited + self.recipient);
                pending.recipients += 1;
                match self.writes {
                    Writes::AtOnce => flush(&mut waited, &mut pending),
                    Writes::Buffer(replies) if pending.recipients + pending.messages >= replies => {
                        flush(&mut waited, &mut pending);
                    }
                    Writes::Buffer(_) | Writes::Behind => {}
                }
            }
            if matches!(self.writes, Writes::Buffer(_)) {
                flush(&mut waited, &mut pending);
            }
            if self.writes == Writes::Behind && number > 0 {
                flush(&mut waited, &mut pending);
            }
            (time, waited) = (time + self.message, waited + self.message);
            pending.messages += 1;
            if self.writes == Writes::AtOnce {
                flush(&mut waited, &mut pending);
            }
            number += 1;
        }
        (time, largest)
    }

    /// What it would take in transactions of so many.
    fn whole(&self, recipients: u64, most: u64) -> f64 {
        recipients.div_ceil(most) as f64 * self.message + recipients as f64 * self.recipient
    }
}

const WRITES: [Writes; 4] = [Writes::AtOnce, Writes::Buffer(290), Writes::Buffer(100_000), Writes::Behind];

fn measured(service: &Service) -> Measured {
    match service.pace(Duration::ZERO) {
        Pace::Measured(measured) => measured,
        Pace::Presumed(work) => panic!("still presumed: {work:?}"),
    }
}

#[test]
fn a_far_side_that_is_slow_with_recipients_gets_transactions_of_a_quarter_of_a_second() {
    for writes in WRITES {
        for recipient in [0.001, 0.002, 0.005, 0.020] {
            let far = Far { message: 0.002, recipient, writes, round_trip: 0.0 };
            let mut service = Service::new();
            far.send(&mut service, 100, 100);
            let (time, _) = far.send(&mut service, 5000, 1000);
            let (_, largest) = far.send(&mut service, 5000, 1000);
            let right = (0.25 / recipient).max(50.0);
            let portion = f64::from(service.portion());
            assert!((portion / right - 1.0).abs() < 0.25, "{writes:?} {recipient}: {portion}");
            assert!(largest as f64 <= 2.5 * right, "{writes:?} {recipient}: {largest}");
            assert!(time < 1.1 * far.whole(5000, 1000), "{writes:?} {recipient}: {time}");
            let estimate = measured(&service).recipient.as_secs_f64();
            assert!((estimate / recipient - 1.0).abs() < 0.25, "{writes:?} {recipient}: {estimate}");
        }
    }
}

#[test]
fn a_far_side_that_is_slow_with_messages_gets_large_transactions_and_the_post_takes_no_longer() {
    for writes in WRITES {
        for (message, recipient) in [(0.3, 0.001), (1.0, 0.0005), (2.0, 0.0001), (0.3, 0.005), (1.0, 0.005)] {
            let far = Far { message, recipient, writes, round_trip: 0.0 };
            let mut service = Service::new();
            far.send(&mut service, 100, 100);
            far.send(&mut service, 5000, 1000);
            let (time, _) = far.send(&mut service, 20_000, 1000);
            let whole = far.whole(20_000, 1000);
            assert!(time < 1.35 * whole, "{writes:?} {message} {recipient}: {time} and not {whole}");
        }
    }
}

#[test]
fn a_fast_far_side_over_a_long_path_is_not_divided() {
    // Flights of a fresh connection, each doubled: the replies to one come in a piece.
    for round_trip in [0.03, 0.13, 0.3, 0.6] {
        let mut service = Service::new();
        let path = Duration::from_secs_f64(round_trip);
        let mut flight = 400u64;
        for round in 0..6 {
            let waited = if round == 0 { 0.001 } else { round_trip - 0.005 };
            let pieces = 8;
            for piece in 0..pieces {
                let waited = if piece == 0 { waited } else { 0.0005 };
                let answers = Work { messages: u64::from(piece == 0), recipients: flight / pieces };
                service.heard(Duration::from_secs_f64(waited), Path::Smooth, answers, 2, path);
            }
            assert!(service.portion() >= 1000, "{round_trip}, round {round}: {}", service.portion());
            let in_hand = Work { messages: 4, recipients: flight * 3 };
            assert!(!service.pace(path).is_full(in_hand), "{round_trip}, round {round}: {:?}", service.pace(path));
            flight *= 2;
        }
    }
}

#[test]
fn what_is_presumed_of_a_far_side_depends_on_its_distance() {
    let presumed = |round_trip: u64| match Service::new().pace(Duration::from_micros(round_trip)) {
        Pace::Presumed(work) => (work.messages, work.recipients),
        Pace::Measured(measured) => panic!("{measured:?}"),
    };
    assert_eq!(presumed(100), (16, 100));
    assert_eq!(presumed(10_000), (32, 500));
    assert_eq!(presumed(130_000), (64, 1000));
}

#[test]
fn a_far_side_that_becomes_slow_or_fast_is_found_out_in_a_post() {
    for writes in WRITES {
        let fast = Far { message: 0.0005, recipient: 0.00005, writes, round_trip: 0.0 };
        let slow = Far { message: 0.002, recipient: 0.005, ..fast };
        let mut service = Service::new();
        fast.send(&mut service, 20_000, 1000);
        assert!(service.portion() >= 1000, "{writes:?}: {}", service.portion());
        slow.send(&mut service, 5000, 1000);
        assert!(service.portion() <= 150, "{writes:?}: {}", service.portion());
        fast.send(&mut service, 20_000, 1000);
        assert!(service.portion() >= 1000, "{writes:?}: {} {service:?}", service.portion());
    }
}

/// A path of 130 ms that takes a flight of 500 recipients in each round trip and loses something in one of six, so that a few
/// replies come two round trips late and all others at once behind them. What is in hand must fill it at all times, six
/// round trips of it, or the losses bring about what they seem to show.
#[test]
fn what_a_path_loses_is_not_held_against_the_far_side() {
    let path = Duration::from_millis(130);
    let mut service = Service::new();
    let answers = |recipients| Work { messages: 0, recipients };
    for round in 0..200 {
        let (waited, lost) = if round % 6 == 5 { (path * 3, Path::Lossy) } else { (path, Path::Smooth) };
        service.heard(waited, lost, answers(if lost == Path::Lossy { 20 } else { 250 }), 3, path);
        service.heard(Duration::from_micros(500), Path::Smooth, answers(250), 3, path);
        let in_hand = Work { messages: 3, recipients: 3000 };
        assert!(round == 0 || !service.pace(path).is_full(in_hand), "round {round}: {:?}", service.pace(path));
    }
}

#[test]
fn a_far_side_that_becomes_faster_is_found_out_on_a_lossy_path_too() {
    let mut service = Service::new();
    let answers = Work { messages: 1, recipients: 100 };
    (0..50).for_each(|_| service.heard(Duration::from_millis(500), Path::Smooth, answers, 3, Duration::ZERO));
    assert!(service.portion() <= 100, "{}", service.portion());
    (0..50).for_each(|_| service.heard(Duration::from_millis(5), Path::Lossy, answers, 3, Duration::ZERO));
    assert!(service.portion() >= 1000, "{}", service.portion());
}

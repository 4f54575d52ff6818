//! Any far side, any cut: the books balance, and nothing is called delivered that was not.
//!
//! Each conversation is drawn from one number, its seed, which a failure prints. More of them, or one again:
//!
//! ```text
//! ZRELAY_CONVERSATIONS=1000000 cargo nextest run -p zrelay-smtp random
//! ZRELAY_SEED=17 ZRELAY_CONVERSATIONS=1 cargo nextest run -p zrelay-smtp random
//! ```

use std::fmt::Write as _;

use zrelay_config::Pipelining;

use super::far::{Far, Mischief, Offers};
use super::harness::{Dice, Handshake, Run, settings};
use crate::conversation::{Protocol, Security, Settings};
use crate::testing::Parcel;

/// Conversations of each of the tests below; all of them together are 120,000.
const CONVERSATIONS: u64 = 20_000;

/// What may come in the place of any reply.
const REPLIES: [&str; 24] = [
    "550 5.1.1 User unknown",
    "450 4.2.0 Greylisted",
    "552 5.3.4 Too big",
    "451 4.3.0 Try again",
    "452 4.5.3 Too many recipients",
    "452 4.5.3 Too many messages in this session",
    "554 5.7.1 Refused",
    "503 5.5.1 Bad sequence",
    "503 5.7.1 Relay not allowed",
    "450-4.7.1 line one\r\n450 4.7.1 line two",
    "250 2.0.0 Ok",
    "250",
    "250 9.9.9 odd",
    "299 Whatever",
    "354 go on",
    "354",
    "421 4.3.2 Enough, but I stay",
    "421 4.7.0 too many messages in this connection",
    "220 Ready",
    "221 Bye",
    "334 more",
    "500 \u{fffd}\u{7}",
    "599 5.0.0",
    "535 5.7.8 No",
];

/// What is no reply.
const GARBAGE: [&str; 6] =
    ["what?", "600 6.0.0 Out of range", "25", "250-2.0.0 one\r\n550 5.0.0 other", "", "\u{1}\u{2}"];

/// How a far side behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Temper {
    /// Keeps to what it offers, whatever it is given.
    Honest,
    /// Refuses and hangs up as servers do.
    Moody,
    /// Says anything to anything.
    Mad,
}

fn script(seed: u64, temper: Temper, per_mille: u64) -> impl FnMut(&str) -> Option<Mischief> {
    let mut dice = Dice::new(seed);
    let pick = |dice: &mut Dice, from: &[&'static str]| from[dice.roll(from.len() as u64) as usize];
    move |line| {
        if temper == Temper::Honest || dice.roll(1000) >= per_mille {
            return None;
        }
        let rare = dice.roll(8) == 0;
        Some(match (temper, dice.roll(12)) {
            (_, 0) if rare => Mischief::Close,
            (_, 1) if rare => Mischief::Mute,
            (_, 2) if rare => Mischief::SayAndClose("421 4.7.0 Enough"),
            (Temper::Mad, 3) if rare => Mischief::SayAndClose("250 2.0.0 Ok"),
            (Temper::Mad, 4) if rare => Mischief::Say(pick(&mut dice, &GARBAGE)),
            (Temper::Mad, 5) if rare => Mischief::SayAndClose("250-without an end"),
            (Temper::Mad, _) => Mischief::Say(pick(&mut dice, &REPLIES)),
            // A refused RSET leaves the far side in a state that no client can know.
            _ if ["RSET", "QUIT", "EHLO", "LHLO"].iter().any(|verb| line.starts_with(verb)) => return None,
            (_, 5) if rare => Mischief::Say("421 4.3.2 Enough, but I stay"),
            _ => Mischief::Say(pick(&mut dice, &REPLIES[..10])),
        })
    }
}

fn letters(dice: &mut Dice) -> Vec<Parcel> {
    let count = 1 + if dice.roll(10) == 0 { dice.roll(25) } else { dice.roll(5) };
    (0..count)
        .map(|number| {
            let mut body = format!("Subject: {number}\r\n\r\n");
            let fill = if dice.roll(64) == 0 { dice.roll(20_000) } else { dice.roll(60) };
            for _ in 0..fill {
                body.push_str(["a", ".", "\r\n", "b c"][dice.roll(4) as usize]);
            }
            let mut parcel = Parcel::new(body.as_bytes()).in_slices_of(1 + dice.roll(5000) as usize);
            let recipients = 1 + if dice.roll(20) == 0 { dice.roll(60) } else { dice.roll(3) };
            let verp = dice.roll(4) == 0;
            for recipient in 0..recipients {
                let sender = if verp { format!("s{number}-{}@src", recipient % 3) } else { format!("s{number}@src") };
                parcel = parcel.to(&sender, &[&format!("r{recipient}.m{number}@dst")]);
            }
            parcel
        })
        .collect()
}

fn offers(dice: &mut Dice) -> Offers {
    let mut offers = match dice.roll(4) {
        0 => Offers::nothing(),
        1 => Offers::pipelining(),
        _ => Offers::everything(),
    };
    if dice.roll(5) == 0 {
        offers = offers.with(&["DSN", "SMTPUTF8", "ENHANCEDSTATUSCODES"]);
    }
    if dice.roll(7) == 0 {
        offers = offers.with(&["LIMITS MAILMAX=5 RCPTMAX=7"]);
    }
    if dice.roll(4) == 0 {
        offers = offers.with(&["STARTTLS"]);
    }
    offers
}

fn any_settings(dice: &mut Dice, protocol: Protocol) -> Settings {
    let levels = [Pipelining::Lockstep, Pipelining::Transaction, Pipelining::Pipelined, Pipelining::Stream];
    Settings {
        // The highest twice as often.
        highest: levels[dice.roll(5).min(3) as usize],
        unacknowledged_messages: [1, 3, 64][dice.roll(3) as usize],
        recipients: [2, 1000][dice.roll(2) as usize],
        security: [Security::Clear, Security::Clear, Security::Opportunistic, Security::Required]
            [dice.roll(4) as usize],
        protocol,
        ..settings()
    }
}

/// One conversation. What must hold however it went is asserted on the way and at the end: see [`Run`].
fn converse(seed: u64, protocol: Protocol, temper: Temper) {
    let mut dice = Dice::new(seed);
    let settings = any_settings(&mut dice, protocol);
    let per_mille = [5, 30, 200, 700][dice.roll(4) as usize];
    let mut far = Far::new(offers(&mut dice), script(dice.seed(), temper, per_mille));
    far.recipients_max = [usize::MAX, usize::MAX, 1, 5][dice.roll(4) as usize];
    far.swallows = dice.roll(3) == 0;
    far.goes_ahead = dice.roll(2) == 0;
    if protocol == Protocol::Lmtp {
        far = far.lmtp();
    }
    let ends_early = far.has_limits();
    let is_possible = settings.security != Security::Required || far.offers_tls();
    let mut run = Run::new(settings, far, dice.seed());
    run.handshake =
        Some(if temper != Temper::Honest && dice.roll(4) == 0 { Handshake::Fails } else { Handshake::Works });
    for letter in letters(&mut dice) {
        if run.end.is_some() {
            break;
        }
        run.carry(letter);
        // Some come while the others are under way.
        for _ in 0..dice.roll(4) {
            if run.end.is_none() {
                run.exchange();
            }
        }
    }
    run.finish();
    if temper == Temper::Honest && is_possible && !ends_early {
        run.assert_all_delivered();
    }
}

/// Tells how to see a failed conversation again.
struct Failing {
    test: &'static str,
    seed: u64,
}

impl Drop for Failing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = String::new();
            let _infallible = write!(
                text,
                "again: ZRELAY_SEED={} ZRELAY_CONVERSATIONS=1 cargo nextest run -p zrelay-smtp {}",
                self.seed, self.test
            );
            eprintln!("{text}");
        }
    }
}

fn conversations(test: &'static str, protocol: Protocol, temper: Temper) {
    let given = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = given("ZRELAY_SEED").unwrap_or(1);
    let count = given("ZRELAY_CONVERSATIONS").unwrap_or(CONVERSATIONS);
    for seed in first..first.saturating_add(count) {
        let failing = Failing { test, seed };
        converse(seed, protocol, temper);
        drop(failing);
    }
    println!("{count} conversations from seed {first}");
}

#[test]
fn whatever_a_moody_far_side_does_the_books_balance() {
    conversations("moody_far_side", Protocol::Smtp, Temper::Moody);
}

#[test]
fn whatever_a_mad_far_side_says_the_books_balance() {
    conversations("mad_far_side", Protocol::Smtp, Temper::Mad);
}

#[test]
fn whatever_a_moody_lmtp_server_does_the_books_balance() {
    conversations("moody_lmtp", Protocol::Lmtp, Temper::Moody);
}

#[test]
fn whatever_a_mad_lmtp_server_says_the_books_balance() {
    conversations("mad_lmtp", Protocol::Lmtp, Temper::Mad);
}

#[test]
fn an_honest_far_side_gets_everything_once() {
    conversations("honest_far_side", Protocol::Smtp, Temper::Honest);
}

#[test]
fn an_honest_lmtp_server_gets_everything_once() {
    conversations("honest_lmtp", Protocol::Lmtp, Temper::Honest);
}

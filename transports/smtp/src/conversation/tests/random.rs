//! Any far side, any cut: the books balance, and nothing is called delivered that was not.

use proptest::prelude::*;
use zrelay_config::Pipelining;

use super::far::{Far, Mischief, Offers};
use super::harness::{Dice, Run, settings};
use crate::conversation::{Protocol, Settings};
use crate::testing::Parcel;

/// How wicked a far side is: mishaps per thousand commands.
fn script(seed: u64, per_mille: u64) -> impl FnMut(&str) -> Option<Mischief> {
    const COMMON: [&str; 8] = [
        "550 5.1.1 User unknown",
        "450 4.2.0 Greylisted",
        "552 5.3.4 Too big",
        "451 4.3.0 Try again",
        "452 4.5.3 Too many recipients",
        "554 5.7.1 Refused",
        "503 5.5.1 Bad sequence",
        "450-4.7.1 line one\r\n450 4.7.1 line two",
    ];
    let mut dice = Dice::new(seed);
    move |line| {
        if dice.roll(1000) >= per_mille {
            return None;
        }
        let rare = dice.roll(8) == 0;
        Some(match dice.roll(9) {
            0 if rare => Mischief::Close,
            1 if rare => Mischief::Mute,
            4 if rare => Mischief::SayAndClose("421 4.7.0 Enough"),
            // A refused RSET leaves the far side in a state that no client can know.
            _ if line.starts_with("RSET") || line.starts_with("QUIT") || line.starts_with("EHLO") => return None,
            2 if rare => Mischief::Say("what?"),
            3 if rare => Mischief::Say("354 go on"),
            5 if rare => Mischief::Say("421 4.3.2 Enough, but I stay"),
            _ => Mischief::Say(COMMON[dice.roll(8) as usize]),
        })
    }
}

fn letters(seed: u64, count: u64) -> Vec<Parcel> {
    let mut dice = Dice::new(seed);
    (0..count)
        .map(|number| {
            let mut body = format!("Subject: {number}\r\n\r\n");
            let fill = match dice.roll(8) {
                0 => dice.roll(40_000),
                _ => dice.roll(300),
            };
            for _ in 0..fill {
                body.push_str(["a", ".", "\r\n", "b c"][dice.roll(4) as usize]);
            }
            let mut parcel = Parcel::new(body.as_bytes()).in_slices_of(1 + dice.roll(5000) as usize);
            let recipients = match dice.roll(6) {
                0 => 1 + dice.roll(60),
                _ => 1 + dice.roll(3),
            };
            let verp = dice.roll(4) == 0;
            for recipient in 0..recipients {
                let sender = if verp { format!("s{number}-{}@src", recipient % 3) } else { format!("s{number}@src") };
                parcel = parcel.to(&sender, &[&format!("r{recipient}.m{number}@dst")]);
            }
            parcel
        })
        .collect()
}

fn offers(kind: u64) -> Offers {
    let mut offers = match kind % 4 {
        0 => Offers::nothing(),
        1 => Offers::pipelining(),
        _ => Offers::everything(),
    };
    if kind.is_multiple_of(5) {
        offers = offers.with(&["DSN", "SMTPUTF8", "ENHANCEDSTATUSCODES"]);
    }
    if kind.is_multiple_of(7) {
        offers = offers.with(&["LIMITS MAILMAX=5 RCPTMAX=7"]);
    }
    offers
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let level = prop_oneof![
        Just(Pipelining::Lockstep),
        Just(Pipelining::Transaction),
        Just(Pipelining::Pipelined),
        Just(Pipelining::Stream),
        Just(Pipelining::Stream),
    ];
    (level, prop_oneof![Just(1u32), Just(3), Just(64)], prop_oneof![Just(2u32), Just(1000)], any::<bool>()).prop_map(
        |(highest, unacknowledged_messages, recipients, lmtp)| Settings {
            highest,
            unacknowledged_messages,
            recipients,
            protocol: if lmtp { Protocol::Lmtp } else { Protocol::Smtp },
            ..settings()
        },
    )
}

fn run(settings: Settings, kind: u64, seed: u64, per_mille: u64, count: u64, recipients_max: usize) -> Run {
    let mut far = Far::new(offers(kind), script(seed, per_mille));
    far.recipients_max = recipients_max;
    far.swallows = kind.is_multiple_of(3);
    far.goes_ahead = kind.is_multiple_of(2);
    if settings.protocol == Protocol::Lmtp {
        far = far.lmtp();
    }
    let mut run = Run::new(settings, far, seed);
    for letter in letters(seed, count) {
        run.carry(letter);
    }
    run.finish();
    run
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_far_side_does_the_books_balance(
        settings in any_settings(), kind in 0u64..420, seed in any::<u64>(),
        per_mille in prop_oneof![Just(5u64), Just(30), Just(200)], count in 1u64..25,
        recipients_max in prop_oneof![Just(usize::MAX), Just(1usize), Just(5)],
    ) {
        run(settings, kind, seed, per_mille, count, recipients_max);
    }

    #[test]
    fn an_honest_far_side_gets_everything_once(
        settings in any_settings(), kind in 0u64..420, seed in any::<u64>(), count in 1u64..25,
        recipients_max in prop_oneof![Just(usize::MAX), Just(1usize), Just(5)],
    ) {
        // A limit of messages ends the connection before everything is through.
        let kind = kind + u64::from(kind.is_multiple_of(7));
        run(settings, kind, seed, 0, count, recipients_max).assert_all_delivered();
    }
}

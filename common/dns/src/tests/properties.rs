//! Whatever comes in, nothing breaks, and every question ends.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const ZONE: &str = "
    example.net.      MX 10 mx.example.net.
    example.net.      MX 20 six.example.net.
    mx.example.net.   A 192.0.2.11
    six.example.net.  AAAA 2001:db8::1
    alias.example.    CNAME example.net.
    lazy.example.     CNAME example.net.
    lazy.example.     UNCHASED
    mute.example.     SILENT
    bad.example.      SERVFAIL
    long.example.     MX 10 mx.example.net.
    long.example.     TRUNCATED
    null.example.     MX 0 .
";

const NAMES: [&str; 8] = [
    "example.net",
    "alias.example",
    "lazy.example",
    "mute.example",
    "bad.example",
    "long.example",
    "null.example",
    "nowhere.example",
];

/// What happens to a query.
#[derive(Clone, Debug)]
enum Fate {
    Answered,
    Doubled,
    Lost,
    Failed,
    /// Octets overwritten, in order: where, what.
    Garbled(Vec<(u16, u8)>),
    Shortened(u16),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Answered),
        1 => Just(Fate::Doubled),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Failed),
        3 => vec((0_u16..200, any::<u8>()), 1..6).prop_map(Fate::Garbled),
        1 => (0_u16..200).prop_map(Fate::Shortened),
    ]
}

fn suffer(world: &mut World, transmit: &Transmit, fate: &Fate) {
    if matches!(fate, Fate::Failed) {
        return world.resolver.handle_failure(world.now, transmit.id, "broken");
    }
    let Some(mut message) = world.reply(transmit) else {
        return;
    };
    match fate {
        Fate::Answered | Fate::Failed => world.deliver(transmit, &message),
        Fate::Lost => {}
        Fate::Doubled => {
            world.deliver(transmit, &message);
            world.deliver(transmit, &message);
        }
        Fate::Garbled(changes) => {
            for (place, value) in changes {
                let place = usize::from(*place) % message.len();
                message[place] = *value;
            }
            world.deliver(transmit, &message);
        }
        Fate::Shortened(length) => {
            message.truncate(usize::from(*length));
            world.deliver(transmit, &message);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_question_ends_in_one_answer_and_in_time(
        questions in vec((0_usize..NAMES.len(), any::<bool>()), 1..12),
        fates in vec(fate(), 1..200),
    ) {
        let mut world = World::new(ZONE);
        let start = world.now;
        for (token, (name, by_mx)) in questions.iter().enumerate() {
            world.ask(token as u64, if *by_mx { mx(NAMES[*name]) } else { hosts(NAMES[*name]) });
        }
        let mut fates = fates.iter().cycle();
        loop {
            for transmit in world.transmits() {
                let fate = fates.next().unwrap().clone();
                suffer(&mut world, &transmit, &fate);
            }
            let sent = world.transmits();
            for transmit in sent {
                let fate = fates.next().unwrap().clone();
                suffer(&mut world, &transmit, &fate);
            }
            if !world.next_timeout() {
                break;
            }
        }
        let mut tokens: Vec<u64> = world.answers().into_iter().map(|(token, _)| token).collect();
        tokens.sort_unstable();
        prop_assert_eq!(tokens, (0..questions.len() as u64).collect::<Vec<_>>());
        // Two look-ups behind each other, three tries each, each perhaps twice (TCP), and a few aliases.
        prop_assert!(world.now.since(start) <= Duration::from_secs(2 * (3 * 2 + 8) * 5));
    }

    #[test]
    fn arbitrary_octets_break_nothing(octets in vec(any::<u8>(), 0..600), path in any::<u8>()) {
        let mut world = World::new(ZONE);
        world.ask(1, mx("example.net"));
        let query = world.transmits().pop().unwrap();
        world.resolver.handle_datagram(world.now, query.server, path, &octets);
        // Once more with a head that matches, so that the rest is looked at.
        let mut head = query.bytes[..2].to_vec();
        head.extend([0x81, 0x80, 0, 1]);
        head.extend(octets.iter().take(6));
        head.extend(&query.bytes[12..29]);
        head.extend(octets.iter().skip(6));
        world.deliver(&query, &head);
        world.resolver.handle_tcp(world.now, query.id, &octets);
        world.settle();
        let _ = world.answers();
    }

    #[test]
    fn names_come_out_plain_or_not_at_all(text in "\\PC{0,40}", odd in vec(any::<u8>(), 0..70)) {
        let lossy = String::from_utf8_lossy(&odd).into_owned();
        let latin = odd.iter().map(|octet| char::from(*octet)).collect();
        for text in [text, lossy, latin] {
            let Some(name) = crate::name::normal(&text) else { continue };
            prop_assert!(crate::name::is_host(&name) && !name.ends_with('.'));
            prop_assert_eq!(crate::name::normal(&name), Some(name.clone()));
            let query = crate::message::encode(1, &name, crate::message::Kind::Mx, crate::message::Edns::On);
            prop_assert!(query.is_some());
        }
    }
}

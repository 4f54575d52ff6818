//! What is passed on of a message's urgency, to hosts that know of it: `MT-PRIORITY` (RFC 6710), `BY` (RFC 2852).

use zrelay_clock::Timestamp;
use zrelay_spool::{ByMode, Handling};
use zrelay_wire as wire;

/// The parameter `MT-PRIORITY`; none for mail of the usual urgency.
pub(super) fn priority(handling: Handling, offered: &wire::Capabilities) -> Option<i8> {
    (offered.mt_priority.is_some() && handling.priority != 0).then_some(handling.priority)
}

/// The parameter `BY`, with the time that is left now. What is to be returned has a second left at least: none left is
/// the scheduler's business, and not what a command can say (RFC 2852 §4.1.3).
pub(super) fn deliver_by(handling: Handling, offered: &wire::Capabilities, now: Timestamp) -> Option<wire::DeliverBy> {
    let by = handling.deliver_by.filter(|_| offered.deliver_by.is_some())?;
    let seconds = |micros: u64| i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let left = seconds(by.deadline.as_micros()).saturating_sub(seconds(now.as_micros()));
    let (mode, least) = match by.mode {
        ByMode::Return => (wire::ByMode::Return, 1),
        ByMode::Notify => (wire::ByMode::Notify, -i64::from(wire::BY_SECONDS_MAX)),
    };
    let left = left.clamp(least, i64::from(wire::BY_SECONDS_MAX));
    Some(wire::DeliverBy { seconds: i32::try_from(left).unwrap_or(wire::BY_SECONDS_MAX), mode, trace: by.trace })
}

/// Whether the host does not promise what the message wants: to be returned when it is late. Such a host is not to be
/// given it (RFC 2852 §4.2).
pub(super) fn is_unkept(handling: Handling, offered: &wire::Capabilities) -> bool {
    offered.deliver_by.is_none() && handling.deliver_by.is_some_and(|by| by.mode == ByMode::Return)
}

#[cfg(test)]
mod tests {
    use zrelay_spool::DeliverBy;

    use super::*;

    fn wanting(seconds: u64, mode: ByMode) -> Handling {
        let deliver_by = Some(DeliverBy { deadline: Timestamp::from_secs(seconds), mode, trace: true });
        Handling { flow: None, priority: 4, deliver_by }
    }

    #[test]
    fn a_host_that_offers_it_is_told_the_priority_and_the_time_that_is_left() {
        let offered = wire::Capabilities {
            mt_priority: Some(String::new()),
            deliver_by: Some(0),
            ..wire::Capabilities::default()
        };
        let by =
            |handling, now| deliver_by(handling, &offered, Timestamp::from_secs(now)).map(|by| (by.seconds, by.trace));
        assert_eq!(priority(wanting(100, ByMode::Return), &offered), Some(4));
        assert_eq!(priority(Handling::default(), &offered), None);
        assert_eq!(by(wanting(100, ByMode::Return), 40), Some((60, true)));
        assert_eq!(by(wanting(100, ByMode::Return), 100), Some((1, true)));
        assert_eq!(by(wanting(100, ByMode::Notify), 140), Some((-40, true)));
        assert_eq!(by(Handling::default(), 0), None);
        assert!(!is_unkept(wanting(100, ByMode::Return), &offered));
    }

    #[test]
    fn a_host_that_does_not_is_told_nothing_and_not_given_what_it_would_not_return() {
        let offered = wire::Capabilities::default();
        assert_eq!(priority(wanting(100, ByMode::Notify), &offered), None);
        assert_eq!(deliver_by(wanting(100, ByMode::Notify), &offered, Timestamp::ZERO), None);
        assert!(is_unkept(wanting(100, ByMode::Return), &offered));
        assert!(!is_unkept(wanting(100, ByMode::Notify), &offered));
    }
}

//! What may happen to a spool.

use proptest::prelude::*;

/// One operation of a scenario. Which message is meant is counted among those that fit.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Commit {
        recipients: u8,
        octets: u16,
        body: u8,
    },
    Append {
        octets: u16,
    },
    CommitStreamed {
        octets: u16,
    },
    Abort,
    Checkpoint,
    Route {
        message: u8,
        split: u8,
    },
    Outcome {
        message: u8,
        recipients: u8,
        disposition: u8,
        attempts: u8,
    },
    Hold {
        message: u8,
        held: bool,
        due: u8,
    },
    Thread {
        host: u8,
        failures: u8,
        held: bool,
    },
    Settle {
        message: u8,
    },
    Report {
        message: u8,
    },
    Turn,
    Idle,
    Compact {
        octets: u16,
    },
    /// The disk fails after so many operations, `times` times or until it is healed.
    Break {
        after: u8,
        times: Option<u8>,
        victim: u8,
        full: bool,
    },
    /// The driver's second is over, whether or not the disk works again.
    Retry,
    Heal,
    /// A power cut in the middle of a group, of a round of compaction, or of a removal: after so many operations of the
    /// disk.
    PowerCutAfter {
        operations: u8,
        seed: u64,
    },
    PowerCut {
        seed: u64,
    },
    Kill,
}

/// Few lengths, so that equal bodies are common.
fn octets() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(64), Just(700), Just(1500)]
}

/// Any operation; crashes and faults are `calm` times rarer than the rest is told to be.
pub(super) fn ops(calm: u32) -> impl Strategy<Value = Op> {
    prop_oneof![
        6 * calm => (1u8..5, octets(), 0u8..2).prop_map(|(recipients, octets, body)| Op::Commit { recipients, octets, body }),
        calm => (1u16..3000).prop_map(|octets| Op::Append { octets }),
        calm => (0u16..900).prop_map(|octets| Op::CommitStreamed { octets }),
        calm => Just(Op::Abort),
        6 * calm => any::<(u8, u8)>().prop_map(|(message, split)| Op::Route { message, split }),
        12 * calm => any::<(u8, u8, u8, u8)>().prop_map(|(message, recipients, disposition, attempts)| Op::Outcome {
            message, recipients, disposition, attempts
        }),
        3 * calm => any::<(u8, bool, u8)>().prop_map(|(message, held, due)| Op::Hold { message, held, due }),
        calm => (0u8..3, 0u8..2, any::<bool>()).prop_map(|(host, failures, held)| Op::Thread { host, failures, held }),
        2 * calm => any::<u8>().prop_map(|message| Op::Settle { message }),
        2 * calm => any::<u8>().prop_map(|message| Op::Report { message }),
        10 * calm => Just(Op::Turn),
        4 * calm => Just(Op::Idle),
        2 * calm => Just(Op::Checkpoint),
        6 * calm => prop_oneof![0u16..300, 0u16..20_000].prop_map(|octets| Op::Compact { octets }),
        1 => (0u8..9, proptest::option::of(1u8..6), 0u8..6, any::<bool>()).prop_map(|(after, times, victim, full)| {
            Op::Break { after, times, victim, full }
        }),
        2 => Just(Op::Retry),
        2 => (0u8..12, any::<u64>()).prop_map(|(operations, seed)| Op::PowerCutAfter { operations, seed }),
        2 => Just(Op::Heal),
        2 => any::<u64>().prop_map(|seed| Op::PowerCut { seed }),
        1 => Just(Op::Kill),
    ]
}

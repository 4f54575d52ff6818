//! How many commands a session gave and how many of them were accepted, for the line that ends it in the log.

use std::fmt::{self, Write};

/// What is counted apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Helo,
    Ehlo,
    Lhlo,
    Starttls,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Etrn,
    Quit,
    Unknown,
}

const NAMES: [&str; 16] = [
    "helo", "ehlo", "lhlo", "starttls", "mail", "rcpt", "data", "bdat", "rset", "noop", "vrfy", "expn", "help", "etrn",
    "quit", "unknown",
];

impl Verb {
    /// As commands are written in the log.
    pub(super) fn name(self) -> String {
        NAMES.get(self as usize).copied().unwrap_or_default().to_ascii_uppercase()
    }

    /// The verb of a command line, whatever stands behind it.
    pub(super) fn of(line: &[u8]) -> Self {
        let end = line.iter().position(|octet| !octet.is_ascii_alphabetic()).unwrap_or(line.len());
        let word = line.get(..end).unwrap_or_default();
        let place = NAMES.iter().position(|name| word.eq_ignore_ascii_case(name.as_bytes()));
        place.and_then(|place| ALL.get(place).copied()).unwrap_or(Self::Unknown)
    }
}

const ALL: [Verb; 16] = [
    Verb::Helo,
    Verb::Ehlo,
    Verb::Lhlo,
    Verb::Starttls,
    Verb::Mail,
    Verb::Rcpt,
    Verb::Data,
    Verb::Bdat,
    Verb::Rset,
    Verb::Noop,
    Verb::Vrfy,
    Verb::Expn,
    Verb::Help,
    Verb::Etrn,
    Verb::Quit,
    Verb::Unknown,
];

/// Whether a command was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// 2xx or 354.
    Accepted,
    /// 4xx or 5xx.
    Refused,
}

/// The counts of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    counts: [(u32, u32); 16],
}

impl Counters {
    pub(super) fn count(&mut self, verb: Verb, verdict: Verdict) {
        let Some((accepted, all)) = self.counts.get_mut(verb as usize) else {
            return;
        };
        *all = all.saturating_add(1);
        if verdict == Verdict::Accepted {
            *accepted = accepted.saturating_add(1);
        }
    }

    /// A command that was counted as accepted has failed after all.
    pub(super) fn retract(&mut self, verb: Verb) {
        if let Some((accepted, _)) = self.counts.get_mut(verb as usize) {
            *accepted = accepted.saturating_sub(1);
        }
    }
}

impl fmt::Display for Counters {
    /// As Postfix: `ehlo=1 mail=1 rcpt=2/3 data=1 quit=1 commands=6/7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sums = (0_u64, 0_u64);
        for (name, (accepted, all)) in NAMES.iter().zip(self.counts).filter(|(_, (_, all))| *all > 0) {
            write_count(f, name, u64::from(accepted), u64::from(all))?;
            f.write_char(' ')?;
            sums = (sums.0 + u64::from(accepted), sums.1 + u64::from(all));
        }
        write_count(f, "commands", sums.0, sums.1)
    }
}

fn write_count(f: &mut fmt::Formatter<'_>, name: &str, accepted: u64, all: u64) -> fmt::Result {
    if accepted == all {
        return write!(f, "{name}={all}");
    }
    write!(f, "{name}={accepted}/{all}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_read_as_those_of_postfix() {
        let mut counters = Counters::default();
        assert_eq!(counters.to_string(), "commands=0");
        for (line, verdict) in [
            ("EHLO x", Verdict::Accepted),
            ("mail from:<a@b>", Verdict::Accepted),
            ("RCPT TO:<a@b>", Verdict::Accepted),
            ("RCPT TO:<a@b>", Verdict::Refused),
            ("DATA", Verdict::Accepted),
            ("XYZZY", Verdict::Refused),
        ] {
            counters.count(Verb::of(line.as_bytes()), verdict);
        }
        counters.retract(Verb::Data);
        assert_eq!(counters.to_string(), "ehlo=1 mail=1 rcpt=1/2 data=0/1 unknown=0/1 commands=3/6");
    }

    #[test]
    fn names_and_verbs_agree() {
        for (name, verb) in NAMES.iter().zip(ALL) {
            assert_eq!(Verb::of(name.as_bytes()), verb);
            assert_eq!(format!("{verb:?}").to_lowercase(), *name);
        }
        assert_eq!(Verb::of(b"unknown"), Verb::Unknown);
    }
}

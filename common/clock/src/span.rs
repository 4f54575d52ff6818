//! A duration as operators write it: `30s`, `1h30m`, `5d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration in the configuration's notation: whole numbers with the units `ms`, `s`, `m`, `h`, `d`, `w`, largest
/// first, without blanks. Prints in the same notation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

/// Units from large to small, with their length in milliseconds.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is not a [`Span`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpanError;

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a duration like \"30s\", \"5m\", \"1h30m\" or \"5d\"")
    }
}

impl std::error::Error for SpanError {}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let mut rest = text;
        let mut millis = 0u64;
        let mut larger_units = 0;
        while !rest.is_empty() || larger_units == 0 {
            let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or(SpanError)?);
            let (unit, tail) = tail.split_at(tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len()));
            let rank = UNITS.iter().position(|(name, _)| *name == unit).ok_or(SpanError)?;
            if rank < larger_units {
                return Err(SpanError);
            }
            larger_units = rank + 1;
            let count: u64 = number.parse().map_err(|_| SpanError)?;
            millis = count.checked_mul(UNITS[rank].1).and_then(|m| millis.checked_add(m)).ok_or(SpanError)?;
            rest = tail;
        }
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        for (name, length) in UNITS {
            if millis >= length {
                write!(f, "{}{name}", millis / length)?;
                millis %= length;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_print_alike() {
        for text in ["0s", "250ms", "30s", "5m", "1h30m", "5d", "1w2d3h4m5s6ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Span>().unwrap().to_string(), "1m30s");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "5", "m", "5 m", "-5m", "1m1h", "1m1m", "5y", "1.5h", "99999999999999999999s", "9999999999999999w"]
        {
            assert_eq!(text.parse::<Span>(), Err(SpanError), "{text:?}");
        }
    }
}

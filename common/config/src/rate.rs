//! Rates as operators write them: `100/h`, `10MB/m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::raw::Size;

/// So much in so long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How much: a count or octets; at least 1.
    pub amount: u64,
    /// In how long: a second, minute, hour or day.
    pub period: Duration,
}

/// Why a text is not a [`Rate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected a rate like \"10/s\", \"100/m\", \"5000/h\" or \"50MB/d\"")]
pub struct RateError;

/// The letters of periods, with their lengths in seconds.
const PERIODS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (amount, unit) = text.split_once('/').ok_or(RateError)?;
        let seconds = PERIODS.iter().find(|(name, _)| *name == unit).ok_or(RateError)?.1;
        let count = if amount.bytes().all(|c| c.is_ascii_digit()) { amount.parse().ok() } else { None };
        let amount = count.or_else(|| Size::parse(amount).map(|size| size.0)).filter(|amount| *amount > 0);
        Ok(Self { amount: amount.ok_or(RateError)?, period: Duration::from_secs(seconds) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = PERIODS.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == self.period);
        write!(f, "{}/{}", self.amount, unit.map_or("?", |(name, _)| *name))
    }
}

/// Rates of one place; what is not limited is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// Connections begun.
    pub connections: Option<Rate>,
    /// Messages: transactions begun with one message each.
    pub messages: Option<Rate>,
    /// Recipients given.
    pub recipients: Option<Rate>,
    /// Octets of messages.
    pub bytes: Option<Rate>,
}

impl Rates {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_printed() {
        let rate = |amount, seconds| Ok(Rate { amount, period: Duration::from_secs(seconds) });
        assert_eq!("100/h".parse(), rate(100, 3600));
        assert_eq!("1/s".parse(), rate(1, 1));
        assert_eq!("10MB/m".parse(), rate(10_000_000, 60));
        assert_eq!("5KiB/d".parse(), rate(5120, 86_400));
        assert_eq!("100/h".parse::<Rate>().unwrap().to_string(), "100/h");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "100", "/h", "0/h", "-1/h", "1.5/s", "100/y", "100/hour", "100 / h", "10XB/s"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text:?}");
        }
    }
}

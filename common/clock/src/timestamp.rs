//! A point in time, in microseconds since the Unix epoch.

use std::ops::Add;
use std::time::Duration;

use jiff::tz::TimeZone;

/// A point in time: microseconds since 1970-01-01T00:00:00Z. Good for half a million years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

/// RFC 3339 days have no leap seconds here, as the Unix epoch has none.
const SECONDS_PER_DAY: u64 = 86_400;

impl Timestamp {
    /// The Unix epoch; virtual clocks of tests start here.
    pub const ZERO: Self = Self(0);
    /// Later than any time that is ever reached: "never".
    pub const NEVER: Self = Self(u64::MAX);

    /// From microseconds since the epoch, as stored on disk.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// From whole seconds since the epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Midnight UTC of a day written as in RFC 3339, `2026-11-22`; `None` for anything else, and for days before 1970.
    pub fn from_date(text: &str) -> Option<Self> {
        let date: jiff::civil::Date = text.parse().ok().filter(|_| text.len() == "2026-11-22".len())?;
        let midnight = date.to_zoned(TimeZone::UTC).ok()?.timestamp();
        u64::try_from(midnight.as_microsecond()).ok().map(Self)
    }

    /// The day in UTC, counted from the epoch.
    pub const fn day(self) -> u64 {
        self.as_secs() / SECONDS_PER_DAY
    }

    /// Midnight UTC at which a day begins.
    pub const fn from_day(day: u64) -> Self {
        Self::from_secs(day.saturating_mul(SECONDS_PER_DAY))
    }

    /// Time passed since `earlier`; zero when `earlier` is in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// As RFC 5322 §3.3 `date-time` in local time: `Sat, 21 Nov 2026 22:14:37 +0000`.
    pub fn rfc5322(self) -> String {
        self.zoned().strftime("%a, %-d %b %Y %H:%M:%S %z").to_string()
    }

    /// As RFC 3339 in UTC with milliseconds: `2026-11-21T22:14:37.123Z`.
    pub fn rfc3339(self) -> String {
        format!("{:.3}", self.jiff())
    }

    /// As the classic syslog stamp in local time: `Nov 21 22:14:37`.
    pub fn syslog(self) -> String {
        self.zoned().strftime("%b %e %H:%M:%S").to_string()
    }

    fn jiff(self) -> jiff::Timestamp {
        i64::try_from(self.0)
            .ok()
            .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok())
            .unwrap_or(jiff::Timestamp::MAX)
    }

    fn zoned(self) -> jiff::Zoned {
        self.jiff().to_zoned(TimeZone::system())
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at [`Timestamp::NEVER`].
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_saturates_at_never() {
        assert_eq!(Timestamp::from_secs(1) + Duration::MAX, Timestamp::NEVER);
        assert_eq!(Timestamp::NEVER.since(Timestamp::ZERO), Duration::from_micros(u64::MAX));
        assert_eq!(Timestamp::ZERO.since(Timestamp::NEVER), Duration::ZERO);
    }

    #[test]
    fn days_begin_at_midnight_utc() {
        let start = Timestamp::from_date("2026-11-22").unwrap();
        assert_eq!(start.rfc3339(), "2026-11-22T00:00:00.000Z");
        assert_eq!(Timestamp::from_day(start.day()), start);
        assert_eq!((start + Duration::from_secs(86_399)).day(), start.day());
        for text in ["", "2026-13-01", "2026-02-30", "22.11.2026", "2026-11-22T00:00", "1969-12-31"] {
            assert_eq!(Timestamp::from_date(text), None, "{text}");
        }
    }

    #[test]
    fn stamps_are_printed_as_the_rfcs_want() {
        let stamp = Timestamp::from_micros(1_795_299_277_123_456);
        assert_eq!(stamp.rfc3339(), "2026-11-21T22:14:37.123Z");
        assert!(stamp.rfc5322().contains(" Nov 2026 "), "{}", stamp.rfc5322());
        assert_eq!(stamp.syslog().len(), "Nov 21 22:14:37".len());
        assert!(!Timestamp::NEVER.rfc3339().is_empty());
    }
}

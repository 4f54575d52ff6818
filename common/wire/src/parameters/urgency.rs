//! How urgent a message is: `MT-PRIORITY` (RFC 6710) and `BY` (RFC 2852).

/// `BY=seconds;mode` (RFC 2852 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliverBy {
    /// Seconds that are left; may be over already with [`ByMode::Notify`].
    pub seconds: i32,
    /// What happens behind them.
    pub mode: ByMode,
    /// `T`: relays report that they passed it on.
    pub trace: bool,
}

/// RFC 2852 §4: what becomes of a message whose time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByMode {
    /// `R`: it is returned.
    Return,
    /// `N`: its sender is told, and it goes on.
    Notify,
}

/// Largest number of seconds, either way: nine digits.
pub const BY_SECONDS_MAX: i32 = 999_999_999;

/// A priority: one digit, with a minus or without (RFC 6710 §4).
pub fn mt_priority(value: &str) -> Option<i8> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let one_digit = digits.len() == 1 && digits.bytes().all(|octet| octet.is_ascii_digit());
    if one_digit { value.parse().ok() } else { None }
}

/// The value of `BY`.
pub(super) fn deliver_by(value: &str) -> Option<DeliverBy> {
    let (seconds, rest) = value.split_once(';')?;
    let digits = seconds.strip_prefix(['-', '+']).unwrap_or(seconds);
    if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let seconds: i32 = seconds.parse().ok()?;
    let (mode, trace) = match rest.as_bytes() {
        [mode] => (mode, false),
        [mode, b'T' | b't'] => (mode, true),
        _ => return None,
    };
    let mode = match mode {
        b'R' | b'r' => ByMode::Return,
        b'N' | b'n' => ByMode::Notify,
        _ => return None,
    };
    // What is over already cannot be returned in time.
    (mode == ByMode::Notify || seconds > 0).then_some(DeliverBy { seconds, mode, trace })
}

/// Writes ` MT-PRIORITY=...` and ` BY=...`.
pub(super) fn encode(out: &mut Vec<u8>, priority: Option<i8>, by: Option<DeliverBy>) {
    if let Some(priority) = priority {
        out.extend_from_slice(format!(" MT-PRIORITY={priority}").as_bytes());
    }
    if let Some(DeliverBy { seconds, mode, trace }) = by {
        let mode = if mode == ByMode::Return { 'R' } else { 'N' };
        let trace = if trace { "T" } else { "" };
        let seconds = seconds.clamp(-BY_SECONDS_MAX, BY_SECONDS_MAX);
        out.extend_from_slice(format!(" BY={seconds};{mode}{trace}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_one_digit_with_a_minus_or_without() {
        let good = [("0", 0), ("9", 9), ("-9", -9), ("-0", 0)];
        good.into_iter().for_each(|(text, number)| assert_eq!(mt_priority(text), Some(number), "{text}"));
        for bad in ["", "-", "10", "-10", "+1", "1 ", "a", "٣"] {
            assert_eq!(mt_priority(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_time_to_deliver_by_is_read_as_rfc_2852_writes_it() {
        let by = |seconds, mode, trace| Some(DeliverBy { seconds, mode, trace });
        assert_eq!(deliver_by("120;R"), by(120, ByMode::Return, false));
        assert_eq!(deliver_by("+60;nT"), by(60, ByMode::Notify, true));
        assert_eq!(deliver_by("-5;N"), by(-5, ByMode::Notify, false));
        assert_eq!(deliver_by("999999999;rt"), by(BY_SECONDS_MAX, ByMode::Return, true));
        for bad in
            ["", ";R", "120", "120;", "120;X", "120;RX", "120;RTT", "0;R", "-1;R", "1000000000;N", "1.5;N", "٣;N"]
        {
            assert_eq!(deliver_by(bad), None, "{bad:?}");
        }
    }
}

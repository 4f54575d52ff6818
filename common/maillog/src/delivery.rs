//! Lines on deliveries: one per recipient and outcome.

use std::fmt::{self, Write as _};
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_spool::{Diagnostic, Disposition, Outcome};

use crate::target;

/// The lines of one outcome: what its recipients share is composed once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeliveryLines {
    target: &'static str,
    message: String,
    tail: String,
}

impl DeliveryLines {
    /// For recipients of a message that came in at `received`.
    pub fn new(outcome: &Outcome, received: Timestamp) -> Self {
        Self {
            target: target_of(outcome),
            message: outcome.batch.message.to_string(),
            tail: tail(outcome, received).unwrap_or_default(),
        }
    }

    /// The target to log them under.
    pub fn target(&self) -> &'static str {
        self.target
    }

    /// The line for `recipient`, an address without brackets.
    pub fn to<'a>(&'a self, recipient: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| write!(f, "{}: to=<{}>{}", self.message, Address(recipient), self.tail))
    }
}

/// Which program Postfix would have log it: the transport, or the queue for what was decided there.
fn target_of(outcome: &Outcome) -> &'static str {
    match (outcome.disposition, outcome.channel.as_deref()) {
        (Disposition::Dropped | Disposition::Expired, _) | (_, None) => target::QMGR,
        (_, Some("lmtp")) => target::LMTP,
        (_, Some("discard")) => target::DISCARD,
        (_, Some("error")) => target::ERROR,
        (_, Some(_)) => target::SMTP,
    }
}

fn tail(outcome: &Outcome, received: Timestamp) -> Result<String, fmt::Error> {
    let Outcome { diagnostic, timing, .. } = outcome;
    let mut tail = String::with_capacity(160 + diagnostic.text.len());
    let relay = if diagnostic.peer.is_empty() { "none" } else { diagnostic.peer.as_str() };
    write!(tail, ", relay={relay}")?;
    if timing.reused > 0 {
        write!(tail, ", conn_use={}", timing.reused.saturating_add(1))?;
    }
    write!(
        tail,
        ", delay={}, delays={}/{}/{}/{}, dsn={}, status={} ({})",
        Seconds(outcome.at.since(received)),
        Seconds(timing.queued),
        Seconds(timing.waited),
        Seconds(timing.connected),
        Seconds(timing.sent),
        diagnostic.status,
        status(outcome.disposition),
        Reason(diagnostic, outcome.disposition),
    )?;
    Ok(tail)
}

fn status(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Delivered { .. } => "sent",
        Disposition::Deferred | Disposition::Delayed => "deferred",
        Disposition::Failed => "bounced",
        Disposition::Expired => "expired",
        Disposition::Dropped => "dropped",
    }
}

/// The reply of a host that took a message; its reply and who it is when it did not; or the reason of our own.
struct Reason<'a>(&'a Diagnostic, Disposition);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(diagnostic, disposition) = self;
        if diagnostic.code == 0 {
            // Analysers take something between the parentheses for granted.
            return f.write_str(if diagnostic.text.is_empty() { "no reason given" } else { &diagnostic.text });
        }
        match disposition {
            Disposition::Delivered { .. } => {
                write!(f, "{} {} {}", diagnostic.code, diagnostic.status, diagnostic.text)
            }
            _ => write!(f, "{diagnostic}"),
        }
    }
}

/// An address between the angle brackets of a line. A quoted local part may hold brackets of its own and so end the
/// field for a reader of the log; they are masked.
pub(crate) struct Address<'a>(pub(crate) &'a str);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pieces = self.0.split(|c: char| matches!(c, '<' | '>') || c.is_control());
        f.write_str(pieces.next().unwrap_or(""))?;
        pieces.try_for_each(|piece| write!(f, "?{piece}"))
    }
}

/// A duration as Postfix logs it: seconds with two significant digits, at most two of them decimals, below ten
/// milliseconds zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        // Hundredths, tenths or wholes, by what rounding makes of the number.
        let hundredths = rounded(micros, 10_000);
        if hundredths < 100 {
            return decimals(f, 0, hundredths, 2);
        }
        let tenths = rounded(micros, 100_000);
        if tenths < 100 {
            return decimals(f, tenths / 10, tenths % 10, 1);
        }
        write!(f, "{}", rounded(micros, 1_000_000))
    }
}

fn rounded(micros: u64, unit: u64) -> u64 {
    micros / unit + u64::from(micros % unit >= unit / 2)
}

fn decimals(f: &mut fmt::Formatter<'_>, whole: u64, mut fraction: u64, mut places: usize) -> fmt::Result {
    while places > 0 && fraction.is_multiple_of(10) {
        fraction /= 10;
        places -= 1;
    }
    match places {
        0 => write!(f, "{whole}"),
        _ => write!(f, "{whole}.{fraction:0places$}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zrelay_spool::{BatchId, MessageId, Status, Timing};

    use super::*;

    fn outcome(disposition: Disposition, diagnostic: Diagnostic, timing: Timing) -> Outcome {
        Outcome {
            batch: BatchId { message: MessageId(0x64A0), number: 0 },
            recipients: vec![0],
            disposition,
            diagnostic: Arc::new(diagnostic),
            at: Timestamp::from_micros(101_400_000),
            attempts: 1,
            due: Timestamp::ZERO,
            timing,
            channel: Some("smtp".into()),
        }
    }

    fn line(outcome: &Outcome, recipient: &str) -> String {
        DeliveryLines::new(outcome, Timestamp::from_secs(100)).to(recipient).to_string()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn seconds_have_two_significant_digits_as_postfix_writes_them() {
        for (micros, text) in [
            (0, "0"),
            (4_999, "0"),
            (5_000, "0.01"),
            (34_000, "0.03"),
            (300_000, "0.3"),
            (470_000, "0.47"),
            (996_000, "1"),
            (999_999, "1"),
            (1_000_000, "1"),
            (1_430_000, "1.4"),
            (9_949_999, "9.9"),
            (9_950_000, "10"),
            (31_400_000, "31"),
            (99_500_000, "100"),
            (3_619_000_000, "3619"),
            (432_000_400_000, "432000"),
        ] {
            assert_eq!(Seconds(Duration::from_micros(micros)).to_string(), text, "{micros}");
        }
        assert!(!Seconds(Duration::MAX).to_string().is_empty());
    }

    #[test]
    fn a_delivery_is_logged_as_postfix_does() {
        let diagnostic = Diagnostic {
            code: 250,
            status: Status(2, 0, 0),
            text: "OK 17".into(),
            peer: "mx.example.org[192.0.2.10]:25".into(),
            command: "end of DATA".into(),
        };
        let timing = Timing {
            queued: millis(30),
            waited: millis(900),
            connected: Duration::ZERO,
            sent: millis(470),
            reused: 6,
            encrypted: true,
        };
        let sent = outcome(Disposition::Delivered { dsn_relayed: false }, diagnostic, timing);
        assert_eq!(
            line(&sent, "ann@example.org"),
            "64A0: to=<ann@example.org>, relay=mx.example.org[192.0.2.10]:25, conn_use=7, delay=1.4, \
             delays=0.03/0.9/0/0.47, dsn=2.0.0, status=sent (250 2.0.0 OK 17)"
        );
        assert_eq!(DeliveryLines::new(&sent, Timestamp::ZERO).target(), "smtp");
    }

    #[test]
    fn each_transport_logs_under_its_own_name() {
        let mut outcome = outcome(Disposition::Deferred, Diagnostic::default(), Timing::default());
        for (channel, target) in [("smtp", "smtp"), ("lmtp", "lmtp"), ("error", "error"), ("discard", "discard")] {
            outcome.channel = Some(channel.into());
            assert_eq!(DeliveryLines::new(&outcome, Timestamp::ZERO).target(), target);
        }
        outcome.disposition = Disposition::Expired;
        assert_eq!(DeliveryLines::new(&outcome, Timestamp::ZERO).target(), "qmgr");
    }

    #[test]
    fn a_deferral_names_the_host_and_the_command() {
        let diagnostic = Diagnostic {
            code: 450,
            status: Status(4, 2, 1),
            text: "slow down".into(),
            peer: "mx.example.net[198.51.100.7]:25".into(),
            command: "RCPT TO".into(),
        };
        let deferred = outcome(Disposition::Deferred, diagnostic, Timing::default());
        assert_eq!(
            line(&deferred, "bob@example.net"),
            "64A0: to=<bob@example.net>, relay=mx.example.net[198.51.100.7]:25, delay=1.4, delays=0/0/0/0, dsn=4.2.1, \
             status=deferred (host mx.example.net[198.51.100.7]:25 said: 450 4.2.1 slow down (in reply to RCPT TO \
             command))"
        );
    }

    #[test]
    fn reasons_of_our_own_have_no_relay_and_are_never_empty() {
        let failed = outcome(Disposition::Failed, Diagnostic::local(Status(5, 1, 2), ""), Timing::default());
        assert!(line(&failed, "x@dead.example").contains("relay=none, delay=1.4"));
        assert!(line(&failed, "x").ends_with("dsn=5.1.2, status=bounced (no reason given)"));
    }

    #[test]
    fn a_quoted_local_part_cannot_end_the_address_field() {
        let failed = outcome(Disposition::Dropped, Diagnostic::default(), Timing::default());
        assert!(line(&failed, "\"x>, relay=a, status=sent (\"@b").starts_with("64A0: to=<\"x?, relay=a"));
    }
}

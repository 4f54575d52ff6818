//! What a failure or a refusing reply is about: see the table in [the crate's documentation](crate#what-replies-change).
//!
//! Enhanced status codes (RFC 3463) tell receivers' tempers apart less often than their words do, so the words come
//! first: those below are what large receivers and the usual servers say. Whoever says it in other words is taught by
//! the clause's rules, which come before everything here.

use std::time::Duration;

use zrelay_config::{Clause, ReplyClass};
use zrelay_spool::{Diagnostic, Status};

/// A reply's class, and how long it wants the site left alone if a rule of the clause says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Classified {
    pub(crate) class: ReplyClass,
    pub(crate) suspend: Option<Duration>,
}

/// Limits of one connection, which the next one does not have: Exim's "too many messages in this connection",
/// Postfix's "Error: too many errors", Stalwart's "number of messages per session exceeded".
const WORN: [&str; 5] = ["in this connection", "in this session", "per session", "per connection", "too many errors"];

/// Waits that a server asks of every new sender and recipient pair, once.
const GREYLIST: [&str; 3] = ["greylist", "graylist", "grey list"];

/// As Exim ("Too many concurrent SMTP connections"), Postfix ("Error: too many connections from"), sendmail ("Too many
/// open connections"), Microsoft (`451 4.7.652`, "RP-003 connection limit") and Yahoo ("maximum number of connections").
const CONNECTIONS: [&str; 7] = [
    "too many connections",
    "too many concurrent",
    "too many open connections",
    "too many sessions",
    "concurrent connection",
    "number of connections",
    "connection limit",
];

/// As Postfix ("Error: too much mail from"), Gmail ("unusual rate of"; "receiving mail at a rate that"), Microsoft
/// ("RP-001 rate limited", "temporarily rate limited"), Yahoo ("unexpected volume").
const RATE: [&str; 15] = [
    "rate limit",
    "rate-limit",
    "ratelimit",
    "rate of",
    "at a rate",
    "connection rate",
    "message rate",
    "throttl",
    "too much mail",
    "too many messages",
    "too many recipients from",
    "too fast",
    "too quickly",
    "slow down",
    "unexpected volume",
];

/// As lists of bad senders are called, and what is said of those on them.
const REPUTATION: [&str; 9] = [
    "reputation",
    "blocklist",
    "block list",
    "blacklist",
    "dnsbl",
    "spamhaus",
    "client host rejected",
    "user complaints",
    "unsolicited mail",
];

/// The class of a failure or of a refusing reply, in threads of this clause.
pub(crate) fn classify(clause: &Clause, diagnostic: &Diagnostic) -> Classified {
    if let Some(rule) = by_rule(clause, diagnostic) {
        return rule;
    }
    Classified { class: by_itself(diagnostic), suspend: None }
}

fn by_rule(clause: &Clause, diagnostic: &Diagnostic) -> Option<Classified> {
    if clause.replies.is_empty() {
        return None;
    }
    let Diagnostic { code, status, text, .. } = diagnostic;
    let whole = if *code == 0 { format!("{status} {text}") } else { format!("{code} {status} {text}") };
    let rule = clause.replies.iter().find(|rule| rule.matches.matches(&whole))?;
    Some(Classified { class: rule.class, suspend: rule.suspend })
}

fn by_itself(diagnostic: &Diagnostic) -> ReplyClass {
    let Diagnostic { code, status, command, .. } = diagnostic;
    if *code == 0 {
        return if status.1 == 7 { ReplyClass::Tls } else { ReplyClass::Connect };
    }
    let opening = matches!(command.as_str(), "" | "EHLO" | "HELO" | "LHLO" | "STARTTLS");
    if *code == 421 || *code < 500 || opening {
        let text = diagnostic.text.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match () {
            () if says(&WORN) => return ReplyClass::Unavailable,
            () if says(&GREYLIST) => return ReplyClass::Recipient,
            () if says(&CONNECTIONS) => return ReplyClass::Connections,
            () if says(&RATE) => return ReplyClass::Rate,
            () if says(&REPUTATION) => return ReplyClass::Reputation,
            () => {}
        }
    }
    match (*code, command.as_str()) {
        (421, _) => ReplyClass::Unavailable,
        (500.., _) if opening => ReplyClass::Greeting5xx,
        (_, _) if opening => ReplyClass::Greeting4xx,
        // X.7.x puts off by policy. At MAIL or behind the message that is about who sends; at RCPT it can be about the
        // recipient as well, and no site is to suffer for one recipient.
        (..500, "MAIL FROM" | "DATA" | "end of DATA" | "BDAT") if matches!(status, Status(_, 7, _)) => ReplyClass::Rate,
        (_, "RCPT TO" | "MAIL FROM") => ReplyClass::Recipient,
        _ => ReplyClass::Content,
    }
}

#[cfg(test)]
mod tests {
    use zrelay_config::{Pattern, ReplyRule};

    use super::*;

    fn said(code: u16, status: Status, command: &str, text: &str) -> Diagnostic {
        Diagnostic { code, status, command: command.into(), text: text.into(), ..Diagnostic::default() }
    }

    #[test]
    fn what_real_receivers_say_is_read_as_they_mean_it() {
        use ReplyClass::{
            Connect, Connections, Content, Greeting4xx, Greeting5xx, Rate, Recipient, Reputation, Tls, Unavailable,
        };
        let table = [
            (0, (4, 4, 1), "", "connect to mx[192.0.2.1]:25: Connection refused", Connect),
            (0, (4, 4, 3), "", "name server failure for example.net", Connect),
            (0, (4, 7, 5), "", "Cannot start TLS with mx: certificate expired", Tls),
            (421, (4, 7, 0), "", "mx.example Error: too many connections from 192.0.2.1", Connections),
            (421, (4, 0, 0), "", "Too many concurrent SMTP connections; please try again later.", Connections),
            (
                451,
                (4, 7, 652),
                "MAIL FROM",
                "The mail server has exceeded the maximum number of connections.",
                Connections,
            ),
            (554, (5, 0, 0), "", "mx Too many connections from your host", Connections),
            (450, (4, 0, 0), "", "service busy", Greeting4xx),
            (554, (5, 3, 2), "", "mx.example does not accept mail", Greeting5xx),
            (421, (4, 3, 2), "", "mx.example is shutting down", Unavailable),
            (421, (4, 0, 0), "MAIL FROM", "too many messages in this connection", Unavailable),
            (421, (4, 7, 0), "RCPT TO", "mx.example Error: too many errors", Unavailable),
            (450, (4, 7, 1), "MAIL FROM", "Error: too much mail from 192.0.2.1", Rate),
            (450, (4, 7, 1), "RCPT TO", "Error: too many recipients from 192.0.2.1", Rate),
            (421, (4, 7, 28), "end of DATA", "Gmail has detected an unusual rate of unsolicited mail", Rate),
            (450, (4, 2, 1), "RCPT TO", "The user you are trying to contact is receiving mail at a rate that", Rate),
            (451, (4, 7, 650), "DATA", "The mail server has been temporarily rate limited", Rate),
            (451, (4, 7, 1), "MAIL FROM", "come back later", Rate),
            (421, (4, 7, 0), "", "temporarily deferred due to user complaints", Reputation),
            (450, (4, 7, 1), "RCPT TO", "Client host rejected: cannot find your hostname", Reputation),
            (450, (4, 2, 0), "RCPT TO", "<a@b>: Recipient address rejected: Greylisted", Recipient),
            (451, (4, 7, 1), "RCPT TO", "Greylisting in action, please come back later", Recipient),
            (452, (4, 2, 2), "RCPT TO", "over quota", Recipient),
            (451, (4, 7, 1), "RCPT TO", "try again later", Recipient),
            (550, (5, 7, 1), "RCPT TO", "blocked using spamhaus", Recipient),
            (550, (5, 1, 1), "RCPT TO", "no such user", Recipient),
            (552, (5, 3, 4), "end of DATA", "too large", Content),
            (554, (5, 7, 1), "BDAT", "spam", Content),
            (451, (4, 3, 0), "end of DATA", "local error in processing", Content),
        ];
        for (code, (class, subject, detail), command, text, expected) in table {
            let status = Status(class, subject, detail);
            assert_eq!(by_itself(&said(code, status, command, text)), expected, "{code} {status} {text} to {command}");
        }
    }

    #[test]
    fn the_clauses_rules_come_first_and_the_first_that_matches_counts() {
        let rule =
            |pattern: &str, class, suspend| ReplyRule { matches: Pattern::over_text(pattern).unwrap(), class, suspend };
        let hours = Some(Duration::from_secs(6 * 3600));
        let clause = Clause {
            replies: vec![
                rule("451 4.7.1 *come back tomorrow*", ReplyClass::Rate, hours),
                rule("45? *", ReplyClass::Content, None),
                rule("4.4.1 *refused*", ReplyClass::Reputation, None),
            ],
            ..Clause::default()
        };
        let reply = said(451, Status(4, 7, 1), "RCPT TO", "Please come back tomorrow.");
        assert_eq!(classify(&clause, &reply), Classified { class: ReplyClass::Rate, suspend: hours });
        let reply = said(450, Status(4, 7, 1), "MAIL FROM", "too much mail");
        assert_eq!(classify(&clause, &reply).class, ReplyClass::Content);
        let refused = said(0, Status(4, 4, 1), "", "Connection refused");
        assert_eq!(classify(&clause, &refused).class, ReplyClass::Reputation);
        assert_eq!(classify(&clause, &said(421, Status(4, 0, 0), "", "bye")).class, ReplyClass::Unavailable);
    }
}

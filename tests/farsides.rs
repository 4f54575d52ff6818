//! Real servers as next hops that refuse, limit and hang up: what they keep is compared with what the hub was given.
//!
//! Each server gets the same mixes, in one go: good mail to one and to several, refused senders, messages of which some or
//! all recipients are refused, one that is too large, one to more recipients than fit, thirty dead addresses in a row in
//! front of good ones. The rows of [`Side`] say what each makes of them.
//!
//! | | MAIL refused | too large | recipients a message | messages a session | errors a session |
//! |---|---|---|---|---|---|
//! | Postfix | access table | `SIZE` | 30 | no such limit, only rates | 10 |
//! | Exim | ACL | `SIZE` | 30 | 20 | 10 refused recipients, by an ACL that drops |
//! | OpenSMTPD | filter | `SIZE` | 30 | 20 | no such limit |
//! | sendmail | rule set | `SIZE` | 30 | no such limit | 6 refused recipients |
//! | chasquid | an address literal as its domain | `SIZE` | 100, built in | no such limit | 3, built in |
//! | Dovecot LMTP | never: see the test of its senders | a quota, behind the message | no such limit | no such limit | no such limit |
//! | aiosmtpd, by SMTP and LMTP | handler | `SIZE` | 30 | 20 | 10 refusals, by its handler |
//!
//! What `SIZE` announces is never exceeded: the hub refuses such a message itself.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use zrelay_tests::peers::{Aiosmtpd, Chasquid, Dovecot, Exim, MISSING, OpenSmtpd, Peers, Postfix, Receiver, Sendmail};
use zrelay_tests::{Answered, Body, Client, Hub, Mail, Marked, Process, SOON, inject, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const PATIENCE: Duration = Duration::from_secs(90);

/// Mixed messages, before the special ones.
const MESSAGES: usize = 84;
/// More than any of the servers takes in one transaction, where it has a limit.
const CROWD: usize = 130;
/// More than any of the servers bears, where it counts errors.
const DEAD: usize = 30;

/// What a server that names its limit is spared.
const NEVER_SENT: &str = "exceeds size limit 1048576";

/// A server and what it makes of the mixes. Words are those of its replies, or the hub's own.
struct Side {
    start: fn(&Peers) -> Box<dyn Receiver>,
    channel: &'static str,
    /// Further keys of the thread's clause.
    clause: &'static str,
    /// The conversation level that it is met with in the end.
    level: &'static str,
    /// The domain of the senders that are to be refused.
    refused: &'static str,
    /// What it says to them, if it refuses any.
    mail: Option<&'static str>,
    /// What it says to dead addresses.
    rcpt: &'static str,
    /// Why what is too large fails.
    size: &'static str,
    /// The limits that are to be learned of it, as topic and value.
    lessons: &'static [(&'static str, RangeInclusive<u64>)],
    /// What it says to a session of too many errors, or notes in its log.
    errors: Option<&'static str>,
}

const POSTFIX: Side = Side {
    start: |peers| {
        let settings = "smtpd_recipient_limit = 30
message_size_limit = 1048576
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 10
smtpd_sender_restrictions = check_sender_access inline:{refused.test=REJECT}
smtpd_delay_reject = no
smtpd_recipient_restrictions = check_recipient_access regexp:{{/^bad\\./ REJECT}}
";
        Box::new(Postfix::start(peers, settings))
    },
    channel: "smtp",
    clause: "",
    level: "stream",
    refused: "refused.test",
    mail: Some("554 5.7.1"),
    rcpt: "554 5.7.1",
    size: NEVER_SENT,
    lessons: &[("recipients", 30..=30)],
    errors: Some("421 4.7.0 postfix.test Error: too many errors"),
};

const EXIM: Side = Side {
    start: |peers| {
        let settings = "recipients_max = 30
message_size_limit = 1M
log_selector = +smtp_connection
smtp_accept_max_per_connection = 20
acl_smtp_mail = ${if match{$sender_address}{refused\\\\.test}{deny}{accept}}
acl_smtp_rcpt = recipients
begin acl
recipients:
  accept
    ! local_parts = ^bad\\.
  drop
    condition = ${if >={${eval10:0$acl_c_refused}}{10}}
  deny
    set acl_c_refused = ${eval10:0$acl_c_refused + 1}
";
        Box::new(Exim::start(peers, settings))
    },
    lessons: &[("recipients", 30..=30), ("messages", 20..=20)],
    mail: Some("550 5.0.0 Administrative prohibition"),
    rcpt: "550 5.0.0 Administrative prohibition",
    errors: Some("closed by DROP in ACL"),
    ..POSTFIX
};

const OPENSMTPD: Side = Side {
    start: |peers| {
        let settings = "smtp max-message-size 1M\nsmtp limit max-mails 20\nsmtp limit max-rcpt 30\n";
        Box::new(OpenSmtpd::start(peers, settings))
    },
    level: "lockstep",
    mail: Some("550 5.7.1 Sender refused"),
    rcpt: "550 5.0.0 Invalid recipient",
    // It counts messages in a way of its own.
    lessons: &[("recipients", 30..=30), ("messages", 20..=30)],
    errors: None,
    ..POSTFIX
};

const SENDMAIL: Side = Side {
    start: |peers| {
        let options = "O MaxMessageSize=1048576\nO MaxRecipientsPerMessage=30\nO BadRcptShutdown=6";
        Box::new(Sendmail::start(peers, options))
    },
    level: "pipelined",
    mail: Some("Sender refused"),
    rcpt: "User unknown",
    errors: Some("Too many bad recipients"),
    ..POSTFIX
};

/// It advertises PIPELINING and drops what comes with the dot.
const CHASQUID: Side = Side {
    start: |peers| Box::new(Chasquid::start(peers)),
    clause: "tls = \"none\"",
    level: "transaction",
    refused: "[192.0.2.1]",
    mail: Some("501 5.1.7 Sender address malformed"),
    rcpt: "503 5.7.1 Relay not allowed",
    // That it takes a hundred recipients shows only where it is fast enough to be given more.
    lessons: &[],
    errors: Some("421 4.5.0 Too many errors, bye"),
    ..POSTFIX
};

const DOVECOT: Side = Side {
    start: |peers| {
        let quota = "mail_plugins = quota
plugin {
  quota = maildir:all
  quota_rule = *:storage=1M
}
";
        Box::new(Dovecot::start(peers, quota))
    },
    channel: "lmtp",
    mail: None,
    rcpt: "550 5.1.1",
    size: "552 5.2.2",
    lessons: &[],
    errors: None,
    ..POSTFIX
};

const AIOSMTPD: Side = Side {
    start: |peers| Box::new(Aiosmtpd::start(peers, "smtp")),
    level: "lockstep",
    mail: Some("550 5.7.1 Sender refused"),
    rcpt: "550 5.1.1 User unknown",
    lessons: &[("recipients", 30..=30), ("messages", 20..=30)],
    errors: Some("421 4.7.0 Too many errors"),
    ..POSTFIX
};

/// The other half of what Dovecot has: an LMTP server that refuses senders and has limits.
const AIOSMTPD_LMTP: Side =
    Side { start: |peers| Box::new(Aiosmtpd::start(peers, "lmtp")), channel: "lmtp", ..AIOSMTPD };

/// What must become of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Delivered,
    /// With these words.
    Bounced(&'static str),
}

impl Side {
    fn letters(&self) -> Vec<Mail> {
        let mut letters: Vec<Mail> = (0..MESSAGES).map(|number| mixed(number, self.refused)).collect();
        let crowd = (0..CROWD).map(|index| format!("crowd.{index}@good.test")).collect();
        let dead = (0..DEAD).map(|index| format!("bad.{index}@dead.test"));
        let survivors = (0..3).map(|index| format!("survivor.{index}@good.test"));
        letters.insert(20, letter("crowd", 3000, Body::Text, "crowd@a.test", crowd));
        letters.insert(40, letter("dead", 3000, Body::Text, "dead@a.test", dead.chain(survivors).collect()));
        letters.insert(60, letter("large", 1_500_000, Body::Text, "large@a.test", vec!["large@good.test".into()]));
        letters
    }

    fn fate(&self, mail: &Mail, recipient: &str) -> Fate {
        match self.mail {
            _ if mail.content.len() > 1 << 20 => Fate::Bounced(self.size),
            Some(words) if mail.sender.ends_with(&format!("@{}", self.refused)) => Fate::Bounced(words),
            _ if recipient.starts_with("bad.") => Fate::Bounced(self.rcpt),
            _ => Fate::Delivered,
        }
    }

    /// Sends all of it through a hub and compares.
    fn receives_what_is_for_it(&self) {
        let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
        let server = (self.start)(&peers);
        let hub = Hub::build(ZRELAY)
            .route("*@a.test", "discard", "reports")
            .route(&format!("*@{}", self.refused), "discard", "reports")
            .route("*", self.channel, &server.host())
            .clause(&format!("{}/*", self.channel), &format!("interval = \"1s\"\nretries = [1]\n{}", self.clause))
            .start();
        let trace = Process::start("trace", hub.path(), ZRELAY, |command| {
            let name = format!("{}/*", self.channel);
            command.args(["trace", &name, "--for", "10m", "--config"]).arg(hub.path().join("zrelay.toml"));
        });
        assert!(wait_until(SOON, || trace.errors().contains("watching")), "{}", trace.errors());
        let letters = self.letters();
        let make = |number: usize| letters[number].clone();
        let answers = inject(hub.smtp(), letters.len(), 2, &AtomicBool::new(false), make);
        assert_eq!(answers, vec![Answered::Accepted; letters.len()]);
        let thread = format!("{}/{}", self.channel, server.host());
        let mut level = String::new();
        let settled = wait_until(PATIENCE, || {
            if let Some(now) = hub.thread(&thread)["level"].as_str().filter(|level| !level.is_empty()) {
                now.clone_into(&mut level);
            }
            let status = hub.json(&["status"]);
            status["spool"]["open_messages"] == 0 && status["totals"]["batches"] == 0
        });
        assert!(settled, "{}\n{}", hub.thread(&thread), tail(&server.log()));
        assert_eq!(level, self.level, "conversation level");
        self.assert_limits_met(&hub.json(&["sites"]), &server.host(), &trace.output(), &server.log());
        self.assert_right(&hub, &*server, &letters);
        // What finds no room goes at once and is no failure, but where the server hangs up for it.
        let put_off = hub.log_lines(&["to=<crowd.", "status=deferred"]);
        assert!(put_off.iter().all(|line| line.contains("421 ")), "{put_off:?}");
    }

    /// That the mixes have met the limits of the server, else they would show nothing.
    fn assert_limits_met(&self, known: &serde_json::Value, host: &str, trace: &str, log: &str) {
        for (topic, values) in self.lessons {
            let learned = known.as_array().into_iter().flatten().any(|fact| {
                let value = fact["value"].as_u64().unwrap_or_default();
                fact["topic"] == *topic && values.contains(&value) && host.ends_with(&port_of(&fact["subject"]))
            });
            assert!(learned, "{topic} {values:?}: {known}");
        }
        let met = self.errors.is_none_or(|words| trace.contains(words) || log.contains(words));
        assert!(met, "{:?}\n{trace}", self.errors);
    }

    fn assert_right(&self, hub: &Hub, server: &dyn Receiver, letters: &[Mail]) {
        let mut expected: BTreeMap<(String, String, Marked), usize> = BTreeMap::new();
        let mut bounced = Vec::new();
        for mail in letters {
            for recipient in &mail.recipients {
                match self.fate(mail, recipient) {
                    Fate::Bounced(words) => bounced.push((recipient.clone(), words)),
                    Fate::Delivered => {
                        expected.insert((mail.sender.clone(), recipient.clone(), mail.marked()), 0);
                    }
                }
            }
        }
        // Servers deliver in their own time.
        wait_until(PATIENCE, || server.delivered().len() >= expected.len());
        for it in server.delivered() {
            let key = it.marked.clone().map(|marked| (it.sender.clone(), it.recipient.clone(), marked));
            let count = key.as_ref().and_then(|key| expected.get_mut(key));
            let Some(count) = count else {
                let head: String = String::from_utf8_lossy(&it.content).chars().take(1500).collect();
                panic!("{:?} for {} was not sent so:\n{head}", it.sender, it.recipient)
            };
            *count += 1;
        }
        let lost: Vec<_> = expected.iter().filter(|(_, count)| **count == 0).map(|(key, _)| key).collect();
        assert!(lost.is_empty(), "{} lost, first {:?}\n{}", lost.len(), lost.first(), tail(&server.log()));
        let twice = expected.values().map(|count| count - 1).sum::<usize>();
        assert_eq!(twice, 0, "messages came twice");
        for (recipient, words) in &bounced {
            let lines = hub.log_lines(&[&format!("to=<{recipient}>"), "status=bounced"]);
            assert!(lines.len() == 1 && lines[0].contains(words), "{recipient} {words}: {lines:?}");
        }
        for (_, recipient, _) in expected.keys() {
            let lines = hub.log_lines(&[&format!("to=<{recipient}>"), "status=sent"]);
            assert_eq!(lines.len(), 1, "{recipient}: {lines:?}");
        }
    }
}

/// Good mail to one and to three, refused senders, refused recipients, some and all of them.
fn mixed(number: usize, refused: &str) -> Mail {
    let octets = [200, 4000, 40_000, 1000][number % 4];
    let body = if number.is_multiple_of(3) { Body::EightBit } else { Body::Text };
    let sender = match number % 12 {
        5 => format!("s{number}@{refused}"),
        7 => String::new(),
        _ => format!("s{number}@a.test"),
    };
    let good = |index: usize| format!("r{number}.{index}@good.test");
    let bad = |index: usize| format!("bad.{number}.{index}@dead.test");
    let recipients = match number % 12 {
        2 => vec![bad(0)],
        4 => vec![good(0), bad(1), good(2)],
        9 => vec![bad(0), bad(1)],
        1 | 6 | 8 => (0..3).map(good).collect(),
        _ => vec![good(0)],
    };
    letter(&format!("far.{number}"), octets, body, &sender, recipients)
}

fn letter(mark: &str, octets: usize, body: Body, sender: &str, recipients: Vec<String>) -> Mail {
    Mail { recipients, ..Mail::generate(mark, octets, body, sender, &[]) }
}

/// `:25` of `192.0.2.1:25`.
fn port_of(subject: &serde_json::Value) -> String {
    let subject = subject.as_str().unwrap_or_default();
    subject.rfind(':').map_or(String::new(), |colon| subject[colon..].to_owned())
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}

#[test]
fn postfix_with_limits_receives_what_is_for_it() {
    POSTFIX.receives_what_is_for_it();
}

#[test]
fn exim_with_limits_receives_what_is_for_it() {
    EXIM.receives_what_is_for_it();
}

#[test]
fn opensmtpd_with_limits_receives_what_is_for_it() {
    OPENSMTPD.receives_what_is_for_it();
}

#[test]
fn sendmail_with_limits_receives_what_is_for_it() {
    SENDMAIL.receives_what_is_for_it();
}

#[test]
fn chasquid_which_drops_what_comes_with_the_dot_receives_what_is_for_it() {
    CHASQUID.receives_what_is_for_it();
}

#[test]
fn dovecot_receives_what_is_for_it_by_lmtp() {
    DOVECOT.receives_what_is_for_it();
}

#[test]
fn aiosmtpd_with_limits_receives_what_is_for_it() {
    AIOSMTPD.receives_what_is_for_it();
}

#[test]
fn aiosmtpd_with_limits_receives_what_is_for_it_by_lmtp() {
    AIOSMTPD_LMTP.receives_what_is_for_it();
}

/// Dovecot 2.3 looks at a MAIL for its place (503), its syntax (501) and parameters that it did not offer (555). Its LMTP has
/// no setting that concerns senders or the size of a message, and none of its plugins takes part in MAIL. What the hub's
/// own grammar lets in as a sender, Dovecot's lets in too, offers are kept to, and RSET is sent where a transaction may be
/// open: so there is no refused MAIL that the mixes could hold.
#[test]
fn dovecot_refuses_a_mail_only_for_what_the_hub_does_not_write() {
    let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
    let server = Dovecot::start(&peers, "");
    let hub = Hub::build(ZRELAY).route("*", "lmtp", &server.host()).start();
    let address = server.host().replace(['[', ']'], "").parse().expect("an address");
    let mut direct = Client::connect(address);
    assert_eq!(direct.command("LHLO client.test").code, 250);
    for (command, code) in [
        ("MAIL FROM:<s 7@@a.test>", 501),
        ("MAIL FROM:<s@a.test> SIZE=1", 555),
        ("MAIL FROM:<s@a.test>", 250),
        ("MAIL FROM:<s@a.test>", 503),
    ] {
        assert_eq!(direct.command(command).code, code, "{command}");
    }
    assert_eq!(hub.client().command("MAIL FROM:<s 7@@a.test>").code / 100, 5, "not from the hub's clients either");
    let long = format!("{}@{}.test", "l".repeat(64), vec!["d".repeat(60); 3].join("."));
    let odd = [
        "",
        "\"a b \\\" <c>\"@a.test",
        "\"\"@a.test",
        ".a..b.@a.test",
        "!#$%&'*+-/=?^_`{|}~@a.test",
        "s@a_b.1.test",
        "s@[192.0.2.1]",
        "s@[IPv6:2001:db8::1]",
        &long,
    ];
    let mut marks = Vec::new();
    for (number, sender) in odd.iter().enumerate() {
        let mail = Mail::generate(&format!("sender.{number}"), 500, Body::Text, sender, &["r@good.test"]);
        assert_eq!(hub.client().mail(sender, &["r@good.test"], &mail.content).code, 250, "{sender}");
        marks.push(Some(mail.marked()));
    }
    let all = wait_until(SOON, || marks.iter().all(|mark| server.delivered().iter().any(|it| it.marked == *mark)));
    assert!(all && hub.log_lines(&["status=bounced"]).is_empty(), "{}\n{}", hub.log(), server.log());
}

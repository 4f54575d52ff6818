//! Real servers as next hops that refuse, limit and hang up: what they keep is compared with what the hub was given.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use zrelay_tests::peers::{Aiosmtpd, Chasquid, Delivered, Dovecot, Exim, MISSING, OpenSmtpd, Peers, Postfix, Sendmail};
use zrelay_tests::{Answered, Body, Hub, Mail, Marked, inject, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const PATIENCE: Duration = Duration::from_secs(90);

/// Mixed messages, before the special ones.
const MESSAGES: usize = 84;
/// More than any of the servers takes in one transaction, where it has a limit.
const CROWD: usize = 130;
/// More than any of the servers bears, where it counts errors.
const DEAD: usize = 30;

/// A real server and what is to be expected of it.
struct FarSide<'a> {
    channel: &'a str,
    host: String,
    delivered: &'a dyn Fn() -> Vec<Delivered>,
    log: &'a dyn Fn() -> String,
    /// Whether it refuses senders at `refused.test`.
    refuses_senders: bool,
    /// Whether it refuses more than a mebibyte.
    refuses_size: bool,
    /// The conversation level that it is met with in the end.
    level: &'a str,
    /// What is to be learned of it, as topic and value. Servers count messages in different ways.
    lessons: &'a [(&'a str, RangeInclusive<u64>)],
    /// Further keys of the thread's clause.
    clause: &'a str,
}

/// What must become of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Delivered,
    Bounced,
}

impl FarSide<'_> {
    fn letters(&self) -> Vec<Mail> {
        let mut letters: Vec<Mail> = (0..MESSAGES).map(mixed).collect();
        let crowd = (0..CROWD).map(|index| format!("crowd.{index}@good.test")).collect();
        let dead = (0..DEAD).map(|index| format!("bad.{index}@dead.test"));
        let survivors = (0..3).map(|index| format!("survivor.{index}@good.test"));
        letters.insert(20, letter("crowd", 3000, Body::Text, "crowd@a.test", crowd));
        letters.insert(40, letter("dead", 3000, Body::Text, "dead@a.test", dead.chain(survivors).collect()));
        letters.insert(60, letter("large", 1_500_000, Body::Text, "large@a.test", vec!["large@good.test".into()]));
        letters
    }

    fn fate(&self, mail: &Mail, recipient: &str) -> Fate {
        let refused = recipient.starts_with("bad.")
            || (self.refuses_senders && mail.sender.ends_with("@refused.test"))
            || (self.refuses_size && mail.content.len() > 1 << 20);
        if refused { Fate::Bounced } else { Fate::Delivered }
    }

    /// Sends all of it through a hub and compares.
    fn receives_what_is_for_it(&self) {
        let hub = Hub::build(ZRELAY)
            .route("*@a.test", "discard", "reports")
            .route("*@refused.test", "discard", "reports")
            .route("*", self.channel, &self.host)
            .clause(&format!("{}/*", self.channel), &format!("interval = \"1s\"\nretries = [1]\n{}", self.clause))
            .start();
        let letters = self.letters();
        let make = |number: usize| letters[number].clone();
        let answers = inject(hub.smtp(), letters.len(), 2, &AtomicBool::new(false), make);
        assert_eq!(answers, vec![Answered::Accepted; letters.len()]);
        let thread = format!("{}/{}", self.channel, self.host);
        let mut level = String::new();
        let settled = wait_until(PATIENCE, || {
            if let Some(now) = hub.thread(&thread)["level"].as_str().filter(|level| !level.is_empty()) {
                now.clone_into(&mut level);
            }
            let status = hub.json(&["status"]);
            status["spool"]["open_messages"] == 0 && status["totals"]["batches"] == 0
        });
        assert!(settled, "{}\n{}", hub.thread(&thread), tail(&(self.log)()));
        assert_eq!(level, self.level, "conversation level");
        self.assert_learned(&hub);
        self.assert_right(&hub, &letters);
        // What finds no room goes at once and is no failure, but where the server hangs up for it.
        let put_off = hub.log_lines(&["to=<crowd.", "status=deferred"]);
        assert!(put_off.iter().all(|line| line.contains("421 ")), "{put_off:?}");
    }

    fn assert_learned(&self, hub: &Hub) {
        let known = hub.json(&["sites"]);
        for (topic, values) in self.lessons {
            let learned = known.as_array().into_iter().flatten().any(|fact| {
                let value = fact["value"].as_u64().unwrap_or_default();
                fact["topic"] == *topic && values.contains(&value) && self.host.ends_with(&port_of(&fact["subject"]))
            });
            assert!(learned, "{topic} {values:?}: {known}");
        }
    }

    fn assert_right(&self, hub: &Hub, letters: &[Mail]) {
        let mut expected: BTreeMap<(String, String, Marked), usize> = BTreeMap::new();
        let mut bounced = Vec::new();
        for mail in letters {
            for recipient in &mail.recipients {
                match self.fate(mail, recipient) {
                    Fate::Bounced => bounced.push(recipient.clone()),
                    Fate::Delivered => {
                        expected.insert((mail.sender.clone(), recipient.clone(), mail.marked()), 0);
                    }
                }
            }
        }
        // Servers deliver in their own time.
        wait_until(PATIENCE, || (self.delivered)().len() >= expected.len());
        for it in (self.delivered)() {
            let key = it.marked.clone().map(|marked| (it.sender.clone(), it.recipient.clone(), marked));
            let count = key.as_ref().and_then(|key| expected.get_mut(key));
            let Some(count) = count else {
                let head: String = String::from_utf8_lossy(&it.content).chars().take(1500).collect();
                panic!("{:?} for {} was not sent so:\n{head}", it.sender, it.recipient)
            };
            *count += 1;
        }
        let lost: Vec<_> = expected.iter().filter(|(_, count)| **count == 0).map(|(key, _)| key).collect();
        assert!(lost.is_empty(), "{} lost, first {:?}\n{}", lost.len(), lost.first(), tail(&(self.log)()));
        let twice = expected.values().map(|count| count - 1).sum::<usize>();
        assert_eq!(twice, 0, "messages came twice");
        for recipient in &bounced {
            let lines = hub.log_lines(&[&format!("to=<{recipient}>"), "status=bounced"]);
            assert_eq!(lines.len(), 1, "{recipient}: {lines:?}");
        }
        for (_, recipient, _) in expected.keys() {
            let lines = hub.log_lines(&[&format!("to=<{recipient}>"), "status=sent"]);
            assert_eq!(lines.len(), 1, "{recipient}: {lines:?}");
        }
    }
}

/// Good mail to one and to three, refused senders, refused recipients, some and all of them.
fn mixed(number: usize) -> Mail {
    let octets = [200, 4000, 40_000, 1000][number % 4];
    let body = if number.is_multiple_of(3) { Body::EightBit } else { Body::Text };
    let sender = match number % 12 {
        5 => format!("s{number}@refused.test"),
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
    let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
    let settings = "smtpd_recipient_limit = 30
message_size_limit = 1048576
smtpd_error_sleep_time = 0
smtpd_sender_restrictions = check_sender_access inline:{refused.test=REJECT}
smtpd_delay_reject = no
smtpd_recipient_restrictions = check_recipient_access regexp:{{/^bad\\./ REJECT}}
";
    let postfix = Postfix::start(&peers, settings);
    let side = FarSide {
        channel: "smtp",
        host: postfix.host(),
        delivered: &|| postfix.delivered(),
        log: &|| postfix.log(),
        refuses_senders: true,
        refuses_size: true,
        level: "stream",
        lessons: &[("recipients", 30..=30)],
        clause: "",
    };
    side.receives_what_is_for_it();
}

#[test]
fn exim_with_limits_receives_what_is_for_it() {
    let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
    let settings = "recipients_max = 30
message_size_limit = 1M
smtp_accept_max_per_connection = 20
acl_smtp_mail = ${if match{$sender_address}{refused\\\\.test}{deny}{accept}}
acl_smtp_rcpt = ${if match{$local_part}{^bad\\\\.}{deny}{accept}}
";
    let exim = Exim::start(&peers, settings);
    let side = FarSide {
        channel: "smtp",
        host: exim.host(),
        delivered: &|| exim.delivered(),
        log: &|| exim.log(),
        refuses_senders: true,
        refuses_size: true,
        level: "stream",
        lessons: &[("recipients", 30..=30), ("messages", 20..=20)],
        clause: "",
    };
    side.receives_what_is_for_it();
}

#[test]
fn opensmtpd_with_limits_receives_what_is_for_it() {
    let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
    let settings = "smtp max-message-size 1M\nsmtp limit max-mails 20\nsmtp limit max-rcpt 30\n";
    let server = OpenSmtpd::start(&peers, settings);
    let side = FarSide {
        channel: "smtp",
        host: server.host(),
        delivered: &|| server.delivered(),
        log: &|| server.log(),
        refuses_senders: true,
        refuses_size: true,
        level: "lockstep",
        lessons: &[("recipients", 30..=30), ("messages", 20..=30)],
        clause: "",
    };
    side.receives_what_is_for_it();
}

#[test]
fn sendmail_with_limits_receives_what_is_for_it() {
    let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
    let server = Sendmail::start(&peers, "O MaxMessageSize=1048576\nO MaxRecipientsPerMessage=30");
    let side = FarSide {
        channel: "smtp",
        host: server.host(),
        delivered: &|| server.delivered(),
        log: &|| server.log(),
        refuses_senders: true,
        refuses_size: true,
        level: "pipelined",
        lessons: &[("recipients", 30..=30)],
        clause: "",
    };
    side.receives_what_is_for_it();
}

#[test]
fn chasquid_which_drops_what_comes_with_the_dot_receives_what_is_for_it() {
    let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
    let server = Chasquid::start(&peers);
    let side = FarSide {
        channel: "smtp",
        host: server.host(),
        delivered: &|| server.delivered(),
        log: &|| server.log(),
        refuses_senders: false,
        refuses_size: true,
        level: "transaction",
        // That it takes a hundred recipients shows only where it is fast enough to be given more.
        lessons: &[],
        clause: "tls = \"none\"",
    };
    side.receives_what_is_for_it();
}

#[test]
fn dovecot_receives_what_is_for_it_by_lmtp() {
    let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
    let server = Dovecot::start(&peers, "");
    let side = FarSide {
        channel: "lmtp",
        host: server.host(),
        delivered: &|| server.delivered(),
        log: &|| server.log(),
        refuses_senders: false,
        refuses_size: false,
        level: "stream",
        lessons: &[],
        clause: "",
    };
    side.receives_what_is_for_it();
}

#[test]
fn aiosmtpd_with_limits_receives_what_is_for_it() {
    let Some(peers) = Peers::find_as_root() else { return skip(MISSING) };
    let server = Aiosmtpd::start(&peers);
    let side = FarSide {
        channel: "smtp",
        host: server.host(),
        delivered: &|| server.delivered(),
        log: &|| server.log(),
        refuses_senders: true,
        refuses_size: true,
        level: "lockstep",
        lessons: &[("recipients", 30..=30), ("messages", 20..=30)],
        clause: "",
    };
    side.receives_what_is_for_it();
}

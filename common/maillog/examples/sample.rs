//! Prints a small log with every kind of line, to be read by an analyser:
//! `cargo run -p zrelay-maillog --example sample 2>&1 | pflogsumm --syslog-name=zrelay`
//!
//! It must report 2 received, 3 delivered, 1 deferred (1 deferral), 2 bounced, and no messages without size data.

use std::sync::Arc;
use std::time::Duration;

use zrelay_clock::{Clock, Timestamp};
use zrelay_maillog::lines::{self, Notification};
use zrelay_maillog::{DeliveryLines, Options, target};
use zrelay_spool::{BatchId, Diagnostic, Disposition, MessageId, Outcome, Status, Timing};

const FIRST: MessageId = MessageId(0x0006_40AB_CDEF);
const BOUNCE: MessageId = MessageId(0x0006_40AB_CDF0);

fn main() {
    if zrelay_maillog::init(Options::new("hub")).is_err() {
        return;
    }
    let now = Clock::start().now();
    log::warn!(target: "smtpd", "a warning, with a \n newline in it");
    log::info!(target: target::SMTPD, "{}", lines::client(FIRST, "lists.example.org[192.0.2.1]"));
    log::info!(target: target::CLEANUP, "{}", lines::message_id(FIRST, "<post.1@lists.example.org>"));
    log::info!(target: target::QMGR, "{}", lines::active(FIRST, "list-owner@lists.example.org", 4321, 6));
    let sent = Disposition::Delivered { dsn_relayed: false };
    deliver(now, FIRST, sent, &remote(250, Status(2, 0, 0), "OK 17", ""), &["ann@example.net", "bob@example.net"]);
    deliver(
        now,
        FIRST,
        Disposition::Deferred,
        &remote(450, Status(4, 2, 1), "slow down", "RCPT TO"),
        &["c@example.net"],
    );
    deliver(
        now,
        FIRST,
        Disposition::Failed,
        &remote(550, Status(5, 1, 1), "no such user", "RCPT TO"),
        &["d@example.net"],
    );
    let bad = Diagnostic::local(Status(5, 1, 2), "The domain of the recipient address is not valid");
    deliver(now, FIRST, Disposition::Failed, &bad, &["e@a..b"]);
    let gone = Diagnostic::local(Status(4, 4, 7), "delivery time expired");
    deliver(now, FIRST, Disposition::Expired, &gone, &["f@dead.example"]);
    log::info!(target: target::QMGR, "{}", lines::expired(FIRST, "list-owner@lists.example.org"));
    log::info!(target: target::CLEANUP, "{}", lines::message_id(BOUNCE, "<1@hub>"));
    log::info!(target: target::BOUNCE, "{}", lines::notification(FIRST, Notification::Failure, BOUNCE));
    log::info!(target: target::SMTPD, "{}", lines::client(BOUNCE, "localhost[127.0.0.1]"));
    log::info!(target: target::QMGR, "{}", lines::active(BOUNCE, "", 2345, 1));
    deliver(now, BOUNCE, sent, &remote(250, Status(2, 0, 0), "OK 18", ""), &["list-owner@lists.example.org"]);
    log::info!(target: target::QMGR, "{}", lines::removed(BOUNCE));
    log::info!(target: target::QMGR, "{}", lines::removed(FIRST));
}

fn remote(code: u16, status: Status, text: &str, command: &str) -> Diagnostic {
    let peer = "mx.example.net[198.51.100.7]:25".to_owned();
    Diagnostic { code, status, text: text.to_owned(), peer, command: command.to_owned() }
}

fn deliver(now: Timestamp, message: MessageId, disposition: Disposition, diagnostic: &Diagnostic, to: &[&str]) {
    let outcome = Outcome {
        batch: BatchId { message, number: 0 },
        recipients: (0u32..).zip(to).map(|(index, _)| index).collect(),
        disposition,
        diagnostic: Arc::new(diagnostic.clone()),
        at: now + Duration::from_millis(1400),
        attempts: 1,
        due: now,
        timing: Timing { sent: Duration::from_millis(470), reused: 3, ..Timing::default() },
        channel: Some("smtp".into()),
    };
    let lines = DeliveryLines::new(&outcome, now);
    for recipient in to {
        log::info!(target: lines.target(), "{}", lines.to(recipient));
    }
}

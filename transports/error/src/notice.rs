//! The text of a report: RFC 3464 in three parts, for a person, for a program, and what it is about.

use std::fmt::Write as _;

use zrelay_clock::Timestamp;
use zrelay_spool::{Content, Disposition, Envelope, Handling, MessageId, Notify, Origin, Recipient, Ret, Status};

use crate::fields::{Charset, clean, envelope_id, field, host_of, original_recipient, typed_address};
use crate::plan::is_delay;
use crate::{Addressee, Item, Original};

/// A message up to this size is returned whole, octets; of a longer one the header. As Postfix's `bounce_size_limit`.
pub const FULL_MAX: u64 = 50_000;
/// The same where `RET=FULL` was asked for, octets: a report must not become a way to multiply traffic.
pub const FULL_MAX_WANTED: u64 = 1024 * 1024;
/// A header is returned up to this size, octets, and cut behind a whole line.
pub const HEADER_MAX: usize = 64 * 1024;
/// Recipients named to the person; the program's part has all.
const NAMED_MAX: usize = 50;
/// The text for a person is passed on in pieces of about this many octets.
const PIECE: usize = 16 * 1024;

/// A report about to be written: on delays alone, or on none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice<'a> {
    /// Its own queue id.
    pub id: MessageId,
    /// The message it reports on.
    pub about: MessageId,
    /// To whom.
    pub to: &'a Addressee,
    /// What it tells, ascending by recipient.
    pub items: &'a [Item],
    /// Name of this hub.
    pub hostname: &'a str,
    /// Present time.
    pub now: Timestamp,
}

/// What a report will be made of, decided before its first octet is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    charset: Charset,
    returned: Returned,
    failures: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Returned {
    Whole,
    Header,
}

impl Notice<'_> {
    /// Decides how to write it.
    pub fn shape(&self, original: &impl Original) -> Shape {
        let ascii = self.to.address().is_ascii()
            && self.items.iter().all(|item| original.recipient(item.recipient).address.is_ascii());
        let charset = if ascii && !original.content().smtputf8 { Charset::Ascii } else { Charset::Utf8 };
        let failures = self.items.iter().filter(|item| !is_delivered(item)).count();
        // RFC 3461 §4.3: RET concerns failures; of a success the header is returned in any case (§6.2).
        let limit = match (self.to, original.ret()) {
            (Addressee::Postmaster(_), _) | (_, Some(Ret::Headers)) => 0,
            (_, Some(Ret::Full)) => FULL_MAX_WANTED,
            (_, None) => FULL_MAX,
        };
        let whole = failures > 0 && !self.is_delay() && original.size() <= limit;
        Shape { charset, returned: if whole { Returned::Whole } else { Returned::Header }, failures }
    }

    fn is_delay(&self) -> bool {
        self.items.iter().any(is_delay)
    }

    /// The envelope to store it under. Storing it settles what it tells, but for delays, of which nothing is owed.
    pub fn envelope(&self, original: &impl Original, shape: Shape) -> Envelope {
        // A failure of this report is to reach the postmaster, one of the postmaster's notice nobody.
        let notify = match self.to {
            Addressee::Sender(_) => Notify::Default,
            Addressee::Postmaster(_) => Notify::Never,
        };
        let address = self.to.address().to_owned();
        let mut trace = String::new();
        field(&mut trace, "Received", &format!("by {} (zrelay) id {}; {}", self.hostname, self.id, self.now.rfc5322()));
        Envelope {
            received: self.now,
            trace: trace.into_bytes(),
            client: "localhost[127.0.0.1]".to_owned(),
            content: Content {
                eight_bit: original.content().eight_bit || shape.charset == Charset::Utf8,
                smtputf8: !address.is_ascii(),
            },
            envid: None,
            ret: None,
            handling: Handling::default(),
            senders: vec![String::new()],
            recipients: vec![Recipient { address, sender: 0, orcpt: None, notify }],
            origin: (!self.is_delay()).then(|| Origin {
                message: self.about,
                recipients: self.items.iter().map(|item| item.recipient).collect(),
            }),
        }
    }

    /// Its `Message-ID`, with brackets.
    pub fn message_id(&self) -> String {
        format!("<{}.{}@{}>", self.id, self.about, self.hostname)
    }

    /// Writes its content in pieces, in order.
    pub fn write(&self, original: &impl Original, shape: Shape, mut sink: impl FnMut(&[u8])) {
        let boundary = format!("=_{}.{}/{}", self.about, self.id, self.hostname.replace(['[', ']'], ""));
        let mut out = String::with_capacity(2 * PIECE);
        self.header(&mut out, shape, &boundary);
        self.for_a_person(&mut out, original, shape, &boundary);
        self.for_a_program(&mut out, original, shape, &boundary, &mut sink);
        returned_header(&mut out, original, shape, &boundary);
        sink(out.as_bytes());
        match shape.returned {
            Returned::Whole => original.slices().for_each(&mut sink),
            Returned::Header => header_of(original, &mut sink),
        }
        sink(format!("\r\n--{boundary}--\r\n").as_bytes());
    }

    fn header(&self, out: &mut String, shape: Shape, boundary: &str) {
        let subject = match (self.to, shape.failures) {
            (Addressee::Postmaster(_), _) => "Postmaster notice: undeliverable notification",
            _ if self.is_delay() => "Delayed Mail (still being retried)",
            (_, 0) => "Successful Mail Delivery Report",
            (_, failures) if failures < self.items.len() => "Mail Delivery Report",
            _ => "Undelivered Mail Returned to Sender",
        };
        field(out, "Date", &self.now.rfc5322());
        field(out, "From", &format!("MAILER-DAEMON@{} (Mail Delivery System)", self.hostname));
        field(out, "To", &clean(self.to.address(), Charset::Utf8));
        field(out, "Subject", subject);
        field(out, "Message-ID", &self.message_id());
        field(out, "Auto-Submitted", "auto-replied");
        field(out, "MIME-Version", "1.0");
        let _ = write!(
            out,
            "Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"\r\n\
             Content-Transfer-Encoding: 8bit\r\n\r\nThis is a MIME-encapsulated message.\r\n"
        );
    }

    fn for_a_person(&self, out: &mut String, original: &impl Original, shape: Shape, boundary: &str) {
        let (charset, encoding) = match shape.charset {
            Charset::Ascii => ("us-ascii", "7bit"),
            Charset::Utf8 => ("utf-8", "8bit"),
        };
        let _ = write!(
            out,
            "\r\n--{boundary}\r\nContent-Description: Notification\r\nContent-Type: text/plain; charset={charset}\r\n\
             Content-Transfer-Encoding: {encoding}\r\n\r\nThis is the mail relay at {}.\r\n\r\n",
            self.hostname
        );
        let arrived = original.received().rfc5322();
        if let Addressee::Postmaster(_) = self.to {
            let _ = write!(
                out,
                "A notification without a return address could not be delivered. You are told of it\r\n\
                 because nobody else can be.\r\n\r\n"
            );
        }
        if self.is_delay() {
            let _ = write!(out, "This is a warning only. You do not need to send your message again.\r\n\r\n");
            let until = self.items.iter().filter_map(|item| item.until).max();
            let until = until.map_or(String::new(), |until| format!(", until {}", until.rfc5322()));
            let opening = format!(
                "The message that arrived here on {arrived}\r\nhas not been delivered yet, and is tried further{until},\r\nto:\r\n"
            );
            self.paragraph(out, original, shape, self.items.len(), |_| true, &opening);
            out.push_str("The header of the message is attached.\r\n");
            return;
        }
        let deliveries = self.items.len() - shape.failures.min(self.items.len());
        self.paragraph(
            out,
            original,
            shape,
            shape.failures,
            |item| !is_delivered(item),
            &format!("The message that arrived here on {arrived}\r\ncould not be delivered to:\r\n"),
        );
        self.paragraph(out, original, shape, deliveries, is_delivered, &format!(
            "As requested: the message that arrived here on {arrived}\r\nhas been handed on to systems that do not report \
             back, for:\r\n"
        ));
        out.push_str(match shape.returned {
            Returned::Whole => "The message is attached.\r\n",
            Returned::Header => "The header of the message is attached.\r\n",
        });
    }

    fn paragraph(
        &self,
        out: &mut String,
        original: &impl Original,
        shape: Shape,
        count: usize,
        belongs: fn(&Item) -> bool,
        opening: &str,
    ) {
        if count == 0 {
            return;
        }
        out.push_str(opening);
        for item in self.items.iter().filter(|item| belongs(item)).take(NAMED_MAX) {
            let recipient = clean(original.recipient(item.recipient).address, shape.charset);
            let _ = write!(out, "\r\n  <{recipient}>\r\n");
            let mut reason = clean(&item.diagnostic.to_string(), shape.charset);
            if item.disposition == Disposition::Expired {
                reason = format!("given up after repeated attempts; the last one: {reason}");
            }
            for line in wrapped(&reason) {
                let _ = write!(out, "    {line}\r\n");
            }
        }
        if count > NAMED_MAX {
            let _ = write!(out, "\r\n  and {} more, all in the attached report.\r\n", count - NAMED_MAX);
        }
        out.push_str("\r\n");
    }

    fn for_a_program(
        &self,
        out: &mut String,
        original: &impl Original,
        shape: Shape,
        boundary: &str,
        sink: &mut impl FnMut(&[u8]),
    ) {
        let (kind, encoding) = match shape.charset {
            Charset::Ascii => ("message/delivery-status", "7bit"),
            Charset::Utf8 => ("message/global-delivery-status", "8bit"),
        };
        let _ = write!(
            out,
            "\r\n--{boundary}\r\nContent-Description: Delivery report\r\nContent-Type: {kind}\r\n\
             Content-Transfer-Encoding: {encoding}\r\n\r\n"
        );
        field(out, "Reporting-MTA", &format!("dns; {}", self.hostname));
        if let Some(envid) = original.envid().and_then(envelope_id) {
            field(out, "Original-Envelope-Id", &envid);
        }
        field(out, "Arrival-Date", &original.received().rfc5322());
        for item in self.items {
            out.push_str("\r\n");
            describe(out, original, item, shape.charset);
            if out.len() >= PIECE {
                sink(out.as_bytes());
                out.clear();
            }
        }
    }
}

/// RFC 3464 §2.3: the fields of one recipient.
fn describe(out: &mut String, original: &impl Original, item: &Item, charset: Charset) {
    let recipient = original.recipient(item.recipient);
    let diagnostic = &item.diagnostic;
    if let Some(orcpt) = recipient.orcpt.and_then(|orcpt| original_recipient(orcpt, charset)) {
        field(out, "Original-Recipient", &orcpt);
    }
    field(out, "Final-Recipient", &typed_address(recipient.address, charset));
    // A hub never delivers finally: what left it without DSN was relayed (RFC 3461 §5.2.2, RFC 3464 §2.3.3).
    let action = match item.disposition {
        Disposition::Delivered { .. } => "relayed",
        Disposition::Delayed => "delayed",
        _ => "failed",
    };
    field(out, "Action", action);
    field(out, "Status", &status(item).to_string());
    if let Some(host) = host_of(&diagnostic.peer) {
        field(out, "Remote-MTA", &format!("dns; {host}"));
    }
    let text = clean(&diagnostic.text, charset);
    if diagnostic.code > 0 {
        field(out, "Diagnostic-Code", &format!("smtp; {} {} {text}", diagnostic.code, diagnostic.status));
    } else if !text.is_empty() {
        field(out, "Diagnostic-Code", &format!("x-zrelay; {text}"));
    }
    field(out, "Last-Attempt-Date", &item.at.rfc5322());
    if let Some(until) = item.until {
        field(out, "Will-Retry-Until", &until.rfc5322());
    }
}

/// The status with the class that fits the action (RFC 3464 §2.3.4).
fn status(item: &Item) -> Status {
    let status = item.diagnostic.status;
    match (item.disposition, status.0) {
        (Disposition::Delivered { .. }, 2)
        | (Disposition::Failed, 5)
        | (Disposition::Expired, 4 | 5)
        | (Disposition::Delayed, 4) => status,
        (Disposition::Delivered { .. }, _) => Status(2, 0, 0),
        (Disposition::Expired, _) => Status(4, 4, 7),
        (Disposition::Delayed, _) => Status(4, 0, 0),
        _ => Status(5, 0, 0),
    }
}

fn is_delivered(item: &Item) -> bool {
    matches!(item.disposition, Disposition::Delivered { .. })
}

/// `text` in lines of at most about 72 octets.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 72;
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    // One word is at most a diagnostic text long, but a line has its own limit.
    lines.into_iter().map(|line| line.chars().take(900).collect()).collect()
}

fn returned_header(out: &mut String, original: &impl Original, shape: Shape, boundary: &str) {
    let eight_bit = original.content().eight_bit || original.content().smtputf8;
    let encoding = if eight_bit { "8bit" } else { "7bit" };
    // RFC 6533 §4 where the header may hold UTF-8.
    let (what, kind) = match (shape.returned, original.content().smtputf8) {
        (Returned::Whole, false) => ("Undelivered Message", "message/rfc822"),
        (Returned::Header, false) => ("Message Header", "text/rfc822-headers"),
        (Returned::Whole, true) => ("Undelivered Message", "message/global"),
        (Returned::Header, true) => ("Message Header", "message/global-headers"),
    };
    let _ = write!(
        out,
        "\r\n--{boundary}\r\nContent-Description: {what}\r\nContent-Type: {kind}\r\n\
         Content-Transfer-Encoding: {encoding}\r\n\r\n"
    );
}

/// The header of the message, up to the empty line, at most [`HEADER_MAX`] octets in whole lines.
fn header_of(original: &impl Original, sink: &mut impl FnMut(&[u8])) {
    let mut header: Vec<u8> = Vec::new();
    for slice in original.slices() {
        let from = header.len().saturating_sub(3);
        let room = HEADER_MAX.saturating_sub(header.len());
        header.extend(slice.iter().take(room));
        let end = header.get(from..).and_then(|fresh| fresh.windows(4).position(|window| window == b"\r\n\r\n"));
        if let Some(end) = end {
            header.truncate(from + end + 2);
            sink(&header);
            return;
        }
        if header.len() >= HEADER_MAX {
            break;
        }
    }
    let whole_lines = header.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
    header.truncate(whole_lines);
    sink(&header);
}

//! From octets to lines.

use zrelay_clock::Timestamp;
use zrelay_spool::ThreadKey;

use crate::{Direction, Line, Wire};

/// Octets of a line that are shown; the rest is replaced by `...`.
pub const LINE_OCTETS_MAX: usize = 1024;

/// What stands in the place of secrets.
const MASK: &str = "***";

/// On one conversation: what goes over it comes out as lines.
#[derive(Debug)]
pub struct Tap {
    wires: Vec<Wire>,
    thread: ThreadKey,
    lease: u64,
    flight: u64,
    last: Direction,
    sent: Collected,
    received: Collected,
    /// Octets of content sent and not told yet.
    content: u64,
    secret: Secret,
}

/// Whether what is sent is to be hidden.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Secret {
    No,
    /// Behind an `AUTH` whose final reply has not come.
    Until2xxOr5xx,
}

/// The beginning of a line.
#[derive(Debug, Default)]
struct Collected {
    octets: Vec<u8>,
    /// There was more than is shown.
    cut: bool,
}

impl Collected {
    /// Takes octets up to the end of a line. Returns the line if it is whole, and the octets behind it.
    fn take<'a>(&mut self, octets: &'a [u8]) -> (Option<String>, &'a [u8]) {
        let end = octets.iter().position(|octet| *octet == b'\n');
        let (part, rest) = match end {
            Some(end) => octets.split_at(end + 1),
            None => (octets, &octets[octets.len()..]),
        };
        let room = LINE_OCTETS_MAX.saturating_sub(self.octets.len());
        self.cut |= part.trim_ascii_end().len() > room;
        self.octets.extend_from_slice(part.get(..room).unwrap_or(part));
        (end.map(|_| self.finish()), rest)
    }

    fn finish(&mut self) -> String {
        let mut text = String::from_utf8_lossy(self.octets.trim_ascii_end()).into_owned();
        if self.cut {
            text.push_str("...");
        }
        *self = Self::default();
        text
    }
}

impl Tap {
    pub(crate) fn new(wires: Vec<Wire>, thread: ThreadKey, lease: u64) -> Self {
        Self {
            wires,
            thread,
            lease,
            flight: 0,
            last: Direction::Received,
            sent: Collected::default(),
            received: Collected::default(),
            content: 0,
            secret: Secret::No,
        }
    }

    fn tell(&self, at: Timestamp, direction: Direction, text: &str) {
        for wire in &self.wires {
            let (thread, text) = (self.thread.clone(), text.to_owned());
            wire.send(Line { at, thread, lease: self.lease, flight: self.flight, direction, text });
        }
    }

    fn sending(&mut self) {
        if self.last == Direction::Received {
            self.flight += 1;
        }
        self.last = Direction::Sent;
    }

    /// Commands were sent.
    pub fn sent(&mut self, now: Timestamp, octets: &[u8]) {
        self.sending();
        self.tell_content(now);
        let mut rest = octets;
        while !rest.is_empty() {
            let (line, behind) = self.sent.take(rest);
            rest = behind;
            if let Some(line) = line {
                let shown = self.masked(line);
                self.tell(now, Direction::Sent, &shown);
            }
        }
    }

    fn masked(&mut self, line: String) -> String {
        if self.secret == Secret::Until2xxOr5xx {
            return MASK.to_owned();
        }
        let mut words = line.split_ascii_whitespace();
        if !words.next().is_some_and(|verb| verb.eq_ignore_ascii_case("AUTH")) {
            return line;
        }
        self.secret = Secret::Until2xxOr5xx;
        let mechanism = words.next().unwrap_or_default();
        if words.next().is_some() { format!("AUTH {mechanism} {MASK}") } else { line }
    }

    /// Octets of a message were sent.
    pub fn sent_content(&mut self, octets: u64) {
        self.sending();
        self.content = self.content.saturating_add(octets);
    }

    fn tell_content(&mut self, now: Timestamp) {
        if self.content > 0 {
            let text = format!("[{} octets of content]", std::mem::take(&mut self.content));
            self.tell(now, Direction::Sent, &text);
        }
    }

    /// Octets came.
    pub fn received(&mut self, now: Timestamp, octets: &[u8]) {
        self.tell_content(now);
        self.last = Direction::Received;
        let mut rest = octets;
        while !rest.is_empty() {
            let (line, behind) = self.received.take(rest);
            rest = behind;
            let Some(line) = line else { continue };
            // 334 asks for more of the secret, and every line of a reply but the last goes on with a hyphen.
            if !line.starts_with('3') && line.as_bytes().get(3) != Some(&b'-') {
                self.secret = Secret::No;
            }
            self.tell(now, Direction::Received, &line);
        }
    }

    /// Something happened to the connection.
    pub fn note(&mut self, now: Timestamp, text: &str) {
        self.tell_content(now);
        self.tell(now, Direction::Note, text);
    }
}

#[cfg(test)]
mod tests {
    use zrelay_mailbox::{Receiver, mailbox};

    use super::*;

    fn tap() -> (Tap, Receiver<Line>) {
        let (lines, receiver) = mailbox(1000);
        let wires = vec![Wire { lines, dropped: std::sync::Arc::default() }];
        (Tap::new(wires, ThreadKey::new("smtp", "a.example"), 1), receiver)
    }

    fn shown(lines: &Receiver<Line>) -> Vec<String> {
        let arrow = |line: &Line| match line.direction {
            Direction::Sent => '>',
            Direction::Received => '<',
            Direction::Note => '*',
        };
        lines.drain(1000).map(|line| format!("{}{} {}", line.flight, arrow(&line), line.text)).collect()
    }

    #[test]
    fn flights_are_counted_lines_put_together_and_content_is_a_number() {
        let (mut tap, lines) = tap();
        let now = Timestamp::ZERO;
        tap.received(now, b"220 a.exa");
        tap.received(now, b"mple ESMTP\r\n");
        tap.sent(now, b"EHLO hub\r\n");
        tap.received(now, b"250-a.example\r\n250 CHUNKING\r\n");
        tap.sent(now, b"MAIL FROM:<s@x>\r\nRCPT TO:<r@a.exa");
        tap.sent(now, b"mple>\r\nBDAT 4096 LAST\r\n");
        tap.sent_content(4000);
        tap.sent_content(96);
        tap.sent(now, b"QUIT\r\n");
        tap.received(now, b"250 ok\r\n");
        tap.note(now, "closed");
        assert_eq!(
            shown(&lines),
            [
                "0< 220 a.example ESMTP",
                "1> EHLO hub",
                "1< 250-a.example",
                "1< 250 CHUNKING",
                "2> MAIL FROM:<s@x>",
                "2> RCPT TO:<r@a.example>",
                "2> BDAT 4096 LAST",
                "2> [4096 octets of content]",
                "2> QUIT",
                "2< 250 ok",
                "2* closed",
            ]
        );
    }

    #[test]
    fn secrets_are_hidden_until_the_reply_that_ends_them() {
        let (mut tap, lines) = tap();
        let now = Timestamp::ZERO;
        tap.sent(now, b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n");
        tap.received(now, b"235 welcome\r\n");
        tap.sent(now, b"auth LOGIN\r\n");
        tap.received(now, b"334 VXNlcm5hbWU6\r\n");
        tap.sent(now, b"YW5u\r\n");
        tap.received(now, b"334 UGFzc3dvcmQ6\r\n");
        tap.sent(now, b"c2VjcmV0\r\n");
        tap.received(now, b"235 welcome\r\n");
        tap.sent(now, b"MAIL FROM:<s@x>\r\n");
        let sent: Vec<String> = shown(&lines).into_iter().filter(|line| line.contains('>')).collect();
        assert_eq!(sent, ["1> AUTH PLAIN ***", "2> auth LOGIN", "3> ***", "4> ***", "5> MAIL FROM:<s@x>"]);
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_than_its_bound() {
        let (mut tap, lines) = tap();
        for _ in 0..1000 {
            tap.received(Timestamp::ZERO, &[b'x'; 100]);
            assert!(tap.received.octets.len() <= LINE_OCTETS_MAX);
        }
        tap.received(Timestamp::ZERO, b"\r\n");
        let line = lines.drain(1).next().unwrap();
        assert!(line.text.len() == LINE_OCTETS_MAX + 3 && line.text.ends_with("..."));
    }
}

//! One connection of the far side: what SMTP makes of what comes.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};

use zrelay_tests::Marked;

use super::wire::{Ended, Wire};
use super::{Action, Delivery, Handshake, Moment, Offer, Shared, Verb};

pub(super) fn run(stream: TcpStream, number: usize, shared: &Shared) {
    let Ok(raw) = stream.try_clone() else { return };
    let _slower_otherwise = stream.set_nodelay(true);
    let mut dialogue = Dialogue {
        wire: Wire::new(stream, number, shared),
        shared,
        number,
        counts: HashMap::new(),
        greeted: false,
        transaction: Transaction::None,
        messages: 0,
    };
    let _over = dialogue.serve();
    let _over = dialogue.wire.flush();
    let _gone_already = raw.shutdown(Shutdown::Both);
}

/// Where the mail transaction is.
enum Transaction {
    /// No MAIL yet.
    None,
    /// MAIL was accepted.
    Open(Envelope),
    /// A chunk was refused: only RSET, EHLO or MAIL behind it (RFC 3030 §2) leads out.
    Broken,
}

#[derive(Default)]
struct Envelope {
    recipients: Vec<String>,
    /// What BDAT has brought.
    chunks: Vec<u8>,
    chunked: bool,
}

/// Whether a moment took its usual course.
enum Course {
    Usual,
    Other,
}

struct Dialogue<'a> {
    wire: Wire<'a>,
    shared: &'a Shared,
    number: usize,
    counts: HashMap<Verb, u64>,
    greeted: bool,
    transaction: Transaction,
    messages: usize,
}

impl Dialogue<'_> {
    fn serve(&mut self) -> Result<(), Ended> {
        if let Some((config, Handshake::Implicit)) = &self.shared.options.tls {
            self.wire.encrypt(config)?;
        }
        self.answer(Verb::Connect, "", "220 far.test ESMTP")?;
        loop {
            let (line, strict) = self.wire.line()?;
            if !strict {
                self.violation("a command line ends with LF only".to_owned());
            }
            let Ok(line) = String::from_utf8(line) else {
                self.violation("a command line is not UTF-8".to_owned());
                self.wire.say("500 5.5.2 not understood");
                continue;
            };
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.hello(&line, true)?,
                "HELO" => self.hello(&line, false)?,
                "MAIL" => self.mail(&line, rest)?,
                "RCPT" => self.rcpt(&line, rest)?,
                "DATA" => self.data(&line)?,
                "BDAT" => self.bdat(&line, rest)?,
                "RSET" => {
                    self.wire.place.verb = "RSET";
                    self.transaction = Transaction::None;
                    self.answer(Verb::Reset, &line, "250 2.0.0 reset")?;
                }
                "STARTTLS" => {
                    self.must_be_last("STARTTLS");
                    let Some((config, _)) = self.shared.options.tls.as_ref().filter(|_| self.may_encrypt()) else {
                        self.violation("STARTTLS, which was not offered".to_owned());
                        self.wire.say("502 5.5.1 not offered");
                        continue;
                    };
                    self.wire.say("220 2.0.0 go ahead");
                    self.wire.encrypt(config)?;
                    self.greeted = false;
                    self.transaction = Transaction::None;
                }
                "NOOP" => {
                    self.must_be_last("NOOP");
                    self.wire.say("250 2.0.0 nothing done");
                }
                "QUIT" => {
                    self.must_be_last("QUIT");
                    self.answer(Verb::Quit, &line, "221 2.0.0 bye")?;
                    return Err(Ended);
                }
                _ => {
                    self.violation(format!("unknown command {line:?}"));
                    self.wire.say("500 5.5.2 unknown command");
                }
            }
            if self.wire.has_more() && !self.offers(Offer::Pipelining) {
                self.violation(format!("something comes before the reply to {line:?}, and PIPELINING is not offered"));
            }
        }
    }

    fn hello(&mut self, line: &str, extended: bool) -> Result<(), Ended> {
        self.wire.place.verb = "EHLO";
        if !self.offers(Offer::PipeConnect) {
            self.must_be_last("EHLO");
        }
        self.transaction = Transaction::None;
        self.greeted = true;
        if !extended {
            self.answer(Verb::Hello, line, "250 far.test")?;
            return Ok(());
        }
        let mut text = "250-far.test\r\n".to_owned();
        for offer in &self.shared.options.offers {
            text.push_str(&match offer {
                Offer::Pipelining => "250-PIPELINING\r\n".to_owned(),
                Offer::Chunking => "250-CHUNKING\r\n".to_owned(),
                Offer::Size(0) => "250-SIZE\r\n".to_owned(),
                Offer::Size(limit) => format!("250-SIZE {limit}\r\n"),
                Offer::EightBitMime => "250-8BITMIME\r\n".to_owned(),
                Offer::SmtpUtf8 => "250-SMTPUTF8\r\n".to_owned(),
                Offer::Dsn => "250-DSN\r\n".to_owned(),
                Offer::PipeConnect => "250-PIPECONNECT\r\n".to_owned(),
                Offer::Limits { rcptmax, mailmax } => {
                    let limit = |name: &str, limit: &Option<usize>| {
                        limit.map_or_else(String::new, |limit| format!(" {name}={limit}"))
                    };
                    format!("250-LIMITS{}{}\r\n", limit("RCPTMAX", rcptmax), limit("MAILMAX", mailmax))
                }
            });
        }
        if self.may_encrypt() {
            text.push_str("250-STARTTLS\r\n");
        }
        text.push_str("250 ENHANCEDSTATUSCODES");
        self.answer(Verb::Hello, line, &text)?;
        Ok(())
    }

    fn mail(&mut self, line: &str, rest: &str) -> Result<(), Ended> {
        self.wire.place.verb = "MAIL";
        self.wire.place.transaction += 1;
        self.wire.place.recipients = 0;
        if !self.greeted || matches!(self.transaction, Transaction::Open(_)) {
            self.violation(format!("{line:?} out of turn"));
            return self.refuse("503 5.5.1 not now");
        }
        let Some(parameters) = parameters(rest, "FROM:") else {
            self.violation(format!("{line:?} does not parse"));
            return self.refuse("501 5.5.4 not understood");
        };
        for (key, value) in &parameters.1 {
            let allowed = match key.as_str() {
                "SIZE" => self.shared.options.offers.iter().any(|offer| matches!(offer, Offer::Size(_))),
                "BODY" => self.offers(Offer::EightBitMime),
                "SMTPUTF8" => self.offers(Offer::SmtpUtf8),
                "RET" | "ENVID" => self.offers(Offer::Dsn),
                _ => false,
            };
            if !allowed {
                self.violation(format!("MAIL with {key}, which was not offered"));
                return self.refuse("555 5.5.4 unknown parameter");
            }
            let limit = self.size_limit();
            let too_large = key == "SIZE" && limit > 0 && value.parse::<u64>().is_ok_and(|size| size > limit);
            if too_large {
                return self.refuse("552 5.3.4 too large");
            }
        }
        let mailmax = self.limits().1;
        if mailmax.is_some_and(|limit| self.messages >= limit) {
            return self.refuse("421 4.5.3 no more messages on this connection");
        }
        if let Course::Usual = self.answer(Verb::Mail, line, "250 2.1.0 sender")? {
            self.transaction = Transaction::Open(Envelope::default());
        }
        Ok(())
    }

    fn rcpt(&mut self, line: &str, rest: &str) -> Result<(), Ended> {
        self.wire.place.verb = "RCPT";
        self.wire.place.recipients += 1;
        let chunked = matches!(&self.transaction, Transaction::Open(envelope) if envelope.chunked);
        if chunked || !matches!(self.transaction, Transaction::Open(_)) {
            // Behind a refused MAIL that is what pipelining looks like, not a fault.
            return self.refuse("503 5.5.1 no sender");
        }
        let Some((recipient, parameters)) = parameters(rest, "TO:") else {
            self.violation(format!("{line:?} does not parse"));
            return self.refuse("501 5.5.4 not understood");
        };
        let strange = parameters.iter().find(|(key, _)| !matches!(key.as_str(), "NOTIFY" | "ORCPT"));
        if strange.is_some() || (!parameters.is_empty() && !self.offers(Offer::Dsn)) {
            self.violation(format!("{line:?} has a parameter that was not offered"));
            return self.refuse("555 5.5.4 unknown parameter");
        }
        let rcptmax = self.limits().0.unwrap_or(usize::MAX);
        if matches!(&self.transaction, Transaction::Open(envelope) if envelope.recipients.len() >= rcptmax) {
            return self.refuse("452 4.5.3 too many recipients");
        }
        if let Course::Usual = self.answer(Verb::Rcpt, line, "250 2.1.5 recipient")?
            && let Transaction::Open(envelope) = &mut self.transaction
        {
            envelope.recipients.push(recipient);
        }
        Ok(())
    }

    fn data(&mut self, line: &str) -> Result<(), Ended> {
        self.wire.place.verb = "DATA";
        self.wire.text_begins();
        self.must_be_last("DATA");
        let Transaction::Open(envelope) = &self.transaction else {
            return self.refuse("503 5.5.1 no sender");
        };
        if envelope.chunked {
            self.violation("DATA behind BDAT".to_owned());
            return self.refuse("503 5.5.1 not behind BDAT");
        }
        if envelope.recipients.is_empty() {
            return self.refuse("554 5.5.1 no recipients");
        }
        if let Course::Other = self.answer(Verb::Data, line, "354 go ahead")? {
            return Ok(());
        }
        let content = self.dotted()?;
        self.end(&content)
    }

    /// Everything up to the lone dot, dots removed.
    fn dotted(&mut self) -> Result<Vec<u8>, Ended> {
        let mut content = Vec::new();
        self.wire.place.verb = "text";
        loop {
            let (line, strict) = self.wire.line()?;
            if !strict {
                self.violation("a line of DATA ends with LF only".to_owned());
            }
            if strict && line == b"." {
                return Ok(content);
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            content.extend_from_slice(if strict { b"\r\n" } else { b"\n" });
        }
    }

    fn bdat(&mut self, line: &str, rest: &str) -> Result<(), Ended> {
        self.wire.place.verb = "BDAT";
        self.wire.text_begins();
        let mut words = rest.split(' ');
        let size = words.next().and_then(|word| word.parse::<u64>().ok());
        let last = words.next();
        let Some(size) = size.filter(|_| last.is_none_or(|word| word.eq_ignore_ascii_case("LAST"))) else {
            self.violation(format!("{line:?} does not parse"));
            self.wire.say("501 5.5.4 not understood");
            // Where the next command begins is not known.
            return Err(Ended);
        };
        if !self.offers(Offer::Chunking) {
            self.violation("BDAT, and CHUNKING is not offered".to_owned());
            self.wire.say("502 5.5.1 not offered");
            return Err(Ended);
        }
        let action = self.action(Verb::Bdat, line);
        if let Action::CloseWithin(octets) = action {
            self.chunk(octets.min(size))?;
            return Err(Ended);
        }
        let octets = self.chunk(size)?;
        let open = matches!(&self.transaction, Transaction::Open(envelope) if !envelope.recipients.is_empty());
        if !open {
            // A good server swallows the octets and says so once (RFC 3030 §2).
            self.transaction = Transaction::Broken;
            return self.refuse("503 5.5.1 no recipients");
        }
        if action != Action::Usual {
            self.transaction = Transaction::Broken;
            return self.other(action);
        }
        let Transaction::Open(envelope) = &mut self.transaction else { return Ok(()) };
        envelope.chunked = true;
        envelope.chunks.extend_from_slice(&octets);
        if last.is_none() {
            self.wire.say("250 2.0.0 chunk");
            return Ok(());
        }
        let content = std::mem::take(&mut envelope.chunks);
        self.end(&content)
    }

    fn chunk(&mut self, size: u64) -> Result<Vec<u8>, Ended> {
        let mut octets = Vec::new();
        let mut left = size;
        while left > 0 {
            left -= self.wire.piece(left, &mut octets)?;
        }
        Ok(octets)
    }

    /// The whole message is here.
    fn end(&mut self, content: &[u8]) -> Result<(), Ended> {
        let transaction = std::mem::replace(&mut self.transaction, Transaction::None);
        let Transaction::Open(envelope) = transaction else { return Ok(()) };
        self.wire.place.verb = "the end";
        let limit = self.size_limit();
        if limit > 0 && content.len() as u64 > limit {
            return self.refuse("552 5.3.4 too large");
        }
        if let Course::Other = self.answer(Verb::End, "", "250 2.0.0 accepted")? {
            return Ok(());
        }
        self.messages += 1;
        let marked = Marked::find(content);
        let (mark, hash) = marked.map_or_else(Default::default, |marked| (marked.mark, marked.hash));
        self.wire.accepted(mark.clone(), envelope.recipients.len());
        let deliveries =
            envelope.recipients.into_iter().map(|recipient| Delivery { mark: mark.clone(), hash, recipient });
        self.shared.books().deliveries.extend(deliveries);
        Ok(())
    }

    /// Does what the script says, or answers with `usual`.
    fn answer(&mut self, verb: Verb, line: &str, usual: &str) -> Result<Course, Ended> {
        match self.action(verb, line) {
            Action::Usual => {
                self.wire.say(usual);
                Ok(Course::Usual)
            }
            Action::Delay(time) => {
                self.wire.flush()?;
                std::thread::sleep(time);
                self.wire.say(usual);
                Ok(Course::Usual)
            }
            other => self.other(other).map(|()| Course::Other),
        }
    }

    fn other(&mut self, action: Action) -> Result<(), Ended> {
        match action {
            Action::Usual | Action::Delay(_) => {}
            Action::Say(line) => self.wire.say(&line),
            Action::Garbage(octets) => self.wire.raw(&octets),
            Action::SayAndClose(line) => {
                self.wire.say(&line);
                return Err(Ended);
            }
            Action::Close | Action::CloseWithin(_) => return Err(Ended),
        }
        Ok(())
    }

    fn action(&mut self, verb: Verb, line: &str) -> Action {
        let next = self.counts.entry(verb).or_insert(0);
        let count = *next;
        *next += 1;
        (self.shared.options.script)(&Moment { connection: self.number, verb, count, line })
    }

    #[expect(clippy::unnecessary_wraps, reason = "every path of a command ends alike")]
    fn refuse(&mut self, line: &str) -> Result<(), Ended> {
        self.wire.say(line);
        Ok(())
    }

    /// EHLO, DATA, NOOP and QUIT end a group of commands (RFC 2920 §3.1).
    fn must_be_last(&mut self, verb: &str) {
        if self.wire.has_more() {
            self.violation(format!("something is pipelined behind {verb}"));
        }
    }

    fn offers(&self, offer: Offer) -> bool {
        self.shared.options.offers.contains(&offer)
    }

    fn may_encrypt(&self) -> bool {
        self.shared.options.tls.is_some() && !self.wire.is_encrypted()
    }

    fn size_limit(&self) -> u64 {
        let sizes = self.shared.options.offers.iter();
        sizes.filter_map(|offer| if let Offer::Size(limit) = offer { Some(*limit) } else { None }).next().unwrap_or(0)
    }

    fn limits(&self) -> (Option<usize>, Option<usize>) {
        let offers = self.shared.options.offers.iter();
        let mut limits = offers.filter_map(|offer| match offer {
            Offer::Limits { rcptmax, mailmax } => Some((*rcptmax, *mailmax)),
            _ => None,
        });
        limits.next().unwrap_or((None, None))
    }

    fn violation(&self, text: String) {
        self.wire.violation(format!("connection {}: {text}", self.number));
    }
}

/// The path without brackets, and the parameters with upper-cased keys.
fn parameters(rest: &str, prefix: &str) -> Option<(String, Vec<(String, String)>)> {
    let head = rest.get(..prefix.len())?;
    if !head.eq_ignore_ascii_case(prefix) {
        return None;
    }
    let (path, rest) = rest.get(prefix.len()..)?.strip_prefix('<')?.split_once('>')?;
    let words = rest.split(' ').filter(|word| !word.is_empty()).map(|word| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.to_ascii_uppercase(), value.to_owned())
    });
    Some((path.to_owned(), words.collect()))
}

//! One connection of a sink.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use rustls::{ServerConnection, StreamOwned};

use super::{Answer, COMMANDS_KEPT, Offer, Shared, Step, Transaction};

/// Longest command line that is taken, octets; RFC 5321 with room for parameters.
const LINE_MAX: usize = 4096;

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// The connection is over.
struct Ended;

struct Session<'a> {
    wire: Option<Wire>,
    input: Vec<u8>,
    /// Octets of `input` that are used up.
    used: usize,
    output: Vec<u8>,
    shared: &'a Shared,
    number: usize,
    greeted: bool,
    encrypted: bool,
    transaction: Option<Transaction>,
    /// Recipients refused in this transaction count too: DATA after none at all is a violation.
    recipients_named: usize,
}

pub(super) fn run(stream: TcpStream, number: usize, shared: &Shared) {
    let Ok(raw) = stream.try_clone() else { return };
    let _slower_otherwise = stream.set_nodelay(true);
    let mut session = Session {
        wire: Some(Wire::Plain(stream)),
        input: Vec::new(),
        used: 0,
        output: Vec::new(),
        shared,
        number,
        greeted: false,
        encrypted: false,
        transaction: None,
        recipients_named: 0,
    };
    let _over = session.serve();
    let _over = session.flush();
    let _gone_already = raw.shutdown(Shutdown::Both);
}

impl Session<'_> {
    fn serve(&mut self) -> Result<(), Ended> {
        self.respond(Step::Connect(self.number), "220 sink.test ESMTP")?;
        loop {
            let line = self.line()?;
            let line = String::from_utf8(line).map_err(|_| self.end("a command line is not UTF-8"))?;
            {
                let mut state = self.shared.state();
                if state.commands.len() < COMMANDS_KEPT {
                    state.commands.push(line.clone());
                }
            }
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" if !self.shared.options.lmtp => self.hello(rest)?,
                "LHLO" if self.shared.options.lmtp => self.hello(rest)?,
                "HELO" if !self.shared.options.lmtp => {
                    self.greeted = true;
                    self.say("250 sink.test");
                }
                "STARTTLS" => self.starttls()?,
                "MAIL" => self.mail(rest)?,
                "RCPT" => self.rcpt(rest)?,
                "DATA" => self.data()?,
                "BDAT" => self.bdat(rest)?,
                "RSET" => {
                    self.reset();
                    self.say("250 2.0.0 reset");
                }
                "NOOP" => self.say("250 2.0.0 nothing done"),
                "QUIT" => {
                    self.say("221 2.0.0 bye");
                    return self.flush();
                }
                _ => {
                    self.violation(format!("unknown command {line:?}"));
                    self.say("500 5.5.2 unknown command");
                }
            }
        }
    }

    fn hello(&mut self, name: &str) -> Result<(), Ended> {
        if name.is_empty() || name.contains(' ') {
            self.violation(format!("EHLO with the name {name:?}"));
        }
        if self.input.len() > self.used {
            self.violation("something is pipelined behind EHLO".to_owned());
        }
        self.greeted = true;
        self.reset();
        let mut lines = vec!["sink.test".to_owned(), "ENHANCEDSTATUSCODES".to_owned()];
        for offer in &self.shared.options.offers {
            lines.push(match offer {
                Offer::Pipelining => "PIPELINING".to_owned(),
                Offer::Chunking => "CHUNKING".to_owned(),
                Offer::Size(0) => "SIZE".to_owned(),
                Offer::Size(limit) => format!("SIZE {limit}"),
                Offer::EightBitMime => "8BITMIME".to_owned(),
                Offer::SmtpUtf8 => "SMTPUTF8".to_owned(),
                Offer::Dsn => "DSN".to_owned(),
                Offer::RecipientsMax(limit) => format!("LIMITS RCPTMAX={limit}"),
            });
        }
        if self.shared.options.certificate.is_some() && !self.encrypted {
            lines.push("STARTTLS".to_owned());
        }
        let last = lines.len() - 1;
        for (index, line) in lines.iter().enumerate() {
            self.say(&format!("250{}{line}", if index == last { ' ' } else { '-' }));
        }
        Ok(())
    }

    fn starttls(&mut self) -> Result<(), Ended> {
        let Some(certificate) = self.shared.options.certificate.clone().filter(|_| !self.encrypted) else {
            self.violation("STARTTLS was not offered".to_owned());
            self.say("502 5.5.1 not offered");
            return Ok(());
        };
        if self.input.len() > self.used {
            return Err(self.end("something is pipelined behind STARTTLS"));
        }
        self.say("220 2.0.0 go ahead");
        self.flush()?;
        let Some(Wire::Plain(stream)) = self.wire.take() else { return Err(Ended) };
        let connection = ServerConnection::new(certificate.server()).map_err(|_| Ended)?;
        self.wire = Some(Wire::Tls(Box::new(StreamOwned::new(connection, stream))));
        self.encrypted = true;
        self.greeted = false;
        self.reset();
        Ok(())
    }

    fn mail(&mut self, rest: &str) -> Result<(), Ended> {
        if !self.greeted {
            self.violation("MAIL before EHLO".to_owned());
        }
        if self.transaction.is_some() {
            self.violation("MAIL within a transaction".to_owned());
            self.say("503 5.5.1 nested MAIL");
            return Ok(());
        }
        let Some((sender, mail_parameters)) = path(rest, "FROM:") else {
            self.violation(format!("MAIL {rest:?} does not parse"));
            self.say("501 5.5.4 syntax");
            return Ok(());
        };
        let offers = |wanted: fn(&Offer) -> bool| self.shared.options.offers.iter().any(wanted);
        for key in mail_parameters.keys() {
            let offered = match key.as_str() {
                "SIZE" => offers(|offer| matches!(offer, Offer::Size(_))),
                "BODY" => offers(|offer| *offer == Offer::EightBitMime),
                "SMTPUTF8" => offers(|offer| *offer == Offer::SmtpUtf8),
                "RET" | "ENVID" => offers(|offer| *offer == Offer::Dsn),
                _ => false,
            };
            if !offered {
                self.violation(format!("MAIL has {key}, which was not offered"));
            }
        }
        if self.respond(Step::Mail(&sender), "250 2.1.0 sender ok")? {
            self.transaction = Some(Transaction {
                connection: self.number,
                sender,
                mail_parameters,
                encrypted: self.encrypted,
                ..Transaction::default()
            });
        }
        Ok(())
    }

    fn rcpt(&mut self, rest: &str) -> Result<(), Ended> {
        let Some((recipient, parameters)) = path(rest, "TO:") else {
            self.violation(format!("RCPT {rest:?} does not parse"));
            self.say("501 5.5.4 syntax");
            return Ok(());
        };
        let offers_dsn = self.shared.options.offers.contains(&Offer::Dsn);
        if let Some(key) = parameters.keys().find(|key| !offers_dsn || !matches!(key.as_str(), "NOTIFY" | "ORCPT")) {
            self.violation(format!("RCPT has {key}, which was not offered"));
        }
        self.recipients_named += 1;
        let Some(transaction) = &self.transaction else {
            // Right after a MAIL that was refused: that is how pipelining goes.
            self.say("503 5.5.1 no sender");
            return Ok(());
        };
        let limit = self.shared.options.offers.iter().find_map(|offer| match offer {
            Offer::RecipientsMax(limit) => Some(*limit),
            _ => None,
        });
        if limit.is_some_and(|limit| transaction.recipients.len() >= limit) {
            self.say("452 4.5.3 too many recipients");
            return Ok(());
        }
        if self.respond(Step::Rcpt(&recipient), "250 2.1.5 recipient ok")?
            && let Some(transaction) = &mut self.transaction
        {
            transaction.recipients.push(recipient);
            transaction.recipient_parameters.push(parameters);
        }
        Ok(())
    }

    fn data(&mut self) -> Result<(), Ended> {
        if self.input.len() > self.used {
            self.violation("something is pipelined behind DATA".to_owned());
        }
        if self.recipients_named == 0 {
            self.violation("DATA without RCPT".to_owned());
        }
        if self.transaction.as_ref().is_none_or(|transaction| transaction.recipients.is_empty()) {
            self.say("554 5.5.1 no valid recipients");
            self.reset();
            return Ok(());
        }
        if !self.respond(Step::Data, "354 go ahead")? {
            self.reset();
            return Ok(());
        }
        self.flush()?;
        let mut content = Vec::new();
        loop {
            let mut line = self.raw_line()?;
            if line == b".\r\n" {
                break;
            }
            if line.first() == Some(&b'.') {
                line.remove(0);
            }
            if bare(&line) {
                self.violation("a bare CR or LF in DATA".to_owned());
            }
            content.extend_from_slice(&line);
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.content = content;
        }
        self.finish()
    }

    fn bdat(&mut self, rest: &str) -> Result<(), Ended> {
        if !self.shared.options.offers.contains(&Offer::Chunking) {
            self.violation("BDAT was not offered".to_owned());
        }
        let mut words = rest.split(' ');
        let Some(size) = words.next().and_then(|size| size.parse::<usize>().ok()) else {
            return Err(self.end("BDAT without a size"));
        };
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        while self.input.len() - self.used < size {
            self.fill()?;
        }
        let chunk = self.input.get(self.used..self.used + size).unwrap_or_default().to_vec();
        self.used += size;
        let taken = match &mut self.transaction {
            Some(transaction) if !transaction.recipients.is_empty() => {
                transaction.chunked = true;
                transaction.content.extend_from_slice(&chunk);
                true
            }
            _ => false,
        };
        if !taken {
            self.say("554 5.5.1 no valid recipients");
            if last {
                self.reset();
            }
            return Ok(());
        }
        if !last {
            self.say("250 2.0.0 chunk taken");
            return Ok(());
        }
        self.finish()
    }

    /// The content is complete.
    fn finish(&mut self) -> Result<(), Ended> {
        let Some(mut transaction) = self.transaction.take() else { return Err(Ended) };
        self.reset();
        let replies = if self.shared.options.lmtp { transaction.recipients.len() } else { 1 };
        // Before the reply, so that whoever saw the reply also finds the message here.
        let answer = (self.shared.options.answer)(Step::End(&transaction));
        transaction.accepted = answer == Answer::Accept;
        self.shared.state().transactions.push(transaction);
        for _ in 0..replies {
            self.apply(answer.clone(), "250 2.0.0 taken")?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.transaction = None;
        self.recipients_named = 0;
    }

    /// Says what the test wants at this step; whether that was to accept.
    fn respond(&mut self, step: Step<'_>, accept: &str) -> Result<bool, Ended> {
        let answer = (self.shared.options.answer)(step);
        self.apply(answer, accept)
    }

    fn apply(&mut self, answer: Answer, accept: &str) -> Result<bool, Ended> {
        match answer {
            Answer::Accept => {
                self.say(accept);
                Ok(true)
            }
            Answer::Say(line) => {
                self.say(&line);
                Ok(false)
            }
            Answer::SayAndClose(line) => {
                self.say(&line);
                Err(Ended)
            }
            // What was said before is sent; whether it is read before the reset that follows is the network's affair.
            Answer::Close => Err(Ended),
        }
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn flush(&mut self) -> Result<(), Ended> {
        if self.output.is_empty() {
            return Ok(());
        }
        if !self.shared.options.delay.is_zero() {
            std::thread::sleep(self.shared.options.delay);
        }
        let wire = self.wire.as_mut().ok_or(Ended)?;
        let written = wire.write(&self.output);
        self.output.clear();
        written.map_err(|_| Ended)
    }

    /// A command line without its CRLF.
    fn line(&mut self) -> Result<Vec<u8>, Ended> {
        let pipelining = self.shared.options.offers.contains(&Offer::Pipelining);
        if self.input.len() > self.used && !pipelining {
            self.violation("commands are pipelined, which was not offered".to_owned());
        }
        let mut line = self.raw_line()?;
        if !line.ends_with(b"\r\n") || bare(&line) {
            self.violation("a command line with a bare CR or LF".to_owned());
        }
        if line.len() > LINE_MAX {
            self.violation(format!("a command line of {} octets", line.len()));
        }
        line.truncate(line.len() - 2);
        Ok(line)
    }

    /// Up to and with the next CRLF.
    fn raw_line(&mut self) -> Result<Vec<u8>, Ended> {
        let mut from = self.used;
        loop {
            let fresh = self.input.get(from..).unwrap_or_default();
            if let Some(end) = fresh.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.input.get(self.used..from + end + 2).unwrap_or_default().to_vec();
                self.used = from + end + 2;
                return Ok(line);
            }
            from = self.input.len().saturating_sub(1).max(self.used);
            let before = self.used;
            self.fill()?;
            from -= before - self.used;
        }
    }

    /// Reads more; flushes first, since the client may be waiting.
    fn fill(&mut self) -> Result<(), Ended> {
        self.flush()?;
        if self.used > 0 {
            self.input.drain(..self.used);
            self.used = 0;
        }
        let mut buffer = [0; 65_536];
        let wire = self.wire.as_mut().ok_or(Ended)?;
        match wire.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.input.extend_from_slice(buffer.get(..count).unwrap_or_default());
                Ok(())
            }
            _ => Err(Ended),
        }
    }

    fn violation(&self, text: String) {
        self.shared.violation(text);
    }

    fn end(&self, text: &str) -> Ended {
        self.violation(text.to_owned());
        Ended
    }
}

fn bare(line: &[u8]) -> bool {
    let text = line.strip_suffix(b"\r\n").unwrap_or(line);
    text.iter().any(|&octet| octet == b'\r' || octet == b'\n')
}

/// `FROM:<path> KEY=value KEY` as path and parameters.
fn path(rest: &str, prefix: &str) -> Option<(String, HashMap<String, String>)> {
    let head = rest.get(..prefix.len())?;
    if !head.eq_ignore_ascii_case(prefix) {
        return None;
    }
    let inside = rest.get(prefix.len()..)?.strip_prefix('<')?;
    // A quoted local part may hold a bracket.
    let mut quoted = false;
    let mut escaped = false;
    let end = inside.char_indices().find_map(|(index, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(index),
            _ => {}
        }
        None
    })?;
    let parameters = inside.get(end + 1..)?;
    let parameters = parameters.split(' ').filter(|word| !word.is_empty()).map(|word| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.to_ascii_uppercase(), value.to_owned())
    });
    Some((inside.get(..end)?.to_owned(), parameters.collect()))
}

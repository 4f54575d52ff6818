//! A far side in memory: strict about the protocol, wicked about envelopes (like Exim, it keeps a refused transaction's
//! sender until RSET and takes the next message into it), and a liar only where a test tells it to be.

use std::collections::VecDeque;

/// What EHLO offers.
#[derive(Clone, Debug)]
pub(super) struct Offers {
    pub(super) pipelining: bool,
    pub(super) chunking: bool,
    pub(super) keywords: Vec<String>,
}

impl Offers {
    pub(super) fn nothing() -> Self {
        Self { pipelining: false, chunking: false, keywords: Vec::new() }
    }

    pub(super) fn pipelining() -> Self {
        Self { pipelining: true, ..Self::nothing() }
    }

    pub(super) fn everything() -> Self {
        Self { pipelining: true, chunking: true, keywords: Vec::new() }.with(&["SIZE 10000000", "8BITMIME"])
    }

    pub(super) fn with(mut self, keywords: &[&str]) -> Self {
        self.keywords.extend(keywords.iter().map(|keyword| (*keyword).to_owned()));
        self
    }
}

/// What the far side does instead of what is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mischief {
    /// This reply instead of the right one. What it accepts by that is accepted.
    Say(&'static str),
    /// The same, and hang up behind it.
    SayAndClose(&'static str),
    /// Hang up.
    Close,
    /// Say nothing from here on.
    Mute,
}

/// A message that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) sender: String,
    pub(super) recipients: Vec<String>,
    pub(super) body: Vec<u8>,
}

#[derive(Debug)]
enum Mode {
    Commands,
    Data { accepting: bool },
    Chunk { size: usize },
}

type Script = Box<dyn FnMut(&str) -> Option<Mischief>>;

pub(super) struct Far {
    offers: Offers,
    lmtp: bool,
    mode: Mode,
    input: VecDeque<u8>,
    pub(super) output: Vec<u8>,
    pub(super) closed: bool,
    mute: bool,
    sender: Option<String>,
    recipients: Vec<String>,
    pub(super) recipients_max: usize,
    pub(super) deliveries: Vec<Delivery>,
    /// Octets of messages that came by DATA for nobody.
    pub(super) wasted: usize,
    /// The commands seen, arguments included.
    pub(super) commands: Vec<String>,
    /// Commands and replies, for failures.
    pub(super) transcript: Vec<String>,
    /// Asked for each command line, with `.` for a final dot.
    script: Script,
    /// Takes a message nobody will get with 250, as some do.
    pub(super) swallows: bool,
    /// Says 354 although no recipient was accepted.
    pub(super) goes_ahead: bool,
    /// It has accepted a recipient without a sender, or kept an envelope that it was to drop: from there on no client can
    /// know in which envelope a message that is on its way arrives.
    pub(super) deceives: bool,
}

impl Far {
    pub(super) fn new(offers: Offers, script: impl FnMut(&str) -> Option<Mischief> + 'static) -> Self {
        Self {
            offers,
            lmtp: false,
            mode: Mode::Commands,
            input: VecDeque::new(),
            output: b"220 far.example ESMTP\r\n".to_vec(),
            closed: false,
            mute: false,
            sender: None,
            recipients: Vec::new(),
            recipients_max: usize::MAX,
            deliveries: Vec::new(),
            wasted: 0,
            commands: Vec::new(),
            transcript: Vec::new(),
            script: Box::new(script),
            swallows: false,
            goes_ahead: false,
            deceives: false,
        }
    }

    pub(super) fn lmtp(mut self) -> Self {
        self.lmtp = true;
        self
    }

    /// Offers something else from now on.
    pub(super) fn offer(&mut self, offers: Offers) {
        self.offers = offers;
    }

    pub(super) fn offers_tls(&self) -> bool {
        self.offers.keywords.iter().any(|keyword| keyword == "STARTTLS")
    }

    /// Whether it takes only so many messages on a connection.
    pub(super) fn has_limits(&self) -> bool {
        self.offers.keywords.iter().any(|keyword| keyword.starts_with("LIMITS"))
    }

    /// The verbs of the commands seen, as one line.
    pub(super) fn verbs(&self) -> String {
        let verbs: Vec<&str> = self.commands.iter().map(|line| line.split([' ', ':']).next().unwrap()).collect();
        verbs.join(" ")
    }

    pub(super) fn receive(&mut self, octets: &[u8]) {
        self.input.extend(octets);
        while !self.closed && self.process() {}
    }

    fn process(&mut self) -> bool {
        match self.mode {
            Mode::Commands => {
                let Some(end) = self.input.iter().position(|&octet| octet == b'\n') else {
                    return false;
                };
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let line = String::from_utf8(line).unwrap();
                let line = line.strip_suffix("\r\n").expect("commands end in CRLF").to_owned();
                assert!(
                    self.offers.pipelining || self.input.is_empty() || line.starts_with("BDAT"),
                    "pipelined: {line}"
                );
                self.command(&line);
                true
            }
            Mode::Chunk { size } => {
                if self.input.len() < size {
                    return false;
                }
                let body: Vec<u8> = self.input.drain(..size).collect();
                self.mode = Mode::Commands;
                self.chunk(body);
                true
            }
            Mode::Data { accepting } => self.data(accepting),
        }
    }

    fn say(&mut self, reply: &str) {
        self.transcript.push(format!("S: {reply}"));
        if !self.mute {
            self.output.extend_from_slice(reply.as_bytes());
            self.output.extend_from_slice(b"\r\n");
        }
    }

    /// Applies what the script says. Returns whether the right thing is still to be done.
    fn mischief(&mut self, what: &str) -> bool {
        match (self.script)(what) {
            None => return true,
            Some(Mischief::Say(reply)) => {
                self.say(reply);
                self.stand_by(what, reply);
            }
            Some(Mischief::SayAndClose(reply)) => {
                self.say(reply);
                self.stand_by(what, reply);
                self.closed = true;
            }
            Some(Mischief::Close) => self.closed = true,
            Some(Mischief::Mute) => self.mute = true,
        }
        false
    }

    /// Does what a reply that was not the right one says.
    fn stand_by(&mut self, what: &str, reply: &str) {
        let verb = what.split([' ', ':']).next().unwrap();
        match (verb, reply.as_bytes().first()) {
            ("DATA", Some(b'3')) => self.mode = Mode::Data { accepting: !self.recipients.is_empty() },
            ("RSET", Some(b'2')) => {
                self.sender = None;
                self.recipients.clear();
            }
            ("RSET", _) => self.deceives = true,
            ("MAIL", Some(b'2')) => {
                self.deceives |= self.sender.is_some();
                self.sender.get_or_insert_with(|| path(what));
            }
            ("RCPT", Some(b'2')) => {
                self.deceives |= self.sender.is_none();
                self.recipients.push(path(what));
            }
            _ => {}
        }
    }

    fn command(&mut self, line: &str) {
        self.commands.push(line.to_owned());
        self.transcript.push(format!("C: {line}"));
        let verb = line.split([' ', ':']).next().unwrap().to_owned();
        if verb == "BDAT" {
            let size = line.split(' ').nth(1).unwrap().parse().unwrap();
            assert!(line.ends_with(" LAST"), "{line}");
            assert!(self.offers.chunking, "BDAT without CHUNKING");
            self.mode = Mode::Chunk { size };
            return;
        }
        if !self.mischief(line) {
            return;
        }
        match verb.as_str() {
            "EHLO" | "LHLO" => {
                assert_eq!(verb == "LHLO", self.lmtp);
                self.hello();
            }
            "HELO" => self.say("250 far.example"),
            "RSET" => {
                self.sender = None;
                self.recipients.clear();
                self.say("250 2.0.0 Ok");
            }
            "MAIL" => self.mail(line),
            "RCPT" => self.rcpt(line),
            "DATA" => self.begin_data(),
            "STARTTLS" => self.say("220 2.0.0 Go ahead"),
            "QUIT" => {
                self.say("221 2.0.0 Bye");
                self.closed = true;
            }
            _ => panic!("unexpected command {line}"),
        }
    }

    fn hello(&mut self) {
        let mut lines = vec!["far.example".to_owned()];
        if self.offers.pipelining {
            lines.push("PIPELINING".to_owned());
        }
        if self.offers.chunking {
            lines.push("CHUNKING".to_owned());
        }
        lines.extend(self.offers.keywords.iter().cloned());
        let last = lines.len() - 1;
        for (at, line) in lines.iter().enumerate() {
            self.say(&format!("250{}{line}", if at == last { ' ' } else { '-' }));
        }
    }

    fn mail(&mut self, line: &str) {
        if self.sender.is_some() {
            return self.say("503 5.5.1 sender already given");
        }
        self.sender = Some(path(line));
        self.say("250 2.1.0 Ok");
    }

    fn rcpt(&mut self, line: &str) {
        if self.sender.is_none() {
            return self.say("503 5.5.1 sender not yet given");
        }
        if self.recipients.len() >= self.recipients_max {
            return self.say("452 4.5.3 Error: too many recipients");
        }
        self.recipients.push(path(line));
        self.say("250 2.1.5 Ok");
    }

    fn begin_data(&mut self) {
        assert!(self.input.is_empty(), "something stands behind DATA");
        if self.recipients.is_empty() && !self.goes_ahead {
            return self.say("554 5.5.1 Error: no valid recipients");
        }
        self.mode = Mode::Data { accepting: !self.recipients.is_empty() };
        self.say("354 End data with <CR><LF>.<CR><LF>");
    }

    fn data(&mut self, accepting: bool) -> bool {
        let input = self.input.make_contiguous();
        let end = if input.starts_with(b".\r\n") {
            Some(0)
        } else {
            input.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 2)
        };
        let Some(end) = end else {
            return false;
        };
        let stuffed: Vec<u8> = self.input.drain(..end).collect();
        self.input.drain(..3);
        self.mode = Mode::Commands;
        let mut body = Vec::new();
        for line in stuffed.split_inclusive(|&octet| octet == b'\n') {
            body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        self.commands.push(".".to_owned());
        if accepting {
            self.message(body);
        } else {
            self.wasted += body.len();
            self.say("554 5.5.1 no valid recipients");
        }
        self.sender = None;
        self.recipients.clear();
        true
    }

    fn chunk(&mut self, body: Vec<u8>) {
        if self.recipients.is_empty() {
            if self.mischief("BDAT without recipients") {
                self.say(if self.swallows { "250 2.0.0 Ok" } else { "503 5.5.1 no valid recipients" });
            }
            return;
        }
        self.message(body);
        self.sender = None;
        self.recipients.clear();
    }

    fn message(&mut self, body: Vec<u8>) {
        let replies = if self.lmtp { self.recipients.len() } else { 1 };
        let sender = self.sender.clone().unwrap_or_else(|| "nobody".to_owned());
        for at in 0..replies {
            let whom = if self.lmtp { vec![self.recipients[at].clone()] } else { self.recipients.clone() };
            let said = self.output.len();
            let honest = self.mischief(&format!(". {}", whom[0]));
            let accepts = honest || self.output.get(said) == Some(&b'2');
            if accepts && !self.mute {
                self.deliveries.push(Delivery { sender: sender.clone(), recipients: whom, body: body.clone() });
            }
            if self.closed || self.mute {
                return;
            }
            if honest {
                self.say(&format!("250 2.0.0 Ok: queued as {}", self.deliveries.len()));
            }
        }
    }
}

/// What stands in the brackets of `MAIL` or `RCPT`.
fn path(line: &str) -> String {
    let start = line.find('<').unwrap() + 1;
    let end = start + line[start..].find('>').unwrap();
    line[start..end].to_owned()
}

//! One connection as the far side sees it: a strict server of SMTP (RFC 5321) or LMTP (RFC 2033) that puts into the books
//! what it takes.

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use zrelay_clock::Timestamp;
use zrelay_smtp::Protocol;
use zrelay_spool::{ByMode, Handling};

use crate::books::Books;
use crate::chance::Dice;
use crate::mail::{self, Address};
use crate::site::{Offers, Site, Temper};

/// What an ordinary command costs a server.
const COMMAND_TIME: Duration = Duration::from_micros(50);

/// Octets of what is said at a time, mostly.
const REPLIES: usize = 256;

/// Seconds that a command waits on its way at most, and so tells of more than is left.
const BY_SECONDS_MAX: i64 = 300;

/// What a session works with.
pub(crate) struct Surroundings<'a> {
    pub(crate) now: Timestamp,
    pub(crate) site: &'a mut Site,
    pub(crate) books: &'a mut Books,
    pub(crate) dice: &'a mut Dice,
    /// Whether the hub that connected still runs and waits for the replies.
    pub(crate) awaited: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Commands,
    Data,
    Chunk(usize),
}

#[derive(Debug)]
struct Transaction {
    begun: Timestamp,
    sender: Option<u32>,
    recipients: Vec<Address>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Session {
    mode: Mode,
    input: Vec<u8>,
    transaction: Option<Transaction>,
    /// Replies that have not left yet.
    pub(crate) output: Vec<u8>,
    /// How long they take.
    pub(crate) cost: Duration,
    pub(crate) closed: bool,
    /// Whether its output is to arrive in one piece: of a reply too many that comes later nobody can tell what it answers.
    pub(crate) whole: bool,
    silent: bool,
    /// It has said 421, and closes behind the message.
    leaving: bool,
    encrypted: bool,
    speaks: Protocol,
    /// Messages that have come, taken or not: each is owed a final reply.
    pub(crate) finals: u64,
    /// Recipients and octets of each message that has come.
    pub(crate) came: Vec<(u64, u64)>,
}

impl Session {
    pub(crate) fn new(speaks: Protocol) -> Self {
        Self {
            speaks,
            came: Vec::new(),
            finals: 0,
            mode: Mode::Commands,
            input: Vec::new(),
            transaction: None,
            output: Vec::with_capacity(REPLIES),
            cost: Duration::ZERO,
            closed: false,
            whole: false,
            silent: false,
            leaving: false,
            encrypted: false,
        }
    }

    pub(crate) fn greet(&mut self, with: &mut Surroundings<'_>) {
        if with.site.is_crowded() {
            self.say("421 4.7.0 too many connections from you");
            self.closed = true;
            return;
        }
        self.say("220 far.example ESMTP");
    }

    /// The handshake is over.
    pub(crate) fn secured(&mut self) {
        self.encrypted = true;
    }

    pub(crate) fn hear(&mut self, octets: &[u8], with: &mut Surroundings<'_>) {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(octets);
        let mut rest = &input[..];
        while !self.closed
            && !self.silent
            && let Some(done) = self.step(rest, with)
        {
            rest = &rest[done..];
        }
        let done = input.len() - rest.len();
        input.drain(..done);
        self.input = input;
    }

    /// Does what comes next in the input, if all of it is there, and says how long it was.
    fn step(&mut self, rest: &[u8], with: &mut Surroundings<'_>) -> Option<usize> {
        match self.mode {
            Mode::Chunk(octets) => {
                let content = rest.get(..octets)?;
                self.mode = Mode::Commands;
                self.content(content, with);
                Some(octets)
            }
            Mode::Data => {
                let end = if rest.starts_with(b".\r\n") { 0 } else { memchr::memmem::find(rest, b"\r\n.\r\n")? + 2 };
                let mut content = Vec::with_capacity(end);
                for line in rest[..end].split_inclusive(|octet| *octet == b'\n') {
                    content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                }
                self.mode = Mode::Commands;
                self.content(&content, with);
                Some(end + 3)
            }
            Mode::Commands => {
                let end = memchr::memchr(b'\n', rest)?;
                let line = std::str::from_utf8(&rest[..end]).expect("the hub sends no such addresses");
                self.cost += COMMAND_TIME;
                self.command(line.trim_end(), with);
                Some(end + 1)
            }
        }
    }

    fn command(&mut self, line: &str, with: &mut Surroundings<'_>) {
        let (verb, rest) = line.split_once([' ', ':']).unwrap_or((line, ""));
        match verb {
            "EHLO" if self.speaks == Protocol::Smtp => self.hello(with),
            "LHLO" if self.speaks == Protocol::Lmtp => self.hello(with),
            "HELO" if self.speaks == Protocol::Smtp => self.say("250 far.example"),
            "STARTTLS" => self.say("220 2.0.0 go ahead"),
            "RSET" => {
                self.transaction = None;
                self.say("250 2.0.0 reset");
            }
            "MAIL" => self.mail(rest, with),
            "RCPT" => self.rcpt(rest, with),
            "DATA" => match &self.transaction {
                Some(transaction) if !transaction.recipients.is_empty() => {
                    self.mode = Mode::Data;
                    self.say("354 go ahead");
                }
                _ => self.say("554 5.5.1 no valid recipients"),
            },
            "BDAT" => {
                assert!(with.site.offers == Offers::Everything, "BDAT was not offered");
                let size = rest.split(' ').next().and_then(|size| size.parse().ok());
                self.mode = Mode::Chunk(size.expect("a size behind BDAT"));
                assert!(rest.ends_with("LAST"), "the messages of a simulation fit one chunk");
            }
            "QUIT" => {
                self.say("221 2.0.0 bye");
                self.closed = true;
            }
            _ => panic!("{line:?} is no command"),
        }
    }

    fn hello(&mut self, with: &mut Surroundings<'_>) {
        if with.site.temper == Temper::Odd && with.dice.in_thousand(300) {
            match with.dice.below(3) {
                0 => {
                    self.whole = true;
                    return self.say("250 far.example\r\n250 and once more");
                }
                1 => return self.say("well, hello"),
                _ => {
                    self.silent = true;
                    return;
                }
            }
        }
        let mut lines = vec!["far.example", "SIZE 100000000", "8BITMIME"];
        if with.site.offers != Offers::Nothing {
            lines.push("PIPELINING");
        }
        if with.site.offers == Offers::Everything {
            lines.push("CHUNKING");
        }
        if with.site.encrypts && !self.encrypted {
            lines.push("STARTTLS");
        }
        if with.site.knows_urgency {
            lines.extend(["DELIVERBY", "MT-PRIORITY MIXER"]);
        }
        let last = lines.len() - 1;
        for (at, line) in lines.into_iter().enumerate() {
            self.output.extend_from_slice(if at == last { b"250 " } else { b"250-" });
            self.say(line);
        }
    }

    fn mail(&mut self, rest: &str, with: &mut Surroundings<'_>) {
        assert!(self.transaction.is_none(), "MAIL within a transaction");
        if let Temper::RateLimiting(most) = with.site.temper {
            let count = with.site.count(with.now);
            if count > 2 * most {
                self.say("421 4.7.0 this is far too much mail from you");
                self.closed = true;
                return;
            }
            if count > most {
                return self.say("450 4.7.1 Error: too much mail from you");
            }
        }
        let address = path(rest);
        let sender = match Address::parse(address) {
            Some(Address::Bounces(message)) => Some(message),
            None if address.is_empty() => None,
            _ => panic!("{address} sends nothing"),
        };
        check_urgency(rest, sender.map(|message| with.books.handling(message)).unwrap_or_default(), with);
        self.transaction = Some(Transaction { begun: with.now, sender, recipients: Vec::new() });
        self.say("250 2.1.0 sender ok");
    }

    fn rcpt(&mut self, rest: &str, with: &mut Surroundings<'_>) {
        let Some(transaction) = &mut self.transaction else {
            // What pipelining looks like behind a refused MAIL.
            return self.say("503 5.5.1 no sender");
        };
        let address = path(rest);
        let to = Address::parse(address).unwrap_or_else(|| panic!("{address} is nobody"));
        if let Temper::Slow(time) = with.site.temper {
            self.cost += time;
        }
        if transaction.recipients.len() >= with.site.recipients_max as usize {
            return self.say("452 4.5.3 too many recipients");
        }
        if let Address::Recipient(number) = to {
            // Some mailboxes are gone, some are full for ever.
            match number % 101 {
                7 => return self.tell(format_args!("550 5.1.1 {address} is unknown here")),
                8 => return self.tell(format_args!("452 4.2.2 {address} is full")),
                _ => {}
            }
            if with.site.temper == Temper::Greylisting && !with.site.has_seen(number) {
                return self.tell(format_args!("450 4.2.0 {address} is greylisted"));
            }
        }
        if with.site.temper == Temper::Odd && with.dice.in_thousand(20) {
            self.leaving = true;
            return self.say("421 4.3.2 going down in a moment");
        }
        transaction.recipients.push(to);
        self.tell(format_args!("250 2.1.5 {address} ok"));
    }

    /// All octets of a message are here.
    fn content(&mut self, content: &[u8], with: &mut Surroundings<'_>) {
        self.finals += 1;
        self.take_message(content, with);
        self.closed |= self.leaving;
    }

    fn take_message(&mut self, content: &[u8], with: &mut Surroundings<'_>) {
        let Some(transaction) = self.transaction.take().filter(|transaction| !transaction.recipients.is_empty()) else {
            return self.say("503 5.5.1 no valid recipients");
        };
        self.came.push((transaction.recipients.len() as u64, content.len() as u64));
        if with.site.temper == Temper::Breaking && with.dice.in_thousand(30) {
            self.closed = true;
            // It may have been taken.
            if with.dice.below(2) == 0 {
                return;
            }
        }
        if with.dice.in_thousand(2) {
            return self.say("451 4.3.0 cannot store that now");
        }
        let number = mail::number(content);
        assert_eq!(number, transaction.sender, "a message in a foreign envelope");
        if self.speaks == Protocol::Lmtp {
            return self.deliver(number, content, transaction, with);
        }
        let reference = with.books.taken(number, content, &transaction.recipients, with.awaited);
        with.site.takes(transaction.recipients.len(), transaction.begun, with.now + self.cost);
        if !self.closed {
            self.tell(format_args!("250 2.0.0 queued as T{reference}"));
        }
        if with.site.temper == Temper::Odd && with.dice.in_thousand(20) {
            self.silent = true;
        }
    }

    /// LMTP: each mailbox takes it or does not, and says so.
    fn deliver(&mut self, number: Option<u32>, content: &[u8], transaction: Transaction, with: &mut Surroundings<'_>) {
        let Transaction { begun, recipients: to, .. } = transaction;
        let breaks = self.closed || (with.site.temper == Temper::Breaking && with.dice.in_thousand(100));
        let heard = if breaks { with.dice.below(to.len() as u64) as usize } else { usize::MAX };
        for (at, recipient) in to.into_iter().enumerate() {
            let reply = match with.dice.below(100) {
                0 => format!("452 4.2.2 {recipient} is full now"),
                1 => format!("552 5.2.2 {recipient} takes no such mail"),
                _ => {
                    let reference = with.books.taken(number, content, &[recipient], with.awaited);
                    with.site.takes(1, begun, with.now + self.cost);
                    format!("250 2.0.0 {recipient} has it as T{reference}")
                }
            };
            if at < heard {
                self.say(&reply);
            }
        }
        self.closed |= breaks;
    }

    fn tell(&mut self, line: fmt::Arguments<'_>) {
        write!(self.output, "{line}\r\n").expect("memory takes everything");
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }
}

/// The parameters of MAIL say how urgent the message is and how long it is of use, to a host that knows of it; one that
/// does not is not given what is to come back when it is late.
fn check_urgency(rest: &str, handling: Handling, with: &Surroundings<'_>) {
    let value = |key: &str| rest.split(' ').find_map(|word| word.strip_prefix(key));
    let wanted = |set: bool| set && with.site.knows_urgency;
    let priority = value("MT-PRIORITY=").map(|text| text.parse().expect("a priority"));
    assert_eq!(priority, wanted(handling.priority != 0).then_some(handling.priority), "{rest}");
    let (by, Some(wish)) = (value("BY="), handling.deliver_by) else {
        return assert_eq!(value("BY="), None, "{rest}");
    };
    if !with.site.knows_urgency {
        assert!(by.is_none() && wish.mode == ByMode::Notify, "{rest} to a host that keeps no promise");
        return;
    }
    let (seconds, mode) = by.and_then(|by| by.split_once(';')).expect("a time");
    let (seconds, letter) =
        (seconds.parse::<i64>().expect("seconds"), if wish.mode == ByMode::Return { "R" } else { "N" });
    let left = wish.deadline.as_secs() as i64 - with.now.as_secs() as i64;
    assert!(mode == letter && (left - 1..=left + BY_SECONDS_MAX).contains(&seconds), "{rest}: {left} s are left");
}

/// What stands between the angle brackets.
fn path(text: &str) -> &str {
    let begin = text.find('<').map_or(0, |at| at + 1);
    let end = text.find('>').unwrap_or(text.len());
    text.get(begin..end).unwrap_or_default()
}

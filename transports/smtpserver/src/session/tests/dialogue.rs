//! Dialogues as data: `tests/dialogues/*.txt`. Each is played with its input whole, in pieces, and octet by octet.
//!
//! ```text
//!   # a remark
//!   ! setting value      protocol lmtp · relay denied · bare normalise · size N · recipients N · errors N · commands N
//!                        · hops N · starttls · etrn · whole (not to be split)        before the first line; later:
//!                        door full|broken|draining|open · drain · lost · tls
//!   C: text              the client sends a line; \r \n \t \0 \\ \xHH are understood
//!   C- text              the same without CRLF
//!   S: text              the server says this line; a * at its end stands for anything
//!   E: commit SENDER -> RECIPIENT[=SENDER],... | CONTENT
//!   E: abort · E: starttls · E: close
//!   = ok|full|broken     the spool answers the oldest commit
//!   @ SECONDS            time passes
//! ```
//! Everything the server says and asks for must be in the dialogue, in order; what it says and what it asks for are
//! two orders of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zrelay_config::{BareNewline, Protocol};
use zrelay_mailbox::mailbox;
use zrelay_spool::Refused;

use super::super::fixture::{Asked, Bench, policy};
use crate::policy::{SessionPolicy, StartTls};
use crate::shared::{Door, Relay};

#[test]
fn all_dialogues_go_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "dialogues are missing in {}", folder.display());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let steps: &[usize] = if text.contains("\n! whole") { &[usize::MAX] } else { &[usize::MAX, 1, 7] };
        for step in steps {
            Play::new(&file, *step, &text).run();
        }
    }
}

struct Play<'a> {
    file: &'a Path,
    step: usize,
    lines: Vec<(usize, &'a str)>,
    heard: Vec<String>,
    asked: Vec<Asked>,
}

impl<'a> Play<'a> {
    fn new(file: &'a Path, step: usize, text: &'a str) -> Self {
        let lines = text
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line))
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
            .collect();
        Self { file, step, lines, heard: Vec::new(), asked: Vec::new() }
    }

    fn place(&self, number: usize) -> String {
        format!("{}:{number} (in pieces of {})", self.file.display(), self.step)
    }

    fn run(mut self) {
        let mut policy = policy();
        let mut relay = Relay::Allowed;
        let lines = std::mem::take(&mut self.lines);
        let settings = lines.iter().take_while(|(_, line)| line.starts_with("! ")).count();
        for (number, line) in &lines[..settings] {
            if !set(&mut policy, &mut relay, &line[2..]) {
                panic!("{}: unknown setting", self.place(*number));
            }
        }
        let offered = lines.iter().take(settings).any(|(_, line)| *line == "! etrn");
        let (turns, _wishes) = mailbox(100);
        let mut bench = Bench::turning(policy, relay, offered.then_some(turns));
        self.heard.extend(bench.lines());
        for (number, line) in &lines[settings..] {
            let (kind, text) = line.split_at(2);
            let text = text.strip_prefix(' ').unwrap_or(text);
            match kind {
                "C:" => bench.send(&[&unescape(text)[..], b"\r\n"].concat(), self.step),
                "C-" => bench.send(&unescape(text), self.step),
                "S:" => self.expect_line(*number, text),
                "E:" => self.expect_asked(*number, text),
                "= " => assert!(bench.answer(answer(text)), "{}: no commit to answer", self.place(*number)),
                "@ " => bench.pass(Duration::from_secs(text.trim().parse().unwrap())),
                "! " => event(&mut bench, text),
                _ => panic!("{}: not understood: {line}", self.place(*number)),
            }
            self.heard.extend(bench.lines());
            self.asked.append(&mut bench.asked);
        }
        assert!(self.heard.is_empty(), "{}: also said: {:#?}", self.place(0), self.heard);
        assert!(self.asked.is_empty(), "{}: also asked for: {:#?}", self.place(0), self.asked);
    }

    fn expect_line(&mut self, number: usize, expected: &str) {
        assert!(!self.heard.is_empty(), "{}: nothing was said", self.place(number));
        let line = self.heard.remove(0);
        let matches = match expected.strip_suffix('*') {
            Some(beginning) => line.starts_with(beginning),
            None => line == expected,
        };
        assert!(matches, "{}: said {line:?}", self.place(number));
    }

    fn expect_asked(&mut self, number: usize, expected: &str) {
        assert!(!self.asked.is_empty(), "{}: nothing was asked for", self.place(number));
        let asked = self.asked.remove(0);
        let matches = match (&asked, expected) {
            (Asked::Abort { .. }, "abort") | (Asked::StartTls, "starttls") | (Asked::Close, "close") => true,
            (Asked::Commit { sender, recipients, content, .. }, _) => {
                commit(sender, recipients, content) == normal(expected)
            }
            _ => false,
        };
        assert!(matches, "{}: asked for {asked:?}", self.place(number));
    }
}

fn commit(sender: &str, recipients: &[(String, String)], content: &[u8]) -> String {
    let recipients: Vec<String> = recipients
        .iter()
        .map(|(address, own)| if own == sender { address.clone() } else { format!("{address}={own}") })
        .collect();
    format!("commit <{sender}> -> {} | {:?}", recipients.join(","), String::from_utf8_lossy(content))
}

fn normal(expected: &str) -> String {
    let (envelope, content) = expected.split_once(" | ").unwrap_or((expected, ""));
    format!("{envelope} | {:?}", String::from_utf8_lossy(&unescape(content)))
}

fn set(policy: &mut SessionPolicy, relay: &mut Relay, setting: &str) -> bool {
    let (name, value) = setting.split_once(' ').unwrap_or((setting, ""));
    let number = value.parse().unwrap_or(0);
    let limits = &mut policy.limits;
    match (name, value) {
        ("protocol", "lmtp") => policy.protocol = Protocol::Lmtp,
        ("relay", "denied") => *relay = Relay::Denied,
        ("bare", "normalise") => limits.bare_newline = BareNewline::Normalise,
        ("size", _) => limits.message_size = u64::from(number),
        ("recipients", _) => limits.recipients = number,
        ("errors", _) => limits.errors = number,
        ("commands", _) => limits.commands = number,
        ("hops", _) => limits.hops = number,
        ("memory", _) => limits.memory = u64::from(number),
        ("starttls", _) => policy.starttls = StartTls::Offered,
        ("etrn" | "whole", _) => {}
        _ => return false,
    }
    true
}

fn event(bench: &mut Bench, text: &str) {
    match text {
        "drain" => bench.session.handle_drain(bench.now),
        "lost" => bench.session.handle_disconnect(bench.now),
        "tls" => bench.session.handle_tls(bench.now, "TLSv1.3 with cipher X"),
        "door full" => bench.shared.set_door(Door::Full),
        "door broken" => bench.shared.set_door(Door::Broken),
        "door draining" => bench.shared.set_door(Door::Draining),
        "door open" => bench.shared.set_door(Door::Open),
        _ => panic!("unknown event {text}"),
    }
    bench.settle();
}

fn answer(text: &str) -> Result<(), Refused> {
    match text {
        "ok" => Ok(()),
        "full" => Err(Refused::Full),
        "broken" => Err(Refused::Broken),
        _ => panic!("unknown answer {text}"),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let [escape, tail @ ..] = rest else { panic!("nothing behind the backslash") };
        rest = tail;
        bytes.push(match escape {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).unwrap();
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).unwrap()
            }
            other => panic!("unknown escape \\{}", char::from(*other)),
        });
    }
    bytes
}

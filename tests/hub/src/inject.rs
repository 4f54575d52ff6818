//! Many messages at once, with the books kept of what was answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::Mail;
use crate::client::stuffed;

/// What the server said of one message in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    /// 250: the server has it.
    Accepted,
    /// Another reply, with its code.
    Refused(u16),
    /// The connection ended before the final reply: the server may or may not have it.
    Unknown,
    /// Nothing of its content was sent.
    NotSent,
}

/// Sends `count` messages over `connections` connections, each message's commands in one write, and tells what became
/// of each. A connection that ends is not made again. `stop` ends the work early.
pub fn inject(
    address: SocketAddr,
    count: usize,
    connections: usize,
    stop: &AtomicBool,
    make: impl Fn(usize) -> Mail + Sync,
) -> Vec<Answered> {
    let next = AtomicUsize::new(0);
    let mut answers = vec![Answered::NotSent; count];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    let Some(mut session) = Session::open(address) else { return done };
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            break;
                        }
                        let answer = session.send(&make(number));
                        done.push((number, answer));
                        if matches!(answer, Answered::Unknown | Answered::NotSent) {
                            break;
                        }
                    }
                    done
                })
            })
            .collect();
        for worker in workers {
            for (number, answer) in worker.join().expect("an injector does not panic") {
                if let Some(slot) = answers.get_mut(number) {
                    *slot = answer;
                }
            }
        }
    });
    answers
}

struct Session {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Session {
    fn open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
        stream.set_write_timeout(Some(Duration::from_secs(120))).ok()?;
        let mut session = Self { stream, input: Vec::new() };
        session.code().filter(|&code| code == 220)?;
        session.stream.write_all(b"EHLO inject.test\r\n").ok()?;
        session.code().filter(|&code| code == 250)?;
        Some(session)
    }

    fn send(&mut self, mail: &Mail) -> Answered {
        let mut commands = format!("MAIL FROM:<{}> BODY=8BITMIME\r\n", mail.sender);
        for recipient in &mail.recipients {
            commands.push_str("RCPT TO:<");
            commands.push_str(recipient);
            commands.push_str(">\r\n");
        }
        commands.push_str("DATA\r\n");
        if self.stream.write_all(commands.as_bytes()).is_err() {
            return Answered::NotSent;
        }
        for expected in std::iter::repeat_n(250, mail.recipients.len() + 1).chain([354]) {
            match self.code() {
                Some(code) if code == expected => {}
                Some(code) => return Answered::Refused(code),
                None => return Answered::NotSent,
            }
        }
        if self.stream.write_all(&stuffed(&mail.content)).is_err() {
            return Answered::Unknown;
        }
        match self.code() {
            Some(250) => Answered::Accepted,
            Some(code) => Answered::Refused(code),
            None => Answered::Unknown,
        }
    }

    /// Code of the next reply, its last line's.
    fn code(&mut self) -> Option<u16> {
        loop {
            while let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                if line.get(3) != Some(&b'-') {
                    return std::str::from_utf8(line.get(..3)?).ok()?.parse().ok();
                }
            }
            let mut buffer = [0; 16_384];
            let count = self.stream.read(&mut buffer).ok().filter(|&count| count > 0)?;
            self.input.extend_from_slice(buffer.get(..count)?);
        }
    }
}

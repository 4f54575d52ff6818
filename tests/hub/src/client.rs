//! An SMTP client that does exactly what a test tells it to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to an SMTP or LMTP server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

/// A server's reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The code; 0 when the connection ended instead.
    pub code: u16,
    /// The lines behind the code.
    pub lines: Vec<String>,
}

impl Reply {
    /// The lines in one text.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Whether it accepts.
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

impl Client {
    /// Connects without reading the greeting.
    ///
    /// # Panics
    /// When the connection is refused.
    pub fn connect_silently(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("no delay can be set");
        Self { stream, input: Vec::new() }
    }

    /// Connects and reads the greeting.
    ///
    /// # Panics
    /// When there is no greeting of 220.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_silently(address);
        let greeting = client.reply();
        assert_eq!(greeting.code, 220, "{greeting:?}");
        client
    }

    /// Connects, reads the greeting and says EHLO.
    ///
    /// # Panics
    /// When the greeting is not 220 or EHLO is refused.
    pub fn ehlo(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        let reply = client.command("EHLO client.test");
        assert_eq!(reply.code, 250, "{reply:?}");
        client
    }

    /// Sends octets as they are; whether the connection took them.
    pub fn send(&mut self, octets: &[u8]) -> bool {
        self.stream.write_all(octets).is_ok()
    }

    /// Sends a line and reads a reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Reads a reply; code 0 when the connection has ended.
    ///
    /// # Panics
    /// When what comes is not a reply or nothing comes for a minute.
    pub fn reply(&mut self) -> Reply {
        let mut lines = Vec::new();
        loop {
            let Some(line) = self.line() else { return Reply { code: 0, lines } };
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code: u16 = code.unwrap_or_else(|| panic!("not a reply: {line:?}"));
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Reply { code, lines };
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
                return Some(String::from_utf8(line).expect("a reply is text"));
            }
            if self.read() == 0 {
                assert!(self.input.is_empty(), "the connection ended within {:?}", self.input);
                return None;
            }
        }
    }

    fn read(&mut self) -> usize {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.input.extend_from_slice(buffer.get(..count).expect("a read fits its buffer"));
                count
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no reply within {PATIENCE:?}"),
            Err(_) => 0,
        }
    }

    /// Whether the server closes the connection, after whatever it says first.
    pub fn is_closed(&mut self) -> bool {
        while self.read() > 0 {
            self.input.clear();
        }
        true
    }

    /// Sends a message in lock-step with DATA; the first reply that is not as it should be, else the last.
    pub fn mail(&mut self, sender: &str, recipients: &[&str], content: &[u8]) -> Reply {
        let reply = self.command(&format!("MAIL FROM:<{sender}>"));
        if reply.code != 250 {
            return reply;
        }
        for recipient in recipients {
            let reply = self.command(&format!("RCPT TO:<{recipient}>"));
            if !reply.is_positive() {
                return reply;
            }
        }
        let reply = self.command("DATA");
        if reply.code != 354 {
            return reply;
        }
        self.send(&stuffed(content));
        self.reply()
    }

    /// Shuts the sending side.
    pub fn shut(&mut self) {
        let _gone_already = self.stream.shutdown(Shutdown::Write);
    }
}

/// `content` as DATA carries it: dots doubled, with the final dot.
pub(crate) fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 64);
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

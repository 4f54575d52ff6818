//! Mail into a relay, over loopback, with recipients in groups that no server's buffers can choke on.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use zrelay_tests::Mail;

use crate::contenders::Failure;

/// Connections at a time into a relay.
pub(crate) const CONNECTIONS: usize = 10;

/// RCPTs in one write.
const GROUP: usize = 500;

const PATIENCE: Duration = Duration::from_secs(120);

/// Hands all messages over, on as many connections at a time, waiting for each reply (to a group of RCPTs).
///
/// # Errors
/// One was not accepted.
pub(crate) fn all(address: SocketAddr, mails: &[Mail], connections: usize) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Failure> {
        let mut session = Session::open(address)?;
        while let Some(mail) = mails.get(next.fetch_add(1, Ordering::Relaxed)) {
            session.send(mail)?;
        }
        session.command("QUIT\r\n", &[221])
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..connections.min(mails.len())).map(|_| scope.spawn(work)).collect();
        let ended = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(Failure::Other("an injector panicked".to_owned()))));
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

struct Session {
    input: BufReader<TcpStream>,
    output: TcpStream,
}

impl Session {
    fn open(address: SocketAddr) -> Result<Self, Failure> {
        let output = TcpStream::connect(address)?;
        output.set_nodelay(true)?;
        output.set_read_timeout(Some(PATIENCE))?;
        output.set_write_timeout(Some(PATIENCE))?;
        let mut session = Self { input: BufReader::new(output.try_clone()?), output };
        session.command("", &[220])?;
        session.command("EHLO inject.test\r\n", &[250])?;
        Ok(session)
    }

    fn send(&mut self, mail: &Mail) -> Result<(), Failure> {
        self.command(&format!("MAIL FROM:<{}>\r\n", mail.sender), &[250])?;
        for group in mail.recipients.chunks(GROUP) {
            let lines: String = group.iter().map(|recipient| format!("RCPT TO:<{recipient}>\r\n")).collect();
            self.command(&lines, &vec![250; group.len()])?;
        }
        self.command("DATA\r\n", &[354])?;
        let mut text = Vec::with_capacity(mail.content.len() + 64);
        for line in mail.content.split_inclusive(|&octet| octet == b'\n') {
            if line.starts_with(b".") {
                text.push(b'.');
            }
            text.extend_from_slice(line);
        }
        text.extend_from_slice(b".\r\n");
        self.output.write_all(&text)?;
        self.command("", &[250])
    }

    /// Writes this and reads as many replies, which must have these codes.
    fn command(&mut self, text: &str, codes: &[u16]) -> Result<(), Failure> {
        self.output.write_all(text.as_bytes())?;
        let mut line = String::new();
        for code in codes {
            loop {
                line.clear();
                self.input.read_line(&mut line)?;
                if line.as_bytes().get(3) != Some(&b'-') {
                    break;
                }
            }
            if line.get(..3).and_then(|code| code.parse().ok()) != Some(*code) {
                return Err(Failure::Other(format!("the relay refuses what it is given: {}", line.trim())));
            }
        }
        Ok(())
    }
}

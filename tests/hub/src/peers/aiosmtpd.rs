//! A real aiosmtpd, as list managers use it to take bounces: by SMTP, and by LMTP.

use std::fs;
use std::net::TcpStream;

use tempfile::TempDir;

use super::{Delivered, Peers, open_directory, store};
use crate::{Port, Process, SOON, wait_until};

/// A running aiosmtpd that keeps every message, except for recipients that begin with `bad.`, and refuses senders at
/// `refused.test`. A transaction has at most 30 recipients, a session at most 20 `MAIL` and at most 10 refusals, a message
/// one mebibyte.
#[derive(Debug)]
pub struct Aiosmtpd {
    // First, so that it ends before its directory goes.
    process: Process,
    directory: TempDir,
    port: Port,
}

const SCRIPT: &str = r#"
import asyncio, os, sys
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP

port, mail, protocol = int(sys.argv[1]), sys.argv[2], {'lmtp': LMTP, 'smtp': SMTP}[sys.argv[3]]

class Handler:
    count = 0

    def __init__(self):
        self.refusals = 0

    def refuse(self, server, reply):
        self.refusals += 1
        if self.refusals <= 10:
            return reply
        asyncio.get_running_loop().call_soon(server.transport.close)
        return '421 4.7.0 Too many errors'

    async def handle_MAIL(self, server, session, envelope, address, options):
        if address and address.endswith('@refused.test'):
            return self.refuse(server, '550 5.7.1 Sender refused')
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return '250 OK'

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith('bad.'):
            return self.refuse(server, '550 5.1.1 User unknown')
        if len(envelope.rcpt_tos) >= 30:
            return '452 4.5.3 Too many recipients'
        envelope.rcpt_tos.append(address)
        return '250 OK'

    async def handle_DATA(self, server, session, envelope):
        for recipient in envelope.rcpt_tos:
            Handler.count += 1
            name = os.path.join(mail, str(Handler.count))
            with open(name, 'wb') as file:
                file.write((envelope.mail_from or '').encode() + b'\n' + recipient.encode() + b'\n')
                file.write(envelope.content.replace(b'\r\n', b'\n'))
            os.rename(name, name + '.mail')
        replies = len(envelope.rcpt_tos) if protocol is LMTP else 1
        return '\r\n'.join(['250 Message accepted for delivery'] * replies)

async def main():
    loop = asyncio.get_running_loop()
    make = lambda: protocol(Handler(), data_size_limit=1048576, hostname='aiosmtpd.test', loop=loop,
                            command_call_limit={'MAIL': 20, '*': 1000})
    server = await loop.create_server(make, '127.0.0.1', port)
    await server.serve_forever()

asyncio.run(main())
"#;

impl Aiosmtpd {
    /// Starts one; `protocol` is `smtp` or `lmtp`.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(peers: &Peers, protocol: &str) -> Self {
        let directory = open_directory("zrelay-aiosmtpd.");
        let path = directory.path();
        store::write(path);
        let port = Port::free();
        fs::write(path.join("server.py"), SCRIPT).expect("our own directory");
        let process = Process::start("aiosmtpd", path, "python3", |command| {
            command.arg(path.join("server.py")).arg(port.number().to_string()).arg(path.join("mail"));
            command.arg(protocol);
            command.env("PYTHONPATH", peers.path("python")).env("PYTHONDONTWRITEBYTECODE", "1");
        });
        let server = Self { process, directory, port };
        let listens = wait_until(SOON, || TcpStream::connect(server.port.address()).is_ok());
        assert!(listens, "aiosmtpd does not listen: {}", server.log());
        server
    }

    /// The host of a route that leads here.
    pub fn host(&self) -> String {
        format!("[127.0.0.1]:{}", self.port.number())
    }

    /// What it delivered so far.
    pub fn delivered(&self) -> Vec<Delivered> {
        store::read(self.directory.path())
    }

    /// Its complaints so far.
    pub fn log(&self) -> String {
        self.process.output() + &self.process.errors()
    }
}

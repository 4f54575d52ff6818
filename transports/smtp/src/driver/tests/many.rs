//! Ten thousand connections of one loop. The far side is a process of its own, since one process seldom has descriptors
//! for both ends: the test starts itself once more and finds itself in that role.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use zrelay_agent::{LeaseId, Order};
use zrelay_config::Clause;

use super::harness::{Hub, clause, letter};

/// Says that the process is the far side.
const FAR: &str = "ZRELAY_TEST_FAR_SIDE";
/// What the far side says of its port.
const PORT: &str = "far side on port ";
const CONNECTIONS: usize = 10_000;
/// Leases on their way at a time.
const AT_A_TIME: usize = 200;
const MESSAGES: usize = 100;
/// Turns of agents that a message may take: far more than it does, far less than one for each idle connection.
const TURNS_PER_MESSAGE: u64 = 20;
/// Memory of an idle connection, octets; it takes about a third of that.
const MEMORY_MAX: usize = 16 * 1024;

#[test]
fn ten_thousand_idle_connections_take_little_memory_and_no_work() {
    if std::env::var_os(FAR).is_some() {
        return far_side();
    }
    let (mut far, port) =
        start_far_side("driver::tests::many::ten_thousand_idle_connections_take_little_memory_and_no_work");
    let letters = (0..MESSAGES).map(|number| letter(number, &["a@dst"])).collect();
    let mut hub = Hub::start_roomy(letters);
    let host = format!("[127.0.0.1]:{port}");
    let clause = || Clause { tls: zrelay_config::TlsPolicy::None, ..clause() };
    let first = hub.lease("smtp", &host, clause());
    hub.until_hungry(first);

    let before = resident();
    let mut open = 1;
    while open < CONNECTIONS {
        let leases: Vec<LeaseId> = (0..AT_A_TIME).map(|_| hub.lease("smtp", &host, clause())).collect();
        hub.until_all_hungry(&leases);
        leases.iter().for_each(|lease| hub.send(Order::Idle { lease: *lease }));
        open += leases.len();
    }
    let each = resident().saturating_sub(before) / open;
    assert!(each <= MEMORY_MAX, "{each} octets for each of {open} connections");

    let turns = hub.turns();
    for number in 0..MESSAGES {
        hub.carry(first, number);
    }
    hub.until_settled(MESSAGES);
    let taken = hub.turns() - turns;
    println!("{open} connections, {each} octets each; {MESSAGES} messages beside them took {taken} turns");
    assert!(taken <= TURNS_PER_MESSAGE * MESSAGES as u64, "{taken} turns for {MESSAGES} messages");
    hub.finish();
    far.kill().unwrap();
    far.wait().unwrap();
}

/// Octets of memory of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn start_far_side(test: &str) -> (Child, u16) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(FAR, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port = lines.find_map(|line| line.split_once(PORT).map(|(_, port)| port.parse().unwrap()));
    let Some(port) = port else {
        child.wait().unwrap();
        panic!("the far side did not start");
    };
    (child, port)
}

/// A server of one thread that takes everything, until it is killed.
fn far_side() {
    const LISTENER: Token = Token(0);
    let mut poll = Poll::new().unwrap();
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).unwrap();
    println!("{PORT}{}", listener.local_addr().unwrap().port());
    let mut sessions: HashMap<Token, Session> = HashMap::new();
    let mut events = Events::with_capacity(1024);
    let mut next = 1;
    loop {
        if poll.poll(&mut events, None).is_err() {
            continue;
        }
        for event in &events {
            if event.token() != LISTENER {
                if sessions.get_mut(&event.token()).is_some_and(|session| !session.read()) {
                    sessions.remove(&event.token());
                }
                continue;
            }
            while let Ok((mut stream, _)) = listener.accept() {
                let token = Token(next);
                next += 1;
                poll.registry().register(&mut stream, token, Interest::READABLE).unwrap();
                stream.write_all(b"220 far\r\n").unwrap();
                sessions.insert(token, Session { stream, line: Vec::new(), in_data: false });
            }
        }
    }
}

struct Session {
    stream: TcpStream,
    line: Vec<u8>,
    in_data: bool,
}

impl Session {
    /// Reads what there is and answers; false at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(octets) => self.take(&buffer[..octets]),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    fn take(&mut self, octets: &[u8]) {
        let mut replies = Vec::new();
        for octet in octets {
            self.line.push(*octet);
            if self.line.ends_with(b"\r\n") {
                let line = std::mem::take(&mut self.line);
                replies.extend_from_slice(self.answer(&line));
            }
        }
        // A few short replies always fit.
        self.stream.write_all(&replies).unwrap();
    }

    fn answer(&mut self, line: &[u8]) -> &'static [u8] {
        match line {
            b".\r\n" if self.in_data => {
                self.in_data = false;
                b"250 taken\r\n"
            }
            _ if self.in_data => b"",
            b"DATA\r\n" => {
                self.in_data = true;
                b"354 go ahead\r\n"
            }
            line if line.starts_with(b"EHLO") => b"250-far\r\n250 PIPELINING\r\n",
            b"QUIT\r\n" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        }
    }
}

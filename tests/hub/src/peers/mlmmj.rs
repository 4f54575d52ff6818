//! mlmmj: a list directory and the real `mlmmj-send`.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Peers, open_directory, run};

/// A list with its subscribers.
#[derive(Debug)]
pub struct Mlmmj {
    directory: TempDir,
    program: std::path::PathBuf,
    members: Vec<String>,
}

/// How a list sends its post.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verp {
    /// `control/verp` absent: mlmmj makes the sender of every member itself, one transaction each.
    Own,
    /// `control/verp` empty: one sender, groups of members in a transaction.
    None,
    /// `control/verp` of `postfix`: mlmmj asks for `XVERP` and falls back to its own.
    Xverp,
}

impl Mlmmj {
    /// A list `list@lists.test` of `count` members that sends to `relay`.
    ///
    /// # Panics
    /// When the directory cannot be made.
    pub fn new(peers: &Peers, count: usize, relay: SocketAddr, verp: Verp) -> Self {
        let directory = open_directory("zrelay-list.");
        for name in [
            "control",
            "subscribers.d",
            "digesters.d",
            "nomailsubs.d",
            "incoming",
            "queue",
            "queue/discarded",
            "archive",
            "text",
            "subconf",
            "unsubconf",
            "bounce",
            "moderation",
            "requeue",
        ] {
            fs::create_dir(directory.path().join(name)).expect("our own directory");
        }
        let members: Vec<String> = (0..count).map(|number| format!("member{number}@d{}.test", number % 7)).collect();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("our own directory");
        write("control/listaddress", "list@lists.test\n");
        write("control/relayhost", &format!("{}\n", relay.ip()));
        write("control/smtpport", &format!("{}\n", relay.port()));
        write("index", "0\n");
        write("subscribers.d/s", &(members.join("\n") + "\n"));
        match verp {
            Verp::Own => {}
            Verp::None => write("control/verp", ""),
            Verp::Xverp => write("control/verp", "postfix\n"),
        }
        Self { directory, program: peers.path("usr/bin/mlmmj-send"), members }
    }

    /// The members.
    pub fn members(&self) -> &[String] {
        &self.members
    }

    /// Sends a post to the list; how long that took.
    ///
    /// # Panics
    /// When mlmmj fails or puts members aside to be tried again.
    pub fn post(&self, content: &str) -> Duration {
        let mail = self.directory.path().join("queue/post");
        fs::write(&mail, content).expect("our own directory");
        let mut command = Command::new("timeout");
        command
            .args(["--signal=KILL", "120"])
            .arg(&self.program)
            .arg("-L")
            .arg(self.directory.path())
            .arg("-m")
            .arg(&mail);
        let begin = Instant::now();
        run(&mut command);
        let taken = begin.elapsed();
        let requeued = fs::read_dir(self.directory.path().join("requeue")).map_or(0, Iterator::count);
        assert_eq!(requeued, 0, "mlmmj puts members aside");
        taken
    }
}

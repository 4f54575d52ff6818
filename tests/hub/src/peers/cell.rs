//! Servers whose programs and files have fixed places: each in namespaces of its own, where those places are its own.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{Peers, Users};
use crate::Process;

/// What one server finds where it looks.
#[derive(Debug)]
pub(super) struct Cell<'a> {
    /// The server's name: its tree below the peers' and its process.
    pub(super) name: &'a str,
    /// Directories to stand in the place of the machine's: ours, then where.
    pub(super) places: &'a [(&'a str, &'a str)],
    /// The command, with paths as they are inside.
    pub(super) command: &'a str,
}

impl Cell<'_> {
    /// Starts the server in `directory`. The machine's `/usr` has the server's tree laid over it, the users are those of
    /// the tests, and the host is called `NAME.test`. The process is the first of its process namespace, so that
    /// all others end with it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub(super) fn start(&self, peers: &Peers, directory: &Path) -> Process {
        let users = Users::write(peers, directory);
        let name = self.name;
        let tree = peers.path(name);
        fs::write(directory.join("hosts"), format!("127.0.0.1 {name}.test localhost\n")).expect("our own directory");
        fs::write(directory.join("nsswitch.conf"), "hosts: files\npasswd: files\ngroup: files\naliases: files\n")
            .expect("our own directory");
        let mut script = format!("set -e\nmount -t overlay overlay -o lowerdir='{}/usr':/usr /usr\n", tree.display());
        let files = [
            (users.passwd.as_path(), "/etc/passwd"),
            (users.group.as_path(), "/etc/group"),
            (&directory.join("hosts"), "/etc/hosts"),
            (&directory.join("nsswitch.conf"), "/etc/nsswitch.conf"),
        ];
        let places = self.places.iter().map(|(ours, place)| (directory.join(ours), *place));
        for (ours, place) in files.map(|(ours, place)| (ours.to_owned(), place)).into_iter().chain(places) {
            let _infallible = writeln!(script, "mount --bind '{}' {place}", ours.display());
        }
        let _infallible = write!(script, "hostname {name}.test\nexec {}\n", self.command);
        fs::write(directory.join("start"), script).expect("our own directory");
        Process::start(name, directory, "unshare", |command| {
            command.args(["--mount", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child=KILL", "--", "sh"]);
            command.arg(directory.join("start")).current_dir(directory);
        })
    }
}

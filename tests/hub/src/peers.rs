//! Foreign mail software as clients and next hops: unpacked by `tests/peers`, or installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Marked;

mod aiosmtpd;
mod cell;
mod chasquid;
mod dovecot;
mod exim;
mod mlmmj;
mod opensmtpd;
mod postfix;
mod receiver;
mod script;
mod sendmail;
mod smtp_sink;
mod store;

pub use aiosmtpd::Aiosmtpd;
pub use chasquid::Chasquid;
pub use dovecot::Dovecot;
pub use exim::Exim;
pub use mlmmj::{Mlmmj, Verp};
pub use opensmtpd::OpenSmtpd;
pub use postfix::Postfix;
pub use receiver::Receiver;
pub use script::{python, run, swaks};
pub use sendmail::Sendmail;
pub use smtp_sink::{Dumped, SmtpSink, smtp_source};

/// The tree that `tests/peers` unpacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peers {
    root: PathBuf,
}

impl Peers {
    /// The tree, if it is there.
    pub fn find() -> Option<Self> {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers");
        let root = std::env::var_os("ZRELAY_PEERS").map_or(default, PathBuf::from);
        let root = root.canonicalize().ok()?;
        root.join(".complete").exists().then_some(Self { root })
    }

    /// The tree, if it is there and the test runs as root, which servers with users of their own need.
    pub fn find_as_root() -> Option<Self> {
        Self::find().filter(|_| nix::unistd::geteuid().is_root())
    }

    /// A file of the tree.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// `LD_LIBRARY_PATH` for the tree's programs.
    fn libraries(&self) -> String {
        let mut directories = vec![self.path("usr/lib/postfix")];
        directories.extend(self.library_directory());
        directories.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")
    }

    /// `usr/lib/x86_64-linux-gnu` or its like.
    fn library_directory(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.path("usr/lib")).ok()?;
        entries.filter_map(Result::ok).map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with("-gnu"))
    }
}

/// Why a test without peers is left out.
pub const MISSING: &str = "needs the peers that tests/peers fetches (as root where servers run)";

/// Users that the servers look for, beside the machine's own, given to them by nss_wrapper.
struct Users {
    passwd: PathBuf,
    group: PathBuf,
    library: PathBuf,
}

/// Numbers of the users: of no meaning to the machine.
const USERS: [(&str, u32); 10] = [
    ("postfix", 64_981),
    ("postdrop", 64_982),
    ("vmail", 64_983),
    ("Debian-exim", 64_984),
    ("opensmtpd", 64_985),
    ("opensmtpq", 64_986),
    ("smmta", 64_987),
    ("smmsp", 64_988),
    ("dovecot", 64_989),
    ("dovenull", 64_990),
];

fn user(name: &str) -> u32 {
    USERS.iter().find(|(user, _)| *user == name).map_or(0, |(_, id)| *id)
}

impl Users {
    fn write(peers: &Peers, directory: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let keep = |text: String| -> String {
            let ours = |line: &&str| USERS.iter().any(|(name, _)| line.starts_with(&format!("{name}:")));
            text.lines().filter(|line| !ours(line)).map(|line| format!("{line}\n")).collect()
        };
        let mut passwd = keep(read("/etc/passwd"));
        let mut group = keep(read("/etc/group"));
        for (name, id) in USERS {
            passwd.push_str(&format!("{name}:x:{id}:{id}::/nonexistent:/bin/false\n"));
            group.push_str(&format!("{name}:x:{id}:\n"));
        }
        let users = Self {
            passwd: directory.join("passwd"),
            group: directory.join("group"),
            library: directory.join("libnss_wrapper.so"),
        };
        std::fs::write(&users.passwd, passwd).expect("the user list can be written");
        std::fs::write(&users.group, group).expect("the group list can be written");
        // A copy where users other than root can read it, wherever the checkout is.
        let library = peers.library_directory().expect("the tree has libraries").join("libnss_wrapper.so");
        std::fs::copy(library, &users.library).expect("the library can be copied");
        users
    }

    fn set(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("NSS_WRAPPER_PASSWD", &self.passwd)
            .env("NSS_WRAPPER_GROUP", &self.group);
    }
}

/// A directory that servers with users of their own can enter.
fn open_directory(prefix: &str) -> TempDir {
    let directory = tempfile::Builder::new().prefix(prefix).tempdir().expect("a directory can be made");
    open(directory.path());
    directory
}

fn open(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own directory");
}

fn give(path: &Path, owner: &str) {
    let id = Some(user(owner));
    std::os::unix::fs::chown(path, id, id).expect("root may give files away");
}

/// A message that a real server delivered into a Maildir.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// `Return-Path`, without brackets.
    pub sender: String,
    /// The recipient that the server noted.
    pub recipient: String,
    /// The generated message, if it is one.
    pub marked: Option<Marked>,
    /// The whole file.
    pub content: Vec<u8>,
}

/// The messages in the Maildir `directory`; `header` is the one that holds the recipient.
fn maildir(directory: &Path, header: &str) -> Vec<Delivered> {
    let Ok(entries) = std::fs::read_dir(directory.join("new")) else { return Vec::new() };
    let files = entries.filter_map(Result::ok).filter_map(|entry| std::fs::read(entry.path()).ok());
    files
        .map(|content| {
            let end = content.windows(2).position(|pair| pair == b"\n\n").unwrap_or(content.len());
            let head = String::from_utf8_lossy(content.get(..end).unwrap_or_default()).into_owned();
            let field = |name: &str| {
                let value = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                value.unwrap_or_default().trim_matches(['<', '>']).to_owned()
            };
            let (sender, recipient) = (field("Return-Path"), field(header));
            let sender = if sender.is_empty() { field("Return-path") } else { sender };
            Delivered { sender, recipient, marked: Marked::find_in_file(&content), content }
        })
        .collect()
}

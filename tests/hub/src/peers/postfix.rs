//! A real Postfix: its own configuration, queue and users.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Delivered, Peers, Users, give, maildir, open, open_directory, user};
use crate::{Certificate, Port, Process, SOON, wait_until};

/// A running Postfix that delivers everything into one Maildir.
#[derive(Debug)]
pub struct Postfix {
    // First, so that it ends before its directory goes.
    process: Process,
    directory: TempDir,
    port: Port,
}

const MASTER: &str = "
pickup     unix       n n n 60   1 pickup
cleanup    unix       n - n -    0 cleanup
qmgr       unix       n - n 300  1 qmgr
tlsmgr     unix       - - n 1000? 1 tlsmgr
rewrite    unix       - - n -    - trivial-rewrite
bounce     unix       - - n -    0 bounce
defer      unix       - - n -    0 bounce
trace      unix       - - n -    0 bounce
verify     unix       - - n -    1 verify
flush      unix       n - n 1000? 0 flush
proxymap   unix       - - n -    - proxymap
proxywrite unix       - - n -    1 proxymap
smtp       unix       - - n -    - smtp
relay      unix       - - n -    - smtp
showq      unix       n - n -    - showq
error      unix       - - n -    - error
retry      unix       - - n -    - error
discard    unix       - - n -    - discard
virtual    unix       - n n -    - virtual
lmtp       unix       - - n -    - lmtp
anvil      unix       - - n -    1 anvil
scache     unix       - - n -    1 scache
postlog    unix-dgram n - n -    1 postlogd
";

impl Postfix {
    /// Starts one; `settings` are further lines of `main.cf`, later ones win.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(peers: &Peers, settings: &str) -> Self {
        let directory = open_directory("zrelay-postfix.");
        let path = directory.path();
        let port = Port::free();
        for name in ["etc", "data", "queue", "mail", "mail/all"] {
            fs::create_dir(path.join(name)).expect("our own directory");
            open(&path.join(name));
        }
        give(&path.join("data"), "postfix");
        give(&path.join("mail/all"), "vmail");
        make_queue(&path.join("queue"));
        let users = Users::write(peers, path);
        fs::write(path.join("etc/main.cf"), main_cf(peers, path, settings)).expect("our own directory");
        let master = format!("{} inet n - n - - smtpd{MASTER}", port.number());
        fs::write(path.join("etc/master.cf"), master).expect("our own directory");
        // The machine's resolver settings may be slow to answer or absent; nothing here needs them.
        let program = peers.path("usr/lib/postfix/sbin/master");
        let process = Process::start("postfix", path, program, |command| {
            command.arg("-c").arg(path.join("etc")).arg("-d");
            command.env("MAIL_CONFIG", path.join("etc")).env("LD_LIBRARY_PATH", peers.libraries());
            users.set(command);
        });
        let postfix = Self { directory, port, process };
        let listens = wait_until(SOON, || TcpStream::connect(postfix.port.address()).is_ok());
        assert!(listens, "Postfix does not listen: {}", postfix.log());
        postfix
    }

    /// The host of a route that leads here.
    pub fn host(&self) -> String {
        format!("[127.0.0.1]:{}", self.port.number())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What it delivered so far.
    pub fn delivered(&self) -> Vec<Delivered> {
        maildir(&self.directory.path().join("mail/all"), "X-Original-To")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.output() + &self.process.errors()
    }

    /// Lines for `main.cf` that make it offer STARTTLS with this certificate.
    pub fn tls(certificate: &Certificate, directory: &Path) -> String {
        let (chain, key): (PathBuf, PathBuf) = certificate.write(directory, "postfix");
        format!(
            "smtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
            chain.display(),
            key.display()
        )
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // Its children end when they see that it is gone; SIGTERM lets it tell them.
        self.process.signal(nix::sys::signal::Signal::SIGTERM);
        self.process.wait(SOON);
    }
}

fn make_queue(queue: &Path) {
    let directories = [
        "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "maildrop",
        "public", "pid", "saved", "trace",
    ];
    for name in directories {
        let path = queue.join(name);
        fs::create_dir(&path).expect("our own directory");
        let mode = match name {
            "pid" => 0o755,
            "public" => 0o710,
            "maildrop" => 0o730,
            _ => 0o700,
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own directory");
        let owner = if name == "pid" { 0 } else { user("postfix") };
        let group = match name {
            "public" | "maildrop" => user("postdrop"),
            _ => owner,
        };
        std::os::unix::fs::chown(&path, Some(owner), Some(group)).expect("root may give files away");
    }
}

fn main_cf(peers: &Peers, path: &Path, settings: &str) -> String {
    let path = path.display();
    let vmail = user("vmail");
    let (sbin, daemons) = (peers.path("usr/sbin"), peers.path("usr/lib/postfix/sbin"));
    let (libraries, meta) = (peers.path("usr/lib/postfix"), peers.path("etc/postfix"));
    format!(
        "compatibility_level = 3.6
queue_directory = {path}/queue
data_directory = {path}/data
command_directory = {sbin}
daemon_directory = {daemons}
shlib_directory = {libraries}
meta_directory = {meta}
sendmail_path = {sbin}/sendmail
mail_owner = postfix
setgid_group = postdrop
import_environment = MAIL_CONFIG LD_LIBRARY_PATH LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
export_environment = LD_LIBRARY_PATH LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_host_lookup = native
smtpd_peername_lookup = no
disable_dns_lookups = yes
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
virtual_mailbox_domains = static:ALL
virtual_mailbox_base = {path}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{vmail}
virtual_gid_maps = static:{vmail}
virtual_mailbox_limit = 0
mailbox_size_limit = 0
message_size_limit = 104857600
smtpd_recipient_limit = 50000
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
queue_minfree = 0
maillog_file = /dev/stdout
alias_maps =
alias_database =
smtputf8_enable = yes
{settings}
",
        sbin = sbin.display(),
        daemons = daemons.display(),
        libraries = libraries.display(),
        meta = meta.display(),
    )
}

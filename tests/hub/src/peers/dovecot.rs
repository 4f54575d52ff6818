//! A real Dovecot, as an LMTP server.

use std::fs;
use std::net::TcpStream;

use tempfile::TempDir;

use super::cell::Cell;
use super::{Delivered, Peers, give, maildir, open_directory};
use crate::{Port, Process, SOON, wait_until};

/// A running Dovecot with an LMTP listener and a mailbox for everyone at `good.test`.
#[derive(Debug)]
pub struct Dovecot {
    // First, so that it ends before its directory goes.
    process: Process,
    directory: TempDir,
    port: Port,
}

impl Dovecot {
    /// Starts one; `settings` are further lines of `dovecot.conf`.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(peers: &Peers, settings: &str) -> Self {
        let directory = open_directory("zrelay-dovecot.");
        let path = directory.path();
        for name in ["run", "mail"] {
            fs::create_dir(path.join(name)).expect("our own directory");
        }
        give(&path.join("mail"), "vmail");
        fs::write(path.join("domains"), "good.test:::::::\n").expect("our own directory");
        let port = Port::free();
        let configuration = configuration(&path.display().to_string(), port.number()) + settings;
        fs::write(path.join("dovecot.conf"), configuration).expect("our own directory");
        let command = format!("/usr/sbin/dovecot -F -c {}", path.join("dovecot.conf").display());
        let process = Cell { name: "dovecot", places: &[], command: &command }.start(peers, path);
        let server = Self { process, directory, port };
        let listens = wait_until(SOON, || TcpStream::connect(server.port.address()).is_ok());
        assert!(listens, "Dovecot does not listen: {}", server.log());
        server
    }

    /// The host of a route that leads here; the channel is `lmtp`.
    pub fn host(&self) -> String {
        format!("[127.0.0.1]:{}", self.port.number())
    }

    /// What it delivered so far.
    pub fn delivered(&self) -> Vec<Delivered> {
        let Ok(entries) = fs::read_dir(self.directory.path().join("mail")) else { return Vec::new() };
        let mailboxes = entries.filter_map(Result::ok);
        mailboxes
            .flat_map(|mailbox| {
                let recipient = mailbox.file_name().to_string_lossy().into_owned();
                maildir(&mailbox.path(), "Delivered-To").into_iter().map(move |mut it| {
                    // It notes a recipient only in messages that had one.
                    it.recipient.clone_from(&recipient);
                    it
                })
            })
            .collect()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.output() + &self.process.errors()
    }
}

fn configuration(path: &str, port: u16) -> String {
    format!(
        "base_dir = {path}/run
state_dir = {path}/run
log_path = /dev/stderr
protocols = lmtp
listen = 127.0.0.1
ssl = no
mail_location = maildir:{path}/mail/%u
mail_uid = vmail
mail_gid = vmail
passdb {{
  driver = passwd-file
  args = username_format=%d {path}/domains
}}
userdb {{
  driver = passwd-file
  args = username_format=%d {path}/domains
  override_fields = uid=vmail gid=vmail home={path}/mail/%u
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"
    )
}

//! A real OpenSMTPD.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::cell::Cell;
use super::{Delivered, Peers, give, maildir, open, open_directory};
use crate::{Port, Process, SOON, wait_until};

/// A running OpenSMTPD that delivers everything for `good.test`, and nothing else, into one Maildir, and refuses
/// senders at `refused.test`.
#[derive(Debug)]
pub struct OpenSmtpd {
    // First, so that it ends before its directory goes.
    process: Process,
    directory: TempDir,
    port: Port,
}

impl OpenSmtpd {
    /// Starts one; `settings` are further lines of `smtpd.conf`.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(peers: &Peers, settings: &str) -> Self {
        let directory = open_directory("zrelay-opensmtpd.");
        let path = directory.path();
        for name in ["spool", "spool/smtpd", "lib", "lib/opensmtpd", "lib/opensmtpd/empty", "run", "mail"] {
            fs::create_dir(path.join(name)).expect("our own directory");
            open(&path.join(name));
        }
        give(&path.join("mail"), "vmail");
        // It insists.
        fs::set_permissions(path.join("spool/smtpd"), fs::Permissions::from_mode(0o711)).expect("our own directory");
        let port = Port::free();
        let (mail, number) = (path.join("mail/all").display().to_string(), port.number());
        let configuration = format!(
            "{settings}
table known {{ \"@good.test\" = \"vmail\" }}
filter \"senders\" phase mail-from match mail-from regex \"@refused\\.test\" reject \"550 5.7.1 Sender refused\"
listen on 127.0.0.1 port {number} filter \"senders\"
action \"store\" maildir \"{mail}\" virtual <known>
match from any for domain \"good.test\" action \"store\"
"
        );
        fs::write(path.join("smtpd.conf"), configuration).expect("our own directory");
        let command = format!("/usr/sbin/smtpd -d -f {}", path.join("smtpd.conf").display());
        let places = [("spool", "/var/spool"), ("lib", "/var/lib"), ("run", "/run")];
        let process = Cell { name: "opensmtpd", places: &places, command: &command }.start(peers, path);
        let server = Self { process, directory, port };
        let listens = wait_until(SOON, || TcpStream::connect(server.port.address()).is_ok());
        assert!(listens, "OpenSMTPD does not listen: {}", server.log());
        server
    }

    /// The host of a route that leads here.
    pub fn host(&self) -> String {
        format!("[127.0.0.1]:{}", self.port.number())
    }

    /// What it delivered so far.
    pub fn delivered(&self) -> Vec<Delivered> {
        maildir(&self.directory.path().join("mail/all"), "Delivered-To")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.output() + &self.process.errors()
    }
}

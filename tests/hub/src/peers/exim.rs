//! A real Exim: Debian's light daemon with its own configuration, spool and users.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use tempfile::TempDir;

use super::{Delivered, Peers, Users, give, maildir, open_directory};
use crate::{Certificate, Port, Process, SOON, wait_until};

/// A running Exim that delivers everything into one Maildir.
#[derive(Debug)]
pub struct Exim {
    // First, so that it ends before its directory goes.
    _process: Process,
    directory: TempDir,
    port: Port,
}

impl Exim {
    /// Starts one; `settings` are further lines of the main section.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(peers: &Peers, settings: &str) -> Self {
        Self::start_with(peers, settings, MAILDIR)
    }

    /// Starts one that sends everything on to `host` by SMTP; `settings` as above, `options` are further lines of its
    /// transport.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start_towards(peers: &Peers, host: SocketAddr, settings: &str, options: &str) -> Self {
        let (address, port) = (host.ip(), host.port());
        let delivery = format!(
            "begin routers
all:
  driver = manualroute
  route_list = * {address}
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {port}
  allow_localhost
{options}"
        );
        Self::start_with(peers, settings, &delivery)
    }

    fn start_with(peers: &Peers, settings: &str, delivery: &str) -> Self {
        let directory = open_directory("zrelay-exim.");
        let path = directory.path();
        for name in ["spool", "log", "mail"] {
            fs::create_dir(path.join(name)).expect("our own directory");
            give(&path.join(name), "Debian-exim");
        }
        // Exim starts itself again as its own user, who may not be able to enter the checkout: copies here.
        fs::copy(peers.path("usr/sbin/exim4"), path.join("exim4")).expect("the program can be copied");
        copy_libraries(peers, path);
        let users = Users::write(peers, path);
        let port = Port::free();
        fs::write(path.join("exim.conf"), configuration(path, port.number(), settings, delivery))
            .expect("our own directory");
        let process = Process::start("exim", path, path.join("exim4"), |command| {
            command.arg("-C").arg(path.join("exim.conf")).args(["-bdf", "-q5s"]);
            command.env("LD_LIBRARY_PATH", path);
            users.set(command);
        });
        let listens = wait_until(SOON, || TcpStream::connect(port.address()).is_ok());
        let exim = Self { directory, port, _process: process };
        assert!(listens, "Exim does not listen: {}", exim.log());
        exim
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
        maildir(&self.directory.path().join("mail"), "Envelope-to")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.directory.path().join("log").join(name)).unwrap_or_default();
        read("mainlog") + &read("paniclog") + &read("rejectlog")
    }

    /// Lines for the main section that make it offer STARTTLS with this certificate.
    pub fn tls(certificate: &Certificate, directory: &Path) -> String {
        let (chain, key) = certificate.write(directory, "exim");
        give(&chain, "Debian-exim");
        give(&key, "Debian-exim");
        format!("tls_advertise_hosts = *\ntls_certificate = {}\ntls_privatekey = {}\n", chain.display(), key.display())
    }
}

fn copy_libraries(peers: &Peers, path: &Path) {
    let Some(libraries) = peers.library_directory() else { return };
    let Ok(entries) = fs::read_dir(libraries) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_string_lossy().contains(".so") && entry.path().is_file() {
            fs::copy(entry.path(), path.join(name)).expect("a library can be copied");
        }
    }
}

/// Everything into one Maildir.
const MAILDIR: &str = "begin routers
all:
  driver = accept
  transport = out
begin transports
out:
  driver = appendfile
  directory = PATH/mail
  maildir_format
  user = Debian-exim
  group = Debian-exim
  return_path_add
  envelope_to_add
  batch_max = 1
  create_directory
";

fn configuration(path: &Path, port: u16, settings: &str, delivery: &str) -> String {
    let path = path.display();
    let delivery = delivery.replace("PATH", &path.to_string());
    // Exim takes no option twice.
    let defaults = [
        ("tls_advertise_hosts", ""),
        ("chunking_advertise_hosts", "*"),
        ("dsn_advertise_hosts", "*"),
        ("acl_smtp_rcpt", "accept"),
        ("recipients_max", "0"),
        ("local_interfaces", "127.0.0.1"),
        ("message_size_limit", "100M"),
    ];
    let defaults = defaults.iter().filter(|(key, _)| !settings.contains(key));
    let defaults: String = defaults.map(|(key, value)| format!("{key} = {value}\n")).collect();
    format!(
        "primary_hostname = exim.test
exim_path = {path}/exim4
spool_directory = {path}/spool
log_file_path = {path}/log/%slog
keep_environment = LD_LIBRARY_PATH : LD_PRELOAD : NSS_WRAPPER_PASSWD : NSS_WRAPPER_GROUP
daemon_smtp_ports = {port}
acl_smtp_data = accept
host_lookup =
rfc1413_hosts =
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
smtputf8_advertise_hosts = *
accept_8bitmime = true
never_users =
{defaults}{settings}
{delivery}"
    )
}

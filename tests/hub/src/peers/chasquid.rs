//! A real chasquid.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::{Delivered, Peers, open, open_directory, store};
use crate::{Certificate, Port, Process, SOON, wait_until};

/// A running chasquid that keeps every message for `good.test`; it relays to nowhere. It refuses senders whose domain is an
/// address literal, which it takes for malformed; its messages may have one mebibyte.
#[derive(Debug)]
pub struct Chasquid {
    // First, so that it ends before its directory goes.
    process: Process,
    directory: TempDir,
    port: Port,
}

impl Chasquid {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(peers: &Peers) -> Self {
        let directory = open_directory("zrelay-chasquid.");
        let path = directory.path();
        let certificates = path.join("etc/certs/chasquid.test");
        for name in ["etc", "etc/certs", "etc/hooks", "etc/domains", "etc/domains/good.test", "data"] {
            fs::create_dir(path.join(name)).expect("our own directory");
            open(&path.join(name));
        }
        fs::create_dir(&certificates).expect("our own directory");
        let (chain, key) = Certificate::new(&["chasquid.test"]).write(path, "chasquid");
        fs::copy(chain, certificates.join("fullchain.pem")).expect("our own directory");
        fs::copy(key, certificates.join("privkey.pem")).expect("our own directory");
        store::write(path);
        // A user exists if its address resolves to anything. The sender stands in the header only.
        let hook =
            format!("#!/bin/sh\ncase \"${{1%%@*}}\" in '*') ;; *) echo \"| {}/store - $1\" ;; esac\n", path.display());
        fs::write(path.join("etc/hooks/alias-resolve"), hook).expect("our own directory");
        fs::set_permissions(path.join("etc/hooks/alias-resolve"), fs::Permissions::from_mode(0o755))
            .expect("our own file");
        let port = Port::free();
        let configuration = format!(
            "hostname: \"chasquid.test\"
max_data_size_mb: 1
smtp_address: \"127.0.0.1:{}\"
data_dir: \"{}\"
mail_delivery_agent_bin: \"/bin/false\"
mail_log_path: \"<stderr>\"
drop_characters: \"~\"
",
            port.number(),
            path.join("data").display()
        );
        fs::write(path.join("etc/chasquid.conf"), configuration).expect("our own directory");
        let process = Process::start("chasquid", path, peers.path("chasquid/usr/bin/chasquid"), |command| {
            command.arg("-config_dir").arg(path.join("etc"));
        });
        let server = Self { process, directory, port };
        let listens = wait_until(SOON, || TcpStream::connect(server.port.address()).is_ok());
        assert!(listens, "chasquid does not listen: {}", server.log());
        server
    }

    /// The host of a route that leads here.
    pub fn host(&self) -> String {
        format!("[127.0.0.1]:{}", self.port.number())
    }

    /// What it delivered so far.
    pub fn delivered(&self) -> Vec<Delivered> {
        let mut delivered = store::read(self.directory.path());
        for it in &mut delivered {
            it.sender = envelope_sender(&it.content);
        }
        delivered
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.output() + &self.process.errors()
    }
}

/// From chasquid's own trace line, the first: `envelope from "s@a.test"`.
fn envelope_sender(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let quoted = text.split_once("envelope from \"").and_then(|(_, rest)| rest.split_once('"'));
    quoted.map_or("", |(sender, _)| sender).trim_matches(['<', '>']).to_owned()
}

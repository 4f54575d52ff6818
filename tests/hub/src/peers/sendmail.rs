//! A real sendmail.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::cell::Cell;
use super::{Delivered, Peers, open_directory, store};
use crate::{Port, Process, SOON, wait_until};

/// A running sendmail that keeps every message, except for recipients that begin with `bad.`, and refuses senders at
/// `refused.test`.
#[derive(Debug)]
pub struct Sendmail {
    // First, so that it ends before its directory goes.
    process: Process,
    directory: TempDir,
    port: Port,
}

impl Sendmail {
    /// Starts one; `options` are further `O` lines of `sendmail.cf`.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(peers: &Peers, options: &str) -> Self {
        let directory = open_directory("zrelay-sendmail.");
        let path = directory.path();
        fs::create_dir(path.join("queue")).expect("our own directory");
        fs::set_permissions(path.join("queue"), fs::Permissions::from_mode(0o700)).expect("our own directory");
        store::write(path);
        let port = Port::free();
        let cf = configuration(&path.display().to_string(), port.number(), options);
        fs::write(path.join("sendmail.cf"), cf).expect("our own directory");
        let command = format!("/usr/libexec/sendmail/sendmail -bD -C {}", path.join("sendmail.cf").display());
        let process = Cell { name: "sendmail", places: &[], command: &command }.start(peers, path);
        let server = Self { process, directory, port };
        let listens = wait_until(SOON, || TcpStream::connect(server.port.address()).is_ok());
        assert!(listens, "sendmail does not listen: {}", server.log());
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
            // What it calls the null sender when it runs a program.
            if it.sender == "MAILER-DAEMON" {
                it.sender.clear();
            }
        }
        delivered
    }

    /// Its complaints so far.
    pub fn log(&self) -> String {
        self.process.output() + &self.process.errors()
    }
}

/// A configuration without any of the rewriting that Debian's does; the columns of rules are separated by tabs.
fn configuration(path: &str, port: u16, options: &str) -> String {
    format!(
        "V10
Djsendmail.test
Cwlocalhost
DnMAILER-DAEMON
O OperatorChars=.:%@!^/[]+
O QueueDirectory={path}/queue
O PidFile={path}/pid
O DeliveryMode=background
O DaemonPortOptions=Name=MTA,Addr=127.0.0.1,Port={port}
O SmtpGreetingMessage=$j
O EightBitMode=pass8
O Timeout.ident=0
O DefaultUser=vmail:vmail
O CheckAliases=False
O HelpFile=/dev/null
O QueueLA=1000
O RefuseLA=1000
{options}
Troot
S3
R<>	$@ <>
R$* : ;	$@ <@>
R$* < $* > $*	$2
S0
R<>	$#store $@ $j $: nobody
Rbad . $*	$#error $@ 5.1.1 $: \"550 User unknown\"
R$*	$#store $@ $j $: $1
S4
R$* <@>	$@
S5
Scheck_mail
R$* refused.test $*	$#error $@ 5.7.1 $: \"550 Sender refused\"
Scheck_rcpt
R$* bad . $* @ $*	$#error $@ 5.1.1 $: \"550 User unknown\"
Mlocal, P=/bin/false, F=lsDFMAw5:/|@q, S=0, R=0, T=DNS/RFC822/X-Unix, A=false
Mprog, P=/bin/false, F=lsDFMoqeu9, S=0, R=0, T=DNS/RFC822/X-Unix, A=false
Mstore, P={path}/store, F=Dlnu8, S=0, R=0, E=\\n, T=DNS/RFC822/X-Unix, A=store $f $u
"
    )
}

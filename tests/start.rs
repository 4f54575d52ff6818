//! Starting and stopping: clear sentences, exit statuses, one instance per spool.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use zrelay_tests::{Answered, Body, Client, Hub, Mail, Port, SOON, Sink, inject, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

/// Runs `zrelay serve` on a configuration that must not work.
fn refused(hub: &mut Hub) -> (String, Option<i32>) {
    let process = hub.spawn();
    let status = process.wait(SOON).expect("it ends by itself");
    (process.errors(), status.code())
}

#[track_caller]
fn complains(hub: &mut Hub, words: &[&str]) {
    let (errors, code) = refused(hub);
    assert_eq!(code, Some(1), "{errors}");
    for word in words {
        assert!(errors.contains(word), "no {word:?} in {errors}");
    }
    assert!(!errors.contains("panicked") && !errors.contains("Os {"), "{errors}");
}

#[test]
fn a_hub_tells_where_it_listens_and_stores_and_how_to_watch_it() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).lmtp().start();
    let printed = || fs::read_to_string(hub.path().join("hub.out")).unwrap_or_default();
    assert!(wait_until(SOON, || printed().contains("watch it: ")), "{}", printed());
    let text = printed();
    for line in [
        format!("listening on {} (smtp)", hub.smtp()),
        format!("listening on {} (lmtp)", hub.lmtp()),
        format!("spool in {}", hub.path().join("spool").display()),
    ] {
        assert!(text.contains(&line), "no {line:?} in {text}");
    }
    let command = text.lines().find_map(|line| line.strip_prefix("watch it: ")).expect("it says how");
    let output = Command::new("sh").args(["-c", &format!("{command} --json")]).output().expect("a shell runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[]", "{command}: {output:?}");
}

#[test]
fn a_hub_without_a_configuration_stores_below_the_working_directory() {
    // The embedded default listens on 127.0.0.1:2525, which may be taken here: then it has to say so.
    let directory = tempdir();
    let mut command = Command::new("timeout");
    command.args(["--signal=TERM", "--preserve-status", "3"]).arg(ZRELAY).arg("serve");
    command.current_dir(directory.path()).env_remove("ZRELAY_CONFIG");
    let Output { status, stdout, stderr } = command.output().expect("zrelay can be run");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
    if stderr.contains("127.0.0.1:2525") && status.code() == Some(1) {
        return;
    }
    assert!(status.success(), "{status} {stderr}");
    assert!(stdout.contains("listening on 127.0.0.1:2525 (smtp)"), "{stdout}");
    assert!(directory.path().join("zrelay-data/spool").is_dir());
}

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

#[test]
fn a_taken_port_is_named() {
    let mut hub = Hub::build(ZRELAY).write();
    let _taken = TcpListener::bind(hub.smtp()).expect("a reserved port is free");
    let address = hub.smtp().to_string();
    complains(&mut hub, &[&address, "in use"]);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let builder = Hub::build(ZRELAY);
    let file = builder.directory().join("file");
    fs::write(&file, "").expect("our own directory");
    let spool = file.join("spool").display().to_string();
    let mut hub = builder.setting("spool", &format!("\"{spool}\"")).write();
    complains(&mut hub, &[&spool]);
    if !nix::unistd::geteuid().is_root() {
        let builder = Hub::build(ZRELAY);
        let closed = builder.directory().join("closed");
        fs::create_dir(&closed).expect("our own directory");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("our own directory");
        let spool = closed.join("spool").display().to_string();
        let mut hub = builder.setting("spool", &format!("\"{spool}\"")).write();
        complains(&mut hub, &[&spool, "ermission denied"]);
    }
}

#[test]
fn a_control_socket_that_cannot_be_made_is_named() {
    let builder = Hub::build(ZRELAY);
    let control = builder.directory().join("missing/control.sock").display().to_string();
    let file = builder.directory().join("missing");
    fs::write(&file, "").expect("our own directory");
    let mut hub = builder.setting("control", &format!("\"{control}\"")).write();
    complains(&mut hub, &[&control]);
}

#[test]
fn a_bad_configuration_is_refused_with_the_place() {
    for (table, words) in [
        ("[[thread]]\nmatch = \"smtp/*\"\nthread_agent = 1", &["thread_agent", "zrelay.toml"][..]),
        ("[[thread]]\nmatch = \"smtp/*\"\ninterval = \"soon\"", &["interval", "soon"]),
        ("[[route]]\nchannel = \"smpt\"", &["smpt"]),
        ("[intake]\nmessage_size = -1", &["message_size"]),
        ("[[route]", &["zrelay.toml"]),
        ("[tls]\ncertificate = \"/nonexistent/c.pem\"\nkey = \"/nonexistent/k.pem\"", &["/nonexistent/c.pem"]),
    ] {
        let mut hub = Hub::build(ZRELAY).table(table).write();
        complains(&mut hub, words);
        let check = hub.zrelay(&["check"]);
        let errors = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
        assert_eq!(check.status.code(), Some(1), "{table}: {errors}");
        assert!(words.iter().all(|word| errors.contains(word)), "{table}: {errors}");
    }
}

#[test]
fn check_accepts_a_good_configuration() {
    let hub = Hub::towards(ZRELAY, "[127.0.0.1]:9").write();
    let output = hub.zrelay(&["check"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let missing =
        Command::new(ZRELAY).args(["check", "--config", "/nonexistent.toml"]).output().expect("zrelay can be run");
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent.toml"));
    let usage = Command::new(ZRELAY).args(["frobnicate"]).output().expect("zrelay can be run");
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn a_second_hub_on_the_same_spool_is_refused() {
    let first = Hub::build(ZRELAY).start();
    let spool = first.path().join("spool").display().to_string();
    let mut second = Hub::build(ZRELAY).setting("spool", &format!("\"{spool}\"")).write();
    complains(&mut second, &[&spool]);
    assert_eq!(Client::ehlo(first.smtp()).command("NOOP").code, 250, "the first goes on");
}

#[test]
fn a_tool_without_a_hub_says_so() {
    let hub = Hub::build(ZRELAY).write();
    let output = hub.zrelay(&["threads"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("control.sock"), "{errors}");
}

#[test]
fn a_stale_control_socket_and_lock_do_not_hinder() {
    let mut hub = Hub::build(ZRELAY).start();
    hub.kill();
    assert!(hub.path().join("control.sock").exists(), "a kill leaves it behind");
    hub.start();
    assert_eq!(hub.queued(), 0);
}

#[test]
fn sigterm_ends_an_idle_hub_at_once_with_status_0() {
    let mut hub = Hub::build(ZRELAY).setting("drain", "\"60s\"").start();
    let _idle = hub.client();
    let status = hub.terminate(SOON).expect("nothing is under way");
    assert!(status.success(), "{status}");
    assert!(!hub.path().join("control.sock").exists(), "the socket is taken away");
}

#[test]
fn a_second_signal_ends_the_drain() {
    // A next hop that never answers keeps the drain waiting.
    let silent = Sink::build().delay(Duration::from_secs(600)).start();
    let mut hub = Hub::towards(ZRELAY, &silent.host()).setting("drain", "\"600s\"").start();
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(wait_until(SOON, || silent.connections() == 1));
    hub.process().signal(Signal::SIGTERM);
    let waiting = wait_until(Duration::from_millis(500), || hub.process().status().is_some());
    assert!(!waiting, "it drains: {}", hub.log());
    assert!(hub.terminate(SOON).is_some(), "the second signal ends it");
    hub.start();
    assert!(wait_until(SOON, || hub.queued() == 1), "the message is still there: {}", hub.json(&["threads"]));
}

#[test]
fn a_torn_tail_of_the_log_does_not_hinder() {
    let port = Port::free();
    let mut hub = Hub::towards(ZRELAY, &format!("[127.0.0.1]:{}", port.number())).start();
    let make = |number: usize| Mail::generate(&format!("torn.{number}"), 900, Body::Text, "s@a.test", &["r@b.test"]);
    assert_eq!(inject(hub.smtp(), 20, 2, &std::sync::atomic::AtomicBool::new(false), make), [Answered::Accepted; 20]);
    hub.kill();
    let newest = newest_segment(&hub.path().join("spool"));
    let mut file = fs::File::options().append(true).open(newest).expect("a segment can be opened");
    file.write_all(b"torn in the middle of a record").expect("a segment can be written");
    hub.start();
    let sink = Sink::build().start_on(port);
    assert!(sink.wait(20, SOON), "{} {}", sink.count(), hub.json(&["threads"]));
}

fn newest_segment(spool: &Path) -> std::path::PathBuf {
    let mut files = Vec::new();
    let mut open = vec![spool.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("the spool can be read").filter_map(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files.retain(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0) && !path.ends_with("lock"));
    files.sort();
    files.pop().expect("there is a segment")
}

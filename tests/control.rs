//! The control socket as others use it: roles, subscriptions, traces.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use zrelay_tests::{Answer, Hub, SOON, Sink, Step, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

/// `nobody` on Debian; no test needs it to be.
const STRANGER: u32 = 65534;

/// The binary where everybody may run it: the build's directory may be its owner's alone.
fn shared_binary() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("zrelay-test.").tempdir().expect("a directory can be made");
    let path = directory.path().join("zrelay");
    if fs::hard_link(ZRELAY, &path).is_err() {
        fs::copy(ZRELAY, &path).expect("the binary can be copied");
    }
    open_to_all(directory.path());
    directory
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
}

fn as_stranger(binary: &Path, hub: &Hub, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary.join("zrelay"));
    command.current_dir("/");
    command.args(arguments).arg("--control").arg(hub.path().join("control.sock"));
    command.env_remove("ZRELAY_CONFIG").uid(STRANGER).gid(STRANGER).output().expect("zrelay can be run")
}

#[test]
fn each_role_may_do_what_it_is_for_and_no_more() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: only root can be somebody else");
        return;
    }
    let binary = shared_binary();
    let looks: &[&str] = &["threads", "hold/*"];
    let holds: &[&str] = &["hold", "hold/q"];
    let drops: &[&str] = &["drop", "hold/q"];
    for (access, allowed, refused) in [
        ("", &[][..], &[looks, holds, drops][..]),
        ("read_only = [\"%65534\"]", &[looks], &[holds, drops]),
        ("read_only = [\"65534\"]\noperator = [\"%65534\"]", &[looks, holds], &[drops]),
        ("admin = [\"65534\"]", &[looks, holds, drops], &[]),
    ] {
        let hub = Hub::build(ZRELAY).route("*", "hold", "q").table(&format!("[access]\n{access}")).start();
        open_to_all(hub.path());
        assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
        assert!(wait_until(SOON, || hub.queued() == 1));
        for command in allowed {
            let output = as_stranger(binary.path(), &hub, command);
            assert!(output.status.success(), "{access}: {command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        for command in refused {
            let output = as_stranger(binary.path(), &hub, command);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{access}: {command:?}");
            assert!(error.contains("role") || error.contains("may not control"), "{access}: {command:?}: {error}");
        }
        if access.starts_with("admin") {
            let logged = || !hub.log_lines(&["(65534)", "Drop"]).is_empty();
            assert!(wait_until(SOON, logged), "who did it is on record: {}", hub.log());
        }
    }
}

#[test]
fn a_trace_shows_a_conversation_in_both_directions_and_no_content() {
    let sink = Sink::build()
        .answer(|step| match step {
            Step::Rcpt("no@b.test") => Answer::Say("550 5.1.1 \u{1b}[31mnobody".to_owned()),
            _ => Answer::Accept,
        })
        .start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    let name = format!("smtp/{}", sink.host());
    let mut command = Command::new(ZRELAY);
    command.args(["trace", &name, "--for", "30s"]).arg("--config").arg(hub.path().join("zrelay.toml"));
    let mut trace = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("zrelay can be run");
    let mut said = String::new();
    BufReader::new(trace.stderr.take().expect("piped")).read_line(&mut said).expect("it says that it watches");
    assert!(said.contains("watching"), "{said}");
    let content = b"Subject: secret\r\n\r\nnot to be seen\r\n";
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test", "no@b.test"], content).code, 250);
    let mut seen = Vec::new();
    for line in BufReader::new(trace.stdout.take().expect("piped")).lines() {
        seen.push(line.expect("text"));
        if seen.last().is_some_and(|line| line.contains("octets of content")) {
            break;
        }
    }
    trace.kill().expect("it runs");
    trace.wait().expect("it ran");
    let text = seen.join("\n");
    for part in [
        "* connecting to",
        "* connected to",
        "< 220 ",
        "> EHLO hub.test",
        "> MAIL FROM:<s@a.test>",
        "> RCPT TO:<r@b.test>",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("not to be seen") && !text.contains("Subject: secret"), "{text}");
    // Nobody watches any more, and mail goes on.
    assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], content).code, 250);
    assert!(sink.wait(2, SOON), "{}", hub.log());
    // As JSON, a line each; and again on a connection that is there already.
    let mut command = Command::new("timeout");
    command.args(["60", ZRELAY, "trace", "smtp/*", "--limit", "3", "--json", "--config"]);
    let mut trace =
        command.arg(hub.path().join("zrelay.toml")).stdout(Stdio::piped()).spawn().expect("zrelay can be run");
    let delivered = |count: usize| {
        assert_eq!(hub.client().mail("s@a.test", &["r@b.test"], content).code, 250);
        assert!(sink.wait(count, SOON), "{}", hub.log());
    };
    let mut sent = 2;
    while trace.try_wait().expect("it runs").is_none() && sent < 5000 {
        sent += 1;
        delivered(sent);
    }
    let output = trace.wait_with_output().expect("it ends after three lines");
    let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is an object"))
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line["thread"] == name.as_str()), "{lines:?}");
}

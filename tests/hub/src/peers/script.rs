//! Clients that are scripts: Python's `smtplib`, `swaks`.

use std::net::SocketAddr;
use std::process::{Command, Output};

/// Runs a command to its end; its output.
///
/// # Panics
/// When it cannot be run or fails.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a Python script with arguments; what it prints. `import smtplib, sys` is there already.
pub fn python(script: &str, arguments: &[&str]) -> String {
    let script = format!("import smtplib, sys, socket\n{script}");
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "120", "python3", "-c", &script]).args(arguments);
    String::from_utf8_lossy(&run(&mut command).stdout).into_owned()
}

/// Runs `swaks` towards `server`; its transcript, and whether it was content. `None` when it is not installed.
pub fn swaks(server: SocketAddr, arguments: &[&str]) -> Option<(String, bool)> {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60", "swaks", "--server", &server.ip().to_string()]);
    command.args(["--port", &server.port().to_string(), "--timeout", "50", "--ehlo", "swaks.test"]).args(arguments);
    let output = command.output().ok()?;
    // timeout's "command not found".
    if output.status.code() == Some(127) {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((text, output.status.success()))
}

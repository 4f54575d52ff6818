//! `zrelay top` in a real terminal: tmux runs it, and the test reads the screen.
//!
//! `ZRELAY_PICTURE=etc/top.svg cargo test --test top` also makes the picture of the README from that screen.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use zrelay_tests::{Answer, Answered, Body, Hub, Mail, Port, SOON, Sink, Step, inject, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

/// A tmux server of its own with one window. Ends with its programs on drop.
struct Screen {
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Screen {
    /// A window of this size in which a shell runs `command`, and says how it ended.
    fn start(command: &str, columns: u32, lines: u32) -> Self {
        let directory = tempfile::Builder::new().prefix("zrelay-test.").tempdir().expect("a directory can be made");
        let screen = Self { socket: directory.path().join("tmux"), _directory: directory };
        let command = format!("{command}; echo \"ended with $?\"; exec sleep 600");
        let (columns, lines) = (columns.to_string(), lines.to_string());
        screen.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &lines, "sh", "-c", &command]);
        screen
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(arguments).env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
        let output = command.env_remove("TMUX").output().expect("tmux can be run");
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until all of these can be read.
    fn shows(&self, parts: &[&str]) {
        let shown = wait_until(SOON, || {
            let text = self.text();
            parts.iter().all(|part| text.contains(part))
        });
        assert!(shown, "not all of {parts:?} on the screen:\n{}", self.text());
    }

    fn shows_no(&self, part: &str) {
        assert!(wait_until(SOON, || !self.text().contains(part)), "{part} stays on the screen:\n{}", self.text());
    }

    /// As a picture.
    fn draw(&self, path: &Path) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let picture = std::fs::File::create(root.join(path)).expect("the picture can be written");
        let mut tool = Command::new(root.join("tests/screen-svg"));
        let mut tool = tool.stdin(Stdio::piped()).stdout(picture).spawn().expect("python3 is there");
        let screen = self.tmux(&["capture-pane", "-e", "-p"]);
        std::io::Write::write_all(&mut tool.stdin.take().expect("piped"), screen.as_bytes()).expect("it reads");
        assert!(tool.wait().expect("it runs").success());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").stderr(Stdio::null()).status();
    }
}

fn has_tmux() -> bool {
    let there = Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_ok();
    let required = std::env::var_os("ZRELAY_REQUIRE_PEERS").is_some();
    assert!(there || !required, "tmux is not installed");
    if !there {
        eprintln!("left out: tmux is not installed");
    }
    there
}

#[test]
fn the_screen_shows_threads_and_keys_steer_them() {
    if !has_tmux() {
        return;
    }
    let (sink, port) = (Sink::start(), Port::free());
    let greylist = |step: Step<'_>| match step {
        Step::Rcpt(_) => Answer::Say("450 4.2.0 greylisted, come again".to_owned()),
        _ => Answer::Accept,
    };
    let grey = Sink::build().answer(greylist).start();
    let down = format!("[127.0.0.1]:{}", port.number());
    let hub = Hub::build(ZRELAY)
        .route("down.test", "smtp", &down)
        .route("grey.test", "smtp", &grey.host())
        .route("quarantine.test", "hold", "quarantine")
        .route("*", "smtp", &sink.host())
        .clause("smtp/*", "interval = \"1h\"")
        .start();
    let (fast, down) = (format!("smtp/{}", sink.host()), format!("smtp/{down}"));
    for (domain, messages, recipients) in [("down.test", 40, 50), ("grey.test", 5, 30), ("quarantine.test", 3, 4)] {
        let make = |number: usize| {
            let recipients: Vec<String> = (0..recipients).map(|index| format!("r{index}@{domain}")).collect();
            let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
            Mail::generate(&format!("{domain}.{number}"), 500, Body::Text, "list-bounces@lists.test", &recipients)
        };
        let answers = inject(hub.smtp(), messages, 2, &AtomicBool::new(false), make);
        assert_eq!(answers, vec![Answered::Accepted; messages]);
    }
    let command = format!("{ZRELAY} top --interval 0.2 --config {}/zrelay.toml", hub.path().display());
    let screen = Screen::start(&command, 170, 30);
    // The longest queue stands first, and says why it waits.
    screen.shows(&[
        "zrelay up",
        "delivered per second",
        &down,
        "retry",
        "Connection refused",
        "hold/quarantine",
        "held",
        "? help",
    ]);
    assert!(wait_until(SOON, || hub.thread(&format!("smtp/{}", grey.host()))["state"] == "waiting"));
    // Mail goes through meanwhile, and the curve rises.
    let make = |number: usize| Mail::generate(&format!("f.{number}"), 500, Body::Text, "s@a.test", &["r@fast.test"]);
    let picture = std::env::var_os("ZRELAY_PICTURE");
    // A picture is to show a longer curve.
    let messages = if picture.is_some() { 20_000 } else { 1500 };
    std::thread::scope(|scope| {
        scope.spawn(|| inject(hub.smtp(), messages, 4, &AtomicBool::new(false), make));
        screen.shows(&[&fast, "450 4.2.0"]);
        let rises = || screen.text().lines().any(|line| line.contains("delivered ") && !line.contains("delivered 0/s"));
        assert!(wait_until(SOON, rises), "nothing is delivered:\n{}", screen.text());
        assert!(sink.wait(messages * 3 / 4, SOON), "{}", hub.log());
        if let Some(path) = picture {
            screen.draw(Path::new(&path));
        }
    });
    // Help, and back.
    screen.keys(&["?"]);
    screen.shows(&["help, any key closes it", "look inside"]);
    screen.keys(&["x"]);
    screen.shows_no("any key closes it");
    // Only some threads; into one.
    screen.keys(&["/"]);
    screen.keys(&["-l", "hold/*"]);
    screen.shows(&["pattern: hold/*"]);
    screen.keys(&["Enter"]);
    screen.shows_no(&down);
    screen.shows(&["1 threads hold/*", "hold/quarantine"]);
    screen.keys(&["/"]);
    screen.keys(&["-l", "smtp/*"]);
    screen.keys(&["Enter"]);
    screen.shows(&[&down]);
    screen.keys(&["Home", "Enter"]);
    screen.shows(&["Esc back", "batches", "replies", "list-bounces@lists.test", "2000 recipients in 40 batches"]);
    // Hold, after a question.
    screen.keys(&["h"]);
    screen.shows(&["? y/n"]);
    screen.keys(&["n"]);
    screen.shows(&["not done"]);
    assert_eq!(hub.thread(&down)["state"], "retry");
    screen.keys(&["h", "y"]);
    screen.shows(&["40 batches, 2000 recipients", "held by an operator"]);
    assert_eq!(hub.thread(&down)["state"], "held");
    screen.keys(&["r", "y"]);
    screen.shows(&["retry"]);
    // Another size, and the end: the terminal is as it was.
    screen.tmux(&["resize-window", "-x", "80", "-y", "20"]);
    screen.keys(&["Escape"]);
    screen.shows(&["Enter look inside"]);
    assert!(screen.text().lines().all(|line| line.chars().count() <= 80));
    screen.keys(&["q"]);
    screen.shows(&["ended with 0"]);
    screen.shows_no("look inside");
}

#[test]
fn a_hub_that_goes_away_is_found_again_and_without_one_the_terminal_stays() {
    if !has_tmux() {
        return;
    }
    let mut hub = Hub::build(ZRELAY).start();
    let command = format!("{ZRELAY} top --interval 0.2 --config {}/zrelay.toml", hub.path().display());
    let screen = Screen::start(&command, 100, 24);
    screen.shows(&["zrelay up", "0 recipients"]);
    hub.kill();
    screen.shows(&["looking for it"]);
    hub.start();
    screen.shows(&["zrelay up"]);
    screen.keys(&["C-c"]);
    screen.shows(&["ended with 0"]);
    drop(screen);
    // A terminal that goes away takes it along.
    let screen = Screen::start(&command, 100, 24);
    screen.shows(&["zrelay up"]);
    let clients = || {
        let sockets = std::fs::read_dir(format!("/proc/{}/fd", hub.id())).map(Iterator::count);
        sockets.unwrap_or_default()
    };
    let with = clients();
    drop(screen);
    assert!(wait_until(SOON, || clients() < with), "top goes on without its terminal");
    hub.kill();
    let screen = Screen::start(&command, 100, 24);
    screen.shows(&["no hub is listening", "ended with 1"]);
    let output = hub.zrelay(&["top"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("needs a terminal"), "{error}");
}

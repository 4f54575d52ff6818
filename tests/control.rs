//! The control socket as others use it: roles, subscriptions, traces.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use zrelay_tests::{Answer, Hub, SOON, Sink, Step, skip, wait_until};

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

/// A method as `scheduler/CONTROL.md` documents it.
struct Documented {
    method: String,
    role: String,
    /// The request, the response, and a notification behind it where there is one.
    blocks: Vec<String>,
}

/// What stands in the page for an id that differs from run to run.
const EXAMPLE_ID: &str = "640A1B2C3D4E5";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documented(page: &str) -> Vec<Documented> {
    let section = |text: &str| {
        let (method, rest) = text.split_once("`\n").expect("the method's name is code");
        let role = rest.trim_start().strip_prefix("Role: ").and_then(|rest| rest.split('.').next());
        let blocks = rest.split("```json\n").skip(1).filter_map(|block| block.split("\n```").next());
        Documented {
            method: method.to_owned(),
            role: role.unwrap_or_default().to_owned(),
            blocks: blocks.map(str::to_owned).collect(),
        }
    };
    page.split("\n## `").skip(1).map(section).collect()
}

/// Where the shapes of two values differ: keys, kinds of values; of arrays the first elements. Null goes with anything.
fn difference(place: &str, documented: &Value, real: &Value) -> Option<String> {
    match (documented, real) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Object(one), Value::Object(other)) => {
            let names = |fields: &serde_json::Map<String, Value>| fields.keys().cloned().collect::<Vec<_>>();
            if names(one) != names(other) {
                return Some(format!("{place}: {:?} on the page, {:?} in fact", names(one), names(other)));
            }
            one.iter().find_map(|(name, value)| difference(&format!("{place}.{name}"), value, &other[name]))
        }
        (Value::Array(one), Value::Array(other)) => match (one.first(), other.first()) {
            (Some(one), Some(other)) => difference(&format!("{place}[0]"), one, other),
            _ => None,
        },
        (one, other) if std::mem::discriminant(one) == std::mem::discriminant(other) => None,
        (one, other) => Some(format!("{place}: {one} on the page, {other} in fact")),
    }
}

#[test]
fn every_method_is_on_the_page_with_an_example_that_is_true_and_in_the_schema() {
    let path = root().join("scheduler/CONTROL.md");
    let mut page = fs::read_to_string(&path).expect("the page is there");
    let sections = documented(&page);
    let sink = Sink::start();
    let hub = Hub::build(ZRELAY)
        .route("quarantine.test", "hold", "quarantine")
        .route("*", "smtp", &sink.host())
        .clause("smtp/*", "interval = \"1h\"")
        .start();
    // The last one is delivered, and stands there with what was tried for it.
    let recipients = ["one@quarantine.test", "two@quarantine.test", "three@quarantine.test", "four@b.test"];
    assert_eq!(hub.client().mail("list-bounces@lists.test", &recipients, b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert_eq!(hub.client().mail("list-bounces@lists.test", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
    assert!(sink.wait(2, SOON) && wait_until(SOON, || hub.thread("hold/quarantine")["recipients"] == 3));
    let id = hub.json(&["messages"])[0]["message"].as_str().expect("it is queued").to_owned();
    let stream = UnixStream::connect(hub.path().join("control.sock")).expect("the hub listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket has one");
    let mut reader = BufReader::new(&stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer");
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    let bless = std::env::var_os("ZRELAY_BLESS").is_some();
    let (mut wrong, mut results) = (Vec::new(), String::new());
    let mut listed = Value::Null;
    for section in &sections {
        let Documented { method, blocks, .. } = section;
        let request = blocks[0].replace(EXAMPLE_ID, &id);
        let asked: Value = serde_json::from_str(&request).expect("the example is JSON");
        assert_eq!(asked["method"], method.as_str(), "the example of {method}");
        writeln!(&stream, "{request}").expect("the hub reads");
        let answers: Vec<Value> = blocks.iter().skip(1).map(|_| line()).collect();
        if *method == "methods" {
            listed = answers[0]["result"]["methods"].clone();
        }
        for (example, answer) in blocks.iter().skip(1).zip(&answers) {
            let told = serde_json::from_str(example).expect("the example is JSON");
            wrong.extend(difference(method, &told, answer));
            let real = serde_json::to_string_pretty(answer).expect("it is JSON").replace(&id, EXAMPLE_ID);
            if bless {
                let real = real.replace(&hub.path().display().to_string(), "/var/spool/zrelay");
                let begin = page.find(&format!("## `{method}`\n")).expect("it has a section");
                let at = begin + page[begin..].find(&format!("```json\n{example}\n```")).expect("it is there");
                page.replace_range(at..at + "```json\n\n```".len() + example.len(), &format!("```json\n{real}\n```"));
            }
            if let Some(result) = answer.get("result") {
                results += &format!("{}\n", serde_json::json!({ method.as_str(): result }));
            }
            if let Some(notification) = answer["method"].as_str() {
                results += &format!("{}\n", serde_json::json!({ notification: answer["params"] }));
            }
        }
    }
    if bless {
        return fs::write(&path, page).expect("the page can be written");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nothing is left out, and roles are right.
    for method in listed.as_array().expect("methods are listed") {
        let found = sections.iter().find(|section| section.method == method["method"].as_str().unwrap_or_default());
        assert_eq!(found.map(|section| section.role.as_str()), method["role"].as_str(), "{method} on the page");
    }
    assert_eq!(listed.as_array().map(Vec::len), Some(sections.len()), "the page has a method that is none");
    check_against_schema(&results);
}

/// The committed schema is that of the types, and real answers hold against it.
fn check_against_schema(results: &str) {
    let path = root().join("etc/control.schema.json");
    let printed = Command::new(ZRELAY).arg("schema").output().expect("zrelay can be run").stdout;
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(printed == committed, "etc/control.schema.json is not what \"zrelay schema\" prints");
    let mut check = Command::new(root().join("tests/schema-check"));
    let check = check.arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut check) = check else { return skip("python3 is not installed") };
    check.stdin.take().expect("piped").write_all(results.as_bytes()).expect("it reads");
    let output = check.wait_with_output().expect("it ends");
    match output.status.code() {
        Some(0) => {}
        Some(3) => skip("python3-jsonschema is not installed"),
        _ => panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    }
}

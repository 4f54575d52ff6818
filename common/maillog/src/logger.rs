//! The process's logger.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;

use log::{Level, LevelFilter, Record};
use zrelay_clock::{Clock, Timestamp};

/// Longest text of one line, octets. Deliveries with the longest addresses and replies stay below.
pub const LINE_MAX: usize = 4096;

/// How lines begin, and which are written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// First half of the program's name, `zrelay`.
    pub program: String,
    /// The host's name.
    pub hostname: String,
    /// What is written where `RUST_LOG` says nothing.
    pub level: LevelFilter,
}

impl Options {
    /// `zrelay` on `hostname`, from `info` up.
    pub fn new(hostname: &str) -> Self {
        // The host's field ends at a blank.
        let hostname = hostname.split(|c: char| c.is_whitespace() || c.is_control()).next().unwrap_or("").to_owned();
        Self { program: "zrelay".to_owned(), hostname, level: LevelFilter::Info }
    }
}

/// Makes standard error the log of this process. `RUST_LOG` is honoured: `RUST_LOG=debug`, `RUST_LOG=smtp=trace`.
///
/// # Errors
/// When the process has a logger already.
pub fn init(options: Options) -> Result<(), log::SetLoggerError> {
    let clock = Clock::start();
    let pid = std::process::id();
    env_logger::Builder::new()
        .filter_level(options.level)
        .parse_default_env()
        .write_style(env_logger::WriteStyle::Never)
        .format(move |out, record| {
            SCRATCH.with_borrow_mut(|scratch| {
                scratch.line.clear();
                scratch.stamp(clock.now());
                let Scratch { line, text, stamp, .. } = scratch;
                text.clear();
                // A `Display` that fails has written what it could.
                let _ = write!(text, "{}", record.args());
                let _ = compose(line, stamp, &options, pid, record, text);
                out.write_all(line.as_bytes())
            })
        })
        .try_init()
}

/// One line as [`init`] writes it, with its newline.
pub fn render(at: Timestamp, options: &Options, pid: u32, record: &Record<'_>) -> String {
    let mut line = String::new();
    let _ = compose(&mut line, &at.syslog(), options, pid, record, &record.args().to_string());
    line
}

/// Buffers of one thread, used again for every line.
struct Scratch {
    line: String,
    text: String,
    stamp: String,
    /// The second that `stamp` shows.
    second: u64,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { line: String::new(), text: String::new(), stamp: String::new(), second: u64::MAX }) };
}

impl Scratch {
    /// Formatting a date costs as much as the rest of a line; it changes once a second.
    fn stamp(&mut self, now: Timestamp) {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.stamp = now.syslog();
        }
    }
}

fn compose(
    line: &mut String,
    stamp: &str,
    options: &Options,
    pid: u32,
    record: &Record<'_>,
    text: &str,
) -> fmt::Result {
    let Options { program, hostname, .. } = options;
    write!(line, "{stamp} {hostname} {program}/{}[{pid}]: ", program_of(record.target()))?;
    line.push_str(match record.level() {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    });
    let start = line.len();
    for c in text.chars() {
        if line.len() - start > LINE_MAX {
            line.push_str("...");
            break;
        }
        if is_plain(c) { line.push(c) } else { write!(line, "{}", c.escape_default())? }
    }
    line.push('\n');
    Ok(())
}

/// The target as the second half of a program's name: `zrelay_smtp::engine` is `smtp`, like the short targets of the
/// rooms; what other crates log keeps their name.
fn program_of(target: &str) -> &str {
    let crate_name = target.split("::").next().unwrap_or(target);
    let name = crate_name.strip_prefix("zrelay_").unwrap_or(crate_name);
    let well_formed = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    if well_formed { name } else { "hub" }
}

/// Whether a character may stand in a log as it is: neither a control character nor one that breaks lines or turns the
/// direction of writing.
fn is_plain(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    !(c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: Level, target: &str, text: &str) -> String {
        let at = Timestamp::from_secs(1_795_299_277);
        let options = Options::new("hub");
        let render = |args: fmt::Arguments<'_>| {
            render(at, &options, 1234, &Record::builder().args(args).level(level).target(target).build())
        };
        // The stamp depends on the machine's time zone.
        render(format_args!("{text}"))[16..].to_owned()
    }

    #[test]
    fn lines_have_the_form_of_syslog_files() {
        assert_eq!(line(Level::Info, "smtp", "64A0: to=<a@b>"), "hub zrelay/smtp[1234]: 64A0: to=<a@b>\n");
        assert_eq!(line(Level::Warn, "zrelay_spool::appender", "slow"), "hub zrelay/spool[1234]: warning: slow\n");
        assert_eq!(line(Level::Error, "mio::poll", "x"), "hub zrelay/mio[1234]: error: x\n");
        assert_eq!(line(Level::Debug, "a b]", "x"), "hub zrelay/hub[1234]: debug: x\n");
    }

    #[test]
    fn a_remote_text_cannot_forge_a_line_or_drive_a_terminal() {
        let forged = line(
            Level::Info,
            "smtp",
            "550 no\r\nNov 21 22:14:37 hub zrelay/smtp[1]: A: status=sent\u{1b}[2J\u{2028}\u{85}",
        );
        assert_eq!(forged.matches('\n').count(), 1);
        assert!(forged.ends_with('\n'));
        assert!(forged.contains(r"550 no\r\nNov 21"), "{forged}");
        assert!(!forged.contains(['\u{1b}', '\r', '\u{2028}', '\u{85}']));
        assert!(line(Level::Info, "smtp", "grüße").contains("grüße"));
    }

    #[test]
    fn a_line_has_a_bound() {
        assert!(line(Level::Info, "smtp", &"x".repeat(100_000)).len() < LINE_MAX + 100);
    }
}

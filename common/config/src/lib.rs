//! The configuration: one TOML file, read into one checked value.
//!
//! ```text
//!   text ──toml──▶ raw tables with their places ──check──▶ Config      (or ConfigError: every mistake with its place)
//! ```
//!
//! The rest of the hub sees only [`Config`], in which every value is there, in its unit and within its range. What the
//! file may say and in which notation stands in `raw.rs`, what is required of it in `check.rs`, and every default with
//! its reason in [`defaults`]. Unknown keys are refused. A file with several mistakes is answered with all of them as far
//! as they can be told apart: a syntax error hides what is behind it, and so does a value of the wrong type in its table.
//!
//! ```
//! use zrelay_config::Config;
//!
//! let config = Config::parse("hub.toml", "hostname = 'hub.example.org'\n[[route]]\nchannel = 'hold'\n")?;
//! assert_eq!(config.routes[0].channel, "hold");
//!
//! let error = Config::parse("hub.toml", "[[route]]\nchanel = 'hold'\n").unwrap_err();
//! assert!(error.to_string().contains("hub.toml:2:1"));
//! # Ok::<(), zrelay_config::ConfigError>(())
//! ```
#![forbid(unsafe_code)]

mod access;
mod check;
pub mod defaults;
mod error;
pub mod host;
mod model;
mod pattern;
mod rate;
mod raw;
mod reply;

use std::path::Path;

pub use access::{Account, Principal, PrincipalError};
pub use error::{ConfigError, Problem};
pub use model::{
    Access, BareNewline, Clause, Config, Dns, FlowKey, Intake, Listen, Loops, Pipelining, Protocol, Queue, Route,
    ServerTls, TlsPolicy, WarmUp,
};
pub use pattern::{Pattern, PatternError};
pub use rate::{Rate, RateError, Rates};
pub use reply::{ReplyClass, ReplyRule};

/// Channels that a `[[route]]` may name.
pub const CHANNELS: [&str; 5] = ["smtp", "lmtp", "hold", "error", "discard"];

/// Longest configuration file that is read, octets: a mistaken path must not fill the memory.
pub const FILE_MAX: u64 = 16 * 1024 * 1024;

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] when there is no such file or it cannot be read, else what [`Config::parse`] says.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Checks `text`; `name` stands for the file in error messages.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all mistakes that were found.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        check::check(text).map_err(|problems| ConfigError::invalid(name, text, problems))
    }

    /// The configuration of a hub without a file: a listener on 127.0.0.1:2525 that relays for loopback, data below
    /// `zrelay-data/` of the working directory, every recipient routed by its domain.
    pub fn embedded() -> Self {
        check::embedded()
    }
}

impl Default for Config {
    /// [`Config::embedded`].
    fn default() -> Self {
        Self::embedded()
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;

    let mut text = String::new();
    let length = std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if length as u64 > FILE_MAX {
        return Err(std::io::Error::other(format!("longer than {FILE_MAX} octets")));
    }
    Ok(text)
}

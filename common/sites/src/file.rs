//! The file: facts as lines of JSON, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zrelay_clock::Timestamp;

use crate::{FACTS_MAX, Fact, Key, Sites};

/// The format that this version writes and reads.
const VERSION: u32 = 1;

/// Largest file that is read, octets: more than [`FACTS_MAX`] facts of the usual size.
const FILE_MAX: u64 = 64 << 20;

/// Facts from further in the future than this were learned under a wrong clock, and would never end.
const FUTURE_MAX: Duration = Duration::from_secs(86_400);

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says no.
    #[error("{path}: {source}")]
    Io {
        /// The file, or the directory in which it is to be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A later version has written it.
    #[error("{path} is in format {found}, this zrelay reads format {VERSION}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is not what it should be.
    #[error("{path}, line {line}: {reason}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    zrelay_sites: u32,
}

/// Reads the facts of a file, all or none. No file is no facts.
pub(crate) fn read(path: &Path, now: Timestamp) -> Result<Vec<Fact>, FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let broken = |line, reason: String| FileError::Broken { path: path.to_owned(), line, reason };
    let mut facts = Vec::new();
    let mut reader = BufReader::new(file.take(FILE_MAX));
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if reader.read_until(b'\n', &mut text).map_err(io)? == 0 {
            // Even a file without facts has its first line; an empty one is what a crash left of another.
            return if line == 1 { Err(broken(1, "the file is empty".to_owned())) } else { Ok(facts) };
        }
        if text.pop() != Some(b'\n') {
            return Err(broken(line, "the line has no end".to_owned()));
        }
        if line == 1 {
            let head: Head = serde_json::from_slice(&text).map_err(|error| broken(line, error.to_string()))?;
            if head.zrelay_sites != VERSION {
                return Err(FileError::Newer { path: path.to_owned(), found: head.zrelay_sites });
            }
            continue;
        }
        let fact: Fact = serde_json::from_slice(&text).map_err(|error| broken(line, error.to_string()))?;
        if fact.expires > now && fact.since <= now + FUTURE_MAX && facts.len() < FACTS_MAX {
            facts.push(fact);
        }
    }
    Ok(facts)
}

/// Writes what is known to `path`, durable when this returns.
pub(crate) fn write(path: &Path, sites: &Sites, now: Timestamp) -> Result<(), FileError> {
    let temporary = beside(path, "tmp");
    let io = |source| FileError::Io { path: temporary.clone(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(io)?;
    let mut writer = BufWriter::new(file);
    line(&mut writer, &Head { zrelay_sites: VERSION }).map_err(io)?;
    let mut after: Option<Key> = None;
    loop {
        let page = sites.page(now, after.as_ref());
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        for fact in &page {
            line(&mut writer, fact).map_err(io)?;
        }
    }
    let file = writer.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    fs::rename(&temporary, path).map_err(io)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| FileError::Io { path: directory.to_owned(), source })
}

/// Gets a file that cannot be read out of the way. Returns where it is now.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, FileError> {
    let aside = beside(path, "bad");
    match fs::rename(path, &aside) {
        Ok(()) => Ok(aside),
        Err(source) => Err(FileError::Io { path: path.to_owned(), source }),
    }
}

fn line(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, value)?;
    writer.write_all(b"\n")
}

/// `path` with a further ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

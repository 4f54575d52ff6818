//! Opening the spool and running its thread.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use zrelay_clock::Timestamp;
use zrelay_mailbox::{Receiver, Sender, mailbox};

use crate::appender::Appender;
use crate::backlog::Backlog;
use crate::driver::Driver;
use crate::format::VERSION;
use crate::recovery::{Recovery, RecoveryError, Work, recover};
use crate::shared::Shared;
use crate::storage::Disk;
use crate::writer::Log;
use crate::{Arrived, Fact, Queue, Request, SpoolHandle};

/// Requests that wait at the intake; at [`PIECE_MAX`](crate::PIECE_MAX) octets each, 64 MiB at the most.
const INTAKE_CAPACITY: usize = 256;
/// Requests of the other rooms that wait; small ones.
const REQUESTS_CAPACITY: usize = 4096;

/// How to open a spool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The directory; created with mode 0700 when it is not there.
    pub directory: PathBuf,
    /// Octets of a segment; one of [`Options::SEGMENT_BYTES_MIN`]..=[`Options::SEGMENT_BYTES_MAX`].
    pub segment_bytes: u32,
    /// Octets of the file system that are kept for delivery: with less than that free, no new mail is taken
    /// ([`Health::Full`](crate::Health::Full)); with less than half of it, none at all.
    pub reserve_bytes: u64,
    /// Octets that compaction may read and write in a second, at least 1; see the crate's documentation.
    pub compaction_rate: u64,
    /// Octets of records, content not counted, from one checkpoint to the next: what a restart has to read behind the last
    /// one, at some hundred octets a message.
    pub checkpoint_bytes: u64,
    /// Octets of memory for the books of the queue: 32 for a message with one recipient, else 100 and a bit for each
    /// recipient. With more than that in the queue, no new mail is taken in ([`Health::Full`](crate::Health::Full)).
    pub memory_bytes: u64,
}

impl Options {
    /// 64 MiB: large enough that creating one is rare, small enough that reclaiming one frees space soon.
    pub const SEGMENT_BYTES_DEFAULT: u32 = 64 << 20;
    /// 4 KiB: for tests.
    pub const SEGMENT_BYTES_MIN: u32 = 4 << 10;
    /// 1 GiB: offsets in a segment are 32 bits wide.
    pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;

    /// 256 MiB: a few segments for the outcomes of what is in the queue.
    pub const RESERVE_BYTES_DEFAULT: u64 = 256 << 20;

    /// 16 MiB: little beside what a disk does, and a full segment in a few seconds.
    pub const COMPACTION_RATE_DEFAULT: u64 = 16 << 20;
    /// 64 MiB: read in a second or two at a restart.
    pub const CHECKPOINT_BYTES_DEFAULT: u64 = 64 << 20;
    /// 320 MiB: ten million messages.
    pub const MEMORY_BYTES_DEFAULT: u64 = 320 << 20;

    /// The defaults for a spool in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            segment_bytes: Self::SEGMENT_BYTES_DEFAULT,
            reserve_bytes: Self::RESERVE_BYTES_DEFAULT,
            compaction_rate: Self::COMPACTION_RATE_DEFAULT,
            checkpoint_bytes: Self::CHECKPOINT_BYTES_DEFAULT,
            memory_bytes: Self::MEMORY_BYTES_DEFAULT,
        }
    }
}

/// Where the appender's news go. It never blocks on them.
#[derive(Clone, Debug)]
pub struct Outlets {
    /// To the router.
    pub routing: Sender<Arrived>,
    /// To the scheduler.
    pub scheduler: Sender<Queue>,
    /// To the notary and the delivery log.
    pub facts: Sender<Fact>,
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made.
    #[error(
        "cannot create the spool directory {path}: {source}; create it, writable for the hub's user, or set `spool`"
    )]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be written.
    #[error("cannot write to the spool directory {path}: {source}; make the hub's user its owner, or set `spool`")]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another instance has it.
    #[error("the spool directory {path} is in use by another zrelay ({holder}); stop that one first, or set `spool`")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// It was written by a later version.
    #[error(
        "the spool directory {path} was written in format {found} (segment {segment}), this zrelay reads up to {known}; \
         run the later zrelay until the queue is empty, or set `spool`"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// The segment.
        segment: u32,
        /// Its format.
        found: u32,
        /// The latest format known here.
        known: u32,
    },
    /// A segment cannot be read.
    #[error("cannot read the spool in {path}: {source}")]
    Read {
        /// The directory, or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The segment size is out of range.
    #[error("segments of {0} octets: expected 4096 to 1073741824")]
    SegmentBytes(u32),
}

/// Who holds a spool, as far as its lock file tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// The process with this id.
    Process(u32),
    /// Unknown.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Unknown => f.write_str("process unknown"),
        }
    }
}

/// The spool, ready to run.
pub struct Spool {
    pub(crate) appender: Appender,
    intake: Receiver<Request>,
    requests: Receiver<Request>,
    compaction_rate: u64,
    /// Locked as long as it is open.
    pub(crate) lock: File,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

/// What an earlier run left in the queue: [`Spool::run`] sends it on its way first.
#[derive(Debug, Default)]
pub struct Recovered {
    messages: usize,
    work: Work,
    backlog: Backlog,
}

impl Recovered {
    /// Messages in the queue, those included of which only reports are left to send.
    pub fn messages(&self) -> usize {
        self.messages
    }
}

impl Spool {
    /// Opens the spool in `options.directory`, locks it, and reads what an earlier run left. Queue ids start above
    /// `now`, whatever the clock says later.
    ///
    /// # Errors
    /// [`OpenError`], in sentences for the operator.
    pub fn open(options: Options, now: Timestamp) -> Result<(Self, SpoolHandle, Recovered), OpenError> {
        let Options { directory, segment_bytes, reserve_bytes, compaction_rate, checkpoint_bytes, memory_bytes } =
            options;
        if !(Options::SEGMENT_BYTES_MIN..=Options::SEGMENT_BYTES_MAX).contains(&segment_bytes) {
            return Err(OpenError::SegmentBytes(segment_bytes));
        }
        create(&directory).map_err(|source| OpenError::Create { path: directory.clone(), source })?;
        let lock = lock(&directory)?;
        warn_if_others_may_enter(&directory);
        let mut storage = Disk::new(&directory);
        let shared = Arc::new(Shared::new());
        shared.raise_id(now.as_micros());
        let recovery = recover(&mut storage, &shared).map_err(|error| unreadable(&directory, error))?;
        let Recovery { ledger, threads, sealed, next_number, finishing, work, backlog, damage: _, position, recorded } =
            recovery;
        let base = backlog.base.clone();
        let recovered = Recovered { messages: ledger.live(), work, backlog };
        let log = Log::new(Box::new(storage), shared.clone(), segment_bytes, sealed, next_number);
        let mut appender = Appender::new(shared.clone(), log, ledger, threads, finishing);
        appender.set_checkpoint(base, position, recorded);
        appender.set_checkpoint_octets(checkpoint_bytes);
        appender.set_reserve(reserve_bytes);
        appender.set_memory(memory_bytes);
        let (to_intake, intake) = mailbox(INTAKE_CAPACITY);
        let (to_requests, requests) = mailbox(REQUESTS_CAPACITY);
        let handle = SpoolHandle { shared, intake: to_intake, requests: to_requests };
        Ok((Self { appender, intake, requests, compaction_rate, lock }, handle, recovered))
    }

    /// The body of the appender's thread. Returns after [`Request::Shutdown`], or when all handles are gone, with
    /// everything durable that could be made so.
    pub fn run(self, outlets: Outlets, recovered: Recovered) {
        let Self { appender, intake, requests, compaction_rate, lock } = self;
        let Recovered { messages, work, backlog } = recovered;
        let driver = Driver::new(appender, intake, requests, outlets, work, compaction_rate);
        driver.with_backlog(messages, backlog).run();
        drop(lock);
    }
}

pub(crate) fn unreadable(directory: &Path, error: RecoveryError) -> OpenError {
    let path = directory.to_owned();
    match error {
        RecoveryError::Io(source) => OpenError::Read { path, source },
        RecoveryError::Newer { segment, found } => OpenError::Newer { path, segment, found, known: VERSION },
    }
}

/// Creates the directory if it is not there, durably.
fn create(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for parent in directory.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        // Best effort: which of them are new is not known, and we may not open those that are not ours.
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
    }
    Ok(())
}

/// Takes the lock of the spool in `directory` and writes our process id into it for those who come later.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let refused = |source| OpenError::NotWritable { path: directory.to_owned(), source };
    let open =
        File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join("lock"));
    let mut file = open.map_err(refused)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(OpenError::Locked { path: directory.to_owned(), holder: read_holder(&mut file) });
        }
        Err(error) => return Err(refused(error.into())),
    }
    // For people only; a full disk must not keep the hub from starting.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    // What cannot be read stays unknown.
    let _ = file.read_to_string(&mut text);
    text.trim().parse().map_or(Holder::Unknown, Holder::Process)
}

/// Who has the spool in `directory` just now, if anybody.
pub(crate) fn holder(directory: &Path) -> Option<Holder> {
    let mut file = File::open(directory.join("lock")).ok()?;
    // Held for no longer than this call: it must not keep a hub from starting.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Some(read_holder(&mut file)),
        _ => None,
    }
}

fn warn_if_others_may_enter(directory: &Path) {
    let mode = fs::metadata(directory).map_or(0o700, |metadata| metadata.permissions().mode());
    if mode & 0o022 != 0 {
        let path = directory.display();
        log::warn!(
            "spool: others than the owner may write to {path}; chmod 700 it, for a file changed there stops the hub"
        );
    }
}

#[cfg(test)]
mod tests;

//! Looking into a spool without being its hub: for checks, figures, and to get mail out.
//!
//! Nothing is changed, not even what a start of the hub would tidy up, so it works beside a running hub as well: what
//! is seen is the log as it was at one moment, up to the last record that had reached the file.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::{Scan, Step};
use crate::recovery::{Damage, Recovery, RecoveryError, inspect};
use crate::shared::Shared;
use crate::spool::{holder, unreadable};
use crate::storage::Frozen;
use crate::{BatchProgress, Fact, Holder, MessageId, OpenError, Progress, QueuedBatch, Reader, Report};

/// How often the log is read anew when a running hub has removed a segment between the look at the directory and the
/// look at the segment.
const ATTEMPTS_MAX: u32 = 10;

/// A spool as it was at one moment.
pub struct Offline {
    directory: PathBuf,
    holder: Option<Holder>,
    shared: Arc<Shared>,
    recovery: Recovery,
}

impl std::fmt::Debug for Offline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offline").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// What is left to do for a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Its delivery.
    Open,
    /// A report on it to the sender.
    Owed,
    /// Nothing.
    Done,
}

/// How much there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Segments on disk.
    pub segments: u64,
    /// Octets recorded in them.
    pub live_bytes: u64,
    /// Messages in the queue.
    pub messages: u64,
    /// Those of them that wait for the router.
    pub unrouted: u64,
    /// Batches in the queue.
    pub batches: u64,
    /// Recipients without a final outcome.
    pub recipients_open: u64,
    /// Recipients for whom a report is owed to the sender.
    pub reports_owed: u64,
    /// Octets of the queued messages, as sent. Bodies stored once for several messages count for each of them.
    pub queued_bytes: u64,
    /// Threads with failures or held.
    pub threads: u64,
}

/// What a look at every octet found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Check {
    /// Segments read.
    pub segments: u64,
    /// Intact records in them.
    pub records: u64,
    /// Octets below the ends of the segments.
    pub octets: u64,
    /// Messages in the queue, every octet of which is as it was written.
    pub messages: u64,
    /// What is not as it was written, each once.
    pub damage: Vec<Damage>,
}

impl Offline {
    /// Reads the spool in `directory`.
    ///
    /// # Errors
    /// [`OpenError::Read`] and [`OpenError::Newer`].
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let mut attempts = 0;
        loop {
            let shared = Arc::new(Shared::new());
            attempts += 1;
            match inspect(&mut Frozen::new(directory), &shared) {
                Ok(recovery) => {
                    let holder = holder(directory);
                    return Ok(Self { directory: directory.to_owned(), holder, shared, recovery });
                }
                Err(RecoveryError::Io(error))
                    if error.kind() == io::ErrorKind::NotFound && directory.is_dir() && attempts < ATTEMPTS_MAX => {}
                Err(error) => return Err(unreadable(directory, error)),
            }
        }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The hub that runs on it, if any: what is seen here changes by the moment then.
    pub fn holder(&self) -> Option<Holder> {
        self.holder
    }

    /// Access to the messages.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// The messages in the queue, in the order in which they came.
    pub fn messages(&self) -> Vec<MessageId> {
        let ledger = &self.recovery.ledger;
        ledger.messages().filter(|message| ledger.is_live(*message)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The batches in the queue.
    pub fn batches(&self) -> &[QueuedBatch] {
        &self.recovery.work.batches
    }

    /// How far each message has come; those are left out on which the router has not decided.
    pub fn progress(&self) -> HashMap<MessageId, Progress> {
        let mut all: HashMap<MessageId, Progress> = HashMap::new();
        for batch in self.batches() {
            all.entry(batch.id.message).or_default().batches.push(BatchProgress {
                thread: batch.thread.clone(),
                recipients: batch.recipients.to_vec(),
                attempts: batch.attempts,
                due: batch.due,
                held: batch.held,
                last: batch.last.clone(),
            });
        }
        for fact in &self.recovery.work.facts {
            let Fact::Owed(owed) = fact else { continue };
            if !owed.disposition.is_final() {
                // A notice of delay on recipients that are in a batch above: whoever delivers them gives it in time.
                continue;
            }
            all.entry(owed.message).or_default().reports.push(Report {
                recipients: owed.recipients.clone(),
                disposition: owed.disposition,
                diagnostic: owed.diagnostic.clone(),
                at: owed.at,
            });
        }
        all
    }

    /// What is left to do for a recipient.
    pub fn fate(&self, message: MessageId, recipient: u32) -> Fate {
        let ledger = &self.recovery.ledger;
        if ledger.is_open(message, recipient) {
            return Fate::Open;
        }
        if ledger.is_owed(message, recipient) { Fate::Owed } else { Fate::Done }
    }

    /// How much there is.
    pub fn figures(&self) -> Figures {
        let Recovery { ledger, work, sealed, .. } = &self.recovery;
        let mut figures = Figures {
            segments: sealed.len() as u64,
            live_bytes: sealed.values().map(|end| u64::from(*end)).sum(),
            unrouted: work.arrived.len() as u64,
            batches: work.batches.len() as u64,
            threads: work.threads.len() as u64,
            ..Figures::default()
        };
        let reader = self.reader();
        for message in self.messages() {
            let (open, owed) = ledger.counts(message);
            figures.messages += 1;
            figures.recipients_open += u64::from(open);
            figures.reports_owed += u64::from(owed);
            figures.queued_bytes += reader.message(message).map_or(0, |stored| stored.size());
        }
        figures
    }

    /// Verifies every record of every segment, and every message in the queue.
    pub fn check(&self) -> Check {
        let damage = self.recovery.damage.clone();
        let damaged = damage.iter().filter(|damage| matches!(damage, Damage::Content(_))).count();
        let messages = self.messages().len().saturating_sub(damaged) as u64;
        let mut check = Check { damage, messages, ..Check::default() };
        for (&segment, &end) in &self.recovery.sealed {
            check.segments += 1;
            check.octets += u64::from(end);
            let Some(view) = self.shared.view(segment) else { continue };
            for step in Scan::new(&*view, segment, end) {
                // Gaps are known already.
                let Step::Record(found) = step else { continue };
                if found.is_intact(&*view) {
                    check.records += 1;
                    continue;
                }
                let damage = Damage::Record { segment, at: found.at, kind: format!("{:?}", found.kind) };
                if !check.damage.contains(&damage) {
                    check.damage.push(damage);
                }
            }
        }
        check
    }
}

#[cfg(test)]
mod tests;

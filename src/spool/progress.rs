//! How far an exported message had come, as JSON.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zrelay_clock::Timestamp;
use zrelay_spool::{BatchProgress, Diagnostic, Disposition, Report, Status};

/// Open recipients with the same next hop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportedBatch {
    /// `channel/host`.
    pub(super) thread: String,
    /// Indices in `recipients`.
    pub(super) recipients: Vec<u32>,
    pub(super) attempts: u32,
    /// Microseconds since the Unix epoch.
    pub(super) due_micros: u64,
    pub(super) held: bool,
    pub(super) last: Option<ExportedReply>,
}

/// A reply of a next hop, or a reason of the hub.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportedReply {
    /// 0 for a reason of the hub.
    code: u16,
    /// RFC 3463.
    status: (u8, u16, u16),
    text: String,
    peer: String,
    command: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportedReport {
    about: About,
    /// Indices in `recipients`.
    pub(super) recipients: Vec<u32>,
    /// Microseconds since the Unix epoch.
    at_micros: u64,
    pub(super) reply: ExportedReply,
}

/// What is to be reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum About {
    Delivered,
    Failed,
    Expired,
}

impl ExportedReply {
    pub(super) fn of(diagnostic: &Diagnostic) -> Self {
        let Diagnostic { code, status: Status(class, subject, detail), text, peer, command } = diagnostic.clone();
        Self { code, status: (class, subject, detail), text, peer, command }
    }

    pub(super) fn diagnostic(self) -> Arc<Diagnostic> {
        let Self { code, status: (class, subject, detail), text, peer, command } = self;
        Arc::new(Diagnostic { code, status: Status(class, subject, detail), text, peer, command })
    }

    pub(super) fn texts(&self) -> [&String; 3] {
        [&self.text, &self.peer, &self.command]
    }
}

impl ExportedBatch {
    pub(super) fn of(batch: &BatchProgress) -> Self {
        Self {
            thread: batch.thread.to_string(),
            recipients: batch.recipients.clone(),
            attempts: batch.attempts,
            due_micros: batch.due.as_micros(),
            held: batch.held,
            last: batch.last.as_deref().map(ExportedReply::of),
        }
    }

    pub(super) fn progress(self) -> Option<BatchProgress> {
        Some(BatchProgress {
            thread: self.thread.parse().ok()?,
            recipients: self.recipients,
            attempts: self.attempts,
            due: Timestamp::from_micros(self.due_micros),
            held: self.held,
            last: self.last.map(ExportedReply::diagnostic),
        })
    }
}

impl ExportedReport {
    pub(super) fn of(report: &Report) -> Self {
        let about = match report.disposition {
            Disposition::Delivered { .. } => About::Delivered,
            Disposition::Expired => About::Expired,
            // Nothing is owed for the others.
            Disposition::Failed | Disposition::Deferred | Disposition::Delayed | Disposition::Dropped => About::Failed,
        };
        Self {
            about,
            recipients: report.recipients.clone(),
            at_micros: report.at.as_micros(),
            reply: ExportedReply::of(&report.diagnostic),
        }
    }

    pub(super) fn report(self) -> Report {
        Report {
            recipients: self.recipients,
            disposition: match self.about {
                About::Delivered => Disposition::Delivered { dsn_relayed: false },
                About::Failed => Disposition::Failed,
                About::Expired => Disposition::Expired,
            },
            diagnostic: self.reply.diagnostic(),
            at: Timestamp::from_micros(self.at_micros),
        }
    }
}

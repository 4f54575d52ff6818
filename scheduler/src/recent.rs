//! What the host of a thread answered of late, for those who look at it.

use std::collections::VecDeque;
use std::sync::Arc;

use zrelay_clock::Timestamp;
use zrelay_spool::{Diagnostic, Disposition};

/// Kinds of replies that are remembered of a thread.
pub const RECENT_MAX: usize = 8;

/// Replies of one kind in a row.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When the first came.
    pub since: Timestamp,
    /// When the last came.
    pub at: Timestamp,
    /// What became of the recipients.
    pub disposition: Disposition,
    /// The last of them.
    pub diagnostic: Arc<Diagnostic>,
    /// Recipients concerned.
    pub recipients: u64,
}

impl Heard {
    fn is_like(&self, disposition: Disposition, diagnostic: &Diagnostic) -> bool {
        let own = &*self.diagnostic;
        self.disposition == disposition
            && (own.code, own.status) == (diagnostic.code, diagnostic.status)
            // Replies to delivered messages differ in the queue id alone.
            && (matches!(disposition, Disposition::Delivered { .. }) || own.text == diagnostic.text)
    }
}

/// The last few kinds of replies; those of one kind in a row are one.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<Heard>);

impl Recent {
    /// A reply came, or a reason of our own.
    pub(crate) fn hear(
        &mut self,
        now: Timestamp,
        disposition: Disposition,
        diagnostic: &Arc<Diagnostic>,
        recipients: usize,
    ) {
        let recipients = u64::try_from(recipients).unwrap_or(u64::MAX);
        if let Some(last) = self.0.back_mut().filter(|last| last.is_like(disposition, diagnostic)) {
            last.at = now;
            last.recipients = last.recipients.saturating_add(recipients);
            last.diagnostic = diagnostic.clone();
            return;
        }
        if self.0.len() >= RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Heard { since: now, at: now, disposition, diagnostic: diagnostic.clone(), recipients });
    }

    /// The newest first.
    pub(crate) fn list(&self) -> Vec<Heard> {
        self.0.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use zrelay_spool::Status;

    use super::*;

    fn reply(code: u16, text: &str) -> Arc<Diagnostic> {
        Arc::new(Diagnostic { code, text: text.to_owned(), status: Status(4, 0, 0), ..Diagnostic::default() })
    }

    #[test]
    fn replies_of_one_kind_in_a_row_are_one_and_the_eldest_are_forgotten() {
        let mut recent = Recent::default();
        let delivered = Disposition::Delivered { dsn_relayed: false };
        for second in 0..100 {
            recent.hear(Timestamp::from_secs(second), delivered, &reply(250, &format!("queued as {second}")), 10);
        }
        recent.hear(Timestamp::from_secs(200), Disposition::Deferred, &reply(450, "slow down"), 1);
        let list = recent.list();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].recipients, list[1].recipients), (1, 1000));
        assert_eq!((list[1].since.as_secs(), list[1].at.as_secs()), (0, 99));
        assert_eq!(list[1].diagnostic.text, "queued as 99");
        for number in 0..20 {
            recent.hear(Timestamp::ZERO, Disposition::Failed, &reply(550, &format!("no {number}")), 1);
        }
        assert_eq!(recent.list().len(), RECENT_MAX);
        assert_eq!(recent.list()[0].diagnostic.text, "no 19");
    }
}

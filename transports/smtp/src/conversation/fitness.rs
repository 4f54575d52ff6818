//! What cannot be sent to this host at all, and is settled without asking it.

use std::sync::Arc;
use std::time::Duration;

use zrelay_agent::{Judgement, Rest, Verdict};
use zrelay_clock::Timestamp;
use zrelay_spool::{Diagnostic, Status};
use zrelay_wire::Capabilities;

use super::batch::{Batch, BatchKey};
use super::diagnostic::status;
use super::{Conversation, Event, State, urgency};
use crate::letter::{Addressee, Letter, has_eight_bit_header, has_eight_bit_octets};

/// Why a recipient cannot be sent to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Unfit {
    /// Not in the stored envelope.
    Missing,
    /// An address that would break the command's line.
    BadAddress,
    /// It or its sender is not ASCII, and the far side does not know SMTPUTF8.
    NotAscii,
}

/// Recipients, and what is said of them without asking the far side.
pub(super) type LocalVerdict = (Vec<u32>, Judgement, Arc<Diagnostic>);

/// Whether an envelope can be written for `addressee`, and whether that needs SMTPUTF8.
pub(super) fn fitness(addressee: Option<Addressee<'_>>, offered: &Capabilities) -> Result<bool, Unfit> {
    let addressee = addressee.ok_or(Unfit::Missing)?;
    // The spool holds what the grammar let pass; this is the last line of defence against commands inside addresses.
    let breaks = |text: &str| text.bytes().any(|octet| octet.is_ascii_control());
    if breaks(addressee.address) || breaks(addressee.sender) || addressee.address.is_empty() {
        return Err(Unfit::BadAddress);
    }
    let ascii = addressee.address.is_ascii() && addressee.sender.is_ascii();
    match ascii {
        false if !offered.smtputf8 => Err(Unfit::NotAscii),
        ascii => Ok(!ascii),
    }
}

impl<L: Letter> Conversation<L> {
    /// Why a message cannot be sent to this host at all.
    pub(super) fn unfit(&self, batch: &Batch<L>) -> Option<Arc<Diagnostic>> {
        if batch.fit {
            return None;
        }
        let (letter, offered, peer) = (&*batch.letter, &self.capabilities, &self.settings.peer);
        let size = letter.size();
        let content = letter.content();
        if let Some(Some(limit)) = offered.size.filter(|limit| limit.is_some_and(|limit| limit > 0 && size > limit)) {
            let text = format!("message size {size} exceeds size limit {limit} of server {peer}");
            return Some(self.reason(status::TOO_LARGE, &text));
        }
        if urgency::is_unkept(letter.handling(), offered) {
            let text =
                format!("the message is to be returned when it is late, and DELIVERBY was not offered by host {peer}");
            return Some(self.reason(status::NOT_CAPABLE, &text));
        }
        if content.smtputf8 && !offered.smtputf8 && has_eight_bit_header(letter) {
            let text = format!("SMTPUTF8 is required, but was not offered by host {peer}");
            return Some(self.reason(status::NOT_INTERNATIONAL, &text));
        }
        if content.eight_bit && !offered.eight_bit_mime && has_eight_bit_octets(letter) {
            let text = format!("message holds 8-bit data, and 8BITMIME was not offered by host {peer}");
            return Some(self.reason(status::NO_CONVERSION, &text));
        }
        None
    }

    pub(super) fn refuse_locally(&mut self, now: Timestamp, key: BatchKey, reason: Arc<Diagnostic>) -> bool {
        self.queue.pop_front();
        let recipients = self.batches.get_mut(key).map(Batch::take_all).unwrap_or_default();
        self.settle_locally(now, key, vec![(recipients, Judgement::Failed, reason)]);
        true
    }

    /// What is said of recipients that cannot be sent to for one and the same reason.
    pub(super) fn unfit_for_sending(&self, group: &[(u32, Unfit)]) -> Option<LocalVerdict> {
        let &(_, why) = group.first()?;
        let recipients = group.iter().map(|&(index, _)| index).collect();
        let peer = &self.settings.peer;
        let (judgement, status, text) = match why {
            Unfit::Missing => {
                (Judgement::Deferred, Status(4, 3, 0), "recipient missing in the stored envelope".to_owned())
            }
            Unfit::BadAddress => (Judgement::Failed, status::BAD_ADDRESS, "address with control characters".to_owned()),
            Unfit::NotAscii => (
                Judgement::Failed,
                status::NOT_INTERNATIONAL,
                format!("SMTPUTF8 is required, but was not offered by host {peer}"),
            ),
        };
        Some((recipients, judgement, self.reason(status, &text)))
    }

    /// Settles recipients without asking the far side; all those of one look at the batch at once, since the batch may
    /// be through with them.
    pub(super) fn settle_locally(&mut self, now: Timestamp, key: BatchKey, verdicts: Vec<LocalVerdict>) {
        debug_assert!(self.state == State::Ready);
        let Some(batch) = self.batches.get_mut(key) else {
            return;
        };
        batch.begun = true;
        let timing = batch.timing(now, Duration::ZERO);
        let done = batch.is_spent() && batch.open == 0;
        let id = batch.ticket.id;
        if done {
            self.batches.remove(key);
        }
        let rest = if done { Rest::Done } else { Rest::More };
        let verdict =
            |(recipients, judgement, diagnostic)| Verdict { recipients, judgement, diagnostic, at: now, timing };
        let verdicts = verdicts.into_iter().map(verdict).collect();
        self.events.push_back(Event::Settled { batch: id, verdicts, rest });
    }
}

//! The books: what has become of every recipient, from the first try of a client to the end, across crashes.
//!
//! They are kept from the outside: from what clients are answered, what the rooms ask of the spool, what the spool tells
//! them when it is durable, and what reaches the far sides. Nothing here asks a room what it believes.

use std::collections::BTreeMap;

use foldhash::HashMap;
use zrelay_agent::{Judgement, Verdict};
use zrelay_spool::{Disposition, Envelope, Handling, MessageId, Outcome};

use crate::mail::{self, Address};

/// How a recipient left the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// A far side took it.
    Delivered,
    /// A far side, or the hub, refused it.
    Failed,
    /// Its time was over.
    Expired,
    /// An operator took it out.
    Dropped,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Its client has no answer yet, and may not have been heard.
    Offered,
    /// The message was answered with 4xx, or never, and was not there behind a crash.
    Void,
    /// The hub is responsible.
    Open,
    Ended(End),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    message: u32,
    state: State,
    /// Its end, handed to the spool and not known to be durable.
    staged: Option<End>,
    /// How often it was taken by a far side, and with which transaction last.
    copies: u32,
    transaction: u32,
    /// The report that tells its sender of a failure.
    report: Option<MessageId>,
    /// That it is late is on the disk.
    late: bool,
}

#[derive(Clone, Debug)]
struct Message {
    first: u32,
    recipients: u32,
    length: u32,
    handling: Handling,
}

/// What a queue id stands for.
#[derive(Clone, Debug)]
enum Name {
    Message(u32),
    /// A report on these recipients.
    Report(Vec<u32>),
    /// News that some recipients of this message are late.
    Delay(u32),
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Recipients of messages that were accepted.
    pub accepted: u64,
    /// Messages refused for want of a disk.
    pub refused: u64,
    /// Recipients that left the queue, by end.
    pub ends: BTreeMap<End, u64>,
    /// Times that a recipient was put off.
    pub deferred: u64,
    /// Times that a far side took a recipient again.
    pub duplicates: u64,
    /// Times that it was unknown whether a recipient had been taken: no more duplicates than these may be.
    pub at_risk: u64,
    /// Transactions that far sides took.
    pub transactions: u64,
    /// Reports stored.
    pub reports: u64,
    /// Notices of a delay stored.
    pub delays: u64,
    /// Reports and notices that reached their senders.
    pub reports_delivered: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Books {
    entries: Vec<Entry>,
    messages: Vec<Message>,
    names: HashMap<MessageId, Name>,
    /// Recipients that were taken again, and by which transactions.
    again: Vec<(u32, u32)>,
    pub(crate) figures: Figures,
}

impl Books {
    /// A message that a client is about to send, with so many recipients; gives its number and that of the first of them.
    pub(crate) fn offer(&mut self, recipients: u32, length: u32, handling: Handling) -> (u32, u32) {
        let (message, first) = (self.messages.len() as u32, self.entries.len() as u32);
        self.messages.push(Message { first, recipients, length, handling });
        let (state, late) = (State::Offered, false);
        let entry = Entry { message, state, staged: None, copies: 0, transaction: 0, report: None, late };
        self.entries.extend((0..recipients).map(|_| entry));
        (message, first)
    }

    /// The queue id of a message.
    pub(crate) fn name(&mut self, id: MessageId, message: u32) {
        assert!(self.names.insert(id, Name::Message(message)).is_none(), "queue id {id} is used twice");
    }

    /// The number of a client's message, by its queue id.
    pub(crate) fn message_of(&self, id: MessageId) -> Option<u32> {
        match self.names.get(&id)? {
            Name::Message(message) => Some(*message),
            Name::Report(_) | Name::Delay(_) => None,
        }
    }

    /// What is asked for a message.
    pub(crate) fn handling(&self, message: u32) -> Handling {
        self.messages[message as usize].handling
    }

    fn range(&self, message: u32) -> std::ops::Range<usize> {
        let message = &self.messages[message as usize];
        message.first as usize..(message.first + message.recipients) as usize
    }

    /// The client has its 250.
    pub(crate) fn accepted(&mut self, message: u32) {
        for entry in self.range(message) {
            assert_eq!(self.entries[entry].state, State::Offered, "an answer too many");
            self.entries[entry].state = State::Open;
        }
        self.figures.accepted += u64::from(self.messages[message as usize].recipients);
    }

    /// The client has its 4xx.
    pub(crate) fn refused(&mut self, message: u32) {
        self.figures.refused += 1;
        for entry in self.range(message) {
            self.entries[entry].state = State::Void;
        }
    }

    /// A far side takes a message. Gives the number of the transaction.
    pub(crate) fn taken(&mut self, number: Option<u32>, content: &[u8], recipients: &[Address], awaited: bool) -> u32 {
        self.figures.transactions += 1;
        let transaction = self.figures.transactions as u32;
        let Some(number) = number else {
            self.figures.reports_delivered += recipients.len() as u64;
            return transaction;
        };
        let length = self.messages[number as usize].length;
        assert!(mail::is_content(content, number, length), "message {number} is not what it was");
        for address in recipients {
            let Address::Recipient(recipient) = *address else { panic!("{address:?} got message {number}") };
            let entry = &mut self.entries[recipient as usize];
            assert_eq!(entry.message, number, "recipient {recipient} got a foreign message");
            assert!(entry.state == State::Open || !awaited, "recipient {recipient} is sent to as {:?}", entry.state);
            let gone = entry.staged.filter(|end| *end != End::Delivered);
            assert!(gone.is_none() || !awaited, "recipient {recipient} is sent to, and has {gone:?}");
            if entry.copies > 0 {
                self.figures.duplicates += 1;
                self.again.push((recipient, transaction));
            }
            entry.copies += 1;
            entry.transaction = transaction;
        }
        transaction
    }

    /// The engine judges recipients: the replies must be theirs.
    pub(crate) fn judged(&mut self, id: MessageId, verdict: &Verdict) {
        let Some(Name::Message(message)) = self.names.get(&id) else { return };
        let first = self.messages[*message as usize].first;
        let text = &verdict.diagnostic.text;
        for index in &verdict.recipients {
            let number = first + index;
            let entry = &self.entries[number as usize];
            if let Judgement::Delivered { .. } = verdict.judgement {
                let transaction = text.rsplit_once('T').and_then(|(_, number)| number.parse().ok());
                assert_eq!(Some(entry.transaction), transaction, "recipient {number}: {text} is not its reply");
            }
            if text.contains('@') {
                let address = text.split(' ').next().and_then(Address::parse);
                assert_eq!(address, Some(Address::Recipient(number)), "{text} is not its reply: {id} {verdict:?}");
            }
        }
    }

    /// It is not known of so many recipients whether they were taken.
    pub(crate) fn unanswered(&mut self, recipients: usize) {
        self.figures.at_risk += recipients as u64;
    }

    fn entries_of(&self, outcome: &Outcome) -> Option<(u32, impl Iterator<Item = usize> + use<'_>)> {
        let Some(Name::Message(message)) = self.names.get(&outcome.batch.message) else { return None };
        let first = self.messages[*message as usize].first;
        let recipients = outcome.recipients.clone();
        Some((*message, recipients.into_iter().map(move |recipient| (first + recipient) as usize)))
    }

    /// A room hands an outcome to the spool.
    pub(crate) fn staged(&mut self, outcome: &Outcome) {
        let Some((_, entries)) = self.entries_of(outcome) else { return };
        let Some(end) = end(outcome.disposition) else { return };
        let discarded = outcome.channel.as_deref() == Some("discard");
        for number in entries.collect::<Vec<_>>() {
            let entry = &mut self.entries[number];
            // No far side is to see it.
            entry.copies += u32::from(discarded);
            assert_eq!(entry.state, State::Open, "recipient {number} has come to an end before");
            let before = entry.staged.replace(end);
            assert!(before.is_none(), "recipient {number} comes to an end twice: {before:?} and {end:?}");
        }
    }

    /// The spool says that an outcome is durable.
    pub(crate) fn durable(&mut self, outcome: &Outcome) {
        let Some((_, entries)) = self.entries_of(outcome) else { return };
        let entries: Vec<usize> = entries.collect();
        let Some(end) = end(outcome.disposition) else {
            self.figures.deferred += entries.len() as u64;
            return;
        };
        for number in entries {
            let entry = &mut self.entries[number];
            assert_eq!(entry.staged, Some(end), "the spool makes up an end of recipient {number}");
            self.end(number, end);
        }
    }

    /// The spool says that it is durable that these recipients are late, and that their sender is to be told.
    pub(crate) fn delayed(&mut self, id: MessageId, recipients: &[u32]) {
        let Some(Name::Message(message)) = self.names.get(&id) else { return };
        let first = self.messages[*message as usize].first;
        for recipient in recipients {
            let number = first + recipient;
            let entry = &mut self.entries[number as usize];
            assert!(!entry.late, "recipient {number} is late for the second time");
            assert!(mail::notify(number).delay(), "nobody wants to hear that recipient {number} is late");
            entry.late = true;
        }
    }

    fn end(&mut self, number: usize, end: End) {
        let entry = &mut self.entries[number];
        assert_eq!(entry.state, State::Open, "recipient {number} comes to an end twice");
        assert!(end != End::Delivered || entry.copies > 0, "recipient {number} counts as delivered and was not");
        entry.state = State::Ended(end);
        entry.staged = None;
        *self.figures.ends.entry(end).or_default() += 1;
    }

    /// The notary hands a report to the spool.
    pub(crate) fn report_staged(&mut self, id: MessageId, envelope: &Envelope) {
        let to = envelope.recipients.first().and_then(|recipient| Address::parse(&recipient.address));
        let Some(origin) = &envelope.origin else {
            let Some(Address::Bounces(message)) = to else { panic!("{id} is no report") };
            self.names.insert(id, Name::Delay(message));
            return;
        };
        let Some(Name::Message(message)) = self.names.get(&origin.message) else { return };
        let message = *message;
        let first = self.messages[message as usize].first;
        assert_eq!(to, Some(Address::Bounces(message)), "a report goes to the wrong place");
        let about = origin.recipients.iter().map(|recipient| first + recipient).collect();
        self.names.insert(id, Name::Report(about));
    }

    /// A message is in the queue, unrouted: with a report that says that it is durable. Gives the number of a client's
    /// message.
    pub(crate) fn arrived(&mut self, id: MessageId) -> Option<u32> {
        match self.names.get(&id)? {
            Name::Message(message) => Some(*message),
            Name::Report(about) => {
                self.figures.reports += 1;
                for recipient in about {
                    let entry = &mut self.entries[*recipient as usize];
                    let owed = matches!(entry.state, State::Ended(End::Failed | End::Expired));
                    assert!(
                        owed && mail::notify(*recipient).failure(),
                        "a report on recipient {recipient}, which is {:?}",
                        entry.state
                    );
                    let before = entry.report.replace(id);
                    assert!(before.is_none_or(|before| before == id), "recipient {recipient} is reported twice");
                }
                None
            }
            Name::Delay(message) => {
                self.figures.delays += 1;
                let is_late = self.range(*message).any(|number| self.entries[number].late);
                assert!(is_late, "news of a delay of message {message} that there was not");
                None
            }
        }
    }

    /// The message has left the queue.
    pub(crate) fn removed(&self, id: MessageId) {
        if let Some(Name::Message(message)) = self.names.get(&id) {
            self.check_ended(*message);
        }
    }

    fn check_ended(&self, message: u32) {
        for number in self.range(message) {
            let entry = &self.entries[number];
            match entry.state {
                State::Ended(End::Failed | End::Expired) => {
                    let told = entry.report.is_some() || !mail::notify(number as u32).failure();
                    assert!(told, "recipient {number} of message {message}: nobody was told");
                }
                State::Ended(_) | State::Void => {}
                State::Open | State::Offered => panic!("recipient {number} of message {message} is lost"),
            }
        }
    }

    /// Behind a crash: of these messages everything waits for the router, and these recipients of others are in the
    /// queue. Gives the messages whose clients have no answer and which are not there.
    pub(crate) fn recovered(&mut self, unrouted: &[MessageId], queued: &[(MessageId, Vec<u32>)]) -> Vec<u32> {
        let mut open = vec![false; self.entries.len()];
        let mut there = vec![false; self.messages.len()];
        for id in unrouted {
            let Some(Name::Message(message)) = self.names.get(id) else { continue };
            there[*message as usize] = true;
            open[self.range(*message)].fill(true);
        }
        for (id, recipients) in queued {
            let Some(Name::Message(message)) = self.names.get(id) else { continue };
            there[*message as usize] = true;
            let first = self.messages[*message as usize].first;
            for recipient in recipients {
                open[(first + recipient) as usize] = true;
            }
        }
        let mut lost = Vec::new();
        for message in 0..self.messages.len() as u32 {
            let offered = self.range(message).any(|number| self.entries[number].state == State::Offered);
            if offered && there[message as usize] {
                self.accepted(message);
            } else if offered {
                self.refused(message);
                lost.push(message);
            }
        }
        for (number, is_open) in open.into_iter().enumerate() {
            let entry = &mut self.entries[number];
            match (entry.state, is_open) {
                (State::Open, true) => {
                    self.figures.at_risk += u64::from(entry.staged == Some(End::Delivered));
                    entry.staged = None;
                }
                (State::Open, false) => {
                    let Some(end) = entry.staged else { panic!("the crash has lost recipient {number}") };
                    self.end(number, end);
                }
                // Its client was told to come again while the disk failed, and the message was there after all.
                (State::Void, true) => {
                    entry.state = State::Open;
                    self.figures.accepted += 1;
                }
                (_, false) => {}
                (state, true) => panic!("recipient {number} was {state:?} and is back"),
            }
        }
        lost
    }

    /// Recipients for which the hub is responsible.
    pub(crate) fn open(&self) -> usize {
        self.entries.iter().filter(|entry| entry.state == State::Open).count()
    }

    /// The end of everything: every accepted recipient has come to an end, and every sender knows.
    pub(crate) fn close(&self) {
        (0..self.messages.len() as u32).for_each(|message| self.check_ended(message));
        let ends: u64 = self.figures.ends.values().sum();
        assert_eq!(ends, self.figures.accepted, "the books do not balance");
        let Figures { duplicates, at_risk, .. } = self.figures;
        assert!(duplicates <= at_risk, "{duplicates} duplicates, where {at_risk} could have been: {:?}", self.again);
    }
}

fn end(disposition: Disposition) -> Option<End> {
    match disposition {
        Disposition::Delivered { .. } => Some(End::Delivered),
        Disposition::Failed => Some(End::Failed),
        Disposition::Expired => Some(End::Expired),
        Disposition::Dropped => Some(End::Dropped),
        Disposition::Deferred | Disposition::Delayed => None,
    }
}

//! The envelope of an exported message, as JSON.

use serde::{Deserialize, Serialize};
use zrelay_clock::Timestamp;
use zrelay_spool::{
    ByMode, Content, DeliverBy, Envelope, Fate, Flow, Handling, MessageId, Notify, Offline, Recipient, Ret, Stored,
};
use zrelay_wire::{Address, ForwardPath, Utf8};

/// What `ID.json` holds. Field names are stable; fields that are not known are refused rather than lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exported {
    /// Format of this file.
    pub(super) version: u32,
    /// The queue id it had.
    pub(super) message: String,
    /// When it came in, microseconds since the Unix epoch.
    pub(super) received_micros: u64,
    /// The same, to read.
    pub(super) received: String,
    /// From whom: `name[address]`.
    pub(super) client: String,
    /// Octets at the front of `ID.eml` that the hub put there.
    pub(super) trace_octets: u64,
    /// Octets of `ID.eml`.
    pub(super) octets: u64,
    pub(super) eight_bit: bool,
    pub(super) smtputf8: bool,
    /// In xtext, as it came (RFC 3461).
    pub(super) envid: Option<String>,
    pub(super) ret: Option<Return>,
    /// The number of the flow it belongs to, where that is not its sender's domain's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) flow: Option<u32>,
    /// RFC 6710, -9 to 9.
    #[serde(default)]
    pub(super) priority: i8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deliver_by: Option<ExportedDeliverBy>,
    /// Reverse paths without brackets; `""` is the null sender.
    pub(super) senders: Vec<String>,
    pub(super) recipients: Vec<ExportedRecipient>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportedRecipient {
    pub(super) address: String,
    /// Index in `senders`.
    pub(super) sender: u32,
    /// `type;xtext`, as it came (RFC 3461).
    pub(super) orcpt: Option<String>,
    pub(super) notify: Option<Vec<Condition>>,
    pub(super) state: State,
}

/// RFC 2852 `BY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportedDeliverBy {
    /// The deadline, microseconds since the Unix epoch.
    pub(super) deadline_micros: u64,
    /// `R`: returned when it is over; else `N`.
    pub(super) returns: bool,
    /// `T`.
    pub(super) trace: bool,
}

/// RFC 3461 `RET`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Return {
    Full,
    Headers,
}

/// RFC 3461 `NOTIFY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Condition {
    Never,
    Success,
    Failure,
    Delay,
}

/// What was left to do for a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// To be delivered.
    Open,
    /// Failed, and its sender has not been told yet.
    Owed,
    Done,
}

/// The format written and read here.
pub(super) const VERSION: u32 = 1;

impl Exported {
    pub(super) fn of(offline: &Offline, id: MessageId, stored: &Stored) -> Self {
        let recipient = |index| {
            let recipient = stored.recipient(index);
            ExportedRecipient {
                address: recipient.address.to_owned(),
                sender: recipient.sender,
                orcpt: recipient.orcpt.map(str::to_owned),
                notify: conditions(recipient.notify),
                state: match offline.fate(id, index) {
                    Fate::Open => State::Open,
                    Fate::Owed => State::Owed,
                    Fate::Done => State::Done,
                },
            }
        };
        let Content { eight_bit, smtputf8 } = stored.content();
        let Handling { flow, priority, deliver_by } = stored.handling();
        Self {
            version: VERSION,
            message: id.to_string(),
            received_micros: stored.received().as_micros(),
            received: stored.received().rfc3339(),
            client: stored.client().to_owned(),
            trace_octets: stored.trace().len() as u64,
            octets: stored.size(),
            eight_bit,
            smtputf8,
            envid: stored.envid().map(str::to_owned),
            ret: stored.ret().map(|ret| match ret {
                Ret::Full => Return::Full,
                Ret::Headers => Return::Headers,
            }),
            flow: flow.map(|flow| flow.0),
            priority,
            deliver_by: deliver_by.map(|by| ExportedDeliverBy {
                deadline_micros: by.deadline.as_micros(),
                returns: by.mode == ByMode::Return,
                trace: by.trace,
            }),
            senders: (0..stored.senders()).map(|index| stored.sender(index).to_owned()).collect(),
            recipients: (0..stored.recipients()).map(recipient).collect(),
        }
    }

    /// Checks what ends up in commands and log lines, as the server does for what clients say.
    pub(super) fn validate(&self) -> Result<(), String> {
        for address in self.senders.iter().filter(|sender| !sender.is_empty()) {
            Address::parse(address.as_bytes(), Utf8::Allowed).map_err(|error| format!("{address:?}: {error}"))?;
        }
        for ExportedRecipient { address, .. } in &self.recipients {
            ForwardPath::parse(address.as_bytes(), Utf8::Allowed).map_err(|error| format!("{address:?}: {error}"))?;
        }
        if !(-9..=9).contains(&self.priority) {
            return Err(format!("{} is no priority; expected -9 to 9", self.priority));
        }
        if self.recipients.iter().any(|recipient| recipient.sender as usize >= self.senders.len()) {
            return Err("a recipient names a sender that is not there".to_owned());
        }
        let orcpts = self.recipients.iter().filter_map(|recipient| recipient.orcpt.as_ref());
        let texts = orcpts.chain(&self.envid).chain([&self.client]);
        match texts.into_iter().find(|text| text.chars().any(char::is_control)) {
            Some(text) => Err(format!("{text:?} has control characters in it")),
            None => Ok(()),
        }
    }

    /// The recipients in a state.
    pub(super) fn count(&self, state: State) -> usize {
        self.recipients.iter().filter(|recipient| recipient.state == state).count()
    }

    /// The envelope with the open recipients, for a message with this `trace` header.
    pub(super) fn envelope(self, trace: Vec<u8>) -> Envelope {
        let open = self.recipients.into_iter().filter(|recipient| recipient.state == State::Open);
        let recipient = |recipient: ExportedRecipient| Recipient {
            notify: notify(recipient.notify.as_deref()),
            address: recipient.address,
            sender: recipient.sender,
            orcpt: recipient.orcpt,
        };
        let deliver_by = self.deliver_by.map(|by| DeliverBy {
            deadline: Timestamp::from_micros(by.deadline_micros),
            mode: if by.returns { ByMode::Return } else { ByMode::Notify },
            trace: by.trace,
        });
        Envelope {
            received: Timestamp::from_micros(self.received_micros),
            trace,
            client: self.client,
            content: Content { eight_bit: self.eight_bit, smtputf8: self.smtputf8 },
            envid: self.envid,
            ret: self.ret.map(|ret| match ret {
                Return::Full => Ret::Full,
                Return::Headers => Ret::Headers,
            }),
            handling: Handling { flow: self.flow.map(Flow), priority: self.priority, deliver_by },
            senders: self.senders,
            recipients: open.map(recipient).collect(),
            origin: None,
        }
    }
}

fn conditions(notify: Notify) -> Option<Vec<Condition>> {
    match notify {
        Notify::Default => None,
        Notify::Never => Some(vec![Condition::Never]),
        Notify::On { success, failure, delay } => {
            let all = [(success, Condition::Success), (failure, Condition::Failure), (delay, Condition::Delay)];
            Some(all.into_iter().filter_map(|(set, condition)| set.then_some(condition)).collect())
        }
    }
}

fn notify(conditions: Option<&[Condition]>) -> Notify {
    match conditions {
        None => Notify::Default,
        Some(conditions) if conditions.contains(&Condition::Never) => Notify::Never,
        Some(conditions) => Notify::On {
            success: conditions.contains(&Condition::Success),
            failure: conditions.contains(&Condition::Failure),
            delay: conditions.contains(&Condition::Delay),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notify_parameter_comes_back() {
        let on = |bits: u8| Notify::On { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 };
        for parameter in (0..8).map(on).chain([Notify::Default, Notify::Never]) {
            assert_eq!(notify(conditions(parameter).as_deref()), parameter);
        }
    }
}

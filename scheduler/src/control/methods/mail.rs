//! `messages` and `message`: the mail in the queue.

use std::collections::HashMap;
use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zrelay_clock::Timestamp;
use zrelay_spool::{Attempt, MessageId, Past, Tried};

use super::{Addressed, Methods, ROWS_MAX, bracketed, listing, rendered, unexpected};
use crate::control::rpc::RpcError;
use crate::control::search::{Match, Order};
use crate::control::selection::{Given, Selection};
use crate::query::{Answer, Ask, RunView};
use crate::snapshot::{AttemptRow, BatchView, MessageRow, RecipientRow, name};

/// Rows of `messages` unless another number is asked for.
const MESSAGES_DEFAULT: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessagesParams {
    selector: Option<Given>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageParams {
    id: String,
}

/// The answer of `message`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MessageDetail {
    /// The queue id.
    pub message: String,
    /// When it came in.
    pub received: String,
    /// Its age, seconds.
    pub age: u64,
    /// From where, `name[address]`; empty when the spool does not know it any more.
    pub client: String,
    /// Its octets.
    pub size: u64,
    /// The header lines that this hub put in front.
    pub trace: String,
    /// Recipients that are in the queue.
    pub open: u64,
    /// Its batches.
    pub batches: Vec<MessageRow>,
    /// Its recipients, finished ones included.
    pub recipients: Vec<RecipientRow>,
    /// What became of them so far, in the order of time.
    pub attempts: Vec<AttemptRow>,
}

impl Methods {
    pub(super) fn messages(&self, params: &MessagesParams) -> Result<Value, RpcError> {
        let selection = params.selector.as_ref().map(Given::parse).transpose()?.unwrap_or_default();
        let limit = params.limit.unwrap_or(MESSAGES_DEFAULT).min(ROWS_MAX);
        let now = self.clock.now();
        let mut rows: Vec<MessageRow> = Vec::new();
        let mut more = false;
        self.each_page(&selection, Order::ToShow, now, |page| {
            let room = limit - rows.len();
            more = page.len() > room;
            rows.extend(page.into_iter().take(room).map(|found| row(found, now)));
            Ok(if more { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let mut answer = listing("messages", &rows)?;
        answer.insert("more".to_owned(), more.into());
        Ok(Value::Object(answer))
    }

    pub(super) fn message(&self, params: &MessageParams) -> Result<Value, RpcError> {
        let id: MessageId = params.id.parse().map_err(|_| {
            RpcError::params(format!("\"{}\" is no queue id; expected upper-case hexadecimal", params.id))
        })?;
        let batches = self.batches_of(id)?;
        let facts = self.store.message(id);
        if facts.is_none() && batches.is_empty() {
            return Err(RpcError::nothing(format!("there is no message {id} in the queue")));
        }
        let past = self.store.past(id).unwrap_or_default();
        let now = self.clock.now();
        let first = batches.first();
        let received = facts.as_ref().map(|facts| facts.received).or_else(|| first.map(|batch| batch.received));
        let received = received.unwrap_or(now);
        let detail = MessageDetail {
            message: id.to_string(),
            received: received.rfc3339(),
            age: now.since(received).as_secs(),
            size: facts.as_ref().map(|facts| facts.size).or_else(|| first.map(|batch| batch.size)).unwrap_or(0),
            open: batches.iter().map(|batch| u64::try_from(batch.recipients.len()).unwrap_or(0)).sum(),
            batches: self.rows(&batches, now),
            recipients: self.recipient_rows(id, facts.as_ref().map_or(0, |facts| facts.recipients), &batches, &past),
            attempts: past.attempts.iter().map(|attempt| AttemptRow::new(id, attempt)).collect(),
            client: facts.as_ref().map(|facts| facts.client.clone()).unwrap_or_default(),
            trace: facts.map(|facts| facts.trace).unwrap_or_default(),
        };
        rendered(&detail)
    }

    pub(in crate::control) fn batches_of(&self, message: MessageId) -> Result<Vec<BatchView>, RpcError> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let Answer::Message { batches, next } = self.scheduler.ask(Ask::Message { message, after })? else {
                return unexpected();
            };
            found.extend(batches);
            match next {
                Some(_) => after = next,
                None => break,
            }
        }
        let mut after = None;
        loop {
            let ask = Ask::Run { thread: None, message: Some(message), after };
            let Answer::Run(run) = self.scheduler.ask(ask)? else { return unexpected() };
            let Some(RunView { run, batches }) = run else { return Ok(found) };
            let batches = batches.into_iter().flatten().filter(|view| view.id.message == message);
            let fresh = batches.filter(|view| found.iter().all(|known| known.id != view.id)).collect::<Vec<_>>();
            found.extend(fresh);
            after = Some(run);
        }
    }

    fn recipient_rows(&self, id: MessageId, count: u32, batches: &[BatchView], past: &Past) -> Vec<RecipientRow> {
        let places: HashMap<u32, &BatchView> =
            batches.iter().flat_map(|view| view.recipients.iter().map(move |index| (*index, view))).collect();
        let all: Vec<u32> = (0..count).collect();
        let addresses = self.store.addresses(id, &all).unwrap_or_default();
        let mut ends: HashMap<u32, &Attempt> = HashMap::new();
        for attempt in past.attempts.iter().filter(|attempt| attempt.disposition.is_final()) {
            ends.extend(attempt.recipients.iter().map(|index| (*index, attempt)));
        }
        let gone = past.lacking_earlier(count, |index| {
            places.get(&index).map(|view| Tried { batch: view.id.number, attempts: view.attempts })
        });
        let row = |(index, addressed): (u32, Addressed)| {
            let batch = places.get(&index);
            let end = ends.get(&index);
            RecipientRow {
                address: addressed.address,
                sender: bracketed(addressed.sender),
                state: batch.map_or("finished", |view| view.place.name()).to_owned(),
                thread: batch.map(|view| view.thread.to_string()).unwrap_or_default(),
                attempts: batch.map(|view| view.attempts).or_else(|| end.map(|end| end.attempts)).unwrap_or(0),
                next_attempt: batch.and_then(|view| view.next_attempt()),
                last_reply: batch.and_then(|view| view.last_reply()),
                outcome: end.map(|end| name(end.disposition).to_owned()),
                earlier_attempts_gone: gone.contains(&index),
            }
        };
        (0..).zip(addresses).map(row).collect()
    }

    pub(super) fn rows(&self, batches: &[BatchView], now: Timestamp) -> Vec<MessageRow> {
        self.matches(&Selection::default(), batches.to_vec(), now).into_iter().map(|found| row(found, now)).collect()
    }
}

/// A batch as `messages` shows it: with the first of the recipients that are meant.
pub(super) fn row(found: Match, now: Timestamp) -> MessageRow {
    let mut row = found.view.row(now);
    if let Some(first) = found.first {
        row.sender = bracketed(first.sender);
        row.recipient = first.address;
    }
    row
}

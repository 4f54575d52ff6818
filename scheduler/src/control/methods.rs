//! The methods: from parameters to a question, from views to rows.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::ControlFlow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zrelay_clock::{Clock, Timestamp};
use zrelay_config::Pattern;
use zrelay_spool::{MessageId, ThreadKey};

use super::rpc::{INTERNAL, NO_METHOD, RpcError, UNAVAILABLE};
use super::selection::{Match, Selection, Terms};
use crate::operator::{Action, Changed, Chosen};
use crate::query::{Answer, Ask, PAGE_MAX, SchedulerHandle, Unavailable};
use crate::snapshot::{BatchPlace, BatchView, MessageRow, RecipientRow, ThreadRow, ThreadView, Totals};

/// Rows of `threads` unless fewer are asked for.
const THREADS_DEFAULT: usize = 100_000;
/// Rows of `messages` unless another number is asked for.
const MESSAGES_DEFAULT: usize = 1000;
/// Rows that a dry run shows.
pub const SAMPLE_MAX: usize = 10;
/// Rows of any listing at most.
const ROWS_MAX: usize = 1_000_000;

/// What the control socket needs from the rest of the hub.
pub trait Store: Send {
    /// The facts of a message, while the spool has it.
    fn message(&self, id: MessageId) -> Option<MessageFacts>;

    /// The addresses of these recipients of a message, in this order, while the spool has it.
    fn addresses(&self, id: MessageId, recipients: &[u32]) -> Option<Vec<Addressed>>;

    /// The spool's part of `status`.
    fn statistics(&self) -> Value;

    /// A method that the control socket itself does not know; `None` when there is none of this name.
    fn call(&mut self, method: &str, params: &Value) -> Option<Result<Value, RpcError>> {
        let _ = (method, params);
        None
    }
}

/// The facts of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageFacts {
    /// When it came in.
    pub received: Timestamp,
    /// From where, `name[address]`.
    pub client: String,
    /// Its octets.
    pub size: u64,
    /// Its recipients, finished ones included.
    pub recipients: u32,
    /// The header lines that this hub put in front.
    pub trace: String,
}

/// A recipient's addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addressed {
    /// The recipient.
    pub address: String,
    /// Its envelope sender, empty for the null sender.
    pub sender: String,
}

/// The answer of `message`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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
}

/// Everything that methods work with.
pub(super) struct Methods {
    pub(super) scheduler: SchedulerHandle,
    pub(super) store: Box<dyn Store>,
    pub(super) clock: Clock,
    pub(super) started: Timestamp,
    pub(super) version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct None_ {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThreadsParams {
    pattern: Option<String>,
    #[serde(default)]
    sort: Sort,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sort {
    #[default]
    Thread,
    Recipients,
    Batches,
    Bytes,
    Oldest,
    Failures,
    InFlight,
    NextAttempt,
    State,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThreadParams {
    thread: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessagesParams {
    selector: Option<Terms>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageParams {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectorParams {
    selector: Terms,
    #[serde(default)]
    dry_run: bool,
}

/// The answer to an action with `dry_run`: what it would concern.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// How much.
    #[serde(flatten)]
    pub counts: Changed,
    /// The first few of the batches, [`SAMPLE_MAX`] at most.
    pub sample: Vec<MessageRow>,
}

impl From<Unavailable> for RpcError {
    fn from(error: Unavailable) -> Self {
        Self::new(UNAVAILABLE, error.to_string())
    }
}

fn params<T: DeserializeOwned>(params: &Value) -> Result<T, RpcError> {
    T::deserialize(params).map_err(|error| RpcError::params(format!("the parameters are wrong: {error}")))
}

fn pattern(text: &str) -> Result<Pattern, RpcError> {
    Pattern::new(text).map_err(|error| RpcError::params(format!("\"{text}\": {error}")))
}

fn rendered<T: Serialize>(value: &T) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(|error| RpcError::new(INTERNAL, error.to_string()))
}

/// An answer of rows. The macro `json!` would copy them all once more.
fn listing<T: Serialize>(name: &str, rows: &[T]) -> Result<serde_json::Map<String, Value>, RpcError> {
    Ok(std::iter::once((name.to_owned(), rendered(&rows)?)).collect())
}

pub(super) fn unexpected<T>() -> Result<T, RpcError> {
    Err(RpcError::new(INTERNAL, "the scheduler gave an answer to another question"))
}

impl Methods {
    pub(super) fn call(&mut self, method: &str, given: &Value) -> Result<Value, RpcError> {
        match method {
            "status" => params::<None_>(given).and_then(|_| self.status()),
            "channels" => params::<None_>(given).and_then(|_| self.channels()),
            "rings" => params::<None_>(given).and_then(|_| self.rings()),
            "threads" => self.threads(&params(given)?),
            "thread" => self.thread(&params(given)?),
            "messages" => self.messages(&params(given)?),
            "message" => self.message(&params(given)?),
            "hold" => self.operate(Action::Hold, &params(given)?),
            "release" => self.operate(Action::Release, &params(given)?),
            "retry" => self.operate(Action::Retry, &params(given)?),
            "expire" => self.operate(Action::Expire, &params(given)?),
            "drop" => self.operate(Action::Drop, &params(given)?),
            other => self
                .store
                .call(other, given)
                .unwrap_or_else(|| Err(RpcError::new(NO_METHOD, format!("there is no method \"{other}\"")))),
        }
    }

    fn status(&self) -> Result<Value, RpcError> {
        let Answer::Totals(totals) = self.scheduler.ask(Ask::Totals)? else { return unexpected() };
        Ok(json!({
            "version": self.version,
            "pid": std::process::id(),
            "uptime": self.clock.now().since(self.started).as_secs(),
            "totals": rendered(&Totals::from(totals))?,
            "spool": self.store.statistics(),
        }))
    }

    fn channels(&self) -> Result<Value, RpcError> {
        let Answer::Channels(mut views) = self.scheduler.ask(Ask::Channels)? else { return unexpected() };
        views.sort_by(|a, b| a.channel.cmp(&b.channel));
        let rows: Vec<_> = views.iter().map(|view| view.row()).collect();
        Ok(Value::Object(listing("channels", &rows)?))
    }

    fn rings(&self) -> Result<Value, RpcError> {
        let Answer::Rings(mut views) = self.scheduler.ask(Ask::Rings)? else { return unexpected() };
        views.sort_by(|a, b| (&a.channel, &a.site).cmp(&(&b.channel, &b.site)));
        let rows: Vec<_> = views.iter().map(|view| view.row()).collect();
        Ok(Value::Object(listing("rings", &rows)?))
    }

    fn threads(&self, params: &ThreadsParams) -> Result<Value, RpcError> {
        let wanted = params.pattern.as_deref().map(pattern).transpose()?;
        let matches = |view: &ThreadView| match &wanted {
            Some(pattern) => pattern.matches(&view.key.to_string()),
            None => true,
        };
        let mut views = Vec::new();
        let mut after = None;
        loop {
            let Answer::Threads(page) = self.scheduler.ask(Ask::Threads { after })? else { return unexpected() };
            let more = page.len() >= PAGE_MAX;
            after = page.last().map(|view| view.key.clone());
            views.extend(page.into_iter().filter(matches));
            if !more || after.is_none() || views.len() >= ROWS_MAX {
                break;
            }
        }
        sort(&mut views, params.sort);
        let matched = views.len();
        views.truncate(params.limit.unwrap_or(THREADS_DEFAULT));
        let now = self.clock.now();
        let rows: Vec<ThreadRow> = views.iter().map(|view| view.row(now)).collect();
        let mut answer = listing("threads", &rows)?;
        answer.insert("matched".to_owned(), matched.into());
        Ok(Value::Object(answer))
    }

    fn thread(&self, params: &ThreadParams) -> Result<Value, RpcError> {
        let key: ThreadKey = params.thread.parse().map_err(|_| {
            RpcError::params(format!(
                "\"{}\" is no thread; expected channel/host, such as smtp/example.net",
                params.thread
            ))
        })?;
        let Answer::Thread(zoom) = self.scheduler.ask(Ask::Thread(key.clone()))? else { return unexpected() };
        let zoom = zoom.ok_or_else(|| RpcError::nothing(format!("there is no thread {key}")))?;
        rendered(&zoom.detail(self.clock.now()))
    }

    fn messages(&self, params: &MessagesParams) -> Result<Value, RpcError> {
        let selection = params.selector.as_ref().map(Terms::parse).transpose()?.unwrap_or_default();
        let limit = params.limit.unwrap_or(MESSAGES_DEFAULT).min(ROWS_MAX);
        let now = self.clock.now();
        let mut rows: Vec<MessageRow> = Vec::new();
        let mut more = false;
        self.each_page(&selection, now, |page| {
            let room = limit - rows.len();
            more = page.len() > room;
            rows.extend(page.into_iter().take(room).map(|found| row(found, now)));
            Ok(if more { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let mut answer = listing("messages", &rows)?;
        answer.insert("more".to_owned(), more.into());
        Ok(Value::Object(answer))
    }

    fn message(&self, params: &MessageParams) -> Result<Value, RpcError> {
        let id: MessageId = params.id.parse().map_err(|_| {
            RpcError::params(format!("\"{}\" is no queue id; expected upper-case hexadecimal", params.id))
        })?;
        let batches = self.batches_of(id)?;
        let facts = self.store.message(id);
        if facts.is_none() && batches.is_empty() {
            return Err(RpcError::nothing(format!("there is no message {id} in the queue")));
        }
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
            recipients: self.recipient_rows(id, facts.as_ref().map_or(0, |facts| facts.recipients), &batches),
            client: facts.as_ref().map(|facts| facts.client.clone()).unwrap_or_default(),
            trace: facts.map(|facts| facts.trace).unwrap_or_default(),
        };
        rendered(&detail)
    }

    pub(super) fn batches_of(&self, message: MessageId) -> Result<Vec<BatchView>, RpcError> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let Answer::Message { batches, next } = self.scheduler.ask(Ask::Message { message, after })? else {
                return unexpected();
            };
            found.extend(batches);
            match next {
                Some(_) => after = next,
                None => return Ok(found),
            }
        }
    }

    fn recipient_rows(&self, id: MessageId, count: u32, batches: &[BatchView]) -> Vec<RecipientRow> {
        let places: HashMap<u32, &BatchView> =
            batches.iter().flat_map(|view| view.recipients.iter().map(move |index| (*index, view))).collect();
        let all: Vec<u32> = (0..count).collect();
        let addresses = self.store.addresses(id, &all).unwrap_or_default();
        let row = |(index, addressed): (u32, Addressed)| {
            let batch = places.get(&index);
            RecipientRow {
                address: addressed.address,
                sender: bracketed(addressed.sender),
                state: batch.map_or("finished", |view| view.place.name()).to_owned(),
                thread: batch.map(|view| view.thread.to_string()).unwrap_or_default(),
                attempts: batch.map_or(0, |view| view.attempts),
                next_attempt: batch.and_then(|view| view.next_attempt()),
                last_reply: batch.and_then(|view| view.last_reply()),
            }
        };
        (0..).zip(addresses).map(row).collect()
    }

    fn rows(&self, batches: &[BatchView], now: Timestamp) -> Vec<MessageRow> {
        self.matches(&Selection::default(), batches.to_vec(), now).into_iter().map(|found| row(found, now)).collect()
    }

    fn operate(&self, action: Action, params: &SelectorParams) -> Result<Value, RpcError> {
        let selection = params.selector.parse()?;
        if params.dry_run {
            return rendered(&self.preview(action, &selection)?);
        }
        let changed = match selection.plain() {
            Some(selector) => match self.scheduler.ask(Ask::Operate { action, selector })? {
                Answer::Changed(changed) => changed,
                _ => return unexpected(),
            },
            None => self.operate_on_all(action, &selection)?,
        };
        if changed == Changed::default() {
            return Err(RpcError::nothing(format!("nothing in the queue matches {selection}")));
        }
        let Changed { threads, batches, recipients, under_way, .. } = changed;
        log::info!(
            "operator: {action:?} {selection}: {recipients} recipients, {batches} batches, {threads} threads, \
             {under_way} recipients under way"
        );
        rendered(&changed)
    }

    fn operate_on_all(&self, action: Action, selection: &Selection) -> Result<Changed, RpcError> {
        let mut all = Changed::default();
        let mut last = None;
        self.each_page(selection, self.clock.now(), |page| {
            let chosen =
                |found: Match| Chosen { thread: found.view.thread, batch: found.view.id, recipients: found.recipients };
            let batches: Vec<Chosen> = page.into_iter().map(chosen).collect();
            let (first, end) =
                (batches.first().map(|one| one.thread.clone()), batches.last().map(|one| one.thread.clone()));
            let Answer::Changed(changed) = self.scheduler.ask(Ask::OperateOn { action, batches })? else {
                return unexpected();
            };
            // A thread at the border of two pages is one.
            let twice = changed.threads > 0 && first.is_some() && first == last;
            all.threads += changed.threads - u64::from(twice);
            all.batches += changed.batches;
            all.recipients += changed.recipients;
            all.under_way += changed.under_way;
            last = end.or_else(|| last.take());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    fn preview(&self, action: Action, selection: &Selection) -> Result<Preview, RpcError> {
        let mut preview = Preview { counts: Changed::default(), sample: Vec::new() };
        let counts = &mut preview.counts;
        let now = self.clock.now();
        let mut last = None;
        self.each_page(selection, now, |page| {
            for found in page {
                let meant = found
                    .recipients
                    .as_ref()
                    .filter(|_| action.is_final())
                    .map_or(found.view.recipients.len(), Vec::len);
                let meant = u64::try_from(meant).unwrap_or(u64::MAX);
                let carried = found.view.place == BatchPlace::Carried;
                if carried {
                    counts.under_way += meant;
                }
                if !carried || !action.is_final() {
                    counts.batches += 1;
                    counts.recipients += meant;
                }
                if last.as_ref() != Some(&found.view.thread) {
                    counts.threads += 1;
                    last = Some(found.view.thread.clone());
                }
                if preview.sample.len() < SAMPLE_MAX {
                    preview.sample.push(row(found, now));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(preview)
    }
}

/// A batch as `messages` shows it: with the first of the recipients that are meant.
fn row(found: Match, now: Timestamp) -> MessageRow {
    let mut row = found.view.row(now);
    if let Some(first) = found.first {
        row.sender = bracketed(first.sender);
        row.recipient = first.address;
    }
    row
}

fn bracketed(sender: String) -> String {
    if sender.is_empty() { "<>".to_owned() } else { sender }
}

fn sort(views: &mut [ThreadView], by: Sort) {
    match by {
        Sort::Thread => {}
        Sort::Recipients => views.sort_by_key(|view| Reverse(view.load.recipients)),
        Sort::Batches => views.sort_by_key(|view| Reverse(view.load.batches)),
        Sort::Bytes => views.sort_by_key(|view| Reverse(view.load.bytes)),
        Sort::Oldest => views.sort_by_key(|view| view.oldest.unwrap_or(Timestamp::NEVER)),
        Sort::Failures => views.sort_by_key(|view| Reverse(view.failures)),
        Sort::InFlight => views.sort_by_key(|view| Reverse(view.in_flight)),
        Sort::NextAttempt => views.sort_by_key(|view| view.next_attempt.unwrap_or(Timestamp::NEVER)),
        Sort::State => views.sort_by_key(|view| view.state.name()),
    }
}

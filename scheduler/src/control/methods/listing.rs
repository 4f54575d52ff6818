//! `status`, `channels`, `rings`, `threads`, `thread`, `qshape`: counters, sorted and filtered.

use std::cmp::Reverse;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zrelay_clock::Timestamp;
use zrelay_spool::ThreadKey;

use super::{Methods, ROWS_MAX, bracketed, listing, pattern, rendered, unexpected};
use crate::ages::AgeTable;
use crate::control::rpc::RpcError;
use crate::query::{Answer, Ask, PAGE_MAX};
use crate::snapshot::{AgeRow, AgeView, ThreadDetail, ThreadRow, ThreadView, Totals};

/// Rows of `threads` unless fewer are asked for.
const THREADS_DEFAULT: usize = 100_000;
/// Rows of `qshape` unless another number is asked for.
const AGES_DEFAULT: usize = 1000;
/// Batches that `thread` shows.
const BATCHES_SHOWN: usize = 10;

/// Parameters of `threads`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct ThreadsParams {
    pub(in crate::control) pattern: Option<String>,
    /// A state's name; `limit` means all of `limit:...`.
    pub(in crate::control) state: Option<String>,
    #[serde(default)]
    pub(in crate::control) sort: Sort,
    pub(in crate::control) limit: Option<usize>,
}

impl ThreadsParams {
    /// Finds what is wrong before it is used.
    pub(in crate::control) fn check(&self) -> Result<(), RpcError> {
        self.pattern.as_deref().map(pattern).transpose().map(drop)
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::control) enum Sort {
    #[default]
    Thread,
    Recipients,
    Batches,
    Bytes,
    Oldest,
    Failures,
    Agents,
    InFlight,
    Rtt,
    DeliveryRate,
    RecipientRate,
    NextAttempt,
    State,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ThreadParams {
    thread: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgesParams {
    pattern: Option<String>,
    limit: Option<usize>,
}

/// The answer of `status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Of the hub.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime: u64,
    /// The queue and the agents.
    pub totals: Totals,
    /// Figures of the spool.
    pub spool: Value,
}

/// The answer of `threads`.
pub(in crate::control) struct Threads {
    pub(in crate::control) rows: Vec<ThreadRow>,
    /// How many there are, those cut off by the limit included.
    pub(in crate::control) matched: usize,
}

impl Methods {
    pub(super) fn status(&self) -> Result<Value, RpcError> {
        rendered(&Status {
            version: self.version.clone(),
            pid: std::process::id(),
            uptime: self.clock.now().since(self.started).as_secs(),
            totals: self.totals()?,
            spool: self.store.statistics(),
        })
    }

    pub(in crate::control) fn totals(&self) -> Result<Totals, RpcError> {
        let Answer::Totals(totals) = self.scheduler.ask(Ask::Totals)? else { return unexpected() };
        Ok(totals.into())
    }

    pub(super) fn channels(&self) -> Result<Value, RpcError> {
        let Answer::Channels(mut views) = self.scheduler.ask(Ask::Channels)? else { return unexpected() };
        views.sort_by(|a, b| a.channel.cmp(&b.channel));
        let rows: Vec<_> = views.iter().map(|view| view.row()).collect();
        Ok(Value::Object(listing("channels", &rows)?))
    }

    pub(super) fn rings(&self) -> Result<Value, RpcError> {
        let mut views = Vec::new();
        let mut after = None;
        loop {
            let Answer::Rings { views: page, next } = self.scheduler.ask(Ask::Rings { after })? else {
                return unexpected();
            };
            views.extend(page);
            match next {
                Some(_) => after = next,
                None => break,
            }
        }
        views.sort_by(|a, b| (&a.channel, &a.site).cmp(&(&b.channel, &b.site)));
        let rows: Vec<_> = views.iter().map(|view| view.row()).collect();
        Ok(Value::Object(listing("rings", &rows)?))
    }

    pub(super) fn threads(&self, params: &ThreadsParams) -> Result<Value, RpcError> {
        let Threads { rows, matched } = self.thread_rows(params)?;
        let mut answer = listing("threads", &rows)?;
        answer.insert("matched".to_owned(), matched.into());
        Ok(Value::Object(answer))
    }

    pub(in crate::control) fn thread_rows(&self, params: &ThreadsParams) -> Result<Threads, RpcError> {
        let wanted = params.pattern.as_deref().map(pattern).transpose()?;
        let matches = |view: &ThreadView| {
            wanted.as_ref().is_none_or(|pattern| pattern.matches(&view.key.to_string()))
                && params.state.as_deref().is_none_or(|state| is_state(view.state.name(), state))
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
        Ok(Threads { rows: views.iter().map(|view| view.row(now)).collect(), matched })
    }

    pub(super) fn thread(&self, params: &ThreadParams) -> Result<Value, RpcError> {
        rendered(&self.thread_detail(&params.thread)?)
    }

    pub(in crate::control) fn thread_detail(&self, name: &str) -> Result<ThreadDetail, RpcError> {
        let key: ThreadKey = name.parse().map_err(|_| {
            RpcError::params(format!("\"{name}\" is no thread; expected channel/host, such as smtp/example.net"))
        })?;
        let Answer::Thread(zoom) = self.scheduler.ask(Ask::Thread(key.clone()))? else { return unexpected() };
        let zoom = zoom.ok_or_else(|| RpcError::nothing(format!("there is no thread {key}")))?;
        let now = self.clock.now();
        let mut detail = zoom.detail(now);
        for (row, flow) in detail.flows.iter_mut().zip(&zoom.flows) {
            let first = self.store.addresses(flow.next.message, &[flow.recipient]);
            let first = first.and_then(|mut addresses| addresses.pop());
            row.sender = first.map(|addressed| bracketed(addressed.sender)).unwrap_or_default();
        }
        let ask = Ask::Batches { thread: Some(zoom.thread.key.clone()), after: None };
        let Answer::Batches { views: mut batches, .. } = self.scheduler.ask(ask)? else { return unexpected() };
        batches.truncate(BATCHES_SHOWN);
        detail.first_batches = self.rows(&batches, now);
        Ok(detail)
    }

    pub(super) fn qshape(&self, params: &AgesParams) -> Result<Value, RpcError> {
        let wanted = params.pattern.as_deref().map(pattern).transpose()?;
        let mut views: Vec<AgeView> = Vec::new();
        let mut after = None;
        loop {
            let Answer::Ages { views: page, next } = self.scheduler.ask(Ask::Ages { after })? else {
                return unexpected();
            };
            let matches = |view: &AgeView| wanted.as_ref().is_none_or(|pattern| pattern.matches(&view.key.to_string()));
            views.extend(page.into_iter().filter(matches));
            match next {
                Some(_) if views.len() < ROWS_MAX => after = next,
                _ => break,
            }
        }
        let mut ages = AgeTable::default();
        for (sum, count) in views.iter().flat_map(|view| (0..).zip(view.ages)) {
            if let Some(total) = ages.get_mut(sum) {
                *total += count;
            }
        }
        let total = AgeRow { thread: "TOTAL".to_owned(), recipients: ages.iter().sum(), ages: ages.to_vec() };
        views.sort_by_key(|view| Reverse(view.ages.iter().sum::<u64>()));
        let matched = views.len();
        views.truncate(params.limit.unwrap_or(AGES_DEFAULT));
        let rows: Vec<AgeRow> = views.iter().map(AgeView::row).collect();
        let mut answer = listing("qshape", &rows)?;
        answer.insert("total".to_owned(), rendered(&total)?);
        answer.insert("limits_minutes".to_owned(), rendered(&crate::AGE_LIMITS)?);
        answer.insert("matched".to_owned(), matched.into());
        Ok(Value::Object(answer))
    }
}

fn is_state(name: &str, wanted: &str) -> bool {
    name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':'))
}

fn sort(views: &mut [ThreadView], by: Sort) {
    fn link(view: &ThreadView) -> Option<&zrelay_agent::Link> {
        view.link.as_deref()
    }
    match by {
        Sort::Thread => {}
        Sort::Recipients => views.sort_by_key(|view| Reverse(view.load.recipients)),
        Sort::Batches => views.sort_by_key(|view| Reverse(view.load.batches)),
        Sort::Bytes => views.sort_by_key(|view| Reverse(view.load.bytes)),
        Sort::Oldest => views.sort_by_key(|view| view.oldest.unwrap_or(Timestamp::NEVER)),
        Sort::Failures => views.sort_by_key(|view| Reverse(view.failures)),
        Sort::Agents => views.sort_by_key(|view| Reverse(view.agents)),
        Sort::InFlight => views.sort_by_key(|view| Reverse(view.in_flight)),
        Sort::Rtt => views.sort_by_key(|view| Reverse(link(view).and_then(|link| link.rtt))),
        Sort::DeliveryRate => views.sort_by_key(|view| Reverse(link(view).map(|link| link.delivery_rate))),
        Sort::RecipientRate => {
            let rate = |view: &ThreadView| link(view).map_or(0.0, |link| link.recipient_rate);
            views.sort_by(|one, other| rate(other).total_cmp(&rate(one)));
        }
        Sort::NextAttempt => views.sort_by_key(|view| view.next_attempt.unwrap_or(Timestamp::NEVER)),
        Sort::State => views.sort_by_key(|view| view.state.name()),
    }
}

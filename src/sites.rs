//! What was learned of hosts: the methods `sites` and `sites.forget` of the control socket, and the rows they give.
//!
//! | method | parameters | result |
//! |---|---|---|
//! | `sites` | `pattern?` over the subject, `topic?`, `limit?` (default 100,000) | `{sites: [`[`SiteRow`]`], matched}` |
//! | `sites.forget` | `pattern`, `topic?` | `{facts}`: how many were forgotten; -32001 when there was none |

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zrelay_clock::Timestamp;
use zrelay_config::Pattern;
use zrelay_scheduler::control::RpcError;
use zrelay_sites::{Fact, Key, Sites};

use crate::print::{Column, Row, numbers, seconds, words};

/// Rows unless fewer are asked for; there are never as many.
const ROWS_MAX: usize = 100_000;

/// One fact.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SiteRow {
    /// Of what: an address with its port, or a site's name.
    pub(crate) subject: String,
    /// In which respect.
    pub(crate) topic: String,
    /// What; its shape depends on the topic.
    pub(crate) value: Value,
    /// When it was learned, RFC 3339.
    pub(crate) since: String,
    /// When it ends, RFC 3339.
    pub(crate) expires: String,
    /// Seconds since it was learned.
    pub(crate) age: u64,
    /// Seconds until it ends.
    pub(crate) expires_in: u64,
}

impl SiteRow {
    fn new(fact: Fact, now: Timestamp) -> Self {
        Self {
            subject: fact.key.subject.to_string(),
            topic: fact.key.topic.to_string(),
            value: fact.value,
            since: fact.since.rfc3339(),
            expires: fact.expires.rfc3339(),
            age: now.since(fact.since).as_secs(),
            expires_in: fact.expires.since(now).as_secs(),
        }
    }
}

/// The table's columns.
pub(crate) const COLUMNS: [Column; 5] =
    [words("subject"), words("topic"), words("value"), numbers("age"), numbers("ends in")];

/// A row of the table.
pub(crate) fn cells(row: SiteRow) -> Row {
    let value = match row.value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    vec![row.subject, row.topic, value, seconds(row.age as f64), seconds(row.expires_in as f64)].into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    pattern: Option<String>,
    topic: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetParams {
    pattern: String,
    topic: Option<String>,
}

/// Answers `method`, if it is one of these.
pub(crate) fn call(sites: &Sites, now: Timestamp, method: &str, params: &Value) -> Option<Result<Value, RpcError>> {
    match method {
        "sites" => Some(understood(params).and_then(|params| list(sites, now, &params))),
        "sites.forget" => Some(understood(params).and_then(|params| forget(sites, now, &params))),
        _ => None,
    }
}

fn understood<T: DeserializeOwned>(params: &Value) -> Result<T, RpcError> {
    T::deserialize(params).map_err(|error| RpcError::params(format!("the parameters are wrong: {error}")))
}

fn list(sites: &Sites, now: Timestamp, params: &ListParams) -> Result<Value, RpcError> {
    let wanted = Wanted::new(params.pattern.as_deref(), params.topic.as_deref())?;
    let limit = params.limit.unwrap_or(ROWS_MAX).min(ROWS_MAX);
    let (mut rows, mut matched, mut after) = (Vec::new(), 0, None);
    loop {
        let page = sites.page(now, after.as_ref());
        let Some(last) = page.last() else {
            return Ok(json!({ "sites": rows, "matched": matched }));
        };
        after = Some(last.key.clone());
        for fact in page.into_iter().filter(|fact| wanted.means(&fact.key)) {
            matched += 1;
            if rows.len() < limit {
                rows.push(SiteRow::new(fact, now));
            }
        }
    }
}

fn forget(sites: &Sites, now: Timestamp, params: &ForgetParams) -> Result<Value, RpcError> {
    let wanted = Wanted::new(Some(&params.pattern), params.topic.as_deref())?;
    let forgotten = sites.forget_where(now, |key| wanted.means(key));
    if forgotten.is_empty() {
        return Err(RpcError::nothing(format!("nothing is known of {}", params.pattern)));
    }
    log::info!(target: "control", "{} learned fact(s) of {} forgotten", forgotten.len(), params.pattern);
    Ok(json!({ "facts": forgotten.len() }))
}

struct Wanted<'a> {
    subject: Option<Pattern>,
    topic: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    fn new(subject: Option<&str>, topic: Option<&'a str>) -> Result<Self, RpcError> {
        let pattern = |text: &str| Pattern::new(text).map_err(|error| RpcError::params(format!("\"{text}\": {error}")));
        Ok(Self { subject: subject.map(pattern).transpose()?, topic })
    }

    fn means(&self, key: &Key) -> bool {
        self.subject.as_ref().is_none_or(|pattern| pattern.matches(&key.subject))
            && self.topic.is_none_or(|topic| *topic == *key.topic)
    }
}

//! The methods: who may call which, from parameters to a question, from views to rows.

mod holds;
mod listing;
mod mail;
mod operate;

use std::sync::Arc;

use mio::Waker;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zrelay_clock::{Clock, Timestamp};
use zrelay_config::Pattern;
use zrelay_spool::{MessageId, Past};
use zrelay_trace::Tracing;

use super::access::{Caller, Role};
use super::rpc::{FORBIDDEN, INTERNAL, NO_METHOD, RpcError, UNAVAILABLE};
use crate::operator::Action;
use crate::query::{SchedulerHandle, Unavailable};

pub use holds::{HoldRow, Scope};
pub use listing::Status;
pub(super) use listing::{Sort, ThreadsParams};
pub use mail::MessageDetail;
pub use operate::{Preview, SAMPLE_MAX};

/// Rows of any listing at most.
const ROWS_MAX: usize = 1_000_000;

/// The methods and the role that each takes. What is not in the table, the rest of the hub knows ([`Store::call`]), and takes [`Role::Admin`].
const METHODS: [(&str, Role); 21] = [
    ("methods", Role::ReadOnly),
    ("status", Role::ReadOnly),
    ("channels", Role::ReadOnly),
    ("rings", Role::ReadOnly),
    ("threads", Role::ReadOnly),
    ("thread", Role::ReadOnly),
    ("qshape", Role::ReadOnly),
    ("holds", Role::ReadOnly),
    ("messages", Role::ReadOnly),
    ("message", Role::ReadOnly),
    ("sites", Role::ReadOnly),
    ("whoami", Role::ReadOnly),
    ("subscribe", Role::ReadOnly),
    ("unsubscribe", Role::ReadOnly),
    ("hold", Role::Operator),
    ("release", Role::Operator),
    ("retry", Role::Operator),
    ("expire", Role::Operator),
    ("reroute", Role::Operator),
    ("sites.forget", Role::Operator),
    ("drop", Role::Admin),
];

/// What the control socket needs from the rest of the hub.
pub trait Store: Send {
    /// The facts of a message, while the spool has it.
    fn message(&self, id: MessageId) -> Option<MessageFacts>;

    /// The addresses of these recipients of a message, in this order, while the spool has it.
    fn addresses(&self, id: MessageId, recipients: &[u32]) -> Option<Vec<Addressed>>;

    /// What became of a message's recipients so far, as far as it is known, while the spool has it.
    fn past(&self, id: MessageId) -> Option<Past>;

    /// The spool's part of `status`.
    fn statistics(&self) -> Value;

    /// Waits until all that was recorded so far is durable, some seconds at most; says whether it is.
    fn settle(&self) -> bool {
        true
    }

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

/// A row of `methods`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Method {
    /// Its name.
    pub method: String,
    /// The least role that it takes.
    pub role: Role,
}

/// Everything that methods work with.
pub(super) struct Methods {
    pub(super) scheduler: SchedulerHandle,
    pub(super) store: Box<dyn Store>,
    pub(super) clock: Clock,
    pub(super) started: Timestamp,
    pub(super) version: String,
    pub(super) tracing: Tracing,
    /// Wakes the loop of the control socket.
    pub(super) waker: Arc<Waker>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct None_ {}

impl From<Unavailable> for RpcError {
    fn from(error: Unavailable) -> Self {
        Self::new(UNAVAILABLE, error.to_string())
    }
}

pub(super) fn params<T: DeserializeOwned>(params: &Value) -> Result<T, RpcError> {
    T::deserialize(params).map_err(|error| RpcError::params(format!("the parameters are wrong: {error}")))
}

pub(super) fn pattern(text: &str) -> Result<Pattern, RpcError> {
    Pattern::new(text).map_err(|error| RpcError::params(format!("\"{text}\": {error}")))
}

pub(super) fn rendered<T: Serialize>(value: &T) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(|error| RpcError::new(INTERNAL, error.to_string()))
}

/// An answer of rows. The macro `json!` would copy them all once more.
fn listing<T: Serialize>(name: &str, rows: &[T]) -> Result<serde_json::Map<String, Value>, RpcError> {
    Ok(std::iter::once((name.to_owned(), rendered(&rows)?)).collect())
}

pub(super) fn unexpected<T>() -> Result<T, RpcError> {
    Err(RpcError::new(INTERNAL, "the scheduler gave an answer to another question"))
}

/// The null sender in brackets, any other as it is.
fn bracketed(sender: String) -> String {
    if sender.is_empty() { "<>".to_owned() } else { sender }
}

/// The role that a method takes.
fn role_for(method: &str) -> Role {
    METHODS.iter().find(|(name, _)| *name == method).map_or(Role::Admin, |(_, role)| *role)
}

/// All methods.
fn listed() -> Result<Value, RpcError> {
    let method = |(name, role): &(&str, Role)| Method { method: (*name).to_owned(), role: *role };
    let methods: Vec<Method> = METHODS.iter().map(method).collect();
    Ok(Value::Object(listing("methods", &methods)?))
}

/// Whether a caller has the role that something takes.
pub(super) fn admit(caller: &Caller, what: &str, needed: Role) -> Result<(), RpcError> {
    if caller.role >= needed {
        return Ok(());
    }
    let text = format!("{caller} has the role {}, and \"{what}\" takes {needed}", caller.role);
    Err(RpcError::new(FORBIDDEN, text))
}

impl Methods {
    pub(super) fn call(&mut self, caller: &Caller, method: &str, given: &Value) -> Result<Value, RpcError> {
        admit(caller, method, role_for(method))?;
        match method {
            "status" => params::<None_>(given).and_then(|_| self.status()),
            "channels" => params::<None_>(given).and_then(|_| self.channels()),
            "rings" => params::<None_>(given).and_then(|_| self.rings()),
            "threads" => self.threads(&params(given)?),
            "thread" => self.thread(&params(given)?),
            "qshape" => self.qshape(&params(given)?),
            "holds" => params::<None_>(given).and_then(|_| self.holds()),
            "messages" => self.messages(&params(given)?),
            "message" => self.message(&params(given)?),
            "methods" => params::<None_>(given).and_then(|_| listed()),
            "whoami" => params::<None_>(given).and_then(|_| rendered(caller)),
            "hold" => self.operate(caller, Action::Hold, &params(given)?),
            "release" => self.operate(caller, Action::Release, &params(given)?),
            "retry" => self.operate(caller, Action::Retry, &params(given)?),
            "expire" => self.operate(caller, Action::Expire, &params(given)?),
            "reroute" => self.reroute(caller, &params(given)?),
            "drop" => self.operate(caller, Action::Drop, &params(given)?),
            other => self
                .store
                .call(other, given)
                .unwrap_or_else(|| Err(RpcError::new(NO_METHOD, format!("there is no method \"{other}\"")))),
        }
    }
}

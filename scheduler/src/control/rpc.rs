//! JSON-RPC 2.0: requests, responses, error codes.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The request is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The JSON is not a request.
pub const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub const NO_METHOD: i64 = -32601;
/// The parameters are wrong.
pub const INVALID_PARAMS: i64 = -32602;
/// A mistake of the hub.
pub const INTERNAL: i64 = -32603;
/// Nothing matches what was asked for.
pub const NOTHING_MATCHED: i64 = -32001;
/// The caller's role does not reach so far.
pub const FORBIDDEN: i64 = -32003;
/// The hub cannot answer now: it is busy or goes down.
pub const UNAVAILABLE: i64 = -32002;

/// An error of a method, with a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// One of the codes of this module.
    pub code: i64,
    /// What is wrong.
    pub message: String,
}

impl RpcError {
    /// An error with this code.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// [`INVALID_PARAMS`].
    pub fn params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    /// [`NOTHING_MATCHED`].
    pub fn nothing(message: impl Into<String>) -> Self {
        Self::new(NOTHING_MATCHED, message)
    }
}

/// A request that is one.
#[derive(Debug)]
pub(super) struct Request {
    /// `None` for a notification.
    pub(super) id: Option<Value>,
    pub(super) method: String,
    pub(super) params: Value,
}

/// Reads one line. The error comes with the id to answer to.
pub(super) fn parse(line: &[u8]) -> Result<Request, (Value, RpcError)> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| (Value::Null, RpcError::new(PARSE_ERROR, format!("the request is not JSON: {error}"))))?;
    let refuse = |id: Value, text: &str| Err((id, RpcError::new(INVALID_REQUEST, text)));
    let Value::Object(mut object) = value else {
        return refuse(Value::Null, "a request is a JSON object; batches are not supported");
    };
    let id = object.remove("id");
    if !matches!(id, None | Some(Value::Null | Value::Number(_) | Value::String(_))) {
        return refuse(Value::Null, "the id is to be a number, a string or null");
    }
    let echo = id.clone().unwrap_or(Value::Null);
    if object.get("jsonrpc") != Some(&Value::from("2.0")) {
        return refuse(echo, "the member \"jsonrpc\" is to be \"2.0\"");
    }
    let Some(Value::String(method)) = object.remove("method") else {
        return refuse(echo, "the member \"method\" is to be a string");
    };
    let params = match object.remove("params") {
        None | Some(Value::Null) => json!({}),
        Some(params @ Value::Object(_)) => params,
        Some(_) => return Err((echo, RpcError::params("parameters are given by name, in an object"))),
    };
    Ok(Request { id, method, params })
}

/// A response; one of `error` and `result` is there.
#[derive(Serialize)]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RpcError>,
    id: &'a Value,
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
}

/// A notification: what the hub says without being asked.
#[derive(Serialize)]
struct Notification<'a, T> {
    jsonrpc: &'static str,
    method: &'static str,
    params: &'a T,
}

/// Writes a notification as one line.
pub(super) fn notify<T: Serialize>(method: &'static str, params: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Notification { jsonrpc: "2.0", method, params }).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Writes one line. A result may be a listing of many megabytes: it is not copied on the way.
pub(super) fn respond(id: &Value, result: Result<&Value, &RpcError>) -> Vec<u8> {
    let response = Response { error: result.err(), id, jsonrpc: "2.0", result: result.ok() };
    // Values have no maps with keys that are not strings, the one thing that JSON cannot hold.
    let mut line = serde_json::to_vec(&response).unwrap_or_default();
    line.push(b'\n');
    line
}

//! `zrelay schema`: what the control socket and `--json` give, as a JSON schema made from the types themselves.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use zrelay_scheduler::Changed;
use zrelay_scheduler::control::{Caller, HoldRow, MessageDetail, Method, Overview, Preview, Status, Trace};
use zrelay_scheduler::snapshot::{AgeRow, ChannelRow, MessageRow, RingRow, ThreadDetail, ThreadRow};

use crate::sites::SiteRow;
use crate::{Done, Failure, print};

/// Results of the methods of zrelay's control socket, by method; and its notifications, `overview` and `trace`. With
/// `--json` a listing prints its rows alone: `zrelay threads --json` is the field `threads` of the result of `threads`.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Results {
    methods: Methods,
    whoami: Caller,
    status: Status,
    channels: Channels,
    rings: Rings,
    threads: Threads,
    thread: ThreadDetail,
    qshape: Qshape,
    holds: Holds,
    messages: Messages,
    message: MessageDetail,
    sites: Sites,
    #[schemars(rename = "sites.forget")]
    forget: Forgotten,
    hold: Acted,
    release: Acted,
    retry: Acted,
    expire: Acted,
    drop: Acted,
    reroute: Acted,
    subscribe: Subscribed,
    unsubscribe: Subscribed,
    overview: Overview,
    trace: Trace,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Methods {
    /// Every method.
    methods: Vec<Method>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Channels {
    /// By name.
    channels: Vec<ChannelRow>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Rings {
    /// By channel and site.
    rings: Vec<RingRow>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Threads {
    /// As they were asked for.
    threads: Vec<ThreadRow>,
    /// How many there are, those cut off by the limit included.
    matched: u64,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Qshape {
    /// Those with the most recipients first.
    qshape: Vec<AgeRow>,
    /// Of all threads that match.
    total: AgeRow,
    /// Upper limits of the columns, minutes; the last column has none.
    limits_minutes: Vec<u64>,
    /// How many threads match, those cut off by the limit included.
    matched: u64,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Messages {
    /// In the order of threads and messages.
    messages: Vec<MessageRow>,
    /// Whether the limit has cut something off.
    more: bool,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Holds {
    /// In the order in which they came; threads held by their own names last.
    holds: Vec<HoldRow>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Sites {
    /// By subject and topic.
    sites: Vec<SiteRow>,
    /// How many there are, those cut off by the limit included.
    matched: u64,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Forgotten {
    /// How many facts were forgotten.
    facts: u64,
}

/// What an action has done, or would do with `dry_run`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "its shape is what counts")]
enum Acted {
    Done(Changed),
    Preview(Preview),
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "its shape is what counts")]
struct Subscribed {
    /// The subscription; its notifications have its number.
    subscription: u64,
}

/// Prints the schema.
pub(crate) fn schema() -> Result<Done, Failure> {
    let mut schema = SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<Results>();
    // A value has the result of one method: none is required.
    schema.remove("required");
    schema.insert("title".to_owned(), json!("zrelay's control socket"));
    print::json(&Value::from(schema))?;
    Ok(Done::Well)
}

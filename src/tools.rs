//! The tools: clients of the control socket that print what it answers.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zrelay_scheduler::control::Client;
use zrelay_scheduler::snapshot::{ChannelRow, MessageRow, RingRow, ThreadDetail, ThreadRow, Usage};

use crate::check::configuration;
use crate::cli::{Command, ForgetArgs, HubOptions, MessagesArgs, Output, SelectArgs, SitesCommand};
use crate::print::{Column, numbers, octets, seconds, words};
use crate::{Done, Failure, message, print, sites};

/// Runs a command that asks a running hub.
pub(crate) fn run(hub: &HubOptions, command: Command) -> Result<Done, Failure> {
    let mut hub = Hub::connect(hub)?;
    match command {
        Command::Channels(output) => hub.list("channels", json!({}), output, &channel_columns(), channel),
        Command::Rings(output) => hub.list("rings", json!({}), output, &ring_columns(), ring),
        Command::Threads(args) => {
            hub.list("threads", json!({ "pattern": args.pattern }), args.output, &THREADS, thread)
        }
        Command::Messages(args) => hub.list("messages", messages(&args), args.output, &MESSAGES, message_row),
        Command::Thread(args) => hub.thread(&args.thread, args.output),
        Command::Message(args) => message::show(hub.ask("message", json!({ "id": args.id }))?, args.output),
        Command::Status(output) => hub.status(output),
        Command::Hold(args) => hub.change("hold", &args),
        Command::Release(args) => hub.change("release", &args),
        Command::Retry(args) => hub.change("retry", &args),
        Command::Expire(args) => hub.change("expire", &args),
        Command::Drop(args) => hub.change("drop", &args),
        Command::Sites(args) => match args.command {
            Some(SitesCommand::Forget(args)) => hub.forget(&args),
            None => {
                let params = json!({ "pattern": args.pattern, "topic": args.topic });
                hub.list("sites", params, args.output, &sites::COLUMNS, sites::cells)
            }
        },
        Command::Serve | Command::Check | Command::Route(_) | Command::Spool(_) => {
            Err(Failure::new("this command does not ask a hub"))
        }
    }
}

/// A running hub, over its control socket.
struct Hub {
    client: Client,
}

impl Hub {
    fn connect(options: &HubOptions) -> Result<Self, Failure> {
        let path: PathBuf = match &options.control {
            Some(path) => path.clone(),
            None => configuration(options)?.control,
        };
        Ok(Self { client: Client::connect(&path).map_err(Failure::new)? })
    }

    fn ask(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        self.client.call(method, params).map_err(Failure::new)
    }

    /// A listing: rows as a table, or as they came.
    fn list<R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: Value,
        output: Output,
        columns: &[Column],
        row: impl Fn(R) -> Vec<String>,
    ) -> Result<Done, Failure> {
        let rows = self.ask(method, params)?[method].take();
        let done = match rows.as_array() {
            Some(rows) if rows.is_empty() => Done::Nothing,
            _ => Done::Well,
        };
        if output.json {
            print::json(&rows)?;
            return Ok(done);
        }
        let rows: Vec<R> = understood(rows)?;
        if rows.is_empty() {
            eprintln!("zrelay: nothing matches");
            return Ok(done);
        }
        print::line(print::table(columns, rows.into_iter().map(row)));
        Ok(done)
    }

    fn thread(&mut self, key: &str, output: Output) -> Result<Done, Failure> {
        let answer = self.ask("thread", json!({ "thread": key }))?;
        if output.json {
            print::json(&answer)?;
            return Ok(Done::Well);
        }
        let ThreadDetail { row, clause, retries, expiry, ring, leases } = understood(answer)?;
        let ring = format!("{} ({} of {} agents)", ring.site, ring.usage.agents, ring.usage.agents_max);
        print::line(format_args!("clause {clause}: tries again after {}, gives up after {expiry}", retries.join(" ")));
        print::line(format_args!("ring   {ring}"));
        print::line(print::table(&THREADS, [thread(row)]));
        let agents = leases.into_iter().map(|lease| {
            vec![
                lease.lease.to_string(),
                lease.state,
                seconds(lease.age as f64),
                lease.peer,
                lease.link,
                lease.level,
                milliseconds(lease.rtt),
                lease.credit.to_string(),
                lease.in_flight.to_string(),
                lease.replies.to_string(),
                octets(lease.bytes_in_flight),
                format!("{} {}", lease.window_messages, octets(lease.window_bytes)),
                format!("{}/s", octets(lease.delivery_rate)),
                format!("{:.1}", lease.recipient_rate),
                lease.delivered.to_string(),
                octets(lease.bytes),
            ]
        });
        print::line(print::table(&AGENTS, agents));
        Ok(Done::Well)
    }

    fn status(&mut self, output: Output) -> Result<Done, Failure> {
        let answer = self.ask("status", json!({}))?;
        if output.json {
            print::json(&answer)?;
            return Ok(Done::Well);
        }
        print::line(print::table(&[words("item"), numbers("value")], flattened("", &answer)));
        Ok(Done::Well)
    }

    fn forget(&mut self, args: &ForgetArgs) -> Result<Done, Failure> {
        let answer = self.ask("sites.forget", json!({ "pattern": args.pattern, "topic": args.topic }))?;
        if args.output.json {
            print::json(&answer)?;
        } else {
            print::line(format_args!("forgotten: {} fact(s)", answer["facts"]));
        }
        Ok(Done::Well)
    }

    /// Hold, release, retry, expire or drop.
    fn change(&mut self, method: &str, args: &SelectArgs) -> Result<Done, Failure> {
        let mut answer = self.ask(method, json!({ "selector": args.terms, "dry_run": args.dry_run }))?;
        if args.output.json {
            print::json(&answer)?;
            return Ok(if changed_something(&answer) { Done::Well } else { Done::Nothing });
        }
        let sample = answer["sample"].take();
        if let Some(answer) = answer.as_object_mut() {
            answer.remove("sample");
        }
        if !changed_something(&answer) {
            eprintln!("zrelay: nothing matches {}", args.terms.join(" "));
            return Ok(Done::Nothing);
        }
        let counts = flattened("", &answer).into_iter().map(|row| row.join(" ")).collect::<Vec<_>>().join(", ");
        if args.dry_run {
            print::line(format_args!("{method} would concern: {counts}"));
            let rows: Vec<MessageRow> = understood(sample)?;
            print::line(print::table(&MESSAGES, rows.into_iter().map(message_row)));
        } else {
            print::line(format_args!("{method}: {counts}"));
        }
        Ok(Done::Well)
    }
}

fn changed_something(answer: &Value) -> bool {
    answer.as_object().is_some_and(|fields| fields.values().any(|count| count.as_u64().is_some_and(|count| count > 0)))
}

/// The figures of the spool that a running hub gives, if one runs.
pub(crate) fn spool_figures(options: &HubOptions) -> Option<Value> {
    let mut status = Hub::connect(options).ok()?.ask("status", json!({})).ok()?;
    Some(status["spool"].take())
}

/// The answer as the type that this version knows.
pub(crate) fn understood<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer)
        .map_err(|error| Failure::new(format_args!("the hub answers in a form this zrelay does not know: {error}")))
}

/// An object as rows of dotted names and values.
pub(crate) fn flattened(prefix: &str, value: &Value) -> Vec<Vec<String>> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flattened(&name, value)
            })
            .collect(),
        Value::String(text) => vec![vec![prefix.to_owned(), text.clone()]],
        Value::Null => vec![vec![prefix.to_owned(), "-".to_owned()]],
        other => vec![vec![prefix.to_owned(), other.to_string()]],
    }
}

fn messages(args: &MessagesArgs) -> Value {
    let mut terms = args.terms.clone();
    terms.extend(args.sender.as_ref().map(|pattern| format!("sender:{pattern}")));
    terms.extend(args.recipient.as_ref().map(|pattern| format!("recipient:{pattern}")));
    if terms.is_empty() {
        return json!({ "limit": args.limit });
    }
    json!({ "limit": args.limit, "selector": terms })
}

/// These columns, and behind them those of a [`Usage`].
fn with_usage<const N: usize>(own: [Column; N]) -> Vec<Column> {
    let usage = [
        numbers("threads"),
        numbers("batches"),
        numbers("recipients"),
        numbers("size"),
        numbers("agents"),
        numbers("idle"),
        numbers("waiting"),
    ];
    own.into_iter().chain(usage).collect()
}

/// These cells, and behind them those of `usage`.
fn and_usage<const N: usize>(own: [String; N], usage: Usage) -> Vec<String> {
    let cells = [
        usage.threads.to_string(),
        usage.load.batches.to_string(),
        usage.load.recipients.to_string(),
        octets(usage.load.bytes),
        format!("{}/{}", usage.agents, usage.agents_max),
        usage.idle.to_string(),
        usage.waiting.to_string(),
    ];
    own.into_iter().chain(cells).collect()
}

fn channel_columns() -> Vec<Column> {
    with_usage([words("channel")])
}

fn channel(row: ChannelRow) -> Vec<String> {
    and_usage([row.channel], row.usage)
}

fn ring_columns() -> Vec<Column> {
    with_usage([words("channel"), words("site"), words("clause")])
}

fn ring(row: RingRow) -> Vec<String> {
    and_usage([row.channel, row.site, row.clause], row.usage)
}

const THREADS: [Column; 12] = [
    words("thread"),
    words("state"),
    numbers("batches"),
    numbers("recipients"),
    numbers("oldest"),
    numbers("agents"),
    numbers("rtt"),
    numbers("in flight"),
    numbers("rcpt/s"),
    words("level"),
    numbers("next"),
    words("reason"),
];

fn thread(row: ThreadRow) -> Vec<String> {
    vec![
        row.thread,
        row.state,
        row.batches.to_string(),
        row.recipients.to_string(),
        row.oldest.map_or_else(|| "-".to_owned(), |age| seconds(age as f64)),
        format!("{}/{}", row.agents, row.agents_max),
        milliseconds(row.rtt),
        octets(row.bytes_in_flight),
        format!("{:.1}", row.recipient_rate),
        row.level,
        row.next_attempt_in.map_or_else(|| "-".to_owned(), |wait| seconds(wait as f64)),
        row.reason,
    ]
}

const AGENTS: [Column; 16] = [
    numbers("lease"),
    words("state"),
    numbers("age"),
    words("peer"),
    words("link"),
    words("level"),
    numbers("rtt"),
    numbers("credit"),
    numbers("in flight"),
    numbers("replies"),
    numbers("bytes in flight"),
    numbers("window"),
    numbers("delivery rate"),
    numbers("rcpt/s"),
    numbers("delivered"),
    numbers("sent"),
];

const MESSAGES: [Column; 9] = [
    words("message"),
    words("thread"),
    words("state"),
    numbers("age"),
    numbers("size"),
    numbers("tries"),
    words("sender"),
    numbers("recipients"),
    words("recipient"),
];

fn message_row(row: MessageRow) -> Vec<String> {
    vec![
        row.message,
        row.thread,
        row.state,
        seconds(row.age as f64),
        octets(row.size),
        row.attempts.to_string(),
        row.sender,
        row.recipients.to_string(),
        row.recipient,
    ]
}

fn milliseconds(rtt: Option<f64>) -> String {
    rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.1}ms", rtt * 1_000.0))
}

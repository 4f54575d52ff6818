//! The tools: clients of the control socket that print what it answers.

mod fields;
mod tables;
mod trace;

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zrelay_scheduler::control::Client;
use zrelay_scheduler::snapshot::MessageRow;

use crate::check::configuration;
use crate::cli::{
    Command, ForgetArgs, HubOptions, Listing, MessagesArgs, Output, QshapeArgs, RerouteArgs, SelectArgs, SitesCommand,
    ThreadsArgs,
};
use crate::print::{Column, Row, numbers, words};
use crate::{Done, Failure, message, print, sites};

/// Rows of `messages` unless another number is asked for.
const MESSAGES_DEFAULT: usize = 100;

/// Runs a command that asks a running hub.
pub(crate) fn run(hub: &HubOptions, command: Command) -> Result<Done, Failure> {
    let mut hub = Hub::connect(hub)?;
    match command {
        Command::Channels(listing) => {
            hub.list("channels", json!({}), &listing, &tables::channel_columns(), tables::channel)
        }
        Command::Rings(listing) => hub.list("rings", json!({}), &listing, &tables::ring_columns(), tables::ring),
        Command::Holds(listing) => hub.list("holds", json!({}), &listing, &tables::HOLDS, tables::hold),
        Command::Threads(args) => hub.list("threads", threads(&args), &args.listing, &tables::THREADS, tables::thread),
        Command::Messages(args) => {
            hub.list("messages", messages(&args), &args.listing, &tables::MESSAGES, tables::message)
        }
        Command::Trace(args) => trace::trace(hub.client, &args),
        Command::Qshape(args) => hub.qshape(&args),
        Command::Thread(args) => hub.thread(&args.thread, args.output),
        Command::Message(args) => message::show(hub.ask("message", json!({ "id": args.id }))?, args.output),
        Command::Status(output) => hub.status(output),
        Command::Reroute(args) => hub.reroute(&args),
        Command::Hold(args) => hub.change("hold", &args),
        Command::Release(args) => hub.change("release", &args),
        Command::Retry(args) => hub.change("retry", &args),
        Command::Expire(args) => hub.change("expire", &args),
        Command::Drop(args) => hub.change("drop", &args),
        Command::Sites(args) => match args.command {
            Some(SitesCommand::Forget(args)) => hub.forget(&args),
            None => {
                let params = json!({ "pattern": args.pattern, "topic": args.topic });
                hub.list("sites", params, &args.listing, &sites::COLUMNS, sites::cells)
            }
        },
        Command::Serve | Command::Check | Command::Route(_) | Command::Spool(_) | Command::Top(_) | Command::Schema => {
            Err(Failure::new("this command does not ask a hub"))
        }
    }
}

/// Where the hub listens for its tools.
pub(crate) fn control_path(options: &HubOptions) -> Result<PathBuf, Failure> {
    match &options.control {
        Some(path) => Ok(path.clone()),
        None => Ok(configuration(options)?.control),
    }
}

/// A running hub, over its control socket.
struct Hub {
    client: Client,
}

impl Hub {
    fn connect(options: &HubOptions) -> Result<Self, Failure> {
        let path = control_path(options)?;
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
        listing: &Listing,
        columns: &[Column],
        row: impl Fn(R) -> Row,
    ) -> Result<Done, Failure> {
        let mut rows = self.ask(method, params)?[method].take();
        if let Some(rows) = rows.as_array_mut().filter(|_| method != "threads") {
            fields::sort(rows, listing.sort.as_deref())?;
            rows.truncate(listing.limit.unwrap_or(usize::MAX));
        }
        let done = match rows.as_array() {
            Some(rows) if rows.is_empty() => Done::Nothing,
            _ => Done::Well,
        };
        if listing.output.json {
            print::json(&rows)?;
            return Ok(done);
        }
        if rows.as_array().is_none_or(Vec::is_empty) {
            eprintln!("zrelay: nothing matches");
            return Ok(done);
        }
        if listing.columns.is_empty() {
            let rows: Vec<R> = understood(rows)?;
            print::table(columns, rows.into_iter().map(row).collect());
        } else {
            let (columns, rows) = fields::chosen(&rows, &listing.columns)?;
            print::table(&columns, rows);
        }
        Ok(done)
    }

    fn thread(&mut self, key: &str, output: Output) -> Result<Done, Failure> {
        let answer = self.ask("thread", json!({ "thread": key }))?;
        if output.json {
            print::json(&answer)?;
            return Ok(Done::Well);
        }
        tables::thread_detail(understood(answer)?);
        Ok(Done::Well)
    }

    fn qshape(&mut self, args: &QshapeArgs) -> Result<Done, Failure> {
        let answer = self.ask("qshape", json!({ "pattern": args.pattern, "limit": args.limit }))?;
        if args.output.json {
            print::json(&answer)?;
            return Ok(Done::Well);
        }
        let matched = answer["matched"].as_u64();
        tables::ages(understood(answer)?);
        Ok(if matched == Some(0) { Done::Nothing } else { Done::Well })
    }

    fn status(&mut self, output: Output) -> Result<Done, Failure> {
        let answer = self.ask("status", json!({}))?;
        if output.json {
            print::json(&answer)?;
            return Ok(Done::Well);
        }
        print::table(&[words("item"), numbers("value")], flattened("", &answer).into_iter().map(Row::from).collect());
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
        let answer = self.ask(method, json!({ "selector": args.terms, "dry_run": args.dry_run }))?;
        Self::changed(method, args, answer)
    }

    fn reroute(&mut self, args: &RerouteArgs) -> Result<Done, Failure> {
        let RerouteArgs { select, to } = args;
        let params = json!({ "selector": select.terms, "to": to, "dry_run": select.dry_run });
        let answer = self.ask("reroute", params)?;
        Self::changed("reroute", select, answer)
    }

    fn changed(method: &str, args: &SelectArgs, mut answer: Value) -> Result<Done, Failure> {
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
            print::table(&tables::MESSAGES, rows.into_iter().map(tables::message).collect());
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

fn threads(args: &ThreadsArgs) -> Value {
    let mut params = json!({ "pattern": args.pattern });
    if let Some(state) = &args.state {
        params["state"] = state.as_str().into();
    }
    if let Some(sort) = &args.listing.sort {
        params["sort"] = sort.as_str().into();
    }
    if let Some(limit) = args.listing.limit {
        params["limit"] = limit.into();
    }
    params
}

fn messages(args: &MessagesArgs) -> Value {
    let limit = args.listing.limit.unwrap_or(MESSAGES_DEFAULT);
    let mut terms = args.terms.clone();
    terms.extend(args.sender.as_ref().map(|pattern| format!("sender:{pattern}")));
    terms.extend(args.recipient.as_ref().map(|pattern| format!("recipient:{pattern}")));
    if terms.is_empty() {
        return json!({ "limit": limit });
    }
    json!({ "limit": limit, "selector": terms })
}

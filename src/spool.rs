//! `zrelay spool`: the files of the spool, looked into without the hub.

mod envelope;
mod export;
mod import;
mod progress;

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::json;
use zrelay_spool::{Check, Figures, Holder, MessageId, Offline};

use crate::check::configuration;
use crate::cli::{HubOptions, SpoolArgs, SpoolCommand};
use crate::print::{numbers, octets, words};
use crate::{Done, Failure, print, tools};

pub(crate) fn run(hub: &HubOptions, command: SpoolCommand) -> Result<Done, Failure> {
    match command {
        SpoolCommand::Check(args) => check(hub, &args),
        SpoolCommand::Stat(args) => stat(hub, &args),
        SpoolCommand::Export(args) => export::export(hub, &args),
        SpoolCommand::Import(args) => import::import(hub, &args),
    }
}

/// The directory that is meant.
fn directory(hub: &HubOptions, args: &SpoolArgs) -> Result<PathBuf, Failure> {
    match &args.directory {
        Some(directory) => Ok(directory.clone()),
        None => Ok(configuration(hub)?.spool),
    }
}

fn open(hub: &HubOptions, args: &SpoolArgs) -> Result<Offline, Failure> {
    Offline::open(&directory(hub, args)?).map_err(Failure::new)
}

fn message_id(text: &str) -> Result<MessageId, Failure> {
    text.parse().map_err(|_| Failure::new(format_args!("{text} is not a queue id; `zrelay messages` lists them")))
}

/// `zrelay message ID --content`
pub(crate) fn content(hub: &HubOptions, id: &str) -> Result<Done, Failure> {
    if hub.control.is_some() && hub.config.is_none() {
        return Err(Failure::new(
            "--content reads the spool's files: say with --config which hub's, not with --control",
        ));
    }
    let offline = Offline::open(&configuration(hub)?.spool).map_err(Failure::new)?;
    let (reader, id) = (offline.reader(), message_id(id)?);
    let stored = reader.message(id).map_err(Failure::new)?;
    let mut out = io::stdout().lock();
    let written = stored.slices(0).try_for_each(|slice| out.write_all(slice)).and_then(|()| out.flush());
    match written {
        // A reader that has gone away (`| head`) is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(error)),
        // What is left of it may still be of use.
        _ => reader.intact(id).map(|_| Done::Well).map_err(Failure::new),
    }
}

fn check(hub: &HubOptions, args: &SpoolArgs) -> Result<Done, Failure> {
    let offline = open(hub, args)?;
    let Check { segments, records, octets: size, messages, damage } = offline.check();
    let done = if damage.is_empty() { Done::Well } else { Done::Nothing };
    if args.output.json {
        let damage: Vec<String> = damage.iter().map(ToString::to_string).collect();
        let directory = offline.directory().display().to_string();
        print::json(&json!({
            "directory": directory, "segments": segments, "records": records, "bytes": size, "messages": messages,
            "damage": damage,
        }))?;
        return Ok(done);
    }
    for damage in &damage {
        print::line(damage);
    }
    let verdict = match damage.len() {
        0 => "all is as it was written".to_owned(),
        count => format!("{count} fault(s), see above; no other message is touched by them"),
    };
    print::line(format_args!(
        "{}: {segments} segment(s), {records} intact record(s), {}; {messages} message(s) in the queue can be read in full: {verdict}",
        offline.directory().display(),
        octets(size),
    ));
    Ok(done)
}

fn stat(hub: &HubOptions, args: &SpoolArgs) -> Result<Done, Failure> {
    let offline = open(hub, args)?;
    let Figures {
        segments,
        live_bytes,
        messages,
        unrouted,
        batches,
        recipients_open,
        reports_owed,
        queued_bytes,
        threads,
    } = offline.figures();
    let holder = offline.holder().map(|holder| match holder {
        Holder::Process(id) => id.to_string(),
        Holder::Unknown => "unknown".to_owned(),
    });
    // The configured hub is not the one that has another directory.
    let running = holder.as_ref().filter(|_| args.directory.is_none()).and_then(|_| tools::spool_figures(hub));
    let figures = json!({
        "directory": offline.directory().display().to_string(),
        "process": holder,
        "segments": segments,
        "live_bytes": live_bytes,
        "messages": messages,
        "unrouted": unrouted,
        "batches": batches,
        "recipients_open": recipients_open,
        "reports_owed": reports_owed,
        "queued_bytes": queued_bytes,
        "threads": threads,
        "hub": running,
    });
    if args.output.json {
        print::json(&figures)?;
    } else {
        let rows = tools::flattened("", &figures).into_iter().map(print::Row::from).collect();
        print::table(&[words("item"), numbers("value")], rows);
    }
    Ok(Done::Well)
}

//! `zrelay route`: where a recipient would go, and by which rule.

use serde_json::json;
use zrelay_router::{Router, Verdict};
use zrelay_wire::{ForwardPath, ReversePath, Utf8};

use crate::check::configuration;
use crate::cli::{HubOptions, RouteArgs};
use crate::{Done, Failure, print};

pub(crate) fn route(hub: &HubOptions, args: &RouteArgs) -> Result<Done, Failure> {
    let mut router = Router::new(&configuration(hub)?);
    if let Some(path) = &hub.config {
        router = router.in_file(&path.display().to_string());
    }
    let sender = if args.sender == "<>" { "" } else { &args.sender };
    let recipient = ForwardPath::parse(args.address.as_bytes(), Utf8::Allowed);
    recipient.map_err(|error| Failure::new(format_args!("{} is no recipient: {error}", args.address)))?;
    let reverse = ReversePath::parse(sender.as_bytes(), Utf8::Allowed);
    reverse.map_err(|error| Failure::new(format_args!("{sender} is no sender: {error}")))?;
    let steps = router.explain(&args.address, sender);
    if !args.output.json {
        steps.iter().for_each(print::line);
        return Ok(Done::Well);
    }
    let steps: Vec<_> = steps
        .iter()
        .map(|step| {
            let (verdict, thread) = match &step.verdict {
                Verdict::Note => ("note", None),
                Verdict::Passed => ("passed", None),
                Verdict::Taken(thread) => ("taken", Some(thread.to_string())),
            };
            json!({ "file": step.file, "line": step.line, "verdict": verdict, "thread": thread, "text": step.text })
        })
        .collect();
    print::json(&steps)?;
    Ok(Done::Well)
}

//! `zrelay trace`: the conversation of a thread while it goes on.

use std::time::{Duration, Instant};

use serde_json::json;
use zrelay_scheduler::control::{Client, Trace, TraceLine};

use crate::cli::TraceArgs;
use crate::print::{self, Tone, clean};
use crate::{Done, Failure};

/// How often to look whether the time is over.
const LOOK: Duration = Duration::from_millis(200);

/// Prints lines as they come.
pub(super) fn trace(mut client: Client, args: &TraceArgs) -> Result<Done, Failure> {
    client.call("subscribe", json!({ "topic": "trace", "pattern": args.pattern })).map_err(Failure::new)?;
    if !args.output.json {
        eprintln!("zrelay: watching {}; Ctrl-C ends it", args.pattern);
    }
    let until = args.duration.map(|span| Instant::now() + span.0);
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut lost = 0;
    while left > 0 {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(Done::Well);
        }
        let Some(trace) = client.notification::<Trace>(LOOK).map_err(Failure::new)? else { continue };
        if trace.dropped > lost {
            print::toned(Tone::Bad, format_args!("*** {} lines were lost", trace.dropped - lost));
            lost = trace.dropped;
        }
        for line in trace.lines.into_iter().take(left) {
            left -= 1;
            if args.output.json {
                print::line(serde_json::to_string(&line).map_err(Failure::new)?);
            } else {
                show(&line, &args.pattern);
            }
        }
    }
    Ok(Done::Well)
}

fn show(line: &TraceLine, pattern: &str) {
    let (arrow, tone) = match line.direction.as_str() {
        "sent" => (">", Tone::Plain),
        "received" => ("<", Tone::of_reply(&line.text)),
        _ => ("*", Tone::Dim),
    };
    let time = line.at.split_once('T').map_or(line.at.as_str(), |(_, time)| time.trim_end_matches('Z'));
    let text = clean(&line.text);
    if line.thread == pattern {
        print::toned(tone, format_args!("{time} {} {} {arrow} {text}", line.lease, line.flight));
    } else {
        print::toned(tone, format_args!("{time} {} {} {} {arrow} {text}", line.thread, line.lease, line.flight));
    }
}

//! `zrelay message`: one message, and the state of each recipient.

use serde_json::Value;
use zrelay_scheduler::control::MessageDetail;

use crate::cli::Output;
use crate::print::{Column, Row, Tone, numbers, octets, seconds, words};
use crate::tools::understood;
use crate::{Done, Failure, print};

const RECIPIENTS: [Column; 6] =
    [words("recipient"), words("state"), words("thread"), numbers("tries"), words("sender"), words("last reply")];

pub(crate) fn show(answer: Value, output: Output) -> Result<Done, Failure> {
    if output.json {
        print::json(&answer)?;
        return Ok(Done::Well);
    }
    let MessageDetail { message, received, age, client, size, open, recipients, .. } = understood(answer)?;
    let age = seconds(age as f64);
    let size = octets(size);
    print::line(format_args!(
        "{message} received {received} ({age} ago) from {client}, {size}, {open} recipient(s) open"
    ));
    let rows = recipients.into_iter().map(|row| {
        let last = row.last_reply.unwrap_or_default();
        let tone = Tone::of_state(&row.state);
        let cells = vec![row.address, row.state, row.thread, row.attempts.to_string(), row.sender, last];
        Row { tone, cells }
    });
    print::table(&RECIPIENTS, rows.collect());
    Ok(Done::Well)
}

//! `zrelay message`: one message, the state of each recipient, and what was tried for it.

use std::collections::HashMap;

use serde_json::Value;
use zrelay_scheduler::control::MessageDetail;
use zrelay_scheduler::snapshot::{AttemptRow, RecipientRow};

use crate::cli::Output;
use crate::print::{Column, Row, Tone, numbers, octets, seconds, words};
use crate::tools::understood;
use crate::{Done, Failure, print};

const RECIPIENTS: [Column; 6] =
    [words("recipient"), words("state"), words("thread"), numbers("tries"), words("sender"), words("last reply")];

const ATTEMPTS: [Column; 6] =
    [words("recipient"), words("at"), words("what"), words("thread"), words("host"), words("reply")];

/// What stands in the place of attempts that are not known any more.
const EARLIER: &str = "earlier attempts: see the delivery log";

pub(crate) fn show(answer: Value, output: Output) -> Result<Done, Failure> {
    if output.json {
        print::json(&answer)?;
        return Ok(Done::Well);
    }
    let MessageDetail { message, received, age, client, size, open, recipients, attempts, .. } = understood(answer)?;
    let age = seconds(age as f64);
    let size = octets(size);
    print::line(format_args!(
        "{message} received {received} ({age} ago) from {client}, {size}, {open} recipient(s) open"
    ));
    let history = history(&recipients, &attempts);
    let rows = recipients.into_iter().map(|row| {
        let last = row.last_reply.unwrap_or_default();
        let tone = Tone::of_state(&row.state);
        let state = row.outcome.unwrap_or(row.state);
        let cells = vec![row.address, state, row.thread, row.attempts.to_string(), row.sender, last];
        Row { tone, cells }
    });
    print::table(&RECIPIENTS, rows.collect());
    if !history.is_empty() {
        print::line("");
        print::table(&ATTEMPTS, history);
    }
    Ok(Done::Well)
}

/// The attempts at each recipient, in the order of recipients and of time.
fn history(recipients: &[RecipientRow], attempts: &[AttemptRow]) -> Vec<Row> {
    let mut of: HashMap<u32, Vec<&AttemptRow>> = HashMap::new();
    for attempt in attempts {
        attempt.recipients.iter().for_each(|index| of.entry(*index).or_default().push(attempt));
    }
    let mut rows = Vec::new();
    for (index, recipient) in (0..).zip(recipients) {
        if recipient.earlier_attempts_gone {
            let cells = [&recipient.address, "", "", "", "", EARLIER].map(str::to_owned);
            rows.push(Row { tone: Tone::Dim, cells: cells.to_vec() });
        }
        for attempt in of.remove(&index).unwrap_or_default() {
            let AttemptRow { at, disposition, thread, peer, reply, .. } = attempt;
            let cells = [&recipient.address, at, disposition, thread, peer, reply].map(ToString::to_string);
            rows.push(Row { tone: Tone::of_outcome(disposition), cells: cells.to_vec() });
        }
    }
    rows
}

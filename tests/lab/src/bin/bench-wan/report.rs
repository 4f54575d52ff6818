//! What came out, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::contenders::Contender;
use crate::goals::{Rates, Verdict, judge};
use crate::options::Options;
use crate::outcome::Outcome;

pub(crate) fn table(options: &Options, outcomes: &[Outcome]) -> String {
    let clause = if options.clause.is_empty() { "its defaults" } else { &options.clause };
    let mut text = format!("congestion control: {}; zrelay with {clause}\n\n", options.congestion);
    let header = format!(
        "{:<22} {:>7} {:>9} {:>9} {:>9} {:>9} {:>6} {:>7} {:>5} {:>6} {:>7} {:>7} {:>8}\n",
        "",
        "n",
        "seconds",
        "rate/s",
        "of plain",
        "x Postfix",
        "conns",
        "flights",
        "lost",
        "double",
        "idle s",
        "gap ms",
        "CPU us/n"
    );
    text.push_str(&header);
    for group in outcomes.chunk_by(|one, other| one.work.name == other.work.name) {
        let Some(first) = group.first() else { continue };
        let rates = Rates::new(first.work.name, outcomes);
        let _infallible = writeln!(text, "{}", first.work.title(Contender::Zrelay));
        for outcome in group {
            let share = |other: Contender| {
                let other = rates.of(other).filter(|_| outcome.contender != other);
                other.map_or_else(|| "-".to_owned(), |other| format!("{:.2}", outcome.rate() / other))
            };
            let cpu = outcome.usage.map(|usage| usage.cpu.as_secs_f64() * 1e6 / outcome.recipients.max(1) as f64);
            let _infallible = writeln!(
                text,
                "  {:<20} {:>7} {:>9.3} {:>9} {:>9} {:>9} {:>6} {:>7.1} {:>5} {:>6} {:>7.2} {:>7.0} {:>8}",
                outcome.contender.name(),
                outcome.recipients,
                outcome.seconds,
                number(outcome.rate()),
                share(Contender::Plain),
                share(Contender::PostfixOne),
                outcome.connections,
                outcome.flights,
                outcome.missing + outcome.foreign,
                outcome.doubled,
                outcome.idle,
                outcome.silence() * 1e3,
                cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.0}")),
            );
            if let Some([least, most]) = outcome.spread {
                let _infallible = writeln!(text, "    of {} runs: {least:.3} to {most:.3} s", outcome.work.runs);
            }
            for violation in outcome.violations.iter().take(3) {
                let _infallible = writeln!(text, "    violation: {violation}");
            }
        }
        for outcome in group.iter().filter(|it| it.is_judged()) {
            for Verdict { words, reached, met } in
                outcome.work.goals.iter().flat_map(|goal| judge(goal, outcome, &rates))
            {
                let verdict = if met { "met" } else { "MISSED" };
                let _infallible = writeln!(text, "    goal: {words}: {} {verdict}", number(reached));
            }
        }
    }
    let late: u64 = outcomes.iter().flat_map(|it| it.line).map(|line| line.late).sum();
    let packets: u64 = outcomes.iter().flat_map(|it| it.line).map(|line| line.packets).sum();
    let worst = outcomes.iter().flat_map(|it| it.line).map(|line| line.lateness_max).max().unwrap_or_default();
    let _infallible = writeln!(
        text,
        "\nlink: {late} of {packets} packets more than 2 ms late, at most {:.1} ms",
        worst.as_secs_f64() * 1e3
    );
    text
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

pub(crate) fn json(options: &Options, outcomes: &[Outcome], real: &[crate::real::Row]) -> Value {
    let rows = outcomes.iter().map(|outcome| {
        let rates = Rates::new(outcome.work.name, outcomes);
        let share = |other: Contender| rates.of(other).map(|other| outcome.rate() / other);
        let goals = outcome.work.goals.iter().filter(|_| outcome.is_judged());
        let goals = goals.flat_map(|goal| judge(goal, outcome, &rates));
        let line = outcome.line.map(|line| {
            json!({
                "packets": line.packets,
                "octets": line.octets,
                "lost": line.lost,
                "dropped": line.dropped,
                "late": line.late,
                "lateness_max_milliseconds": line.lateness_max.as_secs_f64() * 1e3,
            })
        });
        json!({
            "work": outcome.work.name,
            "title": outcome.work.title(outcome.contender),
            "contender": outcome.contender.name(),
            "round_trip_milliseconds": outcome.work.line.round_trip().as_millis(),
            "bits_per_second": outcome.work.line.rate * 8,
            "queue_octets": outcome.work.line.queue,
            "loss": outcome.work.line.loss,
            "recipients": outcome.recipients,
            "seconds": outcome.seconds,
            "rate": outcome.rate(),
            "of_plain": share(Contender::Plain),
            "of_postfix_one_connection": share(Contender::PostfixOne),
            "of_postfix_default": share(Contender::Postfix),
            "octets": outcome.octets_all,
            "connections": outcome.connections,
            "connections_late": outcome.connections_late,
            "runs": outcome.work.runs,
            "seconds_least_and_most": outcome.spread,
            "round_trips_before_the_text": outcome.flights,
            "longest_silence_seconds": outcome.silence(),
            "missing": outcome.missing,
            "doubled": outcome.doubled,
            "foreign": outcome.foreign,
            "violations": outcome.violations,
            "far_side_idle_seconds": outcome.idle,
            "far_side_busy_seconds": outcome.busy,
            "gaps": outcome.gaps.iter().map(|gap| json!({
                "at_seconds": gap.at.as_secs_f64(),
                "seconds": gap.length.as_secs_f64(),
                "after": gap.after,
            })).collect::<Vec<_>>(),
            "cpu_seconds": outcome.usage.map(|usage| usage.cpu.as_secs_f64()),
            "resident_peak_octets": outcome.usage.map(|usage| usage.resident_peak),
            "goals": goals
                .map(|it| json!({ "goal": it.words, "reached": it.reached, "met": it.met }))
                .collect::<Vec<_>>(),
            "line_forth": line[0],
            "line_back": line[1],
            "octets_over_time": outcome.curve,
        })
    });
    json!({
        "congestion": options.congestion,
        "clause": options.clause,
        "outcomes": rows.collect::<Vec<_>>(),
        "into_real_servers": crate::real::json(real),
    })
}

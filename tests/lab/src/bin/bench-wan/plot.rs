//! Octets at the far side over time, one panel per work, as SVG.

use zrelay_plot::{Axis, Chart, Line};

use crate::contenders::Contender;
use crate::outcome::Outcome;

/// A panel ends at this many times what zrelay and the plain transfer take, so that they can be seen beside Postfix.
const STRETCH: f64 = 3.0;

fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Plain => "#888888",
        Contender::Zrelay => "#0b6fc2",
        Contender::Several => "#3fa07a",
        Contender::PostfixOne => "#d9831f",
        Contender::Postfix => "#b03a2e",
    }
}

pub(crate) fn svg(outcomes: &[Outcome]) -> String {
    let contenders = Contender::ALL.into_iter().filter(|it| outcomes.iter().any(|outcome| outcome.contender == *it));
    let legend: Vec<_> = contenders.map(|contender| (contender.name(), colour(contender))).collect();
    let groups = outcomes.chunk_by(|one, other| one.work.name == other.work.name);
    zrelay_plot::svg(&legend, &groups.filter_map(chart).collect::<Vec<_>>())
}

/// A panel ends with zrelay and the plain transfer, or a little later.
fn chart(group: &[Outcome]) -> Option<Chart> {
    let end = |outcome: &Outcome| outcome.curve.last().map_or(0.0, |point| point.0);
    let fast = group.iter().filter(|it| !it.contender.is_postfix()).map(end).fold(0.0, f64::max);
    let slow = group.iter().map(end).fold(0.0, f64::max);
    let time = Axis::linear("seconds", slow.min(fast * STRETCH).max(0.001));
    let most = group.iter().filter(|it| !it.contender.is_postfix()).map(|it| it.octets_all).max().unwrap_or(0);
    let octets = Axis::linear("kB at the far side", (most as f64 / 1000.0).max(1.0));
    let line = |outcome: &Outcome| {
        let shown = outcome.curve.iter().filter(|point| point.0 <= time.most());
        let points = shown.map(|(seconds, octets)| (*seconds, *octets as f64 / 1000.0)).collect();
        Line { colour: colour(outcome.contender), points }
    };
    let lines = group.iter().map(line).collect();
    Some(Chart { title: group.first()?.work.title(Contender::Zrelay), x: time, y: octets, lines })
}

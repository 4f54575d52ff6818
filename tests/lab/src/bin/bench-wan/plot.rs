//! Octets at the far side over time, one panel per work, as SVG.

use std::fmt::Write as _;

use crate::contenders::Contender;
use crate::outcome::Outcome;

/// Pixels of a panel's drawing area, and around it.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 34.0;
const RIGHT: f64 = 22.0;
const BOTTOM: f64 = 44.0;
const COLUMNS: usize = 2;
/// For what the colours mean.
const LEGEND: f64 = 30.0;
/// For one of the names in it.
const NAME: f64 = 175.0;

/// Points of a line; more cannot be seen.
const POINTS_MAX: usize = 300;

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
    let groups: Vec<&[Outcome]> = outcomes.chunk_by(|one, other| one.work.name == other.work.name).collect();
    let columns = groups.len().clamp(1, COLUMNS);
    let rows = groups.len().div_ceil(columns);
    let (cell_width, cell_height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let contenders = Contender::ALL.into_iter().filter(|it| outcomes.iter().any(|outcome| outcome.contender == *it));
    let legend = LEFT + NAME * contenders.clone().count() as f64;
    let (width, height) = (legend.max(cell_width * columns as f64), cell_height * rows as f64 + LEGEND);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let mut x = LEFT;
    for contender in contenders {
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.0}\" y1=\"16\" x2=\"{:.0}\" y2=\"16\" stroke=\"{}\" stroke-width=\"2.5\"/>\
             <text x=\"{:.0}\" y=\"20\">{}</text>",
            x + 24.0,
            colour(contender),
            x + 30.0,
            contender.name()
        );
        x += NAME;
    }
    for (index, group) in groups.iter().enumerate() {
        let left = cell_width * (index % columns) as f64 + LEFT;
        let top = cell_height * (index / columns) as f64 + TOP + LEGEND;
        panel(&mut svg, left, top, group);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, left: f64, top: f64, group: &[Outcome]) {
    let Some(first) = group.first() else { return };
    let end = |outcome: &Outcome| outcome.curve.last().map_or(0.0, |point| point.0);
    let fast = group.iter().filter(|it| !it.contender.is_postfix()).map(end).fold(0.0, f64::max);
    let slow = group.iter().map(end).fold(0.0, f64::max);
    let (time_step, time_max) = scale(slow.min(fast * STRETCH).max(0.001));
    let most = group.iter().filter(|it| !it.contender.is_postfix()).map(|it| it.octets_all).max().unwrap_or(0);
    let (octet_step, octets_max) = scale((most as f64 / 1000.0).max(1.0));
    let place = |seconds: f64, octets: u64| {
        let share = (octets as f64 / 1000.0 / octets_max).min(1.0);
        (left + WIDTH * seconds / time_max, top + HEIGHT * (1.0 - share))
    };
    let _infallible = writeln!(
        svg,
        "<text x=\"{left:.0}\" y=\"{:.0}\" font-size=\"13\" font-weight=\"bold\">{}</text>\
         <text x=\"{left:.0}\" y=\"{:.0}\" fill=\"#555555\">kB at the far side</text>\
         <text x=\"{:.0}\" y=\"{:.0}\" fill=\"#555555\" text-anchor=\"end\">seconds</text>",
        top - 18.0,
        first.work.title(Contender::Zrelay),
        top - 4.0,
        left + WIDTH,
        top + HEIGHT + 30.0,
    );
    for tick in ticks(time_step, time_max) {
        let x = left + WIDTH * tick / time_max;
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            top + HEIGHT,
            top + HEIGHT + 15.0,
            label(tick)
        );
    }
    for tick in ticks(octet_step, octets_max) {
        let y = top + HEIGHT * (1.0 - tick / octets_max);
        let _infallible = writeln!(
            svg,
            "<line x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left + WIDTH,
            left - 6.0,
            y + 4.0,
            label(tick)
        );
    }
    for outcome in group {
        let every = outcome.curve.len().div_ceil(POINTS_MAX).max(1);
        let mut shown = outcome.curve.iter().filter(|point| point.0 <= time_max);
        let mut points: Vec<&(f64, u64)> = shown.clone().step_by(every).collect();
        points.extend(shown.next_back());
        let text: String = points
            .iter()
            .map(|(seconds, octets)| place(*seconds, *octets))
            .map(|(x, y)| format!("{x:.1},{y:.1} "))
            .collect();
        let _infallible = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"/>",
            colour(outcome.contender),
            text.trim_end()
        );
    }
}

/// A round step of which about five reach `most`, and the end of the axis.
fn scale(most: f64) -> (f64, f64) {
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (step, (most / step).ceil() * step)
}

fn ticks(step: f64, most: f64) -> impl Iterator<Item = f64> {
    let count = (most / step).round() as u32;
    (0..=count).map(move |index| f64::from(index) * step)
}

fn label(value: f64) -> String {
    if value == 0.0 || value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

//! Cost of each event against the length of the queue, as SVG.

use zrelay_plot::{Axis, Chart, Line};

use crate::Costs;

const COLOURS: [&str; 6] = ["#0b6fc2", "#b03a2e", "#d9831f", "#3fa07a", "#7a5195", "#888888"];

pub(crate) fn svg(events: &[&'static str], costs: &Costs) -> String {
    let legend: Vec<_> = events.iter().copied().zip(COLOURS).collect();
    let lines: Vec<Line> = legend
        .iter()
        .filter_map(|(event, colour)| Some((costs.get(event)?, *colour)))
        .map(|(row, colour)| Line {
            colour,
            points: row.iter().map(|(length, cost)| (*length as f64, *cost)).collect(),
        })
        .collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let span = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, 1.0_f64), |(least, most), value| (least.min(value), most.max(value)))
    };
    let (shortest, longest) = span(&mut points().map(|point| point.0));
    let (least, most) = span(&mut points().map(|point| point.1));
    let chart = Chart {
        title: "What an event costs the scheduler".to_owned(),
        x: Axis::logarithmic("batches in the queue, in a tenth as many threads", shortest, longest),
        y: Axis::logarithmic("nanoseconds", least, most),
        lines,
    };
    zrelay_plot::svg(&legend, &[chart])
}

//! Line charts as SVG, for what benchmarks measure: panels side by side below a legend.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

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

/// A panel.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What goes to the right.
    pub x: Axis,
    /// What goes up.
    pub y: Axis,
    /// The lines; points outside of the axes end up at their edges.
    pub lines: Vec<Line>,
}

/// A line of a panel.
#[derive(Clone, Debug)]
pub struct Line {
    /// As SVG has it: `#0b6fc2`.
    pub colour: &'static str,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// An axis: its unit, and how far it reaches.
#[derive(Clone, Debug)]
pub struct Axis {
    unit: &'static str,
    scale: Scale,
}

#[derive(Clone, Copy, Debug)]
enum Scale {
    /// From zero, with a line at every step.
    Linear { step: f64, most: f64 },
    /// From one power of ten to another, each with a line.
    Logarithmic { least: i32, most: i32 },
}

impl Axis {
    /// From zero to a round number at or above `most`.
    pub fn linear(unit: &'static str, most: f64) -> Self {
        let rough = most.max(f64::MIN_POSITIVE) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        Self { unit, scale: Scale::Linear { step, most: (most / step).ceil() * step } }
    }

    /// From the power of ten at or below `least` to that at or above `most`, both above zero.
    pub fn logarithmic(unit: &'static str, least: f64, most: f64) -> Self {
        let least = least.max(f64::MIN_POSITIVE).log10().floor() as i32;
        let most = most.max(f64::MIN_POSITIVE).log10().ceil() as i32;
        Self { unit, scale: Scale::Logarithmic { least, most: most.max(least + 1) } }
    }

    /// The largest value on it.
    pub fn most(&self) -> f64 {
        match self.scale {
            Scale::Linear { most, .. } => most,
            Scale::Logarithmic { most, .. } => 10_f64.powi(most),
        }
    }

    /// Where a value is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear { most, .. } => value / most,
            Scale::Logarithmic { least, most } => {
                (value.max(f64::MIN_POSITIVE).log10() - f64::from(least)) / f64::from(most - least)
            }
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear { step, most } => {
                (0..=(most / step).round() as u32).map(|index| f64::from(index) * step).collect()
            }
            Scale::Logarithmic { least, most } => (least..=most).map(|power| 10_f64.powi(power)).collect(),
        }
    }
}

/// The picture: the panels in two columns, and above them what each colour stands for.
pub fn svg(legend: &[(&str, &str)], charts: &[Chart]) -> String {
    let columns = charts.len().clamp(1, COLUMNS);
    let rows = charts.len().div_ceil(columns);
    let (cell_width, cell_height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let names = LEFT + NAME * legend.len() as f64;
    let (width, height) = (names.max(cell_width * columns as f64), cell_height * rows as f64 + LEGEND);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let mut x = LEFT;
    for (name, colour) in legend {
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.0}\" y1=\"16\" x2=\"{:.0}\" y2=\"16\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\
             <text x=\"{:.0}\" y=\"20\">{name}</text>",
            x + 24.0,
            x + 30.0,
        );
        x += NAME;
    }
    for (index, chart) in charts.iter().enumerate() {
        let left = cell_width * (index % columns) as f64 + LEFT;
        let top = cell_height * (index / columns) as f64 + TOP + LEGEND;
        panel(&mut svg, left, top, chart);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, left: f64, top: f64, chart: &Chart) {
    let _infallible = writeln!(
        svg,
        "<text x=\"{left:.0}\" y=\"{:.0}\" font-size=\"13\" font-weight=\"bold\">{}</text>\
         <text x=\"{left:.0}\" y=\"{:.0}\" fill=\"#555555\">{}</text>\
         <text x=\"{:.0}\" y=\"{:.0}\" fill=\"#555555\" text-anchor=\"end\">{}</text>",
        top - 18.0,
        chart.title,
        top - 4.0,
        chart.y.unit,
        left + WIDTH,
        top + HEIGHT + 30.0,
        chart.x.unit,
    );
    for tick in chart.x.ticks() {
        let x = left + WIDTH * chart.x.share(tick);
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            top + HEIGHT,
            top + HEIGHT + 15.0,
            label(tick)
        );
    }
    for tick in chart.y.ticks() {
        let y = top + HEIGHT * (1.0 - chart.y.share(tick));
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
    for line in &chart.lines {
        let every = line.points.len().div_ceil(POINTS_MAX).max(1);
        let last = line.points.last().filter(|_| every > 1);
        let points: String = line
            .points
            .iter()
            .step_by(every)
            .chain(last)
            .map(|(x, y)| (left + WIDTH * chart.x.share(*x), top + HEIGHT * (1.0 - chart.y.share(*y))))
            .map(|(x, y)| format!("{x:.1},{y:.1} "))
            .collect();
        let _infallible = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"/>",
            line.colour,
            points.trim_end()
        );
    }
}

fn label(value: f64) -> String {
    if value == 0.0 || value >= 10.0 || value == 1.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_values_are_where_they_belong() {
        let linear = Axis::linear("s", 43.0);
        assert_eq!((linear.most(), linear.ticks()), (50.0, vec![0.0, 10.0, 20.0, 30.0, 40.0, 50.0]));
        let logarithmic = Axis::logarithmic("ns", 40.0, 3000.0);
        assert_eq!(logarithmic.ticks(), [10.0, 100.0, 1000.0, 10_000.0]);
        assert!((logarithmic.share(1000.0) - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!([logarithmic.share(1.0), logarithmic.share(1e9)], [0.0, 1.0]);
    }

    #[test]
    fn a_picture_has_a_line_for_each_line_and_a_name_for_each_colour() {
        let lines = vec![Line { colour: "#123456", points: (0..1000).map(|n| (f64::from(n), 1.0)).collect() }];
        let chart = Chart { title: "a".to_owned(), x: Axis::linear("s", 1000.0), y: Axis::linear("kB", 2.0), lines };
        let picture = svg(&[("one", "#123456")], &[chart.clone(), chart]);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.contains(">one</text>") && picture.ends_with("</svg>\n"));
    }
}

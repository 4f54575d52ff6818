//! Cost per event against the size of the queue, both by powers of ten, as SVG.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Pixels of the drawing area, and around it.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const RIGHT: f64 = 150.0;
const BOTTOM: f64 = 50.0;
/// Nanoseconds at the bottom and at the top, as powers of ten.
const LOWEST: i32 = 2;
const HIGHEST: i32 = 8;

/// The lines: what criterion calls them, what a reader does, and their colours.
const LINES: [(&str, &str, &str); 4] = [
    ("delivery", "a delivery", "#0b6fc2"),
    ("failure", "a failed host", "#b03a2e"),
    ("page", "1,024 threads listed", "#d9831f"),
    ("rings", "all rings listed", "#888888"),
];

/// Draws what criterion has measured for these sizes.
pub(crate) fn write(path: &Path, sizes: &[u32]) -> io::Result<()> {
    let results = results();
    let x = |size: u32| {
        let (first, last) = (f64::from(sizes[0]).log10(), f64::from(sizes[sizes.len() - 1]).log10());
        LEFT + WIDTH * (f64::from(size).log10() - first) / (last - first)
    };
    let y = |nanoseconds: f64| {
        let share = (nanoseconds.log10() - f64::from(LOWEST)) / f64::from(HIGHEST - LOWEST);
        TOP + HEIGHT * (1.0 - share)
    };
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"13\" font-weight=\"bold\">What an event costs the scheduler</text>\n\
         <text x=\"{LEFT}\" y=\"40\" fill=\"#555555\">ten batches in each thread, 500 agents</text>\n"
    );
    for power in LOWEST..=HIGHEST {
        let at = y(10_f64.powi(power));
        let name = ["100 ns", "1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms"][(power - LOWEST) as usize];
        let _infallible = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            LEFT + WIDTH,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for size in sizes {
        let at = x(*size);
        let _infallible = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{size}</text>",
            TOP + HEIGHT,
            TOP + HEIGHT + 18.0
        );
    }
    let _infallible = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">batches in the queue</text>",
        LEFT + WIDTH / 2.0,
        TOP + HEIGHT + 38.0
    );
    for (name, words, colour) in LINES {
        let points = sizes.iter().map(|size| Ok((x(*size), y(mean(&results, name, *size)?))));
        let points: Vec<(f64, f64)> = points.collect::<io::Result<_>>()?;
        let line: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        let end = points.last().copied().unwrap_or_default();
        let _infallible = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{words}</text>",
            line.trim_end(),
            end.0 + 8.0,
            end.1 + 4.0
        );
    }
    svg.push_str("</svg>\n");
    std::fs::write(path, svg)
}

/// Where criterion keeps its results.
fn results() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("CRITERION_HOME")
        .or_else(|| Some(variable("CARGO_TARGET_DIR")?.join("criterion")))
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/criterion"))
}

/// The mean of a measurement, nanoseconds.
fn mean(results: &Path, name: &str, size: u32) -> io::Result<f64> {
    let path = results.join("scheduler").join(name).join(size.to_string()).join("new/estimates.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| io::Error::other(format!("{}: {error}; run the whole benchmark", path.display())))?;
    let estimates: serde_json::Value = serde_json::from_str(&text).map_err(io::Error::other)?;
    estimates["mean"]["point_estimate"].as_f64().ok_or_else(|| io::Error::other("criterion writes something else now"))
}

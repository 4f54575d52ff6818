//! What the tools write on standard output.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, Table, presets};
use ratatui::crossterm::terminal;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
use zrelay_clock::Span;

/// Columns of a terminal below which words are not cut any more.
const WORDS_MIN: usize = 8;
/// Blanks between two columns.
const GAP: usize = 2;

/// A column of a table.
#[derive(Clone)]
pub(crate) struct Column {
    title: Cow<'static, str>,
    align: CellAlignment,
}

/// A column of words.
pub(crate) const fn words(title: &'static str) -> Column {
    Column { title: Cow::Borrowed(title), align: CellAlignment::Left }
}

/// A column of numbers.
pub(crate) const fn numbers(title: &'static str) -> Column {
    Column { title: Cow::Borrowed(title), align: CellAlignment::Right }
}

/// A column of words whose title is not known beforehand.
pub(crate) fn words_named(title: String) -> Column {
    Column { title: Cow::Owned(title), align: CellAlignment::Left }
}

/// A column of numbers whose title is not known beforehand.
pub(crate) fn numbers_named(title: String) -> Column {
    Column { title: Cow::Owned(title), align: CellAlignment::Right }
}

/// What a row says at a glance; shown as its colour on a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tone {
    #[default]
    Plain,
    /// At work.
    Good,
    /// Waits.
    Warning,
    /// Failed.
    Bad,
    /// Held by an operator.
    Held,
    /// Nothing to do.
    Dim,
}

impl Tone {
    /// Of the state of a thread, batch or recipient.
    pub(crate) fn of_state(state: &str) -> Self {
        match state {
            "running" | "carried" => Self::Good,
            "retry" | "paused" | "draining" => Self::Bad,
            "held" => Self::Held,
            "idle" | "finished" => Self::Dim,
            "waiting" | "sweeping" => Self::Warning,
            state if state.starts_with("limit:") => Self::Warning,
            _ => Self::Plain,
        }
    }

    /// Of what became of a recipient.
    pub(crate) fn of_outcome(outcome: &str) -> Self {
        match outcome {
            "delivered" => Self::Good,
            "deferred" | "delayed" => Self::Warning,
            _ => Self::Bad,
        }
    }

    /// Of a reply's first digit.
    pub(crate) fn of_reply(text: &str) -> Self {
        match text.as_bytes().first() {
            Some(b'2' | b'3') => Self::Good,
            Some(b'4') => Self::Warning,
            _ => Self::Bad,
        }
    }

    /// ECMA-48 "select graphic rendition".
    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warning => Some("33"),
            Self::Bad => Some("31"),
            Self::Held => Some("35"),
            Self::Dim => Some("2"),
        }
    }
}

/// A row of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) tone: Tone,
    pub(crate) cells: Vec<String>,
}

impl From<Vec<String>> for Row {
    fn from(cells: Vec<String>) -> Self {
        Self { tone: Tone::Plain, cells }
    }
}

/// What standard output can show.
#[derive(Clone, Copy, Debug)]
struct Paper {
    /// Columns, when it is a terminal.
    width: Option<usize>,
    colours: bool,
}

impl Paper {
    fn stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self { width: None, colours: false };
        }
        // https://no-color.org
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let width = terminal::size().ok().map(|(columns, _)| usize::from(columns)).filter(|columns| *columns > 0);
        Self { width, colours: !plain && !dumb }
    }
}

/// The text without what could move a terminal's cursor or turn its text around: remote hosts choose their replies, and
/// clients their addresses.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(harmful) { Cow::Owned(text.replace(harmful, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// Writes aligned rows below their titles to standard output, without borders, so that `awk` and eyes can read them
/// alike. On a terminal words are cut until a row fits into a line, and states have their colours.
pub(crate) fn table(columns: &[Column], rows: Vec<Row>) {
    line(laid_out(columns, rows, Paper::stdout()));
}

fn laid_out(columns: &[Column], mut rows: Vec<Row>, paper: Paper) -> String {
    for cell in rows.iter_mut().flat_map(|row| &mut row.cells) {
        if let Cow::Owned(cleaned) = clean(cell) {
            *cell = cleaned;
        }
    }
    if let Some(width) = paper.width {
        fit(columns, &mut rows, width);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|column| column.title.as_ref()));
    let mut tones = Vec::with_capacity(rows.len());
    for row in rows {
        tones.push(row.tone);
        table.add_row(row.cells);
    }
    for (index, column) in columns.iter().enumerate() {
        if let Some(shown) = table.column_mut(index) {
            shown.set_cell_alignment(column.align);
            shown.set_padding((0, u16::try_from(GAP).unwrap_or(0)));
        }
    }
    let text = table.trim_fmt();
    if !paper.colours {
        return text;
    }
    let mut lines = text.lines();
    let title = lines.next().map(|title| format!("\x1b[1m{title}\x1b[0m"));
    let rows = lines.zip(tones).map(|(line, tone)| match tone.sgr() {
        Some(code) => format!("\x1b[{code}m{line}\x1b[0m"),
        None => line.to_owned(),
    });
    title.into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

/// Cuts the widest columns of words until a row fits into `width`, or none of them is wider than [`WORDS_MIN`].
fn fit(columns: &[Column], rows: &mut [Row], width: usize) {
    let widest = |index: usize, title: &str| {
        let cells = rows.iter().filter_map(|row| row.cells.get(index)).map(|cell| cell.width());
        cells.chain([title.width()]).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> =
        columns.iter().enumerate().map(|(index, column)| widest(index, &column.title)).collect();
    loop {
        let total = widths.iter().sum::<usize>() + GAP * columns.len().saturating_sub(1);
        let words = |index: &usize| columns.get(*index).is_some_and(|column| column.align == CellAlignment::Left);
        let Some(widest) = (0..widths.len()).filter(words).max_by_key(|index| widths.get(*index).copied()) else {
            break;
        };
        let Some(slot) = widths.get_mut(widest).filter(|slot| total > width && **slot > WORDS_MIN) else { break };
        *slot -= 1;
    }
    for row in rows {
        for (cell, width) in row.cells.iter_mut().zip(&widths) {
            if cell.width() > *width {
                *cell = cut(cell, *width);
            }
        }
    }
}

/// The beginning of a text, in so many columns, with a mark that there is more.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut taken = 0;
    let fits = |c: &char| {
        taken += c.width().unwrap_or(0);
        taken < width
    };
    text.chars().take_while(fits).chain(['\u{2026}']).collect()
}

/// Writes a line to standard output. A reader that has gone away (`| head`) is no error.
pub(crate) fn line(text: impl std::fmt::Display) {
    // Nobody is left to tell: standard output is where errors of standard output would be read.
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a line in a colour, where there are colours.
pub(crate) fn toned(tone: Tone, text: impl std::fmt::Display) {
    match tone.sgr().filter(|_| Paper::stdout().colours) {
        Some(code) => line(format_args!("\x1b[{code}m{text}\x1b[0m")),
        None => line(text),
    }
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), crate::Failure> {
    let text = serde_json::to_string_pretty(value).map_err(crate::Failure::new)?;
    line(text);
    Ok(())
}

/// A number of seconds as `1h30m`, in at most two units.
pub(crate) fn seconds(count: f64) -> String {
    let mut whole = count.max(0.0) as u64;
    // Two units are enough to judge an age by.
    for unit in [86_400, 3_600, 60] {
        if whole >= unit {
            let smaller = match unit {
                86_400 => 3_600,
                3_600 => 60,
                _ => 1,
            };
            whole -= whole % smaller;
            break;
        }
    }
    Span(std::time::Duration::from_secs(whole)).to_string()
}

/// A number of octets as `4.0K`, `12M`.
pub(crate) fn octets(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["", "K", "M", "G", "T"] {
        if value < 1024.0 || unit == "T" {
            return if unit.is_empty() || value >= 10.0 {
                format!("{value:.0}{unit}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1024.0;
    }
    count.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paper = Paper { width: None, colours: false };

    fn rows(rows: &[&[&str]]) -> Vec<Row> {
        rows.iter().map(|row| Row::from(row.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>())).collect()
    }

    #[test]
    fn a_table_lines_its_columns_up() {
        let text = laid_out(&[words("thread"), numbers("n")], rows(&[&["a", "1"], &["smtp/b", "10"]]), PLAIN);
        assert_eq!(text, "thread   n\na        1\nsmtp/b  10");
    }

    #[test]
    fn words_are_cut_until_a_row_fits_into_the_line() {
        let long = rows(&[&["smtp/a.example", "10", "host mx.a.example said: 450 4.2.1 slow down"]]);
        let columns = [words("thread"), numbers("n"), words("reply")];
        let narrow = Paper { width: Some(40), colours: false };
        let text = laid_out(&columns, long.clone(), narrow);
        assert_eq!(text.lines().last(), Some("smtp/a.example  10  host mx.a.example s\u{2026}"));
        assert!(text.lines().all(|line| line.width() <= 40), "{text}");
        // What cannot be cut any further stays readable.
        let tiny = laid_out(&columns, long, Paper { width: Some(5), colours: false });
        assert!(tiny.contains("smtp/a."), "{tiny}");
    }

    #[test]
    fn colours_and_control_characters_do_not_mix() {
        let evil = Row { tone: Tone::Bad, cells: vec!["550 \x1b[2J\u{9b}2J\u{202e}x\r\n.".to_owned()] };
        let text = laid_out(&[words("reply")], vec![evil.clone()], PLAIN);
        assert_eq!(text, "reply\n550 \u{fffd}[2J\u{fffd}2J\u{fffd}x\u{fffd}\u{fffd}.");
        let text = laid_out(&[words("reply")], vec![evil], Paper { width: None, colours: true });
        assert_eq!(text.matches('\x1b').count(), 4);
        assert!(text.lines().last().is_some_and(|line| line.starts_with("\x1b[31m") && line.ends_with("\x1b[0m")));
    }

    #[test]
    fn ages_and_sizes_read_at_a_glance() {
        assert_eq!(seconds(0.4), "0s");
        assert_eq!(seconds(3_725.0), "1h2m");
        assert_eq!(seconds(200_000.0), "2d7h");
        assert_eq!(octets(100), "100");
        assert_eq!(octets(4_200), "4.1K");
        assert_eq!(octets(104_857_600), "100M");
    }
}

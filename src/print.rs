//! What the tools write on standard output.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use zrelay_clock::Span;

/// A column of a table.
pub(crate) struct Column {
    title: &'static str,
    align: CellAlignment,
}

/// A column of words.
pub(crate) const fn words(title: &'static str) -> Column {
    Column { title, align: CellAlignment::Left }
}

/// A column of numbers.
pub(crate) const fn numbers(title: &'static str) -> Column {
    Column { title, align: CellAlignment::Right }
}

/// Aligned rows below their titles, without borders, so that `awk` and eyes can read them alike.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|column| column.title).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in columns.iter().enumerate() {
        if let Some(shown) = table.column_mut(index) {
            shown.set_cell_alignment(column.align);
            shown.set_padding((0, 2));
        }
    }
    table.trim_fmt()
}

/// Writes a line to standard output. A reader that has gone away (`| head`) is no error.
pub(crate) fn line(text: impl std::fmt::Display) {
    // Nobody is left to tell: standard output is where errors of standard output would be read.
    let _ = writeln!(io::stdout().lock(), "{text}");
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

    #[test]
    fn a_table_lines_its_columns_up() {
        let text =
            table(&[words("thread"), numbers("n")], [vec!["a".into(), "1".into()], vec!["smtp/b".into(), "10".into()]]);
        assert_eq!(text, "thread   n\na        1\nsmtp/b  10");
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

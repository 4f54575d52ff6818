//! Rows by the names of their JSON fields: for sorting and for columns that the user chooses.

use serde_json::Value;

use crate::Failure;
use crate::print::{Column, Row, Tone, numbers_named, words_named};

fn unknown(field: &str, row: &Value) -> Failure {
    let known: Vec<&str> = row.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    Failure::new(format_args!("there is no field \"{field}\" here; there are {}", known.join(", ")))
}

/// Sorts by a field: numbers with the largest first, words in their order, nothing last.
pub(super) fn sort(rows: &mut [Value], field: Option<&str>) -> Result<(), Failure> {
    let Some(field) = field else { return Ok(()) };
    if let Some(row) = rows.first().filter(|row| row.get(field).is_none()) {
        return Err(unknown(field, row));
    }
    rows.sort_by(|one, other| match (&one[field], &other[field]) {
        (Value::Number(one), Value::Number(other)) => {
            other.as_f64().unwrap_or_default().total_cmp(&one.as_f64().unwrap_or_default())
        }
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (one, other) => one.is_null().cmp(&other.is_null()),
    });
    Ok(())
}

/// The fields that are asked for, as a table.
pub(super) fn chosen(rows: &Value, fields: &[String]) -> Result<(Vec<Column>, Vec<Row>), Failure> {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let first = rows.first().unwrap_or(&Value::Null);
        if first.get(field).is_none() {
            return Err(unknown(field, first));
        }
        let is_number = rows.iter().all(|row| row[field].is_number() || row[field].is_null());
        columns.push(if is_number { numbers_named(field.clone()) } else { words_named(field.clone()) });
    }
    let row = |row: &Value| Row {
        tone: row["state"].as_str().map_or(Tone::Plain, Tone::of_state),
        cells: fields.iter().map(|field| cell(&row[field])).collect(),
    };
    Ok((columns, rows.iter().map(row).collect()))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Number(number) if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_sorted_by_a_field_and_unknown_fields_are_named_with_the_known_ones() {
        let mut rows = vec![json!({"a": 1, "b": "x"}), json!({"a": 3, "b": null}), json!({"a": 2, "b": "c"})];
        sort(&mut rows, Some("a")).unwrap();
        assert_eq!(rows.iter().map(|row| row["a"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 2, 1]);
        sort(&mut rows, Some("b")).unwrap();
        assert_eq!(rows.iter().map(|row| row["a"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 1, 3]);
        let error = sort(&mut rows, Some("z")).unwrap_err().to_string();
        assert!(error.contains("\"z\"") && error.contains("a, b"), "{error}");
        let (columns, cells) = chosen(&Value::Array(rows), &["b".to_owned(), "a".to_owned()]).unwrap();
        assert_eq!((columns.len(), &cells[2].cells), (2, &vec!["-".to_owned(), "3".to_owned()]));
    }
}

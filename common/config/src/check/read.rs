//! The text taken apart table by table: a mistake in one table does not hide those in the others.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::error::Finding;
use crate::raw::{self, Key};

/// The file's tables. `None` when the text is not TOML: then nothing in it can be trusted.
pub(super) fn file(text: &str, findings: &mut Vec<Finding>) -> Option<raw::File> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        findings.extend(errors.iter().map(Finding::from_toml));
        return None;
    }
    let mut file = raw::File::default();
    for (key, value) in table.into_inner() {
        match key.get_ref().as_ref() {
            "hostname" => file.hostname = one(value, findings),
            "spool" => file.spool = one(value, findings),
            "control" => file.control = one(value, findings),
            "postmaster" => file.postmaster = one(value, findings),
            "drain" => file.drain = one(value, findings),
            "bounce_gather" => file.bounce_gather = one(value, findings),
            "segment_size" => file.segment_size = one(value, findings),
            "compaction_rate" => file.compaction_rate = one(value, findings),
            "checkpoint_interval" => file.checkpoint_interval = one(value, findings),
            "agents" => file.agents = one(value, findings),
            "listen" => file.listen = many(value, findings, "listen"),
            "tls" => file.tls = one(value, findings),
            "intake" => file.intake = table_or_default(value, findings),
            "queue" => file.queue = table_or_default(value, findings),
            "route" => file.route = many(value, findings, "route"),
            "thread" => file.thread = many(value, findings, "thread"),
            "access" => file.access = table_or_default(value, findings),
            "source" => file.source = many(value, findings, "source"),
            "dns" => file.dns = table_or_default(value, findings),
            "loops" => file.loops = table_or_default(value, findings),
            unknown => findings.push(unknown_key(unknown, key.span())),
        }
    }
    Some(file)
}

fn one<T: DeserializeOwned>(value: Spanned<DeValue<'_>>, findings: &mut Vec<Finding>) -> Key<T> {
    let span = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(good) => Some(Spanned::new(span, good)),
        Err(error) => {
            let mut finding = Finding::from_toml(&error);
            if error.span().is_none() {
                finding.span = span;
            }
            findings.push(finding);
            None
        }
    }
}

fn table_or_default<T: DeserializeOwned + Default>(value: Spanned<DeValue<'_>>, findings: &mut Vec<Finding>) -> T {
    one(value, findings).map_or_else(T::default, Spanned::into_inner)
}

fn many<T: DeserializeOwned>(value: Spanned<DeValue<'_>>, findings: &mut Vec<Finding>, name: &str) -> Vec<Spanned<T>> {
    let span = value.span();
    let DeValue::Array(tables) = value.into_inner() else {
        findings.push(
            Finding::new(span, format!("{name} is not a list of tables"))
                .help(format!("expected [[{name}]] with two brackets, once for each")),
        );
        return Vec::new();
    };
    tables.into_iter().filter_map(|table| one(table, findings)).collect()
}

fn unknown_key(key: &str, span: std::ops::Range<usize>) -> Finding {
    let finding = Finding::new(span, format!("unknown key `{key}`"));
    // `[[listens]]`, `[listener]`: near enough to be meant.
    let near = raw::TOP.iter().find(|known| known.starts_with(key) || key.starts_with(*known));
    match near {
        Some(near) => finding.help(format!("expected `{near}`?")),
        None => finding.help(format!("expected one of {}", raw::TOP.join(", "))),
    }
}

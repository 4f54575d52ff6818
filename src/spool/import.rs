//! `zrelay spool import`: exported messages back into a spool.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use zrelay_clock::Clock;
use zrelay_spool::{Importer, MessageId};

use super::directory;
use super::envelope::{Exported, State, VERSION};
use crate::cli::{HubOptions, ImportArgs};
use crate::{Done, Failure, print};

/// Messages that share one `fdatasync`.
const GROUP_MESSAGES_MAX: usize = 64;
/// Octets that share one `fdatasync`.
const GROUP_OCTETS_MAX: usize = 16 << 20;

#[derive(Default)]
struct Tally {
    imported: u64,
    failed: u64,
    reports_left_out: u64,
    /// Written, not yet durable.
    group: Vec<(MessageId, PathBuf)>,
    group_octets: usize,
}

pub(super) fn import(hub: &HubOptions, args: &ImportArgs) -> Result<Done, Failure> {
    let envelopes = envelopes(&args.from)?;
    let directory = directory(hub, &args.spool)?;
    let mut importer = Importer::open(&directory, Clock::start().now()).map_err(Failure::new)?;
    let mut tally = Tally::default();
    for path in envelopes {
        match read(&path) {
            Ok((mut exported, trace, content)) => {
                if args.route || !exported.has_progress() {
                    tally.reports_left_out += exported.count(State::Owed) as u64;
                    exported.forget_progress();
                }
                tally.add(&mut importer, exported, trace, &content, path);
            }
            Err(sentence) => {
                eprintln!("zrelay: {}: {sentence}", path.display());
                tally.failed += 1;
            }
        }
    }
    tally.commit(&mut importer);
    let Tally { imported, failed, reports_left_out, .. } = tally;
    if reports_left_out > 0 {
        eprintln!("zrelay: {reports_left_out} failed recipient(s) whose senders were not told yet were left out");
    }
    if args.spool.output.json {
        print::json(&json!({ "imported": imported, "failed": failed, "reports_left_out": reports_left_out }))?;
    } else {
        print::line(format_args!("{imported} message(s) put into {}", directory.display()));
    }
    Ok(if failed == 0 && imported > 0 { Done::Well } else { Done::Nothing })
}

impl Tally {
    fn add(&mut self, importer: &mut Importer, mut exported: Exported, trace: Vec<u8>, content: &[u8], path: PathBuf) {
        // Nothing was left to do: it counts as imported, and is not looked at again.
        if exported.is_done() {
            self.done(&path);
            return;
        }
        let progress = exported.take_progress();
        self.group.push((importer.add_at(exported.envelope(trace), content, progress), path));
        self.group_octets += content.len();
        if self.group.len() >= GROUP_MESSAGES_MAX || self.group_octets >= GROUP_OCTETS_MAX {
            self.commit(importer);
        }
    }

    fn commit(&mut self, importer: &mut Importer) {
        let results = importer.commit();
        self.group_octets = 0;
        for (id, path) in std::mem::take(&mut self.group) {
            match results.iter().find(|(message, _)| *message == id) {
                Some((_, Ok(()))) => self.done(&path),
                Some((_, Err(refused))) => {
                    eprintln!("zrelay: {}: {refused}", path.display());
                    self.failed += 1;
                }
                None => self.failed += 1,
            }
        }
    }

    fn done(&mut self, path: &Path) {
        self.imported += 1;
        let mut renamed = path.as_os_str().to_owned();
        renamed.push(".imported");
        if let Err(error) = fs::rename(path, renamed) {
            eprintln!(
                "zrelay: {} was imported, but cannot be renamed: {error}; importing it again duplicates it",
                path.display()
            );
        }
    }
}

/// The envelopes in `from`, in the order in which the messages came.
fn envelopes(from: &Path) -> Result<Vec<PathBuf>, Failure> {
    let refused = |error| Failure::new(format_args!("cannot read {}: {error}", from.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(from).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<MessageId>().ok());
        if let Some(id) = stem.filter(|_| path.extension().is_some_and(|extension| extension == "json")) {
            paths.push((id, path));
        }
    }
    paths.sort_unstable();
    Ok(paths.into_iter().map(|(_, path)| path).collect())
}

/// An envelope with its trace header and content; else a sentence for the operator.
fn read(path: &Path) -> Result<(Exported, Vec<u8>, Vec<u8>), String> {
    let sentence = |error: &dyn std::fmt::Display| error.to_string();
    let text = fs::read(path).map_err(|error| sentence(&error))?;
    let exported: Exported = serde_json::from_slice(&text).map_err(|error| sentence(&error))?;
    if !(1..=VERSION).contains(&exported.version) {
        return Err(format!("it has format {}, this zrelay reads 1 to {VERSION}", exported.version));
    }
    exported.validate()?;
    let content_path = path.with_extension("eml");
    let mut trace = fs::read(&content_path).map_err(|error| format!("{}: {error}", content_path.display()))?;
    // A file that was edited is fine as long as the header is where it was; what was cut short is not.
    let at = usize::try_from(exported.trace_octets).ok().filter(|at| *at <= trace.len());
    let at = at.ok_or_else(|| format!("{} is shorter than its trace header", content_path.display()))?;
    if trace.len() as u64 != exported.octets {
        return Err(format!(
            "{} has {} octets instead of {}; set `octets` if that is intended",
            content_path.display(),
            trace.len(),
            exported.octets
        ));
    }
    let content = trace.split_off(at);
    Ok((exported, trace, content))
}

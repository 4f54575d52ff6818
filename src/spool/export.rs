//! `zrelay spool export`: messages as files.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde_json::json;
use zrelay_spool::{MessageId, Offline, Progress, Stored};

use super::envelope::Exported;
use super::{message_id, open};
use crate::cli::{ExportArgs, HubOptions};
use crate::{Done, Failure, print};

pub(super) fn export(hub: &HubOptions, args: &ExportArgs) -> Result<Done, Failure> {
    let offline = open(hub, &args.spool)?;
    if offline.holder().is_some() {
        eprintln!("zrelay: a hub runs on this spool and goes on delivering what is exported here");
    }
    let ids = match &args.messages[..] {
        [] => offline.messages(),
        named => named.iter().map(|id| message_id(id)).collect::<Result<_, _>>()?,
    };
    let refused = |error: io::Error| Failure::new(format_args!("cannot write to {}: {error}", args.to.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&args.to).map_err(refused)?;
    let progress = offline.progress();
    let (mut exported, mut failed) = (0_u64, 0_u64);
    for id in ids {
        match offline.reader().message(id) {
            Ok(stored) => {
                if let Err(error) = offline.reader().intact(id) {
                    eprintln!("zrelay: {error}; what is left of it is in {id}.eml");
                    failed += 1;
                }
                write(&offline, &args.to, id, &stored, progress.get(&id)).map_err(refused)?;
                exported += 1;
            }
            Err(error) => {
                eprintln!("zrelay: {error}");
                failed += 1;
            }
        }
    }
    File::open(&args.to).and_then(|directory| directory.sync_all()).map_err(refused)?;
    if args.spool.output.json {
        print::json(&json!({ "exported": exported, "failed": failed }))?;
    } else {
        print::line(format_args!("{exported} message(s) written to {}", args.to.display()));
    }
    Ok(if failed == 0 { Done::Well } else { Done::Nothing })
}

/// Both files, durable; the envelope last, so that whoever sees it finds the content whole.
fn write(offline: &Offline, to: &Path, id: MessageId, stored: &Stored, progress: Option<&Progress>) -> io::Result<()> {
    let mut content = BufWriter::new(File::create(to.join(format!("{id}.eml")))?);
    stored.slices(0).try_for_each(|slice| content.write_all(slice))?;
    content.into_inner()?.sync_all()?;
    let partial = to.join(format!("{id}.json.partial"));
    let mut envelope = BufWriter::new(File::create(&partial)?);
    serde_json::to_writer_pretty(&mut envelope, &Exported::of(offline, id, stored, progress))?;
    envelope.write_all(b"\n")?;
    envelope.into_inner()?.sync_all()?;
    fs::rename(partial, to.join(format!("{id}.json")))
}

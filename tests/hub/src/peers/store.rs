//! What servers hand to a program is kept in files: sender, recipient, message.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Delivered, give};
use crate::Marked;

/// Writes the program `store SENDER RECIPIENT`, which takes a message on its standard input, and the directory it
/// keeps them in.
pub(super) fn write(directory: &Path) {
    let (mail, program) = (directory.join("mail"), directory.join("store"));
    fs::create_dir(&mail).expect("our own directory");
    give(&mail, "vmail");
    let mail = mail.display();
    // The numbers of processes come again.
    let script = format!(
        "#!/bin/sh
set -e
file=$(mktemp '{mail}/XXXXXXXXXX')
{{ printf '%s\\n%s\\n' \"$1\" \"$2\"; cat; }} >\"$file\"
mv \"$file\" \"$file.mail\"
"
    );
    fs::write(&program, script).expect("our own directory");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// What is kept so far.
pub(super) fn read(directory: &Path) -> Vec<Delivered> {
    let Ok(entries) = fs::read_dir(directory.join("mail")) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let kept = paths.filter(|path| path.extension().is_some_and(|extension| extension == "mail"));
    kept.filter_map(|path| parse(fs::read(path).ok()?)).collect()
}

fn parse(file: Vec<u8>) -> Option<Delivered> {
    let mut parts = file.splitn(3, |&octet| octet == b'\n');
    let mut line = || Some(String::from_utf8_lossy(parts.next()?).trim_matches(['<', '>']).to_owned());
    let (sender, recipient) = (line()?, line()?);
    let content = parts.next()?.to_vec();
    Some(Delivered { sender, recipient, marked: Marked::find_in_file(&content), content })
}

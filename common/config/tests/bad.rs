//! Every file `tests/bad/NAME.toml` must be refused with the message in `tests/bad/NAME.expected`, to the letter.
//!
//! After a deliberate change of a message: `ZRELAY_BLESS=1 cargo test -p zrelay-config --test bad`, and read the diff.

use std::path::{Path, PathBuf};

use zrelay_config::Config;

fn bad_files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

#[test]
fn every_bad_configuration_is_refused_with_its_own_message() {
    let files = bad_files();
    assert!(files.len() >= 15, "only {} files", files.len());
    let mut wrong = String::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let message = match Config::parse(name, &std::fs::read_to_string(&file).unwrap()) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => format!("{error}\n"),
        };
        let expected = file.with_extension("expected");
        if std::env::var_os("ZRELAY_BLESS").is_some() {
            std::fs::write(&expected, &message).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        if message != expected {
            wrong += &format!("== {name}: got\n{message}\nexpected\n{expected}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

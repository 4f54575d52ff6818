//! What a benchmark beside a real server begins with.

use std::process::ExitCode;

use crate::peers::{self, Peers};

/// The options that `parse` made of the command line, and the servers to compare with. `parse` makes `None` of `--help`.
///
/// # Errors
/// The process ends here, with this exit status, and has said why.
pub fn prepare<O>(name: &str, usage: &str, parsed: Result<Option<O>, String>) -> Result<(O, Peers), ExitCode> {
    let options = match parsed {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{usage}");
            return Err(ExitCode::SUCCESS);
        }
        Err(problem) => {
            eprintln!("{name}: {problem}\n\n{usage}");
            return Err(ExitCode::from(2));
        }
    };
    let peers = Peers::find_as_root().ok_or_else(|| {
        eprintln!("{name}: {}", peers::MISSING);
        ExitCode::FAILURE
    })?;
    Ok((options, peers))
}

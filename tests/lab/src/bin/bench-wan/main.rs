//! Recipients a second over a long line, beside Postfix and beside what the line can do. See `--help`.

mod contenders;
mod goals;
mod inject;
mod options;
mod outcome;
mod plot;
mod real;
mod repeat;
mod report;
mod works;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use zrelay_tests::peers::{self, Peers};

use contenders::{Bench, Contender, Failure};
use options::Options;
use outcome::Outcome;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("bench-wan: {problem}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends the process at once; the kernel cleans up then, apart from files in the temporary
        // directory.
        let registered = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        if let Err(error) = registered {
            eprintln!("bench-wan: cannot handle signals: {error}");
            return ExitCode::FAILURE;
        }
    }
    match measure(&options, &stop) {
        Ok((outcomes, rows)) => finish(&options, &outcomes, &rows),
        Err(failure) => {
            eprintln!("bench-wan: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options, stop: &AtomicBool) -> Result<(Vec<Outcome>, Vec<real::Row>), Failure> {
    let peers = if options.postfix {
        Some(Peers::find_as_root().ok_or_else(|| Failure::Other(format!("Postfix: {}", peers::MISSING)))?)
    } else {
        None
    };
    let bench = Bench { options, peers: peers.as_ref(), stop };
    let mut outcomes: Vec<Outcome> = Vec::new();
    for work in works::all(options) {
        let contenders =
            Contender::ALL.into_iter().filter(|it| work.takes(*it) && (options.postfix || !it.is_postfix()));
        let mut octets = 0;
        for contender in contenders {
            eprintln!("{}: {} ...", work.title(contender), contender.name());
            let outcome = repeat::run(bench, contender, &work, octets)?;
            if contender == Contender::Zrelay {
                octets = outcome.octets_all;
            }
            outcomes.push(outcome);
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
        }
    }
    let rows = match &peers {
        Some(peers) => real::all(options, peers, stop)?,
        None => Vec::new(),
    };
    Ok((outcomes, rows))
}

fn finish(options: &Options, outcomes: &[Outcome], rows: &[real::Row]) -> ExitCode {
    print!("{}{}", report::table(options, outcomes), real::table(rows));
    let mut files = Vec::new();
    if let Some(path) = &options.json {
        files.push((path, format!("{:#}\n", report::json(options, outcomes, rows))));
    }
    if let Some(path) = &options.svg {
        files.push((path, plot::svg(outcomes)));
    }
    for (path, text) in files {
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("bench-wan: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if outcomes.iter().any(|outcome| !outcome.is_exact()) || rows.iter().any(|row| !row.is_exact()) {
        eprintln!("bench-wan: the books do not balance, see the table");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

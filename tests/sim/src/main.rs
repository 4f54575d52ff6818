//! One simulation from its seed, told step by step.

use std::process::ExitCode;
use std::time::Instant;

use zrelay_sim::{Ended, History};

/// Sites of which the pace is printed.
const SITES_SHOWN: usize = 20;

/// A day of a busy hub makes and frees many millions of small pieces between large ones.
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
usage: tests/sim-replay [OPTION...] SEED

Runs the simulation of the whole hub from SEED and prints its history: every message, order, report and fault, with the
virtual time in seconds; then what became of the mail and the pace of its largest sites, or what went wrong. The same seed
gives the same history.

  --quiet            prints no history
  --brief            prints nothing at all of a world that is as it must be
  --day              a day of a busy hub instead of a small world
  --recipients N     recipients of the day     [default: 1000000]
  --domains N        domains, and so threads   [default: 10000]
  --seeds N          so many seeds from SEED on";

fn main() -> ExitCode {
    let (mut history, mut brief) = (History::Printed, false);
    let (mut seed, mut is_day, mut recipients, mut domains, mut seeds) = (None, false, 1_000_000, 10_000, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse::<u32>().ok());
        let understood = match argument.as_str() {
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            "--quiet" => {
                history = History::Silent;
                true
            }
            "--brief" => {
                brief = true;
                true
            }
            "--day" => {
                is_day = true;
                true
            }
            "--recipients" => number().map(|value| recipients = value).is_some(),
            "--domains" => number().filter(|value| *value >= 100).map(|value| domains = value).is_some(),
            "--seeds" => number().map(|value| seeds = value).is_some(),
            text => text.parse::<u64>().map(|value| seed = Some(value)).is_ok(),
        };
        if !understood {
            eprintln!("sim-replay: cannot understand {argument}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    let Some(first) = seed else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let begin = Instant::now();
    for seed in first..first.saturating_add(seeds.into()) {
        let falling = Falling(seed);
        let ended = match is_day {
            true => zrelay_sim::day(seed, recipients, domains, history),
            false => zrelay_sim::small(seed, history),
        };
        drop(falling);
        if !brief {
            report(&ended);
        }
    }
    println!("{seeds} seed(s) from {first} on, {:.1} s", begin.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

/// What a world came to, and the pace of its largest sites.
fn report(ended: &Ended) {
    let Ended { events, crashes, seen, time, figures, sites } = ended;
    println!("{events} events in {:.0} s, {crashes} crashes\n{seen:?}\n{figures:#?}\n", time.as_secs_f64());
    println!(
        "{:<18} {:<20} {:>10} {:>12} {:>11} {:>5} {:>10} {:>12}",
        "site", "temper", "recipients", "transactions", "connections", "most", "busy, s", "recipients/s"
    );
    sites.iter().take(SITES_SHOWN).for_each(|site| println!("{site}"));
    if sites.len() > SITES_SHOWN {
        println!("and {} smaller ones", sites.len() - SITES_SHOWN);
    }
}

/// Says which world it was that fell.
struct Falling(u64);

impl Drop for Falling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world of seed {} has failed", self.0);
        }
    }
}

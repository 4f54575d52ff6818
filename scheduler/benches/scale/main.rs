//! What an event costs the scheduler, against the number of batches and threads that it has. See `--help`.

mod plot;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use criterion::Criterion;
use serde_json::{Value, json};
use world::World;
use zrelay_scheduler::PAGE_MAX;

const USAGE: &str = "\
usage: tests/bench-scale [OPTION...]

What an event costs the scheduler, against the length of its queue: a tenth as many threads as batches, each host a site of
its own, half of the batches due and in line for 64 agents, the others waiting for their time. Time is virtual, agents say
yes at once, nothing is written. Measured with criterion; prints a table of nanoseconds per event, and JSON as the last line.

  arrival     a batch comes for any of the threads
  delivery    an agent reports a delivery, is given the next batch or gives its place to the thread that is next in line
  wake-up     a batch's time has come
  snapshot    `threads` and `rings`, page by page, for each thread; and the longest page in microseconds

  --batches N,...     lengths of the queue                        [default: 1000,10000,100000,1000000]
  --seconds N         time for each figure                        [default: 3]
  --svg FILE          a plot of cost against length
  --json FILE         the JSON

The figure in the README, with the queue of a million batches in 100,000 threads (one GB of memory, two minutes):
  tests/bench-scale --svg scheduler/benches/scale.svg --json scheduler/benches/scale.json";

/// Events between two looks at the clock.
const CHUNK: u64 = 64;
/// Batches of a thread.
const PER_THREAD: u64 = 10;

struct Options {
    batches: Vec<u64>,
    seconds: u64,
    svg: Option<PathBuf>,
    json: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { batches: vec![1_000, 10_000, 100_000, 1_000_000], seconds: 3, svg: None, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--bench" {
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{argument} wants a value"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{argument} wants numbers"));
        match argument.as_str() {
            "--batches" => options.batches = value.split(',').map(number).collect::<Result<_, _>>()?,
            "--seconds" => options.seconds = number(&value)?.max(1),
            "--svg" => options.svg = Some(PathBuf::from(value)),
            "--json" => options.json = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown option {argument}")),
        }
    }
    if options.batches.iter().any(|batches| *batches < 1000) {
        return Err("a queue of less than 1000 batches does not keep the agents busy".to_owned());
    }
    Ok(options)
}

/// Nanoseconds by event and length of the queue, and the longest page.
type Costs = BTreeMap<&'static str, BTreeMap<u64, f64>>;

const EVENTS: [&str; 5] = ["arrival", "delivery", "wake-up", "snapshot, threads", "snapshot, rings"];
const LONGEST: &str = "longest page";

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    // Runners of tests look for some.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("bench-scale: {error}\n\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    let scratch = std::env::temp_dir().join(format!("zrelay-bench-scale-{}", std::process::id()));
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(options.seconds))
        .output_directory(&scratch);
    let mut costs = Costs::new();
    for batches in &options.batches {
        measure(&mut criterion, *batches, &mut costs);
    }
    for (event, name) in
        EVENTS.into_iter().zip(["arrival", "delivery", "wake-up", "snapshot_threads", "snapshot_rings"])
    {
        for batches in &options.batches {
            let path = scratch.join(name).join(batches.to_string()).join("new/estimates.json");
            costs.entry(event).or_default().extend(median(&path).map(|cost| (*batches, cost)));
        }
    }
    let _ = std::fs::remove_dir_all(&scratch);
    print(&options.batches, &costs);
    let value = json(&options.batches, &costs);
    for (path, text) in [
        (&options.svg, plot::svg(&EVENTS, &costs)),
        (&options.json, serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"),
    ] {
        if let Some(path) = path
            && let Err(error) = std::fs::write(path, text)
        {
            eprintln!("bench-scale: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    println!("{value}");
    ExitCode::SUCCESS
}

/// One look after the other, at queues of this length.
fn measure(criterion: &mut Criterion, batches: u64, costs: &mut Costs) {
    let mut world = World::new(batches, batches / PER_THREAD);
    let mut figure = |name: &str, event: &mut dyn FnMut(&mut World, u64) -> Duration| {
        let mut group = criterion.benchmark_group(name);
        group.bench_function(batches.to_string(), |bencher| bencher.iter_custom(|count| event(&mut world, count)));
        group.finish();
    };
    figure("arrival", &mut |world, count| {
        chunks(count, |chunk| {
            let new: Vec<_> = (0..chunk).map(|_| world.due()).collect();
            let took = timed(|| new.into_iter().for_each(|batch| world.arrive(batch)));
            (0..chunk).for_each(|_| world.deliver());
            took
        })
    });
    figure("delivery", &mut |world, count| {
        chunks(count, |chunk| {
            let took = timed(|| (0..chunk).for_each(|_| world.deliver()));
            for _ in 0..chunk {
                let batch = world.due();
                world.arrive(batch);
            }
            took
        })
    });
    figure("wake-up", &mut |world, count| {
        chunks(count, |chunk| {
            let took = timed(|| (0..chunk).for_each(|_| world.wake()));
            for _ in 0..chunk {
                world.deliver();
                let batch = world.later();
                world.arrive(batch);
            }
            took
        })
    });
    let mut longest = Duration::ZERO;
    let mut copy = |world: &mut World, count: u64, listing: fn(&World) -> Vec<(Duration, usize)>| {
        // As many rows as asked for, in whole listings, for the caches to be as they would.
        let (mut took, mut rows) = (Duration::ZERO, 0);
        while rows < count {
            for (page, length) in listing(world) {
                took += page;
                rows += length as u64;
                longest = longest.max(page);
            }
        }
        took.mul_f64(count as f64 / rows as f64)
    };
    figure("snapshot_threads", &mut |world, count| copy(world, count, World::threads));
    figure("snapshot_rings", &mut |world, count| copy(world, count, World::rings));
    costs.entry(LONGEST).or_default().insert(batches, longest.as_nanos() as f64);
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// So many events, a few at a time; what the closure says took time.
fn chunks(count: u64, mut chunk: impl FnMut(u64) -> Duration) -> Duration {
    let whole = (0..count / CHUNK).map(|_| CHUNK);
    let rest = std::iter::once(count % CHUNK).filter(|rest| *rest > 0);
    whole.chain(rest).map(chunk).sum()
}

/// The median of what criterion has measured, nanoseconds.
fn median(path: &Path) -> Option<f64> {
    let estimates: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}

/// Milliseconds that the scheduler spends on all pages of a listing of 10,000 threads, those of their rings included.
fn per_ten_thousand(costs: &Costs, batches: u64) -> f64 {
    let of = |event| costs.get(event).and_then(|row| row.get(&batches)).copied().unwrap_or(0.0);
    of("snapshot, threads") * 10_000.0 / 1e6
}

fn print(lengths: &[u64], costs: &Costs) {
    print!("\n{:<22}", "ns per event, batches:");
    lengths.iter().for_each(|length| print!("{length:>12}"));
    println!("{:>12}", "last/first");
    for event in EVENTS {
        print!("{event:<22}");
        let row: Vec<f64> = lengths.iter().filter_map(|length| costs.get(event)?.get(length).copied()).collect();
        row.iter().for_each(|cost| print!("{cost:>12.0}"));
        println!("{:>12.2}", row.last().copied().unwrap_or(0.0) / row.first().copied().unwrap_or(1.0));
    }
    print!("{:<22}", "longest page, us");
    lengths.iter().for_each(|length| print!("{:>12.0}", costs[LONGEST].get(length).copied().unwrap_or(0.0) / 1000.0));
    println!();
    print!("{:<22}", "ms per 10,000 threads");
    lengths.iter().for_each(|length| print!("{:>12.2}", per_ten_thousand(costs, *length)));
    println!("   (to be below 1: all pages of `threads` together)\n");
}

fn json(lengths: &[u64], costs: &Costs) -> Value {
    let round = |cost: f64| (cost * 10.0).round() / 10.0;
    let rows = lengths.iter().map(|length| {
        let of = |event: &str| costs.get(event).and_then(|row| row.get(length)).copied().map(round);
        let events: BTreeMap<&str, Option<f64>> = EVENTS.into_iter().map(|event| (event, of(event))).collect();
        json!({
            "batches": length,
            "threads": length / PER_THREAD,
            "ns_per_event": events,
            "longest_page_us": of(LONGEST).map(|cost| round(cost / 1000.0)),
            "ms_per_10000_threads": (per_ten_thousand(costs, *length) * 1000.0).round() / 1000.0,
        })
    });
    json!({ "rows": rows.collect::<Vec<_>>(), "page": PAGE_MAX })
}

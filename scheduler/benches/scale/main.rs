//! What an event costs the scheduler, against the number of batches and threads that it has. See `--help`.

mod memory;
mod plot;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use criterion::Criterion;
use memory::Memory;
use serde_json::{Value, json};
use world::World;
use zrelay_scheduler::PAGE_MAX;

const USAGE: &str = "\
usage: tests/bench-scale [OPTION...]

What an event costs the scheduler, against the length of its queue: a tenth as many threads as batches, each host a site of
its own, half of the batches due and in line for 64 agents, the others waiting for their time. Time is virtual, agents say
yes at once, nothing is written. Measured with criterion, in time of the processor; prints a table of nanoseconds per event, and JSON as the last line.

  arrival     a batch comes for any of the threads
  delivery    an agent reports a delivery, is given the next batch or gives its place to the thread that is next in line
  wake-up     a batch's time has come
  snapshot    `threads` and `rings`, page by page, for each thread; and how long the scheduler is
              busy with one page, which 99 of 100 do not exceed: between two pages it does other things

  one read    for comparison: one read of memory from a random place among as many octets as such a queue takes. No event
              needs more instructions in a long queue, but for a few per doubling; it finds less of what it needs in the caches

  --batches N,...     lengths of the queue                        [default: 1000,10000,100000,1000000]
  --seconds N         time for each figure                        [default: 3]
  --svg FILE          a plot of cost against length
  --json FILE         the JSON
  --once N            N of each event with each queue and no clock, for a profiler
  --instructions      the instructions of an event instead, counted with valgrind, for queues of up to 100,000 batches

The figure in the README, with the queue of a million batches in 100,000 threads (one GB of memory, two minutes):
  tests/bench-scale --svg scheduler/benches/scale.svg --json scheduler/benches/scale.json";

/// Events between two looks at the clock.
const CHUNK: u64 = 256;
/// Batches of a thread.
const PER_THREAD: u64 = 10;

struct Options {
    batches: Vec<u64>,
    seconds: u64,
    svg: Option<PathBuf>,
    json: Option<PathBuf>,
    once: Option<u64>,
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { batches: vec![1_000, 10_000, 100_000, 1_000_000], seconds: 3, svg: None, json: None, once: None };
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
            "--once" => options.once = Some(number(&value)?),
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

/// Nanoseconds by event and length of the queue, and the longest of most pages.
type Costs = BTreeMap<&'static str, BTreeMap<u64, f64>>;

const EVENTS: [&str; 6] =
    ["arrival", "delivery", "wake-up", "snapshot, threads", "snapshot, rings", "one read of memory"];
/// The same as criterion knows them.
const FIGURES: [&str; 6] = ["arrival", "delivery", "wake-up", "snapshot_threads", "snapshot_rings", "memory"];
const LONGEST: &str = "page";
/// One page in so many may take longer: another process had the processor.
const OUTLIERS: usize = 100;

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
    if let Some(count) = options.once {
        options.batches.iter().for_each(|batches| once(*batches, count));
        return ExitCode::SUCCESS;
    }
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
    for (event, name) in EVENTS.into_iter().zip(FIGURES) {
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
    let mut pages: Vec<Duration> = Vec::new();
    let mut copy = |world: &mut World, count: u64, listing: fn(&World) -> Vec<(Duration, usize)>| {
        // As many rows as asked for, in whole listings, for the caches to be as they would.
        let (mut took, mut rows) = (Duration::ZERO, 0);
        while rows < count {
            for (page, length) in listing(world) {
                took += page;
                rows += length as u64;
                pages.push(page);
            }
        }
        took.mul_f64(count as f64 / rows as f64)
    };
    figure("snapshot_threads", &mut |world, count| copy(world, count, World::threads));
    figure("snapshot_rings", &mut |world, count| copy(world, count, World::rings));
    let mut memory = Memory::new(batches);
    figure("memory", &mut |_, count| timed(|| memory.follow(count)));
    pages.sort_unstable();
    let longest = pages.get(pages.len() - 1 - pages.len() / OUTLIERS).copied().unwrap_or_default();
    costs.entry(LONGEST).or_default().insert(batches, longest.as_nanos() as f64);
}

/// So many of each event. Nothing asks for the time here: valgrind, which counts instructions, has no vDSO for it.
fn once(batches: u64, count: u64) {
    let mut world = World::new(batches, batches / PER_THREAD);
    for _ in 0..count {
        let batch = world.due();
        world.arrive(batch);
        world.deliver();
    }
    for _ in 0..count {
        world.wake();
        world.deliver();
        let batch = world.later();
        world.arrive(batch);
    }
}

/// The processor's time that this thread has had so far.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = processor_time();
    work();
    processor_time().saturating_sub(begin)
}

/// So many events, a few at a time; what the closure says took time.
fn chunks(count: u64, chunk: impl FnMut(u64) -> Duration) -> Duration {
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
    print!("{:<22}", "us per page");
    lengths.iter().for_each(|length| print!("{:>12.0}", costs[LONGEST].get(length).copied().unwrap_or(0.0) / 1000.0));
    println!("   (a stop of the scheduler; bound: 1000 us per 10,000 threads)");
    print!("{:<22}", "ms per 10,000 threads");
    lengths.iter().for_each(|length| print!("{:>12.2}", per_ten_thousand(costs, *length)));
    println!("   (all pages of `threads` together)\n");
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
            "page_us": of(LONGEST).map(|cost| round(cost / 1000.0)),
            "ms_per_10000_threads": (per_ten_thousand(costs, *length) * 1000.0).round() / 1000.0,
        })
    });
    json!({ "rows": rows.collect::<Vec<_>>(), "page": PAGE_MAX })
}

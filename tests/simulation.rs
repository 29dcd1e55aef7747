//! Seeds against the model: what is acknowledged comes back, nothing wrong ever does, and every run can be run again.
//!
//! `DOLMEN_SIM_SEED=n` runs one seed and prints every event, `DOLMEN_SIM_SEEDS=n` the first n.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dolmen_tests::sim::watch::ErrorWatch;
use dolmen_tests::sim::{Report, run};

/// Seeds of one run of the tests.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs a seed; an ERROR in the log fails it as a panic does.
fn watched(seed: u64, verbose: bool) -> Result<Report, String> {
    let watch = ErrorWatch::default();
    let result =
        tracing::subscriber::with_default(watch.clone(), || catch_unwind(AssertUnwindSafe(|| run(seed, verbose))));
    let report = result.map_err(|_| "it panicked, see above".to_owned())?;
    match watch.heard().as_slice() {
        [] => Ok(report),
        heard => Err(format!("errors were logged: {heard:#?}")),
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "the seed is the whole point of the output")]
fn every_seed_keeps_its_promises() {
    if let Some(seed) = number("DOLMEN_SIM_SEED") {
        let report = watched(seed, true).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        eprintln!("{report:#?}");
        return;
    }
    let seeds = number("DOLMEN_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let results = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let result = watched(seed, false);
                    if let Err(failure) = &result {
                        eprintln!("seed {seed}: {failure}");
                        eprintln!("run it again: DOLMEN_SIM_SEED={seed} cargo test -p dolmen-tests --test simulation");
                    }
                    results.lock().expect("no worker panics").push((seed, result));
                }
            });
        }
    });
    let results = results.into_inner().expect("no worker panics");
    let failed: Vec<u64> = results.iter().filter(|(_, result)| result.is_err()).map(|(seed, _)| *seed).collect();
    let reports: Vec<&Report> = results.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    let sum = |part: fn(&Report) -> u64| reports.iter().map(|report| part(report)).sum::<u64>();
    eprintln!(
        "{} seeds: {} of {} puts done ({} segments degraded), {} calls, {} nodes failed, files: {} back, {} lost, {} \
         unreachable, {} virtual hours",
        results.len(),
        sum(|report| report.puts.0),
        sum(|report| report.puts.1),
        sum(|report| report.degraded),
        sum(|report| report.calls),
        sum(|report| report.failed),
        sum(|report| report.files.0),
        sum(|report| report.files.1),
        sum(|report| report.files.2),
        sum(|report| report.virtual_seconds) / 3600,
    );
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
    if seeds >= SEEDS {
        // A simulator in which nothing gets done, or nothing ever fails, would prove nothing.
        assert!(sum(|report| report.puts.0) * 10 >= sum(|report| report.puts.1) * 9, "most puts get through");
        assert!(sum(|report| report.files.1) > 0, "beyond the bound something is lost");
        assert!(sum(|report| report.files.2) > 0, "beyond the bound something is unreachable");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 4] {
        let first = watched(seed, false).expect("the seed passes");
        let second = watched(seed, false).expect("the seed passes");
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(watched(3, false).expect("passes").trace, watched(8, false).expect("passes").trace);
}

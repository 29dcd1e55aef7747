//! Results for people and for programs: a line a run, a table of medians, one JSON object, rows and files.

use std::collections::BTreeMap;

use dolmen_benches::record::{Run, Setting, Spread, append_csv};
use serde_json::{Map, Value, json};

use crate::arguments::Bench;
use crate::failure::Failure;
use crate::terminal::{Terminal, rate, size};

/// A run in one line.
pub(super) fn line(run: &Run) -> String {
    let mut line = format!("  round {}: {} {}", run.round, run.subject, run.operation);
    if run.circumstances.fault != "none" {
        line += &format!(" ({})", run.circumstances.fault);
    }
    if !run.latencies_ms.is_empty() {
        line += &format!(
            ", {} x{}: p50 {:.2} ms, p99 {:.2} ms",
            size(run.object_bytes),
            run.readers,
            run.percentile_ms(0.5),
            run.percentile_ms(0.99)
        );
    }
    line + &format!(" {}, {:.2} CPU s/GB", rate(run.mib_s()), run.cpu_seconds_per_gb())
}

/// What runs of several rounds have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    operation: String,
    fault: String,
    link: String,
    object_bytes: u64,
    readers: usize,
    subject: String,
}

/// Runs of the same thing over all rounds.
fn groups(runs: &[Run]) -> BTreeMap<Key, Vec<&Run>> {
    let mut groups: BTreeMap<Key, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let key = Key {
            operation: run.operation.clone(),
            fault: run.circumstances.fault.clone(),
            link: run.circumstances.link.clone(),
            object_bytes: run.object_bytes,
            readers: run.readers,
            subject: run.subject.clone(),
        };
        groups.entry(key).or_default().push(run);
    }
    groups
}

fn spread(runs: &[&Run], of: impl Fn(&Run) -> f64) -> Option<Spread> {
    Spread::of(&runs.iter().map(|run| of(run)).collect::<Vec<f64>>())
}

/// The median rate of one subject's operation without faults, over loopback.
fn median_mib_s(runs: &[Run], subject: &str, operation: &str) -> Option<f64> {
    let same = |run: &&Run| {
        run.subject == subject
            && run.operation == operation
            && run.circumstances.fault == "none"
            && run.circumstances.link == "loopback"
    };
    let rates: Vec<f64> = runs.iter().filter(same).map(Run::mib_s).collect();
    Spread::of(&rates).map(|spread| spread.median)
}

/// The keys that programs rely on, where they were measured.
fn headline(runs: &[Run]) -> Map<String, Value> {
    let mut object = Map::new();
    let rates = [
        ("raw", median_mib_s(runs, "raw quinn", "put")),
        ("tcp", median_mib_s(runs, "tcp", "put")),
        ("floor_put", median_mib_s(runs, "floor", "put")),
        ("floor_put_synced", median_mib_s(runs, "floor", "put, synced")),
        ("floor_get", median_mib_s(runs, "floor", "get")),
        ("put", median_mib_s(runs, "dolmen", "put")),
        ("get", median_mib_s(runs, "dolmen", "get")),
    ];
    let known: BTreeMap<&str, f64> = rates.into_iter().filter_map(|(name, rate)| Some((name, rate?))).collect();
    for (name, rate) in &known {
        object.insert(format!("{name}_mib_s"), json!(rate));
    }
    for (over, what, below) in [
        ("get_over_floor", "get", "floor_get"),
        ("put_over_floor", "put", "floor_put"),
        ("put_over_synced_floor", "put", "floor_put_synced"),
        ("get_over_raw", "get", "raw"),
        ("put_over_raw", "put", "raw"),
        ("raw_over_tcp", "raw", "tcp"),
    ] {
        if let (Some(what), Some(below)) = (known.get(what), known.get(below)) {
            object.insert(over.to_owned(), json!(what / below));
        }
    }
    let datagram = |subject: &str| {
        runs.iter().filter(|run| run.subject == subject).map(|run| run.circumstances.datagram_bytes).max()
    };
    if let Some(bytes) = datagram("raw quinn") {
        object.insert("datagram_bytes".to_owned(), json!(bytes));
    }
    if let Some(bytes) = datagram("dolmen") {
        object.insert("dolmen_datagram_bytes".to_owned(), json!(bytes));
    }
    object
}

/// Prints everything and writes what files were asked for.
///
/// # Errors
/// [`Failure`] where files cannot be written.
pub(super) fn print(terminal: Terminal, arguments: &Bench, setting: &Setting, runs: &[Run]) -> Result<(), Failure> {
    if let Some(folder) = &arguments.out {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::local(format!("could not make {}", folder.display()), &error))?;
        append_csv(&folder.join("results.csv"), setting, runs)
            .map_err(|error| super::failed("writing results", &error))?;
        super::plots::write(folder, setting, runs).map_err(|error| super::failed("drawing plots", &error.into()))?;
    }
    let mut rows = Vec::new();
    let mut results = Vec::new();
    for (key, runs) in groups(runs) {
        let (Some(rate), Some(seconds)) = (spread(&runs, Run::mib_s), spread(&runs, |run| run.seconds)) else {
            continue;
        };
        let median = |of: &dyn Fn(&Run) -> f64| spread(&runs, of).map_or(0.0, |spread| spread.median);
        let (p50, p99) = (median(&|run| run.percentile_ms(0.5)), median(&|run| run.percentile_ms(0.99)));
        let cpu = median(&Run::cpu_seconds_per_gb);
        let peak = |of: &dyn Fn(&Run) -> u64| runs.iter().map(|run| of(run)).max().unwrap_or(0);
        let (client_peak, server_peak) =
            (peak(&|run| run.usage.client_peak_bytes), peak(&|run| run.usage.server_peak_bytes));
        let has_latencies = runs.iter().any(|run| !run.latencies_ms.is_empty());
        let wrong = [&key.fault, &key.link].into_iter().filter(|text| *text != "none" && *text != "loopback");
        rows.push(vec![
            key.operation.clone(),
            wrong.cloned().collect::<Vec<_>>().join(", "),
            size(key.object_bytes),
            key.readers.to_string(),
            key.subject.clone(),
            format!("{:.1} ({:.1} to {:.1})", rate.median, rate.low, rate.high),
            if has_latencies { format!("{p50:.2} / {p99:.2}") } else { String::new() },
            format!("{cpu:.2}"),
            format!("{} / {}", client_peak >> 20, server_peak >> 20),
        ]);
        results.push(json!({
            "subject": key.subject, "operation": key.operation, "fault": key.fault, "link": key.link,
            "object_bytes": key.object_bytes, "readers": key.readers, "runs": runs.len(),
            "mib_s": rate, "seconds": seconds, "p50_ms": p50, "p99_ms": p99, "cpu_seconds_per_gb": cpu,
            "client_peak_bytes": client_peak, "server_peak_bytes": server_peak,
            "datagram_bytes": runs[0].circumstances.datagram_bytes,
        }));
    }
    terminal.table(
        &[
            "what",
            "under",
            "object",
            "readers",
            "who",
            "MiB/s (spread)",
            "ms p50 / p99",
            "CPU s/GB",
            "peak MiB client / server",
        ],
        rows,
    );
    let mut object = headline(runs);
    let ratio = |name: &str| object.get(name).and_then(Value::as_f64);
    if let (Some(get), Some(put)) = (ratio("get_over_floor"), ratio("put_over_floor")) {
        let synced = ratio("put_over_synced_floor").unwrap_or(f64::NAN);
        terminal.result(&format!(
            "get {get:.2} of its floor; put {put:.2} of its floor, which syncs nothing, and {synced:.2} of one that syncs as nodes do"
        ));
    }
    object.insert("setting".to_owned(), json!(setting));
    object.insert("size_bytes".to_owned(), json!(arguments.size.bytes()));
    object.insert("rounds".to_owned(), json!(arguments.rounds));
    object.insert("results".to_owned(), Value::Array(results));
    terminal.json(&object);
    Ok(())
}

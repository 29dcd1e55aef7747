//! Plots of what was measured, each only where its runs are there.

use std::collections::BTreeMap;
use std::path::Path;

use dolmen_benches::plot::{Axis, Bar, BarPlot, LinePlot, Plot, PlotError, Point, Series, Tail, TailPlot};
use dolmen_benches::record::{Run, Setting, Spread};

/// Writes every plot that the runs are enough for, as SVG and PNG.
///
/// # Errors
/// Where a file cannot be written.
pub(super) fn write(folder: &Path, setting: &Setting, runs: &[Run]) -> Result<(), PlotError> {
    let subtitle = format!(
        "{} nodes and the client on {} cores, code {}/{}; {}; dolmen {}, {}",
        setting.nodes, setting.cores, setting.k, setting.n, setting.cpu, setting.version, setting.started
    );
    let plots = [
        ("throughput", throughput(runs, &subtitle)),
        ("cpu", cpu(runs, &subtitle)),
        ("sizes", sizes(runs, &subtitle)),
        ("readers", readers(runs, &subtitle)),
        ("dead-nodes", dead_nodes(runs, &subtitle)),
        ("tail-64-kib", tail(runs, &subtitle, "range", 64 * 1024, "64 KiB at random places, one reader")),
        ("tail-slow-nodes", tail_slow(runs, &subtitle)),
    ];
    for (name, plot) in plots {
        if let Some(plot) = plot {
            plot.write(folder, name)?;
        }
    }
    Ok(())
}

fn is_plain(run: &Run) -> bool {
    run.circumstances.fault == "none" && run.circumstances.link == "loopback"
}

fn spread(runs: &[Run], of: impl Fn(&Run) -> f64, which: impl Fn(&Run) -> bool) -> Option<Spread> {
    Spread::of(&runs.iter().filter(|run| which(run)).map(of).collect::<Vec<f64>>())
}

/// What stands beside the bars of the large file: subject, operation, name.
const LARGE_FILE: [(&str, &str, &str); 7] = [
    ("tcp", "put", "TCP, no storage"),
    ("raw quinn", "put", "quinn, no storage"),
    ("floor", "put", "floor put"),
    ("floor", "put, synced", "floor put, synced"),
    ("dolmen", "put", "dolmen put"),
    ("floor", "get", "floor get"),
    ("dolmen", "get", "dolmen get"),
];

fn throughput(runs: &[Run], subtitle: &str) -> Option<Plot> {
    let bar = |(subject, operation, name): (&str, &str, &str)| {
        let same = |run: &Run| is_plain(run) && run.subject == subject && run.operation == operation;
        let rate = spread(runs, Run::mib_s, same)?;
        Some(Bar { name: name.to_owned(), parts: vec![rate.median], spread: Some((rate.low, rate.high)) })
    };
    let bars: Vec<Bar> = LARGE_FILE.into_iter().filter_map(bar).collect();
    (bars.len() > 1).then(|| {
        Plot::Bars(BarPlot {
            title: "One large file beside what its parts cost".to_owned(),
            subtitle: subtitle.to_owned(),
            label: "MiB/s of user data, median and spread".to_owned(),
            stages: vec!["throughput".to_owned()],
            bars,
        })
    })
}

fn cpu(runs: &[Run], subtitle: &str) -> Option<Plot> {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let per_gb = |seconds: f64, run: &Run| seconds / (run.bytes as f64 / 1e9);
    let bar = |(subject, operation, name): (&str, &str, &str)| {
        let same = |run: &Run| is_plain(run) && run.subject == subject && run.operation == operation;
        let client = spread(runs, |run| per_gb(run.usage.client_cpu_seconds, run), same)?;
        let servers = spread(runs, |run| per_gb(run.usage.servers_cpu_seconds, run), same)?;
        let all = spread(runs, Run::cpu_seconds_per_gb, same)?;
        let spread = Some((all.low, all.high));
        Some(Bar { name: name.to_owned(), parts: vec![client.median, servers.median], spread })
    };
    let bars: Vec<Bar> = LARGE_FILE.into_iter().filter_map(bar).collect();
    (bars.len() > 1).then(|| {
        Plot::Bars(BarPlot {
            title: "CPU seconds for each GB, every process".to_owned(),
            subtitle: subtitle.to_owned(),
            label: "CPU seconds per GB of user data".to_owned(),
            stages: vec!["client".to_owned(), "nodes".to_owned()],
            bars,
        })
    })
}

/// A line for each name, whose points are medians of the runs at one place.
fn lines(runs: &[Run], place: impl Fn(&Run) -> Option<(String, f64)>) -> Vec<Series> {
    let mut values: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for run in runs {
        if let Some((name, x)) = place(run) {
            values.entry(name).or_default().push((x, run.mib_s()));
        }
    }
    let points = |mut values: Vec<(f64, f64)>| {
        values.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        let same = values.chunk_by(|(left, _), (right, _)| left.total_cmp(right).is_eq());
        let point = |chunk: &[(f64, f64)]| {
            let rate = Spread::of(&chunk.iter().map(|(_, rate)| *rate).collect::<Vec<f64>>())?;
            Some(Point { x: chunk.first()?.0, y: rate.median, low: rate.low, high: rate.high })
        };
        same.filter_map(point).collect::<Vec<Point>>()
    };
    values
        .into_iter()
        .map(|(name, values)| Series { name, points: points(values) })
        .filter(|series| series.points.len() > 1)
        .collect()
}

fn line_plot(title: &str, subtitle: &str, x: Axis, series: Vec<Series>) -> Option<Plot> {
    (!series.is_empty()).then(|| {
        Plot::Lines(LinePlot {
            title: title.to_owned(),
            subtitle: subtitle.to_owned(),
            x,
            y: Axis::linear("MiB/s of user data, median and spread"),
            series,
        })
    })
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn sizes(runs: &[Run], subtitle: &str) -> Option<Plot> {
    let place = |run: &Run| {
        let of_size = run.operation == "put by size" || run.operation == "get by size";
        let operation = run.operation.trim_end_matches(" by size");
        of_size.then(|| (format!("{} {operation}", run.subject), run.object_bytes as f64))
    };
    line_plot("Throughput by the size of the file", subtitle, Axis::bytes("size of the file"), lines(runs, place))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn readers(runs: &[Run], subtitle: &str) -> Option<Plot> {
    let place = |run: &Run| {
        let counts = is_plain(run) && run.operation == "range" && run.object_bytes >= 64 * 1024;
        let name = format!("{} {} KiB", run.subject, run.object_bytes >> 10);
        counts.then_some((name, run.readers as f64))
    };
    let axis = Axis::logarithmic("readers at a time");
    line_plot("Ranges at random places by the number of readers", subtitle, axis, lines(runs, place))
}

fn dead_nodes(runs: &[Run], subtitle: &str) -> Option<Plot> {
    let place = |run: &Run| {
        let dead = match run.circumstances.fault.split_once(" % of nodes dead") {
            Some((percent, _)) => percent.parse::<f64>().ok()?,
            None if run.circumstances.fault == "none" => 0.0,
            None => return None,
        };
        (run.operation == "get under faults").then(|| (format!("{} get", run.subject), dead))
    };
    line_plot("Get while nodes are dead", subtitle, Axis::linear("dead nodes, %"), lines(runs, place))
}

fn tail(runs: &[Run], subtitle: &str, operation: &str, bytes: u64, title: &str) -> Option<Plot> {
    let same =
        |run: &&Run| is_plain(run) && run.operation == operation && run.object_bytes == bytes && run.readers == 1;
    tails(runs.iter().filter(same).map(|run| (run.subject.clone(), run)), title, subtitle)
}

fn tail_slow(runs: &[Run], subtitle: &str) -> Option<Plot> {
    let same = |run: &&Run| run.operation == "range beside slow nodes";
    let name = |run: &Run| match run.circumstances.fault.as_str() {
        "none" => "all nodes alike".to_owned(),
        fault => fault.to_owned(),
    };
    let title = "1 MiB at random places, nodes 10 ms away, slow ones 100 ms at a tenth of the rate";
    tails(runs.iter().filter(same).map(|run| (name(run), run)), title, subtitle)
}

fn tails<'a>(runs: impl Iterator<Item = (String, &'a Run)>, title: &str, subtitle: &str) -> Option<Plot> {
    let mut latencies: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, run) in runs {
        latencies.entry(name).or_default().extend(&run.latencies_ms);
    }
    let tails: Vec<Tail> = latencies
        .into_iter()
        .filter(|(_, values)| values.len() > 1)
        .map(|(name, milliseconds)| Tail { name, milliseconds })
        .collect();
    (!tails.is_empty()).then(|| {
        Plot::Tails(TailPlot {
            title: title.to_owned(),
            subtitle: subtitle.to_owned(),
            label: "until the last byte, ms".to_owned(),
            tails,
        })
    })
}

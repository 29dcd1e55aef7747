//! Rows of results: one for every timed run of an operation, kept as CSV, and medians over rounds.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::usage::{Machine, Usage};

/// What all rows of one invocation share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// The version of Dolmen.
    pub version: String,
    /// The processor.
    pub cpu: String,
    /// Cores, shared by client and servers.
    pub cores: usize,
    /// The operating system.
    pub system: String,
    /// Data shards of a segment.
    pub k: u8,
    /// Shards of a segment.
    pub n: u8,
    /// Node processes.
    pub nodes: usize,
}

impl Setting {
    /// The setting of a run on this machine.
    #[must_use]
    pub fn new(started: String, version: &str, k: u8, n: u8, nodes: usize) -> Self {
        let machine = Machine::this();
        let Machine { cpu, cores, system } = machine;
        Self { started, version: version.to_owned(), cpu, cores, system, k, n, nodes }
    }
}

/// Under what circumstances something was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Circumstances {
    /// What is wrong on purpose: `none`, `10 % dead`, `1 node lies`, ...
    pub fault: String,
    /// The access line: `loopback` or its name.
    pub link: String,
    /// Round trip that the line adds, in milliseconds.
    pub rtt_ms: f64,
    /// Rate of the line in Mbit/s; 0: not limited.
    pub rate_mbit_s: f64,
    /// Datagrams that the line loses, in per cent.
    pub loss_percent: f64,
    /// Largest datagram in use, in bytes; 0: not QUIC.
    pub datagram_bytes: u16,
}

impl Circumstances {
    /// Nothing between the ends and nothing wrong.
    #[must_use]
    pub fn plain(datagram_bytes: u16) -> Self {
        let (fault, link) = ("none".to_owned(), "loopback".to_owned());
        Self { fault, link, rtt_ms: 0.0, rate_mbit_s: 0.0, loss_percent: 0.0, datagram_bytes }
    }
}

/// One timed run of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Who did it: `dolmen`, `floor`, `raw quinn`, `tcp` or a peer's name.
    pub subject: String,
    /// What was done: `put`, `get`, `range warm`, ...
    pub operation: String,
    /// The round, from 1; round 0 warms up and leaves no row.
    pub round: u64,
    /// Bytes of user data that were moved.
    pub bytes: u64,
    /// Bytes of one object: a file, a range.
    pub object_bytes: u64,
    /// Operations at a time.
    pub readers: usize,
    /// From the first to the last of it.
    pub seconds: f64,
    /// How long each object took, in milliseconds, in any order; empty where there was one.
    pub latencies_ms: Vec<f64>,
    /// Until the first byte was there, in milliseconds, where that was looked at.
    pub first_byte_ms: Option<f64>,
    /// What processes used.
    pub usage: Usage,
    /// Every byte was compared with what was stored.
    pub verified: bool,
    /// In which circumstances.
    pub circumstances: Circumstances,
}

impl Run {
    /// MiB of user data a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn mib_s(&self) -> f64 {
        self.bytes as f64 / (1024.0 * 1024.0) / self.seconds
    }

    /// CPU seconds of every process for each GB of user data.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn cpu_seconds_per_gb(&self) -> f64 {
        self.usage.cpu_seconds() / (self.bytes as f64 / 1e9)
    }

    /// The latency that a share `p` of the objects did not exceed, in milliseconds; the whole run's time where there was one
    /// object.
    #[must_use]
    pub fn percentile_ms(&self, p: f64) -> f64 {
        percentile(&self.latencies_ms, p).unwrap_or(self.seconds * 1000.0)
    }
}

/// The value that a share `p` of `values` do not exceed (nearest rank).
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank among a few thousand"
)]
pub fn percentile(values: &[f64], p: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Median, least and largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; the lower of two.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Spread {
    /// Of some values; `None` of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self { median: percentile(values, 0.5)?, low: percentile(values, 0.0)?, high: percentile(values, 1.0)? })
    }
}

/// Appends rows to a CSV file, with a header if the file is new.
///
/// # Errors
/// When the file cannot be written.
pub fn append_csv(path: &Path, setting: &Setting, runs: &[Run]) -> Result<()> {
    let trouble = || format!("writing {}", path.display());
    let is_new = std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path).with_context(trouble)?;
    let mut writer = csv::WriterBuilder::new().has_headers(is_new).from_writer(file);
    for run in runs {
        writer.serialize(Flat::of(setting, run)).with_context(trouble)?;
    }
    writer.flush().with_context(trouble)
}

/// A row as it stands in the file.
#[derive(Debug, Serialize)]
struct Flat<'a> {
    started: &'a str,
    version: &'a str,
    cpu: &'a str,
    cores: usize,
    system: &'a str,
    k: u8,
    n: u8,
    nodes: usize,
    subject: &'a str,
    operation: &'a str,
    fault: &'a str,
    link: &'a str,
    rtt_ms: f64,
    rate_mbit_s: f64,
    loss_percent: f64,
    datagram_bytes: u16,
    round: u64,
    readers: usize,
    bytes: u64,
    object_bytes: u64,
    objects: usize,
    seconds: f64,
    mib_s: f64,
    first_byte_ms: Option<f64>,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    client_cpu_seconds: f64,
    servers_cpu_seconds: f64,
    cpu_seconds_per_gb: f64,
    client_peak_bytes: u64,
    server_peak_bytes: u64,
    verified: bool,
}

impl<'a> Flat<'a> {
    fn of(setting: &'a Setting, run: &'a Run) -> Self {
        Self {
            started: &setting.started,
            version: &setting.version,
            cpu: &setting.cpu,
            cores: setting.cores,
            system: &setting.system,
            k: setting.k,
            n: setting.n,
            nodes: setting.nodes,
            subject: &run.subject,
            operation: &run.operation,
            fault: &run.circumstances.fault,
            link: &run.circumstances.link,
            rtt_ms: run.circumstances.rtt_ms,
            rate_mbit_s: run.circumstances.rate_mbit_s,
            loss_percent: run.circumstances.loss_percent,
            datagram_bytes: run.circumstances.datagram_bytes,
            round: run.round,
            readers: run.readers,
            bytes: run.bytes,
            object_bytes: run.object_bytes,
            objects: run.latencies_ms.len().max(1),
            seconds: run.seconds,
            mib_s: run.mib_s(),
            first_byte_ms: run.first_byte_ms,
            p50_ms: run.percentile_ms(0.5),
            p90_ms: run.percentile_ms(0.9),
            p99_ms: run.percentile_ms(0.99),
            client_cpu_seconds: run.usage.client_cpu_seconds,
            servers_cpu_seconds: run.usage.servers_cpu_seconds,
            cpu_seconds_per_gb: run.cpu_seconds_per_gb(),
            client_peak_bytes: run.usage.client_peak_bytes,
            server_peak_bytes: run.usage.server_peak_bytes,
            verified: run.verified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (p, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(percentile(&values, p), Some(expected), "{p}");
        }
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, low: 1.0, high: 3.0 }));
    }

    #[test]
    fn rows_are_appended_below_one_header() {
        let folder = tempfile::tempdir().expect("works here");
        let path = folder.path().join("results.csv");
        let setting = Setting::new("2026-11-22T00:00:00Z".to_owned(), "0.1.0", 7, 16, 24);
        let run = Run {
            subject: "dolmen".to_owned(),
            operation: "get".to_owned(),
            round: 1,
            bytes: 1 << 30,
            object_bytes: 1 << 30,
            readers: 1,
            seconds: 2.0,
            latencies_ms: Vec::new(),
            first_byte_ms: None,
            usage: Usage::default(),
            verified: true,
            circumstances: Circumstances::plain(65_000),
        };
        append_csv(&path, &setting, std::slice::from_ref(&run)).expect("works here");
        append_csv(&path, &setting, &[run]).expect("works here");
        let mut reader = csv::Reader::from_path(&path).expect("works here");
        let headers = reader.headers().expect("works here").clone();
        let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.expect("a row")).collect();
        let column = headers.iter().position(|name| name == "mib_s").expect("works here");
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row[column].parse::<f64>() == Ok(512.0)), "{rows:?}");
    }
}

//! What a steward tells: status for people and programs, metrics for Prometheus.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::ClientError;

/// A dataset under care.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DatasetCare {
    /// Names the dataset among those of this steward: the beginning of his public key for it.
    pub steward: String,
    /// Whether the newest base table names this steward; if not, no reader looks at what he publishes.
    pub named: bool,
    /// Segments of the newest base table.
    pub segments: u64,
    /// Shards that nodes should hold, overlays included.
    pub shards: u64,
    /// Of them, those that nothing speaks against.
    pub alive_shards: u64,
    /// Shards to spare in the worst segment: how many more may be lost before it is.
    pub worst_margin: i64,
    /// That segment, and its code.
    pub worst_segment: String,
    /// Shards of it that are sure.
    pub worst_alive: u64,
    /// Segments that wait for repair.
    pub waiting_repairs: u64,
    /// Shards that were put on new nodes, ever.
    pub repaired_shards: u64,
    /// Bytes that repairs read and wrote, ever.
    pub repair_bytes: u64,
    /// Challenges, ever.
    pub challenges: u64,
    /// Of them, those that were passed.
    pub passed: u64,
    /// Samples asked for, ever.
    pub samples: u64,
    /// Times that a node convicted itself.
    pub hard_evidence: u64,
    /// The earliest end of a lease that is known, in milliseconds since the epoch; 0: none is.
    pub earliest_lease_ms: u64,
    /// Leases renewed, ever.
    pub renewed: u64,
    /// When all of this was looked at last, in milliseconds since the epoch.
    pub looked_at_ms: u64,
    /// Why the last round failed; empty when it did not.
    #[serde(default)]
    pub trouble: String,
}

/// What a steward believes of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeCare {
    /// The node.
    pub node: String,
    /// `good`, `vetting`, `suspect` or `bad`, with the reason.
    pub standing: String,
    /// Its weight when shards are placed, 0 to 1,000.
    pub weight_per_mille: u16,
    /// Samples that it has proven, ever.
    pub proven_samples: u64,
    /// When it proved something last, in milliseconds since the epoch; 0: never.
    pub proven_at_ms: u64,
    /// Since when it is not reached; 0: it is.
    pub absent_since_ms: u64,
    /// When it goes away; 0: it stays.
    pub leaving_until_ms: u64,
}

/// All that a steward looks after.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StewardStatus {
    /// The process that wrote this.
    pub pid: u32,
    /// When, in milliseconds since the epoch.
    pub updated_at_ms: u64,
    /// Rounds since the process began.
    pub rounds: u64,
    /// Datasets.
    pub datasets: Vec<DatasetCare>,
    /// Nodes.
    pub nodes: Vec<NodeCare>,
}

/// What a repair by hand came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RepairReport {
    /// Segments looked at.
    pub segments: u64,
    /// Of them, those that needed something.
    pub planned: u64,
    /// Of them, those that were repaired.
    pub repaired: u64,
    /// Shards on new nodes.
    pub placed_shards: u64,
    /// Bytes fetched for that.
    pub read_bytes: u64,
    /// Bytes put.
    pub written_bytes: u64,
    /// Shards to spare in the worst segment, before and after.
    pub worst_margin_before: i64,
    /// See above.
    pub worst_margin: i64,
    /// What could not be repaired, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

const STATUS_FILE: &str = "status.json";
const METRICS_FILE: &str = "dolmen_steward.prom";
const STATUS_MAX_BYTES: u64 = 64 * 1024 * 1024;

impl StewardStatus {
    /// The last status that was written in a steward's state folder.
    ///
    /// # Errors
    /// `NotFound` where no steward ran, `Local`.
    pub fn read(folder: &Path) -> Result<Self, ClientError> {
        let path = folder.join(STATUS_FILE);
        let failed = |error: &std::io::Error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                let what = format!("no steward has run in {}", folder.display());
                let advice = "start one with `dolmen steward run --state DIR LINK`, or give another --state";
                return ClientError::new(crate::error::ErrorKind::NotFound, what, "there is no status", advice);
            }
            ClientError::local("read", &path, error)
        };
        let length = std::fs::metadata(&path).map_err(|error| failed(&error))?.len();
        if length > STATUS_MAX_BYTES {
            return Err(failed(&std::io::Error::other("the file is not one of ours")));
        }
        let bytes = std::fs::read(&path).map_err(|error| failed(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| failed(&std::io::Error::other(error)))
    }

    /// Replaces status and metrics, each whole.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn write(&self, folder: &Path) -> Result<(), ClientError> {
        let text = serde_json::to_vec(self).map_err(|error| ClientError::bug("a status cannot be written", error))?;
        replace(&folder.join(STATUS_FILE), &text)?;
        replace(&folder.join(METRICS_FILE), self.metrics().as_bytes())
    }

    /// In the text format of Prometheus, for a textfile collector.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        type Value = fn(&DatasetCare) -> f64;
        #[allow(clippy::cast_precision_loss)]
        let of_datasets: [(&str, &str, &str, Value); 13] = [
            ("segments", "gauge", "Segments of the newest base table.", |care| care.segments as f64),
            ("shards", "gauge", "Shards that nodes should hold.", |care| care.shards as f64),
            ("alive_shards", "gauge", "Shards that nothing speaks against.", |care| care.alive_shards as f64),
            ("worst_margin", "gauge", "Shards to spare in the worst segment.", |care| care.worst_margin as f64),
            ("waiting_repairs", "gauge", "Segments that wait for repair.", |care| care.waiting_repairs as f64),
            ("repaired_shards_total", "counter", "Shards put on new nodes.", |care| care.repaired_shards as f64),
            ("repair_bytes_total", "counter", "Bytes that repairs moved.", |care| care.repair_bytes as f64),
            ("challenges_total", "counter", "Challenges.", |care| care.challenges as f64),
            ("challenges_passed_total", "counter", "Challenges passed.", |care| care.passed as f64),
            ("samples_total", "counter", "Samples asked for.", |care| care.samples as f64),
            ("hard_evidence_total", "counter", "Times that a node convicted itself.", |care| care.hard_evidence as f64),
            ("earliest_lease_seconds", "gauge", "Earliest end of a lease, Unix time.", |care| {
                care.earliest_lease_ms as f64 / 1000.0
            }),
            ("named", "gauge", "Whether readers look at this steward's overlay.", |care| {
                f64::from(u8::from(care.named))
            }),
        ];
        for (name, kind, help, value) in of_datasets {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP dolmen_steward_{name} {help}\n# TYPE dolmen_steward_{name} {kind}");
            for care in &self.datasets {
                let _ = writeln!(text, "dolmen_steward_{name}{{steward=\"{}\"}} {}", care.steward, value(care));
            }
        }
        let _ = writeln!(text, "# HELP dolmen_steward_nodes Nodes by standing.\n# TYPE dolmen_steward_nodes gauge");
        for standing in ["good", "vetting", "suspect", "bad"] {
            let count = self.nodes.iter().filter(|node| node.standing.starts_with(standing)).count();
            let _ = writeln!(text, "dolmen_steward_nodes{{standing=\"{standing}\"}} {count}");
        }
        let _ = writeln!(
            text,
            "# HELP dolmen_steward_updated_seconds When this was written, Unix time.\n# TYPE dolmen_steward_updated_seconds gauge\n\
             dolmen_steward_updated_seconds {}",
            self.updated_at_ms / 1000
        );
        text
    }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let beside = path.with_extension("new");
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| ClientError::local("write", path, &error))
}

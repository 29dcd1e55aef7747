//! What operations come to: exactly the JSON keys of the command line's contract.
//!
//! Decides names and units of result fields. Never computes them.

use std::collections::BTreeMap;

use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::Timestamp;
use serde::{Serialize, Serializer};

/// A file that could not be put or restored; the rest of the operation went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedFile {
    /// The file's path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Why, in one line.
    pub reason: String,
}

/// What a put came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PutReport {
    /// The read link of an anonymous upload: a secret. Empty for a dataset of a vault, whose owner shares it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link: String,
    /// The snapshot's id in hexadecimal.
    pub snapshot: String,
    /// Files in the snapshot, without folders and symbolic links.
    pub files: u64,
    /// Plain bytes of these files, holes not counted.
    pub bytes: u64,
    /// Bytes that nodes now hold for this snapshot: all shards placed, documents included.
    pub stored_bytes: u64,
    /// Of these, the bytes that this run sent.
    pub new_bytes: u64,
    /// Segments of file contents.
    pub segments: u64,
    /// Plain MiB a second from the first read to the last acknowledgement.
    pub mib_s: f64,
    /// Whether some segment has fewer than `n` shards placed.
    pub degraded: bool,
    /// Shards missing in all.
    pub short_shards: u64,
    /// Until when all shards are leased.
    #[serde(serialize_with = "rfc3339")]
    pub lease_until: Timestamp,
    /// Files that failed; not empty means exit code 7.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedFile>,
    /// Paths that another writer changed at the same time: both versions are kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<SavedConflict>,
}

/// A path that two writers changed at the same time, each in another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SavedConflict {
    /// Where the version lies that was published first; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Where the other lies.
    pub kept_as: String,
}

/// What a put would come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PutEstimate {
    /// Files that the newest snapshot does not have.
    pub new: u64,
    /// Files that it has otherwise.
    pub changed: u64,
    /// Files that it has already.
    pub unchanged: u64,
    /// Files that would go.
    pub removed: u64,
    /// Plain bytes of all files that were looked at.
    pub bytes: u64,
    /// Of these, bytes that would be stored.
    pub new_bytes: u64,
    /// Files that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedFile>,
}

/// What a get came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GetReport {
    /// Files restored or found identical.
    pub files: u64,
    /// Plain bytes of these files.
    pub bytes: u64,
    /// Plain MiB a second over the whole operation.
    pub mib_s: f64,
    /// Segments that could be read only with the help of parity shards.
    pub degraded_segments: u64,
    /// Files that were there already, byte for byte as far as was asked to check.
    pub skipped: u64,
    /// Files that failed; not empty means exit code 7.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedFile>,
}

/// How well a dataset is kept, by asking every node that should hold a shard of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InfoReport {
    /// Segments, documents included.
    pub segments: u64,
    /// Shards that the table places.
    pub shards: u64,
    /// Of these, the shards that their node says it holds now.
    pub alive_shards: u64,
    /// Living shards of the segment with the least margin.
    pub min_alive: u64,
    /// Data shards of that segment.
    pub k: u64,
    /// All shards of that segment.
    pub n: u64,
    /// Segments by policy, such as `"7/16"`.
    pub by_policy: BTreeMap<String, u64>,
    /// Shards of one segment that share a failure domain (operator, subnet), at most, over all segments.
    pub largest_domain: u64,
    /// The earliest end of a living shard's lease.
    #[serde(serialize_with = "rfc3339")]
    pub lease_until: Timestamp,
    /// Further places of shards that stewards have published and that count.
    pub overlay_shards: u64,
}

/// What a renewal came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RenewReport {
    /// Shards that the table places.
    pub shards: u64,
    /// Of these, the shards whose node extended the lease.
    pub renewed_shards: u64,
    /// The time asked for.
    #[serde(serialize_with = "rfc3339")]
    pub lease_until: Timestamp,
}

/// What a removal came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemoveReport {
    /// Shards that the table placed.
    pub shards: u64,
    /// Of these, the shards whose node let go of the lease (or had none).
    pub removed_shards: u64,
}

/// What a garbage collection came to, or would come to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct GcReport {
    /// Segments in the dataset's table before.
    pub segments: u64,
    /// Of these, the segments that left it: deleted no sooner than a week from now.
    pub leaving_segments: u64,
    /// Dead bytes in them, before coding.
    pub leaving_bytes: u64,
    /// Of these, the segments of which something was needed and was packed anew.
    pub repacked_segments: u64,
    /// Bytes that were packed anew, before coding.
    pub moved_bytes: u64,
    /// Segments that had left at least a week before and were deleted now.
    pub freed_segments: u64,
    /// Their shards.
    pub freed_shards: u64,
    /// Segments that left before and are not deleted yet.
    pub waiting_segments: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// What a reseal came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ResealReport {
    /// The newest snapshot, which is stored under new keys whole.
    pub snapshot: String,
    /// Files that were stored again; 0 when another machine did it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of shards that were sent.
    pub new_bytes: u64,
    /// Earlier snapshots that were forgotten.
    pub forgotten_snapshots: u64,
    /// Earlier snapshots that stay, under the old keys.
    pub kept_snapshots: u64,
    /// Shares that show one snapshot for ever and have not ended: what they show stays under the old keys.
    pub old_shares: u64,
    /// Segments that left the table: deleted by a garbage collection no sooner than a week from now.
    pub leaving_segments: u64,
    /// Bytes in them that nothing needs, before coding.
    pub leaving_bytes: u64,
}

/// A node as the directory and the node itself describe it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeView {
    /// The node's id in hexadecimal.
    pub id: String,
    /// Its region, such as `eu-de`; empty when it says none.
    pub region: String,
    /// Its operator's id in hexadecimal; empty when it names none.
    pub operator: String,
    /// Base-2 logarithm of the bytes it would still take.
    pub free_class: u32,
    /// Its software.
    pub version: String,
    /// Where its data plane listens.
    pub addresses: Vec<String>,
    /// Milliseconds that it took to answer; none when it did not.
    pub round_trip_ms: Option<f64>,
}

/// What kind of thing an entry of a listing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedEntry {
    /// Path below the snapshot's root; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Plain bytes; holes count.
    pub size: u64,
    /// Unix permission bits.
    pub mode: u32,
    /// When it was last changed, RFC 3339.
    pub mtime: String,
    /// Where a symbolic link points; bytes that are not UTF-8 are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A snapshot as a dataset's history has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// The snapshot's id in hexadecimal.
    pub snapshot: String,
    /// When it was made, by its writer's clock.
    #[serde(serialize_with = "rfc3339")]
    pub created: Timestamp,
    /// Regular files in it.
    pub files: u64,
    /// Sum of their sizes, holes included.
    pub bytes: u64,
    /// What its writer had to say, as much of it as the history keeps.
    pub message: String,
    /// Names that people gave it.
    pub tags: Vec<String>,
}

impl From<&HistoryRow> for LogEntry {
    fn from(row: &HistoryRow) -> Self {
        let HistoryRow { created, id, files, bytes, message, tags, .. } = row.clone();
        Self { snapshot: id.to_string(), created, files, bytes, message, tags }
    }
}

pub(crate) fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_time_ns(i128::from(time.as_unix_ms()) * 1_000_000))
}

/// MiB a second; a time too short to measure counts as a millisecond.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn mib_per_second(bytes: u64, elapsed: std::time::Duration) -> f64 {
    bytes as f64 / (1024.0 * 1024.0) / elapsed.as_secs_f64().max(0.001)
}

/// RFC 3339 in UTC; what lies outside of the calendar is shown as its nearest end.
pub(crate) fn format_time_ns(unix_ns: i128) -> String {
    let time = jiff::Timestamp::from_nanosecond(unix_ns).unwrap_or(if unix_ns < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    });
    time.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_report_has_the_keys_of_the_contract_in_order() {
        let report = PutReport {
            link: "l".into(),
            snapshot: "s".into(),
            files: 1,
            bytes: 2,
            stored_bytes: 3,
            new_bytes: 4,
            segments: 5,
            mib_s: 6.0,
            degraded: false,
            short_shards: 0,
            lease_until: Timestamp::from_unix_ms(1_000),
            failed: Vec::new(),
            conflicts: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"link":"l","snapshot":"s","files":1,"bytes":2,"stored_bytes":3,"new_bytes":4,"segments":5,"mib_s":6.0,"degraded":false,"short_shards":0,"lease_until":"1970-01-01T00:00:01Z"}"#
        );
    }

    #[test]
    fn times_beyond_the_calendar_do_not_fail() {
        assert!(format_time_ns(i128::MAX).starts_with("9999"));
        assert!(format_time_ns(i128::MIN).starts_with("-009999"));
    }
}

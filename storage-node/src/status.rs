//! What a running node says of itself to its operator, through a small file in its first data folder.
//!
//! Decides the file's form and that it is replaced whole, so that a reader never sees half of it. Never decides
//! anything by it: the node only writes it, but for the last time at which its clock was trusted.

use std::path::{Path, PathBuf};

use dolmen_proto::ids::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::replace_file;

/// The file's name in the first data folder.
pub const STATUS_FILE: &str = "status.json";
/// The file that remembers when the clock was last trusted, in milliseconds since the epoch.
const CLOCK_FILE: &str = "clock";
const STATUS_FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Where a node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It serves what it holds.
    Serving,
    /// It lets what is in flight end and takes nothing new.
    Draining,
    /// It ended as it should.
    Stopped,
}

/// How a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// It takes and serves shards.
    Ok,
    /// Its index is being rebuilt; it serves the shards that were found so far.
    Rebuilding,
    /// Its folder has no marker, or is not there: the disk is not mounted. Never written to, never taken as empty.
    Unmounted,
    /// It failed or hangs; what lies on it is not served.
    Failed,
    /// It serves and takes nothing new.
    ReadOnly,
}

/// How far the rebuilding of an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilding {
    /// Volumes read so far.
    pub volumes_read: u64,
    /// Volumes to read.
    pub volumes: u64,
}

/// One data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The folder.
    pub path: PathBuf,
    /// How it is.
    pub state: DiskState,
    /// Why it is not `ok`; empty when it is.
    pub reason: String,
    /// How far it is while it is being rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilding: Option<Rebuilding>,
    /// Bytes of shards under a lease.
    pub live_bytes: u64,
    /// Bytes that compaction will free.
    pub dead_bytes: u64,
    /// Bytes free on the disk.
    pub free_bytes: u64,
}

/// How far a node that goes has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingStatus {
    /// When it goes, in milliseconds since the epoch.
    pub until_ms: u64,
    /// Since when it is going, likewise.
    pub since_ms: u64,
    /// When was counted what follows, likewise; 0: not yet, and all of it is 0.
    pub counted_at_ms: u64,
    /// Shards under a lease that nobody else is known to hold.
    pub shards_here: u64,
    /// Their bytes.
    pub bytes_here: u64,
    /// Shards under a lease that others are known to hold too.
    pub shards_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
}

impl LeavingStatus {
    /// Whether the operator may stop the node: others hold whatever is under a lease here.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.counted_at_ms != 0 && self.shards_here == 0
    }

    /// Bytes that were moved in a second, on average since it is going; 0 where nothing was.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        let elapsed_ms = self.counted_at_ms.saturating_sub(self.since_ms);
        self.bytes_moved.saturating_mul(1000).checked_div(elapsed_ms).unwrap_or(0)
    }

    /// When all will be elsewhere if that goes on as it did, in milliseconds since the epoch; `None`: nobody knows, because
    /// nothing was moved so far.
    #[must_use]
    pub fn done_at_ms(&self) -> Option<u64> {
        if self.bytes_moved == 0 {
            return None;
        }
        let elapsed_ms = self.counted_at_ms.saturating_sub(self.since_ms);
        let left_ms = u128::from(elapsed_ms) * u128::from(self.bytes_here) / u128::from(self.bytes_moved);
        let left_ms = u64::try_from(left_ms).unwrap_or(u64::MAX);
        Some(self.counted_at_ms.saturating_add(left_ms))
    }
}

/// A node at one moment. Keys of the JSON are the fields' names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Process that wrote this.
    pub pid: u32,
    /// Where the node is in its life.
    pub phase: Phase,
    /// The node's id.
    pub node: String,
    /// Version of the software.
    pub software: String,
    /// When the process started, in milliseconds since the epoch.
    pub started_at_ms: u64,
    /// When this was written, likewise.
    pub updated_at_ms: u64,
    /// Seconds since the start, by a steady clock.
    pub uptime_s: u64,
    /// Announced addresses of the data plane.
    pub data_addresses: Vec<String>,
    /// Announced addresses of the directory, with the node's peer id: what others use as bootstrap.
    pub control_addresses: Vec<String>,
    /// Which puts are taken: `all`, `renew-only` or `none`; none while an index is being rebuilt.
    pub accepting: String,
    /// How far it has come, where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<LeavingStatus>,
    /// Most bytes on all disks.
    pub quota_bytes: u64,
    /// Bytes in use of it, dead ones included.
    pub used_bytes: u64,
    /// Most bytes of unlisted accounts.
    pub open_quota_bytes: u64,
    /// Bytes in use of it.
    pub open_used_bytes: u64,
    /// Shards held.
    pub shards: u64,
    /// Leases on them.
    pub leases: u64,
    /// Heads held.
    pub heads: u64,
    /// Bytes reserved by puts that are not over.
    pub in_flight_bytes: u64,
    /// Whether the clock is trusted; where not, nothing expires.
    pub clock_trusted: bool,
    /// By how much it jumped, where it is not.
    pub clock_jump_ms: u64,
    /// Nodes that the directory knows.
    pub known_nodes: u64,
    /// Largest datagram in use on any open data connection; 0 where there is none.
    pub datagram_bytes: u64,
    /// Data connections open.
    pub connections: u64,
    /// The disks.
    pub disks: Vec<DiskStatus>,
}

impl NodeStatus {
    /// Whether the index of any disk is being rebuilt, so that not every call is answered yet.
    #[must_use]
    pub fn is_rebuilding(&self) -> bool {
        self.disks.iter().any(|disk| disk.state == DiskState::Rebuilding)
    }

    /// Whether the process that wrote this is still there. A process with the same id may have taken its place.
    #[must_use]
    pub fn process_is_alive(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        self.phase != Phase::Stopped && pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }
}

/// Replaces the status file in `folder`, whole.
///
/// # Errors
/// What the disk said.
pub fn write(folder: &Path, status: &NodeStatus) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(status).map_err(std::io::Error::other)?;
    text.push(b'\n');
    replace_file(&folder.join(STATUS_FILE), &text)
}

/// The last status that was written in `folder`; `None` where a node never ran.
///
/// # Errors
/// What the disk said, or that the file is not a status of this release.
pub fn read(folder: &Path) -> std::io::Result<Option<NodeStatus>> {
    let path = folder.join(STATUS_FILE);
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > STATUS_FILE_MAX_BYTES => {
            return Err(std::io::Error::other("the status file is not one of ours"));
        }
        Ok(_) => {}
    }
    serde_json::from_slice(&std::fs::read(&path)?).map(Some).map_err(std::io::Error::other)
}

/// The newest status that a node left in one of its data folders; `None`: it never ran.
///
/// # Errors
/// What the disk said, or that a file is not a status of this release.
pub fn last_status(data: &[PathBuf]) -> std::io::Result<Option<NodeStatus>> {
    Ok(last_state(data)?.map(|(_, status)| status))
}

/// The same with the folder that it lies in: the node keeps its state there, and its operator's word about leaving.
///
/// # Errors
/// As [`last_status`].
pub fn last_state(data: &[PathBuf]) -> std::io::Result<Option<(PathBuf, NodeStatus)>> {
    let mut newest: Option<(PathBuf, NodeStatus)> = None;
    for folder in data {
        if let Some(status) = read(folder)?
            && newest.as_ref().is_none_or(|(_, known)| known.updated_at_ms < status.updated_at_ms)
        {
            newest = Some((folder.clone(), status));
        }
    }
    Ok(newest)
}

/// When the clock was last trusted, as far as `folder` remembers. An unreadable memory is none.
#[must_use]
pub fn last_trusted_time(folder: &Path) -> Option<Timestamp> {
    let text = std::fs::read_to_string(folder.join(CLOCK_FILE)).ok()?;
    text.trim().parse().ok().map(Timestamp::from_unix_ms)
}

/// Remembers that the clock was trusted at `now`. Not called while it is in doubt, or a restart would end the doubt.
///
/// # Errors
/// What the disk said.
pub fn remember_trusted_time(folder: &Path, now: Timestamp) -> std::io::Result<()> {
    replace_file(&folder.join(CLOCK_FILE), now.as_unix_ms().to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> NodeStatus {
        NodeStatus {
            pid: std::process::id(),
            phase: Phase::Serving,
            node: "ab".repeat(32),
            software: "0.1.0".to_owned(),
            started_at_ms: 1,
            updated_at_ms: 2,
            uptime_s: 3,
            data_addresses: vec!["127.0.0.1:1".to_owned()],
            control_addresses: Vec::new(),
            accepting: "all".to_owned(),
            leaving: None,
            quota_bytes: 4,
            used_bytes: 5,
            open_quota_bytes: 6,
            open_used_bytes: 7,
            shards: 8,
            leases: 9,
            heads: 10,
            in_flight_bytes: 0,
            clock_trusted: true,
            clock_jump_ms: 0,
            known_nodes: 0,
            datagram_bytes: 0,
            connections: 0,
            disks: vec![DiskStatus {
                path: PathBuf::from("/srv"),
                state: DiskState::Unmounted,
                reason: "no marker".to_owned(),
                rebuilding: None,
                live_bytes: 0,
                dead_bytes: 0,
                free_bytes: 0,
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_and_replaced_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(read(folder.path()).expect("readable"), None);
        write(folder.path(), &status()).expect("written");
        assert_eq!(read(folder.path()).expect("readable"), Some(status()));
        let stopped = NodeStatus { phase: Phase::Stopped, ..status() };
        write(folder.path(), &stopped).expect("written");
        assert_eq!(read(folder.path()).expect("readable"), Some(stopped));
        std::fs::write(folder.path().join(STATUS_FILE), b"{\"pid\":").expect("written");
        assert!(read(folder.path()).is_err());
    }

    #[test]
    fn the_rest_is_estimated_from_what_was_moved_and_not_before() {
        let none = LeavingStatus {
            until_ms: 100_000,
            since_ms: 1_000,
            counted_at_ms: 0,
            shards_here: 0,
            bytes_here: 0,
            shards_moved: 0,
            bytes_moved: 0,
        };
        assert!(!none.is_done(), "nothing was counted yet");
        let counted = LeavingStatus { counted_at_ms: 11_000, shards_here: 3, bytes_here: 3_000, ..none };
        assert_eq!((counted.is_done(), counted.bytes_per_second(), counted.done_at_ms()), (false, 0, None));
        let half = LeavingStatus { shards_moved: 1, bytes_moved: 1_000, ..counted };
        assert_eq!((half.bytes_per_second(), half.done_at_ms()), (100, Some(41_000)));
        let done = LeavingStatus { shards_here: 0, bytes_here: 0, ..half };
        assert_eq!((done.is_done(), done.done_at_ms()), (true, Some(11_000)));
    }

    #[test]
    fn a_stopped_node_is_not_alive_whoever_has_its_number_now() {
        assert!(status().process_is_alive());
        assert!(!NodeStatus { phase: Phase::Stopped, ..status() }.process_is_alive());
        assert!(!NodeStatus { pid: 0, ..status() }.process_is_alive());
    }

    #[test]
    fn the_trusted_time_survives_and_garbage_is_no_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(last_trusted_time(folder.path()), None);
        remember_trusted_time(folder.path(), Timestamp::from_unix_ms(77)).expect("written");
        assert_eq!(last_trusted_time(folder.path()), Some(Timestamp::from_unix_ms(77)));
        std::fs::write(folder.path().join(CLOCK_FILE), b"\xff\xfe").expect("written");
        assert_eq!(last_trusted_time(folder.path()), None);
    }
}

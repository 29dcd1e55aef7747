//! Records of nodes that were seen, in memory and in a file, so that a client that starts again needs no bootstrap
//! node.
//!
//! Decides how many records are remembered, which give way, and the file's bytes. Never believes the file: every
//! signature is checked again, and what does not hold is left out. Expired records are kept, as they tell where a
//! node was, but are never handed out as records.
//!
//! The file: 8 bytes `dolmenNC`, version 1, the number of records (u32), then each record's length (u16) and its
//! bytes as its node signed them; integers little endian. It appears whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::limits::NODE_RECORD_MAX_BYTES;

use super::records::BelievedRecord;

/// Most records that are remembered.
pub(super) const CACHED_RECORDS_MAX: usize = 2048;
/// Expired records are forgotten this long after their expiry.
const CONTACT_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// First bytes of the file, version included.
const FILE_HEAD: &[u8; 9] = b"dolmenNC\x01";
/// Largest file that is read.
const FILE_MAX_BYTES: usize = FILE_HEAD.len() + 4 + CACHED_RECORDS_MAX * (2 + NODE_RECORD_MAX_BYTES);

/// Why the cache file was not used: the fault of this machine's disk, or of whoever wrote the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("it is not a node cache of this version")]
    Foreign,
    #[error("it is cut short or damaged after {0} good records")]
    Damaged(usize),
}

#[derive(Debug)]
struct Entry {
    believed: BelievedRecord,
    /// When the node itself last answered with its record, in this process.
    answered: Option<Instant>,
}

/// Records by node, bounded.
#[derive(Debug, Default)]
pub(super) struct RecordCache {
    entries: BTreeMap<NodeId, Entry>,
    changed: bool,
}

impl RecordCache {
    /// Takes in what a node itself said about itself. `false`: a newer record is known, or there is no room.
    pub(super) fn answered(&mut self, believed: BelievedRecord, now: Timestamp) -> bool {
        self.insert(believed, Some(Instant::now()), now)
    }

    /// Takes in a record from somebody else, or from the file.
    pub(super) fn heard(&mut self, believed: BelievedRecord, now: Timestamp) -> bool {
        self.insert(believed, None, now)
    }

    /// The node's record, if it is of this time.
    pub(super) fn current(&self, node: NodeId, now: Timestamp) -> Option<&BelievedRecord> {
        self.entries.get(&node).map(|entry| &entry.believed).filter(|believed| believed.is_current(now))
    }

    /// Whatever is known about the node, expired or not.
    pub(super) fn known(&self, node: NodeId) -> Option<&BelievedRecord> {
        self.entries.get(&node).map(|entry| &entry.believed)
    }

    /// Whether the node itself answered within `age` and its record is of this time.
    pub(super) fn is_fresh(&self, node: NodeId, age: Duration, now: Timestamp) -> bool {
        self.entries.get(&node).is_some_and(|entry| entry.is_fresh(age, now))
    }

    /// All nodes that answered within `age`, in order of their ids.
    pub(super) fn fresh(&self, age: Duration, now: Timestamp) -> impl Iterator<Item = &BelievedRecord> {
        self.entries.values().filter(move |entry| entry.is_fresh(age, now)).map(|entry| &entry.believed)
    }

    /// Everything known, latest expiry first: where to look for a network.
    pub(super) fn contacts(&self) -> Vec<&BelievedRecord> {
        let mut contacts: Vec<_> = self.entries.values().map(|entry| &entry.believed).collect();
        contacts.sort_by_key(|believed| std::cmp::Reverse(believed.expires_at()));
        contacts
    }

    /// The file's bytes, if anything changed since the last call.
    pub(super) fn take_changes(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.changed).then(|| self.encode())
    }

    /// Notes that what [`RecordCache::to_save`] gave did not reach the disk.
    pub(super) fn not_saved(&mut self) {
        self.changed = true;
    }

    fn insert(&mut self, believed: BelievedRecord, answered: Option<Instant>, now: Timestamp) -> bool {
        if let Some(entry) = self.entries.get_mut(&believed.node) {
            if entry.believed.sequence() > believed.sequence() && entry.believed.is_current(now) {
                return false;
            }
            self.changed |= entry.believed.bytes != believed.bytes;
            entry.answered = answered.or(entry.answered);
            entry.believed = believed;
            return true;
        }
        if self.entries.len() >= CACHED_RECORDS_MAX && !self.make_room(answered.is_some()) {
            return false;
        }
        self.changed = true;
        self.entries.insert(believed.node, Entry { believed, answered });
        true
    }

    /// The record that expires first gives way, of those that did not answer in this process; one that answers now
    /// may also displace one that answered longest ago.
    fn make_room(&mut self, answers: bool) -> bool {
        let unanswered = self.entries.values().filter(|entry| entry.answered.is_none());
        let mut victim = unanswered.min_by_key(|entry| entry.believed.expires_at());
        if victim.is_none() && answers {
            victim = self.entries.values().min_by_key(|entry| entry.answered);
        }
        let Some(victim) = victim.map(|entry| entry.believed.node) else { return false };
        self.entries.remove(&victim).is_some()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = FILE_HEAD.to_vec();
        let count = u32::try_from(self.entries.len()).expect("the cache is bounded far below");
        bytes.extend_from_slice(&count.to_le_bytes());
        for entry in self.entries.values() {
            let record = &entry.believed.bytes;
            let length = u16::try_from(record.len()).expect("records are at most 4 KiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(record);
        }
        bytes
    }

    /// Reads what [`RecordCache::to_save`] gave, leaving out records whose signatures do not hold and those that
    /// expired long ago. What was good before the damage is in `self` even where an error comes back.
    pub(super) fn decode(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), CacheError> {
        let mut rest = bytes.strip_prefix(FILE_HEAD).ok_or(CacheError::Foreign)?;
        let count = take::<4>(&mut rest).map(u32::from_le_bytes).ok_or(CacheError::Damaged(0))?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > CACHED_RECORDS_MAX {
            return Err(CacheError::Damaged(0));
        }
        let mut forged = false;
        for _ in 0..count {
            let length = take::<2>(&mut rest).map(|bytes| usize::from(u16::from_le_bytes(bytes)));
            let record = length.and_then(|length| rest.split_at_checked(length));
            let Some((record, after)) = record else { return Err(CacheError::Damaged(self.entries.len())) };
            rest = after;
            match BelievedRecord::read(Bytes::copy_from_slice(record)) {
                Ok(believed) if believed.expires_at().after(CONTACT_LIFE) < now => {}
                Ok(believed) => {
                    self.heard(believed, now);
                }
                Err(_) => forged = true,
            }
        }
        self.changed = false;
        if forged || !rest.is_empty() {
            return Err(CacheError::Damaged(self.entries.len()));
        }
        Ok(())
    }
}

impl Entry {
    fn is_fresh(&self, age: Duration, now: Timestamp) -> bool {
        self.answered.is_some_and(|answered| answered.elapsed() <= age) && self.believed.is_current(now)
    }
}

/// Reads the file at `path` into a cache; what cannot be used is left out with a warning, a missing file is an empty
/// cache.
pub(super) fn load(path: &Path, now: Timestamp) -> RecordCache {
    let mut cache = RecordCache::default();
    let read = read_bounded(path).and_then(|bytes| cache.decode(&bytes, now));
    match read {
        Ok(()) => {}
        Err(CacheError::File(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "the node cache is not used as it is"),
    }
    cache
}

/// Writes the file whole or not at all, readable by its owner alone: it tells which network somebody uses.
pub(super) fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{:016x}.part", u64::from_le_bytes(random)));
    let temporary: PathBuf = folder.join(name);
    let written = write_new(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _gone = fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, CacheError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > FILE_MAX_BYTES { Err(CacheError::Foreign) } else { Ok(bytes) }
}

fn take<const COUNT: usize>(rest: &mut &[u8]) -> Option<[u8; COUNT]> {
    let (head, tail) = rest.split_first_chunk::<COUNT>()?;
    *rest = tail;
    Some(*head)
}

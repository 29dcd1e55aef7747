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

    /// Notes that what [`RecordCache::take_changes`] gave did not reach the disk.
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

    /// Reads what [`RecordCache::take_changes`] gave, leaving out records whose signatures do not hold and those that
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::super::records::now;
    use super::super::testing::{identity, record, record_of};
    use super::*;

    fn believed(number: u8, sequence: u64) -> BelievedRecord {
        BelievedRecord::read(record(&identity(number), sequence, &[])).expect("a record")
    }

    fn filled(count: u8) -> RecordCache {
        let mut cache = RecordCache::default();
        for number in 1..=count {
            assert!(cache.answered(believed(number, 1), now()));
        }
        cache
    }

    #[test]
    fn a_newer_record_wins_and_an_older_one_is_refused() {
        let mut cache = RecordCache::default();
        let id = identity(1).node_id();
        assert!(cache.answered(believed(1, 5), now()));
        assert!(!cache.heard(believed(1, 4), now()));
        assert!(cache.heard(believed(1, 6), now()));
        assert_eq!(cache.current(id, now()).map(BelievedRecord::sequence), Some(6));
        assert!(cache.is_fresh(id, Duration::from_secs(60), now()), "it did answer");
        assert_eq!(cache.current(id, now().after(Duration::from_secs(7200))).map(BelievedRecord::sequence), None);
        assert!(cache.known(id).is_some(), "an expired record still tells where the node was");
    }

    #[test]
    fn what_was_only_heard_is_not_fresh() {
        let mut cache = RecordCache::default();
        cache.heard(believed(1, 1), now());
        assert_eq!(cache.fresh(Duration::MAX, now()).count(), 0);
        assert!(cache.current(identity(1).node_id(), now()).is_some());
    }

    #[test]
    fn the_cache_is_bounded_and_those_who_answer_displace_those_who_do_not() {
        let mut cache = RecordCache::default();
        let first = believed(1, 1);
        for index in 0..CACHED_RECORDS_MAX {
            let mut node = [0xff; 32];
            node[..8].copy_from_slice(&index.to_le_bytes());
            let filler = BelievedRecord { node: NodeId::new(node), ..first.clone() };
            assert!(if index % 2 == 0 { cache.heard(filler, now()) } else { cache.answered(filler, now()) });
        }
        for number in 1..=10 {
            assert!(cache.answered(believed(number, 1), now()));
            assert_eq!(cache.entries.len(), CACHED_RECORDS_MAX);
        }
        assert_eq!(cache.fresh(Duration::MAX, now()).count(), CACHED_RECORDS_MAX / 2 + 10);
    }

    #[test]
    fn the_file_brings_everything_back_but_freshness() {
        let mut cache = filled(5);
        let bytes = cache.take_changes().expect("changes");
        assert_eq!(cache.take_changes(), None);
        cache.not_saved();
        assert_eq!(cache.take_changes().as_ref(), Some(&bytes));
        let mut read = RecordCache::default();
        read.decode(&bytes, now()).expect("a good file");
        assert_eq!(read.contacts().len(), 5);
        assert_eq!(read.fresh(Duration::MAX, now()).count(), 0);
        assert_eq!(read.take_changes(), None);
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_a_damaged_record_left_out() {
        let bytes = filled(2).take_changes().expect("changes");
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x40;
            let mut cache = RecordCache::default();
            assert!(cache.decode(&damaged, now()).is_err(), "byte {position}");
            let in_a_record = position >= FILE_HEAD.len() + 4;
            assert!(!in_a_record || cache.contacts().len() < 2, "byte {position}: a damaged record is left out");
        }
        for length in 0..bytes.len() {
            assert!(RecordCache::default().decode(&bytes[..length], now()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn records_long_expired_are_forgotten() {
        let day = Duration::from_secs(86_400);
        let mut cache = RecordCache::default();
        for (number, age) in [(1, day), (2, day * 40)] {
            let bytes = record_of(&identity(number), 1, &[], now().before(age), Duration::from_secs(3600));
            cache.heard(BelievedRecord::read(bytes).expect("a record"), now());
        }
        let bytes = cache.take_changes().expect("changes");
        let mut read = RecordCache::default();
        read.decode(&bytes, now()).expect("a good file");
        let contacts: Vec<_> = read.contacts().iter().map(|contact| contact.node).collect();
        assert_eq!(contacts, [identity(1).node_id()]);
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn load_with_log(path: &Path) -> (RecordCache, String) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let cache = tracing::subscriber::with_default(subscriber, || load(path, now()));
        let text = String::from_utf8_lossy(&log.0.lock().expect("no panic")).into_owned();
        (cache, text)
    }

    #[test]
    fn a_garbage_file_is_ignored_with_a_warning_and_replaced_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("cache").join("nodes");
        let (cache, log) = load_with_log(&path);
        assert!(cache.entries.is_empty() && log.is_empty(), "no file is no fault: {log}");

        save(&path, b"garbage").expect("a write");
        let (cache, log) = load_with_log(&path);
        assert!(cache.entries.is_empty());
        assert!(log.contains("WARN") && log.contains("node cache"), "{log}");

        save(&path, &filled(3).take_changes().expect("changes")).expect("a write");
        let (cache, log) = load_with_log(&path);
        assert!(cache.entries.len() == 3 && log.is_empty(), "{log}");
        assert_eq!(
            fs::read_dir(path.parent().expect("a folder")).expect("a listing").count(),
            1,
            "nothing is left over"
        );

        let endless = File::create(&path).expect("a file");
        endless.set_len(1 << 40).expect("a sparse file");
        assert!(load_with_log(&path).1.contains("WARN"), "a file of any length is refused");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), headed: bool) {
            let bytes = if headed { [FILE_HEAD, bytes.as_slice()].concat() } else { bytes };
            let mut cache = RecordCache::default();
            let _refused = cache.decode(&bytes, now());
            prop_assert!(cache.entries.is_empty());
        }
    }
}

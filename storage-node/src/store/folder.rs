//! One data folder: a disk with its volumes, its catalogue and its state.
//!
//! Decides whether the folder may be used, and how much room it has. A folder that fails takes nothing else down.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use dolmen_proto::ids::ShardRoot;

use super::append::Appender;
use super::catalogue::{Catalogue, Entry, Totals};
use super::commit::CommitQueue;
use super::marker::{Marker, VOLUME_START, volume_name};
use super::pages::PageBuffer;
use super::rebuild::Rebuild;
use super::record::Record;
use super::scrub::Cursor;
use super::sync::{lock, read};
use super::volume::{Mode, Volume};
use super::watch::{WatchedDisk, WatchedFile};
use super::{FolderState, FolderUsage, StoreError, StoreOptions};
use crate::disk::{Disk, PAGE_BYTES};

/// Memory of puts that is kept when they are over, in pieces.
const SPARE_BUFFERS_MAX: usize = 16;

/// The file type of a folder.
pub(crate) type FileOf<D> = WatchedFile<<D as Disk>::File>;
/// The volume type of a folder.
pub(crate) type VolumeOf<D> = Volume<FileOf<D>>;

/// What part of the reserve a record may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// None of it.
    Shard,
    /// Half of it: leases, heads, copies of compaction.
    Small,
    /// All of it: what ends something, since only that makes room again.
    Ending,
}

/// One data folder that was opened.
pub(crate) struct Folder<D: Disk> {
    pub(crate) name: String,
    pub(crate) disk: WatchedDisk<D>,
    pub(crate) marker: Marker,
    pub(crate) options: Arc<StoreOptions>,
    pub(crate) capacity_bytes: u64,
    /// Shared by all folders, so that copies of one key on two of them have an order.
    pub(crate) generations: Arc<AtomicU64>,
    pub(crate) catalogue: Catalogue,
    pub(crate) totals: Mutex<Totals>,
    /// Roots and points for which a lease or a head is being written: such shards are kept although no lease counts yet, and
    /// expiry leaves them alone.
    pub(crate) pins: Mutex<BTreeMap<[u8; 32], u32>>,
    pub(crate) volumes: RwLock<BTreeMap<u64, Arc<VolumeOf<D>>>>,
    pub(crate) append: Mutex<Appender<D>>,
    pub(crate) closed: AtomicBool,
    pub(crate) rebuild: Arc<Rebuild>,
    /// Apart from whether it is being rebuilt.
    state: Mutex<FolderState>,
    /// Bytes of extents that are reserved and not complete.
    pub(crate) outstanding: AtomicU64,
    /// Device's free bytes when last asked.
    device_free: AtomicU64,
    /// Sealed volumes whose files are open, oldest first.
    opened: Mutex<VecDeque<u64>>,
    pub(crate) queue: OnceLock<CommitQueue>,
    pub(crate) cursor: Mutex<Cursor>,
    /// Held by compaction: one at a time on a folder.
    pub(crate) maintenance: Mutex<()>,
    pub(crate) sync_failures: AtomicU64,
    /// Memory of puts that are over: fresh memory costs a page fault every 4 KiB.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl<D: Disk> Folder<D> {
    /// Where a put gathers the body of a record.
    pub(crate) fn page_buffer(&self, record: &Record) -> PageBuffer {
        let memory = lock(&self.spare).pop().unwrap_or_default();
        let all = record.end() - record.body_offset();
        let capacity =
            usize::try_from(all).map_or(usize::MAX, |all| all + PAGE_BYTES).min(self.options.write_buffer_bytes);
        PageBuffer::new(memory, capacity, record.body_offset())
    }

    /// Takes memory of a put that is over.
    pub(crate) fn give_back(&self, buffer: Option<PageBuffer>) {
        let mut spare = lock(&self.spare);
        if let Some(buffer) = buffer.filter(|_| spare.len() < SPARE_BUFFERS_MAX) {
            spare.push(buffer.into_memory());
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        name: String,
        disk: WatchedDisk<D>,
        marker: Marker,
        options: Arc<StoreOptions>,
        capacity_bytes: Option<u64>,
        generations: Arc<AtomicU64>,
        catalogue: Catalogue,
    ) -> Self {
        Self {
            name,
            disk,
            marker,
            options,
            capacity_bytes: capacity_bytes.unwrap_or(u64::MAX),
            generations,
            catalogue,
            totals: Mutex::default(),
            pins: Mutex::default(),
            volumes: RwLock::default(),
            append: Mutex::default(),
            closed: AtomicBool::new(false),
            rebuild: Arc::default(),
            state: Mutex::new(FolderState::Ready),
            outstanding: AtomicU64::new(0),
            device_free: AtomicU64::new(0),
            opened: Mutex::default(),
            queue: OnceLock::new(),
            cursor: Mutex::default(),
            maintenance: Mutex::new(()),
            sync_failures: AtomicU64::new(0),
            spare: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> FolderState {
        let state = lock(&self.state).clone();
        match state {
            FolderState::Ready | FolderState::ReadOnly(_) if !self.is_whole() => self.rebuild.state(),
            state => state,
        }
    }

    /// Closes the folder for writing, or altogether; never the other way round.
    pub(crate) fn degrade(&self, state: FolderState) {
        let mut current = lock(&self.state);
        if !matches!(*current, FolderState::Failed(_)) && *current != state {
            tracing::error!(folder = self.name, ?state, "a data folder is taken out of use");
            *current = state;
        }
    }

    fn refused(&self, reason: String) -> StoreError {
        StoreError::Folder { folder: self.name.clone(), reason }
    }

    pub(crate) fn check_readable(&self) -> Result<(), StoreError> {
        match &*lock(&self.state) {
            FolderState::Ready | FolderState::ReadOnly(_) | FolderState::Rebuilding { .. } => Ok(()),
            FolderState::Failed(reason) => Err(self.refused(reason.clone())),
            FolderState::Unmounted | FolderState::Foreign(_) => Err(self.refused("not this node's".to_owned())),
        }
    }

    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        match &*lock(&self.state) {
            FolderState::Ready | FolderState::Rebuilding { .. } => Ok(()),
            FolderState::ReadOnly(reason) | FolderState::Failed(reason) => Err(self.refused(reason.clone())),
            FolderState::Unmounted | FolderState::Foreign(_) => Err(self.refused("not this node's".to_owned())),
        }
    }

    pub(crate) fn io_error(&self, action: &'static str, error: &io::Error) -> StoreError {
        StoreError::Io { folder: self.name.clone(), action, reason: error.to_string(), kind: error.kind() }
    }

    /// The error of a failed write: a full disk is a state, anything else closes the folder for writing.
    pub(crate) fn write_error(&self, action: &'static str, wanted: u64, error: &io::Error) -> StoreError {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return StoreError::DiskFull { wanted };
        }
        self.degrade(FolderState::ReadOnly(format!("{action}: {error}")));
        self.io_error(action, error)
    }

    pub(crate) fn index_error(&self, reason: String) -> StoreError {
        tracing::error!(folder = self.name, reason, "the index failed");
        StoreError::Index { folder: self.name.clone(), reason }
    }

    pub(crate) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::SeqCst)
    }

    /// A volume that is there.
    pub(crate) fn volume(&self, number: u64) -> Option<Arc<VolumeOf<D>>> {
        read(&self.volumes).get(&number).cloned()
    }

    /// All volumes in order of their numbers.
    pub(crate) fn all_volumes(&self) -> Vec<Arc<VolumeOf<D>>> {
        read(&self.volumes).values().cloned().collect()
    }

    /// Whether any volume may hold records that its failed sync lost for this run and that the next opening may find.
    pub(crate) fn has_suspects(&self) -> bool {
        self.all_volumes().iter().any(|volume| lock(&volume.tail).mode == Mode::Suspect)
    }

    /// A volume's file, opened where it is not; of sealed volumes only a bounded number stays open.
    pub(crate) fn file(&self, volume: &VolumeOf<D>) -> io::Result<Arc<FileOf<D>>> {
        let mut slot = lock(&volume.file);
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = Arc::new(self.disk.open(&volume_name(volume.number), false)?);
        *slot = Some(file.clone());
        drop(slot);
        let evicted = {
            let mut opened = lock(&self.opened);
            opened.push_back(volume.number);
            if opened.len() > self.options.open_files_max { opened.pop_front() } else { None }
        };
        // One that is not sealed keeps its file: a failed sync is reported only to files that were open at the write.
        if let Some(evicted) = evicted.and_then(|number| self.volume(number))
            && lock(&evicted.tail).mode == Mode::Sealed
        {
            lock(&evicted.file).take();
        }
        Ok(file)
    }

    /// Remembers that a volume's file was handed over open, or must be found among the open ones once sealed.
    pub(crate) fn file_may_close(&self, number: u64) {
        let mut opened = lock(&self.opened);
        if !opened.contains(&number) {
            opened.push_back(number);
        }
    }

    /// Bytes of all volumes.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.all_volumes().iter().map(|volume| lock(&volume.tail).end).sum()
    }

    /// Bytes of room for a kind of record, as the device says now.
    pub(crate) fn room(&self, room: Room) -> io::Result<u64> {
        self.device_free.store(self.disk.free_bytes()?, Ordering::SeqCst);
        Ok(self.known_room(room))
    }

    /// Bytes of room for a kind of record, as the device last said.
    pub(crate) fn known_room(&self, room: Room) -> u64 {
        let reserve = match room {
            Room::Shard => self.options.reserve_bytes,
            Room::Small => self.options.reserve_bytes / 2,
            Room::Ending => 0,
        };
        // What is reserved and partly written counts twice for a while: the error is to the safe side.
        let outstanding = self.outstanding.load(Ordering::SeqCst);
        let device = self.device_free.load(Ordering::SeqCst).saturating_sub(reserve).saturating_sub(outstanding);
        if room == Room::Shard && self.capacity_bytes != u64::MAX {
            device.min(self.capacity_bytes.saturating_sub(self.total_bytes()))
        } else {
            device
        }
    }

    pub(crate) fn usage(&self) -> FolderUsage {
        let totals = lock(&self.totals).clone();
        let volumes = self.all_volumes();
        let total_bytes: u64 = volumes.iter().map(|volume| lock(&volume.tail).end).sum();
        let live_bytes = totals.live.values().sum();
        let whole = self.is_whole();
        let overhead = VOLUME_START * volumes.len() as u64 + self.outstanding.load(Ordering::SeqCst);
        FolderUsage {
            shards: totals.shards,
            shard_bytes: totals.shard_bytes,
            damaged: totals.damaged,
            leases: totals.leases,
            heads: totals.heads,
            live_bytes,
            // What was read and is not in the index yet may count.
            dead_bytes: if whole { total_bytes.saturating_sub(overhead).saturating_sub(live_bytes) } else { 0 },
            total_bytes,
            free_bytes: if whole && self.check_writable().is_ok() { self.known_room(Room::Shard) } else { 0 },
            volumes: volumes.len() as u64,
        }
    }

    /// Keeps a shard from going, and expiry from a root or point, while a lease or a head is being written.
    pub(crate) fn pin(&self, key: &[u8; 32]) {
        *lock(&self.pins).entry(*key).or_default() += 1;
    }

    /// Whether a lease or a head is being written for a root or point.
    pub(crate) fn is_pinned(&self, key: &[u8; 32]) -> bool {
        lock(&self.pins).contains_key(key)
    }

    /// As [`Folder::pin`], if the shard is known here; says what is known.
    pub(crate) fn pin_known(&self, root: &ShardRoot) -> Result<Option<Entry>, StoreError> {
        let mut pins = lock(&self.pins);
        let entry = self.catalogue.shard(root).map_err(|reason| self.index_error(reason))?;
        if entry.is_some() {
            *pins.entry(*root.as_bytes()).or_default() += 1;
        }
        Ok(entry)
    }

    /// Ends one pin; the last one lets a shard go if nobody has a lease.
    pub(crate) fn unpin(&self, totals: &mut Totals, key: &[u8; 32]) -> Result<(), String> {
        let mut pins = lock(&self.pins);
        if let Some(count) = pins.get_mut(key) {
            *count -= 1;
            if *count > 0 {
                return Ok(());
            }
            pins.remove(key);
        }
        self.catalogue.drop_unleased(totals, &ShardRoot::new(*key)).map(|_| ())
    }

    /// Ends one pin of something that came to nothing.
    pub(crate) fn unpin_failed(&self, key: &[u8; 32]) {
        let mut totals = lock(&self.totals);
        if let Err(reason) = self.unpin(&mut totals, key) {
            self.index_error(reason);
        }
    }

    /// Lets a shard go if nobody has a lease on it or is about to.
    pub(crate) fn drop_if_unleased(&self, totals: &mut Totals, root: &[u8; 32]) -> Result<(), String> {
        let pins = lock(&self.pins);
        if pins.contains_key(root) {
            return Ok(());
        }
        self.catalogue.drop_unleased(totals, &ShardRoot::new(*root)).map(|_| ())
    }
}

//! Opening a data folder: its marker, its volumes, and whether its index agrees with them.
//!
//! Decides whether a folder is this node's and whether its index can be believed: only when the store was closed and
//! every volume has the length noted then. Never reads a volume: an index that is not believed is filled by
//! [`super::rebuild`] while the node serves.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dolmen_proto::ids::Timestamp;

use super::catalogue::{Catalogue, Totals};
use super::folder::{Folder, Room};
use super::index::{Index, MemoryIndex, SledIndex};
use super::marker::{read_marker, volume_number};
use super::record::u64_at;
use super::sync::{lock, write};
use super::volume::{Mode, Volume};
use super::watch::WatchedDisk;
use super::{
    DataFolder, FolderReport, FolderState, IndexPlace, IndexState, OpenReport, Slot, Store, StoreError, StoreOptions,
};
use crate::disk::{Disk, DiskFile};

/// Present in the index while it agrees with the volumes: set at closing, removed at opening.
const CLEAN_NOTE: &[u8] = b"clean";
const TOTALS_NOTE: &[u8] = b"totals";
const CURSOR_NOTE: &[u8] = b"scrub";
const VOLUME_NOTE: &[u8] = b"v";

/// Opens one folder. One that cannot be used is only reported. `staged_max`: records that its rebuild may gather in memory.
pub(crate) fn open_folder<D: Disk>(
    spec: DataFolder<D>,
    options: &Arc<StoreOptions>,
    generations: &Arc<AtomicU64>,
    staged_max: usize,
) -> (Option<Arc<Folder<D>>>, FolderReport) {
    let mut report = FolderReport {
        name: spec.name.clone(),
        disk: None,
        state: FolderState::Ready,
        index: IndexState::None,
        volumes: 0,
        walked: 0,
        torn: 0,
        damaged: 0,
        unreadable: Vec::new(),
    };
    match try_open(spec, options, generations, staged_max, &mut report) {
        Ok(folder) => (folder, report),
        Err(error) => {
            tracing::error!(folder = report.name, %error, "a data folder cannot be used");
            report.state = FolderState::Failed(error.to_string());
            report.index = IndexState::None;
            (None, report)
        }
    }
}

fn try_open<D: Disk>(
    spec: DataFolder<D>,
    options: &Arc<StoreOptions>,
    generations: &Arc<AtomicU64>,
    staged_max: usize,
    report: &mut FolderReport,
) -> Result<Option<Arc<Folder<D>>>, StoreError> {
    let io_error = |action, error: &io::Error| StoreError::Io {
        folder: report.name.clone(),
        action,
        reason: error.to_string(),
        kind: error.kind(),
    };
    let disk = WatchedDisk::new(spec.disk);
    let Some(marker) = read_marker(&disk).map_err(|error| io_error("reading the marker", &error))? else {
        report.state = FolderState::Unmounted;
        return Ok(None);
    };
    report.disk = Some(marker.disk_id());
    if marker.node != options.node {
        report.state = FolderState::Foreign(marker.node);
        return Ok(None);
    }
    let names = disk.list().map_err(|error| io_error("listing the folder", &error))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| volume_number(name)).collect();
    numbers.sort_unstable();

    let index_error = |reason| StoreError::Index { folder: report.name.clone(), reason };
    let (index, intact): (Box<dyn Index>, bool) = match &spec.index {
        IndexPlace::Memory => (Box::new(MemoryIndex::default()), true),
        IndexPlace::Sled(path) => {
            let (index, intact) = SledIndex::open(path, options.index_cache_bytes).map_err(index_error)?;
            (Box::new(index), intact)
        }
    };
    let folder = Arc::new(Folder::new(
        spec.name,
        disk,
        marker,
        options.clone(),
        spec.capacity_bytes,
        generations.clone(),
        Catalogue::new(index),
    ));
    folder.room(Room::Shard).map_err(|error| folder.io_error("asking for free space", &error))?;
    lock(&folder.append).next = numbers.last().map_or(1, |last| last.saturating_add(1));

    let believed = if intact { folder.believe_index(&numbers) } else { Err("it did not open".to_owned()) };
    match believed {
        Ok(()) => {
            folder.rebuild.none_needed();
            report.index = IndexState::Clean;
        }
        Err(reason) => {
            folder.rebuild.needed(&numbers, staged_max, &reason);
            report.index = IndexState::Rebuilding(reason.clone());
            if numbers.is_empty() {
                // Nothing to read and nothing to settle.
                folder.rebuild_step()?;
                folder.rebuild.none_needed();
                report.index = IndexState::Rebuilt(reason);
            }
        }
    }
    report.volumes = numbers.len();
    report.state = folder.state();
    Ok(Some(folder))
}

impl<D: Disk> Store<D> {
    /// As [`Store::open`], and rebuilds what is to be rebuilt at once, which takes minutes on a large disk that was not
    /// closed. `now` as in [`Store::rebuild`].
    ///
    /// # Errors
    /// `NoFolder` when none can be used.
    pub fn open_whole(
        folders: Vec<DataFolder<D>>,
        options: StoreOptions,
        now: Timestamp,
    ) -> Result<(Self, OpenReport), StoreError> {
        let (store, _) = Self::open(folders, options)?;
        store.rebuild(now)?;
        let report = store.usable_report()?;
        Ok((store, report))
    }

    /// What is known of all folders, unless none can be used.
    pub(super) fn usable_report(&self) -> Result<OpenReport, StoreError> {
        let report = self.report();
        let unusable = |folder: &FolderReport| {
            matches!(folder.state, FolderState::Failed(_) | FolderState::Unmounted | FolderState::Foreign(_))
        };
        if report.folders.iter().all(unusable) {
            let states = report.folders.iter().map(|folder| format!("{}: {:?}", folder.name, folder.state));
            return Err(StoreError::NoFolder(states.collect::<Vec<_>>().join("; ")));
        }
        Ok(report)
    }

    pub(super) fn report(&self) -> OpenReport {
        let report = |slot: &Slot<D>| {
            let mut report = lock(&slot.report).clone();
            if let Some(folder) = &slot.folder {
                report.state = folder.state();
            }
            if matches!(report.state, FolderState::Failed(_)) {
                report.index = IndexState::None;
            }
            report
        };
        OpenReport { folders: self.inner.slots.iter().map(report).collect() }
    }
}

impl<D: Disk> Folder<D> {
    /// Takes over an index that was closed and whose volumes are as they were then; says why not otherwise. Either way it is
    /// unclean from here on.
    fn believe_index(&self, numbers: &[u64]) -> Result<(), String> {
        let clean = self.catalogue.note(CLEAN_NOTE)?;
        self.catalogue.set_notes(vec![(CLEAN_NOTE.to_vec(), None)])?;
        self.catalogue.flush()?;
        if clean.is_none_or(|clean| clean != self.marker.disk_id().0) {
            return Err("the store was not closed".to_owned());
        }
        let notes = self.catalogue.notes(VOLUME_NOTE)?;
        if notes.len() != numbers.len() {
            return Err("it knows other volumes".to_owned());
        }
        let mut totals = Totals::default();
        let mut volumes = BTreeMap::new();
        for ((name, value), number) in notes.iter().zip(numbers) {
            let expected = [VOLUME_NOTE, number.to_be_bytes().as_slice()].concat();
            if *name != expected || value.len() != 24 {
                return Err("it knows other volumes".to_owned());
            }
            let (end, oldest, live) = (u64_at(value, 0), u64_at(value, 8), u64_at(value, 16));
            let volume = Volume::new(*number, self.marker.salt(*number), end, Mode::Sealed, oldest);
            let length = self.file(&volume).and_then(|file| file.len()).map_err(|error| error.to_string())?;
            if length != end {
                return Err(format!("volume {number} has another length"));
            }
            totals.live.insert(*number, live);
            volumes.insert(*number, Arc::new(volume));
        }
        let noted = self.catalogue.note(TOTALS_NOTE)?.filter(|noted| noted.len() == 48);
        let noted = noted.ok_or_else(|| "its totals are missing".to_owned())?;
        totals.shards = u64_at(&noted, 0);
        totals.shard_bytes = u64_at(&noted, 8);
        totals.damaged = u64_at(&noted, 16);
        totals.leases = u64_at(&noted, 24);
        totals.heads = u64_at(&noted, 32);
        self.generations.fetch_max(u64_at(&noted, 40), Ordering::SeqCst);
        if let Some(cursor) = self.catalogue.note(CURSOR_NOTE)?.filter(|cursor| cursor.len() == 16) {
            let mut place = lock(&self.cursor);
            place.volume = u64_at(&cursor, 0);
            place.offset = u64_at(&cursor, 8);
        }
        *write(&self.volumes) = volumes;
        *lock(&self.totals) = totals;
        Ok(())
    }

    /// Notes what [`Folder::believe_index`] will compare, and makes the index durable.
    pub(crate) fn close_index(&self) -> Result<(), String> {
        let totals = lock(&self.totals).clone();
        let mut notes: Vec<_> = self.catalogue.notes(VOLUME_NOTE)?.into_iter().map(|(name, _)| (name, None)).collect();
        for volume in self.all_volumes() {
            let tail = lock(&volume.tail);
            let live = totals.live.get(&volume.number).copied().unwrap_or_default();
            let value = [tail.end, tail.oldest, live].map(u64::to_le_bytes).concat();
            notes.push(([VOLUME_NOTE, volume.number.to_be_bytes().as_slice()].concat(), Some(value)));
        }
        let next = self.generations.load(Ordering::SeqCst);
        let counts = [totals.shards, totals.shard_bytes, totals.damaged, totals.leases, totals.heads, next];
        notes.push((TOTALS_NOTE.to_vec(), Some(counts.map(u64::to_le_bytes).concat())));
        let cursor = *lock(&self.cursor);
        let cursor = [cursor.volume, cursor.offset].map(u64::to_le_bytes).concat();
        notes.push((CURSOR_NOTE.to_vec(), Some(cursor)));
        self.catalogue.set_notes(notes)?;
        self.catalogue.flush()?;
        self.catalogue.set_notes(vec![(CLEAN_NOTE.to_vec(), Some(self.marker.disk_id().0.to_vec()))])?;
        self.catalogue.flush()
    }
}

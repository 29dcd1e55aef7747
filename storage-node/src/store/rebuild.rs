//! Filling a folder's index from its volumes while what was found so far is served.
//!
//! Decides what is said of a folder whose index is not whole: a shard that was found is read, and of everything else
//! nothing is said, for what makes it wrong may lie in a volume that was not read yet. Never writes a record: what has to be
//! settled once all is read is [`super::settle`]'s. An interrupted rebuild starts again at the next opening; most
//! volumes that were walked are closed by then.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use dolmen_proto::ids::{ShardRoot, Timestamp};

use super::catalogue::{Entry, Staged};
use super::folder::{FileOf, Folder, VolumeOf};
use super::marker::{VOLUME_START, volume_name};
use super::record::{Kind, Record};
use super::sync::{lock, read, write};
use super::volume::{Mode, Volume, encode_table, read_table};
use super::walk::{BadPlacesAsZero, Walked, walk};
use super::{FolderReport, FolderState, IndexState, OpenReport, Store, StoreError};
use crate::disk::{Disk, DiskFile};

/// How far a folder's index is; of one that was believed, whole from the start.
#[derive(Debug, Default)]
pub(crate) struct Rebuild {
    whole: AtomicBool,
    /// Whoever rebuilds gives up soon.
    stopped: AtomicBool,
    /// The index holds nothing from before this rebuild any more.
    cleared: AtomicBool,
    /// Every volume was read and is in the index.
    all_read: AtomicBool,
    volumes: AtomicU64,
    volumes_read: AtomicU64,
    /// Records that were found and are not in the index yet.
    staged: RwLock<Staged>,
    /// Held by whoever rebuilds, a step at a time, and by whoever closes the folder.
    pub(crate) work: Mutex<Work>,
}

/// What is left to do, and what was found on the way.
#[derive(Debug, Default)]
pub(crate) struct Work {
    left: VecDeque<u64>,
    staged_max: usize,
    /// Why the index was not believed.
    reason: String,
    /// For each volume without a table: every record below was on disk at some time.
    pub(crate) durable: BTreeMap<u64, u64>,
    /// Volumes that are not closed before all is settled.
    open: Vec<OpenVolume>,
    walked: usize,
    torn: usize,
    unreadable: Vec<String>,
    next_generation: u64,
    settled: bool,
}

/// A walked volume with leases of which nobody can say that they were ever on disk. Its table would vouch for them, so
/// it is written only once those without a shard were ended, durably.
#[derive(Debug)]
struct OpenVolume {
    number: u64,
    length: u64,
    rows: Vec<Record>,
}

impl Work {
    /// Takes down what the rebuild came to.
    fn tell(&mut self, report: &mut FolderReport) {
        report.index = IndexState::Rebuilt(std::mem::take(&mut self.reason));
        report.walked = self.walked;
        report.torn = self.torn;
        report.unreadable = std::mem::take(&mut self.unreadable);
    }
}

impl Rebuild {
    /// The index is whole as it is.
    pub(crate) fn none_needed(&self) {
        self.whole.store(true, Ordering::SeqCst);
    }

    /// The index is to be filled from these volumes, with at most `staged_max` records gathered in memory.
    pub(crate) fn needed(&self, numbers: &[u64], staged_max: usize, reason: &str) {
        self.volumes.store(numbers.len() as u64, Ordering::SeqCst);
        let mut work = lock(&self.work);
        work.left = numbers.iter().copied().collect();
        work.staged_max = staged_max;
        reason.clone_into(&mut work.reason);
        work.next_generation = 1;
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::SeqCst)
    }

    pub(crate) fn state(&self) -> FolderState {
        FolderState::Rebuilding {
            volumes_read: self.volumes_read.load(Ordering::SeqCst),
            volumes: self.volumes.load(Ordering::SeqCst),
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub(crate) fn check_running(&self) -> Result<(), StoreError> {
        if self.stopped.load(Ordering::SeqCst) { Err(StoreError::Closed) } else { Ok(()) }
    }
}

/// What one volume holds.
struct Found {
    header: Vec<u8>,
    /// By its table, or by walking it.
    contents: Result<Vec<Record>, Walked>,
}

impl Found {
    fn read<F: DiskFile>(file: &F, salt: &[u8; 32], length: u64) -> io::Result<Self> {
        let mut header = vec![0; usize::try_from(VOLUME_START).expect("8 KiB fit memory")];
        file.read_at(&mut header, 0)?;
        let contents = match read_table(file, salt, length)? {
            Some(rows) => Ok(rows),
            None => {
                // What is only in the operating system's cache may be gone for good after an earlier failed sync: what the
                // walk believes must come from the device.
                if let Err(error) = file.sync() {
                    tracing::warn!(%error, "a volume that was not closed cannot be synced");
                }
                file.forget_cached();
                Err(walk(file, salt, length)?)
            }
        };
        Ok(Self { header, contents })
    }
}

/// A file that cannot be read any more once the rebuild is stopped. It must lie around [`BadPlacesAsZero`], never inside of
/// it, where the end of the rebuild would be taken for damage.
struct Stoppable<F>(Arc<F>, Arc<Rebuild>);

impl<F: DiskFile> DiskFile for Stoppable<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.check_running().map_err(io::Error::other)?;
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }

    fn forget_cached(&self) {
        self.0.forget_cached();
    }
}

impl<D: Disk> Folder<D> {
    /// Whether the index says all there is to say.
    pub(crate) fn is_whole(&self) -> bool {
        self.rebuild.is_whole()
    }

    /// Where a shard lies, or that it is lost: the newest record of it that was found so far.
    pub(crate) fn shard_entry(&self, root: &ShardRoot) -> Result<Option<Entry>, String> {
        if self.is_whole() {
            return self.catalogue.shard(root);
        }
        // In this order: records move from the one to the other.
        let staged = read(&self.rebuild.staged).shard(root);
        let cleared = self.rebuild.cleared.load(Ordering::SeqCst);
        let applied = if cleared { self.catalogue.shard(root)? } else { None };
        let order = |entry: &Entry| (entry.generation, entry.volume);
        Ok(staged.into_iter().chain(applied).max_by_key(order))
    }

    /// Reads the next volume; says whether there are more. A folder that cannot be read is taken out of use.
    pub(crate) fn rebuild_step(&self) -> Result<bool, StoreError> {
        let mut work = lock(&self.rebuild.work);
        if self.is_whole() || self.rebuild.all_read.load(Ordering::SeqCst) {
            return Ok(false);
        }
        self.rebuild.check_running()?;
        self.check_readable()?;
        self.rebuild_next(&mut work).map_err(|error| {
            if self.rebuild.check_running().is_err() {
                return StoreError::Closed;
            }
            self.degrade(FolderState::Failed(error.to_string()));
            error
        })
    }

    fn rebuild_next(&self, work: &mut Work) -> Result<bool, StoreError> {
        if !self.rebuild.cleared.load(Ordering::SeqCst) {
            self.catalogue.clear().map_err(|reason| self.index_error(reason))?;
            self.rebuild.cleared.store(true, Ordering::SeqCst);
        }
        if let Some(number) = work.left.front().copied() {
            self.rebuild_volume(number, work).map_err(|error| self.io_error("reading a volume", &error))?;
            work.left.pop_front();
            self.rebuild.volumes_read.fetch_add(1, Ordering::SeqCst);
        }
        let last = work.left.is_empty();
        if last || read(&self.rebuild.staged).len() >= work.staged_max {
            self.apply_staged()?;
        }
        if last {
            self.generations.fetch_max(work.next_generation, Ordering::SeqCst);
            self.rebuild.all_read.store(true, Ordering::SeqCst);
        }
        Ok(!last)
    }

    fn apply_staged(&self) -> Result<(), StoreError> {
        // Nobody else changes them before the folder is whole, and they are not locked while the index works.
        let mut totals = lock(&self.totals).clone();
        // Found here until it is found there.
        let applied = self.catalogue.apply_staged(&mut totals, &read(&self.rebuild.staged));
        applied.map_err(|reason| self.index_error(reason))?;
        *lock(&self.totals) = totals;
        *write(&self.rebuild.staged) = Staged::default();
        Ok(())
    }

    fn rebuild_volume(&self, number: u64, work: &mut Work) -> io::Result<()> {
        let name = volume_name(number);
        let volume = Volume::new(number, self.marker.salt(number), VOLUME_START, Mode::Sealed, u64::MAX);
        let file = self.file(&volume)?;
        let length = file.len()?;
        let stop = || self.rebuild.clone();
        let found = match Found::read(&Stoppable(file.clone(), stop()), &volume.salt, length) {
            // The disk answers but for some places of this volume: what lies elsewhere in it is not lost.
            Err(error) if self.rebuild.check_running().is_ok() && self.answers() => {
                tracing::error!(folder = self.name, volume = number, %error, "a volume is not readable everywhere");
                let zeros = Stoppable(Arc::new(BadPlacesAsZero(file.clone())), stop());
                Found::read(&zeros, &volume.salt, length)?
            }
            found => found?,
        };
        let owned = self.marker.owns_volume(&found.header, number);
        if !owned && length <= VOLUME_START {
            // A crash while the volume was made; records go in only once its header is durable.
            return self.disk.remove(&name);
        }
        let rows = match found.contents {
            Ok(rows) => {
                lock(&volume.tail).end = length;
                rows
            }
            Err(walked) => {
                if !owned && walked.headers == 0 {
                    work.unreadable.push(name);
                    return Ok(());
                }
                work.walked += 1;
                work.torn += walked.torn;
                work.durable.insert(number, walked.durable);
                lock(&volume.tail).end = walked.end;
                if walked.rows.iter().any(|row| row.kind == Kind::Lease && row.offset >= walked.durable) {
                    work.open.push(OpenVolume { number, length, rows: walked.rows.clone() });
                } else {
                    self.close_walked(&volume, &file, length, &walked.rows);
                }
                walked.rows
            }
        };
        let oldest = rows.iter().map(|row| row.generation).min().unwrap_or(u64::MAX);
        let newest = rows.iter().map(|row| row.generation).max().unwrap_or_default();
        lock(&volume.tail).oldest = oldest;
        work.next_generation = work.next_generation.max(newest.saturating_add(1));
        // Before its records are found.
        write(&self.volumes).insert(number, Arc::new(volume));
        let mut staged = write(&self.rebuild.staged);
        for row in &rows {
            staged.add(number, row);
        }
        Ok(())
    }

    /// Cuts a walked volume after its last valid record and closes it with a table. Where that fails it stays as it is, and
    /// the next opening walks it again.
    fn close_walked(&self, volume: &VolumeOf<D>, file: &FileOf<D>, length: u64, rows: &[Record]) {
        let end = lock(&volume.tail).end;
        let close = || -> io::Result<u64> {
            if end < length {
                file.truncate(end)?;
            }
            // What was found may so far be in memory only; the table must not vouch for that.
            file.sync()?;
            let Some(table) = encode_table(&volume.salt, end, rows) else { return Ok(end) };
            file.write_at(&table, end)?;
            file.sync()?;
            Ok(end + table.len() as u64)
        };
        match close() {
            Ok(end) => lock(&volume.tail).end = end,
            Err(error) => {
                tracing::warn!(folder = self.name, volume = volume.number, %error, "a walked volume could not be closed");
                let _ = file.truncate(end);
            }
        }
    }

    /// Settles what is left open, and closes the volumes that waited for it. Returns how many shards are lost.
    fn finish_rebuild(self: &Arc<Self>, work: &mut Work, now: Timestamp) -> Result<usize, StoreError> {
        self.check_readable()?;
        let settled = self.settle_all(&work.durable, now)?;
        for open in std::mem::take(&mut work.open) {
            if !settled.durable {
                break;
            }
            let Some(volume) = self.volume(open.number) else { continue };
            match self.file(&volume) {
                Ok(file) => self.close_walked(&volume, &file, open.length, &open.rows),
                Err(error) => return Err(self.io_error("opening a volume", &error)),
            }
        }
        Ok(settled.damaged)
    }
}

impl<D: Disk> Store<D> {
    /// Whether no folder in use is being rebuilt. Never turns false again.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.partial().next().is_none()
    }

    /// Rebuilds every index that was not believed, to the end; blocks for that long. What was found is served meanwhile, and a
    /// folder that fails is taken out of use and takes nothing else down. Of leases that were over by `now`, and of
    /// which the shard is gone, nothing is said any more.
    ///
    /// # Errors
    /// `Closed` when the store was closed or [`Store::stop_rebuilding`] was called meanwhile.
    pub fn rebuild(&self, now: Timestamp) -> Result<OpenReport, StoreError> {
        for folder in 0..self.inner.slots.len() {
            loop {
                match self.rebuild_step(folder) {
                    Ok(true) => {}
                    Err(StoreError::Closed) => return Err(StoreError::Closed),
                    // It is out of use, and the report says why.
                    Ok(false) | Err(_) => break,
                }
            }
        }
        self.finish_rebuild(now)
    }

    /// Reads the next volume of one folder, by its place in [`Store::folders`]; says whether there are more. Folders may be
    /// read on threads of their own.
    ///
    /// # Errors
    /// `Closed` as [`Store::rebuild`]; any other: the folder cannot be read and is out of use.
    pub fn rebuild_step(&self, folder: usize) -> Result<bool, StoreError> {
        match self.inner.slots.get(folder).and_then(|slot| slot.folder.as_ref()) {
            Some(folder) => folder.rebuild_step(),
            None => Ok(false),
        }
    }

    /// Settles what the volumes left open, once all of all folders are read, and makes the store whole. Only now, because
    /// a record that is written must be newer than every one that there is.
    ///
    /// # Errors
    /// `Rebuilding` while there are volumes to read, `Closed` as [`Store::rebuild`].
    pub fn finish_rebuild(&self, now: Timestamp) -> Result<OpenReport, StoreError> {
        if self.partial().any(|folder| !folder.rebuild.all_read.load(Ordering::SeqCst)) {
            return Err(StoreError::Rebuilding);
        }
        for slot in &self.inner.slots {
            let Some(folder) = &slot.folder else { continue };
            // One that was given up may hang, and whoever reads it with it.
            if folder.is_whole() || folder.check_readable().is_err() {
                continue;
            }
            let mut work = lock(&folder.rebuild.work);
            if work.settled {
                continue;
            }
            match folder.finish_rebuild(&mut work, now) {
                Ok(damaged) => {
                    work.settled = true;
                    let mut report = lock(&slot.report);
                    work.tell(&mut report);
                    report.damaged = damaged;
                    report.volumes = folder.all_volumes().len();
                }
                Err(_) if folder.rebuild.check_running().is_err() => return Err(StoreError::Closed),
                Err(error) => folder.degrade(FolderState::Failed(error.to_string())),
            }
        }
        for folder in self.partial() {
            folder.rebuild.none_needed();
        }
        Ok(self.report())
    }

    /// Makes rebuilds that run end soon, and no others begin: for a node that goes down. What is served goes on.
    pub fn stop_rebuilding(&self) {
        for folder in self.inner.slots.iter().filter_map(|slot| slot.folder.as_ref()) {
            folder.rebuild.stop();
        }
    }
}

//! Opening a data folder: its marker, its volumes, and an index that agrees with them.
//!
//! Decides whether a folder is this node's, whether its index can be believed, and what of an unfinished volume counts. An
//! index is believed only when the store was closed and every volume has the length noted then.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dolmen_proto::ids::{ShardRoot, Timestamp};

use super::append::Draft;
use super::catalogue::{Catalogue, KeyParts, Staged, Totals};
use super::commit::Ticket;
use super::folder::{FileOf, Folder, Room, VolumeOf};
use super::index::{Index, MemoryIndex, SledIndex};
use super::marker::{VOLUME_START, read_marker, volume_name, volume_number};
use super::record::{Kind, Record, decode_lease, u64_at};
use super::sync::{lock, write};
use super::volume::{Mode, Volume, encode_table, read_record, read_table};
use super::walk::{BadPlacesAsZero, Walked, walk};
use super::watch::WatchedDisk;
use super::{DataFolder, FolderReport, FolderState, IndexPlace, IndexState, StoreError, StoreOptions};
use crate::disk::{Disk, DiskFile};

/// Present in the index while it agrees with the volumes: set at closing, removed at opening.
const CLEAN_NOTE: &[u8] = b"clean";
const TOTALS_NOTE: &[u8] = b"totals";
const CURSOR_NOTE: &[u8] = b"scrub";
const VOLUME_NOTE: &[u8] = b"v";
/// Entries looked at in one go.
const PAGE: usize = 1024;

/// What is to be tidied up after volumes were walked.
#[derive(Debug, Default)]
struct Rebuilt {
    /// For each volume without a table: every record below was on disk at some time.
    durable: BTreeMap<u64, u64>,
    walked: usize,
    torn: usize,
    unreadable: Vec<String>,
    next_generation: u64,
    staged: Staged,
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

/// The roots of all shards in order, a page at a time.
struct Roots<'a> {
    catalogue: &'a Catalogue,
    page: VecDeque<[u8; 32]>,
    after: Option<[u8; 32]>,
    ended: bool,
}

impl Roots<'_> {
    fn peek(&mut self) -> Result<Option<[u8; 32]>, String> {
        if self.page.is_empty() && !self.ended {
            let found = self.catalogue.shards(self.after.as_ref(), PAGE)?;
            self.ended = found.is_empty();
            self.page = found.into_iter().map(|(root, _)| root).collect();
            self.after = self.page.back().copied().or(self.after);
        }
        Ok(self.page.front().copied())
    }

    fn next_if(&mut self, wanted: impl Fn(&[u8; 32]) -> bool) -> Result<Option<[u8; 32]>, String> {
        match self.peek()? {
            Some(root) if wanted(&root) => Ok(self.page.pop_front()),
            Some(_) | None => Ok(None),
        }
    }
}

/// Opens one folder. One that cannot be used is only reported.
pub(crate) fn open_folder<D: Disk>(
    spec: DataFolder<D>,
    options: &Arc<StoreOptions>,
    generations: &Arc<AtomicU64>,
    now: Timestamp,
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
    match try_open(spec, options, generations, &mut report, now) {
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
    report: &mut FolderReport,
    now: Timestamp,
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
        Ok(()) => report.index = IndexState::Clean,
        Err(reason) => {
            let rebuilt = folder.rebuild(&numbers)?;
            report.index = IndexState::Rebuilt(reason);
            report.walked = rebuilt.walked;
            report.torn = rebuilt.torn;
            report.damaged = folder.tidy(&rebuilt, now)?;
            report.unreadable = rebuilt.unreadable;
        }
    }
    report.volumes = folder.all_volumes().len();
    report.state = folder.state();
    Ok(Some(folder))
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

    /// Fills the index from the volumes. Those that were not closed are walked, re-hashed, cut and closed.
    fn rebuild(&self, numbers: &[u64]) -> Result<Rebuilt, StoreError> {
        self.catalogue.clear().map_err(|reason| self.index_error(reason))?;
        let mut rebuilt = Rebuilt { next_generation: 1, ..Rebuilt::default() };
        for &number in numbers {
            let opened = self.rebuild_volume(number, &mut rebuilt);
            opened.map_err(|error| self.io_error("reading a volume", &error))??;
        }
        self.apply_staged(&mut rebuilt)?;
        self.generations.fetch_max(rebuilt.next_generation, Ordering::SeqCst);
        Ok(rebuilt)
    }

    fn apply_staged(&self, rebuilt: &mut Rebuilt) -> Result<(), StoreError> {
        let staged = std::mem::take(&mut rebuilt.staged);
        let applied = self.catalogue.apply_staged(&mut lock(&self.totals), staged);
        applied.map_err(|reason| self.index_error(reason))
    }

    fn rebuild_volume(&self, number: u64, rebuilt: &mut Rebuilt) -> io::Result<Result<(), StoreError>> {
        let name = volume_name(number);
        let volume = Volume::new(number, self.marker.salt(number), VOLUME_START, Mode::Sealed, u64::MAX);
        let file = self.file(&volume)?;
        let length = file.len()?;
        let found = match Found::read(&*file, &volume.salt, length) {
            // The disk answers but for some places of this volume: what lies elsewhere in it is not lost.
            Err(error) if self.answers() => {
                tracing::error!(folder = self.name, volume = number, %error, "a volume is not readable everywhere");
                Found::read(&BadPlacesAsZero(file.clone()), &volume.salt, length)?
            }
            found => found?,
        };
        let owned = self.marker.owns_volume(&found.header, number);
        if !owned && length <= VOLUME_START {
            // A crash while the volume was made; records go in only once its header is durable.
            self.disk.remove(&name)?;
            return Ok(Ok(()));
        }
        let rows = match found.contents {
            Ok(rows) => {
                lock(&volume.tail).end = length;
                rows
            }
            Err(walked) => {
                if !owned && walked.headers == 0 {
                    rebuilt.unreadable.push(name);
                    return Ok(Ok(()));
                }
                rebuilt.walked += 1;
                rebuilt.torn += walked.torn;
                rebuilt.durable.insert(number, walked.durable);
                let end = self.close_walked(&volume, &file, length, walked.end, &walked.rows);
                lock(&volume.tail).end = end;
                walked.rows
            }
        };
        let oldest = rows.iter().map(|row| row.generation).min().unwrap_or(u64::MAX);
        let newest = rows.iter().map(|row| row.generation).max().unwrap_or_default();
        lock(&volume.tail).oldest = oldest;
        rebuilt.next_generation = rebuilt.next_generation.max(newest.saturating_add(1));
        let volume = Arc::new(volume);
        write(&self.volumes).insert(number, volume);
        for row in &rows {
            rebuilt.staged.add(number, row);
        }
        if rebuilt.staged.is_full()
            && let Err(error) = self.apply_staged(rebuilt)
        {
            return Ok(Err(error));
        }
        Ok(Ok(()))
    }

    /// Cuts a walked volume after its last valid record and closes it with a table. Where that fails it stays as it is, and
    /// the next opening walks it again. Returns where it ends.
    fn close_walked(&self, volume: &VolumeOf<D>, file: &FileOf<D>, length: u64, end: u64, rows: &[Record]) -> u64 {
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
        close().unwrap_or_else(|error| {
            tracing::warn!(folder = self.name, volume = volume.number, %error, "a walked volume could not be closed");
            let _ = file.truncate(end);
            end
        })
    }

    /// After a rebuild: lets shards without a lease go, and settles leases without a shard. Returns how many shards are lost.
    fn tidy(self: &Arc<Self>, rebuilt: &Rebuilt, now: Timestamp) -> Result<usize, StoreError> {
        let index_error = |reason| self.index_error(reason);
        let mut ticket = Ticket::default();
        // Both are in order of roots: one sweep over each finds whatever has no counterpart.
        let mut shards = Roots { catalogue: &self.catalogue, page: VecDeque::new(), after: None, ended: false };
        let mut leased = None;
        let mut after: Option<KeyParts> = None;
        loop {
            let from = after.as_ref().map(|(a, b)| (a, b));
            let page = self.catalogue.all_leases(from, PAGE).map_err(index_error)?;
            let Some((a, b, _)) = page.last() else { break };
            after = Some((*a, *b));
            for (root, account, entry) in page {
                while let Some(passed) = shards.next_if(|next| *next < root).map_err(index_error)? {
                    if leased == Some(passed) {
                        continue;
                    }
                    self.drop_if_unleased(&mut lock(&self.totals), &passed).map_err(index_error)?;
                }
                if shards.peek().map_err(index_error)? == Some(root) {
                    leased = Some(root);
                }
                let has_shard =
                    leased == Some(root) || self.catalogue.shard(&ShardRoot::new(root)).map_err(index_error)?.is_some();
                if !has_shard {
                    let durable = rebuilt.durable.get(&entry.volume).is_none_or(|durable| entry.offset < *durable);
                    let over = entry.value < now.before(self.options.grace).as_unix_ms();
                    self.settle(&entry.record(root, account), entry.volume, durable && !over, &mut ticket)?;
                }
            }
        }
        while let Some(passed) = shards.next_if(|_| true).map_err(index_error)? {
            if leased != Some(passed) {
                self.drop_if_unleased(&mut lock(&self.totals), &passed).map_err(index_error)?;
            }
        }
        if let Err(error) = ticket.wait() {
            tracing::warn!(folder = self.name, %error, "what recovery decided is not on disk yet");
        }
        Ok(usize::try_from(lock(&self.totals).damaged).unwrap_or(usize::MAX))
    }

    /// A lease whose shard is not there: one that is owed was acknowledged, so the shard is lost; any other just ends.
    fn settle(
        self: &Arc<Self>,
        lease: &Record,
        volume: u64,
        owed: bool,
        ticket: &mut Ticket,
    ) -> Result<(), StoreError> {
        let (kind, b, value) = if owed {
            let read = |volume: &VolumeOf<D>| read_record(&*self.file(volume)?, &volume.salt, lease);
            let tail = self.volume(volume).and_then(|volume| read(&volume).ok().flatten());
            let length = tail.and_then(|(record, tail)| decode_lease(&record, &tail)).map_or(0, |(_, length)| length);
            (Kind::ShardLost, [0; 32], u64::from(length))
        } else {
            (Kind::LeaseEnd, lease.b, 0)
        };
        let draft = Draft { kind, a: lease.a, b, value, mark: [0; 16], tail: &[], generation: None, after: None };
        match self.append_small(draft, Room::Ending) {
            Ok((hold, record)) => {
                // Counts at once: the rest of the tidying looks at it.
                let mut totals = lock(&self.totals);
                let applied = self.catalogue.apply(&mut totals, hold.volume().number, &record);
                drop(totals);
                applied.map_err(|reason| self.index_error(reason))?;
                ticket.merge(self.register_one(hold, record));
                Ok(())
            }
            Err(error) => {
                tracing::warn!(folder = self.name, %error, "what recovery decided could not be written");
                let mut totals = lock(&self.totals);
                self.catalogue.forget(&mut totals, volume, lease).map_err(|reason| self.index_error(reason))
            }
        }
    }
}

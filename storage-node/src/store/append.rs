//! Where the next record goes: the open volume of a folder, its end, and its closing with a table of contents.
//!
//! Decides the order of records. Headers, and records without a body, are written under the folder's append lock, so that
//! one sync covers every header below it; bodies of shards are not (see [`super::writer`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::StoreError;
use super::folder::{FileOf, Folder, Room, VolumeOf};
use super::marker::{VOLUME_START, volume_name};
use super::record::{Kind, ROW_BYTES, Record, span};
use super::sync::{lock, write};
use super::volume::{Hold, Mode, Tail, Volume, encode_table, read_table};
use super::walk::walk;
use crate::disk::{Disk, DiskFile};

/// A record just written, and the hold on its volume until it is in the catalogue.
pub(crate) type Written<D> = (Hold<FileOf<D>>, Record);

/// The open volume of a folder.
pub(crate) struct Appender<D: Disk> {
    pub(crate) active: Option<Arc<VolumeOf<D>>>,
    /// Number of the next volume.
    pub(crate) next: u64,
    /// Whether the last volume was looked at for room since the folder was opened.
    pub(crate) resumed: bool,
}

impl<D: Disk> Default for Appender<D> {
    fn default() -> Self {
        Self { active: None, next: 1, resumed: false }
    }
}

/// A record without a body that is to be written.
pub(crate) struct Draft<'a, D: Disk> {
    pub(crate) kind: Kind,
    pub(crate) a: [u8; 32],
    pub(crate) b: [u8; 32],
    pub(crate) value: u64,
    /// Of a lease; also in its tail.
    pub(crate) mark: [u8; 16],
    pub(crate) tail: &'a [u8],
    /// Of a copy: its original's.
    pub(crate) generation: Option<u64>,
    /// A volume that must be durable before this record may be, if this record goes to another.
    pub(crate) after: Option<&'a Arc<VolumeOf<D>>>,
}

impl<D: Disk> Clone for Draft<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Disk> Copy for Draft<'_, D> {}

impl<D: Disk> Folder<D> {
    /// Runs `put` at the end of a volume with room for `bytes`. When it fails, the end is where it was. If that volume is
    /// another than `after`, then `after` is synced before.
    pub(crate) fn place<T>(
        &self,
        bytes: u64,
        room: Room,
        after: Option<&Arc<VolumeOf<D>>>,
        put: impl FnOnce(&Arc<VolumeOf<D>>, &mut Tail, &FileOf<D>) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let mut replaced = Vec::new();
        let mut after = after;
        let result = loop {
            let mut appender = lock(&self.append);
            self.check_writable()?;
            let free = self.room(room).map_err(|error| self.io_error("asking for free space", &error))?;
            if free < bytes {
                break Err(StoreError::DiskFull { wanted: bytes });
            }
            let volume = match self.active(&mut appender, bytes, &mut replaced) {
                Ok(volume) => volume,
                Err(error) => break Err(error),
            };
            if let Some(first) = after.take_if(|first| first.number != volume.number) {
                drop(appender);
                if let Err(error) = self.sync_all_of(first) {
                    break Err(error);
                }
                continue;
            }
            break self.put_at_end(&volume, bytes, put);
        };
        for replaced in replaced {
            self.seal_if_done(&replaced);
        }
        result
    }

    fn put_at_end<T>(
        &self,
        volume: &Arc<VolumeOf<D>>,
        bytes: u64,
        put: impl FnOnce(&Arc<VolumeOf<D>>, &mut Tail, &FileOf<D>) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let file = self.file(volume).map_err(|error| self.io_error("opening a volume", &error))?;
        let mut tail = lock(&volume.tail);
        let before = tail.end;
        put(volume, &mut tail, &file).map_err(|error| {
            tail.end = before;
            tail.rewinds += 1;
            let _ = file.truncate(before);
            drop(tail);
            self.write_error("writing a record", bytes, &error)
        })
    }

    /// The volume that the next record goes to.
    fn active(
        &self,
        appender: &mut Appender<D>,
        bytes: u64,
        replaced: &mut Vec<Arc<VolumeOf<D>>>,
    ) -> Result<Arc<VolumeOf<D>>, StoreError> {
        if let Some(active) = &appender.active {
            let mut tail = lock(&active.tail);
            let records = tail.rows.len() + tail.in_flight;
            let table = (records as u64 + 3) * ROW_BYTES as u64;
            let fits =
                tail.end + bytes + table <= self.options.volume_max_bytes && records < self.options.volume_max_records;
            if tail.mode == Mode::Open && (fits || records == 0) {
                return Ok(active.clone());
            }
            if tail.mode == Mode::Open {
                tail.mode = Mode::Full;
            }
            drop(tail);
            replaced.extend(appender.active.take());
        }
        if !appender.resumed {
            appender.resumed = true;
            if let Some(last) = self.all_volumes().pop()
                && self.resume(&last, bytes)
            {
                appender.active = Some(last.clone());
                return Ok(last);
            }
        }
        let volume = self.create(appender.next)?;
        appender.next += 1;
        appender.active = Some(volume.clone());
        Ok(volume)
    }

    /// Opens a sealed volume for more records if it has room for a good many.
    fn resume(&self, volume: &Arc<VolumeOf<D>>, bytes: u64) -> bool {
        let Ok(file) = self.file(volume) else { return false };
        let mut tail = lock(&volume.tail);
        if tail.mode != Mode::Sealed || tail.end + bytes > self.options.volume_max_bytes / 4 * 3 {
            return false;
        }
        match read_table(&*file, &volume.salt, tail.end) {
            Ok(Some(rows)) if rows.len() < self.options.volume_max_records / 4 * 3 => {
                tail.rows = rows;
                tail.durable = tail.end;
                tail.mode = Mode::Open;
                true
            }
            _ => false,
        }
    }

    /// Makes a volume; its name and header are durable before any record goes in.
    fn create(&self, number: u64) -> Result<Arc<VolumeOf<D>>, StoreError> {
        let name = volume_name(number);
        let file =
            self.disk.open(&name, true).map_err(|error| self.write_error("creating a volume", VOLUME_START, &error))?;
        let prepare = || {
            file.write_at(&self.marker.volume_header(number), 0)?;
            file.sync()?;
            self.disk.sync_folder()
        };
        if let Err(error) = prepare() {
            let _ = self.disk.remove(&name);
            return Err(self.write_error("creating a volume", VOLUME_START, &error));
        }
        let volume = Arc::new(Volume::new(number, self.marker.salt(number), VOLUME_START, Mode::Open, u64::MAX));
        *lock(&volume.file) = Some(Arc::new(file));
        write(&self.volumes).insert(number, volume.clone());
        Ok(volume)
    }

    /// Writes a record without a body. It counts once the change it is registered with is durable.
    pub(crate) fn append_small(&self, draft: Draft<'_, D>, room: Room) -> Result<Written<D>, StoreError> {
        let tail_bytes = u32::try_from(draft.tail.len()).map_err(|_| StoreError::TooLarge {
            what: "record",
            actual: draft.tail.len() as u64,
            limit: u64::from(u32::MAX),
        })?;
        self.place(span(0, tail_bytes), room, draft.after, |volume, tail, file| {
            let record = Record {
                kind: draft.kind,
                offset: tail.end,
                generation: draft.generation.unwrap_or_else(|| self.next_generation()),
                body_bytes: 0,
                tail_bytes,
                durable: tail.durable,
                a: draft.a,
                b: draft.b,
                value: draft.value,
                mark: draft.mark,
            };
            file.write_at(&record.encode_small(&volume.salt, draft.tail), record.offset)?;
            tail.end = record.end();
            tail.oldest = tail.oldest.min(record.generation);
            tail.rows.push(record);
            Ok((Hold::new(volume), record))
        })
    }

    /// Moves the end of a volume back over an abandoned extent, or marks the extent void where something follows it.
    pub(crate) fn abandon(&self, volume: &Arc<VolumeOf<D>>, record: &Record) {
        {
            let _appender = lock(&self.append);
            let file = self.file(volume);
            let mut tail = lock(&volume.tail);
            tail.in_flight -= 1;
            if let Ok(file) = file {
                if tail.mode == Mode::Open && tail.end == record.end() {
                    tail.end = record.offset;
                    tail.durable = tail.durable.min(tail.end);
                    tail.rewinds += 1;
                    let _ = file.truncate(tail.end);
                } else {
                    // Recovery comes to the same without this mark: a body that is not its root's is left out.
                    let void = Record { kind: Kind::Void, ..*record };
                    let _ = file.write_at(&void.encode(&volume.salt), void.offset);
                }
            }
        }
        self.outstanding.fetch_sub(record.span(), Ordering::SeqCst);
        self.seal_if_done(volume);
    }

    /// Closes a full volume with its table once no put is running in it.
    pub(crate) fn seal_if_done(&self, volume: &Arc<VolumeOf<D>>) {
        {
            let mut tail = lock(&volume.tail);
            if tail.mode != Mode::Full || tail.in_flight > 0 {
                return;
            }
            tail.mode = Mode::Closing;
        }
        if let Err(error) = self.seal(volume) {
            tracing::warn!(folder = self.name, volume = volume.number, %error, "a volume is left without its table");
        }
    }

    /// Makes a volume durable and closes it with its table. It is sealed in any case, unless its sync failed; without a valid
    /// table the next opening walks it.
    pub(crate) fn seal(&self, volume: &Arc<VolumeOf<D>>) -> Result<(), StoreError> {
        self.sync_all_of(volume)?;
        let file = self.file(volume).map_err(|error| self.io_error("opening a volume", &error))?;
        let (offset, table) = {
            let mut tail = lock(&volume.tail);
            if tail.mode == Mode::Suspect {
                return Err(self.volume_closed());
            }
            if tail.mode == Mode::Sealed {
                return Ok(());
            }
            tail.mode = Mode::Sealed;
            let rows = std::mem::take(&mut tail.rows);
            let offset = tail.end;
            let table = encode_table(&volume.salt, offset, &rows);
            tail.end += table.as_ref().map_or(0, |table| table.len() as u64);
            (offset, table)
        };
        self.file_may_close(volume.number);
        let Some(table) = table else { return Ok(()) };
        let written = file.write_at(&table, offset).and_then(|()| file.sync());
        written.map_err(|error| {
            lock(&volume.tail).end = offset;
            let _ = file.truncate(offset);
            self.write_error("closing a volume", table.len() as u64, &error)
        })
    }

    /// The records of a volume: from memory while it is open, else from its table, else by walking it.
    pub(crate) fn rows(&self, volume: &VolumeOf<D>) -> io::Result<Vec<Record>> {
        let end = {
            let tail = lock(&volume.tail);
            if tail.mode != Mode::Sealed {
                return Ok(tail.rows.clone());
            }
            tail.end
        };
        let file = self.file(volume)?;
        match read_table(&*file, &volume.salt, end)? {
            Some(rows) => Ok(rows),
            None => Ok(walk(&*file, &volume.salt, end)?.rows),
        }
    }
}

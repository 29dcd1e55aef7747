//! Giving dead bytes back: what counts in a mostly dead volume is copied to the open one, and the volume is removed.
//!
//! Decides which volumes go and which endings may be forgotten. Safe to stop anywhere: copies keep their generation, so
//! until the old volume is gone both may be there, and the later volume's counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dolmen_proto::ids::Timestamp;

use super::append::{Draft, Written};
use super::catalogue::KeyParts;
use super::commit::Ticket;
use super::folder::{FileOf, Folder, Room, VolumeOf};
use super::marker::{VOLUME_START, volume_name};
use super::record::{CHECK_BYTES, Kind, Record, is_root, span};
use super::sync::{lock, write};
use super::volume::{Change, Hold, Mode, hash_body, read_header, read_record, read_tail};
use super::{CompactReport, StoreError};
use crate::disk::{Disk, DiskFile};

/// Keys of endings with their generations and offsets.
type Endings = BTreeMap<KeyParts, (u64, u64)>;

/// What a copy can fail with: the old volume's fault, or the folder's.
enum CopyError {
    Read(io::Error),
    Write(StoreError),
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Whether under a quarter (or three when space is short) of a volume counts.
fn mostly_dead(live: u64, size: u64, short_of_space: bool) -> bool {
    live.saturating_mul(4) < size.saturating_mul(if short_of_space { 3 } else { 1 })
}

impl<D: Disk> Folder<D> {
    /// Rewrites volumes until about `budget_bytes` are copied, emptiest first. `needed` says whether another folder needs an
    /// ending to be kept.
    pub(crate) fn compact(
        self: &Arc<Self>,
        now: Timestamp,
        short_of_space: bool,
        budget_bytes: u64,
        needed: &dyn Fn(&Record) -> bool,
        report: &mut CompactReport,
    ) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.maintenance);
        self.retire_active(short_of_space);
        for volume in self.all_volumes() {
            self.seal_if_done(&volume);
        }
        let mut copied = 0;
        for volume in self.candidates(short_of_space) {
            if copied >= budget_bytes {
                report.more = true;
                break;
            }
            let total = lock(&volume.tail).end;
            let bytes = self.empty(&volume, now, needed)?;
            copied += bytes;
            report.copied_bytes += bytes;
            if self.remove_if_dead(&volume)? {
                report.volumes += 1;
                report.freed_bytes += total;
            }
        }
        Ok(())
    }

    /// Closes the open volume early when it is itself mostly dead, so that it can be rewritten.
    fn retire_active(&self, short_of_space: bool) {
        let totals = lock(&self.totals).live.clone();
        let mut appender = lock(&self.append);
        let Some(active) = appender.active.clone() else { return };
        let mut tail = lock(&active.tail);
        let size = tail.end.saturating_sub(VOLUME_START);
        let live = totals.get(&active.number).copied().unwrap_or_default();
        let large = size > self.options.volume_max_bytes / if short_of_space { 16 } else { 4 };
        if tail.mode == Mode::Open && tail.in_flight == 0 && large && mostly_dead(live, size, short_of_space) {
            tail.mode = Mode::Full;
            appender.active = None;
        }
    }

    /// Volumes that are worth rewriting, emptiest first.
    fn candidates(&self, short_of_space: bool) -> Vec<Arc<VolumeOf<D>>> {
        let totals = lock(&self.totals);
        let mut found: Vec<_> = self
            .all_volumes()
            .into_iter()
            .filter_map(|volume| {
                let (mode, end) = {
                    let tail = lock(&volume.tail);
                    (tail.mode, tail.end)
                };
                let live = totals.live.get(&volume.number).copied().unwrap_or_default();
                let size = end.saturating_sub(VOLUME_START);
                let worth = match mode {
                    Mode::Sealed => live == 0 || mostly_dead(live, size, short_of_space),
                    Mode::Suspect => true,
                    Mode::Open | Mode::Full | Mode::Closing => false,
                };
                (worth && !volume.is_held()).then_some((live, volume))
            })
            .collect();
        found.sort_by_key(|(live, volume)| (*live, volume.number));
        found.into_iter().map(|(_, volume)| volume).collect()
    }

    /// Copies what counts out of a volume, durably. Returns the bytes copied.
    fn empty(
        self: &Arc<Self>,
        volume: &Arc<VolumeOf<D>>,
        now: Timestamp,
        needed: &dyn Fn(&Record) -> bool,
    ) -> Result<u64, StoreError> {
        let reading = |error: io::Error| self.io_error("reading a volume", &error);
        let rows = self.rows(volume).map_err(reading)?;
        let file = self.file(volume).map_err(reading)?;
        let counting: Vec<&Record> = rows.iter().filter(|row| self.counts(volume.number, row)).collect();
        let over = |row: &&&Record| {
            matches!(row.kind, Kind::LeaseEnd | Kind::HeadEnd) && row.value < now.as_unix_ms() && !needed(row)
        };
        let endings = counting.iter().filter(over).map(|row| ((row.a, row.b), (row.generation, row.offset))).collect();
        let forgettable = self.forgettable(volume, endings).map_err(reading)?;
        let mut ticket = Ticket::default();
        let mut copied = 0;
        for row in &counting {
            if forgettable.contains(&row.offset) {
                continue;
            }
            let copy = if row.kind == Kind::Shard {
                self.copy_shard(volume, &file, row)
            } else {
                self.copy_small(volume, &file, row)
            };
            match copy {
                Ok(Some((hold, record))) => {
                    copied += record.span();
                    let target = hold.volume().clone();
                    let copy_of = Some((volume.number, row.offset));
                    ticket
                        .merge(self.register(&target, Change { records: vec![(hold, record)], copy_of, unpin: None }));
                }
                Ok(None) if row.kind == Kind::Shard => self.mark_lost(row.a, row.body_bytes)?,
                Ok(None) => {
                    // Neither readable nor replaceable: forgotten, and said so.
                    tracing::error!(folder = self.name, volume = volume.number, kind = ?row.kind, "a record is damaged");
                    self.forget(volume.number, row)?;
                }
                Err(CopyError::Read(error)) => return Err(reading(error)),
                Err(CopyError::Write(error)) => return Err(error),
            }
        }
        ticket.wait()?;
        for row in counting.iter().filter(|row| forgettable.contains(&row.offset)) {
            self.forget(volume.number, row)?;
        }
        // Notes of lost shards count already; they must be durable before their cause goes.
        let active = lock(&self.append).active.clone();
        if let Some(active) = active {
            self.sync_all_of(&active)?;
        }
        Ok(copied)
    }

    fn forget(&self, volume: u64, row: &Record) -> Result<(), StoreError> {
        let mut totals = lock(&self.totals);
        self.catalogue.forget(&mut totals, volume, row).map_err(|reason| self.index_error(reason))
    }

    /// Offsets of those endings (key, generation, offset) of which no other volume has an older record.
    fn forgettable(&self, volume: &VolumeOf<D>, endings: Endings) -> io::Result<BTreeSet<u64>> {
        let mut open = endings;
        let Some(newest) = open.values().map(|(generation, _)| *generation).max() else { return Ok(BTreeSet::new()) };
        for other in self.all_volumes() {
            if other.number == volume.number || lock(&other.tail).oldest > newest {
                continue;
            }
            for row in self.rows(&other)? {
                let key = (row.a, row.b);
                if open.get(&key).is_some_and(|(generation, _)| row.generation < *generation) {
                    open.remove(&key);
                }
            }
        }
        Ok(open.into_values().map(|(_, offset)| offset).collect())
    }

    /// Copies a record without a body; `None` where it is damaged.
    fn copy_small(
        &self,
        volume: &VolumeOf<D>,
        file: &FileOf<D>,
        row: &Record,
    ) -> Result<Option<Written<D>>, CopyError> {
        let Some((record, tail)) = read_record(file, &volume.salt, row)? else { return Ok(None) };
        let Some(record) = record.with_tail(&tail) else { return Ok(None) };
        let draft = Draft {
            kind: record.kind,
            a: record.a,
            b: record.b,
            value: record.value,
            mark: record.mark,
            tail: &tail,
            generation: Some(record.generation),
            after: None,
        };
        self.append_small(draft, Room::Small).map(Some).map_err(CopyError::Write)
    }

    /// Copies a shard, hashing it on the way; `None` where it is not its root's any more.
    fn copy_shard(
        &self,
        volume: &VolumeOf<D>,
        file: &FileOf<D>,
        row: &Record,
    ) -> Result<Option<Written<D>>, CopyError> {
        let header = read_header(file, &volume.salt, row.offset)?.filter(|header| header.is_same(row));
        let Some(header) = header else { return Ok(None) };
        let Some(tail) = read_tail(file, &volume.salt, &header)? else { return Ok(None) };
        let bytes = span(row.body_bytes, row.tail_bytes);
        let placed = self.place(bytes, Room::Small, None, |target, end, target_file| {
            let copy = Record { offset: end.end, durable: end.durable, ..*row };
            target_file.write_at(&copy.encode(&target.salt), copy.offset)?;
            end.end = copy.end();
            end.in_flight += 1;
            self.outstanding.fetch_add(bytes, Ordering::SeqCst);
            Ok((Hold::new(target), copy))
        });
        let (hold, copy) = placed.map_err(CopyError::Write)?;
        match self.copy_into(&hold, &copy, file, row, &tail) {
            Ok(true) => {
                let mut end = lock(&hold.volume().tail);
                end.in_flight -= 1;
                end.oldest = end.oldest.min(copy.generation);
                let open = matches!(end.mode, Mode::Open | Mode::Full);
                if open {
                    end.rows.push(copy);
                }
                drop(end);
                self.outstanding.fetch_sub(bytes, Ordering::SeqCst);
                self.seal_if_done(hold.volume());
                if open { Ok(Some((hold, copy))) } else { Err(CopyError::Write(self.volume_closed())) }
            }
            Ok(false) => {
                self.abandon(hold.volume(), &copy);
                Ok(None)
            }
            Err(error) => {
                self.abandon(hold.volume(), &copy);
                Err(error)
            }
        }
    }

    /// Writes body, tail, check and padding of a copy. Says whether the body was its root's.
    fn copy_into(
        &self,
        hold: &Hold<FileOf<D>>,
        copy: &Record,
        file: &FileOf<D>,
        row: &Record,
        tail: &[u8],
    ) -> Result<bool, CopyError> {
        let target = self.file(hold.volume())?;
        let put = |bytes: &[u8], offset: u64| {
            let written = target.write_at(bytes, offset);
            written.map_err(|error| CopyError::Write(self.write_error("copying a shard", row.span(), &error)))
        };
        let hash = hash_body(file, row, |offset, piece| put(piece, copy.body_offset() + offset))?;
        if !hash.is_some_and(|hash| is_root(&row.a, &hash)) {
            return Ok(false);
        }
        let mut rest = Vec::with_capacity(tail.len() + CHECK_BYTES + 128);
        if !tail.is_empty() {
            rest.extend_from_slice(tail);
            rest.extend_from_slice(&copy.tail_check(&hold.volume().salt, tail));
        }
        let padding = copy.end() - copy.tail_offset() - rest.len() as u64;
        rest.resize(rest.len() + usize::try_from(padding).expect("padding is under 128 bytes"), 0);
        put(&rest, copy.tail_offset())?;
        Ok(true)
    }

    /// Removes a volume in which nothing counts and nothing is about to; durably, before anything else is forgotten.
    fn remove_if_dead(&self, volume: &Arc<VolumeOf<D>>) -> Result<bool, StoreError> {
        {
            let mut totals = lock(&self.totals);
            let mut volumes = write(&self.volumes);
            let live = totals.live.get(&volume.number).copied().unwrap_or_default();
            if live > 0 || volume.is_held() {
                return Ok(false);
            }
            totals.live.remove(&volume.number);
            volumes.remove(&volume.number);
        }
        let removed = self.disk.remove(&volume_name(volume.number)).and_then(|()| self.disk.sync_folder());
        removed.map_err(|error| self.write_error("removing a volume", 0, &error))?;
        lock(&volume.file).take();
        Ok(true)
    }

    /// The error of a write whose volume was closed meanwhile.
    pub(crate) fn volume_closed(&self) -> StoreError {
        match self.check_writable() {
            Err(error) => error,
            Ok(()) => StoreError::Folder {
                folder: self.name.clone(),
                reason: "the volume was closed while it was written to: try again".to_owned(),
            },
        }
    }
}

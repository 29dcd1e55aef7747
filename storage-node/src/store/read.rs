//! Reading what counts: a record is found through the catalogue and borne out by its own header before a byte is used.
//!
//! Decides when a shard is called damaged on the way to a reader. Never hashes a body: readers have the root, and
//! [`super::scrub`] looks for rot.

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dolmen_proto::ids::{AccountId, Point, ShardRoot, Timestamp};

use super::catalogue::{Entry, Pair};
use super::folder::{FileOf, Folder, VolumeOf};
use super::record::{Class, Kind, Record, decode_lease};
use super::volume::{read_header, read_record};
use super::{LeaseRecord, ShardState, Store, StoreError, StoredHead};
use crate::disk::{Disk, DiskFile};
use crate::piece::Piece;

/// Header and tail of a record; `None` where its volume does not bear it out.
type Borne = Option<(Record, Vec<u8>)>;

/// How often a record that compaction has just moved is looked up again.
const LOOKUPS_MAX: usize = 8;

impl<D: Disk> Store<D> {
    /// Length in bytes and state of a shard, for whoever reads it. Like all reads it is by root alone, so an ending in a
    /// volume that a rebuild has not come to yet does no harm.
    ///
    /// # Errors
    /// `Index`; `Rebuilding` where it was not found yet and may be.
    pub fn find(&self, root: &ShardRoot) -> Result<Option<(u32, ShardState)>, StoreError> {
        // Before the others, lest one become whole between.
        let partial: Vec<_> = self.partial().collect();
        let known = self.summary_of_whole(root)?.map(|shard| (shard.length_bytes, shard.state));
        if partial.is_empty() || known.is_some_and(|(_, state)| state == ShardState::Held) {
            return Ok(known);
        }
        // One that is lost by what was read so far may be healed by what was not.
        let mut found = partial.iter().filter_map(|folder| folder.shard_entry(root).ok().flatten());
        match found.find(|entry| entry.kind == Kind::Shard) {
            Some(entry) => Ok(Some((entry.shard_bytes(), ShardState::Held))),
            None => Err(StoreError::Rebuilding),
        }
    }

    /// Reads exactly `buffer.len()` bytes of a shard. The bytes are not hashed here: readers have the root.
    ///
    /// # Errors
    /// `NotHeld`, `Damaged`, `OutOfRange`, `Io`; `Rebuilding` where it was not found yet and may be.
    pub fn read(&self, root: &ShardRoot, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.first_that_has_it(|folder| {
            folder.with_shard(root, offset, buffer.len(), |file, at| {
                Ok((file.read_at(buffer, at)? == buffer.len()).then_some(()))
            })
        })
    }

    /// As [`Store::read`], into memory of its own.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read_piece(&self, root: &ShardRoot, offset: u64, count: usize) -> Result<Piece, StoreError> {
        self.first_that_has_it(|folder| {
            folder.with_shard(root, offset, count, |file, at| {
                Ok(Some(file.read_piece(count, at)?).filter(|piece| piece.bytes().len() == count))
            })
        })
    }

    /// The shard's outboard: pre-order hash pairs over 16 KiB groups, empty for shards of one group.
    ///
    /// # Errors
    /// `NotHeld`, `Damaged`, `Io`; `Rebuilding` where it was not found yet and may be.
    pub fn outboard(&self, root: &ShardRoot) -> Result<Vec<u8>, StoreError> {
        self.first_that_has_it(|folder| folder.read_outboard(root))
    }

    fn first_that_has_it<T>(&self, mut read: impl FnMut(&Folder<D>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // Before the others, lest one become whole between.
        let partial: Vec<_> = self.partial().collect();
        let mut result = Err(StoreError::NotHeld);
        for folder in self.readable().chain(partial.iter().copied()) {
            match read(folder) {
                Ok(found) => return Ok(found),
                Err(StoreError::NotHeld) => {}
                Err(error) => result = Err(error),
            }
        }
        match result {
            Err(StoreError::OutOfRange { .. }) => result,
            _ if partial.is_empty() => result,
            _ => Err(StoreError::Rebuilding),
        }
    }
}

impl<D: Disk> Folder<D> {
    /// Finds an entry and reads from its volume. Between the look-up and the read compaction may move the record: then it is
    /// looked up again.
    fn with_entry<T>(
        &self,
        find: impl Fn() -> Result<Option<Entry>, String>,
        read: impl Fn(&VolumeOf<D>, &FileOf<D>, &Entry) -> io::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let mut last = None;
        for _ in 0..LOOKUPS_MAX {
            let Some(entry) = find().map_err(|reason| self.index_error(reason))? else { return Ok(None) };
            let Some(volume) = self.volume(entry.volume) else {
                last = Some(io::Error::new(io::ErrorKind::NotFound, "the volume is gone"));
                continue;
            };
            if !volume.trusted.load(Ordering::SeqCst) {
                return Err(StoreError::Folder {
                    folder: self.name.clone(),
                    reason: "the volume is being read again after a failed sync".to_owned(),
                });
            }
            match self.file(&volume).and_then(|file| read(&volume, &file, &entry)) {
                Ok(value) => return Ok(Some(value)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = Some(error),
                Err(error) => return Err(self.io_error("reading", &error)),
            }
        }
        let error = last.unwrap_or_else(|| io::ErrorKind::NotFound.into());
        Err(self.io_error("finding a volume", &error))
    }

    /// Reads `count` bytes of a shard: `read` is given its file and where they begin there, and answers none where they are not all
    /// there. `NotHeld` where this folder does not have the shard.
    fn with_shard<T>(
        &self,
        root: &ShardRoot,
        offset: u64,
        count: usize,
        read: impl FnMut(&FileOf<D>, u64) -> io::Result<Option<T>>,
    ) -> Result<T, StoreError> {
        self.check_readable()?;
        let read = std::cell::RefCell::new(read);
        let outcome = self.with_entry(
            || self.shard_entry(root),
            |volume, file, entry| {
                let end = offset.saturating_add(count as u64);
                if end > u64::from(entry.shard_bytes()) {
                    let length = u64::from(entry.shard_bytes());
                    return Ok(Err(StoreError::OutOfRange { offset, end, length }));
                }
                let Some(record) = shard_header(volume, file, root, entry)? else {
                    return Ok(Err(StoreError::Damaged(*root)));
                };
                let found = (read.borrow_mut())(file, record.body_offset() + offset)?;
                Ok(found.ok_or(StoreError::Damaged(*root)))
            },
        )?;
        outcome.unwrap_or(Err(StoreError::NotHeld))
    }

    /// A shard's outboard. `NotHeld` where this folder does not have it.
    pub(crate) fn read_outboard(&self, root: &ShardRoot) -> Result<Vec<u8>, StoreError> {
        self.check_readable()?;
        let outcome = self.with_entry(
            || self.shard_entry(root),
            |volume, file, entry| {
                if entry.kind != Kind::Shard {
                    return Ok(None);
                }
                let expected = entry.record(*root.as_bytes(), [0; 32]);
                Ok(read_record(file, &volume.salt, &expected)?.map(|(_, tail)| tail))
            },
        )?;
        outcome.map_or(Err(StoreError::NotHeld), |tail| tail.ok_or(StoreError::Damaged(*root)))
    }

    /// The record that counts for a key with its tail; `Some(None)` where it is damaged.
    fn read_small(&self, class: Class, a: &[u8; 32], b: &[u8; 32]) -> Result<Option<Borne>, StoreError> {
        self.with_entry(
            || self.catalogue.entry(class, a, b),
            |volume, file, entry| read_record(file, &volume.salt, &entry.record(*a, *b)),
        )
    }

    /// The leases on a shard with the generations of their records, damaged ones left out.
    pub(crate) fn read_leases(&self, root: &ShardRoot) -> Result<Vec<(u64, LeaseRecord)>, StoreError> {
        let pairs = self.catalogue.leases(root).map_err(|reason| self.index_error(reason))?;
        let mut leases = Vec::with_capacity(pairs.len());
        for (a, b, _) in pairs {
            match self.read_small(Class::Lease, &a, &b)? {
                Some(Some((record, tail))) if record.kind == Kind::Lease => {
                    if let Some((lease, _)) = decode_lease(&record, &tail) {
                        leases.push((record.generation, lease));
                    }
                }
                Some(None) => tracing::error!(folder = self.name, ?root, "a lease record is damaged"),
                Some(Some(_)) | None => {}
            }
        }
        Ok(leases)
    }

    /// The evidence of an ended lease.
    pub(crate) fn read_evidence(&self, root: &ShardRoot, account: &AccountId) -> Result<Option<Bytes>, StoreError> {
        let found = self.read_small(Class::Lease, root.as_bytes(), account.as_bytes())?;
        Ok(found
            .flatten()
            .and_then(|(record, tail)| (record.kind == Kind::LeaseEnd && !tail.is_empty()).then(|| Bytes::from(tail))))
    }

    /// Heads for their keys, with the generations of their records, damaged ones left out.
    pub(crate) fn read_heads(&self, pairs: Vec<Pair>) -> Result<Vec<(u64, StoredHead)>, StoreError> {
        let mut heads = Vec::with_capacity(pairs.len());
        for (a, b, _) in pairs {
            match self.read_small(Class::Head, &a, &b)? {
                Some(Some((record, tail))) if record.kind == Kind::Head => heads.push((
                    record.generation,
                    StoredHead {
                        point: Point::new(a),
                        key: b,
                        bytes: Bytes::from(tail),
                        until: Timestamp::from_unix_ms(record.value),
                    },
                )),
                Some(None) => tracing::error!(folder = self.name, "a head record is damaged"),
                Some(Some(_)) | None => {}
            }
        }
        Ok(heads)
    }
}

/// The header of a shard that counts; `None` where the volume does not bear it out.
fn shard_header<F: DiskFile>(
    volume: &super::volume::Volume<F>,
    file: &F,
    root: &ShardRoot,
    entry: &Entry,
) -> io::Result<Option<Record>> {
    if entry.kind != Kind::Shard {
        return Ok(None);
    }
    let expected = entry.record(*root.as_bytes(), [0; 32]);
    Ok(read_header(file, &volume.salt, entry.offset)?.filter(|record| record.is_same(&expected)))
}

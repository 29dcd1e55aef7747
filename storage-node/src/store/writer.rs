//! A shard being written: its extent reserved, its bytes hashed and written as they come, its root checked at the end.
//!
//! Decides whether bytes become a shard. A wrong root, a wrong length or an abandoned put leaves nothing that counts and
//! gives the space back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dolmen_proto::ids::ShardRoot;
use dolmen_proto::root::RootHasher;

use super::append::{Draft, Written};
use super::commit::Ticket;
use super::folder::{FileOf, Folder, Room, VolumeOf};
use super::pages::PageBuffer;
use super::record::{CHECK_BYTES, HEADER_BYTES, Kind, Record, encode_lease, outboard_bytes, span};
use super::sync::lock;
use super::volume::{Change, Hold, Mode};
use super::{LEASE_TERMS_MAX_BYTES, LeaseRecord, StoreError};
use crate::disk::{Disk, DiskFile};

/// Smaller shards are written through the cache: several of them go to the disk together.
const UNCACHED_LEAST_BYTES: u32 = 256 * 1024;

/// A shard being written. Dropped unfinished, its space is given back.
pub struct ShardWriter<D: Disk> {
    folder: Arc<Folder<D>>,
    root: ShardRoot,
    length_bytes: u32,
    hasher: RootHasher,
    /// Where the bytes go; `None` where the shard is here already: then they are only checked.
    extent: Option<Extent<D>>,
    /// Whether this writer has the root pinned: from the choice of the folder until the lease is registered.
    pinned: bool,
}

struct Extent<D: Disk> {
    hold: Hold<FileOf<D>>,
    file: Arc<FileOf<D>>,
    record: Record,
    /// Taken when the first bytes come, given back when it is over.
    buffer: Option<PageBuffer>,
}

impl<D: Disk> std::fmt::Debug for ShardWriter<D> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ShardWriter")
            .field("root", &self.root)
            .field("length_bytes", &self.length_bytes)
            .field("received_bytes", &self.hasher.bytes())
            .finish_non_exhaustive()
    }
}

impl<D: Disk> ShardWriter<D> {
    /// Checks bytes against a shard that is here already. The caller has pinned it.
    pub(crate) fn checking(folder: Arc<Folder<D>>, root: ShardRoot, length_bytes: u32) -> Self {
        Self { folder, root, length_bytes, hasher: RootHasher::new(), extent: None, pinned: true }
    }

    /// Reserves an extent and writes its header. The caller has pinned the root; on failure it still is.
    pub(crate) fn storing(folder: Arc<Folder<D>>, root: ShardRoot, length_bytes: u32) -> Result<Self, StoreError> {
        let tail_bytes = outboard_bytes(length_bytes);
        let bytes = span(length_bytes, tail_bytes);
        let (hold, record) = folder.place(bytes, Room::Shard, None, |volume, tail, file| {
            let record = Record {
                kind: Kind::Shard,
                offset: tail.end,
                generation: folder.next_generation(),
                body_bytes: length_bytes,
                tail_bytes,
                durable: tail.durable,
                a: *root.as_bytes(),
                b: [0; 32],
                value: 0,
                mark: [0; 16],
            };
            file.write_at(&record.encode(&volume.salt), record.offset)?;
            tail.end = record.end();
            tail.in_flight += 1;
            folder.outstanding.fetch_add(bytes, Ordering::SeqCst);
            Ok((Hold::new(volume), record))
        })?;
        let file = match folder.file(hold.volume()) {
            Ok(file) => file,
            Err(error) => {
                folder.abandon(hold.volume(), &record);
                return Err(folder.io_error("opening a volume", &error));
            }
        };
        let extent = Extent { hold, file, record, buffer: None };
        Ok(Self { folder, root, length_bytes, hasher: RootHasher::new(), extent: Some(extent), pinned: true })
    }

    /// Appends bytes of the shard.
    ///
    /// # Errors
    /// `WrongLength` past the named length, `DiskFull`, `Io`; the writer is of no use after that.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let received = self.hasher.bytes() + bytes.len() as u64;
        if received > u64::from(self.length_bytes) {
            return Err(StoreError::WrongLength { named: u64::from(self.length_bytes), actual: received });
        }
        self.hasher.update(bytes);
        match &mut self.extent {
            Some(extent) => extent.take(&self.folder, bytes),
            None => Ok(()),
        }
    }

    /// Checks length and root and writes the lease; the shard is there once the ticket is committed.
    ///
    /// # Errors
    /// `WrongLength`, `WrongRoot`, `TooLarge` (terms), `DiskFull`, `Io`.
    pub fn finish(mut self, lease: LeaseRecord) -> Result<Ticket, StoreError> {
        check_terms(&lease)?;
        if self.hasher.bytes() != u64::from(self.length_bytes) {
            return Err(StoreError::WrongLength { named: u64::from(self.length_bytes), actual: self.hasher.bytes() });
        }
        let (actual, outboard) = std::mem::take(&mut self.hasher).finish();
        if actual != self.root {
            return Err(StoreError::WrongRoot { named: self.root, actual });
        }
        if let Some(extent) = &mut self.extent {
            extent.take_tail(&self.folder, &outboard)?;
        }
        let Some(extent) = self.extent.take() else {
            let (hold, record) = append_lease(&self.folder, &self.root, &lease, self.length_bytes, None)?;
            self.pinned = false;
            return Ok(self.folder.register_pinned(hold, record));
        };
        self.complete(extent, &lease)
    }

    /// The shard is whole in its volume: lists it there, writes the lease, registers both as one change.
    fn complete(&mut self, extent: Extent<D>, lease: &LeaseRecord) -> Result<Ticket, StoreError> {
        let Extent { hold, record, buffer, .. } = extent;
        self.folder.give_back(buffer);
        let volume = hold.volume().clone();
        let open = {
            let mut tail = lock(&volume.tail);
            tail.in_flight -= 1;
            let open = matches!(tail.mode, Mode::Open | Mode::Full);
            if open {
                tail.oldest = tail.oldest.min(record.generation);
                tail.rows.push(record);
            }
            open
        };
        self.folder.outstanding.fetch_sub(record.span(), Ordering::SeqCst);
        let ticket = if open { self.lease_and_register(hold, record, lease) } else { Err(self.folder.volume_closed()) };
        self.folder.seal_if_done(&volume);
        ticket
    }

    fn lease_and_register(
        &mut self,
        hold: Hold<FileOf<D>>,
        record: Record,
        lease: &LeaseRecord,
    ) -> Result<Ticket, StoreError> {
        let volume: Arc<VolumeOf<D>> = hold.volume().clone();
        // A lease must not be durable before its shard: after a crash it would look like a shard that the disk lost.
        let (lease_hold, lease_record) =
            append_lease(&self.folder, &self.root, lease, self.length_bytes, Some(&volume))?;
        let last = lease_hold.volume().clone();
        let unpin = Some(*self.root.as_bytes());
        let change = Change { records: vec![(hold, record), (lease_hold, lease_record)], copy_of: None, unpin };
        self.pinned = false;
        Ok(self.folder.register(&last, change))
    }
}

impl<D: Disk> Drop for ShardWriter<D> {
    fn drop(&mut self) {
        if let Some(extent) = self.extent.take() {
            self.folder.abandon(extent.hold.volume(), &extent.record);
            self.folder.give_back(extent.buffer);
        }
        if self.pinned {
            self.folder.unpin_failed(self.root.as_bytes());
        }
    }
}

impl<D: Disk> Extent<D> {
    /// Takes in bytes that follow those before, and writes them when there are many.
    fn take(&mut self, folder: &Folder<D>, mut bytes: &[u8]) -> Result<(), StoreError> {
        let record = &self.record;
        let buffer = self.buffer.get_or_insert_with(|| folder.page_buffer(record));
        while !bytes.is_empty() {
            bytes = &bytes[buffer.take(bytes)..];
            if buffer.is_full() {
                write_out(buffer, &*self.file, folder, record)?;
            }
        }
        Ok(())
    }

    /// Takes in outboard, check and padding, and writes what is left, so that the file reaches the end of the record.
    fn take_tail(&mut self, folder: &Folder<D>, outboard: &[u8]) -> Result<(), StoreError> {
        debug_assert_eq!(outboard.len(), self.record.tail_bytes as usize);
        let mut bytes = Vec::with_capacity(outboard.len() + CHECK_BYTES + HEADER_BYTES);
        if !outboard.is_empty() {
            bytes.extend_from_slice(outboard);
            bytes.extend_from_slice(&self.record.tail_check(&self.hold.volume().salt, outboard));
        }
        let end = self.record.tail_offset() + bytes.len() as u64;
        let padding = usize::try_from(self.record.end() - end).expect("padding is under 128 bytes");
        bytes.resize(bytes.len() + padding, 0);
        self.take(folder, &bytes)?;
        match &mut self.buffer {
            Some(buffer) => write_out(buffer, &*self.file, folder, &self.record),
            None => Ok(()),
        }
    }
}

fn write_out<D: Disk>(
    buffer: &mut PageBuffer,
    file: &FileOf<D>,
    folder: &Folder<D>,
    record: &Record,
) -> Result<(), StoreError> {
    let through_cache = |bytes: &[u8], offset| file.write_at(bytes, offset);
    let written = if record.body_bytes < UNCACHED_LEAST_BYTES {
        buffer.write_out(through_cache, through_cache)
    } else {
        buffer.write_out(through_cache, |pages, offset| file.write_pages(pages, offset))
    };
    written.map_err(|error| folder.write_error("writing a shard", record.span(), &error))
}

/// Refuses terms that are too long.
pub(crate) fn check_terms(lease: &LeaseRecord) -> Result<(), StoreError> {
    if lease.terms.len() > LEASE_TERMS_MAX_BYTES {
        return Err(StoreError::TooLarge {
            what: "lease terms",
            actual: lease.terms.len() as u64,
            limit: LEASE_TERMS_MAX_BYTES as u64,
        });
    }
    Ok(())
}

/// Writes a lease record; in another volume than `after` only once that one is synced.
pub(crate) fn append_lease<D: Disk>(
    folder: &Folder<D>,
    root: &ShardRoot,
    lease: &LeaseRecord,
    length_bytes: u32,
    after: Option<&Arc<VolumeOf<D>>>,
) -> Result<Written<D>, StoreError> {
    let tail = encode_lease(lease, length_bytes);
    let draft = Draft {
        kind: Kind::Lease,
        a: *root.as_bytes(),
        b: *lease.account.as_bytes(),
        value: lease.until.as_unix_ms(),
        mark: lease.mark,
        tail: &tail,
        generation: None,
        after,
    };
    folder.append_small(draft, Room::Small)
}

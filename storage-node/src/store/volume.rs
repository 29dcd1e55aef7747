//! One volume: its file, its end, its records while it is open, and what is waiting for its next sync.
//!
//! Decides how records are read back and checked. Never decides which volume a record goes to (see [`super::append`]) or
//! when one is removed (see [`super::compact`]).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::StoreError;
use super::marker::VOLUME_START;
use super::record::{ALIGN, CHECK_BYTES, HEADER_BYTES, Kind, ROW_BYTES, Record, TABLE_MAX_BYTES, is_root};
use crate::disk::DiskFile;

/// Bytes that bodies are read in when they are hashed or copied.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// What a volume may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// New records.
    Open,
    /// No new records; waits for running puts, then for its table.
    Full,
    /// Its table is being written.
    Closing,
    /// Nothing but reading.
    Sealed,
    /// A sync failed: nothing but reading, and to be emptied.
    Suspect,
}

/// The growing end of a volume.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Where the next record goes.
    pub(crate) end: u64,
    pub(crate) mode: Mode,
    /// Shards whose extents are reserved and whose bodies are not complete.
    pub(crate) in_flight: usize,
    /// Complete records in order of completion; empty once sealed.
    pub(crate) rows: Vec<Record>,
    /// Everything below was on disk at the last sync.
    pub(crate) durable: u64,
    /// How often the end was moved back.
    pub(crate) rewinds: u64,
    /// Smallest generation of any record, dead ones included.
    pub(crate) oldest: u64,
}

/// A change of the catalogue that waits for its records to be durable.
#[derive(Debug, Default)]
pub(crate) struct Change<F> {
    pub(crate) records: Vec<(Hold<F>, Record)>,
    /// The records are copies: volume and offset of the original.
    pub(crate) copy_of: Option<(u64, u64)>,
    /// Releases one pin of this root or point once applied.
    pub(crate) unpin: Option<[u8; 32]>,
}

#[derive(Debug)]
pub(crate) struct SyncState<F> {
    /// Sequence number of the last change written.
    pub(crate) written: u64,
    /// Sequence number of the last change that is durable and applied.
    pub(crate) synced: u64,
    /// Whether somebody is in the sync call.
    pub(crate) running: bool,
    pub(crate) failed: Option<StoreError>,
    pub(crate) pending: VecDeque<(u64, Change<F>)>,
}

/// One volume file.
#[derive(Debug)]
pub(crate) struct Volume<F> {
    pub(crate) number: u64,
    pub(crate) salt: [u8; 32],
    pub(crate) file: Mutex<Option<Arc<F>>>,
    pub(crate) tail: Mutex<Tail>,
    pub(crate) sync: Mutex<SyncState<F>>,
    pub(crate) synced: Condvar,
    /// False while it is read again after a failed sync.
    pub(crate) trusted: AtomicBool,
    /// Records that are written or being written and not yet in the catalogue.
    holds: AtomicUsize,
}

impl<F> Volume<F> {
    pub(crate) fn new(number: u64, salt: [u8; 32], end: u64, mode: Mode, oldest: u64) -> Self {
        Self {
            number,
            salt,
            file: Mutex::new(None),
            tail: Mutex::new(Tail { end, mode, in_flight: 0, rows: Vec::new(), durable: end, rewinds: 0, oldest }),
            sync: Mutex::new(SyncState {
                written: 0,
                synced: 0,
                running: false,
                failed: None,
                pending: VecDeque::new(),
            }),
            synced: Condvar::new(),
            trusted: AtomicBool::new(true),
            holds: AtomicUsize::new(0),
        }
    }

    /// Whether anything may yet come to count in this volume that does not now.
    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Ordering::SeqCst) > 0
    }
}

/// Keeps compaction from removing a volume in which a record is not yet in the catalogue.
#[derive(Debug)]
pub(crate) struct Hold<F>(Arc<Volume<F>>);

impl<F> Hold<F> {
    pub(crate) fn new(volume: &Arc<Volume<F>>) -> Self {
        volume.holds.fetch_add(1, Ordering::SeqCst);
        Self(volume.clone())
    }

    pub(crate) fn volume(&self) -> &Arc<Volume<F>> {
        &self.0
    }
}

impl<F> Drop for Hold<F> {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Reads exactly so many bytes; `None` where the file ends before.
pub(crate) fn read_exact<F: DiskFile>(file: &F, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length];
    Ok((file.read_at(&mut bytes, offset)? == length).then_some(bytes))
}

/// The record whose header stands at an offset; `None` where none valid does.
pub(crate) fn read_header<F: DiskFile>(file: &F, salt: &[u8; 32], offset: u64) -> io::Result<Option<Record>> {
    let mut bytes = [0; HEADER_BYTES];
    let count = file.read_at(&mut bytes, offset)?;
    Ok(Record::decode(&bytes[..count], salt, offset))
}

/// The tail of a record whose header was read; `None` where its check fails. The lengths in a valid header are bounded.
pub(crate) fn read_tail<F: DiskFile>(file: &F, salt: &[u8; 32], record: &Record) -> io::Result<Option<Vec<u8>>> {
    if record.tail_bytes == 0 {
        return Ok(Some(Vec::new()));
    }
    let length = record.tail_bytes as usize;
    let Some(mut bytes) = read_exact(file, record.tail_offset(), length + CHECK_BYTES)? else { return Ok(None) };
    let check = bytes.split_off(length);
    Ok((check == record.tail_check(salt, &bytes)).then_some(bytes))
}

/// Header and tail of a record that the catalogue or a table points at; `None` where the volume does not bear it out.
pub(crate) fn read_record<F: DiskFile>(
    file: &F,
    salt: &[u8; 32],
    expected: &Record,
) -> io::Result<Option<(Record, Vec<u8>)>> {
    let Some(record) = read_header(file, salt, expected.offset)? else { return Ok(None) };
    if !record.is_same(expected) {
        return Ok(None);
    }
    Ok(read_tail(file, salt, &record)?.map(|tail| (record, tail)))
}

/// Hashes a record's body, handing each piece on with its offset in the body. `None` where the file ends before it does.
pub(crate) fn hash_body<F: DiskFile, E: From<io::Error>>(
    file: &F,
    record: &Record,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<Option<blake3::Hash>, E> {
    let mut hasher = blake3::Hasher::new();
    let length = record.body_bytes as usize;
    let mut piece = vec![0; PIECE_BYTES.min(length)];
    let mut done = 0;
    while done < length {
        let piece = &mut piece[..PIECE_BYTES.min(length - done)];
        if file.read_at(piece, record.body_offset() + done as u64)? < piece.len() {
            return Ok(None);
        }
        hasher.update(piece);
        each(done as u64, piece)?;
        done += piece.len();
    }
    Ok(Some(hasher.finalize()))
}

/// Whether the volume bears a shard out: its header, its body by the root, its outboard by the check.
pub(crate) fn shard_is_whole<F: DiskFile>(file: &F, salt: &[u8; 32], row: &Record) -> io::Result<bool> {
    let Some(record) = read_header(file, salt, row.offset)?.filter(|record| record.is_same(row)) else {
        return Ok(false);
    };
    let hash = hash_body(file, &record, |_, _| Ok::<(), io::Error>(()))?;
    Ok(hash.is_some_and(|hash| is_root(&record.a, &hash)) && read_tail(file, salt, &record)?.is_some())
}

/// The rows of a table whose header was read; `None` where it is damaged.
pub(crate) fn read_rows<F: DiskFile>(file: &F, salt: &[u8; 32], table: &Record) -> io::Result<Option<Vec<Record>>> {
    let Some(tail) = read_tail(file, salt, table)? else { return Ok(None) };
    let rows: Option<Vec<_>> = tail.chunks_exact(ROW_BYTES).map(Record::decode_row).collect();
    Ok(rows.filter(|rows| rows.iter().all(|row| row.end() <= table.offset)))
}

/// The table at the end of a closed volume; `None` where there is none or it is damaged.
pub(crate) fn read_table<F: DiskFile>(file: &F, salt: &[u8; 32], length: u64) -> io::Result<Option<Vec<Record>>> {
    if length < VOLUME_START + ALIGN || !length.is_multiple_of(ALIGN) {
        return Ok(None);
    }
    let end_offset = length - ALIGN;
    let Some(end) = read_header(file, salt, end_offset)?.filter(|end| end.kind == Kind::End) else { return Ok(None) };
    let Some(table) = read_header(file, salt, end.value)? else { return Ok(None) };
    if table.kind != Kind::Table || table.end() != end_offset {
        return Ok(None);
    }
    read_rows(file, salt, &table)
}

/// A table of contents and the end record after it, for a volume that ends at `offset`. `None` for more rows than fit.
pub(crate) fn encode_table(salt: &[u8; 32], offset: u64, rows: &[Record]) -> Option<Vec<u8>> {
    let mut tail = Vec::with_capacity(rows.len() * ROW_BYTES);
    for row in rows {
        row.encode_row(&mut tail);
    }
    let tail_bytes = u32::try_from(tail.len()).ok().filter(|length| *length <= TABLE_MAX_BYTES)?;
    let about_volume = |kind, offset, tail_bytes, value| Record {
        kind,
        offset,
        generation: 0,
        body_bytes: 0,
        tail_bytes,
        durable: offset,
        a: [0; 32],
        b: [0; 32],
        value,
        mark: [0; 16],
    };
    let table = about_volume(Kind::Table, offset, tail_bytes, rows.len() as u64);
    let end = about_volume(Kind::End, table.end(), 0, offset);
    let mut bytes = table.encode_small(salt, &tail);
    bytes.extend_from_slice(&end.encode_small(salt, &[]));
    Some(bytes)
}

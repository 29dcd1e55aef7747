//! Reading a volume that has no valid table at its end: after a crash, or when the table is damaged.
//!
//! Decides which records of such a volume are whole. Never trusts a body without hashing it; never writes.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::marker::VOLUME_START;
use super::record::{ALIGN, HEADER_BYTES, Kind, RECORD_MAGIC, Record};
use super::volume::{read_header, read_rows, read_tail, shard_is_whole};
use crate::disk::DiskFile;

/// What is given up at once where reading fails: one sector.
const PLACE_BYTES: u64 = 512;
/// Bytes read at a time when the next header is looked for.
const WINDOW_BYTES: usize = 256 * 1024;

/// A file whose unreadable places read as zero: what lies there fails its checks, and what lies around it is found.
pub(crate) struct BadPlacesAsZero<F>(pub(crate) Arc<F>);

impl<F: DiskFile> DiskFile for BadPlacesAsZero<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Ok(count) = self.0.read_at(buffer, offset) {
            return Ok(count);
        }
        let length = self.0.len()?.saturating_sub(offset);
        let count = usize::try_from(length).map_or(buffer.len(), |length| length.min(buffer.len()));
        let mut done = 0;
        while done < count {
            let place = offset + done as u64;
            let rest = usize::try_from(PLACE_BYTES - place % PLACE_BYTES).expect("a place fits memory");
            let piece = &mut buffer[done..count.min(done + rest)];
            if self.0.read_at(piece, place).is_err() {
                piece.fill(0);
            }
            done += piece.len();
        }
        Ok(count)
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

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Whole records in the order in which they stand.
    pub(crate) rows: Vec<Record>,
    /// First offset after the last whole record.
    pub(crate) end: u64,
    /// Every record below this was on disk at some time: if it is not whole, the disk lost it.
    pub(crate) durable: u64,
    /// Shards, leases, heads and endings that are not whole.
    pub(crate) torn: usize,
    /// Valid headers seen, of any kind.
    pub(crate) headers: usize,
}

/// Walks a volume of this length. Only whole records are stepped over: the header of a put that a crash cut short may claim
/// a span in which later records lie.
pub(crate) fn walk<F: DiskFile>(file: &F, salt: &[u8; 32], length: u64) -> io::Result<Walked> {
    let mut walked = Walked { end: VOLUME_START, ..Walked::default() };
    let mut broken = BTreeSet::new();
    let mut position = VOLUME_START;
    while position.saturating_add(ALIGN) <= length {
        let record = read_header(file, salt, position)?;
        if let Some(record) = record {
            walked.headers += 1;
            walked.durable = walked.durable.max(record.durable);
            if record.end() <= length && walked.take(file, salt, record)? {
                position = record.end();
                walked.end = position;
                continue;
            }
            if record.kind.class().is_some() {
                walked.torn += 1;
                broken.insert(position);
            }
        }
        match next_header(file, salt, position + ALIGN, length)? {
            Some(next) => position = next,
            None => break,
        }
    }
    // A table may have brought back what is known not to be whole.
    walked.rows.retain(|row| !broken.contains(&row.offset));
    Ok(walked)
}

impl Walked {
    /// Takes a record in, if it is whole.
    fn take<F: DiskFile>(&mut self, file: &F, salt: &[u8; 32], record: Record) -> io::Result<bool> {
        match record.kind {
            Kind::Void => return Ok(false),
            Kind::End => {}
            Kind::Table => {
                let Some(rows) = read_rows(file, salt, &record)? else { return Ok(false) };
                self.rows = rows;
                self.durable = self.durable.max(record.offset);
            }
            Kind::Shard => {
                if !shard_is_whole(file, salt, &record)? {
                    return Ok(false);
                }
                self.rows.push(record);
            }
            Kind::ShardLost | Kind::Lease | Kind::LeaseEnd | Kind::Head | Kind::HeadEnd => {
                let Some(record) = read_tail(file, salt, &record)?.and_then(|tail| record.with_tail(&tail)) else {
                    return Ok(false);
                };
                self.rows.push(record);
            }
        }
        Ok(true)
    }
}

/// The offset of the next valid header at or after `from`. Salted checks keep an uploader's bytes from being one.
fn next_header<F: DiskFile>(file: &F, salt: &[u8; 32], from: u64, length: u64) -> io::Result<Option<u64>> {
    let mut window = vec![0; WINDOW_BYTES];
    let mut start = from.next_multiple_of(ALIGN);
    while start.saturating_add(ALIGN) <= length {
        let count = file.read_at(&mut window, start)?;
        for (slot, bytes) in window[..count].chunks_exact(HEADER_BYTES).enumerate() {
            let offset = start + slot as u64 * ALIGN;
            if bytes[..RECORD_MAGIC.len()] == RECORD_MAGIC && Record::decode(bytes, salt, offset).is_some() {
                return Ok(Some(offset));
            }
        }
        if count < WINDOW_BYTES {
            break;
        }
        start += WINDOW_BYTES as u64;
    }
    Ok(None)
}

//! Looking for rot: everything that counts is read again and checked, a bounded number of bytes a step.
//!
//! Decides what is damaged. Never repairs: the owner's steward does, and a new put heals.

use std::sync::Arc;

use dolmen_proto::ids::ShardRoot;

use super::folder::{Folder, VolumeOf};
use super::record::{Kind, Record};
use super::sync::lock;
use super::volume::{read_record, shard_is_whole};
use super::{ScrubReport, StoreError};
use crate::disk::Disk;

/// Where a folder's scrub goes on: the first record at or after this place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) volume: u64,
    pub(crate) offset: u64,
}

impl<D: Disk> Folder<D> {
    /// Checks about `budget_bytes`, or what is left of this round.
    pub(crate) fn scrub(self: &Arc<Self>, budget_bytes: u64, report: &mut ScrubReport) -> Result<(), StoreError> {
        let mut place = *lock(&self.cursor);
        let mut read = 0;
        for volume in self.all_volumes() {
            if volume.number < place.volume {
                continue;
            }
            let from = if volume.number == place.volume { place.offset } else { 0 };
            let mut rows = match self.rows(&volume) {
                Ok(rows) => rows,
                // Compaction removed it meanwhile.
                Err(_) if self.volume(volume.number).is_none() => continue,
                Err(error) => return Err(self.io_error("reading a volume", &error)),
            };
            rows.sort_unstable_by_key(|row| row.offset);
            for row in rows.iter().filter(|row| row.offset >= from) {
                if read >= budget_bytes {
                    *lock(&self.cursor) = Cursor { volume: volume.number, offset: row.offset };
                    report.read_bytes += read;
                    return Ok(());
                }
                if self.counts(volume.number, row) {
                    read += row.span();
                    self.check(&volume, row, report)?;
                }
            }
            place = Cursor { volume: volume.number + 1, offset: 0 };
        }
        *lock(&self.cursor) = Cursor::default();
        report.read_bytes += read;
        report.rounds += 1;
        Ok(())
    }

    fn check(
        self: &Arc<Self>,
        volume: &Arc<VolumeOf<D>>,
        row: &Record,
        report: &mut ScrubReport,
    ) -> Result<(), StoreError> {
        let whole = self.file(volume).and_then(|file| {
            if row.kind == Kind::Shard {
                shard_is_whole(&*file, &volume.salt, row)
            } else {
                Ok(read_record(&*file, &volume.salt, row)?.is_some())
            }
        });
        match whole {
            Ok(true) => {
                report.records += 1;
                return Ok(());
            }
            Ok(false) => {}
            Err(error) if !self.answers() => return Err(self.io_error("reading a record", &error)),
            // The disk answers but for this place: a bad sector.
            Err(_) => {}
        }
        // Compaction may have moved it while it was read.
        if !self.counts(volume.number, row) {
            return Ok(());
        }
        tracing::error!(folder = self.name, volume = volume.number, kind = ?row.kind, "a record is damaged");
        if row.kind == Kind::Shard {
            self.mark_lost(row.a, row.body_bytes)?;
            report.damaged.push(ShardRoot::new(row.a));
        }
        Ok(())
    }

    /// Whether the disk can read anything at all.
    pub(crate) fn answers(&self) -> bool {
        matches!(super::marker::read_marker(&self.disk), Ok(Some(_)))
    }
}

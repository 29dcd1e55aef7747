//! What the volumes leave open after a rebuild: shards without a lease, and leases without a shard.
//!
//! Decides what was owed and is lost, and what just ends. Runs once every record of every folder is known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dolmen_proto::ids::{ShardRoot, Timestamp};

use super::StoreError;
use super::append::Draft;
use super::catalogue::{Catalogue, KeyParts};
use super::commit::Ticket;
use super::folder::{Folder, Room, VolumeOf};
use super::record::{Kind, Record, decode_lease};
use super::sync::lock;
use super::volume::read_record;
use crate::disk::Disk;

/// Entries looked at in one go.
const PAGE: usize = 1024;

/// What settling came to.
pub(crate) struct Settled {
    /// Shards that are lost.
    pub(crate) damaged: usize,
    /// Whether all that was decided is on disk.
    pub(crate) durable: bool,
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

impl<D: Disk> Folder<D> {
    /// Lets shards without a lease go, and settles leases without a shard. `durable`: for each volume that was walked,
    /// every record below was on disk at some time.
    pub(crate) fn settle_all(
        self: &Arc<Self>,
        durable: &BTreeMap<u64, u64>,
        now: Timestamp,
    ) -> Result<Settled, StoreError> {
        let index_error = |reason| self.index_error(reason);
        let mut ticket = Ticket::default();
        let mut written = true;
        // Both are in order of roots: one sweep over each finds whatever has no counterpart.
        let mut shards = Roots { catalogue: &self.catalogue, page: VecDeque::new(), after: None, ended: false };
        let mut leased = None;
        let mut after: Option<KeyParts> = None;
        loop {
            self.rebuild.check_running()?;
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
                    let was_durable = durable.get(&entry.volume).is_none_or(|durable| entry.offset < *durable);
                    let over = entry.value < now.before(self.options.grace).as_unix_ms();
                    written &=
                        self.settle(&entry.record(root, account), entry.volume, was_durable && !over, &mut ticket)?;
                }
            }
        }
        while let Some(passed) = shards.next_if(|_| true).map_err(index_error)? {
            if leased != Some(passed) {
                self.drop_if_unleased(&mut lock(&self.totals), &passed).map_err(index_error)?;
            }
        }
        let synced = ticket.wait();
        if let Err(error) = &synced {
            tracing::warn!(folder = self.name, %error, "what recovery decided is not on disk yet");
        }
        let damaged = usize::try_from(lock(&self.totals).damaged).unwrap_or(usize::MAX);
        Ok(Settled { damaged, durable: written && synced.is_ok() })
    }

    /// A lease whose shard is not there: one that is owed was acknowledged, so the shard is lost; any other just ends. Says
    /// whether that could be written.
    fn settle(
        self: &Arc<Self>,
        lease: &Record,
        volume: u64,
        owed: bool,
        ticket: &mut Ticket,
    ) -> Result<bool, StoreError> {
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
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(folder = self.name, %error, "what recovery decided could not be written");
                let mut totals = lock(&self.totals);
                let forgotten = self.catalogue.forget(&mut totals, volume, lease);
                forgotten.map(|()| false).map_err(|reason| self.index_error(reason))
            }
        }
    }
}

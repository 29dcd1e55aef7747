//! Ending what is over: leases and heads whose time and grace have passed.
//!
//! Decides nothing about clocks: `now` is the caller's, who knows whether it can be trusted. Endings are written like any
//! other record, so that a rebuilt index does not bring anything back.

use std::sync::Arc;

use dolmen_proto::ids::{AccountId, ShardRoot, Timestamp};
use dolmen_proto::limits;

use super::append::Draft;
use super::commit::Ticket;
use super::folder::{Folder, Room};
use super::record::{Class, Kind};
use super::sync::lock;
use super::{ExpireReport, LeaseSummary, StoreError};
use crate::disk::Disk;

impl<D: Disk> Folder<D> {
    /// Writes endings for at most `max` leases and heads that are over.
    pub(crate) fn expire(
        self: &Arc<Self>,
        now: Timestamp,
        short_of_space: bool,
        max: usize,
        report: &mut ExpireReport,
        ticket: &mut Ticket,
    ) -> Result<(), StoreError> {
        let kept = if short_of_space { limits::EXPIRY_SKEW } else { self.options.grace.max(limits::EXPIRY_SKEW) };
        let before = now.before(kept).as_unix_ms();
        let index_error = |reason| self.index_error(reason);
        let mut left = max;
        for class in [Class::Lease, Class::Head] {
            let due = self.catalogue.due(class, before, left).map_err(index_error)?;
            report.more |= due.len() == left;
            left -= due.len();
            for (a, b) in due {
                let kind = if class == Class::Lease { Kind::LeaseEnd } else { Kind::HeadEnd };
                let draft = Draft { kind, a, b, value: 0, mark: [0; 16], tail: &[], generation: None };
                // While the lock is held nobody begins to renew it: a renewal either counts already, or is pinned, or
                // gets a later generation than the ending.
                let pins = lock(&self.pins);
                let entry = self.catalogue.entry(class, &a, &b).map_err(index_error)?;
                if pins.contains_key(&a) || entry.is_none_or(|entry| entry.value >= before) {
                    continue;
                }
                let summary = self.summary(&ShardRoot::new(a), &AccountId::new(b))?;
                let (hold, record) = self.append_small(draft, Room::Ending)?;
                drop(pins);
                match class {
                    Class::Lease => report.leases.extend(summary),
                    Class::Shard | Class::Head => report.heads += 1,
                }
                ticket.merge(self.register_one(hold, record));
            }
        }
        Ok(())
    }

    /// A lease as a listing shows it, where it counts.
    pub(crate) fn summary(&self, root: &ShardRoot, account: &AccountId) -> Result<Option<LeaseSummary>, StoreError> {
        let index_error = |reason| self.index_error(reason);
        let Some(lease) = self.catalogue.lease(root, account).map_err(index_error)? else { return Ok(None) };
        let shard = self.catalogue.shard(root).map_err(index_error)?;
        Ok(Some(LeaseSummary {
            root: *root,
            account: *account,
            length_bytes: shard.map_or(0, |shard| shard.shard_bytes()),
            until: Timestamp::from_unix_ms(lease.value),
            mark: lease.mark,
        }))
    }
}

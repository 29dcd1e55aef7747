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

/// What a record of any folder that is newer than this generation says of a lease.
pub(crate) type NewerKind<'a> = dyn Fn(&ShardRoot, &AccountId, u64) -> Result<Option<Kind>, StoreError> + 'a;

impl<D: Disk> Folder<D> {
    /// Writes endings for at most `max` leases and heads that are over.
    pub(crate) fn expire(
        self: &Arc<Self>,
        now: Timestamp,
        short_of_space: bool,
        max: usize,
        report: &mut ExpireReport,
        ticket: &mut Ticket,
        newer: &NewerKind<'_>,
    ) -> Result<(), StoreError> {
        let kept = if short_of_space { limits::EXPIRY_SKEW } else { self.options.grace.max(limits::EXPIRY_SKEW) };
        let before = now.before(kept).as_unix_ms();
        let index_error = |reason| self.index_error(reason);
        let mut left = max;
        for class in [Class::Lease, Class::Head] {
            let due = self.catalogue.due(class, before, left).map_err(index_error)?;
            let full = due.len() == left;
            let mut ended = false;
            left -= due.len();
            for (a, b) in due {
                let kind = if class == Class::Lease { Kind::LeaseEnd } else { Kind::HeadEnd };
                let (root, account) = (ShardRoot::new(a), AccountId::new(b));
                let (generation, entry) = {
                    // While this lock is held nobody begins to renew: a renewal either counts already, or is pinned, or
                    // gets a later generation than the ending.
                    let pins = lock(&self.pins);
                    let entry = self.catalogue.entry(class, &a, &b).map_err(index_error)?;
                    let Some(entry) = entry.filter(|entry| entry.value < before && !pins.contains_key(&a)) else {
                        continue;
                    };
                    (self.next_generation(), entry)
                };
                // An ending here would be later than a newer lease on another folder, and end that.
                let elsewhere = if class == Class::Lease { newer(&root, &account, entry.generation)? } else { None };
                if elsewhere == Some(Kind::Lease) {
                    continue;
                }
                let shard = self.catalogue.shard(&root).map_err(index_error)?;
                let generation = Some(generation);
                let draft = Draft { kind, a, b, value: entry.value, mark: [0; 16], tail: &[], generation, after: None };
                let (hold, record) = self.append_small(draft, Room::Ending)?;
                match class {
                    Class::Lease if elsewhere.is_some() => {}
                    Class::Lease => report.leases.push(LeaseSummary {
                        root,
                        account,
                        length_bytes: shard.map_or(0, |shard| shard.shard_bytes()),
                        until: Timestamp::from_unix_ms(entry.value),
                        mark: entry.mark,
                    }),
                    Class::Shard | Class::Head => report.heads += 1,
                }
                ended = true;
                ticket.merge(self.register_one(hold, record));
            }
            // What is just being renewed is left alone, so a full page without an ending is no reason to come again.
            report.more |= full && ended;
        }
        Ok(())
    }
}

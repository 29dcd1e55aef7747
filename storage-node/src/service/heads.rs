//! `PutHead` and `GetHead`: which head lies at a point, and what everybody who writes one is told.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dolmen_proto::head::{Head, Verdict, accept};
use dolmen_proto::ids::{Point, Timestamp};
use dolmen_proto::limits::{HEADS_PER_POINT_MAX, LEASE_DEFAULT, REQUEST_LIFE};
use dolmen_proto::wire::{ErrorCode, GetHeadRequest, PutHeadReply, PutHeadRequest, Reply, WireError};

use super::{HEAD_STRIPES, Service, wire_error};
use crate::config::AcceptingMode;
use crate::disk::Disk;
use crate::store::{StoreError, StoredHead};
use crate::subnet::Subnet;

/// Heads read from the store at a time when they are counted or put again.
const HEADS_BATCH: usize = 256;
/// What a head takes on disk beyond its bytes, rounded up: the record's header and the index entry.
const HEAD_OVERHEAD_BYTES: u64 = 256;

impl<D: Disk> Service<D> {
    /// Keeps a head if it wins over the one by the same key at that point. Durable before the answer.
    pub(super) fn put_head(
        &self,
        request: &PutHeadRequest,
        now: Timestamp,
        from: Option<Subnet>,
    ) -> Result<Reply, WireError> {
        request.verify(now)?;
        if request.until > now.after(LEASE_DEFAULT).after(REQUEST_LIFE) {
            return Err(WireError::new(ErrorCode::LeaseTooLong, "a head is kept for 400 days at most"));
        }
        self.admit(AcceptingMode::RenewOnly)?;
        self.head_rate.take(from, now).map_err(|wait| {
            WireError::new(ErrorCode::Busy, "too many heads from your network").with_retry_after(wait)
        })?;
        let new = Head::parse(&request.head).map_err(|error| WireError::malformed(error.to_string()))?;
        let stripe = usize::from(request.point.as_bytes()[0]) % HEAD_STRIPES;
        // Held until the head is durable: heads are visible only then, and two writers must see each other.
        let _alone = self.head_stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.store.heads(&request.point).map_err(|error| wire_error(&error))?;
        let stored = there.iter().find(|head| head.key == *new.public_key());
        // One that does not parse any more is as good as none: the put heals it.
        let current = stored.and_then(|head| Head::parse(&head.bytes).ok());
        let before = current.as_ref().map(|head| head.bytes().clone());
        let reply = |accepted, current| Ok(Reply::PutHead(PutHeadReply { accepted, current }));
        match accept(current.as_ref(), &new) {
            Verdict::Accept { .. } => {
                if stored.is_none() && there.len() >= HEADS_PER_POINT_MAX {
                    return Err(WireError::new(ErrorCode::TooMany, "there are heads by too many keys at this point"));
                }
                let until = stored.map_or(request.until, |head| head.until.max(request.until));
                self.keep_head(request.point, &new, stored, until)?;
                reply(true, before)
            }
            Verdict::Unchanged => {
                if let Some(stored) = stored.filter(|stored| request.until > stored.until) {
                    self.keep_head(request.point, &new, Some(stored), request.until)?;
                }
                reply(true, before)
            }
            Verdict::Refuse(_) => reply(false, before),
        }
    }

    fn keep_head(
        &self,
        point: Point,
        head: &Head,
        replaced: Option<&StoredHead>,
        until: Timestamp,
    ) -> Result<(), WireError> {
        let new_bytes = head_cost(head.bytes());
        let old_bytes = replaced.map_or(0, |old| head_cost(&old.bytes));
        let limit = self.options.heads_quota_bytes;
        let reserve = |used: u64| used.checked_add(new_bytes)?.checked_sub(old_bytes).filter(|sum| *sum <= limit);
        self.head_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve)
            .map_err(|_| WireError::new(ErrorCode::OpenQuotaExceeded, "this node has no room for more heads"))?;
        let put = self.store.put_head(point, *head.public_key(), head.bytes(), until);
        put.and_then(|ticket| self.store.commit(ticket)).map_err(|error| {
            let undo = |used: u64| Some(used.saturating_add(old_bytes).saturating_sub(new_bytes));
            // Never fails: the closure always gives a value.
            let _ = self.head_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, undo);
            wire_error(&error)
        })
    }

    /// The heads at a point. Anybody who knows the point may ask.
    pub(super) fn get_head(&self, request: &GetHeadRequest) -> Result<Reply, WireError> {
        let there = self.store.heads(&request.point).map_err(|error| wire_error(&error))?;
        let wanted = there.into_iter().filter(|head| request.key.is_none_or(|key| key == head.key));
        let heads: Vec<Bytes> = wanted.map(|head| head.bytes).take(HEADS_PER_POINT_MAX).collect();
        if heads.is_empty() && self.miss() == ErrorCode::DiskFailed {
            return Err(WireError::new(ErrorCode::DiskFailed, "not all of this node's disks are in use"));
        }
        Ok(Reply::GetHead(heads))
    }

    /// One page of the heads held, from the first after `after`, for putting them again.
    ///
    /// # Errors
    /// What the store says.
    pub fn heads_page(&self, after: Option<(Point, [u8; 32])>) -> Result<Vec<StoredHead>, StoreError> {
        self.store.all_heads(after, HEADS_BATCH)
    }

    /// Bytes charged for heads.
    #[must_use]
    pub fn head_bytes(&self) -> u64 {
        self.head_bytes.load(Ordering::Acquire)
    }

    /// Counts the bytes of all heads anew. A head written while this runs may be missed until the next count.
    pub(super) fn count_heads(&self) -> Result<(), StoreError> {
        let (mut after, mut bytes) = (None, 0u64);
        loop {
            let page = self.heads_page(after)?;
            bytes = page.iter().fold(bytes, |sum, head| sum.saturating_add(head_cost(&head.bytes)));
            match page.last() {
                Some(last) => after = Some((last.point, last.key)),
                None => break,
            }
        }
        self.head_bytes.store(bytes, Ordering::Release);
        Ok(())
    }
}

fn head_cost(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_add(HEAD_OVERHEAD_BYTES)
}

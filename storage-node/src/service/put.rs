//! `Put`: terms are checked and bytes set aside before the first byte is taken in; the receipt follows the fsync.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use dolmen_proto::ids::Timestamp;
use dolmen_proto::wire::{ErrorCode, LeaseTerms, PutRequest, Receipt, Reply, Signed, WireError};

use super::{Service, wire_error};
use crate::accounts::{Payer, QuotaError, Reservation, charged_bytes};
use crate::claims::Claim;
use crate::config::AcceptingMode;
use crate::disk::Disk;
use crate::lease::{StewardTag, mark_of, terms_of};
use crate::store::{LeaseRecord, ShardState, ShardWriter, StoreError, Ticket};
use crate::subnet::Subnet;

/// When a request that met another one for the same shard may come again.
const CONTENDED_RETRY: std::time::Duration = std::time::Duration::from_millis(250);

/// How a `Put` goes on.
pub enum PutStart<D: Disk> {
    /// The shard is here: no payload is needed, the receipt follows once the lease is durable.
    Held(Box<Pending>),
    /// The payload is wanted.
    Wanted(Box<PutInProgress<D>>),
}

/// A shard that is coming in. Dropped unfinished, its space and its quota are given back.
pub struct PutInProgress<D: Disk> {
    writer: ShardWriter<D>,
    lease: LeaseRecord,
    receipt: Receipt,
    reservation: Option<Reservation>,
    claim: Claim,
}

impl<D: Disk> PutInProgress<D> {
    /// Takes in the next bytes; blocks on the disk.
    ///
    /// # Errors
    /// The peer's fault when there are more than it named, else the disk's.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.writer.write(bytes).map_err(|error| wire_error(&error))
    }

    /// All bytes are in: checks length and root and writes the lease.
    ///
    /// # Errors
    /// The peer's fault when the bytes are not those that it named, else the disk's.
    pub fn finish(self) -> Result<Pending, WireError> {
        let ticket = self.writer.finish(self.lease).map_err(|error| wire_error(&error))?;
        Ok(Pending {
            ticket,
            settlement: Settlement { receipt: self.receipt, reservation: self.reservation, _claim: self.claim },
        })
    }
}

/// A lease that is written and not yet durable.
#[must_use = "nothing is acknowledged before the ticket is committed"]
pub struct Pending {
    ticket: Ticket,
    settlement: Settlement,
}

impl Pending {
    /// What the store commits, and what [`Service::conclude`] then makes the reply of.
    pub fn split(self) -> (Ticket, Settlement) {
        (self.ticket, self.settlement)
    }
}

/// What hangs on a commit: the receipt, the bytes set aside, and the claim on the root.
pub struct Settlement {
    receipt: Receipt,
    reservation: Option<Reservation>,
    _claim: Claim,
}

impl<D: Disk> Service<D> {
    /// Checks a `Put` and prepares for its payload.
    ///
    /// # Errors
    /// What the peer is told: unauthorised, too early, over a quota, not accepted, full, or busy with the same shard.
    pub fn begin_put(
        &self,
        request: &PutRequest,
        now: Timestamp,
        from: Option<Subnet>,
    ) -> Result<PutStart<D>, WireError> {
        let terms = request.verify(&self.node, now)?;
        self.books()?;
        if terms.length_bytes > self.options.shard_max_bytes {
            return Err(WireError::new(ErrorCode::TooLarge, "the shard is larger than this node takes"));
        }
        let grant = request.grant.as_ref().map(Signed::claimed);
        let payer =
            Payer { account: terms.account, subnet: from, steward: grant.map(|grant| StewardTag::of(&grant.steward)) };
        let grant_bytes = grant.map_or(u64::MAX, |grant| grant.quota_bytes);
        let claim = self.claims.claim(terms.root).ok_or_else(contended)?;
        let mut shard = self.store.lookup(&terms.root).map_err(|error| wire_error(&error))?;
        let mut over = None;
        if shard.as_ref().is_some_and(|shard| shard.leases.iter().any(|lease| lease.until <= now)) {
            over = Some(self.expiry.read().unwrap_or_else(PoisonError::into_inner));
            shard = self.store.lookup(&terms.root).map_err(|error| wire_error(&error))?;
        }
        let Some(shard) = shard else {
            let (reservation, _admitting) = self.admit_new(payer, grant_bytes, terms)?;
            self.refuse_replay(terms)?;
            return self.begin_upload(terms, new_lease(terms, request, &payer), Some(reservation), claim, now);
        };
        if u64::from(shard.length_bytes) != terms.length_bytes {
            let text = format!("the shard of this root has {} bytes", shard.length_bytes);
            return Err(WireError::new(ErrorCode::LengthMismatch, text));
        }
        let own = shard.leases.into_iter().find(|lease| lease.account == terms.account);
        let mut admitting = None;
        let (lease, reservation) = match own {
            Some(own) => {
                if terms.until > own.until || shard.state == ShardState::Damaged {
                    self.admit(AcceptingMode::RenewOnly)?;
                }
                // Never shorter, and never other keys: a steward's put must not take the right to delete.
                (LeaseRecord { until: own.until.max(terms.until), ..own }, None)
            }
            None => {
                let (reservation, guard) = self.admit_new(payer, grant_bytes, terms)?;
                admitting = Some(guard);
                self.refuse_replay(terms)?;
                (new_lease(terms, request, &payer), Some(reservation))
            }
        };
        if shard.state == ShardState::Damaged {
            return self.begin_upload(terms, lease, reservation, claim, now);
        }
        let receipt = Receipt { until: lease.until, ..Receipt::for_terms(terms, now) };
        let mut ticket = self.store.put_lease(terms.root, lease).map_err(|error| wire_error(&error))?;
        if over.is_some() {
            self.store.commit(std::mem::take(&mut ticket)).map_err(|error| wire_error(&error))?;
        }
        drop(admitting);
        let settlement = Settlement { receipt, reservation, _claim: claim };
        Ok(PutStart::Held(Box::new(Pending { ticket, settlement })))
    }

    /// Commits and concludes in one step; blocks until the lease is durable.
    #[must_use]
    pub fn settle(&self, pending: Pending) -> Reply {
        let (ticket, settlement) = pending.split();
        self.conclude(settlement, self.store.commit(ticket))
    }

    /// The reply to a put whose ticket was committed with this outcome. Signs; does not block.
    #[must_use]
    pub fn conclude(&self, settlement: Settlement, committed: Result<(), StoreError>) -> Reply {
        match committed {
            Ok(()) => {
                if let Some(reservation) = settlement.reservation {
                    reservation.keep();
                }
                Reply::Put(Box::new(Signed::sign(settlement.receipt, &self.key)))
            }
            Err(error) => Reply::Error(wire_error(&error)),
        }
    }

    /// Terms that the owner took back by a later delete are not good a second time.
    fn refuse_replay(&self, terms: &LeaseTerms) -> Result<(), WireError> {
        match self.deleted_at(&terms.root, terms.account)? {
            Some(deleted_at) if deleted_at > terms.issued_at => {
                Err(WireError::new(ErrorCode::Expired, "the lease was deleted after these terms were signed"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn begin_upload(
        &self,
        terms: &LeaseTerms,
        lease: LeaseRecord,
        reservation: Option<Reservation>,
        claim: Claim,
        now: Timestamp,
    ) -> Result<PutStart<D>, WireError> {
        let length = u32::try_from(terms.length_bytes)
            .map_err(|_| WireError::new(ErrorCode::TooLarge, "the shard is larger than any"))?;
        let writer = self.store.begin_put(terms.root, length).map_err(|error| wire_error(&error))?;
        let receipt = Receipt { until: lease.until, ..Receipt::for_terms(terms, now) };
        Ok(PutStart::Wanted(Box::new(PutInProgress { writer, lease, receipt, reservation, claim })))
    }

    /// Whether the node takes what wants at least this mode.
    pub(super) fn admit(&self, wanted: AcceptingMode) -> Result<(), WireError> {
        let refusal = match (self.accepting(), wanted) {
            (AcceptingMode::All, _) | (AcceptingMode::RenewOnly, AcceptingMode::RenewOnly) => return Ok(()),
            (AcceptingMode::RenewOnly, _) => "the node takes no new shards",
            (AcceptingMode::None, _) => "the node takes neither new shards nor renewals",
        };
        Err(WireError::new(ErrorCode::NotAccepting, refusal))
    }

    /// Admission of a lease that is not there yet: mode, quota, room.
    fn admit_new(
        &self,
        payer: Payer,
        grant_bytes: u64,
        terms: &LeaseTerms,
    ) -> Result<(Reservation, Admitting), WireError> {
        self.admit(AcceptingMode::All)?;
        let bytes = charged_bytes(terms.length_bytes);
        let books = self.books()?;
        let _one = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        if self.room_bytes() < bytes {
            return Err(WireError::new(ErrorCode::DiskFull, "there is no room left on the node's disks"));
        }
        let reservation = books.reserve(payer, grant_bytes, bytes).map_err(|error| {
            let code = match error {
                QuotaError::Account { .. } | QuotaError::Grant { .. } => ErrorCode::QuotaExceeded,
                QuotaError::Open { .. } | QuotaError::Subnet { .. } => ErrorCode::OpenQuotaExceeded,
            };
            WireError::new(code, error.to_string())
        })?;
        self.admitting.fetch_add(bytes, Ordering::AcqRel);
        Ok((reservation, Admitting { sum: Arc::clone(&self.admitting), bytes }))
    }
}

/// An admitted put until the store counts its bytes itself.
struct Admitting {
    sum: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Admitting {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

fn new_lease(terms: &LeaseTerms, request: &PutRequest, payer: &Payer) -> LeaseRecord {
    LeaseRecord {
        account: terms.account,
        delete_key: terms.delete_key,
        renew_key: terms.renew_key,
        until: terms.until,
        issued_at: terms.issued_at,
        mark: mark_of(payer),
        terms: terms_of(request),
    }
}

/// Somebody else is changing leases of the same root.
pub(super) fn contended() -> WireError {
    WireError::new(ErrorCode::Busy, "another request for the same shard is under way").with_retry_after(CONTENDED_RETRY)
}

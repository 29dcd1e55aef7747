//! `Stat`, `Renew`, `Delete` and `List`: calls on many shards that are answered item by item.

use std::sync::PoisonError;

use bytes::Bytes;
use dolmen_proto::ids::{AccountId, ShardRoot, Timestamp};
use dolmen_proto::limits::LEASES_PER_LIST_MAX;
use dolmen_proto::wire::{
    DeleteBody, DeleteRequest, ErrorCode, LeaseItem, ListReply, ListRequest, RenewBody, RenewReceipt, RenewReply,
    RenewRequest, Reply, ShardStatus, Signed, WireError,
};

use super::{Service, code_of, wire_error};
use crate::accounts::{Payer, charged_bytes};
use crate::claims::Claim;
use crate::config::AcceptingMode;
use crate::disk::Disk;
use crate::lease::payer_of;
use crate::store::{EVIDENCE_MAX_BYTES, LeaseRecord, ShardState, StoreError, Ticket};

/// First byte of evidence that is the signed delete itself.
const EVIDENCE_WHOLE: u8 = 0;
/// First byte of evidence that names the root beside which the signed delete lies.
const EVIDENCE_ELSEWHERE: u8 = 1;

/// One lease that a delete ends.
struct Ending {
    item: usize,
    root: ShardRoot,
    until: Timestamp,
    payer: Payer,
    bytes: u64,
    _claim: Claim,
}

impl<D: Disk> Service<D> {
    /// Whether shards are held, and until when. Anybody may ask.
    pub(super) fn stat(&self, roots: &[ShardRoot]) -> Reply {
        let miss = self.miss();
        let status = |root| match self.store.summary(root) {
            Ok(Some(shard)) if shard.state == ShardState::Damaged => Err(ErrorCode::Damaged),
            Ok(Some(shard)) => Ok(ShardStatus { length_bytes: shard.length_bytes.into(), until: shard.until }),
            Ok(None) => Err(miss),
            Err(error) => Err(code_of(&error)),
        };
        Reply::Stat(roots.iter().map(status).collect())
    }

    /// Makes leases longer, never shorter: by their renew key, or by a steward with the account's grant.
    pub(super) fn renew(&self, request: &RenewRequest, now: Timestamp) -> Result<Reply, WireError> {
        let body = request.verify(&self.node, now)?;
        self.admit(AcceptingMode::RenewOnly)?;
        let granted = request.grant.is_some();
        let _expiry = self.expiry.read().unwrap_or_else(PoisonError::into_inner);
        let mut ticket = Ticket::default();
        let mut claims = Vec::new();
        let mut codes: Vec<Result<(), ErrorCode>> = Vec::with_capacity(body.roots.len());
        let mut shards = Vec::new();
        for (index, root) in body.roots.iter().enumerate() {
            let renewed = if body.roots[..index].contains(root) {
                // Named twice: the first mention counts, a receipt names a shard once.
                Err(ErrorCode::Malformed)
            } else {
                self.renew_one(body, granted, *root, &mut ticket, &mut claims)
            };
            codes.push(renewed.map(|length_bytes| shards.push((*root, length_bytes))));
        }
        if let Err(error) = self.store.commit(ticket) {
            return Err(wire_error(&error));
        }
        let receipt = (!shards.is_empty()).then(|| {
            let (node, account, until) = (self.node, body.account, body.until);
            Signed::sign(RenewReceipt { node, account, until, issued_at: now, shards }, &self.key)
        });
        Ok(Reply::Renew(Box::new(RenewReply { codes, receipt })))
    }

    /// Gives the shard's length when its lease now lasts as long as was asked for.
    fn renew_one(
        &self,
        body: &RenewBody,
        granted: bool,
        root: ShardRoot,
        ticket: &mut Ticket,
        claims: &mut Vec<Claim>,
    ) -> Result<u64, ErrorCode> {
        let claim = self.claims.claim(root).ok_or(ErrorCode::Busy)?;
        let shard = self.store.lookup(&root).map_err(|error| code_of(&error))?.ok_or_else(|| self.miss())?;
        if shard.state == ShardState::Damaged {
            return Err(ErrorCode::Damaged);
        }
        let lease = shard.leases.into_iter().find(|lease| lease.account == body.account).ok_or(ErrorCode::NotHeld)?;
        if !granted && lease.renew_key != body.signer {
            return Err(ErrorCode::Unauthorised);
        }
        if body.until > lease.until {
            let longer = LeaseRecord { until: body.until, ..lease };
            ticket.merge(self.store.put_lease(root, longer).map_err(|error| code_of(&error))?);
        }
        claims.push(claim);
        Ok(shard.length_bytes.into())
    }

    /// Ends leases by their delete key and keeps the signed request as the node's defence.
    pub(super) fn delete(&self, request: &DeleteRequest, now: Timestamp) -> Result<Reply, WireError> {
        let body = request.verify(&self.node, now)?;
        let books = self.books()?;
        let _expiry = self.expiry.read().unwrap_or_else(PoisonError::into_inner);
        let mut codes = Vec::with_capacity(body.roots.len());
        let mut endings = Vec::new();
        for (item, root) in body.roots.iter().enumerate() {
            let found = if body.roots[..item].contains(root) { Ok(None) } else { self.find_ending(body, item, *root) };
            codes.push(found.map(|ending| endings.extend(ending)));
        }
        let mut ticket = Ticket::default();
        let evidence = request.body.encode();
        for (ending, evidence) in with_evidence(&endings, &evidence) {
            match self.store.remove_lease(ending.root, body.account, &evidence) {
                Ok(removed) => ticket.merge(removed),
                Err(error) => codes[ending.item] = Err(code_of(&error)),
            }
        }
        self.store.commit(ticket).map_err(|error| wire_error(&error))?;
        for ending in endings.iter().filter(|ending| codes[ending.item].is_ok()) {
            books.release(&ending.payer, ending.bytes);
        }
        Ok(Reply::Delete(codes))
    }

    /// The lease to end; `None` when there is no such lease any more, which counts as deleted.
    fn find_ending(&self, body: &DeleteBody, item: usize, root: ShardRoot) -> Result<Option<Ending>, ErrorCode> {
        let claim = self.claims.claim(root).ok_or(ErrorCode::Busy)?;
        let Some(shard) = self.store.lookup(&root).map_err(|error| code_of(&error))? else {
            return match self.miss() {
                ErrorCode::NotHeld => Ok(None),
                unknown => Err(unknown),
            };
        };
        let Some(lease) = shard.leases.into_iter().find(|lease| lease.account == body.account) else {
            return Ok(None);
        };
        if lease.delete_key != body.signer {
            return Err(ErrorCode::Unauthorised);
        }
        if lease.issued_at > body.issued_at {
            // An old delete that is played again, or a delete signed by a clock behind the one of the put.
            return Err(ErrorCode::Expired);
        }
        let (payer, bytes) = (payer_of(lease.account, &lease.mark), charged_bytes(shard.length_bytes.into()));
        Ok(Some(Ending { item, root, until: lease.until, payer, bytes, _claim: claim }))
    }

    /// One page of an account's own leases.
    pub(super) fn list(&self, request: &ListRequest, now: Timestamp) -> Result<Reply, WireError> {
        let body = request.verify(&self.node, now)?;
        let found = self.store.leases_of(body.account, body.after_root, LEASES_PER_LIST_MAX + 1);
        let found = found.map_err(|error| wire_error(&error))?;
        let item = |lease: &crate::store::LeaseSummary| LeaseItem {
            root: lease.root,
            length_bytes: lease.length_bytes.into(),
            until: lease.until,
        };
        let leases = found.iter().take(LEASES_PER_LIST_MAX).map(item).collect();
        Ok(Reply::List(ListReply { leases, more: found.len() > LEASES_PER_LIST_MAX }))
    }

    /// The owner's signed delete of a lease, while the node keeps it: its defence against "you did not hold it".
    ///
    /// # Errors
    /// What the store says.
    pub fn signed_delete(
        &self,
        root: &ShardRoot,
        account: AccountId,
    ) -> Result<Option<Signed<DeleteBody>>, StoreError> {
        let mut evidence = self.store.evidence(root, account)?;
        if let Some((&EVIDENCE_ELSEWHERE, place)) = evidence.as_deref().and_then(<[u8]>::split_first)
            && let Ok(place) = ShardRoot::try_from(place)
        {
            evidence = self.store.evidence(&place, account)?;
        }
        let signed = evidence.filter(|bytes| bytes.first() == Some(&EVIDENCE_WHOLE)).map(|bytes| bytes.slice(1..));
        Ok(signed.and_then(|bytes| Signed::decode(bytes).ok()))
    }

    /// When the account last deleted its lease on this root, as far as the node still knows.
    pub(super) fn deleted_at(&self, root: &ShardRoot, account: AccountId) -> Result<Option<Timestamp>, WireError> {
        let signed = self.signed_delete(root, account).map_err(|error| wire_error(&error))?;
        Ok(signed.map(|signed| signed.claimed().issued_at))
    }
}

/// What is kept beside each ended lease. A long request is kept once, beside the lease that would have lasted longest
/// and so keeps it longest; the others name that root.
fn with_evidence<'a>(endings: &'a [Ending], signed: &[u8]) -> Vec<(&'a Ending, Bytes)> {
    let mut whole = vec![EVIDENCE_WHOLE];
    whole.extend_from_slice(signed);
    if whole.len() > EVIDENCE_MAX_BYTES {
        // Rather no defence than a lease that its owner cannot end.
        tracing::warn!(bytes = whole.len(), "a signed delete is too long to be kept");
        return endings.iter().map(|ending| (ending, Bytes::new())).collect();
    }
    let Some(holder) = endings.iter().max_by_key(|ending| ending.until).map(|ending| ending.root) else {
        return Vec::new();
    };
    let whole = Bytes::from(whole);
    let elsewhere = Bytes::from([&[EVIDENCE_ELSEWHERE], &holder.as_bytes()[..]].concat());
    let evidence = |ending: &Ending| if ending.root == holder { whole.clone() } else { elsewhere.clone() };
    endings.iter().map(|ending| (ending, evidence(ending))).collect()
}

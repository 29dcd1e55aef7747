//! Moving shards: an upload and a download session each, with what their executor must check.
//!
//! Decides which receipts and which bytes are believed, as a client must: a receipt that answers the terms and is signed by the
//! node, bytes that match the root.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::attempt::Fault;
use dolmen_proto::download::{
    DownloadAction, DownloadEvent, DownloadOutcome, DownloadPlan, DownloadSession, silent_after,
};
use dolmen_proto::ids::{AccountId, NodeId, ShardIndex, ShardRoot};
use dolmen_proto::keys::{DatasetKeys, MaskSecret, account_key, delete_key, renew_key};
use dolmen_proto::limits::LEASE_INITIAL;
use dolmen_proto::root::{root_of, verify_slice};
use dolmen_proto::segment::{Geometry, SegmentNonce};
use dolmen_proto::upload::{UploadAction, UploadEvent, UploadOutcome, UploadPlan, UploadSession};
use dolmen_proto::wire::{GetRequest, LeaseTerms, PutRequest, Receipt, Reply, Request, Signed};
use futures::FutureExt;
use futures::channel::mpsc::UnboundedSender;

use super::driver::{Step, drive};
use super::heads::fault_of;
use super::segments::{SealedSegment, rebuild};
use super::world::World;

/// Receipts by shard and node.
pub type Receipts = BTreeMap<(ShardIndex, NodeId), Signed<Receipt>>;

/// Uploads one segment; gives the outcome, for which every acknowledgement has a checked receipt.
///
/// # Panics
/// When the outcome claims what no receipt says.
pub async fn upload(
    world: &Rc<World>,
    from: IpAddr,
    keys: &Rc<DatasetKeys>,
    segment: &SealedSegment,
    plan: UploadPlan,
    receipts: &Rc<RefCell<Receipts>>,
) -> UploadOutcome {
    let attempts_max = 3 * (plan.assigned.len() + plan.spares.len() + plan.acknowledged.len());
    let policy = plan.policy;
    let session = UploadSession::new(plan, world.clock.now()).expect("a plan of the simulator");
    let outcome = drive(world, "upload", session, attempts_max, |action, events: &UnboundedSender<UploadEvent>| {
        match action {
            UploadAction::Cancel { attempt } => Step::Cancel(attempt),
            UploadAction::Put { attempt, shard, node } => {
                let bytes = segment.shards[shard.get()].clone();
                let terms = terms(world, keys, segment.roots[shard.get()], bytes.len(), node);
                let lease = Signed::sign(terms.clone(), &account_key(&keys.account, node));
                let request = Request::Put(Box::new(PutRequest { lease, grant: None }));
                let events = events.clone();
                let moved = move |bytes| {
                    // The session may be over.
                    let _ = events.unbounded_send(UploadEvent::Progress { attempt, bytes });
                };
                let call = world.clone().call(from, node, request, bytes, moved);
                let (world, receipts) = (world.clone(), receipts.clone());
                let event = async move {
                    let fault = match call.await {
                        Err(failure) => fault_of(failure),
                        Ok((Reply::Put(receipt), _)) => match receipt.verify(&terms, world.clock.now()) {
                            Ok(_) => {
                                receipts.borrow_mut().insert((shard, node), *receipt);
                                return UploadEvent::Acknowledged { attempt };
                            }
                            Err(_) => Fault::Misbehaved,
                        },
                        Ok((Reply::Error(error), _)) => Fault::from(&error),
                        Ok(_) => Fault::Misbehaved,
                    };
                    UploadEvent::Failed { attempt, fault }
                };
                Step::Start(attempt, event.boxed_local())
            }
        }
    })
    .await;
    let placed = placed_of(&outcome);
    let distinct: BTreeSet<NodeId> = placed.iter().map(|(_, node)| *node).collect();
    assert_eq!(distinct.len(), placed.len(), "two shards of a segment on one node");
    for (shard, node) in &placed {
        let receipts = receipts.borrow();
        let receipt = receipts.get(&(*shard, *node)).expect("nothing counts as placed without a receipt");
        let receipt = receipt.verify_kept().expect("receipts are signed by their nodes");
        assert_eq!((receipt.node, receipt.root), (*node, segment.roots[shard.get()]));
    }
    if matches!(outcome, UploadOutcome::Full { .. }) {
        assert_eq!(placed.len(), usize::from(policy.n()), "full means all of them");
    }
    outcome
}

/// What an upload placed where.
#[must_use]
pub fn placed_of(outcome: &UploadOutcome) -> Vec<(ShardIndex, NodeId)> {
    match outcome {
        UploadOutcome::Full { placed } => (0..).map(ShardIndex::new).zip(placed.iter().copied()).collect(),
        UploadOutcome::Degraded { placed, .. } | UploadOutcome::Failed { placed, .. } => placed.clone(),
    }
}

fn terms(world: &World, keys: &DatasetKeys, root: ShardRoot, length: usize, node: NodeId) -> LeaseTerms {
    let now = world.clock.now();
    LeaseTerms {
        node,
        root,
        length_bytes: length as u64,
        account: AccountId::new(account_key(&keys.account, node).verifying_key().to_bytes()),
        delete_key: delete_key(&keys.delete, node).verifying_key().to_bytes(),
        renew_key: renew_key(&keys.renew, node).verifying_key().to_bytes(),
        until: now.after(LEASE_INITIAL),
        issued_at: now,
    }
}

/// A segment as its readers know it.
#[derive(Debug, Clone)]
pub struct KnownSegment {
    /// Its code and lengths.
    pub geometry: Geometry,
    /// Its nonce.
    pub nonce: SegmentNonce,
    /// The roots of its shards, and the node of each.
    pub shards: Vec<(ShardRoot, Option<NodeId>)>,
}

/// Why bytes of a segment could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchFailure {
    /// Too few shards exist.
    Lost,
    /// Too few shards could be had now.
    Unreachable,
}

/// Fetches bytes `offset..offset + length` of a segment, every one of which matched a root or was rebuilt from such.
///
/// # Errors
/// [`FetchFailure`], as the session found.
pub async fn fetch(
    world: &Rc<World>,
    from: IpAddr,
    segment: &KnownSegment,
    mask: &MaskSecret,
    offset: u32,
    length: u32,
) -> Result<Vec<u8>, FetchFailure> {
    let pieces: Vec<_> = segment.geometry.pieces(offset, length).expect("the pointer was checked").collect();
    let shard_bytes = segment.geometry.shard_bytes();
    // One range for all shards: the piece's own, or whole shards when there are several pieces.
    let (start, count) = match pieces.as_slice() {
        [only] => (only.offset, only.length),
        _ => (0, shard_bytes),
    };
    let wanted: Vec<ShardIndex> = pieces.iter().map(|piece| piece.shard).collect();
    let policy = segment.geometry.policy();
    let plan = DownloadPlan {
        policy,
        wanted: wanted.clone(),
        holders: segment.shards.iter().map(|(_, node)| node.iter().copied().collect()).collect(),
        unmet: BTreeSet::new(),
        expected: Duration::from_millis(400),
        silent_after: silent_after(None),
    };
    let session = DownloadSession::new(plan, world.clock.now()).expect("a plan of the simulator");
    let here: Rc<RefCell<BTreeMap<ShardIndex, Vec<u8>>>> = Rc::default();
    let attempts_max = 3 * segment.shards.len();
    let outcome = drive(world, "download", session, attempts_max, |action, _| match action {
        DownloadAction::Cancel { attempt } => Step::Cancel(attempt),
        DownloadAction::Fetch { attempt, shard, node } => {
            let root = segment.shards[shard.get()].0;
            let proof = count != shard_bytes;
            let request = GetRequest {
                root,
                length_bytes: shard_bytes.into(),
                offset_bytes: start.into(),
                count_bytes: count.into(),
                proof,
            };
            let call = world.clone().call(from, node, Request::Get(request), Bytes::new(), |_| {});
            let here = here.clone();
            let event = async move {
                let fault = match call.await {
                    Err(failure) => fault_of(failure),
                    Ok((Reply::Get(_), payload)) => {
                        let checked = if proof {
                            verify_slice(&root, shard_bytes, start, count, &payload).ok()
                        } else {
                            (root_of(&payload) == root).then_some(payload)
                        };
                        match checked {
                            Some(bytes) => {
                                here.borrow_mut().insert(shard, bytes);
                                return DownloadEvent::Fetched { attempt };
                            }
                            None => Fault::Misbehaved,
                        }
                    }
                    Ok((Reply::Error(error), _)) => Fault::from(&error),
                    Ok(_) => Fault::Misbehaved,
                };
                DownloadEvent::Failed { attempt, fault }
            };
            Step::Start(attempt, event.boxed_local())
        }
    })
    .await;
    let shards = match outcome {
        DownloadOutcome::Ready { shards } => shards,
        DownloadOutcome::Lost { .. } => return Err(FetchFailure::Lost),
        DownloadOutcome::Unreachable { .. } => return Err(FetchFailure::Unreachable),
        DownloadOutcome::Local => panic!("nothing fails locally here"),
    };
    let mut here = here.take();
    here.retain(|shard, _| shards.contains(shard));
    assert_eq!(here.len(), shards.len(), "ready means that the bytes are here");
    let missing: Vec<_> = wanted.iter().copied().filter(|shard| !here.contains_key(shard)).collect();
    if !missing.is_empty() {
        let stored: Vec<_> = here.iter().map(|(shard, bytes)| (*shard, bytes.clone())).collect();
        here.extend(rebuild(policy, &segment.nonce, mask, start, &stored, &missing));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    for piece in pieces {
        let from = (piece.offset - start) as usize;
        bytes.extend_from_slice(&here[&piece.shard][from..from + piece.length as usize]);
    }
    Ok(bytes)
}

//! One segment to its nodes: placement, the upload session, receipts, the journal.
//!
//! Decides which nodes are not worth asking again within one put. Retries, races and what counts as held are the
//! session's to decide, the choice of nodes is the placement's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dolmen_net::driver::{Clock, Executor, MonotonicClock, Step, run};
use dolmen_proto::attempt::Fault;
use dolmen_proto::ids::{NodeId, SegmentId, ShardIndex, ShardRoot, Timestamp};
use dolmen_proto::placement::{Candidate, Constraints, PlacementError, choose};
use dolmen_proto::segment::{Geometry, SegmentNonce};
use dolmen_proto::upload::{UploadAction, UploadEvent, UploadFailure, UploadOutcome, UploadPlan, UploadSession};

use super::acknowledged::Acknowledged;
use super::segment::Encoded;
use crate::error::{ClientError, ErrorKind};
use crate::network::attempt::{Told, watched_in_turn};
use crate::network::gate::Direction;
use crate::network::{Account, Nodes};
use crate::progress::Progress;
use crate::state::Placed;

/// How long a node that could not be reached is left alone by the whole put. Every try costs a dial's timeout, and without this
/// each segment would wait for each dead node anew.
const UNREACHABLE_REST: Duration = Duration::from_secs(30);

/// A segment whose shards are held.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) id: SegmentId,
    pub(crate) geometry: Geometry,
    pub(crate) nonce: SegmentNonce,
    pub(crate) roots: Vec<ShardRoot>,
    /// Who holds each shard.
    pub(crate) nodes: Vec<Option<NodeId>>,
}

impl Stored {
    /// Shards that nobody holds.
    pub(crate) fn missing(&self) -> u64 {
        self.nodes.iter().filter(|node| node.is_none()).count() as u64
    }

    /// Bytes that nodes hold of it.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.nodes.iter().flatten().count() as u64 * u64::from(self.geometry.shard_bytes())
    }
}

/// What all segments of one put share on their way out.
pub(crate) struct Sender {
    pub(crate) nodes: Nodes,
    pub(crate) account: Arc<Account>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) constraints: Constraints,
    /// Of the dataset; decides the order of nodes.
    pub(crate) seed: [u8; 32],
    /// End of the first, short lease.
    pub(crate) until: Timestamp,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) require_full: bool,
    pub(crate) progress: Progress,
    /// Nodes that failed in this put: asked again only when there are too few others.
    pub(crate) failed: Mutex<BTreeSet<NodeId>>,
    /// Nodes whose attempts were given up because others were faster: a dead one among them would be found out only when
    /// its connection times out.
    pub(crate) slow: Mutex<BTreeSet<NodeId>>,
    /// When nodes were last found unreachable in this put.
    pub(crate) unreachable: Mutex<BTreeMap<NodeId, Instant>>,
    /// Bytes of shards that this run sent and that were acknowledged.
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) warned: Mutex<BTreeSet<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sender {
    /// Brings a segment to its nodes; `number` differs for every segment of the dataset.
    ///
    /// # Errors
    /// `NotNow` when too few nodes take it, `Refused` when they refuse, `Local` when this machine fails.
    pub(crate) async fn send(self: &Arc<Self>, segment: Encoded, number: u64) -> Result<Stored, ClientError> {
        let policy = segment.geometry.policy();
        let held = self.held_before(&segment);
        let plan = self.plan(&segment, &held, number)?;
        let spares = plan.spares;
        let upload = UploadPlan { policy, assigned: plan.assigned, spares, acknowledged: held.into_iter().collect() };
        let clock = MonotonicClock::start();
        let session = UploadSession::new(upload, clock.now())
            .map_err(|error| ClientError::bug("could not plan an upload", error))?;
        let executor = Upload {
            sender: Arc::clone(self),
            roots: segment.roots.clone(),
            shards: segment.shards,
            open: Arc::default(),
        };
        let outcome = run(session, executor, &clock).await;
        let mut nodes = vec![None; usize::from(policy.n())];
        match outcome {
            UploadOutcome::Full { placed } => nodes = placed.into_iter().map(Some).collect(),
            UploadOutcome::Degraded { placed, missing } => {
                if self.require_full {
                    return Err(ClientError::new(
                        ErrorKind::NotNow,
                        format!("{} of {} shards of a segment could not be placed", missing.len(), policy.n()),
                        "too few nodes took one, and all were required",
                        "run the same command again to resume, or leave out --require-full",
                    ));
                }
                for (shard, node) in placed {
                    nodes[shard.get()] = Some(node);
                }
            }
            UploadOutcome::Failed { placed, needed, why } => return Err(failure(placed.len(), needed, &why)),
        }
        Ok(Stored { id: segment.id, geometry: segment.geometry, nonce: segment.nonce, roots: segment.roots, nodes })
    }

    /// What an earlier run of the same put has placed already.
    fn held_before(&self, segment: &Encoded) -> BTreeMap<ShardIndex, NodeId> {
        let mut used = BTreeSet::new();
        let mut held = BTreeMap::new();
        for (index, root) in (0u8..).zip(&segment.roots) {
            if let Some(node) = self.acknowledged.holders(root).into_iter().find(|node| !used.contains(node)) {
                used.insert(node);
                held.insert(ShardIndex::new(index), node);
            }
        }
        held
    }

    fn plan(
        &self,
        segment: &Encoded,
        held: &BTreeMap<ShardIndex, NodeId>,
        number: u64,
    ) -> Result<dolmen_proto::placement::Plan, ClientError> {
        let policy = segment.geometry.policy();
        let mut constraints = self.constraints.clone();
        constraints.fixed = held.clone();
        constraints.spares_max = self.candidates.len();
        let (failed, slow) = (locked(&self.failed).clone(), locked(&self.slow).clone());
        let mut plan = Err(PlacementError::TooFewNodes { eligible: 0, needed: 0 });
        // Slow nodes come back before failed ones, and those before giving up.
        for excluded in [&failed | &slow, failed, BTreeSet::new()] {
            constraints.excluded = excluded;
            plan = choose(&self.candidates, policy, &constraints, &self.seed, number);
            if !matches!(plan, Err(PlacementError::TooFewNodes { .. })) {
                break;
            }
        }
        let plan = plan.map_err(|error| too_few(&error))?;
        for warning in &plan.warnings {
            if locked(&self.warned).insert(warning.domain.to_string()) {
                self.progress.warn(warning.to_string());
            }
        }
        Ok(plan)
    }
}

/// That there are fewer nodes than a policy spreads over.
pub(crate) fn too_few(error: &PlacementError) -> ClientError {
    ClientError::new(
        ErrorKind::NotNow,
        "too few nodes for this upload",
        error,
        "wait for more nodes, or for a new dataset choose a narrower one with --policy k/n",
    )
}

fn failure(held: usize, needed: usize, why: &UploadFailure) -> ClientError {
    let what = format!("only {held} shards of a segment were placed, {needed} are the least");
    let (kind, advice) = match why {
        UploadFailure::OutOfNodes { unreachable: 0, busy: 0, refused, .. } if *refused > 0 => {
            (ErrorKind::Refused, "ask the nodes' operators for an account or quota, or use other nodes")
        }
        UploadFailure::OutOfNodes { .. } => (ErrorKind::NotNow, "run the same command again later: it resumes"),
        UploadFailure::Local => (ErrorKind::Local, "check this machine's network and open files, then run it again"),
    };
    ClientError::new(kind, what, why, advice)
}

/// Does what an upload session asks for.
struct Upload {
    sender: Arc<Sender>,
    roots: Vec<ShardRoot>,
    shards: Vec<Bytes>,
    /// Who is being sent to, until it ends.
    open: Arc<Mutex<BTreeMap<u64, NodeId>>>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        locked(&self.sender.slow).extend(locked(&self.open).values());
    }
}

impl Executor<UploadSession> for Upload {
    fn execute(&mut self, action: UploadAction) -> Step<UploadEvent> {
        let (attempt, shard, node) = match action {
            UploadAction::Put { attempt, shard, node } => (attempt, shard, node),
            UploadAction::Cancel { attempt } => {
                if let Some(node) = locked(&self.open).remove(&attempt.0) {
                    locked(&self.sender.slow).insert(node);
                }
                return Step::Cancel { attempt: attempt.0 };
            }
        };
        let (Some(root), Some(bytes)) = (self.roots.get(shard.get()).copied(), self.shards.get(shard.get()).cloned())
        else {
            return Step::Event(UploadEvent::Failed { attempt, fault: Fault::Local });
        };
        let sender = Arc::clone(&self.sender);
        let failed_at = locked(&sender.unreachable).get(&node).copied();
        if failed_at.is_some_and(|at| at.elapsed() < UNREACHABLE_REST) {
            return Step::Event(UploadEvent::Failed { attempt, fault: Fault::Unreachable });
        }
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let open = Arc::clone(&self.open);
        let turn = sender.nodes.gate().enter(Direction::Up, node, Arc::clone(&sent));
        let work = async move {
            // From now on: who waits for his turn is not slow.
            locked(&open).insert(attempt.0, node);
            let length = bytes.len() as u64;
            let put = sender.nodes.put_shard(&sender.account, node, root, bytes, sender.until, counter).await;
            locked(&open).remove(&attempt.0);
            match &put {
                Ok(_) => {
                    sender.sent_bytes.fetch_add(length, Ordering::Relaxed);
                    sender.acknowledged.note(Placed { root, node, until: sender.until });
                }
                Err(fault) => {
                    tracing::debug!(node = %node.short(), shard = %root.short(), %fault, "a shard was not put");
                    if fault.fault == Fault::Unreachable {
                        locked(&sender.unreachable).insert(node, Instant::now());
                    }
                    if !matches!(fault.fault, Fault::Busy { .. } | Fault::Local) {
                        locked(&sender.failed).insert(node);
                    }
                }
            }
            put
        };
        let events = watched_in_turn(turn, attempt, Box::pin(work), sent, |attempt, told| match told {
            Told::Seeks | Told::Waits => UploadEvent::Waits { attempt },
            Told::Begins => UploadEvent::Begins { attempt },
            Told::Progress(bytes) => UploadEvent::Progress { attempt, bytes },
            Told::Done(Ok(_)) => UploadEvent::Acknowledged { attempt },
            Told::Done(Err(fault)) => UploadEvent::Failed { attempt, fault: fault.fault },
        });
        Step::Start { attempt: attempt.0, events }
    }
}

//! One dataset under care: its steward's access, and what the table says, brought into the database.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dolmen_proto::audit::SetShard;
use dolmen_proto::ids::{NodeId, SegmentId, ShardIndex, ShardRoot, Timestamp};
use dolmen_proto::limits::LEASE_DEFAULT;
use dolmen_proto::link::Link;
use dolmen_proto::repair::{Condition, Holder, SegmentState};
use dolmen_proto::standing::{Reason, SILENCE_GRACE, Verdict};
use dolmen_proto::table::RowKind;
use dolmen_proto::wire::KeptReceipt;

use super::state::{CareState, Contact, KnownShard, Tag};
use crate::client::Client;
use crate::error::{ClientError, ErrorKind};
use crate::read::Place;
use crate::steward::{OverlayUpdate, Segment, Stewardship};

/// Shards that are written to the database at once.
pub(super) const LEARNED_AT_ONCE: usize = 16 * 1024;
/// Lost rows that are published again at once.
const UNSEEN_AT_ONCE: usize = 16 * 1024;
const GENERATION: &str = "generation";
const SEGMENTS: &str = "segments";

/// A dataset that somebody looks after.
pub(super) struct Cared {
    pub(super) steward: Stewardship,
    pub(super) tag: Tag,
    pub(super) state: CareState,
}

impl Cared {
    /// Opens a steward link.
    ///
    /// # Errors
    /// As [`Stewardship::open`].
    pub(super) async fn open(client: &Client, link: &Link, state: CareState) -> Result<Self, ClientError> {
        let steward = Stewardship::open(client, link).await?;
        let mut tag = [0; 16];
        tag.copy_from_slice(&steward.public_key()[..16]);
        Ok(Self { steward, tag, state })
    }

    /// Reads the whole table, and overlays where there are any, into the database: which node should hold what. Gives the number
    /// of segments.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when the table cannot be read, `Local`; what was known before stays then.
    pub(super) async fn survey(&self) -> Result<u64, ClientError> {
        let generation = self.state.mark(&self.tag, GENERATION)?.wrapping_add(1);
        // The number of a look is only compared with the one before.
        let generation = u32::try_from(generation % u64::from(u32::MAX)).unwrap_or(0);
        let mut segments = self.steward.segments()?;
        let (mut count, mut learned) = (0, Vec::new());
        while let Some(batch) = self.steward.next_segments(&mut segments).await? {
            for segment in batch {
                count += 1;
                self.shards_of(&segment, generation, &mut learned).await;
                if learned.len() >= LEARNED_AT_ONCE {
                    self.state.learn(&self.tag, &std::mem::take(&mut learned))?;
                }
            }
        }
        self.state.learn(&self.tag, &learned)?;
        self.state.set_marks(&self.tag, &[(GENERATION, generation.into()), (SEGMENTS, count)])?;
        let kept = Box::pin(self.publish_again(generation)).await?;
        self.state.forget_older(&self.tag, generation, &kept)?;
        Ok(count)
    }

    /// Publishes again what this steward has placed and no overlay says any more: his own was lost, or keys were changed while he
    /// was away. A row stands on the node's receipt of the put, which is on disk. Gives what is to be tried again.
    async fn publish_again(&self, generation: u32) -> Result<HashSet<(NodeId, ShardRoot)>, ClientError> {
        let now = self.steward.nodes().now();
        let mut kept = HashSet::new();
        if !self.steward.is_named() {
            return Ok(kept);
        }
        let lost = self.state.all_lost(&self.tag)?;
        let (mut update, mut learned) = (OverlayUpdate::default(), Vec::new());
        for (node, known) in self.state.unseen(&self.tag, generation, UNSEEN_AT_ONCE)? {
            let Some(put @ KeptReceipt::Put(_)) = self.state.receipt(&self.tag, &node, known.receipt)? else {
                continue;
            };
            let root = known.shard.root;
            let held = put.holds(node, root, known.shard.length_bytes.into(), now);
            if held.is_err() || lost.contains(&(node, root)) {
                continue;
            }
            let Some(place) = self.steward.place(known.segment).await? else { continue };
            let index = known.index.get();
            let elsewhere = self.steward.holders(&place).await.get(index).is_some_and(|nodes| !nodes.is_empty());
            let in_base = place.holders.get(index).copied().flatten() == Some(node);
            if elsewhere || in_base || place.roots.get(index) != Some(&root) {
                continue;
            }
            update.set(self.steward.row(known.segment, known.index, node, put));
            learned.push((node, KnownShard { generation, ..known }));
            kept.insert((node, root));
        }
        if update.is_empty() {
            return Ok(kept);
        }
        match self.steward.publish(&update, LEASE_DEFAULT).await {
            Ok(()) => {
                tracing::info!(rows = learned.len(), "rows that no overlay had any more were published again");
                self.state.learn(&self.tag, &learned)?;
                kept.clear();
            }
            Err(error) if error.kind() == ErrorKind::Local => return Err(error),
            Err(error) => tracing::warn!(why = error.why(), "lost rows could not be published again"),
        }
        Ok(kept)
    }

    async fn shards_of(&self, segment: &Segment, generation: u32, learned: &mut Vec<(NodeId, KnownShard)>) {
        let further = self.steward.holders(&segment.place).await;
        let documents = segment.kind == RowKind::Documents;
        for (number, root) in (0u8..).zip(&segment.place.roots) {
            let place = usize::from(number);
            let base = segment.place.holders.get(place).copied().flatten();
            let nodes = base.into_iter().chain(further.get(place).into_iter().flatten().copied());
            let known = KnownShard {
                shard: SetShard { root: *root, length_bytes: segment.place.geometry.shard_bytes() },
                index: ShardIndex::new(number),
                documents,
                segment: segment.place.id,
                generation,
                until_ms: 0,
                receipt: 0,
            };
            learned.extend(nodes.map(|node| (node, known)));
        }
    }

    /// Notes what was put on a node and published, with its receipt.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn placed(&self, node: NodeId, shard: KnownShard, receipt: &KeptReceipt) -> Result<(), ClientError> {
        let generation = u32::try_from(self.state.mark(&self.tag, GENERATION)?).unwrap_or(0);
        self.state.learn(&self.tag, &[(node, KnownShard { generation, ..shard })])?;
        self.state.keep_receipt(&self.tag, &node, receipt)
    }

    /// Segments of the last survey.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn segments_known(&self) -> Result<u64, ClientError> {
        self.state.mark(&self.tag, SEGMENTS)
    }

    /// What is known of a segment, as planning wants it.
    pub(super) async fn segment_state(
        &self,
        place: &Place,
        documents: bool,
        view: &NodesView,
        now: Timestamp,
    ) -> SegmentState {
        let further = self.steward.holders(place).await;
        let mut shards = Vec::with_capacity(place.roots.len());
        for (number, root) in place.roots.iter().enumerate() {
            let base = place.holders.get(number).copied().flatten();
            let mut nodes: Vec<NodeId> = base.into_iter().collect();
            for node in further.get(number).into_iter().flatten() {
                if !nodes.contains(node) {
                    nodes.push(*node);
                }
            }
            let mut holders = Vec::with_capacity(nodes.len());
            for node in nodes {
                let lost = view.lost.contains(&(node, *root));
                let condition = if lost { Condition::Lost } else { view.condition(&node) };
                holders.push(Holder { node, condition, lease_until: NodesView::lease_until(now) });
            }
            shards.push(holders);
        }
        SegmentState {
            segment: place.id,
            policy: place.policy(),
            shard_bytes: place.geometry.shard_bytes(),
            documents,
            shards,
        }
    }

    /// A segment of the base table.
    ///
    /// # Errors
    /// As reading the table.
    pub(super) async fn place(&self, id: SegmentId) -> Result<Option<Arc<Place>>, ClientError> {
        self.steward.place(id).await
    }
}

/// What is believed of all nodes at one time.
#[derive(Debug, Default)]
pub(super) struct NodesView {
    conditions: BTreeMap<NodeId, Condition>,
    lost: HashSet<(NodeId, ShardRoot)>,
}

impl NodesView {
    /// Out of the database. A node that is silent for longer than `grace` counts as if the whole grace of the rules were over.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn load(cared: &Cared, nodes: &[NodeId], now: Timestamp, grace: Duration) -> Result<Self, ClientError> {
        let mut conditions = BTreeMap::new();
        for node in nodes {
            let (standing, contact) = (cared.state.standing(node, now)?, cared.state.contact(node)?);
            let condition = match condition_of(&standing.verdict(now), standing.silent_since(), contact) {
                Condition::Silent { since } if now.since(since) >= grace => {
                    Condition::Silent { since: since.min(now.before(SILENCE_GRACE)) }
                }
                other => other,
            };
            conditions.insert(*node, condition);
        }
        Ok(Self { conditions, lost: cared.state.all_lost(&cared.tag)? })
    }

    fn condition(&self, node: &NodeId) -> Condition {
        self.conditions.get(node).copied().unwrap_or(Condition::Alive)
    }

    /// Leases are renewed long before they end, so what is planned does not depend on their last days.
    fn lease_until(now: Timestamp) -> Timestamp {
        now.after(LEASE_DEFAULT)
    }

    /// Whether nothing has to be looked at: every node is there, stays, holds what it should and is not distrusted.
    pub(super) fn all_well(&self) -> bool {
        self.lost.is_empty() && self.conditions.values().all(|condition| *condition == Condition::Alive)
    }
}

/// A node's condition from standing and presence: absence and silence are the same to whoever needs a shard.
pub(super) fn condition_of(verdict: &Verdict, silent_since: Option<Timestamp>, contact: Contact) -> Condition {
    let absent = (contact.absent_since_ms != 0).then(|| Timestamp::from_unix_ms(contact.absent_since_ms));
    let silent = absent.into_iter().chain(silent_since).min();
    match (verdict, silent) {
        (Verdict::Bad(Reason::Offline | Reason::NoAnswer), Some(since)) => Condition::Silent { since },
        (Verdict::Bad(_), _) => Condition::BadStanding,
        (_, Some(since)) => Condition::Silent { since },
        _ if contact.leaving_until_ms != 0 => Condition::Leaving,
        (Verdict::Suspect(_), None) => Condition::Suspect,
        _ => Condition::Alive,
    }
}

//! Garbage collection of a dataset: what no kept snapshot and no share needs is freed, in two steps.
//!
//! Decides the order. First a commit leaves segments out of the table, and packs anew what is needed of those that are mostly
//! dead; readers and writers of older heads find everything where it was. A week later another commit says which of
//! them are being deleted, then their leases are given up, then a last one forgets them. Each step begins with what the last
//! commit says, so it may be cut off anywhere and run again; and as each is a commit, a put that uses a segment again and a
//! collection that deletes it cannot both happen. What becomes of a segment is decided in `dolmen_proto::collect`.

mod mark;
mod repack;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dolmen_proto::collect::{ChunkName, CollectPlan, Marks, SegmentShape};
use dolmen_proto::grant::GrantRow;
use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::{SegmentId, Timestamp};
use dolmen_proto::limits::LEAVING_MIN;
use dolmen_proto::segment::Geometry;
use dolmen_proto::table::{ForwardRow, LeavingRow, RowKind, SegmentRow};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::commit::{Change, Operation, Owner, State};
use crate::error::ClientError;
use crate::lease::{self, ByNode};
use crate::network::{Account, Nodes};
use crate::put::{DOCUMENT_SEGMENT_BYTES, Store, TableChange};
use crate::read::damaged;
use crate::report::GcReport;

/// The first step: segments leave, chunks move, and those that left long ago are said to be deleted from now on.
pub(crate) struct Collect {
    owner: Owner,
    /// Only find out.
    pub(crate) dry_run: bool,
    /// What was found and done.
    pub(crate) report: GcReport,
    /// Segments that are said to be deleted: their shards by holder.
    pub(crate) deleting: BTreeMap<SegmentId, Deleting>,
}

/// A segment whose shards are to be deleted.
#[derive(Debug, Clone)]
pub(crate) struct Deleting {
    /// Data shards: fewer than so many left are of use to nobody.
    k: usize,
    shards: ByNode,
}

impl Operation for Collect {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        self.collect(base, store).boxed()
    }

    fn frees(&self) -> bool {
        true
    }
}

impl Collect {
    /// Nothing is found out yet.
    pub(crate) fn new(owner: Owner, dry_run: bool) -> Self {
        Self { owner, dry_run, report: GcReport::default(), deleting: BTreeMap::new() }
    }

    async fn collect(&mut self, base: &State, store: &mut Store) -> Result<Change, ClientError> {
        let now = store.nodes.now();
        let (marks, pinned) = needed(&self.owner, base, now).await?;
        let documents = Geometry::capacity_within(store.policy.document_policy(), DOCUMENT_SEGMENT_BYTES);
        let shapes = shapes(base, store.workshop.capacity_bytes(), documents, &pinned).await?;
        let forwards = forwards(base).await?;
        let plan = marks.plan(&shapes, &forwards);
        self.deleting = deleting(base, now).await?;
        self.report = GcReport {
            segments: (shapes.len() + pinned.len()) as u64,
            leaving_segments: (plan.leave.len() + plan.repack.len()) as u64,
            leaving_bytes: plan.leaving_bytes + plan.dead_bytes,
            repacked_segments: plan.repack.len() as u64,
            moved_bytes: plan.moving_bytes,
            freed_segments: self.deleting.len() as u64,
            freed_shards: self
                .deleting
                .values()
                .flat_map(|gone| gone.shards.values())
                .map(|set| set.len() as u64)
                .sum(),
            waiting_segments: waiting(base).await? - self.deleting.len() as u64,
            dry_run: self.dry_run,
        };
        if self.dry_run || (plan.leave.is_empty() && plan.repack.is_empty() && self.deleting.is_empty()) {
            return Ok(Change::default());
        }
        let moved = repack::repack(base, store, &plan, &shapes).await?;
        let table = table_change(plan, marks, moved, self.deleting.keys().copied().collect());
        Ok(Change { table: Some(table), ..Change::default() })
    }
}

fn table_change(
    plan: CollectPlan,
    marks: Marks,
    moved: BTreeMap<ChunkName, (ChunkName, u32)>,
    deleting: BTreeSet<SegmentId>,
) -> TableChange {
    let added = moved.iter().map(|(name, (to, sealed_bytes))| ForwardRow {
        segment: name.0,
        offset: name.1,
        sealed_bytes: *sealed_bytes,
        to_segment: to.0,
        to_offset: to.1,
    });
    let added = added.collect();
    let keep = move |row: ForwardRow| marks.is_needed((row.segment, row.offset)).then_some(row);
    let removed = plan.leave.into_iter().chain(plan.repack.into_iter().map(|(id, _)| id)).collect();
    TableChange { removed, deleting, freed: BTreeSet::new(), forwards: Some((Box::new(keep), added)), stewards: None }
}

/// What the dataset's snapshots and shares need, and segments that must stay as they are: views name them outside of the table.
async fn needed(owner: &Owner, base: &State, now: Timestamp) -> Result<(Marks, BTreeSet<SegmentId>), ClientError> {
    let mut marks = Marks::new();
    mark::snapshot(&base.reader, &base.body.snapshot, &mut marks).await?;
    for row in &base.rows {
        mark::snapshot(&base.reader, &row.root, &mut marks).await?;
    }
    if let Some(history) = &base.body.history {
        mark::tree::<HistoryRow>(&base.reader, history.root.clone(), &mut marks).await?;
    }
    if let Some(ledger) = &base.note.ledger {
        mark::need(&mut marks, ledger)?;
    }
    for grants in base.ledger.stewards.iter().filter_map(|steward| steward.grants.as_ref()) {
        mark::tree::<GrantRow>(&base.reader, grants.root.clone(), &mut marks).await?;
    }
    let pinned = views::needed(owner, base, now, &mut marks).await?;
    Ok((marks, pinned))
}

/// The segments of the table that may leave it.
async fn shapes(
    base: &State,
    content: usize,
    documents: usize,
    pinned: &BTreeSet<SegmentId>,
) -> Result<BTreeMap<SegmentId, SegmentShape>, ClientError> {
    let capacity = |kind: RowKind| match kind {
        RowKind::Content => content,
        RowKind::Documents => documents,
    };
    let mut shapes = BTreeMap::new();
    let mut rows = base.reader.rows();
    while let Some(batch) = base.reader.next_rows_seen(&mut rows, |_, _| {}).await? {
        for row in batch.into_iter().filter(|row| !pinned.contains(&row.id())) {
            let shape = SegmentShape {
                payload_bytes: row.geometry().payload_bytes(),
                capacity_bytes: u32::try_from(capacity(row.kind())).unwrap_or(u32::MAX),
                documents: row.kind() == RowKind::Documents,
            };
            shapes.insert(row.id(), shape);
        }
    }
    Ok(shapes)
}

async fn forwards(base: &State) -> Result<BTreeMap<ChunkName, ChunkName>, ClientError> {
    let mut found = BTreeMap::new();
    if let Some(tree) = &base.reader.table().forwards {
        let mut walk = tree.walk::<ForwardRow>();
        while let Some(rows) = base.reader.next_of_table_seen(&mut walk, |_, _| {}).await? {
            found.extend(rows.iter().map(|row| ((row.segment, row.offset), (row.to_segment, row.to_offset))));
        }
    }
    Ok(found)
}

/// Shows `visit` every segment that has left the table.
async fn left(base: &State, mut visit: impl FnMut(LeavingRow) -> Result<(), ClientError>) -> Result<(), ClientError> {
    if let Some(tree) = &base.reader.table().leaving {
        let mut walk = tree.walk::<LeavingRow>();
        while let Some(rows) = base.reader.next_of_table_seen(&mut walk, |_, _| {}).await? {
            rows.into_iter().try_for_each(&mut visit)?;
        }
    }
    Ok(())
}

async fn waiting(base: &State) -> Result<u64, ClientError> {
    let mut count = 0;
    left(base, |_| {
        count += 1;
        Ok(())
    })
    .await?;
    Ok(count)
}

/// The segments that left so long ago that nobody can still be reading them.
async fn deleting(base: &State, now: Timestamp) -> Result<BTreeMap<SegmentId, Deleting>, ClientError> {
    let mut found = BTreeMap::new();
    left(base, |leaving| {
        if leaving.left.after(LEAVING_MIN) <= now {
            found.insert(leaving.row.id(), gone(base, &leaving.row)?);
        }
        Ok(())
    })
    .await?;
    // A row says that a segment is live, whatever else is said of it.
    let mut rows = base.reader.rows();
    while let Some(batch) = base.reader.next_rows_seen(&mut rows, |_, _| {}).await? {
        batch.iter().for_each(|row| drop(found.remove(&row.id())));
    }
    Ok(found)
}

fn gone(base: &State, row: &SegmentRow) -> Result<Deleting, ClientError> {
    let holders = base.reader.table().holders(row).map_err(|error| damaged(&error))?;
    let mut shards = ByNode::new();
    for (root, holder) in row.roots().iter().zip(holders) {
        if let Some(node) = holder {
            shards.entry(node.id()).or_default().insert(*root);
        }
    }
    Ok(Deleting { k: usize::from(row.geometry().policy().k()), shards })
}

/// The last step: segments whose shards are gone are forgotten.
pub(crate) struct Forget(pub(crate) BTreeSet<SegmentId>);

impl Operation for Forget {
    fn apply<'a>(
        &'a mut self,
        _base: &'a State,
        _store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let table = TableChange { freed: self.0.clone(), ..TableChange::default() };
        std::future::ready(Ok(Change { table: Some(table), ..Change::default() })).boxed()
    }

    fn frees(&self) -> bool {
        true
    }
}

/// Gives up the leases of segments that are said to be deleted; gives those of which fewer than `k` shards are left. What
/// is left on nodes that do not answer ends with its lease.
pub(crate) async fn delete(
    nodes: &Nodes,
    account: &Arc<Account>,
    deleting: &BTreeMap<SegmentId, Deleting>,
) -> BTreeSet<SegmentId> {
    let mut all = ByNode::new();
    for (node, roots) in deleting.values().flat_map(|gone| &gone.shards) {
        all.entry(*node).or_default().extend(roots);
    }
    let kept = lease::delete_all(nodes, account, &all).await;
    let left = |gone: &Deleting| {
        let on = |(node, roots): (_, &BTreeSet<_>)| kept.get(node).map_or(0, |kept| roots.intersection(kept).count());
        gone.shards.iter().map(on).sum::<usize>()
    };
    deleting.iter().filter(|(_, gone)| left(gone) < gone.k).map(|(id, _)| *id).collect()
}

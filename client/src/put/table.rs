//! The base table of what is live, written anew for every head: rows of the base and new ones, merged as they stream by.
//!
//! Decides which segments the table's own blobs may be found in and which of the base's nobody needs any more. Never
//! decides what is live: see [`TableChange`]. Holds no more rows than this operation stored or removes; blobs that did
//! not change are not stored again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Holder, PlacedSegment, TableLocation};
use dolmen_proto::ids::{NodeId, SegmentId, Timestamp};
use dolmen_proto::table::{ForwardRow, LeavingRow, NodeEntry, RowKind, RowListBuilder, Rows, SegmentRow, TableRoot};
use dolmen_proto::tree::{BlobPointer, CountedTree, CountedTreeBuilder, TreeItem};
use tokio::runtime::Handle;

use super::documents::{Sink, built};
use super::parent::Known;
use super::send::Stored;
use super::store::Store;
use crate::error::{ClientError, ErrorKind};
use crate::network::Nodes;
use crate::read::Dataset;

/// Segments that blobs of one table may lie in before all of them are written anew: the root names every one of them.
const FURTHER_MAX: usize = 32;

/// When a segment is said to have left whose shards are being deleted.
const BEING_DELETED: Timestamp = Timestamp::from_unix_ms(0);

/// What becomes of a forwarding row of the base; `None`: it goes.
pub(crate) type MapForward = Box<dyn FnMut(ForwardRow) -> Option<ForwardRow> + Send>;

/// What becomes of the base's table, beside the rows of what was stored.
#[derive(Default)]
pub(crate) struct TableChange {
    /// Segments that are not live any more: they leave.
    pub(crate) removed: BTreeSet<SegmentId>,
    /// Segments that had left and are being deleted from now on: whoever needs one must not use it again.
    pub(crate) deleting: BTreeSet<SegmentId>,
    /// Segments that had left and are deleted: nothing says any more that they were.
    pub(crate) freed: BTreeSet<SegmentId>,
    /// What becomes of the base's forwarding rows, and the new ones; `None`: all stay as they are.
    pub(crate) forwards: Option<(MapForward, Vec<ForwardRow>)>,
    /// The stewards whose overlays count, ascending; `None`: those of the base.
    pub(crate) stewards: Option<Vec<[u8; 32]>>,
}

impl fmt::Debug for TableChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TableChange").field("removed", &self.removed.len()).finish_non_exhaustive()
    }
}

/// A base table that is stored.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) location: TableLocation,
}

/// Writes the base table: rows of the base but those removed, and rows of all that was stored so far. What the table
/// itself takes is added to what was stored.
///
/// # Errors
/// As [`super::send::Sender::send`]; `Refused` when the table would be too large for this release.
pub(crate) async fn write_table(
    store: &mut Store,
    base: Option<&Dataset>,
    change: TableChange,
) -> Result<Table, ClientError> {
    store.close_documents().await?;
    let old = base.map(Dataset::table);
    let mut list = NodeList::new(store.nodes.clone(), old.map_or(&[], |table| &table.nodes));
    let added = store.stored.iter().map(|(kind, stored)| list.row(*kind, stored));
    let mut added = added.collect::<Result<Vec<_>, _>>()?;
    added.sort_by_key(SegmentRow::id);
    added.dedup_by_key(|row| row.id());
    let mut before = old.map_or_else(Vec::new, |table| table.further.clone());
    if let Some(base) = base {
        before.push(list.placed(&base.table_location().segment)?);
    }
    let writing = Writing {
        policy: store.policy,
        base: base.cloned(),
        known: store.known.clone(),
        runtime: Handle::current(),
        live: added.iter().map(SegmentRow::id).collect(),
        added,
        before,
        list,
        change,
        now: store.nodes.now(),
    };
    let root = store.write(move |sink| writing.write(sink)).await?;
    let last = store.close_documents().await?;
    let stored = last.last().ok_or_else(|| ClientError::bug("could not write the table", "its root is nowhere"))?;
    Ok(Table { location: location(stored, root, &store.nodes)? })
}

/// Where the root of a table lies, for the head that names it.
pub(super) fn location(stored: &Stored, root: BlobPointer, nodes: &Nodes) -> Result<TableLocation, ClientError> {
    let holders = stored
        .roots
        .iter()
        .zip(&stored.nodes)
        .map(|(root, node)| Holder { root: *root, node: node.map(|node| NodeEntry::new(node, nodes.addresses(node))) });
    let segment = PlacedSegment::new(stored.geometry, stored.nonce, holders.collect())
        .map_err(|error| ClientError::bug("could not place the table", error))?;
    Ok(TableLocation { segment, key: root.key, offset: root.offset, length: root.length })
}

/// A table on its way.
struct Writing {
    policy: dolmen_proto::policy::Policy,
    base: Option<Dataset>,
    known: Known,
    runtime: Handle,
    /// New rows, ascending by id.
    added: Vec<SegmentRow>,
    /// Their ids.
    live: BTreeSet<SegmentId>,
    /// Segments that blobs of the base's table lie in.
    before: Vec<SegmentRow>,
    list: NodeList,
    change: TableChange,
    /// Segments that leave left then.
    now: Timestamp,
}

impl Writing {
    /// Writes the trees, then the root; gives where it lies.
    fn write(mut self, sink: &mut Sink) -> Result<BlobPointer, ClientError> {
        if self.before.len() > FURTHER_MAX {
            sink.avoid(self.before.iter().map(SegmentRow::id).collect());
        }
        sink.touched();
        let (rows, mut leaving) = self.rows(sink)?;
        let forwards = self.forwards(sink)?;
        let mut touched = sink.touched();
        let (kept, dropped): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.before).into_iter().partition(|row| touched.contains(&row.id()));
        // Nothing may come to lie in what leaves.
        sink.avoid(dropped.iter().map(SegmentRow::id).collect());
        leaving.extend(dropped);
        leaving.sort_by_key(SegmentRow::id);
        leaving.dedup_by_key(|row| row.id());
        let leaving = self.leaving(leaving, sink)?;
        touched.append(&mut sink.touched());

        let (extensions, stewards, receipts) = match self.base.as_ref().map(Dataset::table) {
            Some(table) => (table.extensions.clone(), table.stewards.clone(), table.receipts.clone()),
            None => (Extensions::default(), Vec::new(), None),
        };
        let stewards = self.change.stewards.take().unwrap_or(stewards);
        let mut root = TableRoot {
            policy: self.policy,
            nodes: Vec::new(),
            stewards,
            rows,
            further: Vec::new(),
            receipts,
            forwards,
            leaving,
            extensions,
        };
        loop {
            let mut further = kept.clone();
            for stored in sink.settle()? {
                further.push(self.list.row(RowKind::Documents, stored)?);
            }
            further.retain(|row| touched.contains(&row.id()));
            further.sort_by_key(SegmentRow::id);
            further.dedup_by_key(|row| row.id());
            (root.further, root.nodes) = (further, self.list.entries.clone());
            let length = root.to_bytes().map_err(|error| too_large(&error))?.len();
            if sink.has_room(length) {
                break;
            }
            // The root names every segment of its trees but the one that it lies in.
            touched.extend(sink.open_id());
            sink.close()?;
            touched = touched.into_iter().map(|segment| sink.settled_id(segment)).collect();
        }
        sink.avoid(BTreeSet::new());
        root.put(sink).map_err(built)
    }

    /// The rows that are live, and those that are not any more.
    fn rows(&mut self, sink: &mut Sink) -> Result<(Rows, Vec<SegmentRow>), ClientError> {
        let mut builder = RowListBuilder::new();
        let mut leaving = Vec::new();
        let mut added: VecDeque<SegmentRow> = std::mem::take(&mut self.added).into();
        if let Some(base) = &self.base {
            let mut rows = base.rows();
            let learn = |pointer: &BlobPointer, blob: &[u8]| self.known.learn::<SegmentRow>(pointer, blob);
            while let Some(batch) = self.runtime.block_on(base.next_rows_seen(&mut rows, learn))? {
                for row in batch {
                    while let Some(next) = added.pop_front_if(|next| next.id() < row.id()) {
                        builder.push(next, sink).map_err(built)?;
                    }
                    // Put again, it lies where it was put last.
                    if self.live.contains(&row.id()) {
                        continue;
                    }
                    if self.change.removed.contains(&row.id()) {
                        leaving.push(row);
                    } else {
                        builder.push(row, sink).map_err(built)?;
                    }
                }
            }
        }
        for row in added {
            builder.push(row, sink).map_err(built)?;
        }
        Ok((builder.finish(sink).map_err(built)?, leaving))
    }

    fn forwards(&mut self, sink: &mut Sink) -> Result<Option<CountedTree>, ClientError> {
        let old = self.base.as_ref().and_then(|base| base.table().forwards.clone());
        let (mut map, added) = match self.change.forwards.take() {
            Some((map, added)) => (map, added),
            None => (Box::new(Some) as MapForward, Vec::new()),
        };
        self.merged(old, added, &mut map, ForwardRow::label, sink)
    }

    fn leaving(&mut self, leaving: Vec<SegmentRow>, sink: &mut Sink) -> Result<Option<CountedTree>, ClientError> {
        let old = self.base.as_ref().and_then(|base| base.table().leaving.clone());
        let now = self.now;
        let added = leaving.into_iter().map(|row| LeavingRow { left: now, row }).collect();
        let mut used = false;
        let map = |mut row: LeavingRow| {
            let id = row.row.id();
            if self.live.contains(&id) {
                // What was stored again has not left, unless its shards are being deleted under it.
                used |= row.left == BEING_DELETED;
                return None;
            }
            if self.change.deleting.contains(&id) {
                row.left = BEING_DELETED;
            }
            (!self.change.freed.contains(&id)).then_some(row)
        };
        let leaving = self.merged(old, added, map, LeavingRow::label, sink)?;
        if used {
            return Err(ClientError::new(
                ErrorKind::Conflict,
                "a segment that is needed again is being deleted",
                "a garbage collection is under way, or was cut off",
                "run `dolmen gc` on the dataset, then the command again",
            ));
        }
        Ok(leaving)
    }

    /// A tree of the base's items, as far as `map` lets them be, and new ones, which are ascending and take the place of
    /// old ones.
    fn merged<T: TreeItem<Label = L>, L: Ord>(
        &self,
        old: Option<CountedTree>,
        added: Vec<T>,
        mut map: impl FnMut(T) -> Option<T>,
        label: impl Fn(&T) -> L,
        sink: &mut Sink,
    ) -> Result<Option<CountedTree>, ClientError> {
        let mut builder = CountedTreeBuilder::new();
        let mut added: VecDeque<T> = added.into();
        if let (Some(base), Some(old)) = (&self.base, old) {
            let mut walk = old.walk::<T>();
            let learn = |pointer: &BlobPointer, blob: &[u8]| self.known.learn::<T>(pointer, blob);
            while let Some(items) = self.runtime.block_on(base.next_of_table_seen(&mut walk, learn))? {
                for item in items.into_iter().filter_map(&mut map) {
                    while let Some(next) = added.pop_front_if(|next| label(next) < label(&item)) {
                        builder.push(next, sink).map_err(built)?;
                    }
                    if added.front().is_none_or(|next| label(next) != label(&item)) {
                        builder.push(item, sink).map_err(built)?;
                    }
                }
            }
        }
        for item in added {
            builder.push(item, sink).map_err(built)?;
        }
        builder.finish(sink).map_err(built)
    }
}

pub(super) fn too_large(error: &dyn fmt::Display) -> ClientError {
    ClientError::new(ErrorKind::Refused, "could not write the table", error, "put less at once")
}

/// The nodes that rows refer to by number: those of the base first, where they were.
pub(super) struct NodeList {
    nodes: Nodes,
    numbers: BTreeMap<NodeId, u32>,
    entries: Vec<NodeEntry>,
}

impl NodeList {
    pub(super) fn new(nodes: Nodes, base: &[NodeEntry]) -> Self {
        let numbers = (0u32..).zip(base).map(|(number, entry)| (entry.id(), number)).collect();
        let newest = |entry: &NodeEntry| match nodes.addresses(entry.id()) {
            addresses if addresses.is_empty() => entry.clone(),
            addresses => NodeEntry::new(entry.id(), addresses),
        };
        let entries = base.iter().map(newest).collect();
        Self { nodes, numbers, entries }
    }

    pub(super) fn row(&mut self, kind: RowKind, stored: &Stored) -> Result<SegmentRow, ClientError> {
        let numbers = self.numbers(stored.nodes.iter().copied())?;
        SegmentRow::new(kind, stored.geometry, stored.nonce, stored.roots.clone(), numbers)
            .map_err(|error| ClientError::bug("could not write a table's row", error))
    }

    /// The nodes named so far.
    pub(super) fn entries(&self) -> Vec<NodeEntry> {
        self.entries.clone()
    }

    /// A row of another table, whose holders are given.
    pub(super) fn moved(
        &mut self,
        row: &SegmentRow,
        holders: &[Option<&NodeEntry>],
    ) -> Result<SegmentRow, ClientError> {
        let numbers = self.numbers(holders.iter().map(|holder| holder.map(NodeEntry::id)))?;
        SegmentRow::new(row.kind(), row.geometry(), row.nonce(), row.roots().to_vec(), numbers)
            .map_err(|error| ClientError::bug("could not write a table's row", error))
    }

    /// The row of a segment that a head names.
    fn placed(&mut self, segment: &PlacedSegment) -> Result<SegmentRow, ClientError> {
        let nodes = segment.holders().iter().map(|holder| holder.node.as_ref().map(NodeEntry::id));
        let numbers = self.numbers(nodes)?;
        let roots = segment.holders().iter().map(|holder| holder.root).collect();
        SegmentRow::new(RowKind::Documents, segment.geometry(), segment.nonce(), roots, numbers)
            .map_err(|error| ClientError::bug("could not write a table's row", error))
    }

    fn numbers(&mut self, nodes: impl Iterator<Item = Option<NodeId>>) -> Result<Vec<Option<u32>>, ClientError> {
        nodes.map(|node| node.map(|node| self.number(node)).transpose()).collect()
    }

    fn number(&mut self, node: NodeId) -> Result<u32, ClientError> {
        if let Some(number) = self.numbers.get(&node) {
            return Ok(*number);
        }
        let number = u32::try_from(self.entries.len()).map_err(|_| {
            ClientError::new(
                ErrorKind::Refused,
                "could not write the table",
                "it names too many nodes",
                "put less at once",
            )
        })?;
        self.entries.push(NodeEntry::new(node, self.nodes.addresses(node)));
        self.numbers.insert(node, number);
        Ok(number)
    }
}

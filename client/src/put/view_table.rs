//! The table of a view: the segments that a shared folder touches, each with its mask key.
//!
//! Decides that a view's holder learns of no other segment, and finds every blob of this table in segments that it names.

use std::collections::BTreeSet;

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::TableLocation;
use dolmen_proto::ids::SegmentId;
use dolmen_proto::keys::{MaskKey, MaskSecret};
use dolmen_proto::policy::Policy;
use dolmen_proto::table::{ForwardRow, RowKind, RowListBuilder, SegmentRow, TableRoot};
use dolmen_proto::tree::{BlobPointer, CountedTreeBuilder};

use super::documents::{Sink, built};
use super::store::Store;
use super::table::{NodeList, location, too_large};
use crate::error::ClientError;
use crate::read::{Dataset, damaged};

/// Writes the table of a view: rows of `base` and of what was stored so far, as far as they are among `segments`, and the
/// forwarding rows of chunks that pointers place in `named`.
///
/// # Errors
/// As [`super::send::Sender::send`]; `Refused` when the table would be too large for this release.
pub(crate) async fn write_view_table(
    store: &mut Store,
    base: &Dataset,
    segments: &BTreeSet<SegmentId>,
    named: &BTreeSet<SegmentId>,
) -> Result<TableLocation, ClientError> {
    store.close_documents().await?;
    let mut list = NodeList::new(store.nodes.clone(), &[]);
    let mut rows: Vec<SegmentRow> = Vec::new();
    for (kind, stored) in store.stored.iter().filter(|(_, stored)| segments.contains(&stored.id)) {
        rows.push(list.row(*kind, stored)?);
    }
    let mut walk = base.rows();
    while let Some(batch) = base.next_rows_seen(&mut walk, |_, _| {}).await? {
        for row in batch.iter().filter(|row| segments.contains(&row.id())) {
            let holders = base.table().holders(row).map_err(|error| damaged(&error))?;
            rows.push(list.moved(row, &holders)?);
        }
    }
    rows.sort_by_key(SegmentRow::id);
    rows.dedup_by_key(|row| row.id());
    let mut forwards = Vec::new();
    if let Some(tree) = &base.table().forwards {
        let mut walk = tree.walk::<ForwardRow>();
        while let Some(rows) = base.next_of_table_seen(&mut walk, |_, _| {}).await? {
            forwards.extend(rows.into_iter().filter(|row| named.contains(&row.segment)));
        }
    }
    let writing = Writing { policy: store.policy, mask: store.keys.mask.clone(), list, rows, forwards };
    let root = store.write(move |sink| writing.write(sink)).await?;
    let last = store.close_documents().await?;
    let stored = last.last().ok_or_else(|| ClientError::bug("could not write a view", "its table is nowhere"))?;
    location(stored, root, &store.nodes)
}

/// A view's table on its way.
struct Writing {
    policy: Policy,
    mask: MaskSecret,
    list: NodeList,
    /// Ascending by id.
    rows: Vec<SegmentRow>,
    forwards: Vec<ForwardRow>,
}

impl Writing {
    fn open(&self, row: SegmentRow) -> SegmentRow {
        let key = MaskKey::derive(&self.mask, &row.nonce());
        row.with_mask_key(key)
    }

    fn write(mut self, sink: &mut Sink) -> Result<BlobPointer, ClientError> {
        sink.touched();
        let mut builder = RowListBuilder::new();
        for row in std::mem::take(&mut self.rows) {
            builder.push(self.open(row), sink).map_err(built)?;
        }
        let rows = builder.finish(sink).map_err(built)?;
        let mut builder = CountedTreeBuilder::new();
        for row in std::mem::take(&mut self.forwards) {
            builder.push(row, sink).map_err(built)?;
        }
        let forwards = builder.finish(sink).map_err(built)?;
        let mut touched = sink.touched();
        let mut root = TableRoot {
            policy: self.policy,
            nodes: Vec::new(),
            stewards: Vec::new(),
            rows,
            further: Vec::new(),
            receipts: None,
            forwards,
            leaving: None,
            extensions: Extensions::default(),
        };
        loop {
            let mut further = Vec::new();
            for stored in sink.settle()? {
                further.push(self.list.row(RowKind::Documents, stored)?);
            }
            further.retain(|row| touched.contains(&row.id()));
            further.sort_by_key(SegmentRow::id);
            root.further = further.into_iter().map(|row| self.open(row)).collect();
            root.nodes = self.list.entries();
            let length = root.to_bytes().map_err(|error| too_large(&error))?.len();
            if sink.has_room(length) {
                break;
            }
            // The root names every segment of its trees but the one that it lies in.
            touched.extend(sink.open_id());
            sink.close()?;
            touched = touched.into_iter().map(|segment| sink.settled_id(segment)).collect();
        }
        root.put(sink).map_err(built)
    }
}

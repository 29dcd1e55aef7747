//! A steward's overlay on its way: rows of the one before and changed ones, merged as they stream by.
//!
//! Decides which segments the overlay's own blobs may be found in. Never decides which rows there should be. Holds no more rows
//! than are changed; blobs that stay the same are not stored again.

use std::collections::{BTreeMap, BTreeSet};

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Holder, PlacedSegment, TableLocation};
use dolmen_proto::ids::{SegmentId, Timestamp};
use dolmen_proto::overlay::{OverlayKey, OverlayRoot, OverlayRow};
use dolmen_proto::table::NodeEntry;
use dolmen_proto::tree::{BlobPointer, CountedTree, CountedTreeBuilder, TreeItem};
use tokio::runtime::Handle;

use super::documents::{Sink, built};
use super::parent::Known;
use super::send::Stored;
use super::store::Store;
use super::table::{location, too_large};
use crate::error::ClientError;
use crate::network::Nodes;
use crate::read::{Overlay, Place};

/// Segments that blobs of one overlay may lie in before all of them are written anew: the root names every one of them.
const FURTHER_MAX: usize = 256;

/// What becomes of an overlay's rows.
#[derive(Debug, Default)]
pub(crate) struct OverlayChange {
    /// Rows that are added, or take the place of those for the same shard.
    pub(crate) set: BTreeMap<OverlayKey, OverlayRow>,
    /// Rows that go.
    pub(crate) drop: BTreeSet<OverlayKey>,
    /// Only rows of these segments stay, when there are any; `None`: of all.
    pub(crate) live: Option<BTreeSet<SegmentId>>,
}

/// Stores an overlay that follows `old`; gives where its root lies.
///
/// # Errors
/// As [`super::send::Sender::send`]; as reading when the old one cannot be read.
pub(crate) async fn write_overlay(
    store: &mut Store,
    old: Option<Overlay>,
    change: OverlayChange,
    published: Timestamp,
) -> Result<TableLocation, ClientError> {
    let writing = Writing {
        old,
        change,
        published,
        nodes: store.nodes.clone(),
        known: store.known.clone(),
        runtime: Handle::current(),
    };
    let root = store.write(move |sink| writing.write(sink)).await?;
    let last = store.close_documents().await?;
    let stored = last.last().ok_or_else(|| ClientError::bug("could not write an overlay", "its root is nowhere"))?;
    location(stored, root, &store.nodes)
}

struct Writing {
    old: Option<Overlay>,
    change: OverlayChange,
    published: Timestamp,
    nodes: Nodes,
    known: Known,
    runtime: Handle,
}

impl Writing {
    fn write(mut self, sink: &mut Sink) -> Result<BlobPointer, ClientError> {
        let before: BTreeMap<SegmentId, PlacedSegment> = match &self.old {
            Some(old) => {
                old.places().map(|place| Ok((place.id, self.of_place(place)?))).collect::<Result<_, ClientError>>()?
            }
            None => BTreeMap::new(),
        };
        if before.len() > FURTHER_MAX {
            sink.avoid(before.keys().copied().collect());
        }
        sink.touched();
        let rows = self.rows(sink)?;
        let mut touched = sink.touched();
        let mut root =
            OverlayRoot { published: self.published, rows, further: Vec::new(), extensions: Extensions::default() };
        loop {
            let mut further: BTreeMap<SegmentId, PlacedSegment> = before.clone();
            for stored in sink.settle()? {
                further.insert(stored.id, self.of_stored(stored)?);
            }
            root.further = further.into_values().filter(|placed| touched.contains(&placed.id())).collect();
            let length = root.to_bytes().map_err(|error| too_large(&error))?.len();
            if sink.has_room(length) {
                break;
            }
            // The root names every segment of its tree but the one that it lies in.
            touched.extend(sink.open_id());
            sink.close()?;
            touched = touched.into_iter().map(|segment| sink.settled_id(segment)).collect();
        }
        sink.avoid(BTreeSet::new());
        root.put(sink).map_err(built)
    }

    fn rows(&mut self, sink: &mut Sink) -> Result<Option<CountedTree>, ClientError> {
        let OverlayChange { mut set, drop, live } = std::mem::take(&mut self.change);
        let stays = |key: &OverlayKey| live.as_ref().is_none_or(|live| live.contains(&key.segment));
        set.retain(|key, _| stays(key));
        let mut builder = CountedTreeBuilder::new();
        if let Some((old, mut walk)) = self.old.as_ref().and_then(|old| Some((old, old.rows()?))) {
            let learn = |pointer: &BlobPointer, blob: &[u8]| self.known.learn::<OverlayRow>(pointer, blob);
            while let Some(rows) = self.runtime.block_on(old.next_rows(&mut walk, learn))? {
                for row in rows {
                    let key = row.label();
                    while let Some(next) = set.first_entry().filter(|next| *next.key() < key) {
                        builder.push(next.remove(), sink).map_err(built)?;
                    }
                    let row = match set.remove(&key) {
                        Some(row) => row,
                        None if drop.contains(&key) || !stays(&key) => continue,
                        None => row,
                    };
                    builder.push(row, sink).map_err(built)?;
                }
            }
        }
        for row in set.into_values() {
            builder.push(row, sink).map_err(built)?;
        }
        builder.finish(sink).map_err(built)
    }

    fn of_place(&self, place: &Place) -> Result<PlacedSegment, ClientError> {
        self.placed(place.geometry, place.nonce, place.roots.iter().zip(&place.holders))
    }

    fn of_stored(&self, stored: &Stored) -> Result<PlacedSegment, ClientError> {
        self.placed(stored.geometry, stored.nonce, stored.roots.iter().zip(&stored.nodes))
    }

    fn placed<'a>(
        &self,
        geometry: dolmen_proto::segment::Geometry,
        nonce: dolmen_proto::segment::SegmentNonce,
        holders: impl Iterator<Item = (&'a dolmen_proto::ids::ShardRoot, &'a Option<dolmen_proto::ids::NodeId>)>,
    ) -> Result<PlacedSegment, ClientError> {
        let entry = |node: dolmen_proto::ids::NodeId| NodeEntry::new(node, self.nodes.addresses(node));
        let holders = holders.map(|(root, node)| Holder { root: *root, node: node.map(entry) }).collect();
        PlacedSegment::new(geometry, nonce, holders)
            .map_err(|error| ClientError::bug("could not place an overlay", error))
    }
}

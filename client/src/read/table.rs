//! A base table as a reader uses it: where the shards of a segment lie.
//!
//! Decides in which order rows are looked for and what of them is kept. Never decides whether a row is believed:
//! `dolmen-proto` checks every blob.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dolmen_proto::codec::DocumentError;
use dolmen_proto::head::TableLocation;
use dolmen_proto::ids::SegmentId;
use dolmen_proto::keys::MaskKey;
use dolmen_proto::table::{ForwardKey, ForwardRow, Rows, SegmentRow, TableRoot};
use dolmen_proto::tree::{BlobPointer, TreeItem};

use super::documents::Documents;
use super::kept::Kept;
use super::segment::Place;
use crate::error::{ClientError, ErrorKind};
use crate::network::Nodes;

/// Places of segments that are kept.
const PLACES_KEPT: u64 = 4096;
/// Places of moved chunks that are kept.
const MOVED_KEPT: u64 = 32 * 1024;

/// What to tell of a document that is not one.
pub(crate) fn damaged(error: &DocumentError) -> ClientError {
    match error {
        DocumentError::Needs { .. } | DocumentError::Version { .. } => ClientError::new(
            ErrorKind::Refused,
            "this release cannot read the dataset",
            error,
            "use the release that the message names, or a newer one",
        ),
        _ => ClientError::new(
            ErrorKind::Damaged,
            "the dataset's documents are damaged",
            error,
            "what was uploaded is damaged in itself: ask the dataset's owner",
        ),
    }
}

/// The base table of a dataset.
pub(crate) struct Table {
    nodes: Nodes,
    /// Its root blob.
    pub(crate) root: TableRoot,
    /// Where that lies.
    pub(crate) location: TableLocation,
    /// The segment that its root lies in.
    pub(crate) place: Arc<Place>,
    /// `None`: the table does not have it.
    places: Mutex<Kept<SegmentId, Option<Arc<Place>>>>,
    moved: Mutex<Kept<(SegmentId, u32), ForwardRow>>,
}

impl Table {
    /// Reads the root blob; `mask_key` is that of its segment, for the holder of a view.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read.
    pub(crate) async fn open(
        nodes: &Nodes,
        documents: &Documents,
        location: &TableLocation,
        mask_key: Option<MaskKey>,
    ) -> Result<Self, ClientError> {
        let place = Arc::new(Place::of_head(&location.segment, mask_key, nodes));
        let pointer = location.root();
        let blob = match documents.here(&pointer).await {
            Some(blob) => blob,
            None => documents.fetch(&place, (pointer.offset, &pointer), &[]).await?,
        };
        let root = TableRoot::parse(&blob, pointer.segment).map_err(|error| damaged(&error))?;
        Ok(Self {
            nodes: nodes.clone(),
            root,
            location: location.clone(),
            place,
            places: Mutex::new(Kept::new(PLACES_KEPT)),
            moved: Mutex::new(Kept::new(MOVED_KEPT)),
        })
    }

    /// Where a chunk or blob lies now: its segment's shards, and its offset there; `None` when the table does not have it.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when rows cannot be read.
    pub(crate) async fn locate(
        &self,
        documents: &Documents,
        pointer: &BlobPointer,
    ) -> Result<Option<(Arc<Place>, u32)>, ClientError> {
        if let Some(place) = self.find(documents, pointer.segment).await? {
            return Ok(Some((place, pointer.offset)));
        }
        match self.forward(documents, pointer.segment, pointer.offset).await? {
            Some(row) if row.sealed_bytes as usize == pointer.sealed_bytes() => {
                let place = self.find(documents, row.to_segment).await?;
                Ok(place.map(|place| (place, row.to_offset)))
            }
            _ => Ok(None),
        }
    }

    /// Where a chunk went whose segment has no row any more; what lies around its row is kept.
    async fn forward(
        &self,
        documents: &Documents,
        segment: SegmentId,
        offset: u32,
    ) -> Result<Option<ForwardRow>, ClientError> {
        let moved = || self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tree) = &self.root.forwards else { return Ok(None) };
        let known = moved().get(&(segment, offset));
        if known.is_some() {
            return Ok(known);
        }
        let mut walk = tree.walk::<ForwardRow>();
        let key = ForwardKey { segment, offset };
        while let Some(pointer) = walk.wanted().cloned() {
            let blob = self.blob(documents, &pointer).await?;
            let rows = walk.supply(&blob).map_err(|error| damaged(&error))?;
            if !rows.is_empty() {
                rows.iter().for_each(|row| moved().put((row.segment, row.offset), *row, 1));
                return Ok(rows.into_iter().find(|row| row.label() == key));
            }
            walk.seek(&key);
        }
        Ok(None)
    }

    fn places(&self) -> MutexGuard<'_, Kept<SegmentId, Option<Arc<Place>>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a segment's shards are; `None` when the table does not have it.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when rows cannot be read.
    pub(crate) async fn find(&self, documents: &Documents, id: SegmentId) -> Result<Option<Arc<Place>>, ClientError> {
        if id == self.place.id {
            return Ok(Some(Arc::clone(&self.place)));
        }
        let known = self.places().get(&id);
        if let Some(known) = known {
            return Ok(known);
        }
        let found = match self.root.inline_row(id) {
            Some(row) => Some(self.place_of(row)?),
            None => self.search(documents, id).await?,
        };
        self.places().put(id, found.clone(), 1);
        Ok(found)
    }

    /// Where a row of this table places its segment's shards.
    ///
    /// # Errors
    /// `Damaged` when it names a node that the table does not.
    pub(crate) fn place_of(&self, row: &SegmentRow) -> Result<Arc<Place>, ClientError> {
        let holders = self.root.holders(row).map_err(|error| damaged(&error))?;
        Ok(Arc::new(Place::of_row(row, &holders, &self.nodes)))
    }

    /// Finds a row in the tree of rows; what lies around it is kept, since it is likely to be asked for next.
    async fn search(&self, documents: &Documents, id: SegmentId) -> Result<Option<Arc<Place>>, ClientError> {
        let Some(mut walk) = self.root.rows.walk() else { return Ok(None) };
        walk.seek(&id);
        while let Some(pointer) = walk.wanted().cloned() {
            let blob = self.blob(documents, &pointer).await?;
            let rows = walk.supply(&blob).map_err(|error| damaged(&error))?;
            if !rows.is_empty() {
                let mut found = None;
                for row in &rows {
                    let place = self.place_of(row)?;
                    if row.id() == id {
                        found = Some(Arc::clone(&place));
                    }
                    self.places().put(row.id(), Some(place), 1);
                }
                return Ok(found);
            }
            walk.seek(&id);
        }
        Ok(None)
    }

    /// A blob of the table's own trees, which lie in segments that the table's root names.
    ///
    /// # Errors
    /// `Damaged` when it lies elsewhere or does not open, `NotNow` when it cannot be had.
    pub(crate) async fn blob(&self, documents: &Documents, pointer: &BlobPointer) -> Result<Arc<Vec<u8>>, ClientError> {
        if let Some(blob) = documents.here(pointer).await {
            return Ok(blob);
        }
        let place = if pointer.segment == self.place.id {
            Arc::clone(&self.place)
        } else {
            let row = self.root.inline_row(pointer.segment);
            self.place_of(row.ok_or_else(|| damaged(&DocumentError::SelfPointer { what: "a table's tree" }))?)?
        };
        documents.fetch(&place, (pointer.offset, pointer), &[]).await
    }

    /// The places of segments whose ids follow this one (`None`: of the first), ascending: as many as have so many shards together,
    /// and one at least where there is one. Of segments of all kinds, the table's own included.
    ///
    /// # Errors
    /// As [`Table::find`].
    pub(crate) async fn places_after(
        &self,
        documents: &Documents,
        after: Option<SegmentId>,
        most_shards: usize,
    ) -> Result<Vec<Arc<Place>>, ClientError> {
        let mut next = NextPlaces { after, most_shards, shards: 0, places: BTreeMap::new() };
        next.take(Arc::clone(&self.place));
        for row in &self.root.further {
            next.take(self.place_of(row)?);
        }
        if let Rows::Inline(rows) = &self.root.rows {
            for row in rows {
                next.take(self.place_of(row)?);
            }
        }
        if let Some(mut walk) = self.root.rows.walk() {
            let mut begun = false;
            loop {
                if let Some(after) = after.filter(|_| !begun) {
                    walk.seek(&after);
                }
                let Some(pointer) = walk.wanted().cloned() else { break };
                let blob = self.blob(documents, &pointer).await?;
                let rows = walk.supply(&blob).map_err(|error| damaged(&error))?;
                begun |= !rows.is_empty();
                let mut full = false;
                for row in rows {
                    let follows = after.is_none_or(|after| row.id() > after);
                    full = !next.take(self.place_of(&row)?) && follows;
                }
                // All further rows have greater ids.
                if full {
                    break;
                }
            }
        }
        Ok(next.places.into_values().collect())
    }

    /// Shows `visit` the place of every segment: content, documents, the table's own.
    ///
    /// # Errors
    /// As [`Table::find`].
    pub(crate) async fn every_place(
        &self,
        documents: &Documents,
        mut visit: impl FnMut(Arc<Place>),
    ) -> Result<(), ClientError> {
        visit(Arc::clone(&self.place));
        for row in &self.root.further {
            visit(self.place_of(row)?);
        }
        if let Rows::Inline(rows) = &self.root.rows {
            for row in rows {
                visit(self.place_of(row)?);
            }
        }
        if let Some(mut walk) = self.root.rows.walk() {
            while let Some(pointer) = walk.wanted().cloned() {
                let blob = self.blob(documents, &pointer).await?;
                for row in walk.supply(&blob).map_err(|error| damaged(&error))? {
                    visit(self.place_of(&row)?);
                }
            }
        }
        Ok(())
    }
}

/// The first places after one, kept while segments are shown in any order.
struct NextPlaces {
    after: Option<SegmentId>,
    most_shards: usize,
    shards: usize,
    places: BTreeMap<SegmentId, Arc<Place>>,
}

impl NextPlaces {
    /// Shows a place; false when it is not among the first, or not any more.
    fn take(&mut self, place: Arc<Place>) -> bool {
        let id = place.id;
        if self.after.is_some_and(|after| id <= after) {
            return false;
        }
        let count = |place: &Place| place.roots.len();
        self.shards += count(&place);
        if let Some(same) = self.places.insert(id, place) {
            self.shards -= count(&same);
        }
        while self.shards > self.most_shards && self.places.len() > 1 {
            let Some((_, last)) = self.places.pop_last() else { break };
            self.shards -= count(&last);
        }
        self.places.contains_key(&id)
    }
}

#[cfg(test)]
mod tests;

//! Overlays as readers use them: where shards lie beside the places that the base table knows.
//!
//! Decides when overlays are looked at (not before something is missing), what of them counts, and how long one may take: a
//! steward is not trusted, so what he says adds holders that are asked last and never takes one away, and an overlay that
//! cannot be read in time is left alone. Never decides how a shard is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dolmen_proto::head::Head;
use dolmen_proto::ids::{HeadHash, NodeId, SegmentId, ShardIndex};
use dolmen_proto::keys::{OverlayKeys, TableSecret};
use dolmen_proto::overlay::{OverlayKey, OverlayRoot, OverlayRow};
use dolmen_proto::table::NodeEntry;
use dolmen_proto::tree::{BlobPointer, TreeWalk};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::dataset::Reading;
use super::documents::Documents;
use super::fetch::Fetcher;
use super::kept::Kept;
use super::segment::Place;
use super::table::damaged;
use crate::budget::Budget;
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Wanted};

/// How long one overlay may take to be opened, and to be looked up in. One that takes longer is not asked again.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what was found of overlays is believed when a segment cannot be had with it.
const BELIEVED: Duration = Duration::from_secs(10);
/// A lookup that takes longer was slow; an overlay with so many slow ones is not asked again.
const SLOW: Duration = Duration::from_secs(3);
const SLOW_MAX: u32 = 3;
/// Segments whose further holders are kept.
const SEGMENTS_KEPT: u64 = 4096;

/// One steward's overlay.
#[derive(Clone)]
pub(crate) struct Overlay {
    documents: Documents,
    /// Its head: what a newer one replaces.
    pub(crate) head: Head,
    pub(crate) root: OverlayRoot,
    /// The segment that its root lies in.
    pub(crate) place: Arc<Place>,
    further: Arc<BTreeMap<SegmentId, Arc<Place>>>,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Overlay({:?})", self.head)
    }
}

impl Overlay {
    /// Reads the newest head and the root of a steward's overlay; `None` when he has published none.
    ///
    /// # Errors
    /// As [`heads::find`]; `Damaged` or `NotNow` when the root cannot be read.
    pub(crate) async fn open(
        reading: &Reading,
        table: &TableSecret,
        steward: [u8; 32],
    ) -> Result<Option<Self>, ClientError> {
        let found = match heads::find(&reading.nodes, &Wanted::of_overlay(table, steward), reading.seen.as_ref()).await
        {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mask = OverlayKeys::derive(table, &steward).mask;
        let Reading { nodes, cores, cache, .. } = reading;
        let fetcher = Fetcher::new(nodes.clone(), cores.clone(), Budget::new(u64::MAX), Some(mask));
        let documents = Documents::new(fetcher, cache.clone(), false);
        let location = &found.body.location;
        let place = Arc::new(Place::of_head(&location.segment, None, nodes));
        let pointer = location.root();
        let blob = blob_at(&documents, &place, &pointer).await?;
        let root = OverlayRoot::parse(&blob, pointer.segment).map_err(|error| damaged(&error))?;
        let further = root.further.iter().map(|placed| (placed.id(), Arc::new(Place::of_head(placed, None, nodes))));
        let further = Arc::new(further.collect());
        Ok(Some(Self { documents, head: found.head, root, place, further }))
    }

    /// The segments that its blobs lie in.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Arc<Place>> {
        std::iter::once(&self.place).chain(self.further.values())
    }

    /// Starts to read its rows, ascending by segment and shard; `None` when there are none.
    pub(crate) fn rows(&self) -> Option<TreeWalk<OverlayRow>> {
        self.root.rows.as_ref().map(|rows| rows.walk())
    }

    /// The next rows, as they stand: see [`counts`]. May be none though more follow; `None` at the end. Shows `seen` the blob that
    /// was read.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a blob cannot be read.
    pub(crate) async fn next_rows(
        &self,
        walk: &mut TreeWalk<OverlayRow>,
        seen: impl FnOnce(&BlobPointer, &[u8]),
    ) -> Result<Option<Vec<OverlayRow>>, ClientError> {
        let Some(pointer) = walk.wanted().cloned() else { return Ok(None) };
        let blob = self.blob(&pointer).await?;
        let rows = walk.supply(&blob).map_err(|error| damaged(&error))?;
        seen(&pointer, &blob);
        Ok(Some(rows))
    }

    /// The rows of one segment, as they stand.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a blob cannot be read.
    pub(crate) async fn rows_of(&self, segment: SegmentId) -> Result<Vec<OverlayRow>, ClientError> {
        let mut found = Vec::new();
        let Some(mut walk) = self.rows() else { return Ok(found) };
        let key = OverlayKey { segment, shard: ShardIndex::new(0) };
        walk.seek(&key);
        while let Some(pointer) = walk.wanted().cloned() {
            if walk.wanted_label().is_some_and(|label| label.segment > segment) {
                break;
            }
            let rows = walk.supply(&self.blob(&pointer).await?).map_err(|error| damaged(&error))?;
            if rows.is_empty() {
                walk.seek(&key);
            }
            found.extend(rows.into_iter().filter(|row| row.segment == segment));
        }
        Ok(found)
    }

    async fn blob(&self, pointer: &BlobPointer) -> Result<Arc<Vec<u8>>, ClientError> {
        let place =
            if pointer.segment == self.place.id { Some(&self.place) } else { self.further.get(&pointer.segment) };
        let place = place.ok_or_else(|| {
            let what = "an overlay names a segment that it does not place";
            ClientError::new(ErrorKind::Damaged, what, pointer.segment.short(), "ask its steward to publish it again")
        })?;
        blob_at(&self.documents, place, pointer).await
    }
}

async fn blob_at(
    documents: &Documents,
    place: &Arc<Place>,
    pointer: &BlobPointer,
) -> Result<Arc<Vec<u8>>, ClientError> {
    match documents.here(pointer).await {
        Some(blob) => Ok(blob),
        None => documents.fetch(place, (pointer.offset, pointer), &[]).await,
    }
}

/// Whether a row counts for a segment of the base table: its node has promised to hold that very shard, and still does.
pub(crate) fn counts(row: &OverlayRow, place: &Place, nodes: &crate::network::Nodes) -> bool {
    let Some(root) = place.roots.get(row.shard.get()).filter(|_| row.segment == place.id) else { return false };
    let length = u64::from(place.geometry.shard_bytes());
    match row.receipt.holds(row.node.id(), *root, length, nodes.now()) {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(segment = %row.segment.short(), shard = %row.shard, %error, "a row of an overlay does not count");
            false
        }
    }
}

/// Holders of a segment's shards, by shard.
pub(crate) type Holders = Arc<Vec<Vec<NodeId>>>;

/// The overlays of the stewards that a table names, opened when they are asked for. Clones share them.
#[derive(Clone)]
pub(crate) struct Overlays(Arc<Inner>);

struct Inner {
    reading: Reading,
    secret: TableSecret,
    state: Mutex<State>,
    /// Held while overlays are opened.
    opening: tokio::sync::Mutex<()>,
}

struct State {
    stewards: Vec<[u8; 32]>,
    /// Where the table says that nodes are: believed before overlays.
    nodes: Vec<NodeEntry>,
    open: Option<Opened>,
    found: Kept<SegmentId, Holders>,
    /// Segments that are being looked up.
    looking: BTreeSet<SegmentId>,
}

#[derive(Clone)]
struct Opened {
    overlays: Vec<Overlay>,
    /// Slow lookups in each.
    slow: BTreeMap<HeadHash, u32>,
    at: Instant,
}

impl Overlays {
    /// Of these stewards, who may be none.
    pub(crate) fn new(reading: &Reading, secret: TableSecret, stewards: Vec<[u8; 32]>) -> Self {
        let found = Kept::new(SEGMENTS_KEPT);
        let state = Mutex::new(State { stewards, nodes: Vec::new(), open: None, found, looking: BTreeSet::new() });
        Self(Arc::new(Inner { reading: reading.clone(), secret, state, opening: tokio::sync::Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on those count whom this table names, and nobody else.
    pub(crate) fn follow(&self, stewards: &[[u8; 32]], nodes: &[NodeEntry]) {
        let mut state = self.state();
        state.nodes = nodes.to_vec();
        if state.stewards != stewards {
            state.stewards = stewards.to_vec();
            (state.open, state.found) = (None, Kept::new(SEGMENTS_KEPT));
        }
    }

    /// Whether anybody is named.
    pub(crate) fn any(&self) -> bool {
        !self.state().stewards.is_empty()
    }

    /// Further holders of each shard of a segment; nobody where no row counts. What cannot be read is as if it were not there.
    pub(crate) fn holders<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Holders> {
        self.look_up(place).boxed()
    }

    /// The same as far as it is known; what is not is looked up meanwhile, so that no reader waits for a steward whom he may do
    /// without.
    pub(crate) fn holders_known(&self, place: &Arc<Place>) -> Option<Holders> {
        let mut state = self.state();
        if let Some(found) = state.found.get(&place.id) {
            return Some(found);
        }
        if state.looking.insert(place.id) {
            let (overlays, place) = (self.clone(), Arc::clone(place));
            tokio::spawn(async move {
                overlays.holders(&place).await;
                overlays.state().looking.remove(&place.id);
            });
        }
        None
    }

    async fn look_up(&self, place: &Place) -> Holders {
        if let Some(found) = self.state().found.get(&place.id) {
            return found;
        }
        let overlays = self.open().await;
        let looked_up = overlays.iter().map(|overlay| async move {
            let start = Instant::now();
            let rows = tokio::time::timeout(PATIENCE, overlay.rows_of(place.id)).await;
            (rows, start.elapsed() > SLOW)
        });
        let looked_up = futures::future::join_all(looked_up).await;
        let mut holders = vec![Vec::new(); place.roots.len()];
        for (overlay, (rows, slow)) in overlays.iter().zip(looked_up) {
            if slow && self.is_too_slow(overlay) {
                self.leave(overlay);
            }
            match rows {
                Ok(Ok(rows)) => self.take(rows, place, &mut holders),
                Ok(Err(error)) => tracing::debug!(?overlay, why = error.why(), "an overlay cannot be looked up in"),
                Err(_) => {
                    tracing::debug!(?overlay, "an overlay takes too long and is not asked again");
                    self.leave(overlay);
                }
            }
        }
        let holders = Arc::new(holders);
        self.state().found.put(place.id, Arc::clone(&holders), 1);
        holders
    }

    /// Takes in the rows that count.
    fn take(&self, rows: Vec<OverlayRow>, place: &Place, holders: &mut [Vec<NodeId>]) {
        let nodes = &self.0.reading.nodes;
        for row in rows.into_iter().filter(|row| counts(row, place, nodes)) {
            self.learn(&row.node);
            if let Some(holders) = holders.get_mut(row.shard.get())
                && !holders.contains(&row.node.id())
            {
                holders.push(row.node.id());
            }
        }
    }

    /// Takes in where a node is that a row names: what the base table says of it is believed before.
    pub(crate) fn learn(&self, node: &NodeEntry) {
        let known = self.state().nodes.iter().find(|entry| entry.id() == node.id()).cloned();
        let entry = known.as_ref().unwrap_or(node);
        self.0.reading.nodes.learn(entry.id(), entry.addresses());
    }

    fn is_too_slow(&self, overlay: &Overlay) -> bool {
        let mut state = self.state();
        let Some(open) = &mut state.open else { return false };
        let count = open.slow.entry(overlay.head.hash()).or_default();
        *count += 1;
        *count >= SLOW_MAX
    }

    fn leave(&self, slow: &Overlay) {
        if let Some(open) = &mut self.state().open {
            open.overlays.retain(|overlay| overlay.head.hash() != slow.head.hash());
        }
    }

    /// The overlays that can be read, opened once.
    async fn open(&self) -> Vec<Overlay> {
        if let Some(open) = &self.state().open {
            return open.overlays.clone();
        }
        let _opening = self.0.opening.lock().await;
        let stewards = {
            let state = self.state();
            if let Some(open) = &state.open {
                return open.overlays.clone();
            }
            state.stewards.clone()
        };
        let open = stewards.iter().map(|steward| async move {
            let opened = tokio::time::timeout(PATIENCE, Overlay::open(&self.0.reading, &self.0.secret, *steward)).await;
            match opened {
                Ok(Ok(overlay)) => overlay,
                Ok(Err(error)) => {
                    tracing::debug!(what = error.what(), why = error.why(), "an overlay cannot be read");
                    None
                }
                Err(_) => None,
            }
        });
        let overlays: Vec<Overlay> = futures::future::join_all(open).await.into_iter().flatten().collect();
        let mut state = self.state();
        if state.stewards == stewards {
            state.open = Some(Opened { overlays: overlays.clone(), slow: BTreeMap::new(), at: Instant::now() });
        }
        overlays
    }

    /// Forgets what was found: the caller has changed it.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        (state.open, state.found) = (None, Kept::new(SEGMENTS_KEPT));
    }

    /// Forgets what was found when that is not new; tells whether it is worth looking again.
    pub(crate) fn renew(&self) -> bool {
        let mut state = self.state();
        let old = state.open.as_ref().is_none_or(|open| open.at.elapsed() >= BELIEVED);
        if old {
            (state.open, state.found) = (None, Kept::new(SEGMENTS_KEPT));
        }
        old
    }

    /// Shows `visit` the rows of these segments in all overlays that can be read, of each overlay in order. What overlays say of
    /// other segments is not read, however much that is.
    pub(crate) async fn rows_of(&self, segments: &BTreeSet<SegmentId>, mut visit: impl FnMut(OverlayRow)) {
        for overlay in self.open().await {
            let Some(mut walk) = overlay.rows() else { continue };
            let Some(mut next) = segments.first().copied() else { continue };
            loop {
                walk.seek(&OverlayKey { segment: next, shard: ShardIndex::new(0) });
                match tokio::time::timeout(PATIENCE, overlay.next_rows(&mut walk, |_, _| {})).await {
                    Ok(Ok(Some(rows))) => {
                        let last = rows.last().map_or(next, |row| row.segment);
                        rows.into_iter().filter(|row| segments.contains(&row.segment)).for_each(&mut visit);
                        // Rows of the last segment may go on in the next blob.
                        match segments.range(last..).next() {
                            Some(segment) => next = next.max(*segment),
                            None => break,
                        }
                    }
                    Ok(Ok(None)) => break,
                    Ok(Err(_)) | Err(_) => {
                        tracing::debug!(?overlay, "an overlay cannot be read to its end");
                        break;
                    }
                }
            }
        }
    }
}

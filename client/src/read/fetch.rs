//! Segments fetched from nodes: whole, or the windows of them that are wanted.
//!
//! Decides which of both, what is remembered of nodes within one operation, and rebuilds what did not come. Every byte
//! was checked against a root before it gets here. Retries and races are the session's to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dolmen_net::driver::{Clock, Executor, MonotonicClock, Step, run};
use dolmen_proto::attempt::Fault;
use dolmen_proto::download::{DownloadAction, DownloadEvent, DownloadOutcome, DownloadPlan, DownloadSession};
use dolmen_proto::erasure::Code;
use dolmen_proto::ids::{NodeId, SegmentId, ShardIndex};
use dolmen_proto::keys::{MaskKey, MaskSecret};
use dolmen_proto::mask::Mask;
use dolmen_proto::policy::Policy;
use dolmen_proto::table::TableRoot;
use futures::{StreamExt, TryStreamExt};

use super::overlay::Overlays;
use super::segment::{Place, SegmentData};
use crate::budget::{Budget, Held, Pool};
use crate::cores::Cores;
use crate::error::{ClientError, ErrorKind};
use crate::network::Nodes;
use crate::network::attempt::{Told, once_reached, watched, watched_in_turn};
use crate::network::gate::Direction;

/// Ranges are asked for in whole windows of this size, so that a node learns little of where chunks begin.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Segments of no more data than this are always read whole.
const SMALL_SEGMENT_BYTES: u64 = 256 * 1024;
/// Windows of one segment that are fetched at a time.
const WINDOWS_AT_ONCE: usize = 16;
/// Bytes a second that one shard is expected to come at until something is known.
const PACE_FIRST: u64 = 4 * 1024 * 1024;
/// How long a shard's range may take before anything is known.
const EXPECTED_FIRST: Duration = Duration::from_millis(400);
/// What no range is expected to be faster than: below this there is nothing to win by a race.
/// The nodes of this crate's tests answer at once, but their threads may be held up on a busy machine.
const EXPECTED_LEAST: Duration = Duration::from_millis(if cfg!(test) { 400 } else { 20 });
/// A node of which nothing came for this long when it was given up is asked last from then on.
const SILENCE: Duration = Duration::from_millis(500);

/// Fetches segments of one dataset.
#[derive(Clone)]
pub(crate) struct Fetcher {
    nodes: Nodes,
    cores: Cores,
    budget: Budget,
    pool: Pool<Vec<u8>>,
    /// None for the holder of a view, who has the mask keys of single segments.
    mask: Option<Arc<MaskSecret>>,
    shared: Arc<Mutex<Shared>>,
    /// Where else shards may lie; none for views, and while none is known.
    overlays: Arc<OnceLock<Overlays>>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Fetcher(..)")
    }
}

#[derive(Default)]
struct Shared {
    /// Nodes that failed in this operation: asked again only when there are too few others.
    failed: BTreeSet<NodeId>,
    degraded: BTreeSet<SegmentId>,
    codes: BTreeMap<Policy, Arc<Code>>,
}

/// A range of every shard.
#[derive(Debug, Clone, Copy)]
enum Span {
    Whole,
    Window { offset: u32, count: u32 },
}

impl Span {
    /// Bytes of each shard.
    fn bytes(self, place: &Place) -> u64 {
        match self {
            Self::Whole => place.geometry.shard_bytes().into(),
            Self::Window { count, .. } => count.into(),
        }
    }
}

impl Fetcher {
    pub(crate) fn new(nodes: Nodes, cores: Cores, budget: Budget, mask: Option<MaskSecret>) -> Self {
        Self {
            nodes,
            cores,
            budget,
            pool: Pool::new(),
            mask: mask.map(Arc::new),
            shared: Arc::default(),
            overlays: Arc::default(),
        }
    }

    /// From now on holders that overlays name are asked too, once those of the base table have failed. Once for all clones.
    pub(crate) fn use_overlays(&self, overlays: Overlays) {
        // Whoever was first has the overlays of the same dataset.
        let _ = self.overlays.set(overlays);
    }

    /// Takes in whom a table that was read names as stewards, and where it says that nodes are.
    pub(super) fn follow(&self, table: &TableRoot) {
        if let Some(overlays) = self.overlays.get() {
            overlays.follow(&table.stewards, &table.nodes);
        }
    }

    /// The overlays that holders are looked for in, when there are any.
    pub(crate) fn overlays(&self) -> Option<&Overlays> {
        self.overlays.get().filter(|overlays| overlays.any())
    }

    /// The same, with another bound on memory.
    pub(crate) fn with_budget(&self, budget: Budget) -> Self {
        Self { budget, ..self.clone() }
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Segments that could be read only with the help of parity shards.
    pub(crate) fn degraded_segments(&self) -> u64 {
        self.shared().degraded.len() as u64
    }

    pub(crate) fn cores(&self) -> &Cores {
        &self.cores
    }

    /// Fetches what is wanted of a segment: ranges of its data, as offset and length.
    ///
    /// # Errors
    /// `Damaged` when fewer than `k` shards exist, `NotNow` when too few nodes can be reached.
    pub(crate) async fn fetch(&self, place: &Arc<Place>, wanted: &[(u32, u32)]) -> Result<SegmentData, ClientError> {
        let windows = windows(place, wanted)?;
        let wanted_bytes: u64 = windows.values().flatten().map(|(start, end)| u64::from(end - start)).sum();
        let data_bytes = u64::from(place.geometry.data_bytes());
        let mut ranges = vec![Vec::new(); usize::from(place.policy().k())];
        let whole = data_bytes <= SMALL_SEGMENT_BYTES || wanted_bytes * 2 >= data_bytes;
        // All memory is taken at once, so that two fetches never wait for each other's half. Half as much again is for
        // races; a rebuild may hold all k shards for a moment more.
        let shards: Vec<ShardIndex> = windows.keys().copied().collect();
        let bytes = if whole { shards.len() as u64 * u64::from(place.geometry.shard_bytes()) } else { wanted_bytes };
        let mut held = self.budget.take(bytes + bytes / 2).await;
        if whole {
            for (shard, bytes) in self.span(place, shards, Span::Whole, held).await? {
                ranges[shard.get()].push((0, bytes));
            }
        } else {
            let mut spans = Vec::new();
            for (shard, windows) in &windows {
                for (start, end) in windows {
                    let (part, rest) = held.split(u64::from(end - start));
                    held = rest;
                    spans.push((*shard, *start, *end, part));
                }
            }
            let fetched = futures::stream::iter(spans)
                .map(|(shard, start, end, part)| async move {
                    let span = Span::Window { offset: start, count: end - start };
                    let bytes = self.span(place, vec![shard], span, part).await?;
                    Ok::<_, ClientError>((shard, start, bytes))
                })
                .buffered(WINDOWS_AT_ONCE)
                .try_collect::<Vec<_>>()
                .await?;
            for (shard, start, bytes) in fetched {
                ranges[shard.get()]
                    .extend(bytes.into_iter().filter(|(index, _)| *index == shard).map(|(_, b)| (start, b)));
            }
        }
        Ok(SegmentData { geometry: place.geometry, ranges })
    }

    /// Fetches the same span of these data shards, rebuilding those that do not come.
    async fn span(
        &self,
        place: &Arc<Place>,
        wanted: Vec<ShardIndex>,
        span: Span,
        held: Held,
    ) -> Result<Vec<(ShardIndex, Bytes)>, ClientError> {
        let (holders, left_out) = self.known_holders(place, span);
        let (mut outcome, mut fetched) = self.run(place, &wanted, holders, span).await?;
        let ready = |outcome: &DownloadOutcome| matches!(outcome, DownloadOutcome::Ready { .. });
        let mut further = None;
        if !ready(&outcome)
            && let Some(overlays) = self.overlays()
        {
            let found = overlays.holders(place).await;
            if found.iter().any(|nodes| !nodes.is_empty()) {
                (outcome, fetched) = self.run(place, &wanted, self.union(place, &found, true), span).await?;
            }
            further = Some(overlays);
        }
        // Those that failed before may have come back.
        if !ready(&outcome) && left_out {
            (outcome, fetched) = self.run(place, &wanted, all_holders(place), span).await?;
        }
        if !ready(&outcome)
            && let Some(overlays) = further
            && overlays.renew()
        {
            let found = overlays.holders(place).await;
            if found.iter().any(|nodes| !nodes.is_empty()) {
                (outcome, fetched) = self.run(place, &wanted, self.union(place, &found, false), span).await?;
            }
        }
        match outcome {
            DownloadOutcome::Ready { .. } => self.complete(place, &wanted, span, fetched, held).await,
            DownloadOutcome::Lost { found, needed } => Err(ClientError::new(
                ErrorKind::Damaged,
                format!("segment {} of the dataset is lost", place.id.short()),
                format!("{found} of its shards still exist, {needed} are needed"),
                "ask the dataset's owner to upload it again",
            )),
            DownloadOutcome::Unreachable { fetched, gone, needed } => Err(ClientError::new(
                ErrorKind::NotNow,
                format!("segment {} of the dataset cannot be read now", place.id.short()),
                format!(
                    "{fetched} shards came, {needed} are needed, {gone} are gone and the others' nodes do not answer"
                ),
                "try again later: the same command resumes",
            )),
            DownloadOutcome::Local => Err(ClientError::new(
                ErrorKind::Local,
                "this machine cannot fetch shards",
                "its sockets or memory failed",
                "check the network and open files, then try again",
            )),
        }
    }

    /// Who to ask for each shard, by the base table, and by overlays when something of this segment has been missed before: reads
    /// that miss nothing do not look at them.
    fn known_holders(&self, place: &Arc<Place>, span: Span) -> (Vec<Vec<NodeId>>, bool) {
        let missed = {
            let shared = self.shared();
            shared.degraded.contains(&place.id)
                || place.holders.iter().flatten().any(|node| shared.failed.contains(node))
        };
        let further = self.overlays().filter(|_| missed).and_then(|overlays| overlays.holders_known(place));
        match further {
            Some(further) if further.iter().any(|nodes| !nodes.is_empty()) => (self.union(place, &further, true), true),
            _ => self.holders(place, span),
        }
    }

    /// Holders by the base table first, then those of overlays; without those that failed before when only the `good` are wanted.
    fn union(&self, place: &Place, further: &[Vec<NodeId>], good: bool) -> Vec<Vec<NodeId>> {
        let shared = self.shared();
        let wanted = |node: &NodeId| !good || !shared.failed.contains(node);
        let base = place.holders.iter().map(|node| node.iter().copied());
        let further = further.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
        base.zip(further).map(|(base, further)| base.chain(further.iter().copied()).filter(wanted).collect()).collect()
    }

    /// Who to ask for each shard, without the nodes that failed before as long as enough others are left.
    fn holders(&self, place: &Place, span: Span) -> (Vec<Vec<NodeId>>, bool) {
        let named: Vec<NodeId> = place.holders.iter().flatten().copied().collect();
        let slow = self.nodes.pace().slow(named.iter().copied(), span.bytes(place), self.nodes.now());
        let silent: Vec<NodeId> = named.iter().copied().filter(|node| self.nodes.is_silent(*node)).collect();
        let shared = self.shared();
        // Slow nodes come back before those that failed or did not answer.
        for slow in [slow.as_slice(), &[]] {
            let good = |node: &NodeId| !shared.failed.contains(node) && !silent.contains(node) && !slow.contains(node);
            let holders: Vec<Vec<NodeId>> =
                place.holders.iter().map(|node| node.iter().copied().filter(good).collect()).collect();
            let left = holders.iter().filter(|nodes| !nodes.is_empty()).count();
            if left >= usize::from(place.policy().k()) {
                return (holders, left < named.len());
            }
        }
        (all_holders(place), false)
    }

    async fn run(
        &self,
        place: &Arc<Place>,
        wanted: &[ShardIndex],
        holders: Vec<Vec<NodeId>>,
        span: Span,
    ) -> Result<(DownloadOutcome, BTreeMap<ShardIndex, Vec<u8>>), ClientError> {
        let bytes = span.bytes(place);
        let known = self.nodes.pace().expected(bytes);
        let first = || Duration::from_millis(bytes * 1000 / PACE_FIRST).max(EXPECTED_FIRST);
        let expected = known.unwrap_or_else(first).max(EXPECTED_LEAST);
        let plan = DownloadPlan {
            policy: place.policy(),
            wanted: wanted.to_vec(),
            unmet: self.nodes.unmet(holders.iter().flatten().copied()),
            holders,
            expected,
            silent_after: self.nodes.silent_after(),
        };
        // One clock for its beginning and for all that follows.
        let clock = MonotonicClock::start();
        let session = DownloadSession::new(plan, clock.now())
            .map_err(|error| ClientError::bug("could not plan a download", error))?;
        let fetched = Arc::new(Mutex::new(BTreeMap::new()));
        let executor = Download {
            fetcher: self.clone(),
            place: Arc::clone(place),
            span,
            fetched: Arc::clone(&fetched),
            open: BTreeMap::new(),
        };
        let begun = clock.now();
        let outcome = run(session, executor, &clock).await;
        tracing::debug!(segment = %place.id.short(), bytes, took_ms = clock.now().since(begun).as_millis(), ?outcome, "fetched");
        let fetched = std::mem::take(&mut *fetched.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((outcome, fetched))
    }

    /// Gives the wanted shards, rebuilt where they did not come themselves.
    async fn complete(
        &self,
        place: &Arc<Place>,
        wanted: &[ShardIndex],
        span: Span,
        mut fetched: BTreeMap<ShardIndex, Vec<u8>>,
        held: Held,
    ) -> Result<Vec<(ShardIndex, Bytes)>, ClientError> {
        let missing: Vec<ShardIndex> = wanted.iter().copied().filter(|shard| !fetched.contains_key(shard)).collect();
        if !missing.is_empty() {
            self.shared().degraded.insert(place.id);
            let code = Arc::clone(
                self.shared().codes.entry(place.policy()).or_insert_with(|| Arc::new(Code::new(place.policy()))),
            );
            let derived = self.mask.as_ref().map(|secret| MaskKey::derive(secret, &place.nonce));
            let key = place.mask_key.clone().or(derived).ok_or_else(|| {
                ClientError::new(
                    ErrorKind::Damaged,
                    "a segment cannot be rebuilt",
                    "the view's table does not have its mask key",
                    "ask whoever shared it to share it again",
                )
            })?;
            let mask = Mask::of_key(key, place.policy());
            let offset = match span {
                Span::Whole => 0,
                Span::Window { offset, .. } => offset,
            };
            let pool = self.pool.clone();
            let rebuild = move || {
                for (shard, bytes) in &mut fetched {
                    mask.apply(*shard, offset, bytes);
                }
                let length = fetched.values().next().map_or(0, Vec::len);
                let mut rebuilt: Vec<(ShardIndex, Vec<u8>)> = missing
                    .into_iter()
                    .map(|shard| {
                        let mut buffer = pool.get_like(length);
                        buffer.resize(length, 0);
                        (shard, buffer)
                    })
                    .collect();
                let present: Vec<(ShardIndex, &[u8])> =
                    fetched.iter().map(|(shard, bytes)| (*shard, bytes.as_slice())).collect();
                let mut into: Vec<(ShardIndex, &mut [u8])> =
                    rebuilt.iter_mut().map(|(shard, bytes)| (*shard, bytes.as_mut_slice())).collect();
                code.rebuild(&present, &mut into)
                    .map_err(|error| ClientError::bug("could not rebuild a segment", error))?;
                fetched.extend(rebuilt);
                Ok::<_, ClientError>(fetched)
            };
            fetched = self.cores.run(rebuild).await??;
        }
        let mut held = held;
        let mut complete = Vec::with_capacity(wanted.len());
        // Windows come in buffers of their own, of any size: kept for whole shards they would be without number.
        let pool = if matches!(span, Span::Whole) { self.pool.clone() } else { Pool::new() };
        for shard in wanted {
            let lost = || ClientError::bug("a shard was lost on the way", shard);
            let buffer = fetched.remove(shard).ok_or_else(lost)?;
            let (part, rest) = held.split(buffer.len() as u64);
            held = rest;
            complete.push((*shard, pool.guard(part, buffer)));
        }
        for buffer in fetched.into_values() {
            pool.put(buffer);
        }
        Ok(complete)
    }
}

fn all_holders(place: &Place) -> Vec<Vec<NodeId>> {
    place.holders.iter().map(|node| node.iter().copied().collect()).collect()
}

/// The windows that cover the wanted ranges, by data shard, merged and in order: start and end within the shard.
fn windows(place: &Place, wanted: &[(u32, u32)]) -> Result<BTreeMap<ShardIndex, Vec<(u32, u32)>>, ClientError> {
    let shard_bytes = place.geometry.shard_bytes();
    let mut windows: BTreeMap<ShardIndex, Vec<(u32, u32)>> = BTreeMap::new();
    for (offset, length) in wanted {
        let pieces = place.geometry.pieces(*offset, *length).map_err(|error| {
            ClientError::new(
                ErrorKind::Damaged,
                "the dataset's documents contradict each other",
                error,
                "what was uploaded is damaged in itself: ask the dataset's owner",
            )
        })?;
        for piece in pieces {
            let start = piece.offset / WINDOW_BYTES * WINDOW_BYTES;
            let end = (piece.offset + piece.length).next_multiple_of(WINDOW_BYTES).min(shard_bytes);
            windows.entry(piece.shard).or_default().push((start, end));
        }
    }
    for list in windows.values_mut() {
        list.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(list.len());
        for (start, end) in list.drain(..) {
            match merged.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => merged.push((start, end)),
            }
        }
        *list = merged;
    }
    Ok(windows)
}

/// Bytes between the end of a range of a segment and the end of the window that holds it: they come along anyway.
pub(crate) fn rest_of_window(place: &Place, offset: u32, length: u32) -> u32 {
    let shard_bytes = place.geometry.shard_bytes();
    let end = offset.saturating_add(length);
    let inside = end % shard_bytes;
    if inside == 0 { 0 } else { inside.next_multiple_of(WINDOW_BYTES).min(shard_bytes) - inside }
}

/// Does what a download session asks for.
struct Download {
    fetcher: Fetcher,
    place: Arc<Place>,
    span: Span,
    fetched: Arc<Mutex<BTreeMap<ShardIndex, Vec<u8>>>>,
    /// Who was asked when, and what has come.
    open: BTreeMap<u64, Asked>,
}

struct Asked {
    node: NodeId,
    /// Set when its turn has come.
    since: Arc<OnceLock<Instant>>,
    received: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Drop for Download {
    /// A dead node is found out by its silence long before its connection times out, a slow one by who was faster.
    fn drop(&mut self) {
        let (bytes, now) = (self.span.bytes(&self.place), self.fetcher.nodes.now());
        for asked in self.open.values() {
            if asked.ended.load(Ordering::Relaxed) {
                continue;
            }
            let Some(elapsed) = asked.since.get().map(Instant::elapsed) else { continue };
            self.fetcher.nodes.pace().observe_given_up(asked.node, bytes, elapsed, now);
            if asked.received.load(Ordering::Relaxed) == 0 && elapsed >= SILENCE {
                self.fetcher.shared().failed.insert(asked.node);
            }
        }
    }
}

impl Executor<DownloadSession> for Download {
    fn execute(&mut self, action: DownloadAction) -> Step<DownloadEvent> {
        let (attempt, shard, node) = match action {
            DownloadAction::Fetch { attempt, shard, node } => (attempt, shard, node),
            DownloadAction::Cancel { attempt } => return Step::Cancel { attempt: attempt.0 },
        };
        let Some(root) = self.place.roots.get(shard.get()).copied() else {
            return Step::Event(DownloadEvent::Failed { attempt, fault: Fault::Local });
        };
        let (fetcher, span, fetched) = (self.fetcher.clone(), self.span, Arc::clone(&self.fetched));
        let (shard_bytes, span_bytes) = (self.place.geometry.shard_bytes(), span.bytes(&self.place));
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let ended = Arc::new(AtomicBool::new(false));
        let (since, received_so_far) = (Arc::new(OnceLock::new()), Arc::clone(&received));
        let begun = Arc::clone(&since);
        let (nodes, moved) = (fetcher.nodes.clone(), Arc::clone(&received));
        self.open.insert(attempt.0, Asked { node, since, received: received_so_far, ended: Arc::clone(&ended) });
        let work = async move {
            let start = *begun.get_or_init(Instant::now);
            let bytes = match span {
                Span::Whole => {
                    let mut buffer = fetcher.pool.get_like(shard_bytes as usize);
                    fetcher.nodes.get_shard(node, root, shard_bytes, &mut buffer, &counter).await.map(|()| buffer)
                }
                Span::Window { offset, count } => {
                    fetcher.nodes.get_range(node, root, shard_bytes, offset, count, &counter).await
                }
            };
            ended.store(true, Ordering::Relaxed);
            match bytes {
                Ok(bytes) => {
                    fetcher.nodes.pace().observe(node, span_bytes, start.elapsed(), fetcher.nodes.now());
                    fetched.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, bytes);
                    Ok(())
                }
                Err(fault) => {
                    tracing::debug!(node = %node.short(), shard = %root.short(), %fault, "a shard was not fetched");
                    if matches!(fault.fault, Fault::Unreachable | Fault::Misbehaved) {
                        fetcher.shared().failed.insert(node);
                    }
                    Err(fault)
                }
            }
        };
        let event = |attempt, told| match told {
            Told::Seeks => DownloadEvent::Seeks { attempt },
            Told::Waits => DownloadEvent::Waits { attempt },
            Told::Begins => DownloadEvent::Begins { attempt },
            Told::Progress(bytes) => DownloadEvent::Progress { attempt, bytes },
            Told::Done(Ok(())) => DownloadEvent::Fetched { attempt },
            Told::Done(Err(fault)) => DownloadEvent::Failed { attempt, fault: fault.fault },
        };
        let reach = match span {
            Span::Whole => nodes.reach(node),
            Span::Window { .. } => nodes.reach_to_read(node),
        };
        // Windows are small and somebody waits for them: they do not wait for their turn.
        let begin = move || match span {
            Span::Whole => {
                let turn = nodes.gate().enter(Direction::Down, node, Arc::clone(&moved));
                watched_in_turn(turn, attempt, Box::pin(work), moved, event)
            }
            Span::Window { .. } => watched(attempt, Box::pin(work), moved, event),
        };
        let events = once_reached(attempt, reach, begin, event);
        Step::Start { attempt: attempt.0, events }
    }
}

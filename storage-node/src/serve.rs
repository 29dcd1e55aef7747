//! The glue between the data plane and the service: streams payload to and from the disks without blocking the runtime.
//!
//! Decides how many calls are under way, how much of them is in memory, and when a disk that hangs is given up on.
//! Never decides what a call deserves: that is the service's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dolmen_net::{Handler, PEER_SHARE_DIVISOR, PayloadReader, Peer, Replier, Share, Sharer, Shares, StreamError};
use dolmen_proto::ids::Timestamp;
use dolmen_proto::wire::{
    ErrorCode, GetRequest, ProveReply, ProveRequest, PutRequest, Reply, Request, RevealStep, WireError,
};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::bandwidth::{Bandwidth, Schedule, Way};
use crate::config::MEMORY_MIN;
use crate::disk::Disk;
use crate::service::{GetPlan, PIECE_MAX_BYTES, Pending, PutInProgress, PutStart, Service, still_indexing};
use crate::subnet::Subnet;

/// Threads that may wait for disks at a time.
pub const DISK_CALLS_MAX: usize = 64;
/// Bytes of a put that are handed to the disk at a time, as long as the peer sends faster than that.
const WRITE_BATCH_BYTES: usize = 256 * 1024;
/// Memory that one put may use: a batch being written, one being gathered, the writer's buffer and hashes.
const PUT_MEMORY_BYTES: usize = 2 * WRITE_BATCH_BYTES + 256 * 1024;
/// Memory that one get may use: a piece being sent, one being read.
const GET_MEMORY_BYTES: usize = 2 * PIECE_MAX_BYTES;
/// One unit of the memory budget.
const MEMORY_UNIT_BYTES: usize = 64 * 1024;
/// Of a node's memory, the part that is for transfers; the rest is for the data plane's windows.
pub(crate) const MEMORY_DIVISOR: u64 = 2;
const _: () = {
    let peer_bytes = MEMORY_MIN.bytes() / MEMORY_DIVISOR / PEER_SHARE_DIVISOR as u64;
    assert!(peer_bytes >= PUT_MEMORY_BYTES as u64, "one peer's share of the smallest memory is enough for a put");
    assert!(peer_bytes >= GET_MEMORY_BYTES as u64, "and for a get");
};
/// How long a call waits for memory or for a thread before the peer is told to come back.
const PATIENCE: Duration = Duration::from_secs(2);
/// Proofs that are made at a time; of [`DISK_CALLS_MAX`] threads they leave nearly all to readers.
const PROOFS_MAX: usize = 2;
/// How long the set of a reveal may take to come in.
const SET_PATIENCE: Duration = Duration::from_secs(30);
/// How long a reveal waits for its turn: its slot was granted, so it has to be answered if that can be.
const PROVE_PATIENCE: Duration = Duration::from_secs(10);
/// After this long without an answer a disk is said to have failed; shorter than a client's patience.
pub const DISK_DEADLINE: Duration = Duration::from_secs(20);
/// When a peer may come back to a node that is busy.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// The wall clock's time.
#[must_use]
pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Answers the data plane's requests from a [`Service`], once there is one.
pub struct NodeHandler<D: Disk> {
    inner: Arc<Inner<D>>,
}

struct Inner<D: Disk> {
    service: OnceLock<Arc<Service<D>>>,
    draining: AtomicBool,
    disk_calls: Arc<Semaphore>,
    memory: Arc<Shares>,
    proofs: Arc<Shares>,
    bandwidth: Bandwidth,
    disk_deadline: Duration,
}

impl<D: Disk> Clone for NodeHandler<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<D: Disk> NodeHandler<D> {
    /// A handler whose transfers use at most about `memory_bytes`. Until [`NodeHandler::set_service`] every request is
    /// told that the node is still reading its disks.
    #[must_use]
    pub fn new(memory_bytes: u64, schedule: Schedule) -> Self {
        Self::with_deadline(memory_bytes, schedule, DISK_DEADLINE)
    }

    fn with_deadline(memory_bytes: u64, schedule: Schedule, disk_deadline: Duration) -> Self {
        let units = usize::try_from(memory_bytes).unwrap_or(usize::MAX) / MEMORY_UNIT_BYTES;
        let least = (PUT_MEMORY_BYTES + GET_MEMORY_BYTES) / MEMORY_UNIT_BYTES;
        let inner = Inner {
            service: OnceLock::new(),
            draining: AtomicBool::new(false),
            disk_calls: Arc::new(Semaphore::new(DISK_CALLS_MAX)),
            memory: Shares::new(units.max(least)),
            proofs: Shares::new(PROOFS_MAX),
            bandwidth: Bandwidth::new(schedule),
            disk_deadline,
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on the requests are answered. A second service is ignored.
    pub fn set_service(&self, service: Arc<Service<D>>) {
        // Set once, by whoever opened the store.
        let _ = self.inner.service.set(service);
    }

    /// From now on new requests are told that the node is going down.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Relaxed);
    }
}

impl<D: Disk> Handler for NodeHandler<D> {
    fn handle(&self, peer: Peer, request: Request, payload: PayloadReader, replier: Replier) -> BoxFuture<'static, ()> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let name = request.name();
            if let Err(error) = inner.handle(peer, request, payload, replier).await {
                tracing::debug!(peer = %peer.id.short(), call = name, %error, "the peer did not take its answer");
            }
        })
    }
}

impl<D: Disk> Inner<D> {
    async fn handle(
        &self,
        peer: Peer,
        request: Request,
        payload: PayloadReader,
        replier: Replier,
    ) -> Result<(), StreamError> {
        if self.draining.load(Ordering::Relaxed) {
            return replier.refuse(WireError::new(ErrorCode::ShuttingDown, "the node is going down")).await;
        }
        let Some(service) = self.service.get().map(Arc::clone) else {
            return replier.refuse(still_indexing()).await;
        };
        let from = Subnet::of(peer.address.ip());
        match request {
            Request::Put(put) => {
                let answer = self.put(service, put, peer, payload).await.unwrap_or_else(Reply::Error);
                if let Reply::Error(error) = &answer {
                    tracing::debug!(peer = %peer.id.short(), %error, "refused a shard");
                }
                replier.reply(answer).await
            }
            Request::Get(get) => self.get(service, get, Sharer::of(&peer), replier).await,
            Request::Prove(prove) if matches!(*prove, ProveRequest::Reveal(_)) => {
                let ProveRequest::Reveal(step) = *prove else { return Ok(()) };
                self.prove(service, step, &peer, payload, replier).await
            }
            // Touches no disk, so a node whose disks hang still says what it is.
            Request::Describe => replier.reply(service.answer(&Request::Describe, wall_clock(), from)).await,
            other => {
                let answer = self.on_disk(move || service.answer(&other, wall_clock(), from)).await;
                replier.reply(answer.unwrap_or_else(Reply::Error)).await
            }
        }
    }

    async fn put(
        &self,
        service: Arc<Service<D>>,
        request: Box<PutRequest>,
        peer: Peer,
        mut payload: PayloadReader,
    ) -> Result<Reply, WireError> {
        if self.bandwidth.is_behind(Way::In) {
            return Err(busy());
        }
        let _memory = self.reserve_memory(Sharer::of(&peer), PUT_MEMORY_BYTES).await?;
        let from = Subnet::of(peer.address.ip());
        let begun = Arc::clone(&service);
        let pending = match self.on_disk(move || begun.begin_put(&request, wall_clock(), from)).await?? {
            PutStart::Held(pending) => *pending,
            PutStart::Wanted(put) => self.receive(put, &mut payload).await?,
        };
        self.settle(service, pending).await
    }

    /// Moves the payload to the disk: one batch is written while the next one comes in.
    async fn receive(&self, put: Box<PutInProgress<D>>, payload: &mut PayloadReader) -> Result<Pending, WireError> {
        let mut idle = Some(put);
        let mut writing = None;
        loop {
            let (batch, last) = match gather(payload).await {
                Ok(gathered) => gathered,
                Err(error) => {
                    let back = Self::returned(idle, writing).await;
                    // Giving the space back touches the disk.
                    tokio::task::spawn_blocking(move || drop(back));
                    return Err(WireError::new(ErrorCode::LengthMismatch, format!("the payload broke off: {error}")));
                }
            };
            // What is not read yet fills the peer's window, and he waits.
            self.bandwidth.pass(Way::In, batch.iter().map(Bytes::len).sum()).await;
            let mut put = Self::returned(idle.take(), writing.take()).await?;
            if last {
                return self
                    .on_disk(move || {
                        batch.iter().try_for_each(|piece| put.write(piece))?;
                        put.finish()
                    })
                    .await?;
            }
            let written = self.start_on_disk(move || {
                batch.iter().try_for_each(|piece| put.write(piece))?;
                Ok(put)
            });
            writing = Some(written.await?);
        }
    }

    /// The put again, when the batch before is written.
    async fn returned(
        idle: Option<Box<PutInProgress<D>>>,
        writing: Option<DiskCall<Result<Box<PutInProgress<D>>, WireError>>>,
    ) -> Result<Box<PutInProgress<D>>, WireError> {
        match (idle, writing) {
            (Some(put), _) => Ok(put),
            (None, Some(writing)) => writing.answer().await?,
            (None, None) => Err(WireError::new(ErrorCode::Internal, "a put was lost")),
        }
    }

    /// Waits until the lease is durable, without keeping a thread: the store's own thread says when.
    async fn settle(&self, service: Arc<Service<D>>, pending: Pending) -> Result<Reply, WireError> {
        let (ticket, settlement) = pending.split();
        let (done, committed) = oneshot::channel();
        service.store().commit_then(
            ticket,
            Box::new(move |outcome| {
                // Nobody waits any more when the request was dropped; the lease is there all the same.
                let _ = done.send(outcome);
            }),
        );
        match timeout(self.disk_deadline, committed).await {
            Ok(Ok(outcome)) => Ok(service.conclude(settlement, outcome)),
            Ok(Err(_)) => Err(WireError::new(ErrorCode::ShuttingDown, "the node is going down")),
            Err(_) => Err(disk_hangs()),
        }
    }

    async fn get(
        &self,
        service: Arc<Service<D>>,
        request: GetRequest,
        sharer: Sharer,
        replier: Replier,
    ) -> Result<(), StreamError> {
        let first = async {
            if self.bandwidth.is_behind(Way::Out) {
                return Err(busy());
            }
            let memory = self.reserve_memory(sharer, GET_MEMORY_BYTES).await?;
            let reader = Arc::clone(&service);
            // The first piece comes along, so that a small read waits for one thread and not for two.
            let call = self.on_disk(move || {
                let mut plan = reader.begin_get(&request)?;
                let piece = reader.read_piece(&mut plan)?;
                Ok::<_, WireError>((plan, piece))
            });
            Ok::<_, WireError>((memory, call.await??))
        };
        let (_memory, (plan, mut piece)) = match first.await {
            Ok(first) => first,
            Err(error) => return replier.refuse(error).await,
        };
        let mut writer = replier.reply_with_payload(plan.reply()).await?;
        let mut plan = Some(plan);
        while let Some(ready) = piece.take() {
            let more = plan.take().filter(|plan| !plan.is_done());
            let reading = match more {
                Some(plan) => Some(self.start_on_disk(read_next(Arc::clone(&service), plan)).await),
                None => None,
            };
            self.bandwidth.pass(Way::Out, ready.len()).await;
            writer.write(ready).await?;
            if let Some(reading) = reading {
                let next = match reading {
                    Ok(call) => call.answer().await.and_then(|read| read),
                    Err(error) => Err(error),
                };
                match next {
                    Ok((rest, next)) => (plan, piece) = (Some(rest), next),
                    Err(error) => {
                        // The header is out: all that is left is to break the stream off.
                        tracing::warn!(%error, root = %request.root.short(), "a read broke off");
                        return Ok(());
                    }
                }
            }
        }
        writer.finish()
    }

    /// Proves what a reveal draws. Few at a time, and one at a time of each network, so that readers have nearly all of the
    /// threads and disks and no auditor waits behind another's heap.
    async fn prove(
        &self,
        service: Arc<Service<D>>,
        step: Box<RevealStep>,
        peer: &Peer,
        mut payload: PayloadReader,
        replier: Replier,
    ) -> Result<(), StreamError> {
        let (from, sharer) = (Subnet::of(peer.address.ip()), Sharer::of(peer));
        let answer = async {
            let (admitting, asked) = (Arc::clone(&service), step.clone());
            let draw = self.on_disk(move || admitting.admit_reveal(&asked, wall_clock(), from)).await??;
            let memory = self.reserve_memory(sharer, Service::<D>::prove_memory_bytes(&step)).await?;
            // Whoever sends slowly takes up nobody's turn.
            let set = timeout(SET_PATIENCE, whole_set(&mut payload)).await.unwrap_or_else(|_| Err(too_slow()))?;
            let proving = self.proofs.take(sharer, 1, PROVE_PATIENCE).await.ok_or_else(busy)?;
            let proven = self.on_disk(move || service.prove_reveal(&step, &draw, set.into(), from, wall_clock)).await?;
            drop(proving);
            Ok::<_, WireError>((memory, proven?))
        };
        match answer.await {
            // The memory is given back when the auditor has the blocks.
            Ok((_memory, (proof, blocks))) => {
                let mut writer = replier.reply_with_payload(Reply::Prove(ProveReply::Proof(Box::new(proof)))).await?;
                if !blocks.is_empty() {
                    writer.write(blocks).await?;
                }
                writer.finish()
            }
            Err(error) => replier.refuse(error).await,
        }
    }

    /// Sets memory aside for one transfer. A peer that does not read what it asked for keeps its own share, and leaves
    /// the others theirs.
    async fn reserve_memory(&self, sharer: Sharer, bytes: usize) -> Result<Share, WireError> {
        self.memory.take(sharer, bytes.div_ceil(MEMORY_UNIT_BYTES), PATIENCE).await.ok_or_else(busy)
    }

    /// Runs what may block on a thread for that; the thread's place is taken until the work returns, however long.
    async fn start_on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<DiskCall<T>, WireError> {
        let permit = Arc::clone(&self.disk_calls).acquire_owned();
        let permit = timeout(PATIENCE, permit).await.ok().and_then(Result::ok).ok_or_else(busy)?;
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        Ok(DiskCall { task, deadline: self.disk_deadline })
    }

    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, WireError> {
        self.start_on_disk(work).await?.answer().await
    }
}

/// Work on a thread that may block.
struct DiskCall<T> {
    task: tokio::task::JoinHandle<T>,
    deadline: Duration,
}

impl<T> DiskCall<T> {
    /// What the work came to; a disk that hangs is given up on, and its thread comes back when it will.
    async fn answer(self) -> Result<T, WireError> {
        match timeout(self.deadline, self.task).await {
            Ok(Ok(result)) => Ok(result),
            // Work that had not begun when the runtime ended.
            Ok(Err(error)) if error.is_cancelled() => {
                Err(WireError::new(ErrorCode::ShuttingDown, "the node is going down"))
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "a call broke down");
                Err(WireError::new(ErrorCode::Internal, "the call broke down"))
            }
            Err(_) => Err(disk_hangs()),
        }
    }
}

fn read_next<D: Disk>(
    service: Arc<Service<D>>,
    mut plan: GetPlan,
) -> impl FnOnce() -> Result<(GetPlan, Option<Bytes>), WireError> + Send + 'static {
    move || {
        let piece = service.read_piece(&mut plan)?;
        Ok((plan, piece))
    }
}

/// Pieces of the payload up to a batch, and whether the payload ended.
async fn gather(payload: &mut PayloadReader) -> Result<(Vec<Bytes>, bool), StreamError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < WRITE_BATCH_BYTES {
        match payload.next().await? {
            Some(piece) => {
                bytes += piece.len();
                batch.push(piece);
            }
            None => return Ok((batch, true)),
        }
    }
    Ok((batch, false))
}

/// The set that comes with a reveal; its length is bounded by the call's header.
async fn whole_set(payload: &mut PayloadReader) -> Result<Vec<u8>, WireError> {
    let mut set = Vec::new();
    loop {
        match payload.next().await {
            Ok(Some(piece)) => set.extend_from_slice(&piece),
            Ok(None) => return Ok(set),
            Err(error) => {
                let text = format!("the set broke off: {error}");
                return Err(WireError::new(ErrorCode::LengthMismatch, text));
            }
        }
    }
}

fn too_slow() -> WireError {
    WireError::new(ErrorCode::LengthMismatch, "the set came too slowly")
}

fn busy() -> WireError {
    WireError::new(ErrorCode::Busy, "the node is working on as much as it can").with_retry_after(BUSY_RETRY)
}

fn disk_hangs() -> WireError {
    WireError::new(ErrorCode::DiskFailed, "a disk of this node does not answer").with_retry_after(BUSY_RETRY)
}

#[cfg(test)]
mod tests;

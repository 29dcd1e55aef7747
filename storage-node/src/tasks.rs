//! What a running node does without being asked: publishing itself, minding its clock and disks, ending what is over.
//!
//! Decides how often. Never decides what is over, damaged or trusted: that is the service's, the store's and the
//! clock's. Each task is alone with its troubles: a disk that hangs under one holds up no other.

mod leaving;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dolmen_net::directory::Directory;
use dolmen_net::{DataClient, DataServer, Identity, NodeAddress, Payload};
use dolmen_proto::ids::Timestamp;
use dolmen_proto::wire::{Reply, Request};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::announce::{self, Addresses};
use crate::clock::{ClockState, PEERS_MIN};
use crate::config::{AcceptingMode, NodeConfig};
use crate::disk::Disk;
use crate::keeper::{self, jittered};
use crate::serve::{DISK_DEADLINE, wall_clock};
use crate::service::{LeavingCount, Service};
use crate::status::{self, DiskState, DiskStatus, NodeStatus, Phase, Rebuilding};
use crate::store::{FolderState, FolderStatus, IndexState, MARKER_FILE, StoreError};

/// A record lives for an hour; two in a row may fail to be published.
const RECORD_EVERY: Duration = Duration::from_secs(20 * 60);
/// How often a changed record is looked for.
const RECORD_CHECK_EVERY: Duration = Duration::from_secs(60);
const STATUS_EVERY: Duration = Duration::from_secs(5);
const CLOCK_EVERY: Duration = Duration::from_secs(30);
/// How often peers are asked for the time while the clock is in doubt.
const PEERS_EVERY: Duration = Duration::from_secs(5 * 60);
/// Peers that are asked for the time.
const PEERS_ASKED: usize = 9;
const EXPIRE_EVERY: Duration = Duration::from_secs(10 * 60);
/// Leases that are ended at a time.
const EXPIRE_BATCH: usize = 512;
const COMPACT_EVERY: Duration = Duration::from_secs(5 * 60);
const COMPACT_STEP_BYTES: u64 = 64 * 1024 * 1024;
const SCRUB_EVERY: Duration = Duration::from_secs(60);
/// Everything is re-read in this time, if the operator's rate allows.
const SCRUB_ROUND: Duration = Duration::from_secs(25 * 86_400);
const DISKS_EVERY: Duration = Duration::from_secs(5);
/// As [`DISK_DEADLINE`], for a disk that is being read again: its first sync may have a gigabyte to write.
const REBUILD_DEADLINE: Duration = Duration::from_secs(300);
/// How often it is looked whether a disk that was not mounted is there again.
const REMOUNTED_EVERY: Duration = Duration::from_secs(60);
/// How long after its start a node puts its heads again for the first time.
const KEEPER_DELAY: Duration = Duration::from_secs(30 * 60);

/// Called with the folder's place before every volume that a rebuild reads, on the thread that reads it: tests make it wait.
pub(crate) type Pace = Arc<dyn Fn(usize) + Send + Sync>;

/// What the tasks work on.
pub(crate) struct Background<D: Disk> {
    pub(crate) service: Arc<Service<D>>,
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) identity: Identity,
    pub(crate) server: Arc<DataServer>,
    pub(crate) directory: Directory,
    pub(crate) client: DataClient,
    pub(crate) addresses: watch::Sender<Addresses>,
    pub(crate) record: watch::Sender<Bytes>,
    /// Sequence of the last record.
    pub(crate) sequence: Mutex<u64>,
    /// Whether every call is answered: no index is being rebuilt any more, and the books are open.
    pub(crate) whole: watch::Sender<bool>,
    pub(crate) pace: Pace,
    pub(crate) sockets: (std::net::SocketAddr, std::net::SocketAddr),
    /// The folder that status and clock are kept in.
    pub(crate) state_folder: PathBuf,
    /// Folders of the configuration that are not even there, as the status shows them.
    pub(crate) absent: Vec<DiskStatus>,
    pub(crate) started: (Timestamp, Instant),
    /// What was counted last of a node that goes, and when.
    pub(crate) leaving_count: Mutex<Option<(Timestamp, LeavingCount)>>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl<D: Disk> Background<D> {
    /// Starts all tasks; they end once `stop` says so.
    pub(crate) fn spawn(self: Arc<Self>, tasks: &mut JoinSet<()>) {
        tasks.spawn(Arc::clone(&self).publish());
        tasks.spawn(Arc::clone(&self).rebuild());
        tasks.spawn(Arc::clone(&self).write_status());
        tasks.spawn(Arc::clone(&self).watch_clock());
        tasks.spawn(Arc::clone(&self).expire());
        tasks.spawn(Arc::clone(&self).compact());
        tasks.spawn(Arc::clone(&self).scrub());
        tasks.spawn(Arc::clone(&self).watch_disks());
        tasks.spawn(Arc::clone(&self).watch_mounts());
        tasks.spawn(Arc::clone(&self).watch_leaving());
        tasks.spawn(self.keep_heads());
    }

    /// Waits; `false`: the node is going down.
    async fn pause(&self, duration: Duration) -> bool {
        let mut stop = self.stop.clone();
        tokio::time::timeout(duration, stop.wait_for(|stop| *stop)).await.is_err()
    }

    /// As [`Background::pause`], and wakes when the node becomes whole.
    async fn pause_until_whole(&self, duration: Duration, whole: &mut watch::Receiver<bool>) -> bool {
        tokio::select! {
            goes_on = self.pause(duration) => goes_on,
            // Its sender is this very struct's.
            Ok(()) = whole.changed() => true,
        }
    }

    /// Runs `work` on a thread that may block; `None`: it broke down, which is logged.
    async fn on_thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let this = Arc::clone(self);
        let joined = tokio::task::spawn_blocking(move || work(&this)).await;
        joined.inspect_err(|error| tracing::error!(%error, "a background task broke down")).ok()
    }

    async fn publish(self: Arc<Self>) {
        let mut published: Option<Instant> = None;
        let mut whole = self.whole.subscribe();
        loop {
            let (data, control) = self.sockets;
            let mut stop = self.stop.clone();
            let addresses = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                addresses = announce::addresses(self.config.announce.as_ref(), data, control) => addresses,
            };
            let moved = self.addresses.send_if_modified(|known| {
                let moved = *known != addresses;
                *known = addresses.clone();
                moved
            });
            let described = self.service.describe(wall_clock());
            let changed = described.record.as_ref().is_none_or(|record| {
                let record = record.claimed();
                record.free_class != described.free_class || record.accepting != described.accepting
            });
            if moved || changed || published.is_none_or(|at| at.elapsed() >= RECORD_EVERY) {
                self.publish_now(&addresses);
                published = Some(Instant::now());
            }
            if !self.pause_until_whole(RECORD_CHECK_EVERY, &mut whole).await {
                return;
            }
        }
    }

    /// Signs a fresh record and hands it to the directory and to `Describe`.
    pub(crate) fn publish_now(&self, addresses: &Addresses) {
        let now = wall_clock();
        // The time, so that it supersedes the last one also after a restart; two in one millisecond differ.
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence = now.as_unix_ms().max(sequence.saturating_add(1));
        let record = announce::record(&self.identity, &self.config, addresses, &self.service, now, *sequence);
        self.record.send_replace(Bytes::from(record.encode()));
        self.service.set_record(record);
    }

    /// Rebuilds the indexes that were not believed, beside serving, each folder on a thread of its own.
    async fn rebuild(self: Arc<Self>) {
        let mut reading = JoinSet::new();
        let mut places = HashMap::new();
        for (place, folder) in self.service.store().folders().into_iter().enumerate() {
            if let FolderState::Rebuilding { volumes, .. } = folder.state {
                tracing::info!(folder = folder.name, volumes, "rebuilding the index; what is found is served");
                let this = Arc::clone(&self);
                let reader = reading.spawn_blocking(move || this.read_folder(place, &folder.name));
                places.insert(reader.id(), place);
            }
        }
        while !*self.whole.borrow() {
            tokio::select! {
                Some(read) = reading.join_next() => {
                    if let Err(error) = read {
                        tracing::error!(%error, "the rebuilding of an index broke down");
                        if let Some(place) = places.get(&error.id()) {
                            self.service.store().fail_folder(*place, "its index cannot be rebuilt");
                        }
                    }
                }
                // A folder that hangs is given up on, and does not say so.
                goes_on = self.pause(DISKS_EVERY) => if !goes_on {
                    break;
                }
            }
            if self.on_thread(Self::finish_rebuild).await == Some(true) {
                self.whole.send_replace(true);
            }
        }
        self.service.store().stop_rebuilding();
        // They hold the data folders' locks.
        while reading.join_next().await.is_some() {}
    }

    fn read_folder(&self, place: usize, name: &str) {
        let began = Instant::now();
        loop {
            (self.pace)(place);
            match self.service.store().rebuild_step(place) {
                Ok(true) => {}
                Ok(false) => {
                    return tracing::info!(folder = name, elapsed = ?began.elapsed(), "all volumes are read");
                }
                Err(StoreError::Closed) => {
                    return tracing::info!(
                        folder = name,
                        "the rebuilding stops here and begins anew at the next start"
                    );
                }
                Err(error) => return tracing::error!(folder = name, %error, "the index cannot be rebuilt"),
            }
        }
    }

    /// Does what remains once all volumes are read; says whether it is done.
    fn finish_rebuild(&self) -> bool {
        let store = self.service.store();
        if !store.is_whole() {
            let Ok(report) = store.finish_rebuild(wall_clock()) else { return false };
            for folder in report.folders.iter().filter(|folder| matches!(folder.index, IndexState::Rebuilt(_))) {
                let (volumes, walked, torn, damaged) = (folder.volumes, folder.walked, folder.torn, folder.damaged);
                let elapsed = self.started.1.elapsed();
                tracing::info!(folder = folder.name, volumes, walked, torn, damaged, ?elapsed, "rebuilt the index");
                for volume in &folder.unreadable {
                    tracing::error!(folder = folder.name, volume, "a volume cannot be understood and is left alone");
                }
            }
        }
        let opened = self.service.open_books();
        opened.inspect_err(|error| tracing::error!(%error, "the leases cannot be counted")).unwrap_or(false)
    }

    async fn write_status(self: Arc<Self>) {
        let mut whole = self.whole.subscribe();
        loop {
            let status = self.status(Phase::Serving).await;
            let written = self.on_thread(move |this| status::write(&this.state_folder, &status)).await;
            if let Some(Err(error)) = written {
                tracing::warn!(%error, "the status file cannot be written");
            }
            if !self.pause_until_whole(STATUS_EVERY, &mut whole).await {
                return;
            }
        }
    }

    async fn watch_clock(self: Arc<Self>) {
        let mut asked: Option<Instant> = None;
        loop {
            let now = wall_clock();
            let state = self.service.clock().observe(now, self.started.1.elapsed());
            if state == ClockState::Trusted {
                let kept = self.on_thread(move |this| status::remember_trusted_time(&this.state_folder, now)).await;
                if let Some(Err(error)) = kept {
                    tracing::warn!(%error, "the time cannot be remembered");
                }
            } else if asked.is_none_or(|at| at.elapsed() >= PEERS_EVERY) {
                asked = Some(Instant::now());
                let mut stop = self.stop.clone();
                let peers = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    peers = self.ask_peers_for_the_time() => peers,
                };
                let judged = self.service.clock().hear_peers(wall_clock(), &peers);
                tracing::warn!(?judged, peers = peers.len(), "the clock jumped; nothing expires while it is in doubt");
            }
            if !self.pause(CLOCK_EVERY).await {
                return;
            }
        }
    }

    async fn ask_peers_for_the_time(&self) -> Vec<Timestamp> {
        let mut asking = JoinSet::new();
        let others =
            self.directory.sample(PEERS_ASKED).await.into_iter().filter(|peer| peer.node != self.service.node());
        for peer in others.take(PEERS_ASKED) {
            let client = self.client.clone();
            let node = NodeAddress { id: peer.node, addresses: peer.data_addresses };
            asking.spawn(async move {
                match client.call(&node, Request::Describe, Payload::none()).await.ok()?.reply {
                    Reply::Describe(described) => Some(described.now),
                    _ => None,
                }
            });
        }
        let mut times = Vec::with_capacity(PEERS_MIN);
        while let Some(answer) = asking.join_next().await {
            times.extend(answer.ok().flatten());
        }
        times
    }

    async fn expire(self: Arc<Self>) {
        while self.pause(jittered(EXPIRE_EVERY)).await {
            loop {
                let step = self.on_thread(|this| this.service.expire_step(wall_clock(), EXPIRE_BATCH)).await;
                match step {
                    Some(Ok(report)) => {
                        if report.leases + report.heads > 0 {
                            tracing::info!(leases = report.leases, heads = report.heads, "ended what was over");
                        }
                        if !report.more || !self.pause(Duration::from_millis(200)).await {
                            break;
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "expiry failed and is tried again");
                        break;
                    }
                    None => break,
                }
            }
        }
    }

    async fn compact(self: Arc<Self>) {
        while self.pause(jittered(COMPACT_EVERY)).await {
            loop {
                let step = self.on_thread(|this| this.service.compact_step(wall_clock(), COMPACT_STEP_BYTES)).await;
                match step {
                    Some(Ok(report)) => {
                        if report.volumes > 0 {
                            tracing::info!(volumes = report.volumes, freed = report.freed_bytes, "compacted");
                        }
                        if !report.more || !self.pause(Duration::from_secs(1)).await {
                            break;
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "compaction failed and is tried again");
                        break;
                    }
                    None => break,
                }
            }
        }
    }

    async fn scrub(self: Arc<Self>) {
        while self.pause(SCRUB_EVERY).await {
            let held = self.service.store().usage().total_bytes;
            let budget = scrub_budget(held, self.config.scrub_rate.bytes());
            if budget == 0 {
                continue;
            }
            match self.on_thread(move |this| this.service.store().scrub(budget)).await {
                Some(Ok(report)) if !report.damaged.is_empty() => {
                    tracing::error!(
                        shards = report.damaged.len(),
                        "found damaged shards; their owners will repair them"
                    );
                }
                Some(Err(error)) => tracing::warn!(%error, "re-reading failed"),
                Some(Ok(_)) | None => {}
            }
        }
    }

    /// Gives up on folders whose disk does not answer, so that calls fail at once instead of waiting one by one.
    async fn watch_disks(self: Arc<Self>) {
        let mut known: Vec<FolderState> = Vec::new();
        loop {
            let folders = self.service.store().folders();
            for (index, folder) in folders.iter().enumerate() {
                let deadline = match folder.state {
                    FolderState::Ready | FolderState::ReadOnly(_) => Some(DISK_DEADLINE),
                    FolderState::Rebuilding { .. } => Some(REBUILD_DEADLINE),
                    FolderState::Unmounted | FolderState::Foreign(_) | FolderState::Failed(_) => None,
                };
                if deadline.is_some_and(|most| folder.oldest_operation.is_some_and(|waiting| waiting > most)) {
                    self.service.store().fail_folder(index, "it does not answer");
                }
                if known.get(index).is_some_and(|before| got_worse(before, &folder.state)) {
                    tracing::error!(folder = folder.name, state = ?folder.state, "a data folder changed");
                }
            }
            known = folders.into_iter().map(|folder| folder.state).collect();
            if !self.pause(DISKS_EVERY).await {
                return;
            }
        }
    }

    /// Says so when a disk is there again; folders are opened at the start only, so that nothing of them is believed
    /// unchecked.
    async fn watch_mounts(self: Arc<Self>) {
        let mut reported: Vec<PathBuf> = Vec::new();
        loop {
            let folders =
                self.service.store().folders().into_iter().map(disk_status).chain(self.absent.iter().cloned());
            let unmounted = folders.filter(|disk| disk.state == DiskState::Unmounted).map(|disk| disk.path);
            let unmounted: Vec<PathBuf> = unmounted.filter(|path| !reported.contains(path)).collect();
            let look = move |_: &Self| unmounted.into_iter().filter(|path| path.join(MARKER_FILE).exists()).collect();
            let returned: Vec<PathBuf> = self.on_thread(look).await.unwrap_or_default();
            for path in &returned {
                tracing::warn!(folder = %path.display(), "the disk is there again; restart the node to use it");
            }
            reported.extend(returned);
            if !self.pause(REMOUNTED_EVERY).await {
                return;
            }
        }
    }

    async fn keep_heads(self: Arc<Self>) {
        if !self.pause(jittered(KEEPER_DELAY)).await {
            return;
        }
        let (mut stop, mut whole) = (self.stop.clone(), self.whole.subscribe());
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = whole.wait_for(|whole| *whole) => {}
        }
        loop {
            let mut stop = self.stop.clone();
            let round_began = Instant::now();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                taken = keeper::round(&self.service, &self.directory, &self.client, keeper::ROUND) => {
                    tracing::debug!(taken, "put the heads again");
                }
            }
            if !self.pause(keeper::ROUND.saturating_sub(round_began.elapsed()).max(KEEPER_DELAY)).await {
                return;
            }
        }
    }

    /// The node at this moment. Touches no disk.
    pub(crate) async fn status(&self, phase: Phase) -> NodeStatus {
        let usage = self.service.store().usage();
        let ledger = self.service.ledger_usage();
        let addresses = self.addresses.borrow().clone();
        let node = self.service.node();
        let clock = self.service.clock().state();
        let described = self.service.describe(wall_clock());
        let accepting = if self.service.has_books() { self.service.accepting() } else { AcceptingMode::None };
        let control =
            |socket: &std::net::SocketAddr| dolmen_net::directory::bootstrap_address(*socket, node).to_string();
        let disks = self.service.store().folders().into_iter().map(disk_status);
        NodeStatus {
            pid: std::process::id(),
            phase,
            node: node.to_string(),
            software: described.software,
            started_at_ms: self.started.0.as_unix_ms(),
            updated_at_ms: described.now.as_unix_ms(),
            uptime_s: self.started.1.elapsed().as_secs(),
            data_addresses: addresses.data.iter().map(ToString::to_string).collect(),
            control_addresses: addresses.control.iter().map(control).collect(),
            accepting: accepting.as_str().to_owned(),
            leaving: self.leaving_status(),
            quota_bytes: self.service.quota_bytes(),
            used_bytes: usage.total_bytes,
            open_quota_bytes: ledger.open_quota_bytes,
            open_used_bytes: ledger.open_bytes,
            shards: usage.shards,
            leases: usage.leases,
            heads: usage.heads,
            in_flight_bytes: ledger.in_flight_bytes,
            clock_trusted: clock == ClockState::Trusted,
            clock_jump_ms: match clock {
                ClockState::Trusted => 0,
                ClockState::Doubted { jump_ms } => jump_ms,
            },
            known_nodes: u64::try_from(self.directory.listed_nodes().await.len()).unwrap_or(u64::MAX),
            datagram_bytes: self
                .server
                .path_reports()
                .iter()
                .map(|(_, path)| path.datagram_bytes.into())
                .max()
                .unwrap_or(0),
            connections: u64::try_from(self.server.report().connections).unwrap_or(u64::MAX),
            disks: disks.chain(self.absent.iter().cloned()).collect(),
        }
    }
}

/// Bytes to re-read in one step so that everything is read once a round, and no faster than the operator allows.
fn scrub_budget(held_bytes: u64, rate_bytes_per_second: u64) -> u64 {
    let wanted = u128::from(held_bytes) * SCRUB_EVERY.as_millis() / SCRUB_ROUND.as_millis();
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX).max(u64::from(held_bytes > 0));
    wanted.min(rate_bytes_per_second.saturating_mul(SCRUB_EVERY.as_secs()))
}

/// Whether a folder's state is news; the course of a rebuild is not.
fn got_worse(before: &FolderState, now: &FolderState) -> bool {
    let rebuilt = matches!(before, FolderState::Rebuilding { .. })
        && matches!(now, FolderState::Rebuilding { .. } | FolderState::Ready);
    before != now && !rebuilt
}

/// One of the store's folders as the status shows it.
pub(crate) fn disk_status(folder: FolderStatus) -> DiskStatus {
    let rebuilding = match folder.state {
        FolderState::Rebuilding { volumes_read, volumes } => Some(Rebuilding { volumes_read, volumes }),
        _ => None,
    };
    let (state, reason) = match folder.state {
        FolderState::Ready => (DiskState::Ok, String::new()),
        FolderState::Rebuilding { volumes_read, volumes } => {
            (DiskState::Rebuilding, format!("{volumes_read} of {volumes} volumes read; what they hold is served"))
        }
        FolderState::ReadOnly(reason) => (DiskState::ReadOnly, reason),
        FolderState::Unmounted => (DiskState::Unmounted, "it has no marker file: is the disk mounted?".to_owned()),
        FolderState::Foreign(node) => (DiskState::Failed, format!("it belongs to node {node}")),
        FolderState::Failed(reason) => (DiskState::Failed, reason),
    };
    DiskStatus {
        path: PathBuf::from(folder.name),
        state,
        reason,
        rebuilding,
        live_bytes: folder.usage.live_bytes,
        dead_bytes: folder.usage.dead_bytes,
        free_bytes: folder.usage.free_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrubbing_ends_a_round_in_a_month_and_keeps_to_the_rate() {
        let ten_terabytes = 10_000_000_000_000;
        let steps = SCRUB_ROUND.as_secs() / SCRUB_EVERY.as_secs();
        let budget = scrub_budget(ten_terabytes, u64::MAX);
        assert!(budget * (steps + 1) >= ten_terabytes && budget * steps <= ten_terabytes);
        assert_eq!(scrub_budget(ten_terabytes, 1_000_000), 60_000_000);
        assert_eq!(scrub_budget(0, 1_000_000), 0);
        assert_eq!(scrub_budget(100, 1_000_000), 1, "a small node is scrubbed too: a step reads one record at least");
    }
}

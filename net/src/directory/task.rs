//! The one task that owns the libp2p swarm: commands in, events handled, nothing awaited in between.
//!
//! Decides when to ask a peer for its record and when to write the cache file; [`start`], [`own`] and [`events`] decide
//! the rest. Everything it remembers is bounded by our own commands, by connections (limited) or by a constant.

mod events;
mod own;
mod start;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dolmen_proto::ids::NodeId;
use futures::StreamExt;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, Swarm, kad};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use self::own::Publication;
use super::address::{control_address, node_id_of, peer_id_of};
use super::behaviour::{Behaviour, swarm};
use super::records::{self, BelievedRecord, RecordRefusal};
use super::{DirectoryError, DirectoryMode, DirectoryOptions, Shared, cache};

/// How often the housekeeping looks whether anything is due.
const TICK: Duration = Duration::from_secs(1);
/// After a change of the record or a failed attempt.
const PUBLISH_AGAIN: Duration = Duration::from_secs(30);
/// First wait before bootstrap nodes are dialled again while nobody is known, or one of them was not reached; doubles.
const REDIAL_FIRST: Duration = Duration::from_secs(2);
/// Longest such wait, and the wait while others are known: two networks that were cut apart meet again.
const REDIAL_MAX: Duration = Duration::from_secs(5 * 60);
/// The cache file is written at most this often, and at the end.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Longest wait for connections to close at the end.
const CLOSING_DEADLINE: Duration = Duration::from_millis(500);

/// What the handle asks of the task.
#[derive(Debug)]
pub(super) enum Command {
    /// The peers nearest to a key that answered.
    Closest { key: Vec<u8>, reply: oneshot::Sender<Vec<NodeId>> },
    /// Asks a node for its record; answered when the record is in the cache or cannot be had.
    Ask { node: NodeId, reply: oneshot::Sender<()> },
    /// Asks the directory for a node's record; answered with the number of peers whose record of it is believed.
    Kept { node: NodeId, reply: oneshot::Sender<usize> },
    /// Who is in the routing table.
    Listed { reply: oneshot::Sender<Vec<NodeId>> },
    /// Bootstrap addresses whose names were looked up.
    Dial { addresses: Vec<Multiaddr> },
    /// Writes the cache file if anything changed.
    Save,
    /// Ends the task.
    Shutdown,
}

struct KeptQuery {
    node: NodeId,
    answers: usize,
    believed: usize,
    reply: oneshot::Sender<usize>,
}

/// What the task owns.
pub(super) struct Task {
    swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    /// For the task's own helpers; weak, so that the task ends when all handles are gone.
    own_commands: mpsc::WeakSender<Command>,
    publication: Option<Publication>,
    cache_file: Option<PathBuf>,
    save_due: Instant,
    /// The write of the cache file that is under way.
    saving: Option<JoinHandle<()>>,
    bootstrap: Vec<Multiaddr>,
    redial_due: Instant,
    redial_wait: Duration,
    closest: HashMap<kad::QueryId, oneshot::Sender<Vec<NodeId>>>,
    kept: HashMap<kad::QueryId, KeptQuery>,
    /// Requests for records under way, and who waits for them; one request a peer.
    asked: HashMap<PeerId, Vec<oneshot::Sender<()>>>,
    /// Where each connection comes from.
    remotes: HashMap<ConnectionId, IpAddr>,
}

impl Task {
    pub(super) fn new(
        options: DirectoryOptions,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        own_commands: mpsc::WeakSender<Command>,
    ) -> Result<Self, DirectoryError> {
        let server = matches!(options.mode, DirectoryMode::Server { .. });
        let mut swarm = swarm(options.identity.libp2p_keypair()?, server)?;
        let now = Instant::now();
        let mut publication = None;
        if let DirectoryMode::Server { listen, announce, record } = options.mode {
            let failed = |why: String| DirectoryError::Listen { address: listen, why };
            swarm.listen_on(control_address(listen)).map_err(|error| failed(error.to_string()))?;
            for address in announce {
                swarm.add_external_address(address);
            }
            publication = Some(Publication::new(record, now));
        }
        Ok(Self {
            swarm,
            shared,
            commands,
            own_commands,
            publication,
            cache_file: options.cache,
            save_due: now,
            saving: None,
            bootstrap: options.bootstrap,
            redial_due: now,
            redial_wait: REDIAL_FIRST,
            closest: HashMap::new(),
            kept: HashMap::new(),
            asked: HashMap::new(),
            remotes: HashMap::new(),
        })
    }

    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Some(publication) = &mut self.publication {
            publication.record.mark_changed();
        }
        loop {
            let own_record = async {
                match &mut self.publication {
                    Some(publication) if !publication.ended => publication.record.changed().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.commands.recv() => match command {
                    None => break,
                    Some(command) => if self.on_command(command).is_break() { break },
                },
                changed = own_record => self.on_own_record(changed.is_ok()),
                _ = tick.tick() => self.on_tick(),
            }
        }
        self.end().await;
    }

    fn on_command(&mut self, command: Command) -> ControlFlow<()> {
        let behaviour = self.swarm.behaviour_mut();
        match command {
            Command::Closest { key, reply } => {
                let query = behaviour.kad.get_closest_peers(key);
                self.closest.insert(query, reply);
            }
            Command::Kept { node, reply } => {
                let query = behaviour.kad.get_record(records::record_key(node));
                self.kept.insert(query, KeptQuery { node, answers: 0, believed: 0, reply });
            }
            Command::Ask { node, reply } => self.ask(peer_id_of(node), Some(reply)),
            Command::Listed { reply } => {
                let listed = behaviour.kad.kbuckets().flat_map(|bucket| {
                    bucket.iter().filter_map(|entry| node_id_of(entry.node.key.preimage())).collect::<Vec<_>>()
                });
                // Whoever asked may have gone.
                let _told = reply.send(listed.collect());
            }
            Command::Dial { addresses } => {
                for address in addresses {
                    self.dial(address);
                }
            }
            Command::Save => self.save(),
            Command::Shutdown => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        if now >= self.redial_due {
            self.dial_start();
        }
        if now >= self.save_due {
            self.save();
            records::forget_expired(self.swarm.behaviour_mut().kad.store_mut());
        }
        self.drop_abandoned();
        self.publish(now);
    }

    /// Ends lookups that nobody waits for any more.
    fn drop_abandoned(&mut self) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let closest = self.closest.iter().filter(|(_, reply)| reply.is_closed()).map(|(query, _)| *query);
        let kept = self.kept.iter().filter(|(_, kept)| kept.reply.is_closed()).map(|(query, _)| *query);
        for query in closest.chain(kept) {
            if let Some(mut query) = kad.query_mut(&query) {
                query.finish();
            }
        }
        // Their last events find nobody waiting.
        self.closest.retain(|_, reply| !reply.is_closed());
        self.kept.retain(|_, kept| !kept.reply.is_closed());
    }

    /// Asks the peer for its record, unless it has been asked already.
    fn ask(&mut self, peer: PeerId, waiting: Option<oneshot::Sender<()>>) {
        match self.asked.entry(peer) {
            Entry::Occupied(mut asked) => asked.get_mut().extend(waiting),
            Entry::Vacant(vacant) => {
                vacant.insert(waiting.into_iter().collect());
                let node = node_id_of(&peer);
                let known =
                    node.and_then(|node| self.shared.cache().known(node).map(BelievedRecord::control_addresses));
                let records = &mut self.swarm.behaviour_mut().records;
                records.send_request_with_addresses(&peer, (), known.unwrap_or_default());
            }
        }
    }

    /// Lets those go on who wait for the peer's record: it is in the cache now, or it cannot be had.
    fn release(&mut self, peer: &PeerId) {
        for waiting in self.asked.remove(peer).unwrap_or_default() {
            let _gone = waiting.send(());
        }
    }

    fn on_record(&mut self, peer: PeerId, bytes: Bytes) {
        let refusal = match node_id_of(&peer) {
            None => Some(RecordRefusal::Stranger),
            Some(node) => self.take_in(bytes, node, true).err(),
        };
        if let Some(refusal) = refusal {
            tracing::info!(%peer, %refusal, "a peer answered with a record that is not believed");
        }
        self.release(&peer);
    }

    fn take_in(&self, bytes: Bytes, node: NodeId, from_itself: bool) -> Result<(), RecordRefusal> {
        let now = records::now();
        let believed = BelievedRecord::read_current(bytes, node, now)?;
        let mut cache = self.shared.cache();
        let taken = if from_itself { cache.answered(believed, now) } else { cache.heard(believed, now) };
        drop(cache);
        if !taken {
            return Err(RecordRefusal::Older);
        }
        self.shared.learned.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// Writes the cache file in the background if anything changed, one write at a time.
    fn save(&mut self) {
        self.save_due = Instant::now() + SAVE_INTERVAL;
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        if let Some((path, bytes)) = self.to_save() {
            let shared = Arc::clone(&self.shared);
            self.saving = Some(tokio::task::spawn_blocking(move || save_to(&shared, &path, &bytes)));
        }
    }

    fn to_save(&self) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.cache_file.clone()?;
        let bytes = self.shared.cache().take_changes()?;
        Some((path, bytes))
    }

    /// Closes connections so that peers need not find out by waiting, then writes the cache file.
    async fn end(mut self) {
        let connected: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            let _not_connected = self.swarm.disconnect_peer_id(peer);
        }
        let deadline = tokio::time::Instant::now() + CLOSING_DEADLINE;
        while self.swarm.connected_peers().next().is_some() {
            tokio::select! {
                _ = self.swarm.select_next_some() => {}
                () = sleep_until(deadline) => break,
            }
        }
        self.finish_saving().await;
        self.save();
        self.finish_saving().await;
    }

    async fn finish_saving(&mut self) {
        if let Some(saving) = self.saving.take() {
            // A panic there is the same as a file that was not written.
            let _saved = saving.await;
        }
    }
}

fn save_to(shared: &Shared, path: &Path, bytes: &[u8]) {
    if let Err(error) = cache::save(path, bytes) {
        tracing::warn!(path = %path.display(), %error, "the node cache cannot be written");
        shared.cache().not_saved();
    }
}

//! The one task that owns the libp2p swarm: commands in, events handled, nothing awaited in between.
//!
//! Decides when to dial bootstrap nodes, to publish, to ask a peer for its record and to write the cache file.
//! Everything it remembers is bounded by our own commands, by connections (limited) or by a constant.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dolmen_proto::ids::NodeId;
use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::request_response::{self, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, kad};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::address::{control_address, dialable, named_peer, node_id_of, peer_id_of, socket_address_of};
use super::behaviour::{Behaviour, BehaviourEvent, KAD_PROTOCOL, PROTOCOL_VERSION, swarm};
use super::records::{self, BelievedRecord, RecordRefusal};
use super::sampling::FRESH;
use super::{DirectoryError, DirectoryMode, DirectoryOptions, Shared, buckets, cache};

/// How often the housekeeping looks whether anything is due.
const TICK: Duration = Duration::from_secs(1);
/// A node's record is put into the directory this often, well within its life of an hour.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(20 * 60);
/// After a change of the record or a failed attempt.
const PUBLISH_AGAIN: Duration = Duration::from_secs(30);
/// After the first peer is found: lets the routing table fill first.
const PUBLISH_FIRST: Duration = Duration::from_secs(2);
/// First wait before bootstrap nodes are dialled again while nobody is known; doubles.
const REDIAL_FIRST: Duration = Duration::from_secs(2);
/// Longest such wait, and the wait while others are known: two networks that were cut apart meet again.
const REDIAL_MAX: Duration = Duration::from_secs(5 * 60);
/// The cache file is written at most this often, and at the end.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Remembered nodes dialled at the start, and again while nobody is known.
const CONTACTS_DIALLED: usize = 16;
/// Dials in vain after which a peer leaves the routing table.
const FAILURES_MAX: u32 = 2;
/// Records that peers of the directory return for one node before the lookup is cut short.
const KEPT_ANSWERS_MAX: usize = 8;
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

/// What a server publishes.
struct Publication {
    record: watch::Receiver<Bytes>,
    /// The present record, once checked.
    own: Option<BelievedRecord>,
    /// Nobody sends records any more.
    ended: bool,
    due: Instant,
}

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
            publication = Some(Publication { record, own: None, ended: false, due: now });
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
                    None | Some(Command::Shutdown) => break,
                    Some(command) => self.on_command(command),
                },
                changed = own_record => self.on_own_record(changed.is_ok()),
                _ = tick.tick() => self.on_tick(),
            }
        }
        self.end().await;
    }

    fn on_command(&mut self, command: Command) {
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
            Command::Shutdown => unreachable!("the loop ends with this command"),
        }
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

    // ---- finding a start ----

    /// Dials bootstrap nodes, and remembered ones while nobody is known.
    fn dial_start(&mut self) {
        let alone = *self.shared.listed.borrow() == 0;
        self.redial_wait = if alone { (self.redial_wait * 2).min(REDIAL_MAX) } else { REDIAL_MAX };
        self.redial_due = Instant::now() + self.redial_wait;
        if alone {
            let contacts: Vec<_> = {
                let cache = self.shared.cache();
                let known = cache.contacts();
                known.into_iter().take(CONTACTS_DIALLED).map(|known| (known.node, known.control_addresses())).collect()
            };
            for (node, addresses) in contacts {
                self.dial_peer(peer_id_of(node), addresses);
            }
        }
        let (ready, named): (Vec<_>, Vec<_>) =
            self.bootstrap.iter().cloned().partition(|address| socket_address_of(address).is_some());
        for address in ready {
            self.dial(address);
        }
        if !named.is_empty() {
            let commands = self.own_commands.clone();
            tokio::spawn(async move {
                for address in named {
                    let addresses = dialable(&address).await;
                    if addresses.is_empty() {
                        tracing::warn!(%address, "the bootstrap address cannot be dialled");
                    }
                    let Some(commands) = commands.upgrade() else { return };
                    let _ended = commands.send(Command::Dial { addresses }).await;
                }
            });
        }
    }

    fn dial(&mut self, address: Multiaddr) {
        match named_peer(&address) {
            Some(peer) => self.dial_peer(peer, vec![address]),
            None => {
                if let Err(error) = self.swarm.dial(DialOpts::unknown_peer_id().address(address.clone()).build()) {
                    tracing::debug!(%address, %error, "cannot dial");
                }
            }
        }
    }

    fn dial_peer(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer == *self.swarm.local_peer_id() || addresses.is_empty() {
            return;
        }
        self.swarm.behaviour_mut().backoff.forgive(&peer);
        let options =
            DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::DisconnectedAndNotDialing).build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => tracing::debug!(%peer, %error, "cannot dial"),
        }
    }

    // ---- our own record ----

    fn on_own_record(&mut self, sender_lives: bool) {
        let Some(publication) = &mut self.publication else { return };
        if !sender_lives {
            // The node is going down; what it said last stays true until it expires.
            publication.ended = true;
            return;
        }
        let bytes = publication.record.borrow_and_update().clone();
        if bytes.is_empty() {
            publication.own = None;
            return;
        }
        match BelievedRecord::read_current(bytes, self.shared.own, records::now()) {
            Ok(own) => {
                publication.due = publication.due.min(Instant::now() + PUBLISH_AGAIN);
                publication.own = Some(own);
            }
            Err(error) => tracing::error!(%error, "our own node record is not valid and is not published"),
        }
    }

    fn publish(&mut self, now: Instant) {
        let Some(publication) = &mut self.publication else { return };
        if now < publication.due || *self.shared.listed.borrow() == 0 {
            return;
        }
        let Some(record) = publication.own.as_ref().and_then(|own| records::to_put(own, records::now())) else {
            return;
        };
        publication.due = now + PUBLISH_INTERVAL;
        if let Err(error) = self.swarm.behaviour_mut().kad.put_record(record, kad::Quorum::One) {
            tracing::warn!(%error, "cannot publish the node record");
        }
    }

    fn answer(&mut self, channel: ResponseChannel<Bytes>) {
        let own = self.publication.as_ref().and_then(|publication| publication.own.as_ref());
        // Dropping the channel ends the stream without an answer: there is nothing true to say.
        if let Some(own) = own.filter(|own| own.is_current(records::now())) {
            let _peer_gone = self.swarm.behaviour_mut().records.send_response(channel, own.bytes.clone());
        }
    }

    // ---- others' records ----

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

    // ---- events ----

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "the control plane listens");
                self.shared.listening.send_modify(|listening| listening.push(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.shared.listening.send_modify(|listening| listening.retain(|known| *known != address));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "the control plane's socket"),
            SwarmEvent::ListenerClosed { reason, .. } => tracing::error!(?reason, "the control plane's socket closed"),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.remotes.remove(&connection_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => self.on_unreachable(peer, &error),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            })) => self.on_identified(connection_id, peer_id, &info),
            SwarmEvent::Behaviour(BehaviourEvent::Records(event)) => self.on_record_event(event),
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        if let Some(remote) = socket_address_of(endpoint.get_remote_address()) {
            self.remotes.insert(connection, remote.ip());
        }
        // A peer that was worth dialling is worth knowing, and asking now saves a round trip after the lookup.
        let fresh = node_id_of(&peer).is_some_and(|node| self.shared.cache().is_fresh(node, FRESH, records::now()));
        if endpoint.is_dialer() && !fresh {
            self.ask(peer, None);
        }
    }

    fn on_unreachable(&mut self, peer: PeerId, error: &DialError) {
        if let DialError::WrongPeerId { obtained, .. } = error {
            tracing::warn!(expected = %peer, found = %obtained, "another node answers at this address");
        }
        // While nobody at all is reached the fault may well be ours: the table stays as it is.
        let connected = self.swarm.connected_peers().next().is_some();
        let behaviour = self.swarm.behaviour_mut();
        if connected && behaviour.backoff.failures(&peer) >= FAILURES_MAX && behaviour.kad.remove_peer(&peer).is_some()
        {
            tracing::debug!(%peer, %error, "unreachable, no longer listed");
            self.count_listed();
        }
    }

    fn on_identified(&mut self, connection: ConnectionId, peer: PeerId, info: &identify::Info) {
        if info.protocol_version != PROTOCOL_VERSION {
            tracing::debug!(%peer, version = %info.protocol_version, "a peer of another network");
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
            self.count_listed();
            let _not_connected = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        if !info.protocols.contains(&KAD_PROTOCOL) {
            // A client, or a server that has become one.
            if kad.remove_peer(&peer).is_some() {
                self.count_listed();
            }
            return;
        }
        if let Some(seen) = self.remotes.get(&connection) {
            let addresses = buckets::seen_addresses(&peer, &info.listen_addrs, *seen);
            buckets::insert(kad, peer, &addresses);
        }
    }

    fn on_record_event(&mut self, event: request_response::Event<(), Bytes>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { channel, .. } => self.answer(channel),
                request_response::Message::Response { response, .. } => self.on_record(peer, response),
            },
            request_response::Event::OutboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "no record from this peer");
                self.release(&peer);
            }
            request_response::Event::InboundFailure { .. } | request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        let own = *self.swarm.local_peer_id();
        let kad = &mut self.swarm.behaviour_mut().kad;
        match event {
            kad::Event::RoutablePeer { peer, address } => {
                buckets::insert(kad, peer, std::slice::from_ref(&address));
            }
            kad::Event::RoutingUpdated { peer, addresses, .. } => {
                let addresses: Vec<_> = addresses.iter().cloned().collect();
                if buckets::enforce(kad, &peer, &addresses) {
                    tracing::debug!(%peer, "its subnet has its share of the routing table");
                }
                self.count_listed();
            }
            kad::Event::InboundRequest {
                request: kad::InboundRequest::PutRecord { source, record: Some(record), .. },
            } => {
                if let Err(refusal) = records::keep(kad.store_mut(), &own, &source, &record, records::now()) {
                    tracing::debug!(peer = %source, %refusal, "a record is not kept");
                }
            }
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => self.on_query(id, result, step.last),
            _ => {}
        }
    }

    fn on_query(&mut self, query: kad::QueryId, result: kad::QueryResult, last: bool) {
        match result {
            kad::QueryResult::GetClosestPeers(result) => {
                let peers = match result {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                if let Some(reply) = self.closest.remove(&query) {
                    let _gone = reply.send(peers.iter().filter_map(|peer| node_id_of(&peer.peer_id)).collect());
                }
            }
            kad::QueryResult::GetRecord(result) => self.on_kept(query, result, last),
            kad::QueryResult::PutRecord(Err(error)) => {
                tracing::debug!(?error, "nobody has taken the node record yet");
                if let Some(publication) = &mut self.publication {
                    publication.due = publication.due.min(Instant::now() + PUBLISH_AGAIN);
                }
            }
            _ => {}
        }
    }

    fn on_kept(&mut self, query: kad::QueryId, result: kad::GetRecordResult, last: bool) {
        let Some(node) = self.kept.get(&query).map(|kept| kept.node) else { return };
        let mut answered = (0, 0);
        if let Ok(kad::GetRecordOk::FoundRecord(found)) = result {
            let named = found.record.key == records::record_key(node);
            let bytes = Bytes::from(found.record.value);
            let taken = if named { self.take_in(bytes, node, false) } else { Err(RecordRefusal::Stranger) };
            if let Err(refusal) = &taken {
                tracing::debug!(node = %node.short(), %refusal, "a kept record is not believed");
            }
            answered = (1, usize::from(taken.is_ok()));
        }
        let Entry::Occupied(mut kept) = self.kept.entry(query) else { return };
        kept.get_mut().answers += answered.0;
        kept.get_mut().believed += answered.1;
        if last || kept.get().answers >= KEPT_ANSWERS_MAX {
            let kept = kept.remove();
            let _gone = kept.reply.send(kept.believed);
            if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&query) {
                query.finish();
            }
        }
    }

    fn count_listed(&mut self) {
        let listed = buckets::size(&mut self.swarm.behaviour_mut().kad);
        let before = self.shared.listed.send_replace(listed);
        if before == 0 && listed > 0 {
            self.redial_due = Instant::now() + REDIAL_MAX;
            if let Some(publication) = &mut self.publication {
                publication.due = Instant::now() + PUBLISH_FIRST;
            }
        } else if before > 0 && listed == 0 {
            self.redial_wait = REDIAL_FIRST;
            self.redial_due = Instant::now() + REDIAL_FIRST;
        }
    }

    // ---- the cache file and the end ----

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

fn save_to(shared: &Shared, path: &std::path::Path, bytes: &[u8]) {
    if let Err(error) = cache::save(path, bytes) {
        tracing::warn!(path = %path.display(), %error, "the node cache cannot be written");
        shared.cache().not_saved();
    }
}

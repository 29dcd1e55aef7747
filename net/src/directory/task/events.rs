//! What happens on the swarm, and what the task makes of it.
//!
//! Decides who is listed, who is put out, and which answers are passed on. Never waits: every event is dealt with at
//! once.

use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{PeerId, identify, kad, request_response};

use super::super::address::{node_id_of, socket_address_of};
use super::super::behaviour::{BehaviourEvent, KAD_PROTOCOL, PROTOCOL_VERSION};
use super::super::buckets;
use super::super::records::{self, RecordRefusal};
use super::super::sampling::FRESH;
use super::{PUBLISH_AGAIN, REDIAL_FIRST, Task};

/// Dials in vain after which a peer leaves the routing table.
const FAILURES_MAX: u32 = 2;
/// Records that peers of the directory return for one node before the lookup is cut short.
const KEPT_ANSWERS_MAX: usize = 8;
/// After the first peer is found: lets the routing table fill first.
const PUBLISH_FIRST: Duration = Duration::from_secs(2);

impl Task {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
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
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, established_in, .. } => {
                if endpoint.is_dialer() {
                    self.shared.note_handshake(established_in);
                }
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

    pub(super) fn count_listed(&mut self) {
        let listed = buckets::size(&mut self.swarm.behaviour_mut().kad);
        let before = self.shared.listed.send_replace(listed);
        if before == 0 && listed > 0 {
            if let Some(publication) = &mut self.publication {
                publication.due = Instant::now() + PUBLISH_FIRST;
            }
        } else if before > 0 && listed == 0 {
            self.redial_wait = REDIAL_FIRST;
            self.redial_due = Instant::now() + REDIAL_FIRST;
        }
    }
}

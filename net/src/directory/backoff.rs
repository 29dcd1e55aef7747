//! Whom not to dial again just now.
//!
//! Decides for how long a peer that could not be reached is left alone, so that a dead node costs a lookup one
//! handshake's time and not every lookup. Never closes a connection and never refuses one that comes in.

use std::collections::HashMap;
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// Most peers that are remembered as unreachable; more than that and those forgiven soonest are forgotten.
const REMEMBERED_MAX: usize = 1024;
/// How long a peer is left alone after the first failure; doubled with each further one.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
struct Failure {
    count: u32,
    until: Instant,
}

/// The peer was dialled in vain a moment ago.
#[derive(Debug, thiserror::Error)]
#[error("the peer was unreachable a moment ago")]
pub(super) struct LeftAlone;

/// Refuses to dial peers that were unreachable a moment ago.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    failures: HashMap<PeerId, Failure>,
}

impl Behaviour {
    /// How often in a row the peer could not be reached.
    pub(super) fn failures(&self, peer: &PeerId) -> u32 {
        self.failures.get(peer).map_or(0, |failure| failure.count)
    }

    /// Forgets the failures of a peer, so that the next dial goes out.
    pub(super) fn forgive(&mut self, peer: &PeerId) {
        self.failures.remove(peer);
    }

    fn failed(&mut self, peer: PeerId, now: Instant) {
        if self.failures.len() >= REMEMBERED_MAX && !self.failures.contains_key(&peer) {
            let soonest = self.failures.iter().min_by_key(|(_, failure)| failure.until).map(|(peer, _)| *peer);
            if let Some(soonest) = soonest {
                self.failures.remove(&soonest);
            }
        }
        let failure = self.failures.entry(peer).or_insert(Failure { count: 0, until: now });
        failure.count = failure.count.saturating_add(1);
        let doublings = failure.count.saturating_sub(1).min(8);
        failure.until = now + PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
    }

    fn is_left_alone(&self, peer: &PeerId, now: Instant) -> bool {
        self.failures.get(peer).is_some_and(|failure| now < failure.until)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if peer.is_some_and(|peer| self.is_left_alone(&peer, Instant::now())) {
            return Err(ConnectionDenied::new(LeftAlone));
        }
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => self.forgive(&established.peer_id),
            FromSwarm::DialFailure(failure) => {
                let out_of_reach = matches!(failure.error, DialError::Transport(_) | DialError::WrongPeerId { .. });
                if let (Some(peer), true) = (failure.peer_id, out_of_reach) {
                    self.failed(peer, Instant::now());
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_a_connection() {
        let (mut backoff, peer, start) = (Behaviour::default(), PeerId::random(), Instant::now());
        backoff.failed(peer, start);
        assert!(backoff.is_left_alone(&peer, start + PAUSE_FIRST / 2));
        assert!(!backoff.is_left_alone(&peer, start + PAUSE_FIRST));
        backoff.failed(peer, start);
        assert!(backoff.is_left_alone(&peer, start + PAUSE_FIRST));
        for _ in 0..40 {
            backoff.failed(peer, start);
        }
        assert!(!backoff.is_left_alone(&peer, start + PAUSE_MAX));
        assert_eq!(backoff.failures(&peer), 42);
        backoff.forgive(&peer);
        assert!(!backoff.is_left_alone(&peer, start));
    }

    #[test]
    fn memory_of_failures_is_bounded() {
        let (mut backoff, start) = (Behaviour::default(), Instant::now());
        for _ in 0..REMEMBERED_MAX + 10 {
            backoff.failed(PeerId::random(), start);
        }
        assert_eq!(backoff.failures.len(), REMEMBERED_MAX);
    }
}

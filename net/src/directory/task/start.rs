//! Finding a start: bootstrap nodes and remembered ones.
//!
//! Decides whom to dial before anybody is known, and when to try again: soon and ever later while nobody, or not every bootstrap node,
//! was reached. Never lists anybody: who answers and speaks
//! our Kademlia is listed by [`super::events`].

use std::time::Instant;

use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use super::super::address::{dialable, named_peer, peer_id_of, socket_address_of};
use super::{Command, REDIAL_MAX, Task};

/// Remembered nodes dialled at the start, and again while nobody is known.
const CONTACTS_DIALLED: usize = 16;

impl Task {
    /// Dials bootstrap nodes, and remembered ones while nobody is known.
    pub(super) fn dial_start(&mut self) {
        let alone = *self.shared.listed.borrow() == 0;
        // Nodes that start together may find each other before the bootstrap nodes run, and would be a network of their own.
        let unsettled = alone || self.lacks_bootstrap_nodes();
        self.redial_wait = if unsettled { (self.redial_wait * 2).min(REDIAL_MAX) } else { REDIAL_MAX };
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

    /// Whether a bootstrap node whose identity is known is neither listed nor connected.
    fn lacks_bootstrap_nodes(&mut self) -> bool {
        let own = *self.swarm.local_peer_id();
        let named: Vec<PeerId> = self.bootstrap.iter().filter_map(named_peer).filter(|peer| *peer != own).collect();
        named.into_iter().any(|peer| {
            let listed = self
                .swarm
                .behaviour_mut()
                .kad
                .kbucket(peer)
                .is_some_and(|bucket| bucket.iter().any(|entry| entry.node.key.preimage() == &peer));
            !listed && !self.swarm.is_connected(&peer)
        })
    }

    pub(super) fn dial(&mut self, address: Multiaddr) {
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
}

//! Who gets into the routing table, and under which addresses.
//!
//! Decides that a peer is listed only under addresses that it was seen at, and that one subnet holds at most two
//! places of a bucket, so that whoever rents one /24 cannot fill the table. Never decides what is asked of peers.

use std::net::IpAddr;

use libp2p::kad::store::MemoryStore;
use libp2p::{Multiaddr, PeerId, kad};

use super::address::{Subnet, named_peer, socket_address_of, subnet};

/// Most peers of one /24 (IPv4) or /48 (IPv6) in one bucket; local addresses are not counted.
pub(super) const SUBNET_PEERS_PER_BUCKET_MAX: usize = 2;
/// Most addresses under which one peer is listed by its own word.
const ADDRESSES_PER_PEER_MAX: usize = 4;

type Kad = kad::Behaviour<MemoryStore>;

/// Those of a peer's claimed addresses that can be dialled and lie at the IP address which its connection comes
/// from; a claim of anybody else's address is worth nothing and would dodge the limit on subnets.
pub(super) fn seen_addresses(peer: &PeerId, claimed: &[Multiaddr], seen: IpAddr) -> Vec<Multiaddr> {
    let seen = seen.to_canonical();
    let mut addresses = Vec::new();
    for address in claimed {
        let at_home = socket_address_of(address).is_some_and(|socket| socket.ip().to_canonical() == seen);
        let of_peer = named_peer(address).is_none_or(|named| named == *peer);
        if at_home && of_peer && !addresses.contains(address) && addresses.len() < ADDRESSES_PER_PEER_MAX {
            addresses.push(address.clone());
        }
    }
    addresses
}

/// Lists the peer under those of the addresses whose subnets have room in its bucket; whether any had.
pub(super) fn insert(kad: &mut Kad, peer: PeerId, addresses: &[Multiaddr]) -> bool {
    let mut inserted = false;
    for address in addresses {
        if socket_address_of(address).is_some() && has_room(kad, &peer, address) {
            inserted |= !matches!(kad.add_address(&peer, address.clone()), kad::RoutingUpdate::Failed);
        }
    }
    inserted
}

/// Takes the peer out again where its subnets are over the limit: entries that wait for a place, and addresses that
/// kad learns by dialling, get past [`insert`]. Whether it was taken out.
pub(super) fn enforce(kad: &mut Kad, peer: &PeerId, addresses: &[Multiaddr]) -> bool {
    let crowded = addresses.iter().any(|address| !has_room(kad, peer, address));
    crowded && kad.remove_peer(peer).is_some()
}

/// How many peers the table lists.
pub(super) fn size(kad: &mut Kad) -> usize {
    kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
}

fn has_room(kad: &mut Kad, peer: &PeerId, address: &Multiaddr) -> bool {
    let Some(wanted) = subnet_of(address) else { return true };
    let Some(bucket) = kad.kbucket(*peer) else { return false };
    let neighbours = bucket
        .iter()
        .filter(|entry| entry.node.key.preimage() != peer)
        .filter(|entry| entry.node.value.iter().any(|address| subnet_of(address) == Some(wanted)))
        .count();
    neighbours < SUBNET_PEERS_PER_BUCKET_MAX
}

fn subnet_of(address: &Multiaddr) -> Option<Subnet> {
    subnet(socket_address_of(address)?.ip())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::SocketAddr;

    use super::super::address::control_address;
    use super::*;

    fn address(text: &str) -> Multiaddr {
        control_address(text.parse::<SocketAddr>().unwrap())
    }

    fn table() -> Kad {
        let own = PeerId::random();
        let mut config = kad::Config::new(super::super::behaviour::KAD_PROTOCOL);
        config.set_kbucket_inserts(kad::BucketInserts::Manual);
        Kad::with_config(own, MemoryStore::new(own), config)
    }

    fn fullest_subnet(kad: &mut Kad) -> usize {
        let of_bucket = |bucket: kad::KBucketRef<'_, _, kad::Addresses>| {
            let subnets: Vec<_> = bucket.iter().filter_map(|entry| subnet_of(entry.node.value.first())).collect();
            subnets.iter().map(|one| subnets.iter().filter(|other| one == *other).count()).max().unwrap_or(0)
        };
        kad.kbuckets().map(of_bucket).max().unwrap_or(0)
    }

    #[test]
    fn a_subnet_gets_two_places_of_a_bucket() {
        for (base, separator) in [("203.0.113.", ""), ("[2001:db8:7::", "]")] {
            let mut kad = table();
            for host in 1..100 {
                insert(&mut kad, PeerId::random(), &[address(&format!("{base}{host}{separator}:4712"))]);
            }
            assert_eq!(fullest_subnet(&mut kad), SUBNET_PEERS_PER_BUCKET_MAX, "{base}");
            let before = size(&mut kad);
            for subnet in 0..20 {
                insert(&mut kad, PeerId::random(), &[address(&format!("198.51.{subnet}.1:4712"))]);
            }
            assert!(size(&mut kad) > before, "other subnets still get in");
        }
    }

    #[test]
    fn local_addresses_are_not_counted() {
        let mut kad = table();
        for port in 1..=20 {
            insert(&mut kad, PeerId::random(), &[address(&format!("127.0.0.1:{port}"))]);
        }
        assert_eq!(size(&mut kad), 20);
    }

    #[test]
    fn what_gets_past_the_limit_is_taken_out_again() {
        let mut kad = table();
        let crowd: Vec<_> = (1..100)
            .map(|host| {
                let (peer, address) = (PeerId::random(), address(&format!("203.0.113.{host}:4712")));
                kad.add_address(&peer, address.clone());
                (peer, address)
            })
            .collect();
        assert!(fullest_subnet(&mut kad) > SUBNET_PEERS_PER_BUCKET_MAX);
        for (peer, address) in &crowd {
            enforce(&mut kad, peer, std::slice::from_ref(address));
        }
        assert_eq!(fullest_subnet(&mut kad), SUBNET_PEERS_PER_BUCKET_MAX);
    }

    #[test]
    fn a_peer_is_listed_only_where_it_was_seen() {
        let peer = PeerId::random();
        let claimed = [
            address("198.51.100.1:4712"),
            address("203.0.113.7:4712"),
            "/ip4/203.0.113.7/tcp/4712".parse().unwrap(),
            address("203.0.113.7:4712").with(libp2p::multiaddr::Protocol::P2p(PeerId::random())),
            address("203.0.113.7:4712"),
        ];
        let seen = seen_addresses(&peer, &claimed, "203.0.113.7".parse().unwrap());
        assert_eq!(seen, [address("203.0.113.7:4712")]);
        let many: Vec<_> = (1..100).map(|port| address(&format!("203.0.113.7:{port}"))).collect();
        assert_eq!(seen_addresses(&peer, &many, "203.0.113.7".parse().unwrap()).len(), ADDRESSES_PER_PEER_MAX);
    }
}

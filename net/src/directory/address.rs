//! Addresses of the control plane: node ids as peer ids, socket addresses as multiaddresses, and subnets.
//!
//! Decides which multiaddresses the directory can dial at all (an IP address, UDP, QUIC version 1) and which
//! addresses count as one subnet. Never decides whom to dial: see [`super::buckets`] and [`super::task`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dolmen_proto::ids::NodeId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// What comes before the 32 key bytes in the peer id of every Ed25519 key: an identity multihash of 36 bytes that
/// holds the protobuf {type: Ed25519, data: 32 bytes}. Source: libp2p specifications, "Peer Ids and Keys".
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
/// Longest wait for a name server when a bootstrap address names a host.
const NAME_DEADLINE: Duration = Duration::from_secs(5);

/// The libp2p peer id of a node: another writing of the same 32 key bytes.
#[must_use]
pub fn peer_id_of(node: NodeId) -> PeerId {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
    bytes[6..].copy_from_slice(node.as_bytes());
    PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes is a peer id")
}

/// The node behind a libp2p peer id; `None` where its key is not an Ed25519 key.
#[must_use]
pub fn node_id_of(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
    NodeId::try_from(key).ok()
}

/// The address under which others start from a node: `/ip4/203.0.113.7/udp/4712/quic-v1/p2p/<peer id>`.
#[must_use]
pub fn bootstrap_address(control: SocketAddr, node: NodeId) -> Multiaddr {
    control_address(control).with(Protocol::P2p(peer_id_of(node)))
}

/// The multiaddress of a control socket, without the peer id.
#[must_use]
pub fn control_address(control: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(control.ip().into()).with(Protocol::Udp(control.port())).with(Protocol::QuicV1)
}

/// The socket of a control address; `None` for every other transport and for names.
#[must_use]
pub fn socket_address_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else { return None };
    let Protocol::QuicV1 = parts.next()? else { return None };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Who is meant by an address that ends in `/p2p/<peer id>`.
pub(super) fn named_peer(address: &Multiaddr) -> Option<PeerId> {
    address.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None })
}

/// The address with names (`/dns`, `/dns4`, `/dns6`) replaced by what the system's resolver says, in at most 5 s;
/// empty where it says nothing or the address is not one of the control plane.
pub(super) async fn dialable(address: &Multiaddr) -> Vec<Multiaddr> {
    if socket_address_of(address).is_some() {
        return vec![address.clone()];
    }
    let mut parts = address.iter();
    let (Some(Protocol::Dns(host) | Protocol::Dns4(host) | Protocol::Dns6(host)), Some(Protocol::Udp(port))) =
        (parts.next(), parts.next())
    else {
        return Vec::new();
    };
    let Ok(Ok(found)) = tokio::time::timeout(NAME_DEADLINE, tokio::net::lookup_host((host.as_ref(), port))).await
    else {
        return Vec::new();
    };
    let peer = named_peer(address);
    found
        .take(4)
        .map(|socket| {
            let dialled = control_address(socket);
            peer.map_or(dialled.clone(), |peer| dialled.with(Protocol::P2p(peer)))
        })
        .collect()
}

/// A neighbourhood of the Internet that one party can easily hold all of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Subnet {
    /// A /24.
    V4([u8; 3]),
    /// A /48.
    V6([u8; 6]),
}

/// The subnet of an address; `None` for loopback, private and link-local ones, where all nodes of a local network
/// share one and nobody gains by it.
pub(super) fn subnet(ip: IpAddr) -> Option<Subnet> {
    match ip.to_canonical() {
        IpAddr::V4(ip) if is_local_v4(ip) => None,
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Some(Subnet::V4([a, b, c]))
        }
        IpAddr::V6(ip) if is_local_v6(ip) => None,
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, ..] = ip.octets();
            Some(Subnet::V6([a, b, c, d, e, f]))
        }
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.is_private() || ip.is_link_local()
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn node_ids_and_peer_ids_are_two_writings_of_one_key() {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([9; 32]).unwrap();
        let public = key.public().try_into_ed25519().unwrap().to_bytes();
        assert_eq!(peer_id_of(NodeId::new(public)), key.public().to_peer_id());
        assert_eq!(node_id_of(&key.public().to_peer_id()), Some(NodeId::new(public)));
        assert_eq!(node_id_of(&PeerId::random()), None, "the hash of a key names no node");
    }

    #[test]
    fn only_quic_over_an_ip_address_is_a_control_address() {
        let socket: SocketAddr = "127.0.0.1:4712".parse().unwrap();
        let node = NodeId::new([7; 32]);
        let address = bootstrap_address(socket, node);
        assert!(address.to_string().starts_with("/ip4/127.0.0.1/udp/4712/quic-v1/p2p/12D3KooW"), "{address}");
        assert_eq!(socket_address_of(&address), Some(socket));
        assert_eq!(named_peer(&address), Some(peer_id_of(node)));
        assert_eq!(socket_address_of(&control_address(socket)), Some(socket));
        for other in ["/ip4/127.0.0.1/tcp/4712", "/ip4/127.0.0.1/udp/1/quic", "/dns4/example.org/udp/1/quic-v1", ""] {
            assert_eq!(socket_address_of(&other.parse().unwrap()), None, "{other}");
        }
        let relayed = format!("{address}/p2p-circuit").parse().unwrap();
        assert_eq!(socket_address_of(&relayed), None, "addresses through others are not dialled");
    }

    #[test]
    fn subnets_are_24_bits_of_v4_and_48_of_v6_and_none_at_home() {
        let of = |text: &str| subnet(text.parse().unwrap());
        assert_eq!(of("203.0.113.7"), of("203.0.113.250"));
        assert_ne!(of("203.0.113.7"), of("203.0.114.7"));
        assert_eq!(of("203.0.113.7"), of("::ffff:203.0.113.9"), "a mapped address is the address that it maps");
        assert_eq!(of("2001:db8:1::1"), of("2001:db8:1:ffff::1"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
        for local in ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.1.1", "::1", "fe80::1", "fd00::1"] {
            assert_eq!(of(local), None, "{local}");
        }
    }
}

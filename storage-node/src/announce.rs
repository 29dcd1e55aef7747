//! What a node tells the directory of itself: its addresses and its signed record.
//!
//! Decides which addresses are announced and what the record says. Never decides who believes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use dolmen_net::Identity;
use dolmen_net::directory::bootstrap_address;
use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::{NODE_ADDRESSES_MAX, NODE_RECORD_LIFE_MAX};
use dolmen_proto::wire::{self, NodeRecord, OperatorClaim, Signed};

use crate::config::{Announce, NodeConfig};
use crate::disk::Disk;
use crate::service::Service;

/// The addresses of both planes under which others reach this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Of the data plane, best first.
    pub(crate) data: Vec<SocketAddr>,
    /// Of the directory, best first.
    pub(crate) control: Vec<SocketAddr>,
}

/// Finds the addresses to announce for sockets bound to `data` and `control`. Asks the resolver where the operator
/// gave a name, so the answer may change from time to time.
pub(crate) async fn addresses(announce: Option<&Announce>, data: SocketAddr, control: SocketAddr) -> Addresses {
    let Some(announce) = announce else {
        let on = |socket: SocketAddr| vec![SocketAddr::new(reachable_ip(socket.ip()), socket.port())];
        return Addresses { data: on(data), control: on(control) };
    };
    let (data_port, next_port) = match announce.port {
        Some(port) => (port, port.saturating_add(1)),
        None => (data.port(), control.port()),
    };
    let control_port = announce.control_port.unwrap_or(next_port);
    let found: Vec<IpAddr> = match tokio::net::lookup_host((announce.host.as_str(), data_port)).await {
        Ok(found) => found.map(|address| address.ip()).take(NODE_ADDRESSES_MAX).collect(),
        Err(error) => {
            tracing::warn!(host = announce.host, %error, "the announced name does not resolve; nobody will find this node");
            Vec::new()
        }
    };
    let with_port = |port| found.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    Addresses { data: with_port(data_port), control: with_port(control_port) }
}

/// The address itself, or, for a socket that listens on all of them, the one from which packets leave this machine.
fn reachable_ip(listening: IpAddr) -> IpAddr {
    if !listening.is_unspecified() {
        return listening;
    }
    // Addresses for documentation: choosing a route sends nothing.
    let (from, to): (IpAddr, IpAddr) = match listening {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    };
    let route = || {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect((to, 9))?;
        socket.local_addr()
    };
    match route() {
        Ok(local) => local.ip(),
        Err(_) if listening.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        Err(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// A fresh record of this node, signed. `sequence` must be higher than any before, also before a restart.
pub(crate) fn record<D: Disk>(
    identity: &Identity,
    config: &NodeConfig,
    addresses: &Addresses,
    service: &Service<D>,
    now: Timestamp,
    sequence: u64,
) -> Signed<NodeRecord> {
    let node = identity.node_id();
    let described = service.describe(now);
    let record = NodeRecord {
        node,
        sequence,
        control_addresses: addresses
            .control
            .iter()
            .map(|socket| bootstrap_address(*socket, node).to_string())
            .collect(),
        data_addresses: addresses.data.clone(),
        operator: config.operator.map(|claim| OperatorClaim { operator: claim.operator, signature: claim.signature }),
        region: config.region.clone(),
        accepting: described.accepting,
        free_class: described.free_class,
        protocol_min: wire::PROTOCOL_MIN,
        protocol_max: wire::PROTOCOL_MAX,
        software: described.software,
        issued_at: now,
        expires_at: now.after(NODE_RECORD_LIFE_MAX),
        successor: None,
    };
    Signed::sign(record, identity.signing_key())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn an_address_that_is_listened_on_is_announced_as_it_is() {
        let found = addresses(None, socket("127.0.0.1:5"), socket("127.0.0.1:6")).await;
        assert_eq!(found.data, [socket("127.0.0.1:5")]);
        assert_eq!(found.control, [socket("127.0.0.1:6")]);
        let any = addresses(None, socket("0.0.0.0:5"), socket("0.0.0.0:6")).await;
        assert!(!any.data[0].ip().is_unspecified(), "nobody can dial {}", any.data[0]);
    }

    #[tokio::test]
    async fn an_announced_port_is_the_data_port_and_the_next_one_is_control() {
        let announce: Announce = "192.0.2.7:1000".parse().expect("valid");
        let found = addresses(Some(&announce), socket("0.0.0.0:5"), socket("0.0.0.0:6")).await;
        assert_eq!(found.data, [socket("192.0.2.7:1000")]);
        assert_eq!(found.control, [socket("192.0.2.7:1001")]);
        let announce: Announce = "192.0.2.7".parse().expect("valid");
        let found = addresses(Some(&announce), socket("0.0.0.0:5"), socket("0.0.0.0:6")).await;
        assert_eq!((found.data[0].port(), found.control[0].port()), (5, 6));
        let announce = Announce { control_port: Some(9), ..announce };
        let found = addresses(Some(&announce), socket("0.0.0.0:5"), socket("0.0.0.0:6")).await;
        assert_eq!((found.data[0].port(), found.control[0].port()), (5, 9));
    }
}

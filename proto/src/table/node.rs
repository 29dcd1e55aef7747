//! Nodes as documents name them: id and where it was last reached.
//!
//! Decides how addresses are written. Never decides whether an address may be dialled: addresses in documents are hints.

use core::net::{IpAddr, SocketAddr};

use crate::codec::{CodecError, DocumentError, Reader, Writer};
use crate::ids::NodeId;
use crate::limits::DOCUMENT_ADDRESSES_MAX;

/// The least that an entry takes when encoded.
pub(crate) const NODE_ENTRY_MIN_BYTES: usize = 33;

/// A node with up to [`DOCUMENT_ADDRESSES_MAX`] data-plane addresses as hints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    id: NodeId,
    addresses: Vec<SocketAddr>,
}

impl NodeEntry {
    /// A node and the first few of its addresses that can be written: none twice, no port 0. Scope and flow of IPv6
    /// addresses mean nothing to others and are dropped.
    #[must_use]
    pub fn new(id: NodeId, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut kept: Vec<SocketAddr> = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(address.ip(), address.port());
            if address.port() != 0 && kept.len() < DOCUMENT_ADDRESSES_MAX && !kept.contains(&address) {
                kept.push(address);
            }
        }
        Self { id, addresses: kept }
    }

    /// The node.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// Where it was last reached; may be empty or out of date.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.raw(self.id.as_bytes());
        writer.count8(self.addresses.len());
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    writer.u8(4);
                    writer.raw(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    writer.u8(6);
                    writer.raw(&ip.octets());
                }
            }
            writer.u16(address.port());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let id = NodeId::new(reader.array("a node's id")?);
        let count = usize::from(reader.u8("a node's addresses")?);
        crate::codec::check_limit(count, DOCUMENT_ADDRESSES_MAX, "a node's addresses")?;
        let addresses = (0..count).map(|_| read_address(reader)).collect::<Result<Vec<_>, _>>()?;
        let entry = Self::new(id, addresses.iter().copied());
        if entry.addresses == addresses { Ok(entry) } else { Err(DocumentError::NodeEntry) }
    }
}

fn read_address(reader: &mut Reader<'_>) -> Result<SocketAddr, DocumentError> {
    let ip: IpAddr = match reader.u8("the kind of an address")? {
        4 => reader.array::<4>("an address")?.into(),
        6 => reader.array::<16>("an address")?.into(),
        found => return Err(CodecError::Unknown { what: "the kind of an address", found }.into()),
    };
    Ok(SocketAddr::new(ip, reader.u16("a port")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_what_can_be_written() {
        let first: SocketAddr = "192.0.2.1:7000".parse().expect("valid");
        let second: SocketAddr = "[2001:db8::1]:7000".parse().expect("valid");
        let unusable: SocketAddr = "192.0.2.1:0".parse().expect("valid");
        let node = NodeEntry::new(NodeId::new([1; 32]), [first, unusable, first, second]);
        assert_eq!(node.addresses(), [first, second]);
        let mut writer = Writer::new();
        node.write(&mut writer);
        let mut bytes = writer.into_bytes();
        assert_eq!(NodeEntry::read(&mut Reader::new(&bytes)), Ok(node));
        bytes.truncate(33 + 7);
        bytes[32] = 1;
        let end = bytes.len();
        bytes[end - 2..].fill(0);
        assert_eq!(NodeEntry::read(&mut Reader::new(&bytes)), Err(DocumentError::NodeEntry), "port 0");
    }
}

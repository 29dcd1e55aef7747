//! A data plane connection without any of the client's manners, for tests that play a hostile peer.
//!
//! Decides nothing: the handshake is a real client's, what follows is the caller's. Never used by Dolmen itself.

use std::net::SocketAddr;

use dolmen_proto::ids::NodeId;
use quinn::{Connection, Endpoint, Side};

use crate::datagram::PathClass;
use crate::endpoint;
use crate::identity::Identity;
use crate::options::DataPlaneOptions;
use crate::resumption::SessionCache;
use crate::tls::{SERVER_NAME, Tls, TlsError};

/// Why a raw connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum RawConnectionError {
    /// The socket could not be opened.
    #[error("cannot open a socket: {0}")]
    Socket(#[from] std::io::Error),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The dial could not be begun.
    #[error("cannot dial: {0}")]
    Dial(#[from] quinn::ConnectError),
    /// The node did not take the connection.
    #[error("no connection: {0}")]
    Connection(#[from] quinn::ConnectionError),
}

/// Connects to `node` at `address` with the certificate of `identity`, and leaves all streams to the caller.
///
/// The connection lives no longer than the endpoint. Within a tokio runtime only.
///
/// # Errors
/// [`RawConnectionError`]; a node that refuses the handshake is [`RawConnectionError::Connection`].
pub async fn raw_connection(
    identity: &Identity,
    node: NodeId,
    address: SocketAddr,
) -> Result<(Endpoint, Connection), RawConnectionError> {
    let options = DataPlaneOptions::default();
    let own = endpoint::any_address_like(address);
    let (endpoint, _) = endpoint::open(own, identity, None, options.socket_buffer_bytes)?;
    let mut config = SessionCache::new(Tls::new(identity)?).with(node, address)?.client_config();
    config.transport_config(PathClass::Loopback.transport(&options, Side::Client));
    let connection = endpoint.connect_with(config, address, SERVER_NAME)?.await?;
    Ok((endpoint, connection))
}

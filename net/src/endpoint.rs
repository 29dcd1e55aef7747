//! The UDP sockets under both ends: buffers raised, sends counted, quinn set up over them.
//!
//! Decides how a socket is opened. Never decides who may connect.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, TokioRuntime, UdpPoller};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::sockopt;

use crate::datagram::DATAGRAM_MAX_BYTES;
use crate::identity::Identity;

/// Opens a socket at `address` and an endpoint over it; accepts connections only with a `server` configuration.
pub(crate) fn open(
    address: SocketAddr,
    identity: &Identity,
    server: Option<quinn::ServerConfig>,
    socket_buffer_bytes: usize,
) -> io::Result<(Endpoint, Arc<SocketCounters>)> {
    let socket = UdpSocket::bind(address)?;
    raise_buffers(&socket, socket_buffer_bytes);
    let runtime = Arc::new(TokioRuntime);
    let counters = Arc::new(SocketCounters::default());
    let counted = Arc::new(CountingSocket { inner: runtime.wrap_udp_socket(socket)?, counters: Arc::clone(&counters) });
    let mut config = EndpointConfig::new(Arc::new(ResetKey(identity.connection_reset_key())));
    config.max_udp_payload_size(DATAGRAM_MAX_BYTES).map_err(io::Error::other)?;
    let id_key = identity.connection_id_key();
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    Ok((Endpoint::new_with_abstract_socket(config, server, counted, runtime)?, counters))
}

/// The address that a client's socket of the other end's family is bound to.
pub(crate) fn any_address_like(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// What went through one socket.
#[derive(Debug, Default)]
pub(crate) struct SocketCounters {
    sends: AtomicU64,
    sent_bytes: AtomicU64,
    receives: AtomicU64,
    received_bytes: AtomicU64,
}

/// A reading of a socket's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketReport {
    /// System calls that sent.
    pub sends: u64,
    /// Bytes that they sent.
    pub sent_bytes: u64,
    /// System calls that received.
    pub receives: u64,
    /// Bytes that they received.
    pub received_bytes: u64,
}

impl SocketCounters {
    /// The counts so far.
    pub(crate) fn read(&self) -> SocketReport {
        SocketReport {
            sends: self.sends.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            receives: self.receives.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }
}

/// tokio's socket with counters, and with receive buffers of one datagram's size: 64 KiB are all that the kernel
/// merges into one, however many datagrams that is.
#[derive(Debug)]
struct CountingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    counters: Arc<SocketCounters>,
}

impl AsyncUdpSocket for CountingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        self.counters.sends.fetch_add(1, Ordering::Relaxed);
        self.counters.sent_bytes.fetch_add(transmit.contents.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(context, buffers, meta);
        if let Poll::Ready(Ok(count)) = polled {
            let bytes = meta.iter().take(count).map(|meta| meta.len as u64).sum();
            self.counters.receives.fetch_add(1, Ordering::Relaxed);
            self.counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Signs stateless resets; the same in every run of a node.
struct ResetKey([u8; 32]);

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let signature = blake3::keyed_hash(&self.0, data);
        signature_out.copy_from_slice(&signature.as_bytes()[..signature_out.len()]);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        // Hashes compare in constant time.
        let expected = blake3::keyed_hash(&self.0, data);
        match <[u8; 32]>::try_from(signature) {
            Ok(signature) if expected == signature => Ok(()),
            _ => Err(quinn::crypto::CryptoError),
        }
    }
}

/// Small buffers lose datagrams in bursts, which looks like congestion. Asks for more than the system's limit
/// first, which needs a privilege, then for as much as is allowed, and says what it got.
fn raise_buffers(socket: &UdpSocket, wanted_bytes: usize) {
    #[cfg(target_os = "linux")]
    let forced = (
        sockopt::set_socket_recv_buffer_size_force(socket, wanted_bytes),
        sockopt::set_socket_send_buffer_size_force(socket, wanted_bytes),
    );
    #[cfg(not(target_os = "linux"))]
    let forced = (Err(io::Error::from(io::ErrorKind::Unsupported)), Err(io::Error::from(io::ErrorKind::Unsupported)));
    let receive = forced.0.is_ok() || sockopt::set_socket_recv_buffer_size(socket, wanted_bytes).is_ok();
    let send = forced.1.is_ok() || sockopt::set_socket_send_buffer_size(socket, wanted_bytes).is_ok();
    let receive_bytes = sockopt::socket_recv_buffer_size(socket).unwrap_or(0);
    let send_bytes = sockopt::socket_send_buffer_size(socket).unwrap_or(0);
    if receive && send && receive_bytes >= wanted_bytes && send_bytes >= wanted_bytes {
        tracing::debug!(receive_bytes, send_bytes, "socket buffers raised");
    } else {
        tracing::info!(
            wanted_bytes,
            receive_bytes,
            send_bytes,
            "socket buffers are smaller than wanted: raise net.core.rmem_max and wmem_max for speed"
        );
    }
}

#[cfg(test)]
mod tests {
    use quinn::crypto::HmacKey;

    use super::*;

    #[test]
    fn resets_are_signed_by_their_key() {
        let key = ResetKey([7; 32]);
        let mut signature = vec![0; key.signature_len()];
        key.sign(b"connection id", &mut signature);
        assert!(key.verify(b"connection id", &signature).is_ok());
        assert!(key.verify(b"connection ie", &signature).is_err());
        assert!(ResetKey([8; 32]).verify(b"connection id", &signature).is_err());
        assert!(key.verify(b"connection id", &signature[..16]).is_err());
    }

    #[tokio::test]
    async fn an_endpoint_opens_on_loopback() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (endpoint, counters) = open(address, &Identity::from_bytes(&[1; 32]), None, 1 << 20).expect("an endpoint");
        assert_ne!(endpoint.local_addr().expect("bound").port(), 0);
        assert_eq!(counters.read(), SocketReport::default());
    }
}

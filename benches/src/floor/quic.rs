//! Endpoints of the floor: quinn as Dolmen's data plane sets it up on loopback, and nothing around it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use quinn::{ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt};

/// The name in every receiver's certificate.
pub(super) const SERVER_NAME: &str = "localhost";
/// Over this, ten datagrams do not fit one segmented send, and quinn takes the path for a black hole.
const SEGMENTED_MAX_BYTES: u16 = 6_400;

fn transport(datagram_bytes: u16) -> TransportConfig {
    let mut transport = TransportConfig::default();
    // quinn sends nothing while a datagram is larger than the congestion window, which starts at 12,000 bytes.
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(1024 * 1024);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(datagram_bytes);
    let mut acknowledgements = quinn::AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(10));
    transport
        .congestion_controller_factory(Arc::new(congestion))
        .mtu_discovery_config(Some(discovery))
        .initial_mtu(datagram_bytes.clamp(1200, 65_000))
        // First packets are padded to this size, and their length has 14 bits.
        .min_mtu(datagram_bytes.clamp(1200, 16_000))
        .enable_segmentation_offload(datagram_bytes <= SEGMENTED_MAX_BYTES)
        .stream_receive_window(VarInt::from_u32(16 << 20))
        .receive_window(VarInt::from_u32(64 << 20))
        .send_window(64 << 20)
        .ack_frequency_config(Some(acknowledgements));
    transport
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let reference = rustix::fd::AsFd::as_fd(&socket);
    // As far as the system lets us; both sides of the comparison do the same.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(reference, 8 << 20);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(reference, 8 << 20);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(65_527)?;
    Ok(Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))?)
}

/// A listening endpoint on loopback, and its certificate.
pub(super) fn listen(datagram_bytes: u16) -> Result<(Endpoint, Vec<u8>)> {
    let certified = rcgen::generate_simple_self_signed(vec![SERVER_NAME.to_owned()])?;
    let certificate = certified.cert.der().clone();
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(certified.key_pair.serialize_der()).map_err(anyhow::Error::msg)?;
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let mut server = ServerConfig::with_crypto(Arc::new(quinn::crypto::rustls::QuicServerConfig::try_from(tls)?));
    server.transport_config(Arc::new(transport(datagram_bytes)));
    Ok((endpoint(Some(server))?, certificate.to_vec()))
}

/// An endpoint that dials.
pub(super) fn dialler() -> Result<Endpoint> {
    endpoint(None)
}

/// How to dial a receiver that shows `certificate`.
pub(super) fn trusting(certificate: Vec<u8>, datagram_bytes: u16) -> Result<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.into()).context("a receiver's certificate")?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls)?));
    client.transport_config(Arc::new(transport(datagram_bytes)));
    Ok(client)
}

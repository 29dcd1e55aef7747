//! The floor: what the parts cost without any storage logic, pipelined on the same cores.
//!
//! Raw quinn moves the bytes that really travel, at the same datagram size; beside it run BLAKE3, the cipher, the
//! coder, the mask and plain file reads and writes of the same bytes by the same crates. Nothing is found, placed,
//! acknowledged durably, retried or described. A storage system on these crates cannot be faster than this.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use dolmen_gf256::Coefficients;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const FRAME_STORED_BYTES: usize = 16 * 1024;
const FRAME_PLAIN_BYTES: usize = FRAME_STORED_BYTES - 16;
/// Plain bytes of one segment of the floor: whole frames, a whole number of them in every data shard.
const SEGMENT_TARGET_BYTES: usize = 32 * 1024 * 1024;
/// Segments in work at once, so that stages overlap.
const SEGMENTS_IN_FLIGHT: usize = 3;
const PIECE_BYTES: usize = 256 * 1024;

/// The code and the number of receivers that the floor moves bytes between.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Data shards of a segment.
    pub k: usize,
    /// All shards of a segment.
    pub n: usize,
    /// Receivers.
    pub nodes: usize,
    /// Largest datagram that discovery may find; 65,000 fits loopback.
    pub datagram_bytes: u16,
}

/// Receivers and connections to them, in one process.
#[derive(Debug)]
pub struct Floor {
    shape: Shape,
    connections: Vec<Connection>,
    folder: PathBuf,
    endpoints: Vec<Endpoint>,
}

fn transport(datagram_bytes: u16) -> TransportConfig {
    let mut transport = TransportConfig::default();
    // quinn sends nothing while a datagram is larger than the congestion window, which starts at 12,000 bytes.
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(1024 * 1024);
    transport.congestion_controller_factory(Arc::new(congestion));
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(datagram_bytes);
    transport
        .mtu_discovery_config(Some(discovery))
        .initial_mtu(datagram_bytes.clamp(1200, 65_000))
        .enable_segmentation_offload(datagram_bytes <= 1472)
        .stream_receive_window(VarInt::from_u32(16 << 20))
        .receive_window(VarInt::from_u32(64 << 20))
        .send_window(64 << 20);
    let mut acknowledgements = quinn::AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(10));
    transport.ack_frequency_config(Some(acknowledgements));
    transport
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let reference = rustix::fd::AsFd::as_fd(&socket);
    // As far as the system lets us; both sides of the comparison do the same.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(reference, 4 << 20);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(reference, 4 << 20);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(65_527)?;
    Ok(Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))?)
}

impl Floor {
    /// Starts the receivers, which write below `folder`, and connects to each.
    ///
    /// # Errors
    /// Whatever sockets, certificates or files answer.
    pub async fn start(shape: Shape, folder: &Path) -> Result<Self> {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let certificate = certified.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.key_pair.serialize_der())
            .map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = &[&rustls::version::TLS13];
        let server_tls = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate)?;
        let client_tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let transport = Arc::new(transport(shape.datagram_bytes));
        let mut server =
            ServerConfig::with_crypto(Arc::new(quinn::crypto::rustls::QuicServerConfig::try_from(server_tls)?));
        server.transport_config(transport.clone());
        let mut client = ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(client_tls)?));
        client.transport_config(transport);
        let local = endpoint(None)?;
        let (mut connections, mut endpoints) = (Vec::new(), Vec::new());
        for number in 0..shape.nodes {
            let receiver = endpoint(Some(server.clone()))?;
            let address = receiver.local_addr()?;
            endpoints.push(receiver.clone());
            let file = folder.join(format!("floor-{number:02}"));
            // Nodes write to new files; pages that are in memory already would be written several times as fast.
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            tokio::spawn(async move {
                while let Some(incoming) = receiver.accept().await {
                    if let Ok(connection) = incoming.await {
                        tokio::spawn(receive(connection, file.clone()));
                    }
                }
            });
            connections.push(local.connect_with(client.clone(), address, "localhost")?.await?);
        }
        endpoints.push(local);
        Ok(Self { shape, connections, folder: folder.to_path_buf(), endpoints })
    }

    /// Largest datagram in use on any connection.
    #[must_use]
    pub fn datagram_bytes(&self) -> u16 {
        self.connections.iter().map(|connection| connection.stats().path.current_mtu).max().unwrap_or(0)
    }

    /// Stores `source` without storing: seconds for all its bytes to be coded, moved, hashed and written.
    ///
    /// # Errors
    /// Whatever sockets or files answer.
    pub async fn put(&self, source: &Path) -> Result<f64> {
        let started = Instant::now();
        let length = source.metadata()?.len();
        let shape = self.shape;
        let segment_bytes = plain_segment_bytes(shape.k);
        let permits = Arc::new(Semaphore::new(SEGMENTS_IN_FLIGHT));
        let mut tasks = JoinSet::new();
        let mut offset = 0;
        let mut number = 0;
        while offset < length {
            let permit = permits.clone().acquire_owned().await?;
            let path = source.to_path_buf();
            let connections: Vec<Connection> = (0..shape.n)
                .map(|shard| self.connections[(number * shape.n + shard) % self.connections.len()].clone())
                .collect();
            tasks.spawn(async move {
                let shards =
                    tokio::task::spawn_blocking(move || code_segment(&path, offset, segment_bytes, shape)).await??;
                let mut sends = JoinSet::new();
                let at = (number * stored_shard_bytes(shape.k)) as u64;
                for (connection, shard) in connections.into_iter().zip(shards) {
                    sends.spawn(send(connection, shard, at));
                }
                while let Some(sent) = sends.join_next().await {
                    sent??;
                }
                drop(permit);
                anyhow::Ok(())
            });
            offset += segment_bytes as u64;
            number += 1;
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// Reads back as many bytes as `length` without looking anything up: seconds for k shards of every segment to be
    /// read, moved, hashed, opened and written to `target`.
    ///
    /// # Errors
    /// Whatever sockets or files answer.
    pub async fn get(&self, length: u64, target: &Path) -> Result<f64> {
        let started = Instant::now();
        let file = Arc::new(File::create(target)?);
        let segment_bytes = plain_segment_bytes(self.shape.k);
        let stored_bytes = stored_shard_bytes(self.shape.k);
        let permits = Arc::new(Semaphore::new(SEGMENTS_IN_FLIGHT));
        let mut tasks = JoinSet::new();
        let (mut offset, mut number) = (0, 0);
        while offset < length {
            let permit = permits.clone().acquire_owned().await?;
            let connections: Vec<Connection> = (0..self.shape.k)
                .map(|shard| self.connections[(number * self.shape.n + shard) % self.connections.len()].clone())
                .collect();
            let file = file.clone();
            tasks.spawn(async move {
                let mut fetches = JoinSet::new();
                for (shard, connection) in connections.into_iter().enumerate() {
                    let file = file.clone();
                    fetches.spawn(async move {
                        let bytes = fetch(connection, (number * stored_bytes) as u64, stored_bytes).await?;
                        tokio::task::spawn_blocking(move || {
                            let at = offset + (shard * plain_shard_bytes(stored_bytes)) as u64;
                            open_shard(bytes, shard, &file, at)
                        })
                        .await?
                    });
                }
                while let Some(fetched) = fetches.join_next().await {
                    fetched??;
                }
                drop(permit);
                anyhow::Ok(())
            });
            offset += segment_bytes as u64;
            number += 1;
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// Raw quinn alone: seconds to move `length` bytes to the receivers, which throw them away.
    ///
    /// # Errors
    /// Whatever sockets answer.
    pub async fn raw(&self, length: u64) -> Result<f64> {
        let started = Instant::now();
        let piece = Bytes::from(vec![7_u8; 4 << 20]);
        let mut sends = JoinSet::new();
        let each = length / self.connections.len() as u64;
        for connection in self.connections.clone() {
            let piece = piece.clone();
            sends.spawn(async move {
                let (mut sender, mut receiver) = connection.open_bi().await?;
                sender.write_all(b"R").await?;
                let mut left = each;
                while left > 0 {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    sender.write_chunk(piece.slice(..count)).await?;
                    left -= count as u64;
                }
                sender.finish()?;
                receiver.read_to_end(16).await?;
                anyhow::Ok(())
            });
        }
        while let Some(sent) = sends.join_next().await {
            sent??;
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// Closes everything and removes the receivers' files.
    pub fn stop(self) {
        for endpoint in &self.endpoints {
            endpoint.close(VarInt::from_u32(0), b"done");
        }
        for number in 0..self.shape.nodes {
            let _ = std::fs::remove_file(self.folder.join(format!("floor-{number:02}")));
        }
    }
}

/// Stored bytes of one shard: whole frames.
const fn stored_shard_bytes(k: usize) -> usize {
    SEGMENT_TARGET_BYTES / k / FRAME_STORED_BYTES * FRAME_STORED_BYTES
}

const fn plain_shard_bytes(stored_bytes: usize) -> usize {
    stored_bytes / FRAME_STORED_BYTES * FRAME_PLAIN_BYTES
}

const fn plain_segment_bytes(k: usize) -> usize {
    k * plain_shard_bytes(stored_shard_bytes(k))
}

fn cipher() -> Result<LessSafeKey> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32])?))
}

fn nonce(frame: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&frame.to_le_bytes());
    nonce
}

/// Reads, hashes (for the chunk keys), seals, codes, masks and hashes one segment.
fn code_segment(path: &Path, offset: u64, plain_bytes: usize, shape: Shape) -> Result<Vec<Bytes>> {
    let shard_bytes = stored_shard_bytes(shape.k);
    let mut plain = vec![0; plain_bytes];
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let there = usize::try_from((length - offset).min(plain_bytes as u64))?;
    file.read_exact_at(&mut plain[..there], offset)?;
    for piece in plain.chunks(1 << 20) {
        std::hint::black_box(blake3::keyed_hash(&[5; 32], piece));
    }
    let cipher = cipher()?;
    let mut data = vec![0; shape.k * shard_bytes];
    for (frame, (stored, plain)) in
        data.chunks_exact_mut(FRAME_STORED_BYTES).zip(plain.chunks(FRAME_PLAIN_BYTES)).enumerate()
    {
        let (body, tag) = stored.split_at_mut(FRAME_PLAIN_BYTES);
        let nonce = Nonce::assume_unique_for_key(nonce(frame as u64));
        cipher.seal_out_of_place_scatter(nonce, Aad::empty(), plain, body, &[], tag)?;
    }
    drop(plain);
    let parity_count = shape.n - shape.k;
    let mut parity = vec![0; parity_count * shard_bytes];
    let inputs: Vec<&[u8]> = data.chunks_exact(shard_bytes).collect();
    let mut outputs: Vec<&mut [u8]> = parity.chunks_exact_mut(shard_bytes).collect();
    // Nothing is rebuilt from this parity: any coefficients cost the same.
    let coefficient = |row: usize, column: usize| (row * shape.k + column).to_le_bytes()[0] | 1;
    Coefficients::new(shape.k, parity_count, coefficient).multiply(&inputs, &mut outputs)?;
    for (index, shard) in parity.chunks_exact_mut(shard_bytes).enumerate() {
        chacha20::ChaCha20::new(&[9; 32].into(), &nonce(index as u64).into()).apply_keystream(shard);
    }
    let (data, parity) = (Bytes::from(data), Bytes::from(parity));
    let shards: Vec<Bytes> = (0..shape.k)
        .map(|index| data.slice(index * shard_bytes..(index + 1) * shard_bytes))
        .chain((0..parity_count).map(|index| parity.slice(index * shard_bytes..(index + 1) * shard_bytes)))
        .collect();
    for shard in &shards {
        std::hint::black_box(blake3::hash(shard));
    }
    Ok(shards)
}

async fn send(connection: Connection, shard: Bytes, at: u64) -> Result<()> {
    let (mut sender, mut receiver) = connection.open_bi().await?;
    sender.write_all(b"P").await?;
    sender.write_all(&at.to_le_bytes()).await?;
    sender.write_chunk(shard).await?;
    sender.finish()?;
    receiver.read_to_end(16).await?;
    Ok(())
}

async fn fetch(connection: Connection, at: u64, bytes: usize) -> Result<Vec<u8>> {
    let (mut sender, mut receiver) = connection.open_bi().await?;
    sender.write_all(b"G").await?;
    sender.write_all(&at.to_le_bytes()).await?;
    sender.write_all(&(bytes as u64).to_le_bytes()).await?;
    sender.finish()?;
    let mut all = Vec::with_capacity(bytes);
    while let Some(chunk) = receiver.read_chunk(usize::MAX, true).await? {
        all.extend_from_slice(&chunk.bytes);
    }
    Ok(all)
}

/// Hashes a shard, opens its frames and writes them in their place.
fn open_shard(stored: Vec<u8>, shard: usize, file: &File, at: u64) -> Result<()> {
    std::hint::black_box(blake3::hash(&stored));
    let cipher = cipher()?;
    let mut plain = vec![0; plain_shard_bytes(stored.len())];
    let first = (shard * stored.len() / FRAME_STORED_BYTES) as u64;
    for (frame, stored) in stored.chunks_exact(FRAME_STORED_BYTES).enumerate() {
        let (body, tag) = stored.split_at(FRAME_PLAIN_BYTES);
        let nonce = Nonce::assume_unique_for_key(nonce(first + frame as u64));
        let place = &mut plain[frame * FRAME_PLAIN_BYTES..][..FRAME_PLAIN_BYTES];
        cipher.open_separate_gather(nonce, Aad::empty(), body, tag, place)?;
    }
    file.write_all_at(&plain, at)?;
    Ok(())
}

/// A receiver: hashes and writes what is put, reads and sends what is asked for, throws away what is raw.
async fn receive(connection: Connection, path: PathBuf) -> Result<()> {
    let file = Arc::new(OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?);
    loop {
        let (sender, receiver) = connection.accept_bi().await?;
        tokio::spawn(serve(sender, receiver, file.clone()));
    }
}

async fn serve(mut sender: quinn::SendStream, mut receiver: quinn::RecvStream, file: Arc<File>) -> Result<()> {
    let (mut call, mut number) = ([0], [0; 8]);
    receiver.read_exact(&mut call).await?;
    match call[0] {
        b'P' => {
            receiver.read_exact(&mut number).await?;
            let mut at = u64::from_le_bytes(number);
            let mut hasher = blake3::Hasher::new();
            let mut pending: Vec<u8> = Vec::with_capacity(PIECE_BYTES * 2);
            loop {
                let chunk = receiver.read_chunk(usize::MAX, true).await?;
                let ended = chunk.is_none();
                if let Some(chunk) = chunk {
                    pending.extend_from_slice(&chunk.bytes);
                }
                if pending.len() >= PIECE_BYTES || (ended && !pending.is_empty()) {
                    hasher.update(&pending);
                    file.write_all_at(&pending, at)?;
                    at += pending.len() as u64;
                    pending.clear();
                }
                if ended {
                    break;
                }
            }
            std::hint::black_box(hasher.finalize());
            sender.write_all(b"ok").await?;
        }
        b'G' => {
            receiver.read_exact(&mut number).await?;
            let mut at = u64::from_le_bytes(number);
            receiver.read_exact(&mut number).await?;
            let mut left = usize::try_from(u64::from_le_bytes(number))?;
            while left > 0 {
                let mut piece = vec![0; left.min(PIECE_BYTES)];
                file.read_exact_at(&mut piece, at)?;
                at += piece.len() as u64;
                left -= piece.len();
                sender.write_chunk(Bytes::from(piece)).await?;
            }
        }
        _ => {
            while receiver.read_chunk(usize::MAX, true).await?.is_some() {}
            sender.write_all(b"ok").await?;
        }
    }
    sender.finish()?;
    Ok(())
}

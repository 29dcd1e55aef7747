//! The floor: what the parts cost without any storage logic, pipelined on the same cores.
//!
//! Raw quinn moves the bytes that really travel, at the same datagram size, between as many processes; beside it run
//! BLAKE3, the cipher, the coder, the mask and plain file reads and writes of the same bytes by the same crates. Nothing
//! is found, placed, acknowledged durably, retried or described. A storage system on these crates cannot be faster.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quinn::{Connection, Endpoint, VarInt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

mod quic;
mod receiver;
mod stages;

pub use receiver::run as run_receiver;

use receiver::Receiver;
use stages::{
    Opening, PIECE_STORED_BYTES, Unmasking, code_segment, open_segment, plain_segment_bytes, stored_shard_bytes,
};

/// Segments in work at once, so that stages overlap.
const SEGMENTS_IN_FLIGHT: usize = 3;

/// The code and the number of receivers that the floor moves bytes between.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Data shards of a segment.
    pub k: usize,
    /// All shards of a segment.
    pub n: usize,
    /// Receivers.
    pub nodes: usize,
    /// Largest datagram that is tried; 65,000 fits loopback.
    pub datagram_bytes: u16,
}

/// Receivers, a process each, and connections to them.
#[derive(Debug)]
pub struct Floor {
    shape: Shape,
    receivers: Vec<Receiver>,
    connections: Vec<Connection>,
    files: Vec<PathBuf>,
    endpoint: Endpoint,
    spare: Arc<Spare>,
    /// Where the last put begins in every file, and where it ends: each goes to new places, since pages that are in memory already
    /// are written several times as fast.
    written: Mutex<std::ops::Range<u64>>,
}

/// Buffers that were used and are used again: fresh memory costs a page fault every 4 KiB.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// A buffer of so many bytes, with whatever is in it; one that had about as many before, where there is one.
    fn take(&self, bytes: usize) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<u8>| (bytes..=bytes * 2).contains(&buffer.capacity());
        let mut buffer = kept.iter().rposition(fits).map(|place| kept.swap_remove(place)).unwrap_or_default();
        buffer.resize(bytes, 0);
        buffer
    }

    fn put(&self, buffer: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }

    /// Bytes that come back here when the last slice of them is dropped.
    fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, spare: Arc::clone(self) })
    }
}

struct Lent {
    buffer: Vec<u8>,
    spare: Arc<Spare>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.spare.put(std::mem::take(&mut self.buffer));
    }
}

impl Floor {
    /// Starts the receivers, which write new files below `folder`, and connects to each. `command` makes the command line
    /// of one receiver, which must end in [`run_receiver`], from its file and the datagram size.
    ///
    /// # Errors
    /// Whatever processes, sockets or files answer.
    pub async fn start(shape: Shape, folder: &Path, command: impl Fn(&Path, u16) -> Command) -> Result<Self> {
        let endpoint = quic::dialler()?;
        let (mut receivers, mut connections, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..shape.nodes {
            let file = folder.join(format!("floor-{number:02}"));
            // Nodes write to new files; pages that are in memory already would be written several times as fast.
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let receiver = Receiver::start(command(&file, shape.datagram_bytes)).await?;
            let client = quic::trusting(receiver.certificate.clone(), shape.datagram_bytes)?;
            connections.push(endpoint.connect_with(client, receiver.quic, quic::SERVER_NAME)?.await?);
            receivers.push(receiver);
            files.push(file);
        }
        Ok(Self { shape, receivers, connections, files, endpoint, spare: Arc::default(), written: Mutex::default() })
    }

    /// The processes of the receivers.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.receivers.iter().filter_map(Receiver::pid).collect()
    }

    /// Largest datagram in use on any connection.
    #[must_use]
    pub fn datagram_bytes(&self) -> u16 {
        self.connections.iter().map(|connection| connection.stats().path.current_mtu).max().unwrap_or(0)
    }

    fn connection(&self, segment: usize, shard: usize) -> Connection {
        self.connections[(segment * self.shape.n + shard) % self.connections.len()].clone()
    }

    /// Stores `source` without storing: how long all its bytes take to be coded, moved, hashed and written; `synced`: and to be
    /// on the disks.
    ///
    /// # Errors
    /// Whatever sockets or files answer.
    pub async fn put(&self, source: &Path, synced: bool) -> Result<Duration> {
        let started = Instant::now();
        let length = source.metadata()?.len();
        let shape = self.shape;
        let base = {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let segments = length.div_ceil(plain_segment_bytes(shape.k) as u64);
            *written = written.end..written.end + segments * stored_shard_bytes(shape.k) as u64;
            written.start
        };
        let permits = Arc::new(Semaphore::new(SEGMENTS_IN_FLIGHT));
        let mut tasks = JoinSet::new();
        for (number, offset) in (0..length).step_by(plain_segment_bytes(shape.k)).enumerate() {
            let permit = permits.clone().acquire_owned().await?;
            let path = source.to_path_buf();
            let connections: Vec<Connection> = (0..shape.n).map(|shard| self.connection(number, shard)).collect();
            let call = if synced { receiver::PUT_SYNCED } else { receiver::PUT };
            let spare = Arc::clone(&self.spare);
            tasks.spawn(async move {
                let coding = tokio::task::spawn_blocking(move || code_segment(&path, offset, shape, &spare));
                let shards = coding.await??;
                let mut sends = JoinSet::new();
                let at = base + (number * stored_shard_bytes(shape.k)) as u64;
                for (connection, shard) in connections.into_iter().zip(shards) {
                    sends.spawn(send(connection, call, shard, at));
                }
                while let Some(sent) = sends.join_next().await {
                    sent??;
                }
                drop(permit);
                anyhow::Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(started.elapsed())
    }

    /// Reads back the `length` bytes of the last [`Floor::put`] into `target` without looking anything up, past the
    /// receivers in `dead`: how long `k` shards of every segment take to be read, moved, hashed, where needed unmasked and
    /// rebuilt, opened and written.
    ///
    /// # Errors
    /// Whatever sockets or files answer, and too many dead receivers.
    pub async fn get(&self, length: u64, target: &Path, dead: &[usize]) -> Result<Duration> {
        let started = Instant::now();
        let shape = self.shape;
        let file = Arc::new(File::create(target)?);
        let stored_bytes = stored_shard_bytes(shape.k);
        let base = self.written.lock().unwrap_or_else(PoisonError::into_inner).start;
        let permits = Arc::new(Semaphore::new(SEGMENTS_IN_FLIGHT));
        let mut tasks = JoinSet::new();
        for (number, offset) in (0..length).step_by(plain_segment_bytes(shape.k)).enumerate() {
            let permit = permits.clone().acquire_owned().await?;
            let wanted: Vec<usize> = (0..shape.n)
                .filter(|shard| !dead.contains(&((number * shape.n + shard) % self.connections.len())))
                .take(shape.k)
                .collect();
            let connections: Vec<(usize, Connection)> =
                wanted.into_iter().map(|shard| (shard, self.connection(number, shard))).collect();
            let (file, spare) = (file.clone(), Arc::clone(&self.spare));
            tasks.spawn(async move {
                let whole = connections.iter().all(|(shard, _)| *shard < shape.k);
                let mut fetches = JoinSet::new();
                for (shard, connection) in connections {
                    let (file, spare) = (file.clone(), Arc::clone(&spare));
                    fetches.spawn(async move {
                        let at = base + (number * stored_bytes) as u64;
                        if whole {
                            // Nothing is missing, so nobody waits for the others.
                            fetch_and_open(connection, at, (shard, stored_bytes), &file, offset, &spare).await?;
                            return anyhow::Ok((shard, None));
                        }
                        let bytes = fetch_and_unmask(connection, at, (shard, stored_bytes), shape, &spare).await?;
                        anyhow::Ok((shard, Some(bytes)))
                    });
                }
                let mut shards: Vec<Option<Vec<u8>>> = vec![None; shape.n];
                while let Some(fetched) = fetches.join_next().await {
                    let (shard, bytes) = fetched??;
                    shards[shard] = bytes;
                }
                if !whole {
                    tokio::task::spawn_blocking(move || open_segment(shape, shards, &file, offset, &spare)).await??;
                }
                drop(permit);
                anyhow::Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        // The last segment is padded.
        file.set_len(length)?;
        Ok(started.elapsed())
    }

    /// Raw quinn alone: how long `length` bytes take to the receivers, which throw them away.
    ///
    /// # Errors
    /// Whatever sockets answer.
    pub async fn raw(&self, length: u64) -> Result<Duration> {
        let started = Instant::now();
        let piece = Bytes::from(vec![7_u8; 4 << 20]);
        let mut sends = JoinSet::new();
        let each = length / self.connections.len() as u64;
        for connection in self.connections.clone() {
            let piece = piece.clone();
            sends.spawn(async move {
                let (mut sender, mut receiver) = connection.open_bi().await?;
                sender.write_all(&[receiver::DISCARD]).await?;
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
        Ok(started.elapsed())
    }

    /// TCP in place of quinn, unencrypted: how long `length` bytes take to the receivers, which throw them away.
    ///
    /// # Errors
    /// Whatever sockets answer.
    pub async fn tcp(&self, length: u64) -> Result<Duration> {
        let mut streams = Vec::new();
        for receiver in &self.receivers {
            streams.push(TcpStream::connect(receiver.tcp).await?);
        }
        let started = Instant::now();
        let piece = Bytes::from(vec![7_u8; 1 << 20]);
        let each = length / streams.len() as u64;
        let mut sends = JoinSet::new();
        for mut stream in streams {
            let piece = piece.clone();
            sends.spawn(async move {
                let mut left = each;
                while left > 0 {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    stream.write_all(&piece[..count]).await?;
                    left -= count as u64;
                }
                stream.shutdown().await?;
                stream.read_to_end(&mut Vec::new()).await?;
                anyhow::Ok(())
            });
        }
        while let Some(sent) = sends.join_next().await {
            sent??;
        }
        Ok(started.elapsed())
    }

    /// One raw quinn request for `bytes` out of the memory of a receiver: how long until the last of them is there.
    ///
    /// # Errors
    /// Whatever sockets answer.
    pub async fn request(&self, receiver: usize, bytes: u64) -> Result<Duration> {
        let connection = &self.connections[receiver % self.connections.len()];
        let started = Instant::now();
        let (mut sender, mut stream) = connection.open_bi().await?;
        let mut call = vec![receiver::MEMORY];
        call.extend_from_slice(&bytes.to_le_bytes());
        sender.write_all(&call).await?;
        sender.finish()?;
        while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
            std::hint::black_box(chunk);
        }
        Ok(started.elapsed())
    }

    /// Closes everything and removes the receivers' files.
    pub async fn stop(self) {
        self.endpoint.close(VarInt::from_u32(0), b"done");
        for receiver in self.receivers {
            receiver.stop().await;
        }
        for file in self.files {
            // A file that cannot be removed goes with the temporary folder that it lies in.
            let _ = std::fs::remove_file(file);
        }
    }
}

async fn send(connection: Connection, call: u8, shard: Bytes, at: u64) -> Result<()> {
    let (mut sender, mut receiver) = connection.open_bi().await?;
    sender.write_all(&[call]).await?;
    sender.write_all(&at.to_le_bytes()).await?;
    sender.write_chunk(shard).await?;
    sender.finish()?;
    receiver.read_to_end(16).await.context("a receiver's answer")?;
    Ok(())
}

/// Asks for a range of a receiver's file.
async fn ask(connection: &Connection, at: u64, bytes: usize) -> Result<quinn::RecvStream> {
    let (mut sender, receiver) = connection.open_bi().await?;
    let mut call = vec![receiver::GET];
    call.extend_from_slice(&at.to_le_bytes());
    call.extend_from_slice(&(bytes as u64).to_le_bytes());
    sender.write_all(&call).await?;
    sender.finish()?;
    Ok(receiver)
}

/// Fetches a data shard, and opens and writes it as it comes.
async fn fetch_and_open(
    connection: Connection,
    at: u64,
    (shard, bytes): (usize, usize),
    file: &File,
    segment_at: u64,
    spare: &Spare,
) -> Result<()> {
    let mut receiver = ask(&connection, at, bytes).await?;
    let mut opening = Opening::new(shard, bytes, spare)?;
    let mut piece = spare.take(PIECE_STORED_BYTES);
    let mut filled = 0;
    while let Some(chunk) = receiver.read_chunk(usize::MAX, true).await? {
        let mut chunk = &chunk.bytes[..];
        while !chunk.is_empty() {
            let count = chunk.len().min(piece.len() - filled);
            piece[filled..filled + count].copy_from_slice(&chunk[..count]);
            filled += count;
            chunk = &chunk[count..];
            if filled == piece.len() {
                opening.take(&piece, file, segment_at)?;
                filled = 0;
            }
        }
    }
    opening.take(&piece[..filled], file, segment_at)?;
    opening.finish(spare);
    spare.put(piece);
    Ok(())
}

/// Fetches a shard to rebuild others from, and unmasks it as it comes.
async fn fetch_and_unmask(
    connection: Connection,
    at: u64,
    (shard, bytes): (usize, usize),
    shape: Shape,
    spare: &Spare,
) -> Result<Vec<u8>> {
    let mut receiver = ask(&connection, at, bytes).await?;
    let mut unmasking = Unmasking::new(shard, shape);
    let mut all = spare.take(bytes);
    all.clear();
    let mut done = 0;
    while let Some(chunk) = receiver.read_chunk(usize::MAX, true).await? {
        all.extend_from_slice(&chunk.bytes);
        while all.len() - done >= PIECE_STORED_BYTES {
            unmasking.take(&mut all[done..done + PIECE_STORED_BYTES])?;
            done += PIECE_STORED_BYTES;
        }
    }
    unmasking.take(&mut all[done..])?;
    unmasking.finish();
    Ok(all)
}

//! The other end of the floor: a process that hashes and writes what it is sent, and sends what it is asked for.
//!
//! Nothing is acknowledged durably, looked up, checked or limited: that is what makes it the floor.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::{Spare, quic};

/// Puts what follows at an offset of the file.
pub(super) const PUT: u8 = b'P';
/// The same, answered when it is on the disk.
pub(super) const PUT_SYNCED: u8 = b'S';
/// Asks for a range of the file.
pub(super) const GET: u8 = b'G';
/// Asks for that many bytes out of memory.
pub(super) const MEMORY: u8 = b'M';
/// Throws away what follows.
pub(super) const DISCARD: u8 = b'R';
/// Hashed and written at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Read and sent at a time: a datagram's worth.
const SENT_BYTES: usize = 64 * 1024;

/// What a receiver says of itself on its standard output, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Announcement {
    quic: SocketAddr,
    tcp: SocketAddr,
    /// DER in hexadecimal.
    certificate: String,
}

/// Runs a receiver until its standard input ends; says where it listens on its standard output.
///
/// # Errors
/// Whatever sockets or the file answer.
pub async fn run(file: &Path, datagram_bytes: u16) -> Result<()> {
    let file = Arc::new(OpenOptions::new().create_new(true).read(true).write(true).open(file)?);
    let (endpoint, certificate) = quic::listen(datagram_bytes)?;
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let announcement = Announcement {
        quic: endpoint.local_addr()?,
        tcp: tcp.local_addr()?,
        certificate: data_encoding::HEXLOWER.encode(&certificate),
    };
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&announcement)?)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            tokio::spawn(discard(stream));
        }
    });
    let spare = Arc::new(Spare::default());
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (file, spare) = (Arc::clone(&file), Arc::clone(&spare));
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    while let Ok((sender, receiver)) = connection.accept_bi().await {
                        tokio::spawn(serve(sender, receiver, Arc::clone(&file), Arc::clone(&spare)));
                    }
                }
            });
        }
    });
    let mut input = tokio::io::stdin();
    while input.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}

async fn discard(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    while stream.read(&mut buffer).await? > 0 {}
    stream.write_all(b"ok").await?;
    Ok(())
}

async fn serve(
    mut sender: quinn::SendStream,
    mut receiver: quinn::RecvStream,
    file: Arc<File>,
    spare: Arc<Spare>,
) -> Result<()> {
    let (mut call, mut number) = ([0], [0; 8]);
    receiver.read_exact(&mut call).await?;
    match call[0] {
        PUT | PUT_SYNCED => {
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
            if call[0] == PUT_SYNCED {
                tokio::task::spawn_blocking(move || file.sync_data()).await??;
            }
            sender.write_all(b"ok").await?;
        }
        GET => {
            receiver.read_exact(&mut number).await?;
            let mut at = u64::from_le_bytes(number);
            receiver.read_exact(&mut number).await?;
            let mut left = usize::try_from(u64::from_le_bytes(number))?;
            while left > 0 {
                let mut piece = spare.take(left.min(SENT_BYTES));
                file.read_exact_at(&mut piece, at)?;
                at += piece.len() as u64;
                left -= piece.len();
                sender.write_chunk(spare.lend(piece)).await?;
            }
        }
        MEMORY => {
            receiver.read_exact(&mut number).await?;
            sender.write_chunk(Bytes::from(vec![7; usize::try_from(u64::from_le_bytes(number))?])).await?;
        }
        _ => {
            while receiver.read_chunk(usize::MAX, true).await?.is_some() {}
            sender.write_all(b"ok").await?;
        }
    }
    sender.finish()?;
    Ok(())
}

/// A receiver as seen by who sends to it; its process ends when this is dropped.
#[derive(Debug)]
pub(super) struct Receiver {
    process: Child,
    pub(super) quic: SocketAddr,
    pub(super) tcp: SocketAddr,
    pub(super) certificate: Vec<u8>,
}

impl Receiver {
    /// Starts `command`, which must end in [`run`], and waits until it says where it listens.
    pub(super) async fn start(mut command: Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a receiver of the floor")?;
        let output = process.stdout.take().context("a receiver's output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await?;
        ensure!(!line.is_empty(), "a receiver of the floor ended at its start");
        let said: Announcement = serde_json::from_str(&line).context("what a receiver of the floor said")?;
        let certificate = data_encoding::HEXLOWER.decode(said.certificate.as_bytes())?;
        Ok(Self { process, quic: said.quic, tcp: said.tcp, certificate })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Lets it end and waits for that.
    pub(super) async fn stop(mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait().await;
    }
}

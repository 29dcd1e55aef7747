//! A file of a snapshot, read at any offset.
//!
//! Decides how far ahead of its reader a file is read: not at all for reads here and there, further and further for
//! one after the other. Never checks the hash of the whole file: what comes is checked piece by piece against roots and tags.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use dolmen_proto::manifest::FileEntry;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::task::JoinHandle;

use crate::budget::Held;
use crate::error::{ClientError, ErrorKind};
use crate::read::{Dataset, range};

/// Bytes that are read ahead once a second read has followed the first.
const AHEAD_FIRST_BYTES: u64 = 128 * 1024;
/// Bytes that are read ahead of one file at most; the memory budget may allow fewer.
const AHEAD_MAX_BYTES: u64 = 48 * 1024 * 1024;
/// Bytes that are fetched as one: small enough that several are under way at several nodes.
const PIECE_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Most that one read of a caller's brings, whatever the size of its buffer.
const READ_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A file of a snapshot: [`AsyncRead`], [`AsyncSeek`], and ranges read on their own.
///
/// Reading at an offset fetches the aligned windows that hold what was asked for, usually from one node, and rebuilds them
/// from others when that node is slow or gone. Reads that follow each other are read ahead of, within the client's
/// memory budget. Every byte was checked before it is given. Must be used within a tokio runtime.
///
/// Dropping a read that is under way loses nothing: the next read goes on where the last finished one ended. Errors of
/// reading carry a [`ClientError`] as their source; after one, the same read may be tried again.
///
/// ```no_run
/// use tokio::io::{AsyncReadExt, AsyncSeekExt};
/// # async fn example(client: &dolmen_client::Client, link: &str) -> Result<(), Box<dyn std::error::Error>> {
/// let snapshot = client.snapshot(link).await?;
/// let mut file = snapshot.file(b"train/part-0001.parquet").await?;
/// let footer = file.read_range(file.size().saturating_sub(8), 8).await?;
/// file.seek(std::io::SeekFrom::Start(4096)).await?;
/// let mut page = vec![0; 65_536];
/// file.read_exact(&mut page).await?;
/// # let _ = footer;
/// # Ok(())
/// # }
/// ```
pub struct File {
    dataset: Dataset,
    entry: Arc<FileEntry>,
    budget_bytes: u64,
    position: u64,
    /// What was read last, and where it begins.
    current: Option<(u64, Bytes, Option<Held>)>,
    /// What is being read, each piece where the one before ends.
    ahead: VecDeque<Piece>,
    /// How far ahead to read now.
    window_bytes: u64,
    /// Whether the last thing that happened to the position was a read.
    sequential: bool,
}

/// A part of the file that is being read.
struct Piece {
    start: u64,
    end: u64,
    task: Task,
    /// Its share of what may be read ahead; none for what a reader waits for.
    held: Option<Held>,
}

struct Task(JoinHandle<Result<Bytes, ClientError>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for File {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("File").field("size", &self.entry.size_bytes).field("position", &self.position).finish()
    }
}

impl File {
    pub(crate) fn new(dataset: Dataset, entry: FileEntry) -> Self {
        let budget_bytes = dataset.budget_bytes();
        Self {
            dataset,
            entry: Arc::new(entry),
            budget_bytes,
            position: 0,
            current: None,
            ahead: VecDeque::new(),
            window_bytes: 0,
            sequential: false,
        }
    }

    /// Its length in bytes, holes included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entry.size_bytes
    }

    /// The BLAKE3 hash of all its bytes, as whoever put it computed it.
    #[must_use]
    pub fn hash(&self) -> Option<[u8; 32]> {
        self.entry.hash
    }

    /// Reads `length` bytes from `offset` on into one buffer; fewer where the file ends. The position stays as it is.
    ///
    /// # Errors
    /// `Usage` for more bytes than the memory budget; `Damaged` when fewer than `k` shards of a segment exist, `NotNow`
    /// when too few nodes can be reached.
    pub async fn read_range(&self, offset: u64, length: u64) -> Result<Bytes, ClientError> {
        let start = offset.min(self.entry.size_bytes);
        let end = offset.saturating_add(length).min(self.entry.size_bytes);
        if end - start > self.budget_bytes {
            return Err(ClientError::new(
                ErrorKind::Usage,
                format!("{} bytes are too many for one buffer", end - start),
                format!("the memory budget is {} bytes", self.budget_bytes),
                "read the range in parts, or the file as a stream",
            ));
        }
        if start == end {
            return Ok(Bytes::new());
        }
        range::read(&self.dataset, &self.entry, start..end, false).await.map(Bytes::from)
    }

    /// Starts to read a piece.
    fn start(&self, start: u64, end: u64, extend: bool, held: Option<Held>) -> Piece {
        let (dataset, entry) = (self.dataset.clone(), Arc::clone(&self.entry));
        let read = async move { range::read(&dataset, &entry, start..end, extend).await.map(Bytes::from) };
        Piece { start, end, task: Task(tokio::spawn(read)), held }
    }

    /// Makes sure that somebody reads the byte at the position, for a reader who has room for so many.
    fn begin(&mut self, room: u64) {
        while self.ahead.front().is_some_and(|piece| piece.end <= self.position) {
            self.ahead.pop_front();
        }
        if self.ahead.front().is_some_and(|piece| piece.start <= self.position) {
            return;
        }
        self.ahead.clear();
        let mut length = room.clamp(1, READ_MAX_BYTES);
        if self.sequential {
            self.window_bytes = (self.window_bytes * 2).clamp(AHEAD_FIRST_BYTES, AHEAD_MAX_BYTES);
            length = length.max(self.window_bytes.min(PIECE_MAX_BYTES) / 2);
        }
        let end = self.position.saturating_add(length).min(self.entry.size_bytes);
        // Nothing is under way behind it, so that it may bring more than it was asked for.
        self.ahead.push_back(self.start(self.position, end, !self.sequential, None));
    }

    /// Starts pieces until as much is under way as should be.
    fn read_ahead(&mut self) {
        while self.window_bytes > 0
            && let Some(last) = self.ahead.back()
            && last.end < self.entry.size_bytes
            && last.end < self.position.saturating_add(self.window_bytes)
        {
            let length = (self.window_bytes / 4).clamp(AHEAD_FIRST_BYTES / 2, PIECE_MAX_BYTES);
            let end = last.end.saturating_add(length).min(self.entry.size_bytes);
            // Twice: what was fetched, and what it opens to.
            let Some(held) = self.dataset.ahead().try_take((end - last.end) * 2) else { return };
            let piece = self.start(last.end, end, false, Some(held));
            self.ahead.push_back(piece);
        }
    }

    /// Gives what is here already of the bytes from the position on.
    fn take_current(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let Some((start, bytes, _)) = &self.current else { return false };
        let inside = self.position.checked_sub(*start).and_then(|inside| usize::try_from(inside).ok());
        let Some(rest) = inside.and_then(|inside| bytes.get(inside..)).filter(|rest| !rest.is_empty()) else {
            return false;
        };
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.position += count as u64;
        self.sequential = true;
        true
    }
}

impl AsyncRead for File {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.position >= this.entry.size_bytes || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.take_current(buffer) {
                this.read_ahead();
                return Poll::Ready(Ok(()));
            }
            this.begin(buffer.remaining() as u64);
            this.read_ahead();
            let Some(piece) = this.ahead.front_mut() else {
                return Poll::Ready(Err(io::Error::other("nothing is read, which cannot be")));
            };
            let read = match Pin::new(&mut piece.task.0).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(read) => read.unwrap_or_else(|error| Err(ClientError::bug("reading a file failed", error))),
            };
            let piece = this.ahead.pop_front();
            match (read, piece) {
                (Ok(bytes), Some(piece)) => {
                    if this.window_bytes > 0 {
                        this.window_bytes = (this.window_bytes * 2).min(AHEAD_MAX_BYTES);
                    }
                    this.current = Some((piece.start, bytes, piece.held));
                }
                (Err(error), _) => {
                    this.ahead.clear();
                    return Poll::Ready(Err(error.into()));
                }
                (Ok(_), None) => {}
            }
        }
    }
}

impl AsyncSeek for File {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.entry.size_bytes.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        let position = position
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file has a byte before its first"))?;
        if position != self.position {
            self.position = position;
            self.sequential = false;
            let soon = self.ahead.iter().any(|piece| piece.start <= position && position < piece.end);
            let here = self.current.as_ref().is_some_and(|(start, bytes, _)| {
                *start <= position && position < start.saturating_add(bytes.len() as u64)
            });
            if !soon && !here {
                self.ahead.clear();
                self.window_bytes = 0;
            }
        }
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

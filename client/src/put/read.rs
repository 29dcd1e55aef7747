//! Files read, cut into chunks and handed on in blocks, in the order of the walk.
//!
//! Decides where holes lie, whether a file held still while it was read, and what becomes of one that did not: it is
//! read once more, then given up. Never seals and never knows what a segment is. Runs on a thread of its own.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use dolmen_proto::chunk::Cutter;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::walk::{Tree, mtime_ns, permission_bits};
use crate::budget::{Budget, Pool};

/// Times that a file which changes while it is read is read again.
const RETRIES: u32 = 1;

/// Steps after which a block is sent though it has room: files may be empty.
const STEPS_MAX: usize = 16 * 1024;

/// Something found while reading, in order.
#[derive(Debug)]
pub(crate) enum Step {
    /// A file is read from its start; whatever was read of it before is void.
    Begin(u32),
    /// The next bytes of the file: `length` bytes of the block, from `start`.
    Chunk { start: usize, length: usize },
    /// The next bytes of the file are so many zeros that were never written.
    Hole(u64),
    /// The file is read whole and did not change meanwhile.
    End(FileRead),
    /// The file could not be read: it will not be in the snapshot.
    Failed(String),
}

/// What a file was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileRead {
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) mtime_ns: i64,
    /// BLAKE3 of the whole contents, holes as zeros.
    pub(crate) hash: [u8; 32],
}

/// A stretch of memory with the contents of one or many files, and what is in it.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) data: Bytes,
    pub(crate) steps: Vec<Step>,
}

/// Reads files one after the other into blocks.
pub(crate) struct Reader<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) cutter: Cutter,
    pub(crate) budget: Budget,
    pub(crate) pool: Pool<Vec<u8>>,
    /// At least the largest chunk.
    pub(crate) block_bytes: usize,
    pub(crate) blocks: mpsc::Sender<Block>,
    pub(crate) runtime: Handle,
}

/// The receiver of blocks is gone: nobody wants more.
struct Gone;

enum Stop {
    Gone,
    File(io::Error),
    Changed,
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

struct Filling {
    held: Option<crate::budget::Held>,
    buffer: Vec<u8>,
    steps: Vec<Step>,
    /// Start of what is not cut yet.
    cut: usize,
}

impl Reader<'_> {
    /// Reads all files of the tree; ends early when nobody receives the blocks any more. Blocks the thread.
    pub(crate) fn run(self) {
        let mut filling = self.fresh();
        for file in self.tree.files() {
            if self.file(file, &mut filling).is_err() {
                return;
            }
            if filling.steps.len() >= STEPS_MAX && self.send(&mut filling).is_err() {
                return;
            }
        }
        let _ = self.send(&mut filling);
    }

    fn fresh(&self) -> Filling {
        let held = self.runtime.block_on(self.budget.take(self.block_bytes as u64));
        let mut buffer = self.pool.get();
        buffer.clear();
        buffer.reserve_exact(self.block_bytes);
        Filling { held: Some(held), buffer, steps: Vec::new(), cut: 0 }
    }

    /// Hands on what is cut and starts a new block with the rest.
    fn send(&self, filling: &mut Filling) -> Result<(), Gone> {
        if filling.steps.is_empty() {
            return Ok(());
        }
        let Some(held) = filling.held.take() else { return Err(Gone) };
        let data = self.pool.guard(held, std::mem::take(&mut filling.buffer));
        let rest = data.slice(filling.cut..);
        let block = Block { data: data.slice(..filling.cut), steps: std::mem::take(&mut filling.steps) };
        drop(data);
        self.blocks.blocking_send(block).map_err(|_| Gone)?;
        // The rest keeps the old block alive while the new one is waited for: there are always memory for two.
        let mut next = self.fresh();
        next.buffer.extend_from_slice(&rest);
        *filling = next;
        Ok(())
    }

    fn file(&self, position: u32, filling: &mut Filling) -> Result<(), Gone> {
        let path = self.tree.path(position);
        let mut attempt = 0;
        loop {
            filling.buffer.truncate(filling.cut);
            filling.steps.push(Step::Begin(position));
            match self.read(&path, filling) {
                Ok(read) => {
                    filling.steps.push(Step::End(read));
                    return Ok(());
                }
                Err(Stop::Gone) => return Err(Gone),
                Err(Stop::Changed) if attempt < RETRIES => attempt += 1,
                Err(stop) => {
                    filling.buffer.truncate(filling.cut);
                    filling.steps.push(Step::Failed(match stop {
                        Stop::File(error) => error.to_string(),
                        Stop::Changed | Stop::Gone => "it changed while it was read, twice".to_owned(),
                    }));
                    return Ok(());
                }
            }
        }
    }

    fn read(&self, path: &Path, filling: &mut Filling) -> Result<FileRead, Stop> {
        // Without following a link that took the file's place, and without waiting on a pipe that did.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let before = file.metadata()?;
        if !before.is_file() {
            return Err(Stop::Changed);
        }
        let mut hasher = blake3::Hasher::new();
        let size = before.len();
        let sparse = before.blocks().saturating_mul(512) < size;
        let mut position = 0;
        while position < size {
            let (data_start, data_end) = if sparse { data_after(&file, position, size)? } else { (0, size) };
            let data_start = data_start.max(position);
            if data_start > position {
                filling.steps.push(Step::Hole(data_start - position));
                hash_zeros(&mut hasher, data_start - position);
                position = data_start;
            }
            if position < data_end {
                if sparse {
                    (&file).seek(SeekFrom::Start(position))?;
                }
                self.stretch(&file, data_end - position, &mut hasher, filling)?;
                position = data_end;
            }
        }
        let after = file.metadata()?;
        let same = |metadata: &std::fs::Metadata| {
            (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
        };
        if same(&before) != same(&after) {
            return Err(Stop::Changed);
        }
        let hash = *hasher.finalize().as_bytes();
        Ok(FileRead { size, mode: permission_bits(&after), mtime_ns: mtime_ns(&after), hash })
    }

    /// Reads and cuts so many bytes that follow each other on disk.
    fn stretch(
        &self,
        mut file: &File,
        length: u64,
        hasher: &mut blake3::Hasher,
        filling: &mut Filling,
    ) -> Result<(), Stop> {
        let mut left = length;
        loop {
            // What is not cut yet is less than the largest chunk, so a sent block always leaves room in the next.
            if filling.buffer.len() == self.block_bytes {
                self.send(filling)?;
            }
            let start = filling.buffer.len();
            let wanted = left.min((self.block_bytes - start) as u64);
            let read = file.by_ref().take(wanted).read_to_end(&mut filling.buffer)? as u64;
            hasher.update(&filling.buffer[start..]);
            left -= read;
            if read < wanted {
                return Err(Stop::Changed);
            }
            while let Some(length) = self.cutter.cut(&filling.buffer[filling.cut..], left == 0) {
                filling.steps.push(Step::Chunk { start: filling.cut, length });
                filling.cut += length;
            }
            if left == 0 {
                return Ok(());
            }
        }
    }
}

/// The next stretch that holds data: its start and end, both `size` when there is none.
fn data_after(file: &File, position: u64, size: u64) -> io::Result<(u64, u64)> {
    use rustix::fs::{SeekFrom, seek};
    let start = match seek(file, SeekFrom::Data(position)) {
        Ok(start) => start.min(size),
        Err(rustix::io::Errno::NXIO) => return Ok((size, size)),
        // A file system without holes.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok((position, size)),
        Err(error) => return Err(error.into()),
    };
    if start >= size {
        return Ok((size, size));
    }
    Ok((start, seek(file, SeekFrom::Hole(start))?.min(size)))
}

fn hash_zeros(hasher: &mut blake3::Hasher, mut count: u64) {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while count > 0 {
        let step = count.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..usize::try_from(step).unwrap_or(ZEROS.len())]);
        count -= step;
    }
}

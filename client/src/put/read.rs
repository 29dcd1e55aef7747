//! Files read, cut into chunks and handed on in blocks, in the order of the walk.
//!
//! Decides where holes lie, whether a file held still while it was read, and what becomes of one that did not: it is
//! read once more, then given up. A file that may be the base's by its contents is hashed before it is cut. Never seals
//! and never knows what a segment is. Runs on a thread of its own.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dolmen_proto::chunk::Cutter;
use dolmen_proto::manifest::{Entry, EntryKind};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::again::Kept;
use super::compress::Sampler;
use super::part::{FileRead, Meta};
use super::source::Stream;
use super::walk::{Found, Origin, mtime_ns, permission_bits, weight};
use crate::budget::{Budget, Pool};

/// Times that a file which changes while it is read is read again.
const RETRIES: u32 = 1;
/// Steps after which a block is sent though it has room, and what they may take in memory: files may be empty, and
/// those that are not read come as whole entries.
const STEPS_MAX: usize = 4096;
const STEPS_MAX_BYTES: usize = 1024 * 1024;
/// What is hashed at a time of a file that may not have to be cut.
const HASH_BYTES: usize = 256 * 1024;

/// What a file is to the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    New,
    Changed,
}

/// Something found or read, in the order of the manifest.
#[derive(Debug)]
pub(crate) enum Step {
    /// What follows lies in this folder.
    Enter(Meta),
    /// The folder is complete.
    Leave,
    /// An entry that is complete and no file of the source.
    Whole(Box<Entry>),
    /// A file of the source that the base has.
    Unchanged(Box<Entry>),
    /// So many files of the base are not in the new snapshot.
    Removed(u64),
    /// A file is read from its start.
    Begin(Meta, Change),
    /// The next bytes of the file: `length` bytes of the block, from `start`; to be compressed if that pays.
    Chunk { start: usize, length: usize, pack: bool },
    /// The next bytes of the file are so many zeros that were never written.
    Hole(u64),
    /// The file is read whole and did not change meanwhile.
    End(FileRead),
    /// The file has changed: whatever was read of it is void.
    Abandon,
    /// Something could not be read; what the base has in its place stays.
    Failed { path: PathBuf, reason: String, base: Option<Box<Entry>> },
}

/// A stretch of memory with the contents of one or many files, and what is in it.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) data: Bytes,
    pub(crate) steps: Vec<Step>,
}

/// Reads files one after the other into blocks.
pub(crate) struct Reader {
    pub(crate) found: mpsc::Receiver<Vec<Found>>,
    pub(crate) cutter: Cutter,
    pub(crate) budget: Budget,
    pub(crate) pool: Pool<Vec<u8>>,
    /// At least the largest chunk.
    pub(crate) block_bytes: usize,
    pub(crate) blocks: mpsc::Sender<Block>,
    pub(crate) runtime: Handle,
    pub(crate) sampler: Sampler,
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
    steps_bytes: usize,
    /// Start of what is not cut yet.
    cut: usize,
    /// A file has begun and not ended.
    begun: bool,
    /// Whether its chunks are to be compressed, once its first one is known.
    pack: Option<bool>,
}

impl Filling {
    fn step(&mut self, step: Step) {
        match &step {
            Step::Begin(..) => (self.begun, self.pack) = (true, None),
            Step::End(_) | Step::Abandon => self.begun = false,
            _ => {}
        }
        self.steps_bytes += match &step {
            Step::Whole(entry) | Step::Unchanged(entry) => weight(entry),
            Step::Failed { base: Some(entry), .. } => weight(entry),
            _ => 100,
        };
        self.steps.push(step);
    }

    /// Forgets what was read of a file that has failed.
    fn void(&mut self) {
        self.buffer.truncate(self.cut);
        if self.begun {
            self.step(Step::Abandon);
        }
    }
}

/// The bytes of a file on disk, or those that a caller brings.
trait Bring {
    /// Appends up to so many bytes; gives how many, fewer only at the end.
    fn bring(&mut self, wanted: u64, buffer: &mut Vec<u8>) -> io::Result<u64>;
}

impl Bring for &File {
    fn bring(&mut self, wanted: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
        Ok(self.take(wanted).read_to_end(buffer)? as u64)
    }
}

struct Caller<'a> {
    stream: &'a mut Stream,
    runtime: &'a Handle,
}

impl Bring for Caller<'_> {
    fn bring(&mut self, wanted: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
        let mut bytes = (&mut self.stream.bytes).take(wanted);
        Ok(self.runtime.block_on(bytes.read_to_end(buffer))? as u64)
    }
}

struct KeptBytes<'a> {
    kept: &'a mut Kept,
    position: u64,
    runtime: &'a Handle,
}

impl Bring for KeptBytes<'_> {
    fn bring(&mut self, wanted: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
        let read = self.runtime.block_on(self.kept.read_at(self.position, wanted, buffer))?;
        self.position += read;
        Ok(read)
    }
}

impl Reader {
    /// Reads whatever the walk finds; ends early when nobody receives the blocks any more. Blocks the thread.
    pub(crate) fn run(mut self) {
        let mut filling = self.fresh();
        while let Some(batch) = self.found.blocking_recv() {
            for found in batch {
                if self.take(found, &mut filling).is_err() {
                    return;
                }
                let full = filling.steps.len() >= STEPS_MAX || filling.steps_bytes >= STEPS_MAX_BYTES;
                if full && self.send(&mut filling).is_err() {
                    return;
                }
            }
        }
        let _ = self.send(&mut filling);
    }

    fn fresh(&self) -> Filling {
        let held = self.runtime.block_on(self.budget.take(self.block_bytes as u64));
        let mut buffer = self.pool.get();
        buffer.clear();
        buffer.reserve_exact(self.block_bytes);
        Filling { held: Some(held), buffer, steps: Vec::new(), steps_bytes: 0, cut: 0, begun: false, pack: None }
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
        (next.begun, next.pack) = (filling.begun, filling.pack);
        *filling = next;
        Ok(())
    }

    fn take(&self, found: Found, filling: &mut Filling) -> Result<(), Gone> {
        filling.step(match found {
            Found::Enter(meta) => Step::Enter(meta),
            Found::Leave => Step::Leave,
            Found::Whole(entry) => Step::Whole(entry),
            Found::Unchanged(entry) => Step::Unchanged(entry),
            Found::Removed(files) => Step::Removed(files),
            Found::Failed { path, reason, base } => Step::Failed { path, reason, base },
            Found::File { meta, origin: Origin::Path(path), base } => return self.file(&meta, path, base, filling),
            Found::File { meta, origin: Origin::Stream(stream), base } => {
                return self.stream(meta, stream, base, filling);
            }
            Found::File { meta, origin: Origin::Kept(kept), base } => return self.kept(meta, *kept, base, filling),
        });
        Ok(())
    }

    fn file(&self, meta: &Meta, path: PathBuf, base: Option<Box<Entry>>, filling: &mut Filling) -> Result<(), Gone> {
        let mut attempt = 0;
        loop {
            let stop = match self.read(meta, &path, base.as_deref(), filling) {
                Ok(step) => {
                    filling.step(step);
                    return Ok(());
                }
                Err(Stop::Gone) => return Err(Gone),
                Err(stop) => stop,
            };
            filling.void();
            let reason = match stop {
                Stop::Changed if attempt < RETRIES => {
                    attempt += 1;
                    continue;
                }
                Stop::File(error) => error.to_string(),
                Stop::Changed | Stop::Gone => "it changed while it was read, twice".to_owned(),
            };
            filling.step(Step::Failed { path, reason, base });
            return Ok(());
        }
    }

    /// Reads and cuts a file; gives the step that ends it.
    fn read(&self, meta: &Meta, path: &Path, base: Option<&Entry>, filling: &mut Filling) -> Result<Step, Stop> {
        // Without following a link that took the file's place, and without waiting on a pipe that did.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let before = file.metadata()?;
        if !before.is_file() {
            return Err(Stop::Changed);
        }
        let size = before.len();
        let same = |metadata: &std::fs::Metadata| {
            (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
        };
        let unchanged = || Ok::<_, Stop>(same(&before) == same(&file.metadata()?));
        let sparse = before.blocks().saturating_mul(512) < size;
        if let Some(entry) = base
            && let EntryKind::File(known) = &entry.kind
            && let Some(hash) = known.hash
            && known.size_bytes == size
        {
            if hash_of(&file, sparse, size)? == hash {
                let mut entry = entry.clone();
                (entry.mode, entry.modified_ns) = (permission_bits(&before), mtime_ns(&before));
                return if unchanged()? { Ok(Step::Unchanged(Box::new(entry))) } else { Err(Stop::Changed) };
            }
            (&file).seek(SeekFrom::Start(0))?;
        }
        filling.step(Step::Begin(meta.clone(), if base.is_some() { Change::Changed } else { Change::New }));
        let mut hasher = blake3::Hasher::new();
        let mut position = 0;
        while position < size {
            let (data_start, data_end) = if sparse { data_after(&file, position, size)? } else { (0, size) };
            let data_start = data_start.max(position);
            if data_start > position {
                filling.step(Step::Hole(data_start - position));
                hash_zeros(&mut hasher, data_start - position);
                position = data_start;
            }
            if position < data_end {
                if sparse {
                    (&file).seek(SeekFrom::Start(position))?;
                }
                let wanted = data_end - position;
                if self.stretch(&mut &file, wanted, &mut hasher, filling)? < wanted {
                    return Err(Stop::Changed);
                }
                position = data_end;
            }
        }
        if !unchanged()? {
            return Err(Stop::Changed);
        }
        let (mode, mtime_ns) = (permission_bits(&before), mtime_ns(&before));
        Ok(Step::End(FileRead { size, mode, mtime_ns, hash: *hasher.finalize().as_bytes() }))
    }

    /// Reads and cuts what a caller brings. It comes once: when it fails, it fails.
    fn stream(
        &self,
        meta: Meta,
        mut stream: Stream,
        base: Option<Box<Entry>>,
        filling: &mut Filling,
    ) -> Result<(), Gone> {
        let path = PathBuf::from(String::from_utf8_lossy(meta.name.as_bytes()).into_owned());
        filling.step(Step::Begin(meta, if base.is_some() { Change::Changed } else { Change::New }));
        let mut hasher = blake3::Hasher::new();
        let (mode, mtime_ns) = (stream.mode, stream.mtime_ns);
        let mut caller = Caller { stream: &mut stream, runtime: &self.runtime };
        match self.stretch(&mut caller, u64::MAX, &mut hasher, filling) {
            Ok(size) => {
                filling.step(Step::End(FileRead { size, mode, mtime_ns, hash: *hasher.finalize().as_bytes() }));
            }
            Err(Stop::Gone) => return Err(Gone),
            Err(stop) => {
                let reason = match stop {
                    Stop::File(error) => error.to_string(),
                    Stop::Changed | Stop::Gone => "it came to no end".to_owned(),
                };
                filling.void();
                filling.step(Step::Failed { path, reason, base });
            }
        }
        Ok(())
    }

    /// Reads and cuts a file that is stored already; what it comes to must be what it was.
    fn kept(&self, meta: Meta, mut kept: Kept, base: Option<Box<Entry>>, filling: &mut Filling) -> Result<(), Gone> {
        let path = kept.path().to_path_buf();
        filling.step(Step::Begin(meta.clone(), Change::Changed));
        let reason = match self.read_kept(&meta, &mut kept, filling) {
            Ok(step) => {
                filling.step(step);
                return Ok(());
            }
            Err(Stop::Gone) => return Err(Gone),
            Err(Stop::File(error)) => error.to_string(),
            Err(Stop::Changed) => "its contents are not what the snapshot says".to_owned(),
        };
        filling.void();
        filling.step(Step::Failed { path, reason, base });
        Ok(())
    }

    fn read_kept(&self, meta: &Meta, kept: &mut Kept, filling: &mut Filling) -> Result<Step, Stop> {
        let mut hasher = blake3::Hasher::new();
        let mut position = 0;
        while let Some((hole, length)) = self.runtime.block_on(kept.next_stretch()).map_err(io::Error::other)? {
            if hole {
                filling.step(Step::Hole(length));
                hash_zeros(&mut hasher, length);
            } else {
                let mut bytes = KeptBytes { kept, position, runtime: &self.runtime };
                if self.stretch(&mut bytes, length, &mut hasher, filling)? < length {
                    return Err(Stop::Changed);
                }
            }
            position += length;
        }
        let hash = *hasher.finalize().as_bytes();
        if !kept.is(position, &hash) {
            return Err(Stop::Changed);
        }
        Ok(Step::End(FileRead { size: position, mode: meta.mode, mtime_ns: meta.mtime_ns, hash }))
    }

    /// Reads and cuts so many bytes that follow each other, or all that there are; gives how many.
    fn stretch(
        &self,
        bytes: &mut impl Bring,
        length: u64,
        hasher: &mut blake3::Hasher,
        filling: &mut Filling,
    ) -> Result<u64, Stop> {
        let mut left = length;
        loop {
            // What is not cut yet is less than the largest chunk, so a sent block always leaves room in the next.
            if filling.buffer.len() == self.block_bytes {
                self.send(filling)?;
            }
            let start = filling.buffer.len();
            let wanted = left.min((self.block_bytes - start) as u64);
            let read = bytes.bring(wanted, &mut filling.buffer)?;
            hasher.update(&filling.buffer[start..]);
            left -= read;
            let end = left == 0 || read < wanted;
            while let Some(length) = self.cutter.cut(&filling.buffer[filling.cut..], end) {
                let start = filling.cut;
                let beginning = &filling.buffer[start..start + length];
                let pack = filling.pack.unwrap_or_else(|| self.sampler.pays(beginning));
                filling.pack = Some(pack);
                filling.step(Step::Chunk { start, length, pack });
                filling.cut += length;
            }
            if end {
                return Ok(length - left);
            }
        }
    }
}

/// The hash of a file's contents, holes as zeros; of fewer bytes when there are fewer.
fn hash_of(file: &File, sparse: bool, size: u64) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::with_capacity(HASH_BYTES);
    let mut position = 0;
    while position < size {
        let (start, end) = if sparse { data_after(file, position, size)? } else { (0, size) };
        let start = start.max(position);
        hash_zeros(&mut hasher, start - position);
        position = start;
        if sparse {
            let mut file = file;
            file.seek(SeekFrom::Start(position))?;
        }
        while position < end {
            buffer.clear();
            let read = (&mut &*file).bring((end - position).min(HASH_BYTES as u64), &mut buffer)?;
            if read == 0 {
                return Ok(*hasher.finalize().as_bytes());
            }
            hasher.update(&buffer);
            position += read;
        }
    }
    Ok(*hasher.finalize().as_bytes())
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

#[cfg(test)]
mod tests {
    use dolmen_proto::manifest::{ExtentList, FileEntry, Name};

    use super::*;
    use crate::options::Compression;

    fn entry(name: &str) -> Box<Entry> {
        let kind = EntryKind::File(FileEntry { size_bytes: 0, hash: None, extents: ExtentList::Inline(Vec::new()) });
        Box::new(Entry::new(Name::new(name).unwrap(), 0o644, 1, kind))
    }

    /// What becomes of files that were found there; all of them are in the base.
    async fn read(paths: Vec<PathBuf>) -> Vec<Step> {
        let (found, finds) = mpsc::channel(1);
        let (blocks, mut receiver) = mpsc::channel(1);
        let runtime = Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            let (budget, pool) = (Budget::new(32 << 20), Pool::new());
            let (cutter, sampler) = (Cutter::new(7), Sampler::new(Compression::Off));
            Reader { found: finds, cutter, budget, pool, block_bytes: 8 << 20, blocks, runtime, sampler }.run();
        });
        let file = |path: PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let meta = Meta { name: Name::new(name.as_str()).unwrap(), mode: 0o644, mtime_ns: 0 };
            Found::File { meta, origin: Origin::Path(path), base: Some(entry(&name)) }
        };
        found.send(paths.into_iter().map(file).collect()).await.unwrap();
        drop(found);
        let mut steps = Vec::new();
        while let Some(block) = receiver.recv().await {
            steps.extend(block.steps);
        }
        reading.await.unwrap();
        steps
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_that_vanished_or_became_something_else_is_named_and_what_the_base_has_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("target"), "never read through a link").unwrap();
        std::os::unix::fs::symlink(path("target"), path("link")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RUSR).unwrap();
        std::fs::write(path("whole"), "whole").unwrap();
        let names = ["vanished", "link", "folder", "pipe", "whole"];
        let steps = read(names.map(path).to_vec()).await;
        let failed: Vec<(String, bool)> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Failed { path, reason, base } => {
                    assert!(!reason.is_empty());
                    Some((path.file_name().unwrap().to_str().unwrap().to_owned(), base.is_some()))
                }
                _ => None,
            })
            .collect();
        let expected = ["vanished", "link", "folder", "pipe"].map(|name| (name.to_owned(), true));
        assert_eq!(failed, expected, "{steps:?}");
        let ended = steps.iter().filter(|step| matches!(step, Step::End(_))).count();
        assert_eq!(ended, 1, "the rest is read: {steps:?}");
    }
}

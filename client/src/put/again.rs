//! A snapshot walked to be stored again, under other keys.
//!
//! Decides what is read together: small files a segment at a time, large ones as streams that keep their holes. Never writes, and
//! never takes for a file what has not its hash: that is left to whoever reads it as a stream, who says so.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dolmen_proto::ids::SegmentId;
use dolmen_proto::limits::FOLDER_DEPTH_MAX;
use dolmen_proto::manifest::{Entry, EntryKind, Extent, ExtentList, FileEntry};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::parent::Parent;
use super::part::Meta;
use super::source::Stream;
use super::walk::{Found, Origin};
use crate::error::{ClientError, ErrorKind};
use crate::file::File;
use crate::read::range::{Fetched, locate};
use crate::read::{Chunk, Dataset, Extents, Opener, Part, Run, join};

/// Finds that are handed on together, and plain bytes of small files among them.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Segments that are read at a time for small files.
const AT_ONCE: usize = 4;

/// A file that is stored already.
pub(crate) struct Kept {
    path: PathBuf,
    dataset: Dataset,
    entry: FileEntry,
    file: File,
    extents: Option<Extents>,
    /// Stretches that are known and not given yet.
    known: std::collections::VecDeque<(bool, u64)>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Kept(..)")
    }
}

impl Kept {
    fn new(dataset: &Dataset, path: &[u8], entry: &FileEntry) -> Self {
        Self {
            path: PathBuf::from(OsStr::from_bytes(path)),
            dataset: dataset.clone(),
            entry: entry.clone(),
            file: File::new(dataset.clone(), entry.clone()),
            extents: None,
            known: std::collections::VecDeque::new(),
        }
    }

    /// Its path in the snapshot.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next stretch: whether it is a hole, and its bytes; `None` at the end.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when extents cannot be read.
    pub(crate) async fn next_stretch(&mut self) -> Result<Option<(bool, u64)>, ClientError> {
        let extents = self.extents.get_or_insert_with(|| self.dataset.extents(&self.entry));
        // Stretches of data are as long as they can be: a file is cut anew within each.
        while self.known.len() < 2 {
            let Some(placed) = self.dataset.next_extents(extents).await? else { break };
            for extent in placed {
                let (hole, length) = (matches!(extent.extent, Extent::Hole { .. }), extent.extent.length_bytes());
                match self.known.back_mut() {
                    Some((last, bytes)) if *last == hole => *bytes = bytes.saturating_add(length),
                    _ => self.known.push_back((hole, length)),
                }
            }
        }
        Ok(self.known.pop_front())
    }

    /// Appends up to so many bytes from there; gives how many.
    ///
    /// # Errors
    /// As [`File`].
    pub(crate) async fn read_at(&mut self, position: u64, wanted: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
        self.file.seek(io::SeekFrom::Start(position)).await?;
        let read = (&mut self.file).take(wanted).read_to_end(buffer).await?;
        Ok(read as u64)
    }

    /// Whether this is what the snapshot says of the whole file.
    pub(crate) fn is(&self, size: u64, hash: &[u8; 32]) -> bool {
        size == self.entry.size_bytes && self.entry.hash.is_none_or(|expected| expected == *hash)
    }
}

/// A file of one chunk, and its place in the batch.
struct Small {
    at: usize,
    hash: Option<[u8; 32]>,
    part: Part,
}

struct Walk<'a> {
    dataset: Dataset,
    found: &'a mpsc::Sender<Vec<Found>>,
    runtime: &'a Handle,
    batch: Vec<Found>,
    small: BTreeMap<SegmentId, Vec<Small>>,
    small_bytes: usize,
}

/// Hands on all of a snapshot, in the order of a manifest. Ends early when nobody receives any more; blocks the thread.
///
/// # Errors
/// `Damaged` or `NotNow` when a folder cannot be read, `Refused` when an entry has what this release would lose.
pub(crate) fn walk(snapshot: &Parent, found: &mpsc::Sender<Vec<Found>>, runtime: &Handle) -> Result<(), ClientError> {
    let dataset = snapshot.dataset().whole();
    let (batch, small) = (Vec::new(), BTreeMap::new());
    let mut walk = Walk { dataset, found, runtime, batch, small, small_bytes: 0 };
    let mut open = vec![(Vec::new(), snapshot.root())];
    while let Some((path, entries)) = open.last_mut() {
        let Some(entry) = runtime.block_on(entries.next())? else {
            open.pop();
            if !open.is_empty() {
                walk.batch.push(Found::Leave);
            }
            continue;
        };
        let path = join(path, entry.name.as_bytes());
        check(&path, &entry)?;
        let meta = Meta { name: entry.name.clone(), mode: entry.mode, mtime_ns: entry.modified_ns };
        match &entry.kind {
            EntryKind::Folder(_) if open.len() > FOLDER_DEPTH_MAX => {
                let why = format!("more than {FOLDER_DEPTH_MAX} lie in each other");
                let advice = "what was uploaded is damaged in itself: ask the dataset's owner";
                return Err(ClientError::new(ErrorKind::Damaged, "the dataset's folders lie too deep", why, advice));
            }
            EntryKind::Folder(folder) => {
                let below = snapshot.folder(folder);
                walk.batch.push(Found::Enter(meta));
                open.push((path, below));
            }
            EntryKind::Symlink { .. } => walk.batch.push(Found::Whole(Box::new(entry))),
            EntryKind::File(file) => {
                let kept = Kept::new(&walk.dataset, &path, file);
                if let Some(chunk) = single_chunk(file) {
                    let part = Part { plain: 0..chunk.plain_bytes(), chunk };
                    walk.small_bytes += part.plain.len();
                    let small = Small { at: walk.batch.len(), hash: file.hash, part };
                    walk.small.entry(small.part.chunk.pointer.segment).or_default().push(small);
                }
                let origin = Origin::Kept(Box::new(kept));
                walk.batch.push(Found::File { meta, origin, base: Some(Box::new(entry)) });
            }
        }
        if (walk.batch.len() >= BATCH || walk.small_bytes >= BATCH_BYTES) && !walk.flush()? {
            return Ok(());
        }
    }
    walk.flush().map(drop)
}

impl Walk<'_> {
    /// Fetches the small files of the batch and hands it on; gives whether somebody wants more.
    fn flush(&mut self) -> Result<bool, ClientError> {
        let mut batch = std::mem::take(&mut self.batch);
        let small = std::mem::take(&mut self.small);
        self.small_bytes = 0;
        let dataset = &self.dataset;
        let fetched = self.runtime.block_on(async {
            let segments = futures::stream::iter(small.into_values()).map(|files| fetch(dataset, files));
            segments.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await
        });
        for (at, bytes) in fetched.into_iter().flatten() {
            if let Some(Found::File { meta, origin, .. }) = batch.get_mut(at) {
                let (mode, mtime_ns) = (meta.mode, meta.mtime_ns);
                *origin = Origin::Stream(Stream { bytes: Box::new(io::Cursor::new(bytes)), mode, mtime_ns });
            }
        }
        Ok(self.found.blocking_send(batch).is_ok())
    }
}

/// Files of one chunk each, of one segment: those that could be read and have their hash, by their places.
async fn fetch(dataset: &Dataset, files: Vec<Small>) -> Vec<(usize, Bytes)> {
    let run = Run::Parts(files.iter().map(|small| small.part.clone()).collect());
    let Ok(jobs) = locate(dataset, vec![run], false).await else { return Vec::new() };
    let mut files = files.into_iter();
    let mut found = Vec::new();
    for job in jobs {
        // A segment that cannot be read now is tried again with each of its files.
        let these: Vec<Small> = files.by_ref().take(job.parts()).collect();
        let Ok(Fetched::Parts(data, parts)) = job.fetch(dataset).await else { continue };
        let mut opener = Opener::default();
        for ((offset, part), small) in parts.iter().zip(these) {
            if let Ok(plain) = opener.open(&data, &part.chunk, *offset, &part.plain)
                && small.hash.is_none_or(|expected| expected == *blake3::hash(plain).as_bytes())
            {
                found.push((small.at, Bytes::copy_from_slice(plain)));
            }
        }
    }
    found
}

/// The chunk of a file that is exactly one.
fn single_chunk(file: &FileEntry) -> Option<Chunk> {
    match &file.extents {
        ExtentList::Inline(extents) => match extents.as_slice() {
            [only @ (Extent::Chunk(_) | Extent::Compressed { .. })] => Chunk::of(only.clone()),
            _ => None,
        },
        ExtentList::Tree(_) => None,
    }
}

/// Refuses what would be lost: later releases may keep more of an entry than this one writes.
fn check(path: &[u8], entry: &Entry) -> Result<(), ClientError> {
    let plain = entry.owner.is_none() && entry.hard_link_group.is_none();
    if plain && entry.xattrs == Default::default() && entry.extensions == Default::default() {
        return Ok(());
    }
    Err(ClientError::new(
        ErrorKind::Refused,
        format!("{:?} cannot be stored again", String::from_utf8_lossy(path)),
        "it has an owner, attributes or fields that this release does not write",
        "use the release that put it, or a newer one",
    ))
}

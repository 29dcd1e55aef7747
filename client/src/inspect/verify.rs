//! Files read back and compared with their hashes.
//!
//! Decides which files are read: all, or a share of them that a seed chooses. Small files are read a segment at a time,
//! large ones as streams.

use std::collections::BTreeMap;

use dolmen_proto::ids::SegmentId;
use dolmen_proto::manifest::{Entry, EntryKind, Extent, ExtentList, FileEntry};
use futures::StreamExt;
use serde::Serialize;
use tokio::io::AsyncReadExt;

use crate::error::{ClientError, ErrorKind};
use crate::file::File;
use crate::progress::{ProgressEvent, Stage};
use crate::read::range::{Fetched, Job, locate};
use crate::read::{Chunk, Dataset, EntryWalk, Opener, Part, Run};
use crate::report::FailedFile;
use crate::snapshot::{Snapshot, normal};

/// Small files that are gathered before their segments are read, and their bytes.
const BATCH_FILES: usize = 16 * 1024;
const BATCH_BYTES: u64 = 256 * 1024 * 1024;
/// Segments and files that are read at a time; the memory budget may allow fewer.
const AT_ONCE: usize = 4;
/// Bytes of a stream that are hashed at a time.
const STREAM_STEP_BYTES: usize = 1024 * 1024;

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Only what lies at or below this path, components separated by `/`; empty: all.
    pub path: Vec<u8>,
    /// The share of files to read, in per cent: 0 to 100. Above 0 at least one is read where there is any.
    pub sample_percent: f64,
    /// Chooses the files of a sample; the same seed chooses the same paths.
    pub seed: u64,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { path: Vec::new(), sample_percent: 100.0, seed: 0 }
    }
}

/// What a verification came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct VerifyReport {
    /// Files that were looked at.
    pub files: u64,
    /// Of these, the files that were read and have the hash that the snapshot says.
    pub verified: u64,
    /// Their bytes.
    pub verified_bytes: u64,
    /// Files that were read whole, but of which the snapshot has no hash.
    pub without_hash: u64,
    /// Segments that could be read only with the help of parity shards.
    pub degraded_segments: u64,
    /// Files that could not be read or have another hash; not empty means exit code 7.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedFile>,
}

/// A file that is to be read.
struct Wanted {
    path: Vec<u8>,
    file: FileEntry,
}

/// A file of one chunk.
struct Small {
    wanted: Wanted,
    part: Part,
}

impl Snapshot {
    /// Reads files back and compares them with their hashes.
    ///
    /// # Errors
    /// `Usage` for a share that is none, `NotFound` when there is no such path, `Damaged` or `NotNow` when a folder cannot be
    /// read. Files that fail are in the report.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport, ClientError> {
        if !(0.0..=100.0).contains(&options.sample_percent) {
            return Err(ClientError::new(
                ErrorKind::Usage,
                format!("{} is no share in per cent", options.sample_percent),
                "a share lies between 0 and 100",
                "give another one",
            ));
        }
        self.progress().stage(Stage::Downloading);
        let path = normal(&options.path);
        let mut verify = Verify { snapshot: self, batch: Batch::default(), report: VerifyReport::default() };
        let folder = match self.dataset.entry(&path).await? {
            None => self.root.root.clone(),
            Some(Entry { kind: EntryKind::Folder(folder), .. }) => folder,
            Some(Entry { kind: EntryKind::File(file), .. }) => {
                verify.file(Wanted { path, file }).await?;
                return verify.finish().await;
            }
            Some(Entry { kind: EntryKind::Symlink { .. }, .. }) => return Ok(verify.report),
        };
        let whole = options.sample_percent >= 100.0;
        if whole {
            let (files, bytes) = (folder.totals.files, folder.totals.bytes);
            self.progress().event(ProgressEvent::Total { files, bytes });
        }
        let mut walk = EntryWalk::new(self.dataset.whole(), path, &folder);
        let mut nearest: Option<(u32, Wanted)> = None;
        while let Some((path, entry)) = walk.next().await? {
            match entry.kind {
                EntryKind::Folder(folder) => walk.enter(path, &folder)?,
                EntryKind::File(file) => {
                    let drawn = draw(options, &path);
                    let wanted = Wanted { path, file };
                    if whole || f64::from(drawn) < options.sample_percent / 100.0 * 4_294_967_296.0 {
                        verify.file(wanted).await?;
                    } else if nearest.as_ref().is_none_or(|(least, _)| drawn < *least) {
                        nearest = Some((drawn, wanted));
                    }
                }
                EntryKind::Symlink { .. } => {}
            }
        }
        // A sample of few files would often be of none, and would look as if all were well.
        if let (0, Some((_, wanted))) = (verify.report.files, nearest.filter(|_| options.sample_percent > 0.0)) {
            verify.file(wanted).await?;
        }
        verify.finish().await
    }
}

/// What a seed draws for a path: the sample has those below its share.
fn draw(options: &VerifyOptions, path: &[u8]) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&options.seed.to_le_bytes()).update(path);
    let hash = hasher.finalize();
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[derive(Default)]
struct Batch {
    small: BTreeMap<SegmentId, Vec<Small>>,
    large: Vec<Wanted>,
    files: usize,
    bytes: u64,
}

struct Verify<'a> {
    snapshot: &'a Snapshot,
    batch: Batch,
    report: VerifyReport,
}

/// What became of a file.
struct Verdict {
    path: Vec<u8>,
    bytes: u64,
    /// Whether it has a hash, and this is it; why not.
    result: Result<bool, String>,
}

impl Verify<'_> {
    async fn file(&mut self, wanted: Wanted) -> Result<(), ClientError> {
        self.report.files += 1;
        self.batch.files += 1;
        let size = wanted.file.size_bytes;
        match single_chunk(&wanted.file) {
            Some(chunk) => {
                let part = Part { plain: 0..chunk.plain_bytes(), chunk };
                self.batch.bytes += size;
                self.batch.small.entry(part.chunk.pointer.segment).or_default().push(Small { wanted, part });
            }
            None => self.batch.large.push(wanted),
        }
        let full = self.batch.files >= BATCH_FILES || self.batch.bytes >= BATCH_BYTES;
        if full || self.batch.large.len() >= AT_ONCE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), ClientError> {
        let batch = std::mem::take(&mut self.batch);
        let dataset = &self.snapshot.dataset;
        let small = futures::stream::iter(batch.small.into_values()).map(|files| segment(dataset, files));
        let mut small = small.buffer_unordered(AT_ONCE);
        while let Some(verdicts) = small.next().await {
            verdicts?.into_iter().for_each(|verdict| self.report.take(verdict, self.snapshot));
        }
        drop(small);
        let large = futures::stream::iter(batch.large).map(|wanted| stream(dataset, wanted));
        let mut large = large.buffer_unordered(AT_ONCE);
        while let Some(verdict) = large.next().await {
            self.report.take(verdict, self.snapshot);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<VerifyReport, ClientError> {
        self.flush().await?;
        self.report.degraded_segments = self.snapshot.dataset.contents().degraded_segments();
        Ok(self.report)
    }
}

impl VerifyReport {
    fn take(&mut self, verdict: Verdict, snapshot: &Snapshot) {
        match verdict.result {
            Ok(hashed) => {
                if hashed {
                    self.verified += 1;
                    self.verified_bytes += verdict.bytes;
                } else {
                    self.without_hash += 1;
                }
                snapshot.progress().event(ProgressEvent::Bytes(verdict.bytes));
                snapshot.progress().event(ProgressEvent::Files(1));
            }
            Err(reason) => {
                self.failed.push(FailedFile { path: String::from_utf8_lossy(&verdict.path).into_owned(), reason });
            }
        }
    }
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

fn verdict(wanted: Wanted, found: [u8; 32]) -> Verdict {
    let result = match wanted.file.hash {
        None => Ok(false),
        Some(expected) if expected == found => Ok(true),
        Some(_) => Err("its contents do not have the hash that the snapshot says".to_owned()),
    };
    Verdict { path: wanted.path, bytes: wanted.file.size_bytes, result }
}

fn failed(wanted: Wanted, error: &ClientError) -> Verdict {
    let result = Err(format!("{}: {}", error.what(), error.why()));
    Verdict { path: wanted.path, bytes: wanted.file.size_bytes, result }
}

/// Files of one chunk each, all of one segment.
async fn segment(dataset: &Dataset, files: Vec<Small>) -> Result<Vec<Verdict>, ClientError> {
    let run = Run::Parts(files.iter().map(|small| small.part.clone()).collect());
    let jobs = match locate(dataset, vec![run], false).await {
        Ok(jobs) => jobs,
        Err(error) => return Ok(files.into_iter().map(|small| failed(small.wanted, &error)).collect()),
    };
    let mut files = files.into_iter().map(|small| small.wanted);
    let mut verdicts = Vec::new();
    for job in jobs {
        let count = match &job {
            Job::Parts(_, parts) => parts.len(),
            Job::Zeros(_) => 0,
        };
        let these: Vec<Wanted> = files.by_ref().take(count).collect();
        match job.fetch(dataset).await {
            Ok(fetched) => verdicts.extend(dataset.contents().cores().run(move || hash_all(&fetched, these)).await?),
            Err(error) => verdicts.extend(these.into_iter().map(|wanted| failed(wanted, &error))),
        }
    }
    Ok(verdicts)
}

fn hash_all(fetched: &Fetched, files: Vec<Wanted>) -> Vec<Verdict> {
    let Fetched::Parts(data, parts) = fetched else { return Vec::new() };
    let mut opener = Opener::default();
    let hash =
        |((offset, part), wanted): (&(u32, Part), Wanted)| match opener.open(data, &part.chunk, *offset, &part.plain) {
            Ok(plain) => verdict(wanted, *blake3::hash(plain).as_bytes()),
            Err(error) => failed(wanted, &error),
        };
    parts.iter().zip(files).map(hash).collect()
}

/// A file of any length.
async fn stream(dataset: &Dataset, wanted: Wanted) -> Verdict {
    match hash_stream(dataset, &wanted.file).await {
        Ok(hash) => verdict(wanted, hash),
        Err(error) => failed(wanted, &error),
    }
}

async fn hash_stream(dataset: &Dataset, file: &FileEntry) -> Result<[u8; 32], ClientError> {
    let mut file = File::new(dataset.clone(), file.clone());
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STREAM_STEP_BYTES];
    loop {
        let read = file.read(&mut buffer).await.map_err(ClientError::from_reading)?;
        if read == 0 {
            return Ok(*hasher.finalize().as_bytes());
        }
        (hasher, buffer) = dataset
            .contents()
            .cores()
            .run(move || {
                hasher.update(&buffer[..read]);
                (hasher, buffer)
            })
            .await?;
    }
}

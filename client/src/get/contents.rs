//! File contents from segments to temporary files.
//!
//! Decides how many segments are under way, how their chunks are shared out among cores, and when a file is whole. A
//! chunk that several files of one window need is fetched and opened once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dolmen_proto::ids::SegmentId;
use futures::StreamExt;

use super::resume::Notes;
use super::target::{Attributes, Target, Temporary, is_full};
use crate::error::{ClientError, ErrorKind};
use crate::progress::{Progress, ProgressEvent};
use crate::read::{Chunk, Dataset, Opener, Place, SegmentData};
use crate::report::FailedFile;

/// Chunks that a window holds before its segments are read.
const USES_MAX: usize = 128 * 1024;
/// Files that a window holds before its segments are read.
const FILES_MAX: usize = 64 * 1024;
/// Segments under way at a time; the memory budget may allow fewer.
const SEGMENTS_AT_ONCE: usize = 4;
/// Plain bytes that one core opens and writes at a time.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A file that is being restored.
#[derive(Debug)]
pub(crate) struct FileJob {
    folder: Arc<[u8]>,
    name: Box<[u8]>,
    size: u64,
    attributes: Attributes,
    temporary: Temporary,
    /// Where it is noted what is written of a large file.
    notes: Option<Notes>,
    /// What its contents must come to, when an earlier restore wrote a part of them.
    hash: Option<[u8; 32]>,
    /// Chunks that are not written yet, and one more until all chunks are known.
    left: AtomicUsize,
    failed: AtomicBool,
    /// One thread writes at a time: a file system has others wait for the file's lock, and they spin meanwhile.
    turn: Mutex<()>,
}

impl FileJob {
    pub(crate) fn new(
        folder: Arc<[u8]>,
        name: &[u8],
        size: u64,
        attributes: Attributes,
        (temporary, notes): (Temporary, Option<Notes>),
        hash: Option<[u8; 32]>,
    ) -> Self {
        Self {
            folder,
            name: name.into(),
            size,
            attributes,
            temporary,
            notes,
            hash,
            left: AtomicUsize::new(1),
            failed: AtomicBool::new(false),
            turn: Mutex::default(),
        }
    }
}

/// A chunk and where it goes.
#[derive(Debug)]
pub(crate) struct Use {
    pub(crate) chunk: Chunk,
    pub(crate) file: Arc<FileJob>,
    pub(crate) at: u64,
}

/// What a restore has come to so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) skipped: u64,
    pub(crate) failed: Vec<FailedFile>,
    /// The first segment's failure.
    pub(crate) first_failure: Option<ClientError>,
    /// There is no room for more.
    pub(crate) full: Option<ClientError>,
}

impl Tally {
    /// The tally, or the failure of the whole when no contents at all could be restored.
    pub(crate) fn outcome(self) -> Result<Self, ClientError> {
        match &self.first_failure {
            Some(failure) if self.bytes == 0 => Err(failure.clone()),
            _ => Ok(self),
        }
    }
}

/// Files whose contents are read together.
#[derive(Debug, Default)]
pub(crate) struct Window {
    by_segment: HashMap<SegmentId, Vec<Use>>,
    /// Segments in the order in which files need them.
    order: Vec<SegmentId>,
    uses: usize,
    /// Files whose chunks are all known.
    ended: Vec<Arc<FileJob>>,
}

impl Window {
    pub(crate) fn push(&mut self, chunk: Use) {
        chunk.file.left.fetch_add(1, Ordering::Relaxed);
        self.uses += 1;
        let segment = chunk.chunk.pointer.segment;
        let uses = self.by_segment.entry(segment).or_default();
        if uses.is_empty() {
            self.order.push(segment);
        }
        uses.push(chunk);
    }

    pub(crate) fn end(&mut self, file: Arc<FileJob>) {
        self.ended.push(file);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.uses >= USES_MAX || self.ended.len() >= FILES_MAX
    }

    /// Reads the window's segments and writes its files.
    ///
    /// # Errors
    /// `Local` when there is no room for more; other files that fail are in the tally.
    pub(crate) async fn restore(
        mut self,
        dataset: &Dataset,
        target: &Arc<Target>,
        progress: &Progress,
        tally: &mut Tally,
    ) -> Result<(), ClientError> {
        let done = Arc::new(Done {
            target: Arc::clone(target),
            progress: progress.clone(),
            full: AtomicBool::new(false),
            tally: Mutex::default(),
        });
        let ended = std::mem::take(&mut self.ended);
        let shared = Arc::clone(&done);
        let empty = tokio::task::spawn_blocking(move || ended.iter().for_each(|file| shared.written(file)));
        empty.await.map_err(|error| ClientError::bug("a restore's thread failed", error))?;
        let mut by_segment = self.by_segment;
        let segments = self.order.iter().filter_map(|id| by_segment.remove(id)).collect::<Vec<_>>();
        let mut reads = futures::stream::iter(segments)
            .map(|uses| segment(dataset, uses, &done))
            .buffer_unordered(SEGMENTS_AT_ONCE);
        while let Some(read) = reads.next().await {
            read?;
            if done.full.load(Ordering::Relaxed) {
                break;
            }
        }
        drop(reads);
        let part = std::mem::take(&mut *done.tally.lock().unwrap_or_else(PoisonError::into_inner));
        tally.files += part.files;
        tally.bytes += part.bytes;
        tally.failed.extend(part.failed);
        tally.first_failure = tally.first_failure.take().or(part.first_failure);
        part.full.map_or(Ok(()), Err)
    }
}

/// A use, and where its chunk lies in the segment that is read.
type Placed = (u32, Use);

/// Chunks that could not be had, and why.
type Lost = Vec<(Use, ClientError)>;

/// Reads what is wanted of one segment and writes it; once more where a newer table may say where it is now.
async fn segment(dataset: &Dataset, uses: Vec<Use>, done: &Arc<Done>) -> Result<(), ClientError> {
    let known = dataset.known_table();
    let mut lost = attempt(dataset, uses, done).await?;
    if let Some((_, error)) = lost.first()
        && dataset.is_newer_than(&known, error).await
    {
        lost = attempt(dataset, lost.into_iter().map(|(chunk, _)| chunk).collect(), done).await?;
    }
    if lost.is_empty() {
        return Ok(());
    }
    let done = Arc::clone(done);
    let fail = move || lost.iter().for_each(|(chunk, error)| done.failed(&chunk.file, error));
    tokio::task::spawn_blocking(fail).await.map_err(|error| ClientError::bug("a restore's thread failed", error))
}

/// Reads chunks wherever they lie now and writes them.
async fn attempt(dataset: &Dataset, uses: Vec<Use>, done: &Arc<Done>) -> Result<Lost, ClientError> {
    let mut groups: Vec<(Arc<Place>, Vec<Placed>)> = Vec::new();
    let mut lost = Lost::new();
    for chunk in uses {
        match dataset.locate(&chunk.chunk.pointer).await {
            Ok((place, offset)) => match groups.iter_mut().find(|(there, _)| there.id == place.id) {
                Some((_, uses)) => uses.push((offset, chunk)),
                None => groups.push((place, vec![(offset, chunk)])),
            },
            Err(error) => lost.push((chunk, error)),
        }
    }
    for (place, mut uses) in groups {
        uses.sort_by_key(|(offset, _)| *offset);
        let data = match fetch(dataset, &place, &uses).await {
            Ok(data) => Arc::new(data),
            Err(error) => {
                lost.extend(uses.into_iter().map(|(_, chunk)| (chunk, error.clone())));
                continue;
            }
        };
        let jobs = batches(uses).into_iter().map(|batch| {
            let (data, done) = (Arc::clone(&data), Arc::clone(done));
            dataset.contents().cores().run(move || write_batch(&data, &batch, &done))
        });
        for result in futures::future::join_all(jobs).await {
            result?;
        }
    }
    Ok(lost)
}

async fn fetch(dataset: &Dataset, place: &Arc<Place>, uses: &[Placed]) -> Result<SegmentData, ClientError> {
    let whole = |(offset, chunk): &Placed| {
        let (_, length) = chunk.chunk.sealed_part(&(0..chunk.chunk.plain_bytes()))?;
        Ok((*offset, length))
    };
    let ranges = uses.iter().map(whole).collect::<Result<Vec<_>, ClientError>>()?;
    dataset.contents().fetch(place, &ranges).await
}

/// Shares chunks out in runs; equal chunks, which follow each other, stay together.
fn batches(uses: Vec<Placed>) -> Vec<Vec<Placed>> {
    let mut batches: Vec<Vec<Placed>> = Vec::new();
    let mut bytes = BATCH_BYTES;
    for (offset, chunk) in uses {
        let last = batches.last().and_then(|batch| batch.last());
        let same = last.is_some_and(|(_, last)| last.chunk == chunk.chunk);
        if bytes >= BATCH_BYTES && !same {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += chunk.chunk.plain_bytes();
        if let Some(batch) = batches.last_mut() {
            batch.push((offset, chunk));
        }
    }
    batches
}

fn write_batch(data: &SegmentData, batch: &[Placed], done: &Done) {
    let mut opener = Opener::default();
    let mut handle: Option<(&Arc<FileJob>, std::fs::File)> = None;
    for equal in batch.chunk_by(|(_, left), (_, right)| left.chunk == right.chunk) {
        let Some((offset, first)) = equal.first() else { continue };
        let wanted = || equal.iter().map(|(_, chunk)| chunk).filter(|chunk| !chunk.file.failed.load(Ordering::Relaxed));
        if wanted().next().is_none() || done.full.load(Ordering::Relaxed) {
            continue;
        }
        let plain = match opener.open(data, &first.chunk, *offset, &(0..first.chunk.plain_bytes())) {
            Ok(plain) => plain,
            Err(error) => {
                wanted().for_each(|chunk| done.failed(&chunk.file, &error));
                continue;
            }
        };
        for chunk in wanted() {
            if !handle.as_ref().is_some_and(|(file, _)| Arc::ptr_eq(file, &chunk.file)) {
                handle = match done.target.write(&chunk.file.temporary) {
                    Ok(file) => Some((&chunk.file, file)),
                    Err(error) => {
                        done.failed_locally(&chunk.file, &error);
                        continue;
                    }
                };
            }
            let written = handle.as_ref().map(|(job, file)| {
                let _turn = job.turn.lock().unwrap_or_else(PoisonError::into_inner);
                done.target.write_at(file, plain, chunk.at)
            });
            match written {
                Some(Err(error)) => done.failed_locally(&chunk.file, &error),
                _ => {
                    if let Some(notes) = &chunk.file.notes {
                        notes.add(chunk.at, plain);
                    }
                    done.progress.event(ProgressEvent::Bytes(plain.len() as u64));
                    done.written(&chunk.file);
                }
            }
        }
    }
}

/// Where the ends of files are noted.
struct Done {
    target: Arc<Target>,
    progress: Progress,
    /// Nothing more is written.
    full: AtomicBool,
    tally: Mutex<Tally>,
}

impl Done {
    /// One more part of the file is written; the last one puts it in its place.
    fn written(&self, file: &FileJob) {
        if file.left.fetch_sub(1, Ordering::AcqRel) != 1 || file.failed.load(Ordering::Acquire) {
            return;
        }
        let hash = file.hash.as_ref();
        match self.target.finish(&file.temporary, &file.folder, &file.name, file.size, file.attributes, hash) {
            Ok(()) => {
                self.progress.event(ProgressEvent::Files(1));
                let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.files += 1;
                tally.bytes += file.size;
            }
            Err(error) => self.failed_locally(file, &error),
        }
    }

    fn failed(&self, file: &FileJob, error: &ClientError) {
        if file.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        // What cannot be fetched now is gone on with later.
        if file.notes.is_none() || error.kind() == ErrorKind::Local {
            self.target.discard(&file.temporary);
        }
        let failed = FailedFile {
            path: self.target.shown(&file.folder, &file.name),
            reason: format!("{}: {}", error.what(), error.why()),
        };
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.failed.push(failed);
        if error.kind() != ErrorKind::Local {
            tally.first_failure.get_or_insert_with(|| error.clone());
        }
    }

    fn failed_locally(&self, file: &FileJob, error: &std::io::Error) {
        if is_full(error) {
            let full = self.target.full(error);
            self.tally.lock().unwrap_or_else(PoisonError::into_inner).full.get_or_insert(full);
            self.full.store(true, Ordering::Relaxed);
        }
        let error = ClientError::new(ErrorKind::Local, "it could not be written", error, "");
        self.failed(file, &error);
    }
}

//! File contents from segments to temporary files.
//!
//! Decides how many segments are under way, how their chunks are shared out among cores, and when a file is whole. A
//! chunk that several files of one window need is fetched and opened once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dolmen_proto::ids::SegmentId;
use dolmen_proto::tree::BlobPointer;
use futures::StreamExt;

use super::target::{Attributes, Target, Temporary, write_at};
use crate::error::{ClientError, ErrorKind};
use crate::progress::{Progress, ProgressEvent};
use crate::read::{Dataset, SegmentData};
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
    /// Chunks that are not written yet, and one more until all chunks are known.
    left: AtomicUsize,
    failed: AtomicBool,
}

impl FileJob {
    pub(crate) fn new(folder: Arc<[u8]>, name: &[u8], size: u64, attributes: Attributes, temporary: Temporary) -> Self {
        Self {
            folder,
            name: name.into(),
            size,
            attributes,
            temporary,
            left: AtomicUsize::new(1),
            failed: AtomicBool::new(false),
        }
    }
}

/// A chunk and where it goes.
#[derive(Debug)]
pub(crate) struct Use {
    pub(crate) pointer: BlobPointer,
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
        let segment = chunk.pointer.segment;
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
    /// `Bug` only: files that fail are in the tally.
    pub(crate) async fn restore(
        mut self,
        dataset: &Dataset,
        target: &Arc<Target>,
        progress: &Progress,
        tally: &mut Tally,
    ) -> Result<(), ClientError> {
        let done = Arc::new(Done { target: Arc::clone(target), progress: progress.clone(), tally: Mutex::default() });
        let ended = std::mem::take(&mut self.ended);
        let shared = Arc::clone(&done);
        let empty = tokio::task::spawn_blocking(move || ended.iter().for_each(|file| shared.written(file)));
        empty.await.map_err(|error| ClientError::bug("a restore's thread failed", error))?;
        let mut by_segment = self.by_segment;
        let segments = self.order.iter().filter_map(|id| Some((*id, by_segment.remove(id)?))).collect::<Vec<_>>();
        let mut reads = futures::stream::iter(segments)
            .map(|(id, uses)| segment(dataset, id, uses, &done))
            .buffer_unordered(SEGMENTS_AT_ONCE);
        while let Some(read) = reads.next().await {
            read?;
        }
        drop(reads);
        let part = std::mem::take(&mut *done.tally.lock().unwrap_or_else(PoisonError::into_inner));
        tally.files += part.files;
        tally.bytes += part.bytes;
        tally.failed.extend(part.failed);
        tally.first_failure = tally.first_failure.take().or(part.first_failure);
        Ok(())
    }
}

/// Reads one segment and writes all that is wanted of it.
async fn segment(dataset: &Dataset, id: SegmentId, mut uses: Vec<Use>, done: &Arc<Done>) -> Result<(), ClientError> {
    uses.sort_by_key(|chunk| chunk.pointer.offset);
    let data = match fetch(dataset, id, &uses).await {
        Ok(data) => Arc::new(data),
        Err(error) => {
            let done = Arc::clone(done);
            let fail = move || uses.iter().for_each(|chunk| done.failed(&chunk.file, &error));
            return tokio::task::spawn_blocking(fail)
                .await
                .map_err(|error| ClientError::bug("a restore's thread failed", error));
        }
    };
    let jobs = batches(uses).into_iter().map(|batch| {
        let (data, done) = (Arc::clone(&data), Arc::clone(done));
        dataset.contents().cores().run(move || write_batch(&data, &batch, &done))
    });
    for result in futures::future::join_all(jobs).await {
        result?;
    }
    Ok(())
}

async fn fetch(dataset: &Dataset, id: SegmentId, uses: &[Use]) -> Result<SegmentData, ClientError> {
    let place = dataset.place(id).await?;
    let ranges = uses.iter().map(|chunk| crate::read::range(&chunk.pointer)).collect::<Result<Vec<_>, _>>()?;
    dataset.contents().fetch(&place, &ranges).await
}

/// Shares chunks out in runs; equal chunks, which follow each other, stay together.
fn batches(uses: Vec<Use>) -> Vec<Vec<Use>> {
    let mut batches: Vec<Vec<Use>> = Vec::new();
    let mut bytes = BATCH_BYTES;
    for chunk in uses {
        let same = batches.last().and_then(|batch| batch.last()).is_some_and(|last| last.pointer == chunk.pointer);
        if bytes >= BATCH_BYTES && !same {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += chunk.pointer.length as usize;
        if let Some(batch) = batches.last_mut() {
            batch.push(chunk);
        }
    }
    batches
}

fn write_batch(data: &SegmentData, batch: &[Use], done: &Done) {
    let mut plain = Vec::new();
    let mut opened: Option<(&BlobPointer, usize)> = None;
    let mut handle: Option<(&Arc<FileJob>, std::fs::File)> = None;
    for chunk in batch {
        if chunk.file.failed.load(Ordering::Relaxed) {
            continue;
        }
        let length = match opened {
            Some((pointer, length)) if *pointer == chunk.pointer => length,
            _ => match data.open(&chunk.pointer, &mut plain) {
                Ok(length) => length,
                Err(error) => {
                    opened = None;
                    done.failed(&chunk.file, &error);
                    continue;
                }
            },
        };
        opened = Some((&chunk.pointer, length));
        if !handle.as_ref().is_some_and(|(file, _)| Arc::ptr_eq(file, &chunk.file)) {
            handle = match done.target.write(&chunk.file.temporary) {
                Ok(file) => Some((&chunk.file, file)),
                Err(error) => {
                    done.failed_locally(&chunk.file, &error);
                    continue;
                }
            };
        }
        let written = handle.as_ref().map(|(_, file)| write_at(file, &plain[..length], chunk.at));
        match written {
            Some(Err(error)) => done.failed_locally(&chunk.file, &error),
            _ => {
                done.progress.event(ProgressEvent::Bytes(length as u64));
                done.written(&chunk.file);
            }
        }
    }
}

/// Where the ends of files are noted.
struct Done {
    target: Arc<Target>,
    progress: Progress,
    tally: Mutex<Tally>,
}

impl Done {
    /// One more part of the file is written; the last one puts it in its place.
    fn written(&self, file: &FileJob) {
        if file.left.fetch_sub(1, Ordering::AcqRel) != 1 || file.failed.load(Ordering::Acquire) {
            return;
        }
        match self.target.finish(&file.temporary, &file.folder, &file.name, file.size, file.attributes) {
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
        self.target.discard(&file.temporary);
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
        let error = ClientError::new(ErrorKind::Local, "it could not be written", error, "");
        self.failed(file, &error);
    }
}

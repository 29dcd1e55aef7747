//! One file, or a range of it, written in order to a stream.
//!
//! Decides how far ahead of the stream is read. Never writes to a path.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use dolmen_proto::ids::SegmentId;
use dolmen_proto::manifest::{Extent, FileEntry};
use dolmen_proto::tree::BlobPointer;
use futures::StreamExt;

use crate::error::{ClientError, ErrorKind};
use crate::progress::{Progress, ProgressEvent};
use crate::read::{Dataset, SegmentData};

/// Runs of chunks that are fetched ahead of the stream; the memory budget may allow fewer.
const RUNS_AHEAD: usize = 3;
/// Chunks of one run.
const RUN_CHUNKS_MAX: usize = 256;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A part of the stream that is fetched at once.
enum Run {
    /// Chunks of one segment, with the part of each that is wanted.
    Chunks(SegmentId, Vec<(BlobPointer, Range<usize>)>),
    Zeros(u64),
}

enum Ready {
    Chunks(Arc<SegmentData>, Vec<(BlobPointer, Range<usize>)>),
    Zeros(u64),
}

/// Writes a file's bytes in `range` (all when `None`; cut at the file's end); gives how many.
///
/// # Errors
/// `Damaged` or `NotNow` when a segment cannot be read, `Local` when the stream cannot be written; what was written
/// until then is right.
pub(crate) async fn write_file(
    dataset: &Dataset,
    file: &FileEntry,
    range: Option<Range<u64>>,
    mut writer: Box<dyn Write + Send>,
    progress: &Progress,
) -> Result<u64, ClientError> {
    let wanted =
        range.map_or(0..file.size_bytes, |range| range.start.min(file.size_bytes)..range.end.min(file.size_bytes));
    let mut extents = dataset.extents(file);
    dataset.seek(&mut extents, wanted.start)?;
    let mut total = 0;
    while let Some(placed) = dataset.next_extents(&mut extents).await? {
        let starts_after = placed.first().is_some_and(|first| first.offset_bytes >= wanted.end);
        let runs = runs(placed.into_iter().map(|placed| (placed.offset_bytes, placed.extent)), &wanted)?;
        let mut ready = futures::stream::iter(runs).map(|run| fetch(dataset, run)).buffered(RUNS_AHEAD);
        while let Some(ready) = ready.next().await {
            let ready = ready?;
            let write = move || {
                let written = write_run(&ready, &mut writer);
                (writer, written)
            };
            let (back, written) = tokio::task::spawn_blocking(write)
                .await
                .map_err(|error| ClientError::bug("writing to the stream failed", error))?;
            writer = back;
            let written = written?;
            total += written;
            progress.event(ProgressEvent::Bytes(written));
        }
        if starts_after {
            break;
        }
    }
    Ok(total)
}

fn runs(extents: impl Iterator<Item = (u64, Extent)>, wanted: &Range<u64>) -> Result<Vec<Run>, ClientError> {
    let mut runs = Vec::new();
    for (offset, extent) in extents {
        let start = wanted.start.max(offset);
        let end = wanted.end.min(offset.saturating_add(extent.length_bytes()));
        if start >= end {
            continue;
        }
        match extent {
            Extent::Hole { .. } => runs.push(Run::Zeros(end - start)),
            Extent::Compressed { .. } => return Err(crate::read::compressed()),
            Extent::Chunk(pointer) => {
                // A chunk's length fits a machine word, and so do positions within it.
                let inside = |position: u64| usize::try_from(position - offset).unwrap_or(usize::MAX);
                let part = inside(start)..inside(end);
                match runs.last_mut() {
                    Some(Run::Chunks(segment, chunks))
                        if *segment == pointer.segment && chunks.len() < RUN_CHUNKS_MAX =>
                    {
                        chunks.push((pointer, part));
                    }
                    _ => runs.push(Run::Chunks(pointer.segment, vec![(pointer, part)])),
                }
            }
        }
    }
    Ok(runs)
}

async fn fetch(dataset: &Dataset, run: Run) -> Result<Ready, ClientError> {
    match run {
        Run::Zeros(count) => Ok(Ready::Zeros(count)),
        Run::Chunks(segment, chunks) => {
            let place = dataset.place(segment).await?;
            let ranges =
                chunks.iter().map(|(pointer, _)| crate::read::range(pointer)).collect::<Result<Vec<_>, _>>()?;
            Ok(Ready::Chunks(Arc::new(dataset.contents().fetch(&place, &ranges).await?), chunks))
        }
    }
}

fn write_run(ready: &Ready, writer: &mut dyn Write) -> Result<u64, ClientError> {
    let failed = |error: std::io::Error| {
        ClientError::new(ErrorKind::Local, "could not write to the stream", error, "check where the output goes")
    };
    let mut total = 0;
    match ready {
        Ready::Zeros(count) => {
            let mut left = *count;
            while left > 0 {
                let step = left.min(ZEROS.len() as u64);
                writer.write_all(&ZEROS[..usize::try_from(step).unwrap_or(ZEROS.len())]).map_err(failed)?;
                left -= step;
            }
            total = *count;
        }
        Ready::Chunks(data, chunks) => {
            let mut plain = Vec::new();
            for (pointer, part) in chunks {
                let length = data.open(pointer, &mut plain)?;
                let bytes = plain[..length]
                    .get(part.clone())
                    .ok_or_else(|| ClientError::bug("a range is not in its chunk", format!("{part:?}")))?;
                writer.write_all(bytes).map_err(failed)?;
                total += bytes.len() as u64;
            }
        }
    }
    writer.flush().map_err(failed)?;
    Ok(total)
}

//! One file, or a range of it, written in order to a stream.
//!
//! Decides how far ahead of the stream is read. Never writes to a path.

use std::io::Write;
use std::ops::Range;

use dolmen_proto::manifest::FileEntry;
use futures::StreamExt;

use crate::error::{ClientError, ErrorKind};
use crate::progress::{Progress, ProgressEvent};
use crate::read::range::{Fetched, locate};
use crate::read::{Dataset, runs};

/// Jobs that are fetched ahead of the stream; the memory budget may allow fewer.
const JOBS_AHEAD: usize = 3;

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
    let mut total = 0;
    loop {
        if total == 0 {
            dataset.seek(&mut extents, wanted.start)?;
        }
        let Some(placed) = dataset.next_extents(&mut extents).await? else { return Ok(total) };
        let end = placed.last().map_or(0, |last| last.offset_bytes.saturating_add(last.extent.length_bytes()));
        let jobs = locate(dataset, runs(placed, &wanted), false).await?;
        let mut ready = futures::stream::iter(jobs).map(|job| job.fetch(dataset)).buffered(JOBS_AHEAD);
        while let Some(ready) = ready.next().await {
            let ready = ready?;
            let write = move || {
                let written = write_job(&ready, &mut writer);
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
        if end >= wanted.end {
            return Ok(total);
        }
    }
}

fn write_job(ready: &Fetched, writer: &mut dyn Write) -> Result<u64, ClientError> {
    let failed = |error: std::io::Error| {
        ClientError::new(ErrorKind::Local, "could not write to the stream", error, "check where the output goes")
    };
    let mut total = 0;
    ready.open(|bytes| {
        total += bytes.len() as u64;
        writer.write_all(bytes).map_err(failed)
    })?;
    writer.flush().map_err(failed)?;
    Ok(total)
}

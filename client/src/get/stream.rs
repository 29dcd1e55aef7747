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

/// Writes a file's bytes in `range` (all when `None`; cut at the file's end); gives how many. Where something cannot be had
/// and there is a newer table, goes on by that from where it was: chunks may have been packed anew and what they lay in freed.
///
/// # Errors
/// `Damaged` or `NotNow` when a segment cannot be read, `Local` when the stream cannot be written; what was written
/// until then is right.
pub(crate) async fn write_file(
    dataset: &Dataset,
    file: &FileEntry,
    range: Option<Range<u64>>,
    writer: Box<dyn Write + Send>,
    progress: &Progress,
) -> Result<u64, ClientError> {
    let wanted =
        range.map_or(0..file.size_bytes, |range| range.start.min(file.size_bytes)..range.end.min(file.size_bytes));
    let mut writing = Writing { dataset, file, progress, writer: Some(writer), total: 0 };
    loop {
        let (known, before) = (dataset.known_table(), writing.total);
        match writing.write(wanted.start + before..wanted.end).await {
            Ok(()) => return Ok(writing.total),
            // Once for every newer table, of which there is one in many seconds.
            Err(error) if dataset.is_newer_than(&known, &error).await => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file on its way to a stream.
struct Writing<'a> {
    dataset: &'a Dataset,
    file: &'a FileEntry,
    progress: &'a Progress,
    /// Gone only while a thread writes to it.
    writer: Option<Box<dyn Write + Send>>,
    /// Bytes written so far.
    total: u64,
}

impl Writing<'_> {
    async fn write(&mut self, wanted: Range<u64>) -> Result<(), ClientError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let dataset = self.dataset;
        let mut extents = dataset.extents(self.file);
        let mut begun = false;
        loop {
            if !begun {
                dataset.seek(&mut extents, wanted.start)?;
            }
            let Some(placed) = dataset.next_extents(&mut extents).await? else { return Ok(()) };
            let end = placed.last().map_or(0, |last| last.offset_bytes.saturating_add(last.extent.length_bytes()));
            let jobs = locate(dataset, runs(placed, &wanted), false).await?;
            let mut ready = futures::stream::iter(jobs).map(|job| job.fetch(dataset)).buffered(JOBS_AHEAD);
            while let Some(ready) = ready.next().await {
                let ready = ready?;
                let gone = || ClientError::bug("writing to the stream failed", "it was broken off before");
                let mut writer = self.writer.take().ok_or_else(gone)?;
                let write = move || {
                    let written = write_job(&ready, &mut writer);
                    (writer, written)
                };
                let (back, written) = tokio::task::spawn_blocking(write)
                    .await
                    .map_err(|error| ClientError::bug("writing to the stream failed", error))?;
                self.writer = Some(back);
                let written = written?;
                self.total += written;
                begun = true;
                self.progress.event(ProgressEvent::Bytes(written));
            }
            if end >= wanted.end {
                return Ok(());
            }
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

//! Ranges of a file: found in its extents, fetched, opened.
//!
//! Decides how many parts are under way at once. Never reads more of a file's extents than lead to the range, nor more
//! of a segment than the windows that hold it.

use std::ops::Range;
use std::sync::Arc;

use dolmen_proto::manifest::{FileEntry, PlacedExtent};
use futures::{StreamExt, TryStreamExt};

use super::dataset::Dataset;
use super::fetch::rest_of_window;
use super::part::{Part, Run, runs};
use super::segment::{Opener, Place, SegmentData};
use crate::error::ClientError;

/// Jobs of one range that are fetched at a time; the memory budget may allow fewer.
const JOBS_AT_ONCE: usize = 4;
/// So little is opened where it comes in: handing it to another thread would take longer.
const OPENED_HERE_MAX_BYTES: usize = 128 * 1024;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A part and where its sealed chunk begins in the segment that it lies in.
type Lying = (u32, Part);

/// Parts of chunks that lie in one segment now, or zeros: what one fetch brings.
pub(crate) enum Job {
    /// Parts, each with the place of its sealed chunk in the segment.
    Parts(Arc<Place>, Vec<Lying>),
    /// So many zeros.
    Zeros(u64),
}

/// A job whose bytes are here, still sealed.
pub(crate) enum Fetched {
    /// Parts and the data that they lie in.
    Parts(SegmentData, Vec<Lying>),
    /// So many zeros.
    Zeros(u64),
}

/// Finds the places of what is wanted. `extend`: the last part is made longer by what comes anyway.
///
/// # Errors
/// `Damaged` or `NotNow` when the table cannot be read or does not have a segment.
pub(crate) async fn locate(dataset: &Dataset, runs: Vec<Run>, extend: bool) -> Result<Vec<Job>, ClientError> {
    let mut jobs = Vec::with_capacity(runs.len());
    for run in runs {
        let parts = match run {
            Run::Zeros(count) => {
                jobs.push(Job::Zeros(count));
                continue;
            }
            Run::Parts(parts) => parts,
        };
        // Chunks of one segment usually still lie in one; those that were moved may not.
        let mut open: Option<(Arc<Place>, Vec<Lying>)> = None;
        for part in parts {
            let (place, offset) = dataset.locate(&part.chunk.pointer).await?;
            match &mut open {
                Some((same, parts)) if same.id == place.id => parts.push((offset, part)),
                _ => jobs
                    .extend(open.replace((place, vec![(offset, part)])).map(|(place, parts)| Job::Parts(place, parts))),
            }
        }
        jobs.extend(open.map(|(place, parts)| Job::Parts(place, parts)));
    }
    if let (true, Some(Job::Parts(place, parts))) = (extend, jobs.last_mut())
        && let Some((offset, last)) = parts.last_mut()
    {
        let (start, length) = last.chunk.sealed_part(&last.plain)?;
        let more = rest_of_window(place, offset.saturating_add(start), length);
        last.plain = last.chunk.extended(&last.plain, more as usize);
    }
    Ok(jobs)
}

impl Job {
    /// How many parts of chunks it brings.
    pub(crate) fn parts(&self) -> usize {
        match self {
            Self::Parts(_, parts) => parts.len(),
            Self::Zeros(_) => 0,
        }
    }

    /// Plain bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Parts(_, parts) => parts.iter().map(|(_, part)| part.plain.len()).sum(),
            Self::Zeros(count) => usize::try_from(*count).unwrap_or_default(),
        }
    }

    /// Fetches the windows that hold the parts.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when the segment cannot be read.
    pub(crate) async fn fetch(self, dataset: &Dataset) -> Result<Fetched, ClientError> {
        let (place, parts) = match self {
            Self::Zeros(count) => return Ok(Fetched::Zeros(count)),
            Self::Parts(place, parts) => (place, parts),
        };
        let mut ranges = Vec::with_capacity(parts.len());
        for (offset, part) in &parts {
            let (start, length) = part.chunk.sealed_part(&part.plain)?;
            ranges.push((offset.saturating_add(start), length));
        }
        Ok(Fetched::Parts(dataset.contents().fetch(&place, &ranges).await?, parts))
    }
}

impl Fetched {
    /// Whether chunks have to be unpacked whole, however little of them is wanted.
    fn is_packed(&self) -> bool {
        match self {
            Self::Zeros(_) => false,
            Self::Parts(_, parts) => parts.iter().any(|(_, part)| part.chunk.unpacked_bytes.is_some()),
        }
    }

    /// Hands the plain bytes to `take`, in order and in pieces.
    ///
    /// # Errors
    /// `Damaged` when a chunk does not open, otherwise what `take` says.
    pub(crate) fn open(&self, mut take: impl FnMut(&[u8]) -> Result<(), ClientError>) -> Result<(), ClientError> {
        match self {
            Self::Zeros(count) => {
                let mut left = *count;
                while left > 0 {
                    let step = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
                    take(&ZEROS[..step])?;
                    left -= step as u64;
                }
            }
            Self::Parts(data, parts) => {
                let mut opener = Opener::default();
                for (offset, part) in parts {
                    take(opener.open(data, &part.chunk, *offset, &part.plain)?)?;
                }
            }
        }
        Ok(())
    }
}

/// What of a file's extents overlaps a range, in order; reads one blob a level of their tree, and the leaves between.
///
/// # Errors
/// `Damaged` or `NotNow` when a blob cannot be read.
async fn overlapping(
    dataset: &Dataset,
    file: &FileEntry,
    range: &Range<u64>,
) -> Result<Vec<PlacedExtent>, ClientError> {
    let mut extents = dataset.extents(file);
    let mut found = Vec::new();
    loop {
        if found.is_empty() {
            dataset.seek(&mut extents, range.start)?;
        }
        let Some(placed) = dataset.next_extents(&mut extents).await? else { return Ok(found) };
        let end = placed.last().map_or(0, |last| last.offset_bytes.saturating_add(last.extent.length_bytes()));
        found.extend(placed.into_iter().filter(|placed| {
            let end = placed.offset_bytes.saturating_add(placed.extent.length_bytes());
            placed.offset_bytes < range.end && end > range.start
        }));
        if end >= range.end {
            return Ok(found);
        }
    }
}

/// Reads a range of a file, which must lie in it, into one buffer. `extend`: gives more bytes when they come anyway. A file may
/// be open for longer than segments that were packed anew are kept, so a newer table is looked for before giving up.
///
/// # Errors
/// `Damaged` or `NotNow` when something cannot be read.
pub(crate) async fn read(
    dataset: &Dataset,
    file: &FileEntry,
    range: Range<u64>,
    extend: bool,
) -> Result<Vec<u8>, ClientError> {
    let known = dataset.known_table();
    match read_once(dataset, file, range.clone(), extend).await {
        Err(error) if dataset.is_newer_than(&known, &error).await => read_once(dataset, file, range, extend).await,
        read => read,
    }
}

async fn read_once(
    dataset: &Dataset,
    file: &FileEntry,
    range: Range<u64>,
    extend: bool,
) -> Result<Vec<u8>, ClientError> {
    let runs = runs(overlapping(dataset, file, &range).await?, &range);
    let opened = futures::stream::iter(locate(dataset, runs, extend).await?)
        .map(|job| async move {
            let bytes = job.bytes();
            let fetched = job.fetch(dataset).await?;
            let here = bytes <= OPENED_HERE_MAX_BYTES && !fetched.is_packed();
            let open = move || {
                let mut out = Vec::with_capacity(bytes);
                let taken = fetched.open(|piece| {
                    out.extend_from_slice(piece);
                    Ok(())
                });
                taken.map(|()| out)
            };
            if here { open() } else { dataset.contents().cores().run(open).await? }
        })
        .buffered(JOBS_AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    let bytes = match <[Vec<u8>; 1]>::try_from(opened) {
        Ok([single]) => single,
        Err(several) => several.concat(),
    };
    if (bytes.len() as u64) < range.end.saturating_sub(range.start) {
        return Err(ClientError::bug("a range came back too short", format!("{range:?}")));
    }
    Ok(bytes)
}

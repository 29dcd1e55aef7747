//! Reading what a link leads to: segments, documents, folders.

/// Extension of a snapshot that may be ignored: a single file was put, and the root folder only holds it.
pub(crate) const SINGLE_EXTENSION: u16 = 2;

mod dataset;
mod fetch;
mod segment;

pub(crate) use dataset::{Dataset, Folder, range};

pub(crate) use segment::{Place, SegmentData};

use crate::error::{ClientError, ErrorKind};

/// What stands where a compressed chunk would be decompressed: no writer of this release makes one yet.
pub(crate) fn compressed() -> ClientError {
    ClientError::new(
        ErrorKind::Refused,
        "cannot read a file",
        "it has compressed chunks, which this build does not decompress",
        "read it with a newer build of dolmen",
    )
}

//! Reading what a link leads to: segments, documents, folders.

mod dataset;
mod fetch;
mod segment;

pub(crate) use dataset::{Dataset, Folder, range};

pub(crate) use segment::{Place, SegmentData};

//! The table of a dataset as it was when the dataset was opened: what a commit extends.
//!
//! Decides nothing: hands out rows in order, and shows whoever extends the table the blobs that were read.

use dolmen_proto::head::TableLocation;
use dolmen_proto::table::{Rows, SegmentRow, TableRoot};
use dolmen_proto::tree::{BlobPointer, TreeItem, TreeWalk};

use super::dataset::Dataset;
use super::table::damaged;
use crate::error::ClientError;

/// The rows of a table that are being read.
pub(crate) enum TableRows {
    Inline(Vec<SegmentRow>),
    Tree(Box<TreeWalk<SegmentRow>>),
}

impl Dataset {
    /// The root of the table as it was when the dataset was opened: what a commit extends.
    pub(crate) fn table(&self) -> &TableRoot {
        &self.base.root
    }

    /// Where the root of the table lies.
    pub(crate) fn table_location(&self) -> &TableLocation {
        &self.base.location
    }

    /// Starts to read the rows of the table.
    pub(crate) fn rows(&self) -> TableRows {
        match &self.base.root.rows {
            Rows::Inline(rows) => TableRows::Inline(rows.clone()),
            tree @ Rows::Tree { .. } => {
                tree.walk().map_or(TableRows::Inline(Vec::new()), |walk| TableRows::Tree(Box::new(walk)))
            }
        }
    }

    /// The next rows, ascending by segment; may be none though more follow. `None` at the end. Shows `seen` the blob that
    /// was read, if one was.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a blob cannot be read.
    pub(crate) async fn next_rows_seen(
        &self,
        rows: &mut TableRows,
        seen: impl FnOnce(&BlobPointer, &[u8]),
    ) -> Result<Option<Vec<SegmentRow>>, ClientError> {
        match rows {
            TableRows::Inline(rows) if rows.is_empty() => Ok(None),
            TableRows::Inline(rows) => Ok(Some(std::mem::take(rows))),
            TableRows::Tree(walk) => self.next_of_table_seen(walk, seen).await,
        }
    }

    /// The next items of one of the table's own trees; may be none though more follow. `None` at the end. Shows `seen` the
    /// blob that was read.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a blob cannot be read.
    pub(crate) async fn next_of_table_seen<T: TreeItem>(
        &self,
        walk: &mut TreeWalk<T>,
        seen: impl FnOnce(&BlobPointer, &[u8]),
    ) -> Result<Option<Vec<T>>, ClientError> {
        let Some(pointer) = walk.wanted().cloned() else { return Ok(None) };
        let blob = self.base.blob(&self.documents, &pointer).await?;
        let items = walk.supply(&blob).map_err(|error| damaged(&error))?;
        seen(&pointer, &blob);
        Ok(Some(items))
    }
}

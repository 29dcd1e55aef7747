//! A snapshot's entries one after another, depth first.
//!
//! Decides the order: names in byte order, a folder before what lies in it. Holds one open folder a level.

use std::collections::VecDeque;

use dolmen_proto::limits::FOLDER_DEPTH_MAX;
use dolmen_proto::manifest::{Entry, FolderEntry};

use super::{Dataset, Folder};
use crate::error::{ClientError, ErrorKind};

/// A folder that is being walked.
struct Open {
    path: Vec<u8>,
    reading: Folder,
    ready: VecDeque<Entry>,
}

/// A walk over entries. It goes into a folder only when it is told to.
pub(crate) struct EntryWalk {
    dataset: Dataset,
    stack: Vec<Open>,
}

/// A path with one more component.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

impl EntryWalk {
    /// Over the entries of a folder that lies at `path`.
    pub(crate) fn new(dataset: Dataset, path: Vec<u8>, folder: &FolderEntry) -> Self {
        let reading = dataset.folder(folder);
        Self { dataset, stack: vec![Open { path, reading, ready: VecDeque::new() }] }
    }

    /// The next entry and its path; `None` at the end.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a folder cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Option<(Vec<u8>, Entry)>, ClientError> {
        while let Some(open) = self.stack.last_mut() {
            if let Some(entry) = open.ready.pop_front() {
                return Ok(Some((join(&open.path, entry.name.as_bytes()), entry)));
            }
            match self.dataset.next_entries(&mut open.reading).await? {
                Some(entries) => open.ready.extend(entries),
                None => {
                    self.stack.pop();
                }
            }
        }
        Ok(None)
    }

    /// How many folders are open: 1 among the entries of the folder that the walk began with.
    pub(crate) fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Goes into a folder that was given last: its entries come next.
    ///
    /// # Errors
    /// `Damaged` when folders lie deeper than any writer puts them.
    pub(crate) fn enter(&mut self, path: Vec<u8>, folder: &FolderEntry) -> Result<(), ClientError> {
        if self.stack.len() > FOLDER_DEPTH_MAX {
            return Err(ClientError::new(
                ErrorKind::Damaged,
                "the dataset's folders lie too deep",
                format!("more than {FOLDER_DEPTH_MAX} lie in each other"),
                "what was uploaded is damaged in itself: ask the dataset's owner",
            ));
        }
        let reading = self.dataset.folder(folder);
        self.stack.push(Open { path, reading, ready: VecDeque::new() });
        Ok(())
    }
}

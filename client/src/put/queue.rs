//! What was found and stored, on its way to the manifest: a queue that never fills memory and never makes its writer wait.
//!
//! Decides when records go to a file: once a few pages wait in memory. Entries must wait until the segments that they
//! name are closed, and any number of small or unchanged files may wait behind one of them; a queue that made its
//! writer wait would then never end. The file has no name, so nothing is left of it whatever happens.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of a page; a record that is larger has one of its own.
const PAGE_BYTES: usize = 256 * 1024;
/// Pages that wait in memory.
const PAGES_IN_MEMORY: usize = 16;

enum Page {
    Memory(Vec<u8>),
    File { offset: u64, length: usize },
}

#[derive(Default)]
struct State {
    pages: VecDeque<Page>,
    in_memory: usize,
    file: Option<Arc<File>>,
    in_file: usize,
    /// Where the next page goes in the file: its start again once nothing waits there.
    file_end: u64,
    /// The writer has written all.
    ended: bool,
    writer_gone: bool,
    reader_gone: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a queue does not go on.
#[derive(Debug)]
pub(crate) enum QueueError {
    /// The other end is gone; why, it says itself.
    Gone,
    /// The file failed.
    File(io::Error),
}

impl From<io::Error> for QueueError {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// The end that writes.
pub(crate) struct QueueWriter {
    shared: Arc<Shared>,
    folder: PathBuf,
    page: Vec<u8>,
}

/// The end that reads, on a thread that may block.
pub(crate) struct QueueReader {
    shared: Arc<Shared>,
    page: Vec<u8>,
    at: usize,
}

/// A queue whose file, if it needs one, lies in `folder`.
pub(crate) fn queue(folder: &Path) -> (QueueWriter, QueueReader) {
    let shared = Arc::<Shared>::default();
    let writer = QueueWriter { shared: Arc::clone(&shared), folder: folder.to_path_buf(), page: Vec::new() };
    (writer, QueueReader { shared, page: Vec::new(), at: 0 })
}

impl QueueWriter {
    /// Adds a record.
    ///
    /// # Errors
    /// `Gone` when nobody reads, `File` when the file cannot be written.
    pub(crate) fn push(&mut self, record: &[u8]) -> Result<(), QueueError> {
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        self.page.extend_from_slice(&length.to_le_bytes());
        self.page.extend_from_slice(record);
        if self.page.len() >= PAGE_BYTES { self.turn() } else { Ok(()) }
    }

    /// Hands on the page that is being filled.
    fn turn(&mut self) -> Result<(), QueueError> {
        let page = std::mem::take(&mut self.page);
        let mut state = self.shared.state();
        if state.reader_gone {
            return Err(QueueError::Gone);
        }
        if page.is_empty() {
            return Ok(());
        }
        if state.in_memory < PAGES_IN_MEMORY {
            state.in_memory += 1;
            state.pages.push_back(Page::Memory(page));
        } else {
            let file = match &state.file {
                Some(file) => Arc::clone(file),
                None => {
                    let file = Arc::new(unnamed(&self.folder)?);
                    state.file = Some(Arc::clone(&file));
                    file
                }
            };
            let offset = state.file_end;
            drop(state);
            file.write_all_at(&page, offset)?;
            state = self.shared.state();
            state.file_end = offset + page.len() as u64;
            state.in_file += 1;
            state.pages.push_back(Page::File { offset, length: page.len() });
        }
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Says that nothing follows.
    ///
    /// # Errors
    /// As [`QueueWriter::push`].
    pub(crate) fn end(mut self) -> Result<(), QueueError> {
        self.turn()?;
        self.shared.state().ended = true;
        Ok(())
    }
}

impl Drop for QueueWriter {
    fn drop(&mut self) {
        self.shared.state().writer_gone = true;
        self.shared.changed.notify_one();
    }
}

impl QueueReader {
    /// The next record, waiting for it; `None` at the end.
    ///
    /// # Errors
    /// `Gone` when the writer went before the end, `File` when the file cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, QueueError> {
        if self.at == self.page.len() && !self.turn()? {
            return Ok(None);
        }
        let cut_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "a record is cut off");
        let rest = self.page.get(self.at..).unwrap_or_default();
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
        let record = rest.get(..length).ok_or_else(cut_off)?;
        self.at += 4 + length;
        Ok(Some(record))
    }

    fn turn(&mut self) -> Result<bool, QueueError> {
        let mut state = self.shared.state();
        loop {
            match state.pages.pop_front() {
                Some(Page::Memory(page)) => {
                    state.in_memory -= 1;
                    self.page = page;
                    break;
                }
                Some(Page::File { offset, length }) => {
                    let file = state.file.clone().ok_or(QueueError::Gone)?;
                    self.page.clear();
                    self.page.resize(length, 0);
                    file.read_exact_at(&mut self.page, offset)?;
                    state.in_file -= 1;
                    if state.in_file == 0 {
                        state.file_end = 0;
                    }
                    break;
                }
                None if state.ended => return Ok(false),
                None if state.writer_gone => return Err(QueueError::Gone),
                None => {
                    state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        self.at = 0;
        Ok(true)
    }
}

impl Drop for QueueReader {
    fn drop(&mut self) {
        self.shared.state().reader_gone = true;
    }
}

/// A file of this process alone, gone with it.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn unnamed(folder: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("scratch-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = folder.join(name);
    // What a process of the same number left behind when it was killed just here.
    let _ = fs::remove_file(&path);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u32) -> Vec<u8> {
        vec![number.to_le_bytes()[0]; (number as usize * 37) % 4000]
    }

    #[test]
    fn records_come_in_order_through_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, mut reader) = queue(folder.path());
        // More than fits in memory before the first is read, twice.
        for round in 0..2u32 {
            for number in 0..6000 {
                writer.push(&record(number + round)).unwrap();
            }
            writer.push(&vec![round as u8; 3 * PAGE_BYTES]).unwrap();
            assert!(reader.shared.state().file.is_some(), "it is too much for memory");
            assert!(reader.shared.state().in_memory <= PAGES_IN_MEMORY);
            for number in 0..6000 {
                assert_eq!(reader.next().unwrap().unwrap(), record(number + round));
            }
            assert_eq!(reader.next().unwrap().unwrap().len(), 3 * PAGE_BYTES);
        }
        writer.end().unwrap();
        assert!(reader.next().unwrap().is_none());
        assert!(reader.next().unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn each_end_learns_that_the_other_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, mut reader) = queue(folder.path());
        writer.push(&record(1)).unwrap();
        let waiting = std::thread::spawn(move || matches!(reader.next(), Err(QueueError::Gone)));
        drop(writer);
        assert!(waiting.join().unwrap());
        let (mut writer, reader) = queue(folder.path());
        drop(reader);
        assert!(matches!(writer.push(&vec![0; PAGE_BYTES]), Err(QueueError::Gone)));
    }
}

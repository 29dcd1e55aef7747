//! A snapshot, or a part of it, restored into a folder or written to a stream.
//!
//! Decides the order: folders and small things at once, file contents in windows of many files, each segment of a
//! window read once. Never decides what may be written where: see [`target`].

mod contents;
mod stream;
mod target;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dolmen_proto::manifest::{Entry, EntryKind, FileEntry, FolderEntry};

use self::contents::{FileJob, Tally, Use, Window};
use self::target::{Attributes, Existing, Target};
use crate::error::{ClientError, ErrorKind};
use crate::options::{Destination, GetOptions};
use crate::progress::{Progress, ProgressEvent, Stage};
use crate::read::{Chunk, Dataset, Folder, SINGLE_EXTENSION};
use crate::report::{FailedFile, GetReport, mib_per_second};

pub(crate) use stream::write_file;

/// Restores what `options` name of the dataset.
///
/// # Errors
/// As [`crate::Client::get`].
pub(crate) async fn get(
    dataset: &Dataset,
    to: Destination,
    options: &GetOptions,
    progress: &Progress,
) -> Result<GetReport, ClientError> {
    let start = Instant::now();
    let entry = dataset.entry(&options.path).await?;
    let root = match entry {
        None => {
            let snapshot = dataset.snapshot().await?;
            match snapshot.extensions.get(SINGLE_EXTENSION) {
                Some(_) => {
                    single_entry(dataset, &snapshot.root).await?.map_or(Selected::Folder(snapshot.root), Selected::One)
                }
                None => Selected::Folder(snapshot.root),
            }
        }
        Some(Entry { kind: EntryKind::Folder(folder), .. }) => Selected::Folder(folder),
        Some(entry) => Selected::One(entry),
    };
    let path = match to {
        Destination::Path(path) => path,
        Destination::Writer(writer) => {
            let file = only_file(dataset, root).await?;
            progress.stage(Stage::Downloading);
            progress.event(ProgressEvent::Total { files: 1, bytes: file.size_bytes });
            let bytes = write_file(dataset, &file, None, writer, progress).await?;
            return Ok(report(dataset, Tally { files: 1, bytes, ..Tally::default() }, start));
        }
    };
    let mut restore = Restore::open(dataset, &path, options, progress, &root).await?;
    progress.stage(Stage::Downloading);
    match root {
        Selected::Folder(folder) => restore.tree(folder).await?,
        Selected::One(entry) => {
            let entry = match restore.name.take() {
                Some(name) => renamed(entry, &name)?,
                None => entry,
            };
            restore.entries(b"", vec![entry]).await?;
        }
    }
    let tally = restore.finish().await?;
    Ok(report(dataset, tally, start))
}

fn report(dataset: &Dataset, tally: Tally, start: Instant) -> GetReport {
    GetReport {
        files: tally.files,
        bytes: tally.bytes,
        mib_s: mib_per_second(tally.bytes, start.elapsed()),
        degraded_segments: dataset.contents().degraded_segments(),
        skipped: tally.skipped,
        failed: tally.failed,
    }
}

/// What is to be restored.
enum Selected {
    Folder(FolderEntry),
    One(Entry),
}

fn renamed(mut entry: Entry, name: &[u8]) -> Result<Entry, ClientError> {
    entry.name = dolmen_proto::manifest::Name::new(name).map_err(|error| {
        ClientError::new(ErrorKind::Usage, "that is not the name of a file", format!("it {error}"), "give another one")
    })?;
    Ok(entry)
}

/// The entry of a folder that has exactly one, which is no folder.
async fn single_entry(dataset: &Dataset, folder: &FolderEntry) -> Result<Option<Entry>, ClientError> {
    if folder.totals.entries() != 1 || folder.totals.folders != 0 {
        return Ok(None);
    }
    let mut reading = dataset.folder(folder);
    while let Some(entries) = dataset.next_entries(&mut reading).await? {
        if let Some(entry) = entries.into_iter().next() {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

async fn only_file(dataset: &Dataset, selected: Selected) -> Result<FileEntry, ClientError> {
    let entry = match selected {
        Selected::One(entry) => Some(entry),
        Selected::Folder(folder) => single_entry(dataset, &folder).await?,
    };
    match entry {
        Some(Entry { kind: EntryKind::File(file), .. }) => Ok(file),
        _ => Err(ClientError::new(
            ErrorKind::Usage,
            "only one file fits a stream",
            "what was named is not exactly one file",
            "name a file in the snapshot, or a folder to restore into",
        )),
    }
}

/// A folder that is being walked.
struct Open {
    reading: Folder,
    path: Vec<u8>,
}

/// A restore under way.
struct Restore<'a> {
    dataset: &'a Dataset,
    target: Arc<Target>,
    options: &'a GetOptions,
    progress: &'a Progress,
    window: Window,
    tally: Tally,
    /// Folders to be given their modes and times at the end, parents first.
    folders: Vec<(Vec<u8>, Attributes)>,
    /// The name that a single entry gets.
    name: Option<Vec<u8>>,
}

impl<'a> Restore<'a> {
    async fn open(
        dataset: &'a Dataset,
        path: &Path,
        options: &'a GetOptions,
        progress: &'a Progress,
        selected: &Selected,
    ) -> Result<Restore<'a>, ClientError> {
        let (files, bytes) = match selected {
            Selected::Folder(folder) => (folder.totals.files, folder.totals.bytes),
            Selected::One(Entry { kind: EntryKind::File(file), .. }) => (1, file.size_bytes),
            Selected::One(_) => (0, 0),
        };
        let single = matches!(selected, Selected::One(_));
        progress.event(ProgressEvent::Total { files, bytes });
        let (path, overwrite) = (path.to_path_buf(), options.overwrite);
        let (target, name) = blocking(move || {
            let (folder, name) = place(path, single);
            Target::open(&folder, overwrite).map(|target| (Arc::new(target), name))
        })
        .await??;
        Ok(Restore {
            dataset,
            target,
            options,
            progress,
            window: Window::default(),
            tally: Tally::default(),
            folders: Vec::new(),
            name,
        })
    }

    /// Restores a folder's contents, depth first; keeps one open folder a level.
    async fn tree(&mut self, root: FolderEntry) -> Result<(), ClientError> {
        let mut stack = vec![Open { reading: self.dataset.folder(&root), path: Vec::new() }];
        while let Some(open) = stack.last_mut() {
            let path = open.path.clone();
            let Some(entries) = self.dataset.next_entries(&mut open.reading).await? else {
                stack.pop();
                continue;
            };
            let mut below = Vec::new();
            let mut others = Vec::new();
            for entry in entries {
                match &entry.kind {
                    EntryKind::Folder(folder) => {
                        below.push((entry.name.as_bytes().to_vec(), attributes(&entry), folder.clone()));
                    }
                    _ => others.push(entry),
                }
            }
            self.entries(&path, others).await?;
            let made = self.make_folders(&path, below).await?;
            // The last one pushed is read next: the first in the order of names.
            for (path, folder) in made.into_iter().rev() {
                stack.push(Open { reading: self.dataset.folder(&folder), path });
            }
        }
        Ok(())
    }

    async fn make_folders(
        &mut self,
        parent: &[u8],
        folders: Vec<(Vec<u8>, Attributes, FolderEntry)>,
    ) -> Result<Vec<(Vec<u8>, FolderEntry)>, ClientError> {
        let (target, parent) = (Arc::clone(&self.target), parent.to_vec());
        let results = blocking(move || {
            let make = |(name, attributes, folder): (Vec<u8>, Attributes, FolderEntry)| {
                let made = target.make_folder(&parent, &name);
                let shown = target.shown(&parent, &name);
                (join(&parent, &name), shown, attributes, folder, made)
            };
            folders.into_iter().map(make).collect::<Vec<_>>()
        })
        .await?;
        let mut made = Vec::new();
        for (path, shown, attributes, folder, result) in results {
            match result {
                Ok(()) => {
                    self.folders.push((path.clone(), attributes));
                    made.push((path, folder));
                }
                Err(error) => self.fail(shown, format!("the folder and all in it: {error}")),
            }
        }
        Ok(made)
    }

    fn fail(&mut self, path: String, reason: String) {
        self.tally.failed.push(FailedFile { path, reason });
    }

    /// Restores files and links of one folder; contents follow when the window is full.
    async fn entries(&mut self, folder: &[u8], entries: Vec<Entry>) -> Result<(), ClientError> {
        let (target, path) = (Arc::clone(&self.target), Arc::<[u8]>::from(folder));
        let check = self.options.check_existing;
        let at = Arc::clone(&path);
        let looked_at = blocking(move || {
            entries.into_iter().map(|entry| (look(&target, &at, &entry, check), entry)).collect::<Vec<_>>()
        })
        .await?;
        for (outcome, entry) in looked_at {
            let shown = self.target.shown(folder, entry.name.as_bytes());
            match (outcome, entry.kind.clone()) {
                (Err(error), _) => self.fail(shown, error.to_string()),
                (Ok(Look::Done), EntryKind::File(file)) => {
                    self.tally.files += 1;
                    self.tally.skipped += 1;
                    self.tally.bytes += file.size_bytes;
                    self.progress.event(ProgressEvent::Bytes(file.size_bytes));
                    self.progress.event(ProgressEvent::Files(1));
                }
                (Ok(Look::Fetch), EntryKind::File(file)) => {
                    self.progress.event(ProgressEvent::Current(shown));
                    self.file(&path, &entry, &file).await?;
                }
                (Ok(_), _) => {}
            }
        }
        Ok(())
    }

    async fn file(&mut self, folder: &Arc<[u8]>, entry: &Entry, file: &FileEntry) -> Result<(), ClientError> {
        let job = Arc::new(FileJob::new(
            Arc::clone(folder),
            entry.name.as_bytes(),
            file.size_bytes,
            attributes(entry),
            self.target.temporary(),
        ));
        let mut extents = self.dataset.extents(file);
        while let Some(placed) = self.dataset.next_extents(&mut extents).await? {
            for placed in placed {
                if let Some(chunk) = Chunk::of(placed.extent) {
                    self.window.push(Use { chunk, file: Arc::clone(&job), at: placed.offset_bytes });
                }
            }
            if self.window.is_full() {
                self.flush().await?;
            }
        }
        // Nothing more will be added: it is finished when its last chunk is written, or here when it has none left.
        self.window.end(job);
        if self.window.is_full() {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ClientError> {
        let window = std::mem::take(&mut self.window);
        window.restore(self.dataset, &self.target, self.progress, &mut self.tally).await
    }

    async fn finish(mut self) -> Result<Tally, ClientError> {
        self.flush().await?;
        let (target, folders) = (Arc::clone(&self.target), std::mem::take(&mut self.folders));
        let failed = blocking(move || {
            let finish = |(path, attributes): (Vec<u8>, Attributes)| {
                let error = target.finish_folder(&path, attributes).err()?;
                Some((target.shown(&path, b""), error.to_string()))
            };
            folders.into_iter().rev().filter_map(finish).collect::<Vec<_>>()
        })
        .await?;
        for (path, reason) in failed {
            self.fail(path, reason);
        }
        self.tally.outcome()
    }
}

/// What is to be done for an entry that is no folder.
enum Look {
    /// Nothing more: it is there.
    Done,
    /// Its contents have to be fetched.
    Fetch,
}

fn look(target: &Target, folder: &[u8], entry: &Entry, check: bool) -> std::io::Result<Look> {
    let (name, attributes) = (entry.name.as_bytes(), attributes(entry));
    match &entry.kind {
        EntryKind::Folder(_) => Ok(Look::Done),
        EntryKind::Symlink { target: to } => target.symlink(folder, name, to, attributes.mtime_ns).map(|()| Look::Done),
        EntryKind::File(file) => match target.existing(folder, name, file.size_bytes, attributes)? {
            Existing::Same if check => match file.hash {
                Some(hash) if target.hash(folder, name)? == hash => Ok(Look::Done),
                _ => Ok(Look::Fetch),
            },
            Existing::Same => Ok(Look::Done),
            Existing::Nothing | Existing::Other => Ok(Look::Fetch),
        },
    }
}

fn attributes(entry: &Entry) -> Attributes {
    Attributes { mode: entry.mode, mtime_ns: entry.modified_ns }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// The folder to restore into, and the name that a single entry gets there: `cp`'s rule.
fn place(path: PathBuf, single: bool) -> (PathBuf, Option<Vec<u8>>) {
    use std::os::unix::ffi::OsStrExt;
    let is_folder = path.is_dir() || path.as_os_str().as_bytes().ends_with(b"/");
    match path.file_name() {
        Some(name) if single && !is_folder => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (parent.to_path_buf(), Some(name.as_bytes().to_vec()))
        }
        _ => (path, None),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ClientError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ClientError::bug("a restore's thread failed", error))
}

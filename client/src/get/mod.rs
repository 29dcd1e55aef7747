//! A snapshot, or a part of it, restored into a folder or written to a stream.
//!
//! Decides the order: folders and small things at once, file contents in windows of many files, each segment of a
//! window read once. Never decides what may be written where: see [`target`].

mod contents;
mod resume;
mod stream;
mod target;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dolmen_proto::limits::FOLDER_DEPTH_MAX;
use dolmen_proto::manifest::{Entry, EntryKind, FileEntry, FolderEntry};

use self::contents::{FileJob, Tally, Use, Window};
use self::resume::RESUMED_MIN_BYTES;
use self::target::{Attributes, Existing, Target, is_full};
use crate::error::{ClientError, ErrorKind};
use crate::glob::Globs;
use crate::options::{Destination, GetOptions};
use crate::progress::{Progress, ProgressEvent, Stage};
use crate::read::{Chunk, Dataset, Folder, SINGLE_EXTENSION, join};
use crate::report::{FailedFile, GetReport, mib_per_second};

pub(crate) use stream::write_file;
#[cfg(test)]
pub(crate) use target::room::limit as limit_room;

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
    /// With what it is made, unless it was made.
    to_make: Option<Attributes>,
    /// All that is in it is wanted, whatever the patterns say.
    all: bool,
}

/// A folder in a folder.
struct Below {
    name: Vec<u8>,
    attributes: Attributes,
    folder: FolderEntry,
    wanted: bool,
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
    /// What is wanted; `None`: all.
    include: Option<Globs>,
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
        let include = if options.include.is_empty() { None } else { Some(Globs::new(&options.include)?) };
        if include.is_none() {
            progress.event(ProgressEvent::Total { files, bytes });
        }
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
            include,
        })
    }

    /// Restores a folder's contents, depth first; keeps one open folder a level.
    async fn tree(&mut self, root: FolderEntry) -> Result<(), ClientError> {
        let all = self.include.is_none();
        let mut stack = vec![Open { reading: self.dataset.folder(&root), path: Vec::new(), to_make: None, all }];
        while let Some(open) = stack.last_mut() {
            let (path, all) = (open.path.clone(), open.all);
            let Some(entries) = self.dataset.next_entries(&mut open.reading).await? else {
                stack.pop();
                continue;
            };
            let mut below = Vec::new();
            let mut others = Vec::new();
            for entry in entries {
                let wanted = all || self.includes(&join(&path, entry.name.as_bytes()));
                match &entry.kind {
                    EntryKind::Folder(folder) => {
                        let at = join(&path, entry.name.as_bytes());
                        if !wanted && self.include.as_ref().is_some_and(|globs| !globs.may_match_below(&at)) {
                            continue;
                        }
                        let (name, attributes) = (entry.name.as_bytes().to_vec(), attributes(&entry));
                        below.push(Below { name, attributes, folder: folder.clone(), wanted });
                    }
                    EntryKind::File(_) | EntryKind::Symlink { .. } if wanted => others.push(entry),
                    EntryKind::File(_) | EntryKind::Symlink { .. } => {}
                }
            }
            if !others.is_empty() || below.iter().any(|below| below.wanted) {
                match self.make_above(&mut stack).await? {
                    true => self.entries(&path, others).await?,
                    false => {
                        stack.pop();
                        continue;
                    }
                }
            }
            let (wanted, searched): (Vec<_>, Vec<_>) = below.into_iter().partition(|below| below.wanted);
            let mut opened = self.make_folders(&path, wanted).await?;
            opened.extend(searched.into_iter().map(|below| Open {
                reading: self.dataset.folder(&below.folder),
                path: join(&path, &below.name),
                to_make: Some(below.attributes),
                all: false,
            }));
            opened.sort_by(|left, right| right.path.cmp(&left.path));
            // The last one pushed is read next: the first in the order of names.
            stack.extend(opened);
        }
        Ok(())
    }

    fn includes(&self, path: &[u8]) -> bool {
        self.include.as_ref().is_none_or(|globs| globs.matches(path))
    }

    /// Makes the folders above something that is wanted, those that were only searched so far. Tells whether it could.
    async fn make_above(&mut self, stack: &mut [Open]) -> Result<bool, ClientError> {
        let Some(innermost) = stack.last().map(|open| open.path.clone()) else { return Ok(true) };
        for open in stack {
            let is_above = innermost == open.path
                || (innermost.starts_with(&open.path) && innermost.get(open.path.len()) == Some(&b'/'));
            let Some(attributes) = open.to_make.filter(|_| is_above) else { continue };
            let (parent, name) = match open.path.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => (&open.path[..slash], &open.path[slash + 1..]),
                None => (&b""[..], &open.path[..]),
            };
            if !self.make_folder(parent, name, attributes).await? {
                return Ok(false);
            }
            open.to_make = None;
        }
        Ok(true)
    }

    /// Makes one folder; tells whether it could.
    async fn make_folder(&mut self, parent: &[u8], name: &[u8], attributes: Attributes) -> Result<bool, ClientError> {
        let (target, path) = (Arc::clone(&self.target), join(parent, name));
        let shown = self.target.shown(parent, name);
        if path.split(|byte| *byte == b'/').count() > FOLDER_DEPTH_MAX {
            self.fail(shown, format!("the folder and all in it: more than {FOLDER_DEPTH_MAX} lie in each other"));
            return Ok(false);
        }
        let (parent, name) = (parent.to_vec(), name.to_vec());
        match blocking(move || target.make_folder(&parent, &name)).await? {
            Ok(()) => {
                self.folders.push((path, attributes));
                Ok(true)
            }
            Err(error) if is_full(&error) => Err(self.target.full(&error)),
            Err(error) => {
                self.fail(shown, format!("the folder and all in it: {error}"));
                Ok(false)
            }
        }
    }

    async fn make_folders(&mut self, parent: &[u8], folders: Vec<Below>) -> Result<Vec<Open>, ClientError> {
        let mut made = Vec::with_capacity(folders.len());
        for Below { name, attributes, folder, .. } in folders {
            if self.make_folder(parent, &name, attributes).await? {
                let reading = self.dataset.folder(&folder);
                made.push(Open { reading, path: join(parent, &name), to_make: None, all: true });
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
                (Err(error), _) if is_full(&error) => return Err(self.target.full(&error)),
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
        let (name, attributes) = (entry.name.as_bytes(), attributes(entry));
        let mut there = BTreeMap::new();
        let temporary = match file.hash {
            Some(hash) if file.size_bytes >= RESUMED_MIN_BYTES => {
                let part = self.target.part(&resume::key(folder, name, file.size_bytes, attributes, &hash));
                let target = Arc::clone(&self.target);
                let (part, notes) = blocking(move || {
                    let notes = target.notes(&part);
                    (part, notes)
                })
                .await?;
                let (notes, found) = notes.map_or((None, BTreeMap::new()), |(notes, found)| (Some(notes), found));
                there = found;
                (part, notes)
            }
            _ => (self.target.temporary(), None),
        };
        let hash = file.hash.filter(|_| !there.is_empty());
        let job = Arc::new(FileJob::new(Arc::clone(folder), name, file.size_bytes, attributes, temporary, hash));
        let mut extents = self.dataset.extents(file);
        while let Some(placed) = self.dataset.next_extents(&mut extents).await? {
            for placed in placed {
                if let Some(chunk) = Chunk::of(placed.extent) {
                    let bytes = chunk.plain_bytes() as u64;
                    if there.remove(&placed.offset_bytes).is_some_and(|length| u64::from(length) == bytes) {
                        self.progress.event(ProgressEvent::Bytes(bytes));
                        continue;
                    }
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
        if self.tally.failed.is_empty() {
            self.target.leave_nothing();
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

//! What is to be put: folders walked depth first, names in byte order, nothing followed, the base's folders in step.
//!
//! Decides which entries a snapshot will have, which of the base's stay and which files have to be read. Never opens a
//! file: see [`super::read`]. Holds the names of one folder a level of depth, however many files there are, and runs
//! on a thread of its own.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dolmen_proto::limits::{FOLDER_DEPTH_MAX, SYMLINK_MAX_BYTES};
use dolmen_proto::manifest::{Entry, EntryKind, Name};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::again::Kept;
use super::exclude::Exclude;
use super::parent::{Cursor, Parent};
use super::part::Meta;
use super::source::{Content, Roots, Stream};
use crate::error::{ClientError, ErrorKind};
use crate::progress::Progress;

/// Finds that are handed on together, and what their weight may come to in bytes.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 256 * 1024;
/// Permission bits of folders on the way to the destination that no folder was put for.
const NEW_FOLDER_MODE: u32 = 0o755;

/// Where the contents of a file come from.
#[derive(Debug)]
pub(crate) enum Origin {
    Path(PathBuf),
    Stream(Stream),
    /// A file that is stored already, under other keys.
    Kept(Box<Kept>),
}

/// Something that was found, in the order of the manifest.
#[derive(Debug)]
pub(crate) enum Found {
    /// What follows lies in this folder.
    Enter(Meta),
    /// The folder is complete.
    Leave,
    /// An entry that needs no reading: a link, or one of the base that stays as it is.
    Whole(Box<Entry>),
    /// A file of the source that the base has, by size and time.
    Unchanged(Box<Entry>),
    /// A file to be read.
    File {
        meta: Meta,
        origin: Origin,
        /// The file of that name in the base.
        base: Option<Box<Entry>>,
    },
    /// So many files of the base are not in the new snapshot.
    Removed(u64),
    /// Something cannot be looked at; what the base has in its place stays.
    Failed { path: PathBuf, reason: String, base: Option<Box<Entry>> },
}

/// What a find takes in memory, about.
pub(crate) fn weight(entry: &Entry) -> usize {
    use dolmen_proto::manifest::ExtentList;
    match &entry.kind {
        EntryKind::File(file) => match &file.extents {
            ExtentList::Inline(extents) => 300 + 96 * extents.len(),
            ExtentList::Tree(_) => 300,
        },
        EntryKind::Folder(_) => 300,
        EntryKind::Symlink { target } => 300 + target.len(),
    }
}

impl Found {
    fn weight(&self) -> usize {
        match self {
            Self::Enter(_) | Self::Leave | Self::Removed(_) => 100,
            Self::Whole(entry) | Self::Unchanged(entry) => weight(entry),
            Self::File { base, .. } | Self::Failed { base, .. } => 300 + base.as_deref().map_or(0, weight),
        }
    }
}

/// How the source and the base become one.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    /// The snapshot that is extended.
    pub(crate) parent: Option<Parent>,
    /// The folder of the snapshot that the source goes to; empty: the root.
    pub(crate) to: Vec<Name>,
    /// What the destination has and the source has not goes.
    pub(crate) delete: bool,
    /// Size and time do not show that a file is unchanged.
    pub(crate) checksum: bool,
    /// Time of folders that are made on the way to the destination.
    pub(crate) now_ns: i64,
}

/// Why a walk ends early.
enum Stop {
    /// Nobody wants more.
    Gone,
    Error(ClientError),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Error(error)
    }
}

/// Walks what a put was given.
pub(crate) struct Walker {
    pub(crate) merge: Merge,
    pub(crate) exclude: Exclude,
    pub(crate) found: mpsc::Sender<Vec<Found>>,
    pub(crate) runtime: Handle,
    pub(crate) progress: Progress,
    batch: Vec<Found>,
    batch_bytes: usize,
}

/// Permission bits only: the kind of an entry is said elsewhere.
pub(crate) fn permission_bits(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

/// The time of the last change; times beyond the year 2262 are cut to it.
pub(crate) fn mtime_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// Entries of the source that lie in one folder, by name.
enum Local {
    Folder { path: PathBuf, names: Names },
    Given(Vec<(Name, Origin)>),
    Nothing,
}

/// The names of a folder, sorted: little more than their bytes, for there may be millions.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    places: Vec<(u32, u16)>,
}

impl Names {
    /// Reads a folder. Gives whether all of it could be read; the rest is told to `failed`.
    fn read(path: &Path, mut failed: impl FnMut(String)) -> (Self, bool) {
        let mut names = Self::default();
        let mut whole = true;
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                failed(error.to_string());
                return (names, false);
            }
        };
        for entry in entries {
            let name = match entry {
                Ok(entry) => entry.file_name(),
                Err(error) => {
                    failed(error.to_string());
                    whole = false;
                    continue;
                }
            };
            let (Ok(start), Ok(length)) = (u32::try_from(names.bytes.len()), u16::try_from(name.len())) else {
                failed("it has too many entries".to_owned());
                return (names, false);
            };
            names.bytes.extend_from_slice(name.as_bytes());
            names.places.push((start, length));
        }
        let Self { bytes, places } = &mut names;
        let name = |(start, length): &(u32, u16)| &bytes[*start as usize..*start as usize + usize::from(*length)];
        places.sort_unstable_by(|left, right| name(left).cmp(name(right)));
        (names, whole)
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        let (start, length) = self.places.get(index)?;
        self.bytes.get(*start as usize..*start as usize + usize::from(*length))
    }
}

impl Local {
    fn name(&self, index: usize) -> Option<&[u8]> {
        match self {
            Self::Folder { names, .. } => names.get(index),
            Self::Given(given) => given.get(index).map(|(name, _)| name.as_bytes()),
            Self::Nothing => None,
        }
    }

    /// Where an entry comes from; a stream can be taken once.
    fn take(&mut self, index: usize) -> Option<Origin> {
        match self {
            Self::Folder { path, names } => Some(Origin::Path(path.join(OsStr::from_bytes(names.get(index)?)))),
            Self::Given(given) => {
                let (_, origin) = given.get_mut(index)?;
                Some(std::mem::replace(origin, Origin::Path(PathBuf::new())))
            }
            Self::Nothing => None,
        }
    }
}

impl Walker {
    pub(crate) fn new(
        merge: Merge,
        exclude: Exclude,
        found: mpsc::Sender<Vec<Found>>,
        runtime: Handle,
        progress: Progress,
    ) -> Self {
        Self { merge, exclude, found, runtime, progress, batch: Vec::new(), batch_bytes: 0 }
    }

    /// Walks all; ends early when nobody receives any more. Blocks the thread.
    ///
    /// # Errors
    /// When the base cannot be read, or has a file where the destination is.
    pub(crate) fn run(mut self, roots: Roots) -> Result<(), ClientError> {
        let base = self.merge.parent.as_ref().map(Parent::root);
        let to = std::mem::take(&mut self.merge.to);
        match self.descend(&to, base, roots).and_then(|()| self.flush()) {
            Ok(()) | Err(Stop::Gone) => Ok(()),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    fn emit(&mut self, found: Found) -> Result<(), Stop> {
        self.batch_bytes += found.weight();
        self.batch.push(found);
        if self.batch.len() >= BATCH || self.batch_bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.found.blocking_send(batch).map_err(|_| Stop::Gone)
    }

    fn fail(&mut self, path: &Path, reason: impl ToString, base: Option<Entry>) -> Result<(), Stop> {
        self.emit(Found::Failed { path: path.to_path_buf(), reason: reason.to_string(), base: base.map(Box::new) })
    }

    /// Goes down the base to the destination; what lies beside the way stays.
    fn descend(&mut self, to: &[Name], base: Option<Cursor>, roots: Roots) -> Result<(), Stop> {
        let Some((name, rest)) = to.split_first() else { return self.top(base, roots) };
        let mut base = base;
        let mut standing = None;
        while let Some(entry) = self.peek(&mut base)? {
            match entry.name.cmp(name) {
                Ordering::Less => {
                    let entry = self.take(&mut base)?;
                    self.keep(entry)?;
                }
                Ordering::Equal => {
                    standing = Some(self.take(&mut base)?);
                    break;
                }
                Ordering::Greater => break,
            }
        }
        let here = |mode, mtime_ns| Meta { name: name.clone(), mode, mtime_ns };
        let (mut meta, below) = match standing {
            None => (here(NEW_FOLDER_MODE, self.merge.now_ns), None),
            Some(Entry { kind: EntryKind::Folder(folder), mode, modified_ns, .. }) => {
                (here(mode, modified_ns), self.merge.parent.as_ref().map(|parent| parent.folder(&folder)))
            }
            Some(_) => {
                return Err(Stop::Error(ClientError::new(
                    ErrorKind::Usage,
                    format!("{:?} is no folder of the dataset", String::from_utf8_lossy(name.as_bytes())),
                    "a file or a symbolic link stands there",
                    "name a folder, or remove it first with `dolmen rm`",
                )));
            }
        };
        if let (true, Content::Folder { meta: Some((mode, mtime_ns)), .. }) = (rest.is_empty(), &roots.content) {
            (meta.mode, meta.mtime_ns) = (*mode, *mtime_ns);
        }
        self.emit(Found::Enter(meta))?;
        self.descend(rest, below, roots)?;
        self.emit(Found::Leave)?;
        while self.peek(&mut base)?.is_some() {
            let entry = self.take(&mut base)?;
            self.keep(entry)?;
        }
        Ok(())
    }

    fn top(&mut self, base: Option<Cursor>, roots: Roots) -> Result<(), Stop> {
        match roots.content {
            Content::Folder { path, .. } => self.folder(path, base, 0),
            // What was not given by name is not missing.
            Content::Given(given) => self.merge_level(Local::Given(given), base, false, 0),
        }
    }

    /// One folder of the source and all below it.
    fn folder(&mut self, path: PathBuf, base: Option<Cursor>, depth: usize) -> Result<(), Stop> {
        if depth >= FOLDER_DEPTH_MAX {
            self.fail(&path, format!("folders deeper than {FOLDER_DEPTH_MAX} are not put"), None)?;
            return self.merge_level(Local::Nothing, base, false, depth);
        }
        let mut reasons = Vec::new();
        let (names, whole) = Names::read(&path, |reason| reasons.push(reason));
        for reason in reasons {
            self.fail(&path, reason, None)?;
        }
        // What could not be listed is not missing.
        let delete = self.merge.delete && whole;
        self.merge_level(Local::Folder { path, names }, base, delete, depth)
    }

    fn merge_level(
        &mut self,
        mut local: Local,
        mut base: Option<Cursor>,
        delete: bool,
        depth: usize,
    ) -> Result<(), Stop> {
        let mut index = 0;
        loop {
            let standing = self.peek(&mut base)?;
            let order = match (local.name(index), standing) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(name), Some(entry)) => name.cmp(entry.name.as_bytes()),
            };
            if order == Ordering::Greater {
                let entry = self.take(&mut base)?;
                let excluded = match &local {
                    Local::Folder { path, .. } => {
                        self.excluded(&path.join(OsStr::from_bytes(entry.name.as_bytes())), &entry)
                    }
                    Local::Given(_) | Local::Nothing => true,
                };
                if delete && !excluded {
                    self.remove(&entry)?
                } else {
                    self.keep(entry)?
                }
                continue;
            }
            let standing = if order == Ordering::Equal { Some(self.take(&mut base)?) } else { None };
            let name = local.name(index).map(<[u8]>::to_vec).unwrap_or_default();
            if let Some(origin) = local.take(index) {
                self.visit(name, origin, standing, delete, depth + 1)?;
            }
            index += 1;
        }
    }

    fn excluded(&self, path: &Path, entry: &Entry) -> bool {
        self.exclude.matches(path, matches!(entry.kind, EntryKind::Folder(_)))
    }

    /// An entry of the source, with the one that the base has in its place.
    fn visit(
        &mut self,
        name: Vec<u8>,
        origin: Origin,
        base: Option<Entry>,
        delete: bool,
        depth: usize,
    ) -> Result<(), Stop> {
        let path = match origin {
            Origin::Path(path) => path,
            Origin::Kept(_) => return Err(Stop::Error(ClientError::bug("a put reads what is stored", "of itself"))),
            Origin::Stream(stream) => {
                let name = Name::new(name).map_err(|error| ClientError::bug("a stream has no name", error))?;
                let meta = Meta { name, mode: stream.mode, mtime_ns: stream.mtime_ns };
                let base = self.file_of(base)?;
                return self.emit(Found::File { meta, origin: Origin::Stream(stream), base });
            }
        };
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => return self.fail(&path, error, base),
        };
        if self.exclude.matches(&path, metadata.is_dir()) {
            return base.map_or(Ok(()), |entry| self.keep(entry));
        }
        let name = match Name::new(name) {
            Ok(name) => name,
            Err(error) => return self.fail(&path, format!("its name {error}"), None),
        };
        let meta = Meta { name, mode: permission_bits(&metadata), mtime_ns: mtime_ns(&metadata) };
        if metadata.is_dir() {
            let below = match base {
                Some(Entry { kind: EntryKind::Folder(folder), .. }) => {
                    self.merge.parent.as_ref().map(|parent| parent.folder(&folder))
                }
                Some(other) => {
                    self.remove(&other)?;
                    None
                }
                None => None,
            };
            self.emit(Found::Enter(meta))?;
            self.folder(path, below, depth)?;
            return self.emit(Found::Leave);
        }
        if metadata.is_file() {
            return self.file(meta, path, metadata.len(), base);
        }
        if metadata.is_symlink() {
            return match fs::read_link(&path) {
                Ok(target) if target.as_os_str().len() <= SYMLINK_MAX_BYTES => {
                    if let Some(base) = base {
                        self.remove(&base)?;
                    }
                    let kind = EntryKind::Symlink { target: target.into_os_string().into_encoded_bytes() };
                    self.emit(Found::Whole(Box::new(Entry::new(meta.name, meta.mode, meta.mtime_ns, kind))))
                }
                Ok(_) => {
                    let reason = format!("symbolic links longer than {SYMLINK_MAX_BYTES} bytes are not put");
                    self.fail(&path, reason, base)
                }
                Err(error) => self.fail(&path, error, base),
            };
        }
        self.progress.warn(format!("left out {}: neither file, folder nor symbolic link", path.display()));
        match base {
            Some(entry) if delete => self.remove(&entry),
            Some(entry) => self.keep(entry),
            None => Ok(()),
        }
    }

    fn file(&mut self, meta: Meta, path: PathBuf, size: u64, base: Option<Entry>) -> Result<(), Stop> {
        let base = self.file_of(base)?;
        if let Some(mut entry) = base {
            let same = matches!(&entry.kind, EntryKind::File(file) if file.size_bytes == size);
            if same && entry.modified_ns == meta.mtime_ns && !self.merge.checksum {
                entry.mode = meta.mode;
                return self.emit(Found::Unchanged(entry));
            }
            if let (false, Some(parent)) = (same, &self.merge.parent) {
                self.runtime.block_on(parent.learn_extents(&entry))?;
            }
            return self.emit(Found::File { meta, origin: Origin::Path(path), base: Some(entry) });
        }
        self.emit(Found::File { meta, origin: Origin::Path(path), base: None })
    }

    /// The base's file in the place of one of the source; anything else that stood there goes.
    fn file_of(&mut self, base: Option<Entry>) -> Result<Option<Box<Entry>>, Stop> {
        match base {
            Some(entry) if matches!(entry.kind, EntryKind::File(_)) => Ok(Some(Box::new(entry))),
            Some(other) => self.remove(&other).map(|()| None),
            None => Ok(None),
        }
    }

    fn keep(&mut self, entry: Entry) -> Result<(), Stop> {
        self.emit(Found::Whole(Box::new(entry)))
    }

    fn remove(&mut self, entry: &Entry) -> Result<(), Stop> {
        match &entry.kind {
            EntryKind::File(_) => self.emit(Found::Removed(1)),
            EntryKind::Folder(folder) => self.emit(Found::Removed(folder.totals.files)),
            EntryKind::Symlink { .. } => Ok(()),
        }
    }

    fn peek<'a>(&self, base: &'a mut Option<Cursor>) -> Result<Option<&'a Entry>, Stop> {
        match base {
            Some(cursor) => Ok(self.runtime.block_on(cursor.peek())?),
            None => Ok(None),
        }
    }

    fn take(&self, base: &mut Option<Cursor>) -> Result<Entry, Stop> {
        let entry = match base {
            Some(cursor) => self.runtime.block_on(cursor.next())?,
            None => None,
        };
        entry.ok_or_else(|| Stop::Error(ClientError::bug("an entry was lost", "it was seen before it was taken")))
    }
}

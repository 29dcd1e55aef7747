//! The folder that a snapshot is restored into.
//!
//! Decides what may be written where: everything goes to a temporary name first and is moved into place when whole,
//! nothing is written through a symbolic link, nothing outside of the folder, and nothing over what exists unless that
//! was asked for. Two names that the file system does not keep apart are refused. Restores modes (without set-user-id and
//! its kin: contents come from strangers) and times. Does not sync: a rerun finds what a power cut took. Large files that
//! are cut off keep their temporary names, for a rerun to go on with; once a restore is complete, nothing is left.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, mkdirat,
    openat, readlinkat, renameat, renameat_with, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::resume::{self, Notes};
use crate::error::{ClientError, ErrorKind};

/// Permission bits that are restored.
const MODE_RESTORED: u32 = 0o777;

/// The root of a restore. Shared by threads.
#[derive(Debug)]
pub(crate) struct Target {
    root: Arc<OwnedFd>,
    path: PathBuf,
    temporary: OwnedFd,
    temporary_name: CString,
    next: AtomicU64,
    overwrite: bool,
    /// Whether unfinished large files stay when the restore ends.
    leaves_parts: AtomicBool,
    #[cfg(test)]
    room: Option<room::Room>,
    /// Device and inode of what this restore has made or found to be right already, to tell a collision from something older.
    made: Mutex<HashSet<(u64, u64)>>,
    /// The folder opened last: entries come folder by folder.
    last: Mutex<Option<(Vec<u8>, Arc<OwnedFd>)>>,
}

/// A file that is being written under a temporary name.
#[derive(Debug)]
pub(crate) struct Temporary(CString);

/// What is to become of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// There is nothing of that name.
    Nothing,
    /// There is the same already, as far as size and time tell.
    Same,
    /// There is something else.
    Other,
}

/// What an entry is restored with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) mtime_ns: i64,
}

fn times(mtime_ns: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time, last_modification: time }
}

/// What two names come to that the file system does not keep apart.
const COLLIDES: &str = "another entry of the snapshot has this name here";
/// How the names of unfinished large files begin, and of the notes of what is written of them.
const PART: &str = "part-";
const NOTE: &str = "note-";

/// Whether there was no room for what should be written.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn refused(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Target {
    /// Opens a folder to restore into, making it when it is not there.
    ///
    /// # Errors
    /// `Local` when it cannot be made or written.
    pub(crate) fn open(path: &Path, overwrite: bool) -> Result<Self, ClientError> {
        let failed = |error: io::Error| ClientError::local("write to", path, &error);
        if path.exists() && !path.is_dir() {
            let (what, why) =
                (format!("could not write to {}", path.display()), "it is a file, and a folder is wanted");
            let advice = "name a folder, which is made where it is not there";
            return Err(ClientError::new(ErrorKind::Local, what, why, advice));
        }
        std::fs::create_dir_all(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let mut token = [0; 8];
        getrandom::fill(&mut token).map_err(|error| failed(io::Error::other(error.to_string())))?;
        let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let temporary_name = CString::new(format!(".dolmen-get-{token}")).map_err(|error| failed(error.into()))?;
        let temporary = make_temporary(&root, &temporary_name).map_err(failed)?;
        Ok(Self {
            root: Arc::new(root),
            path: path.to_path_buf(),
            temporary,
            temporary_name,
            next: AtomicU64::new(0),
            overwrite,
            leaves_parts: AtomicBool::new(true),
            #[cfg(test)]
            room: room::of(path),
            made: Mutex::default(),
            last: Mutex::default(),
        })
    }

    /// Where an entry is on this machine, for messages.
    pub(crate) fn shown(&self, folder: &[u8], name: &[u8]) -> String {
        self.path.join(OsStr::from_bytes(folder)).join(OsStr::from_bytes(name)).display().to_string()
    }

    /// The end of a restore for which there is no room. Nothing that is half written is left.
    pub(crate) fn full(&self, error: &io::Error) -> ClientError {
        self.leave_nothing();
        ClientError::new(
            ErrorKind::Local,
            format!("there is no room for more in {}", self.path.display()),
            error,
            "make room, then run the same command again: files that are there already are not fetched again",
        )
    }

    fn note_made(&self, fd: impl AsFd) -> io::Result<bool> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(self.made().insert((stat.st_dev, stat.st_ino)))
    }

    /// The folder at a path below the root, components separated by slashes; no component may be a symbolic link.
    fn folder(&self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some((known, folder)) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner)
            && known == path
        {
            return Ok(Arc::clone(folder));
        }
        let mut folder = Arc::clone(&self.root);
        for component in path.split(|byte| *byte == b'/') {
            folder = Arc::new(openat(&*folder, component, FOLDER, Mode::empty())?);
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((path.to_vec(), Arc::clone(&folder)));
        Ok(folder)
    }

    /// Makes a folder, or uses the one that is there.
    ///
    /// # Errors
    /// When something else has the name, or this restore made a folder that the file system takes for the same.
    pub(crate) fn make_folder(&self, parent: &[u8], name: &[u8]) -> io::Result<()> {
        let parent = self.folder(parent)?;
        match mkdirat(&*parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = openat(&*parent, name, FOLDER, Mode::empty()).map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR => refused("something that is not a folder has its name"),
            error => error.into(),
        })?;
        if self.note_made(&folder)? {
            Ok(())
        } else {
            Err(refused("another folder of the snapshot has this name here"))
        }
    }

    /// Gives a folder its mode and time; called when all in it is done.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn finish_folder(&self, path: &[u8], attributes: Attributes) -> io::Result<()> {
        let folder = self.folder(path)?;
        rustix::fs::futimens(&*folder, &times(attributes.mtime_ns))?;
        rustix::fs::fchmod(&*folder, Mode::from_raw_mode(attributes.mode & MODE_RESTORED))?;
        Ok(())
    }

    /// What there is under the name of a file.
    ///
    /// # Errors
    /// The system's; or when what is there stands for another entry already.
    pub(crate) fn existing(
        &self,
        folder: &[u8],
        name: &[u8],
        size: u64,
        attributes: Attributes,
    ) -> io::Result<Existing> {
        let stat = match statat(&*self.folder(folder)?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Existing::Nothing),
            Err(error) => return Err(error.into()),
        };
        let number = (stat.st_dev, stat.st_ino);
        if self.made().contains(&number) {
            return Err(refused(COLLIDES));
        }
        let time = times(attributes.mtime_ns).last_modification;
        #[expect(clippy::useless_conversion, reason = "the width of these fields differs between systems")]
        let same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(size)
            && i64::from(stat.st_mtime) == time.tv_sec
            && i64::try_from(stat.st_mtime_nsec) == Ok(time.tv_nsec);
        // A file of several names may well stand for several entries.
        if same && stat.st_nlink == 1 {
            self.made().insert(number);
        }
        Ok(if same { Existing::Same } else { Existing::Other })
    }

    /// The BLAKE3 hash of an existing file's contents.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn hash(&self, folder: &[u8], name: &[u8]) -> io::Result<[u8; 32]> {
        hash_at(&*self.folder(folder)?, name)
    }

    /// A name to write a file under; nothing is made yet.
    pub(crate) fn temporary(&self) -> Temporary {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Temporary(CString::new(number.to_string()).expect("digits hold no zero byte"))
    }

    /// The name that a large file has while it is written, by its [`resume::key`].
    pub(crate) fn part(&self, key: &str) -> Temporary {
        Temporary(CString::new(format!("{PART}{key}")).expect("hexadecimal digits hold no zero byte"))
    }

    /// The notes of an unfinished large file, to be added to, and which of its chunks are there already.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn notes(&self, part: &Temporary) -> io::Result<(Notes, BTreeMap<u64, u32>)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let notes = File::from(openat(&self.temporary, note_of(part), flags, Mode::RUSR | Mode::WUSR)?);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(&self.temporary, &part.0, flags, Mode::empty()) {
            Ok(file) => resume::verified(&File::from(file), &notes),
            Err(_) => BTreeMap::new(),
        };
        Ok((Notes::new(notes), found))
    }

    /// Unfinished large files go when the restore ends: all is done, or there is no room for them.
    pub(crate) fn leave_nothing(&self) {
        self.leaves_parts.store(false, Ordering::Relaxed);
    }

    /// Writes all of `bytes` at an offset of a temporary file.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(room) = &self.room {
            room::take(room, bytes.len())?;
        }
        file.write_all_at(bytes, offset)
    }

    /// Opens a temporary file for writing at offsets, making it when it is not there.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write(&self, file: &Temporary) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.temporary, &file.0, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Gives a temporary file its length, mode and time, and moves it to its place. `hash`: what its contents must have,
    /// when not all of them were written by this restore.
    ///
    /// # Errors
    /// When something is there that may not be replaced, or the contents are others; the temporary file is then gone.
    pub(crate) fn finish(
        &self,
        file: &Temporary,
        folder: &[u8],
        name: &[u8],
        size: u64,
        attributes: Attributes,
        hash: Option<&[u8; 32]>,
    ) -> io::Result<()> {
        let finish = || {
            let handle = self.write(file)?;
            handle.set_len(size)?;
            if hash.is_some_and(|hash| hash_at(&self.temporary, file.0.as_bytes()).ok().as_ref() != Some(hash)) {
                return Err(refused(
                    "what an earlier restore left of it was changed since: run the same command again",
                ));
            }
            rustix::fs::fchmod(&handle, Mode::from_raw_mode(attributes.mode & MODE_RESTORED))?;
            rustix::fs::futimens(&handle, &times(attributes.mtime_ns))?;
            let made = rustix::fs::fstat(&handle)?;
            drop(handle);
            self.move_in(&file.0, made, folder, name)?;
            self.discard_notes(file);
            Ok(())
        };
        finish().inspect_err(|_| self.discard(file))
    }

    /// Forgets a temporary file.
    pub(crate) fn discard(&self, file: &Temporary) {
        // Whatever is left goes with the temporary folder.
        let _ = unlinkat(&self.temporary, &file.0, AtFlags::empty());
        self.discard_notes(file);
    }

    fn discard_notes(&self, file: &Temporary) {
        if file.0.to_bytes().starts_with(PART.as_bytes()) {
            let _ = unlinkat(&self.temporary, note_of(file), AtFlags::empty());
        }
    }

    /// Moves what has a temporary name to its place. It counts as made before it is there, so that two of one name
    /// that arrive together are told apart from something older; and no more once it is discarded, since file
    /// systems give its number to the next.
    fn move_in(&self, from: &CString, made: Stat, folder: &[u8], name: &[u8]) -> io::Result<()> {
        let number = (made.st_dev, made.st_ino);
        self.made().insert(number);
        self.rename(from, folder, name).inspect_err(|_| {
            self.made().remove(&number);
        })
    }

    fn made(&self) -> MutexGuard<'_, HashSet<(u64, u64)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rename(&self, from: &CString, folder: &[u8], name: &[u8]) -> io::Result<()> {
        let folder = self.folder(folder)?;
        match renameat_with(&self.temporary, from, &*folder, name, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            // A file system that cannot move without replacing: look first.
            Err(Errno::INVAL | Errno::NOSYS) => {
                if matches!(statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
                    return Ok(renameat(&self.temporary, from, &*folder, name)?);
                }
            }
            Err(Errno::XDEV) => return Err(refused("its folder is on another file system than the restore's root")),
            Err(error) => return Err(error.into()),
        }
        let stat = statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if self.made().contains(&(stat.st_dev, stat.st_ino)) {
            return Err(refused(COLLIDES));
        }
        if !self.overwrite {
            return Err(refused("something else of its name exists, and replacing was not asked for"));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink => Ok(renameat(&self.temporary, from, &*folder, name)?),
            _ => Err(refused("something that is neither file nor symbolic link has its name")),
        }
    }

    /// Makes a symbolic link that holds exactly these bytes; one that is there already stays.
    ///
    /// # Errors
    /// When something else is there that may not be replaced.
    pub(crate) fn symlink(&self, folder: &[u8], name: &[u8], to: &[u8], mtime_ns: i64) -> io::Result<()> {
        if let Ok(existing) = readlinkat(&*self.folder(folder)?, name, Vec::new())
            && existing.as_bytes() == to
            && !self.overwrite
        {
            return Ok(());
        }
        let temporary = self.temporary();
        symlinkat(to, &self.temporary, &temporary.0)?;
        let link = utimensat(&self.temporary, &temporary.0, &times(mtime_ns), AtFlags::SYMLINK_NOFOLLOW);
        let placed = link.map_err(io::Error::from).and_then(|()| {
            let made = statat(&self.temporary, &temporary.0, AtFlags::SYMLINK_NOFOLLOW)?;
            self.move_in(&temporary.0, made, folder, name)
        });
        placed.inspect_err(|_| self.discard(&temporary))
    }
}

/// The BLAKE3 hash of a file's contents.
fn hash_at(folder: impl AsFd, name: &[u8]) -> io::Result<[u8; 32]> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::from(openat(folder, name, flags, Mode::empty())?))?;
    Ok(*hasher.finalize().as_bytes())
}

/// The name of the notes of an unfinished large file.
fn note_of(part: &Temporary) -> CString {
    let key = part.0.to_bytes().strip_prefix(PART.as_bytes()).unwrap_or_default();
    CString::new([NOTE.as_bytes(), key].concat()).expect("it was part of a name")
}

fn is_part(name: &[u8]) -> bool {
    name.starts_with(PART.as_bytes()) || name.starts_with(NOTE.as_bytes())
}

/// Makes the temporary folder, and removes those that interrupted restores left behind; unfinished large files in them
/// move to the new one.
///
/// A folder in use is locked by whoever uses it.
fn make_temporary(root: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    mkdirat(root, name, Mode::RWXU)?;
    let folder = openat(root, name, FOLDER, Mode::empty())?;
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    for entry in Dir::read_from(root)? {
        let Ok(entry) = entry else { break };
        if entry.file_name() != name.as_c_str()
            && entry.file_name().to_bytes().starts_with(b".dolmen-get-")
            && let Ok(stale) = openat(root, entry.file_name(), FOLDER, Mode::empty())
            && rustix::fs::flock(&stale, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let ours = is_ours(&stale);
            for part in Dir::read_from(&stale).into_iter().flatten().flatten() {
                if ours && is_part(part.file_name().to_bytes()) {
                    let _ = renameat_with(&stale, part.file_name(), &folder, part.file_name(), RenameFlags::NOREPLACE);
                }
            }
            clear(&stale, false);
            let _ = unlinkat(root, entry.file_name(), AtFlags::REMOVEDIR);
        }
    }
    Ok(folder)
}

/// Whether nobody else can have put anything into a folder.
fn is_ours(folder: &OwnedFd) -> bool {
    let only_ours = Mode::RWXG | Mode::RWXO;
    rustix::fs::fstat(folder).is_ok_and(|stat| {
        stat.st_uid == rustix::process::geteuid().as_raw() && !Mode::from_raw_mode(stat.st_mode).intersects(only_ours)
    })
}

/// Removes the files of a temporary folder, all but unfinished large ones when these are kept; it has no folders.
fn clear(folder: &OwnedFd, keep_parts: bool) {
    let Ok(entries) = Dir::read_from(folder) else { return };
    for entry in entries.flatten() {
        if !(keep_parts && is_part(entry.file_name().to_bytes())) {
            let _ = unlinkat(folder, entry.file_name(), AtFlags::empty());
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        clear(&self.temporary, self.leaves_parts.load(Ordering::Relaxed));
        // It stays when something is left in it.
        let _ = unlinkat(&*self.root, &self.temporary_name, AtFlags::REMOVEDIR);
    }
}

/// Targets in which only so many bytes fit, for tests of full disks.
#[cfg(test)]
pub(crate) mod room {
    use std::collections::BTreeMap;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    pub(crate) type Room = Arc<Mutex<usize>>;
    static ROOMS: Mutex<BTreeMap<PathBuf, Room>> = Mutex::new(BTreeMap::new());

    pub(crate) fn limit(path: &Path, bytes: usize) {
        ROOMS.lock().unwrap().insert(path.to_path_buf(), Arc::new(Mutex::new(bytes)));
    }

    pub(super) fn of(path: &Path) -> Option<Room> {
        ROOMS.lock().unwrap().get(path).cloned()
    }

    pub(super) fn take(room: &Room, bytes: usize) -> io::Result<()> {
        let mut left = room.lock().unwrap();
        *left = left.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const ATTRIBUTES: Attributes = Attributes { mode: 0o640, mtime_ns: 1_600_000_000_123_456_789 };

    fn put(target: &Target, folder: &[u8], name: &[u8], bytes: &[u8]) -> io::Result<()> {
        let temporary = target.temporary();
        target.write_at(&target.write(&temporary)?, bytes, 0)?;
        target.finish(&temporary, folder, name, bytes.len() as u64, ATTRIBUTES, None)
    }

    #[test]
    fn a_file_appears_whole_with_mode_and_time_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("new/deeper");
        let target = Target::open(&base, false).unwrap();
        target.make_folder(b"", b"a").unwrap();
        target.make_folder(b"a", b"b").unwrap();
        put(&target, b"a/b", b"f", b"hello").unwrap();
        assert!(target.existing(b"a/b", b"f", 5, ATTRIBUTES).is_err(), "this restore made it");
        let later = Target::open(&base, false).unwrap();
        assert_eq!(later.existing(b"a/b", b"f", 6, ATTRIBUTES).unwrap(), Existing::Other);
        assert_eq!(later.existing(b"a/b", b"f", 5, ATTRIBUTES).unwrap(), Existing::Same);
        assert!(later.existing(b"a/b", b"f", 5, ATTRIBUTES).is_err(), "an entry of another name has claimed it");
        drop(later);
        assert_eq!(target.existing(b"a/b", b"g", 6, ATTRIBUTES).unwrap(), Existing::Nothing);
        target.finish_folder(b"a/b", Attributes { mode: 0o700, mtime_ns: -1 }).unwrap();
        drop(target);
        let metadata = fs::metadata(base.join("a/b/f")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_600_000_000, 123_456_789));
        assert_eq!((fs::metadata(base.join("a/b")).unwrap().mtime()), -1);
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1, "the temporary folder is gone");
    }

    #[test]
    fn nothing_is_replaced_unless_asked_and_never_what_this_restore_made() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), "old").unwrap();
        let target = Target::open(folder.path(), false).unwrap();
        assert!(put(&target, b"", b"f", b"new").is_err());
        assert!(target.symlink(b"", b"f", b"x", 0).is_err());
        assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"old");
        drop(target);
        let target = Target::open(folder.path(), true).unwrap();
        put(&target, b"", b"f", b"new").unwrap();
        assert!(put(&target, b"", b"f", b"newer").is_err(), "two entries of one name");
        assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"new");
        target.make_folder(b"", b"d").unwrap();
        assert!(target.make_folder(b"", b"d").is_err(), "two folders of one name");
        assert!(put(&target, b"", b"d", b"x").is_err(), "a folder is not replaced by a file");
    }

    #[test]
    fn nothing_is_written_through_a_symbolic_link() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), folder.path().join("old")).unwrap();
        let target = Target::open(folder.path(), true).unwrap();
        target.symlink(b"", b"new", outside.path().as_os_str().as_bytes(), 0).unwrap();
        for name in [&b"old"[..], b"new"] {
            assert!(target.make_folder(b"", name).is_err());
            assert!(put(&target, name, b"f", b"x").is_err());
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        symlink(outside.path().join("f"), folder.path().join("g")).unwrap();
        put(&target, b"", b"g", b"x").unwrap();
        assert!(!outside.path().join("f").exists(), "the link itself was replaced");
        assert!(fs::symlink_metadata(folder.path().join("g")).unwrap().is_file());
    }

    #[test]
    fn an_unfinished_large_file_is_found_again_until_nothing_is_to_be_left() {
        let folder = tempfile::tempdir().unwrap();
        let start = || {
            let target = Target::open(folder.path(), false).unwrap();
            let part = target.part("0123");
            let (notes, found) = target.notes(&part).unwrap();
            (target, part, notes, found)
        };
        let (target, part, notes, found) = start();
        assert!(found.is_empty());
        target.write_at(&target.write(&part).unwrap(), b"chunk", 7).unwrap();
        notes.add(7, b"chunk");
        put(&target, b"", b"other", b"x").unwrap();
        target.write(&target.temporary()).unwrap();
        drop(target);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        let (target, part, _, found) = start();
        assert_eq!(found, BTreeMap::from([(7, 5)]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "what was left has moved");
        target
            .finish(&part, b"", b"large", 12, ATTRIBUTES, Some(blake3::hash(b"\0\0\0\0\0\0\0chunk").as_bytes()))
            .unwrap();
        assert_eq!(fs::read(folder.path().join("large")).unwrap(), b"\0\0\0\0\0\0\0chunk");
        assert!(
            fs::read_dir(folder.path().join(OsStr::from_bytes(target.temporary_name.to_bytes())))
                .unwrap()
                .next()
                .is_none()
        );
        target.write_at(&target.write(&part).unwrap(), b"chunk", 7).unwrap();
        let other = blake3::hash(b"other");
        assert!(target.finish(&part, b"", b"wrong", 12, ATTRIBUTES, Some(other.as_bytes())).is_err());
        target.write(&part).unwrap();
        target.leave_nothing();
        drop(target);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "two files and no folder");
    }

    #[test]
    fn what_others_may_have_left_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let stale = folder.path().join(".dolmen-get-0123");
        fs::create_dir(&stale).unwrap();
        fs::set_permissions(&stale, fs::Permissions::from_mode(0o770)).unwrap();
        for name in ["part-0123", "note-0123"] {
            fs::write(stale.join(name), "theirs").unwrap();
        }
        let target = Target::open(folder.path(), false).unwrap();
        assert!(!stale.exists());
        assert!(
            fs::read_dir(folder.path()).unwrap().all(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count() == 0)
        );
        drop(target);
    }

    #[test]
    fn what_an_interrupted_restore_left_is_removed_and_a_running_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".dolmen-get-0123")).unwrap();
        fs::write(folder.path().join(".dolmen-get-0123/7"), "x").unwrap();
        let first = Target::open(folder.path(), false).unwrap();
        assert!(!folder.path().join(".dolmen-get-0123").exists());
        let second = Target::open(folder.path(), false).unwrap();
        put(&first, b"", b"a", b"1").unwrap();
        put(&second, b"", b"b", b"2").unwrap();
        drop((first, second));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
